"""Pictures of the loss around one point: where the Hessian's eigenvalues lie over training, and planes of the loss.

Everything is drawn from the arrays that a run has written. An exact spectrum is a list of eigenvalues. A matrix-free spectrum is a
list of Lanczos nodes with weights.

Shape letters: E eigenvalues or nodes, B bins, C checkpoints, K points of a path,
n and m points along the two directions of a plane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from thalweg.errors import InsufficientDataError
from thalweg.records.landscape import LandscapeRecord, RunLandscape, SliceRecord, read_arrays
from thalweg.report.panels import ACROSS, STYLE, labelled, legend_below, paved, plain

BINS = 4
"""Bins for each decade of an eigenvalue's size."""
_DECADES = 6
"""Most decades drawn on either side of zero, unless epsilon needs more."""
_LEVELS = 15
"""Contours of a plane."""
_TICK_LEVELS = (0, 4, 7, 10, 13, _LEVELS)
"""Contours that have a number at the colour bar."""
DEPTH = 1e-3
"""Height of the lowest contour above the lowest loss, as a share of the range of losses."""
_REACH = 0.5
"""How far outside a plane its path is drawn at most, as a share of the plane's side."""
_PLANE = ("first", "second", "losses")
"""Arrays that every plane has."""


@dataclass(frozen=True)
class Spectra:
    """Eigenvalues and their weights at the ``C`` checkpoints of a run that left a spectrum."""

    points: tuple[LandscapeRecord, ...]
    """Records of these checkpoints, ``C``."""
    values: tuple[np.ndarray, ...]
    """Eigenvalues or nodes of each checkpoint, ``(E,)`` each."""
    weights: tuple[np.ndarray, ...]
    """Share of the eigenvalues that each value stands for, ``(E,)`` each, with sum 1."""

    @property
    def largest(self) -> float:
        """The largest size of an eigenvalue at any checkpoint."""
        return max(float(np.abs(values).max()) for values in self.values)

    def at(self, places: Sequence[int]) -> Spectra:
        """The same spectra at some of the checkpoints, given by their places."""
        return Spectra(*(tuple(column[i] for i in places) for column in (self.points, self.values, self.weights)))  # type: ignore[arg-type]


def spectra_of(landscape: RunLandscape) -> Spectra:
    """Read every spectrum of a run whose file is on the disk; checkpoints without a file are left out."""
    points, values, weights = [], [], []
    for point in landscape.points:
        exact = point.how == "exact"
        arrays = read_arrays(landscape.spectrum_path(point.step), ("values",) if exact else ("nodes", "weights"))
        if arrays:
            places = arrays["values" if exact else "nodes"]
            share = np.ones_like(places) if exact else arrays["weights"]
            points.append(point)
            values.append(places.reshape(-1).astype(np.float64))
            weights.append(share.reshape(-1).astype(np.float64) / float(share.sum()))
    return Spectra(tuple(points), tuple(values), tuple(weights))


def floor_of(runs: Sequence[Spectra]) -> float:
    """The size below which all eigenvalues share one bin around zero.

    It is a power of ten that lies below every epsilon and below most of the bulk, where the bulk is resolved. It is at most a
    hundredth of the largest eigenvalue, and reaches `_DECADES` below it, or further for the sake of epsilon.

    Args:
        runs: spectra that are drawn on one scale.
    """
    largest = max(run.largest for run in runs)
    # Of exact spectra, a tenth of the median size lies below most of the bulk. Matrix-free spectra show nothing below their
    # resolution, so the resolution takes its place.
    medians = [
        float(np.median(np.abs(values))) / 10
        for run in runs
        for point, values in zip(run.points, run.values, strict=True)
        if point.how == "exact"
    ]
    resolutions = [point.resolution for run in runs for point in run.points if point.resolution]
    bulk = max(min(medians or resolutions or [0.0]), largest * 10.0**-_DECADES)
    # A decade below epsilon, so that its line stands clear of the bin around zero.
    below_epsilon = [point.split.epsilon / 10 for run in runs for point in run.points if point.split is not None]
    wanted = max(min([bulk, *below_epsilon]), largest * 1e-10)
    return 10.0 ** math.floor(math.log10(min(wanted, largest / 100) or 1e-12))


def edges_of(floor: float, largest: float) -> np.ndarray:
    """Edges of bins for eigenvalues of both signs, ascending, ``(B + 1,)``.

    The bins are even in the logarithm of the size, `BINS` for each decade, on both sides of one bin from ``-floor`` to ``floor``.
    """
    decades = max(1, math.ceil(math.log10(max(largest, floor) / floor) + 1e-9))
    positive = floor * 10.0 ** (np.arange(decades * BINS + 1) / BINS)
    return np.concatenate([-positive[::-1], positive])


def shares_of(run: Spectra, edges: np.ndarray) -> np.ndarray:
    """Share of the eigenvalues in each bin at each checkpoint, ``(B, C)``; every column sums to 1."""
    columns = [np.histogram(v, edges, weights=w)[0] for v, w in zip(run.values, run.weights, strict=True)]
    return np.stack(columns, axis=1)


@matplotlib.rc_context(STYLE)
def figure_spectra(landscapes: RunLandscape | dict[str, RunLandscape]) -> Figure:
    """Heat maps of the eigenvalues over training, one panel for each run, all on the same scales.

    Args:
        landscapes: the landscape of one run, or several by the title of their panels.
    Raises:
        InsufficientDataError: none of them has left a spectrum.
    """
    by_title = {"": landscapes} if isinstance(landscapes, RunLandscape) else landscapes
    runs = {title: run for title, landscape in by_title.items() if (run := spectra_of(landscape)).points}
    if not runs:
        raise InsufficientDataError("spectra: given no file of a spectrum, expected at least one; measure the landscape first")
    floor, largest = floor_of(list(runs.values())), max(run.largest for run in runs.values())
    edges = edges_of(floor, largest)
    norm = LogNorm(1 / max(point.dim for run in runs.values() for point in run.points), 1)  # from a single eigenvalue to all
    figure, panels = paved(len(runs), (6.2, 3.8), (8.4, 3.1))
    for number, (axes, (title, run)) in enumerate(zip(panels, runs.items(), strict=True)):
        _heat_map(axes, run, edges, norm)
        signed_axis(axes, floor, largest)
        axes.set_title(plain(title), fontsize=9)
        axes.set_ylabel("eigenvalue (loss per squared weight)" if number % ACROSS == 0 else "")
        axes.tick_params(labelleft=number % ACROSS == 0)
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=panels, pad=0.02, aspect=28)
    bar.set_label("share of the eigenvalues")
    legend_below(figure, labelled(panels))
    return figure


def _heat_map(axes: Axes, run: Spectra, edges: np.ndarray, norm: LogNorm) -> None:
    """Draw one column for each checkpoint, white where no eigenvalue lies, with lines at epsilon and at the resolution."""
    shares = shares_of(run, edges)
    columns = np.arange(len(run.points) + 1)
    masked = np.ma.masked_equal(shares, 0)
    axes.pcolormesh(columns - 0.5, edges, masked, norm=norm, cmap="viridis", rasterized=True)
    epsilon = [None if point.split is None else point.split.epsilon for point in run.points]
    _both_signs(axes, epsilon, "± epsilon: the river lies between", color="#D55E00", linewidth=1.4, marker=".", markersize=3)
    resolution = [point.resolution or None for point in run.points]
    _both_signs(axes, resolution, "± resolution of a matrix-free density", color="black", linewidth=0.9, linestyle="--")
    shown = evenly(len(run.points), 7)
    axes.set_xticks(shown, [f"{run.points[i].step}" for i in shown])
    axes.set_xlabel("updates (points evenly spaced)")
    axes.grid(visible=False)


def _both_signs(axes: Axes, sizes: Sequence[float | None], label: str, **line: Any) -> None:
    """Draw a size at each checkpoint as a line on either side of zero; where the size is None the line has a gap."""
    heights = np.array([math.nan if size is None else size for size in sizes])
    if not np.isnan(heights).all():
        axes.plot(heights, label=label, **line)
        axes.plot(-heights, **line)


def signed_axis(axes: Axes, floor: float, largest: float) -> None:
    """Make the vertical axis logarithmic on both sides of zero, with at most about four ticks on either side.

    Args:
        axes: whose axis is scaled.
        floor: size up to which the axis is linear.
        largest: largest size that is drawn.
    """
    low, high = round(math.log10(floor)), math.floor(math.log10(max(largest, 10 * floor)))
    every = max(1, math.ceil((high - low) / 4))
    powers = list(range(high, low, -every))
    axes.set_yscale("symlog", linthresh=floor, linscale=0.5)
    places = [sign * 10.0**power for power in powers for sign in (1, -1)]
    labels = [f"${'-' if sign < 0 else ''}10^{{{power}}}$" for power in powers for sign in (1, -1)]
    axes.set_yticks([*places, 0.0], [*labels, "0"])
    axes.set_yticks([], minor=True)


def figure_plane(landscape: RunLandscape, slice_record: SliceRecord) -> Figure:
    """Contours of one plane of the loss of a run, with its path.

    Raises:
        InsufficientDataError: the plane's file is not there, or no loss in it is finite.
    """
    return figure_planes({"": (landscape, slice_record)})


@matplotlib.rc_context(STYLE)
def figure_planes(planes: dict[str, tuple[RunLandscape, SliceRecord]]) -> Figure:
    """Contours of one plane of each of several runs, side by side; each panel has its own levels.

    Args:
        planes: title of the panel -> the landscape of a run, and one of its planes.
    Raises:
        InsufficientDataError: a plane's file is not there, or no loss in it is finite.
    """
    figure, panels = paved(len(planes), (5.4, 4.2), (9.2, 3.4))
    for axes, (name, (landscape, record)) in zip(panels, planes.items(), strict=True):
        axes.set_xlabel(plain(record.names[0]))
        axes.set_ylabel(plain(record.names[1]))
        plane = plane_of(landscape, record)
        contours(figure, axes, plane)
        title = [plain(name)]
        if record.held is not None:
            title.append(f"holds {100 * record.held:.2g} % of the path's squared motion")
        if "path" in plane and not follow(axes, plane):
            title.append("the path begins outside")
        axes.set_title("\n".join(line for line in title if line), fontsize=9)
    legend_below(figure, labelled(panels))
    return figure


def plane_of(landscape: RunLandscape, record: SliceRecord) -> dict[str, np.ndarray]:
    """Read the arrays of a plane: first ``(n,)``, second ``(m,)``, losses ``(n, m)``, and path ``(K, 2)`` where there is one.

    Raises:
        InsufficientDataError: the plane's file is not there, or no loss in it is finite.
    """
    path = landscape.slice_path(record.name)
    plane = read_arrays(path, _PLANE)
    if not plane or not np.isfinite(plane["losses"]).any():
        raise InsufficientDataError(f"plane {record.name}: given no finite loss in {path}, expected some; measure it again")
    return plane


def losses_along(plane: dict[str, np.ndarray], path: np.ndarray) -> np.ndarray:
    """Losses of a plane along a path, interpolated bilinearly between the points of the grid.

    Args:
        plane: arrays as `plane_of` gives them.
        path: points in the coordinates of the plane, ``(K, 2)``.
    Returns:
        Losses ``(K,)``; NaN at points outside the grid.
    """
    losses = np.full(len(path), np.nan)
    # Coordinates in cells: whole numbers at the points of the grid, NaN outside of it.
    places = [
        np.interp(path[:, k], plane[name], np.arange(len(plane[name])), np.nan, np.nan)
        for k, name in enumerate(("first", "second"))
    ]
    inside = np.isfinite(places[0]) & np.isfinite(places[1])
    # (i, j): the lower corner of the cell; (s, t) in [0, 1]: the place within the cell.
    low = [np.minimum(place[inside].astype(int), size - 2) for place, size in zip(places, plane["losses"].shape, strict=True)]
    (i, j), (s, t) = low, (place[inside] - cell for place, cell in zip(places, low, strict=True))
    z = plane["losses"].astype(np.float64)
    losses[inside] = (1 - s) * ((1 - t) * z[i, j] + t * z[i, j + 1]) + s * ((1 - t) * z[i + 1, j] + t * z[i + 1, j + 1])
    return losses


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the places 0 to ``count - 1``, spread as evenly as possible, with the first and the last.

    Example:
        >>> evenly(9, 3)
        [0, 4, 8]
    """
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, most)).round()})


def has_plane(landscape: RunLandscape, record: SliceRecord) -> bool:
    """Whether the file of a plane is there and holds a grid of at least 2 x 2 points with a finite loss."""
    plane = read_arrays(landscape.slice_path(record.name), _PLANE)
    return bool(plane) and min(plane["losses"].shape) >= 2 and bool(np.isfinite(plane["losses"]).any())


def levels_of(losses: np.ndarray) -> np.ndarray:
    """Levels of contours, evenly spaced in the logarithm of the height above the lowest loss, so that floor and walls both show."""
    low, high = float(losses.min()), float(losses.max())
    above = (high - low) or max(abs(low), 1.0) * 1e-6
    return low + np.concatenate([[0.0], above * np.geomspace(DEPTH, 1, _LEVELS)])


def contours(figure: Figure, axes: Axes, plane: dict[str, np.ndarray]) -> None:
    """Draw the filled contours of a plane, their colour bar, and the path with its two ends marked."""
    losses = np.ma.masked_invalid(plane["losses"].astype(np.float64)).T
    levels = levels_of(losses)
    norm = BoundaryNorm(levels, 256)
    filled = axes.contourf(plane["first"], plane["second"], losses, levels=levels, norm=norm, cmap="GnBu")
    if np.ptp(losses) > 0:  # a plane of equal losses has no lines
        axes.contour(plane["first"], plane["second"], losses, levels=levels[1:-1], colors="white", linewidths=0.4)
    bar = figure.colorbar(filled, ax=axes, pad=0.02, aspect=24)
    ticks = [float(levels[i]) for i in _TICK_LEVELS]
    bar.set_ticks(ticks, labels=[f"{level:.4g}" for level in ticks])
    bar.set_label("loss (logarithmic above the lowest)")
    axes.grid(visible=False)
    if "path" in plane:
        x, y = plane["path"].T
        outline = [Stroke(linewidth=3, foreground="white"), Normal()]
        axes.plot(x, y, ".-", color="#D55E00", linewidth=1.3, markersize=4, label="path of training", path_effects=outline)
        mark: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black", "zorder": 5}
        axes.plot(x[:1], y[:1], "o", markerfacecolor="white", markersize=7, label="begin", **mark)
        axes.plot(x[-1:], y[-1:], "*", markerfacecolor="black", markersize=10, label="end", **mark)


def follow(axes: Axes, plane: dict[str, np.ndarray]) -> bool:
    """Widen the limits of a plane so that they hold its path, by at most `_REACH` of its side.

    Returns:
        Whether the begin of the path is within the limits.
    """
    seen = True
    for places, path, limit in zip((plane["first"], plane["second"]), plane["path"].T, (axes.set_xlim, axes.set_ylim), strict=True):
        low, high = float(places.min()), float(places.max())
        margin = _REACH * (high - low)
        ends = (
            max(low - margin, min(low, float(path.min()) - 0.05 * margin)),
            min(high + margin, max(high, float(path.max()) + 0.05 * margin)),
        )
        limit(ends)
        seen = seen and ends[0] <= path[0] <= ends[1]
    return seen
