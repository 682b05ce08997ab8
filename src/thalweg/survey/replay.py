"""Motion in a window of training: does it hop between valley walls, does it flow along the river, is it trapped?

Shape letters: W updates of a window, P number of parameters, N sequences, L tokens of a sequence, k valley directions.

`replay` repeats a window of a run from a snapshot and classifies its motion. It has two steps that work for any trajectory:
`surroundings` measures the curvature around it, and `judge` applies the definitions of hopping, flowing and trapping.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.loss_operator import Method
from thalweg.curvature.objective import LossFunction, Objective
from thalweg.data.batches import Data
from thalweg.errors import EmptySubspaceError, NonFiniteError, NotConvergedError
from thalweg.landscape.ablation import ablation
from thalweg.landscape.edge import Edge, batch_sharpness, edge, preconditioned_sharpness
from thalweg.landscape.flips import MOST_DEGREES, along, flips
from thalweg.landscape.geometry import geometry
from thalweg.landscape.hopping import hopping, river_motion, trapped
from thalweg.landscape.spectrum import held
from thalweg.records.landscape import ConditionRecord, ReplayRecord
from thalweg.survey.trajectory import Progress, Trajectory, load, record_updates, restored_run
from thalweg.theory.hopping_force import curvature_gradient
from thalweg.theory.momentum import edge_ratio
from thalweg.train.checkpoint import Checkpoint
from thalweg.train.config import RunConfig

_LARGEST_RATIO = 1e12
"""Recorded in place of an infinite ratio, such as the tortuosity of a closed walk; 0 stands for a ratio that does not exist."""
_RELATIVE_THRESHOLD = 1e-3
"""Threshold of the valley as a share of the largest eigenvalue, if none is given."""
_HOPPING_SHARPNESS = 1.5
"""eta lam_max of the ablation: half-way between monotone descent (1) and divergence (2)."""
_BATCHES = 8
"""Number of mini-batches for the batch sharpness: the first ones of the window."""


@dataclass(frozen=True)
class Curvature:
    """Curvature of the loss around a trajectory."""

    frame: Tensor
    """Valley directions at the first point, steepest first, orthonormal columns ``(P, k)``; see `steady_directions`."""
    degrees: float
    """Largest angle in degrees between one of them and the valley at the last point."""
    edge: Edge
    """Edge-of-stability ratios of the updates: sharpness times step size over its limit."""
    cubic_drift: float
    """Drift along the river that the third derivative predicts for a hopping trajectory, see `cubic_drift`."""
    batch_sharpness: float | None
    """Edge ratio from mini-batches instead of the fixed batch; None if it was not measured."""
    ablation: str
    """Verdict of the ablation, or why there is none."""
    progress: dict[str, float]
    """Progress along the river of every run of the ablation."""


def replay(
    config: RunConfig,
    checkpoint: Checkpoint,
    batch: Tensor,
    window: int,
    *,
    first_gradient: float,
    valley_class: str,
    epsilon: float | None = None,
    top: int = 10,
    rate: float | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    data: Data | None = None,
) -> ReplayRecord:
    """Repeat a window of a run from a snapshot and classify its motion.

    Args:
        config, checkpoint, batch, window, memory, progress, data: see `thalweg.survey.trajectory.trajectory`.
        first_gradient, valley_class: see `judge`.
        epsilon, top, rate: see `surroundings`.
    Returns:
        The record with all numbers, conditions and verdicts.
    """
    plain = config.optimizer.name == "sgd" and not config.optimizer.momentum
    with restored_run(config, checkpoint, window, data) as run:
        # The batch sharpness is defined for plain SGD only.
        coming = [run.batch(run.shift.step + k) for k in range(_BATCHES)] if plain else []
        batches = [tokens for tokens in coming if isinstance(tokens, Tensor)]
        rows = batch.to(run.device)
        path = record_updates(run, rows, window, memory, progress)
        around = surroundings(path, path.loss_at, run.model, rows, epsilon, top, rate, batches)
    return judge(path, around, first_gradient, valley_class)


def surroundings(
    path: Trajectory,
    loss_at: Callable[[int], LossFunction],
    model: nn.Module,
    batch: Tensor,
    epsilon: float | None = None,
    top: int = 10,
    rate: float | None = None,
    batches: Sequence[Tensor] = (),
) -> Curvature:
    """Measure valley directions, edge ratios, cubic drift and ablation around a trajectory, matrix-free in float64.

    The valley directions are those of the first point. The edge ratio of an update uses its learning rate times its clipping
    factor; the sharpness is interpolated linearly between the points where it is measured. Weight decay is not included.

    Args:
        path: trajectory of this model's weights, in the order of its parameters.
        loss_at: point -> loss function of the update made from it.
        model: the model; a copy of it is used.
        batch: the fixed sequences ``(N, L)``.
        epsilon: directions with eigenvalues above it form the valley; None takes a thousandth of the largest eigenvalue.
        top: largest number of valley directions; the steepest direction always is one.
        rate: step size of the ablation's gradient descent; None takes 1.5 / lam_max, which hops along the steepest direction.
        batches: mini-batches of the training, for the batch sharpness (ratio of the means) at the first point.
    """
    model, sharpness = copy.deepcopy(model), {}

    def hessian(point: int, rows: Tensor, method: Method = "auto") -> Hessian:
        load(model, path.points[point])
        return Hessian(loss_at(point), model, [rows], dtype=torch.float64, method=method, check=False)

    # 1. Valley: the steepest eigenvectors at the first point that still lie in the valley at the last one.
    start = hessian(0, batch)
    pairs = eigenpairs(start, min(top, start.dim), "largest", strict=False)
    largest = float(pairs.values[0])
    above = int((pairs.values > (_RELATIVE_THRESHOLD * abs(largest) if epsilon is None else epsilon)).sum())
    frame = pairs.vectors[:, : max(1, above)].contiguous()
    end = hessian(path.window, batch)
    frame, degrees = steady_directions(frame, eigenpairs(end, min(2 * frame.shape[1], end.dim), "largest", strict=False).vectors)
    # 2. Sharpness of the preconditioned Hessian at the recorded points, for the edge ratios.
    for point, diagonal in path.diagonals.items():
        operator = {0: start, path.window: end}.get(point) or hessian(point, batch)
        sharpness[point] = _preconditioned_sharpness(operator, diagonal)
    # 3. Cubic drift and ablation at the first point; the same edge ratio from mini-batches.
    drift = cubic_drift(start.objective, frame)
    verdict, progress = _ablate(start.objective, frame, largest, rate, path.window)
    eta = float(np.median(np.multiply(path.rates, path.shrunk)))
    from_batches = _edge_by_batches([hessian(0, rows, "rebuilt") for rows in batches], eta) if batches else None
    return Curvature(frame.cpu(), degrees, _edge_along(path, sharpness), drift, from_batches, verdict, progress)


def _preconditioned_sharpness(hessian: Hessian, diagonal: Tensor) -> float:
    """lam_max of the preconditioned Hessian; NaN if the iteration does not converge."""
    try:
        return preconditioned_sharpness(hessian, diagonal.to(hessian.device))
    except NotConvergedError:
        return math.nan


def _edge_along(path: Trajectory, sharpness: dict[int, float]) -> Edge:
    """Statistics of the edge ratios of all updates; a median of NaN if the sharpness is missing somewhere."""
    ratios = edge_ratios(path, sharpness)
    return edge(ratios) if bool(ratios.isfinite().all()) else Edge(math.nan, 0.0, 0.9, 1.1)


def edge_ratios(path: Trajectory, sharpness: dict[int, float]) -> Tensor:
    """Edge-of-stability ratio ``eta lam_max / limit`` of every update, ``(W,)``; above 1 a quadratic diverges.

    Args:
        path: the trajectory, with rates and clipping factors.
        sharpness: point -> lam_max of the preconditioned Hessian; interpolated linearly in between.
    """
    points = sorted(sharpness)
    between = np.interp(range(path.window), points, [sharpness[point] for point in points])
    limit = 1 / edge_ratio(1.0, 1.0, path.momentum, path.form)
    return torch.from_numpy(np.multiply(path.rates, path.shrunk) * between / limit)


def _edge_by_batches(hessians: Sequence[Hessian], rate: float) -> float | None:
    """eta / 2 times the batch sharpness ``E[g^T H g] / E||g||^2`` of mini-batches; None if all of their gradients are zero."""
    gradients = torch.stack([hessian.gradient for hessian in hessians])
    try:
        sharpness = batch_sharpness(gradients, torch.stack([hessian @ hessian.gradient for hessian in hessians]))
    except EmptySubspaceError:
        return None
    return sharpness.edge_ratios(rate)[0]


def steady_directions(frame: Tensor, last: Tensor) -> tuple[Tensor, float]:
    """The directions of a frame that lie within 30 degrees of a later valley.

    The angle is that between a direction and the span of the later frame. The later frame should have about twice as many
    directions, so that a direction is not lost when it exchanges its rank with a neighbour.

    Args:
        frame: directions at the first point, orthonormal columns ``(P, k)``.
        last: directions at the last point, orthonormal columns ``(P, m)``.
    Returns:
        The directions with smaller angles, and the largest of these angles in degrees. If there are none: all directions, and the
        smallest angle.
    """
    angles = torch.rad2deg(torch.acos((last.T @ frame).norm(dim=0).clamp(max=1.0)))
    kept = angles < MOST_DEGREES
    if not kept.any():
        return frame, float(angles.min())
    return frame[:, kept].contiguous(), float(angles[kept].max())


def cubic_drift(objective: Objective, frame: Tensor) -> float:
    """Change of the steepest curvature along the river's descent: ``grad_R (v_1^T H v_1) . h_R`` with ``h_R = -grad_R L``.

    A hopping trajectory feels the gradient of the curvature in addition to that of the loss. R denotes the part of a vector that
    is orthogonal to the frame.

    Args:
        objective: the loss at the first point, with parameters ``(P,)``.
        frame: valley directions, orthonormal columns ``(P, k)``; v_1 is the first.
    """

    def loss(point: Tensor) -> Tensor:
        return objective.weight * objective.total(0, objective.layout.split(point))

    with objective.quiet():
        along_top = curvature_gradient(loss, objective.point, frame[:, 0])
    return -float(_river_part(along_top, frame) @ _river_part(objective.gradient, frame))


def _river_part(vector: Tensor, frame: Tensor) -> Tensor:
    """The part of a vector that is orthogonal to the frame, ``v - F F^T v``."""
    return vector - frame @ (frame.T @ vector)


def _ablate(objective: Objective, frame: Tensor, largest: float, rate: float | None, steps: int) -> tuple[str, dict[str, float]]:
    """Verdict of `ablation` and the progress of its five runs; or why the ablation was not made, and nothing."""
    if rate is None and largest <= 0:
        return f"not made: the largest eigenvalue is {largest:.3g}, no valley gives a rate", {}
    try:
        outcome = ablation(objective.gradient_at, objective.point, frame, rate or _HOPPING_SHARPNESS / largest, steps)
    except (NonFiniteError, EmptySubspaceError) as error:
        return f"not made: {error}", {}
    names = ("plain", "bulk_only", "bulk_on_floor", "valley_only", "half_rate")
    progress = {name: getattr(outcome, name).along_slope for name in names}
    if not all(math.isfinite(distance) for distance in progress.values()):
        return "not made: a run diverged; take a smaller rate", {}
    return outcome.verdict, progress


def judge(path: Trajectory, around: Curvature, first_gradient: float, valley_class: str) -> ReplayRecord:
    """Decide whether a trajectory hops, flows along the river, or is trapped, given the curvature around it.

    Each verdict is the conjunction of recorded conditions. A window whose valley directions all turn by 30 degrees or more is not
    called hopping. If passes or gains change within the window, no verdict is positive.

    Args:
        path: the trajectory.
        around: curvature around it, from `surroundings`.
        first_gradient: norm of the gradient on the fixed batch at the start of training, ``||g_0||``.
        valley_class: class of the valley at the start of the window: "U", "V", "saddle" or "indeterminate".
    """
    frame, drift, last = around.frame, around.cubic_drift, path.gradients[-1]
    shape, signs = geometry(path.points, frame), flips(along(path.gradients, frame), path.momentum)
    entrapment = trapped(
        float(_river_part(last, frame).norm()), first_gradient, path.losses.tolist(), around.edge.median, valley_class, drift
    )
    steady = ConditionRecord(f"some direction turns < {MOST_DEGREES:g} degrees", around.degrees < MOST_DEGREES, around.degrees)
    conditions = {
        "hopping": (*held(hopping(signs, shape, around.edge, drift).conditions), steady, path.one_loss),
        "river": (*_river_conditions(path, frame), path.one_loss),
        "trapped": (*held(entrapment.conditions), path.one_loss),
    }
    verdicts = {name: all(condition.held for condition in needed) for name, needed in conditions.items()}
    return ReplayRecord(
        step=path.step,
        window=path.window,
        loops=path.passes[0].loops,
        directions=frame.shape[1],
        degrees=around.degrees,
        loss_first=float(path.losses[0]),
        loss_last=float(path.losses[-1]),
        flips=tuple(signs.share.tolist()),
        flips_low=tuple(signs.low.tolist()),
        flips_threshold=signs.threshold,
        tortuosity_valley=_finite(shape.valley.tortuosity),
        tortuosity_river=_finite(shape.river.tortuosity),
        hop_ratio=_finite(shape.hop_ratio),
        edge=_finite(around.edge.median),
        edge_inside=around.edge.inside,
        batch_sharpness=around.batch_sharpness,
        cubic_drift=drift,
        valley_class=valley_class,
        hops=verdicts["hopping"],
        flows=verdicts["river"],
        trapped=verdicts["trapped"],
        conditions=conditions,
        ablation=around.ablation,
        progress=around.progress,
    )


def _river_conditions(path: Trajectory, frame: Tensor) -> tuple[ConditionRecord, ...]:
    """The conditions of `river_motion` along the descent direction of the first point; not held if that has no river part."""
    try:
        return held(river_motion(path.points, -path.gradients[0], valley=frame).conditions)
    except EmptySubspaceError:
        return (ConditionRecord("the first gradient has a part in the river", False, 0.0),)


def _finite(ratio: float) -> float:
    """A ratio as a finite number for the record, see `_LARGEST_RATIO`."""
    return 0.0 if math.isnan(ratio) else max(-_LARGEST_RATIO, min(_LARGEST_RATIO, ratio))
