"""Parity: whether the number of ones among n bits is odd. One slot; T(n) = n.

Source: arXiv 2409.15647, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thalweg.data.batches import Tokens


class Parity:
    """Whether the number of ones among n bits is odd; the tokens are 0 and 1."""

    name = "parity"
    symbols = 2

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        return rng.integers(2, size=(count, length))

    def answer(self, query: Tokens, length: int) -> Tokens:
        return np.bitwise_xor.reduce(query, axis=1, keepdims=True)

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        return [list(query).count(1) % 2]

    def slots(self, length: int) -> int:
        return 1

    def loops(self, length: int) -> int:
        return length
