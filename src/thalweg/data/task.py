"""Algorithmic tasks: queries drawn at a length, answers that are exact, and the loops that a length asks for.

Shape letters: B samples, Q tokens of a query, A tokens of the longest answer (slots).
"""

from __future__ import annotations

import importlib
import operator
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from thalweg.data.batches import Tokens
from thalweg.errors import BadInputError, require, unknown

NEEDED = ("name", "symbols", "query", "answer", "oracle", "slots", "loops")
PATIENCE = 1.0
"""Seconds that the oracle has for the samples of one length, before it counts as slow."""


class Task(Protocol):
    """What can be learned by `thalweg.data.task_data.TaskData`; `examples/a_task_of_your_own.py` makes one.

    Queries and answers are made of the tokens 0 to ``symbols - 1``; the end token is ``symbols``.
    """

    name: str
    """A line of text."""
    symbols: int
    """At least 1."""

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
        """Tokens A of the longest answer at this length, at least 1."""
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
        given = given or type(task).__name__
        try:
            missing = [part for part in NEEDED if not hasattr(task, part)]
            name, symbols = getattr(task, "name", ""), getattr(task, "symbols", 1)
        except (Exception, SystemExit) as error:  # the code is the user's: anything may go wrong in it
            raise BadInputError(f"task {given}: its name and symbols failed with {told(error)}") from error
        require(not missing, "task", given, f"an object that has {', '.join(NEEDED)} (missing: {', '.join(missing)})")
        require(isinstance(name, str) and name.isprintable() and name.strip() != "", "task name", name, "a line of text")
        self.task, self.name = task, name
        self.symbols = whole(symbols, f"task {name}: symbols")
        self.widths: dict[int, int] = {}
        """Length -> width of its queries."""

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        """Queries ``(count, Q)``, with the Q that this length had before."""
        where = self.where("query", length)
        made = tokens(self.ask("query", length, length, count, rng), self.symbols - 1, where)
        width = self.widths.setdefault(length, made.shape[-1] if made.ndim else 0)
        wanted = f"({count}, {width}): a width that depends on the length alone"
        require(made.shape == (count, width), where, made.shape, wanted)
        return made

    def answer(self, query: Tokens, length: int) -> Tokens:
        """Answers ``(count, A)`` as wide as the slots."""
        where, asked, slots = self.where("answer", length), query.copy(), self.slots(length)
        made = self.ask("answer", length, query, length)
        kept = np.array_equal(query, asked)
        require(kept, self.where("query", length), "another one after answer", "the same one: answer must not change it")
        found = tokens(made, self.symbols, where)
        require(found.shape == (len(query), slots), where, found.shape, f"({len(query)}, {slots}), as slots says")
        return found

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        """One answer, no longer than the slots."""
        where, slots = self.where("oracle", length), self.slots(length)
        made = self.ask("oracle", length, query, length, finish=list)
        try:
            found = [operator.index(token) for token in made]
        except TypeError:
            raise BadInputError(f"{where}: given {made!r:.60}, expected a list of whole numbers") from None
        require(len(found) <= slots, where, found, f"at most the {slots} slots")
        return found

    def slots(self, length: int) -> int:
        """Slots A, at least 1."""
        return whole(self.ask("slots", length, length), self.where("slots", length))

    def loops(self, length: int) -> int:
        """Passes T(n), at least 1."""
        return whole(self.ask("loops", length, length), self.where("loops", length))

    def ask(self, member: str, length: int, *given: object, finish: Callable[[Any], Any] = lambda made: made) -> Any:
        """What a member of the user's task says, ``finish`` made of it."""
        try:
            return finish(getattr(self.task, member)(*given))
        except (Exception, SystemExit) as error:  # the code is the user's: anything may go wrong in it
            message = f"{self.where(member, length)}: failed with {told(error)}; expected it to work at this length"
            raise BadInputError(message) from error

    def where(self, member: str, length: int) -> str:
        """What a message speaks of."""
        return f"task {self.name}, length {length}: {member}"


def told(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def check_task(task: Task, lengths: Sequence[int] = (1, 2, 3, 5, 8), count: int = 50, seed: int = 0) -> None:
    """Try a task at some lengths, the shortest first, its oracle at those that it answers in about a second.

    An oracle may be slow, as one that tries everything is: when the samples of one length took `PATIENCE` seconds, no others are
    given to it, with a warning; loops, queries and answers are looked at all the same.

    Raises:
        BadInputError: one of its members fails, or gives what is not whole, out of range or of another shape than it should be
            (loops and slots of at least 1, queries of even width, answers as wide as the slots); an answer that changes its query;
            an oracle that disagrees with the answers; names the length.
    """
    task = task if isinstance(task, Guarded) else Guarded(task)
    patient = True
    for length in sorted(lengths):
        rng = np.random.default_rng([seed, length])
        task.loops(length)
        query = task.query(length, count, rng)
        task.query(length, 1, rng)
        answer = task.answer(query, length)
        if patient and not agrees(task, query.tolist(), answer.tolist(), length):
            patient = False
            warnings.warn(f"task {task.name}: its oracle is slow and was not asked beyond length {length}", stacklevel=2)


def agrees(task: Task, queries: list[list[int]], answers: list[list[int]], length: int) -> bool:
    """Whether the oracle gave these answers in the time that it has; False where that ended first."""
    started = time.perf_counter()
    for query, given in zip(queries, answers, strict=True):
        answer = task.oracle(query, length)
        expected = answer + [task.symbols] * (task.slots(length) - len(answer))
        if given != expected:
            raise BadInputError(
                f"task {task.name}, length {length}: the oracle disagrees with the answer of query {query}: "
                f"given {given}, expected {expected}"
            )
        if time.perf_counter() - started > PATIENCE:
            return False
    return True


def whole(given: object, what: str) -> int:
    """A whole number of at least 1, of whatever kind.

    Raises:
        BadInputError: it is something else.
    """
    try:
        found = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        found = 0
    require(found >= 1, what, given, "a whole number of at least 1")
    return found


def tokens(given: object, largest: int, what: str) -> Tokens:
    """An array of whole numbers from 0 to the largest, of any shape, in int64.

    Raises:
        BadInputError: it is something else.
    """
    kind = str(getattr(given, "dtype", type(given).__name__))
    if not (isinstance(given, np.ndarray) and np.issubdtype(given.dtype, np.integer)):
        raise BadInputError(f"{what}: given {kind!r}, expected a numpy array of whole numbers")
    wrong = given[(given < 0) | (given > largest)]
    require(not wrong.size, what, int(wrong[0]) if wrong.size else 0, f"tokens from 0 to {largest}")
    return given.astype(np.int64)
