"""The figure of length generalisation: scores on sequences longer than those learned from, and what such sequences are like.

Shape letters: S seeds, M multiples of the training length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.errors import require
from thalweg.intervals import Interval, interval
from thalweg.records.landscape import LengthRecord
from thalweg.report.figures import COLOURS, DASHES, STYLE, Drawn, drawn

Seeds = Sequence[tuple[LengthRecord, ...]]
"""The length records of each seed of an arm."""
_Value = Callable[[LengthRecord], float | None]
_WORDS = {"accuracy": "accuracy (share of top-1 hits)", "loss": "loss (nats per token)"}


def figure_lengths(landscapes: dict[str, list[tuple[LengthRecord, ...]]], setup: str = "") -> Drawn:
    """Accuracy of the high and low strata over the length, the Bayes ceiling, and the mix of information below.

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
        figure.legend(lines, labels, fontsize=8, loc="outside upper center", ncols=max(1, min(len(labels), 7)), handlelength=2.5)
        words = caption(landscapes, mixed, setup), alt(landscapes, panels)
        return drawn(figure, "lengths", "Does it hold on longer sequences?", *words)


def over_lengths(seeds: Seeds, value: _Value) -> dict[int, Interval]:
    """Multiple -> mean and 95 % interval of a value over the seeds that have it; of a seed's records the last counts."""
    by_multiple: dict[int, list[float]] = {}
    for records in seeds:
        for multiple, record in {record.multiple: record for record in records}.items():
            number = value(record)
            if number is not None:
                by_multiple.setdefault(multiple, []).append(number)
    return {multiple: interval(by_multiple[multiple]) for multiple in sorted(by_multiple)}


def score_of(stratum: str, what: str) -> _Value:
    """One number of a record's scores; None where it could not be scored."""
    return lambda record: getattr(record.scores[stratum], what) if stratum in record.scores else None


def _ceiling_of(stratum: str, what: str) -> _Value:
    """The best possible number; None where it is not known."""
    return lambda record: getattr(record.ceilings[stratum], what) if stratum in record.ceilings else None


def draw_scores(axes: Axes, landscapes: dict[str, list[tuple[LengthRecord, ...]]], source: Seeds, stratum: str, what: str) -> None:
    """One score of every arm with its band, and the best possible one."""
    for number, (arm, seeds) in enumerate(landscapes.items()):
        dodge = 1.04 ** (number - (len(landscapes) - 1) / 2)
        line = {"color": COLOURS.get(arm, "black"), "dashes": DASHES.get(arm, (None, None)), "label": arm}
        _draw_band(axes, over_lengths(seeds, score_of(stratum, what)), dodge, **line)
    title = "all sequences" if stratum == "all" else f"{stratum} information"
    axes.set_title(title if axes.lines else f"{title}: no run could be scored", fontsize=9)
    best = over_lengths(source, _ceiling_of(stratum, what))
    if best:
        line = {"color": "black", "linewidth": 0.9, "dashes": (5, 3), "marker": "_" if len(best) == 1 else None}
        axes.plot(list(best), [found.mean for found in best.values()], label="Bayes ceiling", **line)
    if what == "accuracy":
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1.02))
    axes.set_ylabel(_WORDS[what])


def _draw_band(axes: Axes, found: dict[int, Interval], dodge: float, **line: Any) -> None:
    """Mean and band over the multiples; at a single one a bar, moved aside so that the bars of several arms can be told apart."""
    places, mean = [float(m) for m in found], [one.mean for one in found.values()]
    low = [one.mean if one.low is None else one.low for one in found.values()]
    high = [one.mean if one.high is None else one.high for one in found.values()]
    if len(places) == 1:
        places = [places[0] * dodge]
        axes.vlines(places, low, high, color=line["color"], linewidth=1.2, alpha=0.6)
    elif places:
        axes.fill_between(places, low, high, color=line["color"], alpha=0.16, linewidth=0)
    if places:
        axes.plot(places, mean, marker="o", markersize=3.5, linewidth=1.6, **line)


def draw_bits(axes: Axes, source: Seeds) -> None:
    """Bits for each scored token: mean and standard deviation over sequences, both as means over seeds."""
    mean, spread = over_lengths(source, lambda r: r.bits_mean), over_lengths(source, lambda r: r.bits_deviation)
    middle, around = [mean[m].mean for m in spread], [found.mean for found in spread.values()]
    axes.errorbar(list(spread), middle, around, fmt="o-", color="black", markersize=3.5, linewidth=1.2, capsize=3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("information\n(bits per scored token)")
    axes.set_title("mean and deviation over sequences", fontsize=9)


def draw_shares(axes: Axes, source: Seeds) -> None:
    """How many sequences are as poor or as rich in information as the outer quarters of the training set."""
    for name, words, marker, colour in (("low", "below the low cut", "v", "#8C8C8C"), ("high", "above the high cut", "^", "black")):
        found = over_lengths(source, lambda r, name=name: r.shares.get(name))
        shares = [one.mean for one in found.values()]
        axes.plot(list(found), shares, f"{marker}-", color=colour, markersize=4, linewidth=1.2, label=words)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("share of sequences")
    axes.set_title("as extreme as the training set's quarters", fontsize=9)
    axes.legend(fontsize=8)


def _mark_lengths(axes: Axes, known: list[LengthRecord]) -> None:
    """One tick a length, evenly apart when the length doubles."""
    lengths = {record.multiple: record.length for record in known}
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(lengths) / 1.2, max(lengths) * 1.2)
    axes.set_xticks(sorted(lengths), [f"{lengths[m]}\n{m}×" for m in sorted(lengths)])  # noqa: RUF001
    axes.minorticks_off()


def caption(landscapes: dict[str, list[tuple[LengthRecord, ...]]], mixed: bool, setup: str) -> str:
    """What is drawn, which lengths could not be scored and why, and the set-up."""
    words = [
        "Sequences longer than those learned from, with the weights of the end of training.",
        "Lines: mean over seeds; bands: 95 % t-interval.",
    ]
    if mixed:
        words += [
            "High and low information are the outer quarters at each length, so that the ceiling (dashed: the Bayes-optimal",
            "predictor on the same sequences) moves with it. Below: information content for each scored token, mean and standard",
            "deviation over sequences; and the share of sequences beyond the training set's cuts, both for each token.",
        ]
    words += [f"Not scored: {line}." for line in _not_scored(landscapes)]
    return " ".join([*words, setup]).strip()


def _not_scored(landscapes: dict[str, list[tuple[LengthRecord, ...]]]) -> list[str]:
    """One line a reason."""
    found: dict[str, dict[str, set[int]]] = {}
    for arm, seeds in landscapes.items():
        for record in (record for records in seeds for record in records if record.error):
            found.setdefault(record.error, {}).setdefault(arm, set()).add(record.multiple)
    return [
        f"{', '.join(f'{arm} at {numbers(multiples)}' for arm, multiples in arms.items())} times the length ({reason})"
        for reason, arms in found.items()
    ]


def numbers(multiples: set[int]) -> str:
    """Numbers in words: "2, 4 and 8"."""
    *first, last = (str(m) for m in sorted(multiples))
    return f"{', '.join(first)} and {last}" if first else last


def alt(landscapes: dict[str, list[tuple[LengthRecord, ...]]], panels: list[tuple[str, str]]) -> str:
    """The numbers at the shortest and the longest length that each arm was scored on."""
    words = []
    for stratum, what in panels:
        for arm, seeds in landscapes.items():
            found = over_lengths(seeds, score_of(stratum, what))
            ends = " and ".join(f"{found[m].mean:.3f} at {m} times" for m in sorted({min(found), max(found)})) if found else "none"
            words.append(f"{arm} {stratum} {what} {ends}")
    return f"Scores over the multiple of the training length: {'; '.join(words)}."
