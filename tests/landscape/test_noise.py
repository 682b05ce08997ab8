import math

import pytest
import torch

from thalweg.errors import BadInputError, InsufficientDataError, ShapeMismatchError
from thalweg.landscape.noise import balanced_signs, bulk_floor, dense_batches, noise_floor, noise_weights, sandwich


def generator(seed):
    return torch.Generator().manual_seed(seed)


def wigner(seed, *shape):
    a = torch.randn(*shape, generator=generator(seed), dtype=torch.float64)
    return (a + a.mT) / math.sqrt(2)


def planted(seed, batches=8, dim=40, count=5, size=0.03):
    values = torch.zeros(dim, dtype=torch.float64)
    values[:count] = torch.linspace(1, 4, count)
    return torch.diag(values) + size * wigner(seed, batches, dim, dim)


@pytest.mark.parametrize("batches", [2, 3, 8, 9])
def test_signs_sum_to_zero_and_leave_out_at_most_one(batches):
    signs = balanced_signs(batches, 20, 0)
    assert not signs.sum(1).any()
    assert (signs.abs().sum(1) == batches - batches % 2).all()


@pytest.mark.parametrize("batches", [6, 7])
def test_weights_give_the_variance_of_the_mean(batches):
    assert noise_weights(batches, 5, 0).square().sum(1).tolist() == pytest.approx([1 / batches] * 5)


def test_a_common_part_of_the_batches_is_no_noise():
    found = noise_floor(torch.diag(torch.tensor([3.0, 1.0, 1e-6])).expand(6, 3, 3))
    assert found.error < 1e-15
    assert found.epsilon < 1e-15


def test_the_bulk_floor_forgets_the_noise_of_the_top():
    difference = torch.diag(torch.tensor([5.0, 0.2, 0.1], dtype=torch.float64))
    assert bulk_floor(torch.tensor([9.0, 0.1, 0.05]), difference) == pytest.approx(0.2)


def test_the_bulk_floor_stands_where_nothing_is_left_below():
    assert bulk_floor(torch.tensor([9.0, 8.0]), torch.eye(2, dtype=torch.float64)) == 1.0


def test_the_floor_finds_the_planted_dimension_and_follows_the_scale():
    stack = planted(1)
    found, larger = noise_floor(stack), noise_floor(7 * stack)
    assert found.above == larger.above == 5
    assert larger.epsilon == pytest.approx(7 * found.epsilon)


def test_equal_noise_has_its_edge_at_the_semicircle():
    found = noise_floor(planted(2, dim=80))
    assert found.semicircle == pytest.approx(2 * 0.03 / math.sqrt(8) * math.sqrt(80), rel=0.03)


def test_the_error_of_the_mean_is_of_the_estimated_size():
    stack = planted(3, size=0.1)
    true = torch.diag(torch.cat([torch.linspace(1, 4, 5), torch.zeros(35)]).double())
    actual = float(torch.linalg.matrix_norm(stack.mean(0) - true, 2))
    assert 0.7 < actual / noise_floor(stack).error < 1.3


def test_the_angle_of_the_river_is_bounded():
    stack = planted(4)
    found, vectors = noise_floor(stack), torch.linalg.eigh(stack.mean(0)).eigenvectors
    assert float(torch.linalg.matrix_norm(vectors[:5, :35], 2)) <= found.sine < 0.2  # the true river is e_6 ... e_40


def test_the_sine_over_the_gap_of_one_matrix_is_no_bound_but_the_double_angle_is():
    """``diag(1, 0)`` with a tangent perturbation: sin 2 Theta = 2 ||E|| / gap exactly."""
    size, phi = 0.45, math.asin(0.9)
    error = size * torch.tensor([[-math.sin(phi), math.cos(phi)], [math.cos(phi), math.sin(phi)]], dtype=torch.float64)
    vectors = torch.linalg.eigh(torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)) + error).eigenvectors
    sine = abs(float(vectors[0, 0]))
    assert float(torch.linalg.matrix_norm(error, 2)) == pytest.approx(size)
    assert sine > size + 0.05
    assert sine == pytest.approx(math.sin(math.asin(2 * size) / 2))


def test_where_the_gap_is_too_small_no_direction_means_anything():
    found = noise_floor(torch.diag(torch.linspace(1, 1.05, 20).double()) + 0.3 * wigner(5, 4, 20, 20))
    assert not found.conditions[0].held
    assert found.sine == 1.0


@pytest.mark.parametrize("count", [1, 3])
def test_crossed_halves_are_too_small_and_one_half_too_large_in_the_mean(count):
    true, low, high = 4.0 if count == 1 else 4 + 3.25 + 2.5, [], []
    for seed in range(40):
        found = sandwich(planted(seed, size=0.2), count, splits=4)
        low.append(found.low - true)
        high.append(found.high - true)
    low, high = torch.tensor(low), torch.tensor(high)
    assert low.mean() < -3 * low.std() / 40**0.5
    assert high.mean() > 3 * high.std() / 40**0.5


def test_all_eigenvalues_together_have_no_bias():
    stack = planted(6)
    found = sandwich(stack, 40)
    assert found.low == pytest.approx(float(stack.mean(0).trace()))
    assert found.high == pytest.approx(found.low)


def test_float32_batches_are_computed_in_float64():
    assert dense_batches(planted(7).float()).dtype == torch.float64


def test_what_is_refused():
    with pytest.raises(InsufficientDataError, match=r"^batches: given 1, expected at least 2 to see noise$"):
        noise_floor([torch.eye(3)])
    with pytest.raises(ShapeMismatchError, match=r"^batch 1: dimension 4, expected 3 as in batch 0$"):
        noise_floor([torch.eye(3), torch.eye(4)])
    with pytest.raises(BadInputError, match=r"^signs: given 4, expected a whole number of at least 8$"):
        noise_floor([torch.eye(3)] * 2, signs=4)
    with pytest.raises(BadInputError, match=r"^count: given 9, expected a whole number from 1 to 3$"):
        sandwich([torch.eye(3)] * 2, 9)
