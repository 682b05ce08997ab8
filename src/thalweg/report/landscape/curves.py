"""How the Hessian's spectrum and the gradients change over training: panels over updates, means over the seeds of each arm.

Shape letters: X checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thalweg.errors import InsufficientDataError
from thalweg.intervals import interval
from thalweg.records.landscape import LandscapeRecord, Measure, RunLandscape
from thalweg.report.curves import Band, band_of
from thalweg.report.panels import COLOURS, STYLE, dashes_of, draw_mean_and_band, labelled, legend_below, paved, plain

_SPARE = ("#E69F00", "#000000", "#882255")
"""Colours of arms that no study has."""
_SPARE_DASHES = ((None, None), (4, 2), (1.5, 1))
"""Dashes of their lines, so that equal curves are both seen."""
_FEW = 20
"""Most points of a curve that are marked."""
_NARROW = 10
"""Ratio of the largest to the smallest value below which a vertical axis stays linear."""
_LINEAR = 30
"""Last over first step up to which an axis of updates is linear."""
COLUMNS = 6
"""Most matrices in a row."""

Arms = dict[str, list[RunLandscape]]
"""Arm -> the landscapes of its runs, one a seed."""
Numbers = dict[int, Measure]
"""Step -> number, of one seed."""
Curve = tuple[Band, np.ndarray]
"""Mean and interval over seeds, and the probes' standard error of the mean, ``(X,)``."""


@dataclass(frozen=True)
class Panel:
    """One number of a checkpoint, and how its axis is drawn."""

    label: str
    """Of the vertical axis, with the unit."""
    take: Callable[[LandscapeRecord], Measure | None]
    """The number; None where it was not measured."""
    scale: str = "linear"
    """"linear", "log", or "signed" for an axis that is logarithmic on both sides of zero."""
    least: float = -math.inf
    """Smallest value that is possible."""
    most: float = math.inf
    """Largest value that is possible."""


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
"""Most room for bands above and below the means, as a share of the range of the means: intervals of few seeds are wide."""


def over_seeds(seeds: Sequence[Numbers]) -> Curve:
    """Mean and 95 % t-interval over seeds at the steps that all of them have, and the probes' standard error of the mean.

    Args:
        seeds: the numbers of each seed; seeds without any number are left out.
    Returns:
        The curve, and the standard error ``(X,)``: the root of the sum of squares over seeds, over the number of seeds.
    """
    filled = [numbers for numbers in seeds if numbers]
    steps = sorted(set.intersection(*(set(numbers) for numbers in filled))) if filled else []
    intervals = [interval([numbers[step].value for numbers in filled]) for step in steps]
    error = np.array([math.hypot(*(numbers[step].error for numbers in filled)) / len(filled) for step in steps])
    return band_of(np.array(steps, dtype=float), intervals), error


def seed_means(seeds: Sequence[Mapping[int, float]], logarithmic: bool = False) -> Band:
    """Mean and 95 % t-interval over seeds of numbers without errors of their own, at the steps that all of them have.

    Args:
        seeds: step -> number, of each seed; seeds without any number are left out.
        logarithmic: average the logarithms, which gives the geometric mean; numbers must be positive.
    """
    to = math.log if logarithmic else float
    curve, _ = over_seeds([{step: Measure(to(value)) for step, value in numbers.items()} for numbers in seeds])
    return Band(curve.x, np.exp(curve.mean), np.exp(curve.low), np.exp(curve.high)) if logarithmic else curve


def runs_in_words(arms: Arms) -> str:
    """The number of runs of every arm, as a sentence."""
    return "Runs: " + ", ".join(f"{arm} {len(runs)}" for arm, runs in arms.items()) + "."


def with_spectra(arms: Arms) -> dict[str, RunLandscape]:
    """The first run of each arm that has left a spectrum."""
    first = {}
    for arm, runs in arms.items():
        able = [run for run in runs if any(run.spectrum_path(point.step).exists() for point in run.points)]
        if able:
            first[arm] = able[0]
    return first


def taken(arms: Arms, panel: Panel) -> dict[str, Curve]:
    """The curve of every arm for one panel; arms without a step that all their seeds share are left out."""
    curves: dict[str, Curve] = {}
    for arm, runs in arms.items():
        seeds = [{p.step: number for p in run.points if (number := panel.take(p)) is not None} for run in runs]
        curve = over_seeds(seeds)
        if len(curve[0].x):
            curves[arm] = curve
    return curves


@matplotlib.rc_context(STYLE)
def figure_landscape(arms: Arms) -> Figure:
    """The numbers of the Hessian's spectrum over training: one panel for each number, one line for each arm.

    Args:
        arms: the runs of each arm, one a seed.
    Raises:
        InsufficientDataError: no point has been measured.
    """
    measured = [(panel, curves) for panel in PANELS if (curves := taken(arms, panel))]
    if not measured:
        raise InsufficientDataError("landscape: given no measured point, expected at least one; measure the landscape first")
    steps = [point.step for runs in arms.values() for run in runs for point in run.points]
    figure, panels = paved(len(measured), (6.2, 3.8), (8.4, 2.45))
    for axes, (panel, curves) in zip(panels, measured, strict=True):
        draw_over_training(axes, arms, panel, curves, steps)
    legend_below(figure, labelled(panels))
    return figure


def draw_over_training(axes: Axes, arms: Arms, panel: Panel, curves: dict[str, Curve], steps: Sequence[int]) -> None:
    """Draw one panel over updates: the curve of every arm, both axes, and lines where the number of passes changes.

    Args:
        axes: where it is drawn.
        arms: the runs of each arm; their order gives the colours of arms that no study has.
        panel: what is drawn.
        curves: as `taken` gives them.
        steps: of all measured checkpoints.
    """
    for arm, (curve, error) in curves.items():
        draw_curve(axes, arm, list(arms).index(arm), curve, error)
    scale_axis(axes, panel, list(curves.values()))
    axes.set_ylabel(panel.label + ("" if axes.get_yscale() == "linear" else " (log scale)"), fontsize=8)
    training_axis(axes, steps)
    mark_passes(axes, arms)


def colour_of(arm: str, number: int) -> str:
    """The colour of an arm, or of one of its runs; ``number`` chooses a spare colour where no study has such an arm."""
    return COLOURS.get(_without_seed(arm)) or _SPARE[number % len(_SPARE)]


def _without_seed(arm: str) -> str:
    """The arm of a run "ARM-seedN"; any other name as it is."""
    return arm.rsplit("-seed", 1)[0]


def draw_curve(axes: Axes, arm: str, number: int, curve: Band, error: np.ndarray | None = None) -> None:
    """Draw mean and band of an arm, with bars for the standard error over probes where it is not 0.

    Args:
        axes: where it is drawn.
        arm: or one of its runs.
        number: chooses a spare colour where no study has such an arm.
        curve: over ``X`` checkpoints; few of them are marked with points.
        error: standard error over probes, ``(X,)``; none by default.
    """
    colour, marks = colour_of(arm, number), {"marker": "o", "markersize": 3} if len(curve.x) <= _FEW else {}
    dashes = dashes_of(_without_seed(arm))
    if _without_seed(arm) not in COLOURS:  # other dashes where the colours begin again
        dashes = _SPARE_DASHES[(number + number // len(_SPARE)) % len(_SPARE_DASHES)]
    draw_mean_and_band(axes, curve, color=colour, label=plain(arm), linewidth=1.5, dashes=dashes, **marks)
    if error is not None and (rough := error > 0).any():
        axes.errorbar(curve.x[rough], curve.mean[rough], error[rough], fmt="none", ecolor=colour, elinewidth=0.8, capsize=1.5)


def scale_axis(axes: Axes, panel: Panel, curves: list[Curve]) -> None:
    """Scale the vertical axis so that it holds all means and error bars, and the bands as far as there is `ROOM` for them.

    Args:
        axes: whose axis is scaled.
        panel: gives the scale, and the smallest and largest value that is possible.
        curves: what is drawn in the panel.
    """
    means = np.concatenate([curve.mean for curve, _ in curves])
    size = float(np.abs(means).max())
    # Limits are found on the scale of the axis: ``to`` maps a value to its height there, ``back`` is the inverse.
    to, back = (float, float)
    sizes = np.abs(means[means != 0])
    narrow = not sizes.size or (sizes.max() < _NARROW * sizes.min() and (means.min() >= 0 or means.max() <= 0))
    if panel.scale == "log" and means.min() > 0 and not narrow:
        axes.set_yscale("log")
        to, back = math.log, math.exp
    elif panel.scale == "signed" and not narrow:
        linear = 10.0 ** (math.floor(math.log10(size)) - 1)
        axes.set_yscale("symlog", linthresh=linear, linscale=0.5)
        to, back = (lambda value: math.asinh(value / linear)), (lambda value: linear * math.sinh(value))
    logarithmic = axes.get_yscale() == "log"
    # Means and error bars must be seen in full; a logarithm has no room for bars that reach below zero.
    lowest = means.min() if logarithmic else min(float((curve.mean - error).min()) for curve, error in curves)
    highest = max(float((curve.mean + error).max()) for curve, error in curves)
    positive = panel.scale == "log" and not logarithmic and means.min() > 0
    least = max(panel.least, 0.0) if positive else panel.least
    low, high = to(max(lowest, least)), to(min(highest, panel.most))
    room = ROOM * ((high - low) or abs(high) or 1.0)
    # Bands may widen the axis by ``room`` on either side, and are cut off beyond it.
    bands = [float(end) for curve, _ in curves for end in (curve.low.min(), curve.high.max()) if not logarithmic or end > 0]
    outer = [to(min(max(end, least), panel.most)) for end in bands]
    margin = 0.08 * room
    axes.set_ylim(back(max(min([low, *outer]), low - room) - margin), back(min(max([high, *outer]), high + room) + margin))
    if axes.get_yscale() != "linear":
        readable(axes)
    elif panel.label.endswith("(count)"):
        low, high = axes.get_ylim()
        if high - low < 2:  # a constant number
            middle = (low + high) / 2
            axes.set_ylim(max(middle - 1, panel.least - 0.1), middle + 1)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def readable(axes: Axes) -> None:
    """Set ticks with short, plain numbers on a vertical axis that is logarithmic: at most seven, at round values if possible."""
    low, high = (float(end) for end in axes.get_ylim())
    most = math.floor(math.log10(max(abs(low), abs(high))))
    least = most - 1 if low <= 0 <= high else math.floor(math.log10(min(abs(low), abs(high))))
    places: list[float] = []
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):  # from the densest to the sparsest; all about evenly spaced
        sizes = [digit * 10.0**power for power in range(least, most + 1) for digit in digits]
        places = [place for size in (0.0, *sizes) for place in {size, -size} if low <= place <= high]
        if len(places) <= 7:
            break
    if len(places) < 2:  # a short axis without round values
        places = [low + share * (high - low) for share in (0.2, 0.5, 0.8)]
    axes.set_yticks(places, [f"{place:.3g}".replace("-", "\N{MINUS SIGN}") for place in places])
    axes.set_yticks([], minor=True)


def training_axis(axes: Axes, steps: Sequence[int], most: int = 4) -> None:
    """Make the horizontal axis one of updates.

    Where the last measured step is more than `_LINEAR` times the first one after 0, it is logarithmic from that one on, with 0
    beside it, and its label says so.

    Args:
        axes: whose axis is scaled.
        steps: of all measured checkpoints.
        most: most ticks beside that of 0.
    """
    first, last = min((step for step in steps if step > 0), default=1), max(*steps, 1)
    if len(set(steps)) == 1:
        axes.set_xticks(steps[:1])
        axes.set_xlim(steps[0] - 1, steps[0] + 1)
        axes.set_xlabel("updates", fontsize=8)
        return
    if last <= _LINEAR * first:
        axes.xaxis.set_major_locator(MaxNLocator(most + 1, integer=True))
        axes.set_xlim(-0.03 * last, 1.03 * last)
        axes.set_xlabel("updates", fontsize=8)
        return
    axes.set_xscale("symlog", linthresh=first, linscale=0.4)
    tens = [10**power for power in range(len(str(last))) if first <= 10**power <= last]
    places = tens if len(tens) >= 2 else sorted({first, last})
    places = places[:: -math.ceil(len(places) / most)]
    axes.set_xticks([0, *places], ["0", *(f"{place}" for place in places)])
    axes.set_xticks([], minor=True)
    axes.set_xlim(-0.2 * first, 1.15 * last)
    axes.set_xlabel("updates (log scale)", fontsize=8)


def mark_passes(axes: Axes, arms: Arms) -> None:
    """Draw a thin line at the first checkpoint after every change of the number of passes, in the arm's colour."""
    for number, (arm, runs) in enumerate(arms.items()):
        colour = colour_of(arm, number)
        for run in runs:
            for before, after in zip(run.points, run.points[1:], strict=False):
                if before.loops != after.loops:
                    axes.axvline(after.step, color=colour, alpha=0.5, linewidth=0.8, dashes=(1, 2))


def groups_of(arms: Arms) -> list[str]:
    """The names of the weight matrices whose gradients were compared, in the order of the records."""
    return list(
        dict.fromkeys(name for runs in arms.values() for run in runs for record in run.alignments for name in record.groups)
    )


def alignment_curve(runs: list[RunLandscape], group: str, what: str) -> Band:
    """The "cosine", or the share of "opposed" samples, of one weight matrix over training; mean and interval over runs."""
    seeds = []
    for run in runs:
        numbers = {record.step: getattr(record.groups[group], what) for record in run.alignments if group in record.groups}
        seeds.append({step: value for step, value in numbers.items() if value is not None})
    return seed_means(seeds)


@matplotlib.rc_context(STYLE)
def figure_alignment(arms: Arms) -> Figure:
    """Agreement of the loss gradients of many passes and of one pass, by weight matrix, over training.

    For every matrix there are two panels: the cosine of the two gradients, and below it the share of samples whose gradients
    oppose each other.

    Args:
        arms: the runs of each arm, one a seed.
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
            curves = {arm: curve for arm, runs in arms.items() if len((curve := alignment_curve(runs, group, what)).x)}
            for arm, curve in curves.items():
                draw_curve(axes, arm, list(arms).index(arm), curve)
            training_axis(axes, steps, most=2 if across > 4 else 4)
            axes.set_ylim((-1.05, 1.05) if what == "cosine" else (-0.03, 1.03))
            axes.axhline(0, color="black", linewidth=0.6, alpha=0.5)
            axes.set_title(plain(group) if what == "cosine" else "", fontsize=9)
            axes.tick_params(labelleft=number % across == 0, labelbottom=what == "opposed")
            axes.set_xlabel(axes.get_xlabel() if what == "opposed" else "", fontsize=8)
            if number % across == 0:
                axes.set_ylabel("cosine" if what == "cosine" else "share of samples\nwith cosine < 0", fontsize=8)
            panels.append(axes)
    legend_below(figure, labelled(panels))
    return figure
