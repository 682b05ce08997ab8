"""What a task is: queries drawn at a length, answers that are exact, and the loops that a length asks for.

Shape letters: B samples, Q tokens of a query, A tokens of the longest answer (slots).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from thalweg.data.batches import Tokens


class Task(Protocol):
    """What can be learned by `thalweg.data.task_data.TaskData`; `examples/a_task_of_your_own.py` makes one.

    Queries and answers are made of the tokens 0 to ``symbols - 1``; the end token is ``symbols``. Every member is a function of its
    arguments: no other generator, no counter, no clock, so that a run can be made again and gone on with, bit for bit.
    """

    name: str
    """A line of text."""
    symbols: int
    """At least 1."""

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        """Random queries ``(count, Q)`` of one length, drawn from ``rng`` alone; Q depends on the length alone."""
        ...

    def answer(self, query: Tokens, length: int) -> Tokens:
        """Their answers ``(count, A)``; slots that an answer does not need hold the end token."""
        ...

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        """One answer, without slots that it does not need, found by other means than `answer`."""
        ...

    def slots(self, length: int) -> int:
        """Tokens A of the longest answer at this length, at least 1."""
        ...

    def loops(self, length: int) -> int:
        """Passes T(n) that the length asks for, at least 1."""
        ...
