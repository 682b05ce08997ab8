"""What one arm gave on one task, over seeds, from the records of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thalweg.experiments.metrics import Measure, Pairs, cell, final, held_out_errors
from thalweg.experiments.outcomes import drop, jump, operations, seconds, share_over_seeds, shares
from thalweg.records.experiment import Share, Table, TaskOutcome
from thalweg.records.run import RunRecord, TaskLength

_POINT = 0.01
"""How much below Looped's final exact match counts as having reached it."""
LEARNED = 0.5
"""Exact match below which Looped has not learned the task, so that reaching it says nothing."""

Lengths = dict[int, tuple[TaskLength, ...]]
"""Seed -> what was tested after training."""


def task_outcome(task: str, arm: str, runs: Pairs, lengths: Lengths, looped: Pairs, failed: int = 0) -> TaskOutcome:
    """One arm; ``looped`` are the runs of Looped on the same task."""
    every = [runs[seed] for seed in sorted(runs)]
    tested = [lengths[seed] for seed in sorted(runs)]
    first = tested[0] if tested else ()
    return TaskOutcome(
        task=task,
        arm=arm,
        seeds=tuple(sorted(runs)),
        trained=cell([trained_accuracy(run) for run in every]),
        lengths=tuple(one.length for one in first),
        loops=tuple(max(one.loops for one in row) for row in zip(*tested, strict=True)),
        samples=first[0].samples if first else 0,
        accuracy=table(tested, lambda one: one.accuracy),
        confident=table(tested, lambda one: one.confident),
        confident_batch=table(tested, lambda one: one.confident_batch),
        dip=table(tested, lambda one: one.dip or 0.0) if all(one.dip is not None for seed in tested for one in seed) else (),
        by_loops={str(one.length): by_loops(tested, place) for place, one in enumerate(first)},
        switch_step=cell([float(run.switches[0].step) for run in every if run.switches]),
        drop=cell([drop(run) for run in every]),
        jump=cell([jump(run) for run in every]),
        share_seconds=_share_of(runs, looped, seconds),
        share_flops=_share_of(runs, looped, operations),
        seconds=cell([seconds(run.evaluations[-1]) for run in every]),
        teraflops=cell([operations(run.evaluations[-1]) / 1e12 for run in every]),
        failed=failed,
    )


def trained_accuracy(run: RunRecord) -> float:
    """Exact match on held-out samples of all trained lengths at the end."""
    return final(run, "held-out", "all", "accuracy")


def table(tested: Sequence[tuple[TaskLength, ...]], number: Callable[[TaskLength], float]) -> Table:
    """One row for each length, one number for each seed."""
    return tuple(tuple(number(one) for one in row) for row in zip(*tested, strict=True))


def by_loops(tested: Sequence[tuple[TaskLength, ...]], place: int) -> Table:
    """One row for each number of passes at one length; without seeds that ended in an earlier stage than others, with fewer."""
    own = max(seed[place].loops for seed in tested)
    return tuple(zip(*(seed[place].by_loops for seed in tested if seed[place].loops == own), strict=False))


def _share_of(runs: Pairs, looped: Pairs, spent: Measure) -> Share | None:
    """Share of Looped's cost to its final exact match less a point, see `thalweg.experiments.outcomes.shares`.

    Exact match ends near 1 on a task that is learned, where the last hundredth can take as long as all the rest: so the target is
    a point lower, for both. Seeds at which Looped has learned less than half are left out.
    """
    learned = {seed: run for seed, run in looped.items() if trained_accuracy(run) >= LEARNED}
    found = shares(runs, learned, spent, held_out_errors, lambda run: 1 - trained_accuracy(run) + _POINT)
    return share_over_seeds(list(found.values()))
