"""Figures of a sweep over switches, from its records alone: curves, the switch enlarged, and the outcome by switch step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thalweg.records import RunRecord, Scores
from thalweg.report.figures import COLOURS, DASHES, STYLE, Drawn, Grouped, draw_band, drawn, score, setup, zoom
from thalweg.report.sweep_dots import Dot, dots_drawn, share_dot
from thalweg.report.sweep_maps import WIDTH, maps_drawn, outcome_named, place_of
from thalweg.sweeps import Outcome, SweepSummary

ARMS = ("single", "looped", "shift", "shift-scp", "shift-hard", "shift-short")
"""Drawn as curves."""
REACH = 400
"""Updates on both sides of a switch."""
GREY = "#8C8C8C"

Curve = tuple[np.ndarray, np.ndarray]


@matplotlib.rc_context(STYLE)
def draw_sweep(summary: SweepSummary, runs: dict[str, RunRecord]) -> list[Drawn]:
    """Every figure that the sweep has records for, in the order of the page."""
    grouped = curves_of(summary, runs)
    figures = curves_drawn(summary, grouped) + switch_drawn(summary, grouped) + maps_drawn(summary)
    return figures + by_step_drawn(summary) + dots_drawn(summary)


def curves_of(summary: SweepSummary, runs: dict[str, RunRecord]) -> Grouped:
    """The complete runs of the outcomes that are drawn as curves; those without any are left out."""
    grouped: Grouped = {}
    for name in ARMS:
        arm = summary.curves.get(name, name)
        mine = [run for key, run in runs.items() if key.rsplit("-seed", 1)[0] == arm and run.summary and run.evaluations]
        if mine:
            grouped[name] = mine
    return grouped


def curves_drawn(summary: SweepSummary, grouped: Grouped) -> list[Drawn]:
    """Held-out loss against training time."""
    if not grouped:
        return []
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, runs in grouped.items():
        draw_band(axes, name, runs, lambda e: e.seconds, score("held-out", "all", "loss"))
    for run in grouped.get("shift-scp", []):
        for switch in run.switches:
            axes.axvline(switch.seconds, color=COLOURS["shift-scp"], alpha=0.5, linewidth=0.8, dashes=(1, 2))
    looped = outcome_named(summary, "looped")
    goal = looped.final_loss.mean if looped else None
    if goal is not None:
        axes.axhline(goal, color="black", linewidth=0.9, dashes=(6, 3), label="Looped's final loss", zorder=1)
    axes.set_ylim(*zoom([run for runs in grouped.values() for run in runs], 1.0))
    axes.set_xlim(left=0)
    axes.set_xlabel("training time (s), evaluation left out")
    axes.set_ylabel(f"held-out loss ({summary.per_token})")
    axes.legend(fontsize=8)
    caption = (
        "Held-out loss against training time. Lines: mean over seeds on the stretch that all seeds cover; bands: 95 % t-interval; "
        f"dotted verticals: switches of shift-scp, one a seed. The upper part of the first fall is cut off. {setup(summary)}"
    )
    ends = "; ".join(
        f"{name} {last(runs, 'loss'):.3f} {summary.unit} after {seconds(runs):.0f} s" for name, runs in grouped.items()
    )
    alt = f"Curves of held-out loss over seconds. Last: {ends}." + ("" if goal is None else f" Looped's final loss: {goal:.3f}.")
    return [drawn(figure, "loss-over-time", "How fast is each way?", caption, alt)]


def last(runs: list[RunRecord], what: str) -> float:
    """Mean of the last held-out evaluation."""
    return sum(getattr(run.evaluations[-1].scores["held-out"]["all"], what) for run in runs) / len(runs)


def seconds(runs: list[RunRecord]) -> float:
    """Mean training time."""
    return sum(run.evaluations[-1].seconds for run in runs) / len(runs)


def percent(scores: Scores) -> float:
    """Held-out accuracy in per cent."""
    return 100 * scores["held-out"]["all"].accuracy


def around(run: RunRecord, reach: float = REACH) -> tuple[Curve, Curve]:
    """Held-out accuracy in per cent before and after the first switch, over updates since it; cut at ``reach``.

    At 0 stand the switch's own scores, one before and one after it.
    """
    switch = run.switches[0]
    ages = np.array([e.step - switch.step for e in run.evaluations], dtype=float)
    values = np.array([percent(e.scores) for e in run.evaluations])
    before, after = ages < 0, ages > 0
    first = np.append(ages[before], 0.0), np.append(values[before], percent(switch.scores_before))
    second = np.append(0.0, ages[after]), np.append(percent(switch.scores_after), values[after])
    return cut(first, -reach, 0), cut(second, 0, reach)


def cut(curve: Curve, low: float, high: float) -> Curve:
    """The stretch of a curve between two ends, with straight lines between its points."""
    x, y = curve
    ends = np.clip([low, high], x[0], x[-1])
    grid = np.union1d(x[(x >= low) & (x <= high)], ends)
    return grid, np.interp(grid, x, y)


def mean_of(curves: Sequence[Curve]) -> Curve:
    """The mean of curves on the stretch that all of them cover, at every place where one of them has a point."""
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x[(x >= low) & (x <= high)] for x, _ in curves]))
    return grid, np.mean([np.interp(grid, x, y) for x, y in curves], axis=0)


def draw_switches(axes: Axes, name: str, runs: list[RunRecord], label: str = "", reach: float = REACH) -> None:
    """Every seed thin, the mean thick; vertical at 0 between the scores before and after the switch."""
    label = label or f"{name}, mean of {len(runs)} seed{'s' * (len(runs) > 1)}"
    sides = [around(run, reach) for run in runs]
    for before, after in sides:
        x, y = (np.append(a, b) for a, b in zip(before, after, strict=True))
        axes.plot(x, y, color=COLOURS[name], linewidth=0.6, alpha=0.45)
    x, y = (np.append(a, b) for a, b in zip(mean_of([a for a, _ in sides]), mean_of([b for _, b in sides]), strict=True))
    dashes = DASHES.get(name, (None, None))
    axes.plot(x, y, color=COLOURS[name], linewidth=2.2, label=label, dashes=dashes)  # type: ignore[arg-type]


def switch_drawn(summary: SweepSummary, grouped: Grouped) -> list[Drawn]:
    """The switch enlarged; nothing where no run of the two arms has switched."""
    found = {name: [run for run in grouped.get(name, []) if run.switches] for name in ("shift-scp", "shift-hard")}
    found = {name: runs for name, runs in found.items() if runs}
    if not found:
        return []
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, runs in found.items():
        draw_switches(axes, name, runs)
    axes.axvline(0, color="black", linewidth=0.6, alpha=0.5, zorder=1)
    axes.set_xlim(-REACH, REACH)
    axes.set_xlabel("updates since the run's own switch")
    axes.set_ylabel("held-out accuracy (%)")
    axes.legend(fontsize=8, loc="lower left")
    caption = (
        f"Held-out accuracy within {REACH} updates of each run's own first switch. Thin: one line a seed; thick: mean over seeds. "
        f"At 0 the same weights are scored before and after the switch. {setup(summary)}"
    )
    told = "; ".join(f"{name} from {at_switch(runs, True):.1f} % to {at_switch(runs, False):.1f} %" for name, runs in found.items())
    alt = f"Curves of held-out accuracy around the switch. At the switch itself: {told}."
    return [drawn(figure, "switch-enlarged", "What does a switch do to the accuracy?", caption, alt)]


def at_switch(runs: list[RunRecord], before: bool) -> float:
    """Mean accuracy of the same weights on one side of the first switch, in per cent."""
    ends = [run.switches[0].scores_before if before else run.switches[0].scores_after for run in runs]
    return sum(map(percent, ends)) / len(ends)


def switched(summary: SweepSummary, group: str) -> list[Outcome]:
    """Outcomes of a group that switched, by the step of their switch."""
    found = [o for o in summary.outcomes if o.group == group and o.switch_step.mean is not None]
    return sorted(found, key=lambda o: o.switch_step.mean or 0.0)


@dataclass(frozen=True)
class Point:
    """One setting in a scatter plot; ``hollow``: not every seed reached Looped's loss; ``least``: the median seed did not."""

    x: float
    y: float
    hollow: bool = False
    least: bool = False


def point_of(summary: SweepSummary, outcome: Outcome, time: bool) -> Point | None:
    """Share of time (or final loss minus Looped's) of a setting at its switch step; None where a number is missing."""
    x, y = outcome.switch_step.mean, outcome.difference.mean
    dot = share_dot(summary, outcome) if time else Dot(y, None, None)
    height = dot.beyond if dot.value is None else dot.value
    return None if x is None or height is None else Point(x, height, dot.censored, dot.value is None)


def draw_points(axes: Axes, points: Sequence[Point | None], marker: str, colour: str) -> None:
    """Points of one kind; triangles where the number is a lower bound."""
    for point in points:
        if point is not None:
            face, mark = "none" if point.hollow else colour, "^" if point.least else marker
            axes.plot([point.x], [point.y], mark, color=colour, markerfacecolor=face, markersize=5, alpha=0.8)


def figure_by_step(summary: SweepSummary) -> Figure:
    """Share of time and final loss against the switch step, means over seeds."""
    grid, steps = switched(summary, "scp"), switched(summary, "share")
    patiences = summary.axes.get("patience", ()) if grid else ()
    shades = [to_hex(matplotlib.colormaps["viridis"](x)) for x in np.linspace(0.1, 0.8, max(1, len(patiences)))]
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(1, 2)
    for axes, time in zip(panels, (True, False), strict=True):
        for value, shade in zip(patiences, shades, strict=False):
            mine = [o for o in grid if o.settings.get("patience") == value]
            draw_points(axes, [point_of(summary, o, time) for o in mine], "o", shade)
        draw_points(axes, [point_of(summary, o, time) for o in steps], "s", "black")
        ring(axes, [point_of(summary, o, time) for o in grid if is_default(summary, o)])
        axes.axhline(1.0 if time else 0.0, color=COLOURS["looped"], linewidth=1.0, dashes=(5, 3))
        axes.set_xlabel("updates before the switch")
        axes.set_ylabel(
            "share of Looped's time to its final loss" if time else f"final held-out loss minus Looped's ({summary.unit})"
        )
    ideal = [(o.switch_step.mean, o.ideal_seconds.mean) for o in grid + steps if o.ideal_seconds.mean is not None]
    if ideal:
        panels[0].plot(*zip(*sorted(ideal), strict=True), color=GREY, linewidth=1.0, zorder=1)  # type: ignore[type-var]
    figure.legend(handles=legend(patiences, shades, bool(steps), bool(ideal)), fontsize=8, loc="outside lower center", ncols=3)
    return figure


def legend(patiences: Sequence[float], shades: Sequence[str], steps: bool, ideal: bool) -> list[Line2D]:
    """What points and lines of the scatter plots mean."""
    kinds = [("o", shade, shade, f"SCP, patience {p:g}") for p, shade in zip(patiences, shades, strict=False)]
    kinds += [("s", "black", "black", "switch at a given update")] if steps else []
    kinds += [("^", "#555555", "none", "Looped's loss not reached: whole time")]
    found = [Line2D([], [], ls="", ms=5, marker=mark, color=c, markerfacecolor=face, label=words) for mark, c, face, words in kinds]
    found += [Line2D([], [], color=GREY, lw=1.0, label="ideal: every update as good as Looped's")] if ideal else []
    return [*found, Line2D([], [], color=COLOURS["looped"], dashes=(5, 3), lw=1.0, label="Looped")]


def is_default(summary: SweepSummary, outcome: Outcome) -> bool:
    """Whether an outcome is the recipe's own point of the grid."""
    spot = place_of(summary, summary.defaults)
    return spot is not None and place_of(summary, outcome.settings) == spot


def ring(axes: Axes, points: Sequence[Point | None]) -> None:
    """A ring around the recipe's own point of the grid."""
    for point in points:
        if point is not None:
            axes.plot([point.x], [point.y], "o", color="black", markerfacecolor="none", markersize=11, markeredgewidth=1.2)


def by_step_drawn(summary: SweepSummary) -> list[Drawn]:
    """The outcome against the switch step; nothing where no setting of the two groups has switched."""
    shown = switched(summary, "scp") + switched(summary, "share")
    if not shown:
        return []
    absent = sum(o.group in ("scp", "share") for o in summary.outcomes) - len(shown)
    caption = (
        "Outcome against the mean number of updates before the switch, one point a setting, mean over seeds (of the share: "
        "geometric). Hollow: not every seed reached Looped's loss, and the point is the median; triangle: the median run did not, "
        "and the point is its whole training time. Ring: the recipe's own thresholds. "
        + (f"{absent} settings without a switch are left out. " if absent else "")
        + setup(summary)
    )
    steps = sorted(o.switch_step.mean or 0.0 for o in shown)
    best = min(
        ((o.share_seconds.value, o.switch_step.mean) for o in shown if o.share_seconds and o.share_seconds.value), default=None
    )
    alt = f"Two scatter plots of {len(shown)} settings that switch after {steps[0]:.0f} to {steps[-1]:.0f} updates."
    if best is not None:
        alt += f" Smallest share of time {best[0]:.2f}, switch after {best[1]:.0f} updates."
    return [drawn(figure_by_step(summary), "outcome-by-step", "When is the time to switch?", caption, alt)]
