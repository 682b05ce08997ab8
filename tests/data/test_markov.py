import itertools
import math

import numpy as np
import pytest
import scipy.stats

from thalweg.data.markov import MarkovLanguage, long_tail
from thalweg.errors import BadInputError

FLOAT64 = 1e-12  # absolute, for sums of some hundred terms near one
STANDARD_ERRORS = 5  # over some thousand comparisons at once
SHAPES = [(2, 1, 0.5), (3, 1, 0.4), (3, 2, 0.4), (5, 2, 0.0), (5, 2, 1.0), (4, 3, 0.5)]
SMALL = [(2, 1, 6), (2, 2, 6), (3, 1, 5), (3, 2, 5), (2, 3, 6)]  # vocabulary, order, length


def language(vocabulary, order, simple=0.4, seed=0):
    return MarkovLanguage(vocabulary=vocabulary, order=order, simple=simple, seed=seed)


def probability(source, sequence):
    """Of each transition of one sequence, looked up in the tensor one by one."""
    k = source.order
    return [float(source.transitions[tuple(sequence[i - k : i + 1])]) for i in range(k, len(sequence))]


def enumerated(source, length):
    """Accuracy and loss per position by walking through every sequence of the language."""
    k, v = source.order, source.vocabulary
    accuracy, loss = np.zeros(length - k), np.zeros(length - k)
    for sequence in itertools.product(range(v), repeat=length):
        steps = probability(source, sequence)
        weight = v**-k * math.prod(steps)
        for place, chosen in enumerate(steps):
            guess = max(range(v), key=lambda token: source.transitions[(*sequence[place : place + k], token)])
            accuracy[place] += weight * (sequence[place + k] == guess)
            loss[place] -= weight * math.log(chosen)
    return accuracy, loss


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_tensor_has_one_axis_for_each_token_that_decides_and_one_for_the_next(shape):
    vocabulary, order, _ = shape
    assert language(*shape).transitions.shape == (vocabulary,) * (order + 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_row_of_the_tensor_sums_to_one(shape):
    assert np.allclose(language(*shape).transitions.sum(-1), 1, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_transition_is_impossible(shape):
    assert (language(*shape).transitions > 0).all()


def test_after_a_simple_token_one_token_has_098_and_the_rest_is_uniform():
    source = language(5, 2)
    rows = np.sort(source.transitions[:, : source.simple_tokens].reshape(-1, 5))
    assert np.allclose(rows, [0.005, 0.005, 0.005, 0.005, 0.98], rtol=0, atol=FLOAT64)


def test_after_a_complex_token_one_token_has_065_and_the_rest_falls_as_one_by_rank():
    source = language(5, 2)
    rows = np.sort(source.transitions[:, source.simple_tokens :].reshape(-1, 5))
    zipf = 0.35 * np.array([1 / 4, 1 / 3, 1 / 2, 1]) / (25 / 12)
    assert np.allclose(rows, [*zipf, 0.65], rtol=0, atol=FLOAT64)


def test_the_likely_token_after_a_simple_one_does_not_depend_on_what_came_before():
    source = language(6, 3)
    likely = source.transitions.argmax(-1)[..., : source.simple_tokens]
    assert (likely == likely[0, 0]).all()


def test_the_likely_token_after_a_complex_one_depends_on_what_came_before():
    source = language(6, 2)
    likely = source.transitions.argmax(-1)[:, source.simple_tokens :]
    assert not (likely == likely[0]).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_simple_tokens_form_one_chain_that_leaves_them(seed):
    source = language(10, 1, simple=0.5, seed=seed)
    likely = source.transitions.argmax(-1)
    start = (set(range(5)) - set(likely[:5].tolist())).pop()
    walk = [start]
    for _ in range(5):
        walk.append(int(likely[walk[-1]]))
    assert sorted(walk[:5]) == [0, 1, 2, 3, 4]
    assert walk[5] >= 5


@pytest.mark.parametrize(("simple", "count"), [(0.0, 0), (0.4, 4), (1.0, 10)])
def test_the_share_of_simple_tokens_becomes_a_whole_number(simple, count):
    assert language(10, 1, simple).simple_tokens == count


@pytest.mark.parametrize(("simple", "sure"), [(0.0, 0.65), (1.0, 0.98)])
def test_a_language_of_one_kind_of_token_is_equally_sure_everywhere(simple, sure):
    assert np.allclose(language(6, 2, simple).transitions.max(-1), sure, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("simple", [0.0, 1.0])
def test_a_language_of_one_kind_of_token_can_be_sampled(simple):
    assert language(6, 2, simple).sample(10, 8, seed=0).shape == (10, 8)


def test_the_same_seed_gives_the_same_language():
    assert np.array_equal(language(5, 2, seed=4).transitions, language(5, 2, seed=4).transitions)


def test_another_seed_gives_another_language():
    assert not np.array_equal(language(5, 2, seed=4).transitions, language(5, 2, seed=5).transitions)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_sampled_transitions_are_as_frequent_as_the_tensor_says(order):
    source = language(4, order)
    tokens = source.sample(20_000, order + 6, seed=1)
    counts = np.zeros(source.transitions.shape)
    for place in range(order, tokens.shape[1]):
        np.add.at(counts, tuple(tokens[:, place - order : place + 1].T), 1)
    trials, p = counts.sum(-1, keepdims=True), source.transitions
    error = (counts - trials * p) / np.sqrt(trials * p * (1 - p))
    assert np.abs(error).max() < STANDARD_ERRORS


def test_the_first_tokens_are_uniform():
    tokens = language(4, 2).sample(20_000, 3, seed=1)
    share = np.bincount(4 * tokens[:, 0] + tokens[:, 1], minlength=16) / len(tokens)
    assert np.abs(share - 1 / 16).max() < STANDARD_ERRORS * math.sqrt(15 / 16**2 / len(tokens))


def test_the_same_stream_gives_the_same_sequences():
    source = language(4, 2)
    assert np.array_equal(source.sample(20, 8, seed=1), source.sample(20, 8, seed=1))


@pytest.mark.parametrize("other", [{"seed": 2}, {"name": "held-out"}, {"step": 1}, {"rank": 1}], ids=str)
def test_another_stream_gives_other_sequences(other):
    source = language(4, 2)
    assert not np.array_equal(source.sample(20, 8, **({"seed": 1} | other)), source.sample(20, 8, seed=1))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_information_is_the_sum_of_the_bits_of_the_transitions(order):
    source = language(3, order)
    tokens = source.sample(50, order + 5, seed=1)
    by_hand = [-sum(math.log2(p) for p in probability(source, sequence)) for sequence in tokens.tolist()]
    assert np.allclose(source.information(tokens), by_hand, rtol=FLOAT64, atol=0)


def test_the_information_on_a_ring_of_two_tokens_is_known_by_hand():
    ring = language(2, 1, simple=1.0)  # 0 -> 1 and 1 -> 0 at 0.98, staying at 0.02
    bits = ring.information(np.array([[0, 1, 0, 1], [0, 0, 0, 1]]))
    assert np.allclose(bits, [-3 * math.log2(0.98), -math.log2(0.98) - 2 * math.log2(0.02)], rtol=FLOAT64, atol=0)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_information_of_two_overlapping_parts_adds_up(order):
    source = language(3, order)
    tokens = source.sample(50, 12, seed=1)
    parts = source.information(tokens[:, :7]) + source.information(tokens[:, 7 - order :])
    assert np.allclose(parts, source.information(tokens), rtol=FLOAT64, atol=0)


@pytest.mark.parametrize(("vocabulary", "order", "length"), SMALL)
@pytest.mark.parametrize("simple", [0.0, 0.5])
def test_the_expected_accuracy_is_that_of_all_sequences_enumerated(vocabulary, order, length, simple):
    source = language(vocabulary, order, simple)
    assert np.allclose(source.expected(length).accuracy, enumerated(source, length)[0], rtol=0, atol=FLOAT64)


@pytest.mark.parametrize(("vocabulary", "order", "length"), SMALL)
@pytest.mark.parametrize("simple", [0.0, 0.5])
def test_the_expected_loss_is_that_of_all_sequences_enumerated(vocabulary, order, length, simple):
    source = language(vocabulary, order, simple)
    assert np.allclose(source.expected(length).loss, enumerated(source, length)[1], rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_bayes_accuracy_of_a_sample_approaches_the_expected_one(order):
    source, n = language(4, order), 20_000
    expected = source.expected(order + 6).accuracy
    error = source.bayes(source.sample(n, order + 6, seed=2)).accuracy - expected
    assert (np.abs(error) < STANDARD_ERRORS * np.sqrt(expected * (1 - expected) / n)).all()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_bayes_loss_of_a_sample_approaches_the_expected_one(order):
    source, n = language(4, order), 20_000
    tokens = source.sample(n, order + 6, seed=2)
    nats = -np.log([source.transitions[tuple(tokens[:, i : i + order + 1].T)] for i in range(6)])
    error = source.bayes(tokens).loss - source.expected(order + 6).loss
    assert (np.abs(error) < STANDARD_ERRORS * nats.std(axis=1, ddof=1) / math.sqrt(n)).all()


def test_the_bayes_accuracy_counts_the_likely_tokens():
    ring = language(2, 1, simple=1.0)
    assert ring.bayes(np.array([[0, 1, 0], [0, 1, 1]])).accuracy.tolist() == [1.0, 0.5]


def test_the_bayes_loss_is_the_information_in_nats():
    source = language(4, 2)
    tokens = source.sample(100, 9, seed=1)
    bits = source.information(tokens).mean()
    assert math.isclose(source.bayes(tokens).loss.sum(), bits * math.log(2), rel_tol=FLOAT64)


@pytest.mark.parametrize("length", [3, 10])
def test_there_is_one_score_for_each_position_from_the_order_on(length):
    assert language(3, 2).expected(length).loss.shape == (length - 2,)


def test_a_sequence_that_cannot_occur_is_refused():
    source = language(3, 1)
    source.transitions[0] = [1.0, 0.0, 0.0]
    with pytest.raises(BadInputError, match="sequence: given a transition of probability 0, expected sequences of this language"):
        source.information(np.array([[0, 1]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": 1}, "vocabulary: given 1, expected at least 2 tokens"),
        ({"order": 0}, "order: given 0, expected at least 1"),
        ({"simple": -0.1}, r"simple: given -0\.1, expected a share from 0 to 1"),
        ({"simple": 1.1}, r"simple: given 1\.1, expected a share from 0 to 1"),
        ({"simple": math.nan}, "simple: given nan, expected a share from 0 to 1"),
        ({"simple_sure": 0.0}, r"simple_sure: given 0\.0, expected a probability between 0 and 1"),
        ({"simple_sure": 1.0}, r"simple_sure: given 1\.0, expected a probability between 0 and 1"),
        ({"complex_sure": 0.0}, r"complex_sure: given 0\.0, expected a probability between 0 and 1"),
        ({"complex_sure": 1.0}, r"complex_sure: given 1\.0, expected a probability between 0 and 1"),
        ({"seed": -1}, "seed: given -1, expected a whole number from 0"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused(arguments, message):
    with pytest.raises(BadInputError, match=message):
        MarkovLanguage(**arguments)


def test_a_tensor_that_does_not_fit_is_refused_with_its_size():
    message = r"vocabulary 1000 at order 9: .* needs 2\.4e\+22 GB, expected at most .* GB .*choose a smaller vocabulary or order"
    with pytest.raises(BadInputError, match=message):
        MarkovLanguage(vocabulary=1000, order=9)


@pytest.mark.parametrize("length", [1, 2])
def test_sequences_no_longer_than_the_order_are_refused(length):
    with pytest.raises(BadInputError, match=f"length: given {length}, expected more tokens than the order 2"):
        language(3, 2).sample(4, length, seed=0)


def test_scoring_sequences_no_longer_than_the_order_is_refused():
    with pytest.raises(BadInputError, match="length: given 2, expected more tokens than the order 2"):
        language(3, 2).information(np.zeros((1, 2), dtype=np.int64))


def test_expecting_sequences_no_longer_than_the_order_is_refused():
    with pytest.raises(BadInputError, match="length: given 2, expected more tokens than the order 2"):
        language(3, 2).expected(2)


def test_drawing_no_sequences_is_refused():
    with pytest.raises(BadInputError, match="sequences: given 0, expected at least 1"):
        language(3, 2).sample(0, 8, seed=0)


def test_the_skewness_of_the_tail_agrees_with_scipy():
    bits = language(8, 2).information(language(8, 2).sample(500, 12, seed=0))
    assert math.isclose(long_tail(bits).skewness, scipy.stats.skew(bits), rel_tol=1e3 * FLOAT64)


def test_the_shares_of_the_tail_are_known_by_hand():
    tail = long_tail(np.array([4.0, 1, 1, 2, 1, 1, 6, 1, 1, 2]))  # 20 bits; round(0.25 * 10) = 2 sequences carry 10
    assert (tail.top_quarter_share, tail.top_tenth_share) == (0.5, 0.3)


def test_the_moments_of_the_tail_are_known_by_hand():
    tail = long_tail(np.array([1.0, 2.0, 6.0]))
    assert (tail.mean, tail.median, tail.deviation) == (3.0, 2.0, math.sqrt(14 / 3))


@pytest.mark.parametrize("bits", [[2.0, 2.0, 2.0], [0.0], [0.0, 0.0]], ids=str)
def test_a_tail_without_spread_has_no_skewness(bits):
    assert long_tail(np.array(bits)).skewness == 0


def test_a_tail_without_sequences_is_refused():
    with pytest.raises(BadInputError, match="sequences: given 0, expected at least 1"):
        long_tail(np.array([]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: MarkovLanguage(vocabulary=8.5, order=2),  # type: ignore[arg-type]
        lambda: MarkovLanguage(order="2"),  # type: ignore[arg-type]
        lambda: MarkovLanguage(vocabulary=4, order=1).sample(3, 5, seed="a"),  # type: ignore[arg-type]
        lambda: MarkovLanguage(vocabulary=4, order=1).sample(2.5, 5, seed=0),  # type: ignore[arg-type]
    ],
)
def test_numbers_of_another_kind_are_refused(make) -> None:
    with pytest.raises(BadInputError, match="expected a whole number"):
        make()
