"""What all figures share: colours and dashes of the arms, grids of panels, lines with bands, legends, and names as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from thalweg.report.curves import Band

COLOURS = {
    "single": "#0072B2",
    "looped": "#D55E00",
    "shift": "#009E73",
    "shift-hard": "#CC79A7",
    "shift-scp": "#8A6D00",
    "looped-fast": "#7A3B00",
    "looped-short": "#A50026",
    "next-token": "#555555",
    "fixed": "#E69F00",
    "random": "#56B4E9",
    "shift-short": "#00573F",
    "single-rescaled": "#56B4E9",
    "single-flops": "#8C8C8C",
}
"""Arm -> colour, after the palette of Okabe and Ito, which colour-blind readers can tell apart."""
DASHES = {
    "shift-hard": (4, 2),
    "shift-scp": (5, 1.5),
    "shift-short": (1.5, 1),
    "looped-fast": (5, 1, 1, 1),
    "looped-short": (1.5, 1),
    "next-token": (1, 1),
    "fixed": (4, 1),
    "random": (2, 2),
    "single-rescaled": (2, 1),
    "single-flops": (1, 1),
}
"""Arm -> lengths of dashes and gaps, in line widths; the lines of all other arms are solid."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "svg.hashsalt": "thalweg",
    "svg.fonttype": "path",
}
"""Settings of matplotlib; the fixed salt makes the identifiers in an SVG repeatable."""
WIDTH = 8.4
"""Width of a figure that fills the page, inches."""
FIRST_WIDTH = 5.4
"""Width of the figure beside the text of a first screen, inches."""
ACROSS = 3
"""Most panels in a row."""
LONGEST = 30
"""Most letters of a name in a title or a row."""


def dashes_of(arm: str) -> tuple[float | None, ...]:
    """The dashes of an arm's line, as matplotlib takes them; ``(None, None)`` is a solid line."""
    return DASHES.get(arm, (None, None))


def arm_line(arm: str) -> dict[str, Any]:
    """Colour, dashes and label of an arm's line, as keyword arguments of ``Axes.plot``; unknown arms are black."""
    return {"color": COLOURS.get(arm, "black"), "dashes": dashes_of(arm), "label": arm}


def draw_mean_and_band(axes: Axes, curve: Band, opacity: float = 0.16, **line: Any) -> None:
    """Draw the mean of a curve as a line and its interval as a band of the same colour.

    Args:
        axes: where it is drawn.
        curve: mean and ends of the interval over x.
        opacity: of the band, 0 to 1.
        line: keyword arguments of ``Axes.plot``; ``color`` is needed.
    """
    axes.plot(curve.x, curve.mean, **line)
    axes.fill_between(curve.x, curve.low, curve.high, color=line["color"], alpha=opacity, linewidth=0)


def paved(count: int, alone: tuple[float, float], row: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of ``count`` panels, filled row by row, at most `ACROSS` in a row.

    Args:
        count: number of panels, at least 1.
        alone: width and height of the figure where there is one panel, inches.
        row: width and height of each row of panels otherwise, inches.
    """
    across = min(count, ACROSS)
    rows = math.ceil(count / across)
    size = alone if count == 1 else (row[0], row[1] * rows)
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    return figure, [figure.add_subplot(rows, across, number + 1) for number in range(count)]


def three_digits(number: float) -> str:
    """A number with three digits, and never with an exponent.

    Example:
        >>> three_digits(1250.4), three_digits(52.96)
        ('1,250', '53')
    """
    return f"{float(f'{number:.3g}'):,.10g}"


def labelled(panels: Iterable[Axes]) -> list[Artist]:
    """Everything in some panels that has a label, each label once, in the order in which the labels first appear."""
    return list(
        {label: artist for axes in panels for artist, label in zip(*axes.get_legend_handles_labels(), strict=True)}.values()
    )


def legend_below(figure: Figure, artists: Iterable[Artist], columns: int = 6, **settings: Any) -> None:
    """Draw one legend for all panels below them, if there is anything to name.

    Args:
        figure: where it is drawn.
        artists: what is named, by its own label.
        columns: most columns of the legend.
        settings: further keyword arguments of ``Figure.legend``.
    """
    handles = list(artists)
    if handles:
        columns = min(len(handles), columns)
        figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=columns, **settings)


def shortened(name: str) -> str:
    """A name of at most `LONGEST` letters; a longer one is cut and ends in an ellipsis."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign begins no formula, and a leading underscore does not hide a label."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def ink_on(colour: Any) -> str:
    """White for letters on a dark colour, black on a light or transparent one; brightness as in Rec. 601."""
    red, green, blue, opacity = to_rgba(colour)
    return "white" if opacity and 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else "black"
