import json

import pytest

from thalweg.errors import BadInputError
from thalweg.shift.criterion import AtStep
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Hard, Ramp
from thalweg.shift.schedule import Shift

NET = SafetyNet(tries=2, bound=0.1, within=6, window=2)


def caught(net=NET, onset=None):
    return Shift(loops=3, criterion=AtStep(4), onset=onset or Hard(), net=net)


def told(shift, losses):
    """Tells losses until the net wants to go back; how many it was told."""
    for number, loss in enumerate(losses, start=1):
        shift.update(loss, 1.0)
        if shift.retreat_reason is not None:
            return number
    return None


def test_a_loss_that_stays_up_is_caught_when_its_time_is_over():
    shift = caught()
    assert told(shift, [1.0] * 4 + [2.0] * 20) == 4 + 6
    assert "the loss was 2 6 updates after the onset, 1 before the switch, and 10 % more are accepted" in shift.retreat_reason


def test_a_loss_that_comes_back_in_time_is_good():
    shift = caught()
    assert told(shift, [1.0] * 4 + [2.0] * 4 + [0.9] * 2 + [5.0] * 20) is None
    assert not shift.watching


def test_a_rise_within_the_bound_is_accepted_when_the_time_is_over():
    shift = caught()
    assert told(shift, [1.0] * 4 + [1.09] * 20) is None
    assert told(caught(), [1.0] * 4 + [1.11] * 20) == 10


def test_the_time_begins_when_the_onset_is_over():
    assert told(caught(onset=Ramp(7)), [1.0] * 4 + [2.0] * 30) == 4 + 7 + 6  # a window of updates after the onset


def test_the_reference_is_the_mean_of_the_last_window_before_the_switch():
    assert told(caught(), [9.0, 9.0, 1.0, 1.2] + [1.2] * 20) is None  # 1.2 is within a tenth of 1.1, but not of 1.0
    assert told(caught(), [0.1, 0.1, 1.0, 1.2] + [1.22] * 20) == 10


def test_going_back_makes_the_same_switch_with_a_softer_onset():
    shift = caught()
    told(shift, [1.0] * 4 + [2.0] * 20)
    retreat = shift.go_back()
    assert (retreat.step, retreat.back_to, shift.step) == (10, 4, 4)
    assert shift.loops == 3
    assert shift.gains == (1.0, 0.0, 0.0)
    assert shift.onset == Ramp(steps=6)
    assert "after 10 updates: back to 4 and a softer onset" in shift.explain()


def test_each_try_is_softer_and_the_last_one_stands():
    shift = caught()
    for expected in (Ramp(6), Ramp(24)):
        assert told(shift, [1.0] * (4 - shift.step) + [2.0] * 60)
        shift.go_back()
        assert shift.onset == expected
    assert not shift.watching
    assert told(shift, [2.0] * 200) is None


def test_a_ramp_is_made_four_times_as_long_and_keeps_its_shape():
    assert NET.softer(Ramp(5, "cosine", "in turn"), 2) == Ramp(80, "cosine", "in turn")
    assert NET.softer(Hard(), 0) == Hard()


def test_the_next_stage_begins_with_its_own_onset():
    shift = Shift(stages=(1, 2, 3), criterion=[AtStep(4), AtStep(60)], onset=Hard(), net=NET)
    told(shift, [1.0] * 4 + [2.0] * 20)
    shift.go_back()
    assert told(shift, [1.0] * 80) is None
    assert shift.loops == 3
    assert shift.onset == Hard()


def test_without_tries_nothing_is_watched():
    shift = caught(SafetyNet())
    assert told(shift, [1.0] * 4 + [99.0] * 999) is None
    with pytest.raises(BadInputError, match="expected a switch that is watched"):
        shift.go_back("because")


@pytest.mark.parametrize("stop", range(1, 30))
def test_a_schedule_under_watch_goes_on_from_its_state(stop):
    losses = [1.0 + 0.01 * k for k in range(4)] + [2.0] * 26
    whole, cut = caught(), caught()
    for number, loss in enumerate(losses, start=1):
        for shift in (whole, cut):
            shift.update(loss, 1.0)
            if shift.retreat_reason is not None:
                shift.go_back()
        if number == stop:
            state = json.loads(json.dumps(cut.state_dict()))
            cut = caught()
            cut.load_state_dict(state)
    assert cut.state_dict() == whole.state_dict()
    assert len(whole.retreats) == 2


def test_with_a_window_of_one_the_reference_is_the_last_loss():
    net = SafetyNet(tries=1, bound=0.1, within=3, window=1)
    assert told(caught(net), [5.0, 5.0, 5.0, 1.0] + [2.0] * 9) == 4 + 3


def test_a_reason_to_go_back_survives_saving():
    shift = caught()
    told(shift, [1.0] * 4 + [2.0] * 20)
    twin = caught()
    twin.load_state_dict(json.loads(json.dumps(shift.state_dict())))
    assert twin.retreat_reason == shift.retreat_reason
    assert twin.go_back() == shift.go_back()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"tries": -1}, "net tries: given -1, expected a whole number of at least 0"),
        ({"bound": 0.0}, "net bound: given 0.0, expected a positive number"),
        ({"within": 5, "window": 9}, "net window: given 9, expected from 1 to within, 5"),
    ],
)
def test_a_net_that_makes_no_sense_is_refused(made, message):
    with pytest.raises(BadInputError, match=message):
        SafetyNet(**made)


def test_after_a_retreat_the_next_reference_holds_no_loss_of_the_try_that_failed():
    shift = Shift(
        stages=(1, 2, 3), criterion=[AtStep(4), AtStep(10)], onset=Ramp(1), net=SafetyNet(tries=1, bound=0.1, within=8, window=8)
    )
    told(shift, [1.0] * 4 + [60.0] * 20)
    shift.go_back()
    told(shift, [1.0] * 6)
    assert shift.stage == 2
    assert told(shift, [2.0] * 20) is not None
    assert ", 1 before the switch" in shift.retreat_reason


def test_losses_of_a_ramp_are_not_judged():
    shift = caught(SafetyNet(tries=2, bound=0.05, within=6, window=4), Ramp(19))
    told(shift, [1.0] * 4 + [1.0] * 19 + [1.15])
    assert shift.watching
    assert told(shift, [1.15] * 20) is not None
