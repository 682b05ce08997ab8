"""Executors start the processes of runs: `LocalProcesses` on this machine, `SlurmJobs` and `RayTasks` on a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from thalweg.bounds import Whole
from thalweg.experiments.forked import ForkedProcess, can_fork
from thalweg.processes import LocalProcess
from thalweg.serialization import checked
from thalweg.storage import explained


class Handle(Protocol):
    """A started process, as the queue needs it."""

    @property
    def returncode(self) -> int | None:
        """Exit status; minus the signal's number where a signal ended the process; None while it runs."""
        ...

    def poll(self) -> int | None:
        """Check whether the process has ended, and return `returncode`."""
        ...

    def terminate(self) -> None:
        """Ask the process to end."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended, at most ``timeout`` seconds, and return its exit status."""
        ...


class Executor(Protocol):
    """Starts commands of thalweg, for the queue."""

    @property
    def most_at_once(self) -> int:
        """Number of commands at a time where the user names none."""
        ...

    def start(self, arguments: Sequence[str], log: Path, workers: int, append: bool) -> Handle:
        """Start ``thalweg ARGUMENTS`` and write its standard error to a log.

        Args:
            arguments: of the command.
            log: file of the log.
            workers: number of commands that run at the same time and share the machine.
            append: append to the log; otherwise it is overwritten.
        """
        ...


@dataclass(frozen=True)
class Allocation:
    """What a cluster gives to each run."""

    cpus: Annotated[int, Whole(1, 4096)] = 1
    """CPU cores, and threads."""
    gpus: Annotated[int, Whole(0, 64)] = 0
    """GPUs."""
    minutes: Annotated[int, Whole(1, 10**6)] = 60
    """Time limit of a Slurm job. A run that reaches it goes on in a new job where Slurm allows the job to be requeued."""
    partition: str = ""
    """Slurm partition; empty for the default one."""

    def __post_init__(self) -> None:
        checked(self, "--executor ")


class LocalProcesses:
    """Executor that starts processes on this machine and divides its cores among them."""

    @property
    def most_at_once(self) -> int:
        """One command for each core."""
        return os.cpu_count() or 1

    def start(self, arguments: Sequence[str], log: Path, workers: int, append: bool) -> ForkedProcess | LocalProcess:
        """Start a process, see `Executor.start`; it gets its share of the cores as threads, at least one."""
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
        with explained(log):
            if can_fork():
                return ForkedProcess(arguments, log, environment, append)
            return LocalProcess([sys.executable, "-m", "thalweg", *arguments], log, environment, append)
