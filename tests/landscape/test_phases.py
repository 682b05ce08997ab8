import itertools
import math

import numpy as np
import pytest
import torch
from numpy.polynomial import polynomial

from thalweg.errors import BadInputError, InsufficientDataError, NonFiniteError, ShapeMismatchError
from thalweg.landscape.phases import (
    CELLS,
    LEAST_POINTS,
    THREE,
    UNDECIDED,
    correlated_noise,
    gains,
    named,
    noise_of,
    phases,
    phases_over_seeds,
    segment_costs,
    segmentation,
)


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def residue(values):
    """Squared residuals of numpy's line."""
    t = np.arange(len(values))
    return float(((values - polynomial.polyval(t, polynomial.polyfit(t, values, 1))) ** 2).sum())


def ramp(n=91, noise=0.0, seed=0, correlation=0.0):
    """Falls by 3, rises by 2, stays; lines that do not meet, so that the breaks at 30 and 60 are the only best ones."""
    parts = [np.linspace(0, -3, 30), np.linspace(-2.9, -1, 30), np.full(n - 60, -1.2)]
    return torch.from_numpy(np.concatenate(parts) + correlated_noise(np.random.default_rng(seed), 1, n, correlation, noise)[0])


def test_the_cost_of_a_segment_is_its_lines_squared_residuals():
    series = 5 + drawn(0, 3, 15).cumsum(1)
    costs = segment_costs(series, 4)
    for row, i, j in itertools.product(range(3), range(16), range(16)):
        if j - i >= 4:
            assert costs[row, i, j] == pytest.approx(residue(series[row, i:j]), abs=1e-10)
        else:
            assert costs[row, i, j] == math.inf


@pytest.mark.parametrize("breaks", [0, 1, 2, 3])
def test_the_programme_finds_the_best_of_all_cuts(breaks):
    series = drawn(1, 21).cumsum()

    def total(places):
        ends = [0, *places, 21]
        return sum(residue(series[a:b]) for a, b in itertools.pairwise(ends)) if min(np.diff(ends)) >= 4 else math.inf

    best = min(itertools.combinations(range(1, 21), breaks), key=total)
    assert [start for start, _ in segmentation(series, breaks, 4)[1:]] == list(best)
    assert segmentation(series, breaks, 4)[-1][1] == 21


def test_gains_are_the_same_for_one_series_and_for_many():
    series = drawn(2, 2 * CELLS // 51**2 + 3, 50)
    together, correlations = gains(series, 2, 2, 5)
    alone = [gains(row[None], 2, 2, 5) for row in series]
    assert together == pytest.approx(np.concatenate([one for one, _ in alone]))
    assert correlations == pytest.approx(np.concatenate([one for _, one in alone]))


@pytest.mark.parametrize("more", [1, 2])
def test_the_gain_is_the_logarithm_of_the_residuals_ratio(more):
    series = drawn(2, 50)
    fewer, richer = (sum(residue(series[a:b]) for a, b in segmentation(series, k, 5)) for k in (1, 1 + more))
    found, correlation = gains(series[None], 1, more, 5)
    assert found.shape == (1, more)
    assert found[0, -1] == pytest.approx(math.log(fewer / richer), abs=6e-4)
    left = np.concatenate([series[a:b] - line(series[a:b]) for a, b in segmentation(series, 1 + more, 5)])
    assert correlation[0] == pytest.approx(left[1:] @ left[:-1] / (left[:-1] @ left[:-1]))


def test_the_same_breaks_after_shift_and_scale():
    series = drawn(3, 60).cumsum()
    assert segmentation(series, 2, 6) == segmentation(1e4 - 3e-3 * series, 2, 6)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.8])
def test_the_noise_has_its_correlation_and_deviation_from_the_first_point_on(correlation):
    noise = correlated_noise(np.random.default_rng(0), 20000, 5, correlation, 2.0)
    assert noise.std(0) == pytest.approx(np.full(5, 2.0), rel=0.03)
    assert np.mean(noise[:, 3:] * noise[:, 1:3]) / 4 == pytest.approx(correlation**2, abs=0.03)


@pytest.mark.parametrize(("correlation", "apart"), [(0.0, 0.03), (0.5, 0.04), (0.8, 0.05)])
def test_the_correlation_is_corrected_for_the_lines_and_for_the_search(correlation, apart):
    draw, found = np.random.default_rng(4), []
    for _ in range(150):
        series = correlated_noise(draw, 1, 120, correlation, 1.0)[0]
        left = np.concatenate([series[a:b] - line(series[a:b]) for a, b in segmentation(series, 1, 12)])
        found.append(noise_of(left, 2)[0])
    assert np.mean(found) == pytest.approx(correlation, abs=apart)


def line(values):
    t = np.arange(len(values))
    return polynomial.polyval(t, polynomial.polyfit(t, values, 1))


def test_residuals_of_zero_have_no_noise():
    assert noise_of(np.zeros(50), 1) == (0.0, 0.0)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_a_planted_ramp_is_recovered(correlation):
    found = phases(ramp(noise=0.05, correlation=correlation))
    assert found.labels == THREE
    assert found.breaks == pytest.approx((30, 60), abs=4)
    assert found.noise == pytest.approx(0.05, rel=0.5)
    assert found.p_values[-1] > 0.05 >= max(found.p_values[:-1])


def test_without_noise_the_breaks_are_exact():
    found = phases(ramp())
    assert found.breaks == (30, 60)
    assert [segment.slope for segment in found.segments] == pytest.approx([-3 / 29, 1.9 / 29, 0])
    assert found.segments[0].rise == pytest.approx(-3 * 30 / 29)
    assert found.tolerance == pytest.approx(0.15)


@pytest.mark.parametrize("slope", [0.0, 0.1, -0.1])
def test_a_line_has_one_phase(slope):
    found = phases(slope * torch.arange(50))
    assert found.breaks == ()
    assert found.labels == (named(slope, 0.0),)


@pytest.mark.parametrize(("correlation", "slope"), [(0.0, 0.0), (0.8, 0.0), (0.8, 0.1)])
def test_noise_alone_seldom_breaks(correlation, slope):
    """At the fewest points; over 1,000 series the shares are in the docstring. An estimated correlation finds breaks in 24 %."""
    noise = correlated_noise(np.random.default_rng(5), 120, LEAST_POINTS, correlation, 1.0) + slope * np.arange(LEAST_POINTS)
    broken = [bool(phases(torch.from_numpy(one), most=2, seed=seed).breaks) for seed, one in enumerate(noise)]
    assert np.mean(broken) <= 0.1  # two standard errors above 0.06


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_three_phases_are_seen_through_noise_at_the_fewest_points(correlation):
    clean = np.concatenate([np.linspace(0, -3, 13), np.linspace(-3, -1, 13), np.full(14, -1.0)])
    noise = correlated_noise(np.random.default_rng(9), 20, LEAST_POINTS, correlation, 0.1)
    labels = [phases(torch.from_numpy(clean + one), seed=seed).labels for seed, one in enumerate(noise)]
    assert labels.count(THREE) >= 16


def test_noise_that_is_too_correlated_leaves_a_series_undecided():
    found = phases(torch.from_numpy(correlated_noise(np.random.default_rng(5), 1, 40, 0.95, 1.0)[0]))
    assert (found.breaks, found.labels) == ((), (UNDECIDED,))
    assert 40 * (1 - found.correlation) / (1 + found.correlation) < 4
    assert phases(torch.from_numpy(drawn(2, 40))).labels == ("stable",)


def test_noise_of_several_correlations_is_that_of_each():
    many = correlated_noise(np.random.default_rng(1), 2, 30, np.array([0.3, 0.9]), np.array([1.0, 2.0]))
    fresh = np.random.default_rng(1).standard_normal((2, 30))
    for row, u, phi, size in zip(many, fresh, (0.3, 0.9), (1.0, 2.0), strict=True):
        expected = [size * u[0]]
        for shock in u[1:]:
            expected.append(phi * expected[-1] + size * math.sqrt(1 - phi**2) * shock)
        assert row == pytest.approx(expected)


def test_level_noise_is_called_stable():
    assert phases(torch.from_numpy(drawn(6, 80))).labels == ("stable",)


def test_breaks_that_are_seen_only_together_are_found_and_equal_neighbours_merged():
    """Against one break alone p is large here, without any noise."""
    series = torch.cat([torch.linspace(0, -1, 30), torch.linspace(-1, -9, 30), torch.full((30,), -9.0)])
    found = phases(series)
    assert len(found.segments) == 3
    assert found.labels == ("collapse", "stable")


def test_the_tolerance_is_a_twentieth_of_the_spread():
    series = torch.cat([torch.linspace(0, -1, 25), torch.full((25,), -1.0)])
    assert phases(series).labels == ("collapse", "stable")
    assert phases(series, spread=40).labels == ("stable",)
    assert (named(1.0, 1.0), named(1.1, 1.0), named(-1.1, 1.0)) == ("stable", "diversification", "collapse")


def test_at_most_the_most_breaks_are_tried():
    (p_value,) = phases(ramp(), most=1).p_values
    assert p_value < 0.05
    assert phases(ramp(), most=0).p_values == ()


def test_the_spacing_is_recorded_and_float32_taken():
    found = phases(ramp(noise=0.1).float(), spacing="log-step")
    assert found.spacing == "log-step"
    assert found.labels == THREE


def test_the_same_seed_gives_the_same_numbers():
    assert phases(ramp(noise=0.3)) == phases(ramp(noise=0.3))


def test_three_phases_in_two_thirds_of_at_least_five_seeds_may_be_claimed():
    straight = torch.linspace(0, -3, 91)
    found = phases_over_seeds([ramp(noise=0.05, seed=seed) for seed in range(4)] + [straight, straight])
    assert found.three_phases
    assert (found.modal, found.share) == (THREE, pytest.approx(4 / 6))


def test_less_is_not_enough_and_the_modal_labels_are_told():
    straight = torch.linspace(0, -3, 91)
    found = phases_over_seeds([ramp(noise=0.05, seed=seed) for seed in range(2)] + [straight] * 3)
    assert not found.three_phases
    assert (found.modal, found.share) == (("collapse",), pytest.approx(3 / 5))
    assert [condition.held for condition in found.conditions] == [True, False]


def test_four_seeds_are_too_few_whatever_they_show():
    found = phases_over_seeds([ramp()] * 4)
    assert found.modal == THREE
    assert not found.three_phases
    assert [condition.held for condition in found.conditions] == [False, True]


def test_the_spread_is_that_of_all_runs():
    small, large = ramp() / 100, ramp() - 2
    found = phases_over_seeds([small, large])
    assert found.runs[0].tolerance == found.runs[1].tolerance == pytest.approx(0.25)
    assert found.runs[0].labels == ("stable",)
    assert phases_over_seeds([small, large], spread=0.0).runs[0].labels == THREE


def test_too_few_checkpoints_or_runs_are_refused():
    with pytest.raises(InsufficientDataError, match=r"^series: 39 checkpoints, expected at least 40; record more often$"):
        phases(torch.ones(39))
    with pytest.raises(InsufficientDataError, match=r"^runs: none, expected at least 5 seeds$"):
        phases_over_seeds([])


def test_what_else_is_refused():
    refused = {
        "most": (10, r"^most: given 10, expected at most 8 breaks here$"),
        "level": (1.0, r"^level: given 1.0, expected a number between 0 and 1$"),
        "replicates": (98, r"^replicates: given 98, expected at least 99$"),
        "shortest": (3, r"^shortest: given 3, expected at least 4 points$"),
        "spread": (-1.0, r"^spread: given -1.0, expected a number of at least 0$"),
        "spacing": ("log", r"^unknown spacing 'log'; "),
    }
    for name, (value, message) in refused.items():
        with pytest.raises(BadInputError, match=message):
            phases(ramp(), **{name: value})
    with pytest.raises(NonFiniteError, match=r"^series: holds NaN or infinity"):
        phases(torch.full((50,), math.nan))
    with pytest.raises(ShapeMismatchError, match=r"^series: given shape \(50, 2\), expected \(n,\)$"):
        phases(torch.ones(50, 2))
