import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.errors import BadInputError
from thalweg.shift.criterion import AtFraction, AtStep, LossBelow, Plateau
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Hard, Ramp
from thalweg.shift.schedule import Shift, Switch, doubling


@dataclass
class Recorder:
    """A criterion that never fires and remembers at which steps it was asked."""

    asked: list = field(default_factory=list)

    def begin(self):
        return {}

    def observe(self, state, step, loss, grad_norm):
        self.asked.append(step)
        return state, None


def trace(shift, losses):
    """What a schedule says before each update, and whether the update ended a stage."""
    return [(shift.loops, shift.gains, shift.update(loss, 1.0)) for loss in losses]


def after(shift, updates):
    trace(shift, [1.0] * updates)
    return shift


SCHEDULES = {
    "plateau-ramp": lambda: Shift(loops=3, criterion=Plateau(0.05, 0.1, patience=2, window=3), onset=Ramp(4)),
    "plateau-hard-ladder": lambda: Shift(stages=(1, 2, 4), criterion=Plateau(0.05, 0.1, patience=1, window=2), onset=Hard()),
    "steps-ramp-ladder": lambda: Shift(stages=(1, 2, 5), criterion=[AtStep(4), AtStep(12)], onset=Ramp(5)),
    "mixed-ladder": lambda: Shift(
        stages=(2, 3, 4, 8), criterion=[AtFraction(0.1, 40), Plateau(0.5, 0.5, 1, 2), AtStep(20)], onset=Ramp(3)
    ),
    "one-stage": lambda: Shift(stages=(3,)),
}
every_schedule = pytest.mark.parametrize("build", SCHEDULES.values(), ids=SCHEDULES)


def test_loops_is_short_for_the_stages_one_and_loops():
    assert Shift(loops=6).stages == Shift(stages=(1, 6)).stages == (1, 6)


def test_one_loop_is_a_single_stage():
    assert Shift(loops=1).stages == (1,)


def test_a_hard_onset_uses_every_pass_in_full_after_the_switch():
    said = trace(Shift(loops=3, criterion=AtStep(2), onset=Hard()), [1.0] * 4)
    full = (1.0, 1.0, 1.0)
    assert said == [(1, (1.0,), False), (1, (1.0,), True), (3, full, False), (3, full, False)]


def test_a_ramp_brings_the_new_passes_in_one_by_its_steps_at_a_time():
    said = trace(Shift(loops=3, criterion=AtStep(1), onset=Ramp(4)), [1.0] * 7)
    assert [gains[1:] for _, gains, _ in said[1:]] == [(g, g) for g in (0.0, 0.25, 0.5, 0.75, 1.0, 1.0)]


def test_only_the_passes_of_the_new_stage_are_ramped():
    shift = after(Shift(stages=(2, 3, 5), criterion=[AtStep(1), AtStep(5)], onset=Ramp(2)), 6)
    assert shift.gains == (1.0, 1.0, 1.0, 0.5, 0.5)


@every_schedule
def test_the_first_pass_always_counts_in_full(build):
    assert all(gains[0] == 1.0 for _, gains, _ in trace(build(), [1.0] * 40))


@every_schedule
def test_there_is_one_gain_for_each_pass(build):
    assert all(len(gains) == loops for loops, gains, _ in trace(build(), [1.0] * 40))


@every_schedule
def test_every_stage_is_reached_in_order_on_a_flat_loss(build):
    shift = build()
    used = [loops for loops, _, _ in trace(shift, [1.0] * 60)]
    assert tuple(dict.fromkeys(used)) == shift.stages


def test_each_change_has_its_own_criterion():
    shift = after(Shift(stages=(1, 2, 4), criterion=[AtStep(3), AtStep(7)], onset=Hard()), 10)
    assert [s.step for s in shift.switches] == [3, 7]


def test_one_criterion_serves_every_change_from_its_beginning():
    rule = Plateau(patience=1, window=2)  # fires two windows after it began
    assert [s.step for s in after(Shift(stages=(1, 2, 4), criterion=rule, onset=Hard()), 20).switches] == [4, 8]


def test_the_default_is_the_papers_criterion_with_a_ramp():
    shift = Shift(loops=2)
    assert (shift.criteria, shift.onset) == ((Plateau(),), Ramp())


def test_a_change_is_announced_once():
    assert sum(changed for _, _, changed in trace(Shift(loops=2, criterion=AtStep(3)), [1.0] * 20)) == 1


def test_no_criterion_is_asked_while_new_passes_are_coming_in():
    recorder = Recorder()
    after(Shift(stages=(1, 2, 3), criterion=[AtStep(2), recorder], onset=Ramp(4)), 20)  # 3 to 6 are made below full gain
    assert not {3, 4, 5} & set(recorder.asked)


def test_the_first_update_that_a_criterion_sees_was_made_at_full_gain():
    recorder = Recorder()
    said = trace(Shift(stages=(1, 2, 3), criterion=[AtStep(2), recorder], onset=Ramp(4)), [1.0] * 20)
    at_full_gain = [step for step, (loops, gains, _) in enumerate(said, start=1) if loops == 2 and gains[-1] == 1.0]
    assert recorder.asked == at_full_gain


def test_after_a_hard_switch_the_next_criterion_is_asked_at_once():
    recorder = Recorder()
    after(Shift(stages=(1, 2, 3), criterion=[AtStep(2), recorder], onset=Hard()), 5)
    assert recorder.asked == [3, 4, 5]


def test_nothing_is_asked_in_the_last_stage():
    shift = after(Shift(loops=2, criterion=AtStep(1), onset=Hard()), 5)
    assert shift.state_dict()["criterion"] == {}


def test_a_schedule_is_settled_when_every_pass_counts_in_full():
    shift = Shift(loops=2, criterion=AtStep(1), onset=Ramp(2))
    settled = [shift.settled]
    for _ in range(4):
        shift.update(1.0, 1.0)
        settled.append(shift.settled)
    assert settled == [True, False, False, True, True]


def test_without_a_switch_the_schedule_explains_what_it_waits_for():
    told = "no switch in 3 updates: 1 loop\nnext switch: "
    plateau = Shift(loops=4, criterion=Plateau(delta_loss=0.5, delta_grad=0.5, patience=2, window=2))
    assert after(plateau, 3).explain() == told + "SCP: no check yet; a check compares two windows of 2 updates"
    assert after(Shift(loops=4, criterion=AtStep(7)), 3).explain() == told + "at update 7 of the run"
    assert after(Shift(loops=1), 3).explain() == "no switch in 3 updates: 1 loop; a single stage never switches"
    assert after(Shift(loops=4, criterion=AtFraction(0.5, 20)), 3).explain() == told + "at update 10 of the run"
    for rule, so_far in ((LossBelow(0.1, 2), ""), (LossBelow(0.1, 2, most=9), ", or 9 updates in the stage, 3 so far")):
        shift = Shift(loops=4, criterion=rule)
        for loss in (5.0, 4.0, 2.0):
            shift.update(loss, 1.0)
        assert shift.explain() == f"{told}the mean loss of the last 2 updates of the stage, 3 now, must be below 0.1{so_far}"


def test_a_criterion_that_does_not_fire_says_which_threshold_it_missed():
    shift = Shift(loops=4, criterion=Plateau(delta_loss=0.1, delta_grad=0.5, patience=3, window=2))
    for loss in (4.0, 4.0, 3.0, 3.0, 2.97, 2.97):
        shift.update(loss, 1.0)
    assert shift.explain().endswith(
        "SCP: 1 of 3 checks in a row held; in the last one the loss fell by 0.01 (may fall by less than 0.1) and the gradient norm "
        "moved by 0 (may by less than 0.5)"
    )
    earlier = shift.state_dict()
    for key in ("fall", "drift"):  # a state of an earlier version
        del earlier["criterion"][key]
    again = Shift(loops=4, criterion=Plateau(delta_loss=0.1, delta_grad=0.5, patience=3, window=2))
    again.load_state_dict(earlier)
    assert again.explain().endswith("SCP: 1 of 3 checks in a row held; a check compares two windows of 2 updates")
    assert [again.update(2.97, 1.0) for _ in range(4)] == [False, False, False, True]


def test_a_criterion_waits_for_the_onset_and_the_net():
    shift = after(Shift(stages=(1, 2, 3), criterion=[AtStep(2), AtStep(4)], onset=Ramp(50)), 10)
    assert shift.explain().endswith("\nnext switch: when the onset is over; then at update 4 of the run")
    watched = Shift(stages=(1, 2, 3), criterion=[AtStep(2), AtStep(4)], onset=Hard(), net=SafetyNet(tries=1, within=50, window=50))
    assert after(watched, 10).explain().endswith("\nnext switch: when the last one has stood; then at update 4 of the run")


def test_a_criterion_of_ones_own_may_say_how_far_it_is():
    class Mine:
        def begin(self):
            return {}

        def observe(self, state, step, loss, grad_norm):
            return state, None

    class Telling(Mine):
        def progress(self, state):
            return "never"

    class Named(Mine):
        progress = 0.5

    told = {rule: Shift(loops=2, criterion=rule()).explain().partition("\n")[2] for rule in (Mine, Telling, Named)}
    assert list(told.values()) == ["", "next switch: never", ""]


def test_what_a_check_found_is_finite_in_a_saved_state():
    shift = Shift(loops=2, criterion=Plateau(patience=3, window=1))
    for norm in (0.0, 1e290):
        shift.update(1.0, norm)
    again = Shift(loops=2, criterion=Plateau(patience=3, window=1))
    again.load_state_dict(json.loads(json.dumps(shift.state_dict(), allow_nan=False)))
    assert "moved by 5e+299" in again.explain()


def test_every_switch_is_explained_on_a_line_of_its_own():
    shift = after(Shift(stages=(1, 2, 4), criterion=[AtStep(3), AtStep(5)], onset=Hard()), 6)
    assert shift.explain().splitlines() == [
        "after 3 updates: 1 -> 2 loops, because 3 updates were made",
        "after 5 updates: 2 -> 4 loops, because 5 updates were made",
    ]


def test_a_switch_records_when_from_where_to_where_and_why():
    assert after(Shift(loops=4, criterion=AtStep(3)), 5).switches == [Switch(3, 1, 4, "3 updates were made")]


@every_schedule
@pytest.mark.parametrize("updates", [0, 1, 5, 13, 40])
def test_a_state_survives_the_way_through_json(build, updates):
    state = after(build(), updates).state_dict()
    assert json.loads(json.dumps(state, allow_nan=False)) == state


@every_schedule
def test_a_schedule_resumed_at_any_step_goes_on_as_if_nothing_had_happened(build):
    losses = [2.0 / (1 + step) for step in range(20)] + [0.1] * 20
    whole = build()
    said = trace(whole, losses)
    for cut in range(len(losses) + 1):
        first, second = build(), build()
        before = trace(first, losses[:cut])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert before + trace(second, losses[cut:]) == said
        assert second.state_dict() == whole.state_dict()


@given(losses=st.lists(st.floats(0.1, 10), min_size=1, max_size=40), cut=st.integers(0, 40), name=st.sampled_from(list(SCHEDULES)))
@settings(max_examples=100, deadline=None)
def test_a_schedule_resumed_on_any_losses_goes_on_as_if_nothing_had_happened(losses, cut, name):
    whole, first, second = (SCHEDULES[name]() for _ in range(3))
    before = trace(first, losses[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + trace(second, losses[cut:]) == trace(whole, losses)


def test_a_saved_state_does_not_follow_the_schedule():
    shift = Shift(loops=2, criterion=AtStep(1))
    state = shift.state_dict()
    after(shift, 3)
    assert (state["step"], state["switches"]) == (0, [])


def test_changing_a_saved_state_leaves_the_schedule_alone():
    shift = after(Shift(loops=2, criterion=AtStep(1)), 2)
    shift.state_dict()["switches"][0]["step"] = 99
    assert shift.switches[0].step == 1


def test_a_state_of_other_stages_is_refused():
    with pytest.raises(BadInputError, match=r"saved stages: given \[1, 3\], expected those of this run, \(1, 2\)"):
        Shift(loops=2).load_state_dict(Shift(loops=3).state_dict())


@pytest.mark.parametrize("arguments", [{}, {"loops": 3, "stages": (1, 3)}], ids=["neither", "both"])
def test_loops_and_stages_exclude_each_other(arguments):
    with pytest.raises(BadInputError, match=r"Shift: expected either loops \(stages 1 -> loops\) or stages, and not both"):
        Shift(**arguments)


@pytest.mark.parametrize("stages", [(), (0,), (0, 2), (-1, 1), (2, 1), (1, 1), (1, 3, 2)], ids=str)
def test_stages_that_do_not_rise_from_one_are_refused(stages):
    with pytest.raises(BadInputError, match=r"stages: given .*, expected loop counts of at least 1 that rise"):
        Shift(stages=stages)


@pytest.mark.parametrize("loops", [0, -2])
def test_less_than_one_loop_is_refused(loops):
    with pytest.raises(BadInputError, match=r"stages: given .*, expected loop counts of at least 1 that rise"):
        Shift(loops=loops)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_number_of_criteria_that_does_not_fit_is_refused(count):
    with pytest.raises(BadInputError, match=f"criteria: given {count}, expected one for each of 2 changes"):
        Shift(stages=(1, 2, 3), criterion=[AtStep(1)] * count)


def test_a_spread_of_a_whole_is_refused():
    with pytest.raises(BadInputError, match=r"spread: given 1.0, expected a share from 0 up to, not including, 1"):
        Shift(loops=2, spread=1.0)


@pytest.mark.parametrize(
    ("loops", "ladder"), [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (9, (1, 2, 4, 8, 9)), (16, (1, 2, 4, 8, 16))]
)
def test_a_doubling_ladder_ends_with_all_loops(loops, ladder):
    assert doubling(loops) == ladder


def test_no_stage_begins_after_the_last_update():
    shift = Shift(loops=3, criterion=AtStep(3), onset=Hard())
    assert [shift.update(1.0, 1.0, last=step == 3) for step in (1, 2, 3)] == [False] * 3
    assert (shift.stage, shift.loops) == (0, 1)
