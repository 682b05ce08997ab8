"""Operations at equal loss on curves whose answer is known, and bounds where a curve does not reach."""

import math

import pytest

from thalweg.errors import BadInputError
from thalweg.experiments.frontier.answers import answers, best_constant
from thalweg.experiments.frontier.arms import STAGED, constant
from thalweg.experiments.frontier.equal_loss import equal_loss, loss_ratio, operations_at
from thalweg.experiments.frontier.plan import plan_frontier
from thalweg.experiments.frontier.sources import source_of

BUDGETS = (105e9, 211e9, 422e9)
PLAN = plan_frontier("markov", "paper")


def power(factor: float, exponent: float = 0.5, budgets: tuple[float, ...] = BUDGETS) -> list[tuple[float, float]]:
    """A power law: the loss at an arm that needs ``factor`` times the operations for it."""
    return [(operations, (operations / factor) ** -exponent) for operations in budgets]


def test_a_power_law_is_read_off_exactly() -> None:
    assert operations_at(power(1.0), (150e9) ** -0.5).value == pytest.approx(150e9, rel=1e-12)


def test_half_the_operations_are_found_as_half() -> None:
    arm = {seed: power(0.5 * (1 + 0.01 * seed), budgets=(50e9, 100e9, 200e9, 400e9)) for seed in range(3)}
    ratios = equal_loss(arm, {seed: power(1.0) for seed in range(3)}, 1)
    assert ratios is not None
    logs = [math.log(0.5 * (1 + 0.01 * seed)) for seed in range(3)]
    assert ratios.value == pytest.approx(math.exp(sum(logs) / 3), rel=1e-9)
    assert (ratios.upper_bounds, ratios.lower_bounds, ratios.is_below_one) == (0, 0, True)


def test_an_arm_that_is_already_lower_at_its_cheapest_gives_an_upper_bound() -> None:
    ratios = equal_loss({0: power(0.1)}, {0: power(1.0)}, 1)
    assert ratios is not None
    assert ratios.value == pytest.approx(105 / 211)
    assert (ratios.upper_bounds, str(ratios)) == (1, "at most 0.50")


def test_a_bound_at_every_seed_has_no_interval_but_decides() -> None:
    ratios = equal_loss({seed: power(0.1) for seed in range(3)}, {seed: power(1.0) for seed in range(3)}, 1)
    assert ratios is not None
    assert (ratios.cell.low, ratios.cell.high, str(ratios)) == (None, None, "at most 0.50")
    assert ratios.is_below_one


def test_an_arm_that_never_gets_there_gives_a_lower_bound_and_no_verdict() -> None:
    ratios = equal_loss({seed: power(10.0) for seed in range(5)}, {seed: power(1.0) for seed in range(5)}, 1)
    assert ratios is not None
    assert ratios.value == pytest.approx(2.0)
    assert ratios.lower_bounds == 5
    assert not ratios.is_below_one
    assert ratios.is_above_one
    assert str(ratios) == "at least 2.00"


def test_losses_at_equal_operations_are_paired() -> None:
    logs = loss_ratio({0: power(1.0), 1: power(1.0)}, {0: power(4.0), 1: power(4.0), 2: power(1.0)}, 0)
    assert logs is not None
    assert (math.exp(logs.mean), logs.n) == (pytest.approx(0.5), 2)


def curves(depth_two: float, staged: float, seeds: int = 3) -> dict:
    def noisy(factor: float) -> dict:
        return {seed: power(factor * (1 + 0.02 * seed)) for seed in range(seeds)}

    return {constant(1): noisy(3.0), constant(2): noisy(depth_two), constant(6): noisy(1.0), STAGED: noisy(staged)}


def said(made: dict) -> dict[str, str]:
    return {one.claim: one.verdict for one in answers(made, PLAN)}


def test_a_plant_that_saves_is_supported_and_one_that_wastes_is_contradicted() -> None:
    claim = "staged needs fewer operations than 6 passes for the same loss, at every budget but the cheapest"
    assert said(curves(2.0, 0.6))[claim] == "supported"
    assert said(curves(2.0, 1.5))[claim] == "contradicted"
    assert said(curves(2.0, 0.6, seeds=2))[claim] == "undecided"


def test_depth_pays_only_where_one_and_two_passes_are_shown_to_be_worse() -> None:
    assert best_constant(curves(2.0, 1.0), PLAN) == 6
    question = "Which constant depth is the best?"
    assert "depth pays" in said(curves(2.0, 1.0))[question]
    assert "not shown" in said(curves(0.5, 1.0))[question]


@pytest.mark.parametrize("arm", PLAN.arms)
def test_every_arm_spends_its_budget(arm: str) -> None:
    from thalweg.models.cost import cost

    config = source_of(PLAN.source).run(PLAN, arm, 105, PLAN.settings[0], 0)
    if arm == "shift":
        return  # its switch is not known beforehand
    steps = [0, *(rule.step for rule in config.shift.criteria), config.training.steps]
    spent = sum(
        (after - before) * cost(config.model, 32, 11, loops).training_step
        for before, after, loops in zip(steps, steps[1:], config.shift.stages, strict=False)
    )
    assert spent == pytest.approx(105e9, rel=1e-3)


def test_a_budget_below_twice_the_warm_up_is_refused() -> None:
    with pytest.raises(BadInputError, match="expected at least 40, twice the warm-up"):
        source_of(PLAN.source).run(PLAN, constant(6), 1, PLAN.settings[0], 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mars", "quick"), "source"),
        (("markov", "huge"), "preset"),
        (("markov", "quick", ("depth-9",)), "arm"),
    ],
)
def test_what_does_not_exist_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(BadInputError, match=f"unknown {message}"):
        plan_frontier(*arguments)


def test_seeds_with_bounds_of_both_kinds_give_neither() -> None:
    ratios = equal_loss({0: power(0.1), 1: power(10.0), 2: power(1.0)}, {seed: power(1.0) for seed in range(3)}, 1)
    assert ratios is not None
    assert (ratios.upper_bounds, ratios.lower_bounds) == (1, 1)
    assert str(ratios).endswith("(some seeds give an upper bound, others a lower one)")
    assert not ratios.is_below_one
    assert not ratios.is_above_one


def test_only_depths_that_were_trained_are_called_worse() -> None:
    made = curves(2.0, 1.0)
    question = "Which constant depth is the best?"
    assert "one and two passes are worse" in said(made)[question]
    assert said({arm: made[arm] for arm in made if arm != constant(2)})[question].endswith("depth pays: one pass is worse")
