import numpy as np
import pytest

from thalweg.data.task_data import IGNORED, TaskConfig, TaskData
from thalweg.data.tasks import TASKS
from thalweg.data.tasks.multiplication import Multiplication
from thalweg.data.tasks.parity import Parity
from thalweg.errors import BadInputError
from thalweg.streams import stream


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("format", ["full", "next"])
def test_every_row_asks_for_the_right_answer_at_its_slots_and_nowhere_else(task, format):
    data = TaskData(TaskConfig(task, longest=6, samples=2, format=format), 0)
    made, end = data.batch(5, 40), TASKS[task].symbols
    for tokens, targets, n, loops in zip(made.inputs, made.targets, made.lengths.tolist(), made.loops.tolist(), strict=True):
        width = TASKS[task].query(n, 1, np.random.default_rng(0)).shape[1]
        slots = TASKS[task].slots(n)
        asked = np.flatnonzero(targets != IGNORED)
        assert asked.tolist() == list(range(width, width + slots))
        answer = TASKS[task].oracle(tokens[:width].tolist(), n)
        padded = answer + [end] * (slots - len(answer))
        assert targets[asked].tolist() == padded
        assert tokens[width:].tolist()[:slots] == ([end] * slots if format == "full" else [end, *padded[:-1]])
        assert set(tokens[width + slots :].tolist()) <= {end}
        assert loops == TASKS[task].loops(n)
    assert made.inputs.shape[1] <= data.length - 1


def test_both_formats_ask_the_same_of_the_same_samples():
    full, after = (TaskData(TaskConfig("addition", format=kind), 3).batch(7, 32) for kind in ("full", "next"))
    np.testing.assert_array_equal(full.targets, after.targets)
    assert (full.inputs != after.inputs).any()


def test_lengths_are_uniform_up_to_the_longest():
    data = TaskData(TaskConfig("parity", longest=8, samples=1), 0)
    lengths = np.concatenate([data.batch(step, 500).lengths for step in range(8)])
    counts = np.bincount(lengths, minlength=9)[1:]
    assert len(counts) == 8
    assert ((counts - 500) ** 2 / 500).sum() < 24.3  # chi-square of 7 degrees of freedom, 0.999


def test_the_longest_length_grows_from_start_to_longest():
    data = TaskData(TaskConfig("parity", longest=20, start=4, grow=160, samples=1), 0)
    assert [data.config.longest_at(step) for step in (0, 9, 10, 80, 159, 160, 10_000)] == [4, 4, 5, 12, 19, 20, 20]
    assert max(data.batch(0, 500).lengths) == 4
    assert TaskData(TaskConfig("parity", longest=20, samples=1), 0).config.longest_at(0) == 20


def test_lengths_may_follow_the_passes_of_the_stage():
    data = TaskData(TaskConfig("multiplication", longest=10, start=3, lengths="stage", samples=1), 0)  # T(n) = 2 n
    assert [data.config.longest_at(7, cap) for cap in (1, 2, 3, 4, 19, 20, 99, None)] == [1, 1, 1, 2, 9, 10, 10, 10]
    assert set(data.batch(7, 500, cap=8).lengths.tolist()) == {1, 2, 3, 4}
    growing = TaskData(TaskConfig("multiplication", longest=10, start=3, samples=1), 0)
    assert growing.config.longest_at(7, 2) == 10


def test_a_batch_is_a_function_of_seed_step_and_rank():
    def rows(seed=0, step=3, rank=0):
        return TaskData(TaskConfig("copy", samples=1), seed).batch(step, 16, rank, 2).inputs.tolist()

    assert rows() == rows()
    assert rows() != rows(seed=1)
    assert rows() != rows(step=4)
    assert rows() != rows(rank=1)


def test_training_scoring_and_testing_draw_samples_of_their_own():
    data = TaskData(TaskConfig("copy", longest=20, samples=50), 0)
    batches = [data.batch(step, 64) for step in range(100)]
    trained = {tuple(row) for made in batches for row in made.inputs[made.lengths == 20].tolist()}
    scored, tested = ({tuple(row) for row in made.inputs.tolist()} for made in (data.evaluation[0].groups[19], data.at(20, 50)))
    assert (len(trained) > 250, len(scored), len(tested)) == (True, 50, 50)
    assert not trained & scored
    assert not trained & tested
    assert not scored & tested
    assert data.at(20, 50).inputs.tolist() == data.at(20, 50).inputs.tolist()
    assert data.at(31, 4).lengths.tolist() == [31] * 4


def test_tested_and_held_out_samples_follow_the_seed():
    one, other = (TaskData(TaskConfig("copy", samples=5), seed) for seed in (0, 1))
    assert one.at(20, 5).inputs.tolist() != other.at(20, 5).inputs.tolist()
    assert one.evaluation[0].groups[19].inputs.tolist() != other.evaluation[0].groups[19].inputs.tolist()


def test_held_out_samples_come_from_a_stream_of_their_own():
    data = TaskData(TaskConfig("copy", longest=20, samples=4), 0)
    wanted = TASKS["copy"].query(20, 4, stream(0, "task-held-out", 20))
    np.testing.assert_array_equal(data.evaluation[0].groups[19].inputs[:, :20], wanted)


def test_facts_name_the_task_its_longest_length_and_its_format():
    facts = TaskData(TaskConfig("copy", longest=7, samples=1, format="next"), 0).facts()
    assert facts == {"kind": "task", "task": "copy", "longest": 7, "format": "next"}


FOUR = Multiplication(4)


def test_a_users_task_decides_length_vocabulary_and_passes_and_has_the_name_it_was_given():
    data = TaskData(TaskConfig(f"{__name__}:FOUR", longest=9, samples=1), 0)
    made = data.batch(0, 400)
    assert (data.vocabulary, data.length, data.deepest) == (4, made.inputs.shape[1] + 1, made.loops.max()) == (4, 28, 36)
    assert data.facts()["task"] == f"{__name__}:FOUR"


def test_held_out_samples_are_of_every_length_without_padding():
    data = TaskData(TaskConfig("addition", longest=5, samples=7), 0)
    groups = data.evaluation[0].groups
    assert [group.lengths.tolist() for group in groups] == [[n] * 7 for n in range(1, 6)]
    assert [group.inputs.shape for group in groups] == [(7, 3 * n + 2) for n in range(1, 6)]


def test_fixed_loops_are_those_of_the_longest_length():
    data = TaskData(TaskConfig("addition", longest=9, loops="fixed", samples=1), 0)
    assert set(data.batch(0, 64).loops.tolist()) == {10}
    assert set(data.at(18, 3).loops.tolist()) == {10}
    assert data.deepest == 10


def test_random_loops_lie_between_t_and_half_as_many_more_and_in_tests_are_t():
    data = TaskData(TaskConfig("parity", longest=8, loops="random", samples=1), 0)
    made = data.batch(0, 4000)
    extra = made.loops - made.lengths
    for n in range(1, 9):
        assert set(extra[made.lengths == n].tolist()) == set(range(n // 2 + 1))
    assert set(data.at(8, 20).loops.tolist()) == {8}
    assert data.deepest == 12 == data.config.deepest


class Disagrees(Parity):
    """A task of a user's own, found by its name."""

    def oracle(self, query, length):
        return [1 - sum(query) % 2]


class Dips(Parity):
    def loops(self, length):
        return 0 if length == 10 else length


class Eases(Parity):
    def loops(self, length):
        return 9 if length == 2 else length


def test_a_users_task_is_checked_before_anything_is_drawn():
    with pytest.raises(BadInputError, match=r"task parity, length \d: the oracle disagrees with the answer of query"):
        TaskData(TaskConfig(f"{__name__}:Disagrees", samples=1), 0)


class WrongFrom(Parity):
    """Right at short lengths."""

    first = 25

    def answer(self, query, length):
        return (super().answer(query, length) + (length >= self.first)) % 2


class WrongFromTen(WrongFrom):
    first = 10


@pytest.mark.parametrize(("name", "length"), [("WrongFrom", 25), ("WrongFromTen", 10)])
def test_a_users_task_is_checked_at_every_trained_and_tested_length(name, length):
    with pytest.raises(BadInputError, match=f"task parity, length {length}: the oracle disagrees"):
        TaskData(TaskConfig(f"{__name__}:{name}", longest=20, samples=1), 0)


class DipsWhereItIsTested(Parity):
    def loops(self, length):
        return 0 if length == 40 else length


@pytest.mark.parametrize(("name", "length"), [("Dips", 10), ("DipsWhereItIsTested", 40)])
def test_loops_below_1_are_refused_at_any_trained_or_tested_length(name, length):
    with pytest.raises(BadInputError, match=f"task parity, length {length}: loops: given 0, expected a whole number of at least 1"):
        TaskData(TaskConfig(f"{__name__}:{name}", samples=1), 0)


def test_lengths_that_follow_the_stage_ask_for_passes_that_never_fall():
    TaskData(TaskConfig(f"{__name__}:Eases", samples=1), 0)
    with pytest.raises(BadInputError, match="loops at length 3: given 3, expected no fewer than at the length before"):
        TaskData(TaskConfig(f"{__name__}:Eases", lengths="stage", samples=1), 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "party"}, "unknown task 'party'.*parity"),
        ({"longest": 0}, "data.longest: given 0, expected a whole number of at least 1"),
        ({"longest": 2}, "data.start: given 3, expected a length from 1 to data.longest, 2"),
        ({"start": 0}, "data.start: given 0, expected a length from 1 to data.longest"),
        ({"grow": -1}, "data.grow: given -1, expected a number of updates of at least 0"),
        ({"samples": 0}, "data.samples: given 0"),
        ({"tests": 0}, "data.tests: given 0"),
        ({"tested": (3, 0)}, r"data.tested: given \(3, 0\), expected lengths of at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(given, message):
    with pytest.raises(BadInputError, match=message):
        TaskConfig(**given)


@pytest.mark.parametrize(("length", "count"), [(0, 1), (1, 0)])
def test_no_samples_and_no_length_are_refused(length, count):
    with pytest.raises(BadInputError, match="given 0, expected"):
        TaskData(TaskConfig(samples=1), 0).at(length, count)
