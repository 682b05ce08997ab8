"""Algorithmic tasks: queries drawn at a length, answers that are exact, and the loops that a length asks for.

Shape letters: B samples, Q tokens of a query, A tokens of the longest answer (slots).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from thalweg.data.batches import Tokens
from thalweg.errors import BadInputError, require, unknown

NEEDED = ("name", "symbols", "query", "answer", "oracle", "slots", "loops")


class Task(Protocol):
    """What can be learned by `thalweg.data.task_data.TaskData`; `examples/a_task_of_your_own.py` makes one.

    Queries and answers are made of the tokens 0 to ``symbols - 1``; the end token is ``symbols``.
    """

    name: str
    symbols: int

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        """Random queries ``(count, Q)`` of one length; Q depends on the length alone."""
        ...

    def answer(self, query: Tokens, length: int) -> Tokens:
        """Their answers ``(count, A)``; slots that an answer does not need hold the end token."""
        ...

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        """One answer, without slots that it does not need, found by other means than `answer`."""
        ...

    def slots(self, length: int) -> int:
        """Tokens A of the longest answer at this length."""
        ...

    def loops(self, length: int) -> int:
        """Passes T(n) that the length asks for, at least 1."""
        ...


def find_task(name: str) -> Task:
    """One of the six tasks by name, or a user's own as ``module:attribute`` (an object, or a class without arguments).

    Raises:
        BadInputError: there is no such task (with the likely meaning), it cannot be imported, or lacks something.
    """
    from thalweg.data.tasks import TASKS

    if ":" not in name:
        if name not in TASKS:
            raise unknown("task", name, TASKS)
        return TASKS[name]
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # an installed command does not look where it is called
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
        task = found() if isinstance(found, type) else found
    except Exception as error:  # the module is the user's: anything may go wrong in it
        raise BadInputError(f"task: given {name!r}, expected module:attribute that can be imported ({error})") from None
    missing = [part for part in NEEDED if not hasattr(task, part)]
    require(not missing, "task", name, f"an object that has {', '.join(NEEDED)} (missing: {', '.join(missing)})")
    return task


def check_task(task: Task, lengths: Sequence[int] = (1, 2, 3, 5, 8), count: int = 50, seed: int = 0) -> None:
    """Try a task at some lengths.

    Raises:
        BadInputError: loops that are not a whole number of at least 1, queries of uneven width, an answer that does not fit its
            slots or that changes its query, a token out of range or not whole, or an oracle that disagrees with the answers;
            names the length.
    """
    for length in lengths:
        where = f"task {task.name}, length {length}"
        rng = np.random.default_rng([seed, length])
        query, loops = task.query(length, count, rng), task.loops(length)
        whole = isinstance(loops, int | np.integer) and loops >= 1
        require(whole, f"{where}: loops", loops, "a whole number of at least 1")
        refuse_others(query, f"{where}: query")
        good = query.ndim == 2 and len(query) == count and task.query(length, 1, rng).shape[1] == query.shape[1]
        require(good, f"{where}: query", query.shape, f"({count}, Q) with a Q that depends on the length alone")
        refuse_tokens(query, task.symbols - 1, f"{where}: query")
        asked = query.copy()
        answer, slots = task.answer(query, length), task.slots(length)
        require(
            np.array_equal(query, asked), f"{where}: query", "another one after answer", "the same one: answer must not change it"
        )
        refuse_others(answer, f"{where}: answer")
        require(answer.shape == (count, slots), f"{where}: answer", answer.shape, f"({count}, {slots}), as slots says")
        refuse_tokens(answer, task.symbols, f"{where}: answer")
        for row, given in zip(query.tolist(), answer.tolist(), strict=True):
            wanted = task.oracle(row, length)
            require(len(wanted) <= slots, f"{where}: oracle", wanted, f"at most the {slots} slots")
            padded = wanted + [task.symbols] * (slots - len(wanted))
            if given != padded:
                raise BadInputError(
                    f"{where}: the oracle disagrees with the answer of query {row}: given {given}, expected {padded}"
                )


def refuse_others(tokens: object, what: str) -> None:
    """Refuse what is no array of whole numbers."""
    whole = isinstance(tokens, np.ndarray) and np.issubdtype(tokens.dtype, np.integer)
    require(whole, what, str(getattr(tokens, "dtype", type(tokens).__name__)), "a numpy array of whole numbers")


def refuse_tokens(tokens: Tokens, largest: int, what: str) -> None:
    """Refuse tokens below 0 or above the largest."""
    wrong = tokens[(tokens < 0) | (tokens > largest)]
    require(not wrong.size, what, int(wrong[0]) if wrong.size else 0, f"tokens from 0 to {largest}")
