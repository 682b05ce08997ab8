"""How weights move in the landscapes of a study: the force on the river, hopping, and the spectra of two arms rank by rank.

River and valley are subspaces of the weights: directions of small curvature, and directions of curvature above epsilon.

Shape letters: S seeds, I ranks of eigenvalues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from thalweg.records.landscape import ReplayRecord, TheoremsRecord
from thalweg.report.figures import Drawn, drawn
from thalweg.report.landscape.curves import Arms, readable, runs_in_words, seed_means
from thalweg.report.landscape.ridges import PAIR, order_of, ridges_drawn
from thalweg.report.landscape.valley import colours_of, condition_drawn, mark_rules, split_drawn, threshold_drawn
from thalweg.report.panels import COLOURS, STYLE, dashes_of, labelled, legend_below, paved, plain

_MARKERS = "osD^vP*X"
"""One for each checkpoint."""
_ASIDE = 0.012
"""Distance between the points of two arms, as a share of the run, so that they do not hide each other."""
_GREY = "#555555"
"""Colour of markers in legends."""
_FORCES: tuple[tuple[str, str, Callable[[TheoremsRecord], float]], ...] = (
    ("_", "paper's upper bound", lambda t: t.upper_paper),
    ("v", "our upper bound", lambda t: t.upper_best),
    (".", "closed form", lambda t: t.force_predicted),
    ("^", "our lower bound", lambda t: t.lower_best),
)
"""Marker, name, and number of theorem 1."""


@dataclass(frozen=True)
class Number:
    """One number of a replayed window, and how its axis is drawn."""

    label: str
    """Of the axis, with the unit."""
    take: Callable[[ReplayRecord], float | None]
    """The number; None where it is not defined."""
    scale: str
    """"linear", "log", or "signed" for an axis that is logarithmic on both sides of zero."""
    line: float | None = None
    """Threshold of a condition of `thalweg.landscape.hopping`."""


_WINDOW = (
    Number("largest share of sign flips\nof a valley direction", lambda r: max(r.flips, default=None), "linear"),
    Number("tortuosity of the valley part\n(path over displacement)", lambda r: r.tortuosity_valley, "log", 2.0),
    Number("tortuosity of the river part\n(path over displacement)", lambda r: r.tortuosity_river, "log", 1.5),
    Number("hop ratio (valley path\nover river displacement)", lambda r: r.hop_ratio, "log"),
    Number("edge ratio (sharpness\nover its stable limit)", lambda r: r.edge, "log", 1.0),
    Number("cubic drift (squared loss\nper weight to the fourth)", lambda r: r.cubic_drift, "signed", 0.0),
)
_DECISIONS: tuple[tuple[str, str, Callable[[ReplayRecord], bool]], ...] = (
    ("hops", "hopping", lambda r: r.hops),
    ("river flows", "river", lambda r: r.flows),
    ("trapped", "trapped", lambda r: r.trapped),
)
"""Heading, name in the record, and decision."""
Windows = dict[str, list[tuple[ReplayRecord, ...]]]
"""Arm -> the replayed windows of each seed."""
Descents = dict[str, list[TheoremsRecord]]
"""Arm -> the descents of all seeds that were compared with the theorems."""


@matplotlib.rc_context(STYLE)
def forces_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Force on the river by theorem 1, and fall of the loss by the loss identity, against those of gradient descent.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up, which ends the caption.
    Returns:
        None where the theorems were compared with no run.
    """
    descents: Descents = {}
    for arm, runs in arms.items():
        records = [record for run in runs for record in run.theorems]
        if records:
            descents[arm] = records
    if not descents:
        return None
    colours = colours_of(arms)
    figure = Figure(figsize=(8.4, 6.6), dpi=160, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.15, 1))
    left, right, wide = (figure.add_subplot(place) for place in (grid[0, 0], grid[0, 1], grid[1, :]))
    steps = sorted({record.step for records in descents.values() for record in records})
    pairs: tuple[tuple[Axes, str, Callable[[TheoremsRecord], tuple[float, float]]], ...] = (
        (left, "force on the river (weights)", lambda t: (t.force_measured, t.force_predicted)),
        (right, "fall of the loss (nats)", lambda t: (t.decrease, t.decrease_predicted)),
    )
    for axes, label, take in pairs:
        for arm, records in descents.items():
            for record in records:
                marker = _MARKERS[steps.index(record.step) % len(_MARKERS)]
                axes.plot(*([end] for end in take(record)), marker, color=colours[arm], alpha=0.75, markersize=4.5)
        square(axes, [take(record) for records in descents.values() for record in records])
        axes.set_xlabel(f"{label}, measured", fontsize=8)
        axes.set_ylabel(f"{label}, predicted", fontsize=8)
    _draw_bounds(wide, descents, steps, colours)
    _force_legends(figure, right, steps, {arm: colours[arm] for arm in descents})
    start, alt = _force_caption(descents)
    return drawn(figure, "forces", "Do the theorems predict the forces?", f"{start} {runs_in_words(arms)} {caption}", alt)


def square(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Give both axes the same scale, logarithmic where all numbers are positive, and draw the line of equal numbers.

    Args:
        axes: whose axes are scaled.
        points: pairs of measured and predicted numbers.
    """
    low, high = min(map(min, points)), max(map(max, points))
    room = 0.05 * ((high - low) or 1.0)
    limits = (low / 1.5, high * 1.5) if low > 0 else (low - room, high + room)
    axes.plot(limits, limits, color="black", linewidth=0.8, dashes=(4, 2), zorder=1)
    axes.set(xscale="log" if low > 0 else "linear", yscale="log" if low > 0 else "linear", xlim=limits, ylim=limits)
    readable(axes)
    # Numbers along the horizontal axis need more room: leave out those with a neighbour closer than a factor of 1.3.
    ticks = dict(zip(map(float, axes.get_yticks()), [label.get_text() for label in axes.get_yticklabels()], strict=True))
    apart = [place for place in ticks if not any(place < other < 1.3 * place for other in ticks)]
    axes.set_xticks(apart, [ticks[place] for place in apart])
    axes.set_xticks([], minor=True)


def _draw_bounds(axes: Axes, descents: Descents, steps: Sequence[int], colours: dict[str, str]) -> None:
    """Draw bounds and closed form over the measured force: one column for each arm and checkpoint, seeds side by side."""
    columns = [(arm, step) for arm, records in descents.items() for step in steps if any(r.step == step for r in records)]
    for place, (arm, step) in enumerate(columns):
        records = [r for r in descents[arm] if r.step == step and r.force_measured > 0]
        offsets = np.linspace(-0.28, 0.28, len(records)) if len(records) > 1 else [0.0]
        for offset, record in zip(offsets, records, strict=False):
            ratios = [take(record) / record.force_measured for _, _, take in _FORCES]
            kept = {marker: ratio for (marker, _, _), ratio in zip(_FORCES, ratios, strict=True) if ratio > 0}
            axes.plot([place + offset] * len(kept), list(kept.values()), color=colours[arm], linewidth=0.8, alpha=0.5)
            for marker, ratio in kept.items():
                axes.plot([place + offset], [ratio], marker, color=colours[arm], markersize=5 if marker == "." else 3.5)
    axes.axhline(1, color="black", linewidth=0.8, dashes=(4, 2))
    axes.set_yscale("log")
    readable(axes)
    axes.set_xticks(range(len(columns)), [f"{step}" for _, step in columns], fontsize=7)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_xlabel("updates before the descent, by arm", fontsize=8)
    axes.set_ylabel("bounds and closed form\nover the measured force", fontsize=8)
    marks = [_mark(marker, name) for marker, name, _ in _FORCES]
    axes.legend(handles=marks, fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _mark(marker: str, label: str, colour: str = _GREY, size: float = 5) -> Line2D:
    """A marker in a legend."""
    return Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=size, label=label)


def _force_legends(figure: Figure, axes: Axes, steps: Sequence[int], colours: dict[str, str]) -> None:
    """Draw the legend of the arms below the figure, and that of the checkpoints in the panel."""
    legend_below(figure, [_mark("o", plain(arm), colour) for arm, colour in colours.items()])
    marks = [_mark(_MARKERS[place % len(_MARKERS)], f"{step}", size=4.5) for place, step in enumerate(steps)]
    axes.legend(handles=marks, fontsize=7, title="updates", title_fontsize=7, ncols=1 + (len(steps) > 5))


def _force_caption(descents: Descents) -> tuple[str, str]:
    """The caption, without the runs, and the alt text of the figure of forces."""
    settings = sorted({(record.rate, record.steps) for records in descents.values() for record in records})
    caption = (
        "Predicted against measured force on the river and fall of the loss, in "
        f"{' or '.join(f'{steps} steps of rate {rate:g}' for rate, steps in settings)} of full-batch gradient descent from "
        "checkpoints of the run. River and valley are those of the checkpoint before. Points: seeds; dashed: equal. The force is "
        "the norm of the river's displacement that the valley's relaxation causes (theorem 1); the fall of the loss is predicted "
        "by the loss identity. Below: the closed form and its bounds over the measured force. They hold for the quadratic model, "
        "not for the network; lower bounds of 0 are left out."
    )
    medians = []
    for arm, records in descents.items():
        ratios = [
            (r.force_predicted / r.force_measured, r.upper_paper / r.force_measured, r.decrease_predicted / r.decrease)
            for r in records
            if r.force_measured > 0 and r.decrease
        ]
        force, bound, fall = [f"{median:.3g}" for median in np.median(ratios, axis=0)] if ratios else ["none"] * 3
        medians.append(f"{arm}: force {force}, paper's bound {bound}, fall of the loss {fall}")
    return caption, f"Predicted over measured, medians over seeds and checkpoints. {'; '.join(medians)}."


@matplotlib.rc_context(STYLE)
def hopping_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Numbers of replayed windows of real training, such as sign flips and tortuosity, and the decisions that follow from them.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up, which ends the caption.
    Returns:
        None where no window was replayed.
    """
    windows = {arm: [run.replays for run in runs] for arm, runs in arms.items() if any(run.replays for run in runs)}
    every = [record for seeds in windows.values() for seed in seeds for record in seed]
    if not every:
        return None
    figure, panels = paved(len(_WINDOW) + len(_DECISIONS), (6.2, 3.8), (8.4, 2.3))
    for axes, number in zip(panels, _WINDOW, strict=False):
        _draw_windows(axes, windows, number, colours_of(arms))
        axes.set_ylabel(number.label, fontsize=8)
    for level in sorted({record.flips_threshold for record in every}):
        panels[0].axhline(level, color="black", linewidth=0.8, dashes=(4, 2))
    for axes, (decision, name, take) in zip(panels[len(_WINDOW) :], _DECISIONS, strict=True):
        _draw_decisions(axes, windows, name, take, colours_of(arms))
        axes.tick_params(axis="y", length=0, labelleft=name == _DECISIONS[0][1])
        axes.set_title(decision, fontsize=9)
    for axes in panels:
        axes.set_xlim(0, 1.06 * max(*(record.step for record in every), 1))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("updates", fontsize=8)
    legend_below(figure, labelled(panels[:1]))
    full_caption = (
        "Sign flips, tortuosity, hop ratio, edge ratio and cubic drift of replayed training, over training. "
        f"Windows of {' or '.join(map(str, sorted({r.window for r in every})))} updates were replayed with their optimizer, and "
        "are drawn at the update where each begins; arms are drawn side by side. Points: seeds; lines: means over seeds (of "
        "logarithms on logarithmic axes). Dashed: thresholds of the conditions: sign flips above their threshold; tortuosity of "
        "the valley from 2, of the river up to 1.5; edge ratio 1, the edge of stability; cubic drift above 0, where the river "
        "sharpens. Bottom: the decision on each window, one row for each seed: filled where it holds, half where it is undecided. "
        f"{runs_in_words(arms)} {caption}"
    )
    counts = []
    for arm, seeds in windows.items():
        records = [record for seed in seeds for record in seed]
        decided = ", ".join(f"{sum(map(take, records))} {decision}" for decision, _, take in _DECISIONS)
        counts.append(f"{arm}: of {len(records)} {decided}")
    alt = (
        "Panels over updates with a point for each seed and replayed window; at the bottom a mark where a window hops, "
        f"flows or is trapped. {'; '.join(counts)}."
    )
    return drawn(figure, "hopping", "Does training hop across the valley?", full_caption, alt)


def _draw_windows(axes: Axes, windows: Windows, number: Number, colours: dict[str, str]) -> None:
    """Draw one number of the windows: a point for each seed and their means, the arms side by side."""
    numbers = {
        arm: [{record.step: y for record in seed if (y := number.take(record)) is not None} for seed in seeds]
        for arm, seeds in windows.items()
    }
    values = [value for seeds in numbers.values() for seed in seeds for value in seed.values()]
    last = max((step for seeds in numbers.values() for seed in seeds for step in seed), default=0)
    logarithmic = number.scale == "log" and min(values, default=0) > 0
    for place, (arm, seeds) in enumerate(numbers.items()):
        aside = _ASIDE * last * (place - (len(numbers) - 1) / 2)
        pairs = [(step + aside, value) for seed in seeds for step, value in seed.items()]
        point: dict[str, Any] = {"color": colours[arm], "markersize": 3, "alpha": 0.6, "markeredgewidth": 0}
        axes.plot([x for x, _ in pairs], [y for _, y in pairs], "o", **point)
        curve = seed_means(seeds, logarithmic)
        line: dict[str, Any] = {"color": colours[arm], "dashes": dashes_of(arm), "label": plain(arm), "linewidth": 1.2}
        axes.plot(curve.x + aside, curve.mean, marker="_", markersize=7, **line)
    if number.line is not None:
        axes.axhline(number.line, color="black", linewidth=0.8, dashes=(4, 2))
    if logarithmic:
        axes.set_yscale("log")
        readable(axes)
    elif number.scale == "signed" and any(values):
        # Linear up to a tenth of the largest power of ten, logarithmic beyond.
        axes.set_yscale("symlog", linthresh=10.0 ** (math.floor(math.log10(max(abs(value) for value in values))) - 1))
        axes.autoscale(axis="y")


def _draw_decisions(axes: Axes, windows: Windows, name: str, take: Callable[[ReplayRecord], bool], colours: dict[str, str]) -> None:
    """Draw one decision: a row for each arm with its seeds above each other. Circles are filled where it holds, half where open."""
    for row, (arm, seeds) in enumerate(windows.items()):
        offsets = np.linspace(-0.3, 0.3, len(seeds)) if len(seeds) > 1 else [0.0]
        for offset, seed in zip(offsets, seeds, strict=True):
            for style, holds, refuted in (("full", True, False), ("none", False, True), ("bottom", False, False)):
                steps = [record.step for record in seed if (take(record), record.shown_not(name)) == (holds, refuted)]
                marks = {"fillstyle": style, "markersize": 3.6, "markeredgewidth": 0.7}
                axes.plot(steps, [row + offset] * len(steps), "o", color=colours[arm], **marks)
    axes.set_yticks(range(len(windows)), [plain(arm) for arm in windows], fontsize=7)
    axes.set_ylim(len(windows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


@matplotlib.rc_context(STYLE)
def dominance_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Logarithm of the ratio of Looped's to Single's eigenvalue at each rank, which assumption 1 says is below 0.

    Args:
        arms: the runs of each arm, one a seed; seeds are paired by the names of their folders.
        caption: the set-up, which ends the caption.
    Returns:
        None where no seed has exact spectra of both arms at the same step, above the machine floor and of the same size.
    """
    order = order_of(arms)
    if order is None:
        return None
    curve = seed_means([dict(enumerate(row.tolist(), 1)) for row in order.logs])
    figure, (axes,) = paved(1, (7.4, 3.8), (7.4, 3.8))
    axes.fill_between(curve.x, curve.low, curve.high, color="black", alpha=0.14, linewidth=0, label="95 % t-interval")
    axes.plot(curve.x, curve.mean, color="black", linewidth=1.2, label="mean over seeds")
    # Colour the ranks whose interval excludes 0; a single seed has no interval.
    several = len(order.logs) > 1
    sides = {"smaller": (several & (curve.high < 0), "#009E73"), "larger": (several & (curve.low > 0), COLOURS[PAIR[1]])}
    for side, (ranks, colour) in sides.items():
        label = f"{PAIR[1]} {side}: interval without 0"
        axes.plot(curve.x[ranks], curve.mean[ranks], ".", color=colour, markersize=4, label=label, rasterized=True)
    axes.axhline(0, color="black", linewidth=0.7)
    axes.set_xscale("log")
    axes.set_xlabel("rank of the eigenvalue (1: the largest; to the right: the low eigenvalues of the valley)", fontsize=8)
    axes.set_ylabel(f"log of {PAIR[1]}'s over {PAIR[0]}'s\neigenvalue of this rank (nats)", fontsize=8)
    mark_rules(axes, order.counts, top=float(curve.mean[-1]) < 0)
    legend_below(figure, labelled([axes]))
    full_caption = (
        f"Logarithm of the ratio of {PAIR[1]}'s to {PAIR[0]}'s eigenvalue, rank by rank, at update {order.step}. Assumption 1 says "
        f"that {PAIR[1]}'s low eigenvalues are smaller one by one, which is below 0 here. Eigenvalues are sorted from the largest "
        "down to the last that is above the machine floor in all spectra; "
        f"{len(order.logs)} seeds, paired. Intervals are of single ranks, not corrected for their number. Dotted: the last rank "
        f"that is above the epsilon of a rule in every spectrum. {caption}"
    )
    counts = ", ".join(f"{side} at {ranks.sum()}" for side, (ranks, _) in sides.items())
    ends = f"mean log ratio {curve.mean[0]:.3g} at the largest, {curve.mean[-1]:.3g} at the lowest"
    alt = f"Eigenvalues of {PAIR[1]} at update {order.step}, by intervals without 0: {counts} of {len(curve.x)} ranks; {ends}."
    return drawn(figure, "dominance", "Which eigenvalues are smaller in Looped?", full_caption, alt)


def valley_figures(arms: Arms, caption: str = "") -> list[Drawn]:
    """Draw everything about river and valley that the landscapes of a study allow, in the order of the page.

    What was replayed or compared with the theory at a single step has no curve; its numbers stand beside the claims.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up, which ends every caption.
    """
    runs = [run for group in arms.values() for run in group]
    several = {
        hopping_drawn: len({replay.step for run in runs for replay in run.replays}) > 1,
        forces_drawn: len({theorem.step for run in runs for theorem in run.theorems}) > 1,
    }
    every = (ridges_drawn, split_drawn, threshold_drawn, condition_drawn, dominance_drawn, hopping_drawn, forces_drawn)
    return [figure for draw in every if several.get(draw, True) and (figure := draw(arms, caption)) is not None]
