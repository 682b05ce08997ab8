"""The interface of an algorithmic task: random queries of a length, exact answers, and the number of passes a length needs.

Shape letters: B samples, Q tokens of a query, A tokens of the longest answer (slots).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from thalweg.data.batches import Tokens


class Task(Protocol):
    """Interface of a task for `thalweg.data.task_data.TaskData`; `examples/a_task_of_your_own.py` shows one.

    Queries and answers consist of the tokens 0 to ``symbols - 1``; the end token is ``symbols``. Every member must be a function of
    its arguments, without another generator, a counter or a clock, so that a run can be repeated and resumed bit for bit.
    """

    name: str
    """Name of the task, one line of text."""
    symbols: int
    """Number of distinct tokens without the end token, at least 1."""

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        """Random queries ``(count, Q)`` of one length, drawn from ``rng`` only; Q depends on the length only."""
        ...

    def answer(self, query: Tokens, length: int) -> Tokens:
        """Answers ``(count, A)`` to queries ``(count, Q)``; slots that an answer does not need hold the end token."""
        ...

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        """The answer to one query, without unneeded slots, computed by another algorithm than `answer` as a check of it."""
        ...

    def slots(self, length: int) -> int:
        """Number of tokens A of the longest answer of a length, at least 1."""
        ...

    def loops(self, length: int) -> int:
        """Number of passes T(n) that a query of a length needs, at least 1."""
        ...
