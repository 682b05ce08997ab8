"""What the public classes of the schedule are given: refused in one line where it is given, or made plain."""

import json
import math
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
import torch

from thalweg.errors import BadInputError
from thalweg.shift.criterion import AtFraction, AtStep, LossBelow, Plateau
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Handover, Hard, Ramp
from thalweg.shift.schedule import Shift, doubling

CLASSES = (Plateau, AtStep, AtFraction, LossBelow, Ramp, Handover, SafetyNet)
FIELDS = [(cls, f.name, type(f.default)) for cls in CLASSES for f in fields(cls)]
JUNK = ["x", True, None, math.nan, math.inf, -math.inf, -1, [1], {}, int, object(), np.float64("nan"), np.bool_(True), 1j, "a\nb"]


def refused(message, make):
    with pytest.raises(BadInputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("cls", "name", "kind"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_every_field_of_every_public_class_refuses_what_it_cannot_hold(cls, name, kind):
    more = {int: [1.5, 2.0, Fraction(3, 2), np.float32(3.0)], tuple: [["x"], [-1], [math.nan], [True]]}.get(kind, [])
    for junk in [*(junk for junk in JUNK if kind is not tuple or junk != [1]), *more]:
        refused(name, lambda junk=junk: cls(**{name: junk}))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Ramp(shape="cosin"), "unknown ramp shape 'cosin'; did you mean 'cosine'"),
        (lambda: Ramp(order="in-turn"), "unknown ramp order 'in-turn'; did you mean 'in turn'"),
        (lambda: Ramp(shape=Ramp), "ramp shape: given the class Ramp, expected one of linear, cosine"),
        (lambda: Ramp(order=["together"]), r"ramp order: given \['together'\], expected one of together, in turn"),
        (lambda: Ramp(2.5), r"ramp steps: given 2\.5, expected a whole number"),
        (lambda: Handover(moments="drop"), "unknown handover moments 'drop'.*[Kk]nown: keep, reset, scale"),
        (lambda: SafetyNet(tries=True), "net tries: given True, expected a whole number"),
        (lambda: Plateau(delta_loss="0.1"), "plateau delta_loss: given '0.1', expected a number"),
        (lambda: AtFraction(share=math.nan), "at-fraction share: given nan, expected a finite number"),
    ],
)
def test_a_message_names_class_field_value_and_what_is_expected(made, message):
    refused(message, made)


ONSET = r"expected an onset such as Ramp\(200\) or Hard\(\)"
RULE = r"expected a criterion such as Plateau\(\) or AtStep\(1000\)"
LADDER = {"loops": None, "stages": (1, 2, 3, 4)}
RISING = "expected one criterion for each of 3 changes, with updates that rise: they count from the start of the run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"onset": Ramp}, f"onset: given the class Ramp, {ONSET}"),
        ({"onset": "ramp"}, f"onset: given 'ramp', {ONSET}"),
        ({"onset": 200}, f"onset: given 200, {ONSET}"),
        ({"onset": AtStep(3)}, rf"onset: given AtStep\(step=3\), {ONSET}"),
        ({"onset": False}, f"onset: given False, {ONSET}"),
        ({"criterion": Plateau}, f"criterion: given the class Plateau, {RULE}"),
        ({"criterion": "plateau"}, f"criterion: given 'plateau', {RULE}"),
        ({"criterion": 100}, f"criterion: given 100, {RULE}"),
        ({"criterion": Ramp(3)}, rf"criterion: given Ramp\(.*\), {RULE}"),
        ({"criterion": SafetyNet(tries=1)}, rf"criterion: given SafetyNet\(.*\), {RULE}"),
        ({"criterion": [AtStep]}, rf"criterion\[0\]: given the class AtStep, {RULE}"),
        ({"criterion": ["at-step"]}, rf"criterion\[0\]: given 'at-step', {RULE}"),
        ({"net": SafetyNet}, r"net: given the class SafetyNet, expected an object of SafetyNet, such as SafetyNet\(tries=2\)"),
        ({"net": "safety"}, "net: given 'safety', expected an object of SafetyNet"),
        ({"net": 2}, "net: given 2, expected an object of SafetyNet"),
        ({"net": 0}, "net: given 0, expected an object of SafetyNet"),
        ({"handover": Handover}, "handover: given the class Handover, expected an object of Handover"),
        ({"handover": "reset"}, "handover: given 'reset', expected an object of Handover"),
        ({"spread": math.nan}, "spread: given nan, expected a share from 0"),
        ({"spread": "0.5"}, "spread: given '0.5', expected a number"),
        ({"spread": True}, "spread: given True, expected a number"),
        ({"seed": 1.0}, r"seed: given 1\.0, expected a whole number from 0 to"),
        ({"seed": -1}, "seed: given -1, expected a whole number of at least 0"),
        ({"seed": None}, "seed: given None, expected a whole number from 0 to"),
        ({"loops": 2.0}, r"loops: given 2\.0, expected a whole number"),
        ({"loops": "6"}, "loops: given '6', expected a whole number"),
        ({"loops": True}, "loops: given True, expected a whole number"),
        ({"loops": math.inf}, "loops: given inf, expected a whole number"),
        ({"loops": None, "stages": 3}, "stages: given 3, expected loop counts of at least 1 that rise"),
        ({"loops": None, "stages": "13"}, "stages: given '13', expected loop counts of at least 1 that rise"),
        ({"loops": None, "stages": {1, 3}}, r"stages: given \{1, 3\}, expected loop counts of at least 1 that rise"),
        ({"loops": None, "stages": (1, 2.5)}, r"stages\[1\]: given 2\.5, expected a whole number"),
        ({"loops": None, "stages": (True, 3)}, r"stages\[0\]: given True, expected a whole number"),
        ({"loops": None, "stages": ("1", "3")}, r"stages\[0\]: given '1', expected a whole number"),
        (LADDER | {"criterion": AtStep(9)}, rf"criterion: given one for all 3 changes, AtStep\(step=9\), {RISING}"),
        (LADDER | {"criterion": AtFraction(0.1, 1000)}, rf"criterion: given one for all 3 changes, AtFraction\(.*\), {RISING}"),
        (LADDER | {"criterion": [AtStep(9), AtStep(5), AtStep(20)]}, rf"criterion updates: given \(9, 5, 20\), {RISING}"),
        (LADDER | {"criterion": [AtStep(9), Plateau(), AtStep(9)]}, rf"criterion updates: given \(9, 9\), {RISING}"),
        (LADDER | {"criterion": [AtStep(9), AtFraction(0.1, 90), Plateau()]}, rf"criterion updates: given \(9, 9\), {RISING}"),
        (LADDER | {"criterion": [AtFraction(1e-6, 50), AtStep(1), Plateau()]}, rf"criterion updates: given \(1, 1\), {RISING}"),
    ],
    ids=str,
)
def test_a_schedule_refuses_what_it_cannot_use(arguments, message):
    refused(message, lambda: Shift(**({"loops": 3} | arguments)))


@pytest.mark.parametrize("loops", [2.0, "4", True, math.nan, None, 0, -3])
def test_a_ladder_to_what_is_no_loop_count_is_refused(loops):
    refused("loops: given .*, expected a whole number (of at least|from) 1", lambda: doubling(loops))


def test_numbers_of_numpy_and_torch_become_plain_ones():
    shift = Shift(
        stages=np.array([1, 2, 4]),
        criterion=[AtStep(np.int64(2)), Plateau(np.float32(0.5), torch.tensor(0.5), torch.tensor(1), np.uint8(2))],
        onset=Ramp(np.int32(3)),
        handover=Handover(np.float64(0.5), np.int64(2)),
        net=SafetyNet(np.int64(1), torch.tensor(0.5), np.int16(4), np.int16(2)),
        spread=np.float64(0.25),
        seed=torch.tensor(3),
    )
    for _ in range(12):
        shift.update(torch.tensor(1.0), np.float32(2.0))
    assert shift.loops in (2, 3, 4, 5)
    assert json.loads(json.dumps(shift.state_dict(), allow_nan=False)) == shift.state_dict()
    assert "np." not in repr(shift)
    assert "tensor" not in repr(shift)
    parts = (*shift.criteria, shift.first_onset, shift.handover, shift.net)
    assert {type(value) for part in parts for value in vars(part).values()} == {int, float, str, tuple}
    assert Shift(loops=np.int64(3), criterion=AtStep(1)).state_dict()["stages"] == [1, 3]
    assert doubling(np.int64(5)) == (1, 2, 4, 5)


def test_a_one_element_tensor_is_a_loss():
    assert Shift(loops=2, criterion=AtStep(1)).update(torch.tensor([1.0], requires_grad=True), np.array([1.0]))


class Mine:
    """A criterion of the user's own."""

    def __init__(self, answer):
        self.answer = answer

    def begin(self):
        return {}

    def observe(self, state, step, loss, grad_norm):
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (({}, False), "criterion Mine: reason: given False, expected text, or None for not yet"),
        (({}, True), "criterion Mine: reason: given True, expected text, or None"),
        (None, "criterion Mine: observe: given None, expected a pair of state and reason"),
        (({},), r"criterion Mine: observe: given \(\{\},\), expected a pair"),
    ],
)
def test_a_criterion_of_the_users_own_that_answers_otherwise_is_refused(answer, message):
    refused(message, lambda: Shift(loops=2, criterion=Mine(answer)).update(1.0, 1.0))


class Steps:
    """An onset of the user's own."""

    def __init__(self, gains):
        self.given = gains

    def gains(self, age, added):
        return self.given


def test_an_onset_of_the_users_own_is_used():
    shift = Shift(loops=3, criterion=AtStep(1), onset=Steps(np.array([0.5, 0.25])))
    shift.update(1.0, 1.0)
    assert shift.gains == (1.0, 0.5, 0.25)
    assert {type(gain) for gain in shift.gains} == {float}


@pytest.mark.parametrize("gains", [(0.5,), (0.5, 0.5, 0.5), "ab", (0.5, "x"), (0.5, None), 0.5], ids=str)
def test_gains_of_a_users_onset_that_do_not_fit_are_refused(gains):
    shift = Shift(loops=3, criterion=AtStep(1), onset=Steps(gains))
    shift.update(1.0, 1.0)
    refused("onset Steps: gains: given .*, expected", lambda: shift.gains)


def test_a_net_asks_for_an_onset_that_it_can_make_softer():
    refused(
        "onset: given .*Steps.*, expected Hard, Ramp or a dataclass with a field steps",
        lambda: Shift(loops=2, onset=Steps((1.0,)), net=SafetyNet(tries=1)),
    )


def test_a_way_back_asks_for_a_text():
    refused("go_back reason: given 3, expected text", lambda: Shift(loops=2).go_back(3))


def test_a_schedule_says_where_it_stands():
    shift = Shift(stages=(1, 2, 4), criterion=[AtStep(4), AtStep(20)], onset=Ramp(5), net=SafetyNet(tries=1))
    assert repr(shift).startswith(
        "Shift(stage 1 of 3 in (1, 2, 4), loops 1, update 0, criterion AtStep(step=4), onset Ramp(steps=5, "
    )
    for _ in range(6):
        shift.update(1.0, 1.0)
    told = repr(shift)
    assert "stage 2 of 3 in (1, 2, 4), loops 2, update 6, the last switch is watched, criterion AtStep(step=20)" in told
    assert "onset Ramp(steps=5, shape='linear', order='together') under way, net SafetyNet(tries=1, " in told


def test_in_the_last_stage_no_criterion_is_told_of():
    assert "stage 1 of 1 in (3,), loops 3, update 0, criterion none (last stage), onset Hard(), net " in repr(
        Shift(stages=(3,), onset=Hard())
    )
