"""The saved state of a schedule: known by what it belongs to, strict JSON, refused when damaged, old ones loaded where they fit."""

import copy
import itertools
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from thalweg.errors import BadInputError, OtherSettingsWarning
from thalweg.shift.criterion import AtFraction, AtStep, LossBelow, Plateau
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Hard, Ramp
from thalweg.shift.schedule import Shift

RULES = {
    "plateau": Plateau(0.05, 0.1, patience=2, window=3),
    "at-step": [AtStep(4), AtStep(5)],
    "at-fraction": [AtFraction(0.2, 30), AtFraction(0.25, 30)],
    "loss-below": LossBelow(0.5, 3, most=6),
}
NET = SafetyNet(tries=2, within=4, window=2)


def build(rule="at-step", onset=None, net=None):
    return Shift(stages=(1, 2, 4), criterion=RULES[rule], onset=onset or Ramp(4), net=net)


def trained(updates, *made, **more):
    shift = build(*made, **more)
    for _ in range(updates):
        shift.update(1.0, 1.0)
    return shift


def refused(state, message, shift=None):
    shift = shift or build()
    before = (shift.state_dict(), repr(shift))
    with pytest.raises(BadInputError, match=message) as caught:
        shift.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert (shift.state_dict(), repr(shift)) == before


@pytest.mark.parametrize(("mine", "other"), list(itertools.permutations(RULES, 2)))
def test_the_state_of_another_criterion_is_refused(mine, other):
    message = f"saved criteria: given '{mine}, {mine}', expected {other}, {other}, as in this Shift"
    refused(trained(3, mine).state_dict(), message, build(other))


def test_the_state_of_another_onset_or_net_is_refused():
    refused(trained(6, onset=Hard()).state_dict(), "saved onset: given 'hard', expected ramp, as in this Shift")
    refused(trained(6, net=NET).state_dict(), "saved net: given 'safety-net', expected none, as in this Shift")
    refused(trained(6).state_dict(), "saved net: given 'none', expected safety-net, as in this Shift", build(net=NET))


def test_other_thresholds_of_the_same_kind_go_on_from_the_state():
    shift = Shift(stages=(1, 2, 4), criterion=[AtStep(40), AtStep(50)], onset=Ramp(9))
    with pytest.warns(OtherSettingsWarning, match=r"was saved with AtStep\(step=4\), and goes on with AtStep\(step=40\)"):
        shift.load_state_dict(trained(3).state_dict())
    assert shift.step == 3


def test_a_window_that_holds_more_than_it_takes_is_refused():
    narrow = Shift(stages=(1, 2, 4), criterion=Plateau(window=1), onset=Ramp(4))
    refused(trained(2, "plateau").state_dict(), "saved shift.criterion.count: given 2, expected less than the window, 1", narrow)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", [None, NET], ids=["no net", "net"])
@pytest.mark.parametrize("updates", [0, 3, 7, 19])
def test_a_state_of_the_form_before_which_does_not_name_the_kinds_is_loaded(rule, net, updates):
    state = trained(updates, rule, net=net).state_dict()
    shift = build(rule, net=net)
    shift.load_state_dict({key: value for key, value in state.items() if key != "kinds"})
    assert shift.state_dict() == state


def test_a_state_of_the_form_before_of_another_criterion_is_refused_by_its_keys():
    old = {key: value for key, value in trained(3).state_dict().items() if key != "kinds"}
    message = "saved shift.criterion: given the keys none, expected count, .* it is damaged or was saved by something else"
    refused(old, message, build("plateau"))


def test_a_state_of_the_form_before_with_a_watch_needs_a_net():
    old = {key: value for key, value in trained(5, net=NET).state_dict().items() if key != "kinds"}
    refused(old, "saved shift.switches.*softened|saved shift.watch: given .*, expected none: there is no switch or no net")


def test_a_state_that_goes_on_with_another_ramp_says_so():
    def schedule(steps):
        return Shift(stages=(1, 2, 4), criterion=[AtStep(3), AtStep(60)], onset=Ramp(steps))

    first = schedule(20)
    for _ in range(5):
        first.update(1.0, 1.0)
    with pytest.warns(OtherSettingsWarning, match=r"was saved with Ramp\(steps=20, .*\), and goes on with Ramp\(steps=200, "):
        schedule(200).load_state_dict(first.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule(20).load_state_dict(first.state_dict())
        done = Shift(stages=(1, 2, 4), criterion=[AtStep(2), AtStep(60)], onset=Ramp(20))  # the first change is over
        done.load_state_dict(first.state_dict())


@dataclass(frozen=True)
class Called:
    """A criterion of a user's own, a part of which is told by its address."""

    rule: Callable[[float], bool]

    def begin(self):
        return {}

    def observe(self, state, _step, loss, _norm):
        return state, "asked to" if self.rule(loss) else None


def test_parts_told_by_an_address_are_not_compared():
    state = Shift(loops=3, criterion=Called(lambda loss: loss < 0)).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Shift(loops=3, criterion=Called(lambda loss: loss < 1)).load_state_dict(state)


def test_an_unknown_key_is_refused():
    state = trained(7, "plateau", net=NET).state_dict() | {"stepp": 7}
    refused(state, "unknown key.*'stepp'; did you mean 'step'", build("plateau", net=NET))


@pytest.mark.parametrize("key", ["stages", "step", "switches", "retreats", "criterion", "recent", "watch", "retreat"])
def test_a_missing_key_is_refused(key):
    state = trained(7, "plateau", net=NET).state_dict()
    del state[key]
    refused(state, f"saved shift: key '{key}' is missing", build("plateau", net=NET))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "7"}, "saved shift.step: given '7', expected a whole number"),
        ({"step": 7.0}, r"saved shift.step: given 7\.0, expected a whole number"),
        ({"step": True}, "saved shift.step: given True, expected a whole number"),
        ({"step": 1}, r"saved shift.step: given \[4, 1\], expected numbers of updates that do not decrease"),
        ({"switches": [{"step": 4}]}, r"saved shift.switches\[0\]: key 'loops_before' is missing"),
        ({"switches": []}, "saved shift.watch: given .*expected none: there is no switch"),
        ({"retreats": {}}, r"saved shift.retreats: given \{\}, expected a list"),
        ({"criterion": []}, r"saved shift.criterion: given \[\], expected a dict"),
        ({"criterion": {"step": 1}}, "saved shift.criterion: given the keys step, expected none"),
        ({"recent": [1.0, "x"]}, r"saved shift.recent\[1\]: given 'x', expected a number"),
        ({"watch": {}}, "saved shift.watch: given the keys none, expected reference, count"),
        ({"watch": None, "retreat": "why"}, "saved shift.retreat: given 'why', expected none, as no switch is watched"),
        ({"retreat": 3}, "saved shift.retreat: given 3, expected a string"),
        ({"kinds": {"criteria": ["at-step"]}}, "saved shift.kinds: key 'onset' is missing"),
        ({"kinds": "ramp"}, "saved shift.kinds: given 'ramp', expected a section"),
    ],
    ids=str,
)
def test_a_damaged_state_is_refused_and_the_schedule_is_as_before(change, message):
    refused(trained(6, net=NET).state_dict() | change, message, build(net=NET))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", -1, "saved shift.criterion.count: given -1, expected a whole number of at least 0"),
        ("count", 1.5, r"saved shift.criterion.count: given 1\.5, expected a whole number of at least 0"),
        ("held", True, "saved shift.criterion.held: given True, expected a whole number"),
        ("loss_sum", None, "saved shift.criterion.loss_sum: given None, expected a finite number"),
        ("loss_sum", math.nan, "saved shift.criterion.loss_sum: given nan, expected a finite number"),
        ("loss", 1.0, "saved shift.criterion.loss: given 1.0, expected a mean of the loss and of the norm, or neither"),
    ],
)
def test_a_damaged_state_of_a_criterion_is_refused(key, value, message):
    state = trained(2, "plateau").state_dict()
    state["criterion"][key] = value
    refused(state, message, build("plateau"))


def test_switches_between_other_loop_counts_are_refused():
    state = trained(6).state_dict()
    state["switches"][0]["loops_after"] = 3
    refused(state, r"saved shift.switches\[0\]: given \(1, 3\), expected \(1, 2\)")


@pytest.mark.parametrize("state", [None, [], "state", 3, dict], ids=str)
def test_what_is_no_state_is_refused(state):
    refused(state, "saved shift: given .*, expected the dict that state_dict returned")


class Best:
    """A criterion of the user's own whose state holds what JSON does not know."""

    def begin(self):
        return {"best": math.inf, "seen": ()}

    def observe(self, state, step, loss, grad_norm):
        return {"best": min(state["best"], loss), "seen": (*state["seen"], step)}, None


@pytest.mark.parametrize("updates", [0, 2])
def test_a_state_of_the_users_own_criterion_goes_through_strict_json(updates):
    shift, twin = (Shift(loops=2, criterion=Best()) for _ in range(2))
    for step in range(updates):
        shift.update(3.0 - step, 1.0)
    twin.load_state_dict(json.loads(json.dumps(shift.state_dict(), allow_nan=False)))
    for one in (shift, twin):
        one.update(9.0, 1.0)
    assert twin.state_dict() == shift.state_dict()
    assert twin.state_dict()["criterion"] == {"best": 2.0 if updates else 9.0, "seen": list(range(1, updates + 2))}
    assert twin.state_dict()["kinds"]["criteria"] == ["Best"]


def test_a_state_of_the_users_own_criterion_that_is_no_json_is_refused():
    class Holds(Best):
        def begin(self):
            return {"best": object()}

    with pytest.raises(BadInputError, match=r"state of the criterion.best: given <object .*>, expected JSON values only"):
        Shift(loops=2, criterion=Holds()).state_dict()


def test_a_loaded_state_does_not_follow_what_it_was_loaded_from():
    state = trained(6, net=NET).state_dict()
    kept, shift = copy.deepcopy(state), build(net=NET)
    shift.load_state_dict(state)
    shift.update(1.0, 1.0)
    assert state == kept
