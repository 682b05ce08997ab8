"""River and valley of a study: the split of the spectrum over training, the effect of the threshold, and condition numbers.

Shape letters: T thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from thalweg.records.landscape import LandscapeRecord, Measure, SplitRecord
from thalweg.report.curves import Band
from thalweg.report.figures import Drawn, drawn
from thalweg.report.landscape.curves import (
    Arms,
    Panel,
    colour_of,
    draw_curve,
    draw_over_training,
    mark_passes,
    readable,
    runs_in_words,
    seed_means,
    taken,
    training_axis,
)
from thalweg.report.landscape.ridges import FOR_QUANTILES, RULES, Exact, at_baseline, exact_spectra
from thalweg.report.panels import STYLE, dashes_of, draw_mean_and_band, labelled, legend_below, paved, plain

_THRESHOLDS = 160
"""Thresholds of the sweep, evenly spaced in the logarithm."""


def _share_of(part: str) -> Callable[[LandscapeRecord], Measure | None]:
    """A function that takes the share of the "valley", "river" or "ridge" in all dimensions, where there is a split."""
    return lambda p: Measure(getattr(p.split, part) / p.dim) if p.split is not None else None


SPLIT = (
    Panel("valley: eigenvalues above\nepsilon (share of all)", _share_of("valley"), "signed", 0, 1),
    Panel("river: within epsilon\nof zero (share of all)", _share_of("river"), "linear", 0, 1),
    Panel("ridge: below minus\nepsilon (share of all)", _share_of("ridge"), "signed", 0, 1),
)


@dataclass(frozen=True)
class Condition:
    """One number that tells how uneven the valley's eigenvalues are."""

    name: str
    label: str
    """Of the axis, with the unit."""
    take: Callable[[SplitRecord], float | None]
    """The number; None where there is no valley."""
    logarithmic: bool
    """Whether it is averaged and drawn as a logarithm."""
    least: float
    """Smallest value that is possible."""


_CONDITIONS = (
    Condition("kappa", "condition number $\\kappa$ of the\nvalley (largest over smallest)", lambda s: s.kappa, True, 1),
    Condition("kappa_q", "$\\kappa_q$ of the valley (90 %\nover 10 % quantile)", lambda s: s.kappa_q, True, 1),
    Condition("spread", "spread of the valley (standard\ndeviation of log eigenvalue, nats)", lambda s: s.spread, False, 0),
)


def colours_of(arms: Arms) -> dict[str, str]:
    """Arm -> colour, the same in all figures of one study."""
    return {arm: colour_of(arm, number) for number, arm in enumerate(arms)}


def steps_of(arms: Arms) -> list[int]:
    """The steps of every point that has a split."""
    return [point.step for runs in arms.values() for run in runs for point in run.points if point.split is not None]


def _rows_of(arms: Arms) -> list[tuple[str, Arms]]:
    """Title and runs of the rows of a figure: the split of the records, and the split at the baseline where spectra are there."""
    rows = [("epsilon by the rule of the run", arms), ("epsilon: a thousandth of the largest size", at_baseline(arms))]
    return [(title, runs) for title, runs in rows if steps_of(runs)]


@matplotlib.rc_context(STYLE)
def split_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Number of eigenvalues in valley, river and ridge over training, as shares of all.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up, which ends the caption.
    Returns:
        None where no point has a split.
    """
    shown = [(title, panel, taken(row, panel)) for title, row in _rows_of(arms) for panel in SPLIT]
    if not shown:
        return None
    figure, panels = paved(len(shown), (6.2, 3.8), (8.4, 2.6))
    for place, (axes, (title, panel, curves)) in enumerate(zip(panels, shown, strict=True)):
        draw_over_training(axes, arms, panel, curves, steps_of(arms))
        axes.set_title(title if place % len(SPLIT) == 1 else "", fontsize=9)  # above the middle of a row
    legend_below(figure, labelled(panels))
    full_caption = (
        "Shares of the eigenvalues that belong to valley, river and ridge, over training. Top: epsilon by the rule of the run "
        f"({_chosen_rules(arms)}); below, where the spectra are on the disk: a thousandth of the largest size. Lines: means over "
        "seeds at the checkpoints that all seeds share; bands: 95 % t-intervals, cut off where they are wide; dotted vertical "
        "lines: the first checkpoint with another number of passes. Exact spectra only. "
        f"{runs_in_words(arms)} {caption}"
    )
    last = "; ".join(
        f"{panel.label.split(':')[0]}, {title}: "
        + ", ".join(f"{arm} {curve.mean[-1]:.3g} at update {curve.x[-1]:g}" for arm, (curve, _) in curves.items())
        for title, panel, curves in shown
    )
    alt = f"Shares of valley, river and ridge over updates, one line an arm. Last means: {last}."
    return drawn(figure, "split", "How large are valley and river?", full_caption, alt)


def _rule_name(rule: str) -> str:
    """The name of a rule in figures; a rule that is not known by its own name."""
    return RULES[rule][1] if rule in RULES else rule


def _chosen_rules(arms: Arms) -> str:
    """How often each rule gave epsilon, as text."""
    rules = [point.split.rule for runs in arms.values() for run in runs for point in run.points if point.split is not None]
    return ", ".join(f"{_rule_name(rule)} at {rules.count(rule)} of {len(rules)} points" for rule in sorted(set(rules)))


@matplotlib.rc_context(STYLE)
def threshold_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Share of the valley and its condition number against the threshold, at the last exact spectrum of each run.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up, which ends the caption.
    Returns:
        None where no run has left an exact spectrum.
    """
    last: dict[str, list[Exact]] = {}
    for arm, runs in arms.items():
        spectra = [spectrum for run in runs if (spectrum := next(exact_spectra(run), None))]
        if spectra:
            last[arm] = spectra
    if not last:
        return None
    every = [spectrum for spectra in last.values() for spectrum in spectra]
    # From the smallest epsilon of any rule to the largest eigenvalue.
    low = min(min(spectrum.split.rules.values()) for spectrum in every)
    grid = np.geomspace(low, max(float(np.abs(spectrum.values).max()) for spectrum in every), _THRESHOLDS)
    figure, (left, right) = paved(2, (6.2, 3.8), (8.4, 3.7))
    for arm, spectra in last.items():
        _draw_sweep((left, right), arm, colours_of(arms)[arm], spectra, grid)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("threshold epsilon (loss per squared weight)", fontsize=8)
    most = max(len(spectrum.values) for spectrum in every)
    left.set_yscale("symlog", linthresh=1 / most, linscale=0.3)  # linear below a single eigenvalue
    left.set_ylim(0, 1)
    places = [10.0**power for power in range(math.ceil(math.log10(1.5 / most)), 1)]
    left.set_yticks([0, *places], ["0", *(f"{place:g}" for place in places)])
    left.set_yticks([], minor=True)
    left.set_ylabel("valley: share of eigenvalues above epsilon", fontsize=8)
    right.set_yscale("log")
    kappas = [float(spectrum.above([low])[1][0]) for spectrum in every]
    right.set_ylim(0.8, 2 * max((kappa for kappa in kappas if not math.isnan(kappa)), default=1))
    right.set_ylabel("condition number of the valley\n(largest over smallest eigenvalue above epsilon)", fontsize=8)
    legend_below(figure, labelled([left]))
    rules = [rule for rule in RULES if any(rule in spectrum.split.rules for spectrum in every)]
    marks = [Line2D([], [], color="#555555", linestyle="", marker=RULES[rule][0], markersize=4.5) for rule in rules]
    right.legend(marks, [RULES[rule][1] for rule in rules], fontsize=7, title="epsilon by", title_fontsize=7)
    full_caption = (
        "Share of the valley, and its condition number, at the last exact checkpoint for every threshold epsilon, from the machine "
        "floor to the largest eigenvalue. Lines: means over seeds (of logarithms for the condition number, where all seeds have a "
        "valley); bands: 95 % t-intervals; markers: the epsilon that each rule gave, one for each seed. Flat stretches are gaps of "
        f"the spectrum. {runs_in_words(arms)} {caption}"
    )
    alt = f"Two panels over the threshold, one line an arm. {'; '.join(_rules_in_words(arm, last[arm]) for arm in last)}."
    return drawn(figure, "threshold", "What would another threshold say?", full_caption, alt)


def _rules_in_words(arm: str, spectra: list[Exact]) -> str:
    """Valley and condition number at the epsilon of each rule, of the first seed, as text."""
    steps = ", ".join(map(str, sorted({spectrum.step for spectrum in spectra})))
    valleys = []
    for rule, epsilon in spectra[0].split.rules.items():
        share, kappa = (float(number[0]) for number in spectra[0].above([epsilon]))
        valley = "no valley" if math.isnan(kappa) else f"{100 * share:.3g} % above, condition number {kappa:.3g}"
        valleys.append(f"{_rule_name(rule)} {epsilon:.3g}: {valley}")
    return f"{arm} at update {steps}, first seed: {', '.join(valleys)}"


def _draw_sweep(panels: tuple[Axes, Axes], arm: str, colour: str, spectra: list[Exact], grid: np.ndarray) -> None:
    """Draw share and condition number of one arm over the thresholds ``grid`` ``(T,)``, and the epsilon of each rule."""
    sweeps = [spectrum.above(grid) for spectrum in spectra]
    shares = seed_means([dict(enumerate(share.tolist())) for share, _ in sweeps])
    kappas = seed_means(
        [{place: k for place, k in enumerate(kappa.tolist()) if not math.isnan(k)} for _, kappa in sweeps], logarithmic=True
    )
    for axes, curve, least in zip(panels, (shares, kappas), (0, 1), strict=True):
        low = np.maximum(curve.low, least)
        over_grid = Band(grid[curve.x.astype(int)], curve.mean, low, curve.high)
        draw_mean_and_band(axes, over_grid, 0.12, color=colour, label=plain(arm), linewidth=1.3, dashes=dashes_of(arm))
    for rule, (marker, _) in RULES.items():
        given = [(spectrum.split.rules[rule], spectrum) for spectrum in spectra if rule in spectrum.split.rules]
        numbers = [(epsilon, *(float(value[0]) for value in spectrum.above([epsilon]))) for epsilon, spectrum in given]
        mark: dict[str, Any] = {"linestyle": "none", "marker": marker, "markersize": 4.5, "color": colour, "alpha": 0.7}
        for axes, column in zip(panels, (1, 2), strict=True):
            x, y = [row[0] for row in numbers], [row[column] for row in numbers]
            axes.plot(x, y, markeredgecolor="white", markeredgewidth=0.4, zorder=4, **mark)


@matplotlib.rc_context(STYLE)
def condition_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Condition number of the valley, the same by quantiles, and the spread of the valley, over training.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up, which ends the caption.
    Returns:
        None where no point has a valley.
    """
    if not any(p.split and p.split.kappa is not None for runs in arms.values() for run in runs for p in run.points):
        return None
    shown = [(title, row, condition) for title, row in _rows_of(arms) for condition in _CONDITIONS]
    figure, panels = paved(len(shown), (6.2, 3.8), (8.4, 2.7))
    last = []
    for place, (axes, (title, row, condition)) in enumerate(zip(panels, shown, strict=True)):
        means = _draw_condition(axes, row, condition)
        axes.set_title(title if place % len(_CONDITIONS) == 1 else "", fontsize=9)  # above the middle of a row
        training_axis(axes, steps_of(arms))
        mark_passes(axes, arms)
        last.append(f"{condition.name}, {title}: {means or 'no common checkpoint'}")
    legend_below(figure, labelled(panels))
    full_caption = (
        "Condition number of the valley, the same by quantiles, and spread of its log eigenvalues, over training. A condition "
        "number is 1, and a spread 0, where all directions are equally steep or there is only one; without a valley there is no "
        "point. Top: epsilon by the rule of the run; below, where the spectra are on the disk: a thousandth of the largest size. "
        "Points: seeds; lines: means over seeds (of logarithms for the condition numbers) where all of them have a valley; bands: "
        "95 % t-intervals, cut off outside of the points; dotted vertical lines: the first checkpoint with another number of "
        f"passes. Quantiles are used where the valley has at least {FOR_QUANTILES} directions, else largest and smallest. "
        f"{runs_in_words(arms)} {caption}"
    )
    alt = f"Panels over updates, one line an arm. Last means: {'; '.join(last)}."
    return drawn(figure, "condition-numbers", "How uneven is the valley?", full_caption, alt)


def _draw_condition(axes: Axes, arms: Arms, condition: Condition) -> str:
    """Draw one number of the valley: points of the seeds, their means and bands; returns the last means as text."""
    last, values = [], [condition.least]
    for number, (arm, runs) in enumerate(arms.items()):
        seeds = [{p.step: v for p in run.points if p.split and (v := condition.take(p.split)) is not None} for run in runs]
        pairs = [pair for seed in seeds for pair in seed.items()]
        if not pairs:
            continue
        style: dict[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 2.5, "alpha": 0.4, "markeredgewidth": 0}
        x, y = [step for step, _ in pairs], [value for _, value in pairs]
        axes.plot(x, y, color=colour_of(arm, number), rasterized=True, **style)
        values += y
        curve = seed_means(seeds, condition.logarithmic)
        draw_curve(axes, arm, number, curve)
        last += [f"{arm} {curve.mean[-1]:.3g} at update {curve.x[-1]:g}"] if len(curve.x) else []
    # The axis holds every point, with a margin on its own scale.
    to, back = (math.log, math.exp) if condition.logarithmic else (float, float)
    low, high = to(condition.least), to(max(values))
    margin = 0.05 * ((high - low) or 1.0)
    axes.set_ylim(back(low - margin), back(high + margin))
    if condition.logarithmic:
        axes.set_yscale("log")
        readable(axes)
    axes.set_ylabel(condition.label, fontsize=8)
    return ", ".join(last)


def mark_rules(axes: Axes, counts: dict[str, int], top: bool) -> None:
    """Draw a line at the rank where the valley would end by each rule, with the rule's name at the top or at the bottom."""
    for rule, count in counts.items():
        if count:
            axes.axvline(count, color="black", linewidth=0.9, dashes=(1, 2))
            text: dict[str, Any] = {"textcoords": "offset points", "rotation": 90, "ha": "right", "fontsize": 7}
            text |= {"xytext": (-2, -3), "va": "top"} if top else {"xytext": (-2, 3), "va": "bottom"}
            axes.annotate(RULES[rule][1], (count, 1 if top else 0), xycoords=("data", "axes fraction"), **text)
