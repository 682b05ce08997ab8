"""Number of parameters and of floating-point operations.

Counted are the matrix products (projections, attention scores and mixing over the full L x L square, MLP, head), with two
operations per multiply-add. The backward pass has two products for each product of the forward pass. Not counted are elementwise
operations (norms, ``loop_norm`` too, gains, scale and sum of residual branches, injection, softmax, GELU, embedding look-up, loss,
optimizer) and what a fused attention kernel recomputes in its backward pass. Every pass counts, also one with a gain of zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from thalweg.bounds import named_arguments
from thalweg.errors import require
from thalweg.models.config import ModelConfig


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (FLOPs) of one call."""

    per_pass: float
    """Operations of one pass of the stack."""
    head: float
    """Operations of the head, once per call."""
    loops: float
    """Number of passes; their mean if every sequence has its own number."""
    ends: float = 0.0
    """Operations of prelude and coda, once per call."""

    @property
    def forward(self) -> float:
        """Operations of a forward call, ``loops * per_pass + head + ends``."""
        return self.loops * self.per_pass + self.head + self.ends

    @property
    def training_step(self) -> float:
        """Operations of forward and backward, three times those of the forward call."""
        return 3 * self.forward


@named_arguments
def cost(config: ModelConfig, batch: int, length: int, loops: float = 1) -> Cost:
    """Count the operations of a call on ``(batch, length)`` tokens.

    Args:
        config: the model.
        batch: number of sequences.
        length: number of input tokens of each.
        loops: number of passes, or their mean.

    Raises:
        BadInputError: no config, a number below 1, or more tokens than the model has learned positions for.
    Example:
        >>> small = ModelConfig(vocabulary=16, width=8)
        >>> cost(small, batch=1, length=2).forward  # 2*2*8*24 projections, 2 * 2*2*2*8 attention, 2*2*8*16 head
        1408.0
    """
    require(isinstance(config, ModelConfig), "config", config, "a ModelConfig, such as the `config` of a LoopedTransformer")
    require(batch >= 1 and length >= 1, "batch and length", (batch, length), "at least 1 each")
    require(loops >= 1, "loops", loops, "at least 1")
    longest = config.length if config.positions == "learned" else math.inf
    require(
        length <= longest, "length", length, f"at most {config.length} tokens, for which the model has positions (model.length)"
    )
    tokens, width = batch * length, config.width
    block = 2 * tokens * width * 3 * width + 2 * (2 * batch * length * length * width)
    if config.block == "gpt":
        block += 2 * tokens * width * width + 2 * (2 * tokens * width * config.expansion * width)
    head = 2 * tokens * width * config.vocabulary
    return Cost(float(config.layers * block), float(head), loops, float((config.prelude + config.coda) * block))


def parameters(model: nn.Module) -> int:
    """Number of trainable parameters of a model; tied weights count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
