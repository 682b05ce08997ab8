"""How the Markov language is made, from the facts in a run's summary: the graph of its tokens, and sequences with their bits."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle

from thalweg.report.figures import STYLE, Drawn, drawn

SIMPLE, COMPLEX = "#0072B2", "#E69F00"
"""Colours of tokens: of circles, and of squares."""
_HEIGHT = 0.36
"""Of a row of tokens, inches."""
WIDEST = 2.6
"""Width of the arrow of a sure transition, points."""
_APART = 1.5
"""Tokens' places on the circle that are left free between simple and complex ones, on either side."""


@matplotlib.rc_context(STYLE)
def source_drawn(data: dict[str, Any], caption: str) -> Drawn | None:
    """Left, the graph of the source; right, sequences with the bits of each of their transitions.

    Args:
        data: facts on a run's data; the key "source" holds ``order``; ``simple_tokens``, how many there are, the first ones;
            ``successors`` of every token, the likeliest first, as pairs of token and probability (none where there are too many
            tokens to draw); and ``examples``, each with the first of its ``tokens``, the ``bits`` of the transitions between
            these, and of the whole sequence the number of ``transitions`` and the ``total`` of bits.
        caption: the set-up in words, the end of the caption.
    Returns:
        None where the facts do not tell of the source.
    """
    source = data.get("source")
    if not source or not source["examples"]:
        return None
    successors, simple = source["successors"], source["simple_tokens"]
    examples = sorted(source["examples"], key=lambda one: one["total"])
    height = max(3.9 if successors else 1.2, _HEIGHT * (len(examples) + 2.2))
    figure = Figure(figsize=(9.2 if successors else 5.6, height), layout="constrained")
    if successors:
        left, right = figure.subplots(1, 2, width_ratios=(3.9, 5.3))
        _draw_graph(left, successors, simple)
    else:
        right = figure.subplots()
    _draw_sequences(right, examples, source["order"], simple)
    figure.legend(handles=_keys(), fontsize=8, loc="outside lower center", ncols=2)
    graph = (
        "Left: tokens, each with arrows to its likeliest successors, as wide as they are likely, mean over contexts that end in "
        "the token, those to itself left out: a simple token has one sure successor, a complex one many. Right: "
        if successors
        else ""
    )
    words = (
        f"How sequences are made. {graph}training sequences from few bits to many, one a row; under each token the information "
        f"content -log2 p of the transition to it in bits; the first {source['order']} are drawn evenly and carry none. {caption}"
    )
    totals = ", ".join(f"{one['total']:.1f}" for one in examples)
    told = f"A graph of {len(successors)} tokens: {simple} simple, {len(successors) - simple} complex. " if successors else ""
    alt = f"{told}{len(examples)} sequences of {totals} bits."
    return drawn(figure, "source", "How are the sequences made?", words, alt)


def _keys() -> list[Line2D]:
    """What the marks and cells of the two kinds of tokens mean."""
    marks: dict[str, Any] = {"linestyle": "none", "markersize": 8}
    return [
        Line2D([], [], marker="o", color=SIMPLE, label="simple token (round)", **marks),
        Line2D([], [], marker="s", color=COMPLEX, label="complex token (square)", **marks),
    ]


def chained(follows: list[int]) -> list[int]:
    """Simple tokens, each before the one that follows it as far as that goes.

    Example:
        >>> chained([5, 0, 1])
        [2, 1, 0]
    """
    found: list[int] = []
    for start in sorted(range(len(follows)), key=lambda token: token in follows):  # those that none leads to come first
        token = start
        while token < len(follows) and token not in found:
            found.append(token)
            token = follows[token]
    return found


def places_of(successors: list[list[tuple[int, float]]], simple: int) -> dict[int, tuple[float, float]]:
    """Token -> its place on the circle: simple ones above, in the order of their chain, complex ones apart from them below."""
    count = len(successors)
    order = chained([likely[0][0] for likely in successors[:simple]]) + list(range(simple, count))
    apart = _APART if 0 < simple < count else 0.0
    turn = 2 * math.pi / (count + 2 * apart)
    angles = [math.pi / 2 + turn * ((simple - 1) / 2 - place - (apart if place >= simple else 0)) for place in range(count)]
    return {token: (math.cos(angle), math.sin(angle)) for token, angle in zip(order, angles, strict=True)}


def _draw_graph(axes: Axes, successors: list[list[tuple[int, float]]], simple: int) -> None:
    """Tokens on a circle with arrows to their successors."""
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
        mark, colour, ink = _look(token, simple)
        axes.plot(x, y, mark, color=colour, markersize=size, zorder=3)
        axes.text(x, y, f"{token}", ha="center", va="center_baseline", fontsize=0.58 * size, color=ink, zorder=4)
    axes.set_aspect("equal")
    axes.set_xlim(-1.2, 1.2)
    axes.set_ylim(-1.2, 1.2)
    axes.set_axis_off()


def _look(token: int, simple: int) -> tuple[str, str, str]:
    """Mark, colour, and colour of the number on it."""
    return ("o", SIMPLE, "white") if token < simple else ("s", COMPLEX, "black")


def _draw_sequences(axes: Axes, examples: list[dict[str, Any]], order: int, simple: int) -> None:
    """One row a sequence: its tokens as cells, the bits of each transition under the token that it leads to, and their sum."""
    longest = max(len(one["tokens"]) for one in examples)
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    for row, one in enumerate(examples):
        for column, token in enumerate(one["tokens"]):
            _, colour, ink = _look(token, simple)
            axes.add_patch(Rectangle((column + 0.04, row + 0.06), 0.92, 0.52, facecolor=colour))
            axes.text(column + 0.5, row + 0.33, f"{token}", fontsize=7, color=ink, **middle)
        for column, bits in enumerate(one["bits"], order):
            axes.text(column + 0.5, row + 0.77, brief(bits), fontsize=6, weight="bold" if bits >= 1 else "normal", **middle)
        cut = "… " if len(one["bits"]) < one["transitions"] else ""
        axes.text(longest + 0.2, row + 0.33, f"{cut}{one['total']:.1f} bits", va="center", fontsize=8)
    axes.set_xlim(0, longest * 1.2)
    axes.set_ylim(len(examples), 0)
    axes.set_axis_off()


def brief(bits: float) -> str:
    """Two digits, or a few more."""
    return f"{bits:.2f}" if bits < 0.995 else f"{bits:.1f}"
