"""What the figures of a study of tasks share: panels, titles, points of seeds, and the records by task and arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thalweg.records.experiment import TaskOutcome, TaskStudySummary
from thalweg.records.run import RunRecord
from thalweg.report.figures import Grouped
from thalweg.report.panels import WIDTH, labelled, legend_below, shortened

_TALL = 2.15
"""Height of a panel, inches."""
SHADE: dict[str, Any] = {"color": "black", "alpha": 0.06, "linewidth": 0}
"""Style of a shaded range."""

Outcomes = dict[str, dict[str, TaskOutcome]]
"""Task -> arm -> outcome."""


def runs_of(summary: TaskStudySummary, runs: dict[str, RunRecord]) -> dict[str, Grouped]:
    """Task -> arm -> its complete runs, one a seed; tasks and arms without any are left out."""
    complete: dict[str, Grouped] = {}
    for task in summary.tasks:
        for arm in summary.arms:
            every = (runs.get(f"{task}-{arm}-seed{seed}") for seed in summary.seeds)
            members = [run for run in every if run is not None and run.summary and run.evaluations]
            if members:
                complete.setdefault(task, {})[arm] = members
    return complete


def outcomes_of(summary: TaskStudySummary, arms: Sequence[str]) -> Outcomes:
    """Task -> arm -> its outcome, of some arms, where lengths were tested after training; empty tasks are left out."""
    tested = {(outcome.task, outcome.arm): outcome for outcome in summary.outcomes if outcome.lengths and outcome.seeds}
    by_task = {task: {arm: tested[task, arm] for arm in arms if (task, arm) in tested} for task in summary.tasks}
    return {task: outcomes for task, outcomes in by_task.items() if outcomes}


def chosen(grouped: dict[str, Grouped], arms: Sequence[str], fits: Callable[[RunRecord], bool]) -> dict[str, Grouped]:
    """Task -> arm -> the runs for which ``fits`` is true, of some arms; tasks and arms without any are left out."""
    fitting = {
        task: {arm: kept for arm in arms if (kept := [run for run in by_arm.get(arm, []) if fits(run)])}
        for task, by_arm in grouped.items()
    }
    return {task: by_arm for task, by_arm in fitting.items() if by_arm}


def panels_of(tasks: Sequence[str], x: str, y: str, width: float = WIDTH) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one panel for each task.

    Args:
        tasks: in the order of the panels.
        x: label of the horizontal axis with its unit; shown where no panel lies below.
        y: label of the vertical axis with its unit; shown at the left.
        width: of the figure, inches; below `WIDTH` there are at most two panels beside each other.
    """
    columns = min(len(tasks), 2 if width < WIDTH or len(tasks) == 4 else 3)
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(width, _TALL * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, axes in enumerate(grid):
        if place >= len(tasks):
            axes.remove()
            continue
        axes.set_title(shortened(tasks[place]), fontsize=9, parse_math=False)
        axes.set_xlabel(x if place + columns >= len(tasks) else "")
        axes.set_ylabel(y if place % columns == 0 else "")
    return figure, dict(zip(tasks, grid, strict=False))


def common_legend(figure: Figure, *others: Artist) -> None:
    """Draw one legend below all panels of a figure: everything that has a label there, and ``others``."""
    by_label: dict[object, Artist] = {}
    for artist in (artist for axes in figure.axes for artist in labelled([axes])):
        by_label.pop(artist.get_label(), None)  # the order is that of the last panels which have the labels
        by_label[artist.get_label()] = artist
    legend_below(figure, [*by_label.values(), *others], 8, columnspacing=1.4)


def whole_ticks(axes: Axes) -> None:
    """Set a few round whole numbers along the horizontal axis."""
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))


def draw_seeds(axes: Axes, places: np.ndarray, table: np.ndarray, mark: str, colour: str, size: float) -> None:
    """Draw every seed as a faint point: numbers ``(N, S)`` at the places ``(N,)``."""
    x = np.repeat(places, table.shape[1])
    axes.plot(x, table.ravel(), mark, color=colour, markersize=size, alpha=0.4, markeredgewidth=0)


def in_percent(table: Sequence[Sequence[float]]) -> np.ndarray:
    """Shares as per cent, as an array of the same shape: ``(N, S)`` for lengths or passes, and seeds."""
    return 100 * np.array(table, dtype=float)


def samples_of(outcomes: Outcomes) -> str:
    """How many samples of each length were tested, as text."""
    counts = sorted({outcome.samples for arms in outcomes.values() for outcome in arms.values()})
    return " or ".join(f"{count:,}" for count in counts)
