"""How the Markov language is made: what is drawn against facts made by hand."""

import io
import math
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from thalweg.report.paper import data_source as source_figures
from thalweg.report.paper.data_source import COMPLEX, SIMPLE, WIDEST, brief, chained, places_of, source_drawn

SUCCESSORS = [
    [[2, 0.9], [0, 0.05]],
    [[3, 0.9], [2, 0.05]],
    [[1, 0.9], [4, 0.05]],  # simple: 0 -> 2 -> 1 -> 3
    [[3, 0.5], [0, 0.3], [4, 0.1]],
    [[1, 0.4], [2, 0.2]],
]
SOURCE: dict[str, Any] = {
    "order": 2,
    "simple_tokens": 3,
    "successors": SUCCESSORS,
    "examples": [
        {"tokens": [3, 4, 1, 3], "bits": [1.32, 0.15], "transitions": 2, "total": 1.47},
        {"tokens": [0, 2, 1, 3], "bits": [0.15, 0.15], "transitions": 2, "total": 0.3},
        {"tokens": [4, 4, 3, 4], "bits": [5.5, 3.32], "transitions": 9, "total": 20.12},
    ],
}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is drawn, before it becomes bytes."""
    figures: list[Figure] = []
    whole = source_figures.drawn
    monkeypatch.setattr(source_figures, "drawn", lambda figure, *words: figures.append(figure) or whole(figure, *words))
    return figures


def arrows_of(axes: Any) -> list[Any]:
    return [patch for patch in axes.patches if hasattr(patch, "get_arrowstyle")]


def test_facts_without_a_source_have_no_figure() -> None:
    assert source_drawn({"kind": "markov"}, "") is None
    assert source_drawn({"source": SOURCE | {"examples": []}}, "") is None


def test_the_figure_is_not_empty_and_the_same_each_time() -> None:
    figure = source_drawn({"source": SOURCE}, "END.")
    assert figure is not None
    pixels = matplotlib.image.imread(io.BytesIO(figure.png))
    assert (pixels[..., :3].min(axis=-1) < 0.9).mean() > 0.01
    assert figure == source_drawn({"source": SOURCE}, "END.")
    assert (figure.name, figure.caption.endswith("END.")) == ("source", True)


def test_alt_text_tells_tokens_and_bits() -> None:
    figure = source_drawn({"source": SOURCE}, "")
    assert figure is not None
    assert figure.alt == "A graph of 5 tokens: 3 simple, 2 complex. 3 sequences of 0.3, 1.5, 20.1 bits."


@pytest.mark.parametrize(
    ("follows", "order"), [([2, 3, 1], [0, 2, 1]), ([1, 2, 0], [0, 1, 2]), ([5, 0, 1], [2, 1, 0]), ([3, 3], [0, 1]), ([], [])]
)
def test_simple_tokens_are_chained(follows: list[int], order: list[int]) -> None:
    assert chained(follows) == order


@pytest.mark.parametrize("simple", [0, 3, 5])
def test_tokens_lie_on_a_circle_each_at_its_own_place(simple: int) -> None:
    places = places_of(SUCCESSORS, simple)  # type: ignore[arg-type]
    assert sorted(places) == list(range(5))
    assert all(math.hypot(x, y) == pytest.approx(1) for x, y in places.values())
    points = np.array(list(places.values()))
    assert min(np.hypot(*(a - b)) for i, a in enumerate(points) for b in points[i + 1 :]) > 0.5


def test_complex_tokens_lie_apart_from_simple_ones() -> None:
    places = places_of(SUCCESSORS, 3)  # type: ignore[arg-type]
    assert min(places[token][1] for token in (0, 1, 2)) > max(places[token][1] for token in (3, 4))
    assert places[0][0] < places[2][0] < places[1][0]  # in the order of the chain
    assert places[2] == pytest.approx((0, 1))


def test_simple_tokens_have_one_arrow_and_complex_ones_several(kept: list[Figure]) -> None:
    source_drawn({"source": SOURCE}, "")
    places = places_of(SUCCESSORS, 3)  # type: ignore[arg-type]
    found = {arrow._posA_posB[0]: [] for arrow in arrows_of(kept[0].axes[0])}
    for arrow in arrows_of(kept[0].axes[0]):
        begin, end = arrow._posA_posB
        found[begin].append((end, arrow.get_linewidth(), to_hex(arrow.get_edgecolor()).upper()))
    expected = {
        places[token]: [(places[other], max(0.4, WIDEST * chance), SIMPLE if token < 3 else COMPLEX) for other, chance in shown]
        for token, shown in {0: [(2, 0.9)], 1: [(3, 0.9)], 2: [(1, 0.9)], 3: [(0, 0.3), (4, 0.1)], 4: [(1, 0.4), (2, 0.2)]}.items()
    }
    assert found == expected


def test_kinds_differ_by_shape_and_colour(kept: list[Figure]) -> None:
    source_drawn({"source": SOURCE}, "")
    places = places_of(SUCCESSORS, 3)  # type: ignore[arg-type]
    for token, line in zip(places, kept[0].axes[0].lines, strict=True):
        assert (line.get_marker(), line.get_color()) == (("o", SIMPLE) if token < 3 else ("s", COMPLEX))


def test_sequences_are_rows_from_few_bits_to_many(kept: list[Figure]) -> None:
    source_drawn({"source": SOURCE}, "")
    axes = kept[0].axes[1]
    cells = [(round(p.get_x()), int(p.get_y()), to_hex(p.get_facecolor()).upper()) for p in axes.patches]  # type: ignore[attr-defined]
    rows = [[0, 2, 1, 3], [3, 4, 1, 3], [4, 4, 3, 4]]
    assert cells == [(c, r, SIMPLE if token < 3 else COMPLEX) for r, row in enumerate(rows) for c, token in enumerate(row)]
    words = {(round(t.get_position()[0], 1), round(t.get_position()[1], 2)): t.get_text() for t in axes.texts}
    assert [words[c + 0.5, 1.33] for c in range(4)] == ["3", "4", "1", "3"]
    assert axes.yaxis_inverted()


def test_bits_stand_under_the_token_that_the_transition_leads_to(kept: list[Figure]) -> None:
    source_drawn({"source": SOURCE}, "")
    words = {(round(t.get_position()[0], 1), round(t.get_position()[1], 2)): t.get_text() for t in kept[0].axes[1].texts}
    assert {place: word for place, word in words.items() if place[1] == 1.77} == {(2.5, 1.77): "1.3", (3.5, 1.77): "0.15"}


def test_total_stands_beside_the_row_and_says_where_it_is_cut(kept: list[Figure]) -> None:
    source_drawn({"source": SOURCE}, "")
    assert [t.get_text() for t in kept[0].axes[1].texts if "bits" in t.get_text()] == ["0.3 bits", "1.5 bits", "… 20.1 bits"]


def test_too_many_tokens_leave_out_the_graph(kept: list[Figure]) -> None:
    figure = source_drawn({"source": SOURCE | {"successors": []}}, "")
    assert figure is not None
    assert len(kept[0].axes) == 1
    assert "Left" not in figure.caption
    assert figure.alt == "3 sequences of 0.3, 1.5, 20.1 bits."


@pytest.mark.parametrize(("bits", "words"), [(0.029, "0.03"), (0.994, "0.99"), (0.996, "1.0"), (9.64, "9.6")])
def test_bits_are_brief(bits: float, words: str) -> None:
    assert brief(bits) == words
