"""What SHIFT saves on each task, and what it loses at the switch: dots with intervals."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thalweg.records.experiment import CONTROLS, GOAL, SWITCHING, Share, TaskOutcome, TaskStudySummary
from thalweg.report.figures import COLOURS, Drawn, drawn, setup
from thalweg.report.switching.dot_plots import COLUMNS, Dot, cell_dot, digits, draw_dot, scale_of
from thalweg.report.switching.heat_maps import WIDTH
from thalweg.report.tasks.panels import legend_below, title_of

COMPARED = (*SWITCHING, *CONTROLS)
"""Arms whose cost is shown; the last two are controls that have no stages."""


def saved_rows(summary: TaskStudySummary) -> dict[int, TaskOutcome]:
    """Row -> outcome with a share of time or a drop; rows of a task lie together, with one free row between tasks."""
    rows: dict[int, TaskOutcome] = {}
    row = 0
    for task in summary.tasks:
        named = {one.arm: one for one in summary.outcomes if one.task == task}
        mine = [named[arm] for arm in COMPARED if arm in named]
        mine = [one for one in mine if one.share_seconds is not None or one.drop.mean is not None]
        rows |= {row + place: one for place, one in enumerate(mine)}
        row += len(mine) + bool(mine)
    return rows


def _saved_dot(share: Share | None) -> Dot:
    """A share; without an upper end where runs never got there."""
    if share is None:
        return Dot(None, None, None)
    return Dot(share.value, share.low, None if share.censored else share.high, None, share.censored > 0)


def saved_drawn(summary: TaskStudySummary) -> Drawn | None:
    """Shares of Looped's cost and drop at the switch; None where there are neither."""
    rows = saved_rows(summary)
    if not rows:
        return None
    caption = (
        "Left and middle: training time, and counted operations, to Looped's final exact match on trained lengths less one point, "
        "as shares of Looped's own, on logarithmic axes; operations are not disturbed by other work on the machine. Right: largest "
        "fall of the held-out exact match below its best so far, from a switch until 400 updates after its onset; of several "
        "switches the largest. Dots: mean over seeds (of shares: geometric); lines: 95 % intervals. Arrows at the edge: runs that "
        "never got there; the dot is then the median, the line begins at the smallest share, and there is no dot where the median "
        f'run never did. "-": no number. {setup(summary)}'
    )
    told = "; ".join(f"{one.task}, {one.arm}: {_saved_in_words(one)}" for one in rows.values())
    alt = f"Three columns of dots: shares of Looped's time and operations, and drop in percentage points. {told}."
    return drawn(figure_saved(rows), "cost-saved", "How much does SHIFT save, and what does a switch cost?", caption, alt)


def figure_saved(rows: dict[int, TaskOutcome]) -> Figure:
    """One row a task and arm: shares of cost on the left, drop on the right."""
    figure = Figure(figsize=(WIDTH, 0.2 * max(rows) + 1.6), layout="constrained")
    time, operations, drop = figure.subplots(1, 3, sharey=True)
    for axes, words, name in ((time, "time", "share_seconds"), (operations, "operations", "share_flops")):
        axes.axvline(1, color=COLOURS["looped"], linewidth=1.0, dashes=(5, 3), label="Looped")
        axes.axvline(GOAL, color="#555555", linewidth=1.0, dashes=(1, 1.5), label=f"goal, {GOAL:g}")
        _draw_shares(axes, rows, name)
        axes.set_xlabel(f"share of Looped's {words}")
    for row, one in rows.items():
        draw_dot(drop, row, cell_dot(one.drop), COLOURS[one.arm])
    scale_of(drop, COLUMNS[-1])
    if all(one.drop.mean is None for one in rows.values()):
        drop.set_xticks([])
    drop.set_xlabel("largest drop at a switch (points)")
    for axes in (time, operations, drop):
        axes.tick_params(axis="y", length=0)
    heads = {task: [row for row, one in rows.items() if one.task == task] for task in dict.fromkeys(o.task for o in rows.values())}
    middles = [(mine[0] + mine[-1]) / 2 for mine in heads.values()]
    time.set_yticks(middles, [title_of(task) for task in heads], fontsize=8.5, parse_math=False)
    time.set_ylim(max(rows) + 0.8, -0.8)
    arms = [arm for arm in COMPARED if any(one.arm == arm for one in rows.values())]
    legend_below(figure, *(Line2D([], [], color=COLOURS[arm], marker="o", ms=4.5, label=arm) for arm in arms))
    return figure


def _draw_shares(axes: Axes, rows: dict[int, TaskOutcome], name: str) -> None:
    """Shares of one kind on a logarithmic axis; arrows of runs that never got there end at its right edge."""
    dots = {row: _saved_dot(getattr(one, name)) for row, one in rows.items()}
    known = [x for dot in dots.values() for x in dot.known] + [GOAL, 1.0]
    low, high = min(known) / 1.15, max(known) * 1.25
    axes.set_xlim(low, high)
    scale_of(axes, COLUMNS[0])
    for row, dot in dots.items():
        beyond = high / 1.04 if dot.censored and dot.known else None
        draw_dot(axes, row, replace(dot, beyond=beyond), COLOURS[rows[row].arm])


def _saved_in_words(one: TaskOutcome) -> str:
    """Shares and drop of a row."""
    shares = f"share of time {_share_told(one.share_seconds)}, of operations {_share_told(one.share_flops)}"
    return f"{shares}, drop {digits(one.drop.mean, '.1f')}"


def _share_told(share: Share | None) -> str:
    """Its value and how many runs never got there."""
    never = f" ({share.censored} of {share.n} never)" if share and share.censored else ""
    return digits(None if share is None else share.value, ".2f") + never
