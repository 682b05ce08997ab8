"""What moves in the landscapes of a study: the force on the river, hopping windows, and one arm's spectrum against another's.

Shape letters: S seeds, I places of the spectra.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from thalweg.records.landscape import Measure, ReplayRecord, TheoremsRecord
from thalweg.report.figures import COLOURS, DASHES, STYLE, Drawn, drawn
from thalweg.report.landscape.curves import Arms, over_seeds, readable, runs_in_words
from thalweg.report.landscape.ridges import PAIR, order_of, ridges_drawn
from thalweg.report.landscape.slices import below, paved, plain
from thalweg.report.landscape.valley import colours_of, condition_drawn, mark_rules, split_drawn, threshold_drawn

_MARKERS = "osD^vP*X"
"""One a checkpoint."""
_ASIDE = 0.012
"""Distance of arms, as a share of the run, so that points do not hide each other."""
_FORCES: tuple[tuple[str, str, Callable[[TheoremsRecord], float]], ...] = (
    ("_", "paper's upper bound", lambda t: t.upper_paper),
    ("v", "our upper bound", lambda t: t.upper_best),
    (".", "closed form", lambda t: t.force_predicted),
    ("^", "our lower bound", lambda t: t.lower_best),
)
"""Marker, words, number of theorem 1."""


@dataclass(frozen=True)
class Number:
    """One number of a window, and how its axis is drawn."""

    label: str
    take: Callable[[ReplayRecord], float | None]
    scale: str
    line: float | None = None
    """Where a condition of `thalweg.landscape.hopping` begins."""


_WINDOW = (
    Number("largest share of sign flips\nof a valley direction", lambda r: max(r.flips, default=None), "linear"),
    Number("tortuosity of the valley part\n(path over displacement)", lambda r: r.tortuosity_valley, "log", 2.0),
    Number("tortuosity of the river part\n(path over displacement)", lambda r: r.tortuosity_river, "log", 1.5),
    Number("hop ratio (valley path\nover river displacement)", lambda r: r.hop_ratio, "log"),
    Number("edge ratio (sharpness\nover its stable limit)", lambda r: r.edge, "log", 1.0),
    Number("cubic drift (squared loss\nper weight to the fourth)", lambda r: r.cubic_drift, "signed", 0.0),
)
_DECISIONS: tuple[tuple[str, Callable[[ReplayRecord], bool]], ...] = (
    ("hops", lambda r: r.hops),
    ("river flows", lambda r: r.flows),
    ("trapped", lambda r: r.trapped),
)
Windows = dict[str, list[tuple[ReplayRecord, ...]]]  # arm -> seed by seed


@matplotlib.rc_context(STYLE)
def forces_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Theorem 1 and the loss identity beside gradient descent: force on the river and fall of the loss, predicted and measured.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up in words, the end of the caption.
    Returns:
        None where the theorems were put beside no run.
    """
    found = {arm: records for arm, runs in arms.items() if (records := [record for run in runs for record in run.theorems])}
    if not found:
        return None
    colours = colours_of(arms)
    figure = Figure(figsize=(8.4, 6.6), dpi=160, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.15, 1))
    left, right, wide = (figure.add_subplot(place) for place in (grid[0, 0], grid[0, 1], grid[1, :]))
    steps = sorted({record.step for records in found.values() for record in records})
    pairs: tuple[tuple[Axes, str, Callable[[TheoremsRecord], tuple[float, float]]], ...] = (
        (left, "force on the river (weights)", lambda t: (t.force_measured, t.force_predicted)),
        (right, "fall of the loss (nats)", lambda t: (t.decrease, t.decrease_predicted)),
    )
    for axes, words, take in pairs:
        for arm, records in found.items():
            for record in records:
                marker = _MARKERS[steps.index(record.step) % len(_MARKERS)]
                axes.plot(*([end] for end in take(record)), marker, color=colours[arm], alpha=0.75, markersize=4.5)
        square(axes, [take(record) for records in found.values() for record in records])
        axes.set_xlabel(f"{words}, measured", fontsize=8)
        axes.set_ylabel(f"{words}, predicted", fontsize=8)
    _draw_bounds(wide, found, steps, colours)
    _force_legends(figure, right, steps, {arm: colours[arm] for arm in found})
    words, alt = _force_words(found)
    return drawn(figure, "forces", "Do the theorems predict the forces?", f"{words} {runs_in_words(arms)} {caption}", alt)


def square(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """The same scale on both axes, logarithmic where all numbers are positive, and the line of equal numbers."""
    low, high = min(map(min, points)), max(map(max, points))
    room = 0.05 * ((high - low) or 1.0)
    limits = (low / 1.5, high * 1.5) if low > 0 else (low - room, high + room)
    axes.plot(limits, limits, color="black", linewidth=0.8, dashes=(4, 2), zorder=1)
    axes.set(xscale="log" if low > 0 else "linear", yscale="log" if low > 0 else "linear", xlim=limits, ylim=limits)
    readable(axes)
    ticks = dict(zip(map(float, axes.get_yticks()), [label.get_text() for label in axes.get_yticklabels()], strict=True))
    far = [place for place in ticks if not any(place < other < 1.3 * place for other in ticks)]
    axes.set_xticks(far, [ticks[place] for place in far])
    axes.set_xticks([], minor=True)


def _draw_bounds(axes: Axes, found: dict[str, list[TheoremsRecord]], steps: Sequence[int], colours: dict[str, str]) -> None:
    """Bounds and closed form over the measured force, one column an arm and checkpoint; 1 is the measured force."""
    columns = [(arm, step) for arm, records in found.items() for step in steps if any(r.step == step for r in records)]
    for place, (arm, step) in enumerate(columns):
        records = [r for r in found[arm] if r.step == step and r.force_measured > 0]
        spread = np.linspace(-0.28, 0.28, len(records)) if len(records) > 1 else [0.0]
        for shift, record in zip(spread, records, strict=False):
            ratios = [take(record) / record.force_measured for _, _, take in _FORCES]
            kept = {marker: ratio for (marker, _, _), ratio in zip(_FORCES, ratios, strict=True) if ratio > 0}
            axes.plot([place + shift] * len(kept), list(kept.values()), color=colours[arm], linewidth=0.8, alpha=0.5)
            for marker, ratio in kept.items():
                axes.plot([place + shift], [ratio], marker, color=colours[arm], markersize=5 if marker == "." else 3.5)
    axes.axhline(1, color="black", linewidth=0.8, dashes=(4, 2))
    axes.set_yscale("log")
    readable(axes)
    axes.set_xticks(range(len(columns)), [f"{step}" for _, step in columns], fontsize=7)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_xlabel("updates before the descent, by arm", fontsize=8)
    axes.set_ylabel("bounds and closed form\nover the measured force", fontsize=8)
    marks = [Line2D([], [], color="#555555", marker=m, linestyle="none", markersize=5) for m, _, _ in _FORCES]
    axes.legend(marks, [words for _, words, _ in _FORCES], fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _force_legends(figure: Figure, axes: Axes, steps: Sequence[int], colours: dict[str, str]) -> None:
    """Arms below the figure, checkpoints in the panel."""
    dots = [Line2D([], [], color=colour, marker="o", linestyle="none", markersize=5) for colour in colours.values()]
    figure.legend(dots, [plain(arm) for arm in colours], fontsize=8, loc="outside lower center", ncols=min(6, len(dots)))
    shapes = (_MARKERS * len(steps))[: len(steps)]
    marks = [Line2D([], [], color="#555555", marker=shape, linestyle="none", markersize=4.5) for shape in shapes]
    axes.legend(marks, [f"{step}" for step in steps], fontsize=7, title="updates", title_fontsize=7, ncols=1 + (len(steps) > 5))


def _force_words(found: dict[str, list[TheoremsRecord]]) -> tuple[str, str]:
    """Caption and description, without the runs."""
    settings = sorted({(record.rate, record.steps) for records in found.values() for record in records})
    words = (
        f"Theorem 1 and the loss identity beside {' or '.join(f'{steps} steps of rate {rate:g}' for rate, steps in settings)} of "
        "full-batch gradient descent from checkpoints of the run, with river and valley of the checkpoint before. Points: seeds; "
        "dashed: equal. Force: the river's displacement (norm) that the valley's relaxation causes. Below: the closed form and its "
        "bounds over the measured force; they hold for the quadratic model, not for the network; lower bounds of 0 are left out."
    )
    told = []
    for arm, records in found.items():
        some = [r for r in records if r.force_measured > 0 and r.decrease]
        ratios = [
            (r.force_predicted / r.force_measured, r.upper_paper / r.force_measured, r.decrease_predicted / r.decrease)
            for r in some
        ]
        numbers = [f"{median:.3g}" for median in np.median(ratios, axis=0)] if ratios else ["none"] * 3
        told.append(f"{arm}: force {numbers[0]}, paper's bound {numbers[1]}, fall of the loss {numbers[2]}")
    return words, f"Predicted over measured, medians over seeds and checkpoints. {'; '.join(told)}."


@matplotlib.rc_context(STYLE)
def hopping_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Windows of real training, gone over again: sign flips, tortuosity, hop and edge ratio, and what was decided of each.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up in words, the end of the caption.
    Returns:
        None where no window was gone over.
    """
    found = {arm: [run.replays for run in runs] for arm, runs in arms.items() if any(run.replays for run in runs)}
    every = [record for seeds in found.values() for seed in seeds for record in seed]
    if not every:
        return None
    figure, panels = paved(len(_WINDOW) + len(_DECISIONS), (6.2, 3.8), (8.4, 2.3))
    for axes, number in zip(panels, _WINDOW, strict=False):
        _draw_windows(axes, found, number, colours_of(arms))
        axes.set_ylabel(number.label, fontsize=8)
    for level in sorted({record.flips_threshold for record in every}):
        panels[0].axhline(level, color="black", linewidth=0.8, dashes=(4, 2))
    for axes, (word, take) in zip(panels[len(_WINDOW) :], _DECISIONS, strict=True):
        _draw_decisions(axes, found, take, colours_of(arms))
        axes.tick_params(axis="y", length=0, labelleft=take is _DECISIONS[0][1])
        axes.set_title(word, fontsize=9)
    for axes in panels:
        axes.set_xlim(0, 1.06 * max(*(record.step for record in every), 1))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("updates", fontsize=8)
    below(figure, panels[:1])
    words = (
        f"Windows of {' or '.join(map(str, sorted({r.window for r in every})))} updates of real training, gone over again with "
        "their optimizer, at the update where each begins; arms are moved aside a little. Points: seeds; lines: means over seeds "
        "(of logarithms on logarithmic axes). Dashed: where conditions begin: flips above their threshold, tortuosity of the "
        "valley from 2, of the river up to 1.5; edge ratio 1: the edge of stability; cubic drift above 0: the river sharpens. "
        f"Bottom: what was decided of each window, seed above seed: filled where it holds. {runs_in_words(arms)} {caption}"
    )
    told = []
    for arm, seeds in found.items():
        mine = [record for seed in seeds for record in seed]
        told.append(f"{arm}: of {len(mine)} " + ", ".join(f"{sum(map(take, mine))} {word}" for word, take in _DECISIONS))
    return drawn(figure, "hopping", "Does training hop across the valley?", words, f"Windows by arm. {'; '.join(told)}.")


def _draw_windows(axes: Axes, found: Windows, number: Number, colours: dict[str, str]) -> None:
    """Points of the seeds and their means, arm beside arm."""
    of = {arm: [{r.step: y for r in seed if (y := number.take(r)) is not None} for seed in seeds] for arm, seeds in found.items()}
    values = [value for seeds in of.values() for seed in seeds for value in seed.values()]
    last = max((step for seeds in of.values() for seed in seeds for step in seed), default=0)
    log = number.scale == "log" and min(values, default=0) > 0
    to, back = (math.log, np.exp) if log else (float, np.asarray)
    for place, (arm, seeds) in enumerate(of.items()):
        aside = _ASIDE * last * (place - (len(of) - 1) / 2)
        pairs = [(step + aside, value) for seed in seeds for step, value in seed.items()]
        look = {"color": colours[arm], "markersize": 3, "alpha": 0.6, "markeredgewidth": 0}
        axes.plot([x for x, _ in pairs], [y for _, y in pairs], "o", **look)
        curve, _ = over_seeds([{step: Measure(to(value)) for step, value in seed.items()} for seed in seeds])
        (line,) = axes.plot(curve.x + aside, back(curve.mean), linewidth=1.2, label=plain(arm), marker="_", markersize=7)
        line.set(color=colours[arm], dashes=DASHES.get(arm, (None, None)))
    if number.line is not None:
        axes.axhline(number.line, color="black", linewidth=0.8, dashes=(4, 2))
    if log:
        axes.set_yscale("log")
        readable(axes)
    elif number.scale == "signed" and any(values):
        axes.set_yscale("symlog", linthresh=10.0 ** (math.floor(math.log10(max(abs(value) for value in values))) - 1))
        axes.autoscale(axis="y")


def _draw_decisions(axes: Axes, found: Windows, take: Callable[[ReplayRecord], bool], colours: dict[str, str]) -> None:
    """One row an arm, seed above seed; filled where it holds."""
    for row, (arm, seeds) in enumerate(found.items()):
        for level, seed in zip(np.linspace(-0.3, 0.3, len(seeds)) if len(seeds) > 1 else [0.0], seeds, strict=True):
            for held in (True, False):
                steps = [record.step for record in seed if take(record) is held]
                fill = colours[arm] if held else "white"
                axes.plot(steps, [row + level] * len(steps), "o", color=colours[arm], markersize=3.2, markerfacecolor=fill)
    axes.set_yticks(range(len(found)), [plain(arm) for arm in found], fontsize=7)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


@matplotlib.rc_context(STYLE)
def dominance_drawn(arms: Arms, caption: str) -> Drawn | None:
    """Assumption 1 place by place: which eigenvalues of Looped are smaller than Single's of the same rank?

    Args:
        arms: the runs of each arm, one a seed; seeds are paired by the names of their folders.
        caption: the set-up in words, the end of the caption.
    Returns:
        None where no seed has exact spectra of both arms at the same step, above the machine floor and of the same size.
    """
    order = order_of(arms)
    if order is None:
        return None
    curve, _ = over_seeds([dict(enumerate(map(Measure, row.tolist()), 1)) for row in order.logs])
    figure, (axes,) = paved(1, (7.4, 3.8), (7.4, 3.8))
    axes.fill_between(curve.x, curve.low, curve.high, color="black", alpha=0.14, linewidth=0, label="95 % t-interval")
    axes.plot(curve.x, curve.mean, color="black", linewidth=1.2, label="mean over seeds")
    several = len(order.logs) > 1
    sides = {"smaller": (several & (curve.high < 0), "#009E73"), "larger": (several & (curve.low > 0), COLOURS[PAIR[1]])}
    for word, (where, colour) in sides.items():
        look = {"color": colour, "markersize": 4, "label": f"{PAIR[1]} {word}: interval without 0", "rasterized": True}
        axes.plot(curve.x[where], curve.mean[where], ".", **look)
    axes.axhline(0, color="black", linewidth=0.7)
    axes.set_xscale("log")
    axes.set_xlabel("rank of the eigenvalue (1: the largest; to the right: the low eigenvalues of the valley)", fontsize=8)
    axes.set_ylabel(f"log of {PAIR[1]}'s over {PAIR[0]}'s\neigenvalue of this rank (nats)", fontsize=8)
    mark_rules(axes, order.counts, top=float(curve.mean[-1]) < 0)
    below(figure, [axes])
    words = (
        f"Assumption 1 says that {PAIR[1]}'s low eigenvalues are smaller than {PAIR[0]}'s, one by one: below 0 here. Eigenvalues "
        f"of both at update {order.step}, largest first, down to the last that is above the machine floor in all spectra; "
        f"{len(order.logs)} seeds, paired. Intervals rank by rank, not corrected for their number. Dotted: the last rank that is "
        f"above the epsilon of a rule in every spectrum. {caption}"
    )
    counts = ", ".join(f"{word} at {where.sum()}" for word, (where, _) in sides.items())
    ends = f"mean log ratio {curve.mean[0]:.3g} at the largest, {curve.mean[-1]:.3g} at the lowest"
    alt = f"Eigenvalues of {PAIR[1]} at update {order.step}, by intervals without 0: {counts} of {len(curve.x)} ranks; {ends}."
    return drawn(figure, "dominance", "Which eigenvalues are smaller in Looped?", words, alt)


def valley_figures(arms: Arms, caption: str = "") -> list[Drawn]:
    """Everything about river and valley that the landscapes of a study allow, in the order of the page.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up in words, the end of every caption.
    """
    every = (ridges_drawn, split_drawn, threshold_drawn, condition_drawn, dominance_drawn, hopping_drawn, forces_drawn)
    return [figure for draw in every if (figure := draw(arms, caption)) is not None]
