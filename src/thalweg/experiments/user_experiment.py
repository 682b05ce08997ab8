"""The base of an experiment of a user's own: arms, outcomes, answers and figures; all else follows.

    class Widths(tw.Experiment):
        "Does a wider model end with a lower loss?"

        def arms(self): ...      # name -> RunConfig
        def outcomes(self, runs): ...   # name -> heading -> numbers, one a seed
        def answers(self, runs): ...
        def figures(self, runs): ...

``thalweg study my_module:Widths`` makes it: folder, queue, resuming, extending, table and page.
"""

from __future__ import annotations

import abc
import contextlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from thalweg.errors import BadInputError, FolderError, ThalwegError, format_error, require
from thalweg.experiments.compared import Compared, ComparedArm, stored
from thalweg.experiments.experiment import Experiment, Table
from thalweg.experiments.folder import read_plan, slug
from thalweg.experiments.metrics import Pairs, cell
from thalweg.experiments.queue import Job, unplanned
from thalweg.experiments.words import command_words, in_words, run_words
from thalweg.records.experiment import ExperimentSummary, FigureRecord
from thalweg.records.run import Cell, RunRecord, Verdict, recorded
from thalweg.report.user_experiment import Picture, write_own_report
from thalweg.serialization import to_dict
from thalweg.storage import read_json, write_json
from thalweg.train.config import RunConfig

PLAN = "experiment.json"
Runs = dict[str, Pairs]
"""Arm -> seed -> complete run."""
Outcomes = Mapping[str, Mapping[str, Sequence[float | None]]]
"""Arm -> heading with unit -> one number for each seed that is complete; None where a run has none."""


@dataclass(frozen=True)
class OwnPlan:
    """What an experiment of a user's own was made with."""

    experiment: str
    """``module:Class``."""
    arms: tuple[str, ...]
    seeds: tuple[int, ...]


class OwnExperiment(Experiment[ExperimentSummary]):
    """An experiment of a user's own; give `arms`, and what is to be made of the runs.

    The class's docstring is the question that the page asks; ``seeds`` is how many there are.
    """

    kind, plan_file = "experiment", PLAN
    seeds: ClassVar[int] = 3

    def __init__(self, name: str = "", seeds: int = 0) -> None:
        count = seeds or self.seeds
        require(isinstance(count, int) and count >= 1, "seeds", count, "a whole number of at least 1")
        self.configs = self.checked_arms()
        home = name or f"{type(self).__module__}:{type(self).__qualname__}"
        self.plan = OwnPlan(home, tuple(self.configs), tuple(range(count)))

    @abc.abstractmethod
    def arms(self) -> Mapping[str, RunConfig]:
        """Name of each arm -> its config; arm and seed are filled in."""

    def outcomes(self, runs: Runs) -> Outcomes:
        """What the table shows. By default the final held-out loss."""
        return {arm: {"held-out loss (nats)": [final_loss(run) for run in pairs.values()]} for arm, pairs in runs.items()}

    def answers(self, runs: Runs) -> Sequence[Verdict]:
        """What the experiment says; none by default."""
        return ()

    def figures(self, runs: Runs) -> Mapping[str, Any]:
        """Heading -> matplotlib figure; none by default. The set-up is added to the caption."""
        return {}

    def checked_arms(self) -> dict[str, RunConfig]:
        """The arms, looked at.

        Raises:
            BadInputError: they are no configs by name, or two names make one folder.
        """
        given = self.arms()
        what = f"experiment {type(self).__qualname__}"
        good = isinstance(given, Mapping) and bool(given) and all(isinstance(one, RunConfig) for one in given.values())
        require(good, f"{what}: arms()", given, "a dict of RunConfig by name")
        require(
            all(isinstance(name, str) and slug(name) for name in given),
            f"{what}: arms()",
            list(given),
            "names with letters or digits",
        )
        apart = len({slug(name) for name in given}) == len(given)
        require(
            apart,
            f"{what}: arms()",
            list(given),
            "names that differ in more than case and punctuation, as folders are named by them",
        )
        return dict(given)

    def jobs(self, folder: Path) -> list[Job]:
        """Every arm at every seed."""
        return [
            Job(name, replace(config, arm=slug(arm), seed=seed), folder / "runs" / name)
            for arm, config in self.configs.items()
            for seed in self.plan.seeds
            for name in (f"{slug(arm)}-seed{seed}",)
        ]

    def complete_runs(self, folder: Path) -> Runs:
        """Records of the complete runs."""
        records = {(job.config.arm, job.config.seed): job.record for job in self.jobs(folder)}
        found = {arm: {seed: records[slug(arm), seed] for seed in self.plan.seeds} for arm in self.configs}
        return {arm: {seed: run for seed, run in pairs.items() if run is not None} for arm, pairs in found.items()}

    @property
    def command(self) -> str:
        return command_words("study", self.plan.experiment, seeds=len(self.plan.seeds))

    def report(self, folder: Path) -> ExperimentSummary:
        runs, jobs = self.complete_runs(folder), self.jobs(folder)
        some = next((run for pairs in runs.values() for run in pairs.values()), None)
        if some is None or some.summary is None:
            raise FolderError(f"experiment {folder}: none of its {len(jobs)} runs is complete; run the same command again")
        known = {arm: pairs for arm, pairs in runs.items() if pairs}
        table, answers, figures = self.made_of(known)
        missing = tuple(job.status for job in jobs if job.record is None)
        summary = ExperimentSummary(
            name=folder.resolve().name,
            command=self.command,
            title=(inspect.getdoc(type(self)) or type(self).__name__).splitlines()[0],
            experiment=self.plan.experiment,
            arms=self.plan.arms,
            seeds=self.plan.seeds,
            complete=not missing,
            missing=missing,
            columns=tuple(dict.fromkeys(heading for row in table.values() for heading in row)),
            table=table,
            verdicts=answers,
            setup={arm: run_words(config) for arm, config in self.configs.items()} | unplanned(jobs),
            provenance=some.summary.provenance,
            figures=tuple(FigureRecord(one.name, one.heading, "") for one in figures),
        )
        write_json(folder / "summary.json", to_dict(summary))
        write_own_report(summary, figures, folder)
        return summary

    def made_of(self, runs: Runs) -> tuple[dict[str, dict[str, Cell]], tuple[Verdict, ...], list[Picture]]:
        """Table, answers and figures that the user's methods make of the complete runs, looked at.

        Raises:
            BadInputError: a method fails, or gives something else than what it is asked for.
        """
        what = f"experiment {self.plan.experiment}"
        with _naming_failures(f"{what}: outcomes()"):
            table = {str(arm): {str(head): cell(list(row[head])) for head in row} for arm, row in self.outcomes(runs).items()}
        others = sorted(set(table) - set(self.configs))
        require(not others, f"{what}: outcomes()", others, f"arms among {', '.join(self.configs)}")
        with _naming_failures(f"{what}: answers()"):
            answers = tuple(self.answers(runs))
        require(all(isinstance(one, Verdict) for one in answers), f"{what}: answers()", answers, "a list of thalweg.Verdict")
        with _naming_failures(f"{what}: figures()"):
            drawings = dict(self.figures(runs))
        good = all(slug(str(heading)) and hasattr(one, "savefig") for heading, one in drawings.items())
        require(good, f"{what}: figures()", drawings, "a dict of matplotlib figures by heading")
        return table, answers, [Picture(slug(heading), heading, one) for heading, one in drawings.items()]

    @property
    def described(self) -> str:
        return f"the experiment {self.plan.experiment}"

    def compared(self, folder: Path) -> Compared:
        summary, runs = self.report(folder), {arm: pairs for arm, pairs in self.complete_runs(folder).items() if pairs}
        rows, folders = self.outcomes(runs), {job.name: job.folder for job in self.jobs(folder)}
        arms = {}
        for arm, pairs in runs.items():
            numbers = {heading: list(row) for heading, row in rows.get(arm, {}).items()}
            values = {heading: dict(zip(pairs, row, strict=True)) for heading, row in numbers.items() if len(row) == len(pairs)}
            arms[arm] = ComparedArm(pairs, values, stored([folders[f"{slug(arm)}-seed{seed}"] for seed in pairs]))
        return Compared(summary, "nats per token", arms, {arm: (arm, arm) for arm in arms})

    def table(self, summary: ExperimentSummary) -> Table:
        return _table_of(summary)

    def lines(self, summary: ExperimentSummary) -> list[str]:
        return lines_of(summary)


class KeptExperiment(Experiment[ExperimentSummary]):
    """An experiment of a user's own whose module is gone: its page is made again from what it left behind."""

    kind, plan_file = "experiment", PLAN

    def __init__(self, plan: OwnPlan, why: str) -> None:
        self.plan, self.why = plan, why

    def jobs(self, folder: Path) -> list[Job]:
        """None can be planned."""
        raise BadInputError(f"experiment {self.plan.experiment}: {self.why}")

    @property
    def described(self) -> str:
        return f"the experiment {self.plan.experiment}"

    @property
    def command(self) -> str:
        return command_words("study", self.plan.experiment, seeds=len(self.plan.seeds))

    def compared(self, folder: Path) -> Compared:
        """It cannot be read.

        Raises:
            BadInputError: names the module that is gone.
        """
        raise BadInputError(f"{folder}: {self.why}; a comparison needs the experiment's outcomes()")

    def report(self, folder: Path) -> ExperimentSummary:
        path = folder / "summary.json"
        summary = recorded(ExperimentSummary, read_json(path), path)
        write_own_report(summary, [], folder)
        return summary

    def table(self, summary: ExperimentSummary) -> Table:
        return _table_of(summary)

    def lines(self, summary: ExperimentSummary) -> list[str]:
        return lines_of(summary)


def _table_of(summary: ExperimentSummary) -> Table:
    """One row for each arm."""
    seeds = len(summary.seeds)
    rows = [
        (arm, *(in_words(row[heading], seeds) if heading in row else "-" for heading in summary.columns))
        for arm, row in summary.table.items()
    ]
    return Table(f"{summary.name}: {seeds} seeds, mean and 95 % interval", ("arm", *summary.columns), tuple(rows))


def lines_of(summary: ExperimentSummary) -> list[str]:
    """Questions with their answers."""
    return [f"{one.claim} {one.verdict}" for one in summary.verdicts]


def final_loss(run: RunRecord) -> float:
    """Held-out loss of the last evaluation, in nats."""
    return run.evaluations[-1].scores["held-out"]["all"].loss


def find_experiment(name: str, seeds: int = 0) -> OwnExperiment:
    """A user's own experiment by ``module:Class``, looked for where the command is given too.

    Raises:
        BadInputError: it cannot be imported, is none, or lacks a part.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # an installed command does not look where it is called
        sys.path.append(os.getcwd())
    expected = "expected module:Class, a class derived from thalweg.Experiment"
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # the module is the user's: anything may go wrong in it
        raise BadInputError(f"experiment {name}: cannot be imported ({format_error(error)}); {expected}") from None
    require(
        isinstance(found, type) and issubclass(found, OwnExperiment),
        f"experiment {name}",
        found,
        "a class derived from thalweg.Experiment",
    )
    lacking = sorted(getattr(found, "__abstractmethods__", ()))
    if lacking:
        raise BadInputError(
            f"experiment {name}: it has no {', '.join(lacking)}; expected a method arms() that gives each arm's RunConfig"
        )
    with _naming_failures(f"experiment {name}: arms()"):
        return found(name, seeds)


@contextlib.contextmanager
def _naming_failures(what: str) -> Iterator[None]:
    """A failure of a user's code in one line, with the place where it was raised.

    Raises:
        BadInputError: in place of any exception that is not one of ours.
    """
    try:
        yield
    except ThalwegError:
        raise
    except (Exception, SystemExit) as error:  # the code is the user's
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        raise BadInputError(f"{what} fails at {where} ({format_error(error)}); runs that are complete are kept") from error


def own_in(folder: Path) -> OwnExperiment | KeptExperiment:
    """The experiment of a user's own that a folder belongs to; where its module is gone, what it left behind."""
    plan = read_plan(OwnPlan, folder, PLAN)
    try:
        return find_experiment(plan.experiment, len(plan.seeds))
    except BadInputError as error:
        return KeptExperiment(plan, str(error))
