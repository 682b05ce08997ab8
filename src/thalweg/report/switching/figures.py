"""Figures of a sweep over switches, from its records alone: curves over training, and the switch enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.records.experiment import SweepSummary
from thalweg.records.run import RunRecord, Scores
from thalweg.report.curves import late_accuracies
from thalweg.report.figures import SPENT, Drawn, Grouped, draw_band, drawn, score, setup, zoom
from thalweg.report.panels import COLOURS, STYLE, WIDTH, arm_line, labelled, legend_below
from thalweg.report.switching.by_step import by_step_drawn
from thalweg.report.switching.dot_plots import dots_drawn
from thalweg.report.switching.heat_maps import maps_drawn, outcome_named

ARMS = ("single", "looped", "shift", "shift-scp", "shift-hard", "shift-short")
"""Arms that are drawn as curves."""
REACH = 400
"""Updates that are drawn on either side of a switch."""

_Curve = tuple[np.ndarray, np.ndarray]
"""Updates, and accuracy in per cent, of equal shapes."""


@matplotlib.rc_context(STYLE)
def draw_sweep(summary: SweepSummary, runs: dict[str, RunRecord]) -> list[Drawn]:
    """Every figure that the sweep has records for, in the order of the page.

    Args:
        summary: of the sweep, complete or not.
        runs: by name, "<arm>-seed<n>".
    """
    grouped = curves_of(summary, runs)
    figures = curves_drawn(summary, grouped) + switch_drawn(summary, grouped) + maps_drawn(summary)
    return figures + by_step_drawn(summary) + dots_drawn(summary)


def curves_of(summary: SweepSummary, runs: dict[str, RunRecord]) -> Grouped:
    """The complete runs of each arm in `ARMS`; arms without any are left out."""
    grouped: Grouped = {}
    for name in ARMS:
        arm = summary.curves.get(name, name)  # the arm of the sweep whose runs stand for this name
        complete = [run for key, run in runs.items() if key.rsplit("-seed", 1)[0] == arm and run.summary and run.evaluations]
        if complete:
            grouped[name] = complete
    return grouped


def curves_drawn(summary: SweepSummary, grouped: Grouped) -> list[Drawn]:
    """The figure of held-out loss and accuracy against training time and against counted operations; empty without runs."""
    if not grouped:
        return []
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex="col", sharey="row")
    looped = outcome_named(summary, "looped")
    goal = looped.final_loss.mean if looped else None
    for column, (label, cost) in enumerate(SPENT.items()):
        for row, (what, factor) in enumerate((("loss", 1.0), ("accuracy", 100.0))):
            axes = grid[row][column]
            for name, runs in grouped.items():
                draw_band(axes, name, runs, cost, score("held-out", "all", what, factor))
            axes.set_xlim(left=0)
        if goal is not None:
            grid[0][column].axhline(goal, color="black", linewidth=0.9, dashes=(6, 3), label="Looped's final loss", zorder=1)
        grid[1][column].set_xlabel(label)
    every = [run for runs in grouped.values() for run in runs]
    grid[0][0].set_ylim(*zoom(every, 1.0))
    grid[1][0].set_ylim(*(100 * end for end in late_accuracies(every)))
    grid[0][0].set_ylabel(f"held-out loss ({summary.per_token})")
    grid[1][0].set_ylabel("held-out accuracy (%)")
    legend_below(figure, labelled([grid[0][0]]), 4)
    caption = (
        "Held-out loss and accuracy against training time and against counted operations, which other work on the machine does not "
        "disturb. Lines: mean over seeds on the stretch that all seeds cover; bands: 95 % t-interval. The vertical axes leave out "
        f"the first steep part. {setup(summary)}"
    )
    ends = "; ".join(
        f"{name} {last(runs, 'loss'):.3f} {summary.unit} after {seconds(runs):.0f} s" for name, runs in grouped.items()
    )
    alt = f"Held-out loss and accuracy over training, a line for each arm. Last loss: {ends}." + (
        "" if goal is None else f" Looped's final loss: {goal:.3f}."
    )
    return [drawn(figure, "loss-over-time", "How fast is each way?", caption, alt)]


def last(runs: list[RunRecord], what: str) -> float:
    """Mean over runs of "loss" or "accuracy" at the last held-out evaluation."""
    return sum(getattr(run.evaluations[-1].scores["held-out"]["all"], what) for run in runs) / len(runs)


def seconds(runs: list[RunRecord]) -> float:
    """Mean training time of whole runs, seconds."""
    return sum(run.evaluations[-1].seconds for run in runs) / len(runs)


def percent(scores: Scores) -> float:
    """Held-out accuracy in per cent."""
    return 100 * scores["held-out"]["all"].accuracy


def around(run: RunRecord, reach: float = REACH) -> tuple[_Curve, _Curve]:
    """Held-out accuracy of a run before and after its first switch, in per cent over updates since the switch.

    At 0 both curves have the switch's own scores, of the same weights just before and just after it.

    Args:
        run: with at least one switch.
        reach: updates at which both curves are cut.
    """
    switch = run.switches[0]
    ages = np.array([e.step - switch.step for e in run.evaluations], dtype=float)
    values = np.array([percent(e.scores) for e in run.evaluations])
    before, after = ages < 0, ages > 0
    first = np.append(ages[before], 0.0), np.append(values[before], percent(switch.scores_before))
    second = np.append(0.0, ages[after]), np.append(percent(switch.scores_after), values[after])
    return cut(first, -reach, 0), cut(second, 0, reach)


def cut(curve: _Curve, low: float, high: float) -> _Curve:
    """The stretch of a curve between two ends, which are interpolated linearly."""
    x, y = curve
    ends = np.clip([low, high], x[0], x[-1])
    grid = np.union1d(x[(x >= low) & (x <= high)], ends)
    return grid, np.interp(grid, x, y)


def mean_of(curves: Sequence[_Curve]) -> _Curve:
    """The mean of curves on the stretch that all of them cover, at every x where one of them has a point."""
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x[(x >= low) & (x <= high)] for x, _ in curves]))
    return grid, np.mean([np.interp(grid, x, y) for x, y in curves], axis=0)


def draw_switches(axes: Axes, name: str, runs: list[RunRecord], label: str = "", reach: float = REACH) -> None:
    """Draw the accuracy around the first switch: every seed as a thin line, the mean as a thick one, vertical at 0.

    Args:
        axes: where it is drawn.
        name: of the arm; gives colour and dashes.
        runs: with at least one switch each.
        label: of the mean; by default the name and the number of seeds.
        reach: updates that are drawn on either side.
    """
    label = label or f"{name}, mean of {len(runs)} seed{'s' * (len(runs) > 1)}"
    sides = [around(run, reach) for run in runs]
    for before, after in sides:
        axes.plot(*_joined(before, after), color=COLOURS[name], linewidth=0.6, alpha=0.45)
    mean = _joined(mean_of([before for before, _ in sides]), mean_of([after for _, after in sides]))
    line: dict[str, Any] = {**arm_line(name), "linewidth": 2.2, "label": label}
    axes.plot(*mean, **line)


def _joined(before: _Curve, after: _Curve) -> _Curve:
    """One curve after the other."""
    return np.append(before[0], after[0]), np.append(before[1], after[1])


def switch_drawn(summary: SweepSummary, grouped: Grouped) -> list[Drawn]:
    """The figure of the accuracy around the switch, of the arms that switch late, and of the default's whole onset.

    It is empty where none of these arms has switched.
    """
    late = _with_switches(grouped, ("shift-scp", "shift-hard"))
    early = _with_switches(grouped, ("shift",))
    if not late and not early:
        return []
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panels = figure.subplots(1, bool(late) + bool(early), squeeze=False)[0]
    numbers = [f"{name} from {at_switch(runs, True):.1f} % to {at_switch(runs, False):.1f} %" for name, runs in late.items()]
    parts = []
    if late:
        _draw_late(panels[0], late)
        parts.append(
            f"Held-out accuracy within {REACH} updates of each run's own first switch; thin: one line for each seed; thick: mean "
            "over seeds; at 0 the same weights are scored before and after the switch"
        )
    if early:
        _draw_early(panels[-1], {name: grouped[name] for name in ("looped", "single") if name in grouped} | early)
        parts.append(
            "Held-out accuracy during the default's onset, shaded, together with the arms that do not switch; means and 95 % "
            "t-intervals over seeds"
        )
        numbers.append("default: " + ", ".join(f"ends at {100 * last(runs, 'accuracy'):.1f} %" for runs in early.values()))
    panels[0].set_ylabel("held-out accuracy (%)")
    caption = f"{'. '.join(parts)}. {setup(summary)}"
    alt = (
        "Held-out accuracy just before and after the switch, a line for each arm, with a gap where the passes change. "
        f"{'; '.join(numbers)}."
    )
    return [drawn(figure, "switch-enlarged", "What does a switch do to the accuracy?", caption, alt)]


def _with_switches(grouped: Grouped, names: Sequence[str]) -> Grouped:
    """The runs of some arms that have switched; arms without any are left out."""
    switched = {name: [run for run in grouped.get(name, []) if run.switches] for name in names}
    return {name: runs for name, runs in switched.items() if runs}


def _draw_late(axes: Axes, late: Grouped) -> None:
    """Draw the accuracy around each run's own switch."""
    for name, runs in late.items():
        draw_switches(axes, name, runs)
    axes.axvline(0, color="black", linewidth=0.6, alpha=0.5, zorder=1)
    longest = max(run.switches[0].step for runs in late.values() for run in runs)
    axes.set_xlim(-min(REACH, longest), REACH)
    axes.set_xlabel("updates since the run's own switch")
    axes.legend(fontsize=8, loc="lower right")


def _draw_early(axes: Axes, grouped: Grouped) -> None:
    """Draw the accuracy over the updates of the onset of shift and as many again, the onset shaded."""
    switch = grouped["shift"][0].switches[0]
    for name, runs in grouped.items():
        draw_band(axes, name, runs, lambda e: e.step, score("held-out", "all", "accuracy", 100.0))
    end = switch.step + switch.onset
    axes.axvspan(switch.step, end, color="black", alpha=0.06, linewidth=0)
    axes.set_xlim(0, max(2 * end, REACH))
    axes.set_ylim(*(100 * limit for limit in late_accuracies([run for runs in grouped.values() for run in runs])))
    axes.set_xlabel("updates")
    axes.legend(fontsize=8, loc="lower right")


def at_switch(runs: list[RunRecord], before: bool) -> float:
    """Mean accuracy of the same weights just before or just after the first switch, in per cent."""
    scores = [run.switches[0].scores_before if before else run.switches[0].scores_after for run in runs]
    return sum(map(percent, scores)) / len(scores)
