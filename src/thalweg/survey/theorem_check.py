"""Theorems 1 and 2 at one snapshot of a run, beside gradient descent from there on a fixed batch.

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


def theorems_beside(
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
    """Every prediction for K steps of gradient descent from the model's present weights, and what the K steps did.

    The split comes from an earlier snapshot: through its own eigenvectors a Hessian shows no coupling, and theorem 1 no force.

    Args:
        loss_fn: ``(model, batch) -> mean loss``.
        model: with the weights of the step; left as it is.
        batch: the fixed sequences ``(N, L)``.
        hessian: of this loss at these weights, ``(P, P)`` in float64.
        split: river and valley, frozen (`thalweg.landscape.split.frozen`).
        split_step: updates made where it was taken.
        step: updates made.
        rate: eta.
        steps: K.
    Raises:
        BadInputError: the split is not from before this step.
        EmptySubspaceError: no river or no valley.
        NonFiniteError: the descent diverges, or a number of the record is infinite; the message names it.
    """
    require(split_step < step, "split_step", split_step, f"a snapshot before the step, {step}; take the split from the one before")
    place = Objective(loss_fn, model, [batch], dtype=torch.float64)

    def loss(point: Tensor) -> float:
        with place.quiet(), torch.no_grad():
            return place.weight * float(place.total(0, place.layout.split(point)))

    found = theorems_at(loss, place.gradient_at, hessian, place.point, split, rate, steps)
    return complete(_recorded(found, step, split_step))


def _recorded(found: TheoremsAt, step: int, split_step: int) -> TheoremsRecord:
    """The numbers that a record keeps."""
    return TheoremsRecord(
        step=step,
        split_step=split_step,
        rate=found.rate,
        steps=found.steps,
        sharpness=found.rate * found.largest,
        valley=found.valley,
        river=found.river,
        coupling=found.coupling,
        force_predicted=found.force.predicted,
        force_measured=found.force.measured,
        force_cosine=found.force.cosine if math.isfinite(found.force.cosine) else None,
        relative_predicted=found.relative.predicted,
        relative_measured=found.relative.measured,
        upper_paper=found.upper_paper,
        upper_best=found.upper_best,
        lower_best=found.lower_best,
        decrease_predicted=found.decrease_predicted,
        decrease=found.decrease,
        error=found.error,
        error_bound=found.error_bound,
        loss_error=found.loss_error,
        loss_error_bound=found.loss.bound,
    )


def complete(record: TheoremsRecord) -> TheoremsRecord:
    """The record, refused where one of its numbers does not exist.

    Raises:
        NonFiniteError: names the number.
    """
    for name, value in asdict(record).items():
        if value is not None and not math.isfinite(value):
            raise NonFiniteError(f"theorems at step {record.step}: {name} is {value}, expected a number; take fewer steps")
    return record
