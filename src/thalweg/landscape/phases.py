"""Phases of a series: where its slope changes, and whether it falls, rises or stays in between.

Shape letters: n checkpoints, B replicates of the bootstrap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thalweg.errors import InsufficientDataError, require, unknown
from thalweg.streams import stream
from thalweg.theory.inputs import Condition, spectrum

_Array = NDArray[np.float64]

LEAST_POINTS = 40
"""Checkpoints below which slopes, noise and its correlation cannot be told apart."""

THREE = ("collapse", "diversification", "stable")
"""The paper's phases, in their order."""

_SPACINGS = ("step", "log-step")

_LARGEST_CORRELATION = 0.98
"""Of the noise of neighbours; above it noise and trend are the same thing."""

_ROUNDING = 1e-9
"""Of the series' sum of squares: residuals below are rounding, of the prefix sums among others."""


BLOCK = 5
"""Replicates cut at once: their costs stay in the cache."""


@dataclass(frozen=True)
class Segment:
    """A stretch of the series with a straight line of its own."""

    start: int
    """First checkpoint."""
    stop: int
    """One past the last."""
    slope: float
    """Per checkpoint."""
    label: str
    """"collapse", "diversification" or "stable"."""

    @property
    def rise(self) -> float:
        """Slope times length, in units of the series."""
        return self.slope * (self.stop - self.start)


@dataclass(frozen=True)
class Phases:
    """A series cut into straight lines."""

    segments: tuple[Segment, ...]
    """In order, without gaps."""
    labels: tuple[str, ...]
    """With equal neighbours merged."""
    p_values: tuple[float, ...]
    """Of more than 0, 1, 2 ... breaks; all but the last are at most the level, and the last where the most breaks were found."""
    noise: float
    """Standard deviation about the lines, in units of the series."""
    correlation: float
    """Of the noise of neighbouring checkpoints, corrected for bias."""
    tolerance: float
    """Rises up to it are "stable"; in units of the series."""
    spacing: str
    """In what the checkpoints are equally far apart."""

    @property
    def breaks(self) -> tuple[int, ...]:
        """First checkpoints of all segments but the first."""
        return tuple(segment.start for segment in self.segments[1:])


@dataclass(frozen=True)
class PhasesOverSeeds:
    """The same series in several runs."""

    runs: tuple[Phases, ...]
    modal: tuple[str, ...]
    """The merged labels that most runs have; of several, the first seen."""
    share: float
    """Of runs with the modal labels."""
    three_phases: bool
    """Whether "collapse, diversification, stable" may be claimed: all conditions held."""
    conditions: tuple[Condition, ...]


def segment_costs(series: _Array, shortest: int) -> _Array:
    """Squared residuals of the best line through ``[i, j)``, for all i and j at once: ``(B, n)`` to ``(B, n + 1, n + 1)``.

    From prefix sums of 1, t, y, t^2, t y, y^2, so n^2 operations; infinite for less than `shortest` points.
    """
    n = series.shape[1]
    t, y = np.arange(n) - (n - 1) / 2, series - series.mean(1, keepdims=True)

    def between(values: _Array) -> _Array:
        total = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(-1)], -1)
        return total[..., None, :] - total[..., :, None]

    count, t_sum, t_square = (between(v) for v in (np.ones(n), t, t * t))
    allowed = count >= shortest
    size = np.where(allowed, count, np.inf)
    centre, spread = t_sum / size, np.where(allowed, t_square - t_sum**2 / size, np.inf)
    y_sum, covariance, residual = between(y), between(t * y), between(y * y)
    covariance -= centre * y_sum  # in place from here on: this is where the bootstrap spends its time
    residual -= np.square(y_sum, out=y_sum) * (1 / size)
    residual -= np.square(covariance, out=covariance) * (1 / spread)
    return np.maximum(residual, 0, out=residual) + np.where(allowed, 0, np.inf)


def _best_costs(costs: _Array, most: int) -> tuple[list[_Array], list[NDArray[np.int64]]]:
    """Least squared residuals of the first j points in 1, ... most + 1 segments, ``(B, n + 1)``, and where the last one starts."""
    best, starts = [costs[:, 0]], [np.zeros(costs[:, 0].shape, dtype=np.int64)]
    for _ in range(most):
        total = best[-1][:, :, None] + costs
        best_start = total.argmin(1)
        best.append(np.take_along_axis(total, best_start[:, None], 1)[:, 0])
        starts.append(best_start)
    return best, starts


def segmentation(series: _Array, breaks: int, shortest: int) -> list[tuple[int, int]]:
    """The exact best ``breaks + 1`` straight lines through a series ``(n,)``, as ``(start, stop)``, by dynamic programming.

    Lines need not meet. The least sum of squared residuals over all cuts into segments of at least `shortest` points.
    """
    _, starts = _best_costs(segment_costs(series[None], shortest), breaks)
    stops = [len(series)]
    for number in range(breaks, 0, -1):
        stops.append(int(starts[number][0, stops[-1]]))
    return list(zip([0, *stops[:0:-1]], stops[::-1], strict=True))


def _fitted(series: _Array, cuts: list[tuple[int, int]]) -> tuple[_Array, list[float]]:
    """The lines at every checkpoint, and their slopes."""
    lines, slopes = np.empty_like(series), []
    for start, stop in cuts:
        t = np.arange(stop - start) - (stop - start - 1) / 2
        slopes.append(float(t @ series[start:stop] / (t @ t)))
        lines[start:stop] = series[start:stop].mean() + slopes[-1] * t
    return lines, slopes


def noise_of(residuals: _Array, segments: int) -> tuple[float, float]:
    """Correlation of neighbours and standard deviation of the noise about `segments` lines.

    Lines take correlation out of what they leave, about ``(2 + 4 phi) / n`` each, and a break that was searched for as much again
    (by simulation: 0.059 and 0.143 in place of 0.058 and 0.130 at phi = 0 and 0.8, one break, n = 120). It is added twice, the
    second time at the corrected phi. The deviation is that of innovations with two degrees of freedom less for each line, scaled
    to the series by the corrected phi.
    """
    n, square = len(residuals), float(residuals[:-1] @ residuals[:-1])
    if not square:
        return 0.0, 0.0
    raw, taken = float(residuals[1:] @ residuals[:-1]) / square, (2 * segments - 1) / n
    phi = raw + (2 + 4 * (raw + (2 + 4 * raw) * taken)) * taken
    phi = min(max(phi, -_LARGEST_CORRELATION), _LARGEST_CORRELATION)
    innovations = residuals[1:] - raw * residuals[:-1]
    variance = float(innovations @ innovations) / max(n - 1 - 2 * segments, 1)
    return phi, math.sqrt(variance / (1 - phi**2))


def correlated_noise(draw: np.random.Generator, replicates: int, n: int, correlation: float, deviation: float) -> _Array:
    """Stationary Gaussian noise ``e_t = phi e_{t-1} + sqrt(1 - phi^2) u_t``, ``(B, n)``."""
    fresh = deviation * draw.standard_normal((replicates, n))
    fresh[:, 1:] *= math.sqrt(1 - correlation**2)
    for t in range(1, n):
        fresh[:, t] += correlation * fresh[:, t - 1]
    return fresh


def gains(series: _Array, breaks: int, more: int, shortest: int) -> _Array:
    """``log(RSS_k / RSS_{k+more})`` of the best k and k + more breaks, ``(B,)``; to three decimals, without what rounding adds."""
    gains_of_chunks = []
    for rows in np.array_split(series, -(-len(series) // BLOCK)):
        costs = segment_costs(rows, shortest)
        best, _ = _best_costs(costs, breaks + more - 1)
        richer = (best[-1] + costs[:, :, -1]).min(1)  # one segment more, of which only the whole series is asked
        floor = _ROUNDING * ((rows - rows.mean(1, keepdims=True)) ** 2).sum(1) + 1e-300
        gains_of_chunks.append(np.log((best[breaks][:, -1] + floor) / (richer + floor)))
    return np.concatenate(gains_of_chunks).round(3)


def _bootstrapped(series: _Array, breaks: int, more: int, shortest: int, replicates: int, draw: np.random.Generator) -> float:
    """p value of k against k + more breaks by a parametric bootstrap.

    Replicates are the k-break fit plus AR(1) noise as seen about the richer fit; the whole search is done again for each of them.
    """
    lines, _ = _fitted(series, segmentation(series, breaks, shortest))
    richer, _ = _fitted(series, segmentation(series, breaks + more, shortest))
    correlation, deviation = noise_of(series - richer, breaks + more + 1)
    copies = lines + correlated_noise(draw, replicates, len(series), correlation, deviation)
    observed = gains(series[None], breaks, more, shortest)[0]
    return (1 + int((gains(copies, breaks, more, shortest) >= observed).sum())) / (1 + replicates)


def _break_p_values(series: _Array, most: int, level: float, shortest: int, replicates: int, seed: int) -> list[float]:
    """p values of more breaks than 0, 1, 2, ..., up to the first above the level.

    Each is twice the smaller of two: against one more and against two more. One more alone is blind where two are needed at
    once: what is left about it then looks like strongly correlated noise, which explains anything.
    """
    p_values = []
    while len(p_values) < most and (not p_values or p_values[-1] <= level):
        breaks, draw = len(p_values), stream(seed, "bootstrap", step=len(p_values))
        tests = [_bootstrapped(series, breaks, more, shortest, replicates, draw) for more in (1, 2) if breaks + more <= most]
        p_values.append(min(1.0, len(tests) * min(tests)))
    return p_values


def phases(
    series: Tensor,
    most: int = 4,
    level: float = 0.05,
    replicates: int = 99,
    shortest: int | None = None,
    spread: float | None = None,
    spacing: str = "step",
    seed: int = 0,
) -> Phases:
    """Cut a series into ramps and name them; a break counts only where AR(1) noise does not explain it.

    Breaks are added one by one while the p value of more of them is at most the level. A segment is "collapse" where slope times
    length is below ``-tolerance``, "diversification" above it, else "stable"; the tolerance is the larger of a twentieth of the
    range and four standard deviations of the noise. Ramps need lines: level shifts cut each of them into many steps. Information
    criteria are not calibrated here, as they take neighbours for independent.

    Noise alone has a break in 6, 7 and 15 % of series of 120 (phi = 0, 0.5, 0.8), in 7, 15 and 24 % of 40: more checkpoints help.
    The tolerance calls nearly all of those stable: another label in 0, 1 and 7 % of 120, never the three phases.

    Args:
        series: an entropy, say, at equally spaced checkpoints, ``(n,)``, n of at least 40.
        most: largest number of breaks.
        level: of each test.
        replicates: B, at least 49.
        shortest: points of a segment, at least 4; None takes a tenth of n.
        spread: range in the tolerance; None takes this series' own. Over several runs, give that of all.
        spacing: "step" or "log-step", recorded.
        seed: of the bootstrap.
    Raises:
        InsufficientDataError: fewer than 40 checkpoints.
    Example:
        >>> import torch
        >>> found = phases(torch.cat([torch.linspace(3, 1, 30), torch.linspace(1, 2, 30), torch.full((30,), 2.0)]))
        >>> found.labels
        ('collapse', 'diversification', 'stable')

    Source:
        Ours; the segmentation is Bai and Perron's (2003).
    """
    y, cut = checked(series), max(4, len(series) // 10) if shortest is None else shortest
    require(most >= 0 and (most + 2) * max(cut, 1) <= len(y), "most", most, f"at most {len(y) // max(cut, 1) - 2} breaks here")
    require(0 < level < 1, "level", level, "a number between 0 and 1")
    require(replicates >= 49, "replicates", replicates, "at least 49")
    require(cut >= 4, "shortest", cut, "at least 4 points")
    require(spread is None or 0 <= spread < math.inf, "spread", spread, "a number of at least 0")
    if spacing not in _SPACINGS:
        raise unknown("spacing", spacing, _SPACINGS)
    p_values = _break_p_values(y, most, level, cut, replicates, seed)
    breaks = sum(p <= level for p in p_values)
    cuts = segmentation(y, breaks, cut)
    lines, slopes = _fitted(y, cuts)
    correlation, noise = noise_of(y - lines, breaks + 1)
    tolerance = max(0.05 * (float(np.ptp(y)) if spread is None else spread), 4 * noise)
    segments = tuple(
        Segment(start, stop, slope, named(slope * (stop - start), tolerance))
        for (start, stop), slope in zip(cuts, slopes, strict=True)
    )
    labels = [segment.label for segment in segments]
    merged = tuple(label for label, before in zip(labels, [None, *labels], strict=False) if label != before)
    return Phases(segments, merged, tuple(p_values), noise, correlation, tolerance, spacing)


def checked(series: Tensor) -> _Array:
    """Float64 numbers, enough of them."""
    y = spectrum("series", series)
    if len(y) < LEAST_POINTS:
        raise InsufficientDataError(f"series: {len(y)} checkpoints, expected at least {LEAST_POINTS}; record more often")
    return y.cpu().numpy()


def named(rise: float, tolerance: float) -> str:
    """A segment's label."""
    return "collapse" if rise < -tolerance else "diversification" if rise > tolerance else "stable"


def phases_over_seeds(runs: Sequence[Tensor], **options) -> PhasesOverSeeds:
    """The phases of several runs, and whether the paper's three may be claimed.

    They may if the merged labels are exactly collapse, diversification, stable in at least two thirds of at least five runs.
    Otherwise report the modal labels.

    Args:
        runs: one series a seed.
        options: of `phases`; the spread is the range over all runs unless given.
    Raises:
        InsufficientDataError: no run.
    """
    if not runs:
        raise InsufficientDataError("runs: none, expected at least 5 seeds")
    series = [checked(run) for run in runs]
    spread = max(float(y.max()) for y in series) - min(float(y.min()) for y in series)
    outcomes = tuple(phases(run, **{"spread": spread, **options}) for run in runs)
    (modal, count), *_ = Counter(run.labels for run in outcomes).most_common(1)
    three = sum(run.labels == THREE for run in outcomes) / len(outcomes)
    conditions = (
        Condition("seeds >= 5", len(outcomes) >= 5, len(outcomes)),
        Condition("share of (collapse, diversification, stable) >= 2/3", three >= 2 / 3 - 1e-12, three),
    )
    return PhasesOverSeeds(outcomes, modal, count / len(outcomes), all(condition.held for condition in conditions), conditions)
