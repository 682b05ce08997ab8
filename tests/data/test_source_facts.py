"""What a reader is told of the Markov language, against its transition tensor one entry at a time."""

import itertools
import json
import math

import pytest

from thalweg.data.markov import MarkovLanguage
from thalweg.data.source_facts import EXAMPLES, MOST_POSITIONS, MOST_SUCCESSORS, source_facts


@pytest.mark.parametrize(("vocabulary", "order", "length"), [(16, 2, 12), (5, 1, 30), (6, 3, 8)])
def test_bits_and_successors_are_those_of_the_transitions(vocabulary, order, length):
    source = MarkovLanguage(vocabulary=vocabulary, order=order)
    tokens = source.sample(200, length=length, seed=1)
    facts = source_facts(source, tokens)
    assert len(json.dumps(facts)) < 6000
    for one in facts["examples"]:
        rows = [row for row in tokens.tolist() if row[:MOST_POSITIONS] == one["tokens"]]
        every = [[-math.log2(source.transitions[(*row[k - order : k], row[k])]) for k in range(order, length)] for row in rows]
        assert one["bits"] == pytest.approx(every[0][: MOST_POSITIONS - order], abs=0.0051)
        assert one["transitions"] == length - order
        assert any(one["total"] == pytest.approx(sum(bits), abs=0.006) for bits in every)
    for token, likely in enumerate(facts["successors"]):
        contexts = [(*before, token) for before in itertools.product(range(vocabulary), repeat=order - 1)]
        means = [sum(source.transitions[(*context, n)] for context in contexts) / len(contexts) for n in range(vocabulary)]
        assert [p for _, p in likely] == pytest.approx(sorted(means, reverse=True)[:MOST_SUCCESSORS], abs=0.0006)
        assert all(p == pytest.approx(means[n], abs=0.0006) for n, p in likely)


def test_examples_go_from_few_bits_to_many():
    source = MarkovLanguage(vocabulary=16, order=2)
    totals = [one["total"] for one in source_facts(source, source.sample(500, length=12, seed=0))["examples"]]
    assert (len(totals), totals == sorted(totals), totals[-1] > 3 * totals[0]) == (EXAMPLES, True, True)


def test_a_large_vocabulary_has_no_list_of_successors():
    source = MarkovLanguage(vocabulary=64, order=1)
    assert source_facts(source, source.sample(50, length=5, seed=0))["successors"] == []
