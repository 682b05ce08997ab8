"""Outcomes of a variant over seeds: drop and jump at a switch, final loss, and its share of Looped's cost.

A share is the cost of a run until it reaches Looped's final quality at the same seed, divided by what Looped spent to reach it. A
run that never reaches it is censored: all that it spent gives a lower bound of its share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from thalweg.experiments.metrics import LAST, Measure, Pairs, cell, cost_to_target, final, held_out_loss, paired
from thalweg.intervals import Interval, interval
from thalweg.records.experiment import Outcome, Share
from thalweg.records.run import EvaluationRecord, RunRecord, SwitchRecord

_WATCH = 400
"""Updates after a switch's onset over which a drop is searched."""


def accuracy(scores: dict) -> float:
    """Held-out accuracy over all sequences, from the scores of an evaluation or of a switch."""
    return scores["held-out"]["all"].accuracy


def accuracies(run: RunRecord, after: int, until: int) -> list[float]:
    """Held-out accuracies of the evaluations at steps above ``after`` and up to ``until``."""
    return [accuracy(e.scores) for e in run.evaluations if after < e.step <= until]


def loss_at_end(run: RunRecord) -> float:
    """Final held-out loss over all sequences, mean of the last evaluations."""
    return final(run, "held-out", "all", "loss")


def drop(run: RunRecord) -> float | None:
    """Percentage points of held-out accuracy lost at a switch, the largest over all switches; None for a run without one.

    It is the largest fall below the best so far, from the last evaluations before the switch until 400 updates after its onset. The
    scores of the switch itself stand for the update at which it happened, before and after.
    """
    return max((_drop_at(run, switch) for switch in run.switches), default=None)


def _drop_at(run: RunRecord, switch: SwitchRecord) -> float:
    """The drop at one switch."""
    # An evaluation at the switch's own update is left out on both sides: it was made after the switch.
    before, after = accuracies(run, -1, switch.step - 1)[-LAST:], accuracies(run, switch.step, _end_of_watch(switch))
    best_before = max([*before, accuracy(switch.scores_before)])
    return fall([best_before, accuracy(switch.scores_after), *after])


def _end_of_watch(switch: SwitchRecord) -> int:
    """The last update at which a drop is searched."""
    return switch.step + switch.onset + _WATCH


def fall(accuracies: Sequence[float]) -> float:
    """The largest fall of a sequence of accuracies below its best so far, in percentage points."""
    best = itertools.accumulate(accuracies, max)
    return 100 * max(top - value for top, value in zip(best, accuracies, strict=True))


def fluctuation(run: RunRecord, like: RunRecord) -> float | None:
    """The `drop` of a run at the updates at which another run switched, as a control: what is lost without a switch there.

    Returns:
        Percentage points, the largest over the switches of ``like``; None without an evaluation before and after one of them.
    """
    falls = []
    for switch in like.switches:
        before, after = accuracies(run, -1, switch.step)[-LAST:], accuracies(run, switch.step, _end_of_watch(switch))
        if before and after:
            falls.append(fall([max(before), *after]))
    return max(falls, default=None)


def paired_drops(runs: Pairs, looped: Pairs) -> list[tuple[float, float]]:
    """``(drop of the run, fluctuation of Looped at the same updates)`` in percentage points, at the seeds that have both."""
    pairs = [(drop(runs[seed]), fluctuation(looped[seed], runs[seed])) for seed in sorted(runs.keys() & looped.keys())]
    return [(lost, control) for lost, control in pairs if lost is not None and control is not None]


def jump(run: RunRecord) -> float | None:
    """Rise of the held-out loss at a switch with the same weights, the largest over all switches; None for a run without one."""
    sides = [[scores["held-out"]["all"].loss for scores in (s.scores_before, s.scores_after)] for s in run.switches]
    return max((after - before for before, after in sides), default=None)


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


def ideal(run: RunRecord, single: RunRecord, looped: RunRecord) -> float | None:
    """The share of Looped's operations that a run would need if every update of it were as good as one of Looped's.

    It follows from the switching steps and the cost of an update alone: the sum over stages of updates times cost of an update,
    divided by the same for Looped. An update with d passes costs c_1 + (c_T - c_1) (d - 1) / (T - 1), with c_1 and c_T measured on
    Single and Looped. The updates of a ramp count with all passes.

    Args:
        run: whose switches are used.
        single: run of Single at the same seed.
        looped: run of Looped at the same seed, with T passes.
    Returns:
        The share; None for a run that never switched.
    """
    if not run.switches:
        return None
    ends = [other.evaluations[-1] for other in (single, looped)]
    single_cost, looped_cost = (end.flops / end.step for end in ends)  # operations of an update: c_1 and c_T
    deepest, steps = looped.evaluations[-1].loops, ends[1].step
    edges = [0, *(switch.step for switch in run.switches), steps]
    depths = [1, *(switch.loops_after for switch in run.switches)]
    stages = zip(itertools.pairwise(edges), depths, strict=True)
    total = sum(
        (end - begin) * (single_cost + (looped_cost - single_cost) * (depth - 1) / (deepest - 1)) for (begin, end), depth in stages
    )
    return total / (steps * looped_cost)


def outcome_of(name: str, group: str, settings: dict, runs: Pairs, single: Pairs, looped: Pairs, failed: int = 0) -> Outcome:
    """Summarise one variant over seeds.

    Args:
        name: of the variant.
        group: of the variant, see `Outcome.group`.
        settings: what the variant changes.
        runs: seed -> complete run of the variant.
        single: seed -> complete run of Single.
        looped: seed -> complete run of Looped.
        failed: number of runs that ended with an error and have no record.
    """
    records = list(runs.values())
    switched = [run for run in records if run.switches]
    ideals = [ideal(runs[s], single[s], looped[s]) for s in sorted(runs.keys() & single.keys() & looped.keys())]
    return Outcome(
        name=name,
        group=group,
        settings=settings,
        switch_step=cell([float(run.switches[0].step) for run in switched]),
        switched=len(switched),
        drop=cell([drop(run) for run in records]),
        jump=cell([jump(run) for run in records]),
        final_loss=cell([loss_at_end(run) for run in records]),
        final_accuracy=cell([final(run, "held-out", "all", "accuracy") for run in records]),
        difference=cell(paired(runs, looped, loss_at_end)),
        share_seconds=share_over_seeds(list(shares(runs, looped, seconds).values())),
        share_flops=share_over_seeds(list(shares(runs, looped, operations).values())),
        ideal_flops=cell(ideals),
        seconds=cell([run.evaluations[-1].seconds for run in records]),
        teraflops=cell([operations(run.evaluations[-1]) / 1e12 for run in records]),
        retreats=sum(len(run.retreats) for run in records),
        failed=failed,
    )


def reaches(runs: Pairs, looped: Pairs) -> bool:
    """Whether every run reaches Looped's final loss at its seed; False where no seed is common."""
    by_seed = shares(runs, looped, operations)
    return bool(by_seed) and all(reached for _, reached in by_seed.values())


def losses(runs: Pairs, looped: Pairs) -> dict[int, float]:
    """Seed -> final held-out loss, at the seeds that Looped has too."""
    return {seed: loss_at_end(runs[seed]) for seed in sorted(runs.keys() & looped.keys())}


def logs(runs: Pairs, looped: Pairs) -> dict[int, float]:
    """Seed -> log of the share of Looped's operations; a censored run counts with the lower bound of its share."""
    return {seed: math.log(share) for seed, (share, _) in shares(runs, looped, operations).items()}


def difference(runs: Pairs, other: Pairs) -> Interval:
    """Difference of the final held-out loss, ``runs`` minus ``other``, paired by seed, with its 95 % t-interval."""
    return interval(paired(runs, other, loss_at_end))


def seconds(record: EvaluationRecord) -> float:
    """Training time until an evaluation, in seconds."""
    return record.seconds


def operations(record: EvaluationRecord) -> float:
    """Counted operations until an evaluation, in FLOP."""
    return record.flops
