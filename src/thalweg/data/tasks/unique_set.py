"""Unique set: the distinct symbols among n, in the order of their first appearance. T(n) = n.

Source: arXiv 2409.15647, section 6; an alphabet of ten is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thalweg.data.batches import Tokens


class UniqueSet:
    """The distinct symbols of the query; the length of the answer depends on the query, and unused slots hold the end token."""

    name = "unique-set"

    def __init__(self, symbols: int = 10) -> None:
        self.symbols = symbols

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        return rng.integers(self.symbols, size=(count, length))

    def answer(self, query: Tokens, length: int) -> Tokens:
        # First place of every symbol, ``length`` if it does not occur; symbols are then sorted by it.
        places = np.where(query[:, :, None] == np.arange(self.symbols), np.arange(length)[:, None], length).min(1)
        order = places.argsort(axis=1, kind="stable")[:, : self.slots(length)]
        return np.where(np.take_along_axis(places, order, 1) < length, order, self.symbols)

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        return list(dict.fromkeys(query))

    def slots(self, length: int) -> int:
        return min(length, self.symbols)

    def loops(self, length: int) -> int:
        return length
