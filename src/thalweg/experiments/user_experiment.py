"""User-defined experiments: a class that gives arms, outcomes, answers and figures; the rest follows from these.

    class Widths(tw.Experiment):
        "Does a wider model end with a lower loss?"

        def arms(self): ...  # name -> RunConfig
        def outcomes(self, runs): ...  # name -> heading -> one number for each seed
        def answers(self, runs): ...  # verdicts
        def figures(self, runs): ...  # heading -> matplotlib figure

``thalweg study my_module:Widths`` runs it, with the same folder, queue, resuming, extending, table and page as the built-in ones.
"""

from __future__ import annotations

import abc
import contextlib
import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from thalweg.errors import BadInputError, FolderError, Phrase, ThalwegError, format_error, require
from thalweg.experiments.compared import Compared, ComparedArm, stored
from thalweg.experiments.experiment import Experiment, Table
from thalweg.experiments.folder import read_plan, slug
from thalweg.experiments.metrics import Pairs, cell, final_loss
from thalweg.experiments.queue import Job, unplanned
from thalweg.experiments.words import command_words, run_words, summary_table
from thalweg.records.experiment import ExperimentSummary, FigureRecord
from thalweg.records.run import Cell, Verdict, recorded
from thalweg.report.user_experiment import Picture, in_words, write_own_report
from thalweg.reprs import describe
from thalweg.serialization import to_dict
from thalweg.storage import read_json, write_json
from thalweg.train.config import RunConfig

PLAN = "experiment.json"
Runs = dict[str, Pairs]
"""Arm -> seed -> complete run."""
Outcomes = Mapping[str, Mapping[str, Sequence[float | None]]]
"""Arm -> heading with unit -> one number for each complete seed; None where a run has none."""


@dataclass(frozen=True)
class OwnPlan:
    """The plan of a user-defined experiment, stored in its folder."""

    experiment: str
    """``module:Class``, from which the class is imported again."""
    arms: tuple[str, ...]
    seeds: tuple[int, ...]


class _UserExperiment(Experiment[ExperimentSummary]):
    """What an experiment of a user's own is called and how it is shown, whether or not its module is still there."""

    kind, plan_file = "experiment", PLAN
    plan: OwnPlan

    @property
    def described(self) -> str:
        return f"the experiment {self.plan.experiment}"

    @property
    def command(self) -> str:
        return command_words("study", self.plan.experiment, seeds=len(self.plan.seeds))

    def table(self, summary: ExperimentSummary) -> Table:
        return summary_table(summary)


class OwnExperiment(_UserExperiment):
    """The base of a user-defined experiment; a subclass must give `arms`, and may give `outcomes`, `answers` and `figures`.

    The first line of the subclass's docstring is the title of the page. The class attribute ``seeds`` is the number of seeds.

    Args:
        name: ``module:Class``; empty takes that of the class.
        seeds: number of seeds; 0 takes the class attribute.
    Raises:
        BadInputError: the number of seeds is below 1, or `arms` gives something else than configs by name.
    """

    seeds: ClassVar[int] = 3

    def __init__(self, name: str = "", seeds: int = 0) -> None:
        count = seeds or self.seeds
        require(isinstance(count, int) and count >= 1, "seeds", count, "a whole number of at least 1")
        self.configs = self.checked_arms()
        home = name or f"{type(self).__module__}:{type(self).__qualname__}"
        self.plan = OwnPlan(home, tuple(self.configs), tuple(range(count)))

    def __repr__(self) -> str:
        return describe(self, f"arms {', '.join(self.plan.arms)}", f"{len(self.plan.seeds)} seeds")

    @abc.abstractmethod
    def arms(self) -> Mapping[str, RunConfig]:
        """Name of each arm -> its config. The fields ``arm`` and ``seed`` of the configs are filled in."""

    def outcomes(self, runs: Runs) -> Outcomes:
        """The numbers of the table; by default the held-out loss of the last evaluation.

        Args:
            runs: arm -> seed -> complete run, for the arms that have one.
        """
        return {arm: {"held-out loss (nats)": [final_loss(run) for run in pairs.values()]} for arm, pairs in runs.items()}

    def answers(self, runs: Runs) -> Sequence[Verdict]:
        """The verdicts of the experiment, in the order of the page; none by default. ``runs`` is as in `outcomes`."""
        return ()

    def figures(self, runs: Runs) -> Mapping[str, Any]:
        """Heading -> matplotlib figure; none by default. The caption states the set-up. ``runs`` is as in `outcomes`."""
        return {}

    def checked_arms(self) -> dict[str, RunConfig]:
        """The result of `arms` after validation.

        Raises:
            BadInputError: it is no dict of configs by name, or two names would give the same folder.
        """
        given = self.arms()
        what = f"experiment {type(self).__qualname__}: arms()"
        valid = isinstance(given, Mapping) and bool(given) and all(isinstance(config, RunConfig) for config in given.values())
        require(valid, what, given, "a dict of RunConfig by name")
        named = all(isinstance(name, str) and slug(name) for name in given)
        require(named, what, list(given), "names with letters or digits")
        distinct = len({slug(name) for name in given}) == len(given)
        expected = "names that differ in more than case and punctuation, as folders are named by them"
        require(distinct, what, list(given), expected)
        return dict(given)

    def jobs(self, folder: Path) -> list[Job]:
        """One job for every arm and seed."""
        return [
            Job(name, replace(config, arm=slug(arm), seed=seed), folder / "runs" / name)
            for arm, config in self.configs.items()
            for seed in self.plan.seeds
            for name in (f"{slug(arm)}-seed{seed}",)
        ]

    def complete_runs(self, folder: Path) -> Runs:
        """Arm -> seed -> record, for the runs that are complete and not damaged; every arm has an entry, which may be empty."""
        records = {(job.config.arm, job.config.seed): job.record for job in self.jobs(folder)}
        by_arm = {arm: {seed: records[slug(arm), seed] for seed in self.plan.seeds} for arm in self.configs}
        return {arm: {seed: run for seed, run in pairs.items() if run is not None} for arm, pairs in by_arm.items()}

    def report(self, folder: Path) -> ExperimentSummary:
        runs, jobs = self.complete_runs(folder), self.jobs(folder)
        first = next((run for pairs in runs.values() for run in pairs.values()), None)
        if first is None or first.summary is None:
            raise FolderError(f"experiment {folder}: none of its {len(jobs)} runs is complete; run the same command again")
        table, answers, figures = self.made_of({arm: pairs for arm, pairs in runs.items() if pairs})
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
            setup=unplanned(jobs),
            arm_words={arm: run_words(config) for arm, config in self.configs.items()},
            provenance=first.summary.provenance,
            figures=tuple(FigureRecord(picture.name, picture.heading, "", picture.alt) for picture in figures),
        )
        write_json(folder / "summary.json", to_dict(summary))
        write_own_report(summary, figures, folder)
        return summary

    def made_of(self, runs: Runs) -> tuple[dict[str, dict[str, Cell]], tuple[Verdict, ...], list[Picture]]:
        """Call the user's `outcomes`, `answers` and `figures` on the complete runs and validate what they return.

        Returns:
            Table (arm -> heading -> cell), verdicts and pictures.
        Raises:
            BadInputError: a method fails or returns a wrong type; the message names the method.
        """
        what = f"experiment {self.plan.experiment}"
        with _naming_failures(f"{what}: outcomes()"):
            given = {str(arm): {str(head): list(row[head]) for head in row} for arm, row in self.outcomes(runs).items()}
            table = {arm: {head: cell(values) for head, values in row.items()} for arm, row in given.items()}
        others = sorted(set(table) - set(self.configs))
        require(not others, f"{what}: outcomes()", others, f"arms among {', '.join(self.configs)}")
        for arm, row in given.items():
            seeds = len(runs.get(arm, {}))
            for head, values in row.items():
                place = f"{what}: outcomes(), {arm}, {head}"
                require(len(values) <= seeds, place, Phrase(f"{len(values)} numbers"), f"at most one for each seed, {seeds}")
                odd = [value for value in values if value is not None and not math.isfinite(value)]
                require(not odd, place, odd, "finite numbers, or None where a run has none")
        with _naming_failures(f"{what}: answers()"):
            answers = tuple(self.answers(runs))
        valid = all(isinstance(answer, Verdict) for answer in answers)
        require(valid, f"{what}: answers()", answers, "a list of thalweg.Verdict")
        with _naming_failures(f"{what}: figures()"):
            drawings = dict(self.figures(runs))
        valid = all(slug(str(heading)) and hasattr(figure, "savefig") for heading, figure in drawings.items())
        require(valid, f"{what}: figures()", drawings, "a dict of matplotlib figures by heading")
        return (
            table,
            answers,
            [Picture(slug(heading), heading, figure, alt=in_words(heading, figure)) for heading, figure in drawings.items()],
        )

    def compared(self, folder: Path) -> Compared:
        summary, runs = self.report(folder), {arm: pairs for arm, pairs in self.complete_runs(folder).items() if pairs}
        rows, folders = self.outcomes(runs), {job.name: job.folder for job in self.jobs(folder)}
        arms = {}
        for arm, pairs in runs.items():
            numbers = {heading: list(row) for heading, row in rows.get(arm, {}).items()}
            values = {heading: dict(zip(pairs, row, strict=True)) for heading, row in numbers.items() if len(row) == len(pairs)}
            arms[arm] = ComparedArm(pairs, values, stored([folders[f"{slug(arm)}-seed{seed}"] for seed in pairs]))
        return Compared(summary, "nats per token", arms, {arm: (arm, arm) for arm in arms})


class KeptExperiment(_UserExperiment):
    """A user-defined experiment whose module can no longer be imported; its page is made again from the stored summary.

    Args:
        plan: as stored in the folder.
        why: the message of the failed import.
    """

    def __init__(self, plan: OwnPlan, why: str) -> None:
        self.plan, self.why = plan, why

    def jobs(self, folder: Path) -> list[Job]:
        """Raise `BadInputError`: without the module no run can be planned."""
        raise BadInputError(f"experiment {self.plan.experiment}: {self.why}")

    def compared(self, folder: Path) -> Compared:
        """Raise `BadInputError`: without the module the numbers of single runs are not known."""
        raise BadInputError(f"{folder}: {self.why}; a comparison needs the experiment's outcomes()")

    def report(self, folder: Path) -> ExperimentSummary:
        path = folder / "summary.json"
        summary = recorded(ExperimentSummary, read_json(path), path)
        write_own_report(summary, [], folder)
        return summary


def find_experiment(name: str, seeds: int = 0) -> OwnExperiment:
    """Import a user-defined experiment and make an instance of it; the working directory is searched as well.

    Args:
        name: ``module:Class``.
        seeds: number of seeds; 0 takes the class's own.
    Raises:
        BadInputError: the class cannot be imported, is not derived from `OwnExperiment`, or has no method ``arms``.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # an installed command does not search the working directory
        sys.path.append(os.getcwd())
    expected = "expected module:Class, a class derived from thalweg.Experiment"
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise BadInputError(f"experiment {name}: cannot be imported ({format_error(error)}); {expected}") from None
    derived = isinstance(cls, type) and issubclass(cls, OwnExperiment)
    is_task = all(hasattr(cls, member) for member in ("query", "answer", "oracle"))
    task = f"; it is a task: give `thalweg study tasks --task {name}`" if is_task else ""
    require(derived, f"experiment {name}", cls, f"a class derived from thalweg.Experiment{task}")
    lacking = sorted(getattr(cls, "__abstractmethods__", ()))
    if lacking:
        raise BadInputError(
            f"experiment {name}: it has no {', '.join(lacking)}; expected a method arms() that gives each arm's RunConfig"
        )
    with _naming_failures(f"experiment {name}: arms()"):
        return cls(name, seeds)


@contextlib.contextmanager
def _naming_failures(what: str) -> Iterator[None]:
    """Turn an exception of the user's code into an error of one line that names the file and line where it was raised.

    Raises:
        BadInputError: in place of any exception other than a `ThalwegError`.
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
    """The user-defined experiment that a folder belongs to; a `KeptExperiment` where its class can no longer be imported."""
    plan = read_plan(OwnPlan, folder, PLAN)
    try:
        return find_experiment(plan.experiment, len(plan.seeds))
    except BadInputError as error:
        return KeptExperiment(plan, str(error))
