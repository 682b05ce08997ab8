"""Parameters and floating-point operations, saying what is counted.

Counted: the matrix products (projections, attention scores and mixing over the full L x L square, MLP, head), with two
operations per multiply-add. A backward pass is two products for each product of the forward pass. Not counted: everything
element by element (norms, ``loop_norm`` too, gains, the scale and sum of residual branches, injection, softmax, GELU, embedding
look-up, loss, optimizer), and what a fused attention kernel computes again in its backward pass. Every pass counts, those at a
gain of zero too.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from thalweg.errors import require
from thalweg.models.config import ModelConfig


@dataclass(frozen=True)
class Cost:
    """Operations of one call, in floating-point operations (FLOPs)."""

    per_pass: float
    """One pass of the stack."""
    head: float
    """The head, once per call."""
    loops: float
    """Passes; the mean, where every sequence has its own."""

    @property
    def forward(self) -> float:
        """One forward call."""
        return self.loops * self.per_pass + self.head

    @property
    def training_step(self) -> float:
        """Forward and backward."""
        return 3 * self.forward


def cost(config: ModelConfig, batch: int, length: int, loops: float = 1) -> Cost:
    """The counted operations of a call on ``(batch, length)`` tokens.

    Example:
        >>> small = ModelConfig(vocabulary=16, width=8)
        >>> cost(small, batch=1, length=2).forward  # 2*2*8*24 projections, 2 * 2*2*2*8 attention, 2*2*8*16 head
        1408.0
    """
    require(loops >= 1, "loops", loops, "at least 1")
    tokens, width = batch * length, config.width
    block = 2 * tokens * width * 3 * width + 2 * (2 * batch * length * length * width)
    if config.block == "gpt":
        block += 2 * tokens * width * width + 2 * (2 * tokens * width * config.expansion * width)
    return Cost(float(config.layers * block), float(2 * tokens * width * config.vocabulary), loops)


def parameters(model: nn.Module) -> int:
    """Trainable numbers; tied weights count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
