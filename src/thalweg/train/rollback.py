"""Rollback of a switch: the weights at the switch are kept on disk, and the run can go back to them."""

from __future__ import annotations

from thalweg.errors import DamagedFileError
from thalweg.records.run import RetreatRecord
from thalweg.serialization import to_dict
from thalweg.train.checkpoint import checkpoints, gather, read_checkpoint, save_checkpoint, scatter, step_of
from thalweg.train.state import Run

_FOLDER = "switches"


def save_rollback_point(run: Run) -> None:
    """Keep what the switch that was just made can be taken back to; nothing without a net."""
    if run.shift.watching:
        save_checkpoint(run.folder / _FOLDER, run.shift.step, gather(run.model, run.optimizer), run.facts(), keep=1)


def roll_back(run: Run, reason: str | None = None) -> None:
    """Take the last switch back: weights, optimizer and step as they were, the clock as it is, a softer onset from here.

    Later checkpoints are removed, the newest first, before the one of this moment is written, which would count as the oldest and
    be pruned beside them. A process that is killed in between goes on from an earlier one, fails in the same way and comes here
    again.

    Raises:
        DamagedFileError: the checkpoint of the switch is not there or cannot be read.
    """
    retreat = run.shift.go_back(reason)
    kept = checkpoints(run.folder / _FOLDER)
    if not kept:
        raise DamagedFileError(f"damaged run {run.folder}: the checkpoint of the switch is missing; remove the folder")
    scatter(read_checkpoint(kept[-1]), run.model, run.optimizer)
    record = RetreatRecord(retreat.step, retreat.back_to, retreat.reason, run.clock.seconds, run.clock.flops)
    run.retreats.append(record)
    run.record("retreat", to_dict(record))
    for callback in run.callbacks:
        callback.on_retreat(record)
    run.switches = [switch for switch in run.switches if switch.step != retreat.back_to]
    run.record_switch()
    if retreat.back_to % run.config.training.evaluate_every == 0:
        run.evaluate()  # what the try's own passes scored here is left out
    for path in reversed(checkpoints(run.folder / "checkpoints")):
        if step_of(path) > retreat.back_to:
            path.unlink()
    run.save()
