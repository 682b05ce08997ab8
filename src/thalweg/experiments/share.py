"""Share of Looped's cost: the cost until Looped's final quality is reached, over what Looped spent to reach it.

A run that never reaches it is censored: all that it spent gives a lower bound of its share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from thalweg.experiments.metrics import Measure, Pairs, cost_to_target, final, held_out_loss
from thalweg.intervals import interval
from thalweg.records.experiment import Share
from thalweg.records.run import EvaluationRecord, RunRecord


def loss_at_end(run: RunRecord) -> float:
    """Final held-out loss over all sequences, mean of the last evaluations."""
    return final(run, "held-out", "all", "loss")


def shares(
    runs: Pairs,
    looped: Pairs,
    spent: Measure,
    measure: Measure = held_out_loss,
    target: Callable[[RunRecord], float] = loss_at_end,
) -> dict[int, tuple[float, bool]]:
    """The share of Looped's cost that each run needs to reach Looped's final quality, at the seeds that both have.

    Args:
        runs: seed -> run of the arm.
        looped: seed -> run of Looped.
        spent: cost of an evaluation: `seconds` or `operations` so far.
        measure: quality of an evaluation; the lower, the better. The cost is read where its smoothed curve first is at the target.
        target: function of a run of Looped to a value of ``measure`` that its own smoothed curve reaches.
    Returns:
        Seed -> ``(share, True)``; for a run that never reaches the target ``(lower bound of its share, False)``.
    """
    by_seed = {}
    for seed in sorted(runs.keys() & looped.keys()):
        goal = target(looped[seed])
        looped_cost = cost_to_target(looped[seed], goal, spent, measure)
        assert looped_cost is not None  # Looped's own curve reaches its target
        cost = cost_to_target(runs[seed], goal, spent, measure)
        if cost is None:
            by_seed[seed] = spent(runs[seed].evaluations[-1]) / looped_cost, False
        else:
            by_seed[seed] = cost / looped_cost, True
    return by_seed


def share_over_seeds(by_seed: Sequence[tuple[float, bool]]) -> Share | None:
    """Summarise shares over seeds: geometric mean with the t-interval of the logarithms; None where there are no seeds.

    With censored runs there is no mean. Then the value is the median, which is None too where a censored run may lie below it; the
    lower end is the smallest share that was reached, and there is no upper end.

    Args:
        by_seed: ``(share, True)``, or ``(lower bound, False)`` for a censored run, see `shares`.

    Example:
        >>> share_over_seeds([(0.5, True), (0.3, True), (1.1, False)])
        Share(value=0.5, low=0.3, high=None, n=3, censored=1)
    """
    if not by_seed:
        return None
    censored = sum(not reached for _, reached in by_seed)
    if not censored:
        logs = interval([math.log(share) for share, _ in by_seed])
        ends = [None if end is None else math.exp(end) for end in (logs.low, logs.high)]
        return Share(math.exp(logs.mean), ends[0], ends[1], len(by_seed), 0)
    # The bound of a censored run says only that its share is not smaller. So the median is known if no censored run stands in the
    # lower half of the order, the middle included.
    ordered = sorted(by_seed)
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    median_known = all(reached for _, reached in ordered[: len(ordered) // 2 + 1])
    reached_shares = [share for share, reached in ordered if reached]
    return Share(
        value=sum(share for share, _ in middle) / len(middle) if median_known else None,
        low=min(reached_shares) if reached_shares else None,
        high=None,
        n=len(by_seed),
        censored=censored,
    )


def reaches(runs: Pairs, looped: Pairs) -> bool:
    """Whether every run reaches Looped's final loss at its seed; False where no seed is common."""
    by_seed = shares(runs, looped, operations)
    return bool(by_seed) and all(reached for _, reached in by_seed.values())


def logs(runs: Pairs, looped: Pairs) -> dict[int, float]:
    """Seed -> log of the share of Looped's operations; a censored run counts with the lower bound of its share."""
    return {seed: math.log(share) for seed, (share, _) in shares(runs, looped, operations).items()}


def seconds(record: EvaluationRecord) -> float:
    """Training time until an evaluation, in seconds."""
    return record.seconds


def operations(record: EvaluationRecord) -> float:
    """Counted operations until an evaluation, in FLOP."""
    return record.flops
