"""Where runs are made: processes on this machine; anything with `Executor.start` can take their place."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from thalweg.processes import LocalProcess
from thalweg.storage import explained


class Handle(Protocol):
    """One thing that was started."""

    @property
    def returncode(self) -> int | None:
        """Exit status; below 0 the signal that ended it; None while it goes on."""
        ...

    def poll(self) -> int | None:
        """The same, asked anew."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        ...


class Executor(Protocol):
    """Starts one command of thalweg's after another."""

    def start(self, arguments: Sequence[str], log: Path, workers: int, append: bool) -> Handle:
        """Begin ``thalweg ARGUMENTS``; what it says on standard error goes to the log.

        Args:
            arguments: of the command.
            log: file; begun anew unless ``append``.
            workers: how many run at a time, which share the machine.
            append: to what the log holds.
        """
        ...


class LocalProcesses:
    """Subprocesses on this machine, which share its cores."""

    def start(self, arguments: Sequence[str], log: Path, workers: int, append: bool) -> LocalProcess:
        """See `Executor.start`."""
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
        with explained(log):
            return LocalProcess([sys.executable, "-m", "thalweg", *arguments], log, environment, append)
