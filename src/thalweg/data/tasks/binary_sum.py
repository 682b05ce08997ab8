"""Binary sum: the number of ones among n bits, in binary with the least significant digit first. T(n) = n.

Source: arXiv 2409.15647, section 6; order and number of the digits (as many as n itself has) are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thalweg.data.batches import Tokens
from thalweg.data.tasks.addition import digits


class BinarySum:
    """The number of ones among n bits, written in binary; the tokens are 0 and 1."""

    name = "binary-sum"
    symbols = 2

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        return rng.integers(2, size=(count, length))

    def answer(self, query: Tokens, length: int) -> Tokens:
        return query.sum(1, keepdims=True) >> np.arange(self.slots(length)) & 1

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        return digits(list(query).count(1), self.slots(length))

    def slots(self, length: int) -> int:
        return length.bit_length()

    def loops(self, length: int) -> int:
        return length
