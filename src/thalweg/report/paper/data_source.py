"""How sequences of the Markov language are made: the graph of its tokens, and sequences with the bits of each transition."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle

from thalweg.report.figures import Drawn, drawn
from thalweg.report.panels import STYLE, legend_below

SIMPLE, COMPLEX = "#0072B2", "#E69F00"
"""Colours of simple tokens (circles) and of complex ones (squares)."""
_HEIGHT = 0.36
"""Height of a row of tokens, inches."""
WIDEST = 2.6
"""Width of the arrow of a transition with probability 1, points."""
_GAP = 1.5
"""Free places on the circle between simple and complex tokens, on either side."""


@matplotlib.rc_context(STYLE)
def source_drawn(data: dict[str, Any], caption: str) -> Drawn | None:
    """Graph of the source (left), and sequences with the bits of each of their transitions (right).

    Args:
        data: facts on a run's data. The key "source" holds ``order``, the number of tokens that a transition depends on;
            ``simple_tokens``, the number of simple tokens, which come first; ``successors`` of every token, the likeliest first,
            as pairs of token and probability (none where there are too many tokens to draw); and ``examples``. Each example has
            the first of its ``tokens``, the ``bits`` of the transitions between these, and of the whole sequence the number of
            ``transitions`` and the ``total`` of bits.
        caption: the set-up, which ends the caption.
    Returns:
        None where the facts do not describe the source.
    """
    source = data.get("source")
    if not source or not source["examples"]:
        return None
    successors, simple = source["successors"], source["simple_tokens"]
    examples = sorted(source["examples"], key=lambda example: example["total"])
    height = max(3.9 if successors else 1.2, _HEIGHT * (len(examples) + 2.2))
    figure = Figure(figsize=(9.2 if successors else 5.6, height), layout="constrained")
    if successors:
        left, right = figure.subplots(1, 2, width_ratios=(3.9, 5.3))
        _draw_graph(left, successors, simple)
    else:
        right = figure.subplots()
    _draw_sequences(right, examples, source["order"], simple)
    legend_below(figure, _keys(), 2)
    graph = (
        "Graph of the source (left), and training sequences (right). Each token has arrows to its likeliest successors, as wide as "
        "they are likely, as a mean over contexts that end in the token; arrows to itself are left out. A "
        "simple token has one sure "
        "successor, a complex token has many. Right: one sequence in a row, from few bits to many; "
        if successors
        else "Training sequences, one in a row, from few bits to many; "
    )
    full_caption = (
        f"{graph}under each token stands the information content -log2 p of the transition to it, in bits. The first "
        f"{source['order']} tokens are drawn uniformly and carry none. {caption}"
    )
    totals = ", ".join(f"{example['total']:.1f}" for example in examples)
    tokens = f"A graph of {len(successors)} tokens: {simple} simple, {len(successors) - simple} complex. " if successors else ""
    alt = f"{tokens}{len(examples)} sequences of {totals} bits."
    return drawn(figure, "source", "How are the sequences made?", full_caption, alt)


def _keys() -> list[Line2D]:
    """The entries of the legend: the two kinds of tokens."""
    marks: dict[str, Any] = {"linestyle": "none", "markersize": 8}
    return [
        Line2D([], [], marker="o", color=SIMPLE, label="simple token (round)", **marks),
        Line2D([], [], marker="s", color=COMPLEX, label="complex token (square)", **marks),
    ]


def chained(follows: list[int]) -> list[int]:
    """Order the simple tokens so that, as far as possible, each stands before its successor.

    Args:
        follows: the sure successor of each simple token, by token.

    Example:
        >>> chained([5, 0, 1])
        [2, 1, 0]
    """
    order: list[int] = []
    for start in sorted(range(len(follows)), key=lambda token: token in follows):  # tokens that none leads to come first
        token = start
        while token < len(follows) and token not in order:
            order.append(token)
            token = follows[token]
    return order


def places_of(successors: list[list[tuple[int, float]]], simple: int) -> dict[int, tuple[float, float]]:
    """Token -> (x, y) on the unit circle: simple tokens above, in the order of `chained`, complex tokens "
    "below, with gaps between."""
    count = len(successors)
    order = chained([likely[0][0] for likely in successors[:simple]]) + list(range(simple, count))
    gap = _GAP if 0 < simple < count else 0.0
    turn = 2 * math.pi / (count + 2 * gap)
    angles = [math.pi / 2 + turn * ((simple - 1) / 2 - place - (gap if place >= simple else 0)) for place in range(count)]
    return {token: (math.cos(angle), math.sin(angle)) for token, angle in zip(order, angles, strict=True)}


def _draw_graph(axes: Axes, successors: list[list[tuple[int, float]]], simple: int) -> None:
    """Draw the tokens on a circle, with arrows to their successors; of a simple token only to the sure one."""
    places = places_of(successors, simple)
    size = min(14.0, 260 / len(successors))
    for token, likely in enumerate(successors):
        shown = [pair for pair in likely[: 1 if token < simple else None] if pair[0] != token]
        for other, chance in shown:
            arrow: dict[str, Any] = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.18", "mutation_scale": 5 + 5 * chance}
            arrow |= {"shrinkA": size / 2, "shrinkB": size / 2 + 1, "linewidth": max(0.4, WIDEST * chance)}
            arrow |= {"color": SIMPLE, "alpha": 0.9} if token < simple else {"color": COMPLEX, "alpha": 0.6}
            axes.add_patch(FancyArrowPatch(places[token], places[other], **arrow))
    for token, (x, y) in places.items():
        mark, colour, ink = _style_of(token, simple)
        axes.plot(x, y, mark, color=colour, markersize=size, zorder=3)
        axes.text(x, y, f"{token}", ha="center", va="center_baseline", fontsize=0.58 * size, color=ink, zorder=4)
    axes.set_aspect("equal")
    axes.set_xlim(-1.2, 1.2)
    axes.set_ylim(-1.2, 1.2)
    axes.set_axis_off()


def _style_of(token: int, simple: int) -> tuple[str, str, str]:
    """Marker of a token, its colour, and the colour of the number on it."""
    return ("o", SIMPLE, "white") if token < simple else ("s", COMPLEX, "black")


def _draw_sequences(axes: Axes, examples: list[dict[str, Any]], order: int, simple: int) -> None:
    """Draw one sequence in a row: its tokens as cells, the bits of each transition under the token it leads to, and their sum."""
    longest = max(len(example["tokens"]) for example in examples)
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    for row, example in enumerate(examples):
        for column, token in enumerate(example["tokens"]):
            _, colour, ink = _style_of(token, simple)
            axes.add_patch(Rectangle((column + 0.04, row + 0.06), 0.92, 0.52, facecolor=colour))
            axes.text(column + 0.5, row + 0.33, f"{token}", fontsize=7, color=ink, **middle)
        for column, bits in enumerate(example["bits"], order):
            axes.text(column + 0.5, row + 0.77, brief(bits), fontsize=6, weight="bold" if bits >= 1 else "normal", **middle)
        cut = "… " if len(example["bits"]) < example["transitions"] else ""
        axes.text(longest + 0.2, row + 0.33, f"{cut}{example['total']:.1f} bits", va="center", fontsize=8)
    axes.set_xlim(0, longest * 1.2)
    axes.set_ylim(len(examples), 0)
    axes.set_axis_off()


def brief(bits: float) -> str:
    """A number of bits with two decimals below 1, and one decimal from 1 on."""
    return f"{bits:.2f}" if bits < 0.995 else f"{bits:.1f}"
