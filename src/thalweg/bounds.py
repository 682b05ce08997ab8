"""The range of every number that a user can set, written beside its field, checked in one place.

A field says it in its type, ``steps: Annotated[int, Whole(1, 10**9)]``, and its dataclass calls
`thalweg.serialization.checked` when it is made; an option of the command line says it likewise (`thalweg.cli`). `thalweg recipe`
prints the same ranges.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, ParamSpec, TypeVar, Union

from thalweg.errors import require

P = ParamSpec("P")
R = TypeVar("R")
LARGEST_SEED = 2**63 - 1
_TINY = 1e-30
"""The smallest size of a number beside 0: float32 takes what is much smaller for 0."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int
    below: str = ""
    """What is expected, in words, when less was given."""

    noun: ClassVar[str] = "a whole number"

    def refuse(self, value: Any, place: str, given: Any) -> None:
        """Raise unless the value, which stands in what was given, is such a number."""
        require(_is_a(numbers.Integral, value), place, given, self.noun)
        require(value >= self.least, place, given, self.below or f"{self.noun} of at least {self.least:,}")
        require(value <= self.most, place, given, f"{self.noun} of at most {_bound_in_words(self.most)}")

    @property
    def range(self) -> str:
        """In a reader's words."""
        return f"from {self.least:,} to {_bound_in_words(self.most)}"


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number from ``least`` to ``most``; not so small beside 0 that float32 takes it for 0."""

    least: float
    most: float
    words: str = ""
    """What is expected, in words."""
    open_below: bool = False
    """Whether ``least`` itself is left out."""
    open_above: bool = False
    """Whether ``most`` itself is left out."""

    noun: ClassVar[str] = "a number"

    def refuse(self, value: Any, place: str, given: Any) -> None:
        """Raise unless the value, which stands in what was given, is such a number."""
        require(_is_a(numbers.Real, value), place, given, self.noun)
        low = value > self.least if self.open_below else value >= self.least
        require(low, place, given, self.words or self.lower)
        high = value < self.most if self.open_above else value <= self.most
        require(high, place, given, self.words or f"{self.noun} {self.range}")
        require(value == 0 or abs(value) >= _TINY, place, given, f"{self.noun} {self.range}, no smaller beside 0 than {_TINY:g}")

    @property
    def lower(self) -> str:
        """What is expected where less was given, or no number."""
        return f"{self.noun} {self.range}" if self.open_below or self.open_above else f"{self.noun} of at least {self.least:g}"

    @property
    def range(self) -> str:
        """In a reader's words."""
        if self.open_below:
            return f"above {self.least:g}, {'below' if self.open_above else 'at most'} {self.most:g}"
        return f"from {self.least:g} {'up to, not including,' if self.open_above else 'to'} {self.most:g}"


Bound = Whole | Number
Seed = Annotated[int, Whole(0, LARGEST_SEED, "a whole number from 0 to 2**63 - 1")]
Rate = Annotated[float, Number(0, 1e6, "a positive number of at most a million", open_below=True)]
"""Of learning, and factors."""
Share = Annotated[float, Number(0, 1, "a share from 0 to 1")]
Updates = Annotated[int, Whole(1, 10**9)]
Threads = Annotated[int, Whole(0, 1024)]


def _is_a(kind: type, value: Any) -> bool:
    """Whether a value is a number of a kind; yes and no are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _bound_in_words(most: int) -> str:
    """An upper end with its thousands apart; powers of two that nobody reads otherwise as such.

    Example:
        >>> _bound_in_words(10**6), _bound_in_words(2**63 - 1)
        ('1,000,000', '2**63 - 1')
    """
    return "2**63 - 1" if most == LARGEST_SEED else f"{most:,}"


def check(section: Any, prefix: str = "") -> None:
    """Refuse a dataclass in which a number is outside of its bound, or a text cannot be written down.

    Args:
        section: the dataclass; only fields of its own are looked at, not those of sections within it.
        prefix: what stands before the name of a field in messages, as in "model." or "net ".
    Raises:
        BadInputError: names place and field, what was given and what was expected.
    """
    for name, hint in bounds_of(type(section)).items():
        refuse(hint, getattr(section, name), f"{prefix}{name}")


@functools.cache
def bounds_of(cls: type) -> dict[str, Any]:
    """Field -> its type, bounds included."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def refuse(hint: Any, value: Any, place: str, given: Any = None) -> None:
    """Raise unless a value, alone or one of a list that was given, keeps to the bounds in its type."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for bound in options[1:]:
            if isinstance(bound, Bound):
                bound.refuse(value, place, value if given is None else given)
    elif origin is tuple and isinstance(value, list | tuple):
        for item in value:
            refuse(options[0], item, place, value)
    elif origin in (Union, types.UnionType) and value is not None:
        for option in options:
            if typing.get_origin(option) is Annotated:
                refuse(option, value, place)
    elif isinstance(value, str):
        require(_writable(value), place, value, "text that can be written as UTF-8")


def of_their_kind(function: Callable[P, R]) -> Callable[P, R]:
    """The function, refusing what is no number where its signature says ``int`` or ``float``, before it compares or counts with it.

    Whole numbers of numpy and others are taken; truth values, text and fractions in place of whole numbers are not.
    """
    signature = inspect.signature(function)
    kinds: dict[str, tuple[type, str, bool]] = {}

    def look() -> None:
        for name, hint in typing.get_type_hints(function).items():
            options = typing.get_args(hint) or (hint,)
            kind = float if float in options else int if int in options else None
            if kind is not None and name != "return" and set(options) <= {int, float, type(None)}:
                words = "a whole number" if kind is int else "a number"
                real = numbers.Integral if kind is int else numbers.Real
                kinds[name] = (real, words + (", or None" if type(None) in options else ""), type(None) in options)

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        if not kinds:
            look()
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in kinds:
                kind, words, optional = kinds[name]
                require(_is_a(kind, value) or (optional and value is None), name, value, words)
        return function(*args, **kwargs)

    return inside


def bound_in(hint: Any) -> Bound | None:
    """The bound in a type, also that of a list's members; None where there is none."""
    for option in typing.get_args(hint):
        found = option if isinstance(option, Bound) else bound_in(option)
        if found is not None:
            return found
    return None


def _writable(text: str) -> bool:
    """Whether a text can be encoded: half of a surrogate pair cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
