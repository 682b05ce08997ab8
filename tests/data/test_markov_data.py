import json
import math
from dataclasses import replace

import numpy as np
import pytest

from thalweg.data.markov_data import MarkovConfig, MarkovData, histogram
from thalweg.errors import BadInputError

CONFIG = MarkovConfig(vocabulary=6, length=8, sequences=400, held_out=300)
FLOAT64 = 1e-12


@pytest.fixture(scope="module")
def data():
    return MarkovData(CONFIG, seed=1)


@pytest.fixture(scope="module", params=[0, 1], ids=["train", "held-out"])
def scored(request, data):
    return data.evaluation[request.param]


def bits(data, part):
    return data.source.information(data.evaluation[part].tokens)


def test_the_training_set_is_scored_first_then_the_held_out_set(data):
    assert [(s.name, s.tokens.shape) for s in data.evaluation] == [("train", (400, 8)), ("held-out", (300, 8))]


def test_only_tokens_from_the_order_on_are_scored(scored):
    assert scored.scored_from == CONFIG.order


def test_the_training_sequences_are_those_that_are_scored(data):
    assert data.evaluation[0].tokens is data.tokens


def test_only_the_first_training_sequences_are_scored_where_that_is_asked_and_the_cuts_stay(data):
    some = MarkovData(replace(CONFIG, scored=100), seed=1)
    assert np.array_equal(some.evaluation[0].tokens, data.tokens[:100])
    assert some.cuts == data.cuts
    assert np.array_equal(some.tokens, data.tokens)
    assert np.array_equal(some.evaluation[1].tokens, data.evaluation[1].tokens)


@pytest.mark.parametrize("scored", [3, 401])
def test_a_number_of_scored_sequences_that_are_not_there_is_refused(scored):
    with pytest.raises(BadInputError, match=f"data.scored: given {scored}, expected 0 for all, or from 4 to the 400 training"):
        replace(CONFIG, scored=scored)


def test_the_strata_are_cut_at_the_quartiles_of_the_training_set(data):
    assert data.cuts == tuple(np.quantile(bits(data, 0), [0.25, 0.75]))


@pytest.mark.parametrize("part", [0, 1], ids=["train", "held-out"])
def test_the_cuts_of_the_training_set_are_applied_to_both_sets(data, part):
    expected = {"low": bits(data, part) <= data.cuts[0], "high": bits(data, part) >= data.cuts[1], "all": [True]}
    assert all((data.evaluation[part].strata[name] == mask).all() for name, mask in expected.items())


@pytest.mark.parametrize(("stratum", "cut"), [("low", 0), ("high", 1)])
def test_the_outer_strata_are_a_quarter_of_the_training_set_up_to_ties(data, stratum, cut):
    ties = (bits(data, 0) == data.cuts[cut]).sum()
    size = data.evaluation[0].strata[stratum].sum()
    assert size - ties <= 100 <= size


def test_sequences_of_the_low_stratum_carry_fewer_bits_than_those_of_the_high_one(scored, data):
    carried = data.source.information(scored.tokens)
    assert carried[scored.strata["low"]].max() < carried[scored.strata["high"]].min()


def test_every_stratum_has_a_ceiling(scored):
    assert list(scored.ceilings) == list(scored.strata) == ["low", "high", "all"]


@pytest.mark.parametrize("stratum", ["low", "high", "all"])
def test_the_ceiling_is_the_bayes_score_of_the_rows_of_the_stratum(scored, data, stratum):
    best = data.source.bayes(scored.tokens[scored.strata[stratum]])
    ceiling = scored.ceilings[stratum]
    assert (ceiling.accuracy_by_position, ceiling.loss_by_position) == (tuple(best.accuracy), tuple(best.loss))


@pytest.mark.parametrize("stratum", ["low", "high", "all"])
def test_the_ceiling_of_a_stratum_is_the_mean_over_its_positions(scored, stratum):
    ceiling = scored.ceilings[stratum]
    positions = (ceiling.accuracy_by_position, ceiling.loss_by_position)
    assert np.allclose((ceiling.accuracy, ceiling.loss), np.mean(positions, axis=1), rtol=FLOAT64, atol=0)


def test_the_loss_of_the_ceiling_is_the_mean_information_in_nats(scored, data):
    nats = data.source.information(scored.tokens).mean() * math.log(2) / (CONFIG.length - CONFIG.order)
    assert math.isclose(scored.ceilings["all"].loss, nats, rel_tol=FLOAT64)


def test_a_held_out_stratum_without_sequences_is_left_out():
    data = MarkovData(MarkovConfig(vocabulary=6, length=8, sequences=400, held_out=4), seed=3)
    assert list(data.evaluation[1].strata) == list(data.evaluation[1].ceilings) == ["low", "all"]


def test_a_batch_depends_on_step_and_rank_alone(data):
    assert np.array_equal(data.batch(5, 16, 1, 2), MarkovData(CONFIG, seed=1).batch(5, 16, 1, 2))


@pytest.mark.parametrize("other", [(6, 16, 1, 2), (5, 16, 0, 2)], ids=["step", "rank"])
def test_another_step_or_rank_gives_another_batch(data, other):
    assert not np.array_equal(data.batch(5, 16, 1, 2), data.batch(*other))


def test_every_training_sequence_comes_once_in_a_pass(data):
    seen = np.concatenate([data.batch(step, 40, rank, 2) for step in range(5) for rank in range(2)])
    assert sorted(seen.tolist()) == sorted(data.tokens.tolist())


def test_another_seed_draws_other_sequences_of_the_same_language(data):
    other = MarkovData(CONFIG, seed=2)
    assert np.array_equal(other.source.transitions, data.source.transitions)
    assert not np.array_equal(other.tokens, data.tokens)


def test_another_source_seed_gives_another_language(data):
    other = MarkovData(MarkovConfig(vocabulary=6, length=8, sequences=400, held_out=300, source_seed=4), seed=1)
    assert not np.array_equal(other.source.transitions, data.source.transitions)


def test_the_held_out_sequences_are_not_the_training_sequences(data):
    assert not np.array_equal(data.evaluation[1].tokens, data.tokens[:300])


def test_the_facts_are_json(data):
    assert json.loads(json.dumps(data.facts(), allow_nan=False))["kind"] == "markov"


def test_the_facts_count_the_rows_of_each_stratum(data):
    counted = {s.name: {k: int(m.sum()) for k, m in s.strata.items()} for s in data.evaluation}
    assert data.facts()["strata"] == counted


def test_the_histogram_counts_every_sequence(data):
    assert sum(data.histogram["counts"]) == 400


def test_the_edges_of_the_histogram_span_the_information():
    assert histogram(np.array([1.0, 2.0, 4.0]), bins=3) == {"counts": [1, 1, 1], "edges_bits": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": 1}, r"data\.vocabulary: given 1, expected at least 2 tokens"),
        ({"order": 0}, r"data\.order: given 0, expected at least 1"),
        ({"length": 2}, r"data\.length: given 2, expected more tokens than the order 2"),
        ({"simple": 1.5}, r"data\.simple: given 1\.5, expected a share from 0 to 1"),
        ({"simple_sure": 1.0}, r"data\.simple_sure: given 1\.0, expected a probability between 0 and 1"),
        ({"complex_sure": 0.0}, r"data\.complex_sure: given 0\.0, expected a probability between 0 and 1"),
        ({"sequences": 3}, r"data\.sequences: given 3, expected at least 4, one for each quarter"),
        ({"held_out": 3}, r"data\.held_out: given 3, expected at least 4, one for each quarter"),
        ({"source_seed": -1}, r"data\.source_seed: given -1, expected a whole number of at least 0"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_with_its_key(arguments, message):
    with pytest.raises(BadInputError, match=message):
        MarkovConfig(**arguments)
