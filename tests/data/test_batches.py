from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.data.batches import pass_order, shuffled_rows

COUNTS, SIZES, WORLDS, SEEDS = st.integers(1, 40), st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**40)


def endless(count, seed, size, world, passes):
    """All rows that the ranks take, step by step and rank by rank, for at least so many passes."""
    steps = range(-(-passes * count // (size * world)))
    return [int(row) for s in steps for r in range(world) for row in shuffled_rows(count, seed, s, size, r, world)]


@given(count=COUNTS, size=SIZES, world=WORLDS, seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_the_ranks_together_take_every_row_once_in_each_pass(count, size, world, seed):
    rows = endless(count, seed, size, world, passes=3)
    passes = [rows[first : first + count] for first in range(0, 3 * count, count)]
    assert all(sorted(rows_of_pass) == list(range(count)) for rows_of_pass in passes)


@given(count=COUNTS, size=SIZES, seed=SEEDS, step=st.integers(0, 2**40), rank=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_batch_has_its_size(count, size, seed, step, rank):
    assert shuffled_rows(count, seed, step, size, rank, world=4).shape == (size,)


@given(count=COUNTS, size=SIZES, world=WORLDS, seed=SEEDS, step=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_many_ranks_take_what_one_rank_with_all_of_the_batch_would_take(count, size, world, seed, step):
    parts = [shuffled_rows(count, seed, step, size, rank, world) for rank in range(world)]
    assert np.array_equal(np.concatenate(parts), shuffled_rows(count, seed, step, size * world))


def test_a_batch_larger_than_the_set_takes_rows_as_equally_as_possible():
    taken = Counter(shuffled_rows(count=5, seed=0, step=0, size=13).tolist())
    assert sorted(taken.values()) == [2, 2, 3, 3, 3]


def test_the_same_index_gives_the_same_rows_whatever_was_asked_before():
    first = shuffled_rows(50, 1, 30, 7).tolist()
    pass_order.cache_clear()
    assert shuffled_rows(50, 1, 30, 7).tolist() == first


def test_each_pass_has_its_own_order():
    assert shuffled_rows(50, 1, 0, 50).tolist() != shuffled_rows(50, 1, 1, 50).tolist()


def test_another_seed_gives_another_order():
    assert shuffled_rows(50, 1, 0, 50).tolist() != shuffled_rows(50, 2, 0, 50).tolist()


def test_an_order_that_is_kept_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        pass_order(5, 0, 0)[0] = 1
