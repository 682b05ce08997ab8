"""One command of thalweg in a forked child: what it returned, said and left, however it ended."""

import contextlib
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from thalweg import cli

BYTES = 9 << 30
"""Of address space that a child may have."""
WRITTEN = 1 << 30
"""Of a file that a child may write."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended; ``code`` is None when it had to be killed."""

    code: int | None
    text: str
    seconds: float

    @property
    def refusals(self) -> list[str]:
        """The lines with which it refused or failed; warnings are none."""
        return [
            line
            for line in self.text.splitlines()
            if line.startswith("thalweg: ") and not line.startswith("thalweg: warning: ") and "failed (logs" not in line
        ]

    @property
    def faults(self) -> list[str]:
        """What no command may do."""
        found = []
        if self.code is None:
            found.append("hang")
        elif self.code not in (0, 1, 2):
            found.append(f"exit code {self.code}")
        if "Traceback" in self.text:
            found.append("traceback")
        if self.code in (1, 2) and len(self.refusals) != 1 and "failed (logs" not in self.text:
            found.append(f"{len(self.refusals)} lines of refusal")
        if "\x1b" in self.text or "\u202e" in self.text:
            found.append("a live escape sequence")
        return found


def attempt(
    arguments: list[str], log: Path, limit: float = 40, at: Path | None = None, meanwhile: Callable[[], None] | None = None
) -> Outcome:
    """Run a command in a forked child with bounded memory, and kill it after ``limit`` seconds.

    Args:
        arguments: of the command line.
        log: where the child's output goes.
        limit: seconds.
        at: working folder.
        meanwhile: called in the child before the command, to spoil something while it runs.
    """
    begun, child = time.monotonic(), os.fork()
    if child == 0:
        become(arguments, log, at, meanwhile)
    status = None
    while status is None and time.monotonic() - begun < limit:
        ended, found = os.waitpid(child, os.WNOHANG)
        status = found if ended else None
        time.sleep(0.003)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    code = None if status is None else os.waitstatus_to_exitcode(status)
    return Outcome(code, log.read_text(errors="replace"), time.monotonic() - begun)


def become(arguments: list[str], log: Path, at: Path | None, meanwhile: Callable[[], None] | None) -> None:
    """The child: never returns."""
    code = 99
    try:
        os.setsid()
        if at is not None:
            os.chdir(at)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
        sys.stdout, sys.stderr = (open(number, "w", errors="backslashreplace") for number in (1, 2))  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN, WRITTEN))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        warnings.resetwarnings()
        warnings.showwarning = cli.one_line
        if meanwhile is not None:
            meanwhile()
        code = cli.call(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def emptied(folder: Path) -> Path:
    """A folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
