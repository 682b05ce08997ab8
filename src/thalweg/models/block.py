"""The sublayers that one pass applies: attention alone, or attention and MLP.

Shape letters: B batch, L length, D width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from thalweg.models.attention import Attention, Fused
from thalweg.models.config import ModelConfig


def norm(config: ModelConfig) -> nn.Module:
    """The normalisation before a sublayer; nothing at all for ``norm = "none"``."""
    return nn.LayerNorm(config.width, bias=config.block == "gpt") if config.norm == "pre" else nn.Identity()


class AttentionBlock(nn.Module):
    """``e + attn(norm(e))``: the paper's attention-only model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = norm(config), Attention(config)

    def forward(self, states: Tensor, fused: Fused, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        return states + self.attention(self.attention_norm(states), fused, rotation)


class GPTBlock(AttentionBlock):
    """GPT-2's block: attention, then an MLP with the tanh form of GELU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.mlp_norm = norm(config)
        self.up = nn.Linear(config.width, config.expansion * config.width)
        self.down = nn.Linear(config.expansion * config.width, config.width)

    def forward(self, states: Tensor, fused: Fused, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        states = super().forward(states, fused, rotation)
        return states + self.down(functional.gelu(self.up(self.mlp_norm(states)), approximate="tanh"))
