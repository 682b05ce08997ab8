"""The state of a schedule as plain JSON values: what was saved, checked against the schedule that it is loaded into."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from thalweg.errors import require
from thalweg.serialization import checked, from_dict, plain
from thalweg.shift.criterion import State, alike, fitting
from thalweg.shift.net import SafetyNet

_NOT_FINITE = "not finite"
"""Key under which a number that JSON does not know stands, as text: in states of a user's own criterion."""
_PLACE = "saved shift."
"""What stands before the name of a value in messages."""
_EARLIER: dict[str, Any] = {"retreats": [], "recent": [], "watch": None, "retreat": None, "kinds": None}
"""What states of earlier versions may lack."""


@dataclass(frozen=True)
class Switch:
    """One change of stage; ``step`` updates had been made."""

    step: int
    loops_before: int
    loops_after: int
    reason: str
    softened: int = 0
    """How often its onset was softened by the safety net."""


@dataclass(frozen=True)
class Retreat:
    """One switch that was taken back: noticed after ``step`` updates, back to ``back_to``."""

    step: int
    back_to: int
    reason: str


@dataclass(frozen=True)
class Kinds:
    """What a schedule is made of."""

    criteria: tuple[str, ...]
    onset: str
    net: str


@dataclass(frozen=True)
class Saved:
    """What `thalweg.Shift.state_dict` gives; ``kinds`` is None in states of earlier versions."""

    stages: tuple[int, ...]
    step: int
    switches: tuple[Switch, ...]
    retreats: tuple[Retreat, ...]
    criterion: dict[str, Any]
    recent: tuple[float, ...]
    watch: dict[str, Any] | None
    retreat: str | None
    kinds: Kinds | None

    def __post_init__(self) -> None:
        checked(self, _PLACE)


def read_saved(state: object) -> Saved:
    """A saved state, whatever it is checked against.

    Raises:
        BadInputError: it is no dict, a key is missing, or a value is of another type.
    """
    require(isinstance(state, Mapping), "saved shift", state, "what state_dict gave")
    given = cast(Mapping[str, Any], state)
    rule = given.get("criterion", {})
    require(isinstance(rule, Mapping), f"{_PLACE}criterion", rule, "a dict of JSON values")
    known = {key: _to_json(given[key], f"{_PLACE}{key}") for key in Saved.__dataclass_fields__ if key in given}
    return from_dict(Saved, known if "kinds" in known else _EARLIER | known, _PLACE.rstrip("."))


def check_fits(saved: Saved, stages: tuple[int, ...], kinds: Kinds, criteria: tuple[Any, ...], net: SafetyNet) -> None:
    """Refuse a state that belongs to another schedule or contradicts itself."""
    require(saved.stages == stages, "saved stages", list(saved.stages), f"those of this run, {stages}")
    if saved.kinds is not None:
        advice = "as in this Shift; load it into one that is made as the saved one was"
        for what, given, mine in (
            ("criteria", ", ".join(saved.kinds.criteria), ", ".join(kinds.criteria)),
            ("onset", saved.kinds.onset, kinds.onset),
            ("net", saved.kinds.net, kinds.net),
        ):
            require(given == mine, f"saved {what}", given, f"{mine or 'none'}, {advice}")
    count = len(saved.switches)
    require(count < len(stages), f"{_PLACE}switches", count, f"at most the {len(stages) - 1} changes of stage")
    steps = [0, *(switch.step for switch in saved.switches), saved.step]
    require(steps == sorted(steps) and saved.step < 2**63, f"{_PLACE}step", steps[1:], "updates that do not fall")
    for index, switch in enumerate(saved.switches):
        between = (switch.loops_before, switch.loops_after)
        require(between == stages[index : index + 2], f"{_PLACE}switches[{index}]", between, f"{stages[index : index + 2]}")
        tries = 0 <= switch.softened <= net.tries
        require(tries, f"{_PLACE}switches[{index}].softened", switch.softened, f"from 0 to the {net.tries} tries of the net")
    if count < len(criteria):
        fitting(criteria[count], from_json(saved.criterion), f"{_PLACE}criterion")
    else:
        alike(saved.criterion, {}, f"{_PLACE}criterion")
    _check_watch(saved, net)


def _check_watch(saved: Saved, net: SafetyNet) -> None:
    """Refuse a watch that this net does not keep, and a reason to go back without one."""
    if saved.watch is None:
        require(saved.retreat is None, f"{_PLACE}retreat", saved.retreat, "none, as no switch is watched")
        return
    require(net.tries > 0 and bool(saved.switches), f"{_PLACE}watch", saved.watch, "none: there is no switch or no net with tries")
    alike(saved.watch, net.begin(0.0), f"{_PLACE}watch")
    require(saved.watch["count"] < net.window, f"{_PLACE}watch.count", saved.watch["count"], f"less than the window, {net.window}")


def _to_json(value: Any, place: str) -> Any:
    """A state as strict JSON values: plain numbers, lists for tuples, and NaN and infinity as text under a key of their own.

    Raises:
        BadInputError: it holds something that JSON does not know.
    """
    value = plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {_NOT_FINITE: str(value)}
    if isinstance(value, Mapping):
        return {str(key): _to_json(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item, f"{place}[{index}]") for index, item in enumerate(value)]
    require(value is None or isinstance(value, bool | int | float | str), place, value, "JSON values alone")
    return value


def from_json(value: Any) -> Any:
    """What `_to_json` was given."""
    if isinstance(value, dict):
        if list(value) == [_NOT_FINITE] and value[_NOT_FINITE] in ("nan", "inf", "-inf"):
            return float(value[_NOT_FINITE])
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def kept(state: State, place: str) -> State:
    """The state of a criterion as JSON values."""
    require(isinstance(state, Mapping), place, state, "a dict of JSON values")
    return _to_json(state, place)
