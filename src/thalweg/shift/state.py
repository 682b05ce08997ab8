"""The saved state of a schedule: plain JSON values, checked against the schedule that loads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from thalweg.errors import OtherSettingsWarning, require, warn
from thalweg.serialization import checked, from_dict, plain
from thalweg.shift.criterion import State, require_alike, require_fitting
from thalweg.shift.net import SafetyNet

_NOT_FINITE = "not finite"
"""Key that marks a NaN or infinity, which JSON does not have: it is saved as ``{"not finite": "nan"}``."""
_PLACE = "saved shift."
"""Text before the name of a value in messages."""
_DEFAULTS_OF_EARLIER_VERSIONS: dict[str, Any] = {"retreats": [], "recent": [], "watch": None, "retreat": None, "kinds": None}
"""Values for keys that states of earlier versions may lack."""


@dataclass(frozen=True)
class Switch:
    """One change of stage, made after ``step`` updates."""

    step: int
    loops_before: int
    loops_after: int
    reason: str
    softened: int = 0
    """How often the safety net took this switch back and repeated it with a softer onset."""


@dataclass(frozen=True)
class Retreat:
    """One switch that the safety net took back: decided after ``step`` updates, which returned the run to update ``back_to``."""

    step: int
    back_to: int
    reason: str


@dataclass(frozen=True)
class Kinds:
    """What the criteria, the onset and the net of a schedule are, as text: by kind, or with their arguments."""

    criteria: tuple[str, ...]
    onset: str
    net: str


@dataclass(frozen=True)
class Saved:
    """The content of `thalweg.Shift.state_dict`; ``kinds`` is None in states of earlier versions."""

    stages: tuple[int, ...]
    step: int
    switches: tuple[Switch, ...]
    retreats: tuple[Retreat, ...]
    criterion: dict[str, Any]
    recent: tuple[float, ...]
    watch: dict[str, Any] | None
    retreat: str | None
    kinds: Kinds | None
    settings: Kinds | None = None
    """Criteria, onset and net with their arguments, as text; None in states of earlier versions."""

    def __post_init__(self) -> None:
        checked(self, _PLACE)


def read_saved(state: object) -> Saved:
    """Read a saved state and check its keys and types; `check_fits` compares it with a schedule.

    Raises:
        BadInputError: it is no dict, a key is missing or not known, or a value has another type.
    """
    require(isinstance(state, Mapping), "saved shift", state, "the dict that state_dict returned")
    given = cast(Mapping[str, Any], state)
    rule = given.get("criterion", {})
    require(isinstance(rule, Mapping), f"{_PLACE}criterion", rule, "a dict of JSON values")
    known = {str(key): _to_json(value, f"{_PLACE}{key}") for key, value in given.items()}
    return from_dict(Saved, known if "kinds" in known else _DEFAULTS_OF_EARLIER_VERSIONS | known, _PLACE.rstrip("."))


def check_fits(saved: Saved, stages: tuple[int, ...], kinds: Kinds, criteria: tuple[Any, ...], net: SafetyNet) -> None:
    """Raise `BadInputError` for a state that belongs to another schedule or contradicts itself.

    Args:
        saved: the state, from `read_saved`.
        stages, kinds, criteria, net: of the schedule that loads it.
    """
    require(saved.stages == stages, "saved stages", list(saved.stages), f"those of this run, {stages}")
    if saved.kinds is not None:
        advice = "as in this Shift; load the state into a Shift with the same arguments as the saved one"
        for what, given, expected in (
            ("criteria", ", ".join(saved.kinds.criteria), ", ".join(kinds.criteria)),
            ("onset", saved.kinds.onset, kinds.onset),
            ("net", saved.kinds.net, kinds.net),
        ):
            require(given == expected, f"saved {what}", given, f"{expected or 'none'}, {advice}")
    count = len(saved.switches)
    require(count < len(stages), f"{_PLACE}switches", count, f"at most the {len(stages) - 1} changes of stage")
    steps = [0, *(switch.step for switch in saved.switches), saved.step]
    require(steps == sorted(steps) and saved.step < 2**63, f"{_PLACE}step", steps[1:], "numbers of updates that do not decrease")
    for index, switch in enumerate(saved.switches):
        change = (switch.loops_before, switch.loops_after)
        require(change == stages[index : index + 2], f"{_PLACE}switches[{index}]", change, f"{stages[index : index + 2]}")
        allowed = 0 <= switch.softened <= net.tries
        require(allowed, f"{_PLACE}switches[{index}].softened", switch.softened, f"from 0 to the {net.tries} tries of the net")
    if count < len(criteria):
        require_fitting(criteria[count], from_json(saved.criterion), f"{_PLACE}criterion")
    else:
        require_alike(saved.criterion, {}, f"{_PLACE}criterion")
    _check_watch(saved, net)


def warn_of_others(saved: Saved, settings: Kinds) -> None:
    """Warn of what goes on with other arguments than it was saved with: criteria that are to come, onset and net.

    Args:
        saved: the state.
        settings: of the schedule that loads it.
    Warns:
        OtherSettingsWarning: names the first that differs, with both.
    """
    before = saved.settings
    if before is None:
        return
    done = len(saved.switches)
    criteria = zip(before.criteria[done:], settings.criteria[done:], strict=False)
    for was, now in (*criteria, (before.onset, settings.onset), (before.net, settings.net)):
        if was != now and " at 0x" not in was + now:  # an address tells nothing of a function
            warn(f"saved shift: was saved with {was}, and goes on with {now}", OtherSettingsWarning)
            return


def _check_watch(saved: Saved, net: SafetyNet) -> None:
    """Refuse the state of a watch that does not fit the net, and a reason to go back without a watch."""
    if saved.watch is None:
        require(saved.retreat is None, f"{_PLACE}retreat", saved.retreat, "none, as no switch is watched")
        return
    require(net.tries > 0 and bool(saved.switches), f"{_PLACE}watch", saved.watch, "none: there is no switch or no net with tries")
    require_alike(saved.watch, net.begin(0.0), f"{_PLACE}watch")
    require(saved.watch["count"] < net.window, f"{_PLACE}watch.count", saved.watch["count"], f"less than the window, {net.window}")


def _to_json(value: Any, place: str) -> Any:
    """Convert a state to strict JSON values: tuples to lists, NaN and infinity to text under the key `_NOT_FINITE`.

    Raises:
        BadInputError: it holds a value that JSON does not have.
    """
    value = plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {_NOT_FINITE: str(value)}
    if isinstance(value, Mapping):
        return {str(key): _to_json(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item, f"{place}[{index}]") for index, item in enumerate(value)]
    require(value is None or isinstance(value, bool | int | float | str), place, value, "JSON values only")
    return value


def from_json(value: Any) -> Any:
    """Invert `_to_json`: restore NaN and infinity in a saved state."""
    if isinstance(value, dict):
        if list(value) == [_NOT_FINITE] and value[_NOT_FINITE] in ("nan", "inf", "-inf"):
            return float(value[_NOT_FINITE])
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def criterion_to_json(state: State, place: str) -> State:
    """Convert the state of a criterion, possibly of the user's own, to JSON values.

    Raises:
        BadInputError: it is no dict of JSON values.
    """
    require(isinstance(state, Mapping), place, state, "a dict of JSON values")
    return _to_json(state, place)
