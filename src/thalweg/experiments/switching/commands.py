"""What the command `shift-sweep` does."""

from __future__ import annotations

import os
from pathlib import Path

from rich.table import Table

from thalweg.errors import require
from thalweg.experiments.paper.commands import failure, in_words, make_report, make_runs
from thalweg.experiments.queue import prepare, refuse_misfits
from thalweg.experiments.switching.definition import PLAN, claim_sweep, jobs_of, read_sweep, reference_jobs, report_on
from thalweg.experiments.switching.variants import SweepConfig, recipe_of, ways_of
from thalweg.records.experiment import Outcome, SweepSummary
from thalweg.records.run import Cell
from thalweg.records.task_study import TaskStudySummary
from thalweg.report.switching.page import share_in_words
from thalweg.screen import Screen, say_json
from thalweg.serialization import to_dict
from thalweg.storage import locked
from thalweg.train.assemble import make_data


def run_sweep(sweep: SweepConfig, folder: Path, workers: int, as_json: bool) -> None:
    """Make the references, then every other run that is not complete, then the report.

    Raises:
        StudyError: some runs failed; the report of the others is made first.
    """
    require(workers >= 0, "--jobs", workers, "a whole number of at least 1, or 0 for one for each core")
    refuse_misfits(way.config for way in ways_of(sweep) if way.config is not None)
    make_data(recipe_of(sweep).base)  # refuses a bad --text before anything is written
    with locked(folder, "sweep"):
        claim_sweep(sweep, folder)
        at_once = workers or os.cpu_count() or 1
        failed = make_runs(reference_jobs(sweep, folder), at_once, "references")
        if any(job.complete for job in reference_jobs(sweep, folder)):
            jobs = [job for job in jobs_of(sweep, folder) if job.name not in failed]
            prepare(jobs)
            failed |= make_runs(jobs, at_once, "sweep")
            show_sweep(report_on(sweep, folder), folder, as_json)
        if failed:
            raise failure(failed, folder)


def report_on_any(folder: Path, as_json: bool) -> None:
    """Table, answers, figures and page of a sweep or a study that is there."""
    if (folder / PLAN).exists():
        show_sweep(report_on(read_sweep(folder), folder), folder, as_json)
    else:
        make_report(folder, as_json)


def show_sweep(summary: SweepSummary, folder: Path, as_json: bool) -> None:
    """The table and the answers on standard output."""
    if as_json:
        say_json(to_dict(summary))
        return
    console = Screen(wide=200)
    title = (
        f"{summary.name}: ways to switch 1 -> {summary.loops}, {summary.task}, {len(summary.seeds)} seeds, mean and 95 % interval"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("way")
    for heading in (
        "switch at",
        "drop (points)",
        f"jump ({summary.unit})",
        f"held-out loss ({summary.unit})",
        "minus Looped's",
        "share of time",
        "ideal",
    ):
        table.add_column(heading, justify="right")
    shown = [outcome for outcome in summary.outcomes if outcome.group != "scp"]
    for outcome in shown:
        table.add_row(outcome.name, *cells(outcome, len(summary.seeds)))
    console.print(table)
    if len(shown) < len(summary.outcomes):
        console.say(f"{len(summary.outcomes) - len(shown)} settings of SCP are on the page")
    say_answers(console, summary, folder)


def say_answers(console: Screen, summary: SweepSummary | TaskStudySummary, folder: Path) -> None:
    """Questions and answers, what is missing, and where the page is."""
    for verdict in summary.verdicts:
        console.say(f"{verdict.question} {verdict.answer}")
    if summary.missing:
        console.say(f"missing: {', '.join(summary.missing)}")
    console.say(f"page: {folder / 'report.html'}")


def cells(outcome: Outcome, seeds: int) -> list[str]:
    """One row of the table."""

    def words(value: Cell) -> str:
        return in_words(value, seeds if value.n == seeds else outcome.switched)

    share = " ".join(share_in_words(outcome.share_seconds)) if outcome.share_seconds else "-"
    loss, apart = in_words(outcome.final_loss, seeds), in_words(outcome.difference, seeds)
    return [words(outcome.switch_step), words(outcome.drop), words(outcome.jump), loss, apart, share, words(outcome.ideal_flops)]
