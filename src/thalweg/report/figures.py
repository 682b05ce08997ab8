"""The figures of the paper's study that need only its runs; and what every figure needs: files, set-up, curves of an arm.

A figure is drawn from records alone. It comes with its heading, its caption and its alt text.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.records.run import EvaluationRecord, Provenance, RunRecord, StudySummary
from thalweg.report.curves import band, by_arm
from thalweg.report.panels import COLOURS, STYLE, WIDTH, arm_line, draw_mean_and_band, labelled, legend_below
from thalweg.storage import atomic_stream

Grouped = dict[str, list[RunRecord]]
"""Arm -> its complete runs, one a seed."""
Measure = Callable[[EvaluationRecord], float]
"""One number of an evaluation."""
SPENT: dict[str, Measure] = {
    "training time (s), evaluation left out": lambda e: e.seconds,
    "counted operations (TFLOP)": lambda e: e.flops / 1e12,
}
"""Label of an axis with its unit -> the cost of a run so far."""


@dataclass(frozen=True)
class Drawn:
    """One finished figure: the name of its files, heading, caption (which ends with the set-up), alt text, and both formats."""

    name: str
    heading: str
    caption: str
    alt: str
    svg: bytes
    png: bytes


def draw_all(summary: StudySummary, runs: dict[str, RunRecord]) -> list[Drawn]:
    """Every figure of the paper's study that needs only its runs, in the order of the page.

    Args:
        summary: of the study, complete or not.
        runs: by name; runs without a summary are left out.
    """
    grouped = by_arm(runs, summary.arms)
    markov = summary.task == "markov"
    with matplotlib.rc_context(STYLE):
        figures = [
            (_accuracy_by_stratum if markov else _bits_over_training)(summary, grouped),
            _loss_against_cost(summary, grouped),
            switches(summary, grouped),
            long_tail(summary, grouped) if markov else None,
        ]
    return [figure for figure in figures if figure is not None]


def save_all(figures: list[Drawn], folder: Path) -> None:
    """Write every figure to ``folder`` as ``NAME.svg`` and ``NAME.png``."""
    for figure in figures:
        atomic_stream(folder / f"{figure.name}.svg", [figure.svg])
        atomic_stream(folder / f"{figure.name}.png", [figure.png])


def drawn(figure: Figure, name: str, heading: str, caption: str, alt: str) -> Drawn:
    """Render a figure in both formats; the same records give the same bytes.

    Args:
        figure: of matplotlib.
        name: of its files, without an ending.
        heading: the question that it answers.
        caption: what is plotted, how to read it, and the set-up.
        alt: what it shows, with its main numbers, for readers who do not see it.
    """
    svg, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": STYLE["svg.hashsalt"]}):  # else every SVG has random identifiers
        figure.savefig(svg, format="svg", metadata={"Date": None}, bbox_inches="tight")  # a date would change the bytes, too
    figure.savefig(png, format="png", dpi=160, bbox_inches="tight")
    return Drawn(name, heading, caption, alt, svg.getvalue(), png.getvalue())


class Described(Protocol):
    """A summary that says how its study was made."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of every arm."""
        ...

    @property
    def setup(self) -> dict[str, str]:
        """Topic, such as "Model" -> a description of it."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Machine, device and versions."""
        ...


def setup(summary: Described) -> str:
    """The set-up that ends every caption: model, training, seeds, machine and versions, as needed to repeat the figure."""
    origin, topics = summary.provenance, summary.setup
    commit = f", commit {origin.commit}" if origin.commit else ""
    seeds = topics.get("Seeds", ", ".join(map(str, summary.seeds)))
    parts = [topics[topic] for topic in ("Model", "Training") if topic in topics]
    versions = f"{origin.machine}, {origin.device}, PyTorch {origin.torch}, thalweg {origin.version}{commit}."
    return ". ".join([*parts, f"Seeds: {seeds}", versions])


def score(where: str, stratum: str, what: str, factor: float = 1.0) -> Measure:
    """A measure that takes one score from an evaluation.

    Args:
        where: what was scored: "train", "held-out".
        stratum: "all", "low" or "high" information.
        what: "loss" (nats) or "accuracy" (0 to 1).
        factor: multiplies the score, for another unit.
    """
    return lambda e: factor * getattr(e.scores[where][stratum], what)


def draw_band(axes: Axes, arm: str, runs: list[RunRecord], x: Measure, y: Measure) -> None:
    """Draw the mean over the runs of an arm and its 95 % interval, in the arm's colour."""
    draw_mean_and_band(axes, band(runs, x, y), **arm_line(arm), linewidth=1.6)


def _mark_switches(axes: Axes, grouped: Grouped) -> None:
    """Draw a thin vertical line at every switch of every seed of the arm shift."""
    for run in grouped.get("shift", []):
        for switch in run.switches:
            axes.axvline(switch.step, color=COLOURS["shift"], alpha=0.5, linewidth=0.8, dashes=(1, 2))


def ceiling(grouped: Grouped, where: str, stratum: str) -> float | None:
    """The Bayes accuracy of a stratum: the mean over the seeds of the first arm, whose data all arms share."""
    first_arm = next(iter(grouped.values()))
    best = [run.summary.ceilings[where][stratum].accuracy for run in first_arm if run.summary]
    return sum(best) / len(best) if best else None


def _without_longer_control(grouped: Grouped) -> Grouped:
    """The arms without single-flops, whose runs are longer than all others, unless it is the only arm."""
    return {arm: runs for arm, runs in grouped.items() if arm != "single-flops" or len(grouped) == 1}


def _accuracy_by_stratum(summary: StudySummary, grouped: Grouped) -> Drawn:
    """Draw the accuracy of the low and high strata over training, on training and held-out sequences."""
    shown = _without_longer_control(grouped)
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
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
    artists = labelled([grid[0][0]])
    legend_below(figure, artists, len(artists))
    caption = (
        "Accuracy of high- and low-information sequences over training. Lines: mean over seeds; bands: 95 % t-interval; dotted "
        "vertical lines: the switch of each seed of shift; dashed: accuracy of the Bayes-optimal predictor on the same sequences. "
        f"{setup(summary)}"
    )
    ends = "; ".join(f"{arm} {_last_accuracy(runs, 'train', 'high'):.3f}" for arm, runs in shown.items())
    alt = (
        "Four panels in two rows show accuracy over updates: hard sequences above and easy ones below, training on the left and "
        "held-out on the right. A dashed line is the best possible accuracy. At the "
        f"end, on hard training sequences: {ends}."
    )
    return drawn(figure, "accuracy-by-stratum", "Who keeps learning the hard sequences?", caption, alt)


def _last_accuracy(runs: list[RunRecord], where: str, stratum: str) -> float:
    """Mean accuracy at the last evaluation."""
    return sum(run.evaluations[-1].scores[where][stratum].accuracy for run in runs) / len(runs)


def _early_accuracy(grouped: Grouped, where: str, stratum: str) -> float:
    """The lowest accuracy at the second evaluation after the start, where the steep first rise is over."""
    runs = [run for members in grouped.values() for run in members]
    return min(run.evaluations[min(2, len(run.evaluations) - 1)].scores[where][stratum].accuracy for run in runs)


def _loss_against_cost(summary: StudySummary, grouped: Grouped) -> Drawn:
    """Draw the held-out loss against training seconds and against counted operations."""
    unit, factor = ("bits per byte", 1 / math.log(2)) if summary.task == "text" else ("nats per token", 1.0)
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, (label, cost) in zip((left, right), SPENT.items(), strict=True):
        for arm, runs in grouped.items():
            draw_band(axes, arm, runs, cost, score("held-out", "all", "loss", factor))
        axes.set_xlabel(label)
    left.set_ylim(*zoom([run for runs in grouped.values() for run in runs], factor))
    left.set_ylabel(f"held-out loss ({unit})")
    right.legend(fontsize=8)
    caption = (
        "Held-out loss against training time and against counted operations. Lines: mean over seeds on the stretch that all seeds "
        f"cover; bands: 95 % t-interval. The vertical axis leaves out the first steep fall. {setup(summary)}"
    )
    ends = "; ".join(
        f"{arm} {row['seconds'].mean:.1f} s and {row['teraflops'].mean:.3g} TFLOP in all" for arm, row in summary.table.items()
    )
    return drawn(
        figure,
        "loss-against-cost",
        "What does it cost?",
        caption,
        f"Two panels show the held-out loss, on the left over seconds and on the right over operations. Whole cost: {ends}.",
    )


def zoom(runs: list[RunRecord], factor: float) -> tuple[float, float]:
    """Limits of a vertical axis that show the late part of held-out losses, and leave out the first steep fall.

    They reach from the lowest loss to the highest loss after a sixth of the evaluations, both times ``factor``, with some room.
    """
    curves = [[factor * e.scores["held-out"]["all"].loss for e in run.evaluations] for run in runs]
    low, high = min(min(losses) for losses in curves), max(losses[max(1, len(losses) // 6)] for losses in curves)
    return low - 0.05 * (high - low), high + 0.1 * (high - low)


def switches(summary: StudySummary, grouped: Grouped) -> Drawn | None:
    """Draw the held-out loss of the same weights just before and just after each switch, seed by seed; None without a switch."""
    if not any(run.switches for runs in grouped.values() for run in runs):
        return None
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = figure.subplots()
    jumps: list[str] = []
    arms = [arm for arm, runs in grouped.items() if any(run.switches for run in runs)]
    for row, arm in enumerate(arms):
        colour = COLOURS.get(arm, "black")
        for switch in (switch for run in grouped[arm] for switch in run.switches):
            before, after = (scores["held-out"]["all"].loss for scores in (switch.scores_before, switch.scores_after))
            axes.plot([before, after], [row, row], color=colour, linewidth=1.2, alpha=0.6)
            axes.plot([before], [row], "o", color=colour, markersize=5, fillstyle="none")
            axes.plot([after], [row], ">", color=colour, markersize=5)
            jumps.append(f"{arm} at update {switch.step}: {before:.3f} to {after:.3f}")
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(-0.6, max(len(arms) - 0.4, 0.6))
    axes.set_xlabel("held-out loss (nats) of the same weights: circle before the switch, arrow after it")
    reasons = sorted({switch.reason.split(":")[0] for runs in grouped.values() for run in runs for switch in run.switches})
    caption = (
        "Held-out loss of the same weights before and after the switch. Circle: before; arrow: after; one line for each seed. With "
        "a ramp the new passes begin with gain 0, so circle and arrow coincide. "
        f"Decided by {', '.join(reasons)}. {setup(summary)}"
    )
    return drawn(
        figure,
        "switches",
        "What happens at the switch?",
        caption,
        "One row for each arm that switches. A line leads from the loss before the switch to the loss after it: "
        f"{'; '.join(jumps)}.",
    )


def long_tail(summary: StudySummary, grouped: Grouped) -> Drawn:
    """Draw how information is spread over sequences, and the Bayes accuracy at each scored position."""
    run = next(iter(grouped.values()))[0].summary
    assert run is not None
    data, tail = run.data, run.data["long_tail"]
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges, counts = data["histogram"]["edges_bits"], data["histogram"]["counts"]
    left.stairs(counts, edges, fill=True, color="#56B4E9")
    for cut, side in zip(data["cuts_bits"], ("low", "high"), strict=True):
        left.axvline(cut, color="black", linewidth=0.9, dashes=(3, 2))
        left.annotate(f"{side} cut", (cut, max(counts)), fontsize=8, xytext=(3, -8), textcoords="offset points")
    left.set_xlabel("information content of a sequence (bits)")
    left.set_ylabel("training sequences")
    for stratum, colour in (("low", "#009E73"), ("all", "#000000"), ("high", "#D55E00")):
        accuracies = data["ceilings"]["train"][stratum]["accuracy_by_position"]
        positions = len(data["ceilings"]["train"]["all"]["accuracy_by_position"])
        right.plot(range(1, positions + 1), accuracies, "o-", color=colour, markersize=3, label=stratum)
    right.set_xlabel("scored position")
    right.set_ylabel("Bayes accuracy (train)")
    right.legend(fontsize=8)
    caption = (
        "Histogram of the information content of training sequences (left), and accuracy of the Bayes-optimal predictor by "
        f"position (right). Seed {run.seed}: mean {tail['mean']:.2f} bits, median {tail['median']:.2f}, skewness "
        f"{tail['skewness']:.2f}; the top quarter of the sequences holds {100 * tail['top_quarter_share']:.0f} % of the bits, the "
        f"top tenth {100 * tail['top_tenth_share']:.0f} %. {summary.setup['Data']}."
    )
    alt = (
        f"On the left a histogram of how many bits the sequences hold, with a skewness of {tail['skewness']:.2f} (above 0: a long "
        "tail to the right). Two vertical lines cut off the easy and the hard quarter. On the right the best possible accuracy at "
        "each position of easy, of hard and of all sequences."
    )
    return drawn(figure, "long-tail", "What is there to learn?", caption, alt)


def _bits_over_training(summary: StudySummary, grouped: Grouped) -> Drawn:
    """Draw bits per byte on training and held-out files over training."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, where in zip(panels, ("train", "held-out"), strict=True):
        for arm, runs in _without_longer_control(grouped).items():
            draw_band(axes, arm, runs, lambda e: e.step, score(where, "all", "loss", 1 / math.log(2)))
        _mark_switches(axes, grouped)
        axes.set_title(f"{where} files", fontsize=9)
        axes.set_xlabel("updates")
    panels[0].set_ylim(*zoom([run for runs in grouped.values() for run in runs], 1 / math.log(2)))
    panels[0].set_ylabel("bits per byte")
    panels[1].legend(fontsize=8)
    caption = (
        "Bits per byte of real text over training. Lines: mean over seeds; bands: 95 % t-interval; dotted vertical lines: the "
        f"switch of each seed of shift. {summary.setup['Data']}. {setup(summary)}"
    )
    ends = "; ".join(f"{arm} {row['held-out bits'].mean:.3f}" for arm, row in summary.table.items())
    return drawn(
        figure,
        "bits-over-training",
        "Who compresses better?",
        caption,
        f"Two panels show bits per byte over updates, on training files and on held-out files. Held-out at the end: {ends}.",
    )
