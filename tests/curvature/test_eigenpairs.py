import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.operator import Matrix, Operator
from thalweg.errors import BadInputError, MemoryLimitError, NotConvergedError

FLOAT64 = 1e-11  # of the largest eigenvalue
FLOAT32 = 1e-6
ORDERS = {"magnitude": lambda lam: -abs(lam), "largest": lambda lam: -lam, "smallest": lambda lam: lam}


def rotated(eigenvalues, seed=0):
    lam = torch.as_tensor(eigenvalues, dtype=torch.float64)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(lam), len(lam))))
    q = torch.from_numpy(q)
    return q @ torch.diag(lam) @ q.T


def network_like(size=400):
    rng = np.random.default_rng(3)
    bulk = np.exp(rng.uniform(-14, -2, size - 20)) * rng.choice([1, 1, -1], size - 20)
    return np.concatenate([bulk, np.geomspace(0.2, 5, 20)])


def truth(eigenvalues, k, which):
    return sorted(map(float, eigenvalues), key=ORDERS[which])[:k]


class Diagonal(Operator):
    def __init__(self, eigenvalues, dtype=torch.float64):
        self.eigenvalues = torch.as_tensor(eigenvalues).to(dtype)
        self.dim, self.dtype, self.device, self.products = len(eigenvalues), dtype, torch.device("cpu"), 0

    def rows(self, vectors):
        self.products += len(vectors)
        return vectors * self.eigenvalues


@pytest.mark.parametrize("which", ORDERS)
@pytest.mark.parametrize("k", [1, 2, 7])
def test_the_pairs_asked_for_in_their_order(which, k):
    lam = np.random.default_rng(5).normal(size=60)
    found = eigenpairs(rotated(lam), k, which)
    assert np.allclose(found.values, truth(lam, k, which), rtol=0, atol=FLOAT64)
    assert found.converged


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(-3, 3).map(float) | st.floats(1e-100, 5) | st.floats(-5, -1e-100), min_size=1, max_size=14),
    st.integers(1, 14),
    st.sampled_from(sorted(ORDERS)),
)
def test_any_spectrum_repeated_or_not_is_found(eigenvalues, k, which):
    k = min(k, len(eigenvalues))
    found = eigenpairs(rotated(eigenvalues), k, which)
    size = max(map(abs, eigenvalues))
    keys = [ORDERS[which](value) for value in found.values.tolist()]
    assert np.allclose(keys, [ORDERS[which](value) for value in truth(eigenvalues, k, which)], rtol=0, atol=1e-7 * size)
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(k, dtype=torch.float64), rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_reported_residuals_are_those_of_real_products(dtype):
    entries = rotated(network_like()).to(dtype)
    found = eigenpairs(Matrix(entries), k=8, memory=20 * 8 * 400)
    real = (entries.double() @ found.vectors - found.vectors * found.values).norm(dim=0)
    noise = 20 * float(torch.finfo(dtype).eps) * 5  # of sums over 400 entries; the largest eigenvalue is 5
    assert torch.allclose(found.residuals, real, rtol=0.01, atol=noise)
    assert float(found.residuals.max()) <= (1e-8 if dtype == torch.float64 else 1e-5) * 5


@pytest.mark.parametrize("vectors", [7, 8, 40])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_residuals_are_true_also_where_a_later_search_found_a_pair(seed, vectors):
    entries = rotated([7.0, 6.7, 6.4, *np.linspace(0, 5, 300)])
    memory = vectors * 8 * len(entries)
    found = eigenpairs(entries, k=3, tolerance=0.1, memory=memory, seed=seed)  # loose: the first search takes mixtures
    real = (entries @ found.vectors - found.vectors * found.values).norm(dim=0)
    assert torch.allclose(found.residuals, real, rtol=0, atol=10 * FLOAT64)
    assert float(real.max()) > 0.1


@pytest.mark.parametrize("which", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_scipy(which, dtype):
    lam = np.concatenate([network_like(), -np.geomspace(0.3, 2, 12)])
    entries = rotated(lam)
    name = {"magnitude": "LM", "largest": "LA", "smallest": "SA"}[which]
    theirs = scipy.sparse.linalg.eigsh(entries.numpy(), 6, which=name, return_eigenvectors=False, v0=np.ones(len(lam)))
    found = eigenpairs(Matrix(entries.to(dtype)), 6, which)
    size = 5 * (FLOAT64 if dtype == torch.float64 else FLOAT32)
    assert np.allclose(found.values, truth(theirs, 6, which), rtol=0, atol=size)
    assert found.values.dtype == found.vectors.dtype == torch.float64


def test_few_products_on_a_spectrum_like_a_networks():
    operator = Diagonal(network_like(3216))
    found = eigenpairs(operator, k=10)
    assert found.products == operator.products <= 50
    assert eigenpairs(operator, k=10, verify=False).products <= 35


@pytest.mark.parametrize("vectors", [14, 20, 40])
def test_a_restart_under_little_memory_gives_the_same_values(vectors):
    operator = Diagonal(network_like())
    free, tight = eigenpairs(operator, 10), eigenpairs(operator, 10, memory=vectors * 8 * operator.dim)
    assert free.restarts == 0
    assert (tight.restarts > 0) == (vectors < 40)
    assert torch.allclose(free.values, tight.values, rtol=0, atol=5 * FLOAT64)
    assert float((free.vectors - tight.vectors).abs().max()) < 1e-6


@pytest.mark.parametrize("memory", [None, 9 * 8 * 300])
def test_copies_of_an_eigenvalue_are_found_by_the_second_search(memory):
    operator = Diagonal([9.0, 9.0, 9.0, 8.0, 8.0, *np.linspace(0, 5, 295)])
    assert np.allclose(eigenpairs(operator, 5, memory=memory).values, [9, 9, 9, 8, 8], rtol=0, atol=10 * FLOAT64)


def test_without_the_second_search_copies_are_missed():
    operator = Diagonal([9.0, 9.0, 8.0, 7.0, *np.linspace(0, 1e-3, 295)])
    assert np.allclose(eigenpairs(operator, 3).values, [9, 9, 8], rtol=0, atol=10 * FLOAT64)
    assert np.allclose(eigenpairs(operator, 3, verify=False).values, [9, 8, 7], rtol=0, atol=10 * FLOAT64)


@pytest.mark.parametrize("which", ORDERS)
def test_the_identity_has_as_many_pairs_as_asked_for(which):
    found = eigenpairs(torch.eye(50, dtype=torch.float64), 3, which)
    assert np.allclose(found.values, 1, rtol=0, atol=FLOAT64)
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(3, dtype=torch.float64), rtol=0, atol=FLOAT64)
    assert found.products < 10


def test_a_zero_matrix_has_zeros():
    found = eigenpairs(torch.zeros(9, 9), 4)
    assert (found.values.tolist(), found.residuals.tolist(), found.converged) == ([0.0] * 4, [0.0] * 4, True)


@pytest.mark.parametrize("k", [59, 60])
def test_all_pairs_of_half_a_hundred_repeated_values(k):
    found = eigenpairs(rotated([3.0] * 30 + [1.0] * 30), k, "largest")
    assert np.allclose(found.values, [3.0] * 30 + [1.0] * (k - 30), rtol=0, atol=FLOAT64)


def test_the_smallest_of_a_positive_matrix_is_measured_against_the_largest():
    lam = np.linspace(1e-3, 1, 300)
    found = eigenpairs(rotated(lam), 2, "smallest", tolerance=1e-2)
    assert found.converged
    assert 1e-2 * float(found.values.max()) < float(found.residuals.max()) <= 1e-2


@pytest.mark.parametrize("which", ORDERS)
def test_copies_that_differ_by_rounding_do_not_keep_the_search_going(which):
    found = eigenpairs(rotated([2.0] * 60), 10, which)
    assert np.allclose(found.values, 2, rtol=0, atol=FLOAT64)
    assert found.products == 11


def test_signs_are_fixed_and_a_seed_is_reproducible():
    entries = rotated(network_like())
    first, again, other = (eigenpairs(entries, 6, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(first.vectors, again.vectors)
    assert float((first.vectors - other.vectors).abs().max()) < 1e-5
    assert bool((first.vectors.gather(0, first.vectors.abs().argmax(0, keepdim=True)) > 0).all())


def test_progress_hears_of_every_look_and_ends_below_one():
    heard = []
    found = eigenpairs(Diagonal(network_like()), 5, progress=lambda products, worst: heard.append((products, worst)))
    assert [products for products, _ in heard] == sorted({products for products, _ in heard})
    assert heard[0] == (1, math.inf)
    assert heard[-1][0] == found.products
    assert heard[-1][1] <= 1


def test_too_few_products_are_an_error_with_figures():
    words = r"largest residual .* after 12 products, expected at most .*; give more max_products or memory, a larger tolerance"
    with pytest.raises(NotConvergedError, match=words):
        eigenpairs(Diagonal(np.linspace(0, 1, 500)), 5, max_products=12)


def test_what_did_not_converge_is_given_where_it_is_asked_for():
    operator = Diagonal(np.linspace(0, 1, 500))
    found = eigenpairs(operator, 5, max_products=12, strict=False)
    real = (operator @ found.vectors - found.vectors * found.values).norm(dim=0)
    assert (found.converged, found.products, len(found.values)) == (False, 12, 5)
    assert torch.allclose(found.residuals, real, rtol=1e-6, atol=FLOAT64)


@pytest.mark.parametrize("k", [0, 9])
def test_k_outside_of_1_to_the_dimension_is_refused(k):
    with pytest.raises(BadInputError, match=f"k: given {k}, expected a whole number from 1 to 8, the dimension"):
        eigenpairs(torch.eye(8), k)


def test_an_unknown_order_is_refused():
    with pytest.raises(BadInputError, match="unknown value of which 'larges'; did you mean 'largest'"):
        eigenpairs(torch.eye(8), 1, "larges")
    with pytest.raises(BadInputError, match="unknown value of which 'top'; did you mean 'largest'"):
        eigenpairs(torch.eye(8), 1, "top")


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 1.0, math.nan])
def test_a_tolerance_outside_of_0_to_1_is_refused(tolerance):
    with pytest.raises(BadInputError, match=f"tolerance: given {tolerance}, expected a number between 0 and 1"):
        eigenpairs(torch.eye(8), 1, tolerance=tolerance)


def test_fewer_products_than_pairs_are_refused():
    with pytest.raises(BadInputError, match="max_products: given 3, expected at least k, 4"):
        eigenpairs(torch.eye(8), 4, max_products=3)


def test_memory_for_too_few_vectors_is_refused_with_what_is_needed():
    operator = Diagonal(np.ones(1 << 17))
    words = "eigenpairs: 7 basis vectors of 131,072 float64 entries: needs 7.0 MiB, the limit is 6.0 MiB; give more memory"
    with pytest.raises(MemoryLimitError, match=words):
        eigenpairs(operator, 3, memory=6 << 20)
    assert eigenpairs(operator, 3, memory=7 << 20).converged


@pytest.mark.parametrize("room", [None, 18], ids=["one basis", "restarts"])
def test_float32_products_give_every_pair_once_and_vectors_orthonormal_in_float64(room):
    """A basis in float32 would show converged values again as ghosts, if a row lost its right angles to those before."""
    lam = np.concatenate([np.geomspace(3, 100, 8), np.random.default_rng(0).uniform(-1, 1, 392)])
    found = eigenpairs(Matrix(rotated(lam).float()), 8, "largest", memory=None if room is None else room * 400 * 4)
    assert (found.restarts > 0) == (room is not None)
    assert np.allclose(found.values, truth(lam, 8, "largest"), rtol=0, atol=FLOAT32 * 100)
    assert float((found.vectors.T @ found.vectors - torch.eye(8)).abs().max()) < FLOAT64


def test_a_float32_operator_may_be_tiny():
    lam = np.linspace(-1, 1, 60)
    found = eigenpairs(Matrix(rotated(lam).float() * 1e-25), 3, "largest")
    assert np.allclose(found.values * 1e25, truth(lam, 3, "largest"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("first", [True, False])
def test_residuals_of_long_float32_vectors_are_true(first):
    """The largest eigenvalues belong to the first or the last coordinates, where one float32 sum over all entries goes wrong."""
    lam = torch.linspace(-1, 1, 1_000_000, dtype=torch.float64)
    lam[:3] = torch.tensor([100.0, 50.0, 25.0])
    operator = Diagonal(lam if first else lam.flip(0), torch.float32)
    found = eigenpairs(operator, 3, "largest", verify=False)
    assert np.allclose(found.values, [100, 50, 25], rtol=0, atol=1e-3)
    residuals = (operator.eigenvalues.double()[:, None] * found.vectors - found.vectors * found.values).norm(dim=0)
    assert float(residuals.max()) < 1.2e-3


def test_under_autocast_pairs_are_those_without():
    matrix = rotated(network_like()).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = eigenpairs(Matrix(matrix), 3)
    assert torch.equal(inside.values, eigenpairs(Matrix(matrix), 3).values)


def test_float32_products_that_lost_their_digits_are_refused():
    with pytest.raises(BadInputError, match="compute in float64"):
        eigenpairs(Matrix(rotated(np.linspace(-1, 1, 60)).float() * 1e-35), 3)
