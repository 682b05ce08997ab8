import math

import numpy as np
import pytest
import torch
from matrices import drawn, hessian, rotated, rotation
from scipy.stats import wasserstein_distance

from thalweg.curvature.density import spectral_density
from thalweg.curvature.operator import Matrix
from thalweg.errors import BadInputError, EmptySubspaceError, OrthonormalityError, ShapeMismatchError
from thalweg.landscape.similarity import gaussian_information, inner_product, log_spectrum_distance, subspace_overlap


def test_the_inner_product_is_half_the_covariance_of_quadratic_forms():
    a, b = hessian(0), hessian(0) + hessian(1)
    z = drawn(13, 40000, 30)
    x, y = ((z @ m * z).sum(1) for m in (a, b))
    terms = (x - x.mean()) * (y - y.mean())
    assert abs(float(terms.mean()) - 2 * inner_product(a, b).value) < 4 * float(terms.std()) / 200


def test_matrices_are_exact_and_float32_is_taken():
    a, b = hessian(0), hessian(1)
    found = gaussian_information(a.float(), b.float())
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    assert found.cosine.value == pytest.approx(cosine, abs=1e-6)
    assert found.value == pytest.approx(-math.log(1 - cosine**2) / 2, abs=1e-6)
    assert found.standard_error == found.cosine.standard_error == found.deviatoric.products == 0


def test_the_deviatoric_cosine_leaves_the_trace_out():
    a, b = (m - m.trace() / 30 * torch.eye(30) for m in (hessian(0), hessian(1)))
    found = gaussian_information(a + 5 * torch.eye(30), b + 7 * torch.eye(30))
    assert found.deviatoric.value == pytest.approx(gaussian_information(a, b).cosine.value)
    assert found.cosine.value > 0.6


def test_the_closed_form_is_the_same_after_rotation_scaling_and_sign():
    a, b, q = hessian(0), hessian(0) + hessian(1), rotation(3)
    expected = gaussian_information(a, b).value
    assert gaussian_information(rotated(a, q), rotated(b, q)).value == pytest.approx(expected)
    assert gaussian_information(-3 * a, 1e-8 * b).value == pytest.approx(expected)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_products_give_the_matrices_numbers_within_four_standard_errors(scale):
    a, b = hessian(4) + torch.eye(30), hessian(4) + scale * hessian(5)
    exact, found = gaussian_information(a, b), gaussian_information(Matrix(a), Matrix(b), probes=100)
    assert abs(found.value - exact.value) < 4 * found.standard_error
    for name in ("cosine", "deviatoric"):
        one = getattr(found, name)
        assert abs(one.value - getattr(exact, name).value) < 4 * one.standard_error
        assert one.products == 200
    inner = inner_product(Matrix(a), b, probes=100)
    assert abs(inner.value - float((a * b).sum())) < 4 * inner.standard_error


def test_standard_errors_are_the_scatter_over_seeds():
    a, b = Matrix(hessian(4)), Matrix(hessian(4) + hessian(5))
    found = [gaussian_information(a, b, probes=30, seed=seed) for seed in range(40)]
    scatter = float(torch.tensor([one.value for one in found], dtype=torch.float64).std())
    assert 0.6 < sum(one.standard_error for one in found) / 40 / scatter < 1.5


def test_proportional_matrices_share_everything():
    a = hessian(0)
    assert gaussian_information(a, -2 * a).value == math.inf
    assert gaussian_information(a, -2 * a).cosine.value == pytest.approx(-1)
    found = gaussian_information(Matrix(a), Matrix(2 * a), probes=5)
    assert (found.value, math.isnan(found.standard_error)) == (math.inf, True)


def test_a_multiple_of_the_identity_has_no_deviatoric_cosine():
    assert math.isnan(gaussian_information(torch.eye(30), hessian(0)).deviatoric.value)


def test_matrices_that_cannot_be_compared_are_refused():
    with pytest.raises(ShapeMismatchError, match=r"^operators: dimensions 2 and 3, expected the same$"):
        gaussian_information(torch.eye(2), torch.eye(3))
    with pytest.raises(BadInputError, match=r"^matrices, smallest squared norm: given 0.0, expected a matrix that is not zero$"):
        gaussian_information(torch.eye(2), torch.zeros(2, 2))
    with pytest.raises(BadInputError, match=r"^probes: given 1, expected a whole number of at least 2"):
        gaussian_information(Matrix(torch.eye(2)), torch.eye(2), probes=1)


def test_overlap_is_one_zero_and_k_over_p_in_the_mean():
    q = rotation(6, 12)
    mixed = q[:, :3] @ rotation(7, 3)
    assert subspace_overlap(q[:, :3], mixed) == pytest.approx(1)
    assert subspace_overlap(q[:, :3], q[:, 3:6]) == pytest.approx(0, abs=1e-12)
    mean = np.mean([subspace_overlap(q[:, :3], rotation(seed, 12)[:, :3]) for seed in range(100, 200)])
    assert mean == pytest.approx(0.25, abs=0.03)


def test_what_is_no_frame_is_refused():
    with pytest.raises(OrthonormalityError, match=r"^second: \|V\^T V - I\|"):
        subspace_overlap(torch.eye(3)[:, :1], torch.ones(3, 1))
    with pytest.raises(EmptySubspaceError, match=r"^overlap: frames without a column, expected at least 1$"):
        subspace_overlap(torch.eye(3)[:, :0], torch.eye(3)[:, :0])
    with pytest.raises(ShapeMismatchError, match=r"^frames: given shapes \(3, 1\) and \(3, 2\), expected the same$"):
        subspace_overlap(torch.eye(3)[:, :1], torch.eye(3)[:, :2])


def test_the_distance_of_log_spectra_is_scipys():
    one, two = drawn(14, 30), 2 * drawn(15, 47)
    expected = wasserstein_distance(one.abs().log().numpy(), two.abs().log().numpy())
    assert log_spectrum_distance(one, two) == pytest.approx(expected)
    assert log_spectrum_distance(one, one) == 0


def test_a_floor_takes_the_place_of_zeros():
    found = log_spectrum_distance(torch.tensor([0.0, 1.0]), torch.tensor([1e-3, 1.0]), floor=1e-2)
    assert found == 0
    message = r"^distance: no eigenvalue, or one that is zero, expected positive sizes; give a floor$"
    for values in (torch.tensor([0.0, 1.0]), torch.zeros(0)):
        with pytest.raises(EmptySubspaceError, match=message):
            log_spectrum_distance(values, torch.ones(2))


def test_a_density_stands_for_its_eigenvalues():
    values = torch.linspace(1, 2, 40, dtype=torch.float64)
    density = spectral_density(rotated(torch.diag(values), rotation(8, 40)), steps=40, probes=20)
    assert log_spectrum_distance(density, values) < 0.02
    assert log_spectrum_distance(density, 3 * values) == pytest.approx(math.log(3), abs=0.02)
