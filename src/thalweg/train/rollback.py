"""Rollback of a switch: the state at the switch is kept on disk, so that the run can return to it."""

from __future__ import annotations

from thalweg import ranks
from thalweg.errors import DamagedFileError
from thalweg.records.run import RetreatRecord
from thalweg.serialization import to_dict
from thalweg.train.checkpoint import Checkpoint, checkpoints, read_checkpoint, remove, scatter, step_of
from thalweg.train.state import Run

_FOLDER = "switches"


def save_rollback_point(run: Run) -> None:
    """Save the state at the switch that was just made, if a safety net watches it."""
    if run.shift.watching:
        for path in checkpoints(run.folder / _FOLDER) if run.rank == 0 else ():
            if step_of(path) != run.shift.step:  # of another session, whose later switch would count as the newest
                remove(path)
        run.write(_FOLDER, keep=1)


def roll_back(run: Run, reason: str | None = None) -> None:
    """Take the last switch back: restore weights, optimizer state and step, and repeat the switch with a softer onset.

    The clock keeps running, as the failed try did cost time and operations.

    Args:
        run: the run.
        reason: why, if the schedule does not know it.
    Raises:
        DamagedFileError: the checkpoint of the switch is missing or cannot be read.
    """
    retreat = run.shift.go_back(reason)
    with ranks.together():
        saved = _rollback_point(run, retreat.back_to) if run.rank == 0 else None
    saved = ranks.same(saved)
    assert saved is not None
    scatter(saved, run.model, run.optimizer)
    record = RetreatRecord(retreat.step, retreat.back_to, retreat.reason, run.clock.seconds, run.clock.flops)
    run.retreats.append(record)
    run.record("retreat", to_dict(record))
    for callback in run.callbacks:
        callback.on_retreat(record)
    run.switches = [switch for switch in run.switches if switch.step != retreat.back_to]
    run.record_switch()
    if retreat.back_to % run.config.training.evaluate_every == 0:
        run.evaluate()  # replaces the evaluation at this step, which the retreat withdrew
    # Checkpoints of the failed try are removed before one of this moment is written: it would count as the oldest and be removed
    # itself. They are removed newest first, so that a process killed in between resumes from an earlier one, fails in the same
    # manner, and comes here again.
    for path in reversed(checkpoints(run.folder / "checkpoints")) if run.rank == 0 else ():
        if step_of(path) > retreat.back_to:
            remove(path)
    run.save()


def _rollback_point(run: Run, step: int) -> Checkpoint:
    """Read what `save_rollback_point` saved at a step; raises `DamagedFileError` if it is missing or cannot be read."""
    saved = [path for path in checkpoints(run.folder / _FOLDER) if step_of(path) == step]
    if not saved:
        raise DamagedFileError(f"damaged run {run.folder}: the checkpoint of the switch is missing; remove the folder")
    return read_checkpoint(saved[-1])
