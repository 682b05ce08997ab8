"""Losses and gradient norms that are NaN or infinite, in every stage of a schedule."""

import json
import math
import warnings

import pytest

from thalweg.errors import BadInputError, NonFiniteLossWarning
from thalweg.shift.criterion import AtFraction, AtStep, LossBelow, Plateau
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Hard, Ramp
from thalweg.shift.schedule import Shift

BROKEN = [(math.nan, 1.0), (math.inf, 1.0), (-math.inf, 1.0), (1.0, math.nan), (1.0, math.inf), (1e305, 1.0), (10**400, 1.0)]
broken = pytest.mark.parametrize(("loss", "grad_norm"), BROKEN, ids=lambda value: f"{value:.3g}" if value < 1e306 else "huge")
NET = SafetyNet(tries=1, within=6, window=2)


def at_30(onset, net=None):
    shift = Shift(loops=3, criterion=AtStep(30), onset=onset, net=net)
    for _ in range(30):
        shift.update(1.0, 1.0)
    return shift


@pytest.mark.parametrize("onset", [Hard(), Ramp(200)], ids=["hard", "ramp"])
@pytest.mark.parametrize("waited", [0, 1, 7])
@broken
def test_under_a_net_the_first_one_takes_the_switch_back(onset, waited, loss, grad_norm):
    shift = at_30(onset, SafetyNet(tries=1))
    for _ in range(waited):
        shift.update(1.5, 1.0)
    assert shift.update(loss, grad_norm) is False
    assert "are not both finite" in shift.retreat_reason
    assert shift.go_back().back_to == 30


def test_where_the_watch_ended_well_nothing_is_taken_back_and_one_warning_is_given():
    shift = at_30(Hard(), NET)
    for _ in range(2):
        shift.update(0.5, 1.0)
    assert not shift.watching
    with pytest.warns(
        NonFiniteLossWarning, match="update 33 had loss nan and gradient norm 1, which are not both finite; .* no switch"
    ):
        shift.update(math.nan, 1.0)
    assert shift.retreat_reason is None


def test_where_no_try_is_left_the_last_switch_stands_and_one_warning_is_given():
    shift = at_30(Hard(), NET)
    shift.update(math.nan, 1.0)
    shift.go_back()
    assert not shift.watching
    with pytest.warns(NonFiniteLossWarning, match="update 31 had loss inf"):
        shift.update(math.inf, 1.0)
    assert shift.retreat_reason is None


@pytest.mark.parametrize("net", [None, NET], ids=["no net", "net"])
@pytest.mark.parametrize("before", [0, 3, 30, 35])
def test_without_a_watched_switch_there_is_one_warning_however_many_come(net, before):
    shift = Shift(loops=3, criterion=AtStep(60), onset=Ramp(8), net=net)
    for _ in range(before):
        shift.update(1.0, 1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for loss, grad_norm in BROKEN * 3:
            shift.update(loss, grad_norm)
    assert [one.category for one in caught] == [NonFiniteLossWarning]
    assert caught[0].filename == __file__


RULES = [Plateau(0.05, 0.5, patience=2, window=3), LossBelow(0.5, 3, most=9), AtStep(9), AtFraction(0.2, 45)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
@broken
@pytest.mark.filterwarnings("ignore::thalweg.errors.NonFiniteLossWarning")
def test_a_criterion_never_sees_them(rule, loss, grad_norm):
    told, spared = (Shift(loops=2, criterion=rule, onset=Hard()) for _ in range(2))
    for step in range(4):
        for shift in (told, spared):
            shift.update(2.0 - 0.1 * step, 1.0)
    spared.step += 1
    told.update(loss, grad_norm)
    for _ in range(12):
        told.update(1.0, 1.0)
        spared.update(1.0, 1.0)
    assert told.state_dict() == spared.state_dict()


@pytest.mark.parametrize("rule", [Plateau(patience=1, window=1), LossBelow(1.5, 1)], ids=lambda rule: rule.kind)
def test_a_criterion_by_itself_leaves_them_out_of_its_means(rule):
    state = rule.begin()
    state, _ = rule.observe(state, 1, 2.0, 1.0)
    assert all(rule.observe(state, 2, loss, norm) == (state, None) for loss, norm in BROKEN)


@pytest.mark.filterwarnings("ignore::thalweg.errors.NonFiniteLossWarning")
@pytest.mark.parametrize("net", [None, NET], ids=["no net", "net"])
@broken
def test_a_state_is_strict_json_whatever_was_told(net, loss, grad_norm):
    shift = at_30(Ramp(5), net)
    for _ in range(9):
        shift.update(loss, grad_norm)
        json.dumps(shift.state_dict(), allow_nan=False)


@pytest.mark.filterwarnings("ignore::thalweg.errors.NonFiniteLossWarning")
def test_the_reference_of_the_net_is_the_mean_of_the_finite_losses_before_the_switch():
    shift = Shift(loops=2, criterion=AtStep(6), onset=Hard(), net=SafetyNet(tries=1, window=2))
    for loss in (9.0, 1.0, math.nan, 2.0, math.inf, 3.0):
        shift.update(loss, 1.0)
    assert shift.state_dict()["watch"]["reference"] == 2.5


@pytest.mark.parametrize("given", ["1.0", None, True, [1.0], 1j, float], ids=str)
@pytest.mark.parametrize("which", ["loss", "grad_norm"])
def test_what_is_no_number_is_refused_and_not_counted(given, which):
    shift = Shift(loops=2)
    with pytest.raises(BadInputError, match=f"{which}: given .*, expected a number"):
        shift.update(**({"loss": 1.0, "grad_norm": 1.0} | {which: given}))
    assert shift.step == 0


def test_a_norm_below_0_is_refused():
    with pytest.raises(BadInputError, match=r"grad_norm: given -1\.0, expected a norm, at least 0"):
        Shift(loops=2).update(1.0, -1.0)
