"""What the autograd graph of a loss tells: which weights it reaches, and which of its operations are a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.function import BackwardCFunction


@dataclass(frozen=True)
class Reached:
    """Leaves and custom functions of a graph."""

    leaves: tuple[Tensor, ...]
    """Tensors that a backward pass would accumulate gradients in."""
    custom: tuple[str, ...]
    """Names of the classes derived from ``torch.autograd.Function``, sorted."""


def reached(value: Tensor) -> Reached:
    """Walk the graph behind a value, node by node.

    Args:
        value: with a graph.
    Example:
        >>> import torch
        >>> weight = torch.ones(2, requires_grad=True)
        >>> reached(weight.square().sum()).leaves[0] is weight
        True
    """
    left, seen = [value.grad_fn], {value.grad_fn}
    leaves: dict[int, Tensor] = {}
    custom: set[str] = set()
    while left:
        node = left.pop()
        if node is None:
            continue
        variable = getattr(node, "variable", None)  # of the nodes that accumulate a gradient, and of no other
        if isinstance(variable, Tensor):
            leaves[id(variable)] = variable
        if isinstance(node, BackwardCFunction):
            custom.add(type(node).__name__.removesuffix("Backward"))
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                left.append(after)
    if value.is_leaf and value.requires_grad:
        leaves[id(value)] = value
    return Reached(tuple(leaves.values()), tuple(sorted(custom)))


def captured(leaves: tuple[Tensor, ...], own: Mapping[str, Tensor]) -> list[str]:
    """Names of the module's own weights among the leaves: a loss reached them past the weights that it was given."""
    found = {id(leaf) for leaf in leaves}
    return [name for name, weight in own.items() if id(weight) in found]
