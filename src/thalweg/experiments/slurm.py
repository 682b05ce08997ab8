"""Executor that submits every run as a Slurm job, through submitit (extra ``slurm``)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thalweg.errors import ThalwegError, format_error
from thalweg.experiments.executors import Allocation
from thalweg.experiments.remote_command import RemoteCommand
from thalweg.integrations.extras import require_extra

_ASK_SECONDS = 2.0
"""Time between two questions to Slurm about one job."""
_WRITE_SECONDS = 20.0
"""Time that a shared file system is given to show the result of a job that has ended."""
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED"}
"""States of a job that does not go on. A requeued job is PENDING again."""


class SlurmJobs:
    """Executor that starts every command as a Slurm job.

    The folder of the experiment must be on a file system that the nodes share. Slurm without accounting is enough: whether a job
    has ended is asked of ``squeue``, and how, of the result that it leaves.

    Args:
        allocation: cores, GPUs, time limit and partition of each job.
    Raises:
        MissingExtraError: submitit is not installed.
    """

    most_at_once = 1000

    def __init__(self, allocation: Allocation) -> None:
        self.submitit, self.allocation = require_extra("slurm", "submitit"), allocation

    def start(self, arguments: Sequence[str], log: Path, workers: int, append: bool) -> SlurmJob:
        """Submit a job, see `Executor.start`; submitit keeps its own files beside the log.

        Raises:
            ThalwegError: Slurm does not take the job.
        """
        given = self.allocation
        try:
            executor = self.submitit.AutoExecutor(folder=log.parent / "slurm", cluster="slurm")
            executor.update_parameters(
                name=f"thalweg-{log.parent.name}",
                nodes=1,
                tasks_per_node=1,
                cpus_per_task=given.cpus,
                timeout_min=given.minutes,
                **({"gpus_per_node": given.gpus} if given.gpus else {}),
                **({"slurm_partition": given.partition} if given.partition else {}),
                slurm_additional_parameters={"requeue": True, "open_mode": "append"},
            )
            command = RemoteCommand([str(a) for a in arguments], str(log.absolute()), given.cpus, append)
            return SlurmJob(executor.submit(command))
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            raise ThalwegError(
                f"slurm: cannot submit a job ({format_error(error)}); is this a machine that can run sbatch?"
            ) from None


class SlurmJob:
    """A submitted job; see `thalweg.experiments.executors.Handle`."""

    def __init__(self, job: Any) -> None:
        self.job, self.returncode = job, None
        self.asked = self.ended = 0.0

    returncode: int | None

    def poll(self) -> int | None:
        """The exit status of the command; 1 if the job ended without leaving any, as a cancelled one does."""
        if self.returncode is None and time.monotonic() - self.asked >= _ASK_SECONDS:
            self.asked = time.monotonic()
            if self.job.paths.result_pickle.exists():
                self.returncode = self._result()
            elif self._is_over():
                self.ended = self.ended or self.asked
                if self.asked - self.ended > _WRITE_SECONDS or self._state() == "CANCELLED":
                    self.returncode = 1
            else:
                self.ended = 0.0  # a job that was preempted has begun again
        return self.returncode

    def _result(self) -> int:
        """Exit status in the file that submitit wrote at the end of the job."""
        outcome = self.job._get_outcome_and_result()
        return int(outcome[1]) if outcome[0] == "success" else 1

    def _state(self) -> str:
        """The state that Slurm tells; empty if it does not know the job any more, "UNKNOWN" if it does not answer."""
        asked = subprocess.run(
            ["squeue", "--noheader", "--states=all", f"--jobs={self.job.job_id}", "--format=%T"], capture_output=True, text=True
        )
        if asked.returncode:
            return "" if "Invalid job id" in asked.stderr else "UNKNOWN"
        return asked.stdout.split()[0] if asked.stdout.split() else ""

    def _is_over(self) -> bool:
        """Whether the job does not run, wait or come again."""
        state = self._state()
        return not state or state in _ENDED

    def terminate(self) -> None:
        """Cancel the job."""
        self.job.cancel(check=False)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the job to end; see `Handle.wait`."""
        started = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - started > timeout:
                raise subprocess.TimeoutExpired(f"slurm job {self.job.job_id}", timeout)
            time.sleep(0.2)
        return code
