"""The blocks of a looped transformer: attention alone, or attention and MLP.

Shape letters: B batch, L length, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.models.attention import Attention, Fused
from thalweg.models.config import ModelConfig


def norm(config: ModelConfig) -> nn.Module:
    """The normalisation before a sublayer: LayerNorm, or the identity for ``norm = "none"``."""
    return layer_norm(config) if config.norm == "pre" else nn.Identity()


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """LayerNorm over the width; with a bias in the "gpt" block, whose linear maps have biases too."""
    return nn.LayerNorm(config.width, bias=config.block == "gpt")


class AttentionBlock(nn.Module):
    """Residual attention ``e + attn(norm(e)) / sqrt(residual_loops)``; with ``residual_loops`` 1 the paper's attention-only model.

    Source:
        arXiv 2510.10089, section 3. The scale 1 / sqrt(T) follows depth-muP, arXiv 2310.02244, which derives it for independent
        layers. The passes of a loop share their weights and are not independent: the sum of T branches can still grow like
        sqrt(T), instead of like T.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.branch_scale = config.branch_scale
        self.attention_norm, self.attention = norm(config), Attention(config)

    def forward(self, states: Tensor, fused: Fused | None, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        return self.joined(states, self.attention(self.attention_norm(states), fused, rotation))

    def joined(self, states: Tensor, branch: Tensor) -> Tensor:
        """Add a branch to the residual stream, scaled if ``residual_loops`` is above 1."""
        return states + branch if self.branch_scale == 1 else torch.add(states, branch, alpha=self.branch_scale)


class GPTBlock(AttentionBlock):
    """The block of GPT-2: residual attention, then a residual MLP with the tanh approximation of GELU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.mlp_norm = norm(config)
        self.up = nn.Linear(config.width, config.expansion * config.width)
        self.down = nn.Linear(config.expansion * config.width, config.width)

    def forward(self, states: Tensor, fused: Fused | None, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        states = super().forward(states, fused, rotation)
        return self.joined(states, self.down(functional.gelu(self.up(self.mlp_norm(states)), approximate="tanh")))
