"""The Markov language as a reader sees it: who follows whom, and a few sequences with the bits of each transition; JSON values."""

from __future__ import annotations

import numpy as np

from thalweg.data.batches import Tokens
from thalweg.data.markov import MarkovLanguage

_MOST_TOKENS, MOST_SUCCESSORS, MOST_POSITIONS, EXAMPLES = 32, 4, 16, 8
"""Tokens beyond which there is no list of successors, successors of a token, tokens of a sequence, sequences."""


def source_facts(source: MarkovLanguage, tokens: Tokens) -> dict:
    """The language and a few sequences of it, from few bits to many; below 6 kB of JSON.

    The probability of a successor is the mean over the contexts that end in the token.

    Args:
        source: the language.
        tokens: sequences of it, ``(N, L)``.
    """
    rows = source.transitions.reshape(-1, source.vocabulary)
    mean = rows.reshape(-1, source.vocabulary, source.vocabulary).mean(axis=0) if source.vocabulary <= _MOST_TOKENS else rows[:0]
    likely = np.argsort(-mean, axis=1, kind="stable")[:, :MOST_SUCCESSORS]
    information = source.information(tokens)
    ranks = np.linspace(0.02, 0.98, EXAMPLES) * (len(tokens) - 1)
    examples = []
    for row in np.argsort(information, kind="stable")[ranks.round().astype(int)]:
        one = tokens[row : row + 1]
        bits = -np.log2(rows[source.contexts(one), one[:, source.order :]])[0]
        shown = bits[: max(MOST_POSITIONS - source.order, 0)]
        cut = {"tokens": one[0, :MOST_POSITIONS].tolist(), "bits": shown.round(2).tolist()}
        examples.append(cut | {"transitions": len(bits), "total": round(float(bits.sum()), 2)})
    return {
        "order": source.order,
        "simple_tokens": source.simple_tokens,
        "successors": [[[int(n), round(float(p[n]), 3)] for n in best] for p, best in zip(mean, likely, strict=True)],
        "examples": examples,
    }
