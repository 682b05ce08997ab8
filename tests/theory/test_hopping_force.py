from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.errors import (
    BadInputError,
    EmptySubspaceError,
    NonFiniteError,
    NotDifferentiableError,
    NotSymmetricError,
    OrthonormalityError,
    ShapeMismatchError,
    StepSizeError,
    UnstableDirectionError,
)
from thalweg.theory.hopping_force import (
    cubic_force,
    cubic_kernel,
    cubic_limit,
    curvature_gradient,
    sharpening,
    stochastic_drift,
    third_derivatives,
)
from thalweg.theory.kernel import kernel

EXACT = 1e-12
VALUES = [0.0, 1e-300, 1e-12, 1e-6, 1e-3, 0.3, 0.999, 1.0, 1.3, 1.999, 1.9999999, 2.0, 2.1, -1e-6, -0.1]


def one(value):
    return torch.tensor(value, dtype=torch.float64)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def summed(first, second, rate, steps):
    """The defining sum in exact arithmetic."""
    q = (1 - Fraction(rate) * Fraction(first)) * (1 - Fraction(rate) * Fraction(second))
    return sum((Fraction(rate) * q**k for k in range(steps)), Fraction(0))


def network(point):
    """Of 8 parameters, with third derivatives everywhere."""
    return (torch.tanh(point[:4] * point[4:]).sum() + torch.sin(point).sum() + (point[:4] ** 2 @ point[4:])) / 3


def gradient(point):
    leaf = point.clone().requires_grad_()
    return torch.autograd.grad(network(leaf), leaf)[0]


@pytest.mark.parametrize("first", VALUES)
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_the_cubic_kernel_is_its_sum(first, steps):
    found = cubic_kernel(one(first), one(VALUES), 1.0, steps)
    for i, second in enumerate(VALUES):
        exact = float(summed(first, second, 1.0, steps))
        # Where the terms alternate at size 1 they cancel, and the error is one of a term.
        assert abs(float(found[i]) - exact) <= EXACT * max(abs(exact), 1.0 if abs(exact) < 0.1 else 0.0), second


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.floats(1e-6, 1.999999), st.floats(1e-6, 1.999999), st.integers(1, 10**6), st.floats(1e-3, 1e3))
def test_folding_both_eigenvalues_at_one_over_the_rate_changes_nothing(x, y, steps, rate):
    here = cubic_kernel(one(x) / rate, one(y) / rate, rate, steps)
    there = cubic_kernel((2 - one(x)) / rate, (2 - one(y)) / rate, rate, steps)
    assert float(here / there - 1) == pytest.approx(0, abs=1e-8)


def test_the_cubic_kernel_is_large_at_both_ends_where_the_first_order_kernel_only_falls():
    lam = one([0.01, 0.1, 0.5, 1.0, 1.5, 1.9, 1.99])
    assert cubic_kernel(lam, lam, 1.0, 500).tolist() == pytest.approx([50.25, 5.263, 1.333, 1.0, 1.333, 5.263, 50.25], rel=1e-3)
    assert kernel(lam, 1.0, 500).tolist() == pytest.approx([99.34, 10, 2, 1, 0.6667, 0.5263, 0.4992], rel=1e-3)


@pytest.mark.parametrize("x", [1e-6, 0.3, 1.0, 1.7, 1.999999])
def test_the_limit_for_equal_eigenvalues(x):
    rate = 0.25
    lam = one([x / rate])
    closed = 1 / (lam * (2 - rate * lam))
    assert float(cubic_limit(lam, lam, rate)) == pytest.approx(float(closed), rel=1e-9)
    assert float(cubic_kernel(lam, lam, rate, 10**9)) == pytest.approx(float(closed), rel=1e-9)


def test_digits_are_kept_next_to_the_edge():
    """``2 - eta lam = 2^-30``; taken as it stands, ``1 - q^2`` would keep seven digits of it."""
    gap = 2.0**-30
    lam = one([2 - gap])
    assert float(cubic_limit(lam, lam, 1.0)) == pytest.approx(1 / ((2 - gap) * gap), rel=1e-15)
    assert float(cubic_kernel(lam, lam, 1.0, 10**12)) == pytest.approx(1 / ((2 - gap) * gap), rel=1e-14)


def test_the_limit_for_pairs_is_reached():
    lam = one([0.1, 0.9, 1.8])
    assert torch.allclose(cubic_kernel(lam.unsqueeze(1), lam, 1.0, 2000), cubic_limit(lam.unsqueeze(1), lam, 1.0), rtol=EXACT)


def test_undamped_pairs_add_up_every_step():
    assert cubic_kernel(one([0.0, 4.0]), one([0.0, 4.0]), 0.5, 10**12).tolist() == [5e11, 5e11]


def test_there_is_no_limit_outside_of_the_stable_range():
    with pytest.raises(UnstableDirectionError, match=r"^limit: smallest eigenvalue 0, expected all above 0; use a finite K$"):
        cubic_limit(one([1.0]), one([0.0]), 1.0)
    with pytest.raises(StepSizeError, match=r"^limit: rate times largest eigenvalue is 2, expected below 2$"):
        cubic_limit(one([2.0]), one([1.0]), 1.0)


def test_overflow_is_refused_unless_asked_for():
    with pytest.raises(NonFiniteError, match=r"^kernel: grows beyond float64"):
        cubic_kernel(one([-1.0]), one([-1.0]), 1.0, 5000)
    assert torch.isinf(cubic_kernel(one([-1.0]), one([-1.0]), 1.0, 5000, overflow="inf")).all()


def test_nan_and_rates_that_are_not_positive_are_refused():
    with pytest.raises(NonFiniteError, match=r"^second: holds NaN or infinity"):
        cubic_kernel(one([1.0]), one([float("nan")]), 1.0, 5)
    with pytest.raises(StepSizeError, match=r"^rate: given 0.0, expected a positive number$"):
        cubic_kernel(one([1.0]), one([1.0]), 0.0, 5)


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_the_cubic_force_is_the_sum_over_a_valley_left_to_itself(steps):
    lam, third, x = one([-0.05, 0.0, 0.4, 1.0, 1.9]), drawn(1, 3, 5, 5), drawn(2, 5)
    found, total, c = cubic_force(third, lam / 0.3, x, 0.3, steps), torch.zeros(3, dtype=torch.float64), x
    for _ in range(steps):
        total, c = total - 0.3 * torch.einsum("rij,i,j->r", third, c, c) / 2, (1 - lam) * c
    assert torch.allclose(found.vector, total, rtol=1e-10)
    assert found.unstable == 1
    assert [condition.held for condition in found.conditions] == [False, True]


@pytest.mark.parametrize("amplitude", [1e-2, 1e-3])
def test_the_error_falls_with_the_amplitude_of_the_nonlinear_run(amplitude):
    """Loss ``1/2 (1.8 + y) x^2 + x^3 + x^4``: a tenth of the amplitude leaves at most a fifth of the error."""

    def error(start):
        x, y = start, 0.0
        for _ in range(30):
            x, y = x - ((1.8 + y) * x + 3 * x**2 + 4 * x**3), y - x**2 / 2
        found = cubic_force(torch.ones(1, 1, 1), one([1.8]), one([start]), 1.0, 30).vector
        return abs(float(found) / y - 1)

    assert error(amplitude / 10) <= error(amplitude) / 5


def test_the_diagonal_part_and_the_mixed_part_make_the_force():
    third, lam, c = drawn(1, 3, 2, 2), one([0.2, 1.7]), one([1.0, -2.0])
    found, m = cubic_force(third, lam, c, 1.0, 9), cubic_kernel(lam, lam, 1.0, 9)
    for i in range(2):
        assert torch.allclose(found.per_mode[i], -0.5 * third[:, i, i] * c[i] ** 2 * m[i])
    cross = -0.5 * (third[:, 0, 1] + third[:, 1, 0]) * c[0] * c[1] * cubic_kernel(lam[:1], lam[1:], 1.0, 9)
    assert torch.allclose(found.mixed, cross)
    assert found.norm == pytest.approx(float((found.per_mode.sum(0) + cross).norm()))


def test_a_direction_at_the_edge_pushes_much_at_this_order_and_least_at_the_first():
    third, lam = torch.eye(2, dtype=torch.float64).expand(1, 2, 2), one([0.5, 1.99])
    pushes = cubic_force(third, lam, torch.ones(2), 1.0, 500).per_mode.abs().flatten()
    assert pushes[1] > 30 * pushes[0]
    assert kernel(lam, 1.0, 500)[1] < kernel(lam, 1.0, 500)[0]


def test_hopping_alone_does_not_make_the_push_large():
    """``1.5`` hops and has a third of the kernel of ``0.1``, which does not; the least is at 1."""
    hopping, flat, least = cubic_limit(one([1.5, 0.1, 1.0]), one([1.5, 0.1, 1.0]), 1.0).tolist()
    assert least == 1 < hopping < flat / 3


def test_no_displacement_no_force():
    assert not cubic_force(drawn(1, 3, 2, 2), one([0.5, 1.0]), torch.zeros(2), 1.0, 10**9).vector.any()


def test_a_river_without_dimension_has_an_empty_force():
    assert cubic_force(torch.zeros(0, 2, 2), one([0.5, 1.0]), torch.ones(2), 1.0, 3).vector.shape == (0,)


def test_float32_is_computed_in_float64():
    found = cubic_force(torch.ones(1, 1, 1), torch.tensor([0.5]), torch.ones(1), 1.0, 3)
    assert found.vector.dtype == torch.float64
    assert stochastic_drift(torch.ones(1, 1, 1), torch.ones(1, 1)).dtype == torch.float64


def test_an_empty_valley_and_wrong_shapes_are_refused():
    with pytest.raises(EmptySubspaceError, match=r"^valley: has no dimension, expected at least 1$"):
        cubic_force(torch.zeros(2, 0, 0), torch.zeros(0), torch.zeros(0), 1.0, 3)
    with pytest.raises(ShapeMismatchError, match=r"^third: given shape \(2, 2\), expected \(dR, 2, 2\)$"):
        cubic_force(torch.zeros(2, 2), torch.ones(2), torch.zeros(2), 1.0, 3)
    with pytest.raises(ShapeMismatchError, match=r"^third: given shape \(1, 2, 3\), expected \(1, 2, 2\)$"):
        cubic_force(torch.zeros(1, 2, 3), torch.ones(2), torch.zeros(2), 1.0, 3)
    with pytest.raises(ShapeMismatchError, match=r"^start modes: given shape \(3,\), expected \(2,\)$"):
        cubic_force(torch.zeros(1, 2, 2), torch.ones(2), torch.zeros(3), 1.0, 3)
    with pytest.raises(NonFiniteError, match=r"^kernel: grows beyond float64"):
        cubic_force(torch.ones(1, 1, 1), one([3.0]), torch.ones(1), 1.0, 5000)
    with pytest.raises(NotSymmetricError, match="symmetric"):
        stochastic_drift(torch.ones(1, 2, 2), one([[1.0, 1.0], [0.0, 1.0]]))


def test_noise_moves_the_river_as_the_drift_says():
    """Descent at ``eta lam = 0.5, 1.6`` with noise of standard deviation 0.1, from its own stationary state."""
    lam, rate, third = one([0.5, 1.6]), 1.0, drawn(3, 2, 2, 2)
    third, steps, runs = (third + third.mT) / 2, 50, 2000
    covariance = 0.01 * torch.diag(cubic_limit(lam, lam, rate))
    noise = torch.Generator().manual_seed(5)
    x = torch.randn(runs, 2, generator=noise, dtype=torch.float64) * covariance.diagonal().sqrt()
    place = torch.zeros(runs, 2, dtype=torch.float64)
    for _ in range(steps):
        place = place - torch.einsum("rij,ni,nj->nr", third, x, x) / 2
        x = (1 - lam) * x + 0.1 * torch.randn(runs, 2, generator=noise, dtype=torch.float64)
    errors = place.mean(0) - steps * stochastic_drift(third, covariance)
    assert (errors.abs() <= 4 * place.std(0) / runs**0.5).all()


def test_the_curvature_gradient_is_the_second_difference_of_gradients():
    point, u, h = drawn(4, 8), drawn(5, 8), 1e-3
    expected = (gradient(point + h * u) - 2 * gradient(point) + gradient(point - h * u)) / h**2
    assert torch.allclose(curvature_gradient(network, point, u), expected, rtol=1e-5, atol=1e-5)


def test_the_curvature_gradient_of_an_eigenvector_is_its_eigenvalues():
    point, h = drawn(4, 8), 1e-5
    hessian = torch.autograd.functional.hessian
    found = curvature_gradient(network, point, torch.linalg.eigh(hessian(network, point)).eigenvectors[:, -1])
    steps = h * torch.eye(8, dtype=torch.float64)
    tops = [[torch.linalg.eigvalsh(hessian(network, point + sign * step))[-1] for step in steps] for sign in (1, -1)]
    assert torch.allclose(found, (torch.tensor(tops[0]) - torch.tensor(tops[1])) / (2 * h), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [lambda p: p.sum(), lambda p: p @ p, lambda p: p[0] * p[1]])
def test_losses_without_third_derivatives_have_none(loss):
    assert not curvature_gradient(loss, torch.ones(3), torch.ones(3)).any()


def test_the_callers_point_and_the_mode_around_are_left_alone():
    point = drawn(4, 8)
    with torch.no_grad():
        curvature_gradient(network, point, drawn(5, 8))
    assert not point.requires_grad


def test_losses_that_cannot_be_differentiated_are_refused():
    with pytest.raises(NotDifferentiableError, match=r"^loss: does not depend on the point by autograd; compute the loss from"):
        curvature_gradient(lambda p: torch.tensor(1.0), torch.ones(2), torch.ones(2))
    with pytest.raises(BadInputError, match=r"^loss: given \(2,\), expected one number$"):
        curvature_gradient(lambda p: p, torch.ones(2), torch.ones(2))
    with pytest.raises(ShapeMismatchError, match=r"^direction: given shape \(3,\), expected \(2,\)$"):
        curvature_gradient(lambda p: p.sum(), torch.ones(2), torch.ones(3))
    with pytest.raises(NonFiniteError, match=r"^gradient of the curvature: holds NaN or infinity"):
        curvature_gradient(lambda p: (p.abs() ** 2.5).sum(), torch.zeros(1), torch.ones(1))


def test_third_derivatives_in_frames_agree_with_directional_ones():
    point, frame = drawn(4, 8), torch.linalg.qr(drawn(6, 8, 8))[0]
    river, valley = frame[:, :3], frame[:, 3:7]
    found, c = third_derivatives(network, point, river, valley), drawn(7, 4)
    directional = river.T @ curvature_gradient(network, point, valley @ c)
    assert torch.allclose(torch.einsum("rij,i,j->r", found, c, c), directional, rtol=1e-10)
    assert torch.equal(found, found.mT)


def test_third_derivatives_of_an_empty_river_are_empty_and_of_an_empty_valley_refused():
    axes = torch.eye(8, dtype=torch.float64)
    assert third_derivatives(network, drawn(4, 8), axes[:, :0], axes[:, :2]).shape == (0, 2, 2)
    with pytest.raises(EmptySubspaceError, match=r"^valley frame: has no columns, expected at least 1$"):
        third_derivatives(network, drawn(4, 8), axes[:, :2], axes[:, :0])


def test_frames_that_overlap_are_refused():
    axes = torch.eye(8, dtype=torch.float64)
    with pytest.raises(OrthonormalityError, match=r"^river and valley frame: "):
        third_derivatives(network, drawn(4, 8), axes[:, :2], axes[:, 1:3])


def toy(change):
    """The largest eigenvalue is ``1.95 + change y`` at x = 0; the river runs along y with slope 1."""
    return lambda p: (1.95 + change * p[1]) * p[0] ** 2 / 2 - p[1]


@pytest.mark.parametrize(("change", "sign"), [(0.3, 1), (-0.3, -1), (0.0, 0)])
def test_the_sign_tells_whether_hopping_holds_the_river_back(change, sign):
    axes = torch.eye(2, dtype=torch.float64)
    found = sharpening(toy(change), torch.zeros(2), 3 * axes[0], axes[:, 1:], torch.ones(1))
    assert found.sign == sign
    assert found.value == pytest.approx(change)
    assert found.conditions[0].held
    ends = []
    for x in (0.0, 0.1):  # at rest, and hopping
        y = 0.0
        for _ in range(10):
            x, y = x - 0.99 * (1.95 + change * y) * x, y - 0.01 * (change * x**2 / 2 - 1)
        ends.append(y)
    assert (ends[1] < ends[0]) - (ends[1] > ends[0]) == sign


def test_a_direction_that_is_no_eigenvector_says_so():
    axes = torch.eye(2, dtype=torch.float64)
    loss = lambda p: (p[0] ** 2 + p[0] * p[1]) * (1 + p[1])  # noqa: E731
    assert not sharpening(loss, torch.zeros(2), axes[0], axes[:, 1:], torch.ones(1)).conditions[0].held
    assert not sharpening(lambda p: p[1] ** 2, torch.zeros(2), axes[0], axes[:, 1:], torch.ones(1)).conditions[0].held


def test_a_top_direction_of_zeros_is_refused():
    axes = torch.eye(2, dtype=torch.float64)
    with pytest.raises(BadInputError, match=r"^top direction: is zero, expected an eigenvector$"):
        sharpening(toy(1.0), torch.zeros(2), torch.zeros(2), axes[:, 1:], torch.ones(1))
