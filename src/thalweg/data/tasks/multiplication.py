"""Multiplication of a binary number of n digits by one of m, least significant digit first. n + m slots; T(n) = n m.

Source: arXiv 2409.15647, section 6; m = 2 and the order of the digits are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thalweg.data.batches import Tokens
from thalweg.data.tasks.addition import digits, number

_TIMES = 2


class Multiplication:
    """Product of an n-digit and an m-digit number; the query is n digits, times, m digits, of the tokens 0, 1 and times.

    Args:
        second: number of digits m of the second factor.
    """

    name = "multiplication"
    symbols = 3

    def __init__(self, second: int = 2) -> None:
        self.second = second

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        return np.insert(rng.integers(2, size=(count, length + self.second)), length, _TIMES, axis=1)

    def answer(self, query: Tokens, length: int) -> Tokens:
        # Add the shifted partial products column by column, then propagate the carries.
        columns = np.zeros((len(query), self.slots(length)), dtype=np.int64)
        for shift in range(self.second):
            columns[:, shift : shift + length] += query[:, :length] * query[:, length + 1 + shift, None]
        carry = np.zeros(len(query), dtype=np.int64)
        for place in range(columns.shape[1]):
            total = columns[:, place] + carry
            columns[:, place], carry = total % 2, total // 2
        return columns

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        return digits(number(query[:length]) * number(query[length + 1 :]), self.slots(length))

    def slots(self, length: int) -> int:
        return length + self.second

    def loops(self, length: int) -> int:
        return length * self.second
