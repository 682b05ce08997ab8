import json
from dataclasses import replace
from pathlib import Path

import pytest

from thalweg.errors import FolderError
from thalweg.experiments.folder import claim
from thalweg.experiments.paper.definition import PaperStudy
from thalweg.experiments.paper.recipes import StudyConfig, plan
from thalweg.experiments.registry import experiment_in
from thalweg.experiments.switching.definition import SwitchingSweep
from thalweg.experiments.switching.variants import sweep_of
from thalweg.experiments.tasks.definition import TaskStudy
from thalweg.experiments.tasks.recipes import plan_tasks


def small(**changes) -> StudyConfig:
    return replace(plan("markov", "quick", ("single", "looped"), 2), **changes)


@pytest.mark.parametrize(
    "changes",
    [{"seeds": (0, 1, 2)}, {"arms": ("single", "looped", "shift")}, {"arms": ("looped", "shift", "single"), "seeds": (0, 1, 4)}],
)
def test_a_plan_with_more_seeds_or_arms_takes_the_place_of_the_one_that_is_there(tmp_path: Path, changes: dict) -> None:
    claim(PaperStudy(small()), tmp_path)
    claim(PaperStudy(small(**changes)), tmp_path)
    assert experiment_in(tmp_path).plan == small(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0,)}, r"\(seeds is \[0, 1\] there, given \[0\], expected at least those that are there\)"),
        (
            {"arms": ("single",)},
            r"\(arms is \['single', 'looped'\] there, given \['single'\], expected at least those that are there\)",
        ),
        ({"landscape": False}, r"\(landscape is True there, given False, expected the same\)"),
        ({"seeds": (0, 1, 2), "device": "cpu"}, r"\(device is 'auto' there, given 'cpu', expected the same\)"),
    ],
)
def test_a_plan_that_is_no_extension_is_refused_with_the_setting_that_differs(tmp_path: Path, changes: dict, message: str) -> None:
    claim(PaperStudy(small()), tmp_path)
    before = json.loads((tmp_path / "study.json").read_text())
    with pytest.raises(FolderError, match=f"belongs to another study or other settings {message}; choose another --out"):
        claim(PaperStudy(small(**changes)), tmp_path)
    assert json.loads((tmp_path / "study.json").read_text()) == before


def test_sweeps_grow_by_groups_and_studies_of_tasks_by_tasks(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "tasks").mkdir()
    for groups in (("share",), ("share", "onset")):
        claim(SwitchingSweep(sweep_of("markov", "quick", 3, groups)), tmp_path / "sweep")
    assert experiment_in(tmp_path / "sweep").plan.groups == sweep_of("markov", "quick", 3, ("share", "onset")).groups
    for tasks in (("parity",), ("parity", "copy")):
        claim(TaskStudy(plan_tasks("quick", tasks)), tmp_path / "tasks")
    assert experiment_in(tmp_path / "tasks").plan.tasks == ("parity", "copy")


def test_a_folder_of_no_experiment_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(
        FolderError,
        match=r"tasks\.json, frontier\.json or experiment\.json in it; expected the --out",
    ):
        experiment_in(tmp_path)
