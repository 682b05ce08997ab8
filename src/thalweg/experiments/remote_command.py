"""A command of thalweg as a function that a cluster calls on another machine."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.integrations.extras import require_extra
from thalweg.interruption import TERMINATED
from thalweg.processes import LocalProcess

_ENDING_SECONDS = 60.0
"""Time in which a cluster that ends or requeues a job ends all of its processes."""


@dataclass(frozen=True)
class RemoteCommand:
    """Runs ``thalweg ARGUMENTS`` in a subprocess and returns its exit status, on a machine that sees the same folders.

    The subprocess ends with the process that runs it, so that a job that is cancelled or requeued leaves nothing behind that holds
    the lock of the run.
    """

    arguments: Sequence[str]
    log: str
    """File that receives its standard error."""
    threads: int
    append: bool

    def __call__(self) -> int:
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "thalweg", *self.arguments]
        code = LocalProcess(command, Path(self.log), environment, self.append).wait()
        if code in (-signal.SIGTERM, TERMINATED):
            time.sleep(_ENDING_SECONDS)  # the cluster ends this process next: a result would look like a failed run
        return code

    def checkpoint(self, *_: Any) -> Any:
        """What submitit submits again when Slurm preempts the job or its time is over: the same command, which resumes its run."""
        return require_extra("slurm", "submitit.helpers").DelayedSubmission(self)
