"""Loss over operations: one line an arm, and the frontier, the lowest loss that any arm reaches for the operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from thalweg.intervals import interval
from thalweg.report.landscape.curves import readable
from thalweg.report.panels import FIRST_WIDTH, three_digits

Curves = dict[str, dict[int, list[tuple[float, float]]]]
"""Arm -> seed -> (operations, loss) by budget."""
_GIGA = 1e9
_SIZE = 10.5
"""Points of every label: readable where the figure is half a page or a phone wide."""
_ASIDE = 1.012
"""Factor on the operations between the error bars of two arms, so that they do not lie on each other."""
_EQUAL = 1.02
"""Ratio of operations below which two runs cost the same: budgets are rounded to whole updates."""


def frontier_figure(
    curves: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]],
    names: Mapping[str, str],
    staged: str,
    best: str,
    loss: str,
) -> Figure:
    """A loss over counted operations, both logarithmic.

    Args:
        curves: arm -> seed -> (operations, loss) by budget.
        names: arm -> its name in the legend; constant depths are shaded from light to dark.
        staged: the arm of staged training, drawn in colour.
        best: the best constant depth, drawn thicker; empty for none.
        loss: what the vertical axis shows.
    """
    figure = Figure(figsize=(FIRST_WIDTH, 4.9), layout="constrained")
    axes = figure.add_subplot()
    means: list[tuple[float, float]] = []
    budgets: list[float] = []
    paired = without_seeds(curves)
    depths = sorted((arm for arm in paired if arm.startswith("depth-")), key=lambda arm: int(arm.removeprefix("depth-")))
    for index, (arm, by_seed) in enumerate(paired.items()):
        points = [_over_seeds(budget) for budget in zip(*(sorted(curve) for curve in by_seed.values()), strict=True)]
        operations, mean, low, high = (np.array(column) for column in zip(*points, strict=True))
        colour, width, style = _look(arm, depths, staged, best)
        axes.plot(operations, mean, style, color=colour, linewidth=width, marker="o", markersize=4, label=names[arm])
        aside = operations * _ASIDE ** (index - (len(paired) - 1) / 2)
        axes.errorbar(aside, mean, [mean - low, high - mean], fmt="none", ecolor=colour, elinewidth=1.1, capsize=2, alpha=0.75)
        budgets = budgets or operations.round(0).tolist()
        means += list(zip(operations.tolist(), mean.tolist(), strict=True))
    if means:
        frontier = lower_envelope(means)
        axes.plot(*zip(*frontier, strict=True), color="#999999", linewidth=7, alpha=0.3, label="lowest of all", zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(budgets))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda budget, _: three_digits(budget)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("operations of the whole run (GFLOP)", fontsize=_SIZE)
    axes.set_ylabel(f"{loss} (nats)", fontsize=_SIZE)
    readable(axes)
    axes.tick_params(which="both", labelsize=_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="both", linewidth=0.3, alpha=0.5)
    figure.legend(loc="outside lower center", fontsize=_SIZE, ncols=2, frameon=False)
    return figure


def frontier_alt(curves: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]], names: Mapping[str, str], loss: str) -> str:
    """What the figure shows, as one would tell it on the phone.

    Args:
        curves: as in `frontier_figure`.
        names: arm -> its name.
        loss: what the vertical axis shows.
    """
    ends = {}
    for arm, by_seed in without_seeds(curves).items():
        if by_seed:
            points = [_over_seeds(budget) for budget in zip(*(sorted(curve) for curve in by_seed.values()), strict=True)]
            ends[names[arm]] = points[0], points[-1]
    if not ends:
        return "An empty figure: no arm has a complete curve yet."
    ranked = sorted(ends, key=lambda name: ends[name][1][1])
    first, last = ends[ranked[0]]
    order = "; ".join(f"{name} {ends[name][1][1]:.3g}" for name in ranked)
    return (
        f"A line for each arm shows the {loss} against the operations that were spent. At the right end, at "
        f"about {three_digits(last[0])} GFLOP, {ranked[0]} lies lowest and {ranked[-1]} highest: {order} nats. At the left end, at "
        f"about {three_digits(first[0])} GFLOP, {min(ends, key=lambda name: ends[name][0][1])} lies lowest."
        if len(ends) > 1 and last[0] > first[0]
        else f"The {loss} against the operations that were spent: {order} nats."
    )


def without_seeds(curves: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]]) -> Curves:
    """The same curves without what all arms of a seed have in common, so that bands show what comparisons of arms rest on.

    At each budget the logarithm of the loss is moved by the difference between the mean over all arms and seeds and the mean over
    the arms of its seed, and its deviations from the arm's own mean are widened by sqrt(M / (M - 1)), M the number of arms. Only
    seeds that every arm has are kept; where there are none, or one arm, the curves are returned as they are.

    Returns:
        Arm -> seed -> (operations, loss) by budget; arms without a curve are left out.

    Source:
        D. Cousineau, Tutorials in Quantitative Methods for Psychology 1 (2005) 42; R. Morey, ibid. 4 (2008) 61.
    """
    drawn = {arm: {seed: sorted(curve) for seed, curve in by_seed.items()} for arm, by_seed in curves.items() if by_seed}
    common = set.intersection(*(set(by_seed) for by_seed in drawn.values())) if drawn else set()
    if len(drawn) < 2 or not common or len({len(curve) for by_seed in drawn.values() for curve in by_seed.values()}) > 1:
        return drawn
    seeds = sorted(common)
    logs = np.array([[[math.log(loss) for _, loss in by_seed[seed]] for seed in seeds] for by_seed in drawn.values()])  # (M, S, B)
    centred = logs - logs.mean(axis=0, keepdims=True) + logs.mean(axis=(0, 1), keepdims=True)
    means = centred.mean(axis=1, keepdims=True)
    losses = np.exp(means + math.sqrt(len(drawn) / (len(drawn) - 1)) * (centred - means))
    return {
        arm: {
            seed: [(operations, float(loss)) for (operations, _), loss in zip(by_seed[seed], losses[index, row], strict=True)]
            for row, seed in enumerate(seeds)
        }
        for index, (arm, by_seed) in enumerate(drawn.items())
    }


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


def _look(arm: str, depths: Sequence[str], staged: str, best: str) -> tuple[Any, float, str]:
    """Colour, width and dashes of an arm."""
    if arm == staged:
        return "#c0392b", 2.4, "-"
    if arm.startswith("depth-"):
        shade = colormaps["viridis"](0.75 - 0.7 * depths.index(arm) / max(1, len(depths) - 1))
        return shade, 2.4 if arm == best else 1.2, "-"
    return {"staged-unscaled": "#e08e79", "shift": "#8e44ad"}.get(arm, "#555555"), 1.4, "--"
