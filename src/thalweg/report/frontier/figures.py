"""Loss over operations: one line an arm, and the frontier, the lowest loss that any arm reaches for the operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from thalweg.intervals import interval

_GIGA = 1e9
_EQUAL = 1.02
"""Ratio of operations below which two runs cost the same: budgets are rounded to whole updates."""
_WORDS = {
    "staged": "staged (Refine)",
    "staged-unscaled": "staged, gain not scaled",
    "shift": "the paper's SHIFT, with a ramp",
    "plain-looped": "plain Looped",
    "looped-own-gains": "Looped, a gain for each pass",
    "looped-norm": "Looped, norm and injection",
    "looped-by-t": "Looped, branches by 1 / T",
    "looped-deepnorm": "Looped, DeepNorm-like",
}


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
    budgets: list[float] = []
    for arm, by_seed in curves.items():
        if not by_seed:
            continue
        points = [_over_seeds(budget) for budget in zip(*(sorted(curve) for curve in by_seed.values()), strict=True)]
        operations, loss, low, high = (np.array(column) for column in zip(*points, strict=True))
        colour, width, style = _look(arm, loops, staged, best)
        axes.plot(operations, loss, style, color=colour, linewidth=width, marker="o", markersize=4, label=arm_words(arm))
        axes.fill_between(operations, low, high, color=colour, alpha=0.12, linewidth=0)
        budgets = budgets or operations.round(0).tolist()
        means += list(zip(operations.tolist(), loss.tolist(), strict=True))
    if means:
        frontier = lower_envelope(means)
        axes.plot(*zip(*frontier, strict=True), color="#999999", linewidth=8, alpha=0.35, label="frontier: lowest of all", zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(budgets))))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("counted operations of the whole run (GFLOP)")
    axes.set_ylabel("held-out loss above the best possible (nats)")
    axes.grid(True, which="both", linewidth=0.3, alpha=0.5)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def arm_words(arm: str) -> str:
    """What a legend calls an arm.

    Example:
        >>> arm_words("depth-5"), arm_words("staged-unscaled")
        ('5 passes throughout', 'staged, gain not scaled')
    """
    if arm.startswith("depth-"):
        depth = int(arm.removeprefix("depth-"))
        return "1 pass (Single)" if depth == 1 else f"{depth} passes throughout"
    return _WORDS.get(arm, arm)


def lower_envelope(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lowest loss so far in order of the operations, where it falls; operations that differ by 2 % at most count as equal.

    Example:
        >>> lower_envelope([(1.0, 3.0), (2.0, 4.0), (3.0, 2.0)])
        [(1.0, 3.0), (3.0, 2.0)]
    """
    kept: list[tuple[float, float]] = []
    for operations, loss in sorted(points):
        if kept and loss >= kept[-1][1]:
            continue
        if kept and operations <= _EQUAL * kept[-1][0]:
            kept.pop()
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
