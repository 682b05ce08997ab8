"""What happens at a switch inside a real run: function, optimizer, looks ahead, retreats, random depth; and its resumption."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from thalweg.errors import DamagedFileError
from thalweg.models.looped import LoopedTransformer
from thalweg.records.run import RetreatRecord, read_run
from thalweg.shift.criterion import AtStep, Plateau
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Handover, Hard, Ramp
from thalweg.shift.schedule import Shift
from thalweg.storage import read_journal
from thalweg.train import rollback
from thalweg.train import trainer as trainer_module
from thalweg.train.callbacks import Callback
from thalweg.train.checkpoint import checkpoints, gather, read_checkpoint
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig
from thalweg.train.state import Run
from thalweg.train.step import hand_over, make_optimizer
from thalweg.train.trainer import train

NET = SafetyNet(tries=2, bound=0.001, within=4, window=2)
STEEP = OptimizerConfig(rate=0.1)
"""Fast before the switch; the net's handover all but stops the run after it, so that the loss does not come back."""
SWITCHES = {
    "cosine in turn": ShiftConfig((1, 4), AtStep(9), Ramp(12, "cosine", "in turn")),
    "moments reset": ShiftConfig((1, 3), AtStep(9), Ramp(8), Handover(moments="reset")),
    "moments scaled, rate lower, warmed up": ShiftConfig((1, 3), AtStep(9), Hard(), Handover(0.5, 6, "scale")),
    "rates": ShiftConfig((1, 2, 3), onset=Hard(), handover=Handover(rates=(1.0, 0.5, 2.0)), criteria=(AtStep(9), AtStep(10))),
    "net": ShiftConfig((1, 3), AtStep(16), Hard(), Handover(rate=1e-3), NET),
    "random depth": ShiftConfig((2, 4), AtStep(9), Ramp(6), spread=0.5),
    "doubling ladder": ShiftConfig((1, 2, 4), Plateau(delta_loss=1.0, delta_grad=9.0, patience=1, window=3), Ramp(4)),
}
every_switch = pytest.mark.parametrize("shift", SWITCHES.values(), ids=SWITCHES)


class StopAfter(Callback):
    """Ends a process after some updates that it made itself."""

    def __init__(self, updates: int) -> None:
        self.left = updates

    def on_step(self, facts: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@every_switch
def test_stopped_at_random_moments_a_run_ends_bit_for_bit_the_same(tmp_path: Path, tiny: RunConfig, shift: ShiftConfig) -> None:
    config = replace(tiny, optimizer=STEEP, shift=shift, training=replace(tiny.training, checkpoint_every=3))
    whole = train(config, tmp_path / "whole")
    assert whole.switches
    dice, stops = random.Random(1), 0
    while stops < 8:
        try:
            summary = train(config, tmp_path / "cut", [StopAfter(dice.randint(3, 9))])
            break
        except KeyboardInterrupt:
            stops += 1
    else:
        summary = train(config, tmp_path / "cut")
    assert stops >= 3
    assert summary.weights_sha256 == whole.weights_sha256
    assert [s.step for s in summary.switches] == [s.step for s in whole.switches]
    assert [s.scores_after for s in summary.switches] == [s.scores_after for s in whole.switches]


@every_switch
def test_a_run_of_the_version_before_whose_schedule_does_not_name_its_kinds_goes_on_to_the_same_bits(
    tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, shift: ShiftConfig
) -> None:
    config = replace(tiny, optimizer=STEEP, shift=shift, training=replace(tiny.training, checkpoint_every=3))
    whole, state_dict = train(config, tmp_path / "whole"), Shift.state_dict
    with monkeypatch.context() as before:
        before.setattr(Shift, "state_dict", lambda one: {k: v for k, v in state_dict(one).items() if k != "kinds"})
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut", [StopAfter(23)])
    assert "kinds" not in read_checkpoint(checkpoints(tmp_path / "cut" / "checkpoints")[-1]).facts["shift"]
    assert train(config, tmp_path / "cut").weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize("kind", ["linear", "softmax"])
@pytest.mark.parametrize("norm", ["pre", "none"])
@pytest.mark.parametrize("onset", [Ramp(5), Ramp(5, "cosine", "in turn")])
def test_under_a_ramp_the_logits_before_and_after_a_switch_are_the_same_bits(tiny: RunConfig, kind, norm, onset) -> None:
    model = LoopedTransformer(replace(tiny.model, attention=kind, norm=norm), torch.Generator().manual_seed(0))
    tokens = torch.randint(16, (4, 11), generator=torch.Generator().manual_seed(1))
    shift = Shift(stages=(1, 2, 5), criterion=[AtStep(1), AtStep(9)], onset=onset)
    for _ in range(2):
        before = model(tokens, loops=shift.loops, gains=shift.gains)
        while not shift.update(1.0, 1.0):
            before = model(tokens, loops=shift.loops, gains=shift.gains)
        assert shift.gains[-1] == 0
        assert torch.equal(model(tokens, loops=shift.loops, gains=shift.gains), before)
        as_tensor = torch.tensor(shift.gains)  # the form of compiled models: every pass is computed
        assert torch.equal(model(tokens, loops=shift.loops, gains=as_tensor), before)


def some_optimizer(tiny: RunConfig, name: str) -> tuple[LoopedTransformer, torch.optim.Optimizer]:
    model = LoopedTransformer(tiny.model, torch.Generator().manual_seed(0))
    optimizer = make_optimizer(OptimizerConfig(name=name), model)  # type: ignore[arg-type]
    for seed in range(3):
        tokens = torch.randint(16, (4, 11), generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(tokens).square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_moments_that_are_reset_make_the_next_update_that_of_a_new_optimizer(tiny: RunConfig, name: str) -> None:
    model, optimizer = some_optimizer(tiny, name)
    hand_over(optimizer, Handover(moments="reset"))
    twin = LoopedTransformer(tiny.model)
    twin.load_state_dict(model.state_dict())
    fresh = make_optimizer(OptimizerConfig(name=name), twin)  # type: ignore[arg-type]
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.grad = parameter.grad.clone()
    optimizer.step()
    fresh.step()
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_moments_that_are_scaled_keep_the_direction_and_size_of_the_step(tiny: RunConfig) -> None:
    model, optimizer = some_optimizer(tiny, "adamw")
    state = optimizer.state[model.head.weight]
    first, second, count = state["exp_avg"].clone(), state["exp_avg_sq"].clone(), state["step"].clone()
    hand_over(optimizer, Handover(moments="scale", moments_factor=0.25))
    assert torch.equal(state["exp_avg"], first / 4)
    assert torch.equal(state["exp_avg_sq"], second / 16)
    assert torch.equal(state["step"], count)


def test_moments_that_are_kept_are_left_alone(tiny: RunConfig) -> None:
    model, optimizer = some_optimizer(tiny, "adamw")
    before = {name: tensor.clone() for name, tensor in gather(model, optimizer).items()}
    hand_over(optimizer, Handover(rate=0.5))
    assert all(torch.equal(before[name], tensor) for name, tensor in gather(model, optimizer).items())


def test_a_run_uses_the_rate_that_the_handover_leaves(tmp_path: Path, tiny: RunConfig) -> None:
    config = replace(tiny, shift=ShiftConfig((1, 2), AtStep(12), Hard(), Handover(rate=0.5, rewarm=10)))
    train(replace(config, training=replace(tiny.training, log_every=1)), tmp_path)
    rates = [r["rate"] for r in read_journal(tmp_path / "metrics.jsonl") if r["type"] == "step"]
    assert rates == pytest.approx([3e-3] * 12 + [1.5e-4 * k for k in range(1, 11)] + [1.5e-3] * 18)


def test_a_net_takes_a_bad_switch_back_and_tells(tmp_path: Path, tiny: RunConfig) -> None:
    config = replace(tiny, optimizer=STEEP, shift=SWITCHES["net"])
    told: list[RetreatRecord] = []
    listener = Callback()
    listener.on_retreat = told.append  # type: ignore[method-assign]
    summary = train(config, tmp_path / "net", [listener])
    assert summary.retreats == tuple(told) != ()
    assert all(retreat.back_to == 16 < retreat.step for retreat in summary.retreats)
    assert summary.steps == 40
    run = read_run(tmp_path / "net")
    assert run.retreats == summary.retreats
    assert [one.step for one in run.evaluations] == [0, 10, 20, 30, 40]
    assert [one.step for one in run.switches] == [16]
    wasted = summary.flops - train(replace(config, shift=replace(config.shift, net=SafetyNet())), tmp_path / "plain").flops
    assert wasted > 0


def test_after_a_retreat_the_newest_checkpoint_is_that_of_the_switch(tmp_path: Path, tiny: RunConfig) -> None:
    """Those of the try are higher in number; none of them is left, and none pushes the new one out."""
    seen: list[list[str]] = []
    listener = Callback()
    config = replace(tiny, optimizer=STEEP, shift=SWITCHES["net"], training=replace(tiny.training, checkpoint_every=1, keep=2))

    def after_the_retreat(_: object) -> None:
        listener.on_step = lambda _: seen.append([path.name for path in checkpoints(tmp_path / "checkpoints")])  # type: ignore[method-assign]

    listener.on_retreat = after_the_retreat  # type: ignore[method-assign]
    train(config, tmp_path, [listener])
    assert [name[-14:-12] for name in seen[0]] == ["16"]


def test_a_score_at_the_switch_is_that_of_the_softer_onset(tmp_path: Path, tiny: RunConfig) -> None:
    config = replace(tiny, optimizer=STEEP, shift=SWITCHES["net"], training=replace(tiny.training, evaluate_every=8))
    assert train(config, tmp_path / "net").retreats
    run = read_run(tmp_path / "net")
    assert [one.step for one in run.evaluations] == [0, 8, 16, 24, 32, 40]
    assert run.evaluations[2].scores == run.switches[0].scores_after == run.switches[0].scores_before


def test_after_a_retreat_a_run_is_the_one_with_the_softer_onset_from_the_start(tmp_path: Path, tiny: RunConfig) -> None:
    config = replace(tiny, optimizer=STEEP, shift=SWITCHES["net"])
    summary = train(config, tmp_path / "net")
    onset = NET.softer(Hard(), len(summary.retreats))
    soft = train(replace(config, shift=replace(config.shift, onset=onset, net=SafetyNet())), tmp_path / "soft")
    assert summary.weights_sha256 == soft.weights_sha256
    assert summary.final == soft.final


def test_a_net_catches_a_loss_that_is_not_finite(tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real, poisoned = trainer_module.update, []

    def update(run: Run) -> None:
        real(run)
        if run.shift.step == 11 and not poisoned:
            poisoned.append(True)
            run.model.head.weight.data.fill_(float("inf"))

    monkeypatch.setattr(trainer_module, "update", update)
    calm = ShiftConfig((1, 3), AtStep(9), Hard(), net=replace(NET, bound=9.0))
    summary = train(replace(tiny, shift=calm), tmp_path / "net")
    assert [(retreat.step, retreat.back_to) for retreat in summary.retreats] == [(11, 9)]
    assert "not finite" in summary.retreats[0].reason
    soft = train(replace(tiny, shift=ShiftConfig((1, 3), AtStep(9), Ramp(4))), tmp_path / "soft")
    assert summary.weights_sha256 == soft.weights_sha256


def test_random_depths_are_drawn_evenly_around_the_stage_and_not_during_a_ramp() -> None:
    shift = Shift(stages=(1, 4), criterion=AtStep(5), onset=Ramp(5), spread=0.5, seed=3)
    depths = []
    for _ in range(3010):
        assert len(shift.gains) == shift.loops
        depths.append(shift.loops)
        shift.update(1.0, 1.0)
    assert depths[:10] == [1] * 5 + [4] * 5
    assert shift.depth == 4
    counts = Counter(depths[10:])
    assert sorted(counts) == [2, 3, 4, 5, 6]
    assert all(abs(count - 600) < 4 * (3000 * 0.2 * 0.8) ** 0.5 for count in counts.values())


def test_a_run_that_ends_where_it_would_switch_is_scored_as_it_was_trained(tmp_path: Path, tiny: RunConfig) -> None:
    config = replace(tiny, shift=ShiftConfig((1, 3), AtStep(tiny.training.steps), Hard()))
    summary = train(config, tmp_path / "run")
    assert not summary.switches
    assert {record.loops for record in read_run(tmp_path / "run").evaluations} == {1}


def test_both_scores_of_a_switch_are_those_of_whole_stages(tmp_path: Path, tiny: RunConfig) -> None:
    """Passes that are drawn around a stage's do not enter them."""
    config = replace(
        tiny, shift=ShiftConfig((1, 6), AtStep(10), Hard(), spread=0.5), training=replace(tiny.training, evaluate_every=10)
    )
    (switch,) = train(config, tmp_path / "run").switches
    (after,) = [one for one in read_run(tmp_path / "run").evaluations if one.step == 10]
    assert after.loops == 6
    assert switch.scores_after["held-out"]["all"].loss == pytest.approx(after.scores["held-out"]["all"].loss, rel=1e-6)


def test_a_rollback_point_of_another_session_is_not_taken(tmp_path: Path, tiny: RunConfig) -> None:
    train(replace(tiny, shift=replace(tiny.shift, net=SafetyNet(tries=2))), tmp_path)
    assert rollback._rollback_point(SimpleNamespace(folder=tmp_path), 12)  # type: ignore[arg-type]
    with pytest.raises(DamagedFileError, match="the checkpoint of the switch is missing"):
        rollback._rollback_point(SimpleNamespace(folder=tmp_path), 5)  # type: ignore[arg-type]
