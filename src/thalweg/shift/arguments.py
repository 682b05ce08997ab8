"""Checks of the arguments of `thalweg.Shift`, and of what criteria and onsets of a user's own return.

Numbers are checked by the bounds of `thalweg.bounds`; what is left here are objects.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

from thalweg.bounds import Whole, require_kind
from thalweg.errors import BadInputError, require
from thalweg.serialization import convert, plain
from thalweg.shift.criterion import AtFraction, AtStep, Criterion, State
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Hard, Onset, Ramp, Refine

T = TypeVar("T")
_CRITERION = "a criterion such as Plateau() or AtStep(1000), or an object of your own with begin and observe"
_ONSET = "an onset such as Ramp(200) or Hard(), or an object of your own with gains"
_LADDER = "loop counts of at least 1 that rise"


def integer(given: object, name: str, bound: Whole | None = None) -> int:
    """Convert an integer of Python, numpy or torch to a plain ``int``, and check it against a bound if one is given.

    Raises:
        BadInputError: it is no integer, or out of the bound.
    """
    value = plain(given)
    if bound is None:
        require_kind(int, value, name, given)
    else:
        bound.refuse(value, name, given)
    return cast(int, value)


def ladder(given: object) -> tuple[int, ...]:
    """Check the loop counts of the stages and return them as plain integers.

    Raises:
        BadInputError: no sequence, a count that is no integer of at least 1, or counts that do not rise.
    """
    listed = plain(given)
    is_sequence = hasattr(listed, "__iter__") and not isinstance(listed, str | bytes | type | set | frozenset | Mapping)
    require(is_sequence, "stages", given, _LADDER)
    stages = tuple(integer(count, f"stages[{index}]") for index, count in enumerate(cast(Any, listed)))
    rising = all(a < b for a, b in itertools.pairwise(stages))
    require(bool(stages) and stages[0] >= 1 and rising, "stages", stages, _LADDER)
    return stages


def criteria_of(given: object, changes: int) -> tuple[Criterion, ...]:
    """One criterion for each change of stage, from a single criterion for all changes or a sequence of them.

    Raises:
        BadInputError: something is no criterion, the sequence has another length than ``changes``, or the fixed updates of its
            criteria do not rise, so that a stage would be left at once.
    """
    is_sequence = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    rules = tuple(cast(Any, given)) if is_sequence else (given,)
    for index, rule in enumerate(rules):
        # A class has the methods too, and a safety net has methods of the same names.
        has_methods = all(callable(getattr(rule, method, None)) for method in ("begin", "observe"))
        require(
            has_methods and not isinstance(rule, type | SafetyNet),
            f"criterion[{index}]" if is_sequence else "criterion",
            rule,
            _CRITERION,
        )
    criteria = rules if is_sequence else rules * changes
    require(len(criteria) == changes, "criteria", len(criteria), f"one for each of {changes} changes")
    moments = [moment for rule in criteria if (moment := _moment(rule)) is not None]
    wanted = f"one criterion for each of {changes} changes, with updates that rise: they count from the start of the run"
    rising = all(a < b for a, b in itertools.pairwise(moments))
    if not rising and not is_sequence:
        raise BadInputError(f"criterion: given one for all {changes} changes, {rules[0]!r}, expected {wanted}")
    require(rising, "criterion updates", tuple(moments), wanted)
    return cast(Any, criteria)


def _moment(rule: object) -> int | None:
    """Updates from the start of the run after which a criterion fires whatever the loss is; None for one that looks at the loss."""
    if isinstance(rule, AtStep):
        return rule.step
    return rule.first_step if isinstance(rule, AtFraction) else None


def onset_of(given: object, net: SafetyNet) -> Onset:
    """Check an onset; a safety net that tries again needs one that it can lengthen.

    Raises:
        BadInputError: it has no method ``gains``, or the net cannot make it softer.
    """
    require(not isinstance(given, type) and callable(getattr(given, "gains", None)), "onset", given, _ONSET)
    can_soften = isinstance(given, Hard) or (is_dataclass(given) and "steps" in {f.name for f in fields(given)})
    wanted = "Hard, Ramp or a dataclass with a field steps, as the net makes it longer"
    require(can_soften or not net.tries, "onset", given, wanted)
    return cast(Onset, given)


def instance_of(kind: type[T], given: object, name: str, example: str) -> T:
    """Check that an argument is an object of a class.

    Raises:
        BadInputError: it is something else; the message gives the example.
    """
    require(isinstance(given, kind), name, given, f"an object of {kind.__name__}, such as {example}")
    return cast(T, given)


def kind_of(part: object) -> str:
    """The kind of a criterion or an onset; for one of the user's own, the name of its class."""
    kind = getattr(part, "kind", None)
    return kind if isinstance(kind, str) else type(part).__name__


def checked_answer(rule: object, answer: object) -> tuple[State, str | None]:
    """Check what the ``observe`` of a criterion, possibly of the user's own, returned: its new state and a reason or None.

    Raises:
        BadInputError: it is no pair, or the reason is neither text nor None.
    """
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2
    require(is_pair, f"criterion {kind_of(rule)}: observe", answer, "a pair of state and reason")
    state, reason = cast(Any, answer)
    require(reason is None or isinstance(reason, str), f"criterion {kind_of(rule)}: reason", reason, "text, or None for not yet")
    return state, reason


def checked_gains(onset: object, gains: object, added: int) -> tuple[float, ...]:
    """Check the gains that an onset returned for ``added`` new passes, and return them as plain numbers.

    Raises:
        BadInputError: another number of gains, or one that is no finite number.
    """
    if isinstance(onset, Hard | Ramp | Refine):
        return cast(Any, gains)
    name, values = f"onset {kind_of(onset)}: gains", plain(gains)
    fits = isinstance(values, list | tuple) and len(values) == added
    require(fits, name, gains, f"one number for each of {added} new passes")
    return tuple(convert(float, gain, name) for gain in cast(Any, values))
