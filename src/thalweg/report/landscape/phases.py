"""Matrix entropy over training with its phases, run by run, from records alone."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from thalweg.records.run import PhaseRecord
from thalweg.report.figures import STYLE, Drawn, drawn
from thalweg.report.landscape.curves import Arms, colour_of, training_axis
from thalweg.report.landscape.slices import ACROSS, plain

LABELS = {
    "collapse": ("#0072B2", "////"),
    "diversification": ("#E69F00", "...."),
    "stable": ("#C8C8C8", ""),
}
"""Phase -> colour and hatch of its bars."""


@matplotlib.rc_context(STYLE)
def phases_drawn(phases: Sequence[PhaseRecord], arms: Arms, caption: str) -> Drawn | None:
    """Entropy of every run, and below it one bar a seed with its phases; None where no phases were looked for.

    Args:
        phases: of runs; arms without any are left out.
        arms: the runs of each arm, one a seed.
        caption: the set-up in words, the end of the caption.
    """
    shown = [arm for arm in arms if any(one.arm == arm for one in phases)]
    if not shown:
        return None
    across = min(len(shown), ACROSS)
    rows = -(-len(shown) // across)
    figure = Figure(figsize=(8.4, 2.9 * rows + 0.4), layout="constrained")
    grid = figure.subplots(2 * rows, across, squeeze=False, sharex=True, height_ratios=[2.2, 1] * rows)
    for number in range(rows * across):
        upper, lower = (grid[2 * (number // across) + offset][number % across] for offset in (0, 1))
        if number >= len(shown):
            for axes in (upper, lower):
                axes.set_axis_off()
            continue
        arm = shown[number]
        _draw_entropies(upper, arms, arm)
        _draw_bars(lower, [one for one in phases if one.arm == arm])
        if number % across == 0:
            upper.set_ylabel("matrix entropy (nats)")
            lower.set_ylabel("seed")
        training_axis(lower, [point.step for run in arms[arm] for point in run.points])
        upper.set_xlabel("")
    keys = [Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=label) for label, (colour, hatch) in LABELS.items()]
    figure.legend(handles=keys, fontsize=8, loc="outside lower center", ncols=3)
    words = (
        "Matrix entropy S_1 of the Hessian's spectrum along every run, and its phases below it, one bar a seed: straight pieces "
        "over checkpoints that are even in the logarithm of the updates, with breaks by a bootstrap at the 5 % level against "
        "correlated noise; collapse falls, diversification rises, stable does neither by more than the tolerance, which "
        "is one for all runs of an arm. "
        f"{caption}"
    )
    told = "; ".join(f"{arm}: {sequences(phases, arm)}" for arm in shown)
    alt = f"Curves of the matrix entropy and bars of its phases. {told}."
    return drawn(figure, "phases", "Does the spectrum go through phases?", words, alt)


def _draw_entropies(axes: Axes, arms: Arms, arm: str) -> None:
    """One thin line a run."""
    for run in arms[arm]:
        steps, values = [point.step for point in run.points], [point.entropy.value for point in run.points]
        axes.plot(steps, values, color=colour_of(arm, list(arms).index(arm)), linewidth=0.9, alpha=0.75)
    axes.set_title(plain(arm), fontsize=9)
    axes.tick_params(labelbottom=False)


def _draw_bars(axes: Axes, phases: Sequence[PhaseRecord]) -> None:
    """One bar a seed, coloured by phase."""
    seeds = sorted({one.seed for one in phases})
    for one in phases:
        colour, hatch = LABELS.get(one.label, ("white", ""))
        row = seeds.index(one.seed)
        axes.barh(row, one.end - one.begin, left=one.begin, height=0.7, color=colour, hatch=hatch, edgecolor="white", linewidth=0.8)
    axes.set_yticks(range(len(seeds)), [str(seed) for seed in seeds], fontsize=7)
    axes.set_ylim(len(seeds) - 0.4, -0.6)
    axes.grid(visible=False)


def sequences(phases: Sequence[PhaseRecord], arm: str) -> str:
    """How many runs of an arm have which phases one after the other, equal neighbours as one."""
    counts: dict[str, int] = {}
    for seed in sorted({one.seed for one in phases if one.arm == arm}):
        labels = [one.label for one in sorted(phases, key=lambda one: one.begin) if (one.arm, one.seed) == (arm, seed)]
        merged = [label for place, label in enumerate(labels) if place == 0 or label != labels[place - 1]]
        counts[", ".join(merged)] = counts.get(", ".join(merged), 0) + 1
    return ", and ".join(f"{count} x ({words})" for words, count in counts.items())
