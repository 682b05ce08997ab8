"""The matrix entropy over training with its phases: stretches in which it falls, rises or is stable, run by run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from thalweg.records.run import PhaseRecord
from thalweg.report.figures import Drawn, drawn
from thalweg.report.landscape.curves import Arms, colour_of, training_axis
from thalweg.report.panels import ACROSS, STYLE, legend_below, plain

LABELS = {
    "collapse": ("#0072B2", "////"),
    "diversification": ("#E69F00", "...."),
    "stable": ("#C8C8C8", ""),
    "undecided": ("#CC79A7", "xxxx"),
}
"""Phase -> colour and hatch of its bars."""


@matplotlib.rc_context(STYLE)
def phases_drawn(phases: Sequence[PhaseRecord], arms: Arms, caption: str) -> Drawn | None:
    """Matrix entropy of every run over training, and below it a bar for each seed with its phases.

    Args:
        phases: of runs; arms without any are left out.
        arms: the runs of each arm, one a seed.
        caption: the set-up, which ends the caption.
    Returns:
        None where no arm has phases.
    """
    shown = [arm for arm in arms if any(phase.arm == arm for phase in phases)]
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
        _draw_bars(lower, [phase for phase in phases if phase.arm == arm])
        if number % across == 0:
            upper.set_ylabel("matrix entropy (nats)")
            lower.set_ylabel("seed")
        training_axis(lower, [point.step for run in arms[arm] for point in run.points])
        upper.set_xlabel("")
    keys = [Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=label) for label, (colour, hatch) in LABELS.items()]
    legend_below(figure, keys, len(keys))
    full_caption = (
        "Matrix entropy S_1 of the Hessian's spectrum over training, one line for each run, and its phases below, one bar for each "
        "seed. Phases are straight pieces in the logarithm of the updates; their breaks are found by a test at the 5 % level "
        "against simulated noise that is as correlated as the run's. In a collapse the entropy falls, in a diversification it "
        "rises, and in a stable phase it does neither by more than the tolerance, which is the same for all runs of an arm. A run "
        "without breaks whose noise is strongly correlated is undecided. "
        f"{caption}"
    )
    by_arm = "; ".join(f"{arm}: {sequences(phases, arm)}" for arm in shown)
    alt = f"Above, the matrix entropy over updates, a thin line for each run; below, coloured bars for its phases. {by_arm}."
    return drawn(figure, "phases", "Does the spectrum go through phases?", full_caption, alt)


def _draw_entropies(axes: Axes, arms: Arms, arm: str) -> None:
    """Draw the entropy of each run of an arm as a thin line."""
    for run in arms[arm]:
        steps, values = [point.step for point in run.points], [point.entropy.value for point in run.points]
        axes.plot(steps, values, color=colour_of(arm, list(arms).index(arm)), linewidth=0.9, alpha=0.75)
    axes.set_title(plain(arm), fontsize=9)
    axes.tick_params(labelbottom=False)


def _draw_bars(axes: Axes, phases: Sequence[PhaseRecord]) -> None:
    """Draw one bar for each seed, coloured by phase."""
    seeds = sorted({phase.seed for phase in phases})
    for phase in phases:
        colour, hatch = LABELS.get(phase.label, ("white", ""))
        style = {"height": 0.7, "color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.8}
        axes.barh(seeds.index(phase.seed), phase.end - phase.begin, left=phase.begin, **style)
    axes.set_yticks(range(len(seeds)), [str(seed) for seed in seeds], fontsize=7)
    axes.set_ylim(len(seeds) - 0.4, -0.6)
    axes.grid(visible=False)


def sequences(phases: Sequence[PhaseRecord], arm: str) -> str:
    """Count the runs of an arm by the sequence of their phases, as text; equal neighbours count as one phase."""
    counts: dict[str, int] = {}
    for seed in sorted({phase.seed for phase in phases if phase.arm == arm}):
        ordered = sorted((phase for phase in phases if (phase.arm, phase.seed) == (arm, seed)), key=lambda phase: phase.begin)
        sequence = ", ".join(label for label, _ in groupby(ordered, key=lambda phase: phase.label))
        counts[sequence] = counts.get(sequence, 0) + 1
    return ", and ".join(f"{count} x ({sequence})" for sequence, count in counts.items())
