"""The figure of a convergence report: relative error of every quantity over batches and over probes."""

from __future__ import annotations

import math
import statistics

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.records.convergence import Convergence, QuantityConvergence
from thalweg.report.panels import STYLE, labelled, legend_below

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999", "#882255", "#44AA99", "#7A5C00")
_MARKERS = "osD^vPX*<>h"
_FURTHEST = 4
"""How far a line goes beyond what was measured, as a factor; there it is dashed."""


@matplotlib.rc_context(STYLE)
def figure_convergence(report: Convergence) -> Figure:
    """Half-widths of the 95 % intervals in percent of the value, over batches (left) and over probes (right), on logarithmic axes.

    Lines are the fitted laws, dashed where they are extrapolated. Marks on the left are the spread of the measured sets of batches
    around the value of all of them; marks on the right are the distance of the first probes' value from that of all. A horizontal
    line is the tolerance. Of the eigenvalues only the largest and the smallest are drawn.
    """
    drawn = [q for q in report.quantities if q.value and not q.name.startswith("eigenvalue ")]
    figure = Figure(figsize=(8.4, 3.9), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, one in enumerate(drawn):
        line = {"color": _COLOURS[place % len(_COLOURS)], "label": one.name, "linewidth": 1.3}
        marks = {"color": line["color"], "marker": _MARKERS[place % len(_MARKERS)], "linestyle": "", "markersize": 4}
        percent = 100 / abs(one.value)
        _law(left, [(k, percent * one.batch_error(k)) for k in _grid(_FURTHEST * one.batches)], one.batches, line)
        _points(left, [(k, percent * error) for k, error in measured_errors(one)], marks)
        if one.probes:
            _law(right, [(n, percent * one.probe_error(n)) for n in _grid(_FURTHEST * one.probes, 2)], one.probes, line)
            _points(right, [(n, percent * error) for n, error in running_errors(one)], marks)
    for axes, what in ((left, "batches"), (right, f"probes, with {report.batches:,} batches")):
        axes.axhline(
            100 * report.tolerance, color="black", linewidth=1, linestyle=":", label=f"tolerance, {100 * report.tolerance:.1f} %"
        )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(what)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
    left.set_ylabel("95 % error (% of the value)")
    legend_below(figure, labelled([left, right]), 4)
    return figure


def measured_errors(one: QuantityConvergence) -> list[tuple[int, float]]:
    """For every level with several sets: batches in a set, and twice the root mean square distance of the sets from the value."""
    levels = [level for level in one.levels if len(level.values) > 1]
    return [
        (level.batches, 2 * math.sqrt(statistics.fmean((value - one.value) ** 2 for value in level.values))) for level in levels
    ]


def running_errors(one: QuantityConvergence) -> list[tuple[int, float]]:
    """Distance of the value with the first 2, 4, ... probes from that with all of them."""
    counts = [min(2 ** (place + 1), one.probes) for place in range(len(one.running))]
    return [(count, abs(value - one.running[-1])) for count, value in zip(counts, one.running, strict=True)][:-1]


def _grid(most: int, least: int = 1) -> list[int]:
    """Whole numbers from ``least`` to ``most``, about equally far apart in logarithms."""
    return sorted({round(least * (most / least) ** (place / 40)) for place in range(41)})


def _law(axes: Axes, points: list[tuple[int, float]], measured: int, line: dict[str, object]) -> None:
    """A fitted law: solid up to what was measured, dashed beyond it; nothing where it is zero."""
    inside = [(x, y) for x, y in points if x <= measured and y > 0]
    beyond = [(x, y) for x, y in points if x > measured and y > 0]
    if inside:
        axes.plot(*zip(*inside, strict=True), **line)  # type: ignore[arg-type]
        dashed = {**line, "linestyle": "--", "label": None}
        axes.plot(*zip(*inside[-1:], *beyond, strict=True), **dashed)  # type: ignore[arg-type]


def _points(axes: Axes, points: list[tuple[int, float]], marks: dict[str, object]) -> None:
    """Measured points; zeros have no place on a logarithmic axis."""
    shown = [(x, y) for x, y in points if y > 0]
    if shown:
        axes.plot(*zip(*shown, strict=True), **marks)  # type: ignore[arg-type]
