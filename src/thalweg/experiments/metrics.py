"""Numbers of one run, and numbers over seeds: what the table and the verdicts are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from thalweg.intervals import Interval, interval, slope
from thalweg.records.run import Cell, EvaluationRecord, RunRecord, Scores, Verdict

LAST = 3
"""Evaluations averaged into a final value, and into each point of the curve that is asked for a target."""

MIN_SEEDS = 3
"""Seeds below which no claim is supported or contradicted, and no question is answered."""

Measure = Callable[[EvaluationRecord], float]
"""A number of one evaluation."""

Pairs = dict[int, RunRecord]
"""Seed -> run of one arm."""


def final(run: RunRecord, where: str, stratum: str, what: str) -> float:
    """Mean of the last evaluations: ``what`` is "accuracy" or "loss"."""
    values = [getattr(e.scores[where][stratum], what) for e in run.evaluations[-LAST:]]
    return sum(values) / len(values)


def last_third_rise(run: RunRecord, where: str, stratum: str) -> float:
    """Accuracy gained over the last third of the run, by the least-squares slope there."""
    steps = run.evaluations[-1].step
    late = [e for e in run.evaluations if e.step >= steps * 2 / 3]
    return slope([e.step for e in late], [e.scores[where][stratum].accuracy for e in late]) * steps / 3


def held_out_loss(evaluation: EvaluationRecord) -> float:
    """Of all held-out sequences."""
    return evaluation.scores["held-out"]["all"].loss


def held_out_errors(evaluation: EvaluationRecord) -> float:
    """Share of all held-out sequences' targets (of a task: whole answers) that are wrong."""
    return 1 - evaluation.scores["held-out"]["all"].accuracy


def smoothed(run: RunRecord, spent: Measure, measure: Measure = held_out_loss) -> list[tuple[float, float]]:
    """A measure as means over `LAST` evaluations, each at what had been spent at the last; over all where there are fewer."""
    wide, points = max(1, min(LAST, len(run.evaluations))), []
    for end in range(wide, len(run.evaluations) + 1):
        window = run.evaluations[end - wide : end]
        points.append((spent(window[-1]), sum(map(measure, window)) / wide))
    return points


def cost_to_target(run: RunRecord, target: float, spent: Measure, measure: Measure = held_out_loss) -> float | None:
    """What the run had spent when the smoothed measure first was at or below the target; None when it never was.

    The curve is `smoothed`; between two points it is a straight line.
    """
    points = smoothed(run, spent, measure)
    for (x0, y0), (x1, y1) in zip(points[:1] + points, points, strict=False):
        if y1 <= target:
            return x1 if y0 <= target or y0 == y1 else x0 + (x1 - x0) * (y0 - target) / (y0 - y1)
    return None


def cell(values: Sequence[float | None], ceilings: Sequence[float] = ()) -> Cell:
    """Mean and interval over the seeds that have a value."""
    known = [value for value in values if value is not None]
    if not known:
        return Cell(None)
    found = interval(known)
    return Cell(found.mean, found.low, found.high, found.n, sum(ceilings) / len(ceilings) if ceilings else None)


def as_cell(found: Interval) -> Cell:
    """An interval as a record."""
    return Cell(found.mean, found.low, found.high, found.n)


def paired(a: Pairs, b: Pairs, measure: Callable[[RunRecord], float | None]) -> list[float]:
    """``measure(a) - measure(b)`` for every seed at which both have a value."""
    differences = []
    for seed in sorted(a.keys() & b.keys()):
        one, other = measure(a[seed]), measure(b[seed])
        if one is not None and other is not None:
            differences.append(one - other)
    return differences


def bits_per_byte(nats: float) -> float:
    """Nats per byte as bits per byte."""
    return nats / math.log(2)


def in_bits(run: RunRecord) -> RunRecord:
    """A run on text with every score's loss in bits per byte."""

    def scores(made: Scores) -> Scores:
        return {
            where: {stratum: replace(one, loss=bits_per_byte(one.loss)) for stratum, one in strata.items()}
            for where, strata in made.items()
        }

    return replace(
        run,
        evaluations=tuple(replace(e, scores=scores(e.scores)) for e in run.evaluations),
        switches=tuple(
            replace(s, scores_before=scores(s.scores_before), scores_after=scores(s.scores_after)) for s in run.switches
        ),
    )


def sign_of(found: Interval) -> int:
    """-1 or 1 where the 95 % interval over at least `MIN_SEEDS` seeds lies on that side of zero, else 0."""
    if found.n < MIN_SEEDS or not found.excludes_zero:
        return 0
    return 1 if found.mean > 0 else -1


def by_sign(found: Interval) -> str:
    """The verdict on "greater than zero"."""
    return {1: "supported", 0: "undecided", -1: "contradicted"}[sign_of(found)]


def too_few(seeds: int) -> str:
    """Why a question is not answered from so few seeds; empty where there are enough.

    Example:
        >>> too_few(1), too_few(3)
        ('undecided: 1 of at least 3 seeds', '')
    """
    return "" if seeds >= MIN_SEEDS else f"undecided: {seeds} of at least {MIN_SEEDS} seeds"


def answer_by_sign(question: str, differences: Sequence[float], what: str) -> Verdict:
    """The answer to "is it greater than zero?", from one difference for each seed.

    "yes" or "no" where the two-sided 95 % t-interval over at least `MIN_SEEDS` seeds leaves out zero, else "undecided".

    Args:
        question: as the page asks it.
        differences: one for each seed that has both sides.
        what: name of the number, with unit.
    """
    found = interval(differences) if differences else None
    words = {1: "yes", 0: "undecided", -1: "no"}[sign_of(found) if found else 0]
    return Verdict(question, too_few(len(differences)) or words, numbers={what: as_cell(found)} if found else {})
