"""The figure of the layers: bars for one point, heat maps of layers over updates for several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure

from thalweg.errors import Phrase, require
from thalweg.records.landscape import LandscapeRecord
from thalweg.records.layers import LayerRecord
from thalweg.report.panels import STYLE, ink_on, plain, shortened

_NUMBERS: dict[str, Callable[[LandscapeRecord], float | None]] = {
    "largest eigenvalue": lambda block: block.largest[0],
    "trace": lambda block: block.trace.value,
    "entropy $S_1$ / log P": lambda block: block.entropy.value / np.log(block.dim) if block.dim > 1 else None,
    "cosine with the point before": lambda block: block.change.cosine.value if block.change else None,
}
"""Title of a panel -> its number."""
_LETTERS = {"U": "U", "V": "V", "saddle": "s", "indeterminate": "?"}
"""Class of a block -> what stands in its cell."""
_MOST_LETTERS = 400
"""Most cells in which a letter can be read."""


@matplotlib.rc_context(STYLE)
def figure_layers(records: Sequence[LayerRecord]) -> Figure:
    """Largest eigenvalue, trace and entropy of every group: bars at one point, else colours over updates with the change.

    The first panel bears the class of each exact block: U, V, s (saddle) or ? (indeterminate). The entropy is divided by that of
    equal eigenvalues, log P, so that layers of different sizes compare.

    Args:
        records: of one series, at least one.
    Raises:
        BadInputError: records with different groups.
    """
    points = sorted(records, key=lambda record: record.step)
    names = list(dict.fromkeys(name for point in points for name in (*point.layers, *point.flat)))
    known = {frozenset((*point.layers, *point.flat)) for point in points}
    require(
        len(known) == 1 and bool(names), "records", Phrase(f"{len(known)} sets of groups"), "records of one model, grouped alike"
    )
    shown = {title: take for title, take in _NUMBERS.items() if len(points) > 1 or not title.startswith("cosine")}
    prefix = _common_prefix(names)
    labels = [plain(shortened(name.removeprefix(prefix))) for name in names]
    figure = Figure(figsize=(2.6 * len(shown) + 1.2, max(2.4, 0.22 * len(names) + 1.2)), dpi=160, layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (title, take) in zip(panels, shown.items(), strict=True):
        cells = np.array([[_number(point, name, take) for point in points] for name in names], dtype=float)
        if len(points) == 1:
            _bars(axes, cells[:, 0])
        else:
            _map(figure, axes, cells, [point.step for point in points], bounded=title.startswith("cosine"))
        axes.set_title(title, fontsize=9)
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(names)), labels, fontsize=7)
    if len(points) == 1:
        panels[0].invert_yaxis()  # an image begins at the top anyway
    if _letters(panels[0], points, names):
        meanings = ", ".join(f"{letter} {name}" if letter != name else letter for name, letter in _LETTERS.items())
        figure.supxlabel(f"letters: class of the block's valley ({meanings})", fontsize=8)
    return figure


def _number(point: LayerRecord, name: str, take: Callable[[LandscapeRecord], float | None]) -> float:
    """A number of one block; NaN where there is none."""
    value = take(point.layers[name]) if name in point.layers else None
    return float("nan") if value is None else value


def _common_prefix(names: Sequence[str]) -> str:
    """The leading parts, with their last dot, that all names share: "model." of "model.norm" and "model.layers.0"."""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return "".join(part + "." for part in parts[0][:shared])


def _bars(axes: Axes, values: np.ndarray) -> None:
    """One bar for each group; logarithmic where all values are positive and span a factor of 30."""
    known = values[np.isfinite(values)]
    axes.barh(range(len(values)), np.nan_to_num(values), color="#0072B2", height=0.7)
    if len(known) and known.min() > 0 and known.max() > 30 * known.min():
        axes.set_xscale("log")


def _map(figure: Figure, axes: Axes, cells: np.ndarray, steps: Sequence[int], bounded: bool) -> None:
    """Colours of groups (rows) over points (columns): from -1 to 1, or logarithmic where values span a factor of 30."""
    known = cells[np.isfinite(cells)]
    norm = Normalize(-1, 1) if bounded else None
    if not bounded and len(known) and np.abs(known).max() > 30 * max(np.abs(known).min(), 1e-300):
        top = float(np.abs(known).max())
        low = float(known.min())
        norm = LogNorm(low, top) if low > 0 else SymLogNorm(1e-3 * top, vmin=-top, vmax=top)
    image = axes.imshow(cells, aspect="auto", norm=norm, cmap="RdBu_r" if bounded or isinstance(norm, SymLogNorm) else "viridis")
    figure.colorbar(image, ax=axes, pad=0.02)
    every = -(-len(steps) // 6)
    axes.set_xticks(range(0, len(steps), every), [f"{step:,}" for step in steps[::every]], fontsize=7)
    axes.set_xlabel("updates (points evenly spaced)")
    axes.grid(visible=False)


def _letters(axes: Axes, points: Sequence[LayerRecord], names: Sequence[str]) -> bool:
    """Write the class of each exact block into its cell or at the foot of its bar; returns whether there is any."""
    if len(points) * len(names) > _MOST_LETTERS:
        return False
    written = False
    for row, name in enumerate(names):
        for column, point in enumerate(points):
            split = point.layers[name].split if name in point.layers else None
            if split is not None:
                letter: dict[str, Any] = {"s": _LETTERS[split.name], "ha": "center", "va": "center", "fontsize": 6}
                if len(points) > 1:
                    cells = axes.images[0]
                    value = np.asarray(cells.get_array())[row, column]
                    axes.text(column, row, color=ink_on(cells.to_rgba(value)), **letter)
                else:
                    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                    axes.text(0.04, row, transform=axes.get_yaxis_transform(), bbox=box, color="black", **letter)
                written = True
    return written
