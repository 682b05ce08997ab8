"""What one way to switch gave, over seeds: drop, jump, final quality, and its share of Looped's cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from thalweg.experiments.metrics import LAST, Measure, Pairs, cell, cost_to_target, final, held_out_loss, paired
from thalweg.intervals import Interval, interval
from thalweg.records.experiment import Outcome, Share
from thalweg.records.run import EvaluationRecord, RunRecord, SwitchRecord

_WATCH = 400
"""Updates after a switch's onset in which a drop is looked for."""


def accuracy(scores: dict) -> float:
    """Held-out accuracy of all sequences."""
    return scores["held-out"]["all"].accuracy


def accuracies(run: RunRecord, after: int, until: int) -> list[float]:
    """Of the evaluations after an update, until another one, that one included."""
    return [accuracy(e.scores) for e in run.evaluations if after < e.step <= until]


def loss_at_end(run: RunRecord) -> float:
    """Held-out loss, mean of the last evaluations."""
    return final(run, "held-out", "all", "loss")


def drop(run: RunRecord) -> float | None:
    """Percentage points of accuracy lost at a switch, the largest where there are several; None without one.

    The largest fall below the best so far, from the last evaluations before the switch until `_WATCH` updates after its onset. An
    evaluation at the same update was made after the switch; the switch's own scores stand for both sides.
    """
    return max((_drop_at(run, switch) for switch in run.switches), default=None)


def _drop_at(run: RunRecord, switch: SwitchRecord) -> float:
    """Of one switch."""
    before, after = accuracies(run, -1, switch.step - 1)[-LAST:], accuracies(run, switch.step, _end_of_watch(switch))
    ends = [accuracy(scores) for scores in (switch.scores_before, switch.scores_after)]
    return fall([max([*before, ends[0]]), ends[1], *after])


def _end_of_watch(switch: SwitchRecord) -> int:
    """The last update at which a drop is looked for."""
    return switch.step + switch.onset + _WATCH


def fall(accuracies: Sequence[float]) -> float:
    """The largest fall below the best so far, in percentage points."""
    best = itertools.accumulate(accuracies, max)
    return 100 * max(top - one for top, one in zip(best, accuracies, strict=True))


def fluctuation(run: RunRecord, like: RunRecord) -> float | None:
    """The same measure along a run at the updates at which another one switched: what is lost without any switch."""
    found = []
    for switch in like.switches:
        before, after = accuracies(run, -1, switch.step)[-LAST:], accuracies(run, switch.step, _end_of_watch(switch))
        if before and after:
            found.append(fall([max(before), *after]))
    return max(found, default=None)


def beside(runs: Pairs, looped: Pairs) -> list[tuple[float, float]]:
    """Drop of each run and what Looped loses at the same updates without a switch, at the seeds that have both."""
    pairs = [(drop(runs[seed]), fluctuation(looped[seed], runs[seed])) for seed in sorted(runs.keys() & looped.keys())]
    return [(mine, same) for mine, same in pairs if mine is not None and same is not None]


def jump(run: RunRecord) -> float | None:
    """Rise of the held-out loss at a switch, same weights, the largest where there are several; None without one."""
    sides = [[scores["held-out"]["all"].loss for scores in (s.scores_before, s.scores_after)] for s in run.switches]
    return max((after - before for before, after in sides), default=None)


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


def ideal(run: RunRecord, single: RunRecord, looped: RunRecord) -> float | None:
    """Share of Looped's operations if every update were as good as Looped's, from what an update of Single and Looped costs.

    A stage in between costs what its passes cost, in proportion; ramps count in full.
    """
    if not run.switches:
        return None
    ends = [other.evaluations[-1] for other in (single, looped)]
    one, many = (end.flops / end.step for end in ends)
    deepest, steps = looped.evaluations[-1].loops, ends[1].step
    edges = [0, *(switch.step for switch in run.switches), steps]
    depths = [1, *(switch.loops_after for switch in run.switches)]
    pairs = zip(itertools.pairwise(edges), depths, strict=True)
    return sum((b - a) * (one + (many - one) * (depth - 1) / (deepest - 1)) for (a, b), depth in pairs) / (steps * many)


def outcome_of(name: str, group: str, settings: dict, runs: Pairs, single: Pairs, looped: Pairs, failed: int = 0) -> Outcome:
    """One way over seeds; ``failed`` runs of it have no record."""
    every = list(runs.values())
    switched = [run for run in every if run.switches]
    ideals = [ideal(runs[s], single[s], looped[s]) for s in sorted(runs.keys() & single.keys() & looped.keys())]
    return Outcome(
        name=name,
        group=group,
        settings=settings,
        switch_step=cell([float(run.switches[0].step) for run in switched]),
        switched=len(switched),
        drop=cell([drop(run) for run in every]),
        jump=cell([jump(run) for run in every]),
        final_loss=cell([loss_at_end(run) for run in every]),
        final_accuracy=cell([final(run, "held-out", "all", "accuracy") for run in every]),
        difference=cell(paired(runs, looped, loss_at_end)),
        share_seconds=share_over_seeds(list(shares(runs, looped, seconds).values())),
        share_flops=share_over_seeds(list(shares(runs, looped, operations).values())),
        ideal_flops=cell(ideals),
        seconds=cell([run.evaluations[-1].seconds for run in every]),
        teraflops=cell([operations(run.evaluations[-1]) / 1e12 for run in every]),
        retreats=sum(len(run.retreats) for run in every),
        failed=failed,
    )


def reaches(runs: Pairs, looped: Pairs) -> bool:
    """Whether every run gets to Looped's final loss."""
    found = shares(runs, looped, operations).values()
    return bool(found) and all(reached for _, reached in found)


def losses(runs: Pairs, looped: Pairs) -> dict[int, float]:
    """Seed -> final loss, at the seeds that Looped has too."""
    return {seed: loss_at_end(runs[seed]) for seed in sorted(runs.keys() & looped.keys())}


def logs(runs: Pairs, looped: Pairs) -> dict[int, float]:
    """Seed -> log of the share of operations; a censored run counts with its end, the least that it can be."""
    return {seed: math.log(share) for seed, (share, _) in shares(runs, looped, operations).items()}


def difference(runs: Pairs, other: Pairs) -> Interval:
    """Final loss, paired by seed."""
    return interval(paired(runs, other, loss_at_end))


def seconds(record: EvaluationRecord) -> float:
    """Training seconds spent."""
    return record.seconds


def operations(record: EvaluationRecord) -> float:
    """Operations spent."""
    return record.flops
