"""Conversion of dataclasses to and from plain JSON and TOML values.

The same strict reader is used for configs and records: unknown keys, wrong types and missing values are refused, with a message
that names the key, what was expected and a similar key. A field that may hold one of several dataclasses has a key ``kind``. A
class whose keys were renamed has a class variable ``EARLIER``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import numbers
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, TypeVar, Union

from thalweg.bounds import check
from thalweg.errors import BadInputError, UnknownKeyError, shown, unknown

T = TypeVar("T")


def to_dict(value: Any) -> Any:
    """Convert a dataclass to plain dicts, lists, numbers and strings; the key ``kind`` comes first if the class has one."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = {"kind": value.kind} if hasattr(value, "kind") else {}  # pyright: ignore[reportAttributeAccessIssue]
        hints = _hints_of(type(value))
        return kind | {f.name: to_dict(_as_hinted(hints[f.name], getattr(value, f.name))) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    return value


def from_dict(cls: type[T], values: Any, place: str = "") -> T:
    """Build a dataclass from plain values, strictly; the inverse of `to_dict`.

    Args:
        cls: the dataclass.
        values: a dict of plain values; missing keys take their defaults.
        place: name of the section, for messages.
    Raises:
        BadInputError: an unknown or missing key, or a value of another type.
    """
    try:
        return _build(cls, values, place)
    except UnknownKeyError as error:
        raise unknown(error.what, error.key, error.known, _places(cls, values, place)) from None


def _build(cls: type[T], values: Any, place: str) -> T:
    """`from_dict` for a section within another one."""
    if not isinstance(values, dict):
        raise BadInputError(f"{place or cls.__name__}: given {shown(values)}, expected a section with keys")
    hints, fields = _hints_of(cls), {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    known: dict[str, Any] = {}
    earlier = getattr(cls, "EARLIER", {})  # keys of files that an earlier version wrote -> their names now
    for key, value in ((earlier.get(key, key), value) for key, value in values.items()):
        if key == "kind" and hasattr(cls, "kind"):
            if value != cls.kind:  # pyright: ignore[reportAttributeAccessIssue]
                raise BadInputError(f"{place or cls.__name__}: given kind {shown(value)}, expected {cls.kind!r}")  # pyright: ignore[reportAttributeAccessIssue]
            continue
        if key not in fields:
            raise UnknownKeyError(f"key in {place or cls.__name__}", str(key), fields)
        known[key] = convert(hints[key], value, f"{place}.{key}" if place else key)
    for name, f in fields.items():
        if name not in known and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise BadInputError(f"{place or cls.__name__}: key {name!r} is missing; expected {describe(hints[name])}")
    return cls(**known)


def key_paths(cls: type) -> dict[str, str]:
    """Name of a key of a dataclass, or of a section of it -> its full path; a name that several sections have is left out.

    Example:
        >>> from thalweg.train.config import RunConfig
        >>> key_paths(RunConfig)["rate"], "length" in key_paths(RunConfig)
        ('optimizer.rate', False)
    """
    places = _places(cls, {}, "")
    return {name: found[0].strip("'") for name, found in places.items() if len(found) == 1 and "," not in found[0]}


def _places(cls: type, values: Any, place: str) -> dict[str, list[str]]:
    """Key -> where a dataclass has it, as phrases for a message; only the outermost sections that have it."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for path in _paths(cls, values):
        found.setdefault(path[-1], []).append(path)
    return {
        name: [
            repr(".".join(filter(None, (place, *path)))) + ("" if path[1:] else ", in no section")
            for path in paths
            if len(path) == min(map(len, paths))
        ]
        for name, paths in found.items()
    }


def _paths(cls: Any, values: Any) -> Iterator[tuple[str, ...]]:
    """Every key of a dataclass and of the sections inside it as a path of names; of a union, those of the kind that is used."""
    hints = _hints_of(cls)
    for f in dataclasses.fields(cls):
        yield (f.name,)
        section = values.get(f.name) if isinstance(values, dict) else None
        kind = section.get("kind") if isinstance(section, dict) else getattr(f.default_factory, "kind", None)
        choices = [one for one in (hints[f.name], *typing.get_args(hints[f.name])) if dataclasses.is_dataclass(one)]
        for choice in choices:
            if len(choices) == 1 or getattr(choice, "kind", None) == kind:
                yield from ((f.name, *path) for path in _paths(choice, section))


def checked(value: Any, prefix: str) -> None:
    """Check every field of a dataclass against its type and bounds; call it first in ``__post_init__``.

    Refused are values of another type (a class or string in place of an object, a fraction, bool or string in place of an
    integer), names that are not among the choices, NaN, infinity, and numbers out of the bounds in the type (`thalweg.bounds`).
    Numbers of numpy and torch are converted to plain ones.

    Args:
        value: a dataclass, frozen or not.
        prefix: text before the name of a field in messages, such as "model." or "net ".
    Raises:
        BadInputError: the message names the field, its value and what was expected.
    """
    hints = _hints_of(type(value))
    for f in dataclasses.fields(value):
        place = f"{prefix}{f.name}"
        converted = convert(hints[f.name], getattr(value, f.name), place)
        finite(converted, place)
        object.__setattr__(value, f.name, converted)
    check(value, prefix)


def finite(value: Any, place: str) -> None:
    """Raise `BadInputError` for NaN or infinity in a number, or anywhere in lists and dicts of numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInputError(f"{place}: given {value!r}, expected a finite number")
    if isinstance(value, dict):
        for key, item in value.items():
            finite(item, f"{place}.{key}")
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            finite(item, f"{place}[{index}]")


def plain(value: Any) -> Any:
    """Convert numbers of numpy, torch and other libraries to Python's, and arrays to lists; anything else is returned unchanged.

    Example:
        >>> from fractions import Fraction
        >>> plain(Fraction(1, 4)), plain(True), plain("3")
        (0.25, True, '3')
    """
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, type):
        return value
    if callable(getattr(value, "item", None)) and hasattr(value, "shape"):
        try:
            value = value.tolist() if len(value.shape) else value.item()
        except (RuntimeError, TypeError, ValueError):  # a tensor without values, for instance on the meta device
            return value
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return as_float(value)
    return str(value) if isinstance(value, str) else value


def as_float(value: Any) -> float:
    """Convert a number to a float; to infinity if it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@functools.cache
def _hints_of(cls: type) -> dict[str, Any]:
    """The resolved types of a dataclass's fields."""
    return typing.get_type_hints(cls)


def convert(hint: Any, value: Any, place: str) -> Any:
    """Convert a plain value to the type of a hint.

    Args:
        hint: the type: a dataclass, Literal, union, tuple, dict, number, bool or string.
        value: the value.
        place: name of the key, for messages.
    Raises:
        BadInputError: the value is of another type.
    """
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    value = plain(value)
    if origin in (Union, types.UnionType):
        return _convert_union(options, value, place)
    if origin is Literal:
        if any(type(value) is type(option) and value == option for option in options):
            return value
        if isinstance(value, str):
            raise unknown(place, value, [str(option) for option in options])
        raise BadInputError(f"{place}: given {shown(value)}, expected {describe(hint)}")
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        return _build(hint, value, place)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(convert(options[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: convert(options[1], item, f"{place}.{key}") for key, item in value.items()}
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return number(hint, value, place)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        return value
    raise BadInputError(f"{place}: given {shown(value)}, expected {describe(hint)}")


def number(hint: type, value: float, place: str) -> float:
    """Convert a number to ``int`` or ``float``, whichever the hint is.

    Raises:
        BadInputError: it is NaN or infinite, an integer beyond 64 bits, or a fraction where an integer is expected.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise BadInputError(f"{place}: given {shown(value)}, expected {describe(hint)} that 64 bits hold")
    if not math.isfinite(value):
        raise BadInputError(f"{place}: given {value!r}, expected {describe(hint).replace('a ', 'a finite ', 1)}")
    if hint is int and not isinstance(value, int):
        raise BadInputError(f"{place}: given {value!r}, expected {describe(hint)}")
    return hint(value)


def _as_hinted(hint: Any, value: Any) -> Any:
    """Convert an integer in a float field to a float, so that equal values are written as equal text."""
    return float(value) if hint is float and type(value) is int else value


def _convert_union(options: tuple[Any, ...], value: Any, place: str) -> Any:
    """`convert` for a union: None if it is allowed, else the only other type, else the dataclass that ``kind`` names."""
    if value is None and type(None) in options:
        return None
    choices = [option for option in options if option is not type(None)]
    if len(choices) == 1:
        return convert(choices[0], value, place)
    if isinstance(value, tuple(choices)):
        return value
    kinds: dict[str, Any] = {option.kind: option for option in choices}
    if value is not None and not isinstance(value, dict):
        sections, classes = ", ".join(sorted(kinds)), " or ".join(option.__name__ for option in choices)
        raise BadInputError(
            f"{place}: given {shown(value)}, expected a section with kind = one of {sections}, or an object of {classes}"
        )
    if not isinstance(value, dict) or "kind" not in value:
        raise BadInputError(f"{place}: expected a section with kind = one of {', '.join(sorted(kinds))}")
    if not isinstance(value["kind"], str) or value["kind"] not in kinds:
        raise unknown(f"kind in {place}", value["kind"] if isinstance(value["kind"], str) else shown(value["kind"]), kinds)
    return _build(kinds[value["kind"]], value, place)


def describe(hint: Any) -> str:
    """Describe a type in a phrase for messages, such as "a whole number"."""
    phrases = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return f"a list, each {describe(options[0])}"
    if origin is Literal:
        return "one of " + ", ".join(map(str, options))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in options if option is not type(None))
    return phrases.get(hint, f"a section ({getattr(hint, '__name__', hint)})")


def fingerprint(value: Any) -> str:
    """A hash of 16 hexadecimal digits of a dataclass or plain value; equal values have equal hashes."""
    text = json.dumps(to_dict(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
