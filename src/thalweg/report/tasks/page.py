"""The page of a study of algorithmic tasks: one file with answers, tables and figures, without script or network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thalweg.intervals import interval
from thalweg.records.experiment import TaskOutcome, TaskStudySummary
from thalweg.records.run import Cell, RunRecord
from thalweg.report.figures import Drawn, save_all, setup
from thalweg.report.page import PAGES, data_address
from thalweg.report.switching.page import share_in_words, short
from thalweg.report.tasks.figures import draw_tasks, shown_lengths
from thalweg.storage import write_text


@dataclass(frozen=True)
class Tested:
    """Exact match at one length (0 to 1): mean and interval over seeds, and each seed in their order."""

    cell: Cell
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class TaskTable:
    """The table of one task."""

    task: str
    lengths: dict[int, str]
    """Tested length -> a description; at most the longest trained length and the longest tested one."""
    rows: tuple[tuple[TaskOutcome, tuple[Tested | None, ...]], ...]
    """Outcomes in the order of the arms, each with its exact match at ``lengths``."""


def write_task_report(summary: TaskStudySummary, runs: dict[str, RunRecord], folder: Path) -> None:
    """Write the figures to ``figures/`` (SVG and PNG) and the page to ``report.html``.

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
    addresses = {figure.name: data_address(figure) for figure in figures}
    return PAGES.get_template("tasks.html").render(
        study=summary,
        setup_text=setup(summary),
        figures=[(figure, addresses[figure.name]) for figure in figures],
        addresses=addresses,
        tables=task_tables(summary),
        share=share_in_words,
        short=short,
        percent=percent,
    )


def task_tables(summary: TaskStudySummary) -> list[TaskTable]:
    """A table for each task that has outcomes, in the order of the study."""
    tables = []
    for task in summary.tasks:
        by_arm = {outcome.arm: outcome for outcome in summary.outcomes if outcome.task == task}
        outcomes = [by_arm[arm] for arm in summary.arms if arm in by_arm]
        longest = summary.longest[task]
        lengths = shown_lengths(sorted({length for outcome in outcomes for length in outcome.lengths}), longest)
        rows = tuple((outcome, tuple(_tested_at(outcome, length) for length in lengths)) for outcome in outcomes)
        if rows:
            tables.append(TaskTable(task, {length: _length_in_words(length, longest) for length in lengths}, rows))
    return tables


def _length_in_words(length: int, longest: int) -> str:
    """How a tested length compares with the longest training length, as text."""
    return "longest tested" if length > longest else "longest trained" if length == longest else "in the trained range"


def _tested_at(outcome: TaskOutcome, length: int) -> Tested | None:
    """Exact match at a length; None where it was not tested."""
    if length not in outcome.lengths or not outcome.seeds:
        return None
    seeds = outcome.accuracy[outcome.lengths.index(length)]
    mean = interval(list(seeds)).within(0, 1)
    return Tested(Cell(mean.mean, mean.low, mean.high, mean.n), seeds)


def percent(value: float | None) -> str:
    """A share as per cent with one decimal, or a dash where there is none; zero has no sign."""
    return "-" if value is None else f"{round(100 * value, 1) + 0.0:.1f}"
