"""The ground that each arm trains on as landscapes: measured planes of the loss, and below them the river valleys of theory.

Shape letters: n and m places along directions, K points of a path.
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
from thalweg.report.figures import STYLE, Drawn, drawn
from thalweg.report.landscape.slices import losses_along, plain, plane_of

_ARMS = ("single", "looped", "shift")
"""Arms that have a picture, in their order."""
FLOOR = 0.02
"""Loss above the lowest up to which heights are even; logarithmic beyond (nats)."""
_SHARP = 120
"""Points an inch of the surfaces within an SVG."""
RATE = 0.5
"""Learning rate of gradient descent on the valleys of theory."""
STEPS = 40
"""Updates of gradient descent."""
SWITCH = 20
"""Updates on the U-valley before the V-valley, where there are both."""
START = (2.2, 0.0)
"""Where gradient descent begins: across the valley, and along the river."""
_LABELS = {"single": "U-valley", "looped": "V-valley", "shift": "U-valley, then V-valley"}
"""Arm -> what the conjecture has for it."""
_TURN = 35.0
"""Degrees between the path and the eye."""
_TICKS = (0.0, 0.01, 0.1, 1.0, 10.0)
"""Losses above the lowest that are told at the vertical axis (nats)."""


@dataclass(frozen=True)
class Valley:
    """A valley of theory: loss(x, y) = wall(x) - slope y, with x across it and y down the river."""

    slope: float
    """Fall of the river, loss for a unit of y."""
    wall: Callable[[np.ndarray], np.ndarray]
    pull: Callable[[float], float]
    """Derivative of the wall."""
    words: str


def u_valley(slope: float = 0.03, curvature: float = 1.0, half: float = 1.0) -> Valley:
    """A level floor of the width 2 ``half`` between gentle walls."""
    return Valley(
        slope,
        lambda x: 0.5 * curvature * np.maximum(np.abs(x) - half, 0) ** 2,
        lambda x: curvature * math.copysign(max(abs(x) - half, 0.0), x),
        f"U: wall(x) = {curvature:g} max(|x| - {half:g}, 0)^2 / 2, slope {slope:g}",
    )


def v_valley(slope: float = 0.3, steepness: float = 1.2, width: float = 0.1) -> Valley:
    """Steep walls that narrow to a bottom of the curvature ``steepness / width``."""
    return Valley(
        slope,
        lambda x: steepness * (np.sqrt(x**2 + width**2) - width),
        lambda x: steepness * x / math.hypot(x, width),
        f"V: wall(x) = {steepness:g} (sqrt(x^2 + {width:g}^2) - {width:g}), slope {slope:g}",
    )


def descend(stages: list[tuple[Valley, int]], start: tuple[float, float] = START, rate: float = RATE) -> np.ndarray:
    """Gradient descent through one valley after the other, for so many updates in each: its points ``(K, 2)``, the start first."""
    found = [start]
    for valley, steps in stages:
        for _ in range(steps):
            x, y = found[-1]
            found.append((x - rate * valley.pull(x), y + rate * valley.slope))
    return np.array(found)


def ground(stages: list[tuple[Valley, int]], path: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Loss at every (x, y); from where a stage of the path begins, its valley goes on at the height of the river before it."""
    loss, height, done = np.full(np.broadcast(x, y).shape, np.nan), 0.0, 0
    for number, (valley, steps) in enumerate(stages):
        begin = path[done, 1]
        here = y > begin if number else np.full(loss.shape, fill_value=True)
        loss = np.where(here, height + valley.wall(x) - valley.slope * (y - begin), loss)
        done += steps
        height -= valley.slope * (path[done, 1] - begin)
    return loss


def stages_of(arm: str) -> list[tuple[Valley, int]]:
    """The valleys that the conjecture has for an arm, with the updates in each."""
    u, v = u_valley(), v_valley()
    return {"single": [(u, STEPS)], "looped": [(v, STEPS)], "shift": [(u, SWITCH), (v, STEPS - SWITCH)]}[arm]


def raised(above: np.ndarray) -> np.ndarray:
    """Height at which a loss above the lowest is drawn: even up to `FLOOR`, logarithmic beyond.

    Example:
        >>> float(raised(np.array(9 * FLOOR)))
        1.0
    """
    return np.log10(1 + np.maximum(above, 0) / FLOOR)


@matplotlib.rc_context({**STYLE, "svg.fonttype": "none"})  # as outlines its letters are 100 kB
def valleys_drawn(planes: dict[str, tuple[RunLandscape, SliceRecord]], caption: str) -> Drawn | None:
    """Above, the measured plane of each arm as a landscape; below, the valley that the conjecture has for it.

    Args:
        planes: arm -> a run's landscape and one of its planes that have something to draw; other arms than `_ARMS` are left out.
        caption: the set-up in words, the end of the caption.
    Returns:
        None where none of the arms is there.
    """
    arms = [arm for arm in _ARMS if arm in planes]
    if not arms:
        return None
    figure = Figure(figsize=(3.1 * len(arms), 5.9), dpi=_SHARP)
    found = {arm: _finite(plane_of(*planes[arm])) for arm in arms}
    top = max(float(np.nanmax(plane["losses"]) - np.nanmin(plane["losses"])) for plane in found.values())
    for number, arm in enumerate(arms):
        axes: Any = figure.add_subplot(2, len(arms), number + 1, projection="3d")
        measured(axes, found[arm], planes[arm][1].names, top)
        axes.set_title(f"measured: {arm}", fontsize=9, y=1.0)
        below: Any = figure.add_subplot(2, len(arms), len(arms) + number + 1, projection="3d")
        theory(below, stages_of(arm))
        below.set_title(f"theory: {_LABELS[arm]}", fontsize=9, y=1.0)
    for height, label in ((0.74, "loss above lowest (nats)"), (0.26, "loss")):
        figure.text(0, height, label, rotation=90, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(left=0.01, right=0.97, bottom=0.03, top=0.97, wspace=0.1, hspace=0.06)
    records = {arm: planes[arm][1] for arm in arms}
    shown = "; ".join(f"{arm}: {planes[arm][0].folder.parent.name}, {_plane_in_words(record)}" for arm, record in records.items())
    words = (
        "Above: loss in a plane through a run's weights, as height over the lowest loss of that plane, logarithmic beyond "
        f"{FLOOR:g} nats, on one scale for all arms; orange: the path of training, projected into the plane, as far as that goes; "
        "circle: its begin; star: its end. The directions are each arm's own, so that shapes can be compared, but not places: "
        f"{shown}. Below: what the conjecture says, not measured. loss(x, y) = wall(x) - slope y; {u_valley().words}; "
        f"{v_valley().words}; gradient descent from ({START[0]:g}, {START[1]:g}) at rate {RATE:g} for {STEPS} updates; for shift "
        f"{SWITCH} of them in the U, the others in a V that begins there. The slopes are chosen: in such a sum a path goes rate "
        f"times slope down the river at every update, whether it hops or not. {caption}"
    )
    alt = "Landscapes. Measured: " + "; ".join(
        f"{arm}, losses {np.nanmin(found[arm]['losses']):.3g} to {np.nanmax(found[arm]['losses']):.3g} nats" for arm in arms
    )
    alt += ". Theory: " + "; ".join(f"{_LABELS[arm]}: {_motion_in_words(descend(stages_of(arm)))}" for arm in arms) + "."
    return drawn(figure, "valleys", "Which valley does each arm train in?", words, alt)


def _plane_in_words(record: SliceRecord) -> str:
    """The directions of a plane, and how much of the path lies in them."""
    held = "" if record.held is None else f" ({100 * record.held:.2g} % of the path's squared motion)"
    return f"{' and '.join(record.names)} around update {record.step}{held}"


def _motion_in_words(path: np.ndarray) -> str:
    """What gradient descent did in a valley of theory."""
    crossings = int((np.diff(np.sign(path[:, 0])) != 0).sum())
    return f"{crossings} changes of side, {path[-1, 1]:.3g} down the river"


def _finite(plane: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The plane with holes where a loss is not finite."""
    losses = plane["losses"].astype(np.float64)
    return plane | {"losses": np.where(np.isfinite(losses), losses, np.nan)}


def measured(axes: Any, plane: dict[str, np.ndarray], names: tuple[str, str], top: float) -> None:
    """A measured plane as a landscape, with the part of the path that lies over it."""
    lowest = float(np.nanmin(plane["losses"]))
    x, y = np.meshgrid(plane["first"], plane["second"], indexing="ij")
    landscape(axes, x, y, raised(plane["losses"] - lowest), (0.0, float(raised(np.array(top or FLOOR)))))
    if "path" in plane:
        _follow(axes, plane["path"], raised(losses_along(plane, plane["path"]) - lowest))
    told = [tick for tick in _TICKS if tick <= (top or FLOOR)]
    axes.set_zticks([float(raised(np.array(tick))) for tick in told], [f"{tick:g}" for tick in told])
    axes.set_xlabel(plain(names[0]), fontsize=7, labelpad=-6)
    axes.set_ylabel(plain(names[1]), fontsize=7, labelpad=-6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.view_init(elev=38, azim=_facing(plane))


def _facing(plane: dict[str, np.ndarray]) -> float:
    """Where to look from, degrees: about from where the path leads, so that it comes down towards the reader."""
    if "path" not in plane:
        return -60.0
    way = plane["path"][-1] - plane["path"][0]
    return math.degrees(math.atan2(way[1] / np.ptp(plane["second"]), way[0] / np.ptp(plane["first"]))) + _TURN


def theory(axes: Any, stages: list[tuple[Valley, int]]) -> None:
    """The valleys of some stages, with gradient descent through them."""
    path = descend(stages)
    x, y = np.meshgrid(np.linspace(-2.5, 2.5, 51), np.linspace(-1.6, 6.4, 41), indexing="ij")
    heights = ground(stages, path, x, y)
    landscape(axes, x, y, heights, (-2.0, 3.5))
    _follow(axes, path, ground(stages, path, *path.T))
    axes.set_xlabel("across, x", fontsize=7, labelpad=-6)
    axes.set_ylabel("down the river, y", fontsize=7, labelpad=-6)
    axes.set(xticks=(-2, 0, 2), yticks=(0, 2, 4, 6), zticks=(-2, 0, 2))
    axes.view_init(elev=38, azim=65)


def landscape(axes: Any, x: np.ndarray, y: np.ndarray, heights: np.ndarray, limits: tuple[float, float]) -> None:
    """A surface, coloured by its height."""
    look: dict[str, Any] = {"cmap": "GnBu_r", "vmin": limits[0], "vmax": limits[1], "rcount": 80, "ccount": 80}
    axes.patch.set_visible(False)  # else it hides what its neighbour writes
    axes.computed_zorder = False  # else the path hides behind the ground
    axes.plot_surface(x, y, heights, linewidth=0, antialiased=False, rasterized=True, zorder=1, **look)
    axes.set_zlim(*limits)
    axes.tick_params(labelsize=6, pad=-3)
    axes.set_box_aspect((1, 1, 0.7), zoom=1.05)


def _follow(axes: Any, path: np.ndarray, heights: np.ndarray) -> None:
    """A path on the ground, with its ends marked; what is not over it is left out."""
    over = np.flatnonzero(np.isfinite(heights))
    if not len(over):
        return
    points = np.column_stack([path, heights])[over]
    axes.plot(*points.T, ".-", color="#D55E00", linewidth=1.2, markersize=3, zorder=3)
    dot: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black", "zorder": 4}
    axes.plot(*points[:1].T, "o", markerfacecolor="white", markersize=5, **dot)
    axes.plot(*points[-1:].T, "*", markerfacecolor="black", markersize=8, **dot)
