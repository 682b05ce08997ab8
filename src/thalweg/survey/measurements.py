"""Parts of a run's landscape other than its spectra: gradient alignment, theorems 1 and 2, planes of the loss.

Shape letters: P number of parameters, K snapshots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.eigenpairs import EigenPairs, eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.errors import BadInputError, EmptySubspaceError
from thalweg.landscape.alignment import GroupAlignment, gradient_alignment
from thalweg.landscape.directions import Direction, eigendirection, filter_normalised, principal, river_and_valley
from thalweg.landscape.slices import Slices
from thalweg.landscape.split import eigen_split, frozen
from thalweg.landscape.threshold import threshold
from thalweg.records.landscape import (
    AlignmentRecord,
    GroupRecord,
    LandscapePlan,
    SliceRecord,
    TheoremsRecord,
    arrays_bytes,
    number,
    slice_path,
)
from thalweg.storage import atomic_stream
from thalweg.survey.snapshot import Snapshot, matrix_groups
from thalweg.survey.theorem_check import check_theorems
from thalweg.train.checkpoint import step_of
from thalweg.train.step import next_token_loss

_ReadSnapshot = Callable[[Path], Snapshot]
"""Reads a snapshot into the one model of the survey, so that the snapshot read before it is no longer valid."""
_Plane = tuple[tuple[Direction, Direction], tuple[float, float], tuple[float, float], Tensor | None]
"""Two directions, ends of the first and of the second axis, trajectory ``(K, P)`` if it is drawn."""
_GRID, _COARSE_GRID = 25, 11
"""Number of points on a side of a plane; the coarse one for models with more than `_MANY` parameters."""
_MANY = 100_000
_RISE = 2.0
"""Nats by which the loss would rise at the ends of an eigenvector's axis if it were a parabola."""


def align(snapshot: Snapshot, loops: int) -> AlignmentRecord:
    """Compare the gradients of ``loops`` passes and of one pass at a snapshot's weights, for each group of matrices.

    Args:
        snapshot: the weights, and the batch whose gradients are compared.
        loops: number of passes T.
    """

    def one_pass(model: nn.Module, rows: Tensor) -> Tensor:
        return next_token_loss(model, rows, 1)

    def all_passes(model: nn.Module, rows: Tensor) -> Tensor:
        return next_token_loss(model, rows, loops)

    groups = matrix_groups([name for name, _ in snapshot.model.named_parameters()])
    alignment = gradient_alignment(all_passes, one_pass, snapshot.model, [snapshot.batch], groups)
    records = {name: _group_record(group) for name, group in alignment.groups.items()}
    return AlignmentRecord(snapshot.step, loops, alignment.samples, alignment.losses[0], alignment.losses[1], records)


def _group_record(group: GroupAlignment) -> GroupRecord:
    """The record of one group of matrices; None for numbers that do not exist because a gradient is zero."""
    opposed = number(group.opposed)
    return GroupRecord(
        cosine=number(group.cosine),
        ratio=number(group.ratio),
        minimum=number(group.minimum),
        fifth=number(group.fifth_percentile),
        median=number(group.median),
        opposed=0.0 if opposed is None else opposed,
    )


def replay_starts(paths: Sequence[Path], count: int, window: int, steps: int) -> list[Path]:
    """Choose the snapshots from which windows of training are replayed.

    Args:
        paths: the snapshots of the run.
        count: number of windows.
        window: number of updates in a window.
        steps: number of updates of the run.
    Returns:
        The snapshots nearest to ``count`` equally spaced steps, after the start and with a whole window left; each once.
    """
    usable = [path for path in paths if 0 < step_of(path) <= steps - window]
    targets = [(steps - window) * (index + 1) / count for index in range(count)]
    return sorted({min(usable, key=lambda path: abs(step_of(path) - target)) for target in targets}) if usable else []


def theorems(read: _ReadSnapshot, earlier: Path, path: Path, plan: LandscapePlan) -> TheoremsRecord:
    """Test theorems 1 and 2 at a snapshot, with the split into river and valley of an earlier one.

    Raises:
        BadInputError: the two snapshots differ in their passes, so that their losses are different functions.
    """
    # The split comes from the earlier Hessian, before its snapshot is overwritten by the next one.
    before = read(earlier)
    values, vectors = torch.linalg.eigh(_dense_hessian(before, plan))
    split = frozen(eigen_split(values, vectors, threshold(values, precision=getattr(torch, plan.dtype)).epsilon))
    now = read(path)
    if now.passes != before.passes:
        given = f"{before.passes.words} at step {before.step} and {now.passes.words} at step {now.step}"
        raise BadInputError(f"given {given}, expected the same at both: the theorems compare two points of one loss")
    hessian = _dense_hessian(now, plan)
    return check_theorems(now.loss, now.model, now.batch, hessian, split, before.step, now.step, plan.force_rate, plan.force_steps)


def _dense_hessian(snapshot: Snapshot, plan: LandscapePlan) -> Tensor:
    """The Hessian at a snapshot, ``(P, P)`` in float64; query and key weights are not balanced, as training sees them."""
    dtype = getattr(torch, plan.dtype)
    return dense_hessian(snapshot.loss, snapshot.model, [snapshot.batch], dtype=dtype, compile="never").matrix.to(torch.float64)


def planes(read: _ReadSnapshot, paths: Sequence[Path], folder: Path) -> list[SliceRecord]:
    """Compute the loss on planes through the run's final weights, with the trajectory projected into them.

    The planes are spanned by the trajectory's principal directions, by the two steepest eigenvectors, by a river and a valley
    direction, and by two random directions. Their arrays are written into the landscape's folder.

    Args:
        read: reads a snapshot.
        paths: the snapshots of the trajectory, oldest first.
        folder: folder of the landscape.
    """
    trajectory = torch.stack([parameters_to_vector(read(path).model.parameters()).detach().double().cpu() for path in paths])
    end = read(paths[-1])
    pairs = eigenpairs(Hessian(end.loss, end.model, [end.batch], check=False), k=2, strict=False)
    slices = Slices(end.loss, end.model, [end.batch])
    side = _GRID if slices.objective.dim <= _MANY else _COARSE_GRID
    records = []
    for name, (axes, first, second, path) in _plan_planes(slices, pairs, trajectory).items():
        ticks = [torch.linspace(low, high, side, dtype=torch.float64) for low, high in (first, second)]
        plane = slices.plane(axes, ticks[0], ticks[1], path=path)
        tensors = {"first": plane.first, "second": plane.second, "losses": plane.losses}
        if plane.path is not None:
            tensors["path"] = plane.path
        atomic_stream(slice_path(folder, name), [arrays_bytes({key: value.numpy() for key, value in tensors.items()})])
        held = None if plane.held is None else number(plane.held)
        records.append(SliceRecord(name, end.step, plane.names, held, side))
    return records


def _plan_planes(slices: Slices, pairs: EigenPairs, trajectory: Tensor) -> dict[str, _Plane]:
    """The directions and ranges of every plane, by its name."""
    planned: dict[str, _Plane] = {}
    end = slices.point.double().cpu()
    # 1. The two principal directions of the trajectory, wide enough for every snapshot.
    try:
        main = principal(trajectory, centre=end)
    except (EmptySubspaceError, BadInputError):
        pass  # too few snapshots, or all of them on a line
    else:
        ends = [_range_with_margin(main.coordinates[:, axis]) for axis in (0, 1)]
        planned["trajectory"] = ((main.first, main.second), ends[0], ends[1], trajectory)
    # 2. The two steepest eigenvectors, to where lam s^2 / 2 = `_RISE`.
    steep = [eigendirection(pairs, index) for index in (0, 1)]
    sizes = [math.sqrt(2 * _RISE / max(abs(float(value)), 1e-12)) for value in pairs.values]
    planned["eigenvectors"] = ((steep[0], steep[1]), (-sizes[0], sizes[0]), (-sizes[1], sizes[1]), trajectory)
    # 3. River: downhill without its part along the eigenvectors. Valley: the steepest eigenvector.
    gradient = slices.objective.gradient.double().cpu()
    vectors = pairs.vectors.double().cpu()
    downhill = -(gradient - vectors @ (vectors.T @ gradient))
    if float(downhill.norm()) > 0:
        river, valley = river_and_valley(downhill, vectors[:, 0])
        along = max(float((trajectory - end).norm(dim=1).median()), 1e-6)
        planned["river-valley"] = ((river, valley), (-along, along), (-sizes[0], sizes[0]), trajectory)
    # 4. Two random directions, normalised like the model's filters.
    random = [filter_normalised(slices.layout, slices.point, number=index) for index in (0, 1)]
    planned["random"] = ((random[0], random[1]), (-1.0, 1.0), (-1.0, 1.0), trajectory)
    return planned


def _range_with_margin(coordinates: Tensor) -> tuple[float, float]:
    """Ends of an axis that holds every coordinate with a margin of 15 % on both sides."""
    low, high = float(coordinates.min()), float(coordinates.max())
    margin = 0.15 * (high - low)
    return low - margin, high + margin
