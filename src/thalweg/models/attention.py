"""Causal self-attention, softmax or linear.

Shape letters: B batch, L length, D width, H heads, K = D / H width per head.

Query, key and value keep weights of their own (the theory and the controls speak of W_Q, W_K and W_V), but are applied as
one matrix product: `Attention.fused` joins them once per forward pass, however many loops follow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.models.config import ModelConfig

Fused = tuple[Tensor, Tensor | None]
"""Joined weight ``(3 D, D)`` and bias ``(3 D,)`` of query, key and value."""


class Attention(nn.Module):
    """``(B, L, D) -> (B, L, D)``; position i sees positions 0..i."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        gpt = config.block == "gpt"
        self.heads, self.kind = config.heads, config.attention
        self.query = nn.Linear(config.width, config.width, bias=gpt)
        self.key = nn.Linear(config.width, config.width, bias=gpt)
        self.value = nn.Linear(config.width, config.width, bias=gpt)
        self.output = nn.Linear(config.width, config.width) if gpt else None

    def fused(self) -> Fused:
        """Weight and bias of the three projections as one."""
        parts = (self.query, self.key, self.value)
        bias = None if self.query.bias is None else torch.cat([part.bias for part in parts])
        return torch.cat([part.weight for part in parts]), bias

    def forward(self, states: Tensor, fused: Fused, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        batch, length, width = states.shape
        parts = functional.linear(states, *fused).split(width, dim=-1)
        query, key, value = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)  # each (B, H, L, K)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if self.kind == "softmax":
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            mixed = linear_attention(query, key, value)
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        return mixed if self.output is None else self.output(mixed)


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention without softmax: the mean over the prefix of ``(q_i . k_j) / sqrt(K) v_j``.

    Costs the same two products as softmax attention, O(L^2); for the lengths studied here that is the cheaper order.

    Args:
        query, key, value: ``(B, H, L, K)``.
    Returns:
        ``(B, H, L, K)``.
    Source:
        arXiv 2510.10089, section 3; the factor 1 / sqrt(K) is ours, so that both kinds start at the same scale.
    """
    length, head_width = query.shape[-2:]
    counts = torch.arange(1, length + 1, device=query.device, dtype=query.dtype).unsqueeze(-1)
    scores = (query @ key.transpose(-2, -1)).tril() / (counts * math.sqrt(head_width))
    return scores @ value


def rotation_table(length: int, head_width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``(L, K / 2)`` in float64 of the rotary angles ``position * 10000^(-2 i / K)``."""
    rates = 10000.0 ** (-torch.arange(0, head_width, 2, device=device, dtype=torch.float64) / head_width)
    angles = torch.arange(length, device=device, dtype=torch.float64).unsqueeze(-1) * rates
    return angles.cos(), angles.sin()


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn the pairs (i, i + K/2) of ``(B, H, L, K)`` by their position's angle.

    Source:
        RoFormer, arXiv 2104.09864; pairs are halves, not neighbours, as in GPT-NeoX.
    """
    first, second = states.chunk(2, dim=-1)
    cosine, sine = cosine.to(states.dtype), sine.to(states.dtype)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
