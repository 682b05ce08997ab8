"""What SHIFT saves on each task, and what accuracy it loses at the switch: dots with intervals."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Row -> outcome that has a share of Looped's cost or a drop; rows of a task lie together, with one free row between tasks."""
    rows: dict[int, TaskOutcome] = {}
    row = 0
    for task in summary.tasks:
        by_arm = {outcome.arm: outcome for outcome in summary.outcomes if outcome.task == task}
        present = [by_arm[arm] for arm in COMPARED if arm in by_arm]
        shown = [outcome for outcome in present if _shares(outcome) or outcome.drop.mean is not None]
        rows |= {row + place: outcome for place, outcome in enumerate(shown)}
        row += len(shown) + bool(shown)
    return rows


def _shares(outcome: TaskOutcome) -> dict[str, Share]:
    """Kind of cost -> share of it; without time where other work disturbed the seconds."""
    shares = {"time": outcome.share_seconds, "operations": outcome.share_flops}
    return {kind: share for kind, share in shares.items() if share is not None}


def _kinds(rows: dict[int, TaskOutcome], disturbed: bool) -> list[str]:
    """The kinds of cost with a column: without time where other work disturbed the seconds of all rows."""
    timed = not disturbed or any("time" in _shares(outcome) for outcome in rows.values())
    return ["time", "operations"] if timed else ["operations"]


def _saved_dot(share: Share | None) -> Dot:
    """The dot of a share; without an upper end where runs did not reach the goal."""
    if share is None:
        return Dot(None, None, None)
    return Dot(share.value, share.low, None if share.censored else share.high, None, share.censored > 0)


def saved_drawn(summary: TaskStudySummary) -> Drawn | None:
    """The figure of the shares of Looped's cost and of the drop at the switch; None where no arm has such a share."""
    rows = saved_rows(summary)
    if not any(_shares(outcome) for outcome in rows.values()):
        return None
    kinds = _kinds(rows, bool(summary.disturbed))
    if "time" in kinds:
        columns = "Shares of Looped's training time (left) and of its counted operations (middle), and drop at the switch (right)."
    else:
        columns = (
            "Share of Looped's counted operations (left), and drop at the switch (right). There is no share of its training time, "
            "as other work on the machine disturbed the seconds."
        )
    caption = (
        f"{columns} A share is the cost of reaching Looped's final exact match on trained lengths less one point, over "
        "Looped's own cost, on a logarithmic axis; other work on the machine does not disturb operations. The drop is the "
        "largest fall of the held-out exact match below its best so far, from a switch until 400 updates after its onset; of "
        "several switches the largest. Dots: mean over seeds (of shares: geometric); lines: 95 % intervals. Arrows at the "
        "edge: some runs did not reach the goal; the dot is then the median, the line begins at the smallest share, and there "
        "is no dot where the median run did "
        f'not reach it. "-": no number. {setup(summary)}'
    )
    numbers = "; ".join(f"{outcome.task}, {outcome.arm}: {_saved_in_words(outcome)}" for outcome in rows.values())
    shares = ", ".join(f"share of Looped's {kind}" for kind in kinds)
    alt = (
        f"A row for each task and arm with a dot in each column, further left is better: {shares}, "
        f"drop in percentage points. {numbers}."
    )
    return drawn(figure_saved(rows, kinds), "cost-saved", "How much does SHIFT save, and what does a switch cost?", caption, alt)


def figure_saved(rows: dict[int, TaskOutcome], kinds: Sequence[str] = ("time", "operations")) -> Figure:
    """Dots with one row for each task and arm: shares of the kinds of cost, and the drop."""
    figure = Figure(figsize=(WIDTH, 0.2 * max(rows) + 1.6), layout="constrained")
    *columns, drop = figure.subplots(1, len(kinds) + 1, sharey=True)
    for axes, kind in zip(columns, kinds, strict=True):
        axes.axvline(1, color=COLOURS["looped"], linewidth=1.0, dashes=(5, 3), label="Looped")
        axes.axvline(GOAL, color="#555555", linewidth=1.0, dashes=(1, 1.5), label=f"goal, {GOAL:g}")
        _draw_shares(axes, rows, kind)
        axes.set_xlabel(f"share of Looped's {kind}")
    for row, outcome in rows.items():
        draw_dot(drop, row, cell_dot(outcome.drop), COLOURS[outcome.arm])
    scale_of(drop, COLUMNS[-1])
    if all(outcome.drop.mean is None for outcome in rows.values()):
        drop.set_xticks([])
    drop.set_xlabel("largest drop at a switch (points)")
    for axes in (*columns, drop):
        axes.tick_params(axis="y", length=0)
    rows_of: dict[str, list[int]] = {}
    for row, outcome in rows.items():
        rows_of.setdefault(outcome.task, []).append(row)
    middles = [(places[0] + places[-1]) / 2 for places in rows_of.values()]
    columns[0].set_yticks(middles, [shortened(task) for task in rows_of], fontsize=8.5, parse_math=False)
    columns[0].set_ylim(max(rows) + 0.8, -0.8)
    arms = [arm for arm in COMPARED if any(outcome.arm == arm for outcome in rows.values())]
    common_legend(figure, *(Line2D([], [], color=COLOURS[arm], marker="o", ms=4.5, label=arm) for arm in arms))
    return figure


def _draw_shares(axes: Axes, rows: dict[int, TaskOutcome], kind: str) -> None:
    """Draw one kind of shares on a logarithmic axis; arrows of runs that did not reach the goal end at its right edge."""
    dots = {row: _saved_dot(_shares(outcome).get(kind)) for row, outcome in rows.items()}
    known = [x for dot in dots.values() for x in dot.known] + [GOAL, 1.0]
    low, high = min(known) / 1.15, max(known) * 1.25
    axes.set_xlim(low, high)
    scale_of(axes, COLUMNS[0])
    for row, dot in dots.items():
        beyond = high / 1.04 if dot.censored and dot.known else None
        draw_dot(axes, row, replace(dot, beyond=beyond), COLOURS[rows[row].arm])


def _saved_in_words(outcome: TaskOutcome) -> str:
    """Shares and drop of a row, as text."""
    shares = [f"share of {kind} {_share_in_words(share)}, " for kind, share in _shares(outcome).items()]
    return f"{''.join(shares)}drop {digits(outcome.drop.mean, '.1f')}"


def _share_in_words(share: Share) -> str:
    """A share and how many runs did not reach the goal, as text."""
    missed = f" (not reached in {share.censored} of {share.n} runs)" if share.censored else ""
    return digits(share.value, ".2f") + missed
