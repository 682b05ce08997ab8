"""Batches cut into pieces that fit into the cache, where the loss is a sum over samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from thalweg.curvature.check import scales, signs
from thalweg.curvature.containers import map_tensors, tensors_in
from thalweg.curvature.objective import Objective
from thalweg.errors import ThalwegError

_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest relative distance between a product with a batch and the sum of those with its pieces."""


_APART = 0.03
"""Distance of the second point at which gradients are compared, in units of the weights' size."""


def microbatches(objective: Objective, samples: int = 64, products: bool = True) -> tuple[list[Any], str]:
    """The batches cut into pieces of at most ``samples`` samples, if the loss is a sum over samples; else as they are.

    All tensors of a batch that share their leading dimension are cut alike. Whether the loss adds up over samples cannot be known
    in advance (a contrastive loss does not, a graph cannot be cut). So the gradient and one product ``H v`` summed over the pieces
    are compared with those of the batches. A bare mean does not add up and is never cut. Where a product with a whole batch would
    not fit into memory, ``products=False`` compares gradients at two points instead.

    Args:
        objective: the loss and its batches.
        samples: largest number of samples in a piece.
        products: whether products with whole batches are compared.
    Returns:
        The pieces or the batches, and a phrase that says which and why.
    """
    as_given = objective.batches, f"{len(objective.batches)} batches as given"
    if objective.is_bare_mean:
        return as_given
    cut = [pieces(batch, samples) for batch in objective.batches]
    if all(len(part) == 1 for part in cut):
        return as_given
    flat = [piece for part in cut for piece in part]
    point, divisions = objective.point, (objective.batches, flat)
    direction = scales(objective) * signs(objective.dim, 0, 3, point)
    try:
        with objective.quiet():
            product, from_pieces = (
                _summed(
                    objective.twice_differentiated(batch, point, direction)
                    if products
                    else objective.gradient_of(batch, point + _APART * direction)
                    for batch in parts
                )
                for parts in divisions
            )
            gradient, gradients_from_pieces = (
                _summed(objective.gradient_of(batch, point) for batch in parts) for parts in divisions
            )
    except (RuntimeError, ValueError, IndexError, TypeError, ThalwegError) as problem:
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        return as_given[0], f"{as_given[1]} (the loss cannot be evaluated on pieces: {lines[0]})"
    pairs = ((from_pieces, product), (gradients_from_pieces, gradient))
    if any(not float((a - b).norm()) <= _TOLERANCE[objective.dtype] * float(b.norm()) for a, b in pairs):
        return as_given[0], f"{as_given[1]} (the loss does not add up over samples)"
    return flat, f"{len(flat)} pieces of at most {samples} samples"


def _summed(parts: Iterable[Tensor]) -> Tensor:
    """The sum ``(P,)`` of vectors ``(P,)``."""
    return torch.stack(list(parts)).sum(0)


def pieces(batch: Any, samples: int) -> list[Any]:
    """The batch cut along its leading dimension, or itself where its tensors do not share one."""
    tensors = tensors_in(batch)
    if any(tensor.layout != torch.strided or tensor.is_nested for tensor in tensors):
        return [batch]
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors}
    if len(sizes) != 1 or max(sizes) <= samples:
        return [batch]
    starts = range(0, max(sizes), samples)
    return [map_tensors(lambda tensor, start=start: tensor[start : start + samples], batch) for start in starts]
