"""Eigenpairs that start from those of the checkpoint before: the same pairs, by fewer products."""

import copy

import pytest
import torch
from tests.curvature.cases import language, whole
from torch.nn.utils import parameters_to_vector

from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.errors import ShapeMismatchError

FLOAT32 = 1e-5


def rotated(values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=generator)).Q
    return basis @ torch.diag(values) @ basis.T


def spectrum(*top):
    return torch.cat([torch.tensor(top, dtype=torch.float64), torch.linspace(-0.5, 1, 300, dtype=torch.float64)])


@pytest.fixture(scope="module")
def series():
    """Hessians of a language model along a short training run."""
    case = language(2, vocabulary=7, width=8, length=6)
    model, batch = copy.deepcopy(case.model), whole(7, 16, 7, seed=3)
    optimizer, hessians = torch.optim.AdamW(model.parameters(), lr=2e-3), []
    for step in range(60):
        if step % 12 == 0:
            hessians.append(Hessian(case.loss_fn, model, [batch], check=False))
        optimizer.zero_grad()
        case.loss_fn(model, whole(7, 16, 7, seed=step)).backward()
        optimizer.step()
    assert parameters_to_vector(model.parameters()).numel() == hessians[0].dim
    return hessians


@pytest.mark.parametrize(("k", "share"), [(1, 0.5), (3, 0.6), (10, 0.8)])
def test_the_same_values_by_fewer_products_along_a_run(series, k, share):
    last, cold_products, warm_products = eigenpairs(series[0], k, "largest"), 0, 0
    for hessian in series[1:]:
        cold, last = eigenpairs(hessian, k, "largest"), eigenpairs(hessian, k, "largest", after=last)
        bound = 1.01 * FLOAT32 * float(eigenpairs(hessian, 1, "magnitude", verify=False).values.abs())
        assert last.converged
        assert float(last.residuals.max()) <= bound
        assert (last.values - cold.values).abs().max() <= bound
        cold_products, warm_products = cold_products + cold.products, warm_products + last.products
    print(f"k = {k}: {warm_products} products warm, {cold_products} cold")
    assert warm_products < share * cold_products


def test_copies_at_the_last_point_are_looked_for_again():
    before, now = rotated(spectrum(5.0, 5.0, 3.0)), rotated(spectrum(5.5, 5.5, 3.0))
    last = eigenpairs(before, 3)
    assert eigenpairs(now, 3, after=last).values.round(decimals=9).tolist() == [5.5, 5.5, 3.0]


def test_an_eigenvalue_outside_of_the_span_of_the_last_vectors_is_found():
    """Two sectors that products never mix; the last pairs lie in the first one, the new largest eigenvalue in the second."""
    first, second = rotated(spectrum(5.0, 4.0)), rotated(spectrum(0.9))
    before = torch.block_diag(first, second)
    last = eigenpairs(before, 2)
    assert not last.vectors[len(first) :].abs().max() > 1e-8
    last.vectors[len(first) :] = 0.0
    now = torch.block_diag(first, rotated(spectrum(9.0)))
    assert eigenpairs(now, 2, after=last).values.round(decimals=9).tolist() == [9.0, 5.0]


def test_a_copy_that_appears_between_two_points_is_found_on_request():
    last = eigenpairs(rotated(spectrum(5.0, 4.0, 3.0)), 3)
    found = eigenpairs(rotated(spectrum(5.0, 5.0, 3.0)), 3, after=last, verify=True)
    assert found.values.round(decimals=9).tolist() == [5.0, 5.0, 3.0]


def test_pairs_of_another_dimension_are_refused():
    last = eigenpairs(torch.eye(5), 1)
    with pytest.raises(ShapeMismatchError, match="after: given vectors of length 5, expected 6"):
        eigenpairs(torch.eye(6), 1, after=last)
