import math

import numpy as np
import pytest
import scipy.stats

from thalweg.errors import BadInputError
from thalweg.intervals import (
    MOST_SEEDS,
    Interval,
    interval,
    power_of_t_test,
    seeds_to_decide,
    slope,
    slope_interval,
    student_cdf,
    student_quantile,
)

FREEDOMS = range(1, 31)
FLOAT64 = 1e-12  # relative; about 5000 units in the last place, for two series of at most 30 terms
STANDARD_ERRORS = 4.5


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_the_distribution_function_agrees_with_scipy(freedom):
    places = np.linspace(-30, 30, 121)
    ours = [student_cdf(float(t), freedom) for t in places]
    assert np.allclose(ours, scipy.stats.t.cdf(places, freedom), rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("freedom", FREEDOMS)
@pytest.mark.parametrize("probability", [0.005, 0.025, 0.3, 0.9, 0.975, 0.9995])
def test_the_quantile_agrees_with_scipy(freedom, probability):
    ours, theirs = student_quantile(probability, freedom), scipy.stats.t.ppf(probability, freedom)
    assert math.isclose(ours, theirs, rel_tol=10 * FLOAT64)  # scipy inverts to its own tolerance


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_the_quantile_undoes_the_distribution_function(freedom):
    assert math.isclose(student_cdf(student_quantile(0.8, freedom), freedom), 0.8, rel_tol=FLOAT64)


@pytest.mark.parametrize("freedom", [1, 2, 7, 8])
def test_the_quantile_of_one_half_is_zero(freedom):
    assert abs(student_quantile(0.5, freedom)) < FLOAT64


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_probability_outside_of_zero_to_one_is_refused(probability):
    with pytest.raises(BadInputError, match=f"probability: given {probability}, expected a number between 0 and 1"):
        student_quantile(probability, 3)


def test_no_degrees_of_freedom_are_refused():
    with pytest.raises(BadInputError, match="degrees of freedom: given 0, expected a whole number of at least 1"):
        student_cdf(1.0, 0)


@pytest.mark.parametrize("size", [2, 3, 5, 12])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_interval_agrees_with_scipy(size, level):
    values = np.random.default_rng(size).normal(3, 2, size)
    found = interval(values.tolist(), level)
    oracle = scipy.stats.t.interval(level, size - 1, values.mean(), scipy.stats.sem(values))
    assert np.allclose((found.low, found.high), oracle, rtol=10 * FLOAT64, atol=0)


@pytest.mark.parametrize("size", [3, 4, 10])
def test_the_interval_of_a_slope_agrees_with_scipy(size):
    draw = np.random.default_rng(size)
    x, y = draw.normal(5, 2, size), draw.normal(3, 2, size)
    found, oracle = slope_interval(x.tolist(), y.tolist()), scipy.stats.linregress(x, y)
    half = scipy.stats.t.ppf(0.975, size - 2) * oracle.stderr
    assert np.allclose((found.mean, found.low, found.high), (oracle.slope, oracle.slope - half, oracle.slope + half), rtol=1e-9)


def test_two_points_have_no_interval_of_a_slope():
    with pytest.raises(BadInputError, match="points: given 2, expected at least three for an interval"):
        slope_interval([0, 1], [1, 2])


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng, repeats, level = np.random.default_rng(0), 2000, 0.8
    found = [interval(values, level) for values in rng.normal(1.0, 3.0, (repeats, 4)).tolist()]
    covered = np.mean([i.low <= 1.0 <= i.high for i in found])
    assert abs(covered - level) < STANDARD_ERRORS * math.sqrt(level * (1 - level) / repeats)


def test_the_mean_lies_in_the_middle():
    found = interval([1.0, 2.0, 6.0])
    assert math.isclose(found.high - found.mean, found.mean - found.low, rel_tol=FLOAT64)


def test_a_single_value_has_no_ends():
    assert interval([2.5]) == Interval(2.5, None, None, 1)


def test_the_number_of_values_is_kept():
    assert interval([1.0, 2.0, 3.0]).n == 3


def test_no_values_are_refused():
    with pytest.raises(BadInputError, match=r"values: given \[\], expected at least one number"):
        interval([])


@pytest.mark.parametrize("level", [1.0, 1.5])
def test_a_level_of_one_or_more_is_refused(level):
    with pytest.raises(BadInputError, match="expected a number between 0 and 1"):
        interval([1.0, 2.0], level)


@pytest.mark.parametrize(("low", "high", "excludes"), [(0.1, 2, True), (-2, -0.1, True), (-1, 1, False), (0, 1, False)])
def test_an_interval_excludes_zero_when_it_lies_on_one_side(low, high, excludes):
    assert Interval((low + high) / 2, low, high, 5).excludes_zero is excludes


def test_a_single_value_never_excludes_zero():
    assert not interval([100.0]).excludes_zero


@pytest.mark.parametrize("size", [2, 3, 20])
def test_the_slope_agrees_with_polyfit(size):
    rng = np.random.default_rng(size)
    x, y = rng.normal(5, 1, size), rng.normal(0, 1, size)
    assert math.isclose(slope(x.tolist(), y.tolist()), np.polyfit(x, y, 1)[0], rel_tol=1000 * FLOAT64)


def test_the_slope_of_a_line_far_from_the_origin_is_exact():
    assert slope([1e6, 1e6 + 1, 1e6 + 2], [4, 2, 0]) == -2


@pytest.mark.parametrize(("x", "y"), [([1], [1]), ([2, 2], [1, 3]), ([1, 2], [1, 2, 3]), ([], [])], ids=str)
def test_a_slope_without_two_different_points_is_refused(x, y):
    with pytest.raises(BadInputError, match=r"points: given \d, expected at least two points that differ in x"):
        slope(x, y)


QUADRATURE = 1e-4  # absolute, of a probability


@pytest.mark.parametrize("effect", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("n", [2, 3, 5, 20, 60])
def test_the_power_is_that_of_the_noncentral_t_distribution(effect, n):
    critical, delta = scipy.stats.t.ppf(0.975, n - 1), effect * math.sqrt(n)
    exact = scipy.stats.nct.sf(critical, n - 1, delta) + scipy.stats.nct.cdf(-critical, n - 1, delta)
    assert math.isnan(exact) or abs(power_of_t_test(effect, n) - exact) < QUADRATURE  # scipy gives nan where the power is 1


def test_so_many_seeds_decide_in_four_of_five_simulated_studies():
    seen = interval([-0.2, 0.3, 0.5, 0.4])
    n, deviation = seeds_to_decide(seen, bar=0.1), float(np.std([-0.2, 0.3, 0.5, 0.4], ddof=1))
    studies = np.random.default_rng(0).normal(seen.mean, deviation, (4000, n))
    decided = np.mean(scipy.stats.ttest_1samp(studies, 0.1, axis=1).pvalue < 0.05)
    assert abs(decided - 0.8) < 0.005 + STANDARD_ERRORS * math.sqrt(0.8 * 0.2 / 4000)


def test_one_seed_fewer_has_too_little_power():
    seen = interval([-0.2, 0.3, 0.5, 0.4])
    n, effect = seeds_to_decide(seen), seen.mean / float(np.std([-0.2, 0.3, 0.5, 0.4], ddof=1))
    assert power_of_t_test(effect, n - 1) < 0.8 <= power_of_t_test(effect, n)


@pytest.mark.parametrize(
    ("values", "bar", "needed"),
    [
        ([1.0], 0.0, 0),  # one seed shows no spread
        ([1.0, 1.0], 0.0, 3),
        ([1.0, 1.0], 1.0, 0),  # equal to the bar at every seed: there is nothing to decide
        ([-1.0, 1.0], 0.0, MOST_SEEDS + 1),
        ([0.0, 1.0, 2.0], 0.999, MOST_SEEDS + 1),
    ],
)
def test_seeds_to_decide_at_the_edges(values, bar, needed):
    assert seeds_to_decide(interval(values), bar) == needed


def test_a_power_of_one_is_refused():
    with pytest.raises(BadInputError, match="power: given 1, expected a number between 0 and 1"):
        seeds_to_decide(interval([0.0, 1.0]), power=1)
    with pytest.raises(BadInputError, match="number of values: given 1, expected at least 2"):
        power_of_t_test(1.0, 1)
