"""One self-contained page of a study of algorithmic tasks: answers first, no script, no network, figures inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thalweg.intervals import interval
from thalweg.records.experiment import TaskOutcome, TaskStudySummary
from thalweg.records.run import Cell, RunRecord
from thalweg.report.figures import Drawn, save_all
from thalweg.report.page import NUMBERS, PAGES, data_address, show
from thalweg.report.switching.page import share_in_words, short
from thalweg.report.tasks.figures import draw_tasks, told_lengths
from thalweg.storage import write_text


@dataclass(frozen=True)
class Tested:
    """Exact match at one length: over seeds, and every seed in their order."""

    cell: Cell
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class TaskTable:
    """One task on the page."""

    task: str
    lengths: dict[int, str]
    """Tested length -> what it is; at most the edge of the trained range and the longest one."""
    rows: tuple[tuple[TaskOutcome, tuple[Tested | None, ...]], ...]
    """Outcomes in the order of the arms, each with its exact match at ``lengths``."""


def write_task_report(summary: TaskStudySummary, runs: dict[str, RunRecord], folder: Path) -> None:
    """Figures into ``figures/`` (SVG and PNG) and the page to ``report.html``.

    Args:
        summary: of the study, complete or not.
        runs: by name, "<task>-<arm>-seed<n>".
        folder: of the study.
    """
    figures = draw_tasks(summary, runs)
    save_all(figures, folder / "figures")
    write_text(folder / "report.html", render_tasks(summary, figures))


def render_tasks(summary: TaskStudySummary, figures: Sequence[Drawn]) -> str:
    """The page as HTML; everything that a user named is escaped."""
    return PAGES.get_template("tasks.html").render(
        study=summary,
        figures=[(figure, data_address(figure)) for figure in figures],
        tables=task_tables(summary),
        show=show,
        share=share_in_words,
        first=NUMBERS,
        short=short,
        percent=percent,
    )


def task_tables(summary: TaskStudySummary) -> list[TaskTable]:
    """A table for each task that has outcomes, in order."""
    tables = []
    for task in summary.tasks:
        named = {one.arm: one for one in summary.outcomes if one.task == task}
        mine = [named[arm] for arm in summary.arms if arm in named]
        longest = summary.longest[task]
        lengths = told_lengths(sorted({length for one in mine for length in one.lengths}), longest)
        rows = tuple((one, tuple(_tested_at(one, length) for length in lengths)) for one in mine)
        if rows:
            tables.append(TaskTable(task, {length: _length_in_words(length, longest) for length in lengths}, rows))
    return tables


def _length_in_words(length: int, longest: int) -> str:
    """What a tested length is, beside the longest training length."""
    return "longest tested" if length > longest else "longest trained" if length == longest else "in the trained range"


def _tested_at(one: TaskOutcome, length: int) -> Tested | None:
    """Exact match at a length; None where it was not tested."""
    if length not in one.lengths or not one.seeds:
        return None
    row = one.accuracy[one.lengths.index(length)]
    found = interval(list(row))
    return Tested(Cell(found.mean, found.low, found.high, found.n), row)


def percent(value: float | None) -> str:
    """A share as per cent, one decimal; zero has no sign."""
    return "-" if value is None else f"{round(100 * value, 1) + 0.0:.1f}"
