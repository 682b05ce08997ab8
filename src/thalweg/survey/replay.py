"""A window of real training, judged: does it hop, does its river flow, is it trapped?

Shape letters: W updates of a window, P number of parameters, N sequences, L tokens of a sequence, k valley directions.

`surroundings` and `judge` look at any trajectory, whatever made it; `replay` makes it from a snapshot first.
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
from thalweg.survey.trajectory import Progress, Trajectory, go_over, load, rerun
from thalweg.theory.hopping_force import curvature_gradient
from thalweg.theory.momentum import edge_ratio
from thalweg.train.checkpoint import Checkpoint
from thalweg.train.config import RunConfig

_ENDLESS = 1e12
"""What an infinite ratio is written as, such as the tortuosity of a closed walk; 0 stands for a ratio that does not exist."""
_RELATIVE = 1e-3
"""Of the largest eigenvalue: the valley's threshold where none is given."""
_HOPPING = 1.5
"""eta lam_max of the ablation: half way between the smoothest descent and divergence."""
_BATCHES = 8
"""Mini-batches of the batch sharpness: the window's first."""


@dataclass(frozen=True)
class Curvature:
    """What the loss looks like around a trajectory."""

    frame: Tensor
    """Valley directions at the begin, sharpest first, orthonormal ``(P, k)``; see `followed`."""
    degrees: float
    """Largest angle of theirs to the valley at the end."""
    edge: Edge
    cubic_drift: float
    batch_sharpness: float | None
    ablation: str
    progress: dict[str, float]


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
    """Go over a window of a run again and judge it.

    Args:
        config, checkpoint, batch, window, memory, progress, data: see `thalweg.survey.trajectory.trajectory`.
        first_gradient, valley_class: see `judge`.
        epsilon, top, rate: see `surroundings`.
    """
    plain = config.optimizer.name == "sgd" and not config.optimizer.momentum
    with rerun(config, checkpoint, window, data) as run:
        made = [run.batch(run.shift.step + k) for k in range(_BATCHES)] if plain else []
        batches = [tokens for tokens in made if isinstance(tokens, Tensor)]
        rows = batch.to(run.device)
        path = go_over(run, rows, window, memory, progress)
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
    """Valley, edge, cubic drift and ablation, in float64 and without a matrix.

    The valley's frame is that of the first point. The edge ratio of an update takes its rate, times what clipping left of its
    gradient; the sharpness runs straight between the points where it is measured. Weight decay is not in it.

    Args:
        path: of this model's weights, in the order of its parameters.
        loss_at: point -> loss function of the updates there.
        model: copied.
        batch: the fixed batch.
        epsilon: eigenvalues above it are valley's; None takes a thousandth of the largest.
        top: valley directions at most; the sharpest is always one.
        rate: of the ablation's gradient descent; None takes 1.5 / lam_max, which hops along the sharpest direction.
        batches: of training, for the batch sharpness (ratio of the means) at the first point.
    """
    model, sharpness = copy.deepcopy(model), {}

    def hessian(point: int, rows: Tensor, method: Method = "auto") -> Hessian:
        load(model, path.points[point])
        return Hessian(loss_at(point), model, [rows], dtype=torch.float64, method=method, check=False)

    start = hessian(0, batch)
    pairs = eigenpairs(start, min(top, start.dim), "largest", strict=False)
    largest = float(pairs.values[0])
    above = int((pairs.values > (_RELATIVE * abs(largest) if epsilon is None else epsilon)).sum())
    frame = pairs.vectors[:, : max(1, above)].contiguous()
    end = hessian(path.window, batch)
    frame, degrees = followed(frame, eigenpairs(end, min(2 * frame.shape[1], end.dim), "largest", strict=False).vectors)
    for point, diagonal in path.diagonals.items():
        here = {0: start, path.window: end}.get(point) or hessian(point, batch)
        sharpness[point] = _sharpest(here, diagonal)
    drift = cubic_drift(start.objective, frame)
    words, progress = _ablated(start.objective, frame, largest, rate, path.window)
    eta = float(np.median(np.multiply(path.rates, path.shrunk)))
    noisy = _edge_by_batches([hessian(0, rows, "rebuilt") for rows in batches], eta) if batches else None
    return Curvature(frame.cpu(), degrees, _edge_along(path, sharpness), drift, noisy, words, progress)


def _sharpest(hessian: Hessian, diagonal: Tensor) -> float:
    """lam_max of the preconditioned Hessian; NaN where the search does not converge."""
    try:
        return preconditioned_sharpness(hessian, diagonal.to(hessian.device))
    except NotConvergedError:
        return math.nan


def _edge_along(path: Trajectory, sharpness: dict[int, float]) -> Edge:
    """Edge ratios of all updates from the sharpness at some points; NaN where one of them is."""
    ratios = edge_ratios(path, sharpness)
    return edge(ratios) if bool(ratios.isfinite().all()) else Edge(math.nan, 0.0, 0.9, 1.1)


def edge_ratios(path: Trajectory, sharpness: dict[int, float]) -> Tensor:
    """Of each update, ``(W,)``."""
    points = sorted(sharpness)
    between = np.interp(range(path.window), points, [sharpness[point] for point in points])
    limit = 1 / edge_ratio(1.0, 1.0, path.momentum, path.form)
    return torch.from_numpy(np.multiply(path.rates, path.shrunk) * between / limit)


def _edge_by_batches(hessians: Sequence[Hessian], rate: float) -> float | None:
    """eta / 2 times ``E[g^T H g] / E||g||^2``; None where no batch has a gradient."""
    gradients = torch.stack([one.gradient for one in hessians])
    try:
        found = batch_sharpness(gradients, torch.stack([one @ one.gradient for one in hessians]))
    except EmptySubspaceError:
        return None
    return found.edge_ratios(rate)[0]


def followed(frame: Tensor, last: Tensor) -> tuple[Tensor, float]:
    """The directions of a frame that turn by less than 30 degrees out of the space of another, and their largest angle.

    The last frame has twice as many directions, so that one which changes places with its neighbour is not lost. Where none is
    left, all stay, with the smallest angle.

    Args:
        frame: at the begin, ``(P, k)``.
        last: at the end, ``(P, m)``.
    """
    angles = torch.rad2deg(torch.acos((last.T @ frame).norm(dim=0).clamp(max=1.0)))
    kept = angles < MOST_DEGREES
    if not kept.any():
        return frame, float(angles.min())
    return frame[:, kept].contiguous(), float(angles[kept].max())


def cubic_drift(objective: Objective, frame: Tensor) -> float:
    """``grad_R (v_1^T H v_1) . h_R`` with h_R minus the river's gradient; the river is all that is orthogonal to the frame."""

    def loss(point: Tensor) -> Tensor:
        return objective.weight * objective.total(0, objective.layout.split(point))

    with objective.quiet():
        along_top = curvature_gradient(loss, objective.point, frame[:, 0])
    return -float(_river_part(along_top, frame) @ _river_part(objective.gradient, frame))


def _river_part(vector: Tensor, frame: Tensor) -> Tensor:
    """What is orthogonal to the frame."""
    return vector - frame @ (frame.T @ vector)


def _ablated(objective: Objective, frame: Tensor, largest: float, rate: float | None, steps: int) -> tuple[str, dict[str, float]]:
    """Verdict of `ablation` and progress of its five runs; why there is none, where there is none."""
    if rate is None and largest <= 0:
        return f"not made: the largest eigenvalue is {largest:.3g}, no valley gives a rate", {}
    try:
        found = ablation(objective.gradient_at, objective.point, frame, rate or _HOPPING / largest, steps)
    except (NonFiniteError, EmptySubspaceError) as error:
        return f"not made: {error}", {}
    names = ("plain", "bulk_only", "bulk_on_floor", "valley_only", "half_rate")
    progress = {name: getattr(found, name).along_slope for name in names}
    if not all(math.isfinite(far) for far in progress.values()):
        return "not made: a run diverged; take a smaller rate", {}
    return found.verdict, progress


def judge(path: Trajectory, around: Curvature, first_gradient: float, valley_class: str) -> ReplayRecord:
    """What a trajectory does, given the curvature around it.

    A window whose valley turns by 30 degrees or more is not called hopping, and one whose passes or gains change is called nothing.

    Args:
        first_gradient: ``||g_0||`` at the start of training, on the fixed batch.
        valley_class: "U", "V", "saddle" or "indeterminate".
    """
    frame, drift, last = around.frame, around.cubic_drift, path.gradients[-1]
    shape, signs = geometry(path.points, frame), flips(along(path.gradients, frame), path.momentum)
    still = trapped(
        float(_river_part(last, frame).norm()), first_gradient, path.losses.tolist(), around.edge.median, valley_class, drift
    )
    steady = ConditionRecord(f"some direction turns < {MOST_DEGREES:g} degrees", around.degrees < MOST_DEGREES, around.degrees)
    conditions = {
        "hopping": (*held(hopping(signs, shape, around.edge, drift).conditions), steady, path.one_loss),
        "river": (*_river_conditions(path, frame), path.one_loss),
        "trapped": (*held(still.conditions), path.one_loss),
    }
    decided = {name: all(one.held for one in found) for name, found in conditions.items()}
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
        tortuosity_valley=written(shape.valley.tortuosity),
        tortuosity_river=written(shape.river.tortuosity),
        hop_ratio=written(shape.hop_ratio),
        edge=written(around.edge.median),
        edge_inside=around.edge.inside,
        batch_sharpness=around.batch_sharpness,
        cubic_drift=drift,
        valley_class=valley_class,
        hops=decided["hopping"],
        flows=decided["river"],
        trapped=decided["trapped"],
        conditions=conditions,
        ablation=around.ablation,
        progress=around.progress,
    )


def _river_conditions(path: Trajectory, frame: Tensor) -> tuple[ConditionRecord, ...]:
    """Of `river_motion` down the first point's gradient; not held where that has no part in the river."""
    try:
        return held(river_motion(path.points, -path.gradients[0], valley=frame).conditions)
    except EmptySubspaceError:
        return (ConditionRecord("the first gradient has a part in the river", False, 0.0),)


def written(ratio: float) -> float:
    """Finite; see `_ENDLESS`."""
    return 0.0 if math.isnan(ratio) else max(-_ENDLESS, min(_ENDLESS, ratio))
