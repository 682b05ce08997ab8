"""The scripts of benchmarks/on_a_gpu: their commands are ones that thalweg takes, and a sitting ends in time."""

import importlib
import signal
import sys
import time
from pathlib import Path

import pytest

from thalweg.cli import app
from thalweg.experiments.frontier.plan import plan_frontier
from thalweg.experiments.paper.recipes import landscape_of, plan, runs_of
from thalweg.models.cost import cost, parameters
from thalweg.models.looped import LoopedTransformer

FOLDER = Path(__file__).parents[1] / "benchmarks" / "on_a_gpu"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A function that imports a script of the folder."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def imported(name: str):
        for module in (name, "sitting"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        return importlib.import_module(name)

    return imported


def parsed(script, name: str, *arguments: str) -> dict:
    """What thalweg reads from the command of a script."""
    module = script(name)
    command = module.command(module.options_of(module.__doc__, "results/x", arguments))
    _, bound, _ = app.parse_args(command, exit_on_error=False, print_error=False)
    return dict(zip(("source",), bound.args, strict=True)) | bound.kwargs


@pytest.mark.parametrize(("preset", "device"), [("gpu", "cuda"), ("quick", "cpu")])
@pytest.mark.parametrize("name", ["frontier", "landscape"])
def test_a_script_gives_a_command_that_thalweg_takes(script, name: str, preset: str, device: str) -> None:
    found = parsed(script, name, "--preset", preset)
    assert (found["source" if "source" in found else "task"], found["device"], found["jobs"]) == ("text", device, 1)
    arms = tuple(found["arms"].split(","))
    if name == "frontier":
        assert set(arms) <= set(plan_frontier("text", preset, arms).arms)
    else:
        assert plan("text", preset, arms, found.get("seeds", 0)).arms == ("single", "looped")


def test_seeds_can_be_given_and_extend_a_study(script) -> None:
    assert [parsed(script, "landscape", *some)["seeds"] for some in ((), ("--seeds", "3"), ("--preset", "quick"))] == [0, 3, 1]


def test_the_operations_in_the_docstring_are_counted(script) -> None:
    told = script("landscape").__doc__
    config = runs_of(plan("text", "gpu"))["looped-seed0"]
    product, training = ([cost(config.model, rows, 64, loops).forward for loops in (1, 4)] for rows in (8, config.training.batch))
    assert f"{product[0] / 1e12:.3f} TFLOP Single and {product[1] / 1e12:.3f} Looped" in told
    whole = [3 * forward * config.training.steps / 1e15 for forward in training]
    points = [6 * forward * 100 * 40 / 1e15 for forward in product]
    assert f"updates of 32 windows     {whole[0]:.2f} and {whole[1]:.2f}" in told
    assert f"40 points, 4,000 products                 {points[0]:.2f} and {points[1]:.2f}" in told
    disk = 40 * parameters(LoopedTransformer(config.model)) * (12 + 2 * 4) / 1e9  # weights and moments, two eigenvectors
    assert f"take {disk:.0f} GB of disk a run, {10 * disk:.0f} GB in all" in told


def test_the_landscape_on_a_gpu_has_ten_million_parameters_and_forty_points() -> None:
    study = plan("text", "gpu")
    config = runs_of(study)["looped-seed0"]
    measured = landscape_of(study, "looped")
    assert measured is not None
    assert (measured.checkpoints, measured.exact_seconds) == (40, 0)
    assert parameters(LoopedTransformer(config.model)) == pytest.approx(1e7, rel=0.02)


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, signal.default_int_handler], ids=["in the background", "at a terminal"])
def test_a_sitting_ends_in_time_and_says_so(
    script, disposition, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    sitting = script("sitting")
    monkeypatch.setattr(sitting, "THALWEG", (sys.executable, "-c"))
    before, started = signal.signal(signal.SIGINT, disposition), time.monotonic()
    try:
        assert sitting.sit(["import time; time.sleep(60)"], 0.02) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 50  # it was stopped, and did not end by itself
    assert capsys.readouterr().out == "Stopped after 0.02 minutes; give the same command again to go on.\n"
    assert sitting.sit(["raise SystemExit(2)"], 1) == 2
