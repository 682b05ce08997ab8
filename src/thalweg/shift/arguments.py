"""What a schedule is given, checked where it is given: one clear line for a word, a class, or an object of another kind."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

from thalweg.errors import require
from thalweg.serialization import convert, plain
from thalweg.shift.criterion import Criterion, State
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Handover, Hard, Onset, Ramp, Refine

RULE = "a criterion such as Plateau() or AtStep(1000), or an object of your own with begin and observe"
ONSET = "an onset such as Ramp(200) or Hard(), or an object of your own with gains"


def whole(given: object, what: str, least: int | None = None, most: int | None = None) -> int:
    """A whole number of any kind (numpy's and torch's too) as a plain one, from ``least`` to ``most`` where they are given."""
    low = "" if least is None else f" of at least {least}"
    found = plain(given)
    good = isinstance(found, int) and not isinstance(found, bool)
    good = good and (least is None or found >= least) and (most is None or found <= most)
    require(good, what, given, f"a whole number{low}" + ("" if most is None else f", at most {most}"))
    return cast(int, found)


def ladder(given: object) -> tuple[int, ...]:
    """Stages: loop counts of at least 1 that rise."""
    words = "loop counts of at least 1 that rise"
    listed = plain(given)
    several = hasattr(listed, "__iter__") and not isinstance(listed, str | bytes | type | set | frozenset | Mapping)
    require(several, "stages", given, words)
    found = tuple(whole(one, f"stages[{index}]") for index, one in enumerate(cast(Any, listed)))
    rising = all(a < b for a, b in itertools.pairwise(found))
    require(bool(found) and found[0] >= 1 and rising, "stages", found, words)
    return found


def criteria_of(given: object, changes: int) -> tuple[Criterion, ...]:
    """One criterion for each change of stage, from one for all of them or a sequence."""
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    rules = tuple(cast(Any, given)) if several else (given,)
    for index, rule in enumerate(rules):
        known = not isinstance(rule, type | SafetyNet) and all(callable(getattr(rule, part, None)) for part in ("begin", "observe"))
        require(known, f"criterion[{index}]" if several else "criterion", rule, RULE)
    found = rules if several else rules * changes
    require(len(found) == changes, "criteria", len(found), f"one for each of {changes} changes")
    return cast(Any, found)


def onset_of(given: object, net: SafetyNet) -> Onset:
    """An onset; with a net that tries again, one that can be made softer."""
    require(not isinstance(given, type) and callable(getattr(given, "gains", None)), "onset", given, ONSET)
    can = isinstance(given, Hard) or (is_dataclass(given) and "steps" in {f.name for f in fields(given)})
    require(can or not net.tries, "onset", given, "Hard, Ramp or a dataclass with a field steps, as the net makes it longer")
    return cast(Onset, given)


def _one_of(kind: type, given: object, what: str, example: str) -> Any:
    """An object of a class of this folder."""
    require(isinstance(given, kind), what, given, f"an object of {kind.__name__}, such as {example}")
    return given


def net_of(given: object) -> SafetyNet:
    """A safety net."""
    return _one_of(SafetyNet, given, "net", "SafetyNet(tries=2)")


def handover_of(given: object) -> Handover:
    """A handover."""
    return _one_of(Handover, given, "handover", "Handover(rate=0.5)")


def kind_of(part: object) -> str:
    """The kind of a criterion or an onset; of one of the user's own the name of its class."""
    kind = getattr(part, "kind", None)
    return kind if isinstance(kind, str) else type(part).__name__


def answered(rule: object, answer: object) -> tuple[State, str | None]:
    """State and reason from what a criterion gave, which may be the user's own code."""
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    require(pair, f"criterion {kind_of(rule)}: observe", answer, "a pair of state and reason")
    state, reason = cast(Any, answer)
    require(reason is None or isinstance(reason, str), f"criterion {kind_of(rule)}: reason", reason, "text, or None for not yet")
    return state, reason


def checked_gains(onset: object, gains: object, added: int) -> tuple[float, ...]:
    """Gains of the new passes from an onset of the user's own."""
    what = f"onset {kind_of(onset)}: gains"
    if isinstance(onset, Hard | Ramp | Refine):
        return cast(Any, gains)
    found = plain(gains)
    require(isinstance(found, list | tuple) and len(found) == added, what, gains, f"one number for each of {added} new passes")
    return tuple(convert(float, gain, what) for gain in cast(Any, found))
