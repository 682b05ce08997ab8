"""What claims are judged by: the records of a study, in pairs of seeds, and what is said where they do not suffice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from torch import Tensor

from thalweg.errors import BadInputError, InsufficientDataError
from thalweg.experiments.metrics import MIN_SEEDS, Pairs, cell
from thalweg.experiments.paper.verdicts import Runs
from thalweg.intervals import Interval, interval
from thalweg.records.landscape import LandscapeRecord, RunLandscape
from thalweg.records.run import Cell

LATE = 2 / 3
"""Of a run: from here on it is its end. A landscape that is not measured that far says nothing of the end."""

Spectra = Callable[[str, int, int], Tensor | None]
"""Arm, seed and step -> all eigenvalues ``(P,)``; None where the point was matrix-free."""
Landscapes = dict[str, dict[int, RunLandscape]]
"""Arm -> seed -> landscape, complete or not."""


class Stepped(Protocol):
    """A record with its step."""

    @property
    def step(self) -> int: ...


_R = TypeVar("_R", bound=Stepped)


@dataclass(frozen=True)
class Evidence:
    """Everything a study has."""

    runs: Runs
    landscapes: Landscapes
    spectra: Spectra

    def runs_of(self, arm: str) -> Pairs:
        """The complete runs of an arm that were scored.

        Raises:
            InsufficientDataError: there is none.
        """
        found = {seed: run for seed, run in self.runs.get(arm, {}).items() if run.evaluations}
        if not found:
            raise InsufficientDataError(f"no complete run of {arm}")
        return found

    def of(self, arm: str) -> dict[int, RunLandscape]:
        """The landscapes of an arm, by rising seed.

        Raises:
            InsufficientDataError: there is none.
        """
        found = self.landscapes.get(arm, {})
        if not found:
            raise InsufficientDataError(f"no landscape of {arm}")
        return dict(sorted(found.items()))

    def both(self, first: str, second: str) -> list[int]:
        """Seeds that have a landscape of either arm.

        Raises:
            InsufficientDataError: an arm has none.
        """
        return sorted(self.of(first).keys() & self.of(second).keys())

    def steps(self, arm: str, seed: int) -> int:
        """Updates of a run; as far as its landscape goes where the run is not there."""
        run = self.runs.get(arm, {}).get(seed)
        if run is not None and run.evaluations:
            return run.evaluations[-1].step
        return max((point.step for point in self.landscapes[arm][seed].points), default=0)

    def late(self, arm: str, seed: int, records: Iterable[_R]) -> list[_R]:
        """The records of the last third of a run."""
        begin = LATE * self.steps(arm, seed)
        return [record for record in records if record.step >= begin]

    def last_pair(
        self, first: str, second: str, seed: int, kept: Callable[[LandscapeRecord], bool] = lambda point: True
    ) -> tuple[LandscapeRecord, LandscapeRecord] | None:
        """The last points of two arms at the same step, in the last third of both runs; None where there are none."""
        one, two = (
            {point.step: point for point in self.late(arm, seed, self.landscapes[arm][seed].points) if kept(point)}
            for arm in (first, second)
        )
        step = max(one.keys() & two.keys(), default=None)
        return None if step is None else (one[step], two[step])


@dataclass(frozen=True)
class Finding:
    """What the records say of a claim."""

    decision: str
    """As in `thalweg.records.run.Verdict`."""
    test: str
    numbers: dict[str, Cell] = field(default_factory=dict)


Rule = Callable[[Evidence], Finding]


def judged(rule: Rule, evidence: Evidence) -> Finding:
    """What a rule finds; "not measured" with what is missing where the records do not suffice."""
    try:
        return rule(evidence)
    except BadInputError as error:
        return Finding("not measured", str(error))


def over_seeds(values: Iterable[float | None], what: str, least: int = MIN_SEEDS) -> Interval:
    """Mean and interval over the seeds that have a number.

    Raises:
        InsufficientDataError: too few; ``what`` names them.
    """
    found = known(values)
    if not found:
        raise InsufficientDataError(f"no {what}")
    if len(found) < least:
        raise InsufficientDataError(f"{what}: {len(found)} seeds, at least {least} needed")
    return interval(found)


def known(values: Iterable[float | None]) -> list[float]:
    """Those that are finite numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def mean(values: Iterable[float | None]) -> float | None:
    """Of the finite ones; None where there are none."""
    found = known(values)
    return sum(found) / len(found) if found else None


def shown(values: Iterable[float | None]) -> Cell:
    """A cell over the seeds that have a number."""
    return cell(known(values))


def share(flags: Sequence[bool]) -> Cell:
    """Share of the seeds that hold; without interval."""
    return Cell(sum(flags) / len(flags), n=len(flags)) if flags else Cell(None)


def beyond(found: Interval, bar: float = 0.0) -> str:
    """The verdict on "above the bar": by the side on which the whole interval lies, over at least `MIN_SEEDS` seeds."""
    if found.n < MIN_SEEDS:
        return "undecided"
    if found.low is not None and found.low > bar:
        return "supported"
    return "contradicted" if found.high is not None and found.high < bar else "undecided"


def conjunction(decisions: Iterable[str]) -> str:
    """The verdict on several claims at once: one that is contradicted contradicts them all; else the least sure one counts."""
    found = set(decisions)
    return next(word for word in ("contradicted", "not measured", "undecided", "supported") if word in found)


def all_or_none(flags: Sequence[bool]) -> str:
    """The verdict on "every one of at least `MIN_SEEDS` seeds does": contradicted where none does."""
    if len(flags) < MIN_SEEDS:
        return "undecided"
    return "supported" if all(flags) else "undecided" if any(flags) else "contradicted"


def log_ratio(above: float, below: float) -> float | None:
    """None unless both are positive."""
    return math.log(above / below) if above > 0 and below > 0 else None
