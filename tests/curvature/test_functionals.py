import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.curvature.functionals import quadratic_form, trace_function
from thalweg.errors import BadInputError, NonFiniteError, ShapeMismatchError

FLOAT64 = 1e-11
SEEDS = 250
STANDARD_ERRORS = 4


def rotation(size, seed=0):
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0])


def rotated(eigenvalues):
    q = rotation(len(eigenvalues))
    return q @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ q.T


def exact(eigenvalues, function, vector):
    lam = torch.as_tensor(eigenvalues, dtype=torch.float64)
    return float((rotation(len(lam)).T @ vector).square() @ function(lam))


def vector_of(size, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=size))


def chebyshev(degree):
    return lambda x: torch.special.chebyshev_polynomial_t(x, degree)


@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_exact_for_polynomials_up_to_degree_2k_minus_1(k):
    lam, vector = np.linspace(-1, 1, 60), vector_of(60)
    for degree in range(2 * k):
        found = quadratic_form(rotated(lam), chebyshev(degree), vector, steps=k)
        assert abs(found - exact(lam, chebyshev(degree), vector)) < FLOAT64 * 60


@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_not_exact_for_degree_2k(k):
    lam, vector = np.linspace(-1, 1, 60), vector_of(60)
    found = quadratic_form(rotated(lam), chebyshev(2 * k), vector, steps=k)
    assert abs(found - exact(lam, chebyshev(2 * k), vector)) > 1e-3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=15), st.integers(0, 5))
def test_any_function_is_exact_when_the_krylov_space_is_exhausted(eigenvalues, seed):
    vector = vector_of(len(eigenvalues), seed)
    found = quadratic_form(rotated(eigenvalues), torch.exp, vector, steps=len(eigenvalues))
    assert math.isclose(found, exact(eigenvalues, torch.exp, vector), rel_tol=1e-9)


def test_the_loss_that_gradient_descent_removes_takes_as_many_products_as_steps():
    lam, gradient, eta, updates = np.linspace(-0.3, 1.9, 80), vector_of(80), 0.9, 8
    entries = rotated(lam)
    place = torch.zeros(80, dtype=torch.float64)
    for _ in range(updates):
        place = place - eta * (gradient + entries @ place)
    removed = -float(gradient @ place + place @ entries @ place / 2)

    def kernel(x):
        return torch.where(x == 0, 2 * updates * eta, (1 - (1 - eta * x) ** (2 * updates)) / x)

    def error(steps):
        return abs(quadratic_form(entries, kernel, gradient, steps) / 2 / removed - 1)

    assert error(updates) < 1e-10
    assert error(updates - 2) > 1e-6


def test_a_zero_vector_gives_zero_at_any_function():
    assert quadratic_form(torch.eye(3), torch.reciprocal, torch.zeros(3), steps=2) == 0.0


def test_the_length_of_the_vector_counts_squared():
    vector = vector_of(20)
    one, three = (quadratic_form(rotated(range(20)), torch.sin, c * vector, 20) for c in (1, 3))
    assert math.isclose(three, 9 * one, rel_tol=1e-9)


@pytest.mark.parametrize("call", [lambda f: quadratic_form(torch.zeros(3, 3), f, torch.ones(3), 2)])
def test_a_function_that_is_not_finite_is_refused_by_name(call):
    with pytest.raises(NonFiniteError, match="function log: NaN or infinity at 0; define it on the whole range of eigenvalues"):
        call(torch.log)


def test_a_function_that_is_not_finite_is_refused_for_traces_too():
    with pytest.raises(NonFiniteError, match=r"function log: NaN or infinity at -\d"):
        trace_function(rotated([-1.0, 2.0]), torch.log)


def test_a_function_of_another_shape_is_refused():
    def total(x):
        return x.sum()

    with pytest.raises(ShapeMismatchError, match=r"function total: gave shape \(\), expected \(2,\)"):
        quadratic_form(rotated([1.0, 2.0]), total, torch.ones(2), 2)


def test_no_steps_are_refused():
    with pytest.raises(BadInputError, match="steps: given 0, expected a whole number of at least 1"):
        quadratic_form(torch.eye(2), torch.exp, torch.zeros(2), 0)


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ShapeMismatchError, match=r"start vector: given shape \(3,\), expected \(2,\)"):
        quadratic_form(torch.eye(2), torch.exp, torch.zeros(3), 1)


def test_the_trace_of_a_function_and_its_standard_error_are_calibrated():
    lam = np.linspace(-1, 2, 40)
    entries = rotated(lam)
    found = [trace_function(entries, torch.exp, steps=8, probes=5, seed=seed) for seed in range(SEEDS)]
    values, errors = np.array([(one.value, one.standard_error) for one in found]).T
    spread = values.std(ddof=1)
    assert abs((errors**2).mean() / spread**2 - 1) < STANDARD_ERRORS * math.sqrt(2 / SEEDS) * 1.2
    assert abs(values.mean() - np.exp(lam).sum()) < STANDARD_ERRORS * spread / math.sqrt(SEEDS)


def test_a_trace_counts_its_products_also_where_the_process_ends_early():
    assert trace_function(torch.eye(30), torch.exp, steps=9, probes=4).products == 4
    assert trace_function(rotated(range(30)), torch.exp, steps=9, probes=4).products == 36


def test_a_single_probe_is_refused():
    with pytest.raises(BadInputError, match="probes: given 1, expected a whole number of at least 2, as one probe has no stand"):
        trace_function(torch.eye(3), torch.exp, probes=1)
