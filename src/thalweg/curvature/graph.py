"""Traversal of the autograd graph of a loss: which weights it reaches, and which custom operations it contains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.function import BackwardCFunction


@dataclass(frozen=True)
class Reached:
    """The leaves and the custom functions of an autograd graph."""

    leaves: tuple[Tensor, ...]
    """Tensors that a backward pass would accumulate gradients in."""
    custom: tuple[str, ...]
    """Names of the classes derived from ``torch.autograd.Function``, sorted."""


def reached(value: Tensor) -> Reached:
    """Traverse the autograd graph of a value and collect its leaves and its custom functions.

    Visits each node once.

    Args:
        value: a tensor with a graph, or a leaf that requires a gradient.
    Returns:
        Leaves in the order of the traversal, and the names of custom functions, sorted.
    Example:
        >>> import torch
        >>> weight = torch.ones(2, requires_grad=True)
        >>> reached(weight.square().sum()).leaves[0] is weight
        True
    """
    pending, seen = [value.grad_fn], {value.grad_fn}
    leaves: dict[int, Tensor] = {}
    custom: set[str] = set()
    while pending:
        node = pending.pop()
        if node is None:
            continue
        variable = getattr(node, "variable", None)  # of the nodes that accumulate a gradient, and of no other
        if isinstance(variable, Tensor):
            leaves[id(variable)] = variable
        if isinstance(node, BackwardCFunction) and getattr(node, "_forward_cls", node).__module__ != "thalweg.curvature.head":
            custom.add(type(node).__name__.removesuffix("Backward"))
        for successor, _ in node.next_functions:
            if successor is not None and successor not in seen:
                seen.add(successor)
                pending.append(successor)
    if value.is_leaf and value.requires_grad:
        leaves[id(value)] = value
    return Reached(tuple(leaves.values()), tuple(sorted(custom)))


def captured(leaves: tuple[Tensor, ...], own: Mapping[str, Tensor]) -> list[str]:
    """Names of the module's own weights among the leaves of a loss, which reads them instead of the weights that it was given."""
    identities = {id(leaf) for leaf in leaves}
    return [name for name, weight in own.items() if id(weight) in identities]
