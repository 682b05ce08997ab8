import math

import pytest
import torch

from thalweg.curvature.operator import Matrix
from thalweg.errors import (
    BadInputError,
    EmptySubspaceError,
    InsufficientDataError,
    NonFiniteError,
    ShapeMismatchError,
    StepSizeError,
)
from thalweg.landscape.edge import adam_preconditioner, batch_sharpness, edge, preconditioned_sharpness
from thalweg.theory.momentum import edge_ratio


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectral_radius(sharpness, momentum, averaged):
    """Of the optimizer's recursion on a parabola, eta = 1, its state (x, m)."""
    gain = 1 - momentum if averaged else 1.0
    matrix = torch.tensor([[1 - gain * sharpness, -momentum], [gain * sharpness, momentum]], dtype=torch.float64)
    return torch.linalg.eigvals(matrix).abs().max().item()


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_one_is_where_the_recursion_starts_to_grow(momentum, averaged):
    limit = 1 / edge_ratio(1.0, 1.0, momentum, "ema" if averaged else "heavy-ball")
    assert spectral_radius(0.999 * limit, momentum, averaged) < 1 < spectral_radius(1.001 * limit, momentum, averaged)


def test_adam_s_limit_is_38():
    assert edge_ratio(38.0, 1.0, 0.9, form="ema") == pytest.approx(1)
    assert edge_ratio(3.8, 1.0, 0.9) == pytest.approx(1)
    assert edge_ratio(20.0, 0.1) == pytest.approx(1)


def test_the_preconditioner_is_what_pytorch_divides_by():
    weights = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    adam = torch.optim.Adam([weights], lr=1.0, betas=(0.0, 0.99), eps=1e-3)
    for step in range(1, 5):
        before = weights.detach().clone()
        weights.grad = drawn(step, 3)
        adam.step()
        diagonal = adam_preconditioner(adam.state[weights]["exp_avg_sq"], step, beta=0.99, epsilon=1e-3)
        assert torch.allclose(before - weights.detach(), weights.grad / diagonal, rtol=1e-12)


@pytest.mark.parametrize("wrap", [lambda h: h, Matrix])
def test_preconditioned_sharpness_is_the_largest_generalised_eigenvalue(wrap):
    a = drawn(0, 12, 12)
    hessian, diagonal = a + a.T, drawn(1, 12).exp()
    exact = torch.linalg.eigvals(hessian / diagonal.unsqueeze(1)).real.max().item()
    assert preconditioned_sharpness(wrap(hessian), diagonal) == pytest.approx(exact, rel=1e-8)


def test_the_largest_is_not_the_largest_in_magnitude():
    assert preconditioned_sharpness(torch.diag(torch.tensor([1.0, -9.0])), torch.ones(2)) == pytest.approx(1)


def test_both_batch_sharpnesses_of_one_quadratic():
    hessian, g = torch.diag(torch.tensor([1.0, 4.0])).double(), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    found = batch_sharpness(g, g.double() @ hessian)
    assert found.of_means == pytest.approx((9 + 4) / 10)
    assert found.mean_of_ratios == pytest.approx(2.5)
    assert found.edge_ratios(0.8) == pytest.approx((0.52, 1.0))


def test_batches_without_a_gradient_are_left_out():
    g = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert batch_sharpness(g, 2 * g) == batch_sharpness(g[:1], 2 * g[:1])


def test_batch_sharpness_of_means_is_where_the_mean_loss_stops_falling():
    """``E[L(x - eta g)] - L = -eta E|g|^2 + eta^2/2 E[g^T H g]`` batch by batch is zero at eta = 2 / sharpness."""
    hessians = torch.stack([a @ a.T for a in drawn(0, 5, 4, 4)])
    points = drawn(1, 5, 4)
    g = torch.einsum("bpq,bq->bp", hessians, points)
    rate = 2 / batch_sharpness(g, torch.einsum("bpq,bq->bp", hessians, g)).of_means

    def losses(x):
        return torch.einsum("bp,bpq,bq->b", x, hessians, x) / 2

    assert (losses(points - rate * g) - losses(points)).sum().item() == pytest.approx(0, abs=1e-9)


def test_a_window_is_at_the_edge_when_all_of_it_is():
    inside = torch.linspace(0.9, 1.1, 30, dtype=torch.float64).clamp(0.9, 1.1)
    assert edge(inside).at_edge
    assert not edge([*inside.tolist(), 1.2]).at_edge
    assert edge([0.5] * 10 + [1.0] * 30).inside == pytest.approx(0.75)
    assert edge([0.5] * 10 + [1.0] * 30).median == 1


def test_what_is_refused():
    with pytest.raises(StepSizeError, match=r"^rate: given 0.0, expected a positive number$"):
        edge_ratio(1.0, 0.0)
    with pytest.raises(BadInputError, match=r"^momentum: given 1.0, expected"):
        edge_ratio(1.0, 0.1, 1.0)
    with pytest.raises(BadInputError, match=r"^sharpness: given inf, expected a finite number$"):
        edge_ratio(math.inf, 0.1)
    with pytest.raises(BadInputError, match=r"^step: given 0, expected a whole number of at least 1$"):
        adam_preconditioner(torch.ones(2), 0)
    with pytest.raises(BadInputError, match=r"^second: given -1.0, expected no negative entry$"):
        adam_preconditioner(-torch.ones(2), 1)
    with pytest.raises(BadInputError, match=r"^diagonal: given 0.0, expected positive entries$"):
        preconditioned_sharpness(torch.eye(2), torch.zeros(2))
    with pytest.raises(ShapeMismatchError, match=r"^diagonal: given shape \(3,\), expected \(2,\)$"):
        preconditioned_sharpness(torch.eye(2), torch.ones(3))
    with pytest.raises(
        ShapeMismatchError, match=r"^gradients and products: given shapes \(2, 3\) and \(3, 3\), expected both \(b, P\)$"
    ):
        batch_sharpness(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(EmptySubspaceError, match=r"^gradients: all zero, expected a batch that has a gradient$"):
        batch_sharpness(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(InsufficientDataError, match=r"^window: 5 steps, expected at least 20$"):
        edge([1.0] * 5)
    with pytest.raises(ShapeMismatchError, match=r"^ratios: given shape \(30, 1\), expected \(W,\)$"):
        edge(torch.ones(30, 1))
    with pytest.raises(NonFiniteError, match=r"^ratios: holds NaN"):
        edge([math.nan] * 30)
    with pytest.raises(BadInputError, match=r"^low: given 2, expected at most high, 1$"):
        edge([1.0] * 30, low=2, high=1)
