import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from thalweg.cli import call

CODE = '''
from dataclasses import replace
import thalweg as tw
from thalweg.data.markov_data import MarkovConfig
from thalweg.experiments.metrics import final
from thalweg.train.config import TrainingConfig

BASE = tw.RunConfig(
    data=MarkovConfig(sequences=60, held_out=40),
    model=tw.ModelConfig(length=11, width=4),
    training=TrainingConfig(steps=4, batch=8, evaluate_every=2, device="cpu", threads=1),
)

class Depths(tw.Experiment):
    """Is <b>deeper</b> better?"""
    seeds = 2

    def arms(self):
        return {f"depth {n}": replace(BASE, model=replace(BASE.model, layers=n)) for n in (1, 2)}

    def answers(self, runs):
        return [tw.Verdict("How many seeds?", str({arm: len(seeds) for arm, seeds in runs.items()}))]

    def figures(self, runs):
        import matplotlib.pyplot as plt
        figure, axes = plt.subplots()
        axes.plot([1, 2])
        return {"A line": figure}

class NoArms(tw.Experiment):
    def answers(self, runs):
        return []

class WrongArms(Depths):
    def arms(self):
        return {"one": 1}

class Twins(Depths):
    def arms(self):
        return {"A b": BASE, "a-B": BASE}

class FailingArms(Depths):
    def arms(self):
        return {}["depth"]

class FailingAnswers(Depths):
    def answers(self, runs):
        return [1 / 0]

class WrongAnswers(Depths):
    def answers(self, runs):
        return ["yes"]

class WrongFigures(Depths):
    def figures(self, runs):
        return {"A line": "a line"}

class WrongOutcomes(Depths):
    def outcomes(self, runs):
        return {"depth 9": {"loss": [1.0]}}

class TextOutcomes(Depths):
    def outcomes(self, runs):
        return {"depth 1": {"loss": ["low"]}}

class NoDevice(Depths):
    def arms(self):
        return {"gpu": replace(BASE, training=replace(BASE.training, device="cuda:77"))}
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of a user's, in the folder where the command is given."""
    name = f"depths_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return name


def run(*arguments: str) -> int:
    return call(["study", *arguments])


@pytest.mark.slow
def test_an_experiment_of_ones_own_is_made_extended_and_shown_again_without_its_module(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{module}:Depths", "--out", "made", "--jobs", "2") == 0
    shown = capsys.readouterr().out
    assert "made: 2 seeds, mean and 95 % interval" in shown
    assert "held-out loss (nats)" in shown
    assert "How many seeds? {'depth 1': 2, 'depth 2': 2}" in shown
    page = (tmp_path / "made/report.html").read_text()
    assert "Is &lt;b&gt;deeper&lt;/b&gt; better?" in page
    assert f"thalweg study {module}:Depths --seeds 2" in page
    assert "A line" in page
    units = page.index("Units. nats: unit of the loss, the mean of -log p of the right token")
    assert units < page.index("held-out loss (nats)</th>")
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "made/runs").glob("*/summary.json")}
    assert len(first) == 4

    assert run(f"{module}:Depths", "--out", "made", "--seeds", "3", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["seeds"] == [0, 1, 2]
    assert summary["table"]["depth 1"]["held-out loss (nats)"]["n"] == 3
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())

    shutil.copytree("made", "again")
    assert call(["report", "made", "again", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["kind"] == f"the experiment {module}:Depths"
    assert [one["first"]["n"] for one in compared["numbers"]] == [3, 3]
    assert not any(one["differs"] for one in compared["numbers"])

    (tmp_path / f"{module}.py").unlink()
    del sys.modules[module]
    assert call(["report", "made", "again", "--out", "other"]) == 2
    assert "a comparison needs the experiment's outcomes()" in capsys.readouterr().err
    before = (tmp_path / "made/report.html").read_bytes()
    assert call(["report", "made"]) == 0
    assert "How many seeds?" in capsys.readouterr().out
    assert (tmp_path / "made/report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoArms", r"it has no arms; expected a method arms\(\) that gives each arm's RunConfig"),
        ("WrongArms", r"arms\(\): given \{'one': 1\}, expected a dict of RunConfig by name"),
        ("Twins", "expected names that differ in more than case and punctuation"),
        ("FailingArms", r"arms\(\) fails at depths_\d+\.py, line \d+ \(KeyError: 'depth'\)"),
        ("NoDevice", "device"),
        ("Nothing", r"cannot be imported \(AttributeError: .*\); expected module:Class"),
        ("BASE", "expected a class derived from thalweg.Experiment"),
    ],
)
def test_an_experiment_without_one_of_its_parts_is_refused_before_anything_is_written(
    module: str, name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{module}:{name}", "--out", "made") == 2
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert said.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_options_of_other_studies_and_seeds_below_one_are_refused(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{module}:Depths", "--arms", "single") == 2
    assert "an experiment of your own alone" in capsys.readouterr().err
    assert run(f"{module}:Depths", "--jobs", "0.5") == 2
    assert "--jobs" in capsys.readouterr().err
    assert run(f"{module}:Depths", "--seeds", "-1") == 2
    assert "given -1, expected a whole number" in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_users_method_gets_wrong_is_named_and_the_runs_are_kept(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{module}:Depths", "--out", "made", "--jobs", "2") == 0
    plan = tmp_path / "made/experiment.json"
    for name, message in {
        "FailingAnswers": "answers() fails at",
        "WrongAnswers": "answers(): given ('yes',), expected a list of thalweg.Verdict",
        "WrongFigures": "figures(): given {'A line': 'a line'}, expected a dict of matplotlib figures by heading",
        "WrongOutcomes": "outcomes(): given ['depth 9'], expected arms among depth 1, depth 2",
        "TextOutcomes": "outcomes()",
    }.items():
        plan.write_text(plan.read_text().replace("Depths", name))
        capsys.readouterr()
        assert call(["report", "made"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        plan.write_text(plan.read_text().replace(name, "Depths"))
    assert call(["report", "made"]) == 0


@pytest.mark.parametrize(
    ("values", "said"), [([1.0] * 3, "3 numbers, expected at most one for each seed, 2"), ([1.0, float("nan")], "finite numbers")]
)
def test_numbers_that_no_seed_can_have_given_are_refused(values: list[float], said: str) -> None:
    from types import SimpleNamespace

    from thalweg.errors import BadInputError
    from thalweg.experiments.user_experiment import OwnExperiment

    own = SimpleNamespace(
        plan=SimpleNamespace(experiment="mine:Own"), outcomes=lambda runs: {"deep": {"score": values}}, configs={"deep": None}
    )
    with pytest.raises(BadInputError, match=said):
        OwnExperiment.made_of(own, {"deep": {0: None, 1: None}})  # type: ignore[arg-type]
