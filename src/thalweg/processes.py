"""Subprocesses that end when the process that started them is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

PARENT = "THALWEG_PARENT"
"""Environment variable: number of the file descriptor that ends when the process that started this one is gone."""


class LocalProcess:
    """A subprocess that ends when this process is gone.

    It holds the reading end of a pipe whose writing end is this process's alone. The kernel closes that end when this process ends,
    also by SIGKILL; the subprocess watches it (`end_with_parent`) and ends then.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str], append: bool) -> None:
        reading, writing = os.pipe()
        self._lifeline: int | None = writing
        try:
            with log.open("ab" if append else "wb") as said:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=environment | {PARENT: str(reading)},
                    pass_fds=(reading,),
                )
        except BaseException:
            self._let_go()
            raise
        finally:
            os.close(reading)

    @property
    def returncode(self) -> int | None:
        """As `poll` last saw it."""
        return self._process.returncode

    def poll(self) -> int | None:
        """Exit status, below 0 the signal that ended it; None while it goes on."""
        code = self._process.poll()
        if code is not None:
            self._let_go()
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        code = self._process.wait(timeout)
        self._let_go()
        return code

    def _let_go(self) -> None:
        """Close the writing end, once."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def end_with_parent() -> None:
    """Watch, in a thread, whether the process that started this one is still there, and end when it is not.

    Does nothing in a process that was not started by `LocalProcesses`.
    """
    number = os.environ.pop(PARENT, "")
    if number.isdigit():
        threading.Thread(target=_watch, args=(int(number),), daemon=True).start()


def _watch(reading: int) -> None:
    """Wait until the other end of the pipe is closed."""
    try:
        os.read(reading, 1)
    except OSError:
        return  # no such pipe: the variable was handed on to a process that did not inherit it
    os.kill(os.getpid(), signal.SIGTERM)
