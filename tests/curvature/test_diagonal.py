import numpy as np
import pytest
import torch
from tests.curvature.cases import case_of

from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.diagonal import diagonal
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.operator import FromFunction
from thalweg.errors import BadInputError


def drawn(dim=40, seed=0):
    entries = torch.from_numpy(np.random.default_rng(seed).normal(size=(dim, dim)))
    return (entries + entries.T) / 4 + torch.diag(torch.arange(float(dim)))


ENTRIES = drawn()
OPERATOR = FromFunction(lambda v: ENTRIES @ v, 40, check=False)


def test_exact_for_a_matrix_without_a_product():
    found = diagonal(ENTRIES)
    assert torch.equal(found.values, ENTRIES.diagonal())
    assert (found.products, float(found.standard_errors.sum())) == (0, 0.0)


def test_exact_where_unit_vectors_cost_no_more():
    found = diagonal(OPERATOR, probes=40)
    assert (found.values - ENTRIES.diagonal()).abs().max() < 1e-13
    assert found.products == 40


def test_equals_the_dense_hessian():
    case = case_of("LayerNorm")
    found = diagonal(Hessian(*case.given, dtype=torch.float64), method="exact")
    expected = dense_hessian(*case.given, dtype=torch.float64).matrix.diagonal()
    assert (found.values - expected).norm() < 1e-12 * expected.norm()


def test_standard_errors_are_those_of_the_formula_and_cover_the_truth():
    off = ENTRIES - torch.diag(ENTRIES.diagonal())
    expected = (off.square().sum(1) / 30).sqrt()
    found = [diagonal(OPERATOR, 30, "probes", seed) for seed in range(100)]
    errors = torch.stack([one.standard_errors for one in found]).square().mean(0).sqrt()
    assert ((errors / expected - 1).abs() < 0.2).all()
    scores = torch.stack([(one.values - ENTRIES.diagonal()) / expected for one in found])
    assert (scores.mean(0).abs() < 4.5 / 10).all()
    assert abs(float(scores.square().mean()) - 1) < 0.1


def test_a_diagonal_matrix_is_exact_by_signs():
    found = diagonal(FromFunction(lambda v: torch.arange(90.0) * v, 90), 2)
    assert torch.equal(found.values, torch.arange(90.0).double())
    assert not found.standard_errors.any()


def test_one_probe_and_unknown_methods_are_refused():
    with pytest.raises(BadInputError, match="probes: given 1, expected a whole number of at least 2"):
        diagonal(OPERATOR, 1)
    with pytest.raises(BadInputError, match="unknown method 'exakt'; did you mean 'exact'"):
        diagonal(OPERATOR, method="exakt")
