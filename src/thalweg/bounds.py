"""Kind and range of every number that a user can set: declared in a type, checked in one place.

A dataclass declares a range in the type of its field, ``steps: Annotated[int, Whole(1, 10**9)]``, and calls
`thalweg.serialization.checked` in ``__post_init__``. Options of the command line declare theirs in the same way (`thalweg.cli`),
and `thalweg recipe` prints the same ranges. A numeric function that takes plain ``int`` and ``float`` has the kind of its arguments
checked by the decorator `of_their_kind`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, ParamSpec, TypeVar, Union, cast

from thalweg.errors import UnknownArgumentError, require, unknown

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=Callable[..., Any])
LARGEST_SEED = 2**63 - 1
_TINY = 1e-30
"""Smallest absolute value that is accepted beside 0 itself: float32 rounds much smaller ones to 0."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """The bound of an integer: from ``least`` to ``most``, both included."""

    least: int
    most: int
    below: str = ""
    """What a message says is expected when the value is below ``least``; a default text if empty."""

    noun: ClassVar[str] = "a whole number"

    def refuse(self, value: Any, place: str, given: Any) -> None:
        """Raise `BadInputError` unless the value is an integer within the bound.

        Args:
            value: what is checked.
            place: name of the field or option, for the message.
            given: what the user wrote, for the message; the value itself, or the list that holds it.
        """
        require_kind(int, value, place, given, f"{self.noun} {self.range}")
        require(value >= self.least, place, given, self.below or f"{self.noun} of at least {self.least:,}")
        require(value <= self.most, place, given, f"{self.noun} of at most {_upper_end(self.most)}")

    @property
    def range(self) -> str:
        """The range as a phrase for a reader, such as "from 1 to 10"."""
        return f"from {self.least:,} to {_upper_end(self.most)}"


@dataclasses.dataclass(frozen=True)
class Number:
    """The bound of a finite number: from ``least`` to ``most``, and not so close to 0 that float32 would round it to 0."""

    least: float
    most: float
    expected: str = ""
    """What a message says is expected when the value is out of range; a default text if empty."""
    open_below: bool = False
    """Whether ``least`` itself is excluded."""
    open_above: bool = False
    """Whether ``most`` itself is excluded."""

    noun: ClassVar[str] = "a number"

    def refuse(self, value: Any, place: str, given: Any) -> None:
        """Raise `BadInputError` unless the value is a number within the bound; arguments as in `Whole.refuse`."""
        require_kind(float, value, place, given)
        large_enough = value > self.least if self.open_below else value >= self.least
        require(large_enough, place, given, self.expected or self._lower)
        small_enough = value < self.most if self.open_above else value <= self.most
        require(small_enough, place, given, self.expected or f"{self.noun} {self.range}")
        require(value == 0 or abs(value) >= _TINY, place, given, f"{self.noun} {self.range}, no smaller beside 0 than {_TINY:g}")

    @property
    def _lower(self) -> str:
        """What is expected of a value that is too small or NaN."""
        return f"{self.noun} {self.range}" if self.open_below or self.open_above else f"{self.noun} of at least {self.least:g}"

    @property
    def range(self) -> str:
        """The range as a phrase for a reader, such as "above 0, at most 1"."""
        if self.open_below:
            return f"above {self.least:g}, {'below' if self.open_above else 'at most'} {self.most:g}"
        return f"from {self.least:g} {'up to, not including,' if self.open_above else 'to'} {self.most:g}"


Bound = Whole | Number
Seed = Annotated[int, Whole(0, LARGEST_SEED, "a whole number from 0 to 2**63 - 1")]
Rate = Annotated[float, Number(0, 1e6, "a positive number of at most a million", open_below=True)]
"""A learning rate, or a factor on one."""
Share = Annotated[float, Number(0, 1, "a share from 0 to 1")]
Updates = Annotated[int, Whole(1, 10**9)]
Threads = Annotated[int, Whole(0, 1024)]


def require_kind(kind: type, value: Any, place: str, given: Any, expected: str = "") -> None:
    """Raise `BadInputError` unless a value is a number of a kind; ``bool`` does not count as a number.

    Args:
        kind: ``int`` for integers, ``float`` for real numbers, each of Python or numpy.
        value: what is checked.
        place: name of the field or argument, for the message.
        given: what the user wrote, for the message.
        expected: what the message says is expected; a default text if empty.
    """
    abstract, noun = (numbers.Integral, Whole.noun) if kind is int else (numbers.Real, Number.noun)
    require(isinstance(value, abstract) and not isinstance(value, bool), place, given, expected or noun)


def _upper_end(most: int) -> str:
    """An upper end with separators between the thousands; the largest seed as a power of two.

    Example:
        >>> _upper_end(10**6), _upper_end(2**63 - 1)
        ('1,000,000', '2**63 - 1')
    """
    return "2**63 - 1" if most == LARGEST_SEED else f"{most:,}"


def check(section: Any, prefix: str = "") -> None:
    """Refuse a dataclass in which a number is out of its range, or a text cannot be encoded as UTF-8.

    Args:
        section: the dataclass; its own fields are checked, those of dataclasses inside it are not.
        prefix: text before the name of a field in messages, such as "model." or "net ".
    Raises:
        BadInputError: a field is out of range; the message names it, what was given and what was expected.
    """
    for name, hint in bounds_of(type(section)).items():
        refuse(hint, getattr(section, name), f"{prefix}{name}")


@functools.cache
def bounds_of(cls: type) -> dict[str, Any]:
    """The type of every field of a dataclass by name, with the bounds in its annotation."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def refuse(hint: Any, value: Any, place: str, given: Any = None) -> None:
    """Raise `BadInputError` unless a value keeps to the bounds in its type; in a tuple every item has to.

    Args:
        hint: the type, such as ``Annotated[int, Whole(1, 9)]``, a tuple of it, or a union with None.
        value: what is checked.
        place: name of the field or option, for the message.
        given: what the user wrote, for the message; None takes the value.
    """
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
        # Half of a surrogate pair, from a file name in another encoding, cannot be encoded.
        encodable = not any("\ud800" <= letter <= "\udfff" for letter in value)
        require(encodable, place, value, "text that can be written as UTF-8")


def named_arguments(target: C) -> C:
    """Decorate a class or a function so that an unknown keyword argument is refused with a suggestion and the known ones.

    Place it above ``@dataclass``. `of_their_kind` does the same.

    Example:
        >>> @named_arguments
        ... def train(batch: int = 8) -> None: ...
        >>> train(batch_size=4)
        Traceback (most recent call last):
        ...
        thalweg.errors.UnknownArgumentError: unknown argument of train 'batch_size'; did you mean 'batch'? Known: batch
    """
    function: Any = target.__init__ if isinstance(target, type) else target
    refuse_others = _refusal(target.__name__, function)

    @functools.wraps(function)
    def with_known_names(*args: Any, **kwargs: Any) -> Any:
        refuse_others(kwargs)
        return function(*args, **kwargs)

    if isinstance(target, type):
        target.__init__ = with_known_names
        return cast(C, target)
    return cast(C, with_known_names)


def _refusal(name: str, function: Any) -> Callable[[Iterable[str]], None]:
    """A function that raises `UnknownArgumentError` for the first of some argument names that a function does not have."""
    parameters = inspect.signature(function).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    known = [one.name for one in parameters.values() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    known = [one for one in known if one != "self"]

    @functools.cache
    def elsewhere() -> dict[str, list[str]]:
        """Argument of a public method of the same class -> that method, for a message."""
        places: dict[str, list[str]] = {}
        owner = function.__globals__.get(function.__qualname__.removesuffix(".__init__"))
        for method, value in vars(owner).items() if isinstance(owner, type) else ():
            if inspect.isfunction(value) and not method.startswith("_"):
                for argument in inspect.signature(value).parameters:
                    places.setdefault(argument, []).append(f"'{method}({argument}=)'")
        return places

    def refuse_others(given: Iterable[str]) -> None:
        for argument in given:
            if argument not in known and not takes_any:
                raise UnknownArgumentError(str(unknown(f"argument of {name}", argument, known, elsewhere())))

    return refuse_others


def of_their_kind(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that arguments annotated ``int`` or ``float`` (or None besides) must be numbers of that kind.

    Numbers of numpy are accepted; ``bool``, text, and a fraction where an integer is expected are refused before the function
    compares or computes with them. So is an unknown keyword argument.
    """
    signature = inspect.signature(function)
    refuse_others = _refusal(function.__qualname__.removesuffix(".__init__"), function)

    @functools.cache
    def number_arguments() -> dict[str, tuple[type, bool]]:
        """Argument -> its kind and whether it may be None; at the first call, as a hint may name a class that is defined later."""
        kinds: dict[str, tuple[type, bool]] = {}
        for name, hint in typing.get_type_hints(function).items():
            options = typing.get_args(hint) or (hint,)
            takes_number = int in options or float in options
            if name != "return" and takes_number and all(option in (int, float, type(None)) for option in options):
                kinds[name] = (float if float in options else int, type(None) in options)
        return kinds

    @functools.wraps(function)
    def with_checked_numbers(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse_others(kwargs)
        kinds = number_arguments()
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in kinds:
                kind, or_none = kinds[name]
                if not (or_none and value is None):
                    noun = Whole.noun if kind is int else Number.noun
                    require_kind(kind, value, name, value, f"{noun}, or None" if or_none else noun)
        return function(*args, **kwargs)

    return with_checked_numbers


def bound_in(hint: Any) -> Bound | None:
    """The bound declared in a type, also in that of a tuple's items; None if there is none."""
    for option in typing.get_args(hint):
        bound = option if isinstance(option, Bound) else bound_in(option)
        if bound is not None:
            return bound
    return None


def seed_numbers(asked: int, usual: int) -> tuple[int, ...]:
    """The seeds 0, 1, ... of a study.

    Args:
        asked: how many, as the user gave it; 0 for the usual number.
        usual: how many the preset has.
    Raises:
        BadInputError: a negative number.
    Example:
        >>> seed_numbers(0, 3), seed_numbers(2, 3)
        ((0, 1, 2), (0, 1))
    """
    require(asked >= 0, "--seeds", asked, "a whole number of at least 1, or 0 for the number of the preset")
    return tuple(range(asked or usual))
