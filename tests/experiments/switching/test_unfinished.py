"""Sweeps whose runs are few, unequal or failed, and settings that never reach Looped's loss."""

from dataclasses import replace
from pathlib import Path

import pytest

from thalweg.errors import StudyError
from thalweg.experiments import engine
from thalweg.experiments.drop import drop
from thalweg.experiments.executors import Executor
from thalweg.experiments.paper.verdicts import Runs
from thalweg.experiments.queue import Job
from thalweg.experiments.switching import definition as sweeps
from thalweg.experiments.switching.answers import region, smooth, sooner, verdicts_of
from thalweg.experiments.switching.variants import Variant, sweep_of, variants_of
from thalweg.records.run import EvaluationRecord, RunRecord, Score, SwitchRecord
from thalweg.serialization import to_dict
from thalweg.shift.criterion import Plateau
from thalweg.storage import write_json
from thalweg.train.config import RunConfig, ShiftConfig
from thalweg.train.failures import record_failure
from thalweg.train.trainer import train

DEFAULT = Plateau(0.02, 0.1, 2, 20)


def scores(loss: float, accuracy: float = 0.5) -> dict:
    return {"held-out": {"all": Score(accuracy, loss)}}


def falling(end: float, pace: float, switched: bool = False) -> RunRecord:
    """From 3 to ``end`` in 80 of 110 updates, ``pace`` seconds each."""
    losses = [3 + (end - 3) * min(1, k / 8) for k in range(12)]
    records = [EvaluationRecord(10 * k, 10 * k * pace, 10 * k * pace, 1, scores(loss)) for k, loss in enumerate(losses)]
    switch = SwitchRecord(20, 20 * pace, 0.0, 1, 6, "", scores(end), scores(end, 0.497))
    return RunRecord("r", tuple(records), (switch,) if switched else (), None)


def arm(end: float, pace: float, switched: bool = True) -> dict[int, RunRecord]:
    return {seed: falling(end + 0.001 * seed, pace, switched) for seed in range(3)}


def grid_of(settings: dict[tuple[float, float, int], dict[int, RunRecord]]) -> tuple[list[Variant], Runs]:
    variants = [
        Variant(f"{a:g}, {b:g}, {c}", "scp", {"delta_loss": a, "delta_grad": b, "patience": c}, criterion=Plateau(a, b, c, 20))
        for a, b, c in settings
    ]
    return variants, {variant.name: runs for variant, runs in zip(variants, settings.values(), strict=True)} | {
        "looped": arm(1.0, 6.0, False)
    }


def test_a_setting_that_never_reaches_looped_is_not_the_fastest() -> None:
    """Single costs a sixth of Looped; a setting that never fires ends with that, far from Looped's loss."""
    never, good = arm(2.0, 1.0, switched=False), arm(0.9, 4.0)
    variants, runs = grid_of({(0.005, 0.1, 2): never, (0.02, 0.1, 2): good, (0.05, 0.1, 2): arm(0.9001, 4.01)})
    found = region(variants, runs, DEFAULT)
    assert found.verdict.startswith("2 of 3 settings (delta_loss 0.02 to 0.05,")
    assert found.verdict.endswith("the default is inside, with 1 of its 2 neighbours inside")


def test_where_no_setting_reaches_looped_the_region_is_by_loss_and_says_so() -> None:
    variants, runs = grid_of({(0.005, 0.1, 2): arm(2.0, 1.0), (0.02, 0.1, 2): arm(1.5, 4.0)})
    found = region(variants, runs, DEFAULT)
    assert found.verdict.startswith("1 of 2 settings (delta_loss 0.02 to 0.02,")
    assert "by final loss alone" in found.verdict


def test_seeds_that_cannot_be_paired_yet_are_left_out() -> None:
    variants, runs = grid_of({(0.005, 0.1, 2): {0: falling(0.9, 4.0)}, (0.02, 0.1, 2): {1: falling(0.8, 4.0)}})
    assert "1 of 2 settings" in region(variants, runs, DEFAULT).verdict
    variants += [Variant("early", "share", {}), Variant("other", "onset", {})]
    runs |= {"shift": {1: falling(0.9, 4.0)}, "looped": {0: falling(1.0, 6.0)}, "early": {0: falling(0.9, 4.0)}, "other": {}}
    assert [one.claim[:14] for one in verdicts_of(variants, runs, DEFAULT)] == ["Which settings"]


def test_one_seed_decides_nothing() -> None:
    runs = {"looped": {0: falling(1.0, 6.0)}, "shift": {0: falling(0.5, 2.0, switched=True)}}
    assert sooner(runs).verdict.startswith("undecided")
    assert smooth(runs).verdict.startswith("undecided")


def test_an_evaluation_at_the_switch_itself_is_left_to_the_switchs_own_scores() -> None:
    accuracies = [0.5, 0.5, 0.9, 0.6, 0.6]
    records = [EvaluationRecord(10 * k, 0.0, 0.0, 6 if k >= 2 else 1, scores(1.0, a)) for k, a in enumerate(accuracies)]
    switch = SwitchRecord(20, 0.0, 0.0, 1, 6, "", scores(1.0, 0.5), scores(1.0, 0.7))
    assert drop(RunRecord("r", tuple(records), (switch,), None)) == pytest.approx(10.0)


@pytest.fixture
def tiny_sweeps(monkeypatch: pytest.MonkeyPatch, tiny: RunConfig) -> None:
    """Sweeps of 40 updates and width 8, in this process; every hard switch fails."""
    settings = replace(tiny.training, log_every=1)
    base = sweeps.recipe_of(sweep_of("markov", "quick", 3))
    recipe = replace(base, base=replace(tiny, training=settings, shift=ShiftConfig()))
    monkeypatch.setattr(sweeps, "recipe_of", lambda sweep: recipe)
    monkeypatch.setattr("thalweg.experiments.switching.variants.recipe_of", lambda sweep: recipe)
    monkeypatch.setattr(sweeps, "write_sweep_report", lambda summary, runs, folder: None)

    def make_here(jobs: list[Job], workers: int, what: str, executor: Executor, more: bool) -> dict[str, str]:
        bad = {job.name: "loss not finite" for job in jobs if job.config.arm == "shift-hard"}
        for job in jobs:
            if job.name in bad:
                record_failure(job.folder, "DivergedError", bad[job.name])
            else:
                train(job.config, job.folder)
        return bad

    monkeypatch.setattr(engine, "make_runs", make_here)


def test_a_reference_that_fails_is_counted_and_the_other_ways_are_made(tiny_sweeps: None, tmp_path: Path) -> None:
    sweep = sweep_of("markov", "quick", 3, ("safety",), seeds=1)
    with pytest.raises(StudyError, match="1 run failed"):
        engine.make(sweeps.SwitchingSweep(sweep), tmp_path, 1, as_json=True)
    found = {one.name: one for one in sweeps.summarise(sweep, tmp_path).outcomes}
    assert set(found) == {variant.name for variant in variants_of(sweep)}
    assert {name: one.failed for name, one in found.items() if one.failed} == {"shift-hard": 1}
    assert found["shift-hard"].final_loss.mean is None
    assert found["hard half way"].final_loss.n == 1
    assert "shift-hard-seed0 (failed)" in sweeps.summarise(sweep, tmp_path).missing


def test_an_interrupted_run_has_not_failed(tiny_sweeps: None, tmp_path: Path) -> None:
    sweep = sweep_of("markov", "quick", 3, (), seeds=1)
    jobs = {job.config.arm: job for job in sweeps.reference_jobs(sweep, tmp_path)}
    train(jobs["looped"].config, jobs["looped"].folder)
    write_json(jobs["shift"].folder / "config.json", to_dict(jobs["shift"].config))
    (jobs["shift"].folder / "stderr.log").write_text("thalweg: interrupted; give the same command again to go on\n")
    assert [one.name for one in sweeps.summarise(sweep, tmp_path).outcomes] == ["looped"]
