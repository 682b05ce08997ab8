"""The interface of training data: batches indexed by step, rank and seed, and fixed sets for evaluation.

Shape letters: B batch, N sequences, L tokens of a sequence.

Data have no state that would have to be saved: the batch of a step is a function of its index.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thalweg.reprs import short_repr
from thalweg.streams import stream

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Ceiling:
    """The best possible scores on a stratum: those of a predictor that knows the source of the data."""

    accuracy: float
    """Share of correct predictions."""
    loss: float
    """Mean cross-entropy in nats per token."""
    accuracy_by_position: tuple[float, ...] = ()
    loss_by_position: tuple[float, ...] = ()


@short_repr
@dataclass(frozen=True)
class EvaluationSet:
    """Fixed sequences for evaluation, in strata (subsets) that may overlap."""

    name: str
    tokens: Tokens
    """Sequences ``(N, L)``; the token at position i predicts that at i + 1."""
    scored_from: int
    """First position that counts as a target; earlier tokens cannot be predicted."""
    strata: dict[str, NDArray[np.bool_]]
    """Name of a stratum -> which sequences belong to it, ``(N,)``; "all" is one of the strata."""
    ceilings: dict[str, Ceiling] = field(default_factory=dict)
    """Name of a stratum -> best possible scores; empty if the source of the data is not known."""


@dataclass(frozen=True)
class Longer:
    """New sequences of a multiple of the training length, and the distribution of their information content."""

    set: EvaluationSet
    """The sequences; their strata are quantiles of the information content at this length."""
    bits_mean: float | None = None
    """Mean over sequences of the information content in bits per scored token; None if the source is not known."""
    bits_deviation: float | None = None
    """Its standard deviation over sequences."""
    shares: dict[str, float] = field(default_factory=dict)
    """Share of sequences below ("low") and above ("high") the training set's cuts, in bits per scored token."""


class Data(Protocol):
    """Interface of data for next-token prediction."""

    vocabulary: int
    """Number of distinct tokens."""
    length: int
    """Tokens of a training sequence, the last target included."""
    evaluation: tuple[EvaluationSet, ...]
    """Evaluation sets: the training sequences (or a sample of them) first, then held-out ones."""

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> Tokens:
        """Training sequences ``(B, L)`` of one step and rank, B being ``size``."""
        ...

    def length_at(self, multiple: int) -> int:
        """Number of tokens of a sequence of ``multiple`` times the training length, the last target included."""
        ...

    def longer(self, multiple: int, count: int = 1000) -> Longer:
        """At most ``count`` sequences of ``multiple`` times the training length that are not used in training.

        Raises:
            InsufficientDataError: there is no sequence of this length.
        """
        ...

    def facts(self) -> dict:
        """Facts about the data for the records of a run, as JSON values."""
        ...


def shuffled_rows(count: int, seed: int, step: int, size: int, rank: int = 0, world: int = 1) -> Tokens:
    """Row numbers ``(B,)`` of one batch, when training passes over all rows repeatedly, each time in a new random order.

    The passes form one endless list. Step s of W ranks takes the next W * B entries, and rank r the r-th part of them, so that
    every row comes equally often even if B does not divide the number of rows.

    Args:
        count: number of rows.
        seed: seed of the orders.
        step: number of the update, from 0.
        size: number of rows B in the batch.
        rank, world: number of this process and of all processes W.

    Example:
        >>> rows = [int(r) for s in range(2) for r in shuffled_rows(count=6, seed=1, step=s, size=3)]
        >>> sorted(rows)
        [0, 1, 2, 3, 4, 5]
    """
    first = (step * world + rank) * size
    passes = range(first // count, (first + size - 1) // count + 1)
    # Join the orders of all passes that the batch touches, and cut the batch out.
    rows = np.concatenate([pass_order(count, seed, number) for number in passes])
    offset = first - passes[0] * count
    return rows[offset : offset + size]


@lru_cache(maxsize=4)
def pass_order(count: int, seed: int, number: int) -> Tokens:
    """The order of the rows in pass ``number``, a permutation ``(count,)`` that cannot be written to."""
    order = stream(seed, "order", step=number).permutation(count)
    order.flags.writeable = False
    return order
