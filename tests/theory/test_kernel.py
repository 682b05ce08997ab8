from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.errors import BadInputError, NonFiniteError, StepSizeError, UnstableDirectionError
from thalweg.theory.kernel import doubled_kernel, kernel, limit, schedule_kernel, steps_to_limit

VALUES = [0.0, 1e-300, 1e-12, 1e-7, 1e-5, 1e-3, 0.01, 0.3, 0.7142857, 0.72, 1.2, 1.43, 2.7, 2.857142857, 3.3, -1e-6, -0.1, -2.0]
RELATIVE = 1e-12


def summed(value, rate, steps):
    """The defining sum in exact arithmetic."""
    q = 1 - Fraction(rate) * Fraction(value)
    return sum((Fraction(rate) * q**k for k in range(steps)), Fraction(0))


def near(found, exact):
    """Relative, and absolute in units of the rate where the terms of the sum cancel, at eta lam near 2."""
    return abs(float(found) - float(exact)) <= RELATIVE * max(abs(float(exact)), 0.7 if abs(exact) < 1e-3 else 0)


def one(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 57])
def test_the_kernel_is_its_sum(value, steps):
    assert near(kernel(one(value), 0.7, steps), summed(value, 0.7, steps))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("steps", [2, 3, 10, 57])
def test_the_doubled_kernel_is_the_sum_of_kernels(value, steps):
    exact = sum((summed(value, 0.7, k) for k in range(steps)), Fraction(0))
    assert near(doubled_kernel(one(value), 0.7, steps), exact)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.floats(0, 2), min_size=1, max_size=12), st.floats(-1, 2))
def test_the_schedule_kernel_is_the_telescoped_product(rates, value):
    if not any(rates):
        return
    left = Fraction(1)
    for rate in rates:
        left *= 1 - Fraction(rate) * Fraction(value)
    exact = (1 - left) / Fraction(value) if value else sum(map(Fraction, rates))
    scale = sum(rates) * max(1.0, (1 + 2 * abs(value)) ** len(rates))
    assert abs(float(schedule_kernel(one(value), rates)) - float(exact)) <= 1e-13 * scale


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.floats(1e-9, 1.0), st.integers(1, 10**6))
def test_between_its_bounds_below_one(x, steps):
    s = float(kernel(one(x), 1.0, steps))
    assert -torch.expm1(one(-x * steps)) / x * (1 - 1e-12) <= s <= min(steps, 1 / x) * (1 + 1e-12)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.floats(1.0, 1.999), st.integers(1, 1000))
def test_at_most_the_rate_above_one(x, steps):
    assert 0 < float(kernel(one(x), 1.0, steps)) <= 1 + 1e-12


def test_falls_for_even_steps_and_not_for_odd_ones():
    places = torch.linspace(-0.5, 1.999, 400, dtype=torch.float64)
    assert (kernel(places, 1.0, 4).diff() < 0).all()
    assert (kernel(places, 1.0, 3).diff() > 0).any()


def test_very_many_steps_do_not_overflow_where_the_limit_exists():
    assert torch.equal(kernel(one([0.1, 1.0, 1.5]), 1.0, 10**12), 1 / one([0.1, 1.0, 1.5]))


def test_float32_is_computed_in_float64():
    assert kernel(torch.tensor([0.5]), 1.0, 3).dtype == torch.float64


def test_overflow_is_refused_unless_asked_for():
    with pytest.raises(NonFiniteError, match=r"^kernel: grows beyond float64; use fewer steps, a smaller rate, or overflow='inf'$"):
        kernel(one([-1.0]), 1.0, 5000)
    assert torch.isinf(kernel(one([-1.0]), 1.0, 5000, overflow="inf")).all()


def test_nan_is_refused():
    with pytest.raises(NonFiniteError, match=r"^values: holds NaN or infinity"):
        kernel(one([float("nan")]), 1.0, 5)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_must_be_positive(rate):
    with pytest.raises(StepSizeError, match=r"^rate: given .*, expected a positive number$"):
        kernel(one([1.0]), rate, 5)


def test_rates_of_a_schedule_must_not_all_be_zero():
    with pytest.raises(StepSizeError, match=r"^rates: given"):
        schedule_kernel(one([1.0]), [0.0, 0.0])


def test_at_least_one_step():
    with pytest.raises(BadInputError, match=r"^steps: given 0, expected a whole number of at least 1$"):
        kernel(one([1.0]), 1.0, 0)


def test_no_limit_for_negative_directions():
    with pytest.raises(UnstableDirectionError, match=r"^limit: smallest eigenvalue -0.1, expected all above 0; use a finite K$"):
        limit(one([1.0, -0.1]), 1.0)


def test_no_limit_for_a_rate_too_large():
    with pytest.raises(StepSizeError, match=r"^limit: rate times largest eigenvalue is 2.5, expected below 2$"):
        limit(one([1.0, 2.5]), 1.0)


@pytest.mark.parametrize("x", [0.01, 0.4, 1.3, 1.9])
def test_steps_to_limit_are_the_first_that_are_close(x):
    steps = int(steps_to_limit(one([x]), 1.0, 0.02).ceil())
    for count, close in ((steps, True), (steps - 1, False)):
        if count >= 1:
            assert (abs(float(kernel(one(x), 1.0, count)) * x - 1) <= 0.02 * (1 + 1e-9)) == close
