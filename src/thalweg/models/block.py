"""The sublayers that one pass applies: attention alone, or attention and MLP.

Shape letters: B batch, L length, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.models.attention import Attention, Fused
from thalweg.models.config import ModelConfig


def norm(config: ModelConfig) -> nn.Module:
    """The normalisation before a sublayer; nothing at all for ``norm = "none"``."""
    return layer_norm(config) if config.norm == "pre" else nn.Identity()


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """LayerNorm over the width, with a bias where the family has biases."""
    return nn.LayerNorm(config.width, bias=config.block == "gpt")


class AttentionBlock(nn.Module):
    """``e + attn(norm(e)) / sqrt(residual_loops)``: at 1 the paper's attention-only model.

    Source:
        The scale: depth-muP, arXiv 2310.02244, for independent layers. Passes with the same weights are not independent, so that
        their sum may still grow with T, as its root rather than in proportion.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.branch_scale = config.branch_scale
        self.attention_norm, self.attention = norm(config), Attention(config)

    def forward(self, states: Tensor, fused: Fused, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        return self.joined(states, self.attention(self.attention_norm(states), fused, rotation))

    def joined(self, states: Tensor, branch: Tensor) -> Tensor:
        """The residual stream after a branch, in one operation with or without a scale."""
        return states + branch if self.branch_scale == 1 else torch.add(states, branch, alpha=self.branch_scale)


class GPTBlock(AttentionBlock):
    """GPT-2's block: attention, then an MLP with the tanh form of GELU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.mlp_norm = norm(config)
        self.up = nn.Linear(config.width, config.expansion * config.width)
        self.down = nn.Linear(config.expansion * config.width, config.width)

    def forward(self, states: Tensor, fused: Fused, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        states = super().forward(states, fused, rotation)
        return self.joined(states, self.down(functional.gelu(self.up(self.mlp_norm(states)), approximate="tanh")))
