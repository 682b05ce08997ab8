"""The evidence for the paper's claims: the records of a study, and the statistics that turn numbers into decisions.

A rule is a function from `Evidence` to a `Finding`. Where the records do not suffice it raises `InsufficientDataError`, and
`judged` turns that into "not measured" with the message as the reason.
"""

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
"""Share of a run after which it counts as its end; a landscape that stops before says nothing about the end."""

Spectra = Callable[[str, int, int], Tensor | None]
"""``(arm, seed, step)`` -> all eigenvalues ``(P,)``, P the number of parameters; None where the point was matrix-free."""
Landscapes = dict[str, dict[int, RunLandscape]]
"""Arm -> seed -> landscape, complete or not."""


class Stepped(Protocol):
    """Any record with a step, in updates made."""

    @property
    def step(self) -> int: ...


_R = TypeVar("_R", bound=Stepped)


@dataclass(frozen=True)
class Evidence:
    """All records that the claims of a study are judged by."""

    runs: Runs
    landscapes: Landscapes
    spectra: Spectra

    def runs_of(self, arm: str) -> Pairs:
        """Seed -> complete run of an arm that was evaluated at least once.

        Raises:
            InsufficientDataError: there is none.
        """
        evaluated = {seed: run for seed, run in self.runs.get(arm, {}).items() if run.evaluations}
        if not evaluated:
            raise InsufficientDataError(f"no complete run of {arm}")
        return evaluated

    def landscapes_of(self, arm: str) -> dict[int, RunLandscape]:
        """Seed -> landscape of an arm, in the order of rising seeds.

        Raises:
            InsufficientDataError: there is none.
        """
        by_seed = self.landscapes.get(arm, {})
        if not by_seed:
            raise InsufficientDataError(f"no landscape of {arm}")
        return dict(sorted(by_seed.items()))

    def both(self, first: str, second: str) -> list[int]:
        """The seeds, rising, at which both arms have a landscape.

        Raises:
            InsufficientDataError: an arm has none.
        """
        return sorted(self.landscapes_of(first).keys() & self.landscapes_of(second).keys())

    def steps(self, arm: str, seed: int) -> int:
        """Number of updates of a run; where its record is missing, the last step of its landscape."""
        run = self.runs.get(arm, {}).get(seed)
        if run is not None and run.evaluations:
            return run.evaluations[-1].step
        return max((point.step for point in self.landscapes[arm][seed].points), default=0)

    def late(self, arm: str, seed: int, records: Iterable[_R]) -> list[_R]:
        """Those of the records that lie in the last third of a run."""
        begin = LATE * self.steps(arm, seed)
        return [record for record in records if record.step >= begin]

    def last_pair(
        self, first: str, second: str, seed: int, kept: Callable[[LandscapeRecord], bool] = lambda point: True
    ) -> tuple[LandscapeRecord, LandscapeRecord] | None:
        """The last points of two arms at a common step, in the last third of both runs.

        Args:
            first: an arm.
            second: another arm.
            seed: of both runs.
            kept: which points count; all by default.
        Returns:
            The points of the first and of the second arm; None where no step is common to both.
        """
        of_first, of_second = (
            {point.step: point for point in self.late(arm, seed, self.landscapes[arm][seed].points) if kept(point)}
            for arm in (first, second)
        )
        step = max(of_first.keys() & of_second.keys(), default=None)
        return None if step is None else (of_first[step], of_second[step])


@dataclass(frozen=True)
class Finding:
    """What the records say about a claim."""

    decision: str
    """"supported", "contradicted", "undecided" or "not measured"."""
    test: str
    """How it was decided; of "not measured" what is missing."""
    numbers: dict[str, Cell] = field(default_factory=dict)
    seeds_needed: int = 0
    """Seeds that would decide it at the spread seen; 0 where it is decided or not known; `NO_SEEDS` if seeds cannot."""


Rule = Callable[[Evidence], Finding]


def judged(rule: Rule, evidence: Evidence) -> Finding:
    """Apply a rule; where the records do not suffice, the finding is "not measured" and its test says what is missing."""
    try:
        return rule(evidence)
    except BadInputError as error:
        return Finding("not measured", str(error))


def over_seeds(values: Iterable[float | None], what: str, least: int = MIN_SEEDS) -> Interval:
    """Mean and 95 % t-interval over the seeds that have a finite number.

    Args:
        values: one for each seed; None, NaN and infinity are left out.
        what: name of the number in the error message.
        least: fewest seeds.
    Raises:
        InsufficientDataError: fewer seeds have a number.
    """
    numbers = known(values)
    if not numbers:
        raise InsufficientDataError(f"no {what}")
    if len(numbers) < least:
        raise InsufficientDataError(f"{what}: {len(numbers)} seeds, at least {least} needed")
    return interval(numbers)


def known(values: Iterable[float | None]) -> list[float]:
    """The values that are finite numbers, in their order."""
    return [value for value in values if value is not None and math.isfinite(value)]


def mean(values: Iterable[float | None]) -> float | None:
    """Arithmetic mean of the finite values; None where there are none."""
    numbers = known(values)
    return sum(numbers) / len(numbers) if numbers else None


def shown(values: Iterable[float | None]) -> Cell:
    """Mean and interval of the finite values as a cell, for numbers that are reported without deciding anything."""
    return cell(known(values))


def share(flags: Sequence[bool]) -> Cell:
    """Share of the seeds at which a flag is True, as a cell without interval."""
    return Cell(sum(flags) / len(flags), n=len(flags)) if flags else Cell(None)


def beyond(estimate: Interval, bar: float = 0.0) -> str:
    """The decision on the claim "greater than ``bar``".

    "supported" where the whole interval lies above the bar, "contradicted" where it lies below, else "undecided"; "undecided" too
    with fewer than `MIN_SEEDS` seeds.
    """
    if estimate.n < MIN_SEEDS:
        return "undecided"
    if estimate.low is not None and estimate.low > bar:
        return "supported"
    return "contradicted" if estimate.high is not None and estimate.high < bar else "undecided"


def conjunction(decisions: Iterable[str]) -> str:
    """The decision on "all of these claims hold", from the decisions on each.

    The first of "contradicted", "not measured", "undecided" and "supported" that occurs.
    """
    occurring = set(decisions)
    return next(word for word in ("contradicted", "not measured", "undecided", "supported") if word in occurring)


def all_or_none(flags: Sequence[bool]) -> str:
    """The decision on "every seed does": supported where all do, contradicted where none does; needs `MIN_SEEDS` seeds."""
    if len(flags) < MIN_SEEDS:
        return "undecided"
    return "supported" if all(flags) else "undecided" if any(flags) else "contradicted"


def log_ratio(above: float, below: float) -> float | None:
    """``log(above / below)``; None unless both are positive."""
    return math.log(above / below) if above > 0 and below > 0 else None
