"""Test of theorems 1 and 2 at one snapshot of a run, against gradient descent from there on a fixed batch.

Shape letters: P number of parameters, N sequences, L tokens of a sequence.
"""

from __future__ import annotations

import math
from dataclasses import asdict

import torch
from torch import Tensor, nn

from thalweg.curvature.objective import LossFunction, Objective
from thalweg.errors import NonFiniteError, require
from thalweg.landscape.split import Split
from thalweg.landscape.theorems import TheoremsAt, theorems_at
from thalweg.records.landscape import TheoremsRecord


def check_theorems(
    loss_fn: LossFunction,
    model: nn.Module,
    batch: Tensor,
    hessian: Tensor,
    split: Split,
    split_step: int,
    step: int,
    rate: float,
    steps: int,
) -> TheoremsRecord:
    """Predict K steps of gradient descent from the model's weights, make them, and record both.

    The split into river and valley has to come from an earlier snapshot: in its own eigenvectors a Hessian couples nothing, so
    that theorem 1 would predict no force.

    Args:
        loss_fn: ``(model, batch) -> mean loss``.
        model: the model with the weights to start from; not changed.
        batch: the fixed sequences ``(N, L)``.
        hessian: Hessian of this loss at these weights, ``(P, P)`` in float64.
        split: river and valley directions, from `thalweg.landscape.split.frozen`.
        split_step: number of updates made at the snapshot of the split.
        step: number of updates made at this snapshot.
        rate: step size eta of the descent.
        steps: number of steps K.
    Raises:
        BadInputError: the split is not from an earlier step.
        EmptySubspaceError: the split has no river or no valley.
        NonFiniteError: the descent diverges, or a number of the record is not finite; the message names it.
    """
    require(split_step < step, "split_step", split_step, f"a snapshot before the step, {step}; take the split from the one before")
    objective = Objective(loss_fn, model, [batch], dtype=torch.float64)

    def loss(point: Tensor) -> float:
        with objective.quiet(), torch.no_grad():
            return objective.weight * float(objective.total(0, objective.layout.split(point)))

    outcome = theorems_at(loss, objective.gradient_at, hessian, objective.point, split, rate, steps)
    return require_finite(_to_record(outcome, step, split_step))


def _to_record(outcome: TheoremsAt, step: int, split_step: int) -> TheoremsRecord:
    """The predictions and measurements as a record."""
    return TheoremsRecord(
        step=step,
        split_step=split_step,
        rate=outcome.rate,
        steps=outcome.steps,
        sharpness=outcome.rate * outcome.largest,
        valley=outcome.valley,
        river=outcome.river,
        coupling=outcome.coupling,
        force_predicted=outcome.force.predicted,
        force_measured=outcome.force.measured,
        force_cosine=outcome.force.cosine if math.isfinite(outcome.force.cosine) else None,
        relative_predicted=outcome.relative.predicted,
        relative_measured=outcome.relative.measured,
        upper_paper=outcome.upper_paper,
        upper_best=outcome.upper_best,
        lower_best=outcome.lower_best,
        decrease_predicted=outcome.decrease_predicted,
        decrease=outcome.decrease,
        error=outcome.error,
        error_bound=outcome.error_bound,
        loss_error=outcome.loss_error,
        loss_error_bound=outcome.loss.bound,
    )


def require_finite(record: TheoremsRecord) -> TheoremsRecord:
    """Return a record unchanged if all of its numbers are finite.

    Raises:
        NonFiniteError: a number is NaN or infinite; the message names it.
    """
    for name, value in asdict(record).items():
        if value is not None and not math.isfinite(value):
            raise NonFiniteError(f"theorems at step {record.step}: {name} is {value}, expected a finite number; take fewer steps")
    return record
