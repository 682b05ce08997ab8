"""What SHIFT saves on each task, and what accuracy it loses at the switch: dots with intervals."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thalweg.records.experiment import CONTROLS, GOAL, SWITCHING, Share, TaskOutcome, TaskStudySummary
from thalweg.report.figures import Drawn, drawn, setup
from thalweg.report.panels import COLOURS, WIDTH, shortened
from thalweg.report.switching.dot_plots import COLUMNS, Dot, cell_dot, digits, draw_dot, scale_of
from thalweg.report.tasks.panels import common_legend

COMPARED = (*SWITCHING, *CONTROLS)
"""Arms whose cost is shown; the last two are controls that have no stages."""


def saved_rows(summary: TaskStudySummary) -> dict[int, TaskOutcome]:
    """Row -> outcome that has a share of time or a drop; rows of a task lie together, with one free row between tasks."""
    rows: dict[int, TaskOutcome] = {}
    row = 0
    for task in summary.tasks:
        by_arm = {outcome.arm: outcome for outcome in summary.outcomes if outcome.task == task}
        present = [by_arm[arm] for arm in COMPARED if arm in by_arm]
        shown = [outcome for outcome in present if outcome.share_seconds is not None or outcome.drop.mean is not None]
        rows |= {row + place: outcome for place, outcome in enumerate(shown)}
        row += len(shown) + bool(shown)
    return rows


def _saved_dot(share: Share | None) -> Dot:
    """The dot of a share; without an upper end where runs did not reach the goal."""
    if share is None:
        return Dot(None, None, None)
    return Dot(share.value, share.low, None if share.censored else share.high, None, share.censored > 0)


def saved_drawn(summary: TaskStudySummary) -> Drawn | None:
    """The figure of the shares of Looped's cost and of the drop at the switch; None where there are neither."""
    rows = saved_rows(summary)
    if not rows:
        return None
    caption = (
        "Shares of Looped's training time (left) and of its counted operations (middle), and drop at the "
        "switch (right). A share is "
        "the cost of reaching Looped's final exact match on trained lengths less one point, over Looped's own cost, on a "
        "logarithmic axis; other work on the machine does not disturb operations. The drop is the largest fall of the held-out "
        "exact match below its best so far, from a switch until 400 updates after its onset; of several switches the largest. "
        "Dots: mean over seeds (of shares: geometric); lines: 95 % intervals. Arrows at the edge: some runs "
        "did not reach the goal; "
        "the dot is then the median, the line begins at the smallest share, and there is no dot where the median run did not reach "
        f'it. "-": no number. {setup(summary)}'
    )
    numbers = "; ".join(f"{outcome.task}, {outcome.arm}: {_saved_in_words(outcome)}" for outcome in rows.values())
    alt = (
        "A row for each task and arm with a dot in each of three columns, further left is better: share of Looped's time, "
        f"share of its operations, drop in percentage points. {numbers}."
    )
    return drawn(figure_saved(rows), "cost-saved", "How much does SHIFT save, and what does a switch cost?", caption, alt)


def figure_saved(rows: dict[int, TaskOutcome]) -> Figure:
    """Dots with one row for each task and arm: shares of time and operations, and the drop at the switch."""
    figure = Figure(figsize=(WIDTH, 0.2 * max(rows) + 1.6), layout="constrained")
    time, operations, drop = figure.subplots(1, 3, sharey=True)
    for axes, label, name in ((time, "time", "share_seconds"), (operations, "operations", "share_flops")):
        axes.axvline(1, color=COLOURS["looped"], linewidth=1.0, dashes=(5, 3), label="Looped")
        axes.axvline(GOAL, color="#555555", linewidth=1.0, dashes=(1, 1.5), label=f"goal, {GOAL:g}")
        _draw_shares(axes, rows, name)
        axes.set_xlabel(f"share of Looped's {label}")
    for row, outcome in rows.items():
        draw_dot(drop, row, cell_dot(outcome.drop), COLOURS[outcome.arm])
    scale_of(drop, COLUMNS[-1])
    if all(outcome.drop.mean is None for outcome in rows.values()):
        drop.set_xticks([])
    drop.set_xlabel("largest drop at a switch (points)")
    for axes in (time, operations, drop):
        axes.tick_params(axis="y", length=0)
    rows_of: dict[str, list[int]] = {}
    for row, outcome in rows.items():
        rows_of.setdefault(outcome.task, []).append(row)
    middles = [(places[0] + places[-1]) / 2 for places in rows_of.values()]
    time.set_yticks(middles, [shortened(task) for task in rows_of], fontsize=8.5, parse_math=False)
    time.set_ylim(max(rows) + 0.8, -0.8)
    arms = [arm for arm in COMPARED if any(outcome.arm == arm for outcome in rows.values())]
    common_legend(figure, *(Line2D([], [], color=COLOURS[arm], marker="o", ms=4.5, label=arm) for arm in arms))
    return figure


def _draw_shares(axes: Axes, rows: dict[int, TaskOutcome], name: str) -> None:
    """Draw one kind of shares on a logarithmic axis; arrows of runs that did not reach the goal end at its right edge."""
    dots = {row: _saved_dot(getattr(outcome, name)) for row, outcome in rows.items()}
    known = [x for dot in dots.values() for x in dot.known] + [GOAL, 1.0]
    low, high = min(known) / 1.15, max(known) * 1.25
    axes.set_xlim(low, high)
    scale_of(axes, COLUMNS[0])
    for row, dot in dots.items():
        beyond = high / 1.04 if dot.censored and dot.known else None
        draw_dot(axes, row, replace(dot, beyond=beyond), COLOURS[rows[row].arm])


def _saved_in_words(outcome: TaskOutcome) -> str:
    """Shares and drop of a row, as text."""
    shares = f"share of time {_share_in_words(outcome.share_seconds)}, of operations {_share_in_words(outcome.share_flops)}"
    return f"{shares}, drop {digits(outcome.drop.mean, '.1f')}"


def _share_in_words(share: Share | None) -> str:
    """A share and how many runs did not reach the goal, as text."""
    missed = f" (not reached in {share.censored} of {share.n} runs)" if share and share.censored else ""
    return digits(None if share is None else share.value, ".2f") + missed
