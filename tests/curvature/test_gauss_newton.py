import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg import LoopedTransformer, ModelConfig
from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.gauss_newton import GaussNewton
from thalweg.curvature.hessian import Hessian
from thalweg.errors import BadInputError, ShapeMismatchError, WrongProductError

EXACT = 1e-12
"""Relative, float64 against float64."""


def language_model(loops=2):
    torch.manual_seed(0)
    model = LoopedTransformer(ModelConfig(vocabulary=7, length=5, width=6, heads=2, block="gpt", tied=True))
    batches = [torch.randint(0, 7, (rows, 6)) for rows in (4, 2)]

    def outputs(model, batch):
        return model(batch[:, :-1], loops=loops), batch[:, 1:].masked_fill(batch[:, 1:] == 0, -100)

    return outputs, model, batches


def by_jacobian(outputs, model, batches):
    model = copy.deepcopy(model).double().eval()
    parameters = list(model.parameters())
    total, count = 0.0, 0
    for batch in batches:
        logits, targets = outputs(model, batch)
        for row, target in zip(logits.flatten(0, -2), targets.flatten(), strict=True):
            if target == -100:
                continue
            jacobian = torch.stack(
                [
                    torch.cat(
                        [g.reshape(-1) for g in torch.autograd.grad(z, parameters, retain_graph=True, materialize_grads=True)]
                    )
                    for z in row
                ]
            )
            shares = row.detach().softmax(0)
            total = total + jacobian.T @ (shares.diag() - shares.outer(shares)) @ jacobian
            count += 1
    return total / count


@pytest.mark.parametrize("method", ["recorded", "rebuilt"])
def test_equals_the_sum_over_jacobians_of_a_looped_model(method):
    case = language_model()
    expected = by_jacobian(*case)
    found = GaussNewton(*case, dtype=torch.float64, method=method) @ torch.eye(len(expected), dtype=torch.float64)
    assert (found - expected).norm() < EXACT * expected.norm()


def test_is_the_hessian_where_the_logits_are_linear_in_the_weights():
    torch.manual_seed(0)
    model, batch = nn.Linear(4, 3).double(), (torch.randn(9, 4, dtype=torch.float64), torch.randint(0, 3, (9,)))
    newton = GaussNewton(lambda m, b: (m(b[0]), b[1]), model, [batch])
    hessian = Hessian(lambda m, b: functional.cross_entropy(m(b[0]), b[1]), model, [batch])
    eye = torch.eye(15, dtype=torch.float64)
    assert (newton @ eye - hessian @ eye).norm() < EXACT * (hessian @ eye).norm()


def test_is_not_the_hessian_otherwise():
    case = language_model()
    newton = GaussNewton(*case, dtype=torch.float64)

    def loss(model, batch):
        logits, targets = case[0](model, batch)
        return functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")

    counted = lambda model, batch: (loss(model, batch), int((batch[:, 1:] != 0).sum()))  # noqa: E731
    hessian = Hessian(counted, *case[1:], dtype=torch.float64)
    v = torch.randn(newton.dim, dtype=torch.float64)
    assert (newton @ v - hessian @ v).norm() > 1e-2 * (hessian @ v).norm()


def test_has_no_negative_eigenvalue():
    newton = GaussNewton(*language_model(), dtype=torch.float64)
    smallest, largest = (eigenpairs(newton, k=1, which=which).values[0] for which in ("smallest", "largest"))
    assert smallest > -1e-10 * largest


def test_float32_is_close_to_float64():
    case = language_model()
    single, double = (GaussNewton(*case, dtype=dtype) for dtype in (torch.float32, torch.float64))
    v = torch.randn(single.dim, dtype=torch.float64)
    assert (single @ v - double @ v).norm() < 1e-5 * (double @ v).norm()


def test_check_catches_a_wrong_derivative(monkeypatch):
    from thalweg.curvature import gauss_newton

    monkeypatch.setattr(gauss_newton.GaussNewton, "derivative", lambda self, index: lambda *v: [2.0 * part for part in v])
    with pytest.raises(WrongProductError, match="differs from central differences of the outputs"):
        GaussNewton(*language_model(), method="recorded")


def test_targets_of_another_shape_are_refused():
    _, model, batches = language_model()
    with pytest.raises(ShapeMismatchError, match=r"outputs: given logits \(4, 5, 7\) and targets \(4, 6\), expected"):
        GaussNewton(lambda m, b: (m(b[:, :-1]), b), model, batches)


def test_a_batch_in_which_nothing_counts_is_refused():
    _, model, batches = language_model()
    with pytest.raises(BadInputError, match=r"count of batch 0: given 0.0, expected a positive number"):
        GaussNewton(lambda m, b: (m(b[:, :-1]), torch.full_like(b[:, 1:], -100)), model, batches)


def test_differences_are_refused():
    with pytest.raises(BadInputError, match="method: given 'differences', expected auto, recorded or rebuilt"):
        GaussNewton(*language_model(), method="differences")
