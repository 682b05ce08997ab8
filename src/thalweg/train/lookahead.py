"""Trial training of the current and the next stage, for the criterion `thalweg.shift.criterion.LookAhead`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from thalweg.shift.criterion import LookAhead, LookaheadResult
from thalweg.shift.onset import Hard, Onset, Ramp
from thalweg.train.checkpoint import Checkpoint, gather, scatter
from thalweg.train.state import Run
from thalweg.train.step import Batch, mean_loss


@dataclass(frozen=True)
class _Trial:
    """The stage that a trial trains."""

    loops: int
    """Number of passes."""
    added: int
    """How many of them the stage adds to the current one."""
    onset: Onset
    """How the added passes begin to count."""

    def gains(self, age: int) -> tuple[float, ...]:
        """Gain of each pass after ``age`` updates of the trial."""
        return (1.0,) * (self.loops - self.added) + self.onset.gains(age, self.added)


def look_ahead(run: Run) -> bool:
    """Train both stages for a few updates, restore the run, and report the results to its schedule.

    The operations of the trials are added to those of the run, with every pass counted in full.

    Returns:
        True if the schedule begins the next stage.
    """
    shift = run.shift
    rule = shift.criteria[shift.stage]
    assert isinstance(rule, LookAhead)
    batches = [run.batch(shift.step + k) for k in range(rule.updates)]
    # The gain is measured on the batches of the last quarter of a trial, before it and at its end.
    judged = max(1, rule.updates // 4)
    with torch.no_grad():
        before = sum(mean_loss(run.forward, batch, shift.depth).item() for batch in batches[-judged:]) / judged
    run.clock.flops += sum(run.flops(batch, shift.depth) for batch in batches[-judged:]) / 3  # a forward pass is a third of a step
    following = shift.stages[shift.stage + 1]
    trials = (_Trial(shift.depth, 0, Hard()), _Trial(following, following - shift.depth, Ramp(rule.updates // 2)))
    saved = Checkpoint(run.folder, {name: part.clone() for name, part in gather(run.model, run.optimizer).items()}, {})
    results = []
    for trial in trials:
        after = sum(losses(run, trial, batches)[-judged:]) / judged
        cost = sum(run.flops(batch, trial.loops) for batch in batches)
        run.clock.flops += cost
        results.append(LookaheadResult(before - after, cost))
        scatter(saved, run.model, run.optimizer)
    return shift.report_lookahead(*results)


def losses(run: Run, trial: _Trial, batches: list[Batch]) -> list[float]:
    """Train on the batches with the current learning rate, and return the loss before each update."""
    return [run.train_on(batch, trial.loops, run.as_gains(trial.gains(age))).loss for age, batch in enumerate(batches)]
