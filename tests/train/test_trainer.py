import json
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from thalweg.data.task_data import TaskConfig
from thalweg.errors import BadInputError, DamagedRecordWarning, DiskFullError, DivergedError, FolderError, ShortTrainingWarning
from thalweg.experiments.executors import LocalProcesses
from thalweg.interruption import Terminated
from thalweg.models.cost import cost
from thalweg.records.run import read_run
from thalweg.shift.criterion import AtStep, Plateau
from thalweg.shift.onset import Hard, Ramp
from thalweg.storage import read_journal
from thalweg.train import checkpoint as checkpoint_module
from thalweg.train import trainer as trainer_module
from thalweg.train.callbacks import Callback, StepFacts
from thalweg.train.checkpoint import checkpoints, read_checkpoint, step_of
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig, config_text, read_config
from thalweg.train.state import Run
from thalweg.train.trainer import train


class StopAt(Callback):
    """Ends a run after some updates, as an interrupt would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, facts: StepFacts) -> None:
        if facts.step == self.step:
            raise KeyboardInterrupt


def without_seconds(folder: Path) -> list[dict]:
    records = read_journal(folder / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_twin_runs_are_bit_identical(tmp_path: Path, tiny: RunConfig) -> None:
    a, b = train(tiny, tmp_path / "a"), train(tiny, tmp_path / "b")
    assert a.weights_sha256 == b.weights_sha256
    assert without_seconds(tmp_path / "a") == without_seconds(tmp_path / "b")


def test_another_seed_is_another_run(tmp_path: Path, tiny: RunConfig) -> None:
    other = train(replace(tiny, seed=1), tmp_path / "b")
    assert train(tiny, tmp_path / "a").weights_sha256 != other.weights_sha256


@pytest.mark.parametrize("stop", [1, 6, 7, 8, 12, 13, 17, 22, 39])
def test_a_run_stopped_anywhere_ends_like_one_that_was_not(tmp_path: Path, tiny: RunConfig, stop: int) -> None:
    whole = train(tiny, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "cut", [StopAt(stop)])
    resumed = train(tiny, tmp_path / "cut")
    assert resumed.weights_sha256 == whole.weights_sha256
    assert without_seconds(tmp_path / "cut") == without_seconds(tmp_path / "whole")
    assert (resumed.flops, resumed.evaluations) == (whole.flops, whole.evaluations)
    ours, theirs = (read_checkpoint(checkpoints(tmp_path / name / "checkpoints")[-1]).tensors for name in ("cut", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class SendAt(Callback):
    """Sends a signal to this process in an update."""

    def __init__(self, step: int, number: int, times: int = 1) -> None:
        self.step, self.number, self.times = step, number, times

    def on_step(self, facts: StepFacts) -> None:
        for _ in range(self.times if facts.step == self.step else 0):
            os.kill(os.getpid(), self.number)


class Seen(Callback):
    """Notes the updates that are made."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step(self, facts: StepFacts) -> None:
        self.steps.append(facts.step)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
@pytest.mark.parametrize("stop", [1, 10, 14, 40])
def test_a_signal_loses_no_update(tmp_path: Path, tiny: RunConfig, stop: int, number: int, raised: type) -> None:
    whole = train(tiny, tmp_path / "whole")
    with pytest.raises(raised):
        train(tiny, tmp_path / "cut", [SendAt(stop, number)])
    assert step_of(checkpoints(tmp_path / "cut" / "checkpoints")[-1]) == stop
    seen = Seen()
    resumed = train(tiny, tmp_path / "cut", [seen])
    assert seen.steps == list(range(stop + 1, 41))
    assert resumed.weights_sha256 == whole.weights_sha256
    assert without_seconds(tmp_path / "cut") == without_seconds(tmp_path / "whole")


@pytest.mark.usefixtures("signals")
def test_a_second_ctrl_c_waits_for_no_checkpoint(tmp_path: Path, tiny: RunConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path, [SendAt(10, signal.SIGINT, times=2)])
    assert step_of(checkpoints(tmp_path / "checkpoints")[-1]) == 7


@pytest.mark.parametrize("criterion", [Plateau(delta_loss=1.0, delta_grad=9.0, patience=2, window=5)])
@pytest.mark.parametrize("onset", [Hard(), Ramp(9)])
@pytest.mark.parametrize("optimizer", [OptimizerConfig(schedule="wsd", warmup=5), OptimizerConfig(name="sgd", rate=0.1)])
def test_every_schedule_and_optimizer_resumes_bit_for_bit(tmp_path: Path, tiny: RunConfig, criterion, onset, optimizer) -> None:
    config = replace(tiny, optimizer=optimizer, shift=ShiftConfig((1, 2, 4), criterion, onset))
    whole = train(config, tmp_path / "whole")
    for stop in (10, 16, 31):
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut", [StopAt(stop)])
    assert train(config, tmp_path / "cut").weights_sha256 == whole.weights_sha256
    assert whole.switches[-1].loops_after == 4


def test_text_resumes_bit_for_bit(tmp_path: Path, tiny_text: RunConfig) -> None:
    whole = train(tiny_text, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_text, tmp_path / "cut", [StopAt(20)])
    assert train(tiny_text, tmp_path / "cut").weights_sha256 == whole.weights_sha256


def test_a_run_in_bfloat16_is_evaluated_in_float32_and_resumes_bit_for_bit(tmp_path: Path, tiny: RunConfig) -> None:
    rounded = replace(tiny, training=replace(tiny.training, precision="bfloat16"))
    whole = train(rounded, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(rounded, tmp_path / "cut", [StopAt(20)])
    assert train(rounded, tmp_path / "cut").weights_sha256 == whole.weights_sha256
    train(tiny, tmp_path / "exact")
    ours, exact = (read_run(tmp_path / name).evaluations for name in ("whole", "exact"))
    assert ours[0].scores == exact[0].scores  # of the same weights
    assert ours[-1].scores != exact[-1].scores
    loss, expected = (scores[-1].scores["held-out"]["all"].loss for scores in (ours, exact))
    assert loss == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_five_kills_at_random_moments_change_no_bit(tmp_path: Path, tiny: RunConfig) -> None:
    """SIGKILL from outside, wherever the process happens to be: starting, training, writing."""
    config = replace(tiny, training=replace(tiny.training, steps=2000, checkpoint_every=3, evaluate_every=50))
    whole = train(config, tmp_path / "whole")
    (tmp_path / "run.toml").write_text(config_text(config))
    arguments = ["train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "cut")]
    dice, kills = random.Random(0), 0
    while kills < 5:
        process = LocalProcesses().start(arguments, tmp_path / "log", 2, append=False)
        began = time.monotonic()
        while not (tmp_path / "cut" / "checkpoints").exists() and time.monotonic() - began < 60:
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 0.6) + (0.2 if kills else 0.0))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed: make it longer"
        kills += 1
    assert train(config, tmp_path / "cut").weights_sha256 == whole.weights_sha256
    assert without_seconds(tmp_path / "cut") == without_seconds(tmp_path / "whole")


def test_a_complete_run_is_not_made_again(tmp_path: Path, tiny: RunConfig) -> None:
    first = train(tiny, tmp_path)
    assert train(tiny, tmp_path, [StopAt(1)]) == first


def test_losing_the_newest_checkpoint_costs_time_but_no_bit(tmp_path: Path, tiny: RunConfig) -> None:
    whole = train(tiny, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "cut", [StopAt(30)])
    newest = checkpoints(tmp_path / "cut" / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        assert train(tiny, tmp_path / "cut").weights_sha256 == whole.weights_sha256


def test_seconds_and_flops_count_training_only(tmp_path: Path, tiny: RunConfig) -> None:
    summary = train(tiny, tmp_path)
    steps = [cost(tiny.model, 16, 11, loops).training_step for loops in [1] * 13 + [3] * 27]
    # A pass whose gain is 0 is not computed: the first update after the switch has one pass.
    assert summary.flops == sum(steps)
    assert summary.evaluation_seconds > 0
    assert read_run(tmp_path).evaluations[0].seconds == 0


def test_a_ramp_in_turn_counts_the_passes_that_have_begun(tmp_path: Path, tiny: RunConfig) -> None:
    summary = train(replace(tiny, shift=ShiftConfig((1, 3), AtStep(12), Ramp(10, order="in turn"))), tmp_path)
    steps = [cost(tiny.model, 16, 11, loops).training_step for loops in [1] * 13 + [2] * 5 + [3] * 22]
    assert summary.flops == sum(steps)


def test_records_tell_the_switch_with_both_sides_scored(tmp_path: Path, tiny: RunConfig) -> None:
    (switch,) = train(tiny, tmp_path).switches
    assert (switch.step, switch.loops_before, switch.loops_after) == (12, 1, 3)
    assert switch.scores_before == switch.scores_after  # a ramp begins at gain 0


def test_a_hard_switch_changes_the_function(tmp_path: Path, tiny: RunConfig) -> None:
    (switch,) = train(replace(tiny, shift=ShiftConfig((1, 3), AtStep(12), Hard())), tmp_path).switches
    assert switch.scores_before != switch.scores_after


@pytest.mark.parametrize(
    ("poisoned_after", "message"),
    [
        (16, r"not finite in update 17: loss nan, gradient norm nan, rate 0.003, loops 3; .*step-000000014"),
        (10, r"not finite in scores after update 10: losses \[nan.*step-000000007"),
        (3, r"not finite in update 4: .*last good checkpoint: none yet; lower optimizer.rate"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_with_everything_named(
    tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, poisoned_after: int, message: str
) -> None:
    real = trainer_module.update

    def poisoned(run: Run) -> None:
        real(run)
        if run.shift.step == poisoned_after:
            run.model.head.weight.data.fill_(float("inf"))

    monkeypatch.setattr(trainer_module, "update", poisoned)
    with pytest.raises(DivergedError, match=message):
        train(tiny, tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_a_path_may_be_text_and_a_file_is_no_config(tmp_path: Path, tiny: RunConfig) -> None:
    (tmp_path / "run.toml").write_text(config_text(tiny))
    short = replace(read_config(str(tmp_path / "run.toml")), training=replace(tiny.training, steps=2))
    assert train(short, str(tmp_path / "run")).steps == 2
    with pytest.raises(BadInputError, match=r"^config: given 'run.toml', expected a RunConfig; thalweg.train.config.read"):
        train("run.toml", tmp_path / "other")  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_a_folder_of_another_config_is_refused_and_left_alone(tmp_path: Path, tiny: RunConfig) -> None:
    train(tiny, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    longer = replace(tiny, training=replace(tiny.training, steps=tiny.training.steps + 1))
    with pytest.raises(FolderError, match=r"\(training.steps is .* so that a run is not extended\); choose another --out"):
        train(longer, tmp_path)
    with pytest.raises(FolderError, match=r"run with another config \(seed is 0 there, given 5\); choose another --out"):
        train(replace(tiny, seed=5), tmp_path)
    other = replace(tiny, seed=5, shift=ShiftConfig((1, 3), AtStep(12), Hard()))
    with pytest.raises(FolderError, match=r"\(seed is 0 there, given 5, and \d+ more\)"):
        train(other, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_folder_with_other_things_is_refused(tmp_path: Path, tiny: RunConfig) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FolderError, match=r"holds 'thesis.tex' and is no run; choose an empty or new --out"):
        train(tiny, tmp_path)


def test_a_folder_in_use_is_refused(tmp_path: Path, tiny: RunConfig, python: str) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from thalweg.storage import locked\n"
        f"with locked(Path({str(tmp_path)!r}), 'run'): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([python, "-c", holder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(FolderError, match="is in use by another process"):
            train(tiny, tmp_path)
    finally:
        process.kill()
        process.communicate()


def test_a_path_that_is_a_file_is_refused(tmp_path: Path, tiny: RunConfig) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInputError, match="cannot use"):
        train(tiny, tmp_path / "file")


def test_a_full_disk_names_the_file_and_loses_nothing(tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tiny, tmp_path / "whole")
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 12:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"no space left to write .*; what was there before is untouched"):
        train(tiny, tmp_path / "cut")
    monkeypatch.undo()
    assert not list((tmp_path / "cut").rglob("*.tmp"))
    assert train(tiny, tmp_path / "cut").weights_sha256 == whole.weights_sha256


def test_a_damaged_summary_is_named_and_made_again(tmp_path: Path, tiny: RunConfig) -> None:
    whole = train(tiny, tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.warns(DamagedRecordWarning, match=r"damaged record .*summary.json.*made again from the last checkpoint"):
        again = train(tiny, tmp_path)
    assert replace(again, evaluation_seconds=0, provenance=whole.provenance) == replace(whole, evaluation_seconds=0)


def test_a_summary_with_other_keys_is_damage(tmp_path: Path, tiny: RunConfig) -> None:
    train(tiny, tmp_path)
    values = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps(values | {"extra": 1}))
    with pytest.warns(DamagedRecordWarning, match=r"damaged record .*unknown key in RunSummary 'extra'"):
        train(tiny, tmp_path)
    assert json.loads((tmp_path / "summary.json.damaged").read_text())["extra"] == 1


def test_an_unknown_device_is_refused(tmp_path: Path, tiny: RunConfig) -> None:
    with pytest.raises(BadInputError, match=r"training.device: given 'warp', expected a device of this machine"):
        train(replace(tiny, training=replace(tiny.training, device="warp")), tmp_path)
    assert train(tiny, tmp_path).steps == 40  # nothing of the refused run stands in the way


def test_no_pickle_is_written_or_read(tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("pickle was used")

    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, forbidden)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path, [StopAt(20)])
    assert train(tiny, tmp_path).steps == 40
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} <= {".toml", ".jsonl", ".json", ".safetensors", ""}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_changing_loops_never_compiles_in_the_middle_of_a_run(tmp_path: Path, tiny: RunConfig) -> None:
    from torch._dynamo.utils import counters

    class Count(Callback):
        graphs: list[int] = []  # noqa: RUF012

        def on_step(self, facts: StepFacts) -> None:
            self.graphs.append(counters["stats"]["unique_graphs"])

    torch._dynamo.reset()
    counters.clear()
    rule = Plateau(delta_loss=1.0, delta_grad=9.0, patience=1, window=3)
    tiny = replace(tiny, shift=ShiftConfig((1, 2, 3, 4, 5), rule, Ramp(2)))
    compiled = train(replace(tiny, training=replace(tiny.training, compile=True)), tmp_path / "compiled", [Count()])
    eager = train(tiny, tmp_path / "eager")
    assert compiled.switches[-1].loops_after == 5
    assert Count.graphs[0] >= 9  # one for the first stage, two for each other one
    assert len(set(Count.graphs)) == 1
    assert compiled.final["train"]["all"].loss == pytest.approx(eager.final["train"]["all"].loss, rel=1e-3)


def test_checkpoint_module_keeps_what_the_config_asks(tmp_path: Path, tiny: RunConfig) -> None:
    train(replace(tiny, training=replace(tiny.training, keep=3)), tmp_path)
    assert len(checkpoint_module.checkpoints(tmp_path / "checkpoints")) == 3


def test_snapshots_stay_and_are_the_states_of_a_run_without_them(tmp_path: Path, tiny: RunConfig) -> None:
    kept = replace(tiny, training=replace(tiny.training, snapshots=6))
    assert train(kept, tmp_path / "kept").weights_sha256 == train(tiny, tmp_path / "plain").weights_sha256
    steps = [checkpoint_module.read_checkpoint(path).facts["step"] for path in checkpoints(tmp_path / "kept" / "snapshots")]
    assert tuple(steps) == kept.training.snapshot_steps
    assert (steps[0], steps[-1], len(steps)) == (0, tiny.training.steps, 6)
    assert not (tmp_path / "plain" / "snapshots").exists()


def test_snapshots_of_a_run_that_was_stopped_are_those_of_one_that_was_not(tmp_path: Path, tiny: RunConfig) -> None:
    kept = replace(tiny, training=replace(tiny.training, snapshots=8))
    train(kept, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(kept, tmp_path / "cut", [StopAt(17)])
    train(kept, tmp_path / "cut")
    names = [sorted(path.name for path in (tmp_path / run / "snapshots").iterdir()) for run in ("whole", "cut")]
    assert names[0] == names[1]
    for name in names[0]:
        whole, cut = (checkpoint_module.read_checkpoint(tmp_path / run / "snapshots" / name).tensors for run in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole if not key.startswith("random."))


def test_callbacks_are_given_every_snapshot_when_it_is_complete(tmp_path: Path, tiny: RunConfig) -> None:
    class Seen(Callback):
        steps: list[int] = []  # noqa: RUF012

        def on_snapshot(self, path: Path) -> None:
            self.steps.append(checkpoint_module.read_checkpoint(path).facts["step"])

    kept = replace(tiny, training=replace(tiny.training, snapshots=4))
    seen = Seen()
    train(kept, tmp_path / "run", [seen])
    assert tuple(seen.steps) == kept.training.snapshot_steps


def test_a_training_that_is_over_before_its_rate_is_warmed_up_says_so(tmp_path: Path, tiny: RunConfig) -> None:
    told = r"the training ends after 40 updates, but optimizer.warmup is 80, so that .* 50 % of .* or less; set them too"
    with pytest.warns(ShortTrainingWarning, match=told):
        train(replace(tiny, optimizer=OptimizerConfig(warmup=80)), tmp_path / "short")
    train(replace(tiny, optimizer=OptimizerConfig(warmup=40)), tmp_path / "just")  # a warning would be an error here


def test_a_training_that_is_over_before_its_lengths_have_grown_says_so(tmp_path: Path, tiny: RunConfig) -> None:
    data = TaskConfig("parity", longest=10, start=3, grow=70, samples=2, tests=2, tested=(4,))
    model = replace(tiny.model, vocabulary=data.vocabulary, length=data.length - 1, positions="none")
    short = replace(tiny, data=data, model=model, shift=ShiftConfig((1,)))
    with pytest.warns(ShortTrainingWarning, match=r"data.grow is 70, so that the longest length ends at 6 of 10"):
        train(short, tmp_path / "short")
    train(replace(short, data=replace(data, grow=40)), tmp_path / "just")  # a warning would be an error here


def test_bad_input_in_the_first_update_leaves_nothing(tmp_path: Path, tiny: RunConfig) -> None:
    class Refusing(Callback):
        ends = 0

        def on_step(self, facts: StepFacts) -> None:
            raise BadInputError("set training.graphs to false")

        def on_end(self) -> None:
            self.ends += 1

    refusing = Refusing()
    with pytest.raises(BadInputError):
        train(replace(tiny, training=replace(tiny.training, snapshots=2)), tmp_path / "run", [refusing])
    assert refusing.ends == 1
    assert not (tmp_path / "run" / "snapshots").exists()
    assert train(tiny, tmp_path / "run").steps == tiny.training.steps


def test_a_refused_config_leaves_the_failure_of_the_run_that_is_there(tmp_path: Path, tiny: RunConfig) -> None:
    diverging = replace(tiny, optimizer=OptimizerConfig(rate=1e5, clip=1e9))
    with pytest.raises(DivergedError):
        train(diverging, tmp_path / "run")
    with pytest.raises(FolderError):
        train(replace(tiny, seed=9), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["error"] == "DivergedError"


def test_the_precision_of_a_run_is_told(tmp_path: Path, tiny: RunConfig) -> None:
    assert (
        train(replace(tiny, training=replace(tiny.training, precision="bfloat16")), tmp_path / "run").provenance.dtype == "bfloat16"
    )


def test_what_a_killed_process_left_of_a_file_is_removed(tmp_path: Path, tiny: RunConfig) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    left, other = run / "checkpoints" / ".step-7.safetensors.0123abcd.tmp", run / "checkpoints" / ".mine.tmp"
    for path in (left, other):
        path.write_bytes(b"half")
    shutil.rmtree(run)
    train(replace(tiny, training=replace(tiny.training, steps=20)), run)
    (run / "summary.json").unlink()
    for path in (left, other):
        path.write_bytes(b"half")
    train(replace(tiny, training=replace(tiny.training, steps=20)), run)
    assert (left.exists(), other.exists()) == (False, True)
