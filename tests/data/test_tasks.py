import os
import sys
import time
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.data import find_task as task_module
from thalweg.data.find_task import check_task, find_task
from thalweg.data.task_data import TaskConfig
from thalweg.data.tasks import TASKS
from thalweg.data.tasks.multiplication import Multiplication
from thalweg.data.tasks.parity import Parity
from thalweg.data.tasks.unique_set import UniqueSet
from thalweg.errors import BadInputError
from thalweg.models.config import ModelConfig
from thalweg.train.config import RunConfig, config_text, read_config

CASES = {
    "parity": [([1, 0, 1, 1], [1]), ([0, 0], [0])],
    "copy": [([1, 0, 0], [1, 0, 0])],
    "addition": [([1, 1, 2, 1, 0], [0, 0, 1]), ([0, 1, 2, 0, 1], [0, 0, 1])],  # 3 + 1 = 4, 2 + 2 = 4
    "binary-sum": [([1, 0, 1, 1], [1, 1, 0]), ([1, 1, 1, 1], [0, 0, 1])],
    "multiplication": [([1, 0, 1, 2, 1, 1], [1, 1, 1, 1, 0])],  # 5 * 3 = 15
    "unique-set": [([3, 3, 0, 3, 7], [3, 0, 7, 10, 10])],
}


def length_of(name: str, query: list[int]) -> int:
    return {"addition": (len(query) - 1) // 2, "multiplication": len(query) - 3}.get(name, len(query))


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_what_a_hand_says(name):
    for query, answer in CASES[name]:
        length = length_of(name, query)
        assert TASKS[name].answer(np.array([query]), length).tolist() == [answer]


@pytest.mark.parametrize("name", TASKS)
@given(length=st.integers(1, 45), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_the_oracle_agrees_at_any_length(name, length, seed):
    check_task(TASKS[name], lengths=(length,), count=20, seed=seed)


@pytest.mark.parametrize(
    ("name", "loops", "slots"),
    [
        ("parity", 7, 1),
        ("copy", 7, 7),
        ("addition", 8, 8),
        ("binary-sum", 7, 3),
        ("multiplication", 14, 9),
        ("unique-set", 7, 7),
    ],
)
def test_loops_and_slots_follow_the_length(name, loops, slots):
    assert (TASKS[name].loops(7), TASKS[name].slots(7)) == (loops, slots)


def test_other_alphabets_and_factors_are_fields():
    check_task(UniqueSet(symbols=3))
    check_task(Multiplication(second=4))
    assert UniqueSet(3).slots(9) == 3


def test_queries_are_uniform():
    query = TASKS["unique-set"].query(20, 2000, np.random.default_rng(0))
    counts = np.bincount(query.ravel(), minlength=10)
    assert ((counts - 4000) ** 2 / 4000).sum() < 27.9  # chi-square of 9 degrees of freedom, 0.999


class Wrong(Parity):
    """A task of a user's own that contradicts itself in one place."""

    name = "mine"


class TooFewLoops(Wrong):
    def loops(self, length):
        return length - 2


class TooLong(Wrong):
    def answer(self, query, length):
        return query


class OutOfRange(Wrong):
    def query(self, length, count, rng):
        return rng.integers(5, 7, size=(count, length))


class Disagrees(Wrong):
    def oracle(self, query, length):
        return [1 - sum(query) % 2]


class Ragged(Wrong):
    def query(self, length, count, rng):
        return rng.integers(2, size=(count, length if count > 1 else length + 1))


class Overflows(Wrong):
    def oracle(self, query, length):
        return [0, 0]


class Negative(Wrong):
    def query(self, length, count, rng):
        return rng.integers(-2, 0, size=(count, length))


class BeyondTheEnd(Wrong):
    def answer(self, query, length):
        return np.full((len(query), 1), 3)


class HalfALoop(Wrong):
    def loops(self, length):
        return length + 0.5


class Lists(Wrong):
    def query(self, length, count, rng):
        return [[0] * length] * count


class Fractions(Wrong):
    def answer(self, query, length):
        return query[:, :1] * 1.0


class Fails(Wrong):
    def answer(self, query, length):
        return {}[length]


class NoGenerator(Wrong):
    def query(self, length, count):
        return np.zeros((count, length), dtype=int)


class LoopsAsANumber(Wrong):
    loops = 5


class WordsAsSymbols(Wrong):
    symbols = "2"


class NothingAsked(Wrong):
    def slots(self, length):
        return length - 1


class Unnamed(Wrong):
    name = ""


class NameThatFails(Wrong):
    @property
    def name(self):
        raise KeyError("name")


class OracleThatStops(Wrong):
    def oracle(self, query, length):
        yield sum(query) % 2
        raise KeyError(length)


class Leaves(Wrong):
    def answer(self, query, length):
        raise SystemExit("no licence")


class NoAnswer(Wrong):
    def oracle(self, query, length):
        return None


class HalfAnswers(Wrong):
    def oracle(self, query, length):
        return [0.5]


class ChangesItsQuery(Wrong):
    def answer(self, query, length):
        query[:] = 1 - query
        return super().answer(query, length)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Negative(), "task mine, length 1: query: given -[12], expected tokens from 0 to 1"),
        (BeyondTheEnd(), "task mine, length 1: answer: given 3, expected tokens from 0 to 2"),
        (HalfALoop(), "task mine, length 1: loops: given 1.5, expected a whole number of at least 1"),
        (Lists(), "task mine, length 1: query: given 'list', expected a numpy array of whole numbers"),
        (Fails(), "task mine, length 1: answer: failed with KeyError: 1; expected it to work"),
        (NoGenerator(), "task mine, length 1: query: failed with TypeError: .*takes 3 positional arguments but 4 were given"),
        (LoopsAsANumber(), "task mine, length 1: loops: failed with TypeError: 'int' object is not callable"),
        (WordsAsSymbols(), "task mine: symbols: given '2', expected a whole number of at least 1"),
        (NothingAsked(), "task mine, length 1: slots: given 0, expected a whole number of at least 1"),
        (Unnamed(), "task name: given '', expected a line of text"),
        (NoAnswer(), "task mine, length 1: oracle: failed with TypeError: 'NoneType' object is not iterable"),
        (HalfAnswers(), r"task mine, length 1: oracle: given \[0.5\], expected a list of whole numbers"),
        (NameThatFails(), "task NameThatFails: its name and symbols failed with KeyError: 'name'"),
        (OracleThatStops(), "task mine, length 1: oracle: failed with KeyError: 1"),
        (Leaves(), "task mine, length 1: answer: failed with SystemExit: no licence"),
        (object(), r"task: given 'object', expected an object that has name, .*\(missing: name, symbols"),
        (Fractions(), "task mine, length 1: answer: given 'float64', expected a numpy array of whole numbers"),
        (ChangesItsQuery(), "task mine, length 1: query: given another one after answer, expected the same one"),
        (TooFewLoops(), "task mine, length 1: loops: given -1, expected a whole number of at least 1"),
        (TooLong(), r"task mine, length 2: answer: given \(50, 2\), expected \(50, 1\), as slots says"),
        (OutOfRange(), "task mine, length 1: query: given [56], expected tokens from 0 to 1"),
        (
            Disagrees(),
            r"task mine, length 1: the oracle disagrees with the answer of query \[[01]\]: given \[[01]\], expected \[[01]\]",
        ),
        (Ragged(), r"task mine, length 1: query: given \(1, 2\), expected \(1, 1\): a width that depends on the length alone"),
        (Overflows(), r"task mine, length 1: oracle: given \[0, 0\], expected at most the 1 slots"),
    ],
)
def test_a_task_that_contradicts_itself_is_refused_in_one_line(task, message):
    with pytest.raises(BadInputError, match=message):
        check_task(task)


MINE = UniqueSet(symbols=4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("addtion", "unknown task 'addtion'.*addition"),
        ("thalweg.data.tasks.parity:Party", "task: given .* expected module:attribute that can be imported"),
        ("nowhere.at_all:Task", "task: given 'nowhere.at_all:Task', expected module:attribute"),
        (":x", "task: given ':x', expected module:attribute"),
        ("math:pi", r"task: given 'math:pi', expected an object that has name, .*\(missing: name, symbols"),
    ],
)
def test_a_task_that_is_not_there_is_refused_in_one_line(name, message):
    with pytest.raises(BadInputError, match=message):
        find_task(name)


def test_a_users_task_is_found_as_a_class_and_as_an_object():
    assert find_task("thalweg.data.tasks.unique_set:UniqueSet").symbols == 10
    assert find_task(f"{__name__}:MINE").task is MINE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def (", "invalid syntax"),
        ("raise RuntimeError('no table')", "no table"),
        ("raise SystemExit('no licence')", "no licence"),
        ("class Task:\n    def __init__(self, base): ...\n", "missing 1 required positional argument: 'base'"),
    ],
)
def test_a_module_that_fails_is_refused_in_one_line(text, message, tmp_path, monkeypatch):
    (tmp_path / "thalweg_task_that_fails.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "thalweg_task_that_fails", raising=False)
    with pytest.raises(BadInputError, match=f"task: given 'thalweg_task_that_fails:Task', expected module:attribute.*{message}"):
        find_task("thalweg_task_that_fails:Task")
    sys.modules.pop("thalweg_task_that_fails", None)


class OtherKinds(Parity):
    """Whole numbers of every kind that a user's code may give."""

    name, symbols = "mine", np.int8(2)

    def query(self, length, count, rng):
        return super().query(length, count, rng).astype(np.uint64)

    def answer(self, query, length):
        return super().answer(query, length).astype(np.uint8)

    def oracle(self, query, length):
        return np.array(super().oracle(query, length))

    def slots(self, length):
        return np.int64(1)

    def loops(self, length):
        return np.uint8(length)


class Slow(Parity):
    """Its oracle tries everything: every length takes twice as long as the one before."""

    asked: ClassVar[list[int]] = []

    def oracle(self, query, length):
        self.asked.append(length)
        time.sleep(0.001 * 2**length)
        return super().oracle(query, length)

    def answer(self, query, length):
        return super().answer(query, length) + (9 if length == 40 else 0)


def test_a_slow_oracle_is_asked_as_far_as_it_can_and_the_rest_is_looked_at(monkeypatch):
    monkeypatch.setattr(task_module, "PATIENCE", 0.05)
    task = Slow()
    with pytest.warns(UserWarning, match="task parity: its oracle is slow and was not called beyond length 6"):
        check_task(task, (6, 7, 3, 20), count=4)
    assert set(task.asked) == {3, 6}
    with pytest.warns(UserWarning, match="slow"), pytest.raises(BadInputError, match="length 40: answer: given"):
        check_task(task, (6, 40), count=4)


def test_whole_numbers_of_any_kind_become_plain_ones(tmp_path):
    task = find_task(f"{__name__}:OtherKinds")
    check_task(task)
    query = task.query(4, 3, np.random.default_rng(0))
    assert {query.dtype, task.answer(query, 4).dtype} == {np.dtype(np.int64)}
    numbers = (task.symbols, task.slots(4), task.loops(4), task.oracle([1, 0, 1, 1], 4)[0])
    assert [type(number) for number in numbers] == [int] * 4
    config = RunConfig(data=TaskConfig(f"{__name__}:OtherKinds", longest=3), model=ModelConfig(vocabulary=3, positions="none"))
    (tmp_path / "run.toml").write_text(config_text(config))
    assert read_config(tmp_path / "run.toml") == config


def test_a_task_in_the_folder_of_the_call_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", os.getcwd())])
    (tmp_path / "thalweg_task_of_mine.py").write_text("from thalweg.data.tasks.copy import Copy\n\nMINE = Copy(symbols=5)\n")
    monkeypatch.chdir(tmp_path)
    assert find_task("thalweg_task_of_mine:MINE").symbols == 5
