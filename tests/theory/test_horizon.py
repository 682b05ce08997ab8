import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.curvature.operator import Operator
from thalweg.errors import BadInputError, InsufficientDataError
from thalweg.theory.descent import descend
from thalweg.theory.horizon import Lipschitz, horizon, prior_bound, rho_directional, rho_operator
from thalweg.theory.taylor import follow, taylor_model


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cubic(curvature, third, pull):
    """Gradient of ``pull x + curvature x^2/2 + third x^3/6``; rho is ``|third|`` everywhere."""
    return lambda point: pull + curvature * point + third * point.square() / 2


def model_of(slope, curvature, rate, steps):
    return taylor_model(torch.tensor([[curvature]], dtype=torch.float64), slope(torch.zeros(1).double()), rate, steps)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.floats(-1, 3), st.floats(-2, 2), st.floats(-0.5, 0.5), st.integers(1, 12))
def test_recursion_and_closed_form_bound_the_error_where_rho_is_known(curvature, third, pull, steps):
    slope = cubic(curvature, third, pull)
    model = model_of(slope, curvature, 0.3, steps)
    gaps = (descend(slope, torch.zeros(1), 0.3, steps) - model.displacements).norm(dim=1)
    found = prior_bound(model, abs(third))
    assert (gaps <= found.bound + 1e-12).all()
    assert float(gaps[-1]) <= found.closed + 1e-12


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.floats(-1, 7), st.floats(0, 3), st.floats(-0.5, 0.5), st.integers(1, 12))
def test_the_closed_form_is_above_the_recursion(curvature, rho, pull, steps):
    found = prior_bound(model_of(cubic(curvature, rho, pull), curvature, 0.3, steps), rho)
    assert float(found.bound[-1]) <= found.closed * (1 + 1e-12)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.floats(0, 6), st.floats(0.01, 3), st.floats(0.01, 2))
def test_within_the_horizon_the_closed_form_applies(curvature, rho, pull):
    steps = int(min(horizon(rho, 0.3, pull), 200))
    if steps >= 1:
        found = prior_bound(model_of(cubic(curvature, rho, pull), curvature, 0.3, steps), rho)
        assert all(condition.held for condition in found.conditions)
        assert math.isfinite(found.closed)


def test_the_recursion_by_hand():
    """q = 1, eta = 1, rho = 1/2, distances 0, 1, 2: E is 0, 0, 1/4, 1/4 + (2.25)^2 / 4."""
    found = prior_bound(taylor_model(torch.zeros(1, 1), torch.ones(1), 1.0, 3), 0.5)
    assert found.bound.tolist() == [0, 0, 0.25, 0.25 + 2.25**2 / 4]


def test_with_directional_rho_the_bound_holds_for_its_own_run():
    rows = drawn(0, 10, 6) / 2
    slope = lambda point: rows.T @ (rows @ point).tanh() - 0.3  # noqa: E731
    start = drawn(1, 6)
    hessian = (rows.T / (rows @ start).cosh().square()) @ rows
    model = taylor_model(hessian, slope(start), 0.1, 25)
    found = follow(model, slope, descend(slope, start, 0.1, 25))
    assert (found.errors <= prior_bound(model, rho_directional(found)).bound + 1e-14).all()


def test_both_estimates_find_a_constant_third_derivative():
    slope = cubic(1.0, -1.5, 0.4)
    points = descend(slope, torch.zeros(1), 0.3, 5)
    estimate = rho_directional(follow(model_of(slope, 1.0, 0.3, 5), slope, points))
    assert estimate.value == pytest.approx(1.5, rel=1e-9)
    assert rho_operator(lambda p: (1 - 1.5 * p).unsqueeze(0), points).value == pytest.approx(1.5, rel=1e-12)


def test_estimates_are_never_above_the_true_rho():
    rows = drawn(0, 10, 6) / 2
    slope = lambda point: rows.T @ (rows @ point).tanh() - 0.3  # noqa: E731
    hessian = lambda point: (rows.T / (rows @ point).cosh().square()) @ rows  # noqa: E731
    rho = 4 / (3 * 3**0.5) * float(rows.norm(dim=1).max() * torch.linalg.matrix_norm(rows, 2) ** 2)
    for seed in range(10):
        points = descend(slope, drawn(seed, 6), 0.1, 10)
        model = taylor_model(hessian(points[0]), slope(points[0]), 0.1, 10)
        assert 0 < rho_directional(follow(model, slope, points)).value < rho
        assert 0 < rho_operator(hessian, points).value < rho


def test_products_alone_give_the_same_estimate():
    class Hidden(Operator):
        def __init__(self, entries):
            self.entries, self.dim, self.dtype, self.device = entries, len(entries), entries.dtype, entries.device

        def rows(self, vectors):
            return vectors @ self.entries

    def at(point):
        return torch.diag(point) @ torch.ones(12, 12, dtype=torch.float64) @ torch.diag(point)

    points = torch.stack([torch.zeros(12), torch.ones(12), drawn(0, 12)]).double()
    assert rho_operator(lambda p: Hidden(at(p)), points).value == pytest.approx(rho_operator(at, points).value, rel=1e-9)


def test_on_a_quadratic_the_directional_estimate_is_zero_not_rounding():
    a = drawn(0, 8, 8)
    hessian, start = a @ a.T / 8, drawn(1, 8)
    slope = lambda point: hessian @ point  # noqa: E731
    found = follow(taylor_model(hessian, slope(start), 0.1, 30), slope, descend(slope, start, 0.1, 30))
    assert rho_directional(found) == Lipschitz(0.0, "directional")


def test_a_gradient_in_float32_does_not_invent_a_rho():
    a = drawn(0, 8, 8)
    hessian, start = a @ a.T / 8, drawn(1, 8)
    slope = lambda point: hessian.float() @ point.float()  # noqa: E731
    found = follow(taylor_model(hessian, slope(start), 0.1, 30), slope, descend(slope, start, 0.1, 30))
    assert rho_directional(found).value == 0


def test_an_estimate_is_labelled_as_one():
    model = taylor_model(torch.eye(1), torch.ones(1), 0.1, 3)
    assert prior_bound(model, 1.0).conditions[0].held
    for source in ("directional", "operator"):
        assert not prior_bound(model, Lipschitz(1.0, source)).conditions[0].held


def test_an_uninformative_bound_is_infinite_without_an_error():
    found = prior_bound(taylor_model(torch.eye(1), torch.ones(1), 0.5, 3000), 1e200)
    assert math.isinf(float(found.bound[-1]))
    assert math.isinf(found.closed)
    assert not found.bound.isnan().any()
    grown = prior_bound(taylor_model(-torch.eye(1), torch.ones(1), 1.0, 400), 0.0)
    assert float(grown.bound[-1]) == grown.closed == 0


def test_slightly_negative_curvature_does_not_void_the_closed_form():
    found = prior_bound(taylor_model(torch.tensor([[-1e-3]]), torch.ones(1), 0.1, 10), 0.01)
    assert math.isfinite(found.closed)
    assert not found.conditions[2].held


def test_a_flat_or_quadratic_start_has_no_horizon():
    assert horizon(0.0, 0.1, 1.0) == horizon(1.0, 0.1, 0.0) == math.inf


def test_what_is_refused():
    with pytest.raises(BadInputError, match=r"^rho: given -1.0, expected a finite number of at least 0$"):
        horizon(-1.0, 0.1, 1.0)
    with pytest.raises(BadInputError, match=r"^gradient_norm: given -1.0, expected a finite number of at least 0$"):
        horizon(1.0, 0.1, -1.0)
    with pytest.raises(InsufficientDataError, match=r"^points: given 3, expected at least one away from the first$"):
        rho_operator(lambda _: torch.eye(1), torch.ones(3, 1))
