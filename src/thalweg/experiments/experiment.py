"""The interface of an experiment: a plan, the runs that follow from it, the summary of their records, and how that is shown.

The engine (`thalweg.experiments.engine`) does what all experiments share: the folder and its lock, the queue, resuming and
extending, the table, what is missing, the page's place. An experiment of a user's own derives from the class in
`thalweg.experiments.user_experiment`.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from thalweg.experiments.compared import Compared
from thalweg.experiments.queue import Job, refuse_misfits
from thalweg.records.run import DECISIONS, Verdict

Made = TypeVar("Made", bound="Summary")
"""The type of the summary that an experiment makes."""


class Summary(Protocol):
    """The fields that every summary has; a summary is a frozen dataclass that is written to ``summary.json``."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every run is complete."""
        ...

    @property
    def missing(self) -> tuple[str, ...]:
        """The runs that are not complete, each with its progress."""
        ...

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the experiment says."""
        ...


@dataclass(frozen=True)
class Table:
    """The table of an experiment, as the terminal and the page show it."""

    title: str
    headings: tuple[str, ...]
    """One for each column; the first is that of the row names."""
    rows: tuple[tuple[str, ...], ...]
    """One text for each column; the first is the row's name."""


class Experiment(abc.ABC, Generic[Made]):
    """One experiment with its plan; the abstract base of all kinds of experiments."""

    kind: ClassVar[str]
    """Noun for the experiment in messages, such as "study" or "sweep"."""
    plan_file: ClassVar[str]
    """Name of the file that holds the plan; the kind of an experiment's folder is recognised by it."""
    grows: ClassVar[tuple[str, ...]] = ("seeds", "arms")
    """Fields of the plan that may gain members later: complete runs are kept, and the new ones are made."""

    @property
    def described(self) -> str:
        """What the experiment is, as a noun phrase; only experiments with the same description can be compared."""
        return f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind} of {self.plan.task}"

    plan: Any
    """A frozen dataclass, written to ``plan_file``."""

    @abc.abstractmethod
    def jobs(self, folder: Path) -> list[Job]:
        """The runs that can be planned now. A later call may return more, where planning depends on complete runs."""

    def more_follow(self, folder: Path) -> bool:
        """Whether `jobs` will return further runs when those that it returns now are complete."""
        return False

    def check(self) -> None:
        """Refuse an experiment that cannot be made, before anything is written.

        Raises:
            BadInputError: a device or a text does not exist, or a run needs more memory than there is.
        """
        refuse_misfits(job.config for job in self.jobs(Path()))

    @property
    @abc.abstractmethod
    def command(self) -> str:
        """The shell command that repeats the experiment, with every option that its numbers depend on."""

    @abc.abstractmethod
    def report(self, folder: Path) -> Made:
        """Read the records, write ``summary.json``, figures and page, and return the summary.

        Raises:
            FolderError: no run is complete.
        """

    @abc.abstractmethod
    def compared(self, folder: Path) -> Compared:
        """The arms with their numbers by seed and their configs, for `thalweg compare`; also rewrites ``summary.json``.

        Raises:
            FolderError: no run is complete.
        """

    @abc.abstractmethod
    def table(self, summary: Made) -> Table:
        """The table of a summary: one row for each arm or variant."""

    def lines(self, summary: Made) -> list[str]:
        """The verdicts of a summary, one line for each: the verdict before its claim, a question before its answer."""
        return [
            f"{verdict.verdict}: {verdict.claim}" if verdict.verdict in DECISIONS else f"{verdict.claim} {verdict.verdict}"
            for verdict in summary.verdicts
        ]
