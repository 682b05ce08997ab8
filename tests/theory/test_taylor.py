import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.curvature.operator import Operator
from thalweg.errors import BadInputError, InsufficientDataError, NonFiniteError, OrthonormalityError, ShapeMismatchError
from thalweg.theory.descent import descend
from thalweg.theory.taylor import (
    error_covariance,
    error_from_residuals,
    extreme_values,
    follow,
    posterior_bound,
    taylor_model,
)

RUNS = [(seed, rate, steps) for seed in range(4) for rate, steps in ((0.1, 10), (0.1, 50), (0.5, 10), (0.5, 50))]
RELATIVE = 1e-10


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Hidden(Operator):
    """A matrix of which only products are shown."""

    def __init__(self, entries):
        self.entries, self.dim, self.dtype, self.device = entries, len(entries), entries.dtype, entries.device

    def rows(self, vectors):
        return vectors @ self.entries


class Network:
    """Mean squared error of a tanh network 3-6-1, 31 parameters."""

    def __init__(self, seed):
        self.inputs, self.targets, self.start = drawn(seed, 20, 3), drawn(seed + 100, 20), drawn(seed + 200, 31) / 2

    def loss(self, flat):
        first, bias, second, last = flat.split([18, 6, 6, 1])
        return 0.5 * (torch.tanh(self.inputs @ first.view(3, 6) + bias) @ second + last - self.targets).square().mean()

    def gradient(self, flat):
        leaf = flat.clone().requires_grad_()
        return torch.autograd.grad(self.loss(leaf), leaf)[0]

    def hessian(self, flat):
        return torch.autograd.functional.hessian(self.loss, flat)

    def model(self, rate, steps, **known):
        return taylor_model(self.hessian(self.start), self.gradient(self.start), rate, steps, **known)

    def run(self, rate, steps):
        return descend(self.gradient, self.start, rate, steps)


def test_the_models_run_is_minus_the_kernel_times_the_gradient():
    place = Network(0)
    model = place.model(0.5, 9)
    values, vectors = torch.linalg.eigh(place.hessian(place.start))
    kernel = 0.5 * sum((1 - 0.5 * values) ** k for k in range(9))
    expected = -vectors @ (kernel * (vectors.T @ model.gradient))
    assert torch.allclose(model.displacements[-1], expected, rtol=RELATIVE, atol=1e-13)


@pytest.mark.parametrize(("seed", "rate", "steps"), RUNS)
def test_the_error_is_the_sum_of_its_residuals(seed, rate, steps):
    place = Network(seed)
    model, points = place.model(rate, steps), place.run(rate, steps)
    found = error_from_residuals(model, follow(model, place.gradient, points).residuals)
    gap = points[-1] - points[0] - model.displacements[-1]
    assert float((found - gap).norm() / gap.norm()) < 1e-9


@pytest.mark.parametrize(("seed", "rate", "steps"), RUNS)
def test_the_posterior_bound_is_never_violated(seed, rate, steps):
    place = Network(seed)
    found = follow(place.model(rate, steps), place.gradient, place.run(rate, steps))
    assert (found.errors <= found.bound + 1e-14).all()


@pytest.mark.parametrize(("seed", "rate", "steps"), RUNS)
def test_the_rivers_bound_is_never_violated_and_below_the_whole(seed, rate, steps):
    place = Network(seed)
    values, vectors = torch.linalg.eigh(place.hessian(place.start))
    river = vectors[:, values.abs() <= 0.01 * values.abs().max()]
    found = follow(place.model(rate, steps), place.gradient, place.run(rate, steps), river)
    assert (found.river_errors <= found.river_bound + 1e-14).all()
    assert float(found.river_bound[-1]) <= float(found.bound[-1])


def test_the_rivers_bound_holds_for_a_frame_that_the_hessian_mixes():
    for seed in range(4):
        place = Network(seed)
        river = torch.linalg.qr(drawn(seed, 31, 5))[0]
        found = follow(place.model(0.5, 30), place.gradient, place.run(0.5, 30), river)
        assert (found.river_errors <= found.river_bound + 1e-14).all()


def test_without_the_leak_a_mixed_frame_would_break_the_bound():
    """e moves into the river through H: q_R ||P_R e|| + eta ||P_R r|| alone is too small."""
    a, curved = torch.ones(2, 2, dtype=torch.float64), torch.tensor([0.0, 5.0], dtype=torch.float64)

    def slope(point):
        return a @ point - torch.tensor([1.0, 0.0]) + curved * point[0].square()

    points = descend(slope, torch.zeros(2), 0.5, 3)
    found = follow(taylor_model(a, slope(points[0]), 0.5, 3), slope, points, torch.eye(2)[:, :1])
    assert float(found.residuals[:, 0].abs().max()) < 1e-14
    assert float(found.river_errors[-1]) == pytest.approx(0.3125)
    assert (found.river_errors <= found.river_bound + 1e-14).all()


def test_on_a_quadratic_error_and_bound_are_rounding():
    a = torch.diag(torch.tensor([0.0, 1.0, 2.0, -0.1]))
    points = descend(lambda point: a.double() @ point, torch.ones(4), 1.0, 20)
    found = follow(taylor_model(a, a @ torch.ones(4), 1.0, 20), lambda point: a.double() @ point, points)
    assert float(found.errors.max()) < 1e-13
    assert float(found.bound.max()) < 1e-11


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.floats(-1, 3), st.floats(-2, 2), st.floats(-0.5, 0.5), st.integers(1, 12))
def test_the_posterior_bound_is_tight_for_one_parameter(curvature, third, pull, steps):
    """In one dimension with ``1 - eta H >= 0`` and residuals of one sign nothing is lost in it."""

    def slope(point):
        return pull + curvature * point + third * point.square() / 2

    points = descend(slope, torch.zeros(1), 0.3, steps)
    found = follow(taylor_model(torch.tensor([[curvature]], dtype=torch.float64), slope(points[0]), 0.3, steps), slope, points)
    assert torch.allclose(found.errors, found.bound, rtol=1e-7, atol=1e-12)


def test_another_run_strays_and_says_so_and_is_bounded_still():
    place = Network(1)
    points = place.run(0.1, 20)
    points[1:] += 1e-3 * drawn(7, 20, 31)
    found = follow(place.model(0.1, 20), place.gradient, points)
    assert not found.conditions[0].held
    assert (found.errors <= found.bound).all()
    total = error_from_residuals(found.model, found.residuals - found.strays / 0.1)
    assert torch.allclose(total, points[-1] - points[0] - found.model.displacements[-1], rtol=1e-9, atol=1e-12)


def test_full_batch_descent_does_not_stray():
    place = Network(1)
    assert follow(place.model(0.1, 20), place.gradient, place.run(0.1, 20)).conditions[0].held


def test_a_stationary_start_stays():
    found = follow(taylor_model(torch.eye(2), torch.zeros(2), 0.1, 3), lambda p: p, torch.zeros(4, 2))
    assert found.errors.tolist() == found.bound.tolist() == [0.0] * 4
    assert found.conditions[0].held


def test_an_empty_river_has_no_error():
    found = follow(taylor_model(torch.eye(2), torch.ones(2), 0.1, 3), lambda p: p, torch.ones(4, 2), torch.zeros(2, 0))
    assert found.river_errors.tolist() == found.river_bound.tolist() == [0.0] * 4


def test_a_given_river_contraction_is_used():
    place, river = Network(2), torch.linalg.eigh(Network(2).hessian(Network(2).start)).eigenvectors[:, 10:14]
    bounds = [follow(place.model(0.1, 9), place.gradient, place.run(0.1, 9), river, q).river_bound[-1] for q in (None, 1.2, 1.5)]
    assert float(bounds[0]) < float(bounds[1]) < float(bounds[2])


def test_the_contraction_is_the_norm_of_one_step():
    for seed, rate in ((0, 0.1), (1, 2.0), (2, 9.0)):
        hessian = Network(seed).hessian(Network(seed).start)
        model = taylor_model(hessian, torch.zeros(31), rate, 1)
        assert model.contraction == pytest.approx(
            float(torch.linalg.matrix_norm(torch.eye(31, dtype=torch.float64) - rate * hessian, 2)), rel=1e-12
        )
        assert model.size == pytest.approx(float(torch.linalg.matrix_norm(hessian, 2)), rel=1e-12)


def test_products_alone_give_the_same():
    place = Network(3)
    hessian, g = place.hessian(place.start), place.gradient(place.start)
    low, high = extreme_values(Hidden(hessian))
    values = torch.linalg.eigvalsh(hessian)
    assert low <= float(values[0]) + 1e-12
    assert high >= float(values[-1]) - 1e-12
    hidden, shown = taylor_model(Hidden(hessian), g, 0.1, 9), taylor_model(hessian, g, 0.1, 9)
    bounds = [float(follow(model, place.gradient, place.run(0.1, 9)).bound[-1]) for model in (hidden, shown)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-6)


def test_float32_is_computed_in_float64():
    assert taylor_model(torch.eye(2), torch.ones(2), 0.1, 3).displacements.dtype == torch.float64


def test_very_many_steps_overflow_to_infinity_without_an_error():
    found = posterior_bound(torch.ones(5000), contraction=3.0, rate=0.1, steps=5000)
    assert math.isinf(float(found[-1]))
    assert not found.isnan().any()


def test_noise_is_amplified_as_by_simulation():
    a, f = drawn(0, 4, 4), drawn(1, 4, 3) / 3
    hessian, draws = (a + a.T) / 4, drawn(2, 40000, 12, 3)
    error = torch.zeros(40000, 4, dtype=torch.float64)
    for k in range(12):
        error = error - 0.3 * (error @ hessian + draws[:, k] @ f.T)
    found = error_covariance(hessian, f, 0.3, 12)
    spread = (error.T @ error / 40000 - found) / (found.diag().outer(found.diag()) + found.square()).sqrt()
    assert float(spread.abs().max()) * 200 < 4


def test_noise_within_a_frame_is_the_block():
    frame, f = torch.linalg.qr(drawn(3, 4, 2))[0], drawn(1, 4, 3)
    whole = error_covariance(torch.eye(4), f, 0.3, 12)
    assert torch.allclose(error_covariance(torch.eye(4), f, 0.3, 12, frame), frame.T @ whole @ frame, rtol=1e-12)


def test_a_diverging_run_is_refused():
    with pytest.raises(
        NonFiniteError, match=r"^model's run: diverges beyond 1e\+150 at step 151; use a smaller rate or fewer steps$"
    ):
        taylor_model(-9 * torch.eye(1), torch.ones(1), 1.0, 500)
    with pytest.raises(NonFiniteError, match=r"^noise: diverges beyond 1e\+150 at step 158;"):
        error_covariance(-8 * torch.eye(1), torch.full((1, 1), 1.0), 1.0, 500)
    points = torch.tensor([[1.0], [float("inf")]])
    with pytest.raises(NonFiniteError, match=r"^points: holds NaN or infinity, expected finite numbers$"):
        follow(taylor_model(torch.eye(1), torch.ones(1), 1.0, 1), lambda p: p, points)


def test_residuals_of_fewer_steps_are_refused():
    model = taylor_model(torch.eye(2), torch.ones(2), 0.1, 3)
    words = r"^residuals: recorded on 2 steps, expected all 3; record one at each step$"
    with pytest.raises(InsufficientDataError, match=words):
        error_from_residuals(model, torch.zeros(2, 2))
    with pytest.raises(InsufficientDataError, match=words):
        posterior_bound(torch.zeros(2), 1.0, 0.1, 3)
    with pytest.raises(InsufficientDataError, match=r"^points: given 3, expected 4, the start and one after each step$"):
        follow(model, lambda p: p, torch.zeros(3, 2))


def test_what_is_refused():
    model = taylor_model(torch.eye(2), torch.ones(2), 0.1, 3)
    with pytest.raises(ShapeMismatchError, match=r"^points: given shape \(5, 2\), expected \(4, 2\)$"):
        follow(model, lambda p: p, torch.zeros(5, 2))
    with pytest.raises(OrthonormalityError, match=r"^river frame: "):
        follow(model, lambda p: p, torch.zeros(4, 2), torch.ones(2, 2))
    with pytest.raises(ShapeMismatchError, match=r"^noise: given shape \(3, 1\), expected \(2, n\)$"):
        error_covariance(torch.eye(2), torch.ones(3, 1), 0.1, 3)
    with pytest.raises(BadInputError, match=r"^extremes: given \(2.0, 1.0\), expected the smallest and the largest eigenvalue$"):
        taylor_model(torch.eye(2), torch.ones(2), 0.1, 3, extremes=(2.0, 1.0))
