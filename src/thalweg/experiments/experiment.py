"""What an experiment is: a plan, the runs that follow from it, what is made of their records, and how that is shown.

The engine (`thalweg.experiments.engine`) does what all experiments share: the folder and its lock, the queue, resuming and
extending, the table, what is missing, the page's place. An experiment of a user's own derives from the class in
`thalweg.experiments.user_experiment`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from thalweg.experiments.compared import Compared
from thalweg.experiments.queue import Job, refuse_misfits

Made = TypeVar("Made", bound="Summary")
"""The summary that an experiment makes."""


class Summary(Protocol):
    """What every summary says: a frozen dataclass that is written to ``summary.json``."""

    @property
    def name(self) -> str:
        """Of the folder."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every run is."""
        ...

    @property
    def missing(self) -> tuple[str, ...]:
        """Runs that are not complete, with how far they are."""
        ...


@dataclass(frozen=True)
class Table:
    """The table of an experiment, as the terminal and the page show it."""

    title: str
    headings: tuple[str, ...]
    """The first one is of the rows' names."""
    rows: tuple[tuple[str, ...], ...]
    """Texts; the first is the row's name."""


class Experiment(abc.ABC, Generic[Made]):
    """One experiment with its plan."""

    kind: ClassVar[str]
    """The word for it in messages: "study", "sweep"."""
    plan_file: ClassVar[str]
    """Name of the file in the folder that holds the plan; it tells of which kind the folder is."""
    grows: ClassVar[tuple[str, ...]] = ("seeds", "arms")
    """Fields of the plan that may gain members later: what is there is kept, and the rest is made."""

    @property
    def described(self) -> str:
        """What it is, in words; only experiments of the same description can be compared."""
        return f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind} of {self.plan.task}"

    plan: Any
    """A frozen dataclass, written to ``plan_file``."""

    @abc.abstractmethod
    def jobs(self, folder: Path) -> list[Job]:
        """The runs that can be planned now; a later call may know more, when it depends on runs that are complete."""

    def check(self) -> None:
        """Refuse what cannot be made, before anything is written: a device, a text or a size that is not there."""
        refuse_misfits(job.config for job in self.jobs(Path()))

    @property
    @abc.abstractmethod
    def command(self) -> str:
        """The command that makes it, with every option that its numbers depend on."""

    @abc.abstractmethod
    def report(self, folder: Path) -> Made:
        """Read the records, write ``summary.json``, figures and page, and return the summary.

        Raises:
            FolderError: no run is complete.
        """

    @abc.abstractmethod
    def compared(self, folder: Path) -> Compared:
        """Arms, numbers by seed and configs, for `thalweg compare`; ``summary.json`` is brought up to date.

        Raises:
            FolderError: no run is complete.
        """

    @abc.abstractmethod
    def table(self, summary: Made) -> Table:
        """The outcomes, one row for each arm or variant."""

    @abc.abstractmethod
    def lines(self, summary: Made) -> Sequence[str]:
        """What the experiment says, a line each."""
