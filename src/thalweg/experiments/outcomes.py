"""Outcomes of a variant over seeds: drop and jump at a switch, final loss, and its share of Looped's cost."""

from __future__ import annotations

import itertools

from thalweg.experiments.disturbance import costs_of
from thalweg.experiments.drop import drop, jump
from thalweg.experiments.metrics import Pairs, cell, final, paired
from thalweg.experiments.share import loss_at_end, operations, seconds, share_over_seeds, shares
from thalweg.intervals import Interval, interval
from thalweg.records.experiment import Outcome
from thalweg.records.run import RunRecord


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
    by_seconds = "seconds" in costs_of(runs, looped)
    return Outcome(
        name=name,
        group=group,
        settings=settings,
        switch_step=cell([float(run.switches[0].step) for run in switched], least=0.0),
        switched=len(switched),
        drop=cell([drop(run) for run in records], least=0.0, most=100.0),
        jump=cell([jump(run) for run in records]),
        final_loss=cell([loss_at_end(run) for run in records]),
        final_accuracy=cell([final(run, "held-out", "all", "accuracy") for run in records], least=0.0, most=1.0),
        difference=cell(paired(runs, looped, loss_at_end)),
        share_seconds=share_over_seeds(list(shares(runs, looped, seconds).values())) if by_seconds else None,
        share_flops=share_over_seeds(list(shares(runs, looped, operations).values())),
        ideal_flops=cell(ideals),
        seconds=cell([run.evaluations[-1].seconds for run in records], least=0.0),
        teraflops=cell([operations(run.evaluations[-1]) / 1e12 for run in records], least=0.0),
        retreats=sum(len(run.retreats) for run in records),
        failed=failed,
    )


def losses(runs: Pairs, looped: Pairs) -> dict[int, float]:
    """Seed -> final held-out loss, at the seeds that Looped has too."""
    return {seed: loss_at_end(runs[seed]) for seed in sorted(runs.keys() & looped.keys())}


def difference(runs: Pairs, other: Pairs) -> Interval:
    """Difference of the final held-out loss, ``runs`` minus ``other``, paired by seed, with its 95 % t-interval."""
    return interval(paired(runs, other, loss_at_end))
