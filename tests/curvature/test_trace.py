import math

import numpy as np
import pytest
import torch

from thalweg.curvature.operator import Matrix, Operator
from thalweg.curvature.probes import gaussian
from thalweg.curvature.trace import frobenius, trace, trace_abs
from thalweg.errors import BadInputError

SEEDS = 300
STANDARD_ERRORS = 4
FLOAT64 = 1e-10


def rotated(eigenvalues, seed=0):
    lam = torch.as_tensor(eigenvalues, dtype=torch.float64)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(lam), len(lam))))
    q = torch.from_numpy(q)
    return q @ torch.diag(lam) @ q.T


LAM = np.concatenate([np.linspace(-1, 1.5, 50), [4.0, 6.0, 9.0]])
ENTRIES = rotated(LAM)
CORNER = ENTRIES[:20, :20]

ESTIMATORS = {
    "hutchinson": (lambda entries, seed: trace(entries, 12, "hutchinson", seed), LAM.sum()),
    "hutch++": (lambda entries, seed: trace(entries, 36, "hutch++", seed), LAM.sum()),
    "frobenius": (lambda entries, seed: frobenius(entries, 60, seed), math.sqrt((LAM**2).sum())),
    "trace_abs": (lambda entries, seed: trace_abs(CORNER, 20, 6, seed), float(torch.linalg.eigvalsh(CORNER).abs().sum())),
}


class Counting(Operator):
    def __init__(self, entries):
        self.matrix = Matrix(entries)
        self.dim, self.dtype, self.device, self.products = self.matrix.dim, self.matrix.dtype, self.matrix.device, 0

    def rows(self, vectors):
        self.products += len(vectors)
        return self.matrix.rows(vectors)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_within_four_standard_errors_of_the_truth(name):
    estimator, truth = ESTIMATORS[name]
    for seed in range(5):
        found = estimator(ENTRIES, seed)
        assert abs(found.value - truth) < STANDARD_ERRORS * found.standard_error * 1.5  # the error of an error from 6 to 12 probes


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_standard_error_is_the_spread_over_seeds(name):
    estimator, truth = ESTIMATORS[name]
    found = [estimator(ENTRIES, seed) for seed in range(SEEDS)]
    values, errors = np.array([(one.value, one.standard_error) for one in found]).T
    spread = values.std(ddof=1)
    assert abs((errors**2).mean() / spread**2 - 1) < STANDARD_ERRORS * math.sqrt(2 / SEEDS) * 1.2
    bias = spread**2 / (2 * truth) if name == "frobenius" else 0.0  # of the root, as documented
    assert abs(values.mean() + bias - truth) < STANDARD_ERRORS * spread / math.sqrt(SEEDS)


def test_hutchinsons_standard_error_is_that_of_the_formula():
    entries = ENTRIES - torch.diag(ENTRIES.diagonal())
    errors = [trace(ENTRIES, 12, "hutchinson", seed).standard_error ** 2 for seed in range(SEEDS)]
    assert math.isclose(np.mean(errors), float(2 / 12 * (entries**2).sum()), rel_tol=0.1)


def test_hutchpp_is_the_better_one_where_few_eigenvalues_are_large():
    entries = rotated([50.0, 40.0, 30.0, *np.linspace(-0.5, 0.5, 60)])
    assert trace(entries, 30, "hutch++").standard_error < trace(entries, 30, "hutchinson").standard_error / 10


def test_hutchpp_is_exact_on_low_rank():
    found = trace(rotated([5.0, -2.0, 1.0] + [0.0] * 40), 12)
    assert math.isclose(found.value, 4, abs_tol=FLOAT64)
    assert found.standard_error < FLOAT64


@pytest.mark.parametrize("probes", [6, 7, 8, 31])
@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
def test_as_many_products_as_asked_for(probes, method):
    operator = Counting(ENTRIES)
    assert trace(operator, probes, method).products == operator.products == probes


def test_a_small_matrix_is_taken_whole():
    operator = Counting(ENTRIES[:3, :3])
    found = trace(operator, 60)
    assert math.isclose(found.value, float(ENTRIES[:3, :3].trace()), rel_tol=FLOAT64)
    assert (found.standard_error, found.products) == (0.0, 6)
    assert operator.products == 6


def test_a_diagonal_matrix_is_exact_by_signs():
    assert trace(torch.diag(torch.arange(50.0)), 2, "hutchinson").value == 1225


def test_products_of_the_other_estimators_are_counted():
    operator = Counting(ENTRIES)
    assert frobenius(operator, 20).products == operator.products == 20
    operator = Counting(ENTRIES)
    assert trace_abs(operator, steps=7, probes=3).products == operator.products == 21


def test_a_zero_matrix_has_zeros():
    zero = torch.zeros(30, 30)
    for found in (trace(zero), trace(zero, method="hutchinson"), frobenius(zero), trace_abs(zero)):
        assert (found.value, found.standard_error) == (0.0, 0.0)


def test_float32_products_serve():
    one, two = trace(ENTRIES.float(), 30), trace(ENTRIES, 30)
    assert math.isclose(one.value, two.value, rel_tol=1e-5)


@pytest.mark.parametrize("estimator", [trace, frobenius, trace_abs])
def test_a_single_probe_is_refused(estimator):
    with pytest.raises(BadInputError, match="probes: given 1, expected a whole number of at least 2, as one probe has no stand"):
        estimator(ENTRIES, probes=1)


def test_too_few_probes_for_thirds_are_refused():
    with pytest.raises(BadInputError, match=r"probes: given 5, expected at least 6 for Hutch\+\+, two in each third, or method="):
        trace(ENTRIES, 5)


def test_an_unknown_method_is_refused():
    with pytest.raises(BadInputError, match=r"unknown method 'hutch\+'; did you mean 'hutch\+\+'"):
        trace(ENTRIES, method="hutch+")


def test_xtrace_is_the_mean_over_left_out_probes():
    """Against the definition: a factorisation for each probe that is left out."""
    count, dim = 5, len(LAM)
    operator = Matrix(ENTRIES)
    probes = torch.stack([gaussian(operator, index, 3) for index in range(count)], 1)
    values = []
    for left_out in range(count):
        others = [index for index in range(count) if index != left_out]
        basis = torch.linalg.qr(ENTRIES @ probes[:, others]).Q
        outside = torch.eye(dim) - basis @ basis.T
        rest = outside @ probes[:, left_out]
        scale = (dim - count + 1) / rest.square().sum()
        values.append((basis.T @ ENTRIES @ basis).trace() + scale * (rest @ ENTRIES @ rest))
    found = trace(ENTRIES, 10, "xtrace", seed=3)
    assert math.isclose(found.value, float(torch.stack(values).mean()), rel_tol=FLOAT64)
    assert math.isclose(found.standard_error, float(torch.stack(values).std()) / math.sqrt(count), rel_tol=1e-8)


def test_xtrace_is_unbiased_and_its_standard_error_is_the_spread():
    found = [trace(ENTRIES, 16, "xtrace", seed) for seed in range(SEEDS)]
    values, errors = np.array([(one.value, one.standard_error) for one in found]).T
    spread = values.std(ddof=1)
    assert abs(values.mean() - LAM.sum()) < STANDARD_ERRORS * spread / math.sqrt(SEEDS)
    assert abs((errors**2).mean() / spread**2 - 1) < 0.5  # the estimates of one sketch are not independent


def test_xtrace_is_the_best_one_where_eigenvalues_fall_fast():
    entries = rotated(0.7 ** np.arange(200))
    errors = {
        method: np.sqrt(np.mean([(trace(entries, 40, method, seed).value - 1 / 0.3) ** 2 for seed in range(20)]))
        for method in ("xtrace", "hutch++")
    }
    assert errors["xtrace"] < errors["hutch++"] / 5


def test_xtrace_is_exact_on_low_rank_and_small_matrices():
    assert math.isclose(trace(rotated([5.0, -2.0, 1.0] + [0.0] * 40), 12, "xtrace").value, 4, abs_tol=FLOAT64)
    small = trace(ENTRIES[:3, :3], 60, "xtrace")
    assert math.isclose(small.value, float(ENTRIES[:3, :3].trace()), rel_tol=FLOAT64)
    assert small.products == 3


def test_xtrace_counts_its_products_and_refuses_too_few():
    operator = Counting(ENTRIES)
    assert trace(operator, 21, "xtrace").products == operator.products == 20
    with pytest.raises(BadInputError, match="probes: given 3, expected at least 4 for XTrace"):
        trace(ENTRIES, 3, "xtrace")
