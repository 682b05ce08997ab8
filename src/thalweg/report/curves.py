"""Curves over seeds: from run records to a mean and a 95 % interval on common points.

Shape letters: S seeds, X points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.intervals import Interval, interval
from thalweg.records.run import EvaluationRecord, RunRecord


@dataclass(frozen=True)
class Band:
    """A curve over seeds: ``x``, ``mean``, and the ends ``low`` and ``high`` of the 95 % interval, each of shape ``(X,)``.

    With a single seed there is no interval, and both ends equal the mean.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band_of(x: np.ndarray, intervals: Sequence[Interval]) -> Band:
    """A curve from the interval at each of the points ``x``, shape ``(X,)``."""
    mean = np.array([point.mean for point in intervals])
    low = np.array([point.mean if point.low is None else point.low for point in intervals])
    high = np.array([point.mean if point.high is None else point.high for point in intervals])
    return Band(x, mean, low, high)


def band(
    runs: Sequence[RunRecord],
    x: Callable[[EvaluationRecord], float],
    y: Callable[[EvaluationRecord], float],
    points: int = 60,
) -> Band:
    """Mean and 95 % t-interval over runs, on points that all of them cover.

    Runs that were scored at the same ``x`` keep these points. Other runs, such as runs over seconds, are interpolated linearly on
    a common grid.

    Args:
        runs: one a seed, each with at least one evaluation.
        x: what is along the horizontal axis, such as updates, seconds or operations; it grows along a run.
        y: the number that is averaged.
        points: number of evenly spaced points of the common grid.
    """
    xs = [np.array([x(evaluation) for evaluation in run.evaluations]) for run in runs]
    ys = [np.array([y(evaluation) for evaluation in run.evaluations]) for run in runs]
    same = all(np.array_equal(places, xs[0]) for places in xs)
    # Otherwise only the stretch from the latest start to the earliest end is covered by every run.
    grid = xs[0] if same else np.linspace(max(places[0] for places in xs), min(places[-1] for places in xs), points)
    values = np.array([np.interp(grid, places, heights) for places, heights in zip(xs, ys, strict=True)])  # (S, X)
    return band_of(grid, [interval(column) for column in values.T])


def late_accuracies(runs: Sequence[RunRecord], stratum: str = "all", best: float = 0.0) -> tuple[float, float]:
    """Limits of a vertical axis that show the late part of held-out accuracies, and leave out the first steep rise.

    The lower limit is the lowest accuracy after a sixth of the evaluations, the upper limit the highest accuracy or ``best``,
    both with some room.
    """
    curves = [[evaluation.scores["held-out"][stratum].accuracy for evaluation in run.evaluations] for run in runs]
    low = min(accuracies[max(1, len(accuracies) // 6)] for accuracies in curves)
    high = max(best, *(max(accuracies) for accuracies in curves))
    room = (high - low) or 0.01
    return low - 0.1 * room, high + 0.08 * room


def by_arm(runs: dict[str, RunRecord], arms: Sequence[str]) -> dict[str, list[RunRecord]]:
    """The complete runs of each arm, in the order of ``arms``; arms without a complete run are left out."""
    complete = {arm: [run for run in runs.values() if run.summary is not None and run.summary.arm == arm] for arm in arms}
    return {arm: members for arm, members in complete.items() if members}
