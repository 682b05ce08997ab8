"""The outcome of one arm on one task over seeds, computed from the records of its runs.

Accuracies are exact matches. ``tested`` holds, for each seed in rising order, the records of the tested lengths in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thalweg.experiments.disturbance import costs_of
from thalweg.experiments.drop import drop, jump
from thalweg.experiments.metrics import Measure, Pairs, cell, final, held_out_errors
from thalweg.experiments.share import operations, seconds, share_over_seeds, shares
from thalweg.records.experiment import Share, Table, TaskOutcome
from thalweg.records.run import RunRecord, TaskLength

_POINT = 0.01
"""Margin below Looped's final exact match within which it counts as reached."""
LEARNED = 0.5
"""Exact match below which a task counts as not learned; reaching such a value, or agreeing on it, would say nothing."""

Lengths = dict[int, tuple[TaskLength, ...]]
"""Seed -> the records of the lengths tested after training."""


def task_outcome(task: str, arm: str, runs: Pairs, lengths: Lengths, looped: Pairs, failed: int = 0) -> TaskOutcome:
    """Summarise one arm on one task over seeds.

    Args:
        task: name of the task.
        arm: name of the arm.
        runs: seed -> complete run of the arm.
        lengths: seed -> the lengths tested after that run.
        looped: seed -> complete run of Looped on the same task, whose final exact match sets the target of the cost shares.
        failed: number of runs that ended with an error and have no record.
    """
    records = [runs[seed] for seed in sorted(runs)]
    tested = [lengths[seed] for seed in sorted(runs)]
    first = tested[0] if tested else ()
    has_dips = all(length.dip is not None for seed in tested for length in seed)
    return TaskOutcome(
        task=task,
        arm=arm,
        seeds=tuple(sorted(runs)),
        trained=cell([trained_accuracy(run) for run in records], least=0.0, most=1.0),
        lengths=tuple(length.length for length in first),
        loops=tuple(max(length.loops for length in row) for row in zip(*tested, strict=True)),
        samples=first[0].samples if first else 0,
        accuracy=table(tested, lambda length: length.accuracy),
        confident=table(tested, lambda length: length.confident),
        confident_batch=table(tested, lambda length: length.confident_batch),
        dip=table(tested, lambda length: length.dip or 0.0) if has_dips else (),
        by_loops={str(length.length): by_loops(tested, index) for index, length in enumerate(first)},
        switch_step=cell([float(run.switches[0].step) for run in records if run.switches], least=0.0),
        drop=cell([drop(run) for run in records], least=0.0, most=100.0),
        jump=cell([jump(run) for run in records]),
        share_seconds=_share_of(runs, looped, seconds) if "seconds" in costs_of(runs, looped) else None,
        share_flops=_share_of(runs, looped, operations),
        seconds=cell([seconds(run.evaluations[-1]) for run in records], least=0.0),
        teraflops=cell([operations(run.evaluations[-1]) / 1e12 for run in records], least=0.0),
        failed=failed,
    )


def trained_accuracy(run: RunRecord) -> float:
    """Final exact match on held-out samples of all trained lengths, mean of the last evaluations."""
    return final(run, "held-out", "all", "accuracy")


def table(tested: Sequence[tuple[TaskLength, ...]], number: Callable[[TaskLength], float]) -> Table:
    """One number of every tested length: a row for each length, a column for each seed."""
    return tuple(tuple(number(length) for length in row) for row in zip(*tested, strict=True))


def by_loops(tested: Sequence[tuple[TaskLength, ...]], index: int) -> Table:
    """Exact match by number of passes at the length with this index: a row for each number of passes, a column for each seed.

    A seed that ended in an earlier stage has fewer passes than the others at this length and is left out.
    """
    most = max(seed[index].loops for seed in tested)
    return tuple(zip(*(seed[index].by_loops for seed in tested if seed[index].loops == most), strict=False))


def shares_of(runs: Pairs, looped: Pairs, spent: Measure) -> dict[int, tuple[float, bool]]:
    """Seed -> share of Looped's cost until its final exact match less one point, see `thalweg.experiments.share.shares`.

    On a task that is learned, exact match ends near 1, and its last hundredth can take as long as all the rest; so the target lies
    one point lower, for both arms. Seeds at which Looped has learned less than half are left out.
    """
    learned = {seed: run for seed, run in looped.items() if trained_accuracy(run) >= LEARNED}
    # `shares` minimises, so the target is an error: 1 - (final exact match - one point).
    return shares(runs, learned, spent, held_out_errors, lambda run: 1 - trained_accuracy(run) + _POINT)


def _share_of(runs: Pairs, looped: Pairs, spent: Measure) -> Share | None:
    """The shares of `shares_of` over seeds."""
    return share_over_seeds(list(shares_of(runs, looped, spent).values()))
