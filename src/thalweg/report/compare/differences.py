"""Whether a number differs between two studies, A and B.

The difference is paired by seed where the same seed draws the same data in both, else it has Welch's interval of two independent
means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.intervals import Interval, interval
from thalweg.records.run import Cell

ROUNDING = 1e-12
"""A difference below this share of the values is rounding, however narrow its interval."""


@dataclass(frozen=True)
class Difference:
    """One number of one arm in both studies, and B minus A (or B over A) with its 95 % interval."""

    arm: str
    number: str
    """Its heading, with the unit."""
    first: Cell
    """Mean and interval in A."""
    second: Cell
    """Mean and interval in B."""
    apart: Cell
    """B minus A, or B over A; without a mean where a side has no value, or where runs did not reach the goal."""
    paired: bool
    """Whether the difference is paired by seed; else it has Welch's interval."""
    ratio: bool
    """Whether it is B over A, of geometric means."""
    differs: bool
    """Whether the interval excludes no difference."""
    never: tuple[int, ...] = (0, 0)
    """Runs of A and of B that did not reach the goal; the means are over the others."""


def difference(
    arm: str, number: str, first: dict[int, float | None], second: dict[int, float | None], same: bool, ratio: bool = False
) -> Difference:
    """Compare one number of one arm between the two studies.

    Args:
        arm: to which the number belongs.
        number: its heading, with the unit.
        first: seed -> value in A; None where the run did not reach the goal.
        second: seed -> value in B; likewise.
        same: whether both draw the same data from the same seed. The difference is then paired over the seeds that both have, if
            there are at least two, or if both have the same seeds.
        ratio: compare B / A of geometric means, by the logarithms of the values, which are positive.
    """
    never = sum(value is None for value in first.values()), sum(value is None for value in second.values())
    a, b = ({seed: math.log(v) if ratio else v for seed, v in side.items() if v is not None} for side in (first, second))
    common = sorted(a.keys() & b.keys())
    paired = same and bool(common) and (len(common) > 1 or a.keys() == b.keys())
    sides = [interval(list(side.values())) if side else None for side in (a, b)]
    gap = None
    if a and b and not any(never):
        gap = interval([b[seed] - a[seed] for seed in common]) if paired else welch(list(a.values()), list(b.values()))
    differs = gap is not None and gap.excludes_zero and abs(gap.mean) > ROUNDING * max(map(abs, (*a.values(), *b.values())))
    cells = as_cell(sides[0], ratio), as_cell(sides[1], ratio), as_cell(gap, ratio)
    return Difference(arm, number, *cells, paired, ratio, differs, never)


def as_cell(bounds: Interval | None, logarithms: bool) -> Cell:
    """An interval as a record; an interval of logarithms is turned back into one of the values."""
    if bounds is None:
        return Cell(None)
    mean, low, high = (math.exp(x) if logarithms and x is not None else x for x in (bounds.mean, bounds.low, bounds.high))
    return Cell(mean, low, high, bounds.n)


def welch(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Mean of the second sample minus mean of the first, with Welch's 95 % interval for independent samples.

    With v = variance / size of each sample, the interval is difference +- t * sqrt(v1 + v2), and t has the degrees of freedom
    (v1 + v2)^2 / (v1^2 / (n1 - 1) + v2^2 / (n2 - 1)).

    Args:
        first, second: at least one value each.
    Returns:
        The interval, whose ``n`` is the size of the smaller sample; without ends where a sample has a single value.
    Source:
        Welch (1947), with the degrees of freedom of Satterthwaite.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    gap, n = float(b.mean() - a.mean()), min(a.size, b.size)
    if n < 2:
        return Interval(gap, None, None, n)
    errors = [float(sample.var(ddof=1)) / sample.size for sample in (a, b)]
    terms = [error**2 / (sample.size - 1) for error, sample in zip(errors, (a, b), strict=True)]
    half = half_width(sum(errors) ** 2 / sum(terms)) * math.sqrt(sum(errors)) if sum(terms) else 0.0
    return Interval(gap, gap - half, gap + half, n)


def half_width(freedom: float) -> float:
    """The t that Student's |T| exceeds with probability 0.05, by bisection.

    Args:
        freedom: degrees of freedom, any real number of at least 1.
    """
    low, high = 1.0, 16.0  # t is 12.7 at one degree of freedom and 1.96 in the limit
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if outside(middle, freedom) > 0.05 else (low, middle)
    return (low + high) / 2


def outside(t: float, freedom: float) -> float:
    """P(|T| > t) of Student's T: the incomplete beta function I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2).

    It is evaluated by a continued fraction, whose 400 terms are exact to the last digits for t >= 1.

    Args:
        t: at least 1.
        freedom: degrees of freedom, any real number of at least 1.
    Source:
        DLMF 8.17.22.
    """
    a, b, x = freedom / 2, 0.5, freedom / (freedom + t * t)
    tail = 1.0
    # The fraction 1 / (1 + d_1 / (1 + d_2 / ...)), from the far end.
    for k in range(400, 0, -1):
        m = k // 2
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        tail = 1 + x * (odd if k % 2 else m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))) / tail
    # The factor x^a (1 - x)^b / (a B(a, b)), by its logarithm.
    logarithm = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(logarithm) / (a * tail)
