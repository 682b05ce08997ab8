"""Means, slopes and 95 % confidence intervals over seeds, without scipy.

The distribution of Student's t has an exact finite series for integer degrees of freedom (Abramowitz and Stegun, 26.7.3 and
26.7.4), and intervals over seeds need no others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.errors import require


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` seeds with its two-sided confidence interval; ``low`` and ``high`` are None for a single seed."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero; False for a single seed."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def within(self, least: float, most: float) -> Interval:
        """The interval cut at bounds between which the mean is known to lie, as that of a share does between 0 and 1.

        A cut interval contains the mean exactly as often as the whole one.

        Example:
            >>> Interval(0.9, 0.7, 1.1, 3).within(0, 1)
            Interval(mean=0.9, low=0.7, high=1, n=3)
        """
        low, high = (None if end is None else min(max(end, least), most) for end in (self.low, self.high))
        return Interval(self.mean, low, high, self.n)


def student_cdf(t: float, freedom: int) -> float:
    """Cumulative distribution function P(T <= t) of Student's t with integer degrees of freedom.

    With theta = atan(t / sqrt(freedom)), it is a finite series in the powers of cos(theta).

    Args:
        t: any number.
        freedom: degrees of freedom, at least 1.

    Example:
        >>> round(student_cdf(1.0, 1), 6)  # Cauchy: 1/2 + atan(1)/pi
        0.75

    Source:
        Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even).
    """
    require(freedom >= 1, "degrees of freedom", freedom, "a whole number of at least 1")
    theta = math.atan(t / math.sqrt(freedom))
    cosine, term, total = math.cos(theta), 1.0, 0.0
    if freedom % 2:  # odd: theta + sin(theta) * (cos + 2/3 cos^3 + ...)
        term = cosine
        for k in range(3, freedom + 1, 2):
            total += term
            term *= (k - 1) / k * cosine**2
        return 0.5 + (theta + math.sin(theta) * total) / math.pi
    for k in range(2, freedom + 1, 2):  # even: sin(theta) * (1 + 1/2 cos^2 + ...)
        total += term
        term *= (k - 1) / k * cosine**2
    return 0.5 + math.sin(theta) * total / 2


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t: the t with ``student_cdf(t, freedom) == probability``, by bisection to float precision.

    Args:
        probability: between 0 and 1, both excluded.
        freedom: degrees of freedom, at least 1.

    Example:
        >>> round(student_quantile(0.975, 4), 4)
        2.7764
    """
    require(0 < probability < 1, "probability", probability, "a number between 0 and 1")
    # Widen the bracket until it holds the quantile, then bisect.
    low, high = -1.0, 1.0
    while student_cdf(low, freedom) > probability:
        low *= 2
    while student_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of independent values, one per seed, with its two-sided t-interval ``mean +- t s / sqrt(n)``.

    The coverage is exact for Gaussian values, and approximate for others.

    Args:
        values: one number per seed, at least one.
        level: coverage, between 0 and 1.
    Returns:
        The interval; ``low`` and ``high`` are None for a single value.
    Example:
        >>> interval([1.0, 3.0]).mean
        2.0
    """
    data = np.asarray(values, dtype=np.float64)
    require(0 < level < 1, "level", level, "a number between 0 and 1")
    require(data.size >= 1, "values", list(values), "at least one number")
    mean = float(data.mean())
    if data.size == 1:
        return Interval(mean, None, None, 1)
    half = student_quantile((1 + level) / 2, data.size - 1) * float(data.std(ddof=1)) / math.sqrt(data.size)
    return Interval(mean, mean - half, mean + half, int(data.size))


MOST_SEEDS = 1000
"""Most seeds that `seeds_to_decide` names."""
NO_SEEDS = -1
"""In place of a number of seeds: no number would decide the claim."""
_WIDE, _STEPS = 9.0, 1200
"""Half-width, in standard deviations, and steps of the quadrature over the chi distribution in `power_of_t_test`."""


def power_of_t_test(effect: float, n: int, level: float = 0.95) -> float:
    """Power of the two-sided t-test of ``n`` Gaussian values whose mean is ``effect`` standard deviations from the bar.

    The statistic has a noncentral t distribution with noncentrality delta = effect sqrt(n). With a chi-distributed u,

        power = E_u [ Phi(delta - c u / sqrt(n - 1)) + Phi(-delta - c u / sqrt(n - 1)) ],

    where c is the critical value. The mean over u is a trapezoidal sum.

    Args:
        effect: mean minus bar, over the standard deviation.
        n: number of values, at least 2.
        level: coverage of the interval that decides, between 0 and 1.

    Example:
        >>> round(power_of_t_test(1.0, 10), 3)
        0.803

    Source:
        J. Cohen, Statistical power analysis for the behavioral sciences (1988), chapter 2.
    """
    require(n >= 2, "number of values", n, "at least 2")
    freedom, delta = n - 1, abs(effect) * math.sqrt(n)
    critical = student_quantile((1 + level) / 2, freedom) / math.sqrt(freedom)
    middle = math.sqrt(freedom)
    u = np.linspace(max(1e-9, middle - _WIDE), middle + _WIDE, _STEPS + 1)
    log_density = (freedom - 1) * np.log(u) - u**2 / 2 - (freedom / 2 - 1) * math.log(2) - math.lgamma(freedom / 2)
    found = np.array([_gaussian_cdf(delta - critical * value) + _gaussian_cdf(-delta - critical * value) for value in u])
    heights = np.exp(log_density) * found
    return float((heights[1:] + heights[:-1]) @ np.diff(u)) / 2


def _gaussian_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def seeds_to_decide(estimate: Interval, bar: float = 0.0, power: float = 0.8) -> int:
    """Number of seeds at which the 95 % t-interval excludes a bar with the given power, at the mean and the spread seen so far.

    The standard deviation follows from the width of the interval. Mean and spread are themselves estimates from few seeds, so the
    number is a guide to the size of the next study and no promise.

    Args:
        estimate: 95 % t-interval of a mean, of at least two seeds.
        bar: the value that the interval must exclude.
        power: probability of excluding it, between 0 and 1.
    Returns:
        At least 3; `MOST_SEEDS` + 1 where more than `MOST_SEEDS` are needed; 0 where a single seed shows no
        spread, or where all seeds lie on the bar.

    Example:
        >>> seeds_to_decide(interval([-0.2, 0.3, 0.5]))  # mean 0.2, standard deviation 0.36
        28
    """
    require(0 < power < 1, "power", power, "a number between 0 and 1")
    if estimate.low is None or estimate.high is None or estimate.n < 2:
        return 0
    half = (estimate.high - estimate.low) / 2
    deviation = half * math.sqrt(estimate.n) / student_quantile(0.975, estimate.n - 1)
    distance = abs(estimate.mean - bar)
    rounding = 8 * math.ulp(max(abs(estimate.mean), abs(bar)))
    distance, deviation = (0.0 if size <= rounding else size for size in (distance, deviation))
    if distance == 0:
        return MOST_SEEDS + 1 if deviation else 0
    if deviation == 0:
        return 3
    low, high = 2, 3  # the power rises with n: double, then bisect
    while power_of_t_test(distance / deviation, high) < power:
        if high >= MOST_SEEDS:
            return MOST_SEEDS + 1
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of_t_test(distance / deviation, middle) >= power else (middle, high)
    return high


def slope_interval(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Least-squares slope of ``y`` on ``x`` with its 95 % t-interval, in units of y per unit of x.

    The half-width is ``t s / sqrt(S_xx)``, where s is the standard deviation of the residuals with n - 2 degrees of freedom and t
    the quantile with as many. The coverage is exact for independent Gaussian residuals of equal variance.

    Args:
        x, y: equally many numbers, at least three, not all equal in x.

    Example:
        >>> slope_interval([0, 1, 2], [1, 3, 5])
        Interval(mean=2.0, low=2.0, high=2.0, n=3)
    """
    require(len(x) >= 3, "points", len(x), "at least three for an interval")
    mean, freedom = slope(x, y), len(x) - 2
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    a = a - a.mean()
    residuals = b - b.mean() - mean * a
    half = student_quantile(0.975, freedom) * math.sqrt(float(residuals @ residuals) / freedom / float(a @ a))
    return Interval(mean, mean - half, mean + half, len(x))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of ``y`` on ``x``, in units of y per unit of x.

    Args:
        x, y: equally many numbers, at least two, not all equal in x.

    Example:
        >>> slope([0, 1, 2], [1, 3, 5])
        2.0
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    require(a.size == b.size >= 2 and float(np.ptp(a)) > 0, "points", a.size, "at least two points that differ in x")
    a = a - a.mean()
    return float(a @ (b - b.mean()) / (a @ a))
