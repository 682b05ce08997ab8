"""The option ``--executor``: where the runs of an experiment are started, and what each of them is given."""

from __future__ import annotations

from typing import Any

from thalweg.errors import BadInputError, require, unknown
from thalweg.experiments.executors import Allocation, Executor, LocalProcesses
from thalweg.serialization import from_dict

EXECUTORS = ("local", "slurm", "ray")


def executor_of(text: str) -> Executor:
    """The executor that an option such as ``slurm:cpus=4,gpus=1`` names.

    Args:
        text: a name out of `EXECUTORS`, and perhaps a colon and fields of `Allocation`; of ``local`` only ``runs_per_gpu``.
    Raises:
        BadInputError: an unknown executor or field, or a value that is no number.
        MissingExtraError: the package of the executor is not installed.

    Example:
        >>> type(executor_of("local")).__name__
        'LocalProcesses'
    """
    name, _, fields = text.partition(":")
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    allocation = _allocation_of(fields, text)
    if name == "local":
        alone = allocation == Allocation(runs_per_gpu=allocation.runs_per_gpu)
        require(alone, "--executor", text, "`local` or `local:runs_per_gpu=N`; --jobs divides the cores of this machine")
        return LocalProcesses(allocation.runs_per_gpu)
    if name == "slurm":
        require(not allocation.runs_per_gpu, "--executor", text, "no runs_per_gpu for slurm, whose jobs own their GPUs")
        from thalweg.experiments.slurm import SlurmJobs

        return SlurmJobs(allocation)
    require(not allocation.partition, "--executor", text, "no partition for ray")
    shared = not allocation.runs_per_gpu or allocation.gpus == 1
    require(shared, "--executor", text, "gpus=1 with runs_per_gpu, as each run has a part of one GPU")
    from thalweg.experiments.ray_tasks import RayTasks

    return RayTasks(allocation)


def _allocation_of(fields: str, text: str) -> Allocation:
    """Parse fields such as ``cpus=4,gpus=1``; ``text`` is the whole option, for the message."""
    values: dict[str, Any] = {}
    for field in filter(None, (part.strip() for part in fields.split(","))):
        name, separator, value = field.partition("=")
        require(bool(separator and value), "--executor", text, "fields such as slurm:cpus=4,gpus=1,minutes=120,partition=NAME")
        values[name] = int(value) if value.isdigit() and name != "partition" else value
    try:
        return from_dict(Allocation, values)
    except BadInputError as error:
        raise BadInputError(f"--executor {text}: {error}") from None
