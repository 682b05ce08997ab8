"""Fully sharded data parallelism: every rank keeps a part of each weight, gradient and moment (PyTorch's ``fully_shard``, FSDP2).

Every block is a unit, and the rest of the model (embeddings, final norm, head, learned gains) is one more. The weights of a block
are gathered for each of its calls and freed after it, in the forward and in the backward pass: T times each for a looped block.
A model of one block is one unit, whose weights are gathered once for all passes. A gradient is reduced to parts once in an update,
after the first pass, as autograd adds up those of all passes before it hands over the sum. So a rank holds, besides its own parts,
the weights of two blocks (one is computed, the next is gathered), those of the rest, and with several passes its whole gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

from torch import Tensor, nn

from thalweg import ranks
from thalweg.curvature.sharded import units, without_gathering
from thalweg.errors import require
from thalweg.models.looped import LoopedTransformer
from thalweg.train.config import RunConfig
from thalweg.train.step import Batch, Gains, mean_loss

Parallel = Literal["ddp", "fsdp"]
"""What a rank keeps: all weights ("ddp", data parallelism), or its part of them ("fsdp")."""


def shard(model: LoopedTransformer, config: RunConfig) -> None:
    """Shard a model over all ranks, in place.

    Raises:
        BadInputError: the run uses Muon, whose updates need whole matrices, or a compiled model.
    """
    require(config.optimizer.name != "muon", "optimizer.name", "muon", "adamw or sgd with --parallel fsdp")
    require(not config.training.compile, "training.compile", True, "false with --parallel fsdp")
    from torch.distributed.fsdp import fully_shard

    blocks = [*model.prelude, *model.blocks, *model.coda]
    if len(blocks) > 1:
        model.joins_weights = False  # a joined copy would outlive the call of its block
        for block in blocks:
            fully_shard(block)
    fully_shard(model)


def backward(model: nn.Module, forward: Callable[..., Tensor], batch: Batch, loops: int, gains: Gains, share: float) -> Tensor:
    """Replace the gradients in a sharded model by its parts of the whole batch's gradient, and return the whole batch's loss.

    Every rank makes the passes of the whole batch, without sequences where its own need fewer, as a block is gathered and its
    gradient is reduced by all ranks together. A weight that no pass uses keeps no gradient.

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
    with ranks.reaching():
        loss = mean_loss(forward, batch, loops, gains, all_ranks=True)
        (loss * (share * ranks.world())).backward()  # the ranks' gradients are averaged
    return ranks.total(loss.detach() * share)


@contextlib.contextmanager
def forward_alone(model: nn.Module) -> Iterator[None]:
    """Inside, each rank may call a sharded model as often as it likes: the weights are gathered before, by all ranks together.

    No effect on a model that is not sharded.
    """
    with ranks.reaching():
        for unit in units(model):
            unit.unshard()  # type: ignore[operator]
    try:
        with without_gathering(model):
            yield
    finally:
        for unit in units(model):
            unit.reshard()  # type: ignore[operator]
