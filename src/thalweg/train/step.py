"""One update: forward, loss, backward, clip, step.

Shape letters: B batch, L tokens of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg import ranks
from thalweg.data.batches import Tokens
from thalweg.data.task_data import IGNORED, Examples
from thalweg.shift.onset import Handover
from thalweg.train.config import OptimizerConfig

Gains = Sequence[float] | Tensor | None
_Backward = Callable[["Batch", int, Gains], Tensor]
"""Batch, loops and gains -> mean loss, with its gradients left in the parameters in place of any others."""


@dataclass(frozen=True)
class Outcome:
    """What one update showed: ``loss`` in nats per token and the gradient's norm, both before the update, mean over ranks."""

    loss: float
    grad_norm: float

    @property
    def finite(self) -> bool:
        """Whether both are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def next_token_loss(model: Callable[..., Tensor], tokens: Tensor, loops: int, gains: Gains = None) -> Tensor:
    """Mean cross-entropy in nats of every next token of ``(B, L)``."""
    logits = model(tokens[:, :-1], loops=loops, gains=gains)
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@dataclass(frozen=True)
class TaskBatch:
    """Samples of an algorithmic task: inputs and targets ``(B, L)`` on the device, passes that each needs ``(B,)`` on the CPU."""

    inputs: Tensor
    targets: Tensor
    """`IGNORED` where nothing is asked."""
    loops: Tensor

    def capped(self, cap: int) -> Tensor:
        """Passes of each sample when none has more than ``cap``."""
        return self.loops.clamp(max=cap)


Batch = Tensor | TaskBatch
"""Tokens ``(B, L)`` whose every next token is a target, or samples of a task."""


def on_device(made: Tokens | Examples, device: torch.device) -> Batch:
    """A batch as tensors."""
    if isinstance(made, Examples):
        inputs, targets = (torch.from_numpy(part).to(device, non_blocking=True) for part in (made.inputs, made.targets))
        return TaskBatch(inputs, targets, torch.from_numpy(made.loops))
    return torch.from_numpy(made).to(device, non_blocking=True)


def answer_loss(model: Callable[..., Tensor], batch: TaskBatch, loops: int, gains: Gains = None) -> Tensor:
    """Mean cross-entropy in nats of all positions that are asked, each sample after its own passes, ``loops`` at most."""
    passes = batch.capped(loops)
    logits = model(batch.inputs, loops=passes, gains=None if gains is None else gains[: int(passes.max())])
    return asked_loss(logits, batch.targets)


def asked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of all positions that are asked, from logits ``(B, L, V)`` and targets ``(B, L)``."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def mean_loss(model: Callable[..., Tensor], batch: Batch, loops: int, gains: Gains = None) -> Tensor:
    """What is trained on: `next_token_loss` of tokens, `answer_loss` of samples of a task."""
    return (next_token_loss if isinstance(batch, Tensor) else answer_loss)(model, batch, loops, gains)  # type: ignore[arg-type]


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
) -> Outcome:
    """Make one update in place; nothing is changed when loss or gradient are not finite.

    Loss and norm are read in one transfer, where a GPU is waited for. ``backward`` makes loss and gradients in
    place of the model where it is given, see `thalweg.train.graphs`.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if backward is None:
        optimizer.zero_grad(set_to_none=True)
        loss = mean_loss(model, batch, loops, gains)
        loss.backward()
    else:
        loss = backward(batch, loops, gains)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    outcome = Outcome(*ranks.mean(torch.stack((loss.detach(), norm))).tolist())
    if outcome.finite:
        if 0 < clip < outcome.grad_norm:
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        optimizer.step()
    return outcome


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer with groups for what has a rate or a decay of its own.

    PyTorch's fused kernels: the same arithmetic in one pass over the weights.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = config.value_rate if name.endswith("attention.value.weight") else 1.0
        decay = config.weight_decay if parameter.dim() >= 2 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    made = [{"params": ps, "weight_decay": decay, "rate_factor": factor} for (factor, decay), ps in groups.items()]
    if config.name == "adamw":
        return torch.optim.AdamW(made, lr=config.rate, betas=(config.beta1, config.beta2), fused=True)
    return torch.optim.SGD(made, lr=config.rate, momentum=config.momentum, fused=True)


def hand_over(optimizer: torch.optim.Optimizer, handover: Handover) -> None:
    """Do at a switch what is asked of the optimizer's running means; a reset forgets how many updates they hold, too."""
    if handover.moments == "keep":
        return
    factor = 0.0 if handover.moments == "reset" else handover.moments_factor
    for state in optimizer.state.values():
        for name, value in state.items():
            if name == "step":
                value.mul_(0 if handover.moments == "reset" else 1)
            elif isinstance(value, Tensor):
                value.mul_(factor**2 if name == "exp_avg_sq" else factor)
