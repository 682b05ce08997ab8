"""Executor that runs every run as a task of Ray (extra ``ray``)."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thalweg.errors import BadInputError, format_error
from thalweg.experiments.executors import Allocation
from thalweg.experiments.remote_command import RemoteCommand
from thalweg.integrations.extras import require_extra

_RETRIES = 3
"""Number of times that Ray starts a task again whose worker or node has died; the command resumes its run."""


class RayTasks:
    """Executor that starts every command as a Ray task.

    Ray is reached at ``RAY_ADDRESS`` if that is set; otherwise it is started on this machine. The folder of the experiment must be
    on a file system that the nodes share.

    Args:
        allocation: cores and GPUs of each task.
    Raises:
        MissingExtraError: Ray is not installed.
        BadInputError: Ray cannot be reached or started.
    """

    most_at_once = 1000

    def __init__(self, allocation: Allocation) -> None:
        self.ray, self.allocation = require_extra("ray", "ray"), allocation
        try:
            if not self.ray.is_initialized():
                os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
                self.ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = os.environ.get("RAY_ADDRESS", "this machine")
            raise BadInputError(f"ray: cannot use Ray on {where} ({format_error(error)}); see `ray status`") from None

    def start(self, arguments: Sequence[str], log: Path, workers: int, append: bool) -> RayTask:
        """Start a task, see `Executor.start`."""
        given = self.allocation
        command = RemoteCommand([str(a) for a in arguments], str(log.absolute()), given.cpus, append)
        options = {"num_cpus": given.cpus, "num_gpus": given.gpus / max(1, given.runs_per_gpu), "max_retries": _RETRIES}
        return RayTask(self.ray, self.ray.remote(**options)(run).remote(command, os.getcwd()))


def run(command: RemoteCommand, folder: str) -> int:
    """Run a command in a folder, and return its exit status."""
    os.chdir(folder)
    return command()


class RayTask:
    """A task; see `thalweg.experiments.executors.Handle`."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference

    returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status of the command; 1 if the task was cancelled or its worker died too often."""
        return self._look(0)

    def terminate(self) -> None:
        """Cancel the task; its worker ends, and the command with it."""
        self.ray.cancel(self.reference, force=True)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the task to end; see `Handle.wait`."""
        code = self._look(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("ray task", timeout)
        return code

    def _look(self, timeout: float | None) -> int | None:
        """Wait for the task at most so many seconds, and return its exit status if it has ended."""
        if self.returncode is None and self.ray.wait([self.reference], timeout=timeout)[0]:
            try:
                self.returncode = self.ray.get(self.reference)
            except self.ray.exceptions.RayError:
                self.returncode = 1
        return self.returncode
