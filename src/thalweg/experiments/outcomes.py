"""What one way to switch gave, over seeds: drop, jump, final quality, and its share of Looped's cost."""

from __future__ import annotations

import itertools

from thalweg.experiments.drop import drop, jump
from thalweg.experiments.metrics import Pairs, cell, final, paired
from thalweg.experiments.share import loss_at_end, operations, seconds, share_over_seeds, shares
from thalweg.intervals import Interval, interval
from thalweg.records.experiment import Outcome
from thalweg.records.run import RunRecord


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


def losses(runs: Pairs, looped: Pairs) -> dict[int, float]:
    """Seed -> final loss, at the seeds that Looped has too."""
    return {seed: loss_at_end(runs[seed]) for seed in sorted(runs.keys() & looped.keys())}


def difference(runs: Pairs, other: Pairs) -> Interval:
    """Final loss, paired by seed."""
    return interval(paired(runs, other, loss_at_end))
