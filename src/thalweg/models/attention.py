"""Causal self-attention, softmax or linear.

Shape letters: B batch, L length, D width, H heads, K = D / H width per head.

Query, key and value have separate weights, as the theory and the controls refer to W_Q, W_K and W_V, but are applied as one matrix
product: `Attention.fused` joins them once per forward call, for all loops. Where they are not joined, they are three products.
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
    """Causal multi-head self-attention ``(B, L, D) -> (B, L, D)``; position i attends to positions 0 to i.

    Args:
        config: its width, heads, attention ("softmax" or "linear") and block; "gpt" has biases and an output projection.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        gpt = config.block == "gpt"
        self.heads, self.kind = config.heads, config.attention
        self.query = nn.Linear(config.width, config.width, bias=gpt)
        self.key = nn.Linear(config.width, config.width, bias=gpt)
        self.value = nn.Linear(config.width, config.width, bias=gpt)
        self.output = nn.Linear(config.width, config.width) if gpt else None

    def fused(self) -> Fused:
        """Joined weight ``(3 D, D)`` and bias ``(3 D,)`` of the query, key and value projections."""
        parts = (self.query, self.key, self.value)
        bias = None if self.query.bias is None else torch.cat([part.bias for part in parts])
        return torch.cat([part.weight for part in parts]), bias

    def forward(self, states: Tensor, fused: Fused | None, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        batch, length, width = states.shape
        if fused is None:
            parts = tuple(part(states) for part in (self.query, self.key, self.value))
        else:
            parts = functional.linear(states, *fused).split(width, dim=-1)
        # each (B, H, L, K); K is written out, as a batch may be empty
        query, key, value = (part.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if self.kind == "softmax":
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            mixed = linear_attention(query, key, value)
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        return mixed if self.output is None else self.output(mixed)


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention without softmax: ``out_i = 1 / (i + 1) sum_{j <= i} (q_i . k_j) / sqrt(K) v_j``.

    It needs the same two products of cost O(L^2) as softmax attention. For the lengths studied here that is cheaper than the
    recurrent form, which is linear in L.

    Args:
        query, key, value: ``(B, H, L, K)``.
    Returns:
        The attended values, ``(B, H, L, K)``.
    Source:
        arXiv 2510.10089, section 3; the factor 1 / sqrt(K) is ours, so that both kinds start at the same scale.
    """
    length, head_width = query.shape[-2:]
    counts = torch.arange(1, length + 1, device=query.device, dtype=query.dtype).unsqueeze(-1)
    scores = (query @ key.transpose(-2, -1)).tril() / (counts * math.sqrt(head_width))
    return scores @ value


def rotation_table(length: int, head_width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles ``position * 10000^(-2 i / K)``, each ``(L, K / 2)`` in float64.

    Args:
        length: number of positions L.
        head_width: width K of a head, even.
        device: device of the tables.
    """
    rates = 10000.0 ** (-torch.arange(0, head_width, 2, device=device, dtype=torch.float64) / head_width)
    angles = torch.arange(length, device=device, dtype=torch.float64).unsqueeze(-1) * rates
    return angles.cos(), angles.sin()


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate the pairs of entries (i, i + K/2) of ``(B, H, L, K)`` by the angles of their positions (rotary embedding).

    Args:
        states: queries or keys, ``(B, H, L, K)``.
        cosine, sine: from `rotation_table`, ``(L, K / 2)``.

    Source:
        RoFormer, arXiv 2104.09864; the pairs are (i, i + K/2) instead of neighbours, as in GPT-NeoX.
    """
    first, second = states.chunk(2, dim=-1)
    cosine, sine = cosine.to(states.dtype), sine.to(states.dtype)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
