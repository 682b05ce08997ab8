"""What a page lets a reader handle: curves with exact values, spectra along training, planes of the loss in three dimensions.

Plain numbers for the page's script, from records alone; the script draws them when they are scrolled to.

Shape letters: X points, B bins, C checkpoints, n and m places along directions, K points of a path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from thalweg.records.landscape import RunLandscape, SliceRecord
from thalweg.records.run import EvaluationRecord, StudySummary
from thalweg.report.curves import Band, band
from thalweg.report.figures import DASHES, Grouped, Measure, score
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

COSTS: dict[str, Measure] = {
    "updates": lambda e: e.step,
    "training time (s)": lambda e: e.seconds,
    "counted operations (TFLOP)": lambda e: e.flops / 1e12,
}
"""What is along the horizontal axis."""
_STRATA = ("high", "low", "all")
_DIGITS = 5
"""Significant digits of a number on the page."""
SIDE = 41
"""Places of a plane's side on the page, at most."""


def rounded(values: np.ndarray) -> list:
    """Numbers with `_DIGITS` significant digits, nested as given; None where a number is not finite."""
    return [rounded(one) if isinstance(one, np.ndarray) else _significant(one) for one in values]


def _significant(value: float) -> float | None:
    """A number with `_DIGITS` significant digits, None where it is not finite."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def styles(arms: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and dash of every arm."""
    return {arm: {"colour": colour_of(arm, place), "dash": "dash" if arm in DASHES else "solid"} for place, arm in enumerate(arms)}


def curves_chart(summary: StudySummary, grouped: Grouped, arms: Arms) -> dict:
    """Every score over every cost, and every number of the landscape over updates: means and intervals over seeds."""
    views = [view for name, measure in _scores_of(grouped, summary.task).items() for view in _over_costs(name, measure, grouped)]
    for panel in PANELS:
        found = {arm: curve for arm, (curve, _) in taken(arms, panel).items()}
        if found:
            label = " ".join(panel.label.replace("$S_1$", "S1").split())
            views.append({"label": label, "axis": "updates", "log": panel.scale == "log", "arms": _as_curves(found)})
    return {"styles": styles(list(dict.fromkeys([*grouped, *arms]))), "views": views}


def _scores_of(grouped: Grouped, task: str) -> dict[str, Measure]:
    """What was scored, by name with its unit; held-out first, accuracy of the hard sequences before that of the others."""
    last: EvaluationRecord = next(iter(grouped.values()))[0].evaluations[-1]
    bits = task == "text"
    unit, factor = ("bits per byte", 1 / math.log(2)) if bits else ("nats per token", 1.0)
    found: dict[str, Measure] = {}
    for where in sorted(last.scores, key=lambda name: name != "held-out"):
        for stratum in sorted(last.scores[where], key=_STRATA.index):
            words = where if stratum == "all" else f"{where}, {stratum} information"
            found[f"accuracy, {words}"] = score(where, stratum, "accuracy")
            found[f"loss, {words} ({unit})"] = score(where, stratum, "loss", factor)
    return found


def _over_costs(name: str, measure: Measure, grouped: Grouped) -> list[dict]:
    """One score against each cost."""
    views = []
    for axis, cost in COSTS.items():
        curves = {arm: band(runs, cost, measure) for arm, runs in grouped.items()}
        views.append({"label": name, "axis": axis, "log": False, "arms": _as_curves(curves)})
    return views


def _as_curves(found: dict[str, Band]) -> dict[str, dict]:
    """Arm -> x, mean, low, high, ``(X,)`` each."""
    return {arm: {name: rounded(getattr(curve, name)) for name in ("x", "mean", "low", "high")} for arm, curve in found.items()}


def spectra_chart(named: dict[str, RunLandscape]) -> dict | None:
    """Share of the eigenvalues by size at every checkpoint of one run of each arm; None where no run left a spectrum.

    Places along the axis are even in the logarithm of the size on both sides of zero; ``bounds`` are the eigenvalues there.
    """
    runs: dict[str, Spectra] = {name: found for name, run in named.items() if (found := spectra_of(run)).points}
    if not runs:
        return None
    floor = floor_of(list(runs.values()))
    edges = edges_of(floor, max(float(np.abs(values).max()) for run in runs.values() for values in run.values))
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
    """Text of a tick."""
    return f"{'-' if sign < 0 else ''}10<sup>{power}</sup>"


def places_of(values: np.ndarray, floor: float) -> np.ndarray:
    """Even in the logarithm of the size from ``floor`` on, which lies at a half on either side of zero."""
    size = np.maximum(np.abs(values), floor)
    outside = np.sign(values) * (np.log10(size / floor) + 0.5)
    return np.where(np.abs(values) < floor, 0.5 * values / floor, outside)


def planes_chart(arms: Arms) -> list[dict]:
    """Every plane of the first run of each arm that has some, thinned to `SIDE` places a side, with its path on the ground."""
    found = []
    for arm, runs in arms.items():
        first = next((run for run in runs if any(has_plane(run, record) for record in run.slices)), None)
        if first is not None:
            found += [_plane_chart(arm, first, record) for record in first.slices if has_plane(first, record)]
    return found


def _plane_chart(arm: str, run: RunLandscape, record: SliceRecord) -> dict:
    """One plane: places, losses ``(m, n)`` with the second direction along the rows, lowest loss, and path ``(K, 3)``."""
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
