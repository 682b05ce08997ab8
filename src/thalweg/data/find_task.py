"""Find an algorithmic task by its name, and check tasks of a user's own, before and while they are used.

A task of a user's own may do anything. A run on it can be repeated and resumed only if its members are functions of their
arguments, so that `Guarded` checks every result, and from time to time calls a member twice to compare the results.

Shape letters: B samples, Q tokens of a query, A tokens of the longest answer (slots).
"""

from __future__ import annotations

import copy
import importlib
import operator
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from thalweg.bounds import named_arguments
from thalweg.data.batches import Tokens
from thalweg.data.task import Task
from thalweg.data.tasks import TASKS
from thalweg.errors import BadInputError, Phrase, format_error, require, shown, unknown, warn
from thalweg.reprs import describe

_NEEDED = ("name", "symbols", "query", "answer", "oracle", "slots", "loops")
PATIENCE = 1.0
"""Seconds that the oracle may take for the samples of one length; a slower one is not called for longer lengths."""
_ENOUGH_SAMPLES = 50
"""Smallest number of samples that are drawn to see whether they depend on the random generator."""


def find_task(name: str) -> Task:
    """Find a task by its name.

    Args:
        name: one of the six tasks, such as "parity"; or ``module:attribute`` for a task of the user's own, where the attribute is
            an object, or a class that is called without arguments.
    Raises:
        BadInputError: there is no such task (the message suggests a similar name), it cannot be imported, or lacks a member.
    """
    check_name(name)
    if not own(name):
        return TASKS[name]
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # an installed command does not import from the current folder by itself
        sys.path.append(os.getcwd())
    try:
        task = getattr(importlib.import_module(module), attribute)
        task = task() if isinstance(task, type) else task
    except (Exception, SystemExit) as error:  # the module is the user's: anything may go wrong in it
        hint = f"; give {module.removesuffix('.py')}:{attribute}" if module.endswith(".py") else ""
        raise BadInputError(
            f"task: given {name!r}, expected module:attribute that can be imported ({format_error(error)}){hint}"
        ) from None
    return Guarded(task, name)


def own(name: str) -> bool:
    """Whether a name is that of a task of the user's own, ``module:attribute``."""
    return ":" in name


def check_name(name: str) -> None:
    """Refuse a name that no task can have, without importing the module of a user's own task.

    Raises:
        BadInputError: an unknown task (the message suggests a similar name), or not of the form module:attribute.
    """
    if not own(name):
        if name not in TASKS:
            raise unknown("task", name, TASKS)
        return
    module, _, attribute = name.partition(":")
    well_formed = name.isprintable() and all(part.strip() for part in (*module.split("."), attribute))
    require(well_formed, "task", name, "module:attribute that can be imported")


class Guarded:
    """A task of a user's own whose results are checked at every call, and converted to plain integers and int64 arrays.

    Every member raises `BadInputError`, with task, length and member in the message, if the user's member fails or returns
    something that is no integer, out of range, of another shape, or different from an earlier call with the same arguments.

    Args:
        task: an object with the members of `Task`.
        given: the name that the user gave, for messages.
    Raises:
        BadInputError: the object lacks a member, or its name or symbols are invalid.
    """

    def __init__(self, task: object, given: str = "") -> None:
        given = given or type(task).__name__
        if isinstance(task, type):
            raise BadInputError(f"task: given the class {task.__name__}, expected an object of it: {task.__name__}()")
        try:
            missing = [member for member in _NEEDED if not hasattr(task, member)]
            name, symbols = getattr(task, "name", ""), getattr(task, "symbols", 1)
        except (Exception, SystemExit) as error:  # the code is the user's: anything may go wrong in it
            raise BadInputError(f"task {given}: its name and symbols failed with {format_error(error)}") from error
        other = f"; it is an experiment: give `thalweg study {given}`" if hasattr(task, "arms") else ""
        require(not missing, "task", given, f"an object that has {', '.join(_NEEDED)} (missing: {', '.join(missing)}){other}")
        require(isinstance(name, str) and name.isprintable() and name.strip() != "", "task name", name, "a line of text")
        self.task, self.name = task, name
        self.symbols = positive_integer(symbols, f"task {name}: symbols")
        self.known: dict[tuple[str, int], int] = {}
        """(member, length) -> the number that it returned: width of the queries, slots or loops."""
        self.calls: Counter[str] = Counter()
        """Member -> how often it was called."""

    def __repr__(self) -> str:
        return describe(self, f"task {self.name}", f"symbols={self.symbols}")

    def query(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        """Queries ``(count, Q)``; Q must be that of earlier calls with this length. Some calls are repeated, see `repeat_due`."""
        twin = copy.deepcopy(rng) if self.repeat_due("query") else None
        queries = self.query_once(length, count, rng)
        if twin is not None:
            same = np.array_equal(queries, self.query_once(length, count, twin))
            self.require_same(same, "query", length, "gives other samples for the same rng")
        return queries

    def query_once(self, length: int, count: int, rng: np.random.Generator) -> Tokens:
        """Queries from a single call of the user's ``query``."""
        place = self.place("query", length)
        queries = checked_tokens(self.call("query", length, length, count, rng), self.symbols - 1, place)
        width = self.known.setdefault(("query", length), queries.shape[-1] if queries.ndim else 0)
        wanted = f"({count}, {width}): a width that depends on the length alone"
        require(queries.shape == (count, width), place, queries.shape, wanted)
        return queries

    def answer(self, query: Tokens, length: int) -> Tokens:
        """Answers ``(count, A)`` to queries ``(count, Q)``, A being the slots. Some calls are repeated, see `repeat_due`."""
        repeat = self.repeat_due("answer")
        answers = self.answer_once(query, length)
        if repeat:
            same = np.array_equal(answers, self.answer_once(query, length))
            self.require_same(same, "answer", length, "gives other answers to the same query")
        return answers

    def answer_once(self, query: Tokens, length: int) -> Tokens:
        """Answers from a single call of the user's ``answer``, which must not change the queries."""
        place, before, slots = self.place("answer", length), query.copy(), self.slots(length)
        result = self.call("answer", length, query, length)
        unchanged = np.array_equal(query, before)
        require(
            unchanged, self.place("query", length), Phrase("another one after answer"), "the same one: answer must not change it"
        )
        answers = checked_tokens(result, self.symbols, place)
        require(answers.shape == (len(query), slots), place, answers.shape, f"({len(query)}, {slots}), as slots says")
        return answers

    def oracle(self, query: Sequence[int], length: int) -> list[int]:
        """The answer to one query by the user's ``oracle``, no longer than the slots."""
        place, slots = self.place("oracle", length), self.slots(length)
        result = self.call("oracle", length, query, length, convert=list)
        try:
            answer = [operator.index(token) for token in result]
        except TypeError:
            raise BadInputError(f"{place}: given {shown(result)[:60]}, expected a list of whole numbers") from None
        require(len(answer) <= slots, place, answer, f"at most the {slots} slots")
        return answer

    def slots(self, length: int) -> int:
        """Number of slots A, at least 1; the same for a length at every call."""
        return self.number("slots", length)

    def loops(self, length: int) -> int:
        """Number of passes T(n), at least 1; the same for a length at every call."""
        return self.number("loops", length)

    def number(self, member: str, length: int) -> int:
        """The number that ``slots`` or ``loops`` returns for a length, which must be that of earlier calls."""
        value = positive_integer(self.call(member, length, length), self.place(member, length))
        known = self.known.setdefault((member, length), value)
        self.require_same(value == known, member, length, f"gives {known} and {value} for the same length")
        return value

    def repeat_due(self, member: str) -> bool:
        """Count a call of a member; True at calls 1, 2, 4, 8, ..., which are made twice to compare the results."""
        self.calls[member] += 1
        return self.calls[member].bit_count() == 1

    def require_same(self, same: bool, member: str, length: int, difference: str) -> None:
        """Raise `BadInputError` if two results of a member that should be equal are not."""
        if not same:
            raise BadInputError(f"{self.place(member, length)} {difference}; expected a function of its arguments alone")

    def call(self, member: str, length: int, *arguments: object, convert: Callable[[Any], Any] = lambda result: result) -> Any:
        """Call a member of the user's task and convert its result; any exception becomes a `BadInputError`."""
        try:
            return convert(getattr(self.task, member)(*arguments))
        except (Exception, SystemExit) as error:  # the code is the user's: anything may go wrong in it
            message = f"{self.place(member, length)}: failed with {format_error(error)}; expected it to work at this length"
            raise BadInputError(message) from error

    def place(self, member: str, length: int) -> str:
        """Task, length and member, for messages."""
        return f"task {self.name}, length {length}: {member}"


@named_arguments
def check_task(task: Task, lengths: Sequence[int] = (1, 2, 3, 5, 8), count: int = 50, seed: int = 0) -> None:
    """Check that a task is consistent at some lengths, and that its oracle agrees with its answers.

    An oracle may be slow, for instance if it tries all answers. If the samples of one length take longer than `PATIENCE`, it is not
    called for longer lengths, with a warning; the other members are checked all the same.

    Args:
        task: the task.
        lengths: lengths to check, in any order.
        count: number of samples of each length.
        seed: seed of the samples.
    Raises:
        BadInputError: the message names length and member. A member fails; it returns something that is no integer, out of range or
            of the wrong shape; an answer changes its query; the oracle disagrees with an answer; a member returns different results
            for the same arguments (because it uses another generator, a counter or a clock); or the queries are the same for every
            generator.
    Warns:
        UserWarning: the oracle is slow.
    """
    require(isinstance(count, int) and count >= 1, "count", count, "a whole number of at least 1")
    task = task if isinstance(task, Guarded) else Guarded(task)
    oracle_is_fast = True
    has_several = varies = False  # whether some length has several queries, and whether they depend on the generator
    for length in sorted(lengths):
        task.loops(length)
        query = _repeatable_queries(task, length, count, seed)
        if not varies:
            size = max(count, _ENOUGH_SAMPLES)
            draws = [task.query_once(length, size, np.random.default_rng([seed + k, length])) for k in range(4)]
            has_several |= len(np.unique(draws[0], axis=0)) > 1
            varies = any(not np.array_equal(draws[0], other) for other in draws[1:])
        answer = _repeatable_answers(task, query, length)
        task.loops(length)
        if oracle_is_fast and not _oracle_agrees(task, query.tolist(), answer.tolist(), length):
            oracle_is_fast = False
            warn(f"task {task.name}: its oracle is slow and was not called beyond length {length}")
    again = positive_integer(getattr(task.task, "symbols", 0), f"task {task.name}: symbols")
    require(again == task.symbols, f"task {task.name}: symbols", again, f"the same number as before, {task.symbols}")
    if has_several and not varies:
        raise BadInputError(f"task {task.name}: query gives the same samples for every rng; draw from the rng that it is given")


def checked_task(name: str, lengths: Sequence[int], count: int = 50) -> Task:
    """Find a task by its name, and check a task of the user's own at some lengths.

    A class is instantiated twice: the two objects must behave alike, as a resumed run creates a new one.

    Args:
        name: see `find_task`.
        lengths: lengths to check.
        count: number of samples of each length.
    Raises:
        BadInputError: as in `find_task` and `check_task`; or two objects of the class differ.
    """
    task = find_task(name)
    if not isinstance(task, Guarded):
        return task
    check_task(task, lengths, count)
    twin = find_task(name)
    assert isinstance(twin, Guarded)
    for length in lengths:
        query, other = (each.query_once(length, count, np.random.default_rng([0, length])) for each in (task, twin))
        same = np.array_equal(query, other) and np.array_equal(task.answer_once(query, length), twin.answer_once(query, length))
        same = same and (task.loops(length), task.symbols) == (twin.loops(length), twin.symbols)
        if not same:
            raise BadInputError(
                f"task {task.name}, length {length}: two objects of {name} differ; expected a class without chance in it"
            )
    return task


def _repeatable_queries(task: Guarded, length: int, count: int, seed: int) -> Tokens:
    """Queries of one length, drawn twice from equal generators, and once with another number of samples."""
    once, again = (task.query_once(length, count, np.random.default_rng([seed, length])) for _ in range(2))
    task.query_once(length, 1, np.random.default_rng([seed, length]))
    same = np.array_equal(once, again)
    task.require_same(same, "query", length, "gives other samples for the same rng")
    return once


def _repeatable_answers(task: Guarded, query: Tokens, length: int) -> Tokens:
    """Answers to queries, computed twice, and once to the last query alone."""
    once, again, last = (task.answer_once(queries, length) for queries in (query, query, query[-1:]))
    task.require_same(np.array_equal(once, again), "answer", length, "gives other answers to the same query")
    alone = np.array_equal(once[-1:], last)
    task.require_same(alone, "answer", length, "gives another answer to a query alone than beside others")
    return once


def _oracle_agrees(task: Task, queries: list[list[int]], answers: list[list[int]], length: int) -> bool:
    """Compare answers with the oracle; False if it takes longer than `PATIENCE`.

    Raises:
        BadInputError: the oracle disagrees with an answer, or with itself.
    """
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
            task.require_same(task.oracle(list(query), length) == answer, "oracle", length, "gives other answers to the same query")
        if time.perf_counter() - started > PATIENCE:
            return False
    return True


def positive_integer(given: object, what: str) -> int:
    """Convert an integer of any type to a plain ``int``.

    Raises:
        BadInputError: it is no integer, or below 1.
    """
    try:
        value = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        value = 0
    require(value >= 1, what, given, "a whole number of at least 1")
    return value


def checked_tokens(given: object, largest: int, what: str) -> Tokens:
    """Check an array of tokens of any shape and convert it to int64.

    Raises:
        BadInputError: it is no numpy array of integers from 0 to ``largest``.
    """
    kind = str(getattr(given, "dtype", type(given).__name__))
    if not (isinstance(given, np.ndarray) and np.issubdtype(given.dtype, np.integer)):
        raise BadInputError(f"{what}: given {kind!r}, expected a numpy array of whole numbers")
    wrong = given[(given < 0) | (given > largest)]
    require(not wrong.size, what, int(wrong[0]) if wrong.size else 0, f"tokens from 0 to {largest}")
    return given.astype(np.int64)
