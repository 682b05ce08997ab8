"""The figure of length generalisation: scores on sequences longer than those of training, and the information in them.

A multiple is a tested length over the training length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.errors import require
from thalweg.intervals import Interval, interval
from thalweg.records.landscape import LengthRecord
from thalweg.report.curves import band_of
from thalweg.report.figures import Drawn, drawn
from thalweg.report.panels import STYLE, arm_line, draw_mean_and_band

Seeds = Sequence[tuple[LengthRecord, ...]]
"""The length records of each seed of an arm."""
ByArm = dict[str, list[tuple[LengthRecord, ...]]]
"""Arm -> the length records of each seed."""
_Value = Callable[[LengthRecord], float | None]
_LABELS = {"accuracy": "accuracy (share of top-1 hits)", "loss": "loss (nats per token)"}


def figure_lengths(landscapes: ByArm, setup: str = "") -> Drawn:
    """Accuracy of the high and low strata against the length, the Bayes ceiling, and below them the information in the sequences.

    Where the source is not known there are no strata and no ceilings: accuracy and loss of all sequences are drawn instead.

    Args:
        landscapes: arm -> the length records of each seed; a seed without records is left out.
        setup: end of the caption: what is needed to repeat the figure.
    Raises:
        BadInputError: no record at all.
    """
    known = [record for seeds in landscapes.values() for records in seeds for record in records]
    require(bool(known), "landscapes", list(landscapes), "length records of at least one run")
    source = next(seeds for seeds in landscapes.values() if any(seeds))  # the sequences are the same for every arm
    mixed = any(record.bits_mean is not None for record in known)
    panels = [("high", "accuracy"), ("low", "accuracy")] if mixed else [("all", "accuracy"), ("all", "loss")]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 5.8 if mixed else 3.6), layout="constrained")
        grid = figure.subplots(2 if mixed else 1, 2, squeeze=False, height_ratios=(3, 2) if mixed else (1,))
        for axes, (stratum, what) in zip(grid[0], panels, strict=True):
            draw_scores(axes, landscapes, source, stratum, what)
        if mixed:
            draw_bits(grid[1][0], source)
            draw_shares(grid[1][1], source)
        for axes in grid.flat:
            _mark_lengths(axes, known)
        for axes in grid[-1]:
            axes.set_xlabel("length (tokens; times the training length)")
        lines, labels = grid[0][0].get_legend_handles_labels()
        columns = max(1, min(len(labels), 7))
        figure.legend(lines, labels, fontsize=8, loc="outside upper center", ncols=columns, handlelength=2.5)
        texts = _caption(landscapes, mixed, setup), _alt(landscapes, panels)
        return drawn(figure, "lengths", "Does it hold on longer sequences?", *texts)


def over_lengths(seeds: Seeds, value: _Value) -> dict[int, Interval]:
    """Mean and 95 % t-interval of a value over the seeds that have it, at each multiple of the training length.

    Args:
        seeds: the records of each seed; of several records at one multiple the last counts.
        value: takes the value from a record; None where there is none.
    Returns:
        Multiple -> interval, ascending.
    """
    by_multiple: dict[int, list[float]] = {}
    for records in seeds:
        for multiple, record in {record.multiple: record for record in records}.items():
            number = value(record)
            if number is not None:
                by_multiple.setdefault(multiple, []).append(number)
    return {multiple: interval(by_multiple[multiple]) for multiple in sorted(by_multiple)}


def score_of(stratum: str, what: str) -> _Value:
    """A function that takes "accuracy" or "loss" of a stratum from a record; None where it could not be scored."""
    return lambda record: getattr(record.scores[stratum], what) if stratum in record.scores else None


def _ceiling_of(stratum: str, what: str) -> _Value:
    """A function that takes the best possible "accuracy" or "loss" of a stratum; None where it is not known."""
    return lambda record: getattr(record.ceilings[stratum], what) if stratum in record.ceilings else None


def draw_scores(axes: Axes, landscapes: ByArm, source: Seeds, stratum: str, what: str) -> None:
    """Draw one score of every arm with its interval, and the best possible score.

    Args:
        axes: where it is drawn.
        landscapes: arm -> the length records of each seed.
        source: records of one arm, which tell the ceilings of all.
        stratum: "high", "low" or "all".
        what: "accuracy" or "loss".
    """
    for number, (arm, seeds) in enumerate(landscapes.items()):
        aside = 1.04 ** (number - (len(landscapes) - 1) / 2)
        _draw_band(axes, over_lengths(seeds, score_of(stratum, what)), aside, **arm_line(arm))
    title = "all sequences" if stratum == "all" else f"{stratum} information"
    axes.set_title(title if axes.lines else f"{title}: no run could be scored", fontsize=9)
    best = over_lengths(source, _ceiling_of(stratum, what))
    if best:
        line: dict[str, Any] = {"color": "black", "linewidth": 0.9, "dashes": (5, 3), "marker": "_" if len(best) == 1 else None}
        axes.plot(list(best), [point.mean for point in best.values()], label="Bayes ceiling", **line)
    if what == "accuracy":
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1.02))
    axes.set_ylabel(_LABELS[what])


def _draw_band(axes: Axes, intervals: dict[int, Interval], aside: float, **line: Any) -> None:
    """Draw mean and band over the multiples; at a single multiple a bar, moved by the factor ``aside`` so that arms stay apart."""
    curve = band_of(np.array(list(intervals), dtype=float), list(intervals.values()))
    line |= {"marker": "o", "markersize": 3.5, "linewidth": 1.6}
    if len(intervals) == 1:
        axes.vlines(curve.x * aside, curve.low, curve.high, color=line["color"], linewidth=1.2, alpha=0.6)
        axes.plot(curve.x * aside, curve.mean, **line)
    elif intervals:
        draw_mean_and_band(axes, curve, **line)


def draw_bits(axes: Axes, source: Seeds) -> None:
    """Draw the bits for each scored token: mean and standard deviation over sequences, both as means over seeds."""
    mean, spread = over_lengths(source, lambda r: r.bits_mean), over_lengths(source, lambda r: r.bits_deviation)
    middle, around = [mean[multiple].mean for multiple in spread], [point.mean for point in spread.values()]
    axes.errorbar(list(spread), middle, around, fmt="o-", color="black", markersize=3.5, linewidth=1.2, capsize=3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("information\n(bits per scored token)")
    axes.set_title("mean and deviation over sequences", fontsize=9)


def draw_shares(axes: Axes, source: Seeds) -> None:
    """Draw the shares of sequences beyond the cuts of the training set's outer quarters, by information for each token."""
    sides = (("low", "below the low cut", "v", "#8C8C8C"), ("high", "above the high cut", "^", "black"))
    for side, label, marker, colour in sides:
        shares = over_lengths(source, lambda r, side=side: r.shares.get(side))
        means = [point.mean for point in shares.values()]
        axes.plot(list(shares), means, f"{marker}-", color=colour, markersize=4, linewidth=1.2, label=label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("share of sequences")
    axes.set_title("as extreme as the training set's quarters", fontsize=9)
    axes.legend(fontsize=8)


def _mark_lengths(axes: Axes, known: list[LengthRecord]) -> None:
    """Set one tick for each length, with equal distances where the length doubles."""
    lengths = {record.multiple: record.length for record in known}
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(lengths) / 1.2, max(lengths) * 1.2)
    axes.set_xticks(sorted(lengths), [f"{lengths[m]}\n{m}×" for m in sorted(lengths)])  # noqa: RUF001
    axes.minorticks_off()


def _caption(landscapes: ByArm, mixed: bool, setup: str) -> str:
    """What is drawn, which lengths could not be scored and why, and the set-up."""
    what = "Accuracy of high- and low-information sequences" if mixed else "Accuracy and loss"
    sentences = [
        f"{what} against sequence length, from the training length up, with the weights of the end of training.",
        "Lines: mean over seeds; bands: 95 % t-interval.",
    ]
    if mixed:
        sentences.append(
            "High and low information are the outer quarters at each length, so the ceiling (dashed: the Bayes-optimal predictor "
            "on the same sequences) moves with the length. Below: information content for each scored token, mean and standard "
            "deviation over sequences; and the share of sequences beyond the training set's cuts, both for each token."
        )
    sentences += [f"Not scored: {reason}." for reason in _not_scored(landscapes)]
    return " ".join([*sentences, setup]).strip()


def _not_scored(landscapes: ByArm) -> list[str]:
    """For each reason, the arms and multiples that could not be scored, as text."""
    by_reason: dict[str, dict[str, set[int]]] = {}
    for arm, seeds in landscapes.items():
        for record in (record for records in seeds for record in records if record.error):
            by_reason.setdefault(record.error, {}).setdefault(arm, set()).add(record.multiple)
    return [
        f"{', '.join(f'{arm} at {_listed(multiples)}' for arm, multiples in arms.items())} times the length ({reason})"
        for reason, arms in by_reason.items()
    ]


def _listed(multiples: set[int]) -> str:
    """Numbers as a list in a sentence, such as "2, 4 and 8"."""
    *first, last = (str(m) for m in sorted(multiples))
    return f"{', '.join(first)} and {last}" if first else last


def _alt(landscapes: ByArm, panels: list[tuple[str, str]]) -> str:
    """The scores at the shortest and the longest length that each arm was scored on, as text."""
    texts = []
    for stratum, what in panels:
        for arm, seeds in landscapes.items():
            means = {multiple: point.mean for multiple, point in over_lengths(seeds, score_of(stratum, what)).items()}
            ends = " and ".join(f"{means[m]:.3f} at {m} times" for m in sorted({min(means), max(means)})) if means else "none"
            texts.append(f"{arm} {stratum} {what} {ends}")
    return f"Scores over the multiple of the training length: {'; '.join(texts)}."
