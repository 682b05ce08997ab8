"""Heat maps of a sweep over SCP's thresholds: a panel for each patience, and a cell with a number for each setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from thalweg.errors import plural
from thalweg.records.experiment import Outcome, SweepSummary
from thalweg.report.figures import Drawn, drawn, setup
from thalweg.report.panels import WIDTH, ink_on

AXES = ("delta_loss", "delta_grad", "patience")
"""Thresholds of SCP: horizontal axis, vertical axis and panels."""
Place = tuple[int, int, int]
"""A cell of the grid: its places on `AXES`."""
_BLANK = "#ececec"
"""Colour of cells without a value."""


@dataclass(frozen=True)
class Tile:
    """One cell of a heat map."""

    value: float | None
    """Gives the colour; None for grey."""
    text: str
    """The number in the cell."""
    note: str = ""
    """Small text below: how many seeds the number rests on."""
    hatched: bool = False
    """Whether some seed did not reach the goal."""


@dataclass(frozen=True)
class Quantity:
    """What one heat map shows."""

    name: str
    """Of the figure's files."""
    heading: str
    label: str
    """Of the colour bar; ``{unit}`` stands for that of losses, `SweepSummary.unit`."""
    caption: str
    """Its part of the caption."""
    colours: str
    """Name of a colour map that colour-blind readers can read."""
    signed: bool
    """Whether the colours lie evenly around zero."""
    tile: Callable[[SweepSummary, Outcome], Tile]


def outcome_named(summary: SweepSummary, name: str) -> Outcome | None:
    """The outcome of a given name; None where the sweep has none."""
    return next((outcome for outcome in summary.outcomes if outcome.name == name), None)


def whole_cost(summary: SweepSummary, outcome: Outcome) -> float | None:
    """Mean operations of whole runs as a share of Looped's; None if unknown.

    It is a lower bound of the share of operations of runs that did not reach Looped's loss.
    """
    looped = outcome_named(summary, "looped")
    if looped is None or not looped.teraflops.mean or outcome.teraflops.mean is None:
        return None
    return outcome.teraflops.mean / looped.teraflops.mean


def runs_of(outcome: Outcome) -> int:
    """The number of seeds that have a final loss."""
    return outcome.final_loss.n


def _drop_tile(summary: SweepSummary, outcome: Outcome) -> Tile:
    """The accuracy lost at the switch, over the seeds that switched."""
    if outcome.drop.mean is None:
        return Tile(None, "no\nswitch" if runs_of(outcome) and not outcome.switched else "-")
    note = f"{outcome.switched} of {runs_of(outcome)}" if outcome.switched < runs_of(outcome) else ""
    return Tile(outcome.drop.mean, f"{outcome.drop.mean:.1f}", note)


def _difference_tile(summary: SweepSummary, outcome: Outcome) -> Tile:
    """The final loss minus Looped's."""
    mean = outcome.difference.mean
    return Tile(mean, "-" if mean is None else signed(mean))


def signed(value: float) -> str:
    """A number with three decimals and its sign; zero has no sign."""
    text = f"{value:+.3f}"
    return text if float(text[1:]) else text[1:]


def share_tile(summary: SweepSummary, outcome: Outcome) -> Tile:
    """The share of Looped's operations; hatched where runs did not reach Looped's loss, with ">" where the median run did not."""
    share = outcome.share_flops
    if share is None:
        return Tile(None, "-")
    note = f"{share.n - share.censored} of {share.n}" if share.censored else ""
    if share.value is not None:
        return Tile(share.value, f"{share.value:.2f}", note, bool(share.censored))
    bound = whole_cost(summary, outcome)
    return Tile(None, ">" if bound is None else f">{bound:.2f}", note, True)


QUANTITIES = (
    Quantity(
        "scp-drop",
        "Which thresholds switch without a drop?",
        "drop (percentage points)",
        "Accuracy lost at the switch, in percentage points. It is the largest fall of the held-out accuracy below its best so far, "
        'until 400 updates after the onset; mean over the seeds that switched. "No switch": no seed switched; '
        '"k of n": only k of n '
        "seeds switched",
        "Oranges",
        False,
        _drop_tile,
    ),
    Quantity(
        "scp-difference",
        "Which thresholds end where Looped ends?",
        "final loss minus Looped's ({unit})",
        "Final held-out loss minus Looped's at the same seed, in {unit}; mean over seeds. Below zero is better than Looped",
        "RdBu_r",
        True,
        _difference_tile,
    ),
    Quantity(
        "scp-share",
        "Which thresholds save operations?",
        "share of Looped's operations",
        "Counted operations to Looped's final held-out loss at the same seed, as a share of all operations of Looped; geometric "
        'mean over seeds. Hatched: not every seed reached it; "k of n" seeds did, and the number is the median. ">": the median '
        "seed did not reach it, and the number is the cost of its whole run",
        "Blues",
        False,
        share_tile,
    ),
)


def _grid_of(summary: SweepSummary) -> dict[Place, Outcome]:
    """Place on the grid -> outcome of the group "scp"; outcomes off the grid are left out."""
    grid: dict[Place, Outcome] = {}
    for outcome in summary.outcomes:
        place = place_of(summary, outcome.settings) if outcome.group == "scp" else None
        if place is not None:
            grid[place] = outcome
    return grid


def place_of(summary: SweepSummary, settings: Mapping[str, str | float | int]) -> Place | None:
    """The place of some thresholds on the grid; None where they lie off it."""
    places = []
    for key in AXES:
        near = [i for i, x in enumerate(summary.axes.get(key, ())) if key in settings and math.isclose(x, float(settings[key]))]
        if not near:
            return None
        places.append(near[0])
    return places[0], places[1], places[2]


def _colours_of(quantity: Quantity, tiles: dict[Place, Tile]) -> ScalarMappable:
    """A colour for each value: from the smallest to the largest, or evenly around zero."""
    values = [tile.value for tile in tiles.values() if tile.value is not None] or [0.0]
    low, high = min(values), max(values)
    if quantity.signed:
        high = max(abs(low), abs(high))
        low = -high
    if low == high:
        low, high = low - 0.5, high + 0.5
    return ScalarMappable(Normalize(low, high), matplotlib.colormaps[quantity.colours])


def _draw_tile(axes: Axes, x: int, y: int, tile: Tile, colours: ScalarMappable) -> None:
    """Draw one cell with its number, white on dark colours."""
    colour = _BLANK if tile.value is None else colours.to_rgba(tile.value)  # type: ignore[arg-type]
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
    if tile.hatched:
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="#777777", linewidth=0, hatch="////"))
    box = {"facecolor": colour, "edgecolor": "none", "pad": 0.8} if tile.hatched else None
    ink = ink_on(colour)
    rise = 0.12 if tile.note else 0.0
    axes.text(x, y + rise, tile.text, ha="center", va="center", fontsize=7.5, color=ink, bbox=box)
    if tile.note:
        axes.text(x, y - 0.26, tile.note, ha="center", va="center", fontsize=5.5, color=ink, bbox=box)


def _frame(axes: Axes, x: int, y: int) -> None:
    """Draw a frame around a cell that is seen on light and dark colours."""
    for colour, width in (("white", 4.0), ("black", 2.0)):
        axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=colour, linewidth=width, zorder=3))


def figure_map(summary: SweepSummary, quantity: Quantity) -> Figure:
    """The heat map of one quantity over the whole grid."""
    losses, gradients, patiences = (summary.axes[key] for key in AXES)
    columns = max(1, min(len(patiences), int(7.4 / (0.55 * len(losses)))))
    rows = math.ceil(len(patiences) / columns)
    height = max(2.5, rows * (0.36 * len(gradients) + 0.55) + 0.45)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    tiles = {place: quantity.tile(summary, outcome) for place, outcome in _grid_of(summary).items()}
    colours = _colours_of(quantity, tiles)
    default = place_of(summary, summary.defaults)
    for k, axes in enumerate(panels.flat):
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if k >= len(patiences):
            axes.set_visible(False)
            continue
        for (x, y, panel), tile in tiles.items():
            if panel == k:
                _draw_tile(axes, x, y, tile, colours)
        if default is not None and default[2] == k:
            _frame(axes, default[0], default[1])
        axes.set_title(f"patience {patiences[k]:g} check{'' if patiences[k] == 1 else 's'}", fontsize=9)
        axes.set_xticks(range(len(losses)), [f"{v:g}" for v in losses])
        axes.set_yticks(range(len(gradients)), [f"{v:g}" for v in gradients])
        axes.set_xlim(-0.5, len(losses) - 0.5)
        axes.set_ylim(-0.5, len(gradients) - 0.5)
        axes.xaxis.set_tick_params(labelbottom=k + columns >= len(patiences))
    figure.supxlabel("delta_loss: relative fall of the loss per check", fontsize=9)
    figure.supylabel("delta_grad: relative change\nof the gradient norm per check", fontsize=9, ha="center")
    if any(tile.value is not None for tile in tiles.values()):
        figure.colorbar(colours, ax=panels, label=quantity.label.format(unit=summary.unit), fraction=0.03, pad=0.02)
    return figure


def maps_drawn(summary: SweepSummary) -> list[Drawn]:
    """The three heat maps; empty where the sweep has no grid."""
    grid = _grid_of(summary)
    if not grid:
        return []
    figures = []
    default = ", ".join(f"{key} {summary.defaults[key]:g}" for key in AXES if key in summary.defaults)
    shown = place_of(summary, summary.defaults) in grid
    framed = f"Framed: the recipe's own point ({default})" if shown else f"The recipe's own point ({default}) is not shown"
    for quantity in QUANTITIES:
        caption = f"{quantity.caption.format(unit=summary.unit)}. {framed}. White: not run. {setup(summary)}"
        alt = (
            f"{plural(len(summary.axes['patience']), 'heat map')}, one for each patience, with delta_loss across and "
            f"delta_grad up; every square is a setting of SCP. {_extremes(summary, quantity)}"
        )
        figures.append(drawn(figure_map(summary, quantity), quantity.name, quantity.heading, caption, alt))
    return figures


def _extremes(summary: SweepSummary, quantity: Quantity) -> str:
    """The number at the default thresholds, the smallest and the largest, as text."""
    tiles = {place: quantity.tile(summary, outcome) for place, outcome in _grid_of(summary).items()}
    values = {place: np.float64(tile.value) for place, tile in tiles.items() if tile.value is not None}
    default, numbers = place_of(summary, summary.defaults), []
    if default in tiles:
        numbers.append(f"default {tiles[default].text}")
    for name, pick in (("lowest", min), ("highest", max)):
        if values:
            place = pick(values, key=lambda cell: values[cell])
            at = ", ".join(f"{key} {summary.axes[key][i]:g}" for key, i in zip(AXES, place, strict=True))
            numbers.append(f"{name} {tiles[place].text} at {at}")
    return f"{quantity.label.format(unit=summary.unit)}: {'; '.join(numbers) or 'no value'}."
