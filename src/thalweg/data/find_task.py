"""Tasks by name, those of a user's own among them: found, tried, and looked at whenever they are asked.

Shape letters: B samples, Q tokens of a query, A tokens of the longest answer (slots).
"""

from __future__ import annotations

import copy
import importlib
import operator
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from thalweg.data.batches import Tokens
from thalweg.data.task import Task
from thalweg.data.tasks import TASKS
from thalweg.errors import BadInputError, format_error, require, shown, unknown

_NEEDED = ("name", "symbols", "query", "answer", "oracle", "slots", "loops")
PATIENCE = 1.0
"""Seconds that the oracle has for the samples of one length, before it counts as slow."""

_MANY = 50
"""Samples that are drawn, at least, to see that they follow the generator."""


def find_task(name: str) -> Task:
    """One of the six tasks by name, or a user's own as ``module:attribute`` (an object, or a class without arguments).

    Raises:
        BadInputError: there is no such task (with the likely meaning), it cannot be imported, or lacks something.
    """
    check_name(name)
    if not own(name):
        return TASKS[name]
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # an installed command does not look where it is called
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
        task = found() if isinstance(found, type) else found
    except (Exception, SystemExit) as error:  # the module is the user's: anything may go wrong in it
        raise BadInputError(
            f"task: given {name!r}, expected module:attribute that can be imported ({format_error(error)})"
        ) from None
    return Guarded(task, name)


def own(name: str) -> bool:
    """Whether a task is one of the user's own, whose module is imported where it is asked, and not before."""
    return ":" in name


def check_name(name: str) -> None:
    """Refuse a name that no task can have; the module of a user's own task is not imported.

    Raises:
        BadInputError: an unknown task (with the likely meaning), or a name of another form than module:attribute.
    """
    if not own(name):
        if name not in TASKS:
            raise unknown("task", name, TASKS)
        return
    module, _, attribute = name.partition(":")
    named = name.isprintable() and all(part.strip() for part in (*module.split("."), attribute))
    require(named, "task", name, "module:attribute that can be imported")


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
            missing = [part for part in _NEEDED if not hasattr(task, part)]
            name, symbols = getattr(task, "name", ""), getattr(task, "symbols", 1)
        except (Exception, SystemExit) as error:  # the code is the user's: anything may go wrong in it
            raise BadInputError(f"task {given}: its name and symbols failed with {format_error(error)}") from error
        require(not missing, "task", given, f"an object that has {', '.join(_NEEDED)} (missing: {', '.join(missing)})")
        require(isinstance(name, str) and name.isprintable() and name.strip() != "", "task name", name, "a line of text")
        self.task, self.name = task, name
        self.symbols = whole(symbols, f"task {name}: symbols")
        self.known: dict[tuple[str, int], int] = {}
        """Member and length -> the number that it gave: width of the queries, slots, loops."""
        self.asked: Counter[str] = Counter()
        """Member -> how often it was asked."""

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        """Queries ``(count, Q)``, with the Q that this length had before.

        From time to time the same ones are asked for twice, see `due`.
        """
        twin = copy.deepcopy(rng) if self.due("query") else None
        made = self.drawn(length, count, rng)
        if twin is not None:
            same = np.array_equal(made, self.drawn(length, count, twin))
            self.refuse_unless(same, "query", length, "gives other samples for the same rng; draw from it alone")
        return made

    def drawn(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        """Queries, asked for once."""
        where = self.where("query", length)
        made = tokens(self.ask("query", length, length, count, rng), self.symbols - 1, where)
        width = self.known.setdefault(("query", length), made.shape[-1] if made.ndim else 0)
        wanted = f"({count}, {width}): a width that depends on the length alone"
        require(made.shape == (count, width), where, made.shape, wanted)
        return made

    def answer(self, query: Tokens, length: int) -> Tokens:
        """Answers ``(count, A)`` as wide as the slots; from time to time asked for twice, see `due`."""
        twice = self.due("answer")
        found = self.answered(query, length)
        if twice:
            same = np.array_equal(found, self.answered(query, length))
            self.refuse_unless(same, "answer", length, "gives other answers to the same query")
        return found

    def answered(self, query: Tokens, length: int) -> Tokens:
        """Answers, asked for once."""
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
            raise BadInputError(f"{where}: given {shown(made)[:60]}, expected a list of whole numbers") from None
        require(len(found) <= slots, where, found, f"at most the {slots} slots")
        return found

    def slots(self, length: int) -> int:
        """Slots A, at least 1; what this length had before."""
        return self.number("slots", length)

    def loops(self, length: int) -> int:
        """Passes T(n), at least 1; what this length had before."""
        return self.number("loops", length)

    def number(self, member: str, length: int) -> int:
        """The number that a member gives for a length, always the same one."""
        found = whole(self.ask(member, length, length), self.where(member, length))
        known = self.known.setdefault((member, length), found)
        self.refuse_unless(found == known, member, length, f"gives {known} and {found} for the same length")
        return found

    def due(self, member: str) -> bool:
        """Whether a member is asked twice this time, to see that it gives the same: at its calls 1, 2, 4, 8, ..."""
        self.asked[member] += 1
        return self.asked[member].bit_count() == 1

    def refuse_unless(self, same: bool, member: str, length: int, what: str) -> None:
        """Refuse a member that is no function of its arguments."""
        if not same:
            raise BadInputError(f"{self.where(member, length)} {what}: expected a function of its arguments")

    def ask(self, member: str, length: int, *given: object, finish: Callable[[Any], Any] = lambda made: made) -> Any:
        """What a member of the user's task says, ``finish`` made of it."""
        try:
            return finish(getattr(self.task, member)(*given))
        except (Exception, SystemExit) as error:  # the code is the user's: anything may go wrong in it
            message = f"{self.where(member, length)}: failed with {format_error(error)}; expected it to work at this length"
            raise BadInputError(message) from error

    def where(self, member: str, length: int) -> str:
        """What a message speaks of."""
        return f"task {self.name}, length {length}: {member}"


def check_task(task: Task, lengths: Sequence[int] = (1, 2, 3, 5, 8), count: int = 50, seed: int = 0) -> None:
    """Try a task at some lengths, the shortest first, its oracle at those that it answers in about a second.

    An oracle may be slow, as one that tries everything is: when the samples of one length took `PATIENCE` seconds, no others are
    given to it, with a warning; loops, queries and answers are looked at all the same.

    Raises:
        BadInputError: one of its members fails, or gives what is not whole, out of range or of another shape than it should be
            (loops and slots of at least 1, queries of even width, answers as wide as the slots); an answer that changes its query;
            an oracle that disagrees with the answers; a member that gives another value for the same arguments (a query that draws
            from another generator, a counter, a clock), or queries that are the same ones for every rng; names the length.
    """
    task = task if isinstance(task, Guarded) else Guarded(task)
    patient = True
    fixed = varied = False
    for length in sorted(lengths):
        task.loops(length)
        query = _sampled(task, length, count, seed)
        if not varied:
            several = [task.drawn(length, max(count, _MANY), np.random.default_rng([seed + k, length])) for k in range(4)]
            fixed |= len(np.unique(several[0], axis=0)) > 1
            varied = any(not np.array_equal(several[0], other) for other in several[1:])
        answer = answered(task, query, length)
        task.loops(length)
        if patient and not _agrees(task, query.tolist(), answer.tolist(), length):
            patient = False
            warnings.warn(f"task {task.name}: its oracle is slow and was not asked beyond length {length}", stacklevel=2)
    again = whole(getattr(task.task, "symbols", 0), f"task {task.name}: symbols")
    require(again == task.symbols, f"task {task.name}: symbols", again, f"the same number as before, {task.symbols}")
    if fixed and not varied:
        raise BadInputError(f"task {task.name}: query gives the same samples for every rng; draw from the rng that it is given")


def checked_task(name: str, lengths: Sequence[int], count: int = 50) -> Task:
    """A task by its name, one of the user's own checked at these lengths, and made twice where it is a class.

    Raises:
        BadInputError: as `find_task` and `check_task`; two objects of the class that differ.
    """
    task = find_task(name)
    if not isinstance(task, Guarded):
        return task
    check_task(task, lengths, count)
    twin = find_task(name)
    assert isinstance(twin, Guarded)
    for length in lengths:
        one, other = (made.drawn(length, count, np.random.default_rng([0, length])) for made in (task, twin))
        same = np.array_equal(one, other) and np.array_equal(task.answered(one, length), twin.answered(one, length))
        same = same and (task.loops(length), task.symbols) == (twin.loops(length), twin.symbols)
        if not same:
            raise BadInputError(
                f"task {task.name}, length {length}: two objects of {name} differ; expected a class without chance in it"
            )
    return task


def _sampled(task: Guarded, length: int, count: int, seed: int) -> Tokens:
    """Queries of one length, asked for twice from the same generator."""
    once, again = (task.drawn(length, count, np.random.default_rng([seed, length])) for _ in range(2))
    task.drawn(length, 1, np.random.default_rng([seed, length]))
    same = np.array_equal(once, again)
    task.refuse_unless(same, "query", length, "gives other samples for the same rng; draw from it alone")
    return once


def answered(task: Guarded, query: Tokens, length: int) -> Tokens:
    """Answers, asked for twice, and of the last query alone."""
    once, again, last = (task.answered(one, length) for one in (query, query, query[-1:]))
    task.refuse_unless(np.array_equal(once, again), "answer", length, "gives other answers to the same query")
    alone = np.array_equal(once[-1:], last)
    task.refuse_unless(alone, "answer", length, "gives another answer to a query alone than beside others")
    return once


def _agrees(task: Task, queries: list[list[int]], answers: list[list[int]], length: int) -> bool:
    """Whether the oracle gave these answers in the time that it has; False where that ended first."""
    started = time.perf_counter()
    for number, (query, given) in enumerate(zip(queries, answers, strict=True)):
        answer = task.oracle(list(query), length)
        expected = answer + [task.symbols] * (task.slots(length) - len(answer))
        if given != expected:
            raise BadInputError(
                f"task {task.name}, length {length}: the oracle disagrees with the answer of query {query}: "
                f"given {given}, expected {expected}"
            )
        if number == 0 and isinstance(task, Guarded):
            task.refuse_unless(
                task.oracle(list(query), length) == answer, "oracle", length, "gives other answers to the same query"
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
