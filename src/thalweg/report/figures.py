"""Figures of a study, drawn from records alone: each function returns a figure with its caption and its words for the blind."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.records.run import EvaluationRecord, Provenance, RunRecord, StudySummary
from thalweg.report.curves import band, by_arm
from thalweg.storage import atomic_stream

COLOURS = {
    "single": "#0072B2",
    "looped": "#D55E00",
    "shift": "#009E73",
    "shift-hard": "#CC79A7",
    "shift-scp": "#8A6D00",
    "looped-fast": "#7A3B00",
    "looped-short": "#A50026",
    "next-token": "#555555",
    "fixed": "#E69F00",
    "random": "#56B4E9",
    "shift-short": "#00573F",
    "single-rescaled": "#56B4E9",
    "single-flops": "#8C8C8C",
}
"""Okabe and Ito's palette, safe for colour-blind readers."""
DASHES = {
    "shift-hard": (4, 2),
    "shift-scp": (5, 1.5),
    "shift-short": (1.5, 1),
    "looped-fast": (5, 1, 1, 1),
    "looped-short": (1.5, 1),
    "next-token": (1, 1),
    "fixed": (4, 1),
    "random": (2, 2),
    "single-rescaled": (2, 1),
    "single-flops": (1, 1),
}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "svg.hashsalt": "thalweg",
    "svg.fonttype": "path",
}

Grouped = dict[str, list[RunRecord]]
Measure = Callable[[EvaluationRecord], float]
SPENT: dict[str, Measure] = {
    "training time (s), evaluation left out": lambda e: e.seconds,
    "counted operations (TFLOP)": lambda e: e.flops / 1e12,
}
"""What a run is paid with, by the label of its axis."""


@dataclass(frozen=True)
class Drawn:
    """One figure: ``name`` of its files, heading, caption (with the set-up) and a description of what it shows."""

    name: str
    heading: str
    caption: str
    alt: str
    svg: bytes
    png: bytes


def draw_all(summary: StudySummary, runs: dict[str, RunRecord]) -> list[Drawn]:
    """Every figure of a study."""
    grouped = by_arm(runs, summary.arms)
    with matplotlib.rc_context(STYLE):
        if summary.task == "markov":
            return [
                _accuracy_by_stratum(summary, grouped),
                _loss_against_cost(summary, grouped),
                switches(summary, grouped),
                long_tail(summary, grouped),
            ]
        return [_bits_over_training(summary, grouped), _loss_against_cost(summary, grouped), switches(summary, grouped)]


def save_all(figures: list[Drawn], folder: Path) -> None:
    """SVG and PNG of every figure."""
    for figure in figures:
        atomic_stream(folder / f"{figure.name}.svg", [figure.svg])
        atomic_stream(folder / f"{figure.name}.png", [figure.png])


def drawn(figure: Figure, name: str, heading: str, caption: str, alt: str) -> Drawn:
    """The figure in both formats; the same records give the same bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None}, bbox_inches="tight")
    figure.savefig(png, format="png", dpi=160, bbox_inches="tight")
    return Drawn(name, heading, caption, alt, svg.getvalue(), png.getvalue())


class Described(Protocol):
    """A summary that says how it was made."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of every arm."""
        ...

    @property
    def setup(self) -> dict[str, str]:
        """Topic -> words."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Machine, device and versions."""
        ...


def setup(summary: Described) -> str:
    """The end of every caption: what is needed to repeat the figure."""
    where, told = summary.provenance, summary.setup
    commit = f", commit {where.commit}" if where.commit else ""
    seeds = told.get("Seeds", ", ".join(map(str, summary.seeds)))
    words = [told[topic] for topic in ("Model", "Training") if topic in told]
    return ". ".join(
        [*words, f"Seeds: {seeds}", f"{where.machine}, {where.device}, PyTorch {where.torch}, thalweg {where.version}{commit}."]
    )


def score(where: str, stratum: str, what: str, factor: float = 1.0) -> Measure:
    """One number of an evaluation."""
    return lambda e: factor * getattr(e.scores[where][stratum], what)


def draw_band(axes: Axes, arm: str, runs: list[RunRecord], x: Measure, y: Measure) -> None:
    """Mean and band of one arm."""
    curve = band(runs, x, y)
    line = {"color": COLOURS.get(arm, "black"), "label": arm, "linewidth": 1.6}
    axes.plot(curve.x, curve.mean, **line, dashes=DASHES.get(arm, (None, None)))  # type: ignore[arg-type]
    axes.fill_between(curve.x, curve.low, curve.high, color=line["color"], alpha=0.16, linewidth=0)  # type: ignore[arg-type]


def _mark_switches(axes: Axes, grouped: Grouped, arms: tuple[str, ...] = ("shift",)) -> None:
    """A thin line at every switch of every seed."""
    for arm in arms:
        for run in grouped.get(arm, []):
            for switch in run.switches:
                axes.axvline(switch.step, color=COLOURS[arm], alpha=0.5, linewidth=0.8, dashes=(1, 2))


def ceiling(grouped: Grouped, where: str, stratum: str) -> float | None:
    """The Bayes accuracy of a stratum, mean over the seeds of the first arm."""
    found = [run.summary.ceilings[where][stratum].accuracy for run in next(iter(grouped.values())) if run.summary]
    return sum(found) / len(found) if found else None


def longest(grouped: Grouped) -> int:
    """Updates of the arms without the longer single-flops control."""
    return max(run.evaluations[-1].step for arm, runs in grouped.items() if arm != "single-flops" for run in runs)


def _accuracy_by_stratum(summary: StudySummary, grouped: Grouped) -> Drawn:
    """Row 3 of the study: accuracy of the low and high strata over training, on train and held-out."""
    shown = {arm: runs for arm, runs in grouped.items() if arm != "single-flops" or len(grouped) == 1}
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True)
    for row, stratum in enumerate(("high", "low")):
        for column, where in enumerate(("train", "held-out")):
            axes = grid[row][column]
            for arm, runs in shown.items():
                draw_band(axes, arm, runs, lambda e: e.step, score(where, stratum, "accuracy"))
            _mark_switches(axes, shown)
            best = ceiling(grouped, where, stratum)
            if best is not None:
                axes.axhline(best, color="black", linewidth=0.9, dashes=(6, 3), label="Bayes ceiling")
                early = _early_accuracy(shown, where, stratum)
                axes.set_ylim(early - 0.1 * (best - early), best + 0.1 * (best - early))
            axes.set_title(f"{stratum} information, {where}", fontsize=9)
            axes.set_ylabel("accuracy (share of top-1 hits)" if column == 0 else "")
            axes.set_xlabel("updates" if row == 1 else "")
    lines, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, fontsize=8, loc="outside lower center", ncols=len(labels))
    caption = (
        "Accuracy of high- and low-information sequences over training. Lines: mean over seeds; bands: 95 % t-interval; dotted "
        f"verticals: switches of shift, one a seed; dashed: the Bayes-optimal predictor on the same sequences. {setup(summary)}"
    )
    ends = "; ".join(f"{arm} {_band_end(runs, 'train', 'high'):.3f}" for arm, runs in shown.items())
    alt = f"Four panels of accuracy over updates. Final training accuracy on high-information sequences: {ends}."
    return drawn(figure, "accuracy-by-stratum", "Who keeps learning the hard sequences?", caption, alt)


def _band_end(runs: list[RunRecord], where: str, stratum: str) -> float:
    """Mean accuracy at the last evaluation."""
    return sum(run.evaluations[-1].scores[where][stratum].accuracy for run in runs) / len(runs)


def _early_accuracy(grouped: Grouped, where: str, stratum: str) -> float:
    """The lowest accuracy at the second evaluation after the start: where the steep first rise is over."""
    runs = [run for one in grouped.values() for run in one]
    return min(run.evaluations[min(2, len(run.evaluations) - 1)].scores[where][stratum].accuracy for run in runs)


def _loss_against_cost(summary: StudySummary, grouped: Grouped) -> Drawn:
    """Row 9: held-out loss against training seconds and against counted operations."""
    text = summary.task == "text"
    unit, factor = ("bits per byte", 1 / math.log(2)) if text else ("nats per token", 1.0)
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, (label, cost) in zip((left, right), SPENT.items(), strict=True):
        for arm, runs in grouped.items():
            draw_band(axes, arm, runs, cost, score("held-out", "all", "loss", factor))
        axes.set_xlabel(label)
    lowest, last = zoom([run for runs in grouped.values() for run in runs], factor)
    left.set_ylim(lowest, last)
    left.set_ylabel(f"held-out loss ({unit})")
    right.legend(fontsize=8)
    caption = (
        "Held-out loss against what was spent. Lines: mean over seeds on the stretch that all seeds cover; bands: 95 % t-interval. "
        f"The upper part of the first fall is cut off. {setup(summary)}"
    )
    ends = "; ".join(
        f"{arm} {row['seconds'].mean:.1f} s and {row['teraflops'].mean:.3g} TFLOP in all" for arm, row in summary.table.items()
    )
    return drawn(figure, "loss-against-cost", "What does it cost?", caption, f"Two panels of held-out loss. {ends}.")


def zoom(runs: list[RunRecord], factor: float) -> tuple[float, float]:
    """Limits that show the end of the curves: from the lowest loss to a little above what all reach in a sixth of the run."""
    losses = [[factor * e.scores["held-out"]["all"].loss for e in run.evaluations] for run in runs]
    low, high = min(min(one) for one in losses), max(one[max(1, len(one) // 6)] for one in losses)
    return low - 0.05 * (high - low), high + 0.1 * (high - low)


def switches(summary: StudySummary, grouped: Grouped) -> Drawn:
    """What a switch does: held-out loss of the same weights before and after, seed by seed."""
    figure = Figure(figsize=(8.4, 2.8), layout="constrained")
    axes = figure.subplots()
    jumps: list[str] = []
    arms = [arm for arm, runs in grouped.items() if any(run.switches for run in runs)]
    for row, arm in enumerate(arms):
        for run in grouped[arm]:
            for switch in run.switches:
                ends = [scores["held-out"]["all"].loss for scores in (switch.scores_before, switch.scores_after)]
                axes.plot(ends, [row, row], color=COLOURS.get(arm, "black"), linewidth=1.2, alpha=0.6)
                axes.plot(ends[:1], [row], "o", color=COLOURS.get(arm, "black"), markersize=5, fillstyle="none")
                axes.plot(ends[1:], [row], ">", color=COLOURS.get(arm, "black"), markersize=5)
                jumps.append(f"{arm} at update {switch.step}: {ends[0]:.3f} to {ends[1]:.3f}")
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(-0.6, max(len(arms) - 0.4, 0.6))
    axes.set_xlabel("held-out loss (nats) of the same weights: circle before the switch, arrow after it")
    if not jumps:
        axes.text(0.5, 0.5, "no run of this study has switched", transform=axes.transAxes, ha="center")
    reasons = sorted({switch.reason.split(":")[0] for runs in grouped.values() for run in runs for switch in run.switches})
    caption = (
        "The switch itself, one line a seed; under a ramp the new passes begin with gain 0, so circle and arrow coincide. "
        f"Decided by {', '.join(reasons) or 'no criterion yet'}. {setup(summary)}"
    )
    return drawn(figure, "switches", "What happens at the switch?", caption, f"Switches: {'; '.join(jumps) or 'none'}.")


def long_tail(summary: StudySummary, grouped: Grouped) -> Drawn:
    """Row 2: how information is spread over sequences, and what the best predictor reaches at each position."""
    run = next(iter(grouped.values()))[0].summary
    assert run is not None
    data, tail = run.data, run.data["long_tail"]
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges, counts = data["histogram"]["edges_bits"], data["histogram"]["counts"]
    left.stairs(counts, edges, fill=True, color="#56B4E9")
    for cut, word in zip(data["cuts_bits"], ("low", "high"), strict=True):
        left.axvline(cut, color="black", linewidth=0.9, dashes=(3, 2))
        left.annotate(f"{word} cut", (cut, max(counts)), fontsize=8, xytext=(3, -8), textcoords="offset points")
    left.set_xlabel("information content of a sequence (bits)")
    left.set_ylabel("training sequences")
    for stratum, colour in (("low", "#009E73"), ("all", "#000000"), ("high", "#D55E00")):
        values = data["ceilings"]["train"][stratum]["accuracy_by_position"]
        first = len(data["ceilings"]["train"]["all"]["accuracy_by_position"])
        right.plot(range(1, first + 1), values, "o-", color=colour, markersize=3, label=stratum)
    right.set_xlabel("scored position")
    right.set_ylabel("Bayes accuracy (train)")
    right.legend(fontsize=8)
    caption = (
        f"Left: the long tail of information, seed {run.seed}: mean {tail['mean']:.2f} bits, median {tail['median']:.2f}, skewness "
        f"{tail['skewness']:.2f}; the top quarter holds {tail['top_quarter_share']:.0%} of the bits, the top tenth "
        f"{tail['top_tenth_share']:.0%}. Right: accuracy of the Bayes-optimal predictor by position. {summary.setup['Data']}."
    )
    alt = f"Histogram of information content with skewness {tail['skewness']:.2f}, and Bayes accuracy by position and stratum."
    return drawn(figure, "long-tail", "What is there to learn?", caption, alt)


def _bits_over_training(summary: StudySummary, grouped: Grouped) -> Drawn:
    """Bits per byte on training and held-out files over training."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, where in zip(panels, ("train", "held-out"), strict=True):
        for arm, runs in grouped.items():
            if arm != "single-flops" or len(grouped) == 1:
                draw_band(axes, arm, runs, lambda e: e.step, score(where, "all", "loss", 1 / math.log(2)))
        _mark_switches(axes, grouped)
        axes.set_title(f"{where} files", fontsize=9)
        axes.set_xlabel("updates")
    low, high = zoom([run for runs in grouped.values() for run in runs], 1 / math.log(2))
    panels[0].set_ylim(low, high)
    panels[0].set_ylabel("bits per byte")
    panels[1].legend(fontsize=8)
    caption = (
        "Bits per byte of real text over training. Lines: mean over seeds; bands: 95 % t-interval; dotted verticals: switches of "
        f"shift. {summary.setup['Data']}. {setup(summary)}"
    )
    ends = "; ".join(f"{arm} {row['held-out bits'].mean:.3f}" for arm, row in summary.table.items())
    return drawn(figure, "bits-over-training", "Who compresses better?", caption, f"Final held-out bits per byte: {ends}.")
