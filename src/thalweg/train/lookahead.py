"""A short look ahead: both stages are trained a little on copies, and the run goes on from where it was."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from thalweg.shift.criterion import LookAhead, LookaheadResult
from thalweg.shift.onset import Hard, Onset, Ramp
from thalweg.train.checkpoint import Checkpoint, gather, scatter
from thalweg.train.state import Run
from thalweg.train.step import Batch, mean_loss


@dataclass(frozen=True)
class Stage:
    """Passes of a look: those of now, and those that are brought in over its first half."""

    loops: int
    added: int
    onset: Onset

    def gains(self, age: int) -> tuple[float, ...]:
        """One factor for each pass."""
        return (1.0,) * (self.loops - self.added) + self.onset.gains(age, self.added)


def look_ahead(run: Run) -> bool:
    """Try this stage and the next one, tell the schedule, and put everything back; True when the next stage begins.

    What it costs is added to the run's operations, every pass in full; the caller's clock runs on.
    """
    shift = run.shift
    rule = shift.criteria[shift.stage]
    assert isinstance(rule, LookAhead)
    batches = [run.batch(shift.step + k) for k in range(rule.updates)]
    judged = max(1, rule.updates // 4)
    with torch.no_grad():
        before = sum(mean_loss(run.forward, batch, shift.depth).item() for batch in batches[-judged:]) / judged
    run.clock.flops += sum(run.flops(batch, shift.depth) for batch in batches[-judged:]) / 3
    following = shift.stages[shift.stage + 1]
    stages = (Stage(shift.depth, 0, Hard()), Stage(following, following - shift.depth, Ramp(rule.updates // 2)))
    kept = Checkpoint(run.folder, {name: part.clone() for name, part in gather(run.model, run.optimizer).items()}, {})
    results = []
    for stage in stages:
        after = sum(losses(run, stage, batches)[-judged:]) / judged
        cost = sum(run.flops(batch, stage.loops) for batch in batches)
        run.clock.flops += cost
        results.append(LookaheadResult(before - after, cost))
        scatter(kept, run.model, run.optimizer)
    return shift.report_lookahead(*results)


def losses(run: Run, stage: Stage, batches: list[Batch]) -> list[float]:
    """Train on the batches at the rate of now; the loss before each update."""
    found = []
    for age, batch in enumerate(batches):
        found.append(run.train_on(batch, stage.loops, run.as_gains(stage.gains(age))).loss)
    return found
