"""The folder of an experiment: which experiment it belongs to, and whether its plan can be extended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning, FolderError, shown, warn
from thalweg.experiments.experiment import Experiment
from thalweg.experiments.queue import Job
from thalweg.records.run import recorded
from thalweg.serialization import to_dict
from thalweg.storage import read_json, set_aside, there, write_json
from thalweg.train.run_folder import config_in


def slug(name: str) -> str:
    """A name in a form that can be part of a folder's name: lower case, with "-" for everything but letters, digits and dots."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def claim(experiment: Experiment, folder: Path) -> None:
    """Make sure that a folder belongs to an experiment: write its plan, check the stored one, or extend it.

    A new plan may have more seeds or arms (`Experiment.grows`) than the stored one and then replaces it; everything else must be
    the same. A plan that is damaged or missing is written again if all runs in the folder are runs of this experiment.

    Raises:
        FolderError: the folder holds another plan (the message names the setting that differs), or something else.
        DamagedFileError: the plan is damaged, and runs in the folder are not those of this experiment.
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
        message = f"{str(error).partition('; ')[0]}; its runs are those of this {kind}, so it was written anew{kept}"
        warn(message, DamagedRecordWarning)


def _refuse_other_plan(experiment: Experiment, before: Any, folder: Path) -> None:
    """Refuse a plan that is neither the stored one nor an extension of it.

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
    """Whether a folder holds runs, and all of them are runs of these jobs with the planned configs."""
    planned = {job.folder.name: job.config for job in jobs}
    folders = [path for path in runs.iterdir() if not path.name.startswith(".")] if runs.is_dir() else []
    try:
        return bool(folders) and all(planned.get(path.name) == config_in(path) for path in folders)
    except BadInputError:
        return False


def read_plan(plan: type, folder: Path, name: str) -> Any:
    """Read the plan of an experiment from its folder.

    Args:
        plan: class of the plan.
        folder: of the experiment.
        name: of the file.
    Raises:
        DamagedFileError: it cannot be read.
    """
    return recorded(plan, read_json(folder / name), folder / name)
