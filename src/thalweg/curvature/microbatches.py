"""Batches in pieces that stay in the cache, where the loss adds up over samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.curvature.objective import Objective, quiet

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest relative distance between the gradient of a batch and the sum over its pieces."""


def microbatches(objective: Objective, samples: int = 64) -> tuple[list[Any], str]:
    """The batches cut into pieces of about ``samples`` samples, or as they are, and which in words.

    All tensors of a batch with one leading dimension are cut alike. Whether the loss adds up over samples cannot be known from
    outside (a contrastive loss does not), so the pieces' gradients are compared with the whole's.
    """
    cut = [pieces(batch, samples) for batch in objective.batches]
    if objective.bare or all(len(part) == 1 for part in cut):
        return objective.batches, f"{len(objective.batches)} batches as given"
    flat = [piece for part in cut for piece in part]
    summed = torch.zeros_like(objective.point)
    with quiet(objective.model):
        for piece in flat:
            leaf = objective.point.clone().requires_grad_()
            summed += torch.autograd.grad(objective.part(piece, objective.layout.split(leaf))[0], leaf)[0]
    apart = float((summed * objective.weight - objective.gradient).norm() / objective.gradient.norm().clamp_min(1e-30))
    if apart > TOLERANCE[objective.dtype]:
        return objective.batches, f"{len(objective.batches)} batches as given (the loss does not add up over samples)"
    return flat, f"{len(flat)} pieces of at most {samples} samples"


def pieces(batch: Any, samples: int) -> list[Any]:
    """The batch cut along its leading dimension, or itself where its tensors do not share one."""
    leaves, form = pytree.tree_flatten(batch)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    sizes = {leaf.shape[0] if leaf.dim() else 0 for leaf in tensors}
    if len(sizes) != 1 or max(sizes) <= samples:
        return [batch]
    parts = [leaf.split(samples) if isinstance(leaf, Tensor) else None for leaf in leaves]
    count = -(-max(sizes) // samples)
    cut = [[part[i] if part is not None else leaf for part, leaf in zip(parts, leaves, strict=True)] for i in range(count)]
    return [pytree.tree_unflatten(piece, form) for piece in cut]
