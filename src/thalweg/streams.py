"""Named random streams that do not overlap.

Every random number of a run comes from ``stream(seed, name, step, rank)``. The generator is the counter-based Philox. Its key is
the seed, and (name, rank, step) are the upper three of the four words of its counter, so that two streams of one seed share no
block before 2**64 blocks have been drawn from one of them. No state has to be saved to resume a run, as a stream depends on its
index only, and a new stream does not change the others.
"""

from __future__ import annotations

import numpy as np

from thalweg.bounds import of_their_kind
from thalweg.errors import require, unknown

NAMES = (
    "transitions",
    "train",
    "held-out",
    "init",
    "order",
    "windows",
    "probes",
    "cases",
    "bootstrap",
    "loops",
    "tasks",
    "task-held-out",
    "task-tests",
)
"""The streams, in the order of their numbers. Only append to it: a stream with another number changes all earlier runs."""


@of_their_kind
def stream(seed: int, name: str, step: int = 0, rank: int = 0) -> np.random.Generator:
    """The random generator of a named stream at one step and rank.

    Args:
        seed: seed of the run, from 0 to 2**63 - 1.
        name: one of `NAMES`.
        step: number of the update, or any other index.
        rank: number of the process.
    Raises:
        BadInputError: an unknown name, or a number out of range.

    Example:
        >>> a, b = (stream(0, "order", step=3).integers(1 << 30) for _ in range(2))
        >>> bool(a == b)
        True
    """
    if name not in NAMES:
        raise unknown("stream", name, NAMES)
    for what, value in (("seed", seed), ("step", step), ("rank", rank)):
        require(0 <= value < 2**63, what, value, "a whole number from 0 to 2**63 - 1")
    counter = np.array([0, step, rank, NAMES.index(name)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))
