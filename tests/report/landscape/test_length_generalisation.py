import io
import math
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from thalweg.errors import BadInputError
from thalweg.records.landscape import LengthRecord
from thalweg.records.run import Score
from thalweg.report.figures import COLOURS
from thalweg.report.landscape.length_generalisation import (
    draw_bits,
    draw_scores,
    draw_shares,
    figure_lengths,
    over_lengths,
    score_of,
)

ENDS = 'learned positions end at 11 tokens; use model.positions="rotary"'
LEVELS = {"single": 0.5, "looped": 0.55, "shift": 0.6}
T = 4.302652729911275  # 97.5 % of Student's t with 2 degrees of freedom


def record(multiple: int, level: float, error: str = "") -> LengthRecord:
    scores = {"high": Score(level, 2.0), "low": Score(level + 0.3, 0.2), "all": Score(level + 0.2, 1.0)}
    ceilings = {"high": Score(0.7 + multiple / 100, 1.5), "low": Score(0.99 - multiple / 100, 0.1), "all": Score(0.9, 0.8)}
    shares = {"low": 0.25 / multiple, "high": 0.24 / multiple**0.5}
    shown = {} if error else scores
    return LengthRecord(9, 1, multiple, 12 * multiple, 1000, shown, ceilings, 0.9, 0.6 / multiple**0.5, shares, error)


def seeds(level: float, offsets: tuple[float, ...] = (-0.01, 0.0, 0.04)) -> list[tuple[LengthRecord, ...]]:
    return [tuple(record(m, level + offset - m / 100) for m in (1, 2, 4, 8)) for offset in offsets]


def without_source(one: LengthRecord) -> LengthRecord:
    return replace(
        one, scores={k: v for k, v in one.scores.items() if k == "all"}, ceilings={}, bits_mean=None, bits_deviation=None, shares={}
    )


@pytest.fixture
def landscapes() -> dict[str, list[tuple[LengthRecord, ...]]]:
    return {arm: seeds(level) for arm, level in LEVELS.items()}


@pytest.fixture
def axes():
    return Figure().subplots()


def inked(png: bytes) -> float:
    return float((matplotlib.image.imread(io.BytesIO(png))[..., :3].min(axis=-1) < 0.9).mean())


def test_the_same_records_give_the_same_bytes(landscapes) -> None:
    first, second = figure_lengths(landscapes), figure_lengths(landscapes)
    assert (first.svg, first.png) == (second.svg, second.png)


def test_every_arm_is_drawn_in_its_colour(landscapes) -> None:
    svg = figure_lengths(landscapes).svg.decode().lower()
    assert [arm for arm in COLOURS if COLOURS[arm].lower() in svg and arm in LEVELS] == list(LEVELS)


def test_the_lines_are_the_means_over_seeds_at_each_multiple(axes, landscapes) -> None:
    draw_scores(axes, landscapes, landscapes["single"], "low", "accuracy")
    for line, level in zip(axes.lines, LEVELS.values(), strict=False):
        np.testing.assert_allclose(line.get_xydata(), [(m, level + 0.3 + 0.01 - m / 100) for m in (1, 2, 4, 8)], rtol=1e-12)


def test_the_bands_are_the_t_intervals_over_seeds(axes, landscapes) -> None:
    draw_scores(axes, {"single": landscapes["single"]}, landscapes["single"], "high", "accuracy")
    drawn = axes.collections[0].get_paths()[0].vertices
    half = T * np.std([-0.01, 0.0, 0.04], ddof=1) / math.sqrt(3)
    at_two = drawn[drawn[:, 0] == 2][:, 1]
    np.testing.assert_allclose([at_two.min(), at_two.max()], [0.49 - half, 0.49 + half], rtol=1e-9)


def test_the_ceiling_is_dashed_and_goes_through_the_best_possible_scores(axes, landscapes) -> None:
    draw_scores(axes, landscapes, landscapes["single"], "high", "accuracy")
    best = axes.lines[-1]
    np.testing.assert_allclose(best.get_xydata(), [(m, 0.7 + m / 100) for m in (1, 2, 4, 8)], rtol=1e-12)
    assert best.get_label() == "Bayes ceiling"
    assert best.is_dashed()


def test_bits_are_drawn_with_their_deviation(axes) -> None:
    draw_bits(axes, seeds(0.5))
    (bars,) = axes.collections
    ends = [tuple(segment[:, 1]) for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [(0.9 - 0.6 / m**0.5, 0.9 + 0.6 / m**0.5) for m in (1, 2, 4, 8)], rtol=1e-12)


def test_both_shares_are_drawn(axes) -> None:
    draw_shares(axes, seeds(0.5))
    low, high = (line.get_ydata() for line in axes.lines)
    np.testing.assert_allclose(low, [0.25 / m for m in (1, 2, 4, 8)], rtol=1e-12)
    np.testing.assert_allclose(high, [0.24 / m**0.5 for m in (1, 2, 4, 8)], rtol=1e-12)


def test_a_length_counts_the_seeds_that_were_scored_on_it() -> None:
    found = over_lengths([(record(1, 0.5), record(2, 0.4)), (record(1, 0.7), record(2, 0.0, ENDS))], score_of("high", "accuracy"))
    assert [(m, i.n, i.mean) for m, i in found.items()] == [(1, 2, 0.6), (2, 1, 0.4)]


def test_a_score_of_zero_counts() -> None:
    assert over_lengths([(record(1, 0.0),), (record(1, 0.5),)], score_of("high", "accuracy"))[1].mean == 0.25


def test_the_last_record_of_a_length_counts() -> None:
    found = over_lengths([(record(1, 0.5), record(1, 0.7))], score_of("high", "accuracy"))
    assert (found[1].mean, found[1].n) == (0.7, 1)


def test_the_caption_says_what_could_not_be_scored_and_why(landscapes) -> None:
    landscapes["shift"] = [
        tuple(replace(r, scores={}, error=ENDS) if r.multiple > 1 else r for r in s) for s in landscapes["shift"]
    ]
    assert f"Not scored: shift at 2, 4 and 8 times the length ({ENDS})." in figure_lengths(landscapes).caption


def test_the_caption_of_complete_records_names_nothing_that_is_missing(landscapes) -> None:
    assert "Not scored" not in figure_lengths(landscapes).caption


def test_the_caption_ends_with_the_set_up(landscapes) -> None:
    assert figure_lengths(landscapes, "Seeds: 0 to 2.").caption.endswith(" Seeds: 0 to 2.")


def test_the_words_for_the_blind_hold_the_numbers_at_both_ends(landscapes) -> None:
    assert "looped high accuracy 0.550 at 1 times and 0.480 at 8 times" in figure_lengths(landscapes).alt


def test_arms_with_a_single_length_stand_beside_each_other(axes) -> None:
    both = {arm: [(record(1, 0.5),)] for arm in ("single", "looped")}
    draw_scores(axes, both, [], "high", "accuracy")
    first, second = (line.get_xdata()[0] for line in axes.lines)
    assert first < 1 < second


@pytest.mark.parametrize("count", [1, 2])
def test_few_seeds_are_enough(count: int) -> None:
    assert inked(figure_lengths({"single": seeds(0.5, (0.0, 0.01)[:count])}).png) > 0.01


def test_text_has_accuracy_and_loss_of_all_sequences(landscapes) -> None:
    text = {arm: [tuple(without_source(r) for r in s) for s in found] for arm, found in landscapes.items()}
    figure = figure_lengths(text)
    assert "looped all loss 1.000 at 1 times and 1.000 at 8 times" in figure.alt
    assert "Bayes" not in figure.caption
    assert inked(figure.png) > 0.01


@pytest.mark.parametrize("known", [True, False], ids=["markov", "text"])
def test_records_without_any_score_make_a_figure_too(known: bool) -> None:
    failed = record(8, 0.5, ENDS)
    figure = figure_lengths({"single": [(failed if known else without_source(failed),)]})
    assert "single high accuracy none" in figure.alt or "single all accuracy none" in figure.alt
    assert inked(figure.png) > 0.005


def test_a_seed_without_records_is_left_out(landscapes) -> None:
    assert figure_lengths(landscapes | {"single": [*landscapes["single"], ()]}).svg == figure_lengths(landscapes).svg


@pytest.mark.parametrize("empty", [{}, {"single": []}, {"single": [()]}])
def test_no_record_at_all_is_refused(empty) -> None:
    with pytest.raises(BadInputError, match=r"landscapes: given \[.*\], expected length records of at least one run"):
        figure_lengths(empty)
