"""The arms of a frontier: what they cost, and what keeps their passes trainable."""

from __future__ import annotations

import itertools

import pytest
import torch

from thalweg.errors import BadInputError
from thalweg.experiments.frontier.arms import BY_PLATEAU, PLANS, STABILISERS, TWO_STAGES, constant
from thalweg.experiments.frontier.plan import plan_frontier
from thalweg.experiments.frontier.source import GIGA, Setting
from thalweg.experiments.frontier.sources import SOURCES, source_of
from thalweg.experiments.frontier.token_sources import TEXT_SHAPES
from thalweg.models.cost import cost, parameters
from thalweg.models.looped import LoopedTransformer

SETTING = Setting(1e-3)
PRESETS = [(name, preset) for name, source in SOURCES.items() if not source.along_lengths for preset in source.presets]


def planned_operations(run, loops_of_stages):
    """Counted operations of a run, stage by stage."""
    edges = [0, *(rule.step for rule in run.shift.criteria), run.training.steps]
    updates = [after - before for before, after in itertools.pairwise(edges)]
    price = [cost(run.model, run.training.batch, run.model.length, loops).training_step for loops in loops_of_stages]
    return sum(count * one for count, one in zip(updates, price, strict=True))


@pytest.mark.parametrize(("source", "preset"), PRESETS)
def test_every_arm_costs_its_budget(source, preset):
    plan = plan_frontier(source, preset, source_of(source).arms(source_of(source).passes(preset, 0)))
    for arm, budget in itertools.product(plan.arms, plan.budgets):
        run = source_of(plan.source).run(plan, arm, budget, SETTING, 0)
        assert run.shift.stages[-1] == (int(arm[6:]) if arm.startswith("depth-") else plan.loops)
        if arm not in (TWO_STAGES, BY_PLATEAU):
            assert planned_operations(run, run.shift.stages) == pytest.approx(budget * GIGA, rel=0.02)


def test_without_arms_no_other_stabilisers_and_no_other_plans_of_the_stages_are_trained():
    left_out = set(source_of("markov").arms(6)) - set(plan_frontier("markov", "paper").arms)
    assert left_out == {*STABILISERS, "staged-early", "staged-even", BY_PLATEAU}


@pytest.mark.parametrize(("source", "twin"), [("markov", "staged-late"), ("pointers", "staged-early")])
def test_the_plan_that_is_recommended_for_a_source_is_not_trained_twice(source, twin):
    loops = source_of(source).passes("quick", 0)
    others = [arm for arm in source_of(source).arms(loops) if arm in PLANS and arm != BY_PLATEAU]
    assert sorted([*others, twin, BY_PLATEAU]) == sorted(PLANS)
    plan = plan_frontier(source, "quick", (*others, BY_PLATEAU, "staged"))
    runs = {arm: source_of(source).run(plan, arm, plan.budgets[-1], SETTING, 0) for arm in plan.arms}
    firsts = {arm: runs[arm].shift.criteria[0].step / runs[arm].training.steps for arm in (*others, "staged")}
    firsts[twin] = firsts.pop("staged")
    assert firsts["staged-early"] < firsts["staged-even"] < firsts["staged-late"] == pytest.approx(0.6, abs=0.02)
    assert runs[BY_PLATEAU].training.steps == runs["staged-even"].training.steps
    assert [type(rule).__name__ for rule in runs[BY_PLATEAU].shift.criteria] == ["Plateau"] * (
        len(runs[BY_PLATEAU].shift.stages) - 1
    )


def test_the_demonstration_trains_a_few_arms_and_any_that_is_named():
    assert plan_frontier("markov", "quick").arms == ("depth-1", "depth-2", "depth-6", "staged")
    assert plan_frontier("markov", "quick", ("depth-3",)).arms == ("depth-3", "depth-6")


@pytest.mark.parametrize("arm", source_of("markov").arms(6))
def test_every_arm_has_a_short_name_and_a_definition(arm):
    name, definition = source_of("markov").arm_words(arm, 6)
    assert len(name) <= 30 < len(definition) + 10
    assert "{" not in name + definition


@pytest.mark.parametrize("source", ["markov", "pointers", "text"])
def test_each_stabiliser_is_what_its_source_says(source):
    plan = plan_frontier(source, "quick", (*STABILISERS, "staged"))
    loops = plan.loops
    models = {arm: source_of(plan.source).run(plan, arm, plan.budgets[0], SETTING, 0).model for arm in plan.arms}
    ours = models[constant(loops)]
    assert models["staged"] == ours
    assert (ours.shared_gain, ours.loop_norm, ours.injection, ours.branch_scale) == (True, True, True, pytest.approx(loops**-0.5))
    assert (models["looped-own-gains"].shared_gain, models["looped-own-gains"].learned_gains) == (False, loops)
    assert models["looped-norm"].branch_scale == 1
    assert models["looped-by-t"].branch_scale == pytest.approx(1 / loops)
    assert models["looped-deepnorm"].branch_scale == pytest.approx((2 * loops) ** -0.25)
    for arm in ("looped-norm", "looped-by-t", "looped-deepnorm"):
        assert (models[arm].learned_gains, models[arm].loop_norm, models[arm].injection) == (0, True, True)


@pytest.mark.parametrize(("preset", "millions"), [("quick", 0.055), ("paper", 1.08), ("gpu", 25.5)])
def test_text_models_have_the_size_that_is_said(preset, millions):
    plan = plan_frontier("text", preset)
    model = source_of(plan.source).run(plan, "staged", plan.budgets[0], SETTING, 0).model
    with torch.device("meta"):
        assert parameters(LoopedTransformer(model)) == pytest.approx(1e6 * millions, rel=0.02)
    assert (model.prelude, model.coda) == (TEXT_SHAPES[preset].ends,) * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "markov", "text": "x"}, "--text: given 'x', expected nothing: source 'markov' reads no text"),
        ({"source": "markov", "optimizer": "adam"}, "unknown optimizer 'adam'"),
        ({"source": "text", "arms": ("looped-by-u",)}, "unknown arm 'looped-by-u'"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(BadInputError, match=message):
        plan_frontier(**{"preset": "quick"} | arguments)


def test_budgets_of_ones_own_take_the_place_of_the_presets():
    assert plan_frontier("text", "paper", budgets=(1250, 2500)).budgets == (1250.0, 2500.0)


def test_muon_is_the_optimizer_of_every_arm():
    plan = plan_frontier("markov", "quick", optimizer="muon")
    assert {source_of(plan.source).run(plan, arm, plan.budgets[0], SETTING, 0).optimizer.name for arm in plan.arms} == {"muon"}
