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
from thalweg.shift.onset import Handover
from thalweg.train.config import OptimizerConfig

Gains = Sequence[float] | Tensor | None


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


def train_step(
    model: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    tokens: Tensor,
    *,
    loops: int,
    gains: Gains,
    rate: float,
    clip: float,
) -> Outcome:
    """Make one update in place; nothing is changed when loss or gradient are not finite.

    Loss and norm are read in one transfer, the only point where a GPU is waited for.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    loss = next_token_loss(model, tokens, loops, gains)
    loss.backward()
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
