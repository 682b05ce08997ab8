"""Drop and jump at a switch: how far accuracy falls and loss rises when a new stage begins, and what is lost without one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from thalweg.experiments.metrics import LAST, Pairs
from thalweg.records.run import RunRecord, SwitchRecord

_WATCH = 400
"""Updates after a switch's onset over which a drop is searched."""


def accuracy(scores: dict) -> float:
    """Held-out accuracy over all sequences, from the scores of an evaluation or of a switch."""
    return scores["held-out"]["all"].accuracy


def accuracies(run: RunRecord, after: int, until: int) -> list[float]:
    """Held-out accuracies of the evaluations at steps above ``after`` and up to ``until``."""
    return [accuracy(e.scores) for e in run.evaluations if after < e.step <= until]


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
