import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.errors import BadInputError
from thalweg.shift.onset import Handover, Hard, Ramp
from thalweg.shift.schedule import Shift

RAMPS = [Ramp(8, shape, order) for shape in ("linear", "cosine") for order in ("together", "in turn")]
every_ramp = pytest.mark.parametrize("ramp", RAMPS, ids=lambda ramp: f"{ramp.shape}-{ramp.order}")


@pytest.mark.parametrize("age", [0, 1, 1000])
def test_a_hard_onset_counts_in_full_at_once(age):
    assert Hard().gains(age, 3) == (1.0, 1.0, 1.0)


@every_ramp
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("added", [1, 2, 5])
def test_a_ramp_begins_at_zero_is_full_after_its_steps_and_not_before(ramp, steps, added):
    ramp = replace(ramp, steps=steps)
    assert ramp.gains(0, added) == (0.0,) * added
    assert ramp.gains(steps, added) == ramp.gains(steps + 50, added) == (1.0,) * added
    assert ramp.gains(steps - 1, added)[-1] < 1


@every_ramp
@given(age=st.integers(0, 100), steps=st.integers(1, 90), added=st.integers(1, 6))
def test_a_gain_never_falls_and_stays_between_zero_and_one(ramp, age, steps, added):
    ramp = replace(ramp, steps=steps)
    now, after = ramp.gains(age, added), ramp.gains(age + 1, added)
    assert len(now) == added
    assert all(0 <= a <= b <= 1 for a, b in zip(now, after, strict=True))


def test_a_linear_ramp_is_linear_and_a_cosine_one_is_half_a_cosine():
    assert [Ramp(8).gains(age, 1)[0] for age in range(9)] == [age / 8 for age in range(9)]
    cosine = [Ramp(8, "cosine").gains(age, 1)[0] for age in range(9)]
    assert cosine == pytest.approx([math.sin(math.pi * age / 16) ** 2 for age in range(9)])


def test_in_turn_a_pass_begins_when_the_one_before_it_counts_in_full():
    for age in range(30):
        gains = Ramp(29, order="in turn").gains(age, 4)
        assert all(later == 0 or earlier == 1 for earlier, later in itertools.pairwise(gains))
    assert sum(Ramp(30, order="in turn").gains(15, 4)) == pytest.approx(2)


def test_a_handover_leaves_the_rate_alone_before_a_switch_and_by_default():
    assert Handover(rate=0.1, rewarm=50).rate_factor(0, 0) == 1
    assert [Handover().rate_factor(age, 2) for age in (0, 3)] == [1, 1]


def test_a_handover_lowers_the_rate_once_a_switch_and_warms_it_up_again():
    assert [Handover(rate=0.5, rewarm=4).rate_factor(age, 2) for age in (0, 1, 3, 9)] == [0.0625, 0.125, 0.25, 0.25]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"rate": 0.0}, "handover rate: given 0.0, expected a positive number"),
        ({"rewarm": -1}, "handover rewarm: given -1, expected a whole number of at least 0"),
        ({"moments_factor": 2.0}, "handover moments_factor: given 2.0, expected a number above 0, at most 1"),
    ],
)
def test_a_handover_that_makes_no_sense_is_refused(made, message):
    with pytest.raises(BadInputError, match=message):
        Handover(**made)


def test_a_ramp_without_steps_is_refused():
    with pytest.raises(BadInputError, match="ramp steps: given 0, expected a whole number of at least 1"):
        Ramp(0)


def test_every_stage_can_have_a_rate_of_its_own():
    handover = Handover(rates=(1.0, 0.7, 0.4), rewarm=2)
    assert [handover.rate_factor(5, stage) for stage in range(3)] == [1.0, 0.7, 0.4]
    assert handover.rate_factor(0, 1) == pytest.approx(0.35)
    with pytest.raises(BadInputError, match=r"handover rates: .*either rates or rate, and not both"):
        Handover(rate=0.5, rates=(1.0, 0.5))
    with pytest.raises(BadInputError, match=r"handover rates: given \(1.0, 0.5\), expected one for each of 3 stages"):
        Shift(stages=(1, 2, 4), handover=Handover(rates=(1.0, 0.5)))


def test_a_planned_schedule_spends_the_budget_in_the_recommended_shares():
    planned = Shift.plan(1e6, loops=6, price=lambda k: 10.0 * k + 4)
    assert planned.stages.stages == (2, 3, 6)
    spent = [count * (10 * k + 4) for count, k in zip(planned.stages.updates, (2, 3, 6), strict=True)]
    assert [share / 1e6 for share in spent] == pytest.approx([0.2, 0.3, 0.5], abs=1e-3)
    switches = [step for step in range(1, planned.stages.steps + 1) if planned.shift.update(1.0, 1.0)]
    assert switches == list(planned.stages.switches)
    assert planned.shift.gains == (1.0,) * 6
    late = Shift.plan(1e6, loops=6, price=float, depth_pays=False).stages
    assert [sum(late.updates[:k]) / late.steps for k in (1, 2)] == pytest.approx([0.6, 0.85], abs=1e-3)
    assert "five fresh seeds" in Shift.plan(1e6, loops=6, price=float, depth_pays=False).evidence


@pytest.mark.parametrize("loops", [1, 0, "6", 2.0])
def test_a_plan_for_what_is_no_depth_is_refused(loops):
    with pytest.raises(BadInputError, match="loops: given"):
        Shift.plan(1e6, loops=loops, price=float)


def test_two_passes_have_no_stages_and_no_evidence_is_claimed() -> None:
    planned = Shift.plan(100.0, loops=2, price=float)
    assert planned.stages.stages == (2,)
    assert planned.evidence == "nothing was measured: stages begin with 2 passes, so that 2 passes are trained throughout"


def test_a_budget_that_is_too_small_says_what_would_do() -> None:
    with pytest.raises(
        BadInputError, match=r"budget: given 3 operations, which pay for no update with 2 .* at least (\d+)"
    ) as error:
        Shift.plan(3.0, loops=5, price=float)
    needed = float(str(error.value).rpartition(" ")[2])
    assert min(Shift.plan(needed, loops=5, price=float).stages.updates) == 1
