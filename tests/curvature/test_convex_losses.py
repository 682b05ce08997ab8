"""Gauss-Newton matrices of losses other than cross-entropy, and the empirical Fisher matrix, against Jacobians row by row."""

import copy

import pytest
import torch
from tests.curvature.cases import normal, stirred, whole
from torch import nn
from torch.nn import functional

from thalweg.curvature.fisher import EmpiricalFisher
from thalweg.curvature.gauss_newton import GaussNewton
from thalweg.curvature.hessian import Hessian
from thalweg.errors import BadInputError, ShapeMismatchError

EXACT = 1e-12
MODEL = stirred(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)), 0.7)
SIZES = (5, 2)


def batches(targets):
    return [(normal(size, 3, seed=size), targets(size)) for size in SIZES]


def real(size):
    return normal(size, 2, seed=size + 1)


def shares(size):
    return normal(size, 2, seed=size + 1).sigmoid()


def outputs(model, batch):
    return model(batch[0]), batch[1]


def quartic(f, y):
    return ((f - y) ** 4 + (f - y) ** 2).sum(), len(y)


def entries(operator):
    return operator @ torch.eye(operator.dim, dtype=torch.float64)


def jacobians(given):
    """The outputs of every sample with the Jacobian of each, by one backward pass per output."""
    model = copy.deepcopy(MODEL).double()
    for x, y in given:
        for row, target in zip(model(x.double()), y, strict=True):
            gradients = [torch.autograd.grad(f, list(model.parameters()), retain_graph=True) for f in row]
            yield row.detach(), target, torch.stack([torch.cat([g.reshape(-1) for g in one]) for one in gradients])


KINDS = {
    # name: (loss, targets, second derivative by hand of the loss of one sample, weight of a sample)
    "squared error": ("squared-error", real, lambda f, y: 2 * torch.eye(2), 1 / 14),
    "binary": ("binary-cross-entropy", shares, lambda f, y: torch.diag(f.sigmoid() * (1 - f.sigmoid())), 1 / 14),
    "a convex function": (quartic, real, lambda f, y: torch.diag(12 * (f - y) ** 2 + 2), 1 / 7),
    "cross-entropy module": (
        nn.CrossEntropyLoss(reduction="sum"),
        lambda size: whole(2, size),
        lambda f, y: torch.diag(f.softmax(0)) - torch.outer(f.softmax(0), f.softmax(0)),
        1 / 2,
    ),
}


@pytest.mark.parametrize("method", ["recorded", "rebuilt"])
@pytest.mark.parametrize("name", KINDS)
def test_equals_the_sum_over_jacobians(name, method):
    loss, targets, second, weight = KINDS[name]
    given = batches(targets)
    expected = sum(j.T @ second(f, y).double() @ j * weight for f, y, j in jacobians(given))
    if name == "cross-entropy module":  # a bare sum is a bare mean to us: batches of one size
        given = [(x[:2], y[:2]) for x, y in given]
        expected = sum(j.T @ second(f, y).double() @ j * weight for f, y, j in jacobians(given))
    found = GaussNewton(outputs, MODEL, given, dtype=torch.float64, method=method, loss=loss)
    assert (entries(found) - expected).norm() < EXACT * expected.norm()


def test_squared_error_is_the_hessian_of_a_linear_model():
    model, given = stirred(nn.Linear(3, 2)), batches(real)[:1]
    newton = GaussNewton(outputs, model, given, dtype=torch.float64, loss="squared-error")
    hessian = Hessian(lambda m, b: functional.mse_loss(m(b[0]), b[1]), model, given, dtype=torch.float64)
    assert (entries(newton) - entries(hessian)).norm() < EXACT * entries(hessian).norm()
    assert abs(newton.objective.value - hessian.loss) < EXACT


@pytest.mark.parametrize("method", ["recorded", "rebuilt"])
def test_the_empirical_fisher_is_the_mean_square_of_gradients(method):
    given = batches(lambda size: whole(2, size))
    rows = [j.T @ (f.softmax(0) - functional.one_hot(y, 2)) for f, y, j in jacobians(given)]
    expected = torch.stack(rows).T @ torch.stack(rows) / len(rows)
    losses = lambda m, b: functional.cross_entropy(m(b[0]), b[1], reduction="none")  # noqa: E731
    found = EmpiricalFisher(losses, MODEL, given, dtype=torch.float64, method=method)
    assert (entries(found) - expected).norm() < EXACT * expected.norm()
    assert torch.linalg.matrix_rank(entries(found), hermitian=True) == 7


def test_a_loss_that_is_not_convex_is_refused():
    with pytest.raises(
        BadInputError, match=r"loss: its curvature along a change of the outputs is -\d.*, expected a loss that is co"
    ):
        GaussNewton(outputs, MODEL, batches(real), loss=lambda f, y: (-((f - y) ** 2).sum(), len(y)))


REFUSED = {
    "unknown loss": ({"loss": "squared-eror"}, real, BadInputError, "unknown loss 'squared-eror'; did you mean 'squared-error'"),
    "targets of another shape": (
        {"loss": "squared-error"},
        lambda n: normal(n),
        ShapeMismatchError,
        r"outputs: given outputs \(5, 2\)",
    ),
    "binary targets": (
        {"loss": "binary-cross-entropy"},
        lambda n: 2 + real(n),
        BadInputError,
        "targets: given a number outside of 0 to 1",
    ),
    "real classes": (
        {},
        lambda n: normal(n),
        BadInputError,
        "targets: given torch.float32, expected whole numbers, the classes of a so",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line(name):
    options, targets, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        GaussNewton(outputs, MODEL, batches(targets), **options)


def test_losses_of_a_fisher_must_be_a_vector():
    with pytest.raises(BadInputError, match=r"losses: given shape \(\), expected a tensor \(N,\) with the loss of each sample"):
        EmpiricalFisher(lambda m, b: functional.mse_loss(m(b[0]), b[1]), MODEL, batches(real))
    with pytest.raises(BadInputError, match="losses: given int, expected a function"):
        EmpiricalFisher(3, MODEL, batches(real))
