"""Executors start the processes of runs: `LocalProcesses` on this machine, `SlurmJobs` and `RayTasks` on a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import torch

from thalweg.bounds import Whole
from thalweg.errors import require
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
    """What each run is given."""

    cpus: Annotated[int, Whole(1, 4096)] = 1
    """CPU cores, and threads."""
    gpus: Annotated[int, Whole(0, 64)] = 0
    """GPUs."""
    runs_per_gpu: Annotated[int, Whole(0, 64)] = 0
    """Number of runs that share a GPU, on this machine or with Ray; 0 where runs are not placed on GPUs, or have one alone."""
    minutes: Annotated[int, Whole(1, 10**6)] = 60
    """Time limit of a Slurm job. A run that reaches it goes on in a new job where Slurm allows the job to be requeued."""
    partition: str = ""
    """Slurm partition; empty for the default one."""

    def __post_init__(self) -> None:
        checked(self, "--executor ")


class LocalProcesses:
    """Executor that starts processes on this machine and divides its cores among them.

    Args:
        runs_per_gpu: number of commands that share a GPU; each command sees only the GPU on which the fewest run. 0 leaves the
            choice of the GPU to the command.
        gpus: identifiers of the GPUs; None takes those that this process sees.
    Raises:
        BadInputError: ``runs_per_gpu`` on a machine without a GPU.
    """

    def __init__(self, runs_per_gpu: int = 0, gpus: Sequence[str] | None = None) -> None:
        self.runs_per_gpu, self.running = runs_per_gpu, dict[str, list[ForkedProcess | LocalProcess]]()
        if runs_per_gpu:
            self.running = {gpu: [] for gpu in (visible_gpus() if gpus is None else gpus)}
            require(bool(self.running), "--executor local:runs_per_gpu", runs_per_gpu, "a machine with a GPU; leave it out here")

    @property
    def most_at_once(self) -> int:
        """One command for each core, or ``runs_per_gpu`` for each GPU."""
        return len(self.running) * self.runs_per_gpu or os.cpu_count() or 1

    def start(self, arguments: Sequence[str], log: Path, workers: int, append: bool) -> ForkedProcess | LocalProcess:
        """Start a process, see `Executor.start`; it gets its share of the cores as threads, at least one."""
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
        for gpu, processes in self.running.items():
            self.running[gpu] = [process for process in processes if process.poll() is None]
        gpu = min(self.running, key=lambda gpu: len(self.running[gpu]), default=None)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with explained(log):
            process = (
                ForkedProcess(arguments, log, environment, append)
                if can_fork()
                else LocalProcess([sys.executable, "-m", "thalweg", *arguments], log, environment, append)
            )
        if gpu is not None:
            self.running[gpu].append(process)
        return process


def visible_gpus() -> list[str]:
    """Identifiers of the GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` takes them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [name.strip() for name in named.split(",") if name.strip()]
