"""Numbers of one run (final scores, smoothed curves, cost to a target) and statistics over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from thalweg.intervals import Interval, interval, seeds_to_decide, slope
from thalweg.records.run import Cell, EvaluationRecord, RunRecord, Scores, Verdict

LAST = 3
"""Number of evaluations that are averaged into a final value, and into each point of a smoothed curve."""

MIN_SEEDS = 3
"""Seeds below which no claim is supported or contradicted, and no question is answered."""

Measure = Callable[[EvaluationRecord], float]
"""A number of one evaluation."""

Pairs = dict[int, RunRecord]
"""Seed -> run of one arm."""


def final(run: RunRecord, where: str, stratum: str, what: str) -> float:
    """Mean of a score over the last `LAST` evaluations of a run.

    Args:
        run: with at least one evaluation.
        where: evaluation set, "train" or "held-out".
        stratum: "all", or "low" and "high" by information content.
        what: "accuracy" (a share) or "loss" (nats per token).
    """
    values = [getattr(e.scores[where][stratum], what) for e in run.evaluations[-LAST:]]
    return sum(values) / len(values)


def last_third_rise(run: RunRecord, where: str, stratum: str) -> float:
    """Accuracy gained over the last third of a run: the least-squares slope against steps, times the length of that third."""
    steps = run.evaluations[-1].step
    late = [e for e in run.evaluations if e.step >= steps * 2 / 3]
    return slope([e.step for e in late], [e.scores[where][stratum].accuracy for e in late]) * steps / 3


def held_out_loss(evaluation: EvaluationRecord) -> float:
    """Held-out loss of an evaluation over all sequences, in nats per token."""
    return evaluation.scores["held-out"]["all"].loss


def held_out_errors(evaluation: EvaluationRecord) -> float:
    """Share of the held-out targets that are wrong, over all sequences; of a task the targets are whole answers."""
    return 1 - evaluation.scores["held-out"]["all"].accuracy


def final_loss(run: RunRecord) -> float:
    """Held-out loss of the last evaluation over all sequences, in nats per token."""
    return held_out_loss(run.evaluations[-1])


def smoothed(run: RunRecord, spent: Measure, measure: Measure = held_out_loss) -> list[tuple[float, float]]:
    """The curve of a measure against cost, smoothed by a running mean over `LAST` evaluations.

    Args:
        run: with at least one evaluation.
        spent: cost of an evaluation: seconds or operations so far.
        measure: number of an evaluation.
    Returns:
        ``(cost, mean)`` in the order of the run. Each cost is that at the last evaluation of its window. A run with fewer than
        `LAST` evaluations gives one point, the mean over all of them.
    """
    wide, points = max(1, min(LAST, len(run.evaluations))), []
    for end in range(wide, len(run.evaluations) + 1):
        window = run.evaluations[end - wide : end]
        points.append((spent(window[-1]), sum(map(measure, window)) / wide))
    return points


def cost_to_target(run: RunRecord, target: float, spent: Measure, measure: Measure = held_out_loss) -> float | None:
    """The cost at which a run's smoothed measure first is at or below a target; None where it never is.

    The curve is `smoothed`, with straight lines between its points. A crossing between ``(x0, y0)`` and ``(x1, y1)`` lies at
    x0 + (x1 - x0) (y0 - target) / (y0 - y1).

    Args:
        run: with at least one evaluation.
        target: in the unit of ``measure``.
        spent: cost of an evaluation: seconds or operations so far.
        measure: number of an evaluation; the lower, the better.
    """
    points = smoothed(run, spent, measure)
    # The first point is paired with itself, so that a curve that starts below the target crosses it there.
    for (x0, y0), (x1, y1) in zip(points[:1] + points, points, strict=False):
        if y1 <= target:
            return x1 if y0 <= target or y0 == y1 else x0 + (x1 - x0) * (y0 - target) / (y0 - y1)
    return None


def cell(values: Sequence[float | None], ceilings: Sequence[float] = (), least: float = -math.inf, most: float = math.inf) -> Cell:
    """Mean and 95 % t-interval over the seeds that have a value, as a record.

    Args:
        values: one for each seed; None where a seed has none.
        ceilings: best possible value of each seed; their mean stands in the cell.
        least: smallest possible value, at which the interval is cut.
        most: largest possible value.
    """
    known = [value for value in values if value is not None]
    if not known:
        return Cell(None)
    estimate = interval(known).within(least, most)
    return replace(as_cell(estimate), ceiling=sum(ceilings) / len(ceilings) if ceilings else None)


def as_cell(estimate: Interval) -> Cell:
    """A mean with its interval as a record."""
    return Cell(estimate.mean, estimate.low, estimate.high, estimate.n)


def paired(a: Pairs, b: Pairs, measure: Callable[[RunRecord], float | None]) -> list[float]:
    """``measure(a[seed]) - measure(b[seed])`` for every seed, rising, at which both runs have a value."""
    differences = []
    for seed in sorted(a.keys() & b.keys()):
        of_a, of_b = measure(a[seed]), measure(b[seed])
        if of_a is not None and of_b is not None:
            differences.append(of_a - of_b)
    return differences


def bits_per_byte(nats: float) -> float:
    """Convert nats per byte to bits per byte."""
    return nats / math.log(2)


def in_bits(run: RunRecord) -> RunRecord:
    """A copy of a run on text whose losses are in bits per byte, in all evaluations and at all switches."""

    def converted(scores: Scores) -> Scores:
        return {
            where: {stratum: replace(score, loss=bits_per_byte(score.loss)) for stratum, score in strata.items()}
            for where, strata in scores.items()
        }

    return replace(
        run,
        evaluations=tuple(replace(e, scores=converted(e.scores)) for e in run.evaluations),
        switches=tuple(
            replace(s, scores_before=converted(s.scores_before), scores_after=converted(s.scores_after)) for s in run.switches
        ),
    )


def sign_of(estimate: Interval) -> int:
    """1 or -1 where the whole 95 % interval lies above or below zero; 0 where it contains zero or has too few seeds."""
    if estimate.n < MIN_SEEDS or not estimate.excludes_zero:
        return 0
    return 1 if estimate.mean > 0 else -1


Comparison = Literal["equal", "within", "higher", "not lower", "lower", "undecided"]


def compared(gap: Interval, margin: float) -> Comparison:
    """How one way compares with another, by the 95 % interval of the paired difference and a margin that does not matter.

    Args:
        gap: mean difference over seeds.
        margin: at least 0.
    Returns:
        "equal": no difference in any seed; "within": the whole interval is nearer to zero than the margin; "higher" or "lower": it
        excludes zero; "not lower": it lies above minus the margin; "undecided": none of these, or too few seeds.

    Example:
        >>> seeds = ([0.3, 0.4, 0.5], [0.001, 0.002, -0.001], [0.0, 0.01, 0.02], [-0.5, 0.5, 0.0])
        >>> [compared(interval(gaps), 0.02) for gaps in seeds]
        ['higher', 'within', 'not lower', 'undecided']
    """
    if gap.n < MIN_SEEDS or gap.low is None or gap.high is None:
        return "undecided"
    if gap.low == gap.high == 0:
        return "equal"
    if -margin < gap.low and gap.high < margin:
        return "within"
    if sign_of(gap):
        return "higher" if gap.mean > 0 else "lower"
    return "not lower" if gap.low > -margin else "undecided"


def seeds_to_compare(gap: Interval, margin: float) -> int:
    """Seeds at which `compared` would decide an undecided difference, at the spread seen; 0 where it is decided, or not known."""
    if compared(gap, margin) != "undecided":
        return 0
    return min(filter(None, (seeds_to_decide(gap, bar) for bar in (0.0, -margin))), default=0)


def by_sign(estimate: Interval) -> str:
    """The decision on the claim "greater than zero": "supported", "undecided" or "contradicted" (see `sign_of`)."""
    return {1: "supported", 0: "undecided", -1: "contradicted"}[sign_of(estimate)]


def too_few(seeds: int) -> str:
    """The answer "undecided" with its reason where there are fewer than `MIN_SEEDS` seeds; empty where there are enough.

    Example:
        >>> too_few(1), too_few(3)
        ('undecided: 1 of at least 3 seeds', '')
    """
    return "" if seeds >= MIN_SEEDS else f"undecided: {seeds} of at least {MIN_SEEDS} seeds"


def seeds_needed(*tests: tuple[Interval, float]) -> int:
    """Seeds at which every one of some t-tests would be decided, at the spread seen so far (see `seeds_to_decide`).

    Args:
        tests: estimate and the bar that its interval must exclude.
    Returns:
        0 where every test is decided, or where one has too few seeds to show a spread.
    """
    open_tests = [(estimate, bar) for estimate, bar in tests if not _excludes(estimate, bar)]
    needed = [seeds_to_decide(estimate, bar) for estimate, bar in open_tests]
    return max(needed, default=0) if all(needed) else 0


def _excludes(estimate: Interval, bar: float) -> bool:
    """Whether an interval over enough seeds lies on one side of a bar."""
    enough = estimate.n >= MIN_SEEDS and estimate.low is not None and estimate.high is not None
    return enough and (estimate.low > bar or estimate.high < bar)  # type: ignore[operator]


def answer_by_sign(question: str, differences: Sequence[float], what: str) -> Verdict:
    """Answer a question of the form "is it greater than zero?" from one difference for each seed.

    The answer is "yes" or "no" where the two-sided 95 % t-interval over at least `MIN_SEEDS` seeds excludes zero, else "undecided".

    Args:
        question: text of the question on the page.
        differences: one for each seed that has both sides, see `paired`.
        what: name of the number, with its unit.
    """
    estimate = interval(differences) if differences else None
    answer = {1: "yes", 0: "undecided", -1: "no"}[sign_of(estimate) if estimate else 0]
    return Verdict(
        question,
        too_few(len(differences)) or answer,
        numbers={what: as_cell(estimate)} if estimate else {},
        seeds_needed=seeds_needed((estimate, 0.0)) if estimate else 0,
    )
