"""Loss over operations: one line an arm, and the frontier, the lowest loss that any arm reaches for the operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, geometric_mean
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
        best: the best constant depth, drawn thicker; the bars of all others compare with it. Empty for none: no bars.
        loss: what the vertical axis shows.
    """
    figure = Figure(figsize=(FIRST_WIDTH, 4.9), layout="constrained")
    axes = figure.add_subplot()
    means: list[tuple[float, float]] = []
    budgets: list[float] = []
    drawn = at_common_seeds(curves)
    depths = sorted((arm for arm in drawn if arm.startswith("depth-")), key=lambda arm: int(arm.removeprefix("depth-")))
    for index, (arm, by_seed) in enumerate(drawn.items()):
        operations, mean = (np.array(column) for column in zip(*_means(by_seed), strict=True))
        colour, width, style = _look(arm, depths, staged, best)
        axes.plot(operations, mean, style, color=colour, linewidth=width, marker="o", markersize=4, label=names[arm])
        ends = bars(by_seed, drawn.get(best, {})) if arm != best else []
        if ends:
            aside = operations * _ASIDE ** (index - (len(drawn) - 1) / 2)
            low, high = (np.array(column) for column in zip(*ends, strict=True))
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
    for arm, by_seed in at_common_seeds(curves).items():
        points = _means(by_seed)
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


def at_common_seeds(curves: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]]) -> Curves:
    """Sorted curves of the arms that have any, at the seeds that all of them have; at every seed where there are none."""
    drawn = {arm: {seed: sorted(curve) for seed, curve in by_seed.items()} for arm, by_seed in curves.items() if by_seed}
    common = set.intersection(*(set(by_seed) for by_seed in drawn.values())) if drawn else set()
    if not common:
        return drawn
    return {arm: {seed: curve for seed, curve in by_seed.items() if seed in common} for arm, by_seed in drawn.items()}


def bars(
    by_seed: Mapping[int, Sequence[tuple[float, float]]], reference: Mapping[int, Sequence[tuple[float, float]]]
) -> list[tuple[float, float]]:
    """Ends of the bar of an arm at each budget: the 95 % interval of its loss over the reference's, seed by seed.

    A bar is drawn about the arm's own point, so it reaches the reference's point exactly where the interval of the ratio holds 1.

    Args:
        by_seed: seed -> (operations, loss) by budget.
        reference: the same of the arm to compare with.
    Returns:
        (low, high) by budget; empty unless both arms have the same two or more seeds.
    """
    if by_seed.keys() != reference.keys() or len(by_seed) < 2:
        return []
    ends = []
    for budget, (_, mean) in enumerate(_means(by_seed)):
        gap = interval([math.log(curve[budget][1] / reference[seed][budget][1]) for seed, curve in by_seed.items()])
        assert gap.high is not None  # of two seeds or more
        factor = math.exp(gap.high - gap.mean)
        ends.append((mean / factor, mean * factor))
    return ends


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


def _means(by_seed: Mapping[int, Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Mean operations in GFLOP and geometric mean of the loss, by budget."""
    columns = (tuple(zip(*points, strict=True)) for points in zip(*by_seed.values(), strict=True))
    return [(fmean(operations) / _GIGA, geometric_mean(losses)) for operations, losses in columns]


def _look(arm: str, depths: Sequence[str], staged: str, best: str) -> tuple[Any, float, str]:
    """Colour, width and dashes of an arm."""
    if arm == staged:
        return "#c0392b", 2.4, "-"
    if arm.startswith("depth-"):
        shade = colormaps["viridis"](0.75 - 0.7 * depths.index(arm) / max(1, len(depths) - 1))
        return shade, 2.4 if arm == best else 1.2, "-"
    return {"staged-unscaled": "#e08e79", "shift": "#8e44ad"}.get(arm, "#555555"), 1.4, "--"
