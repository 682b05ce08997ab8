"""What a study says and what it costs: its verdicts as a figure, accuracy against cost, and the time of an update by loops."""

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
from thalweg.report.figures import COLOURS, SPENT, STYLE, Drawn, Grouped, ceiling, draw_band, drawn, score
from thalweg.report.paper.sections import counted, sections

MARKS: dict[str, dict[str, Any]] = {
    "supported": {"marker": "o", "color": "#009E73"},
    "contradicted": {"marker": "X", "color": "#D55E00"},
    "undecided": {"marker": "D", "color": "#E69F00", "fillstyle": "none", "markeredgewidth": 1.6},
    "not measured": {"marker": "_", "color": "#8C8C8C", "markeredgewidth": 1.6},
}
"""Verdict -> its mark: shape and colour both tell it."""
_WIDE = 8.4
"""Inches."""
PAGE = 10.4
"""Height of a page, inches; what would be taller is made smaller."""
_LINE, _GAP = 0.142, 0.085
"""Height of a line of text and between two rows, inches."""
_CLAIM, _VALUE = 66, 44
"""Letters of a line of the claim and of the number's name."""
MARKERS = "osD^vPX*"
"""Of arms, where they share an axis."""


@dataclass(frozen=True)
class Row:
    """One row of the table of verdicts: the middle of its text, inches from the top of the page, and what stands there."""

    at: float
    claim: str
    verdict: str
    """Empty for the heading of a topic."""
    number: str = ""


@matplotlib.rc_context({**STYLE, "svg.fonttype": "none"})  # as outlines its letters are 300 kB
def verdicts_drawn(summary: StudySummary, caption: str) -> Drawn | None:
    """The table of verdicts, one row a claim, under the question that it belongs to; None where the study asks nothing.

    ``caption`` is the set-up in words, the end of the caption.
    """
    if not summary.verdicts:
        return None
    rows, height = rows_of(summary.verdicts)
    scale = min(1.0, PAGE / height)
    figure = Figure(figsize=(_WIDE, height * scale))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, _WIDE / scale)
    axes.set_ylim(height, 0)
    words: dict[str, Any] = {"fontsize": 8 * scale, "va": "center", "parse_math": False, "linespacing": 1.15}
    right = _WIDE / scale - 2.8
    for row in rows:
        if not row.verdict:
            axes.text(0.06, row.at, row.claim, weight="bold", **words)
            axes.axhline(row.at + 0.65 * _LINE, color="black", linewidth=0.5 * scale)
            continue
        axes.plot(0.14, row.at, linestyle="none", markersize=7 * scale, **MARKS[row.verdict])
        axes.text(0.32, row.at, row.claim, **words)
        axes.text(right - 0.95, row.at, row.verdict, color="#333333", **words)
        axes.text(right, row.at, row.number, **words)
    counts = counted(summary.verdicts)
    keys = [
        Line2D([], [], linestyle="none", markersize=7 * scale, label=f"{n} {word}", **MARKS[word]) for word, n in counts.items()
    ]
    axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8 * scale, borderaxespad=0)
    told = ", ".join(f"{n} {word}" for word, n in counts.items())
    words_of = (
        "The verdict on every claim. Right: the first number that its test looks at, mean over seeds with the 95 % interval in "
        f"brackets, where it has one; n: seeds. {caption}"
    )
    alt = (
        f"Table of {len(summary.verdicts)} claims: {told}. " + "; ".join(f"{v.claim}: {v.verdict}" for v in summary.verdicts) + "."
    )
    return drawn(figure, "verdicts", "What does the study say?", words_of, alt)


def rows_of(verdicts: Sequence[Verdict]) -> tuple[list[Row], float]:
    """Where every row stands, under its topic's question, and the height of all, inches."""
    rows, y, parts = [], 2 * _LINE + _GAP, sections(verdicts, (), ())
    for part in parts:
        if len(parts) > 1:
            rows.append(Row(y + 1.5 * _LINE, part.topic.question, ""))
            y += 2.3 * _LINE
        for one in part.verdicts:
            claim, number = textwrap.fill(one.claim, _CLAIM), _first_number(one)
            height = _LINE * (1 + max(claim.count("\n"), number.count("\n"))) + _GAP
            rows.append(Row(y + height / 2, claim, one.verdict, number))
            y += height
    return rows, y + _GAP


def _first_number(verdict: Verdict) -> str:
    """The first number of a verdict with its name and interval; empty where there is none."""
    for name, cell in verdict.numbers.items():
        words = f"{name}: {in_words(cell)}"
        return words if len(words) <= _VALUE else f"{textwrap.fill(name, _VALUE)}:\n{in_words(cell)}"
    return ""


def in_words(cell: Cell) -> str:
    """Mean, interval and seeds, three significant digits."""
    if cell.mean is None:
        return "no value"
    ends = "" if cell.low is None or cell.high is None else f" [{cell.low:.3g}, {cell.high:.3g}]"
    return f"{cell.mean:.3g}{ends}, n = {cell.n}"


@matplotlib.rc_context(STYLE)
def accuracy_against_cost(summary: StudySummary, grouped: Grouped, caption: str) -> Drawn | None:
    """Held-out accuracy against training seconds and against counted operations; None where no run was scored twice.

    High-information sequences have a row of their own where the task knows them. ``grouped`` holds the complete runs.
    """
    shown = {arm: kept for arm, runs in grouped.items() if (kept := [run for run in runs if len(run.evaluations) > 1])}
    if not shown:
        return None
    every = [run for runs in shown.values() for run in runs]
    strata = [one for one in ("high", "all") if all(one in e.scores["held-out"] for run in every for e in run.evaluations)]
    figure = Figure(figsize=(_WIDE, 0.6 + 2.7 * len(strata)), layout="constrained")
    grid = figure.subplots(len(strata), 2, sharex="col", sharey="row", squeeze=False)
    for row, stratum in enumerate(strata):
        for axes, cost in zip(grid[row], SPENT.values(), strict=True):
            for arm, runs in shown.items():
                draw_band(axes, arm, runs, cost, score("held-out", stratum, "accuracy"))
            if best := _bayes(shown, stratum):
                axes.axhline(best, color="black", linewidth=0.9, dashes=(6, 3), label="Bayes ceiling")
        grid[row][0].set_ylim(*late_accuracies(every, stratum, _bayes(shown, stratum) or 0.0))
        grid[row][0].set_ylabel(f"held-out accuracy, {'all positions' if summary.task == 'text' else f'{stratum} sequences'}")
    for axes, words in zip(grid[-1], SPENT, strict=True):
        axes.set_xlabel(words)
    named(figure, *grid[0][0].get_legend_handles_labels())
    words = (
        "Held-out accuracy (share of top-1 hits) against what was spent. Lines: mean over seeds on the stretch that all seeds "
        f"cover; bands: 95 % t-interval. The lower part of the first rise is cut off. {caption}"
    )
    of = (score("held-out", strata[0], "accuracy"), *SPENT.values())
    last = {arm: [np.mean([take(run.evaluations[-1]) for run in runs]) for take in of] for arm, runs in shown.items()}
    ends = "; ".join(f"{arm} {y:.3f} after {s:.1f} s and {t:.3g} TFLOP" for arm, (y, s, t) in last.items())
    alt = f"Held-out accuracy over seconds and operations. At the end ({strata[0]}): {ends}."
    return drawn(figure, "accuracy-against-cost", "What does accuracy cost?", words, alt)


def _bayes(grouped: Grouped, stratum: str) -> float | None:
    """The best accuracy that there can be, where the task knows it."""
    summaries = [run.summary for runs in grouped.values() for run in runs if run.summary]
    known = all(stratum in one.ceilings.get("held-out", {}) for one in summaries)
    return ceiling(grouped, "held-out", stratum) if known else None


def named(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend below all panels; names are shown as they are."""
    legend = figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=min(len(labels), 7), columnspacing=1.2)
    for text in legend.get_texts():
        text.set_parse_math(False)


@dataclass(frozen=True)
class UpdateCost:
    """What an update of one run cost with so many loops: medians over its intervals between evaluations."""

    arm: str
    seed: int
    loops: int
    seconds: float
    flops: float


def update_costs(runs: Iterable[RunRecord]) -> list[UpdateCost]:
    """Seconds and counted operations of an update, for every run and each of its numbers of loops.

    Taken from consecutive evaluations; what holds a switch, its onset, or a try that was taken back is left out.
    """
    found = []
    for run, summary in ((run, run.summary) for run in runs if run.summary):
        pairs: dict[int, list[tuple[float, float]]] = {}
        for loops, before, after in stretches(run):
            updates = after.step - before.step
            pairs.setdefault(loops, []).append(((after.seconds - before.seconds) / updates, (after.flops - before.flops) / updates))
        for loops, costs in sorted(pairs.items()):
            found.append(UpdateCost(summary.arm, summary.seed, loops, *map(median, zip(*costs, strict=True))))
    return found


def stretches(run: RunRecord) -> Iterator[tuple[int, EvaluationRecord, EvaluationRecord]]:
    """Loops, and the evaluations on either side, of every stretch that was trained with one number of loops in full."""
    for before, after in pairwise(run.evaluations):
        mixed = any(before.step < one.step + one.onset and one.step < after.step for one in run.switches)
        again = any(before.step < one.back_to <= after.step for one in run.retreats)
        if mixed or again or after.step <= before.step:
            continue
        past = [one for one in run.switches if one.step <= before.step]
        ahead = [one for one in run.switches if one.step > before.step]
        loops = past[-1].loops_after if past else ahead[0].loops_before if ahead else after.loops
        yield loops, before, after


@matplotlib.rc_context(STYLE)
def step_time(runs: dict[str, RunRecord], caption: str) -> Drawn | None:
    """Seconds and counted operations of an update against its number of loops, with lines through them.

    None where no two evaluations of a complete run lie in one stage.
    """
    costs = update_costs(runs.values())
    if not costs:
        return None
    figure = Figure(figsize=(_WIDE, 3.4), layout="constrained")
    panels, told = figure.subplots(1, 2), []
    of = (("seconds", 1e3, "ms", "training time of an update"), ("flops", 1e-9, "GFLOP", "counted operations of an update"))
    for axes, (what, factor, unit, label) in zip(panels, of, strict=True):
        line = _draw_costs(axes, costs, what, factor)
        if line is not None:
            told.append(f"{line[0]:.3g} + {line[1]:.3g} T {unit}{over_seeds(costs, what, factor)}")
        axes.set_xlabel("loops (passes through the block)")
        axes.set_ylabel(f"{label} ({unit})")
    named(figure, *panels[0].get_legend_handles_labels())
    fitted = f"Least-squares lines through all points, T loops: time {told[0]}; operations {told[1]}. " if told else ""
    words = (
        "What a loop costs. Points: every run, set apart a little by arm; medians over its stretches between two evaluations, "
        "without those that hold a switch, its onset or a try taken back; without evaluation. Other work on the machine slows "
        f"runs that it meets. {fitted}{caption}"
    )
    by_loops = "; ".join(
        f"{loops}: {1e3 * median(c.seconds for c in costs if c.loops == loops):.3g} ms, "
        f"{1e-9 * median(c.flops for c in costs if c.loops == loops):.3g} GFLOP"
        for loops in sorted({c.loops for c in costs})
    )
    alt = f"Time and counted operations of an update over the number of loops. Medians over runs by loops: {by_loops}."
    return drawn(figure, "step-time", "What does a loop cost?", words, alt)


def _draw_costs(axes: Axes, costs: Sequence[UpdateCost], what: str, factor: float) -> tuple[float, float] | None:
    """The points of every arm, and the line through all of them: its height at no loop, and its slope, if there is one."""
    arms = sorted(dict.fromkeys(one.arm for one in costs), key=lambda arm: [*COLOURS, arm].index(arm))
    apart = 0.36 / len(arms)
    for number, arm in enumerate(arms):
        mine = [one for one in costs if one.arm == arm]
        places = [one.loops + apart * (number - (len(arms) - 1) / 2) for one in mine]
        look: dict[str, Any] = {"marker": MARKERS[number % len(MARKERS)], "color": COLOURS.get(arm, "black"), "fillstyle": "none"}
        axes.plot(places, [factor * getattr(one, what) for one in mine], linestyle="none", markersize=5, label=arm, **look)
    loops = [one.loops for one in costs]
    axes.set_xlim(0, max(loops) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    found = _line_through(loops, [factor * getattr(one, what) for one in costs])
    if found is not None:
        ends = np.array([0.0, max(loops) + 0.5])
        axes.plot(ends, found[0] + found[1] * ends, color="black", linewidth=1, dashes=(4, 2), label="least squares")
    axes.set_ylim(bottom=0)
    return found


def _line_through(x: Sequence[float], y: Sequence[float]) -> tuple[float, float] | None:
    """Height at zero and slope of the least-squares line; None where all lie at one place."""
    if len(set(x)) < 2:
        return None
    steep = slope(x, y)
    return float(np.mean(y)) - steep * float(np.mean(x)), steep


def over_seeds(costs: Sequence[UpdateCost], what: str, factor: float) -> str:
    """The interval of the slope over the seeds' own lines, in words; empty where fewer than two seeds have one."""
    slopes = []
    for seed in sorted({one.seed for one in costs}):
        mine = [one for one in costs if one.seed == seed]
        line = _line_through([one.loops for one in mine], [factor * getattr(one, what) for one in mine])
        slopes += [] if line is None else [line[1]]
    found = interval(slopes) if len(slopes) > 1 else None
    return "" if found is None else f" (slope over {found.n} seeds: {found.low:.3g} to {found.high:.3g})"
