import itertools
import math

import numpy as np
import pytest

from thalweg.data.markov_data import MarkovConfig, MarkovData
from thalweg.data.text import TextConfig, TextData
from thalweg.errors import BadInputError, InsufficientDataError

TINY = MarkovConfig(vocabulary=3, order=1, length=4, simple=0.34, sequences=4000, held_out=4000)
MULTIPLES = (1, 2, 4, 8)
FLOAT64 = 1e-12
ERRORS = 4.5  # standard errors: a chance of 7e-6


@pytest.fixture(scope="module")
def data():
    return MarkovData(TINY, seed=1)


@pytest.fixture(scope="module", params=MULTIPLES, ids=lambda m: f"{m}x")
def multiple(request):
    return request.param


@pytest.fixture(scope="module")
def longer(data, multiple):
    return data.longer(multiple, 2000)


def chosen(data, sequence):
    """Probability of each transition, read from the tensor one by one."""
    return [data.source.transitions[now, following] for now, following in itertools.pairwise(sequence)]


def bits(data, tokens):
    return np.array([sum(-math.log2(p) for p in chosen(data, sequence)) for sequence in tokens.tolist()])


def every_sequence(data, length):
    """Probability and bits of all sequences of the language."""
    found = list(itertools.product(range(3), repeat=length))
    return np.array([math.prod(chosen(data, s)) / 3 for s in found]), bits(data, np.array(found))


def moments(data, length):
    """Mean and variance of the bits of a sequence, carried on token by token: S is the sum so far, of those that end in a token."""
    transitions = data.source.transitions
    share, first, second = np.full(3, 1 / 3), np.zeros(3), np.zeros(3)  # P, E[S 1], E[S^2 1]
    cost = -np.log2(transitions)
    for _ in range(length - 1):
        share, first, second = (
            share @ transitions,
            first @ transitions + share @ (transitions * cost),
            second @ transitions + 2 * first @ (transitions * cost) + share @ (transitions * cost**2),
        )
    return first.sum(), second.sum() - first.sum() ** 2


def test_there_are_as_many_sequences_of_the_length_as_were_asked_for(longer, multiple):
    assert longer.set.tokens.shape == (2000, 4 * multiple)


def test_the_length_is_told_before_anything_is_drawn(data, longer, multiple):
    assert data.length_at(multiple) == longer.set.tokens.shape[1]


def test_the_same_seed_and_multiple_give_the_same_sequences(longer, multiple):
    assert np.array_equal(MarkovData(TINY, seed=1).longer(multiple, 2000).set.tokens, longer.set.tokens)


def test_another_seed_gives_other_sequences(longer, multiple):
    assert not np.array_equal(MarkovData(TINY, seed=2).longer(multiple, 2000).set.tokens, longer.set.tokens)


def test_another_multiple_is_not_the_same_draw_gone_on_with(data):
    short, long = (data.longer(m, 2000).set.tokens for m in (1, 2))
    assert (short[:, 0] == long[:, 0]).mean() == pytest.approx(1 / 3, abs=ERRORS * math.sqrt(2 / 9 / 2000))


@pytest.mark.parametrize("part", [0, 1], ids=["train", "held-out"])
def test_fresh_sequences_agree_with_the_known_ones_no_more_often_than_by_chance(part):
    config = MarkovConfig(vocabulary=16, order=1, length=12, simple=0, complex_sure=0.07, sequences=2000, held_out=2000)
    data = MarkovData(config, seed=1)  # nearly uniform, so that by chance no two sequences are the same
    known = {tuple(row) for row in data.evaluation[part].tokens.tolist()}
    assert not known & {tuple(row) for row in data.longer(1, 2000).set.tokens.tolist()}


@pytest.mark.parametrize("end", [slice(None, 12), slice(-12, None)], ids=["begin", "end"])
def test_no_known_sequence_is_continued_or_led_up_to(end):
    config = MarkovConfig(vocabulary=16, order=1, length=12, simple=0, complex_sure=0.07, sequences=2000, held_out=2000)
    data = MarkovData(config, seed=1)
    known = {tuple(row) for part in data.evaluation for row in part.tokens.tolist()}
    assert not known & {tuple(row) for row in data.longer(4, 2000).set.tokens[:, end].tolist()}


@pytest.mark.parametrize("stratum", ["low", "high"])
def test_the_outer_strata_are_quarters_at_this_length_up_to_ties(data, longer, stratum):
    carried = bits(data, longer.set.tokens) * (1 if stratum == "low" else -1)
    mask = longer.set.strata[stratum]
    edge = carried[mask].max()
    assert (carried < edge - FLOAT64).sum() <= 500 <= (carried <= edge + FLOAT64).sum()
    assert mask.sum() >= 500
    assert carried[~mask].min() > edge - FLOAT64


@pytest.mark.parametrize("multiple", [4, 8])
def test_the_outer_strata_of_long_sequences_of_a_rich_language_are_quarters_exactly(multiple):
    data = MarkovData(MarkovConfig(simple=0), seed=0)  # no two sequences carry the same bits
    assert [int(m.sum()) for m in data.longer(multiple, 1000).set.strata.values()] == [250, 250, 1000]


@pytest.mark.parametrize("stratum", ["low", "high", "all"])
def test_the_ceilings_are_those_of_the_transition_tensor(data, longer, stratum):
    rows = longer.set.tokens[longer.set.strata[stratum]].tolist()
    best = [int(np.argmax(data.source.transitions[now])) for now in range(3)]
    hits = [best[now] == following for row in rows for now, following in itertools.pairwise(row)]
    losses = [-math.log(p) for row in rows for p in chosen(data, row)]
    ceiling = longer.set.ceilings[stratum]
    assert ceiling.accuracy == pytest.approx(np.mean(hits), rel=FLOAT64)
    assert ceiling.loss == pytest.approx(np.mean(losses), rel=FLOAT64)


def test_mean_and_deviation_are_those_of_the_bits_per_scored_token(data, longer, multiple):
    each = bits(data, longer.set.tokens) / (4 * multiple - 1)
    assert longer.bits_mean == pytest.approx(each.mean(), rel=FLOAT64)
    assert longer.bits_deviation == pytest.approx(math.sqrt(((each - each.mean()) ** 2).mean()), rel=1e-10)


def test_the_mean_is_the_entropy_rate_of_the_language(data, longer, multiple):
    mean, variance = moments(data, 4 * multiple)
    error = math.sqrt(variance / 2000) / (4 * multiple - 1)
    assert abs(longer.bits_mean - mean / (4 * multiple - 1)) < ERRORS * error


def test_the_deviation_is_that_of_the_language(data, longer, multiple):
    _, variance = moments(data, 4 * multiple)
    assert longer.bits_deviation == pytest.approx(math.sqrt(variance) / (4 * multiple - 1), rel=0.1)


@pytest.mark.parametrize("length", [4, 8])
def test_the_moments_that_the_tests_measure_against_are_those_of_all_sequences(data, length):
    chance, carried = every_sequence(data, length)
    mean, variance = moments(data, length)
    assert mean == pytest.approx(chance @ carried, rel=FLOAT64)
    assert variance == pytest.approx(chance @ carried**2 - mean**2, rel=1e-10)


@pytest.mark.parametrize("multiple", [1, 2])
@pytest.mark.parametrize("side", ["low", "high"])
def test_the_shares_are_those_of_all_sequences_of_the_language(data, multiple, side):
    chance, carried = every_sequence(data, 4 * multiple)
    each, cuts = carried / (4 * multiple - 1), (data.cuts[0] / 3, data.cuts[1] / 3)
    beyond = each < cuts[0] - FLOAT64 if side == "low" else each > cuts[1] + FLOAT64
    expected = float(chance[beyond].sum())
    measured = data.longer(multiple, 20000).shares[side]
    assert abs(measured - expected) < ERRORS * math.sqrt(expected * (1 - expected) / 20000) + FLOAT64


def test_longer_sequences_are_less_extreme():
    shares = [MarkovData(MarkovConfig(), seed=0).longer(m).shares for m in (1, 2, 4, 8)]
    assert all(before[side] > after[side] for before, after in itertools.pairwise(shares) for side in ("low", "high"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "multiple: given 0, expected a whole number of at least 1"),
        ((1, 3), "count: given 3, expected at least 4, one for each quarter"),
    ],
)
def test_a_multiple_or_count_out_of_range_is_refused(data, arguments, message):
    with pytest.raises(BadInputError, match=message):
        data.longer(*arguments)


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Bytes 1 to 250, of which the last 100 are held out; windows of 11 bytes."""
    monkeypatch.setenv("THALWEG_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "bytes.txt"
    path.write_bytes(bytes(range(1, 251)))
    return TextData(TextConfig(path=str(path), length=11, held_out_share=0.4, windows=3), seed=0)


@pytest.mark.parametrize(("multiple", "places"), [(1, (151, 195, 240)), (2, (151, 190, 230)), (4, (151, 210))])
def test_windows_have_the_multiple_of_targets_and_lie_in_the_held_out_part(text, multiple, places):
    tokens = text.longer(multiple, 3).set.tokens
    assert tokens.tolist() == [list(range(first, first + 10 * multiple + 1)) for first in places]


def test_windows_of_text_form_one_stratum_without_ceilings_or_facts(text):
    found = text.longer(2)
    assert list(found.set.strata) == ["all"]
    assert found.set.strata["all"].all()
    assert (found.set.ceilings, found.bits_mean, found.bits_deviation, found.shares) == ({}, None, None, {})


def test_there_are_no_more_windows_than_fit_side_by_side(text):
    assert [len(text.longer(m).set.tokens) for m in (1, 2, 4, 8)] == [100 // 11, 100 // 21, 100 // 41, 100 // 81]


def test_a_held_out_part_shorter_than_one_window_is_refused(text):
    message = r"its held-out part has 100 bytes, expected at least 101 \(10 \* \(data\.length - 1\) \+ 1\); give more text"
    with pytest.raises(InsufficientDataError, match=message):
        text.longer(10)


@pytest.mark.parametrize(("arguments", "message"), [((0,), "multiple: given 0, expected a"), ((1, 0), "count: given 0, expected")])
def test_a_multiple_or_count_of_windows_out_of_range_is_refused(text, arguments, message):
    with pytest.raises(BadInputError, match=message):
        text.longer(*arguments)
