"""Processes for the commands of runs that start in milliseconds, as they are forked from one that has imported everything.

`python -m thalweg` imports PyTorch for seconds before a run begins, which is most of a short run. Here the standard library's fork
server imports it once, without computing anything; each command is a fork of it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from thalweg.processes import end_with

_PRELOADED = ["thalweg.cli", "thalweg.train.trainer", "thalweg.survey.survey", "torch._dynamo"]
"""Imported by the server. The last one is imported by every optimizer of PyTorch."""
_FIXED = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")
"""Variables that are read when a library is loaded, so that the server must have them."""


def can_fork() -> bool:
    """Whether processes can be forked here. On macOS a fork may fail in the system's libraries, and Windows has none."""
    return sys.platform == "linux"


class ForkedProcess:
    """A process that runs ``thalweg ARGUMENTS`` and ends when this process ends; the same as `thalweg.processes.LocalProcess`.

    Args:
        arguments: of the command.
        log: file that receives its standard error.
        environment: environment variables.
        append: whether to append to the file instead of replacing it.
    """

    def __init__(self, arguments: Sequence[str], log: Path, environment: dict[str, str], append: bool) -> None:
        with log.open("ab" if append else "wb"):
            pass  # refuse here, and not in the process, a log that cannot be written
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        reading, self._lifeline = context.Pipe(duplex=False)
        given = (list(arguments), os.fspath(log.absolute()), environment, os.getcwd(), reading)
        self._process = context.Process(target=_run, args=given)
        with reading, _main_hidden(), _variables({name: environment[name] for name in _FIXED if name in environment}):
            self._process.start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status; minus the signal's number where a signal ended the process; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Exit status, or minus the signal that ended the process; None while it is running."""
        return self.returncode

    def terminate(self) -> None:
        """Ask the process to end, by SIGTERM."""
        self._process.terminate()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end and return its exit status.

        Raises:
            TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("thalweg", timeout or 0.0)
        self._lifeline.close()
        return code


def _run(arguments: list[str], log: str, environment: dict[str, str], folder: str, lifeline: Connection) -> None:
    """Run ``python -m thalweg ARGUMENTS`` in this process."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream, target in enumerate((nothing, nothing, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666))):
        os.dup2(target, stream)
    end_with(lifeline.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if threads := environment.get("OMP_NUM_THREADS", ""):
        import torch

        torch.set_num_threads(int(threads))
    sys.argv = ["thalweg", *arguments]
    runpy.run_module("thalweg", run_name="__main__")


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep the standard library from running the user's script a second time in the new process."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables in the ``with`` block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
