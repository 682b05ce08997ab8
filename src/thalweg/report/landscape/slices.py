"""Pictures of one point's surroundings, from a run's arrays: where its eigenvalues lie over training, and planes of its loss.

Shape letters: P number of parameters, E eigenvalues or nodes, B bins, C checkpoints, n and m places along directions, K points
of a path.
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
from thalweg.report.figures import STYLE

BINS = 4
"""Of a decade of the eigenvalues' size."""
_DECADES = 6
"""Drawn on either side of zero, at most, unless epsilon needs more."""
_LEVELS = 15
"""Contours of a plane."""
DEPTH = 1e-3
"""Lowest contour above the lowest loss, as a share of the range of losses."""
_REACH = 0.5
"""Of a plane's side, drawn outside of it at most, for a path that leaves it."""
_PLANE = ("first", "second", "losses")
"""Arrays that every plane has."""
ACROSS = 3
"""Panels in a row."""


@dataclass(frozen=True)
class Spectra:
    """Eigenvalues with the share of each, checkpoint by checkpoint."""

    points: tuple[LandscapeRecord, ...]
    """Those that left a spectrum, ``C``."""
    values: tuple[np.ndarray, ...]
    """``(E,)`` each."""
    weights: tuple[np.ndarray, ...]
    """``(E,)`` each, sum 1."""


def spectra_of(landscape: RunLandscape) -> Spectra:
    """Every spectrum that a run has left on the disk."""
    points, values, weights = [], [], []
    for point in landscape.points:
        found = read_arrays(landscape.spectrum_path(point.step), ("values",) if point.how == "exact" else ("nodes", "weights"))
        if found:
            places = found["values"] if point.how == "exact" else found["nodes"]
            share = np.ones_like(places) if point.how == "exact" else found["weights"]
            points.append(point)
            values.append(places.reshape(-1).astype(np.float64))
            weights.append(share.reshape(-1).astype(np.float64) / float(share.sum()))
    return Spectra(tuple(points), tuple(values), tuple(weights))


def floor_of(runs: Sequence[Spectra]) -> float:
    """Size below which eigenvalues share one bin: a power of ten below epsilon and below most of the bulk, where it is resolved."""
    largest = max(float(np.abs(values).max()) for run in runs for values in run.values)
    sizes = [
        float(np.median(np.abs(v))) / 10 for run in runs for p, v in zip(run.points, run.values, strict=True) if p.how == "exact"
    ]
    coarse = [point.resolution for run in runs for point in run.points if point.resolution]
    bulk = max(min(sizes or coarse or [0.0]), largest * 10.0**-_DECADES)
    splits = [point.split.epsilon / 10 for run in runs for point in run.points if point.split is not None]
    wanted = max(min([bulk, *splits]), largest * 1e-10)
    return 10.0 ** math.floor(math.log10(min(wanted, largest / 100) or 1e-12))


def edges_of(floor: float, largest: float) -> np.ndarray:
    """Edges of bins that are even in the logarithm of the size on both sides of one bin around zero, ``(B + 1,)``."""
    decades = max(1, math.ceil(math.log10(max(largest, floor) / floor) + 1e-9))
    positive = floor * 10.0 ** (np.arange(decades * BINS + 1) / BINS)
    return np.concatenate([-positive[::-1], positive])


def shares_of(run: Spectra, edges: np.ndarray) -> np.ndarray:
    """Share of the eigenvalues in each bin at each checkpoint, ``(B, C)``; every column sums to 1."""
    columns = [np.histogram(v, edges, weights=w)[0] for v, w in zip(run.values, run.weights, strict=True)]
    return np.stack(columns, axis=1)


@matplotlib.rc_context(STYLE)
def figure_spectra(landscapes: RunLandscape | dict[str, RunLandscape]) -> Figure:
    """Where the eigenvalues of one run lie over training, or of several side by side, on the same scales.

    Args:
        landscapes: one, or by the name of its panel.
    Raises:
        InsufficientDataError: none of them has left a spectrum.
    """
    named = {"": landscapes} if isinstance(landscapes, RunLandscape) else landscapes
    runs = {name: run for name, landscape in named.items() if (run := spectra_of(landscape)).points}
    if not runs:
        raise InsufficientDataError("spectra: given no file of a spectrum, expected at least one; measure the landscape first")
    floor = floor_of(list(runs.values()))
    largest = max(float(np.abs(values).max()) for run in runs.values() for values in run.values)
    edges = edges_of(floor, largest)
    norm = LogNorm(1 / max(point.dim for run in runs.values() for point in run.points), 1)
    figure, panels = paved(len(runs), (6.2, 3.8), (8.4, 3.1))
    for number, (axes, (name, run)) in enumerate(zip(panels, runs.items(), strict=True)):
        _heat_map(axes, run, edges, norm)
        signed_axis(axes, floor, largest)
        axes.set_title(plain(name), fontsize=9)
        axes.set_ylabel("eigenvalue (loss per squared weight)" if number % ACROSS == 0 else "")
        axes.tick_params(labelleft=number % ACROSS == 0)
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=panels, pad=0.02, aspect=28)
    bar.set_label("share of the eigenvalues")
    below(figure, panels)
    return figure


def _heat_map(axes: Axes, run: Spectra, edges: np.ndarray, norm: LogNorm) -> None:
    """One column a checkpoint, white where no eigenvalue lies, and epsilon where there is a split."""
    shares = shares_of(run, edges)
    columns = np.arange(len(run.points) + 1)
    masked = np.ma.masked_equal(shares, 0)
    axes.pcolormesh(columns - 0.5, edges, masked, norm=norm, cmap="viridis", rasterized=True)
    epsilon = [None if point.split is None else point.split.epsilon for point in run.points]
    _both_signs(axes, epsilon, "± epsilon: the river lies between", color="#D55E00", linewidth=1.4, marker=".", markersize=3)
    resolution = [point.resolution or None for point in run.points]
    _both_signs(axes, resolution, "± resolution of a matrix-free density", color="black", linewidth=0.9, linestyle="--")
    shown = np.unique(np.linspace(0, len(run.points) - 1, min(len(run.points), 5)).round().astype(int))
    axes.set_xticks(shown, [f"{run.points[i].step}" for i in shown])
    axes.set_xlabel("updates")
    axes.grid(visible=False)


def _both_signs(axes: Axes, sizes: Sequence[float | None], label: str, **line: Any) -> None:
    """A size at each checkpoint as a line on either side of zero; nothing where there is none."""
    given = np.array([math.nan if size is None else size for size in sizes])
    if not np.isnan(given).all():
        axes.plot(given, label=label, **line)
        axes.plot(-given, **line)


def signed_axis(axes: Axes, floor: float, largest: float) -> None:
    """Logarithmic on both sides of zero, with few enough ticks to be read."""
    low, high = round(math.log10(floor)), math.floor(math.log10(max(largest, 10 * floor)))
    every = max(1, math.ceil((high - low) / 4))
    powers = list(range(high, low, -every))
    axes.set_yscale("symlog", linthresh=floor, linscale=0.5)
    places = [sign * 10.0**power for power in powers for sign in (1, -1)]
    words = [f"${'-' if sign < 0 else ''}10^{{{power}}}$" for power in powers for sign in (1, -1)]
    axes.set_yticks([*places, 0.0], [*words, "0"])
    axes.set_yticks([], minor=True)


@matplotlib.rc_context(STYLE)
def figure_plane(landscape: RunLandscape, slice_record: SliceRecord) -> Figure:
    """One plane of the loss of a run, with its path.

    Raises:
        InsufficientDataError: the plane's file is not there, or no loss in it is finite.
    """
    return figure_planes({"": (landscape, slice_record)})


@matplotlib.rc_context(STYLE)
def figure_planes(planes: dict[str, tuple[RunLandscape, SliceRecord]]) -> Figure:
    """One plane of several runs, side by side; each has contours of its own.

    Raises:
        InsufficientDataError: a plane's file is not there, or no loss in it is finite.
    """
    figure, panels = paved(len(planes), (5.4, 4.2), (9.2, 3.4))
    for axes, (name, (landscape, record)) in zip(panels, planes.items(), strict=True):
        axes.set_xlabel(plain(record.names[0]))
        axes.set_ylabel(plain(record.names[1]))
        plane = plane_of(landscape, record)
        contours(figure, axes, plane)
        words = [plain(name)]
        if record.held is not None:
            words.append(f"holds {100 * record.held:.2g} % of the path's squared motion")
        if "path" in plane and not follow(axes, plane):
            words.append("the path begins outside")
        axes.set_title("\n".join(word for word in words if word), fontsize=9)
    below(figure, panels)
    return figure


def plane_of(landscape: RunLandscape, record: SliceRecord) -> dict[str, np.ndarray]:
    """The arrays of a plane: first ``(n,)``, second ``(m,)``, losses ``(n, m)``, and path ``(K, 2)`` where there is one."""
    path = landscape.slice_path(record.name)
    found = read_arrays(path, _PLANE)
    if not found or not np.isfinite(found["losses"]).any():
        raise InsufficientDataError(f"plane {record.name}: given no finite loss in {path}, expected some; measure it again")
    return found


def losses_along(plane: dict[str, np.ndarray], path: np.ndarray) -> np.ndarray:
    """Losses of a plane along a path ``(K, 2)``, bilinear between the places of the grid, ``(K,)``; NaN outside of it."""
    found = np.full(len(path), np.nan)
    places = [
        np.interp(path[:, k], plane[name], np.arange(len(plane[name])), np.nan, np.nan)
        for k, name in enumerate(("first", "second"))
    ]
    inside = np.isfinite(places[0]) & np.isfinite(places[1])
    low = [np.minimum(place[inside].astype(int), size - 2) for place, size in zip(places, plane["losses"].shape, strict=True)]
    (i, j), (s, t) = low, (place[inside] - cell for place, cell in zip(places, low, strict=True))
    z = plane["losses"].astype(np.float64)
    found[inside] = (1 - s) * ((1 - t) * z[i, j] + t * z[i, j + 1]) + s * ((1 - t) * z[i + 1, j] + t * z[i + 1, j + 1])
    return found


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, as evenly spread as can be, first and last always."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, most)).round()})


def has_plane(landscape: RunLandscape, record: SliceRecord) -> bool:
    """Whether there is something to draw."""
    found = read_arrays(landscape.slice_path(record.name), _PLANE)
    return bool(found) and min(found["losses"].shape) >= 2 and bool(np.isfinite(found["losses"]).any())


def levels_of(losses: np.ndarray) -> np.ndarray:
    """Contours that lie logarithmically above the lowest loss, so that floor and walls both show."""
    low, high = float(losses.min()), float(losses.max())
    above = (high - low) or max(abs(low), 1.0) * 1e-6
    return low + np.concatenate([[0.0], above * np.geomspace(DEPTH, 1, _LEVELS)])


def contours(figure: Figure, axes: Axes, plane: dict[str, np.ndarray]) -> None:
    """Filled contours, their colour bar, and the path with its ends marked."""
    losses = np.ma.masked_invalid(plane["losses"].astype(np.float64)).T
    levels = levels_of(losses)
    norm = BoundaryNorm(levels, 256)
    filled = axes.contourf(plane["first"], plane["second"], losses, levels=levels, norm=norm, cmap="GnBu")
    if np.ptp(losses) > 0:
        axes.contour(plane["first"], plane["second"], losses, levels=levels[1:-1], colors="white", linewidths=0.4)
    bar = figure.colorbar(filled, ax=axes, pad=0.02, aspect=24)
    told = [float(level) for level in levels[[0, 4, 7, 10, 13, _LEVELS]]]
    bar.set_ticks(told, labels=[f"{level:.4g}" for level in told])
    bar.set_label("loss (nats)")
    axes.grid(visible=False)
    if "path" in plane:
        x, y = plane["path"].T
        outline = [Stroke(linewidth=3, foreground="white"), Normal()]
        axes.plot(x, y, ".-", color="#D55E00", linewidth=1.3, markersize=4, label="path of training", path_effects=outline)
        dot = {"linestyle": "none", "markeredgecolor": "black", "zorder": 5}
        axes.plot(x[:1], y[:1], "o", markerfacecolor="white", markersize=7, label="begin", **dot)
        axes.plot(x[-1:], y[-1:], "*", markerfacecolor="black", markersize=10, label="end", **dot)


def follow(axes: Axes, plane: dict[str, np.ndarray]) -> bool:
    """Limits that hold the plane, and of the path what lies no further than half a side outside; whether its begin is seen."""
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


def paved(count: int, alone: tuple[float, float], row: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels: one of the size ``alone``, or rows of the size ``row``."""
    across = min(count, ACROSS)
    rows = math.ceil(count / across)
    size = alone if count == 1 else (row[0], row[1] * rows)
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    panels = [figure.add_subplot(rows, across, number + 1) for number in range(count)]
    return figure, panels


def below(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, if there is anything to name."""
    lines = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if lines:
        figure.legend(lines.values(), lines.keys(), fontsize=8, loc="outside lower center", ncols=min(len(lines), 6))


def plain(text: str) -> str:
    """Text that is shown as it is, whatever a user has named."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")
