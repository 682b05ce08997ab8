"""Copy: repeat the n symbols of the query. T(n) = n.

Source: arXiv 2409.15647, section 6; an alphabet of two is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thalweg.data.batches import Tokens


class Copy:
    """The n symbols of the query again; the tokens are an alphabet of ``symbols`` letters."""

    name = "copy"

    def __init__(self, symbols: int = 2) -> None:
        self.symbols = symbols

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        return rng.integers(self.symbols, size=(count, length))

    def answer(self, query: Tokens, length: int) -> Tokens:
        return query.copy()

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        return [*query]

    def slots(self, length: int) -> int:
        return length

    def loops(self, length: int) -> int:
        return length
