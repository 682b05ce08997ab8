"""What the commands `study` and `report` do, with progress on standard error and the table on standard output."""

from __future__ import annotations

import os
from pathlib import Path

from rich.table import Table

from thalweg.errors import StudyError, require
from thalweg.experiments.paper.definition import claim_study, complete_runs, jobs_of, landscapes_of, read_study, summary_of
from thalweg.experiments.paper.recipes import StudyConfig, runs_of
from thalweg.experiments.queue import Job, refuse_misfits, work_off
from thalweg.records.run import Cell, StudySummary, Verdict
from thalweg.report.page import NUMBERS, write_report
from thalweg.screen import Screen, progress_bar, say_json
from thalweg.serialization import to_dict
from thalweg.storage import locked
from thalweg.train.assemble import make_data
from thalweg.train.callbacks import Tenths


def run_study(study: StudyConfig, folder: Path, workers: int, as_json: bool) -> None:
    """Make all runs that are not complete, then the report.

    Raises:
        StudyError: some runs failed; the report of the others is made first.
    """
    require(workers >= 0, "--jobs", workers, "a whole number of at least 1, or 0 for one for each core")
    refuse_misfits(runs_of(study).values())
    make_data(next(iter(runs_of(study).values())))  # refuses a bad --text before anything is written; joins the corpus once
    with locked(folder, "study"):
        claim_study(study, folder)
        jobs = jobs_of(study, folder)
        failed = make_runs(jobs, workers or os.cpu_count() or 1)
        if len(failed) == len(jobs):
            raise failure(failed, folder)
        show(report_on(study, folder), folder, as_json)
        if failed:
            raise failure(failed, folder)


def make_runs(jobs: list[Job], workers: int, what: str = "study") -> dict[str, str]:
    """Work off the queue behind a progress bar."""
    console = Screen(stderr=True)
    done = sum(job.complete and job.measured for job in jobs)
    landscapes = sum(job.plan is not None for job in jobs)
    also = f", {landscapes} landscapes" if landscapes else ""
    console.say(f"{what}: {len(jobs)} runs{also}, {done} complete already, {workers} at a time")
    with progress_bar(console) as bar:
        task = bar.add_task(what, total=100, note="")
        tenths = Tenths(console, first=1)

        def on_progress(share: float, names: list[str]) -> None:
            bar.update(task, completed=round(100 * share, 1), note=", ".join(names))
            tenths(share, f"{what}: {int(share * 10) * 10} % of the work is done")

        return work_off(jobs, workers, on_progress)


def failure(failed: dict[str, str], folder: Path) -> StudyError:
    """The error that names every failed run and what it said."""
    lines = "".join(f"\n  {name}: {said}" for name, said in sorted(failed.items()))
    return StudyError(f"{len(failed)} runs failed (logs: {folder}/runs/*/stderr.log); run the same command again{lines}")


def make_report(folder: Path, as_json: bool) -> None:
    """Table, verdicts, figures and page of a study that is there."""
    study = read_study(folder)
    show(report_on(study, folder), folder, as_json)


def report_on(study: StudyConfig, folder: Path) -> StudySummary:
    """Summarise and write figures and page."""
    jobs = jobs_of(study, folder)
    runs, landscapes = complete_runs(study, jobs), landscapes_of(jobs)
    summary = summary_of(study, folder, jobs, runs, landscapes)
    named = {job.name: runs[job.config.arm][job.config.seed] for job in jobs if job.config.seed in runs[job.config.arm]}
    write_report(summary, named, folder, landscapes)
    return summary


def show(summary: StudySummary, folder: Path, as_json: bool) -> None:
    """The table and verdicts on standard output."""
    if as_json:
        say_json(to_dict(summary))
        return
    console = Screen(wide=200)
    table = Table(title=f"{summary.name}: {summary.task}, {len(summary.seeds)} seeds, mean and 95 % interval", title_justify="left")
    table.add_column("arm")
    for heading in summary.columns.values():
        table.add_column(heading, justify="right")
    for arm, row in summary.table.items():
        table.add_row(arm, *(in_words(row[column], len(summary.seeds), column) for column in summary.columns))
    console.print(table)
    for verdict in summary.verdicts:
        console.say(f"{verdict.verdict:>12}: {verdict.claim} ({evidence(verdict)})")
    if summary.missing:
        console.say(f"missing: {', '.join(summary.missing)}")
    console.say(f"page: {folder / 'report.html'}")


def evidence(verdict: Verdict) -> str:
    """The first numbers of a verdict; why, where it was not measured."""
    if verdict.verdict == "not measured":
        return verdict.test
    numbers = [f"{name} {in_words(value, value.n)}" for name, value in verdict.numbers.items()]
    more = f"; {len(numbers) - NUMBERS} more on the page" if len(numbers) > NUMBERS else ""
    return "; ".join(numbers[:NUMBERS]) + more


def in_words(value: Cell, seeds: int, column: str = "") -> str:
    """A cell for the terminal: mean, interval, ceiling; "never" where no seed has a value."""
    if value.mean is None:
        return f"never ({seeds} seeds)" if column.startswith("target") else "-"
    text = f"{value.mean:.4g}"
    if value.low is not None and value.high is not None:
        text += f" [{value.low:.4g}, {value.high:.4g}]"
    if value.ceiling is not None:
        text += f" of {value.ceiling:.4g}"
    if value.n < seeds:
        text += f" ({value.n} of {seeds} seeds)"
    return text
