"""What all experiments share, from plan to page: the folder and its lock, the queue, resuming, extending, the printed table.

`make` runs an experiment and reports on it. A report alone is `Experiment.report` followed by `show`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.table import Table as RichTable

from thalweg.errors import StudyError, plural, require
from thalweg.experiments.executors import Executor, LocalProcesses
from thalweg.experiments.experiment import Experiment, Summary
from thalweg.experiments.folder import claim
from thalweg.experiments.queue import Job, prepare, work_off
from thalweg.screen import Screen, progress_bar, say_json
from thalweg.serialization import to_dict
from thalweg.storage import locked
from thalweg.train.callbacks import Tenths
from thalweg.train.group import refuse_several

_WIDTH = 200
"""Characters in a line of the table where the output is not a terminal."""
_NAMED = 12
"""Missing runs that the terminal names."""


def make(experiment: Experiment, folder: Path, workers: int, as_json: bool, executor: Executor | None = None) -> None:
    """Make all runs of an experiment that are not complete, then its report.

    The runs that can be planned may depend on complete runs. So the queue is planned and worked off repeatedly, until it has no new
    runs.

    Args:
        experiment: with its plan.
        folder: of the experiment. It is created when missing; one that holds this experiment is resumed or extended.
        workers: number of runs at a time; 0 takes one for each core, or on a cluster all.
        as_json: print the summary as JSON instead of a table.
        executor: starts the runs; None takes processes on this machine.
    Raises:
        FolderError: the folder holds something else, or another process has locked it.
        StudyError: some runs failed; the report of the others is made first.
    """
    refuse_several(experiment.kind)
    require(workers >= 0, "--jobs", workers, "a whole number of at least 1, or 0 for one for each core")
    experiment.check()
    executor = executor or LocalProcesses()
    with locked(folder, experiment.kind):
        claim(experiment, folder)
        report = shlex.join(["thalweg", "report", str(folder)])
        Screen(stderr=True).say(f"{experiment.kind}: `{report}` in another terminal shows what is complete so far")
        failed: dict[str, str] = {}
        tried: set[str] = set()
        while jobs := [job for job in experiment.jobs(folder) if job.name not in tried]:
            prepare(jobs)
            failed |= make_runs(jobs, workers or executor.most_at_once, experiment.kind, executor, experiment.more_follow(folder))
            tried |= {job.name for job in jobs}
        if len(failed) == len(tried):
            raise _failure(failed, folder)
        show(experiment, experiment.report(folder), folder, as_json)
        if failed:
            raise _failure(failed, folder)


def make_runs(jobs: list[Job], workers: int, what: str, executor: Executor, more: bool = False) -> dict[str, str]:
    """Work off a queue behind a progress bar; see `work_off`.

    Args:
        jobs: the runs, after `prepare`.
        workers: number of runs at a time.
        what: noun for the experiment in messages.
        executor: starts the processes.
        more: whether further runs are planned when these are complete.
    Returns:
        Name of each run that failed -> reason.
    """
    console, finished = Screen(stderr=True), sum(job.ended for job in jobs)
    landscapes = sum(job.plan is not None for job in jobs)
    also = f" and {plural(landscapes, 'landscape')}" if landscapes else ""
    later = "; the others follow from these" if more else ""
    console.say(f"{what}: {plural(len(jobs), 'run')}{also}, {finished} complete already, {workers} at a time{later}")
    with progress_bar(console) as bar:
        task = bar.add_task(what, total=100, note="")
        tenths = Tenths(console, first=1)

        def on_progress(share: float, done: int, names: list[str]) -> None:
            share = share if done == len(jobs) else min(share, 0.99)  # the last update of a run is not its end
            complete = f"{done} of {plural(len(jobs), 'run')} complete"
            bar.update(task, completed=round(100 * share, 1), note="; ".join([complete, *filter(None, [", ".join(names)])]))
            words = f"{what}: {int(share * 100)} % of the work{' of this part' if more else ''} is done, {complete}"
            rest = _rest_of_runs(len(jobs), done, finished)
            tenths(share, words, steady=rest is not None, rest=rest)

        return work_off(jobs, workers, on_progress, executor)


def _rest_of_runs(count: int, done: int, before: int) -> float | None:
    """Runs that are left over those that were made since the start; None before the first of them."""
    return (count - done) / (done - before) if done > before else None


def _failure(failed: dict[str, str], folder: Path) -> StudyError:
    """The error that names every failed run and why it failed."""
    lines = "".join(f"\n  {name}: {reason}" for name, reason in sorted(failed.items()))
    return StudyError(f"{plural(len(failed), 'run')} failed (logs: {folder}/runs/*/stderr.log); run the same command again{lines}")


def show(experiment: Experiment, summary: Summary, folder: Path, as_json: bool) -> None:
    """Print the table, the verdicts and the missing runs of a summary; or the summary as JSON."""
    if as_json:
        say_json(to_dict(summary))
        return
    console, table = Screen(wide=_WIDTH), experiment.table(summary)
    drawn = RichTable()
    for index, heading in enumerate(table.headings):
        drawn.add_column(heading, justify="right" if index else "left")
    for row in table.rows:
        drawn.add_row(*row)
    console.say(table.title)
    console.print(drawn)
    for line in experiment.lines(summary):
        console.say(line)
    if summary.missing:
        more = f" and {len(summary.missing) - _NAMED} more, listed on the page" if len(summary.missing) > _NAMED else ""
        console.say(f"missing: {', '.join(summary.missing[:_NAMED])}{more}")
    console.say(f"page: {folder / 'report.html'}")
