"""Data of the page's interactive charts: curves with exact values, spectra over training, and planes of the loss as surfaces.

The charts are plain numbers from records alone. The page's script draws each of them when a reader scrolls to it.

Shape letters: X points, B bins, C checkpoints, n and m points along the two directions of a plane, K points of a path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from thalweg.records.landscape import RunLandscape, SliceRecord
from thalweg.records.run import EvaluationRecord, StudySummary
from thalweg.report.curves import Band, band
from thalweg.report.figures import Grouped, Measure, score
from thalweg.report.landscape.curves import PANELS, Arms, colour_of, taken
from thalweg.report.landscape.slices import (
    DEPTH,
    Spectra,
    edges_of,
    evenly,
    floor_of,
    has_plane,
    losses_along,
    plane_of,
    shares_of,
    spectra_of,
)
from thalweg.report.panels import DASHES

COSTS: dict[str, Measure] = {
    "updates": lambda e: e.step,
    "training time (s)": lambda e: e.seconds,
    "counted operations (TFLOP)": lambda e: e.flops / 1e12,
}
"""Label of a horizontal axis -> the cost of a run so far."""
_STRATA = ("high", "low", "all")
_DIGITS = 5
"""Significant digits of a number on the page."""
SIDE = 41
"""Most points along a side of a plane on the page."""


def rounded(values: np.ndarray) -> list:
    """An array as nested lists of numbers with `_DIGITS` significant digits; None where a number is not finite."""
    return [rounded(value) if isinstance(value, np.ndarray) else _significant(value) for value in values]


def _significant(value: float) -> float | None:
    """A number with `_DIGITS` significant digits, None where it is not finite."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def styles(arms: Sequence[str]) -> dict[str, dict[str, str]]:
    """Arm -> its colour and whether its line is dashed, as the script takes them."""
    return {arm: {"colour": colour_of(arm, place), "dash": "dash" if arm in DASHES else "solid"} for place, arm in enumerate(arms)}


def curves_chart(summary: StudySummary, grouped: Grouped, arms: Arms) -> dict:
    """Data of the chart of curves: means and 95 % intervals over seeds.

    It has a view for every score over every cost, and for every number of the landscape over updates.

    Args:
        summary: of the study.
        grouped: arm -> its complete runs.
        arms: arm -> the landscapes of its runs.
    Returns:
        ``styles`` of the arms, and ``views``, each with its ``label``, ``axis``, ``log`` (a logarithmic scale) and ``arms``.
    """
    views = [view for name, measure in _scores_of(grouped, summary.task).items() for view in _over_costs(name, measure, grouped)]
    for panel in PANELS:
        curves = {arm: curve for arm, (curve, _) in taken(arms, panel).items()}
        if curves:
            label = " ".join(panel.label.replace("$S_1$", "S1").split())
            views.append({"label": label, "axis": "updates", "log": panel.scale == "log", "arms": _as_curves(curves)})
    return {"styles": styles(list(dict.fromkeys([*grouped, *arms]))), "views": views}


def _scores_of(grouped: Grouped, task: str) -> dict[str, Measure]:
    """Name with unit -> score; held-out scores come first, and scores of hard sequences before the others."""
    last: EvaluationRecord = next(iter(grouped.values()))[0].evaluations[-1]
    unit, factor = ("bits per byte", 1 / math.log(2)) if task == "text" else ("nats per token", 1.0)
    scores: dict[str, Measure] = {}
    for where in sorted(last.scores, key=lambda name: name != "held-out"):
        for stratum in sorted(last.scores[where], key=_STRATA.index):
            sequences = where if stratum == "all" else f"{where}, {stratum} information"
            scores[f"accuracy, {sequences}"] = score(where, stratum, "accuracy")
            scores[f"loss, {sequences} ({unit})"] = score(where, stratum, "loss", factor)
    return scores


def _over_costs(name: str, measure: Measure, grouped: Grouped) -> list[dict]:
    """The views of one score, against each cost."""
    views = []
    for axis, cost in COSTS.items():
        curves = {arm: band(runs, cost, measure) for arm, runs in grouped.items()}
        views.append({"label": name, "axis": axis, "log": False, "arms": _as_curves(curves)})
    return views


def _as_curves(curves: dict[str, Band]) -> dict[str, dict]:
    """Arm -> its x, mean, low and high, as lists of ``X`` numbers each."""
    return {arm: {name: rounded(getattr(curve, name)) for name in ("x", "mean", "low", "high")} for arm, curve in curves.items()}


def spectra_chart(named: dict[str, RunLandscape]) -> dict | None:
    """Data of the chart of spectra: shares of the eigenvalues by size, at every checkpoint of one run of each arm.

    Args:
        named: arm -> the run that is shown.
    Returns:
        ``places`` of the bins' edges along the axis (see `places_of`), ``bounds`` (the eigenvalues there), ``ticks``, and for each
        arm its ``run``, ``steps`` and ``shares`` ``(C, B)``; None where no run left a spectrum.
    """
    runs: dict[str, Spectra] = {name: spectra for name, run in named.items() if (spectra := spectra_of(run)).points}
    if not runs:
        return None
    floor = floor_of(list(runs.values()))
    edges = edges_of(floor, max(run.largest for run in runs.values()))
    decades = round(math.log10(edges[-1] / floor))
    every = max(1, math.ceil(decades / 4))
    lowest = round(math.log10(floor))
    ticks = [(sign, power) for power in range(decades, 0, -every) for sign in (-1, 1)]
    return {
        "styles": styles(list(runs)),
        "places": rounded(places_of(edges, floor)),
        "bounds": rounded(edges),
        "ticks": [[0.0, "0"], *([sign * (power + 0.5), _power_of_ten(sign, lowest + power)] for sign, power in ticks)],
        "arms": {
            name: {
                "run": named[name].folder.parent.name,
                "steps": [point.step for point in run.points],
                "shares": rounded(shares_of(run, edges).T),
            }
            for name, run in runs.items()
        },
    }


def _power_of_ten(sign: int, power: int) -> str:
    """The label of a tick, as HTML."""
    return f"{'-' if sign < 0 else ''}10<sup>{power}</sup>"


def places_of(values: np.ndarray, floor: float) -> np.ndarray:
    """Places of eigenvalues along an axis that is logarithmic on both sides of zero.

    A size of at least ``floor`` is at 1/2 + log10(size / floor) on its side of zero; smaller values are
    linear between -1/2 and 1/2.
    """
    size = np.maximum(np.abs(values), floor)
    outside = np.sign(values) * (np.log10(size / floor) + 0.5)
    return np.where(np.abs(values) < floor, 0.5 * values / floor, outside)


def planes_chart(arms: Arms) -> list[dict]:
    """Data of the chart of planes: every plane of the first run of each arm that has one.

    Planes are thinned to at most `SIDE` points a side; paths lie on the surface.
    """
    planes = []
    for arm, runs in arms.items():
        first = next((run for run in runs if any(has_plane(run, record) for record in run.slices)), None)
        if first is not None:
            planes += [_plane_chart(arm, first, record) for record in first.slices if has_plane(first, record)]
    return planes


def _plane_chart(arm: str, run: RunLandscape, record: SliceRecord) -> dict:
    """Data of one plane: coordinates, losses ``(m, n)`` with the second direction along the rows, lowest loss, path ``(K, 3)``."""
    plane = plane_of(run, record)
    rows, columns = (evenly(len(plane[name]), SIDE) for name in ("first", "second"))
    losses = plane["losses"].astype(np.float64)
    finite = losses[np.isfinite(losses)]
    low, span = float(finite.min()), float(np.ptp(finite)) or 1.0
    path = plane.get("path", np.empty((0, 2))).astype(np.float64)
    return {
        "arm": arm,
        "run": run.folder.parent.name,
        "name": record.name,
        "step": record.step,
        "axes": list(record.names),
        "held": None if record.held is None else float(f"{record.held:.3g}"),
        "x": rounded(plane["first"][rows].astype(np.float64)),
        "y": rounded(plane["second"][columns].astype(np.float64)),
        "losses": rounded(losses[np.ix_(rows, columns)].T),
        "low": _significant(low),
        "depth": DEPTH * span,
        "path": rounded(np.column_stack([path, losses_along(plane, path)])) if len(path) else [],
    }
