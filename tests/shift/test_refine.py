"""Stages whose passes share the summed step, one learned gain for all passes, and stages planned by operations."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from thalweg.errors import BadInputError, UnsharedGainWarning
from thalweg.models.config import ModelConfig
from thalweg.models.cost import cost
from thalweg.models.looped import LoopedTransformer
from thalweg.records.run import read_run
from thalweg.shift.criterion import AtStep
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Refine
from thalweg.shift.plan import plan_stages
from thalweg.shift.schedule import Shift
from thalweg.train.config import RunConfig, ShiftConfig
from thalweg.train.trainer import train


def staged(tiny: RunConfig) -> RunConfig:
    model = tiny.model.for_loops(6, shared_gain=True, gain_start=0.5)
    return replace(tiny, model=model, shift=ShiftConfig((2, 3, 6), criteria=(AtStep(10), AtStep(20)), onset=Refine()))


@pytest.mark.parametrize("loops", range(2, 13))
def test_the_summed_step_is_the_same_at_every_depth(loops: int) -> None:
    assert sum(Refine().stage_gains(loops, last=12)[1:]) == pytest.approx(11, rel=1e-15)


def test_a_schedule_has_the_larger_steps_of_its_stage_and_is_settled_throughout() -> None:
    shift = Shift(stages=(1, 2, 6), criterion=[AtStep(1), AtStep(2)], onset=Refine())
    seen = []
    for _ in range(3):
        seen.append((shift.gains, shift.depth_gains, shift.settled))
        shift.update(1.0, 1.0)
    gains = [(1.0,), (1.0, 5.0), (1.0,) * 6]
    assert seen == [(one, one, True) for one in gains]


def test_a_net_that_tries_again_refuses_what_cannot_be_made_softer() -> None:
    with pytest.raises(BadInputError, match="onset: given"):
        Shift(loops=3, onset=Refine(), net=SafetyNet(tries=1))


def test_a_shared_gain_is_one_weight_that_begins_where_it_is_asked_to() -> None:
    model = LoopedTransformer(ModelConfig(width=8).for_loops(5, shared_gain=True, gain_start=0.5))
    assert model.pass_gains is not None
    assert model.pass_gains.tolist() == [0.5]
    tokens = torch.zeros(1, 4, dtype=torch.long)
    own = LoopedTransformer(replace(model.config, shared_gain=False))
    own.load_state_dict(model.state_dict() | {"pass_gains": torch.full((4,), 0.5)})
    torch.testing.assert_close(model(tokens, loops=5), own(tokens, loops=5), rtol=0, atol=0)


def test_a_gain_that_is_not_learned_has_no_start() -> None:
    with pytest.raises(BadInputError, match=r"model.learned_gains: given 0, expected at least 2"):
        ModelConfig(gain_start=0.5)


@pytest.mark.parametrize(("power", "scale"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.25)])
def test_branches_are_scaled_by_a_power_of_the_passes(power: float, scale: float) -> None:
    config = ModelConfig(width=8, residual_loops=4, residual_power=power)
    assert LoopedTransformer(config).stack()[0].branch_scale == pytest.approx(scale, rel=1e-15)


def test_scores_at_a_switch_are_those_of_the_same_weights_with_both_stages_gains(tmp_path: Path, tiny: RunConfig) -> None:
    config = staged(tiny)
    train(config, tmp_path)
    run = read_run(tmp_path)
    assert [(switch.step, switch.loops_before, switch.loops_after) for switch in run.switches] == [(10, 2, 3), (20, 3, 6)]
    at_ten = next(one for one in run.evaluations if one.step == 10)
    assert at_ten.scores == run.switches[0].scores_after


@pytest.mark.parametrize("stop", [7, 14, 28])
def test_a_run_that_was_stopped_within_refine_ends_with_the_same_bits(tmp_path: Path, tiny: RunConfig, stop: int) -> None:
    from thalweg.train import trainer

    config = staged(tiny)
    whole = train(config, tmp_path / "whole")

    class Stopped(Exception):
        pass

    class Stop(trainer.Callback):
        def on_step(self, facts: trainer.StepFacts) -> None:
            if facts.step == stop:
                raise Stopped

    with pytest.raises(Stopped):
        train(config, tmp_path / "cut", [Stop()])
    assert train(config, tmp_path / "cut").weights_sha256 == whole.weights_sha256


def test_stages_are_paid_by_shares_of_the_operations() -> None:
    model = ModelConfig(width=16)

    def price(loops: int) -> float:
        return cost(model, 8, 11, loops).training_step

    plan = plan_stages(1e9, (2, 3, 6), (0.25, 0.5), price)
    spent = [count * price(loops) for count, loops in zip(plan.updates, plan.stages, strict=True)]
    assert spent == pytest.approx([0.25e9, 0.25e9, 0.5e9], rel=price(6) / 0.25e9)
    assert plan.operations == pytest.approx(sum(spent), rel=1e-12)
    assert plan.switches == (plan.updates[0], plan.updates[0] + plan.updates[1])
    assert plan.steps == sum(plan.updates)


@pytest.mark.parametrize(
    ("budget", "shares", "message"),
    [
        (10.0, (0.5,), "shares: given 1, expected 2, one for each change of stage"),
        (10.0, (0.5, 0.4), "numbers between 0 and 1 that rise"),
        (10.0, (0.05, 0.5), "which pay for no update with 2 passes"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(budget: float, shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        plan_stages(budget, (2, 3, 6), shares, lambda loops: float(loops))


@pytest.mark.parametrize("given", ["no", None, 1, []])
def test_whether_depth_pays_is_a_bool(given) -> None:
    with pytest.raises(BadInputError, match=r"^depth_pays: given .*, expected True or False$"):
        Shift.plan(1e4, 4, float, depth_pays=given)


@pytest.mark.parametrize("shared", [True, False])
def test_larger_steps_without_a_shared_gain_are_warned_of(tiny: RunConfig, tmp_path: Path, shared: bool) -> None:
    run = staged(tiny)
    run = replace(run, model=replace(tiny.model.for_loops(6, shared_gain=shared)), training=replace(run.training, steps=2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(run, tmp_path)
    told = [str(one.message) for one in caught if one.category is UnsharedGainWarning]
    assert [text.startswith("onset: Refine makes the steps") for text in told] == ([] if shared else [True])


def test_a_price_that_is_the_same_for_all_passes_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"^price: given \{2: 7.0, 3: 7.0, 6: 7.0\}, expected more operations for more passes"):
        plan_stages(1e9, (2, 3, 6), (0.25, 0.5), lambda _loops: 7.0)


@pytest.mark.parametrize(
    ("budget", "price", "message"),
    [
        (1e9, 1e5, r"price: given 100000.0, expected a function of the number of passes, such as lambda k: thalweg.cost\("),
        (1e9, lambda loops: None, r"price\(2\): given None, expected a number"),
        (1e9, lambda loops: -loops, r"price\(2\): given -2.0, expected the operations of one update"),
        (float("inf"), float, r"budget: given inf, expected the operations of the whole run"),
        ("1e9", float, r"budget: given '1e9', expected a number"),
    ],
)
def test_a_price_that_is_none_is_refused_with_one_that_is(budget, price, message):
    with pytest.raises(BadInputError, match=message):
        Shift.plan(budget, loops=5, price=price)
