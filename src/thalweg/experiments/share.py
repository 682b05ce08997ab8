"""Share of Looped's cost: the cost until Looped's final quality is reached, over what Looped spent to reach it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from thalweg.experiments.metrics import Measure, Pairs, cost_to_target, final, held_out_loss
from thalweg.intervals import interval
from thalweg.records.experiment import Share
from thalweg.records.run import EvaluationRecord, RunRecord


def loss_at_end(run: RunRecord) -> float:
    """Held-out loss, mean of the last evaluations."""
    return final(run, "held-out", "all", "loss")


def shares(
    runs: Pairs,
    looped: Pairs,
    spent: Measure,
    measure: Measure = held_out_loss,
    target: Callable[[RunRecord], float] = loss_at_end,
) -> dict[int, tuple[float, bool]]:
    """Cost until Looped's final quality is reached, over what Looped spent to reach it, at the seeds that both have.

    Args:
        runs: of one arm, by seed.
        looped: of Looped, by seed.
        spent: what an evaluation had cost: `seconds` or `operations`.
        measure: of an evaluation; the lower, the better. Its `smoothed` curve is asked where it first is at the target.
        target: of a run of Looped, a value of ``measure`` that its own smoothed curve reaches.
    Returns:
        Seed -> (share, True); where a run never gets there (all that it spent over what Looped spent to get there, False): the
        share is at least that.
    """
    found = {}
    for seed in sorted(runs.keys() & looped.keys()):
        wanted = target(looped[seed])
        whole = cost_to_target(looped[seed], wanted, spent, measure)
        assert whole is not None  # its own curve ends there
        cost = cost_to_target(runs[seed], wanted, spent, measure)
        found[seed] = (spent(runs[seed].evaluations[-1]) / whole, False) if cost is None else (cost / whole, True)
    return found


def share_over_seeds(found: Sequence[tuple[float, bool]]) -> Share | None:
    """Geometric mean and t-interval of the logarithms; with censored runs the median, as far as it is known.

    Example:
        >>> share_over_seeds([(0.5, True), (0.3, True), (1.1, False)])
        Share(value=0.5, low=0.3, high=None, n=3, censored=1)
    """
    if not found:
        return None
    censored = sum(not reached for _, reached in found)
    if not censored:
        logs = interval([math.log(share) for share, _ in found])
        ends = [None if end is None else math.exp(end) for end in (logs.low, logs.high)]
        return Share(math.exp(logs.mean), ends[0], ends[1], len(found), 0)
    # What is censored lies above all that is not, or is not known to: then the median is not known either.
    ordered = sorted(found)
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    known = all(reached for _, reached in ordered[: len(ordered) // 2 + 1])
    reached = [share for share, is_known in ordered if is_known]
    return Share(
        value=sum(share for share, _ in middle) / len(middle) if known else None,
        low=min(reached) if reached else None,
        high=None,
        n=len(found),
        censored=censored,
    )


def reaches(runs: Pairs, looped: Pairs) -> bool:
    """Whether every run gets to Looped's final loss."""
    found = shares(runs, looped, operations).values()
    return bool(found) and all(reached for _, reached in found)


def logs(runs: Pairs, looped: Pairs) -> dict[int, float]:
    """Seed -> log of the share of operations; a censored run counts with its end, the least that it can be."""
    return {seed: math.log(share) for seed, (share, _) in shares(runs, looped, operations).items()}


def seconds(record: EvaluationRecord) -> float:
    """Training seconds spent."""
    return record.seconds


def operations(record: EvaluationRecord) -> float:
    """Operations spent."""
    return record.flops
