"""Fully sharded data parallelism: every rank keeps a part of each weight, gradient and moment (PyTorch's ``fully_shard``, FSDP2).

The model is one unit: its weights are gathered once for the forward and backward pass of an update, whatever the number of passes
T, as all passes use the same weights. The gradients are reduced to parts once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from thalweg import ranks
from thalweg.curvature.graph import reached
from thalweg.curvature.sharded import is_sharded, without_gathering
from thalweg.errors import require
from thalweg.train.config import RunConfig
from thalweg.train.step import Batch, Gains, mean_loss

Parallel = Literal["ddp", "fsdp"]
"""What a rank keeps: all weights ("ddp", data parallelism), or its part of them ("fsdp")."""


def shard(model: nn.Module, config: RunConfig) -> None:
    """Shard a model over all ranks, in place.

    Raises:
        BadInputError: the run uses Muon, whose updates need whole matrices, or a compiled model.
    """
    require(config.optimizer.name != "muon", "optimizer.name", "muon", "adamw or sgd with --parallel fsdp")
    require(not config.training.compile, "training.compile", True, "false with --parallel fsdp")
    from torch.distributed.fsdp import fully_shard

    fully_shard(model)


def backward(model: nn.Module, forward: Callable[..., Tensor], batch: Batch, loops: int, gains: Gains, share: float) -> Tensor:
    """Replace the gradients in a sharded model by its parts of the whole batch's gradient, and return the whole batch's loss.

    A weight that this rank does not use but another one does, such as the gain of a pass that only longer samples need, gets a
    gradient of 0 here, as the ranks reduce the same gradients together. A weight that no rank uses keeps no gradient.

    Args:
        model: a sharded `thalweg.models.looped.LoopedTransformer`.
        forward: computes the model's logits, perhaps in another precision.
        batch: this rank's part of the batch.
        loops: number of passes; of a task, the largest number.
        gains: gain of each pass; None for gains of 1.
        share: share of the whole batch's targets that are in this rank's part.
    Raises:
        LostRankError: another rank cannot be reached.
    """
    model.zero_grad(set_to_none=True)
    loss = mean_loss(forward, batch, loops, gains)
    leaves = {id(leaf) for leaf in reached(loss).leaves}
    whole = list(model.parameters())  # gathered by the forward pass
    used = torch.tensor([id(weight) in leaves for weight in whole], dtype=torch.float32)
    somewhere = ranks.total(used)
    unused_here = [weight for weight, here, there in zip(whole, used, somewhere, strict=True) if there and not here]
    scaled = loss * (share * ranks.world())  # the ranks' gradients are averaged
    with ranks.reaching():
        sum((0.0 * weight.sum() for weight in unused_here), scaled).backward()
    return ranks.total(loss.detach() * share)


@contextlib.contextmanager
def forward_alone(model: nn.Module) -> Iterator[None]:
    """Inside, each rank may call a sharded model as often as it likes: the weights are gathered before, by all ranks together.

    No effect on a model that is not sharded.
    """
    if not is_sharded(model):
        yield
        return
    with ranks.reaching():
        model.unshard()  # type: ignore[operator]
    try:
        with without_gathering(model):
            yield
    finally:
        model.reshard()  # type: ignore[operator]
