"""River and valley of a study: the split over training, what other thresholds would have said, and the condition numbers.

Shape letters: P eigenvalues, S seeds, T thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from thalweg.records.landscape import LandscapeRecord, Measure, SplitRecord
from thalweg.report.curves import Band
from thalweg.report.figures import DASHES, STYLE, Drawn, drawn
from thalweg.report.landscape.curves import (
    Arms,
    Panel,
    colour_of,
    draw_curve,
    mark_passes,
    over_seeds,
    readable,
    runs_in_words,
    scale_axis,
    taken,
    training_axis,
)
from thalweg.report.landscape.ridges import FOR_QUANTILES, RULES, Exact, at_baseline, exact_spectra
from thalweg.report.landscape.slices import below, paved, plain

_THRESHOLDS = 160
"""Places of the sweep, evenly in the logarithm."""


def _share_of(part: str) -> Callable[[LandscapeRecord], Measure | None]:
    """Dimension of the "valley", "river" or "ridge" as a share of all, where there is a split."""
    return lambda p: Measure(getattr(p.split, part) / p.dim) if p.split is not None else None


SPLIT = (
    Panel("valley: eigenvalues above\nepsilon (share of all)", _share_of("valley"), "signed", 0, 1),
    Panel("river: within epsilon\nof zero (share of all)", _share_of("river"), "linear", 0, 1),
    Panel("ridge: below minus\nepsilon (share of all)", _share_of("ridge"), "signed", 0, 1),
)


@dataclass(frozen=True)
class Condition:
    """One number of a valley."""

    name: str
    label: str
    take: Callable[[SplitRecord], float | None]
    logarithmic: bool
    """Whether it is averaged and drawn as a logarithm."""
    least: float
    """No value is smaller."""


_CONDITIONS = (
    Condition("kappa", "condition number $\\kappa$ of the\nvalley (largest over smallest)", lambda s: s.kappa, True, 1),
    Condition("kappa_q", "$\\kappa_q$ of the valley (90 %\nover 10 % quantile)", lambda s: s.kappa_q, True, 1),
    Condition("spread", "spread of the valley (standard\ndeviation of log eigenvalue, nats)", lambda s: s.spread, False, 0),
)


def colours_of(arms: Arms) -> dict[str, str]:
    """By arm, the same in all figures of one study."""
    return {arm: colour_of(arm, number) for number, arm in enumerate(arms)}


def steps_of(arms: Arms) -> list[int]:
    """Of every point that has a split."""
    return [point.step for runs in arms.values() for run in runs for point in run.points if point.split is not None]


def _rows_of(arms: Arms) -> list[tuple[str, Arms]]:
    """What the two rows of a figure show: the split of the records, and the one at the baseline as far as there are spectra."""
    rows = [("epsilon by the rule of the run", arms), ("epsilon: a thousandth of the largest size", at_baseline(arms))]
    return [(title, found) for title, found in rows if steps_of(found)]


@matplotlib.rc_context(STYLE)
def split_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Dimension of valley, river and ridge over training, as shares of all.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up in words, the end of the caption.
    Returns:
        None where no point has a split.
    """
    curves = [(title, panel, taken(of, panel)) for title, of in _rows_of(arms) for panel in SPLIT]
    if not curves:
        return None
    figure, panels = paved(len(curves), (6.2, 3.8), (8.4, 2.6))
    for place, (axes, (title, panel, found)) in enumerate(zip(panels, curves, strict=True)):
        for arm, (curve, error) in found.items():
            draw_curve(axes, arm, list(arms).index(arm), curve, error)
        scale_axis(axes, panel, list(found.values()))
        axes.set_ylabel(panel.label, fontsize=8)
        axes.set_title(title if place % len(SPLIT) == 1 else "", fontsize=9)
        training_axis(axes, steps_of(arms))
        mark_passes(axes, arms)
    below(figure, panels)
    words = (
        "The spectrum split at epsilon: how many of the eigenvalues belong to valley, river and ridge, as shares of all. Top: "
        f"epsilon by the rule of the run ({_chosen_rules(arms)}); below, where the spectra are on the disk: a thousandth of the "
        "largest size. Lines: means over seeds at the checkpoints that all seeds share; bands: 95 % t-intervals, cut off where "
        "they are wide; dotted verticals: the first checkpoint with another number of passes. Exact spectra only. "
        f"{runs_in_words(arms)} {caption}"
    )
    told = "; ".join(
        f"{panel.label.split(':')[0]}, {title}: "
        + ", ".join(f"{arm} {curve.mean[-1]:.3g} at update {curve.x[-1]:g}" for arm, (curve, _) in found.items())
        for title, panel, found in curves
    )
    alt = f"Shares of valley, river and ridge over updates, one line an arm. Last means: {told}."
    return drawn(figure, "split", "How large are valley and river?", words, alt)


def _chosen_rules(arms: Arms) -> str:
    """How often each rule gave epsilon."""
    rules = [point.split.rule for runs in arms.values() for run in runs for point in run.points if point.split is not None]
    counts = {rule: rules.count(rule) for rule in sorted(set(rules))}
    return ", ".join(
        f"{RULES[rule][1] if rule in RULES else rule} at {count} of {len(rules)} points" for rule, count in counts.items()
    )


@matplotlib.rc_context(STYLE)
def threshold_drawn(arms: Arms, caption: str) -> Drawn | None:
    """What every threshold would have said of the last spectra: share of the valley, and its condition number.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up in words, the end of the caption.
    Returns:
        None where no run has left an exact spectrum.
    """
    last = {arm: found for arm, runs in arms.items() if (found := [one for run in runs if (one := next(exact_spectra(run), None))])}
    if not last:
        return None
    every = [one for found in last.values() for one in found]
    low = min(min(one.split.rules.values()) for one in every)
    grid = np.geomspace(low, max(float(np.abs(one.values).max()) for one in every), _THRESHOLDS)
    figure, (left, right) = paved(2, (6.2, 3.8), (8.4, 3.7))
    for arm, found in last.items():
        _draw_sweep((left, right), arm, colours_of(arms)[arm], found, grid)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("threshold epsilon (loss per squared weight)", fontsize=8)
    most = max(len(one.values) for one in every)
    left.set_yscale("symlog", linthresh=1 / most, linscale=0.3)
    left.set_ylim(0, 1)
    places = [10.0**power for power in range(math.ceil(math.log10(1.5 / most)), 1)]
    left.set_yticks([0, *places], ["0", *(f"{place:g}" for place in places)])
    left.set_yticks([], minor=True)
    left.set_ylabel("valley: share of eigenvalues above epsilon", fontsize=8)
    right.set_yscale("log")
    right.set_ylim(0.8, 2 * max((float(k) for one in every if not math.isnan(k := one.above([low])[1][0])), default=1))
    right.set_ylabel("condition number of the valley\n(largest over smallest eigenvalue above epsilon)", fontsize=8)
    rules = [rule for rule in RULES if any(rule in one.split.rules for one in every)]
    below(figure, [left])
    marks = [Line2D([], [], color="#555555", linestyle="", marker=RULES[rule][0], markersize=4.5) for rule in rules]
    right.legend(marks, [RULES[rule][1] for rule in rules], fontsize=7, title="epsilon by", title_fontsize=7)
    steps = {arm: sorted({one.step for one in found}) for arm, found in last.items()}
    words = (
        "Valley and condition number at the last exact checkpoint for every threshold epsilon, from the machine floor to the "
        "largest eigenvalue. Lines: means over seeds (of logarithms for the condition number, where all seeds have a valley); "
        "bands: 95 % t-intervals; markers: the epsilon that each rule gave, one a seed. Flat stretches are gaps of the spectrum. "
        f"{runs_in_words(arms)} {caption}"
    )
    alt = (
        f"Two panels over the threshold, one line an arm. {'; '.join(_rules_in_words(arm, last[arm], steps[arm]) for arm in last)}."
    )
    return drawn(figure, "threshold", "What would another threshold say?", words, alt)


def _rules_in_words(arm: str, found: list[Exact], steps: list[int]) -> str:
    """Valley and condition number at the epsilon of each rule, of the first seed."""
    one = found[0]
    told = []
    for rule, epsilon in one.split.rules.items():
        share, kappa = (float(number[0]) for number in one.above([epsilon]))
        words = "no valley" if math.isnan(kappa) else f"{100 * share:.3g} % above, condition number {kappa:.3g}"
        told.append(f"{RULES[rule][1] if rule in RULES else rule} {epsilon:.3g}: {words}")
    return f"{arm} at update {', '.join(map(str, steps))}, first seed: {', '.join(told)}"


def _draw_sweep(panels: tuple[Axes, Axes], arm: str, colour: str, found: list[Exact], grid: np.ndarray) -> None:
    """Mean, band, and the thresholds of the rules, of one arm."""
    sweeps = [one.above(grid) for one in found]
    shares = [{place: Measure(float(share)) for place, share in enumerate(sweep[0])} for sweep in sweeps]
    kappas = [{place: Measure(math.log(k)) for place, k in enumerate(sweep[1]) if not math.isnan(k)} for sweep in sweeps]
    curves = (over_seeds(shares)[0], exponential(over_seeds(kappas)[0]))
    for axes, curve, least in zip(panels, curves, (0, 1), strict=True):
        x = grid[curve.x.astype(int)]
        (line,) = axes.plot(x, curve.mean, color=colour, label=plain(arm), linewidth=1.3)
        line.set_dashes(DASHES.get(arm, (None, None)))
        axes.fill_between(x, np.maximum(curve.low, least), curve.high, color=colour, alpha=0.12, linewidth=0)
    for rule, (marker, _) in RULES.items():
        given = [(one.split.rules[rule], one) for one in found if rule in one.split.rules]
        numbers = [(epsilon, *(float(value[0]) for value in one.above([epsilon]))) for epsilon, one in given]
        mark = {"linestyle": "none", "marker": marker, "markersize": 4.5, "color": colour, "alpha": 0.7, "markeredgecolor": "white"}
        for axes, column in zip(panels, (1, 2), strict=True):
            axes.plot([row[0] for row in numbers], [row[column] for row in numbers], markeredgewidth=0.4, zorder=4, **mark)


def exponential(curve: Band) -> Band:
    """A curve of logarithms, back."""
    return Band(curve.x, np.exp(curve.mean), np.exp(curve.low), np.exp(curve.high))


@matplotlib.rc_context(STYLE)
def condition_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Condition number, the same by quantiles, and the spread of the valley over training.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up in words, the end of the caption.
    Returns:
        None where no point has a valley.
    """
    if not any(p.split and p.split.kappa is not None for runs in arms.values() for run in runs for p in run.points):
        return None
    shown = [(title, of, condition) for title, of in _rows_of(arms) for condition in _CONDITIONS]
    figure, panels = paved(len(shown), (6.2, 3.8), (8.4, 2.7))
    told = []
    for place, (axes, (title, of, condition)) in enumerate(zip(panels, shown, strict=True)):
        last = _draw_condition(axes, of, condition)
        axes.set_title(title if place % len(_CONDITIONS) == 1 else "", fontsize=9)
        training_axis(axes, steps_of(arms))
        mark_passes(axes, arms)
        told.append(f"{condition.name}, {title}: {last or 'no common checkpoint'}")
    below(figure, panels)
    words = (
        "How uneven the valley's directions are; 1 (spread 0) where all are equally steep or there is only one, no point where "
        "there is none. Top: epsilon by the rule of the run; below, where the spectra are on the disk: a thousandth of the largest "
        "size. Points: seeds; lines: means over seeds (of logarithms for the first two) where all of them have a valley; bands: "
        "95 % t-intervals, cut off outside of the points; dotted verticals: the first checkpoint with another number of passes. "
        f"Quantiles where the valley has at least {FOR_QUANTILES} directions, else as the first. {runs_in_words(arms)} {caption}"
    )
    alt = f"Panels over updates, one line an arm. Last means: {'; '.join(told)}."
    return drawn(figure, "condition-numbers", "How uneven is the valley?", words, alt)


def _draw_condition(axes: Axes, arms: Arms, condition: Condition) -> str:
    """Points of the seeds, their means and bands; the last means in words."""
    to = math.log if condition.logarithmic else float
    told, every = [], [condition.least]
    for number, (arm, runs) in enumerate(arms.items()):
        found = [{p.step: v for p in run.points if p.split and (v := condition.take(p.split)) is not None} for run in runs]
        pairs = [pair for seed in found for pair in seed.items()]
        if not pairs:
            continue
        style = {"linestyle": "none", "marker": ".", "markersize": 2.5, "alpha": 0.4, "markeredgewidth": 0, "rasterized": True}
        axes.plot([step for step, _ in pairs], [value for _, value in pairs], color=colour_of(arm, number), **style)
        every += [value for _, value in pairs]
        curve, _ = over_seeds([{step: Measure(to(value)) for step, value in seed.items()} for seed in found])
        curve = exponential(curve) if condition.logarithmic else curve
        draw_curve(axes, arm, number, curve, np.zeros(len(curve.x)))
        told += [f"{arm} {curve.mean[-1]:.3g} at update {curve.x[-1]:g}"] if len(curve.x) else []
    low, high = to(condition.least), to(max(every))
    margin = 0.05 * ((high - low) or 1.0)
    back = math.exp if condition.logarithmic else float
    axes.set_ylim(back(low - margin), back(high + margin))
    if condition.logarithmic:
        axes.set_yscale("log")
        readable(axes)
    axes.set_ylabel(condition.label, fontsize=8)
    return ", ".join(told)


def mark_rules(axes: Axes, counts: dict[str, int], top: bool) -> None:
    """Where the valley would end by each rule, named at the top or at the bottom."""
    for rule, count in counts.items():
        if count:
            axes.axvline(count, color="black", linewidth=0.9, dashes=(1, 2))
            words = {"xytext": (-2, -3 if top else 3), "textcoords": "offset points", "rotation": 90, "ha": "right", "fontsize": 7}
            place = (count, 1 if top else 0)
            axes.annotate(RULES[rule][1], place, xycoords=("data", "axes fraction"), va="top" if top else "bottom", **words)
