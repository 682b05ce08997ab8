"""Figures of a study of algorithmic tasks, from its records alone: one panel for each task, and every seed with their mean.

Shape letters: N tested lengths, P passes, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from thalweg.records.experiment import MARGIN, SWITCHING, TaskOutcome, TaskStudySummary
from thalweg.records.run import EvaluationRecord, RunRecord
from thalweg.report.figures import Drawn, Grouped, draw_band, drawn, score, setup
from thalweg.report.panels import COLOURS, FIRST_WIDTH, STYLE, arm_line, shortened, three_digits
from thalweg.report.switching.figures import REACH, at_switch, draw_switches
from thalweg.report.tasks.panels import (
    SHADE,
    Outcomes,
    chosen,
    common_legend,
    draw_seeds,
    in_percent,
    outcomes_of,
    panels_of,
    runs_of,
    samples_of,
    whole_ticks,
)
from thalweg.report.tasks.savings import COMPARED, saved_drawn
from thalweg.report.tasks.stages import stages_drawn

Dashes = tuple[float | None, float | None]
"""Lengths of dash and gap, in line widths; ``(None, None)`` is a solid line."""
_NEAR = 100 * MARGIN
"""Percentage points below T(n) within which halting by confidence counts as equally good."""
_LOOPING = {"looped": (2.6, 7.5), "shift": (1.2, 5.0)}
"""Arms whose passes are varied after training -> widths of line and mark, points; the first is wider, so that both are seen."""
_TIMED = ("single", "looped", *COMPARED)
KINDS: dict[str, tuple[str, Dashes]] = {
    "in the trained range": ("o", (None, None)),
    "at its edge": ("s", (4, 1.5)),
    "beyond it": ("^", (1, 1)),
}
"""Kind of a tested length -> its mark and dashes."""
_HALTS: dict[str, tuple[str, str, Dashes]] = {
    "most confident, per sample": (COLOURS["looped"], "o", (None, None)),
    "most confident, per batch": ("#333333", "s", (3, 1.5)),
    "sharpest dip, per batch": ("#0072B2", "^", (1, 1)),
}
"""Rule for halting -> colour, mark and dashes."""


@matplotlib.rc_context(STYLE)
def draw_tasks(summary: TaskStudySummary, runs: dict[str, RunRecord]) -> list[Drawn]:
    """Every figure that the study has records for, in the order of the page.

    Args:
        summary: of the study, complete or not.
        runs: by name, "<task>-<arm>-seed<n>".
    """
    grouped = runs_of(summary, runs)
    figures = [_lengths_drawn(summary), loops_drawn(summary)]
    figures += [switches_drawn(summary, grouped), stages_drawn(summary, grouped)]
    figures += [times_drawn(summary, grouped), halting_drawn(summary), saved_drawn(summary)]
    return [figure for figure in figures if figure is not None]


def _lengths_drawn(summary: TaskStudySummary) -> Drawn | None:
    """The figure of exact match over length, in and beyond the trained range, of all arms; None where nothing was tested."""
    outcomes = outcomes_of(summary, summary.arms)
    if not outcomes:
        return None
    figure, panels = panels_of(list(outcomes), "length n", "exact match (%)", FIRST_WIDTH)
    for task, arms in outcomes.items():
        for place, outcome in enumerate(arms.values()):
            draw_lengths(panels[task], outcome, place, len(arms))
        shade_trained(panels[task], summary.longest[task])
        panels[task].set_ylim(-4, 104)
    common_legend(figure, Patch(**SHADE, label="trained lengths"))
    caption = (
        f"Exact match (the whole answer is right) over length, on {samples_of(outcomes)} samples of each length. The samples are "
        "drawn independently of training; there are few short samples, so these also occur in training. Lines: mean over seeds, "
        "each thinner than the one below it, so that both are seen where arms are equal. Points: every seed, arms side by side. "
        "Shaded: lengths up to the longest in training. "
        f"{setup(summary)}"
    )
    ends = ". ".join(
        f"{task}: " + "; ".join(ends_in_words(outcome, summary.longest[task]) for outcome in arms.values())
        for task, arms in outcomes.items()
    )
    alt = (
        f"A panel for each task: exact match against length, a line for each arm. A shaded part marks the trained lengths. {ends}."
    )
    return drawn(figure, "accuracy-over-length", "How far do the arms generalise?", caption, alt)


def draw_lengths(axes: Axes, outcome: TaskOutcome, place: int, arms: int) -> None:
    """Draw exact match over length: the mean as a line, every seed as a faint point.

    Args:
        axes: where it is drawn.
        outcome: of one task and arm.
        place, arms: index of the arm and number of arms. Later lines are thinner, so that equal ones are seen below them, and the
            points of all arms lie beside each other.
    """
    accuracy, line = in_percent(outcome.accuracy), arm_line(outcome.arm)
    axes.plot(outcome.lengths, accuracy.mean(1), linewidth=2.9 - 1.7 * place / max(1, arms - 1), **line)
    aside = 0.01 * (place - (arms - 1) / 2)
    places = np.array(outcome.lengths) + aside * (max(outcome.lengths) - min(outcome.lengths))
    draw_seeds(axes, places, accuracy, "o", line["color"], 2.6)


def shade_trained(axes: Axes, longest: int) -> None:
    """Shade the lengths up to the longest in training, as far as the axis shows them."""
    low, high = axes.get_xlim()
    if longest > low:
        axes.axvspan(low, min(longest, high), **SHADE, zorder=0)
    axes.set_xlim(low, high)
    whole_ticks(axes)


def shown_lengths(lengths: Sequence[int], longest: int) -> list[int]:
    """The longest tested length in the trained range, and the longest beyond it; those that exist."""
    inside = [n for n in lengths if n <= longest]
    return list(dict.fromkeys([*inside[-1:], *lengths[-1:]]))


def ends_in_words(outcome: TaskOutcome, longest: int) -> str:
    """Mean exact match at the lengths of `shown_lengths`, as text."""
    means = dict(zip(outcome.lengths, in_percent(outcome.accuracy).mean(1), strict=True))
    return f"{outcome.arm} " + ", ".join(f"{means[n]:.1f} % at {n}" for n in shown_lengths(outcome.lengths, longest))


def three_lengths(lengths: Sequence[int], longest: int) -> dict[str, int]:
    """Three tested lengths by their kind: in the trained range, at its edge, and beyond it.

    The first is nearest to half of the longest training length, the second the longest up to it, the third nearest to 1.5 times
    it. Kinds without a length are left out, and so is the first kind where it would be the same length as the second.

    Args:
        lengths: that were tested, ascending.
        longest: training length.
    """
    inside, outside = [n for n in lengths if n <= longest], [n for n in lengths if n > longest]
    by_kind: dict[str, int] = {}
    first, edge, beyond = KINDS
    if len(inside) > 1:
        by_kind[first] = min(inside[:-1], key=lambda n: abs(n - longest / 2))
    if inside:
        by_kind[edge] = inside[-1]
    if outside:
        by_kind[beyond] = min(outside, key=lambda n: abs(n - 1.5 * longest))
    return by_kind


def loops_drawn(summary: TaskStudySummary) -> Drawn | None:
    """The figure of exact match over passes at three lengths, Looped and SHIFT; None where no passes were varied."""
    outcomes = outcomes_of(summary, tuple(_LOOPING))
    outcomes = {task: arms for task, arms in outcomes.items() if any(outcome.by_loops for outcome in arms.values())}
    if not outcomes:
        return None
    figure, panels = panels_of(list(outcomes), "passes", "exact match (%)")
    numbers: list[str] = []
    for task, arms in outcomes.items():
        lengths: dict[str, None] = {}
        for outcome in arms.values():
            for kind, length in three_lengths(outcome.lengths, summary.longest[task]).items():
                if str(length) in outcome.by_loops:
                    draw_loops(panels[task], outcome, length, kind)
                    numbers.append(f"{task}, {outcome.arm}: {_passes_in_words(outcome, length)}")
                    lengths[str(length)] = None
        panels[task].set_title(f"{shortened(task)}, n = {', '.join(lengths)}", fontsize=9, parse_math=False)
        panels[task].set_ylim(-4, 104)
        whole_ticks(panels[task])
    shown = [arm for arm in _LOOPING if any(arm in arms for arms in outcomes.values())]
    lines = [Line2D([], [], color=COLOURS[arm], linewidth=_LOOPING[arm][0], label=arm) for arm in shown]
    common_legend(figure, *lines, *map(_kind_line, KINDS))
    caption = (
        f"Exact match after each number of passes, on {samples_of(outcomes)} samples of each of three lengths n (in the panel's "
        "title, in order of the legend). Lines: mean over seeds; large marks: at T(n), the passes that the task needs for this "
        f"length; faint marks there: every seed. {setup(summary)}"
    )
    alt = (
        "A panel for each task: exact match against the number of passes, a line for each length, with a mark at T(n). "
        f"{'. '.join(numbers)}."
    )
    return drawn(figure, "accuracy-over-loops", "Do more passes than T(n) help or harm?", caption, alt)


def _kind_line(kind: str) -> Line2D:
    """The entry of a kind of length in a legend."""
    mark, dashes = KINDS[kind]
    return Line2D([], [], color="#555555", linewidth=1.4, marker=mark, markersize=5, dashes=dashes, label=kind)  # type: ignore[arg-type]


def draw_loops(axes: Axes, outcome: TaskOutcome, length: int, kind: str) -> None:
    """Draw exact match over passes at one length: the mean as a line, and the seeds at T(n)."""
    accuracy, colour = in_percent(outcome.by_loops[str(length)]), COLOURS[outcome.arm]
    (mark, dashes), (width, size) = KINDS[kind], _LOOPING[outcome.arm]
    mean, own = accuracy.mean(1), _passes_at(outcome, length)
    axes.plot(range(1, len(mean) + 1), mean, color=colour, linewidth=width, alpha=0.8, dashes=dashes)
    draw_seeds(axes, np.array([own]), accuracy[own - 1 : own], mark, colour, 3)
    axes.plot([own], mean[own - 1 : own], mark, color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.8)


def _passes_at(outcome: TaskOutcome, length: int) -> int:
    """T(n), or the fewer passes that the model was trained with."""
    return outcome.loops[outcome.lengths.index(length)]


def _passes_in_words(outcome: TaskOutcome, length: int) -> str:
    """Mean exact match at T(n) and after the most passes that were tried, as text."""
    mean, own = in_percent(outcome.by_loops[str(length)]).mean(1), _passes_at(outcome, length)
    return f"n = {length}: {mean[own - 1]:.1f} % after T(n) = {own} passes, {mean[-1]:.1f} % after {len(mean)}"


def switches_drawn(summary: TaskStudySummary, grouped: dict[str, Grouped]) -> Drawn | None:
    """The figure of the held-out exact match around the switch, of runs with a single switch; None where there are none."""
    by_task = chosen(grouped, SWITCHING, lambda run: len(run.switches) == 1)
    if not by_task:
        return None
    figure, panels = panels_of(list(by_task), "updates since the run's own switch", "held-out exact match (%)")
    reach = max(REACH, *(1.2 * run.switches[0].onset for arms in by_task.values() for runs in arms.values() for run in runs))
    for task, arms in by_task.items():
        for arm, runs in arms.items():
            draw_switches(panels[task], arm, runs, arm, reach)
        panels[task].axvline(0, color="black", linewidth=0.6, alpha=0.5, zorder=1)
        panels[task].set_xlim(-reach, reach)
    common_legend(figure)
    caption = (
        f"Held-out exact match on the trained lengths within {reach:.0f} updates of each run's own switch, of runs with a single "
        "switch. Thin: one line for each seed; thick: mean over seeds. At 0 the same weights are scored before "
        "and after the switch. Each panel has its own vertical "
        f"axis. {setup(summary)}"
    )
    numbers = "; ".join(
        f"{task}, {arm} from {at_switch(runs, True):.1f} % to {at_switch(runs, False):.1f} %"
        for task, arms in by_task.items()
        for arm, runs in arms.items()
    )
    alt = f"Curves of held-out exact match around the switch, a panel for each task. At the switch itself: {numbers}."
    return drawn(figure, "switch-by-task", "What does the switch do to the exact match?", caption, alt)


@dataclass(frozen=True)
class _Cost:
    """What is along the axis of the figure of `times_drawn`."""

    name: str
    label: str
    unit: str
    take: Callable[[EvaluationRecord], float]


_TIME = _Cost("training time", "training time (s), evaluation left out", "s", lambda e: e.seconds)
_OPERATIONS = _Cost("counted operations", "counted operations (TFLOP)", "TFLOP", lambda e: e.flops / 1e12)


def times_drawn(summary: TaskStudySummary, grouped: dict[str, Grouped]) -> Drawn | None:
    """The figure of the held-out exact match over training time, or over counted operations where other work disturbed the time.

    None where there are no runs of the arms shown.
    """
    by_task = chosen(grouped, _TIMED, lambda run: True)
    if not by_task:
        return None
    cost = _OPERATIONS if summary.disturbed else _TIME
    figure, panels = panels_of(list(by_task), cost.label, "held-out exact match (%)")
    for task, arms in by_task.items():
        for arm, runs in arms.items():
            draw_band(panels[task], arm, runs, cost.take, score("held-out", "all", "accuracy", 100))
        panels[task].set_ylim(-4, 104)
        panels[task].set_xlim(left=0)
        whole_ticks(panels[task])
    common_legend(figure)
    caption = (
        f"Held-out exact match on all trained lengths over {cost.name}. Lines: mean over seeds on the stretch that all seeds "
        f"cover; bands: 95 % t-interval, cut at the axis. {setup(summary)}"
    )
    numbers = "; ".join(
        f"{task}, {arm} {_end_in_words(runs, cost)}" for task, arms in by_task.items() for arm, runs in arms.items()
    )
    alt = (
        f"A panel for each task: held-out exact match over {cost.name}, a line for each arm; further left is sooner. At the "
        f"end: {numbers}."
    )
    return drawn(figure, "accuracy-over-time", "Who gets there first?", caption, alt)


def _end_in_words(runs: Sequence[RunRecord], cost: _Cost) -> str:
    """Mean exact match and cost of the last evaluation, as text."""
    ends = [run.evaluations[-1] for run in runs]
    accuracy = np.mean([100 * end.scores["held-out"]["all"].accuracy for end in ends])
    return f"{accuracy:.1f} % after {three_digits(float(np.mean([cost.take(end) for end in ends])))} {cost.unit}"


def halting_drawn(summary: TaskStudySummary) -> Drawn | None:
    """The figure of the exact match of Looped with halting by confidence, minus that at T(n); None where it was not tested."""
    outcomes = outcomes_of(summary, ("looped",))
    if not outcomes:
        return None
    figure, panels = panels_of(list(outcomes), "length n", "exact match minus\nthat at T(n) (points)")
    numbers: list[str] = []
    for task, arms in outcomes.items():
        axes, outcome = panels[task], arms["looped"]
        axes.axhspan(-_NEAR, _NEAR, **SHADE, zorder=0)
        axes.axvline(summary.longest[task], color="black", linewidth=0.8, dashes=(1, 2))
        at_own = in_percent(outcome.accuracy)
        tables = dict(zip(_HALTS, (outcome.confident, outcome.confident_batch, outcome.dip), strict=True))
        by_rule = {rule: in_percent(table) - at_own for rule, table in tables.items() if table}
        for rule, gaps in by_rule.items():
            draw_gaps(axes, outcome.lengths, gaps, rule)
        every = np.array(list(by_rule.values()))
        axes.set_ylim(min(-2 * _NEAR, 1.1 * every.min()), max(2 * _NEAR, 1.1 * every.max()))
        whole_ticks(axes)
        numbers += [f"{task}, {rule} {gaps.min():+.1f} to {gaps.max():+.1f}" for rule, gaps in by_rule.items()]
    common_legend(figure, Patch(**SHADE, label=f"within {_NEAR:g} points"))
    caption = (
        f"Exact match of Looped where it halts without knowing T(n), minus that after T(n) passes, on {samples_of(outcomes)} "
        f"samples of each length; {tried(outcomes)}. Most confident: the pass with the smallest doubt, which is the "
        "cross-entropy against the model's own answer. Sharpest dip: the pass whose mean doubt lies furthest below that of the "
        "passes before and after it, on a logarithmic scale. Per sample: each sample halts by itself; per batch: all samples "
        "of a length halt together. Lines: mean over seeds; points: every seed; dotted vertical line: the longest training "
        "length. "
        f"{setup(summary)}"
    )
    span = "; ".join(numbers)
    alt = (
        "A panel for each task: how much exact match a halting rule gains or loses against T(n) passes, over length. Least "
        f"and most: {span}."
    )
    return drawn(figure, "halting", "Can the model tell by itself when to halt?", caption, alt)


def tried(outcomes: Outcomes) -> str:
    """Which passes were tried for halting, as a part of a sentence."""
    earlier = [task for task, arms in outcomes.items() if any(outcome.told_passes for outcome in arms.values())]
    if not earlier:
        return "at every length all passes up to 1.5 T of the longest tested length are tried"
    return f"an earlier version tried passes up to 1.5 T(n), which leaks a part of T(n) to the model ({', '.join(earlier)})"


def draw_gaps(axes: Axes, lengths: Sequence[int], gaps: np.ndarray, rule: str) -> None:
    """Draw differences ``(N, S)`` in percentage points over length: the mean as a line, every seed as a faint point."""
    colour, mark, dashes = _HALTS[rule]
    style: dict[str, Any] = {"color": colour, "marker": mark, "markersize": 3.5, "linewidth": 1.4, "dashes": dashes}
    axes.plot(lengths, gaps.mean(1), **style, label=f"looped, {rule}")
    draw_seeds(axes, np.array(lengths), gaps, mark, colour, 3)
