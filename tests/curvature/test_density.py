import math

import numpy as np
import pytest
import torch

from thalweg.curvature.density import spectral_density
from thalweg.curvature.operator import Operator
from thalweg.errors import BadInputError, ResolutionError

FLOAT64 = 1e-11
STANDARD_ERRORS = 4


class Diagonal(Operator):
    """Gaussian probes prefer no direction, so a diagonal stands for every matrix with this spectrum."""

    def __init__(self, eigenvalues, dtype=torch.float64):
        self.eigenvalues = torch.as_tensor(np.asarray(eigenvalues)).to(dtype)
        self.dim, self.dtype, self.device = len(eigenvalues), dtype, torch.device("cpu")

    def rows(self, vectors):
        return vectors * self.eigenvalues


def entropy(eigenvalues):
    p = np.abs(np.asarray(eigenvalues))
    p = p[p > 0] / p.sum()
    return float(-(p * np.log(p)).sum())


def river(size=3216, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(-2e-3, 2e-3, size // 3), rng.uniform(-1, 1, size - size // 3)])


def coarse_spectrum():
    return np.concatenate([np.linspace(-1, 0, 120), np.linspace(0, 3, 80)])


def test_weights_of_every_probe_sum_to_one_and_nodes_ascend():
    density = spectral_density(Diagonal(river()), steps=30, probes=3)
    assert density.nodes.shape == density.weights.shape == (3, 30)
    assert density.products == 90
    assert torch.allclose(density.weights.sum(1), torch.ones(3, dtype=torch.float64), rtol=0, atol=FLOAT64)
    assert bool((density.nodes.diff() >= 0).all())


def test_extremes_lie_inside_of_the_spectrum_and_near_its_ends():
    low, high = spectral_density(Diagonal(np.linspace(-2, 5, 500))).extremes
    assert -2 - FLOAT64 <= low <= -1.98
    assert 4.98 <= high <= 5 + FLOAT64


def test_the_resolution_is_the_widest_gap_between_nodes_of_a_spectrum_without_gaps():
    density = spectral_density(Diagonal(np.linspace(-1, 1, 3000)), steps=40)
    gaps = density.nodes.diff().max(1).values
    assert math.isclose(density.resolution, math.pi / 2 * (density.extremes[1] - density.extremes[0]) / 40)
    assert float((gaps / density.resolution - 1).abs().max()) < 0.35


def test_counting_below_the_resolution_is_refused_and_would_be_wrong():
    lam = np.random.default_rng(0).uniform(-1, 1, 3216)
    density = spectral_density(Diagonal(lam))
    eps = density.resolution / 20
    words = (
        r"mass: given a window of width 0.00\d+ inside of the spectrum, expected at least 0.0\d+ .*; take more steps, or the eig"
    )
    with pytest.raises(ResolutionError, match=words):
        density.mass(-eps, eps)
    counted = float((density.weights * (density.nodes.abs() <= eps)).sum(1).mean())
    exact = float((abs(lam) <= eps).mean())
    assert abs(counted / exact - 1) > 0.5


def test_the_river_is_counted_rightly_from_the_resolution_up():
    lam = river()
    density = spectral_density(Diagonal(lam))
    for eps in (density.resolution, 2 * density.resolution, 5 * density.resolution):
        share, error = density.mass(-eps, eps)
        assert abs(share - (abs(lam) <= eps).mean()) < STANDARD_ERRORS * error
        assert error < 0.02


def test_the_same_window_refused_at_few_steps_is_answered_at_more():
    operator = Diagonal(np.linspace(-1, 1, 400))
    with pytest.raises(ResolutionError, match="take more steps"):
        spectral_density(operator, steps=20).mass(-0.05, 0.05)
    share, error = spectral_density(operator, steps=200).mass(-0.05, 0.05)
    assert abs(share - 0.05) < STANDARD_ERRORS * error


def test_the_river_of_a_positive_spectrum_cannot_be_counted_with_an_open_end_either():
    density = spectral_density(Diagonal(np.linspace(0, 1, 2000)))
    with pytest.raises(ResolutionError, match="1 x the resolution"):
        density.mass(-math.inf, density.resolution / 2)


def test_the_whole_line_holds_everything_and_beyond_the_spectrum_is_nothing():
    density = spectral_density(Diagonal(np.linspace(-1, 1, 300)), steps=20)
    assert math.isclose(density.mass(-math.inf, math.inf)[0], 1, rel_tol=FLOAT64)
    assert density.mass(1.5, 1.6) == (0.0, 0.0)


def test_a_window_upside_down_is_refused():
    with pytest.raises(BadInputError, match=r"window: given \(1, 0\), expected low below high"):
        spectral_density(torch.eye(3)).mass(1, 0)


@pytest.mark.parametrize("steps", [5, 6, 40])
def test_a_spectrum_of_few_values_is_resolved_exactly(steps):
    density = spectral_density(Diagonal([1.0] * 200 + [2.0] * 100 + [4.0] * 99 + [-3.0]), steps=steps, probes=30)
    assert density.nodes.shape == (30, 4)
    assert 0 < density.resolution < 1e-11  # eigenvalues that are nearer could not be told apart
    share, error = density.mass(2 - 1e-6, 2 + 1e-6)
    assert abs(share - 0.25) < STANDARD_ERRORS * error


def test_probes_that_end_early_at_different_steps_are_filled_up_without_weight():
    density = spectral_density(Diagonal([0.0] * 5 + [1e-15, 1.0]), steps=50)
    assert torch.allclose(density.weights.sum(1), torch.ones(10, dtype=torch.float64), rtol=0, atol=FLOAT64)
    assert density.extremes[1] <= 1 + FLOAT64


def test_steps_beyond_the_dimension_give_the_eigenvalues():
    lam = [-2.0, 0.5, 3.0]
    density = spectral_density(Diagonal(lam), steps=80)
    assert torch.allclose(density.nodes, torch.tensor([lam] * 10, dtype=torch.float64), rtol=0, atol=FLOAT64)
    assert density.resolution == 0


def test_mass_and_its_standard_error_are_calibrated():
    lam = coarse_spectrum()
    found = [spectral_density(Diagonal(lam), steps=12, probes=5, seed=seed).mass(0.7, math.inf) for seed in range(250)]
    shares, errors = np.array(found).T
    bias = (lam >= 0.7).mean() - shares.mean()
    assert abs(bias) < 0.02  # nodes near the end of the window; a node's weight is about 1/12
    assert abs((errors**2).mean() / shares.var() - 1) < STANDARD_ERRORS * math.sqrt(2 / 250) * 1.3


def test_entropy_agrees_with_the_exact_one():
    lam = coarse_spectrum()
    value, error = spectral_density(Diagonal(lam), steps=60, probes=20).entropy()
    assert abs(value - entropy(lam)) < STANDARD_ERRORS * error
    assert error < 0.03


def test_entropy_and_its_standard_error_are_calibrated():
    lam = coarse_spectrum()
    found = [spectral_density(Diagonal(lam), steps=20, probes=6, seed=seed).entropy() for seed in range(250)]
    values, errors = np.array(found).T
    assert abs((errors**2).mean() / values.var() - 1) < STANDARD_ERRORS * math.sqrt(2 / 250) * 1.3
    assert abs(values.mean() - entropy(lam)) < 0.01


def test_entropy_of_a_projection_is_nearly_the_logarithm_of_its_rank():
    value, error = spectral_density(Diagonal([1.0] * 300 + [0.0] * 700), probes=40).entropy()
    assert abs(value - math.log(300)) < STANDARD_ERRORS * error


def test_entropy_does_not_change_with_scale():
    values = [spectral_density(Diagonal(scale * coarse_spectrum())).entropy()[0] for scale in (1e-6, 1, 1e6)]
    assert max(values) - min(values) < 1e-8


def test_entropy_of_zeros_is_refused():
    with pytest.raises(BadInputError, match="entropy: given a spectrum of zeros, expected at least one eigenvalue that is not"):
        spectral_density(torch.zeros(4, 4)).entropy()


def test_the_curve_integrates_to_one_and_follows_the_density():
    density = spectral_density(Diagonal(np.linspace(-1, 1, 2000)))
    grid = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    curve = density.curve(grid)
    assert math.isclose(float(curve.sum()) * 1e-3, 1, abs_tol=1e-6)
    wide = density.curve(grid, width=0.1)
    middle = wide[(grid.abs() < 0.6)]
    assert float((middle - 0.5).abs().max()) < 0.06


def test_a_curve_narrower_than_the_resolution_is_refused():
    density = spectral_density(Diagonal(np.linspace(-1, 1, 500)), steps=20)
    with pytest.raises(ResolutionError, match=r"curve: given width 0.01, expected at least the resolution, 0.15"):
        density.curve(torch.zeros(1), width=0.01)


def test_exact_nodes_need_a_width():
    with pytest.raises(BadInputError, match=r"width: given 0.0, expected a positive number"):
        spectral_density(torch.diag(torch.tensor([1.0, 2.0, 3.0]))).curve(torch.zeros(1))


def test_an_end_on_an_eigenvalue_counts_it_and_one_beside_it_is_refused():
    density = spectral_density(torch.diag(torch.tensor([1.0, 1.0, 1.0, 5.0])), steps=4)
    assert density.mass(1.0, 5.0)[0] == density.mass(0.9, 5.1)[0] == 1.0
    with pytest.raises(ResolutionError, match="move the end, or compute in float64"):
        density.mass(1.0 + 2e-5, 6.0)


def test_an_outlier_that_hides_the_bulk_is_told():
    """Below 7e-6 of the largest eigenvalue float32 Lanczos ends: what is left cannot be counted."""
    lam = [1e6, *torch.linspace(0.1, 3, 59).tolist()]
    density = spectral_density(Diagonal(lam, torch.float32), steps=60)
    assert density.resolution > 3
    with pytest.raises(ResolutionError):
        density.mass(1.0, 2e6)
    assert spectral_density(Diagonal(lam), steps=60).mass(1.0, 2e6)[0] == pytest.approx(sum(x > 1 for x in lam) / 60, abs=0.1)


def test_float32_products_serve():
    lam = river(600)
    one, two = (spectral_density(Diagonal(lam, dtype), steps=20).entropy()[0] for dtype in (torch.float32, torch.float64))
    assert abs(one - two) < 1e-4


def test_a_seed_is_reproducible_and_another_differs():
    first, again, other = (spectral_density(Diagonal(river(200)), steps=9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.nodes, again.nodes)
    assert not torch.equal(first.nodes, other.nodes)


def test_a_single_probe_is_refused():
    with pytest.raises(BadInputError, match="probes: given 1, expected a whole number of at least 2, as one probe has no stand"):
        spectral_density(torch.eye(3), probes=1)
