"""How the curvature changes along a run, and over the seeds of an arm: panels over training, from records alone.

Shape letters: X checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.errors import InsufficientDataError
from thalweg.intervals import interval
from thalweg.records.landscape import LandscapeRecord, Measure, RunLandscape
from thalweg.report.curves import Band
from thalweg.report.figures import COLOURS, DASHES, STYLE
from thalweg.report.landscape.slices import below, paved, plain

_SPARE = ("#E69F00", "#000000", "#882255")
"""Colours of arms that no study has."""
COLUMNS = 6
"""Matrices in a row."""

Arms = dict[str, list[RunLandscape]]
Numbers = dict[int, Measure]
"""Step -> number."""


@dataclass(frozen=True)
class Panel:
    """One number of a point, and how its axis is drawn."""

    label: str
    take: Callable[[LandscapeRecord], Measure | None]
    scale: str = "linear"
    least: float = -math.inf
    """No value is smaller; so is none larger than ``most``."""
    most: float = math.inf


PANELS = (
    Panel("matrix entropy $S_1$ (nats)", lambda p: p.entropy, least=0),
    Panel("largest eigenvalue", lambda p: Measure(p.largest[0]), "log"),
    Panel("most negative eigenvalue", lambda p: Measure(p.smallest), "signed"),
    Panel("eigenvalues above 1 (count)", lambda p: p.above_one, least=0),
    Panel("information, successive\nHessians (nats)", lambda p: p.change.information if p.change else None, least=0),
    Panel(
        "overlap, successive\ntop eigenspaces (0 to 1)", lambda p: Measure(p.change.overlap) if p.change else None, least=0, most=1
    ),
)
ROOM = 0.6
"""Of the range of the means, for bands on either side of it at most: few seeds have wide ones."""


def over_seeds(seeds: Sequence[Numbers]) -> tuple[Band, np.ndarray]:
    """Mean and interval over seeds at the steps that all of them have, and the probes' standard error of the mean, ``(X,)``.

    Seeds without any number are left out.
    """
    some = [numbers for numbers in seeds if numbers]
    steps = sorted(set.intersection(*(set(numbers) for numbers in some))) if some else []
    found = [interval([numbers[step].value for numbers in some]) for step in steps]
    mean = np.array([i.mean for i in found])
    low = np.array([i.mean if i.low is None else i.low for i in found])
    high = np.array([i.mean if i.high is None else i.high for i in found])
    error = np.array([math.hypot(*(numbers[step].error for numbers in some)) / len(some) for step in steps])
    return Band(np.array(steps, dtype=float), mean, low, high), error


def runs_in_words(arms: Arms) -> str:
    """Runs of every arm."""
    return "Runs: " + ", ".join(f"{arm} {len(runs)}" for arm, runs in arms.items()) + "."


def with_spectra(arms: Arms) -> dict[str, RunLandscape]:
    """The first run of each arm that has left a spectrum."""
    return {
        arm: run
        for arm, runs in arms.items()
        for run in reversed(runs)
        if any(run.spectrum_path(p.step).exists() for p in run.points)
    }


def taken(arms: Arms, panel: Panel) -> dict[str, tuple[Band, np.ndarray]]:
    """The curves of one panel, of the arms that have any."""
    found: dict[str, tuple[Band, np.ndarray]] = {}
    for arm, runs in arms.items():
        seeds = [{p.step: m for p in run.points if (m := panel.take(p)) is not None} for run in runs]
        curve = over_seeds(seeds)
        if len(curve[0].x):
            found[arm] = curve
    return found


@matplotlib.rc_context(STYLE)
def figure_landscape(arms: Arms) -> Figure:
    """What the Hessian's spectrum does over training: one panel a number, one line an arm.

    Args:
        arms: the runs of each arm, one a seed.
    Raises:
        InsufficientDataError: no point has been measured.
    """
    curves = [(panel, found) for panel in PANELS if (found := taken(arms, panel))]
    if not curves:
        raise InsufficientDataError("landscape: given no measured point, expected at least one; measure the landscape first")
    steps = [point.step for runs in arms.values() for run in runs for point in run.points]
    figure, panels = paved(len(curves), (6.2, 3.8), (8.4, 2.45))
    for axes, (panel, found) in zip(panels, curves, strict=True):
        for arm, (curve, error) in found.items():
            draw_curve(axes, arm, list(arms).index(arm), curve, error)
        scale_axis(axes, panel, list(found.values()))
        axes.set_ylabel(panel.label, fontsize=8)
        training_axis(axes, steps)
        mark_passes(axes, arms)
    below(figure, panels)
    return figure


def colour_of(arm: str, number: int) -> str:
    """Of an arm, or of one of its runs; ``number`` chooses where no study has such an arm."""
    return COLOURS.get(arm.rsplit("-seed", 1)[0]) or _SPARE[number % len(_SPARE)]


def draw_curve(axes: Axes, arm: str, number: int, curve: Band, error: np.ndarray) -> None:
    """Mean, band, and error bars where probes were used."""
    colour = colour_of(arm, number)
    (line,) = axes.plot(curve.x, curve.mean, color=colour, label=plain(arm), linewidth=1.5, marker="o" if len(curve.x) < 3 else "")
    line.set_dashes(DASHES.get(arm, (None, None)))
    axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
    rough = error > 0
    if rough.any():
        axes.errorbar(curve.x[rough], curve.mean[rough], error[rough], fmt="none", ecolor=colour, elinewidth=0.8, capsize=1.5)


def scale_axis(axes: Axes, panel: Panel, curves: list[tuple[Band, np.ndarray]]) -> None:
    """Logarithmic where it helps; wide enough for means and error bars, and for bands as far as there is `ROOM`."""
    means = np.concatenate([curve.mean for curve, _ in curves])
    size = float(np.abs(means).max())
    to, back = (float, float)
    if panel.scale == "log" and means.min() > 0:
        axes.set_yscale("log")
        to, back = math.log, math.exp
    elif panel.scale == "signed" and size > 0:
        linear = 10.0 ** (math.floor(math.log10(size)) - 1)
        axes.set_yscale("symlog", linthresh=linear, linscale=0.5)
        to, back = (lambda value: math.asinh(value / linear)), (lambda value: linear * math.sinh(value))
    logarithmic = panel.scale == "log"
    lowest = means.min() if logarithmic else min(float((curve.mean - error).min()) for curve, error in curves)
    highest = max(float((curve.mean + error).max()) for curve, error in curves)
    low, high = to(max(lowest, panel.least)), to(min(highest, panel.most))
    room = ROOM * ((high - low) or abs(high) or 1.0)
    bands = [float(end) for curve, _ in curves for end in (curve.low.min(), curve.high.max()) if not logarithmic or end > 0]
    outer = [to(min(max(end, panel.least), panel.most)) for end in bands]
    margin = 0.08 * room
    axes.set_ylim(back(max(min([low, *outer]), low - room) - margin), back(min(max([high, *outer]), high + room) + margin))
    if axes.get_yscale() != "linear":
        readable(axes)


def readable(axes: Axes) -> None:
    """Few and plain numbers on a logarithmic axis: round ones, as dense as there is room."""
    low, high = (float(end) for end in axes.get_ylim())
    most = math.floor(math.log10(max(abs(low), abs(high))))
    least = most - 1 if low <= 0 <= high else math.floor(math.log10(min(abs(low), abs(high))))
    places: list[float] = []
    for digits in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1,)):
        sizes = [digit * 10.0**power for power in range(least, most + 1) for digit in digits]
        places = [place for size in (0.0, *sizes) for place in {size, -size} if low <= place <= high]
        if len(places) <= 7:
            break
    if len(places) < 2:
        places = [low + share * (high - low) for share in (0.2, 0.5, 0.8)]
    axes.set_yticks(places, [f"{place:.3g}".replace("-", "\N{MINUS SIGN}") for place in places])
    axes.set_yticks([], minor=True)


def training_axis(axes: Axes, steps: Sequence[int], most: int = 4) -> None:
    """Updates, logarithmic from the first that is not zero on, with zero beside it; ``most`` ticks beside that of zero."""
    first, last = min((step for step in steps if step > 0), default=1), max(*steps, 1)
    axes.set_xscale("symlog", linthresh=first, linscale=0.4)
    tens = [10**power for power in range(len(str(last))) if first <= 10**power <= last]
    places = tens if len(tens) >= 2 else sorted({first, last})
    places = places[:: -math.ceil(len(places) / most)]
    axes.set_xticks([0, *places], ["0", *(f"{place}" for place in places)])
    axes.set_xticks([], minor=True)
    axes.set_xlim(-0.2 * first, 1.15 * last)
    axes.set_xlabel("updates", fontsize=8)


def mark_passes(axes: Axes, arms: Arms) -> None:
    """A thin line at the first checkpoint after every change of the number of passes."""
    for number, (arm, runs) in enumerate(arms.items()):
        colour = colour_of(arm, number)
        for run in runs:
            for before, after in zip(run.points, run.points[1:], strict=False):
                if before.loops != after.loops:
                    axes.axvline(after.step, color=colour, alpha=0.5, linewidth=0.8, dashes=(1, 2))


def groups_of(arms: Arms) -> list[str]:
    """The matrices whose gradients were compared, in their order."""
    return list(
        dict.fromkeys(name for runs in arms.values() for run in runs for record in run.alignments for name in record.groups)
    )


def alignment_curve(runs: list[RunLandscape], group: str, what: str) -> Band:
    """One matrix's "cosine", or "opposed", over training."""
    seeds = []
    for run in runs:
        found = {record.step: getattr(record.groups[group], what) for record in run.alignments if group in record.groups}
        seeds.append({step: Measure(value) for step, value in found.items() if value is not None})
    return over_seeds(seeds)[0]


@matplotlib.rc_context(STYLE)
def figure_alignment(arms: Arms) -> Figure:
    """Do the gradients of many passes and of one pass point the same way? By matrix: cosine, and share of opposed samples.

    Raises:
        InsufficientDataError: no gradients were compared.
    """
    groups = groups_of(arms)
    if not groups:
        raise InsufficientDataError("alignment: given no compared gradients, expected some; measure with alignment = true")
    across = math.ceil(len(groups) / math.ceil(len(groups) / COLUMNS))
    rows = 2 * math.ceil(len(groups) / across)
    steps = [record.step for runs in arms.values() for run in runs for record in run.alignments]
    figure = Figure(figsize=(8.4, max(1.75 * rows, 3.6)), layout="constrained")
    panels: list[Axes] = []
    for number, group in enumerate(groups):
        for offset, what in enumerate(("cosine", "opposed")):
            row = 2 * (number // across) + offset
            axes = figure.add_subplot(rows, across, row * across + number % across + 1)
            curves = {arm: c for arm, runs in arms.items() if len((c := alignment_curve(runs, group, what)).x)}
            for arm, curve in curves.items():
                draw_curve(axes, arm, list(arms).index(arm), curve, np.zeros(len(curve.x)))
            training_axis(axes, steps, most=2 if across > 4 else 4)
            axes.set_ylim((-1.05, 1.05) if what == "cosine" else (-0.03, 1.03))
            axes.axhline(0, color="black", linewidth=0.6, alpha=0.5)
            axes.set_title(plain(group) if what == "cosine" else "", fontsize=9)
            axes.tick_params(labelleft=number % across == 0, labelbottom=what == "opposed")
            axes.set_xlabel("updates" if what == "opposed" else "", fontsize=8)
            if number % across == 0:
                axes.set_ylabel("cosine" if what == "cosine" else "share of samples\nwith cosine < 0", fontsize=8)
            panels.append(axes)
    below(figure, panels)
    return figure
