"""A short description of a Markov language for reports: likely successors, and examples with the bits of each transition."""

from __future__ import annotations

import numpy as np

from thalweg.data.batches import Tokens
from thalweg.data.markov import MarkovLanguage

_MOST_TOKENS, MOST_SUCCESSORS, MOST_POSITIONS, EXAMPLES = 32, 4, 16, 8
"""Largest vocabulary with a list of successors, successors listed per token, tokens shown per sequence, number of sequences."""


def source_facts(source: MarkovLanguage, tokens: Tokens) -> dict:
    """Describe a language by the likely successors of each token and by sequences from few bits to many; less than 6 kB of JSON.

    Args:
        source: the language.
        tokens: sequences of it, ``(N, L)``, from which the examples are chosen.
    Returns:
        JSON values. The probability of a successor is the mean over the contexts that end in the token.
    """
    rows = source.transitions.reshape(-1, source.vocabulary)
    mean = rows.reshape(-1, source.vocabulary, source.vocabulary).mean(axis=0) if source.vocabulary <= _MOST_TOKENS else rows[:0]
    likely = np.argsort(-mean, axis=1, kind="stable")[:, :MOST_SUCCESSORS]
    information = source.information(tokens)
    ranks = np.linspace(0.02, 0.98, EXAMPLES) * (len(tokens) - 1)
    examples = []
    for row in np.argsort(information, kind="stable")[ranks.round().astype(int)]:
        sequence = tokens[row : row + 1]
        bits = -np.log2(rows[source.contexts(sequence), sequence[:, source.order :]])[0]
        shown = bits[: max(MOST_POSITIONS - source.order, 0)]
        example = {"tokens": sequence[0, :MOST_POSITIONS].tolist(), "bits": shown.round(2).tolist()}
        examples.append(example | {"transitions": len(bits), "total": round(float(bits.sum()), 2)})
    return {
        "order": source.order,
        "simple_tokens": source.simple_tokens,
        "successors": [[[int(n), round(float(p[n]), 3)] for n in best] for p, best in zip(mean, likely, strict=True)],
        "examples": examples,
    }
