"""Subprocesses that end when the process that started them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

PARENT = "THALWEG_PARENT"
"""Environment variable with the number of a file descriptor that is closed when the parent process ends."""
ENDING_SECONDS = 60.0
"""Time in which a process whose parent is gone may save what it has made, before it is ended whatever it does."""


class LocalProcess:
    """A subprocess that ends when this process ends.

    The subprocess inherits the reading end of a pipe, whose writing end only this process holds. The kernel closes the writing end
    when this process ends, even by SIGKILL; the subprocess notices it (`end_with_parent`) and ends itself.

    Args:
        command: program and arguments.
        log: file that receives its standard error.
        environment: environment variables.
        append: whether to append to the file instead of replacing it.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str], append: bool) -> None:
        reading, writing = os.pipe()
        self._lifeline: int | None = writing
        try:
            with log.open("ab" if append else "wb") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=output,
                    env=environment | {PARENT: str(reading)},
                    pass_fds=(reading,),
                )
        except BaseException:
            self._close_lifeline()
            raise
        finally:
            os.close(reading)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status at the last `poll` or `wait`; None if it was running."""
        return self._process.returncode

    def poll(self) -> int | None:
        """Exit status, or minus the signal that ended the process; None while it is running."""
        code = self._process.poll()
        if code is not None:
            self._close_lifeline()
        return code

    def terminate(self) -> None:
        """Ask the process to end, by SIGTERM."""
        self._process.terminate()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end and return its exit status; see `subprocess.Popen.wait`."""
        code = self._process.wait(timeout)
        self._close_lifeline()
        return code

    def _close_lifeline(self) -> None:
        """Close the writing end of the pipe, once."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def end_with_parent() -> None:
    """Start a thread that ends this process when its parent ends; does nothing unless `LocalProcess` started this process."""
    number = os.environ.pop(PARENT, "")
    if number.isdigit():
        end_with(int(number))


def end_with(reading: int) -> None:
    """Start a thread that ends this process when the writing end of a pipe is closed.

    Args:
        reading: file descriptor of the reading end.
    """
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def _watch(reading: int) -> None:
    """Wait until the other end of the pipe is closed, then end this process: by SIGTERM, and by SIGKILL if that takes long."""
    try:
        os.read(reading, 1)
    except OSError:
        return  # no such pipe: this process inherited the variable but not the file descriptor
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ENDING_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
