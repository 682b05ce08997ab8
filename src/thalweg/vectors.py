"""Named parameters <-> one flat vector.

Shape letters: P number of parameters chosen, k number of vectors.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from thalweg.errors import NonFiniteError, ShapeMismatchError, require, unknown

Choice = str | Sequence[str] | Callable[[str, nn.Parameter], bool] | None
"""Which parameters: a name, a pattern with ``*``, a list of either, a function of (name, parameter), or None for all that train."""


@dataclass(frozen=True)
class Layout:
    """Names and shapes of parameters in the order in which they lie in the flat vector."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of entries, parameter by parameter."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def dim(self) -> int:
        """Length P of the flat vector."""
        return sum(self.sizes)

    def places(self, choice: str | Sequence[str]) -> Tensor:
        """Positions in the flat vector of the parameters that ``choice`` names, ascending."""
        chosen = set(matching(self.names, choice))
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        spans = [
            torch.arange(end - size, end) for name, size, end in zip(self.names, self.sizes, ends, strict=True) if name in chosen
        ]
        return torch.cat(spans)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a vector ``(P,)`` in the parameters' shapes.

        Raises:
            ShapeMismatchError: another length than P.
        """
        if flat.shape != (self.dim,):
            raise ShapeMismatchError(f"flat vector: given shape {tuple(flat.shape)}, expected ({self.dim},)")
        parts = flat.split(self.sizes)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def join(self, parts: Iterable[Tensor]) -> Tensor:
        """One vector ``(P,)`` of tensors in the layout's order."""
        return torch.cat([part.reshape(-1) for part in parts])


def select(model: nn.Module, choice: Choice = None) -> dict[str, nn.Parameter]:
    """The chosen parameters by name, in the model's order; tied weights appear once.

    Args:
        model: any module.
        choice: see `Choice`; None takes the parameters with ``requires_grad``.
    Raises:
        BadInputError: a name or pattern that matches nothing, or no parameter at all.
        NonFiniteError: a chosen weight is NaN or infinite.
    Example:
        >>> list(select(nn.Linear(2, 3), "bi*"))
        ['bias']
    """
    known = dict(model.named_parameters())
    if choice is None:
        chosen = {name: parameter for name, parameter in known.items() if parameter.requires_grad}
    elif callable(choice):
        chosen = {name: parameter for name, parameter in known.items() if choice(name, parameter)}
    else:
        chosen = {name: known[name] for name in matching(tuple(known), choice)}
    require(bool(chosen), "params", choice, "at least one parameter (None takes those with requires_grad)")
    for name, parameter in chosen.items():
        require(parameter.is_floating_point(), f"parameter {name}", parameter.dtype, "floating-point weights")
        if not torch.isfinite(parameter.detach()).all():
            raise NonFiniteError(f"parameter {name}: holds NaN or infinity; load weights from before training diverged")
    return chosen


def matching(names: Sequence[str], choice: str | Sequence[str]) -> list[str]:
    """The names that a pattern, or one of several, matches, in their own order."""
    patterns = [choice] if isinstance(choice, str) else list(choice)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise unknown("parameter", pattern, names)
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def layout(parameters: dict[str, nn.Parameter]) -> Layout:
    """The layout of parameters from `select`."""
    return Layout(tuple(parameters), tuple(parameter.shape for parameter in parameters.values()))
