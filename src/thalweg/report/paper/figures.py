"""The verdicts of a study as a figure, accuracy against cost, and the cost of an update by its number of loops."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from thalweg.intervals import interval, slope
from thalweg.records.run import Cell, EvaluationRecord, RunRecord, StudySummary, Verdict
from thalweg.report.curves import late_accuracies
from thalweg.report.figures import SPENT, Drawn, Grouped, ceiling, draw_band, drawn, score
from thalweg.report.panels import COLOURS, STYLE, WIDTH, labelled, legend_below
from thalweg.report.paper.sections import counted, sections

MARKS: dict[str, dict[str, Any]] = {
    "supported": {"marker": "o", "color": "#009E73"},
    "contradicted": {"marker": "X", "color": "#D55E00"},
    "undecided": {"marker": "D", "color": "#E69F00", "fillstyle": "none", "markeredgewidth": 1.6},
    "not measured": {"marker": "_", "color": "#8C8C8C", "markeredgewidth": 1.6},
}
"""Verdict -> style of its mark; shape and colour both differ."""
PAGE = 10.4
"""Height of a page, inches; a taller table is scaled down to it."""
_LINE, _GAP = 0.142, 0.085
"""Height of a line of text and between two rows, inches."""
_CLAIM, _VALUE = 66, 44
"""Most letters in a line of a claim and in a line of a number."""
MARKERS = "osD^vPX*"
"""Markers of arms that share an axis."""


@dataclass(frozen=True)
class Row:
    """One row of the table of verdicts: a claim, or the heading of a topic."""

    at: float
    """Middle of its text, inches from the top of the table."""
    claim: str
    """The claim, broken into lines, or the topic's question."""
    verdict: str
    """Empty for the heading of a topic."""
    number: str = ""
    """The first number of the verdict, as text."""


@matplotlib.rc_context({**STYLE, "svg.fonttype": "none"})  # letters as outlines would take 300 kB
def verdicts_drawn(summary: StudySummary, caption: str) -> Drawn | None:
    """The table of verdicts: one row for each claim, under the question that it belongs to.

    Args:
        summary: of the study.
        caption: the set-up, which ends the caption.
    Returns:
        None where the study has no claims.
    """
    if not summary.verdicts:
        return None
    rows, height = rows_of(summary.verdicts)
    scale = min(1.0, PAGE / height)
    figure = Figure(figsize=(WIDTH, height * scale))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH / scale)
    axes.set_ylim(height, 0)
    text: dict[str, Any] = {"fontsize": 8 * scale, "va": "center", "parse_math": False, "linespacing": 1.15}
    right = WIDTH / scale - 2.8
    for row in rows:
        if not row.verdict:
            axes.text(0.06, row.at, row.claim, weight="bold", **text)
            axes.axhline(row.at + 0.65 * _LINE, color="black", linewidth=0.5 * scale)
            continue
        axes.plot(0.14, row.at, linestyle="none", markersize=7 * scale, **MARKS[row.verdict])
        axes.text(0.32, row.at, row.claim, **text)
        axes.text(right - 0.95, row.at, row.verdict, color="#333333", **text)
        axes.text(right, row.at, row.number, **text)
    counts = counted(summary.verdicts)
    keys = [
        Line2D([], [], linestyle="none", markersize=7 * scale, label=f"{n} {kind}", **MARKS[kind]) for kind, n in counts.items()
    ]
    axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8 * scale, borderaxespad=0)
    full_caption = (
        "Verdict on every claim. Right: the first number that its test uses, as mean over seeds, with the 95 % interval in "
        f"brackets where it has one; n: seeds. {caption}"
    )
    totals = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    claims = "; ".join(f"{v.claim}: {v.verdict}" for v in summary.verdicts)
    alt = f"Table of {len(summary.verdicts)} claims: {totals}. {claims}."
    return drawn(figure, "verdicts", "What does the study say?", full_caption, alt)


def rows_of(verdicts: Sequence[Verdict]) -> tuple[list[Row], float]:
    """The rows of the table of verdicts, each claim under its topic's question, and the height of all rows, inches."""
    rows, y, parts = [], 2 * _LINE + _GAP, sections(verdicts, (), ())
    for part in parts:
        if len(parts) > 1:
            rows.append(Row(y + 1.5 * _LINE, part.topic.question, ""))
            y += 2.3 * _LINE
        for verdict in part.verdicts:
            claim, number = textwrap.fill(verdict.claim, _CLAIM), _first_number(verdict)
            height = _LINE * (1 + max(claim.count("\n"), number.count("\n"))) + _GAP
            rows.append(Row(y + height / 2, claim, verdict.verdict, number))
            y += height
    return rows, y + _GAP


def _first_number(verdict: Verdict) -> str:
    """The first number of a verdict with its name and interval, as text; empty where there is none."""
    for name, cell in verdict.numbers.items():
        text = f"{name}: {_cell_in_words(cell)}"
        return text if len(text) <= _VALUE else f"{textwrap.fill(name, _VALUE)}:\n{_cell_in_words(cell)}"
    return ""


def _cell_in_words(cell: Cell) -> str:
    """Mean, interval and number of seeds, with three significant digits, as text."""
    if cell.mean is None:
        return "no value"
    ends = "" if cell.low is None or cell.high is None else f" [{cell.low:.3g}, {cell.high:.3g}]"
    return f"{cell.mean:.3g}{ends}, n = {cell.n}"


@matplotlib.rc_context(STYLE)
def accuracy_against_cost(summary: StudySummary, grouped: Grouped, caption: str) -> Drawn | None:
    """Held-out accuracy against training seconds and against counted operations.

    High-information sequences have a row of their own where the task knows them.

    Args:
        summary: of the study.
        grouped: arm -> its complete runs.
        caption: the set-up, which ends the caption.
    Returns:
        None where no run was scored twice.
    """
    shown = {arm: kept for arm, runs in grouped.items() if (kept := [run for run in runs if len(run.evaluations) > 1])}
    if not shown:
        return None
    every = [run for runs in shown.values() for run in runs]
    strata = [name for name in ("high", "all") if all(name in e.scores["held-out"] for run in every for e in run.evaluations)]
    figure = Figure(figsize=(WIDTH, 0.6 + 2.7 * len(strata)), layout="constrained")
    grid = figure.subplots(len(strata), 2, sharex="col", sharey="row", squeeze=False)
    for row, stratum in enumerate(strata):
        for axes, cost in zip(grid[row], SPENT.values(), strict=True):
            for arm, runs in shown.items():
                draw_band(axes, arm, runs, cost, score("held-out", stratum, "accuracy"))
            if best := _bayes(shown, stratum):
                axes.axhline(best, color="black", linewidth=0.9, dashes=(6, 3), label="Bayes ceiling")
        grid[row][0].set_ylim(*late_accuracies(every, stratum, _bayes(shown, stratum) or 0.0))
        grid[row][0].set_ylabel(f"held-out accuracy, {'all positions' if summary.task == 'text' else f'{stratum} sequences'}")
    for axes, label in zip(grid[-1], SPENT, strict=True):
        axes.set_xlabel(label)
    _named_legend(figure, grid[0][0])
    full_caption = (
        "Held-out accuracy (share of top-1 hits) against training time and against counted operations. Lines: mean over seeds on "
        "the stretch that all seeds cover; bands: 95 % t-interval. The vertical axis leaves out the first steep rise. "
        f"{caption}"
    )
    measures = (score("held-out", strata[0], "accuracy"), *SPENT.values())
    last = {arm: [np.mean([take(run.evaluations[-1]) for run in runs]) for take in measures] for arm, runs in shown.items()}
    ends = "; ".join(f"{arm} {y:.3f} after {s:.1f} s and {t:.3g} TFLOP" for arm, (y, s, t) in last.items())
    alt = (
        "Panels of held-out accuracy, on the left over seconds and on the right over operations: the further left a line "
        f"rises, the cheaper the arm. At the end ({strata[0]}): {ends}."
    )
    return drawn(figure, "accuracy-against-cost", "What does accuracy cost?", full_caption, alt)


def _bayes(grouped: Grouped, stratum: str) -> float | None:
    """The Bayes accuracy on held-out sequences of a stratum; None where the task does not know it."""
    summaries = [run.summary for runs in grouped.values() for run in runs if run.summary]
    known = all(stratum in summary.ceilings.get("held-out", {}) for summary in summaries)
    return ceiling(grouped, "held-out", stratum) if known else None


def _named_legend(figure: Figure, axes: Axes) -> None:
    """Draw one legend below all panels, with the labels of one of them shown as they are."""
    legend_below(figure, labelled([axes]), 7, columnspacing=1.2)
    for text in figure.legends[-1].get_texts():
        text.set_parse_math(False)


@dataclass(frozen=True)
class UpdateCost:
    """Cost of an update of one run with one number of loops: medians over its stretches between two evaluations."""

    arm: str
    seed: int
    loops: int
    seconds: float
    flops: float


def update_costs(runs: Iterable[RunRecord]) -> list[UpdateCost]:
    """Seconds and counted operations of an update, for every run and each of its numbers of loops.

    They are taken from consecutive evaluations. A stretch that holds a switch, its onset, or a try that was taken back is left
    out.

    Args:
        runs: complete or not; those without a summary are left out.
    """
    costs = []
    for run, summary in ((run, run.summary) for run in runs if run.summary):
        by_loops: dict[int, list[tuple[float, float]]] = {}
        for loops, before, after in stretches(run):
            updates = after.step - before.step
            cost = (after.seconds - before.seconds) / updates, (after.flops - before.flops) / updates
            by_loops.setdefault(loops, []).append(cost)
        for loops, pairs in sorted(by_loops.items()):
            costs.append(UpdateCost(summary.arm, summary.seed, loops, *map(median, zip(*pairs, strict=True))))
    return costs


def stretches(run: RunRecord) -> Iterator[tuple[int, EvaluationRecord, EvaluationRecord]]:
    """Every stretch between two evaluations that was trained with one number of loops, as (loops, evaluation, next evaluation)."""
    for before, after in pairwise(run.evaluations):
        mixed = any(before.step < switch.step + switch.onset and switch.step < after.step for switch in run.switches)
        retried = any(before.step < retreat.back_to <= after.step for retreat in run.retreats)
        if mixed or retried or after.step <= before.step:
            continue
        past = [switch for switch in run.switches if switch.step <= before.step]
        ahead = [switch for switch in run.switches if switch.step > before.step]
        loops = past[-1].loops_after if past else ahead[0].loops_before if ahead else after.loops
        yield loops, before, after


@matplotlib.rc_context(STYLE)
def step_time(runs: dict[str, RunRecord], caption: str) -> Drawn | None:
    """Seconds and counted operations of an update against its number of loops, with least-squares lines.

    Args:
        runs: by name.
        caption: the set-up, which ends the caption.
    Returns:
        None where no two evaluations of a complete run lie in one stage.
    """
    costs = update_costs(runs.values())
    if not costs:
        return None
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panels, lines = figure.subplots(1, 2), []
    quantities = (("seconds", 1e3, "ms", "training time of an update"), ("flops", 1e-9, "GFLOP", "counted operations of an update"))
    for axes, (what, factor, unit, label) in zip(panels, quantities, strict=True):
        line = _draw_costs(axes, costs, what, factor)
        if line is not None:
            lines.append(f"{line[0]:.3g} + {line[1]:.3g} T {unit}{_slope_in_words(costs, what, factor)}")
        axes.set_xlabel("loops (passes through the block)")
        axes.set_ylabel(f"{label} ({unit})")
    _named_legend(figure, panels[0])
    fitted = f"Least-squares lines through all points, T loops: time {lines[0]}; operations {lines[1]}. " if lines else ""
    full_caption = (
        "Training time (left) and counted operations (right) of an update against its number of loops. Points: runs, arms side by "
        "side; medians over stretches between two evaluations, without those that hold a switch, its onset or a try that was taken "
        "back. Evaluation is left out. Other work on the machine slows the runs that it meets. "
        f"{fitted}{caption}"
    )
    by_loops = "; ".join(
        f"{loops}: {1e3 * median(c.seconds for c in costs if c.loops == loops):.3g} ms, "
        f"{1e-9 * median(c.flops for c in costs if c.loops == loops):.3g} GFLOP"
        for loops in sorted({c.loops for c in costs})
    )
    alt = (
        "Two panels of points, one for each run, with a dashed straight line through them: seconds (left) and operations "
        f"(right) of an update over its number of loops. Medians over runs by loops: {by_loops}."
    )
    return drawn(figure, "step-time", "What does a loop cost?", full_caption, alt)


def _draw_costs(axes: Axes, costs: Sequence[UpdateCost], what: str, factor: float) -> tuple[float, float] | None:
    """Draw the points of every arm and the line through all of them; returns the line's height at no loop and its slope."""
    arms = sorted(dict.fromkeys(cost.arm for cost in costs), key=lambda arm: [*COLOURS, arm].index(arm))
    distance = 0.36 / len(arms)
    for number, arm in enumerate(arms):
        of_arm = [cost for cost in costs if cost.arm == arm]
        x = [cost.loops + distance * (number - (len(arms) - 1) / 2) for cost in of_arm]
        y = [factor * getattr(cost, what) for cost in of_arm]
        style: dict[str, Any] = {"marker": MARKERS[number % len(MARKERS)], "color": COLOURS.get(arm, "black"), "fillstyle": "none"}
        axes.plot(x, y, linestyle="none", markersize=5, label=arm, **style)
    loops = [cost.loops for cost in costs]
    axes.set_xlim(0, max(loops) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    line = _line_through(costs, what, factor)
    if line is not None:
        ends = np.array([0.0, max(loops) + 0.5])
        axes.plot(ends, line[0] + line[1] * ends, color="black", linewidth=1, dashes=(4, 2), label="least squares")
    axes.set_ylim(bottom=0)
    return line


def _line_through(costs: Sequence[UpdateCost], what: str, factor: float) -> tuple[float, float] | None:
    """Height at no loop and slope of the least-squares line of a cost over loops; None where all have the same number of loops."""
    x, y = [cost.loops for cost in costs], [factor * getattr(cost, what) for cost in costs]
    if len(set(x)) < 2:
        return None
    steepness = slope(x, y)
    return float(np.mean(y)) - steepness * float(np.mean(x)), steepness


def _slope_in_words(costs: Sequence[UpdateCost], what: str, factor: float) -> str:
    """The interval of the slope over the seeds' own lines, as text; empty where fewer than two seeds have one."""
    lines = [_line_through([cost for cost in costs if cost.seed == seed], what, factor) for seed in sorted({c.seed for c in costs})]
    slopes = [line[1] for line in lines if line is not None]
    if len(slopes) < 2:
        return ""
    ends = interval(slopes)
    return f" (slope over {ends.n} seeds: {ends.low:.3g} to {ends.high:.3g})"
