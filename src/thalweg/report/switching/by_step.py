"""The outcome of a sweep against the step of the switch: share of Looped's operations, and final loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thalweg.records.experiment import Outcome, SweepSummary
from thalweg.report.figures import Drawn, drawn, setup
from thalweg.report.panels import COLOURS, WIDTH, legend_below
from thalweg.report.switching.dot_plots import Dot, share_dot
from thalweg.report.switching.heat_maps import place_of

_GREY = "#8C8C8C"


def switched(summary: SweepSummary, group: str) -> list[Outcome]:
    """The outcomes of a group in which a seed has switched, sorted by the mean step of the switch."""
    outcomes = [o for o in summary.outcomes if o.group == group and o.switch_step.mean is not None]
    return sorted(outcomes, key=lambda o: o.switch_step.mean or 0.0)


@dataclass(frozen=True)
class Point:
    """One setting in a scatter plot."""

    x: float
    """Mean number of updates before the switch."""
    y: float
    """Share of operations, or final loss minus Looped's."""
    hollow: bool = False
    """Whether some seed did not reach Looped's loss."""
    least: bool = False
    """Whether the median seed did not reach Looped's loss, so that ``y`` is a lower bound."""


def _point_of(summary: SweepSummary, outcome: Outcome, cost: bool) -> Point | None:
    """Where a setting stands: its share of operations if ``cost``, else its loss; None where a number is missing."""
    x, y = outcome.switch_step.mean, outcome.difference.mean
    dot = share_dot(summary, outcome) if cost else Dot(y, None, None)
    height = dot.beyond if dot.value is None else dot.value
    return None if x is None or height is None else Point(x, height, dot.censored, dot.value is None)


def _draw_points(axes: Axes, points: Sequence[Point | None], marker: str, colour: str) -> None:
    """Draw points of one kind, as triangles where the number is a lower bound."""
    for point in points:
        if point is not None:
            face, mark = "none" if point.hollow else colour, "^" if point.least else marker
            axes.plot([point.x], [point.y], mark, color=colour, markerfacecolor=face, markersize=5, alpha=0.8)


def figure_by_step(summary: SweepSummary) -> Figure:
    """Scatter plots of the share of operations and of the final loss against the step of the switch, means over seeds."""
    grid, steps = switched(summary, "scp"), switched(summary, "share")
    patiences = summary.axes.get("patience", ()) if grid else ()
    shades = [to_hex(matplotlib.colormaps["viridis"](x)) for x in np.linspace(0.1, 0.8, max(1, len(patiences)))]
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(1, 2)
    for axes, cost in zip(panels, (True, False), strict=True):
        for patience, shade in zip(patiences, shades, strict=False):
            settings = [o for o in grid if o.settings.get("patience") == patience]
            _draw_points(axes, [_point_of(summary, o, cost) for o in settings], "o", shade)
        _draw_points(axes, [_point_of(summary, o, cost) for o in steps], "s", "black")
        _ring(axes, [_point_of(summary, o, cost) for o in grid if _is_default(summary, o)])
        axes.axhline(1.0 if cost else 0.0, color=COLOURS["looped"], linewidth=1.0, dashes=(5, 3))
        axes.set_xlabel("updates before the switch")
        axes.set_ylabel(
            "share of Looped's operations to its final loss" if cost else f"final held-out loss minus Looped's ({summary.unit})"
        )
    ideal = [(o.switch_step.mean, o.ideal_flops.mean) for o in grid + steps if o.ideal_flops.mean is not None]
    if ideal:
        panels[0].plot(*zip(*sorted(ideal), strict=True), color=_GREY, linewidth=1.0, zorder=1)  # type: ignore[type-var]
    legend_below(figure, legend(patiences, shades, bool(steps), bool(ideal)), 3)
    return figure


def legend(patiences: Sequence[float], shades: Sequence[str], steps: bool, ideal: bool) -> list[Line2D]:
    """The entries of the legend.

    Args:
        patiences: of SCP, each with its colour in ``shades``.
        shades: colours.
        steps: whether there are settings that switch at a given update.
        ideal: whether the line of ideal costs is drawn.
    """
    kinds = [("o", shade, shade, f"SCP, patience {p:g}") for p, shade in zip(patiences, shades, strict=False)]
    kinds += [("s", "black", "black", "switch at a given update")] if steps else []
    kinds += [("^", "#555555", "none", "Looped's loss not reached: whole run")]
    lines = [Line2D([], [], ls="", ms=5, marker=mark, color=c, markerfacecolor=face, label=label) for mark, c, face, label in kinds]
    lines += [Line2D([], [], color=_GREY, lw=1.0, label="ideal: every update as good as Looped's")] if ideal else []
    return [*lines, Line2D([], [], color=COLOURS["looped"], dashes=(5, 3), lw=1.0, label="Looped")]


def _is_default(summary: SweepSummary, outcome: Outcome) -> bool:
    """Whether an outcome has the default thresholds."""
    place = place_of(summary, summary.defaults)
    return place is not None and place_of(summary, outcome.settings) == place


def _ring(axes: Axes, points: Sequence[Point | None]) -> None:
    """Draw a ring around the setting with the default thresholds."""
    for point in points:
        if point is not None:
            axes.plot([point.x], [point.y], "o", color="black", markerfacecolor="none", markersize=11, markeredgewidth=1.2)


def by_step_drawn(summary: SweepSummary) -> list[Drawn]:
    """The figure of the outcome against the step of the switch; empty where no setting of its two groups has switched."""
    shown = switched(summary, "scp") + switched(summary, "share")
    if not shown:
        return []
    absent = sum(o.group in ("scp", "share") for o in summary.outcomes) - len(shown)
    caption = (
        "Share of Looped's operations (left) and final held-out loss minus Looped's (right) against the mean number of updates "
        "before the switch. Points: settings, mean over seeds (of the share: geometric). Hollow: not every seed reached Looped's "
        "loss, and the point is the median; triangle: the median run did not reach it, and the point is the cost of its whole run. "
        "Ring: the default thresholds. " + (f"{absent} settings without a switch are left out. " if absent else "") + setup(summary)
    )
    steps = sorted(o.switch_step.mean or 0.0 for o in shown)
    best = min(((o.share_flops.value, o.switch_step.mean) for o in shown if o.share_flops and o.share_flops.value), default=None)
    alt = (
        "Two scatter plots: the update of the switch goes to the right, what came of it goes up, a point for each of "
        f"{len(shown)} settings that switch after {steps[0]:.0f} to {steps[-1]:.0f} updates."
    )
    if best is not None:
        alt += f" Smallest share of operations {best[0]:.2f}, switch after {best[1]:.0f} updates."
    return [drawn(figure_by_step(summary), "outcome-by-step", "When is the time to switch?", caption, alt)]
