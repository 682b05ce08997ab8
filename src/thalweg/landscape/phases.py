"""Phases of a series: where its slope changes, and whether it falls, rises or stays constant in between.

The series is fitted by straight lines with k breaks. The procedure:

1. The best lines for a given number of breaks are found exactly, by dynamic programming over the costs of all segments.
2. A further break counts only if its gain, ``log(RSS_k / RSS_{k+1})``, is larger than for AR(1) noise about k-break lines, whose
   residuals are as correlated as the observed ones. The distribution of the gain comes from simulated series whose correlation is
   drawn, not estimated.
3. Each segment is named by its rise, slope times length: "collapse", "diversification" or "stable". A series without breaks whose
   noise is too correlated is "undecided".

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
"""Fewest checkpoints for which slopes, noise and its correlation can be distinguished."""

THREE = ("collapse", "diversification", "stable")
"""The three phases of arXiv 2510.10089, in their order."""

UNDECIDED = "undecided"
"""Label of a series without a found break, whose noise is so correlated that breaks could not be told from it."""

_SPACINGS = ("step", "log-step")

_LARGEST_CORRELATION = 0.98
"""Largest correlation of neighbouring noise; above it noise cannot be distinguished from a trend."""

_ROUNDING = 1e-9
"""Share of the series' sum of squares below which residuals are rounding, of the prefix sums among others."""

_NEAR = 0.7
"""Share of the replicates whose correlation is drawn about the estimate, and not from there up to the largest one."""

_FEWEST_POINTS = 4.0
"""Fewest independent points, ``n (1 - phi) / (1 + phi)``, that the noise must be worth before a lack of breaks says something."""

CELLS = 80_000
"""Number of costs that are computed at once, of as many replicates as fit: they stay in the cache."""


@dataclass(frozen=True)
class Segment:
    """A part of the series with a straight line of its own."""

    start: int
    """Number of the first checkpoint."""
    stop: int
    """One past the last checkpoint."""
    slope: float
    """Slope of the line, in units of the series per checkpoint."""
    label: str
    """"collapse", "diversification", "stable" or "undecided"."""

    @property
    def rise(self) -> float:
        """Rise of the line over the segment, slope times length, in units of the series."""
        return self.slope * (self.stop - self.start)


@dataclass(frozen=True)
class Phases:
    """A series divided into segments with straight lines."""

    segments: tuple[Segment, ...]
    """The segments in order, without gaps."""
    labels: tuple[str, ...]
    """Labels of the segments, with equal neighbours merged."""
    p_values: tuple[float, ...]
    """p-values of the tests for more than 0, 1, 2 ... breaks, in order. All but the last are at most the level; the last is too
    where the largest number of breaks was reached."""
    noise: float
    """Standard deviation about the lines, in units of the series."""
    correlation: float
    """Correlation of the noise of neighbouring checkpoints, corrected for bias."""
    tolerance: float
    """Largest rise or fall that is "stable", in units of the series."""
    spacing: str
    """"step" or "log-step": the scale on which the checkpoints are equally spaced."""

    @property
    def breaks(self) -> tuple[int, ...]:
        """Numbers of the first checkpoints of all segments but the first."""
        return tuple(segment.start for segment in self.segments[1:])


@dataclass(frozen=True)
class PhasesOverSeeds:
    """The phases of the same series in several runs."""

    runs: tuple[Phases, ...]
    """Phases of each run."""
    modal: tuple[str, ...]
    """The merged labels that most runs have; the first of them in a tie."""
    share: float
    """Share of runs with the modal labels."""
    three_phases: bool
    """Whether "collapse, diversification, stable" may be claimed: all conditions hold."""
    conditions: tuple[Condition, ...]
    """Number of seeds, and share of runs with the three phases."""


def segment_costs(series: _Array, shortest: int) -> _Array:
    """Squared residuals of the best straight line through the points ``[i, j)``, for all i and j at once.

    With sums over the segment, ``RSS = S_yy - S_ty^2 / S_tt`` about the segment's means; the sums come from prefix sums of
    1, t, y, t^2, t y and y^2, so the cost is n^2 operations for each series.

    Args:
        series: ``(B, n)``.
        shortest: fewest points of a segment.
    Returns:
        ``(B, n + 1, n + 1)``; infinite for fewer than ``shortest`` points.
    """
    n = series.shape[1]
    t, y = np.arange(n) - (n - 1) / 2, series - series.mean(1, keepdims=True)

    def between(values: _Array) -> _Array:  # sums over [i, j) for all i and j
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
    """Least squared residuals of the first j points in 1, ..., most + 1 segments, and where the last segment starts.

    Bellman's recursion ``best_{k+1}(j) = min_i best_k(i) + cost(i, j)``. Both lists hold arrays ``(B, n + 1)``.
    """
    best, starts = [costs[:, 0]], [np.zeros(costs[:, 0].shape, dtype=np.int64)]
    for _ in range(most):
        total = best[-1][:, :, None] + costs
        best_start = total.argmin(1)
        best.append(np.take_along_axis(total, best_start[:, None], 1)[:, 0])
        starts.append(best_start)
    return best, starts


def segmentation(series: _Array, breaks: int, shortest: int) -> list[tuple[int, int]]:
    """The best ``breaks + 1`` straight lines through a series, exactly, by dynamic programming.

    They have the least sum of squared residuals over all divisions into segments of at least ``shortest`` points. Neighbouring
    lines need not meet.

    Args:
        series: ``(n,)``.
        breaks: number of breaks.
        shortest: fewest points of a segment.
    Returns:
        ``(start, stop)`` of each segment, in order.
    Source:
        Bai and Perron 2003.
    """
    _, starts = _best_costs(segment_costs(series[None], shortest), breaks)
    # Follow the starts back from the last segment to the first.
    stops = [len(series)]
    for number in range(breaks, 0, -1):
        stops.append(int(starts[number][0, stops[-1]]))
    return list(zip([0, *stops[:0:-1]], stops[::-1], strict=True))


def _fitted(series: _Array, cuts: list[tuple[int, int]]) -> tuple[_Array, list[float]]:
    """The values of the least-squares lines at every checkpoint, and the lines' slopes."""
    lines, slopes = np.empty_like(series), []
    for start, stop in cuts:
        t = np.arange(stop - start) - (stop - start - 1) / 2
        slopes.append(float(t @ series[start:stop] / (t @ t)))
        lines[start:stop] = series[start:stop].mean() + slopes[-1] * t
    return lines, slopes


def noise_of(residuals: _Array, segments: int) -> tuple[float, float]:
    """Lag-1 correlation phi and standard deviation of AR(1) noise, from the residuals of a fit by straight lines.

    Fitted lines lower the correlation of the residuals, each by about ``(2 + 4 phi) / n``, and a break that was searched for by as
    much again (by simulation: 0.059 and 0.143 in place of 0.058 and 0.130 at phi = 0 and 0.8, one break, n = 120).
    The correction is applied twice, the second time at the corrected phi. The deviation is that of the innovations with two degrees
    of freedom less for each line, scaled to the series by ``1 / sqrt(1 - phi^2)``.

    Args:
        residuals: ``(n,)``.
        segments: number of lines.
    Returns:
        phi, and the standard deviation in units of the series; both 0 for residuals of zero.
    Source:
        Ours.
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


def correlated_noise(
    draw: np.random.Generator, replicates: int, n: int, correlation: float | _Array, deviation: float | _Array
) -> _Array:
    """Stationary Gaussian AR(1) noise, ``e_t = phi e_{t-1} + sqrt(1 - phi^2) u_t``.

    Args:
        draw: generator of u.
        replicates: B.
        n: length of each series.
        correlation: phi, one number or one for each series ``(B,)``.
        deviation: standard deviation of e, likewise.
    Returns:
        ``(B, n)``.
    """
    phi, size = (np.broadcast_to(np.asarray(value, dtype=np.float64), (replicates,)) for value in (correlation, deviation))
    fresh = size[:, None] * draw.standard_normal((replicates, n))
    fresh[:, 1:] *= np.sqrt(1 - phi**2)[:, None]
    for t in range(1, n):
        fresh[:, t] += phi * fresh[:, t - 1]
    return fresh


def _residuals(series: _Array, starts: list[NDArray[np.int64]], breaks: int) -> _Array:
    """Residuals of the best fits with ``breaks`` breaks, ``(B, n)``, from the starts of `_best_costs`."""
    rows, n = len(series), series.shape[1]
    every, places = np.arange(rows), np.arange(n)
    t, y = np.broadcast_to(places - (n - 1) / 2, series.shape), series - series.mean(1, keepdims=True)
    sums = [np.concatenate([np.zeros((rows, 1)), values.cumsum(1)], 1) for values in (t, t * t, y, t * y)]
    left, stop = y.copy(), np.full(rows, n)
    for number in range(breaks, -1, -1):  # from the last segment to the first
        start = starts[number][every, stop]
        t_sum, t_square, y_sum, product = (total[every, stop] - total[every, start] for total in sums)
        size = stop - start
        slope = (product - t_sum * y_sum / size) / (t_square - t_sum**2 / size)
        level = (y_sum - slope * t_sum) / size
        inside = (places >= start[:, None]) & (places < stop[:, None])
        left -= inside * (level[:, None] + slope[:, None] * t)
        stop = start
    return left


def gains(series: _Array, breaks: int, more: int, shortest: int) -> tuple[_Array, _Array]:
    """Gains of 1, ..., ``more`` further breaks, and the correlation of what the richest fit leaves.

    The gain is ``log(RSS_k / RSS_{k+m})`` of the best fits with k and k + m breaks, rounded to three decimals, so that rounding of
    the sums decides no comparison.

    Args:
        series: ``(B, n)``.
        breaks: k.
        more: largest number of further breaks.
        shortest: fewest points of a segment.
    Returns:
        The gains ``(B, more)``, and the lag-1 correlation of the residuals about the fit with k + ``more`` breaks, ``(B,)``; it is
        not corrected for bias, and 0 for residuals of zero.
    """
    gains_of_chunks, correlations = [], []
    for rows in np.array_split(series, -(-len(series) * (series.shape[1] + 1) ** 2 // CELLS)):
        best, starts = _best_costs(segment_costs(rows, shortest), breaks + more)
        floor = _ROUNDING * ((rows - rows.mean(1, keepdims=True)) ** 2).sum(1) + 1e-300
        squares = np.stack([best[number][:, -1] + floor for number in range(breaks, breaks + more + 1)], 1)
        gains_of_chunks.append(np.log(squares[:, :1] / squares[:, 1:]).round(3))
        left = _residuals(rows, starts, breaks + more)
        before, after = left[:, :-1], left[:, 1:]
        size = (before * before).sum(1)
        correlations.append(np.divide((before * after).sum(1), size, out=np.zeros(len(rows)), where=size > 0))
    return np.concatenate(gains_of_chunks), np.concatenate(correlations)


def _p_value(series: _Array, breaks: int, more: int, shortest: int, replicates: int, draw: np.random.Generator) -> float:
    """p-value of k breaks against 1, ..., ``more`` further ones, given the correlation of what the richest fit leaves.

    A bootstrap at an estimate of phi finds breaks in noise too often: an estimate that is too low by chance comes with a large
    gain, since breaks remove correlation. So phi is not estimated here. It is drawn with Jeffreys' prior, series with k breaks are
    made with it, and those count whose residuals are correlated like the observed ones (approximate Bayesian computation). The
    p-value is then the share of them with at least the observed gain: the conditional predictive p-value.
    """
    n = series.shape[0]
    cuts = segmentation(series, breaks, shortest)
    lines, _ = _fitted(series, cuts)
    seen, raw = gains(series[None], breaks, more, shortest)
    richer, _ = _fitted(series, segmentation(series, breaks + more, shortest))
    corrected, deviation = noise_of(series - richer, breaks + more + 1)
    # 1. Draw zeta = artanh phi: most draws about the corrected estimate, the others up to the largest correlation.
    width, top = 3 / math.sqrt(n), math.atanh(_LARGEST_CORRELATION)
    middle = min(math.atanh(corrected), top - 2 * width)
    ends = np.array([middle - width, middle + width, top])
    share = np.array([0.0, _NEAR, 1.0])
    zeta = np.interp((np.arange(replicates) + draw.random(replicates)) / replicates, share, ends)
    density = np.where(zeta < ends[1], _NEAR / (ends[1] - ends[0]), (1 - _NEAR) / (ends[2] - ends[1]))
    phi = np.tanh(zeta)
    # 2. Series with k breaks and noise whose innovations have the observed deviation.
    deviations = deviation * math.sqrt(1 - corrected**2) / np.sqrt(1 - phi**2)
    found, correlations = gains(lines + correlated_noise(draw, replicates, n, phi, deviations), breaks, more, shortest)
    # 3. Weights: Jeffreys' prior, d phi / sqrt(1 - phi^2) = d zeta / cosh zeta, over the density of the draws, times a kernel on
    # the distance of the correlations, which is wide enough for a quarter of the replicates.
    distance = _artanh(correlations) - _artanh(raw)[0]
    bandwidth = max(2 / math.sqrt(n), float(np.sort(abs(distance))[replicates // 4]), 1e-9)
    weights = np.maximum(1 - (distance / bandwidth) ** 2, 0) / np.cosh(zeta) / density
    weights /= weights.sum()
    # 4. Gains as they would be at the observed correlation, by their weighted regression on the distance.
    centred = distance - weights @ distance
    spread = weights @ centred**2
    if spread > 0:
        found = found - distance[:, None] * ((weights * centred) @ found / spread)
    # 5. The smaller of the p-values against 1 and against 2 further breaks, compared with those of the replicates.
    smallest, observed = (
        np.min([[weights[gain >= value].sum() for value in given] for gain, given in zip(found.T, some.T, strict=True)], 0)
        for some in (found, seen)
    )
    effective = 1 / (weights @ weights)
    return float((1 + effective * weights[smallest <= observed[0] + 1e-12].sum()) / (1 + effective))


def _artanh(correlations: _Array) -> _Array:
    """Fisher's transform of correlations, which are first moved into +-0.98."""
    return np.arctanh(np.clip(correlations, -_LARGEST_CORRELATION, _LARGEST_CORRELATION))


def _break_p_values(series: _Array, most: int, level: float, shortest: int, replicates: int, seed: int) -> list[float]:
    """p-values of the tests for more breaks than 0, 1, 2, ..., up to the first one above the level.

    Each test is against one and against two further breaks. The test against one more fails where two breaks are needed at once:
    the residuals about one break then look like strongly correlated noise, which can explain any series.
    """
    p_values = []
    while len(p_values) < most and (not p_values or p_values[-1] <= level):
        breaks, draw = len(p_values), stream(seed, "bootstrap", step=len(p_values))
        p_values.append(_p_value(series, breaks, min(2, most - breaks), shortest, replicates, draw))
    return p_values


def phases(
    series: Tensor,
    most: int = 4,
    level: float = 0.05,
    replicates: int = 199,
    shortest: int | None = None,
    spread: float | None = None,
    spacing: str = "step",
    seed: int = 0,
) -> Phases:
    """Divide a series into segments with straight lines and name them; a break counts only if AR(1) noise does not explain it.

    Breaks are added one by one while the p-value of further ones is at most the level. A segment is "collapse" where its rise,
    slope times length, is below ``-tolerance``, "diversification" where it is above ``tolerance``, else "stable"; the tolerance is
    the larger of a twentieth of the range and four standard deviations of the noise. Lines rather than levels are fitted because
    levels would divide each ramp into many steps. Information criteria are not calibrated here, as they assume independent noise.
    Costs B searches of n^2 operations for each number of breaks.

    A series without a found break is "undecided" if its noise is worth fewer than 4 independent points, counted as
    ``n (1 - phi) / (1 + phi)``: breaks could not be told from such noise. So are 37 % of series of 40 points at phi = 0.8, and 2 %
    at 0.5.

    Noise alone has a break in 2, 1 and 5 % of series of 40 points (phi = 0, 0.5, 0.8), and in 4, 3 and 2 % of series of 120, at a
    level of 5 %. Above phi = 0.8 the level is not kept at 40 points (11 % at 0.9).

    Args:
        series: for instance an entropy at equally spaced checkpoints, ``(n,)``, n of at least 40.
        most: largest number of breaks.
        level: significance level of each test.
        replicates: B, at least 99.
        shortest: fewest points of a segment, at least 4; None takes a tenth of n.
        spread: range that enters the tolerance; None takes this series' own. Over several runs, give the range over all.
        spacing: "step" or "log-step", only recorded.
        seed: seed of the bootstrap.
    Raises:
        InsufficientDataError: fewer than 40 checkpoints.
        BadInputError: an option out of its range.
    Example:
        >>> import torch
        >>> outcome = phases(torch.cat([torch.linspace(3, 1, 30), torch.linspace(1, 2, 30), torch.full((30,), 2.0)]))
        >>> outcome.labels
        ('collapse', 'diversification', 'stable')

    Source:
        Ours; the segmentation is Bai and Perron's (2003).
    """
    y, cut = checked(series), max(4, len(series) // 10) if shortest is None else shortest
    require(most >= 0 and (most + 2) * max(cut, 1) <= len(y), "most", most, f"at most {len(y) // max(cut, 1) - 2} breaks here")
    require(0 < level < 1, "level", level, "a number between 0 and 1")
    require(replicates >= 99, "replicates", replicates, "at least 99")
    require(cut >= 4, "shortest", cut, "at least 4 points")
    require(spread is None or 0 <= spread < math.inf, "spread", spread, "a number of at least 0")
    if spacing not in _SPACINGS:
        raise unknown("spacing", spacing, _SPACINGS)
    # How many breaks, then the best fit with that many, and its noise.
    p_values = _break_p_values(y, most, level, cut, replicates, seed)
    breaks = sum(p <= level for p in p_values)
    cuts = segmentation(y, breaks, cut)
    lines, slopes = _fitted(y, cuts)
    exact = float(np.square(y - lines).sum()) <= _ROUNDING * float(np.square(y - y.mean()).sum())
    correlation, noise = noise_of(y - lines, breaks + 1)
    undecided = not breaks and not exact and len(y) * (1 - correlation) / (1 + correlation) < _FEWEST_POINTS
    tolerance = max(0.05 * (float(np.ptp(y)) if spread is None else spread), 4 * noise)
    segments = tuple(
        Segment(start, stop, slope, UNDECIDED if undecided else named(slope * (stop - start), tolerance))
        for (start, stop), slope in zip(cuts, slopes, strict=True)
    )
    labels = [segment.label for segment in segments]
    merged = tuple(label for label, before in zip(labels, [None, *labels], strict=False) if label != before)
    return Phases(segments, merged, tuple(p_values), noise, correlation, tolerance, spacing)


def checked(series: Tensor) -> _Array:
    """A series as float64 numbers ``(n,)``, n of at least 40.

    Raises:
        InsufficientDataError: fewer than 40 checkpoints.
    """
    y = spectrum("series", series)
    if len(y) < LEAST_POINTS:
        raise InsufficientDataError(f"series: {len(y)} checkpoints, expected at least {LEAST_POINTS}; record more often")
    return y.cpu().numpy()


def named(rise: float, tolerance: float) -> str:
    """The label of a segment by its rise: "collapse" below ``-tolerance``, "diversification" above ``tolerance``, else "stable"."""
    return "collapse" if rise < -tolerance else "diversification" if rise > tolerance else "stable"


def phases_over_seeds(runs: Sequence[Tensor], **options) -> PhasesOverSeeds:
    """The phases of several runs, and whether the three phases of arXiv 2510.10089 may be claimed.

    They may if the merged labels are exactly collapse, diversification, stable in at least two thirds of at least five runs.
    Otherwise report the modal labels.

    Args:
        runs: one series for each seed, see `phases`.
        options: options of `phases`; the spread is the range over all runs unless given.
    Raises:
        InsufficientDataError: no run, or one with fewer than 40 checkpoints.
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
