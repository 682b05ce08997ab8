"""Experiments made and reported on as the commands do it, from their plans."""

from pathlib import Path
from typing import Any

from thalweg.experiments.engine import make, show
from thalweg.experiments.folder import claim
from thalweg.experiments.paper.definition import PaperStudy
from thalweg.experiments.queue import prepare
from thalweg.experiments.registry import experiment_in
from thalweg.experiments.switching.definition import SwitchingSweep
from thalweg.experiments.tasks.definition import TaskStudy
from thalweg.records.run import StudySummary, recorded
from thalweg.storage import read_json


def run_study(study: Any, folder: Path, workers: int, as_json: bool) -> None:
    make(PaperStudy(study), folder, workers, as_json)


def run_sweep(sweep: Any, folder: Path, workers: int, as_json: bool) -> None:
    make(SwitchingSweep(sweep), folder, workers, as_json)


def run_task_study(study: Any, folder: Path, workers: int, as_json: bool) -> None:
    make(TaskStudy(study), folder, workers, as_json)


def make_report(folder: Path, as_json: bool) -> Any:
    found = experiment_in(folder)
    summary = found.report(folder)
    show(found, summary, folder, as_json)
    return summary


def plan_in(folder: Path) -> Any:
    return experiment_in(folder).plan


def claim_study(study: Any, folder: Path) -> None:
    experiment = PaperStudy(study)
    claim(experiment, folder)
    prepare(experiment.jobs(folder))


def read_summary(folder: Path) -> StudySummary:
    return recorded(StudySummary, read_json(folder / "summary.json"), folder / "summary.json")
