"""Addition of two binary numbers of n digits, least significant digit first. n + 1 slots; T(n) = n + 1.

Source: arXiv 2409.15647, section 6. The order of the digits is ours: carries then move in the direction that a causal model reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thalweg.data.batches import Tokens

_PLUS = 2


class Addition:
    """Addition of two n-digit numbers; the query is n digits, plus, n digits, of the tokens 0, 1 and plus."""

    name = "addition"
    symbols = 3

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        digits = rng.integers(2, size=(count, 2 * length))
        return np.insert(digits, length, _PLUS, axis=1)

    def answer(self, query: Tokens, length: int) -> Tokens:
        columns = query[:, :length] + query[:, length + 1 :]
        total = np.zeros((len(query), length + 1), dtype=np.int64)
        carry = np.zeros(len(query), dtype=np.int64)
        for place in range(length):
            column = columns[:, place] + carry
            total[:, place], carry = column % 2, column // 2
        total[:, length] = carry
        return total

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        total = number(query[:length]) + number(query[length + 1 :])
        return digits(total, length + 1)

    def slots(self, length: int) -> int:
        return length + 1

    def loops(self, length: int) -> int:
        return length + 1


def number(bits: Sequence[int]) -> int:
    """A Python integer from its binary digits, least significant first."""
    return int("".join(map(str, reversed(bits))), 2)


def digits(value: int, count: int) -> list[int]:
    """The binary digits of a Python integer, least significant first."""
    return [int(digit) for digit in reversed(f"{value:0{count}b}")]
