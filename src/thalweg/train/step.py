"""One update: forward, loss, backward, clipping, optimizer step.

Shape letters: B batch, L tokens of a sequence, V vocabulary, T passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg import ranks
from thalweg.curvature.sharded import whole
from thalweg.data.batches import Tokens
from thalweg.data.task_data import IGNORED, Examples
from thalweg.shift.onset import Handover
from thalweg.train.averaging import average
from thalweg.train.config import OptimizerConfig
from thalweg.train.muon import MuonWithAdamW, is_hidden_matrix

Gains = Sequence[float] | Tensor | None
"""Gain of each pass, T numbers; None if all are 1."""
_Backward = Callable[["Batch", int, Gains], Tensor]
"""(batch, loops, gains) -> mean loss; replaces the gradients in the parameters."""


@dataclass(frozen=True)
class Outcome:
    """Result of one update: loss and gradient norm of the whole batch before the update, equal on every rank."""

    loss: float
    """Mean loss of the batch in nats per token."""
    grad_norm: float
    """Euclidean norm of the gradient over all parameters, before clipping."""

    @property
    def finite(self) -> bool:
        """Whether loss and gradient norm are both finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def next_token_loss(model: Callable[..., Tensor], tokens: Tensor, loops: int, gains: Gains = None) -> Tensor:
    """Mean cross-entropy in nats of predicting every next token of ``(B, L)`` sequences, ``L - 1`` targets each."""
    logits = model(tokens[:, :-1], loops=loops, gains=gains)
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@dataclass(frozen=True)
class TaskBatch:
    """Samples of an algorithmic task as tensors."""

    inputs: Tensor
    """``(B, L)`` on the device."""
    targets: Tensor
    """``(B, L)`` on the device; `IGNORED` where there is no target."""
    loops: Tensor
    """Number of passes of each sample, ``(B,)`` on the CPU."""
    share: float = 1.0
    """Share of the targets of the whole batch that these samples have; below 1 if ranks share the batch."""
    whole: Tensor | None = None
    """Number of passes of each sample of the whole batch; None if these samples are the whole batch."""

    def capped(self, cap: int) -> Tensor:
        """Number of passes of each sample, at most ``cap``."""
        return self.loops.clamp(max=cap)

    def mean_passes(self, cap: int) -> float:
        """Mean number of passes, at most ``cap`` each, over the samples of the whole batch."""
        return self._of_all().clamp(max=cap).double().mean().item()

    def most_passes(self, cap: int) -> int:
        """Largest number of passes, at most ``cap``, of the samples of the whole batch."""
        return min(cap, int(self._of_all().max()))

    def _of_all(self) -> Tensor:
        """Number of passes of each sample of the whole batch."""
        return self.loops if self.whole is None else self.whole


Batch = Tensor | TaskBatch
"""Sequences ``(B, L)`` in which every next token is a target, or samples of an algorithmic task."""


def on_device(batch: Tokens | Examples, device: torch.device) -> Batch:
    """Convert a batch of numpy arrays to tensors on a device."""
    if isinstance(batch, Examples):
        inputs, targets = (torch.from_numpy(part).to(device, non_blocking=True) for part in (batch.inputs, batch.targets))
        return TaskBatch(inputs, targets, torch.from_numpy(batch.loops))
    return torch.from_numpy(batch).to(device, non_blocking=True)


def part_of(batch: Tokens | Examples, rank: int, world: int, device: torch.device) -> Batch:
    """The samples ``rank``, ``rank + world``, ... of a whole batch on a device; samples of a task know what share they are.

    Samples of a task are sorted by length. Taken in turn, every rank gets about the same lengths and the same work.
    """
    if not isinstance(batch, Examples):
        return on_device(batch[rank::world], device)
    own = Examples(*(part[rank::world] for part in (batch.inputs, batch.targets, batch.lengths, batch.loops)))
    share = float((own.targets != IGNORED).sum() / (batch.targets != IGNORED).sum())
    samples = on_device(own, device)
    assert isinstance(samples, TaskBatch)
    return replace(samples, share=share, whole=torch.from_numpy(batch.loops))


def answer_loss(model: Callable[..., Tensor], batch: TaskBatch, loops: int, gains: Gains = None, all_ranks: bool = False) -> Tensor:
    """Mean cross-entropy in nats over all targets of a task's samples, each sample after its own number of passes.

    Args:
        model: called as ``model(inputs, loops=, gains=)``.
        batch: the samples.
        loops: largest number of passes.
        gains: gain of each of ``loops`` passes; None for gains of 1.
        all_ranks: whether every rank computes the passes of the whole batch, the last of them without sequences.
    """
    capped = batch.capped(loops)
    passes = batch.most_passes(loops) if all_ranks else int(capped.max())
    more = {"passes": passes} if all_ranks else {}
    logits = model(batch.inputs, loops=capped, gains=None if gains is None else gains[:passes], **more)
    return target_loss(logits, batch.targets)


def target_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats over all positions with a target, from logits ``(B, L, V)`` and targets ``(B, L)``."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def mean_loss(model: Callable[..., Tensor], batch: Batch, loops: int, gains: Gains = None, all_ranks: bool = False) -> Tensor:
    """The training loss: `next_token_loss` of sequences, `answer_loss` of samples of a task."""
    if isinstance(batch, Tensor):
        return next_token_loss(model, batch, loops, gains)
    return answer_loss(model, batch, loops, gains, all_ranks)


class InBFloat16:
    """A model that computes its matrix products in bfloat16, by autocast; logits and the gradients of the weights are float32.

    Autocast keeps no cast weights: each pass casts them anew, so that the gradients of the passes are added in float32.

    Args:
        model: called as ``model(tokens, loops=, gains=)``; compiled or not.
        device: of the model.
    """

    def __init__(self, model: Callable[..., Tensor], device: torch.device) -> None:
        self.model, self.device = model, device

    def __call__(self, tokens: Tensor, **options: Any) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            return self.model(tokens, **options).float()

    def forward_masked(self, tokens: Tensor, loops: Tensor, passes: int, gains: Gains = None) -> Tensor:
        """As `thalweg.models.looped.LoopedTransformer.forward_masked`."""
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            return self.model.forward_masked(tokens, loops, passes, gains).float()  # type: ignore[attr-defined]


def train_step(
    model: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    loops: int,
    gains: Gains,
    rate: float,
    clip: float,
    backward: _Backward | None = None,
    share: float | None = None,
    averaged: bool = False,
) -> Outcome:
    """Make one update of the model in place; without effect if loss or gradient are not finite.

    Under a process group the batch is this rank's part of the whole batch, and all ranks make the update of the whole batch.

    Args:
        model: called as ``model(tokens, loops=, gains=)``.
        optimizer: from `make_optimizer`.
        batch: sequences, or samples of a task, on the model's device.
        loops: number of passes; of a task, the largest number.
        gains: gain of each pass; None for gains of 1.
        rate: learning rate.
        clip: largest norm of the gradient; 0 for no clipping.
        backward: computes loss and gradients in place of the model, see `thalweg.train.graphs`.
        share: share of the whole batch's targets that are in this rank's batch; None for equal shares.
        averaged: whether ``backward`` gives loss and gradients of the whole batch, not of this rank's part.
    Returns:
        Loss and gradient norm before the update. Both are read in one transfer, the only point that waits for a GPU.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if backward is None:
        optimizer.zero_grad(set_to_none=True)
        loss = mean_loss(model, batch, loops, gains)
        loss.backward()
    else:
        loss = backward(batch, loops, gains)
    if ranks.world() > 1 and not averaged:
        loss = average(loss, parameters, 1 / ranks.world() if share is None else share)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    outcome = Outcome(*torch.stack((loss.detach(), whole(norm))).tolist())
    if outcome.finite:
        if 0 < clip < outcome.grad_norm:
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        optimizer.step()
    return outcome


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer, with parameter groups for value weights (their own rate) and vectors (no weight decay).

    PyTorch's fused kernels are used: the same arithmetic in one pass over the weights.

    Raises:
        BadInputError: "muon" with a version of PyTorch that has none.
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = config.value_rate if name.endswith("attention.value.weight") else 1.0
        decay = config.weight_decay if parameter.dim() >= 2 else 0.0
        groups.setdefault((factor, decay, config.name == "muon" and is_hidden_matrix(name, parameter)), []).append(parameter)
    options: list[dict] = [
        {"params": ps, "weight_decay": decay, "rate_factor": factor, "muon": muon} for (factor, decay, muon), ps in groups.items()
    ]
    if config.name == "muon":
        return MuonWithAdamW(options, lr=config.rate, betas=(config.beta1, config.beta2))
    if config.name == "adamw":
        return torch.optim.AdamW(options, lr=config.rate, betas=(config.beta1, config.beta2), fused=True)
    return torch.optim.SGD(options, lr=config.rate, momentum=config.momentum, fused=True)


def hand_over(optimizer: torch.optim.Optimizer, handover: Handover) -> None:
    """Apply a handover to the optimizer's running means: keep, reset (with their step count), or scale them."""
    if handover.moments == "keep":
        return
    factor = 0.0 if handover.moments == "reset" else handover.moments_factor
    for state in optimizer.state.values():
        for name, value in state.items():
            if name == "step":
                value.mul_(0 if handover.moments == "reset" else 1)
            elif isinstance(value, Tensor):
                value.mul_(factor**2 if name == "exp_avg_sq" else factor)
