"""Short reprs: what an object is and how large, in one line, for a notebook or a debugger."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from thalweg.errors import shown

T = TypeVar("T")
_FEW = 8
"""Largest number of entries of an array that are shown."""


def brief(value: Any) -> str:
    """A value in a few words: the entries of a small array, shape, dtype and device of a large one.

    Example:
        >>> import numpy as np
        >>> brief(np.array([1.0, 2 / 3])), brief(np.zeros((40, 3))), brief(1 / 3)
        ('[1, 0.6667]', 'array (40, 3) float64', '0.3333')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "tolist"):
        size, on_cpu = 1, str(getattr(value, "device", "cpu")) == "cpu"
        for length in value.shape:
            size *= int(length)
        if on_cpu and len(value.shape) == 1 and 0 < size <= _FEW:
            return f"[{', '.join(map(brief, value.tolist()))}]"
        kind = "tensor" if hasattr(value, "device") and hasattr(value, "requires_grad") else "array"
        where = "" if on_cpu else f" on {value.device}"
        return f"{kind} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{where}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return repr(value)
    if isinstance(value, tuple | list) and 0 < len(value) <= _FEW:
        items = ", ".join(map(brief, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' if len(value) == 1 else ''})"
    if isinstance(value, tuple | list | dict) and value:
        return f"{len(value):,} {'entries' if isinstance(value, dict) else 'items'}"
    return shown(value)


def describe(thing: object, *parts: str) -> str:
    """The name of an object's class and some phrases about it, such as ``Hessian(41 x 41, float32)``."""
    return f"{type(thing).__name__}({', '.join(filter(None, parts))})"


def short_repr(cls: type[T]) -> type[T]:
    """Decorate a dataclass that holds arrays so that its repr shows them by `brief`; place it above ``@dataclass``."""

    def __repr__(self: Any) -> str:
        return describe(self, *(f"{f.name}={brief(getattr(self, f.name))}" for f in dataclasses.fields(self) if f.repr))

    cls.__repr__ = __repr__
    return cls
