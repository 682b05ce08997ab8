from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.curvature.lanczos import lanczos, orthogonalise
from thalweg.curvature.operator import Matrix, Operator
from thalweg.errors import BadInputError, NonFiniteError, ShapeMismatchError

FLOAT64 = 1e-12  # about 5000 units in the last place, relative to the largest eigenvalue
spectra = st.lists(st.just(0.0) | st.floats(1e-100, 100) | st.floats(-100, -1e-100), min_size=1, max_size=25)


def rotated(eigenvalues, seed=0):
    lam = torch.as_tensor(eigenvalues, dtype=torch.float64)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(lam), len(lam))))
    q = torch.from_numpy(q)
    return q @ torch.diag(lam) @ q.T


def start(size, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=size))


def relation_error(entries, krylov):
    right = krylov.basis.T @ krylov.tridiagonal
    right[:, -1] += krylov.residual
    return float((entries @ krylov.basis.T - right).abs().max())


def lanczos_without_reorthogonalisation(entries, vector, steps):
    rows, alpha, beta, before = [vector / vector.norm()], [], [], 0.0
    for _ in range(steps):
        rest = entries @ rows[-1] - before
        alpha.append(rest @ rows[-1])
        rest = rest - alpha[-1] * rows[-1]
        beta.append(rest.norm())
        before = beta[-1] * rows[-1]
        rows.append(rest / beta[-1])
    below = torch.tensor(beta[:-1])
    return torch.linalg.eigvalsh(torch.diag(torch.tensor(alpha)) + torch.diag(below, 1) + torch.diag(below, -1))


@settings(deadline=None, max_examples=60)
@given(spectra, st.integers(1, 30))
def test_the_lanczos_relation_holds_for_any_spectrum(eigenvalues, steps):
    entries = rotated(eigenvalues)
    krylov = lanczos(entries, start(len(eigenvalues)), steps)
    assert relation_error(entries, krylov) <= FLOAT64 * max(map(abs, eigenvalues))
    gram = krylov.basis @ krylov.basis.T
    assert torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype), rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("steps", [1, 40, 300])
def test_the_basis_is_orthonormal_beside_a_far_outlier(steps):
    entries = rotated([*np.linspace(0, 1, 399), 100.0])
    krylov = lanczos(entries, start(400), steps)
    assert krylov.basis.shape == (steps, 400)
    assert float((krylov.basis @ krylov.basis.T - torch.eye(steps)).abs().max()) < FLOAT64
    assert float((krylov.basis @ krylov.residual).abs().max()) < FLOAT64 * 100
    assert relation_error(entries, krylov) < FLOAT64 * 100


def test_no_ghosts_at_300_steps_where_plain_lanczos_has_copies():
    entries, vector = rotated([*np.linspace(0, 1, 399), 100.0]), start(400)
    ours, _, _ = lanczos(entries, vector, 300).quadrature()
    plain = lanczos_without_reorthogonalisation(entries, vector, 300)
    assert int((ours > 50).sum()) == 1
    assert int((plain > 50).sum()) > 5


def test_residuals_of_nodes_bound_the_distance_to_an_eigenvalue():
    lam = torch.linspace(-3, 5, 60, dtype=torch.float64)
    nodes, _, residuals = lanczos(rotated(lam), start(60), 15).quadrature()
    distance = (nodes.unsqueeze(1) - lam).abs().min(1).values
    assert bool((distance <= residuals + FLOAT64).all())


def test_an_invariant_subspace_ends_the_process_early():
    vector = start(30)
    krylov = lanczos(rotated([1.0] * 10 + [2.0] * 15 + [5.0] * 5), vector, 20)
    assert krylov.exhausted
    nodes, weights, _ = krylov.quadrature()
    assert torch.allclose(nodes, torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64), rtol=0, atol=10 * FLOAT64)
    assert abs(float(weights.sum() - vector @ vector)) < 100 * FLOAT64


def test_a_zero_matrix_takes_one_step():
    krylov = lanczos(torch.zeros(4, 4), torch.ones(4), 3)
    assert (krylov.exhausted, krylov.alpha.tolist(), krylov.beta.tolist()) == (True, [0.0], [0.0])


def test_a_process_cut_short_is_not_called_exhausted():
    assert not lanczos(rotated(range(20)), start(20), 19).exhausted
    assert lanczos(rotated(range(20)), start(20), 99).exhausted


def test_float32_products_give_a_float32_basis_without_ghosts():
    entries, vector = rotated([*np.linspace(0, 1, 397), 20.0, 50.0, 100.0]).float(), start(400)
    krylov = lanczos(Matrix(entries), vector, 300)
    assert krylov.basis.dtype == torch.float32
    assert float((krylov.basis @ krylov.basis.T - torch.eye(300)).abs().max()) < 2e-6
    assert relation_error(entries.double(), replace(krylov, basis=krylov.basis.double())) < 1e-6 * 100
    nodes, weights, _ = krylov.quadrature()
    assert np.allclose(nodes[nodes > 1.01], [20, 50, 100], rtol=0, atol=1e-6 * 100)
    assert float(weights.sum()) == pytest.approx(float(vector @ vector), rel=1e-12)


def test_float32_products_may_be_smaller_than_the_root_of_the_smallest_float32_number():
    small = lanczos(Matrix(rotated(np.linspace(-1, 1, 50)).float() * 1e-25), start(50), 20)
    nodes, _, _ = small.quadrature()
    expected, _, _ = lanczos(rotated(np.linspace(-1, 1, 50)), start(50), 20).quadrature()
    assert np.allclose(nodes * 1e25, expected, rtol=0, atol=1e-4)


def test_one_pass_of_gram_schmidt_is_not_enough_where_digits_cancel():
    basis = torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).normal(size=(50, 10)))).Q.T.contiguous()
    vector = basis.sum(0) + 1e-9 * start(50)
    rest, taken = orthogonalise(vector, basis)
    once = vector - (basis @ vector) @ basis
    assert float((basis @ rest).abs().max() / rest.norm()) < FLOAT64 < float((basis @ once).abs().max() / once.norm())
    assert torch.allclose(taken @ basis + rest, vector, rtol=0, atol=FLOAT64)


class Counting(Operator):
    def __init__(self):
        self.dim, self.dtype, self.device, self.products = 40, torch.float64, torch.device("cpu"), 0

    def rows(self, vectors):
        self.products += len(vectors)
        return vectors * torch.arange(40.0, dtype=torch.float64)


def test_one_product_a_step():
    operator = Counting()
    lanczos(operator, start(40), 12)
    assert operator.products == 12


def test_a_start_vector_of_another_length_is_refused():
    with pytest.raises(ShapeMismatchError, match=r"start vector: given shape \(3,\), expected \(2,\)"):
        lanczos(torch.eye(2), torch.ones(3), 1)


def test_a_start_vector_of_zeros_is_refused():
    with pytest.raises(BadInputError, match="start vector: given zeros, expected a vector of positive length"):
        lanczos(torch.eye(2), torch.zeros(2), 1)


def test_a_start_vector_with_nan_is_refused():
    with pytest.raises(NonFiniteError, match="start vector: holds NaN or infinity, expected finite numbers"):
        lanczos(torch.eye(2), torch.tensor([1.0, torch.nan]), 1)


def test_no_steps_are_refused():
    with pytest.raises(BadInputError, match="steps: given 0, expected a whole number of at least 1"):
        lanczos(torch.eye(2), torch.ones(2), 0)


@pytest.mark.parametrize("first", [True, False])
def test_long_float32_vectors_keep_their_right_angles(first):
    """One float32 sum over ten million entries, the first of them large, is wrong by 3e-4."""
    size = 10_000_000
    row = torch.from_numpy(np.random.default_rng(0).standard_normal(size, dtype=np.float32))
    row[0 if first else -1] = 3 * size**0.5
    row /= torch.linalg.vector_norm(row, dtype=torch.float64).float()
    rest, taken = orthogonalise(torch.from_numpy(np.random.default_rng(1).standard_normal(size, dtype=np.float32)), row[None])
    assert taken.dtype == torch.float64
    assert abs(float(row.double() @ rest.double())) < 1e-6 * float(rest.norm())


def test_products_that_lost_their_digits_are_refused():
    entries = rotated(np.linspace(-1, 1, 20)).float()
    with pytest.raises(BadInputError, match="float32, expected at least 1e-31; scale the loss, or compute in float64"):
        lanczos(Matrix(entries * 1e-35), start(20), 10)
    assert lanczos(Matrix(entries * 0), start(20), 10).exhausted


def test_under_autocast_a_basis_is_that_without():
    entries = rotated(np.linspace(-1, 1, 50)).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = lanczos(Matrix(entries), start(50), 10)
    assert torch.equal(inside.basis, lanczos(Matrix(entries), start(50), 10).basis)
