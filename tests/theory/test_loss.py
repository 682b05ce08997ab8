"""The loss identity and the comparison of models; more cases are in tests/verify."""

import pytest
import torch

from thalweg.errors import BadInputError, NonFiniteError, ShapeMismatchError
from thalweg.theory.compare import compare_forces, corollary_two
from thalweg.theory.loss import (
    Measure,
    compare_losses,
    expected_loss,
    gradient_measure,
    loss_decrease,
    loss_decrease_by_products,
    scheduled_decrease,
)
from thalweg.theory.quadratic import quadratic


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def descent(hessian, gradient, rates):
    """What the recursion itself takes off ``1/2 t^T H t + g^T t``."""
    theta = torch.zeros_like(gradient)
    for rate in rates:
        theta = theta - rate * (hessian @ theta + gradient)
    return -float(theta @ hessian @ theta / 2 + gradient @ theta)


@pytest.fixture
def hessian():
    a = drawn(0, 7, 7)
    return (a + a.T) / 5


def test_a_schedule_takes_off_what_its_kernel_says(hessian):
    rates, gradient = [0.1, 0.5, 0.0, 0.9, 0.3], drawn(1, 7)
    found = float(scheduled_decrease(gradient_measure(hessian, gradient), rates).sum())
    assert found == pytest.approx(descent(hessian, gradient, rates), rel=1e-12)


def test_float32_inputs_are_computed_in_float64(hessian):
    gradient = drawn(1, 7)
    found = loss_decrease(gradient_measure(hessian.float(), gradient.float()), 0.3, 10)
    assert found.dtype == torch.float64
    assert float(found.sum()) == pytest.approx(descent(hessian, gradient, [0.3] * 10), rel=1e-5)


def test_no_gradient_no_decrease(hessian):
    assert loss_decrease_by_products(hessian, torch.zeros(7), 0.3, 10) == 0


def test_the_expected_loss_is_the_mean_over_starts():
    lam, pull = torch.tensor([0.5, 1.5, -0.1], dtype=torch.float64), torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    theta = 0.7 * drawn(2, 200000, 3)
    for _ in range(6):
        theta = theta - 0.4 * (lam * theta - pull)
    losses = (lam * theta.square() / 2 - pull * theta).sum(1)
    error = float(losses.std()) / 200000**0.5
    assert abs(float(losses.mean()) - expected_loss(lam, pull, 0.7, 0.4, 6)) < 4 * error


def test_more_energy_at_lower_curvature_is_found_to_dominate():
    one, two = Measure(torch.tensor([0.5, 1.0]), torch.ones(2)), Measure(torch.tensor([0.1, 1.0]), torch.ones(2))
    assert compare_losses(one, two, 0.5, 10).dominance.held
    assert not compare_losses(two, one, 0.5, 10).dominance.held


def test_dominance_does_not_hold_beyond_the_rate_that_it_needs():
    one, two = Measure(torch.tensor([3.0]), torch.ones(1)), Measure(torch.tensor([2.5]), torch.ones(1))
    assert not compare_losses(one, two, 1.0, 10).dominance.held


def test_orthogonal_couplings_that_dominate_one_by_one_suffice():
    first = quadratic(torch.diag(torch.tensor([1.0, 0.5])), torch.eye(2))
    second = quadratic(torch.diag(torch.tensor([1.0, 0.1])), torch.eye(2))
    found = compare_forces(first, second, torch.ones(2), 1.0, 100)
    assert found.conditions[2].held
    assert found.second_is_larger


def test_the_expected_order_agrees_with_starts_drawn():
    first, second = (quadratic(torch.diag(torch.tensor([1.0, lam])), drawn(3, 2, 2)) for lam in (0.5, 0.2))
    drawn_mean = [0.0, 0.0]
    for start in drawn(4, 3000, 2):
        norms = compare_forces(first, second, start, 1.0, 20).norms
        drawn_mean = [total + norm**2 / 3000 for total, norm in zip(drawn_mean, norms, strict=True)]
    assert drawn_mean == pytest.approx(list(compare_forces(first, second, torch.ones(2), 1.0, 20).expected), rel=0.1)


def test_the_two_terms_predict_the_difference_of_losses():
    b, slope = 1e-4 * drawn(5, 3, 2), drawn(6, 2)
    models = [quadratic(torch.diag(torch.tensor(lam)), b, river_gradient=-slope) for lam in ([1.0, 0.5, 0.2], [1.0, 0.4, 0.05])]
    found = corollary_two(models[0], models[1], 0.01 * drawn(7, 3), 1.0, 500)
    assert all(condition.held for condition in found.conditions)
    assert found.losses[1] - found.losses[0] == pytest.approx(found.predicted, rel=0.05)


def test_the_identity_and_the_run_agree_about_the_order():
    models = [quadratic(torch.tensor([[lam]]), torch.tensor([[0.01]]), river_gradient=torch.tensor([-0.001])) for lam in (1.0, 0.1)]
    for sign in (1.0, -1.0):
        found = corollary_two(models[0], models[1], torch.tensor([sign]), 0.5, 100)
        assert found.flips
        assert found.order.second_ends_lower == (found.losses[1] < found.losses[0])


def test_what_is_refused(hessian):
    with pytest.raises(NonFiniteError, match=r"^gradient: holds NaN or infinity"):
        gradient_measure(hessian, torch.full((7,), float("nan")))
    with pytest.raises(BadInputError, match=r"^measure's weights: given -1.0, expected none below 0$"):
        loss_decrease(Measure(torch.ones(1), -torch.ones(1)), 1.0, 2)
    with pytest.raises(ShapeMismatchError, match=r"^measures: given an empty one"):
        compare_losses(Measure(torch.ones(0), torch.ones(0)), Measure(torch.ones(1), torch.ones(1)), 1.0, 2)
    with pytest.raises(ShapeMismatchError, match=r"^valleys: dimensions 1 and 2, expected the same$"):
        compare_forces(quadratic(torch.eye(1), torch.ones(1, 1)), quadratic(torch.eye(2), torch.ones(2, 1)), torch.ones(1), 1.0, 2)
    with pytest.raises(ShapeMismatchError, match=r"^couplings: "):
        corollary_two(quadratic(torch.eye(1), torch.ones(1, 1)), quadratic(torch.eye(1), torch.ones(1, 2)), torch.ones(1), 1.0, 2)
