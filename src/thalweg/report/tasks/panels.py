"""What the figures of a study of tasks share: panels, titles, legends, and the records by task and arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thalweg.records.experiment import TaskOutcome, TaskStudySummary
from thalweg.records.run import RunRecord
from thalweg.report.figures import Grouped
from thalweg.report.switching.dot_plots import LONGEST
from thalweg.report.switching.heat_maps import WIDTH

_TALL = 2.15
"""Height of a panel, inches."""
SHADE = {"color": "black", "alpha": 0.06, "linewidth": 0}

Outcomes = dict[str, dict[str, TaskOutcome]]
"""Task -> arm -> outcome."""


def runs_of(summary: TaskStudySummary, runs: dict[str, RunRecord]) -> dict[str, Grouped]:
    """Task -> arm -> its complete runs; without tasks and arms that have none."""
    found: dict[str, Grouped] = {}
    for task in summary.tasks:
        for arm in summary.arms:
            every = (runs.get(f"{task}-{arm}-seed{seed}") for seed in summary.seeds)
            mine = [run for run in every if run is not None and run.summary and run.evaluations]
            if mine:
                found.setdefault(task, {})[arm] = mine
    return found


def outcomes_of(summary: TaskStudySummary, arms: Sequence[str]) -> Outcomes:
    """The outcomes that were tested after training, of some arms, in the order of tasks and arms; without empty tasks."""
    named = {(one.task, one.arm): one for one in summary.outcomes if one.lengths and one.seeds}
    found = {task: {arm: named[task, arm] for arm in arms if (task, arm) in named} for task in summary.tasks}
    return {task: outcomes for task, outcomes in found.items() if outcomes}


def chosen(grouped: dict[str, Grouped], arms: Sequence[str], fits: Callable[[RunRecord], bool]) -> dict[str, Grouped]:
    """Task -> arm -> the runs that fit, of some arms; without tasks and arms that have none."""
    found: dict[str, Grouped] = {}
    for task, every in grouped.items():
        for arm in arms:
            mine = [run for run in every.get(arm, []) if fits(run)]
            if mine:
                found.setdefault(task, {})[arm] = mine
    return found


def panels_of(tasks: Sequence[str], x: str, y: str) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each task, with the axes' labels (and units) at the left and where nothing is below."""
    columns = len(tasks) if len(tasks) <= 3 else 2 if len(tasks) == 4 else 3
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(WIDTH, _TALL * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, axes in enumerate(grid):
        if place >= len(tasks):
            axes.remove()
            continue
        axes.set_title(title_of(tasks[place]), fontsize=9, parse_math=False)
        axes.set_xlabel(x if place + columns >= len(tasks) else "")
        axes.set_ylabel(y if place % columns == 0 else "")
    return figure, dict(zip(tasks, grid, strict=False))


def title_of(task: str) -> str:
    """The name, cut if it is long."""
    return task if len(task) <= LONGEST else task[: LONGEST - 1] + "…"


def legend_below(figure: Figure, *others: Artist) -> None:
    """One legend for all panels: every label of theirs once, and others."""
    pairs = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = [*{label: handle for handle, label in reversed(pairs)}.values()][::-1]
    handles += others  # type: ignore[arg-type]
    figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=min(8, len(handles)), columnspacing=1.4)


def whole_ticks(axes: Axes) -> None:
    """A few round whole numbers along the horizontal axis."""
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))


def in_percent(table: Sequence[Sequence[float]]) -> np.ndarray:
    """Shares as per cent, ``(N, S)`` or ``(P, S)``."""
    return 100 * np.array(table, dtype=float)


def samples_of(outcomes: Outcomes) -> str:
    """Samples tested of each length."""
    counts = sorted({one.samples for arms in outcomes.values() for one in arms.values()})
    return " or ".join(f"{count:,}" for count in counts)
