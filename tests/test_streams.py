from itertools import combinations

import numpy as np
import pytest

from thalweg.errors import BadInputError
from thalweg.streams import NAMES, stream

BASE = {"seed": 5, "name": "train", "step": 2, "rank": 1}
OTHERS = [{"seed": 6}, {"name": "held-out"}, {"step": 3}, {"rank": 2}, {"step": 1, "rank": 2}]
INDICES = [(name, step, rank) for name in NAMES for step in (0, 1, 7) for rank in (0, 1, 3)]


def draw(**index):
    return stream(**index).integers(1 << 62, size=8)


def counter(generator):
    return generator.bit_generator.state["state"]["counter"]


def test_the_same_index_gives_the_same_numbers():
    assert np.array_equal(draw(**BASE), draw(**BASE))


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_another_seed_name_step_or_rank_gives_other_numbers(other):
    assert not np.array_equal(draw(**BASE), draw(**(BASE | other)))


def test_the_seed_is_the_key_of_the_generator():
    keys = stream(11, "train").bit_generator.state["state"]["key"]
    assert keys.tolist() == [11, 0]


def test_two_streams_of_a_seed_differ_in_the_upper_counter_words():
    upper = [tuple(counter(stream(0, *index))[1:]) for index in INDICES]
    assert all(a != b for a, b in combinations(upper, 2))


@pytest.mark.parametrize("index", [("order", 0, 0), ("probes", 7, 3)], ids=str)
def test_drawing_moves_the_lowest_counter_word_only(index):
    generator = stream(0, *index)
    before = counter(generator).copy()
    generator.integers(1 << 62, size=4000)
    moved = counter(generator) - before
    assert moved.tolist() == [1000, 0, 0, 0]  # four numbers of 64 bits a block


def test_drawing_from_one_stream_leaves_another_alone():
    alone, beside = stream(0, "train"), stream(0, "train")
    stream(0, "probes").random(1000)
    assert np.array_equal(alone.random(8), beside.random(8))


def test_the_numbers_of_the_streams_have_not_moved():
    assert NAMES[:7] == ("transitions", "train", "held-out", "init", "order", "windows", "probes")


def test_an_unknown_name_is_refused_with_the_likely_one():
    with pytest.raises(BadInputError, match="unknown stream 'held_out'; did you mean 'held-out'"):
        stream(0, "held_out")


@pytest.mark.parametrize("what", ["seed", "step", "rank"])
@pytest.mark.parametrize("value", [-1, 2**63])
def test_an_index_out_of_range_is_refused(what, value):
    with pytest.raises(BadInputError, match=rf"{what}: given {value}, expected a whole number from 0 to 2\*\*63 - 1"):
        stream(**(BASE | {what: value}))


@pytest.mark.parametrize("what", ["seed", "step", "rank"])
def test_the_largest_index_is_accepted(what):
    assert stream(**(BASE | {what: 2**63 - 1})).random() >= 0
