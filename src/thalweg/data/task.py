"""Algorithmic tasks: queries drawn at a length, answers that are exact, and the loops that a length asks for.

Shape letters: B samples, Q tokens of a query, A tokens of the longest answer (slots).
"""

from __future__ import annotations

import importlib
import operator
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
    except (Exception, SystemExit) as error:  # the module is the user's: anything may go wrong in it
        raise BadInputError(f"task: given {name!r}, expected module:attribute that can be imported ({error})") from None
    return Guarded(task, name)


class Guarded:
    """A task of a user's own whose every answer is looked at, at every length that is ever asked.

    Numbers and tokens come back as plain ones, whatever kind of whole number the task gave.

    Args:
        task: an object with the members of `Task`.
        given: what the user named it by, for messages.
    Raises:
        BadInputError: it lacks something. Later, from any member: it failed, or gave what is not whole, out of range or of
            another shape; names task, length and member.
    """

    def __init__(self, task: object, given: str = "") -> None:
        missing = [part for part in NEEDED if not hasattr(task, part)]
        wanted = f"an object that has {', '.join(NEEDED)} (missing: {', '.join(missing)})"
        require(not missing, "task", given or type(task).__name__, wanted)
        name = getattr(task, "name")  # noqa: B009
        require(isinstance(name, str) and name.isprintable() and name.strip() != "", "task name", name, "a line of text")
        self.task, self.name = task, name
        self.symbols = whole(getattr(task, "symbols"), f"task {name}: symbols")  # noqa: B009

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        where = self.where("query", length)
        made = tokens(self.ask("query", length, length, count, rng), self.symbols - 1, where)
        require(made.ndim == 2 and len(made) == count, where, made.shape, f"({count}, Q) with a Q that depends on the length alone")
        return made

    def answer(self, query: Tokens, length: int) -> Tokens:
        where, asked, slots = self.where("answer", length), query.copy(), self.slots(length)
        made = self.ask("answer", length, query, length)
        kept = np.array_equal(query, asked)
        require(kept, self.where("query", length), "another one after answer", "the same one: answer must not change it")
        found = tokens(made, self.symbols, where)
        require(found.shape == (len(query), slots), where, found.shape, f"({len(query)}, {slots}), as slots says")
        return found

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        made, slots = self.ask("oracle", length, query, length), self.slots(length)
        try:
            found = [operator.index(token) for token in made]  # type: ignore[attr-defined]
        except TypeError:
            raise BadInputError(f"{self.where('oracle', length)}: given {made!r:.60}, expected a list of whole numbers") from None
        require(len(found) <= slots, self.where("oracle", length), found, f"at most the {slots} slots")
        return found

    def slots(self, length: int) -> int:
        return whole(self.ask("slots", length, length), self.where("slots", length))

    def loops(self, length: int) -> int:
        return whole(self.ask("loops", length, length), self.where("loops", length))

    def ask(self, member: str, length: int, *given: object) -> object:
        """What a member of the user's task says."""
        try:
            return getattr(self.task, member)(*given)
        except Exception as error:  # the code is the user's: anything may go wrong in it
            told = f"{type(error).__name__}: {error}"
            raise BadInputError(f"{self.where(member, length)}: failed with {told}; expected it to work at this length") from error

    def where(self, member: str, length: int) -> str:
        """What a message speaks of."""
        return f"task {self.name}, length {length}: {member}"


def check_task(task: Task, lengths: Sequence[int] = (1, 2, 3, 5, 8), count: int = 50, seed: int = 0) -> None:
    """Try a task at some lengths.

    Raises:
        BadInputError: one of its members fails, or gives what is not whole, out of range or of another shape than it should be
            (loops and slots of at least 1, queries of even width, answers as wide as the slots); an answer that changes its query;
            an oracle that disagrees with the answers; names the length.
    """
    task = task if isinstance(task, Guarded) else Guarded(task)
    for length in lengths:
        where = f"task {task.name}, length {length}"
        rng = np.random.default_rng([seed, length])
        task.loops(length)
        query, width = task.query(length, count, rng), task.query(length, 1, rng).shape[1]
        wanted = f"({count}, Q) with a Q that depends on the length alone, as of a single one: {width}"
        require(query.shape[1] == width, f"{where}: query", query.shape, wanted)
        for row, given in zip(query.tolist(), task.answer(query, length).tolist(), strict=True):
            answer = task.oracle(row, length)
            padded = answer + [task.symbols] * (task.slots(length) - len(answer))
            if given != padded:
                raise BadInputError(
                    f"{where}: the oracle disagrees with the answer of query {row}: given {given}, expected {padded}"
                )


def whole(given: object, what: str) -> int:
    """A whole number of at least 1."""
    try:
        found = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        found = 0
    require(found >= 1, what, given, "a whole number of at least 1")
    return found


def tokens(given: object, largest: int, what: str) -> Tokens:
    """Whole numbers from 0 to the largest, as an array of them."""
    kind = str(getattr(given, "dtype", type(given).__name__))
    if not (isinstance(given, np.ndarray) and np.issubdtype(given.dtype, np.integer)):
        raise BadInputError(f"{what}: given {kind!r}, expected a numpy array of whole numbers")
    wrong = given[(given < 0) | (given > largest)]
    require(not wrong.size, what, int(wrong[0]) if wrong.size else 0, f"tokens from 0 to {largest}")
    return given.astype(np.int64)
