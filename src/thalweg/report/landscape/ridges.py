"""Spectra on the disk: one ridge a checkpoint, the later ones in front; the split at another epsilon; two arms place by place.

Shape letters: E eigenvalues or nodes, B bins, C checkpoints, P eigenvalues of an exact spectrum, T thresholds, S seeds, I places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from thalweg.records.landscape import LandscapeRecord, RunLandscape, SplitRecord, read_arrays
from thalweg.report.figures import STYLE, Drawn, drawn
from thalweg.report.landscape.curves import Arms, with_spectra
from thalweg.report.landscape.slices import (
    ACROSS,
    BINS,
    Spectra,
    edges_of,
    evenly,
    floor_of,
    paved,
    plain,
    shares_of,
    signed_axis,
    spectra_of,
)

MOST = 12
"""Ridges of a column."""
_TALLEST = 1.8
"""Height of the tallest bin of all, in distances between two ridges."""
_EARLY_TO_LATE = (0.05, 0.85)
"""Part of the colour map: its light end would be lost on white."""
RULES = {
    "machine_floor": ("o", "machine floor"),
    "relative": ("s", "a thousandth of the largest"),
    "noise_floor": ("^", "noise floor"),
    "log_gap": ("D", "widest gap of log |eigenvalue|"),
}
"""Rule of a threshold -> marker, words."""
PAIR = ("single", "looped")
"""Arms of assumption 1: the second is said to have the smaller eigenvalues."""
_BASELINE = "relative"
"""The rule that every spectrum can be split by alike: a thousandth of the largest size."""
_QUANTILE = 0.1
"""q of kappa_q."""
FOR_QUANTILES = 10
"""Valley directions from which quantiles replace largest and smallest, as in the records."""


@dataclass(frozen=True)
class Ridges:
    """What one column shows."""

    name: str
    """Of the run."""
    steps: tuple[int, ...]
    """``(C,)``."""
    shares: np.ndarray
    """Of the eigenvalues, by bin and checkpoint, ``(B, C)``; every column sums to 1."""
    ends: tuple[tuple[float, float], ...]
    """Smallest and largest eigenvalue (or node) at each checkpoint."""


def _shown_of(arms: Arms) -> tuple[dict[str, Spectra], dict[str, str]]:
    """The spectra of the first run of each arm that left any, at the checkpoints that are drawn, and the names of these runs."""
    found: dict[str, Spectra] = {}
    runs = with_spectra(arms)
    for arm, run in runs.items():
        spectra = spectra_of(run)
        kept = evenly(len(spectra.points), MOST)
        of = (spectra.points, spectra.values, spectra.weights)
        found[arm] = Spectra(*(tuple(part[i] for i in kept) for part in of))  # type: ignore[arg-type]
    return found, {arm: run.folder.parent.name for arm, run in runs.items()}


def _ridges_of(name: str, spectra: Spectra, edges: np.ndarray) -> Ridges:
    """Shares by bin, and the ends of every spectrum."""
    steps = tuple(point.step for point in spectra.points)
    ends = tuple((float(values.min()), float(values.max())) for values in spectra.values)
    return Ridges(name, steps, shares_of(spectra, edges), ends)


@matplotlib.rc_context(STYLE)
def ridges_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Where the eigenvalues lie, checkpoint after checkpoint, on the scale of `figure_spectra`.

    Args:
        arms: the runs of each arm, one a seed; the first that left spectra is drawn.
        caption: the set-up in words, the end of the caption.
    Returns:
        None where no run has left a spectrum.
    """
    spectra, names = _shown_of(arms)
    if not spectra:
        return None
    floor = floor_of(list(spectra.values()))
    largest = max(float(np.abs(values).max()) for run in spectra.values() for values in run.values)
    edges = edges_of(floor, largest)
    columns = {arm: _ridges_of(names[arm], run, edges) for arm, run in spectra.items()}
    least = 0.5 / max(point.dim for run in spectra.values() for point in run.points)
    decade = _TALLEST / max(float(decades(ridges.shares, least).max()) for ridges in columns.values())
    figure, panels = paved(len(columns), (5.4, 4.6), (8.4, 4.2))
    for number, (axes, (arm, ridges)) in enumerate(zip(panels, columns.items(), strict=True)):
        _draw_ridges(axes, ridges, edges, decade * decades(ridges.shares, least))
        _horizontal(axes, floor, largest, float(edges[edges >= largest][0]))
        axes.set_title(plain(arm), fontsize=9)
        axes.set_xlabel("eigenvalue (loss per squared weight)", fontsize=8)
        axes.set_ylabel("updates" if number % ACROSS == 0 else "", fontsize=8)
    _scale_bar(panels[0], len(next(iter(columns.values())).steps), decade)
    words = (
        "The spectrum of the Hessian over training, from the first checkpoint (back, top) to the last (front, bottom). Height: "
        f"share of the eigenvalues in each bin, {1 / BINS:g} of a decade wide, logarithmic from {least:.2g} (half of one "
        "eigenvalue) up, the same in all columns; bar at the upper left: a factor of 10. Eigenvalues logarithmic on both sides of "
        f"zero, with one bin for all that are smaller than {floor:g}; dots: the smallest and the largest. "
        f"Shown: {', '.join(names.values())}. {caption}"
    )
    told = "; ".join(f"{arm} {_ends_in_words(ridges)}" for arm, ridges in columns.items())
    alt = f"Ridge plots of the eigenvalue distribution, one column an arm, one ridge a checkpoint. {told}."
    return drawn(figure, "ridges", "How do the spectra move?", words, alt)


def _ends_in_words(ridges: Ridges) -> str:
    """Range of the first and of the last spectrum."""
    first, last = ridges.ends[0], ridges.ends[-1]
    words = f"from {first[0]:.3g} to {first[1]:.3g} at update {ridges.steps[0]}"
    if len(ridges.steps) > 1:
        words += f", from {last[0]:.3g} to {last[1]:.3g} at update {ridges.steps[-1]}"
    return words


def decades(shares: np.ndarray, least: float) -> np.ndarray:
    """How far shares lie above the least that is drawn, 0 for what is smaller."""
    return np.log10(np.maximum(shares, least) / least)


def _draw_ridges(axes: Axes, ridges: Ridges, edges: np.ndarray, heights: np.ndarray) -> None:
    """One outline a checkpoint on a level of its own, each hiding what is behind it; heights ``(B, C)``."""
    count = len(ridges.steps)
    colours = matplotlib.colormaps["viridis"](np.linspace(*_EARLY_TO_LATE, count), alpha=0.85)
    levels = [float(count - 1 - place) for place in range(count)]
    for place, (level, height, ends) in enumerate(zip(levels, heights.T, ridges.ends, strict=True)):
        order = 2 + 0.01 * place
        filled = np.flatnonzero(height)
        first, last = filled[0], filled[-1] + 1
        axes.axhline(level, color="black", linewidth=0.6, zorder=order)
        outline = axes.stairs(level + height[first:last], edges[first : last + 1], baseline=level, fill=True, zorder=order)
        outline.set(facecolor=colours[place], edgecolor="black", linewidth=0.6)
        axes.plot(ends, [level, level], ".", color="black", markersize=3.5, zorder=order + 0.005)
    axes.set_yticks(levels, [f"{step}" for step in ridges.steps])
    axes.set_ylim(-0.25, count - 1 + _TALLEST + 0.2)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)


def _horizontal(axes: Axes, floor: float, largest: float, end: float) -> None:
    """The scale and the ticks of `signed_axis`, along the other axis, as far as ``end``."""
    levels, limits = list(axes.get_yticks()), axes.get_ylim()
    words: Sequence[str] = [label.get_text() for label in axes.get_yticklabels()]
    signed_axis(axes, floor, largest)
    places, names = list(axes.get_yticks()), [label.get_text() for label in axes.get_yticklabels()]
    axes.set_yscale("linear")
    axes.set_yticks(levels, words, fontsize=7)
    axes.set_yticks([], minor=True)
    axes.set_ylim(limits)
    axes.set_xscale("symlog", linthresh=floor, linscale=0.5)
    axes.set_xticks(places, names, fontsize=7)
    axes.set_xticks([], minor=True)
    axes.set_xlim(-1.2 * end, 1.2 * end)


def _scale_bar(axes: Axes, count: int, decade: float) -> None:
    """A length that stands for a factor of 10, above the first ridge."""
    top = count - 1 + _TALLEST
    across = axes.get_yaxis_transform()
    axes.plot([0.03, 0.03], [top - decade, top], color="black", linewidth=1.5, transform=across)
    axes.text(0.06, top - decade / 2, "\N{MULTIPLICATION SIGN} 10", transform=across, fontsize=7, va="center")


def _exact_values(run: RunLandscape, point: LandscapeRecord) -> np.ndarray | None:
    """Every eigenvalue of a point, ascending; None where the spectrum is not exact or not on the disk."""
    found = read_arrays(run.spectrum_path(point.step), ("values",)) if point.how == "exact" else {}
    return np.sort(found["values"].reshape(-1).astype(np.float64)) if found else None


def split_at(values: np.ndarray, epsilon: float, split: SplitRecord) -> SplitRecord:
    """The split of the same spectrum ``(P,)`` at another epsilon; what the figures do not show stays."""
    valley = np.sort(values[values > epsilon])
    ridge, count = int((values < -epsilon).sum()), len(valley)
    kappa = float(valley[-1] / valley[0]) if count else None
    quantiles = np.quantile(valley, [_QUANTILE, 1 - _QUANTILE]) if count >= FOR_QUANTILES else None
    return replace(
        split,
        epsilon=epsilon,
        rule=_BASELINE,
        valley=count,
        river=len(values) - count - ridge,
        ridge=ridge,
        kappa=kappa,
        kappa_q=kappa if quantiles is None else float(quantiles[1] / quantiles[0]),
        spread=float(np.log(valley).std()) if count else None,
    )


def at_baseline(arms: Arms) -> Arms:
    """The same runs split at a thousandth of the largest size; points that left no exact spectrum lose their split."""
    return {
        arm: [replace(run, points=tuple(_baseline_point(run, p) for p in run.points)) for run in runs] for arm, runs in arms.items()
    }


def _baseline_point(run: RunLandscape, point: LandscapeRecord) -> LandscapeRecord:
    """One point of `at_baseline`."""
    values, split = _exact_values(run, point), point.split
    if values is None or split is None or _BASELINE not in split.rules:
        return replace(point, split=None)
    return replace(point, split=split_at(values, split.rules[_BASELINE], split))


@dataclass(frozen=True)
class Exact:
    """An exact spectrum with its split."""

    step: int
    values: np.ndarray
    """Ascending, ``(P,)``."""
    split: SplitRecord

    def above(self, thresholds: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Share of eigenvalues above each threshold, and largest over smallest of them (NaN where there is none), ``(T,)``."""
        first = np.searchsorted(self.values, np.asarray(thresholds), side="right")
        some = first < len(self.values)
        kappa = np.where(some, self.values[-1] / self.values[np.minimum(first, len(self.values) - 1)], math.nan)
        return 1 - first / len(self.values), kappa


def exact_spectra(run: RunLandscape) -> Iterator[Exact]:
    """Those of a run that are on the disk and have a split, the last first."""
    for point in reversed(run.points):
        values = _exact_values(run, point)
        if point.split is not None and values is not None:
            yield Exact(point.step, values, point.split)


@dataclass(frozen=True)
class Order:
    """Two spectra place by place, over seeds."""

    step: int
    logs: np.ndarray
    """log(second / first) of `PAIR`, from the largest eigenvalue down, ``(S, I)``; nats."""
    counts: dict[str, int]
    """Rule -> places above the largest epsilon that it gave, in every seed."""


def order_of(arms: Arms) -> Order | None:
    """The places above the machine floor at the last exact step that most seeds of both arms share; None where there is none."""
    runs = [{run.folder.parent.name.rsplit("-seed", 1)[-1]: run for run in arms.get(arm, [])} for arm in PAIR]
    found: dict[int, list[tuple[Exact, Exact]]] = {}
    for seed in sorted(runs[0].keys() & runs[1].keys()):
        one, other = ({spectrum.step: spectrum for spectrum in exact_spectra(of[seed])} for of in runs)
        for step in one.keys() & other.keys():
            found.setdefault(step, []).append((one[step], other[step]))
    if not found:
        return None
    step = max(found, key=lambda step: (len(found[step]), step))
    every = [spectrum for pair in found[step] for spectrum in pair]
    if len({len(spectrum.values) for spectrum in every}) > 1:
        return None
    first, second = (np.stack([pair[side].values[::-1] for pair in found[step]]) for side in (0, 1))
    least = np.minimum(first, second).min(axis=0)
    shared = [rule for rule in RULES if all(rule in one.split.rules for one in every)]
    counts = {rule: int((least > max(one.split.rules[rule] for one in every)).sum()) for rule in shared}
    kept = counts.get("machine_floor", int((least > 0).sum()))
    return Order(step, np.log(second[:, :kept] / first[:, :kept]), counts) if kept else None
