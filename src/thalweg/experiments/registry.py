"""The kinds of experiments, and how to find the one that a folder holds."""

from __future__ import annotations

from pathlib import Path

from thalweg.errors import FolderError
from thalweg.experiments.experiment import Experiment
from thalweg.experiments.folder import read_plan
from thalweg.experiments.frontier.definition import FrontierStudy
from thalweg.experiments.frontier.plan import FrontierPlan
from thalweg.experiments.paper.definition import PaperStudy
from thalweg.experiments.paper.recipes import StudyConfig
from thalweg.experiments.switching.definition import SwitchingSweep
from thalweg.experiments.switching.variants import SweepConfig
from thalweg.experiments.tasks.definition import TaskStudy
from thalweg.experiments.tasks.recipes import TaskStudyConfig
from thalweg.experiments.user_experiment import PLAN as OWN_PLAN
from thalweg.experiments.user_experiment import own_in
from thalweg.storage import there

_KINDS: tuple[tuple[type[Experiment], type], ...] = (
    (PaperStudy, StudyConfig),
    (SwitchingSweep, SweepConfig),
    (TaskStudy, TaskStudyConfig),
    (FrontierStudy, FrontierPlan),
)
"""Class of the experiment, and class of its plan."""


def experiment_in(folder: Path) -> Experiment:
    """The experiment that a folder belongs to, with its stored plan; the kind follows from the name of the plan's file.

    Raises:
        FolderError: the folder holds no plan.
        DamagedFileError: the plan cannot be read.
    """
    for kind, plan in _KINDS:
        if there(folder / kind.plan_file):
            return kind(read_plan(plan, folder, kind.plan_file))  # type: ignore[call-arg]
    if there(folder / OWN_PLAN):
        return own_in(folder)
    if there(folder / "config.toml"):
        task = there(folder / "lengths.json")
        own = f"its exact matches are in {folder / 'lengths.json'}" if task else f"give `thalweg landscape {folder}`"
        raise FolderError(f"study {folder}: it is a run, expected a study; for a run {own}")
    files = [*(kind.plan_file for kind, _ in _KINDS), OWN_PLAN]
    raise FolderError(
        f"study {folder}: there is no {', '.join(files[:-1])} or {files[-1]} in it; expected the --out folder of "
        "`thalweg study`, `thalweg shift-sweep` or `thalweg frontier`"
    )
