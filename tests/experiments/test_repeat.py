"""The command that an experiment shows makes the same experiment: given to the command line, it plans the same."""

import shlex

import pytest

from thalweg.cli import call
from thalweg.experiments.experiment import Experiment
from thalweg.experiments.paper.definition import PaperStudy
from thalweg.experiments.paper.recipes import plan
from thalweg.experiments.switching.definition import SwitchingSweep
from thalweg.experiments.switching.variants import sweep_of
from thalweg.experiments.tasks.definition import TaskStudy
from thalweg.experiments.tasks.recipes import plan_tasks

EXPERIMENTS = [
    PaperStudy(plan("markov", "quick")),
    PaperStudy(plan("markov", "paper", ("looped", "single"), 2, "", "cpu", compile=True, landscape=False)),
    PaperStudy(plan("text", "quick", ("looped",), 4, "my notes; rm -rf", "cuda")),
    SwitchingSweep(sweep_of("markov", "quick")),
    SwitchingSweep(sweep_of("markov", "paper", 3, ("scp", "onset"), 4, device="cpu")),
    SwitchingSweep(sweep_of("text", "quick", 0, (), 1, "a/b c.txt")),
    TaskStudy(plan_tasks("quick")),
    TaskStudy(plan_tasks("paper", ("copy", "parity"), ("looped", "single"), 2, "cpu")),
]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda one: one.command)
def test_the_command_given_again_plans_the_same_experiment(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    monkeypatch.setattr("thalweg.experiments.engine.make", lambda found, *_: planned.append(found))
    assert call(shlex.split(experiment.command)[1:]) == 0
    assert [type(found) for found in planned] == [type(experiment)]
    assert planned[0].plan == experiment.plan


@pytest.mark.parametrize(
    ("experiment", "command"),
    [
        (EXPERIMENTS[1], "study markov --preset paper --arms looped,single --seeds 2 --device cpu --compile --no-landscape"),
        (EXPERIMENTS[2], "study text --preset quick --arms looped --seeds 4 --text 'my notes; rm -rf' --device cuda"),
        (EXPERIMENTS[5], "shift-sweep text --preset quick --loops 4 --groups none --seeds 1 --text 'a/b c.txt'"),
        (EXPERIMENTS[7], "study tasks --preset paper --task copy,parity --arms looped,single --seeds 2 --device cpu"),
    ],
)
def test_the_command_names_every_option_that_is_not_the_default(experiment: Experiment, command: str) -> None:
    assert experiment.command == f"thalweg {command}"
