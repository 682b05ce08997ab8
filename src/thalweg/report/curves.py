"""Curves over seeds: from run records to mean and band on common points.

Shape letters: S seeds, X points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.intervals import interval
from thalweg.records.run import EvaluationRecord, RunRecord


@dataclass(frozen=True)
class Band:
    """A curve over seeds: ``x``, ``mean``, and the 95 % interval (equal to the mean for a single seed); each ``(X,)``."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(
    runs: Sequence[RunRecord],
    x: Callable[[EvaluationRecord], float],
    y: Callable[[EvaluationRecord], float],
    points: int = 60,
) -> Band:
    """Mean and interval over runs, on points that all of them cover; straight lines between evaluations.

    Runs that were scored at the same places keep those places; others (seconds differ) are put on ``points`` even ones.
    """
    xs = [np.array([x(e) for e in run.evaluations]) for run in runs]
    ys = [np.array([y(e) for e in run.evaluations]) for run in runs]
    same = all(len(one) == len(xs[0]) and np.array_equal(one, xs[0]) for one in xs)
    grid = xs[0] if same else np.linspace(max(one[0] for one in xs), min(one[-1] for one in xs), points)
    values = np.array([np.interp(grid, one, other) for one, other in zip(xs, ys, strict=True)])
    found = [interval(column) for column in values.T]
    mean = np.array([i.mean for i in found])
    low = np.array([i.mean if i.low is None else i.low for i in found])
    high = np.array([i.mean if i.high is None else i.high for i in found])
    return Band(grid, mean, low, high)


def late_accuracies(runs: Sequence[RunRecord], stratum: str = "all", best: float = 0.0) -> tuple[float, float]:
    """Limits that show the end of held-out accuracies: what all runs have in a sixth of their way, and the highest, or ``best``."""
    curves = [[e.scores["held-out"][stratum].accuracy for e in run.evaluations] for run in runs]
    low, high = min(one[max(1, len(one) // 6)] for one in curves), max(best, *(max(one) for one in curves))
    room = (high - low) or 0.01
    return low - 0.1 * room, high + 0.08 * room


def by_arm(runs: dict[str, RunRecord], arms: Sequence[str]) -> dict[str, list[RunRecord]]:
    """The complete runs of each arm that has any, in the order of the arms."""
    grouped: dict[str, list[RunRecord]] = {}
    for arm in arms:
        mine = [run for run in runs.values() if run.summary is not None and run.summary.arm == arm]
        if mine:
            grouped[arm] = mine
    return grouped
