"""The force, its bounds and the coupled run against the recursions themselves; more cases are in tests/verify."""

from itertools import pairwise

import pytest
import torch

from thalweg.errors import (
    EigenSplitCouplingWarning,
    EmptySubspaceError,
    HorizonWarning,
    IndefiniteModelWarning,
    NotSymmetricError,
    OrthonormalityError,
    ShapeMismatchError,
    UnstableDirectionError,
)
from thalweg.theory.bounds import expected_force, lower_bounds, steep_parts, upper_bounds, validity_window
from thalweg.theory.coupled import coupled_force, noise_covariance, run
from thalweg.theory.force import (
    cumulative_force,
    floor_displacement,
    force_by_products,
    measured_force,
    relative_force,
    river_slope,
)
from thalweg.theory.quadratic import consistency, in_frames, quadratic


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def model():
    a = drawn(0, 5, 5)
    return quadratic(a @ a.T / 8, drawn(1, 5, 3), 0.01 * torch.eye(3), drawn(2, 5), drawn(3, 3))


FRAMES = torch.eye(8, dtype=torch.float64)


def test_force_by_products_is_the_closed_form(model):
    start = drawn(4, 5)
    found = force_by_products(model.hessian, start, FRAMES[:, :5], FRAMES[:, 5:], 0.3, 40)
    assert torch.allclose(found, cumulative_force(model, start, 0.3, 40).vector, rtol=1e-10)


def test_the_force_along_a_real_run_is_the_closed_form_on_a_quadratic(model):
    start, points = torch.cat([drawn(4, 5), torch.zeros(3, dtype=torch.float64)]), []
    for _ in range(20):
        points.append(start)
        move = model.hessian @ start
        move[5:] = 0  # a valley left to itself
        start = start - 0.3 * move
    origin = torch.zeros(8, dtype=torch.float64)
    found = measured_force(lambda p: model.hessian @ p, torch.stack(points), origin, FRAMES[:, :5], FRAMES[:, 5:], 0.3)
    assert torch.allclose(found, cumulative_force(model, points[0][:5], 0.3, 20).vector, rtol=1e-10)


def test_floor_and_relative_force_differ_by_the_pull_on_the_floor(model):
    floor = cumulative_force(model, floor_displacement(model), 0.3, 30).vector
    whole = -0.3 * 30 * model.river_gradient + relative_force(model, 0.3, 30)
    assert torch.allclose(whole, floor + 0.3 * 30 * river_slope(model), rtol=1e-8)


def test_no_displacement_no_force(model):
    force = cumulative_force(model, torch.zeros(5), 0.3, 40)
    assert force.norm == 0
    assert upper_bounds(model, torch.zeros(5), 0.3, 40).best == 0


def test_unstable_directions_are_counted_and_the_force_stays_exact():
    model = quadratic(torch.tensor([[-1.0]]), torch.ones(1, 1))
    force = cumulative_force(model, torch.ones(1), 1.0, 3)
    assert force.vector.tolist() == pytest.approx([-7.0], rel=1e-14)
    assert force.unstable == 1
    assert not force.conditions[0].held


def test_the_bounds_hold_it_from_both_sides(model):
    start = drawn(4, 5)
    size = cumulative_force(model, start, 0.3, 40).norm
    assert lower_bounds(model, start, 0.3, 40, along=drawn(5, 3)).best <= size <= upper_bounds(model, start, 0.3, 40).best


def test_the_flattest_direction_alone_is_bounded_exactly():
    model = quadratic(torch.diag(torch.tensor([1.0, 0.1])), torch.eye(2))
    start = torch.tensor([0.0, 1.0])
    bound = lower_bounds(model, start, 1.0, 50).flattest
    assert bound == pytest.approx(cumulative_force(model, start, 1.0, 50).norm, rel=1e-12)


def test_the_expected_force_tends_to_squared_inverse_eigenvalues():
    model = quadratic(torch.diag(torch.tensor([1.0, 0.5])), torch.eye(2))
    assert expected_force(model, 2.0, 1.0, 10**6).mean == pytest.approx(4 * (1 + 4), rel=1e-6)


def test_one_direction_leaves_the_squared_force_a_variation_of_root_two():
    model = quadratic(torch.diag(torch.tensor([1.0, 0.5])), torch.tensor([[1.0], [0.0]]))
    assert expected_force(model, 1.0, 1.0, 100).variation == pytest.approx(2**0.5)


def test_shares_of_steep_and_flat_directions_by_hand():
    model = quadratic(torch.diag(torch.tensor([1.0, 0.25])), torch.eye(2))
    (part,) = steep_parts(model, torch.ones(2), 1.0, 10**5, torch.tensor([0.5]))
    assert part.share == pytest.approx(16 / 17)
    assert part.expected_share == pytest.approx(16 / 17)
    assert all(condition.held for condition in part.conditions)


def test_a_window_that_is_shut_warns():
    model = quadratic(torch.tensor([[0.1]]), torch.zeros(1, 1), torch.tensor([[0.1]]))
    with pytest.warns(HorizonWarning, match=r"^steps: 10, the limit holds from 30 to 1; use the finite-K formulas$"):
        assert not validity_window(model, 1.0, 10).is_open


def test_no_window_with_negative_directions():
    with pytest.raises(UnstableDirectionError, match=r"^window: smallest valley eigenvalue is -1, expected all above 0$"):
        validity_window(quadratic(torch.tensor([[-1.0]]), torch.zeros(1, 1)), 1.0)


def test_the_coupled_run_is_the_recursion(model):
    theta, total = drawn(6, 8), torch.zeros(8, dtype=torch.float64)
    found = run(model.hessian, -model.gradient, theta, 0.2, 25)
    for _ in range(25):
        total, theta = total + theta, theta - 0.2 * (model.hessian @ theta + model.gradient)
    assert torch.allclose(found.last, theta, rtol=1e-10)
    assert torch.allclose(found.total, total, rtol=1e-10)


def test_feedback_is_what_the_coupled_force_has_beyond_the_unforced_one(model):
    found = coupled_force(model, drawn(6, 8), 0.2, 25)
    assert torch.allclose(found.unforced + found.feedback, found.vector, rtol=1e-10)
    assert float(found.feedback.norm()) <= found.feedback_bound
    assert not found.conditions[0].held


def test_one_step_has_no_feedback(model):
    found = coupled_force(model, drawn(6, 8), 0.2, 1)
    assert torch.allclose(found.unforced, found.vector, rtol=1e-12)
    assert found.feedback_bound == 0
    assert found.conditions[0].held


def test_noise_moves_the_force_as_its_covariance_says(model):
    root = 0.1 * drawn(7, 5, 5)
    noise = drawn(8, 12, 20000, 5) @ root.T
    x, total = torch.zeros(20000, 5, dtype=torch.float64), torch.zeros(20000, 3, dtype=torch.float64)
    for step in range(12):
        total = total - 0.2 * x @ model.coupling
        x = x - 0.2 * (x @ model.valley + noise[step])
    expected = noise_covariance(model, root @ root.T, 0.2, 12)
    assert float((torch.cov(total.T) - expected).norm() / expected.norm()) < 0.05


def test_an_eigen_split_of_itself_warns_and_has_no_coupling():
    a = drawn(0, 6, 6)
    vectors = torch.linalg.eigh(a + a.T).eigenvectors
    with pytest.warns(EigenSplitCouplingWarning, match=r"^split: made of this Hessian's eigenvectors"):
        assert not in_frames(a + a.T, torch.zeros(6), vectors[:, 2:], vectors[:, :2], of_itself=True).coupling.any()


def test_the_coupling_of_a_frozen_split_grows_in_proportion_to_the_drift():
    a, b = drawn(0, 6, 6), drawn(1, 6, 6)
    vectors = torch.linalg.eigh(a + a.T).eigenvectors
    sizes = [
        float(in_frames(a + a.T + drift * (b + b.T), torch.zeros(6), vectors[:, 2:], vectors[:, :2]).coupling.norm())
        for drift in (1e-4, 1e-3, 1e-2)
    ]
    slopes = [torch.log10(torch.tensor(high / low)).item() for low, high in pairwise(sizes)]
    assert slopes == pytest.approx([1, 1], abs=0.01)


def test_a_semidefinite_model_is_consistent_and_silent():
    a = drawn(0, 6, 4)
    whole = a @ a.T
    found = consistency(quadratic(whole[:4, :4], whole[:4, 4:], whole[4:, 4:]))
    assert found.consistent
    assert found.direction_ratio <= 1 + 1e-9


def test_a_flat_river_with_a_coupling_warns():
    with pytest.warns(
        IndefiniteModelWarning, match=r"^model: \|\|B\|\|\^2 is inf of .* and 1 eigenvalues are negative: no minimum$"
    ):
        assert consistency(quadratic(torch.eye(2), torch.ones(2, 1))).negative == 1


def test_what_is_refused():
    with pytest.raises(NotSymmetricError, match=r"^matrix: "):
        quadratic(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.ones(2, 1))
    with pytest.raises(ShapeMismatchError, match=r"^coupling: given shape"):
        quadratic(torch.eye(2), torch.ones(3, 1))
    with pytest.raises(EmptySubspaceError, match=r"^valley: has no dimension, expected at least 1$"):
        cumulative_force(quadratic(torch.zeros(0, 0), torch.zeros(0, 2)), torch.zeros(0), 1.0, 3)
    with pytest.raises(EmptySubspaceError, match=r"^split: given 2 valley and 0 river directions, expected both$"):
        in_frames(torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2, 0))
    with pytest.raises(EmptySubspaceError, match=r"^consistency: valley of dimension 2, river of 0"):
        consistency(quadratic(torch.eye(2), torch.zeros(2, 0)))
    with pytest.raises(OrthonormalityError, match=r"^valley and river frame: \|V\^T V - I\| is 1.0e\+00"):
        in_frames(torch.eye(2), torch.zeros(2), torch.ones(2, 1), torch.eye(2)[:, :1])
