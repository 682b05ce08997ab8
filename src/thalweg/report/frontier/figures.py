"""Loss over operations: one line an arm, and the frontier, the lowest loss that any arm reaches for the operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from thalweg.intervals import interval

_GIGA = 1e9


def frontier_figure(
    curves: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]], loops: int, staged: str, best: str
) -> Figure:
    """Held-out loss above the best possible over counted operations, both logarithmic.

    Args:
        curves: arm -> seed -> (operations, loss) by budget.
        loops: T; constant depths 1 to T are shaded from light to dark.
        staged: the arm of staged training, drawn in colour.
        best: the best constant depth, drawn thicker; empty for none.
    """
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    means: list[tuple[float, float]] = []
    for arm, by_seed in curves.items():
        if not by_seed:
            continue
        points = [_over_seeds(budget) for budget in zip(*(sorted(curve) for curve in by_seed.values()), strict=True)]
        operations, loss, low, high = (np.array(column) for column in zip(*points, strict=True))
        colour, width, style = _look(arm, loops, staged, best)
        axes.plot(operations, loss, style, color=colour, linewidth=width, marker="o", markersize=4, label=arm)
        axes.fill_between(operations, low, high, color=colour, alpha=0.12, linewidth=0)
        means += list(zip(operations.tolist(), loss.tolist(), strict=True))
    if means:
        frontier = lower_envelope(means)
        axes.step(*zip(*frontier, strict=True), where="post", color="#999999", linewidth=5, alpha=0.35, label="frontier", zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("counted operations of the whole run (GFLOP)")
    axes.set_ylabel("held-out loss above the best possible (nats)")
    axes.grid(True, which="both", linewidth=0.3, alpha=0.5)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def lower_envelope(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lowest loss so far in order of the operations, where it falls.

    Example:
        >>> lower_envelope([(1.0, 3.0), (2.0, 4.0), (3.0, 2.0)])
        [(1.0, 3.0), (3.0, 2.0)]
    """
    kept: list[tuple[float, float]] = []
    for operations, loss in sorted(points):
        if not kept or loss < kept[-1][1]:
            kept.append((operations, loss))
    return kept


def _over_seeds(points: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """Operations in GFLOP, geometric mean and interval of the loss at one budget."""
    logs = interval([math.log(loss) for _, loss in points])
    mean = math.exp(logs.mean)
    ends = [mean if end is None else math.exp(end) for end in (logs.low, logs.high)]
    return sum(operations for operations, _ in points) / len(points) / _GIGA, mean, ends[0], ends[1]


def _look(arm: str, loops: int, staged: str, best: str) -> tuple[object, float, str]:
    """Colour, width and dashes of an arm."""
    if arm == staged:
        return "#c0392b", 2.4, "-"
    if arm.startswith("depth-"):
        depth = int(arm.removeprefix("depth-"))
        shade = colormaps["viridis"](0.9 - 0.8 * (depth - 1) / max(1, loops - 1))
        return shade, 2.4 if arm == best else 1.2, "-"
    return {"staged-unscaled": "#e08e79", "shift": "#8e44ad"}.get(arm, "#555555"), 1.4, "--"
