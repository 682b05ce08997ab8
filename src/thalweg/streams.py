"""Named random streams that cannot overlap.

Every random number of a run comes from ``stream(seed, name, step, rank)``. The generator is the counter-based Philox: the
seed is its key, and (name, rank, step) fill the upper three of the four words of its counter, so two streams of one seed
share no block before 2**64 blocks were drawn from one of them. Nothing has to be saved to resume: the index is the state.
Adding a stream (a probe, say) changes no other.
"""

from __future__ import annotations

import numpy as np

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
"""The streams, in the order of their number. Append only: a number that moves changes every old run."""


def stream(seed: int, name: str, step: int = 0, rank: int = 0) -> np.random.Generator:
    """The generator of one named stream at one step and rank.

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
