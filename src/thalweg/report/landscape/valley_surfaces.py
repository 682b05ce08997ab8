"""Surfaces of the loss that each arm trains on: measured planes, and below them the river valleys of the conjecture.

A valley of the conjecture is a loss of two coordinates: x across the valley and y down the river. Single is said to train in a
U-shaped valley, Looped in a V-shaped one, and SHIFT first in the U and then in the V.

Shape letters: n and m points along the two directions of a plane, K points of a path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thalweg.records.landscape import RunLandscape, SliceRecord
from thalweg.report.figures import Drawn, drawn
from thalweg.report.landscape.slices import losses_along, plane_of
from thalweg.report.panels import STYLE, plain

_ARMS = ("single", "looped", "shift")
"""Arms that have a surface, in the order of the figure."""
FLOOR = 0.02
"""Loss above the lowest up to which heights are about linear; logarithmic beyond (nats)."""
_SHARP = 120
"""Resolution of the surfaces within an SVG, pixels per inch."""
RATE = 0.5
"""Learning rate of gradient descent in the valleys of the conjecture."""
STEPS = 40
"""Updates of gradient descent."""
SWITCH = 20
"""Updates on the U-valley before the V-valley, where there are both."""
START = (2.2, 0.0)
"""Where gradient descent begins, as (x, y)."""
_LABELS = {"single": "U-valley", "looped": "V-valley", "shift": "U-valley, then V-valley"}
"""Arm -> the valley that the conjecture says it trains in."""
_TURN = 35.0
"""Angle between the path and the view, degrees."""
_TICKS = (0.0, 0.01, 0.1, 1.0, 10.0)
"""Ticks of the vertical axis: losses above the lowest (nats)."""


@dataclass(frozen=True)
class Valley:
    """A valley of the conjecture: loss(x, y) = wall(x) - slope * y, with x across it and y down the river."""

    slope: float
    """Fall of the loss for a unit of y."""
    wall: Callable[[np.ndarray], np.ndarray]
    pull: Callable[[float], float]
    """Derivative of the wall."""
    formula: str
    """The wall and the slope, as text."""


def u_valley(slope: float = 0.03, curvature: float = 1.0, half: float = 1.0) -> Valley:
    """A valley with a level floor of width 2 ``half`` between parabolic walls of a given ``curvature``."""
    return Valley(
        slope,
        lambda x: 0.5 * curvature * np.maximum(np.abs(x) - half, 0) ** 2,
        lambda x: curvature * math.copysign(max(abs(x) - half, 0.0), x),
        f"U: wall(x) = {curvature:g} max(|x| - {half:g}, 0)^2 / 2, slope {slope:g}",
    )


def v_valley(slope: float = 0.3, steepness: float = 1.2, width: float = 0.1) -> Valley:
    """A valley with straight walls of a given ``steepness``, rounded at the bottom to the curvature ``steepness / width``."""
    return Valley(
        slope,
        lambda x: steepness * (np.sqrt(x**2 + width**2) - width),
        lambda x: steepness * x / math.hypot(x, width),
        f"V: wall(x) = {steepness:g} (sqrt(x^2 + {width:g}^2) - {width:g}), slope {slope:g}",
    )


def descend(stages: list[tuple[Valley, int]], start: tuple[float, float] = START, rate: float = RATE) -> np.ndarray:
    """Run gradient descent through one valley after the other.

    Each update is x - rate * wall'(x), y + rate * slope.

    Args:
        stages: each valley with its number of updates.
        start: first point, as (x, y).
        rate: learning rate.
    Returns:
        The points ``(K, 2)``, the start first.
    """
    points = [start]
    for valley, steps in stages:
        for _ in range(steps):
            x, y = points[-1]
            points.append((x - rate * valley.pull(x), y + rate * valley.slope))
    return np.array(points)


def ground(stages: list[tuple[Valley, int]], path: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Loss of the valleys of some stages, joined where the path passes from one to the next.

    A later valley begins at the y where its stage begins, at the height that the river has reached there.

    Args:
        stages: each valley with its number of updates.
        path: as `descend` gives it, ``(K, 2)``.
        x, y: where the loss is wanted, of shapes that broadcast.
    """
    loss, height, done = np.full(np.broadcast(x, y).shape, np.nan), 0.0, 0
    for number, (valley, steps) in enumerate(stages):
        begin = path[done, 1]
        here = y > begin if number else np.full(loss.shape, fill_value=True)  # the first valley also lies behind the start
        loss = np.where(here, height + valley.wall(x) - valley.slope * (y - begin), loss)
        done += steps
        height -= valley.slope * (path[done, 1] - begin)
    return loss


def stages_of(arm: str) -> list[tuple[Valley, int]]:
    """The valleys that the conjecture says an arm trains in, each with its number of updates."""
    u, v = u_valley(), v_valley()
    return {"single": [(u, STEPS)], "looped": [(v, STEPS)], "shift": [(u, SWITCH), (v, STEPS - SWITCH)]}[arm]


def raised(above: np.ndarray) -> np.ndarray:
    """Height at which a loss above the lowest is drawn: log10(1 + loss / `FLOOR`), about linear up to `FLOOR`.

    Example:
        >>> float(raised(np.array(9 * FLOOR)))
        1.0
    """
    return np.log10(1 + np.maximum(above, 0) / FLOOR)


@matplotlib.rc_context({**STYLE, "svg.fonttype": "none"})  # letters as outlines would take 100 kB
def valleys_drawn(planes: dict[str, tuple[RunLandscape, SliceRecord]], caption: str) -> Drawn | None:
    """Surfaces of the loss: above, a measured plane of each arm; below, the valley that the conjecture says it trains in.

    Args:
        planes: arm -> a run's landscape and one of its planes that have something to draw; other arms than `_ARMS` are left out.
        caption: the set-up, which ends the caption.
    Returns:
        None where none of the arms is there.
    """
    arms = [arm for arm in _ARMS if arm in planes]
    if not arms:
        return None
    figure = Figure(figsize=(3.1 * len(arms), 5.9), dpi=_SHARP)
    arrays = {arm: _finite(plane_of(*planes[arm])) for arm in arms}
    top = max(float(np.nanmax(plane["losses"]) - np.nanmin(plane["losses"])) for plane in arrays.values())
    for number, arm in enumerate(arms):
        above: Any = figure.add_subplot(2, len(arms), number + 1, projection="3d")
        _draw_measured(above, arrays[arm], planes[arm][1].names, top)
        above.set_title(f"measured: {arm}", fontsize=9, y=1.0)
        below: Any = figure.add_subplot(2, len(arms), len(arms) + number + 1, projection="3d")
        _draw_theory(below, stages_of(arm))
        below.set_title(f"theory: {_LABELS[arm]}", fontsize=9, y=1.0)
    for height, label in ((0.74, "loss above lowest (nats)"), (0.26, "loss")):
        figure.text(0, height, label, rotation=90, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(left=0.01, right=0.97, bottom=0.03, top=0.97, wspace=0.1, hspace=0.06)
    records = {arm: planes[arm][1] for arm in arms}
    shown = "; ".join(f"{arm}: {planes[arm][0].folder.parent.name}, {_plane_in_words(record)}" for arm, record in records.items())
    full_caption = (
        "Loss in a plane through a run's weights (above), and the valley that the conjecture says the arm trains in (below, not "
        "measured). Height above: loss over the lowest loss of that plane, logarithmic beyond "
        f"{FLOOR:g} nats, on one scale for all arms. Orange: the path of training, projected into the plane, as far as that goes; "
        "circle: its begin; star: its end. The directions are each arm's own, so that shapes can be compared, but not places: "
        f"{shown}. Below: loss(x, y) = wall(x) - slope y; {u_valley().formula}; "
        f"{v_valley().formula}; gradient descent from ({START[0]:g}, {START[1]:g}) at rate {RATE:g} for {STEPS} updates; for shift "
        f"{SWITCH} of them in the U, the others in a V that begins there. The slopes are chosen, not measured. "
        f"In such a sum a path "
        f"moves rate times slope down the river at every update, whether it hops or not. {caption}"
    )
    losses = "; ".join(
        f"{arm}, losses {np.nanmin(plane['losses']):.3g} to {np.nanmax(plane['losses']):.3g} nats" for arm, plane in arrays.items()
    )
    descents = "; ".join(f"{_LABELS[arm]}: {_motion_in_words(descend(stages_of(arm)))}" for arm in arms)
    alt = (
        f"Surfaces in three dimensions with the path of training. Above, measured: {losses}. Below, the wide U and the "
        f"narrow V of the theory: {descents}."
    )
    return drawn(figure, "valleys", "Which valley does each arm train in?", full_caption, alt)


def _plane_in_words(record: SliceRecord) -> str:
    """The directions of a plane, and the share of the path's motion that lies in it, as text."""
    held = "" if record.held is None else f" ({100 * record.held:.2g} % of the path's squared motion)"
    return f"{' and '.join(record.names)} around update {record.step}{held}"


def _motion_in_words(path: np.ndarray) -> str:
    """How often a path ``(K, 2)`` crosses the river, and how far it comes down, as text."""
    crossings = int((np.diff(np.sign(path[:, 0])) != 0).sum())
    return f"{crossings} changes of side, {path[-1, 1]:.3g} down the river"


def _finite(plane: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a plane, with NaN where a loss is not finite."""
    losses = plane["losses"].astype(np.float64)
    return plane | {"losses": np.where(np.isfinite(losses), losses, np.nan)}


def _draw_measured(axes: Any, plane: dict[str, np.ndarray], names: tuple[str, str], top: float) -> None:
    """Draw a measured plane as a surface, up to ``top`` nats, with the part of the path that lies over it."""
    lowest = float(np.nanmin(plane["losses"]))
    x, y = np.meshgrid(plane["first"], plane["second"], indexing="ij")
    _draw_surface(axes, x, y, raised(plane["losses"] - lowest), (0.0, float(raised(np.array(top or FLOOR)))))
    if "path" in plane:
        _follow(axes, plane["path"], raised(losses_along(plane, plane["path"]) - lowest))
    ticks = [tick for tick in _TICKS if tick <= (top or FLOOR)]
    axes.set_zticks([float(raised(np.array(tick))) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(plain(names[0]), fontsize=7, labelpad=-6)
    axes.set_ylabel(plain(names[1]), fontsize=7, labelpad=-6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.view_init(elev=38, azim=_facing(plane))


def _facing(plane: dict[str, np.ndarray]) -> float:
    """Azimuth of the view, degrees: `_TURN` off the direction of the path, so that it comes down towards the reader."""
    if "path" not in plane:
        return -60.0
    across, along = plane["path"][-1] - plane["path"][0]
    return math.degrees(math.atan2(along / np.ptp(plane["second"]), across / np.ptp(plane["first"]))) + _TURN


def _draw_theory(axes: Any, stages: list[tuple[Valley, int]]) -> None:
    """Draw the valleys of some stages as one surface, with gradient descent through them."""
    path = descend(stages)
    x, y = np.meshgrid(np.linspace(-2.5, 2.5, 51), np.linspace(-1.6, 6.4, 41), indexing="ij")
    heights = ground(stages, path, x, y)
    _draw_surface(axes, x, y, heights, (-2.0, 3.5))
    _follow(axes, path, ground(stages, path, *path.T))
    axes.set_xlabel("across, x", fontsize=7, labelpad=-6)
    axes.set_ylabel("down the river, y", fontsize=7, labelpad=-6)
    axes.set(xticks=(-2, 0, 2), yticks=(0, 2, 4, 6), zticks=(-2, 0, 2))
    axes.view_init(elev=38, azim=65)


def _draw_surface(axes: Any, x: np.ndarray, y: np.ndarray, heights: np.ndarray, limits: tuple[float, float]) -> None:
    """Draw a surface, coloured by its height, with the vertical ``limits``."""
    style: dict[str, Any] = {"cmap": "GnBu_r", "vmin": limits[0], "vmax": limits[1], "rcount": 80, "ccount": 80}
    axes.patch.set_visible(False)  # else it hides the labels of its neighbour
    axes.computed_zorder = False  # else the surface hides the path
    axes.plot_surface(x, y, heights, linewidth=0, antialiased=False, rasterized=True, zorder=1, **style)
    axes.set_zlim(*limits)
    axes.tick_params(labelsize=6, pad=-3)
    axes.set_box_aspect((1, 1, 0.7), zoom=1.05)


def _follow(axes: Any, path: np.ndarray, heights: np.ndarray) -> None:
    """Draw a path on the surface, with its ends marked; points without a height are left out."""
    over = np.flatnonzero(np.isfinite(heights))
    if not len(over):
        return
    points = np.column_stack([path, heights])[over]
    axes.plot(*points.T, ".-", color="#D55E00", linewidth=1.2, markersize=3, zorder=3)
    mark: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black", "zorder": 4}
    axes.plot(*points[:1].T, "o", markerfacecolor="white", markersize=5, **mark)
    axes.plot(*points[-1:].T, "*", markerfacecolor="black", markersize=8, **mark)
