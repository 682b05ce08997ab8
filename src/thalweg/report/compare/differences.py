"""Whether a number of two studies differs: paired by seed where that means something, else by Welch's interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.intervals import Interval, interval
from thalweg.records.run import Cell

ROUNDING = 1e-12
"""Of the values, below which a difference is none, however narrow its interval."""


@dataclass(frozen=True)
class Difference:
    """One number of one arm in both studies, and B minus A (or B over A) with its 95 % interval."""

    arm: str
    number: str
    """Heading, with unit."""
    first: Cell
    second: Cell
    apart: Cell
    """No mean where a side has no value, or where runs never reached what is asked."""
    paired: bool
    """By seed; else Welch's interval."""
    ratio: bool
    """B over A, of geometric means."""
    differs: bool
    """Whether the interval excludes no difference."""
    never: tuple[int, ...] = (0, 0)
    """Runs of A and of B that never reached what is asked; the means are over the others."""


def difference(
    arm: str, number: str, first: dict[int, float | None], second: dict[int, float | None], same: bool, ratio: bool = False
) -> Difference:
    """One number of one arm in both studies.

    Args:
        arm, number: what it is.
        first, second: seed -> value of A and of B; None where the run never reached what is asked.
        same: whether both draw the same data from the same seed: then the difference is paired over the seeds that both have, if
            these are two or more, or all.
        ratio: compare B / A of geometric means, by the logarithms of the values, which are positive.
    """
    never = sum(value is None for value in first.values()), sum(value is None for value in second.values())
    a, b = ({seed: math.log(v) if ratio else v for seed, v in side.items() if v is not None} for side in (first, second))
    common = sorted(a.keys() & b.keys())
    paired = same and bool(common) and (len(common) > 1 or a.keys() == b.keys())
    sides = [interval(list(side.values())) if side else None for side in (a, b)]
    found = None
    if a and b and not any(never):
        found = interval([b[seed] - a[seed] for seed in common]) if paired else welch(list(a.values()), list(b.values()))
    differs = found is not None and found.excludes_zero and abs(found.mean) > ROUNDING * max(map(abs, (*a.values(), *b.values())))
    cells = as_cell(sides[0], ratio), as_cell(sides[1], ratio), as_cell(found, ratio)
    return Difference(arm, number, *cells, paired, ratio, differs, never)


def as_cell(found: Interval | None, logarithms: bool) -> Cell:
    """An interval as a record, of logarithms as what they are of."""
    if found is None:
        return Cell(None)
    mean, low, high = (math.exp(x) if logarithms and x is not None else x for x in (found.mean, found.low, found.high))
    return Cell(mean, low, high, found.n)


def welch(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Mean of the second minus mean of the first, independent samples, with Welch's 95 % interval; ``n`` is the smaller one.

    Source: Welch (1947), degrees of freedom by Satterthwaite. No ends where a sample is a single value.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    apart, n = float(b.mean() - a.mean()), min(a.size, b.size)
    if n < 2:
        return Interval(apart, None, None, n)
    parts = [float(one.var(ddof=1)) / one.size for one in (a, b)]
    freedoms = [part**2 / (one.size - 1) for part, one in zip(parts, (a, b), strict=True)]
    half = half_width(sum(parts) ** 2 / sum(freedoms)) * math.sqrt(sum(parts)) if sum(freedoms) else 0.0
    return Interval(apart, apart - half, apart + half, n)


def half_width(freedom: float) -> float:
    """The t that Student's |T| exceeds with probability 0.05, for any real degrees of freedom of at least 1, by bisection."""
    low, high = 1.0, 16.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if outside(middle, freedom) > 0.05 else (low, middle)
    return (low + high) / 2


def outside(t: float, freedom: float) -> float:
    """P(|T| > t): the incomplete beta function I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2).

    By its continued fraction (DLMF 8.17.22), evaluated from the far end: 400 terms are exact to the last digits for t >= 1.
    """
    a, b, x = freedom / 2, 0.5, freedom / (freedom + t * t)
    tail = 1.0
    for k in range(400, 0, -1):
        m = k // 2
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        tail = 1 + x * (odd if k % 2 else m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))) / tail
    logarithm = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(logarithm) / (a * tail)
