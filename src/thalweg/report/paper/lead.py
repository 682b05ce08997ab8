"""The figure of the first screen of a study: what the arms have learned over training, in one panel with large labels."""

from __future__ import annotations

import math

import matplotlib
from matplotlib.figure import Figure

from thalweg.records.run import StudySummary
from thalweg.report.curves import late_accuracies
from thalweg.report.figures import Drawn, Grouped, ceiling, draw_band, drawn, score, zoom
from thalweg.report.panels import FIRST_WIDTH, STYLE, labelled, legend_below

LEAD = "lead"
_SIZE = 10.5
"""Points of every label: readable where the figure is half a page or a phone wide."""
_MAIN = ("single", "looped", "shift", "shift-hard")
"""Arms that are drawn; controls are left to the other figures."""


@matplotlib.rc_context({**STYLE, "font.size": _SIZE})
def lead_drawn(summary: StudySummary, grouped: Grouped, caption: str) -> Drawn | None:
    """Held-out accuracy on high-information sequences over training; on text the held-out loss in bits per byte.

    Args:
        summary: of the study.
        grouped: arm -> its complete runs.
        caption: the set-up, which ends the caption.
    Returns:
        None where no run of a main arm was scored twice.
    """
    shown = {arm: runs for arm in _MAIN if (runs := [run for run in grouped.get(arm, []) if len(run.evaluations) > 1])}
    if not shown:
        return None
    every = [run for runs in shown.values() for run in runs]
    strata = all("high" in e.scores["held-out"] for run in every for e in run.evaluations)
    bits = 1 / math.log(2)
    measure = score("held-out", "high", "accuracy") if strata else score("held-out", "all", "loss", bits)
    figure = Figure(figsize=(FIRST_WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    for arm, runs in shown.items():
        draw_band(axes, arm, runs, lambda e: e.step, measure)
    if strata and (best := ceiling(shown, "held-out", "high")):
        axes.axhline(best, color="black", linewidth=0.9, dashes=(6, 3), label="best possible")
        axes.set_ylim(*late_accuracies(every, "high", best))
    elif not strata:
        axes.set_ylim(*zoom(every, bits))
    axes.set_xlabel("updates")
    axes.set_ylabel("held-out accuracy, hard sequences" if strata else "held-out loss (bits per byte)")
    legend_below(figure, labelled([axes]), 3)
    for text in figure.legends[-1].get_texts():
        text.set_fontsize(_SIZE)
        text.set_parse_math(False)
    what = "accuracy on held-out high-information sequences" if strata else "held-out loss in bits per byte"
    ends = {arm: sum(measure(run.evaluations[-1]) for run in runs) / len(runs) for arm, runs in shown.items()}
    ranked = sorted(ends, key=lambda arm: ends[arm], reverse=strata)
    alt = (
        f"A line for each arm shows the {what} over training. "
        f"At the end {ranked[0]} is best: {', '.join(f'{arm} {ends[arm]:.3f}' for arm in ranked)}."
    )
    full = f"{what[:1].upper()}{what[1:]} over training. Lines: mean over seeds; bands: 95 % t-interval. {caption}"
    return drawn(figure, LEAD, "What do the arms learn?", full, alt)
