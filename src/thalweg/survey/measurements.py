"""The parts of a run's landscape beside its spectra: alignment, theorems, planes of the loss.

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
from thalweg.survey.theorem_check import theorems_beside
from thalweg.train.checkpoint import step_of
from thalweg.train.step import next_token_loss

_Places = Callable[[Path], Snapshot]
"""Reads a snapshot; the place before it is no longer valid."""
_Plane = tuple[tuple[Direction, Direction], tuple[float, float], tuple[float, float], Tensor | None]
"""Two directions, ends of the first and of the second axis, trajectory ``(K, P)`` if it is drawn."""
_GRID, _COARSE_GRID = 25, 11
"""Points of a plane's side, and above `_MANY` parameters."""
_MANY = 100_000
_RISE = 2.0
"""Nats that the loss would rise by at the ends of an eigenvector's axis, were it a parabola."""


def align(place: Snapshot, loops: int) -> AlignmentRecord:
    """Gradients of all passes and of one at the place's weights, matrix by matrix."""

    def one(model: nn.Module, rows: Tensor) -> Tensor:
        return next_token_loss(model, rows, 1)

    def many(model: nn.Module, rows: Tensor) -> Tensor:
        return next_token_loss(model, rows, loops)

    groups = matrix_groups([name for name, _ in place.model.named_parameters()])
    found = gradient_alignment(many, one, place.model, [place.batch], groups)
    records = {name: _group_record(group) for name, group in found.groups.items()}
    return AlignmentRecord(place.step, loops, found.samples, found.losses[0], found.losses[1], records)


def _group_record(found: GroupAlignment) -> GroupRecord:
    """Numbers of one group; None where no gradient is left to compare."""
    opposed = number(found.opposed)
    return GroupRecord(
        cosine=number(found.cosine),
        ratio=number(found.ratio),
        minimum=number(found.minimum),
        fifth=number(found.fifth_percentile),
        median=number(found.median),
        opposed=0.0 if opposed is None else opposed,
    )


def replayed(paths: Sequence[Path], count: int, window: int, steps: int) -> list[Path]:
    """The snapshots to go on from: nearest to ``count`` equal parts of the run, with a whole window left."""
    fit = [path for path in paths if 0 < step_of(path) <= steps - window]
    aims = [(steps - window) * (index + 1) / count for index in range(count)]
    return sorted({min(fit, key=lambda path: abs(step_of(path) - aim)) for aim in aims}) if fit else []


def theorems(places: _Places, earlier: Path, path: Path, plan: LandscapePlan) -> TheoremsRecord:
    """Theorems 1 and 2 at a snapshot, in the split of the one before it.

    Raises:
        BadInputError: the two have other passes, so that their losses are two functions.
    """
    before = places(earlier)
    values, vectors = torch.linalg.eigh(_dense_at(before, plan))
    split = frozen(eigen_split(values, vectors, threshold(values, precision=getattr(torch, plan.dtype)).epsilon))
    here = places(path)
    if here.passes != before.passes:
        words = f"{before.passes.loops} passes at step {before.step} and {here.passes.loops} at step {here.step}"
        raise BadInputError(f"theorems: {words}, expected the same")
    matrix = _dense_at(here, plan)
    return theorems_beside(
        here.loss, here.model, here.batch, matrix, split, before.step, here.step, plan.force_rate, plan.force_steps
    )


def _dense_at(place: Snapshot, plan: LandscapePlan) -> Tensor:
    """The Hessian at a place, as training sees it (query and key not balanced), ``(P, P)`` in float64."""
    dtype = getattr(torch, plan.dtype)
    return dense_hessian(place.loss, place.model, [place.batch], dtype=dtype, compile="never").matrix.to(torch.float64)


def planes(places: _Places, paths: Sequence[Path], folder: Path) -> list[SliceRecord]:
    """Planes of the loss through the run's end, with the trajectory in them; the arrays are written into the landscape's folder.

    Four: principal directions of the trajectory, the two steepest eigenvectors, river against valley, two random directions.
    """
    trajectory = torch.stack([parameters_to_vector(places(path).model.parameters()).detach().double().cpu() for path in paths])
    here = places(paths[-1])
    pairs = eigenpairs(Hessian(here.loss, here.model, [here.batch], check=False), k=2, strict=False)
    slices = Slices(here.loss, here.model, [here.batch])
    side = _GRID if slices.objective.dim <= _MANY else _COARSE_GRID
    records = []
    for name, (axes, first, second, path) in _planned(slices, pairs, trajectory).items():
        places_of = [torch.linspace(low, high, side, dtype=torch.float64) for low, high in (first, second)]
        plane = slices.plane(axes, places_of[0], places_of[1], path=path)
        tensors = {"first": plane.first, "second": plane.second, "losses": plane.losses}
        if plane.path is not None:
            tensors["path"] = plane.path
        atomic_stream(slice_path(folder, name), [arrays_bytes({key: value.numpy() for key, value in tensors.items()})])
        held = None if plane.held is None else number(plane.held)
        records.append(SliceRecord(name, here.step, plane.names, held, side))
    return records


def _planned(slices: Slices, pairs: EigenPairs, trajectory: Tensor) -> dict[str, _Plane]:
    """Which planes, and how far they reach."""
    found: dict[str, _Plane] = {}
    end = slices.point.double().cpu()
    try:
        main = principal(trajectory, centre=end)
    except (EmptySubspaceError, BadInputError):
        pass  # too few snapshots, or all on a line
    else:
        ends = [_reach(main.coordinates[:, axis]) for axis in (0, 1)]
        found["trajectory"] = ((main.first, main.second), ends[0], ends[1], trajectory)
    steep = [eigendirection(pairs, index) for index in (0, 1)]
    sizes = [math.sqrt(2 * _RISE / max(abs(float(value)), 1e-12)) for value in pairs.values]
    found["eigenvectors"] = ((steep[0], steep[1]), (-sizes[0], sizes[0]), (-sizes[1], sizes[1]), trajectory)
    gradient = slices.objective.gradient.double().cpu()
    vectors = pairs.vectors.double().cpu()
    downhill = -(gradient - vectors @ (vectors.T @ gradient))
    if float(downhill.norm()) > 0:
        river, valley = river_and_valley(downhill, vectors[:, 0])
        along = max(float((trajectory - end).norm(dim=1).median()), 1e-6)
        found["river-valley"] = ((river, valley), (-along, along), (-sizes[0], sizes[0]), trajectory)
    random = [filter_normalised(slices.layout, slices.point, number=index) for index in (0, 1)]
    found["random"] = ((random[0], random[1]), (-1.0, 1.0), (-1.0, 1.0), trajectory)
    return found


def _reach(coordinates: Tensor) -> tuple[float, float]:
    """Ends of an axis that shows every point with a margin."""
    low, high = float(coordinates.min()), float(coordinates.max())
    margin = 0.15 * (high - low)
    return low - margin, high + margin
