"""Every eigenvalue of a spectrum: ridge plots over training, the split at another epsilon, and two arms compared rank by rank.

The split of a spectrum at epsilon calls eigenvalues above epsilon the valley, those within epsilon of zero the river, and those
below minus epsilon the ridge.

Shape letters: B bins, C checkpoints, P eigenvalues of an exact spectrum, T thresholds, S seeds, I ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from thalweg.records.landscape import LandscapeRecord, RunLandscape, SplitRecord, read_arrays
from thalweg.report.figures import Drawn, drawn
from thalweg.report.landscape.curves import Arms, with_spectra
from thalweg.report.landscape.slices import BINS, Spectra, edges_of, evenly, floor_of, shares_of, signed_axis, spectra_of
from thalweg.report.panels import ACROSS, STYLE, paved, plain

MOST = 12
"""Most ridges in a panel."""
_TALLEST = 1.8
"""Height of the tallest bin of all, in distances between two ridges."""
_EARLY_TO_LATE = (0.05, 0.85)
"""Part of the colour map that is used: its light end would be lost on white."""
RULES = {
    "machine_floor": ("o", "machine floor"),
    "relative": ("s", "a thousandth of the largest"),
    "noise_floor": ("^", "noise floor"),
    "log_gap": ("D", "widest gap of log |eigenvalue|"),
}
"""Rule that chooses epsilon -> its marker, and its name in figures."""
PAIR = ("single", "looped")
"""Arms of assumption 1, which says that the second has the smaller eigenvalues."""
_BASELINE = "relative"
"""The rule by which every spectrum can be split alike: epsilon is a thousandth of the largest size."""
_QUANTILE = 0.1
"""The q of kappa_q, the ratio of the quantiles 1 - q and q of the valley's eigenvalues."""
FOR_QUANTILES = 10
"""Fewest valley directions for which quantiles replace the largest and the smallest, as in the records."""


@dataclass(frozen=True)
class Ridges:
    """What one panel of the ridge plot shows: the spectra of one run."""

    steps: tuple[int, ...]
    """Updates at each checkpoint, ``(C,)``."""
    shares: np.ndarray
    """Share of the eigenvalues by bin and checkpoint, ``(B, C)``; every column sums to 1."""
    ends: tuple[tuple[float, float], ...]
    """Smallest and largest eigenvalue (or node) at each checkpoint."""


def _ridges_of(spectra: Spectra, edges: np.ndarray) -> Ridges:
    """Count the eigenvalues of a run in bins, and find the ends of every spectrum."""
    steps = tuple(point.step for point in spectra.points)
    ends = tuple((float(values.min()), float(values.max())) for values in spectra.values)
    return Ridges(steps, shares_of(spectra, edges), ends)


@matplotlib.rc_context(STYLE)
def ridges_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Ridge plot of the eigenvalues, one ridge for each checkpoint, on the scale of `figure_spectra`.

    Args:
        arms: the runs of each arm, one a seed; the first that left spectra is drawn.
        caption: the set-up, which ends the caption.
    Returns:
        None where no run has left a spectrum.
    """
    runs = with_spectra(arms)
    spectra: dict[str, Spectra] = {}
    for arm, run in runs.items():
        whole = spectra_of(run)
        spectra[arm] = whole.at(evenly(len(whole.points), MOST))
    if not spectra:
        return None
    floor, largest = floor_of(list(spectra.values())), max(run.largest for run in spectra.values())
    edges = edges_of(floor, largest)
    columns = {arm: _ridges_of(run, edges) for arm, run in spectra.items()}
    # Heights are logarithmic: they begin at half an eigenvalue, and one decade is as tall as the tallest bin allows.
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
    full_caption = (
        "The Hessian's spectrum over training, from the first checkpoint (back, top) to the last (front, bottom). Height: share of "
        f"the eigenvalues in each bin, {1 / BINS:g} of a decade wide, logarithmic from {least:.2g} (half of one eigenvalue) up, "
        "the same in all panels; bar at the upper left: a factor of 10. The horizontal axis is logarithmic on both sides of zero, "
        f"with one bin for all eigenvalues smaller than {floor:g}; dots: the smallest and the largest eigenvalue. "
        f"Shown: {', '.join(run.folder.parent.name for run in runs.values())}. {caption}"
    )
    ranges = "; ".join(f"{arm} {_ends_in_words(ridges)}" for arm, ridges in columns.items())
    alt = (
        "A column for each arm, a hill for each checkpoint, the first at the back: it is high where many eigenvalues lie. "
        f"{ranges}."
    )
    return drawn(figure, "ridges", "How do the spectra move?", full_caption, alt)


def _ends_in_words(ridges: Ridges) -> str:
    """Smallest and largest eigenvalue of the first and of the last spectrum, as text."""
    first, last = ridges.ends[0], ridges.ends[-1]
    text = f"from {first[0]:.3g} to {first[1]:.3g} at update {ridges.steps[0]}"
    if len(ridges.steps) > 1:
        text += f", from {last[0]:.3g} to {last[1]:.3g} at update {ridges.steps[-1]}"
    return text


def decades(shares: np.ndarray, least: float) -> np.ndarray:
    """Height of shares above the least share that is drawn, in decades; 0 for smaller shares."""
    return np.log10(np.maximum(shares, least) / least)


def _draw_ridges(axes: Axes, ridges: Ridges, edges: np.ndarray, heights: np.ndarray) -> None:
    """Draw one outline for each checkpoint, each hiding what is behind it; heights ``(B, C)`` in distances between ridges."""
    count = len(ridges.steps)
    colours = matplotlib.colormaps["viridis"](np.linspace(*_EARLY_TO_LATE, count), alpha=0.85)
    levels = [float(count - 1 - place) for place in range(count)]
    for place, (level, height, ends) in enumerate(zip(levels, heights.T, ridges.ends, strict=True)):
        order = 2 + 0.01 * place  # later checkpoints lie in front
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
    """Give the horizontal axis the scale and ticks of `signed_axis`, from ``-end`` to ``end``; the vertical axis stays."""
    levels, limits = list(axes.get_yticks()), axes.get_ylim()
    level_labels: Sequence[str] = [label.get_text() for label in axes.get_yticklabels()]
    # `signed_axis` scales the vertical axis: read its ticks there, then put the vertical axis back.
    signed_axis(axes, floor, largest)
    places, labels = list(axes.get_yticks()), [label.get_text() for label in axes.get_yticklabels()]
    axes.set_yscale("linear")
    axes.set_yticks(levels, level_labels, fontsize=7)
    axes.set_yticks([], minor=True)
    axes.set_ylim(limits)
    axes.set_xscale("symlog", linthresh=floor, linscale=0.5)
    axes.set_xticks(places, labels, fontsize=7)
    axes.set_xticks([], minor=True)
    axes.set_xlim(-1.2 * end, 1.2 * end)


def _scale_bar(axes: Axes, count: int, decade: float) -> None:
    """Draw a bar as long as a factor of 10, above the first of ``count`` ridges."""
    top = count - 1 + _TALLEST
    across = axes.get_yaxis_transform()
    axes.plot([0.03, 0.03], [top - decade, top], color="black", linewidth=1.5, transform=across)
    axes.text(0.06, top - decade / 2, "\N{MULTIPLICATION SIGN} 10", transform=across, fontsize=7, va="center")


def _exact_values(run: RunLandscape, point: LandscapeRecord) -> np.ndarray | None:
    """Every eigenvalue of a point, ascending; None where the spectrum is not exact or not on the disk."""
    arrays = read_arrays(run.spectrum_path(point.step), ("values",)) if point.how == "exact" else {}
    return np.sort(arrays["values"].reshape(-1).astype(np.float64)) if arrays else None


def split_at(values: np.ndarray, epsilon: float, split: SplitRecord) -> SplitRecord:
    """Split an exact spectrum into valley, river and ridge at another epsilon.

    Args:
        values: all eigenvalues, ``(P,)``.
        epsilon: of the new split, as the rule "relative" gives it.
        split: the record of the same spectrum at its own epsilon.
    Returns:
        The record with the new epsilon, dimensions, condition numbers kappa (largest over smallest eigenvalue of the valley) and
        kappa_q (ratio of its 90 % and 10 % quantiles), and spread (standard deviation of its log eigenvalues). All other fields,
        which no figure shows, keep the values of the old epsilon.
    """
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
    """The same runs, split at a thousandth of the largest size; points without an exact spectrum on the disk lose their split."""
    return {
        arm: [replace(run, points=tuple(_baseline_point(run, p) for p in run.points)) for run in runs] for arm, runs in arms.items()
    }


def _baseline_point(run: RunLandscape, point: LandscapeRecord) -> LandscapeRecord:
    """One point of a run, split at the baseline; without a split where that is not possible."""
    values, split = _exact_values(run, point), point.split
    if values is None or split is None or _BASELINE not in split.rules:
        return replace(point, split=None)
    return replace(point, split=split_at(values, split.rules[_BASELINE], split))


@dataclass(frozen=True)
class Exact:
    """An exact spectrum with its split."""

    step: int
    """Updates before it was measured."""
    values: np.ndarray
    """Eigenvalues, ascending, ``(P,)``."""
    split: SplitRecord

    def above(self, thresholds: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the valley would be at other thresholds.

        Args:
            thresholds: positive, ``(T,)``.
        Returns:
            Share of the eigenvalues above each threshold, and the largest over the smallest of these, ``(T,)`` each; the second
            is NaN where no eigenvalue lies above.
        """
        first = np.searchsorted(self.values, np.asarray(thresholds), side="right")  # place of the first eigenvalue above
        exists = first < len(self.values)
        kappa = np.where(exists, self.values[-1] / self.values[np.minimum(first, len(self.values) - 1)], math.nan)
        return 1 - first / len(self.values), kappa


def exact_spectra(run: RunLandscape) -> Iterator[Exact]:
    """The exact spectra of a run that are on the disk and have a split, the last first."""
    for point in reversed(run.points):
        values = _exact_values(run, point)
        if point.split is not None and values is not None:
            yield Exact(point.step, values, point.split)


@dataclass(frozen=True)
class Order:
    """The eigenvalues of the two arms of `PAIR`, compared rank by rank over seeds."""

    step: int
    """Updates before the spectra were measured."""
    logs: np.ndarray
    """log(eigenvalue of the second arm / eigenvalue of the first), from the largest down, ``(S, I)``, nats."""
    counts: dict[str, int]
    """Rule -> number of ranks above the largest epsilon that it gave, in every seed and both arms."""


def order_of(arms: Arms) -> Order | None:
    """Compare the exact spectra of the two arms of `PAIR` rank by rank, seed by seed.

    The step is the last of those that most seeds of both arms share. Ranks reach down to the machine floor.

    Args:
        arms: the runs of each arm, one a seed; seeds are paired by the names of their folders.
    Returns:
        None where no step is shared, the spectra have different sizes, or no eigenvalue lies above the machine floor.
    """
    by_seed = [{run.folder.parent.name.rsplit("-seed", 1)[-1]: run for run in arms.get(arm, [])} for arm in PAIR]
    pairs: dict[int, list[tuple[Exact, Exact]]] = {}  # step -> the spectra of both arms, seed by seed
    for seed in sorted(by_seed[0].keys() & by_seed[1].keys()):
        first_arm, second_arm = ({spectrum.step: spectrum for spectrum in exact_spectra(runs[seed])} for runs in by_seed)
        for step in first_arm.keys() & second_arm.keys():
            pairs.setdefault(step, []).append((first_arm[step], second_arm[step]))
    if not pairs:
        return None
    step = max(pairs, key=lambda step: (len(pairs[step]), step))
    spectra = [spectrum for pair in pairs[step] for spectrum in pair]
    if len({len(spectrum.values) for spectrum in spectra}) > 1:
        return None
    first, second = (np.stack([pair[side].values[::-1] for pair in pairs[step]]) for side in (0, 1))  # (S, P), largest first
    least = np.minimum(first, second).min(axis=0)  # at each rank, the smallest of all seeds and both arms
    shared = [rule for rule in RULES if all(rule in spectrum.split.rules for spectrum in spectra)]
    counts = {rule: int((least > max(spectrum.split.rules[rule] for spectrum in spectra)).sum()) for rule in shared}
    kept = counts.get("machine_floor", int((least > 0).sum()))
    return Order(step, np.log(second[:, :kept] / first[:, :kept]), counts) if kept else None
