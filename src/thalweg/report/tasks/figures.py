"""Figures of a study of algorithmic tasks, from its records alone: a panel for each task, and seeds beside their mean.

Shape letters: N tested lengths, P passes, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from thalweg.records.experiment import HALTING, SWITCHING, TaskOutcome, TaskStudySummary
from thalweg.records.run import RunRecord
from thalweg.report.figures import COLOURS, DASHES, STYLE, Drawn, Grouped, draw_band, drawn, score, setup
from thalweg.report.switching.figures import REACH, at_switch, draw_switches
from thalweg.report.tasks.panels import (
    SHADE,
    Outcomes,
    chosen,
    in_percent,
    legend_below,
    outcomes_of,
    panels_of,
    runs_of,
    samples_of,
    title_of,
    whole_ticks,
)
from thalweg.report.tasks.savings import COMPARED, saved_drawn
from thalweg.report.tasks.stages import stages_drawn

_NEAR = 100 * HALTING
"""Percentage points within which halting counts as good as T(n)."""
_LOOPING = {"looped": (2.6, 7.5), "shift": (1.2, 5.0)}
"""Arms whose passes are varied after training -> widths of line and mark, points; the first can be seen below the second."""
_TIMED = ("single", "looped", *COMPARED)
KINDS = {"in the trained range": ("o", (None, None)), "at its edge": ("s", (4, 1.5)), "beyond it": ("^", (1, 1))}
"""Kind of a tested length -> its mark and dashes."""
_HALTS = {
    "surest, per sample": (COLOURS["looped"], "o", (None, None)),
    "surest, per batch": ("#333333", "s", (3, 1.5)),
    "sharpest dip, per batch": ("#0072B2", "^", (1, 1)),
}
"""When it halts -> colour, mark and dashes."""


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
    """Exact match over length, in and out of the trained range, all arms; None where nothing was tested."""
    outcomes = outcomes_of(summary, summary.arms)
    if not outcomes:
        return None
    figure, panels = panels_of(list(outcomes), "length n", "exact match (%)")
    for task, arms in outcomes.items():
        for place, one in enumerate(arms.values()):
            draw_lengths(panels[task], one, place - (len(arms) - 1) / 2)
        shade_trained(panels[task], summary.longest[task])
        panels[task].set_ylim(-4, 104)
    legend_below(figure, Patch(**SHADE, label="trained lengths"))  # type: ignore[arg-type]
    caption = (
        f"Exact match (the whole answer is right) on {samples_of(outcomes)} samples of each length, drawn apart from "
        "those of training, where short ones, of which there are few, occur all the same. Lines: "
        "mean over seeds; points: every seed, arms side by side so that equal ones can be seen; shaded: lengths up to the longest "
        f"in training. {setup(summary)}"
    )
    told = ". ".join(
        f"{task}: " + "; ".join(ends_in_words(one, summary.longest[task]) for one in arms.values())
        for task, arms in outcomes.items()
    )
    alt = f"Curves of exact match over length n, a panel for each task. Means over seeds. {told}."
    return drawn(figure, "accuracy-over-length", "How far do the arms generalise?", caption, alt)


def draw_lengths(axes: Axes, one: TaskOutcome, aside: float) -> None:
    """Mean as a line, every seed as a faint point, ``aside`` hundredths of the tested range beside its length."""
    accuracy, colour = in_percent(one.accuracy), COLOURS.get(one.arm, "black")
    line = {"color": colour, "linewidth": 1.5, "dashes": DASHES.get(one.arm, (None, None)), "label": one.arm}
    axes.plot(one.lengths, accuracy.mean(1), **line)  # type: ignore[arg-type]
    places = np.repeat(one.lengths, accuracy.shape[1]) + 0.01 * aside * (max(one.lengths) - min(one.lengths))
    axes.plot(places, accuracy.ravel(), "o", color=colour, markersize=2.6, alpha=0.4, markeredgewidth=0)


def shade_trained(axes: Axes, longest: int) -> None:
    """The lengths that training has seen, as far as the axis shows them."""
    low, high = axes.get_xlim()
    if longest > low:
        axes.axvspan(low, min(longest, high), **SHADE, zorder=0)  # type: ignore[arg-type]
    axes.set_xlim(low, high)
    whole_ticks(axes)


def told_lengths(lengths: Sequence[int], longest: int) -> list[int]:
    """The last tested length in the trained range, and the longest one beyond it, as far as there are such."""
    inside = [n for n in lengths if n <= longest]
    return list(dict.fromkeys([*inside[-1:], *lengths[-1:]]))


def ends_in_words(one: TaskOutcome, longest: int) -> str:
    """Mean exact match at the lengths that are told."""
    means = dict(zip(one.lengths, in_percent(one.accuracy).mean(1), strict=True))
    return f"{one.arm} " + ", ".join(f"{means[n]:.1f} % at {n}" for n in told_lengths(one.lengths, longest))


def three_lengths(lengths: Sequence[int], longest: int) -> dict[str, int]:
    """Kind -> the tested length nearest to half of the longest training length, the last up to it, the nearest to 1.5 of it.

    Kinds without a length are left out, and so is the first where it would be the second again.
    """
    inside, outside = [n for n in lengths if n <= longest], [n for n in lengths if n > longest]
    found: dict[str, int] = {}
    first, edge, beyond = KINDS
    if len(inside) > 1:
        found[first] = min(inside[:-1], key=lambda n: abs(n - longest / 2))
    if inside:
        found[edge] = inside[-1]
    if outside:
        found[beyond] = min(outside, key=lambda n: abs(n - 1.5 * longest))
    return found


def loops_drawn(summary: TaskStudySummary) -> Drawn | None:
    """Exact match over passes at three lengths, Looped and SHIFT; None where no passes were varied."""
    outcomes = outcomes_of(summary, tuple(_LOOPING))
    outcomes = {task: arms for task, arms in outcomes.items() if any(one.by_loops for one in arms.values())}
    if not outcomes:
        return None
    figure, panels = panels_of(list(outcomes), "passes", "exact match (%)")
    told: list[str] = []
    for task, arms in outcomes.items():
        lengths: dict[str, None] = {}
        for one in arms.values():
            for kind, length in three_lengths(one.lengths, summary.longest[task]).items():
                if str(length) in one.by_loops:
                    draw_loops(panels[task], one, length, kind)
                    told.append(f"{task}, {one.arm}: {_passes_in_words(one, length)}")
                    lengths[str(length)] = None
        panels[task].set_title(f"{title_of(task)}, n = {', '.join(lengths)}", fontsize=9, parse_math=False)
        panels[task].set_ylim(-4, 104)
        whole_ticks(panels[task])
    shown = [arm for arm in _LOOPING if any(arm in arms for arms in outcomes.values())]
    lines = [Line2D([], [], color=COLOURS[arm], linewidth=_LOOPING[arm][0], label=arm) for arm in shown]
    legend_below(figure, *lines, *map(_kind_line, KINDS))
    caption = (
        f"Exact match after each number of passes, on {samples_of(outcomes)} samples of three lengths n (in the panel's "
        "title, in order of the legend). Lines: mean over seeds; large marks: at T(n), the passes that the length asks for; faint "
        f"marks there: every seed. {setup(summary)}"
    )
    alt = f"Curves of exact match over passes, a panel for each task. {'. '.join(told)}."
    return drawn(figure, "accuracy-over-loops", "Do more passes than T(n) help or harm?", caption, alt)


def _kind_line(kind: str) -> Line2D:
    """A kind of length in a legend."""
    mark, dashes = KINDS[kind]
    return Line2D([], [], color="#555555", linewidth=1.4, marker=mark, markersize=5, dashes=dashes, label=kind)  # type: ignore[arg-type]


def draw_loops(axes: Axes, one: TaskOutcome, length: int, kind: str) -> None:
    """One length of one arm: the mean over passes, and the seeds at T(n)."""
    accuracy, colour = in_percent(one.by_loops[str(length)]), COLOURS[one.arm]
    (mark, dashes), (width, size) = KINDS[kind], _LOOPING[one.arm]
    mean, own = accuracy.mean(1), _passes_at(one, length)
    axes.plot(range(1, len(mean) + 1), mean, color=colour, linewidth=width, alpha=0.8, dashes=dashes)
    axes.plot([own] * accuracy.shape[1], accuracy[own - 1], mark, color=colour, markersize=3, alpha=0.4, markeredgewidth=0)
    axes.plot([own], mean[own - 1 : own], mark, color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.8)


def _passes_at(one: TaskOutcome, length: int) -> int:
    """T(n), or the fewer passes that the model was trained with."""
    return one.loops[one.lengths.index(length)]


def _passes_in_words(one: TaskOutcome, length: int) -> str:
    """Mean exact match at T(n) and after the most passes that were tried."""
    mean, own = in_percent(one.by_loops[str(length)]).mean(1), _passes_at(one, length)
    return f"n = {length}: {mean[own - 1]:.1f} % after T(n) = {own} passes, {mean[-1]:.1f} % after {len(mean)}"


def switches_drawn(summary: TaskStudySummary, grouped: dict[str, Grouped]) -> Drawn | None:
    """Held-out exact match around the switch of runs that have one; None where there are none."""
    found = chosen(grouped, SWITCHING, lambda run: len(run.switches) == 1)
    if not found:
        return None
    figure, panels = panels_of(list(found), "updates since the run's own switch", "held-out exact match (%)")
    reach = max(REACH, *(1.2 * run.switches[0].onset for arms in found.values() for runs in arms.values() for run in runs))
    for task, arms in found.items():
        for arm, runs in arms.items():
            draw_switches(panels[task], arm, runs, arm, reach)
        panels[task].axvline(0, color="black", linewidth=0.6, alpha=0.5, zorder=1)
        panels[task].set_xlim(-reach, reach)
    legend_below(figure)
    caption = (
        f"Held-out exact match on the trained lengths within {reach:.0f} updates of each run's own switch, of runs that have one; "
        "those with many stages are drawn along their run. Thin: one line a seed; "
        "thick: mean over seeds. At 0 the same weights are scored before and after the switch. Each panel has its own vertical "
        f"axis. {setup(summary)}"
    )
    told = "; ".join(
        f"{task}, {arm} from {at_switch(runs, True):.1f} % to {at_switch(runs, False):.1f} %"
        for task, arms in found.items()
        for arm, runs in arms.items()
    )
    alt = f"Curves of held-out exact match around the switch, a panel for each task. At the switch itself: {told}."
    return drawn(figure, "switch-by-task", "What does the switch do to the exact match?", caption, alt)


def times_drawn(summary: TaskStudySummary, grouped: dict[str, Grouped]) -> Drawn | None:
    """Held-out exact match over training time; None where there are no such runs."""
    found = chosen(grouped, _TIMED, lambda run: True)
    if not found:
        return None
    figure, panels = panels_of(list(found), "training time (s), evaluation left out", "held-out exact match (%)")
    for task, arms in found.items():
        for arm, runs in arms.items():
            draw_band(panels[task], arm, runs, lambda e: e.seconds, score("held-out", "all", "accuracy", 100))
        panels[task].set_ylim(-4, 104)
        panels[task].set_xlim(left=0)
        whole_ticks(panels[task])
    legend_below(figure)
    caption = (
        "Held-out exact match on all trained lengths over training time. Lines: mean over seeds on the stretch that all seeds "
        f"cover; bands: 95 % t-interval, cut at the axis. {setup(summary)}"
    )
    told = "; ".join(f"{task}, {arm} {_end_in_words(runs)}" for task, arms in found.items() for arm, runs in arms.items())
    alt = f"Curves of held-out exact match over seconds, a panel for each task. At the end, means over seeds: {told}."
    return drawn(figure, "accuracy-over-time", "Who gets there first?", caption, alt)


def _end_in_words(runs: Sequence[RunRecord]) -> str:
    """Mean of the last evaluation and its time."""
    ends = [run.evaluations[-1] for run in runs]
    accuracy = np.mean([100 * end.scores["held-out"]["all"].accuracy for end in ends])
    return f"{accuracy:.1f} % after {np.mean([end.seconds for end in ends]):.0f} s"


def halting_drawn(summary: TaskStudySummary) -> Drawn | None:
    """What halting by confidence costs against T(n), Looped; None where Looped was not tested."""
    outcomes = outcomes_of(summary, ("looped",))
    if not outcomes:
        return None
    figure, panels = panels_of(list(outcomes), "length n", "exact match minus\nthat at T(n) (points)")
    told: list[str] = []
    for task, arms in outcomes.items():
        axes, one = panels[task], arms["looped"]
        axes.axhspan(-_NEAR, _NEAR, **SHADE, zorder=0)  # type: ignore[arg-type]
        axes.axvline(summary.longest[task], color="black", linewidth=0.8, dashes=(1, 2))
        own = in_percent(one.accuracy)
        tables = dict(zip(_HALTS, (one.confident, one.confident_batch, one.dip), strict=True))
        apart = {name: in_percent(found) - own for name, found in tables.items() if found}
        for name, gaps in apart.items():
            draw_gaps(axes, one.lengths, gaps, name)
        every = np.array(list(apart.values()))
        axes.set_ylim(min(-2 * _NEAR, 1.1 * every.min()), max(2 * _NEAR, 1.1 * every.max()))
        whole_ticks(axes)
        told += [f"{task}, {name} {gaps.min():+.1f} to {gaps.max():+.1f}" for name, gaps in apart.items()]
    legend_below(figure, Patch(**SHADE, label=f"within {_NEAR:g} points"))  # type: ignore[arg-type]
    caption = (
        "Exact match of Looped where it halts without knowing T(n), minus that after T(n) passes, on "
        f"{samples_of(outcomes)} samples of each length; {tried(outcomes)}. Surest: where its doubt (cross-entropy against its "
        "own answer) is smallest; sharpest dip: where the mean doubt lies furthest below that of one pass less and one more, on a "
        "logarithmic scale. Per sample: each halts by itself; per batch: all samples of a length halt together. Lines: mean over "
        "seeds; points: every seed; dotted vertical: the longest training length. "
        f"{setup(summary)}"
    )
    alt = f"Curves of the difference over length, a panel for each task. Least and most over lengths and seeds: {'; '.join(told)}."
    return drawn(figure, "halting", "Can the model tell by itself when to halt?", caption, alt)


def tried(outcomes: Outcomes) -> str:
    """Among which passes was halted, in words."""
    earlier = [task for task, arms in outcomes.items() if any(one.told_passes for one in arms.values())]
    if not earlier:
        return "at every length all passes up to 1.5 T of the longest tested length are tried"
    return f"passes up to 1.5 T(n) were tried, by an earlier version that so told the model a part of T(n) ({', '.join(earlier)})"


def draw_gaps(axes: Axes, lengths: Sequence[int], gaps: np.ndarray, name: str) -> None:
    """Differences ``(N, S)`` in percentage points: the mean as a line, every seed as a faint point."""
    colour, mark, dashes = _HALTS[name]
    line = {"color": colour, "marker": mark, "markersize": 3.5, "linewidth": 1.4, "dashes": dashes}
    axes.plot(lengths, gaps.mean(1), **line, label=f"looped, {name}")  # type: ignore[arg-type]
    axes.plot(np.repeat(lengths, gaps.shape[1]), gaps.ravel(), mark, color=colour, markersize=3, alpha=0.4, markeredgewidth=0)
