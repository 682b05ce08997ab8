"""The folder of an experiment: whose it is, and whether it can be extended."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning, FolderError, shown
from thalweg.experiments.experiment import Experiment
from thalweg.experiments.queue import Job
from thalweg.records.run import recorded
from thalweg.serialization import to_dict
from thalweg.storage import read_json, set_aside, there, write_json
from thalweg.train.run_folder import config_in


def slug(name: str) -> str:
    """A name as part of a folder's name."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def claim(experiment: Experiment, folder: Path) -> None:
    """Write the plan into a new folder, or check that the folder is this experiment's, or extend its plan.

    A plan with more seeds or arms (`Experiment.grows`) than the one that is there takes its place; all else must be the same. A
    plan that is damaged or missing is written anew where all runs in the folder are runs of this one.

    Raises:
        FolderError: the folder holds another plan, and which setting differs; or something else.
    """
    path, kind = folder / experiment.plan_file, experiment.kind
    others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    try:
        if not others:
            write_json(path, to_dict(experiment.plan))
            return
        before = recorded(type(experiment.plan), read_json(path), path)
        if before != experiment.plan:
            _refuse_other_plan(experiment, before, folder)
            write_json(path, to_dict(experiment.plan))
    except DamagedFileError as error:
        if not _all_planned(folder / "runs", experiment.jobs(folder)):
            if there(path):
                raise
            raise FolderError(
                f"{kind} {folder}: the folder holds {others[0]!r} and is no {kind}; choose an empty or new --out"
            ) from None
        kept = f"; what was there is kept as {set_aside(path).name}" if there(path) else ""
        write_json(path, to_dict(experiment.plan))
        words = f"{str(error).partition('; ')[0]}; its runs are those of this {kind}, so it was written anew{kept}"
        warnings.warn(words, DamagedRecordWarning, stacklevel=2)


def _refuse_other_plan(experiment: Experiment, before: Any, folder: Path) -> None:
    """Refuse a plan that is not the one of the folder, extended.

    Raises:
        FolderError: names the first setting that differs, with its old and its new value.
    """
    old, new = to_dict(before), to_dict(experiment.plan)
    for name, value in new.items():
        was = old.get(name)
        if was == value or (name in experiment.grows and set(map(str, was)) <= set(map(str, value))):
            continue
        more = "at least those that are there" if name in experiment.grows else "the same"
        raise FolderError(
            f"{experiment.kind} {folder}: the folder belongs to another {experiment.kind} or other settings "
            f"({name} is {shown(was)} there, given {shown(value)}, expected {more}); choose another --out"
        )


def _all_planned(runs: Path, jobs: Sequence[Job]) -> bool:
    """Whether a folder holds runs, and none but those of these jobs."""
    planned = {job.folder.name: job.config for job in jobs}
    found = [one for one in runs.iterdir() if not one.name.startswith(".")] if runs.is_dir() else []
    try:
        return bool(found) and all(planned.get(one.name) == config_in(one) for one in found)
    except BadInputError:
        return False


def read_plan(plan: type, folder: Path, name: str) -> Any:
    """The plan in a folder's file of this name.

    Raises:
        DamagedFileError: it cannot be read.
    """
    return recorded(plan, read_json(folder / name), folder / name)
