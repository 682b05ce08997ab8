from decimal import Decimal, localcontext
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.errors import (
    BadInputError,
    EmptySubspaceError,
    InsufficientDataError,
    NonFiniteError,
    ShapeMismatchError,
    StepSizeError,
    UnstableDirectionError,
)
from thalweg.theory.force import cumulative_force
from thalweg.theory.kernel import kernel
from thalweg.theory.momentum import (
    displacement,
    edge_ratio,
    heavy_ball,
    heavy_ball_limit,
    heavy_ball_rate,
    preconditioned_force,
    preconditioned_limit,
    preconditioned_values,
    require_frozen,
    stable_range,
)
from thalweg.theory.quadratic import quadratic

CLOSED_FORM = 1e-10


def one(value):
    return torch.tensor(value, dtype=torch.float64)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def valley(low=0.1, high=1.5):
    """Six valley and three river dimensions at a spectrum from low to high."""
    u = torch.linalg.qr(drawn(1, 6, 6))[0]
    return quadratic(u @ torch.diag(torch.linspace(low, high, 6, dtype=torch.float64)) @ u.T, drawn(2, 6, 3))


def recursion(x, steps, beta):
    """Sum of positions and minus the river's place at rate and coupling 1, in exact arithmetic."""
    x, beta = Fraction(x), Fraction(beta)
    here, before, total, place, place_before = Fraction(1), Fraction(1), Fraction(0), Fraction(0), Fraction(0)
    for _ in range(steps):
        total += here
        place, place_before = place + here + beta * (place - place_before), place
        here, before = here - x * here + beta * (here - before), here
    return float(total), float(place)


def roots_meet(beta):
    """Both eta lam at which the two roots are equal."""
    return [(1 - beta**0.5) ** 2, (1 + beta**0.5) ** 2]


PLACES = [0.0, 1e-300, 1e-12, 1e-6, 1e-3, 0.1, 0.999999, 1.0, 1.7, 1.9, 2.0, 2.9, 3.5, 4.5, -1e-9, -0.01]


@pytest.mark.parametrize("beta", [0.0, 1e-9, 0.25, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 37])
def test_sum_and_displacement_are_those_of_the_recursion(beta, steps):
    places = PLACES + roots_meet(beta) + [2 * (1 + beta)]
    found = heavy_ball(one(places), 1.0, steps, beta)
    for i, x in enumerate(places):
        total, place = recursion(x, steps, beta)
        # Relative; absolute in units of a term where the terms of the sum cancel.
        assert abs(float(found.total[i]) - total) <= CLOSED_FORM / 10 * max(abs(total), 0.1), x
        assert abs(float(found.displacement[i]) - place) <= CLOSED_FORM / 10 * max(abs(place), 0.1), x


@pytest.mark.parametrize("beta", [0.9, 0.99])
def test_a_thousand_steps_at_the_edge_keep_ten_digits(beta):
    """In decimals of 60 digits; doubling alone would leave 2e-8."""
    for x in (roots_meet(beta)[1], 1.999 * (1 + beta), 2 * (1 + beta)):
        with localcontext(prec=60):
            here = before = Decimal(1)
            for _ in range(1000):
                here, before = here - Decimal(x) * here + Decimal(beta) * (here - before), here
            place = float((1 - here) / Decimal(x))
        assert float(heavy_ball(one([x]), 1.0, 1000, beta).displacement) == pytest.approx(place, rel=CLOSED_FORM)


@pytest.mark.parametrize("beta", [0.3, 0.9])
def test_the_published_closed_form_with_inverses_gives_the_same(beta):
    rate, steps, lam = 0.5, 40, 1.7
    m = np.array([[1 + beta - rate * lam, -beta], [1, 0]])
    power, unit = np.linalg.matrix_power(m, steps), np.eye(2)
    first = np.linalg.inv(unit - m) @ (unit - power) @ np.ones(2)
    second = np.linalg.inv(beta * unit - m) @ (beta**steps * unit - power) @ np.ones(2)
    found = heavy_ball(one([lam]), rate, steps, beta)
    assert float(found.total) == pytest.approx(rate * first[0], rel=CLOSED_FORM)
    assert float(found.displacement) == pytest.approx(rate / (1 - beta) * (first - beta * second)[0], rel=CLOSED_FORM)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.floats(0, 0.99), st.floats(1e-9, 0.999), st.integers(1, 10**9))
def test_the_displacement_is_how_far_the_valley_came_over_its_curvature(beta, part, steps):
    """One step more moves the valley by ``-lam`` times the river's move: ``d_{K+1} - beta d_K = eta sum_{k<=K} x_k``."""
    x = one([part * 2 * (1 + beta)])
    now, then = heavy_ball(x, 1.0, steps, beta), heavy_ball(x, 1.0, steps + 1, beta)
    first = float(then.displacement - beta * now.displacement)
    assert first == pytest.approx(float(then.total), rel=1e-9, abs=1e-7)


def test_without_momentum_both_are_the_kernel():
    found = heavy_ball(one(PLACES), 1.0, 9, 0.0)
    assert torch.equal(found.total, kernel(one(PLACES), 1.0, 9))
    assert torch.equal(found.displacement, kernel(one(PLACES), 1.0, 9))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("steps", [10**6, 10**9, 10**12])
def test_very_many_steps_reach_the_limit_without_overflow(beta, steps):
    edge = 2 * (1 + beta)
    lam = one([1e-3, 0.3, *roots_meet(beta), 1.0, 0.5 * edge, 0.999 * edge]) / 0.1
    found, end = heavy_ball(lam, 0.1, steps, beta), heavy_ball_limit(lam, 0.1, beta)
    assert torch.allclose(found.total, end.total, rtol=CLOSED_FORM, atol=0)
    assert torch.allclose(found.displacement, end.displacement, rtol=CLOSED_FORM, atol=0)


def test_a_flat_direction_grows_with_the_steps():
    found = heavy_ball(one([0.0]), 1.0, 10**6, 0.9)
    assert float(found.total) == 1e6
    assert float(found.displacement) == pytest.approx(10 * (1e6 - 9), rel=CLOSED_FORM)


def test_slow_directions_keep_their_digits():
    """At eta lam = 1e-12 after 1e12 steps the slower root's power is ``exp(-1 / (1 - beta))``."""
    found = float(heavy_ball(one([1e-12]), 1.0, 10**12, 0.5).displacement)
    assert found == pytest.approx(1e12 * -np.expm1(-2), rel=1e-11)


def test_momentum_changes_the_rate_and_not_the_limit():
    model, start = valley(), drawn(3, 6)
    ends = [displacement(model, start, 1.0, 5000, beta).vector for beta in (0.0, 0.5, 0.9)]
    for end in ends:
        assert torch.allclose(end, -model.coupling.T @ torch.linalg.solve(model.valley, start), rtol=CLOSED_FORM)


@pytest.mark.parametrize("steps", [1, 60])
def test_the_displacement_is_that_of_torchs_optimizer(steps):
    model, start = valley(-0.05, 3.5), drawn(3, 6)
    x, r = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([x, r], lr=0.8, momentum=0.9)
    for _ in range(steps):
        x.grad, r.grad = model.valley @ x.detach(), model.coupling.T @ x.detach()
        optimizer.step()
    found = displacement(model, start, 0.8, steps, 0.9)
    assert torch.allclose(found.vector, r.detach(), rtol=CLOSED_FORM)
    assert torch.allclose(found.per_mode.sum(0), found.vector)
    assert found.unstable == 1


def test_adams_form_is_its_recursion():
    model, start = valley(), drawn(3, 6)
    x, r, mean = start, torch.zeros(3, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    for _ in range(40):
        mean = 0.9 * mean + 0.1 * torch.cat([model.valley @ x, model.coupling.T @ x])
        x, r = x - 5.0 * mean[:6], r - 5.0 * mean[6:]
    assert torch.allclose(displacement(model, start, 5.0, 40, 0.9, form="ema").vector, r, rtol=CLOSED_FORM)


def test_no_momentum_is_the_cumulative_force():
    model, start = valley(-0.1, 1.8), drawn(3, 6)
    assert torch.allclose(displacement(model, start, 1.0, 7, 0.0).vector, cumulative_force(model, start, 1.0, 7).vector)


def test_conditions_of_the_limit_are_measured():
    model, start = valley(0.1, 3.0), torch.ones(6)
    assert [c.held for c in displacement(model, start, 1.0, 30, 0.6).conditions] == [True, True, True]
    assert [c.held for c in displacement(model, start, 1.0, 3, 0.4).conditions] == [True, False, False]
    assert [c.held for c in displacement(valley(-0.1), start, 1.0, 3, 0.4).conditions] == [False, True, False]


def test_degenerate_models():
    assert not displacement(valley(), torch.zeros(6), 1.0, 3, 0.9).vector.any()
    assert displacement(quadratic(torch.eye(2), torch.zeros(2, 0)), torch.ones(2), 1.0, 3, 0.9).vector.shape == (0,)
    with pytest.raises(EmptySubspaceError, match=r"^valley: has no dimension, expected at least 1$"):
        displacement(quadratic(torch.zeros(0, 0), torch.zeros(0, 2)), torch.zeros(0), 1.0, 3, 0.9)


def test_float32_is_computed_in_float64():
    assert heavy_ball(torch.tensor([0.5]), 1.0, 3, 0.9).total.dtype == torch.float64
    model = quadratic(torch.eye(2), torch.ones(2, 1))
    assert preconditioned_force(model, torch.ones(2), torch.ones(2), torch.ones(1), 0.5, 3).vector.dtype == torch.float64


def test_a_growth_beyond_float64_is_refused():
    for lam in (-1.0, 9.0):
        with pytest.raises(NonFiniteError, match=r"^heavy ball: grows beyond float64; use fewer steps or a smaller rate$"):
            heavy_ball(one([lam]), 1.0, 5000, 0.9)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_a_momentum_is_at_least_zero_and_below_one(beta):
    with pytest.raises(BadInputError, match=r"^momentum: given .*, expected a number of at least 0 and below 1$"):
        heavy_ball(one([1.0]), 1.0, 3, beta)


def test_there_is_no_limit_outside_of_the_stable_range():
    with pytest.raises(UnstableDirectionError, match=r"^limit: smallest eigenvalue 0, expected all above 0; use a finite K$"):
        heavy_ball_limit(one([0.0, 1.0]), 1.0, 0.9)
    message = r"^limit: rate times largest eigenvalue is 3, expected below 2 \(1 \+ momentum\) = 3$"
    with pytest.raises(StepSizeError, match=message):
        heavy_ball_limit(one([3.0]), 1.0, 0.5)
    assert float(heavy_ball_limit(one([2.9]), 1.0, 0.5).displacement) == 1 / 2.9


def radius(x, beta):
    return np.abs(np.linalg.eigvals([[1 + beta - x, -beta], [1, 0]])).max()


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.floats(0, 0.999), st.floats(1e-6, 1 - 1e-6))
def test_momentum_contracts_inside_the_range_and_grows_outside(beta, part):
    edge = stable_range(beta)[1]
    assert radius(part * edge, beta) < 1
    assert radius(edge / part, beta) > 1
    assert radius(-part, beta) > 1


def test_adams_edge_is_38_over_the_rate():
    assert stable_range(0.9, form="ema")[1] == pytest.approx(38)
    assert radius(0.1 * 37.962, 0.9) == pytest.approx(0.9487, abs=1e-4)
    assert radius(0.1 * 38.038, 0.9) == pytest.approx(1.0301, abs=1e-4)


def test_an_unknown_form_is_refused():
    with pytest.raises(BadInputError, match=r"^form: given 'nesterov', expected one of heavy-ball, ema$"):
        stable_range(0.9, form="nesterov")
    assert heavy_ball_rate(2.0, 0.75, "ema") == 0.5


def test_the_ratio_is_one_at_the_edge_of_each_method():
    assert edge_ratio(4.0, 0.5) == 1
    assert edge_ratio(3.8, 1.0, 0.9) == pytest.approx(1)
    assert edge_ratio(380.0, 0.1, 0.9, form="ema") == pytest.approx(1)
    assert edge_ratio(-1.0, 1.0) == -0.5
    with pytest.raises(BadInputError, match=r"^sharpness: given nan, expected a finite number$"):
        edge_ratio(float("nan"), 1.0)


def definite(seed, size):
    a = drawn(seed, size, size)
    return a @ a.T / size + 0.2 * torch.eye(size, dtype=torch.float64)


def scattered(seed, size):
    return drawn(seed, size).abs() + 0.2


@pytest.mark.parametrize("pair", [(scattered(4, 6), scattered(5, 3)), (definite(4, 6), definite(5, 3))], ids=["diagonal", "full"])
@pytest.mark.parametrize("steps", [1, 2, 90])
def test_the_preconditioned_force_is_the_recursion(pair, steps):
    model, start = valley(-0.02, 0.8), drawn(3, 6)
    inner, outer = (torch.diag(p) if p.dim() == 1 else p for p in pair)
    x, place = start, torch.zeros(3, dtype=torch.float64)
    for _ in range(steps):
        place, x = place - 0.4 * outer @ model.coupling.T @ x, x - 0.4 * inner @ model.valley @ x
    found = preconditioned_force(model, start, *pair, 0.4, steps)
    assert torch.allclose(found.vector, place, rtol=CLOSED_FORM)
    assert found.unstable == 1
    assert [c.held for c in found.conditions][:2] == [False, True]


@pytest.mark.parametrize("pair", [(scattered(4, 6), scattered(5, 3)), (definite(4, 6), definite(5, 3))], ids=["diagonal", "full"])
def test_the_preconditioned_limit_is_its_formula_and_reached(pair):
    model, start = valley(), drawn(3, 6)
    inner, outer = (torch.diag(p) if p.dim() == 1 else p for p in pair)
    closed = -outer @ model.coupling.T @ torch.linalg.solve(inner @ model.valley, start)
    found = preconditioned_limit(model, start, *pair, 0.4)
    assert torch.allclose(found.vector, closed, rtol=CLOSED_FORM)
    assert torch.allclose(preconditioned_force(model, start, *pair, 0.4, 10**6).vector, closed, rtol=CLOSED_FORM)
    assert len(found.conditions) == 2


def test_a_preconditioner_of_ones_is_gradient_descent():
    model, start = valley(-0.1, 1.8), drawn(3, 6)
    found = preconditioned_force(model, start, torch.ones(6), torch.ones(3), 1.0, 7)
    assert torch.allclose(found.vector, cumulative_force(model, start, 1.0, 7).vector)


def test_a_newton_preconditioner_takes_the_flat_dominance_away():
    """``P_V = A^-1`` gives every direction the same kernel."""
    model, start = quadratic(torch.diag(one([1e-3, 1.0])), torch.eye(2)), torch.ones(2)
    found = preconditioned_limit(model, start, one([1e3, 1.0]), torch.ones(2), 1.0)
    assert torch.allclose(found.vector, -torch.ones(2, dtype=torch.float64))


def test_no_preconditioned_limit_outside_of_the_stable_range():
    model, ones = quadratic(torch.diag(one([0.5, 1.0])), torch.ones(2, 1)), torch.ones(1)
    with pytest.raises(StepSizeError, match=r"^limit: rate times largest eigenvalue is 3, expected below 2$"):
        preconditioned_limit(model, torch.ones(2), one([1.0, 3.0]), ones, 1.0)
    with pytest.raises(UnstableDirectionError, match=r"^limit: smallest eigenvalue -1, expected all above 0; use a finite K$"):
        preconditioned_limit(quadratic(-torch.eye(2), torch.ones(2, 1)), torch.ones(2), torch.ones(2), ones, 1.0)
    with pytest.raises(NonFiniteError, match=r"^kernel: grows beyond float64"):
        preconditioned_force(model, torch.ones(2), one([1.0, 9.0]), ones, 1.0, 5000)


def test_a_preconditioner_is_positive_definite_and_fits():
    force = partial(preconditioned_force, valley(), torch.ones(6), rate=0.1, steps=3)
    with pytest.raises(
        BadInputError, match=r"^valley preconditioner: has an eigenvalue of at most 0, expected a positive definite matrix$"
    ):
        force(torch.tensor([1.0, 1, 1, 1, 1, 0]), torch.ones(3))
    with pytest.raises(ShapeMismatchError, match=r"^river preconditioner: given shape \(4,\), expected \(3,\)$"):
        force(torch.ones(6), torch.ones(4))
    with pytest.raises(EmptySubspaceError, match=r"^valley: has no dimension, expected at least 1$"):
        preconditioned_force(quadratic(torch.zeros(0, 0), torch.zeros(0, 1)), torch.zeros(0), torch.ones(0), torch.ones(1), 1.0, 2)


def test_preconditioned_eigenvalues_are_those_of_the_product():
    a, p = valley().valley, definite(4, 6)
    expected = torch.linalg.eigvals(p @ a).real.sort().values
    assert torch.allclose(preconditioned_values(a, p), expected, rtol=1e-10)


def test_a_frozen_window_gives_its_mean():
    window = torch.stack([torch.ones(3), 1.05 * torch.ones(3)])
    for every in (window, torch.diag_embed(window)):
        found = require_frozen(every)
        assert torch.allclose(found.preconditioner, every.to(torch.float64).mean(0))
        assert found.drift == pytest.approx(0.025 / 1.025, rel=1e-6)
        assert found.relative_drift == pytest.approx(found.drift)
        assert found.conditions[0].held


def test_a_drift_above_a_tenth_is_refused():
    with pytest.raises(
        BadInputError, match=r"^preconditioners: drift by 0.2 of their mean, expected at most 0.1; take fewer steps$"
    ):
        require_frozen(one([[0.8, 1.0], [1.2, 1.0]]).expand(1, 2, 2)[0])
    assert require_frozen(one([[0.8, 1.0], [1.2, 1.0]]), tolerance=0.3).drift == pytest.approx(0.2)


def test_a_small_entry_may_change_many_times_while_the_drift_is_small():
    window = one([[1000.0, 1.0], [1000.0, 99.0]])
    for every in (window, torch.diag_embed(window)):
        found = require_frozen(every)
        assert found.drift == pytest.approx(0.049)
        assert found.relative_drift == pytest.approx(0.98)
        assert not found.conditions[0].held


def test_the_relative_drift_is_at_least_the_drift():
    base = definite(6, 4)
    window = torch.stack([base + 0.01 * definite(seed, 4) for seed in range(7, 12)])
    found = require_frozen(window)
    assert found.drift <= found.relative_drift


def test_a_window_has_at_least_two_preconditioners():
    with pytest.raises(InsufficientDataError, match=r"^preconditioners: given 1, expected at least 2; take a longer window$"):
        require_frozen(torch.ones(1, 3))
    with pytest.raises(ShapeMismatchError, match=r"^preconditioners: given shape \(3,\), expected \(K, n\) or \(K, n, n\)$"):
        require_frozen(torch.ones(3))
    with pytest.raises(BadInputError, match=r"^mean preconditioner: given -1.0, expected entries above 0$"):
        require_frozen(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
