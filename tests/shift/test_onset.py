import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.errors import BadInputError
from thalweg.shift.onset import Hard, Ramp


@pytest.mark.parametrize("age", [0, 1, 1000])
def test_a_hard_onset_counts_in_full_at_once(age):
    assert Hard().gain(age) == 1


@given(steps=st.integers(1, 10_000))
def test_a_ramp_begins_at_zero(steps):
    assert Ramp(steps).gain(0) == 0


@given(steps=st.integers(1, 10_000), later=st.integers(0, 10_000))
def test_a_ramp_counts_in_full_after_its_steps(steps, later):
    assert Ramp(steps).gain(steps + later) == 1


@given(steps=st.integers(1, 1000), age=st.integers(0, 1000))
def test_a_ramp_never_falls(steps, age):
    assert Ramp(steps).gain(age) <= Ramp(steps).gain(age + 1)


@given(steps=st.integers(2, 1000))
def test_a_ramp_is_not_full_before_its_last_step(steps):
    assert Ramp(steps).gain(steps - 1) < 1


def test_a_ramp_is_linear():
    assert [Ramp(8).gain(age) for age in range(9)] == [age / 8 for age in range(9)]


def test_a_ramp_without_steps_is_refused():
    with pytest.raises(BadInputError, match="ramp steps: given 0, expected a whole number of at least 1"):
        Ramp(0)
