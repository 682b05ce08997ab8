"""What a run learns from: batches indexed by (step, rank, seed), and fixed sets to be scored on.

Shape letters: B batch, N sequences, L tokens of a sequence.

Nothing here has a state that would have to be saved: the batch of a step is a function of its index.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thalweg.streams import stream

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Ceiling:
    """The best possible score of a stratum: ``accuracy`` (share), ``loss`` (nats), and both per scored position."""

    accuracy: float
    loss: float
    accuracy_by_position: tuple[float, ...] = ()
    loss_by_position: tuple[float, ...] = ()


@dataclass(frozen=True)
class EvaluationSet:
    """Sequences that are scored during training, in strata that may overlap."""

    name: str
    tokens: Tokens
    """``(N, L)``; position i predicts i + 1."""
    scored_from: int
    """First token that counts as a target; those before it cannot be predicted."""
    strata: dict[str, NDArray[np.bool_]]
    """Membership ``(N,)`` of each stratum; "all" is one of them."""
    ceilings: dict[str, Ceiling] = field(default_factory=dict)
    """Best possible score per stratum, where the source is known."""


@dataclass(frozen=True)
class Longer:
    """Fresh sequences of a multiple of the training length, and how their mix of information differs from the training set's."""

    set: EvaluationSet
    """Its strata are cut at this length."""
    bits_mean: float | None = None
    """Information content for each scored token, mean over sequences; None where the source is not known."""
    bits_deviation: float | None = None
    """Its standard deviation over sequences."""
    shares: dict[str, float] = field(default_factory=dict)
    """Share of the sequences below the training set's "low" cut and above its "high" cut, both as bits for each scored token."""


class Data(Protocol):
    """The face of everything that can be learned."""

    vocabulary: int
    length: int
    """Tokens of a training sequence, targets included."""
    evaluation: tuple[EvaluationSet, ...]
    """The training sequences (or a sample of them) first, then held-out ones."""

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> Tokens:
        """Training sequences ``(B, L)`` of one step and rank."""
        ...

    def length_at(self, multiple: int) -> int:
        """Tokens of a sequence of so many times the training length, targets included."""
        ...

    def longer(self, multiple: int, count: int = 1000) -> Longer:
        """At most ``count`` sequences of so many times the training length, that nothing was learned from.

        Raises:
            InsufficientDataError: there is no sequence of this length.
        """
        ...

    def facts(self) -> dict:
        """What a record needs to know about the data; JSON values."""
        ...


def shuffled_rows(count: int, seed: int, step: int, size: int, rank: int = 0, world: int = 1) -> Tokens:
    """Row numbers ``(B,)`` of one batch, when the rows are passed through again and again, each time in a new order.

    The passes form one endless list; step s of W ranks takes the next W * B of it and rank r its r-th part, so every row
    comes equally often, also when B does not divide their number.

    Example:
        >>> rows = [int(r) for s in range(2) for r in shuffled_rows(count=6, seed=1, step=s, size=3)]
        >>> sorted(rows)
        [0, 1, 2, 3, 4, 5]
    """
    first = (step * world + rank) * size
    passes = range(first // count, (first + size - 1) // count + 1)
    rows = np.concatenate([pass_order(count, seed, number) for number in passes])
    offset = first - passes[0] * count
    return rows[offset : offset + size]


@lru_cache(maxsize=4)
def pass_order(count: int, seed: int, number: int) -> Tokens:
    """The order of the rows in one pass."""
    order = stream(seed, "order", step=number).permutation(count)
    order.flags.writeable = False
    return order
