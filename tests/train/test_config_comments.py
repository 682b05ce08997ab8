from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from thalweg.experiments.paper.recipes import plan, runs_of
from thalweg.experiments.tasks.recipes import plan_tasks, task_runs
from thalweg.shift.criterion import AtStep, Plateau
from thalweg.train.config import RunConfig, SafetyNet, ShiftConfig, read_config
from thalweg.train.config_comments import docs_of, explained_text

RUNS = {
    "markov": runs_of(plan("markov", "quick", ("shift",), 1))["shift-seed0"],
    "text": runs_of(plan("text", "quick", ("shift-hard",), 1))["shift-hard-seed0"],
    "parity": task_runs(plan_tasks("quick", ("parity",), ("shift",), 1))["parity", "shift", 0],
    "ladder": replace(RunConfig(), shift=ShiftConfig((1, 2, 4), criteria=(AtStep(5), Plateau(patience=2)))),
}


@pytest.mark.parametrize("kind", RUNS)
def test_an_explained_config_reads_back_as_itself(tmp_path: Path, kind: str) -> None:
    (tmp_path / "run.toml").write_text(explained_text(RUNS[kind]))
    assert read_config(tmp_path / "run.toml") == RUNS[kind]


@pytest.mark.parametrize("kind", RUNS)
def test_a_comment_stands_above_every_key(kind: str) -> None:
    lines = explained_text(RUNS[kind]).splitlines()
    keys = [place for place, line in enumerate(lines) if line and not line.startswith("#")]
    assert [lines[place] for place in keys if not lines[place - 1].startswith("# ")] == []


def sections(value: object) -> list[object]:
    inner = [getattr(value, f.name) for f in fields(value)]  # type: ignore[arg-type]
    return [value, *(one for member in inner if is_dataclass(member) for one in sections(member))]


@pytest.mark.parametrize("kind", RUNS)
def test_every_key_has_a_docstring(kind: str) -> None:
    for section in sections(RUNS[kind]):
        assert docs_of(type(section)).keys() == {f.name for f in fields(section)}  # type: ignore[arg-type]


def test_a_comment_says_what_it_is_and_its_range() -> None:
    text = explained_text(RUNS["markov"])
    assert "# Number of updates. From 1 to 1,000,000,000.\nsteps = 2400\n" in text
    assert "# Peak learning rate. Above 0, at most 1e+06.\nrate = 0.003\n" in text
    assert '# Attention: "softmax", or "linear" without softmax, the mean over the prefix. One of softmax, linear' in text
    assert "kind is one of plateau, at-step" in text


def test_text_that_toml_must_escape_reads_back(tmp_path: Path) -> None:
    odd = RunConfig(arm='"\\\n\x1b[31m\u202e')
    (tmp_path / "run.toml").write_text(explained_text(replace(odd, shift=replace(odd.shift, net=SafetyNet(tries=1)))))
    assert read_config(tmp_path / "run.toml").arm == odd.arm
