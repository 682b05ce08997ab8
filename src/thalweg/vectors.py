"""Selection of a model's parameters by name, and conversion between them and one flat vector.

Shape letters: P number of entries of the chosen parameters.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from thalweg.errors import BadInputError, NonFiniteError, Phrase, ShapeMismatchError, require, unknown

_Named = str | nn.Parameter | nn.Module
Choice = _Named | Sequence[_Named] | Callable[[str, nn.Parameter], bool] | None
"""A choice of parameters: a name, a pattern with ``*``, a parameter or module of the model, a list of these, a function
``(name, parameter) -> bool``, or None for all parameters with ``requires_grad``."""


@dataclass(frozen=True)
class Layout:
    """Names and shapes of parameters, in their order in the flat vector."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    def __repr__(self) -> str:
        few = ", ".join(f"{name} {tuple(shape)}" for name, shape in zip(self.names[:3], self.shapes[:3], strict=True))
        return f"Layout({self.dim:,} entries of {len(self.names):,} parameters: {few}{', ...' if self.names[3:] else ''})"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each parameter."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def dim(self) -> int:
        """Length P of the flat vector."""
        return sum(self.sizes)

    def places(self, choice: str | Sequence[str]) -> Tensor:
        """Indices in the flat vector of the parameters that a name or pattern, or one of several, matches; ascending."""
        chosen = set(_matching(self.names, choice))
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        spans = [
            torch.arange(end - size, end) for name, size, end in zip(self.names, self.sizes, ends, strict=True) if name in chosen
        ]
        return torch.cat(spans) if spans else torch.empty(0, dtype=torch.long)

    def subset(self, choice: str | Sequence[str]) -> Layout:
        """The layout of the parameters that a name or pattern, or one of several, matches, in their order."""
        chosen = set(_matching(self.names, choice))
        kept = [(name, shape) for name, shape in zip(self.names, self.shapes, strict=True) if name in chosen]
        return Layout(tuple(name for name, _ in kept), tuple(shape for _, shape in kept))

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Split a vector ``(P,)`` into views with the shapes of the parameters, by name.

        Raises:
            ShapeMismatchError: the vector does not have the shape ``(P,)``.
        """
        if flat.shape != (self.dim,):
            raise ShapeMismatchError(f"flat vector: given shape {tuple(flat.shape)}, expected ({self.dim},)")
        parts = flat.split(self.sizes)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def join(self, parts: Iterable[Tensor]) -> Tensor:
        """Join tensors, in the order of the layout, into one vector ``(P,)``."""
        return torch.cat([part.reshape(-1) for part in parts])


def select(model: nn.Module, choice: Choice = None) -> dict[str, nn.Parameter]:
    """Select parameters of a model, by name in the model's order; tied weights appear once.

    Args:
        model: any module.
        choice: see `Choice`.
    Raises:
        BadInputError: a name or pattern matches nothing, no parameter is chosen, or the chosen ones are not initialised, not on one
            device or not floating-point.
        NonFiniteError: a chosen weight is NaN or infinite.
    Example:
        >>> list(select(nn.Linear(2, 3), "bi*"))
        ['bias']
    """
    known = dict(model.named_parameters())
    lazy = [name for name, parameter in known.items() if isinstance(parameter, nn.parameter.UninitializedParameter)]
    if lazy:
        raise BadInputError(f"parameter {lazy[0]}: has no shape yet, as its lazy module never ran; call the model on a batch once")
    if choice is None:
        chosen = {name: parameter for name, parameter in known.items() if parameter.requires_grad}
    elif callable(choice) and not isinstance(choice, nn.Parameter | nn.Module):
        chosen = {name: parameter for name, parameter in known.items() if choice(name, parameter)}
    else:
        chosen = {name: known[name] for name in _matching(tuple(known), _names(choice, known))}
    if choice is None and not chosen:
        advice = "call model.requires_grad_(), or name parameters with params="
        raise BadInputError(f"model: none of its {len(known)} parameters requires a gradient; {advice}")
    require(bool(chosen), "params", choice, "at least one parameter")
    devices = sorted({str(parameter.device) for parameter in chosen.values()})
    require(
        "meta" not in devices,
        "model",
        Phrase("weights on the meta device"),
        "weights with values; load them, or use model.to_empty",
    )
    require(
        len(devices) == 1, "params", Phrase(f"weights on {' and '.join(devices)}"), "weights on one device; choose with params="
    )
    for name, parameter in chosen.items():
        require(parameter.is_floating_point(), f"parameter {name}", parameter.dtype, "floating-point weights")
        own = getattr(parameter, "to_local", parameter.detach)()  # of a sharded one, this rank's part
        if not torch.isfinite(own).all():
            raise NonFiniteError(f"parameter {name}: holds NaN or infinity; load weights from before training diverged")
    return chosen


def _matching(names: Sequence[str], choice: str | Sequence[str]) -> list[str]:
    """The names, in their order, that a pattern or one of several matches; a pattern that equals a name matches only it."""
    patterns = [choice] if isinstance(choice, str) else list(choice)
    matched: set[str] = set()
    for pattern in patterns:
        literal = pattern.replace("[", "[[]")  # for brackets that belong to a name
        matches = [pattern] if pattern in names else fnmatch.filter(names, pattern) or fnmatch.filter(names, literal)
        if not matches:
            raise unknown("parameter", pattern, names)
        matched.update(matches)
    return [name for name in names if name in matched]


def _names(choice: Any, known: Mapping[str, nn.Parameter]) -> list[str]:
    """The names and patterns of a choice, with parameters and modules replaced by the names of their parameters."""
    name_of = {id(parameter): name for name, parameter in known.items()}
    given = [choice] if isinstance(choice, str | Tensor | nn.Module) or not isinstance(choice, Iterable) else list(choice)
    names = []
    for item in given:
        if isinstance(item, nn.Module):
            members = [name_of[id(parameter)] for parameter in item.parameters() if id(parameter) in name_of]
            names += members or [_refuse_choice(f"{type(item).__name__} that is no part of this model", known)]
            continue
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):  # an item of ``named_parameters()``
            item = item[0]
        name = name_of.get(id(item)) if isinstance(item, Tensor) else item
        if not isinstance(name, str):
            foreign = "a tensor that is none of this model's parameters"
            _refuse_choice(foreign if isinstance(item, Tensor) else type(item).__name__, known)
        names.append(name)
    return names


def _refuse_choice(given: str, known: Mapping[str, nn.Parameter]) -> NoReturn:
    """Raise the error for something that does not name parameters."""
    example = next(iter(known), "weight")
    raise BadInputError(f"params: given {given}, expected names such as {example!r}, patterns, or model.parameters()")


def layout(parameters: dict[str, nn.Parameter]) -> Layout:
    """The layout of parameters from `select`."""
    return Layout(tuple(parameters), tuple(parameter.shape for parameter in parameters.values()))
