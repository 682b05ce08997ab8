"""Drop and jump at a switch: how far accuracy falls and loss rises when a new stage begins, and what is lost without one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from thalweg.experiments.metrics import LAST, Pairs
from thalweg.records.run import RunRecord, SwitchRecord

_WATCH = 400
"""Updates after a switch's onset in which a drop is looked for."""


def accuracy(scores: dict) -> float:
    """Held-out accuracy of all sequences."""
    return scores["held-out"]["all"].accuracy


def accuracies(run: RunRecord, after: int, until: int) -> list[float]:
    """Of the evaluations after an update, until another one, that one included."""
    return [accuracy(e.scores) for e in run.evaluations if after < e.step <= until]


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


def drops_with_looped(runs: Pairs, looped: Pairs) -> list[tuple[float, float]]:
    """Drop of each run and what Looped loses at the same updates without a switch, at the seeds that have both."""
    pairs = [(drop(runs[seed]), fluctuation(looped[seed], runs[seed])) for seed in sorted(runs.keys() & looped.keys())]
    return [(mine, same) for mine, same in pairs if mine is not None and same is not None]


def jump(run: RunRecord) -> float | None:
    """Rise of the held-out loss at a switch, same weights, the largest where there are several; None without one."""
    sides = [[scores["held-out"]["all"].loss for scores in (s.scores_before, s.scores_after)] for s in run.switches]
    return max((after - before for before, after in sides), default=None)
