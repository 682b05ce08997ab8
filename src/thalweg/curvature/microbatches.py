"""Batches in pieces that stay in the cache, where the loss adds up over samples."""

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


def microbatches(objective: Objective, samples: int = 64) -> tuple[list[Any], str]:
    """The batches cut into pieces of about ``samples`` samples, or as they are, and which in words.

    All tensors of a batch with one leading dimension are cut alike. Whether the loss adds up over samples cannot be known from
    outside (a contrastive loss does not, a graph cannot be cut), so gradients and products of the pieces are compared with those of
    the whole.
    """
    given = objective.batches, f"{len(objective.batches)} batches as given"
    if objective.is_bare_mean:
        return given
    cut = [pieces(batch, samples) for batch in objective.batches]
    if all(len(part) == 1 for part in cut):
        return given
    flat = [piece for part in cut for piece in part]
    point, both = objective.point, (objective.batches, flat)
    direction = scales(objective) * signs(objective.dim, 0, 3, point)
    try:
        with objective.quiet():
            whole, parts = (_summed(objective.twice_differentiated(one, point, direction) for one in of) for of in both)
            gradients, pieced = (_summed(objective.gradient_of(one, point) for one in of) for of in both)
    except (RuntimeError, ValueError, IndexError, TypeError, ThalwegError) as problem:
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        return given[0], f"{given[1]} (the loss cannot be evaluated on pieces: {lines[0]})"
    pairs = ((parts, whole), (pieced, gradients))
    if any(not float((a - b).norm()) <= _TOLERANCE[objective.dtype] * float(b.norm()) for a, b in pairs):
        return given[0], f"{given[1]} (the loss does not add up over samples)"
    return flat, f"{len(flat)} pieces of at most {samples} samples"


def _summed(parts: Iterable[Tensor]) -> Tensor:
    """The sum of vectors ``(P,)``."""
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
