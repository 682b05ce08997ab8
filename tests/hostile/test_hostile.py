"""The short forms: a fixed seed and a small sample; the long ones are command lines, see the modules beside this one."""

import random
import shutil
from pathlib import Path

import commands
import configs
import damage
import pytest
from attempts import attempt

from thalweg.experiments.paper import recipes
from thalweg.experiments.switching import variants
from thalweg.experiments.tasks import recipes as task_recipes

SEED = 2


@pytest.fixture(scope="module", autouse=True)
def quickly(tmp_path_factory: pytest.TempPathFactory):
    """Small presets, no figures, and a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THALWEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        for presets in (recipes.PRESETS, task_recipes.PRESETS, variants.PRESETS):
            patch.setitem(presets, "quick", presets["quick"])
        damage.small_presets()
        damage.draw(False)
        yield
        damage.draw(True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return commands.set_up(tmp_path_factory.mktemp("commands") / "here")


@pytest.mark.parametrize("part", range(3))
def test_a_command_line_that_nobody_should_give_is_refused_in_one_line_and_leaves_nothing(folder: Path, part: int) -> None:
    assert {case.arguments: faults for case in commands.cases()[part::16] if (faults := commands.tried(case, folder))} == {}


def test_an_odd_value_of_any_key_is_accepted_or_refused_in_one_line(tmp_path: Path) -> None:
    bases = configs.bases_of(tmp_path, ["markov", "text", "parity"])
    every = [case for case in configs.cases_of(bases, random.Random(SEED)) if case.path not in configs.SLOW][:24]
    assert {case: faults for case in every if (faults := configs.tried(case, bases, tmp_path)[1])} == {}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A complete run, and one that was cut short."""
    kinds = damage.prepared(tmp_path_factory.mktemp("damage"), ("done", "cut"))
    damage.WEIGHTS.update(dict.fromkeys(kinds, damage.weights(kinds["done"])))
    return kinds


@pytest.mark.parametrize("way", damage.WAYS)
def test_a_damaged_file_of_a_run_is_put_right_or_named_and_nothing_else_is_lost(intact: dict[str, Path], way: str) -> None:
    rng = random.Random(SEED)
    every = [one for one in damage.cases_of(intact, rng, 0) if one[2] == way]
    chosen = [*(one for one in every if one[0] == "cut" and one[1].name == "metrics.jsonl"), every[0]]
    found = {}
    for kind, target, _ in chosen:
        for command, made, faults in damage.tried(kind, intact[kind], target, way, rng, intact[kind].parent / "log"):
            if faults:
                found[kind, str(target), command[0]] = faults, made.text
    assert found == {}


@pytest.mark.parametrize("gone", ["", "checkpoints", "metrics.jsonl"])
def test_a_run_whose_files_are_removed_while_it_goes_on_stops_with_one_line(tmp_path: Path, gone: str) -> None:
    (tmp_path / "run.toml").write_text(damage.RUN)

    def remove_later() -> None:
        from thalweg.train import state, trainer

        update = trainer.update

        def spoiled(run: state.Run) -> None:
            if run.shift.step == 32:
                damage.removed(tmp_path / "run" / gone)
            update(run)

        trainer.update = spoiled

    made = attempt(["train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run")], tmp_path / "log", meanwhile=remove_later)
    assert made.faults == []
    assert made.code == 1
    assert "removed" in made.refusals[0]
    assert not (tmp_path / "run" / "summary.json").exists()
    assert (tmp_path / "run").exists() == bool(gone)


def test_a_run_goes_on_after_its_checkpoints_were_removed(tmp_path: Path, intact: dict[str, Path]) -> None:
    at = Path(shutil.copytree(intact["cut"], tmp_path / "run"))
    shutil.rmtree(at / "checkpoints")
    made = attempt(["train", str(intact["cut"].parent / "run.toml"), "--out", str(at)], tmp_path / "log")
    assert (made.code, damage.weights(at)) == (0, damage.WEIGHTS["done"])


def test_the_faults_are_seen(tmp_path: Path) -> None:
    def broken() -> None:
        raise ValueError("a bug")

    assert attempt(["--version"], tmp_path / "log", meanwhile=broken).faults == ["exit code 99", "traceback"]
    assert attempt(["--version"], tmp_path / "log", 0.2, meanwhile=lambda: __import__("time").sleep(9)).faults == ["hang"]
