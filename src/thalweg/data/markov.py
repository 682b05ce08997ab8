"""The Markov language: a synthetic source with a long tail of information, known exactly.

Shape letters: N sequences, L tokens, V vocabulary, k order, C = V^k contexts.

A part of the tokens is *simple*: after one, the next token is a fixed function of it with probability 0.98. The others are
*complex*: the next token is a random function of the last k tokens with probability 0.65, and the rest is spread as
1 / rank over a random order of the other tokens. A sequence of simple tokens carries few bits, one of complex tokens many.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thalweg.errors import BadInputError, require
from thalweg.streams import stream

Tokens = NDArray[np.int64]
_Floats = NDArray[np.float64]
_CHUNK = 4096
"""Contexts whose transitions are drawn at once; changes the memory, not the numbers."""


@dataclass(frozen=True)
class Bayes:
    """The best predictor's score, per position: ``accuracy`` (share) and ``loss`` (nats), each ``(L - k,)``."""

    accuracy: _Floats
    loss: _Floats


class MarkovLanguage:
    """A Markov source of any order and vocabulary whose transition tensor is drawn from its own seed.

    Args:
        vocabulary: V, at least 2.
        order: k, at least 1: how many tokens decide the next one.
        simple: share of the simple tokens, 0 to 1 (rounded to whole tokens).
        simple_sure, complex_sure: probability of the likely next token after a simple and a complex token.
        seed: of the transition tensor.
    Raises:
        BadInputError: a value out of range, or a tensor of V^(k+1) numbers that would not fit in half of the memory.
    Example:
        >>> source = MarkovLanguage(vocabulary=4, order=1)
        >>> source.sample(2, 6, seed=0).shape
        (2, 6)
        >>> bool(np.allclose(source.transitions.sum(-1), 1))
        True

    Source:
        arXiv 2510.10089, section 4; the paper names no values, these are ours.
    """

    def __init__(
        self,
        vocabulary: int = 16,
        order: int = 2,
        simple: float = 0.4,
        simple_sure: float = 0.98,
        complex_sure: float = 0.65,
        seed: int = 0,
    ) -> None:
        require(vocabulary >= 2, "vocabulary", vocabulary, "at least 2 tokens")
        require(order >= 1, "order", order, "at least 1: the next token depends on the last one")
        require(0 <= simple <= 1, "simple", simple, "a share from 0 to 1")
        for name, sure in (("simple_sure", simple_sure), ("complex_sure", complex_sure)):
            require(0 < sure < 1, name, sure, "a probability between 0 and 1")
        _check_fits(vocabulary, order)
        self.vocabulary, self.order = vocabulary, order
        self.simple_tokens = round(simple * vocabulary)
        rng = stream(seed, "transitions")
        self.transitions = _draw_transitions(rng, vocabulary, order, self.simple_tokens, simple_sure, complex_sure)
        """Probability of the next token, ``(V,) * k + (V,)``; the last axis sums to one."""
        self._rows = self.transitions.reshape(-1, vocabulary)
        self._cumulative = np.cumsum(self._rows, axis=1)
        self._cumulative[:, -1] = 1.0

    def sample(self, n: int, length: int, seed: int, name: str = "train", step: int = 0, rank: int = 0) -> Tokens:
        """Draw sequences ``(N, L)``; the first k tokens are uniform.

        ``name`` is the random stream, "train" or "held-out": draws from two streams share no random number.
        """
        require(n >= 1, "sequences", n, "at least 1")
        require(length > self.order, "length", length, f"more tokens than the order {self.order}")
        rng = stream(seed, name, step, rank)
        tokens = np.empty((n, length), dtype=np.int64)
        tokens[:, : self.order] = rng.integers(self.vocabulary, size=(n, self.order))
        for position in range(self.order, length):
            context = self._index(tokens[:, position - self.order : position])
            tokens[:, position] = (rng.random(n)[:, None] >= self._cumulative[context]).sum(axis=1)
        return tokens

    def contexts(self, tokens: Tokens) -> Tokens:
        """Row of the transition matrix that governs each scored position, ``(N, L - k)``."""
        require(tokens.shape[1] > self.order, "length", tokens.shape[1], f"more tokens than the order {self.order}")
        windows = np.lib.stride_tricks.sliding_window_view(tokens, self.order, axis=1)[:, :-1]
        return self._index(windows)

    def information(self, tokens: Tokens) -> _Floats:
        """Exact information content of each sequence in bits: the sum of -log2 p over its transitions, ``(N,)``."""
        return -np.log2(self._chosen(tokens)).sum(axis=1)

    def bayes(self, tokens: Tokens) -> Bayes:
        """The score of the Bayes-optimal predictor on these very sequences, per position.

        It knows the transition tensor, so no causal model without knowledge of the answers does better in expectation.
        A model that has memorised a training set can exceed it there, and only there.
        """
        best = self._rows.argmax(axis=1)
        hits = best[self.contexts(tokens)] == tokens[:, self.order :]
        return Bayes(hits.mean(axis=0), -np.log(self._chosen(tokens)).mean(axis=0))

    def expected(self, length: int) -> Bayes:
        """The Bayes-optimal score over the whole language, per position, by propagating the distribution of contexts."""
        require(length > self.order, "length", length, f"more tokens than the order {self.order}")
        share = np.full(len(self._rows), 1 / len(self._rows))
        entropy = -np.sum(self._rows * np.log(self._rows, where=self._rows > 0, out=np.zeros_like(self._rows)), axis=1)
        accuracy, loss = [], []
        for _ in range(length - self.order):
            accuracy.append(float(share @ self._rows.max(axis=1)))
            loss.append(float(share @ entropy))
            flow = (share[:, None] * self._rows).reshape(self.vocabulary, -1, self.vocabulary)
            share = flow.sum(axis=0).reshape(-1)  # drop the oldest token of the context
        return Bayes(np.array(accuracy), np.array(loss))

    def _index(self, windows: Tokens) -> Tokens:
        powers = self.vocabulary ** np.arange(self.order - 1, -1, -1, dtype=np.int64)
        return windows @ powers

    def _chosen(self, tokens: Tokens) -> _Floats:
        chosen = self._rows[self.contexts(tokens), tokens[:, self.order :]]
        require(bool((chosen > 0).all()), "sequence", "a transition of probability 0", "sequences of this language")
        return chosen


def _draw_transitions(
    rng: np.random.Generator, vocabulary: int, order: int, simple: int, simple_sure: float, complex_sure: float
) -> _Floats:
    """The transition tensor ``(V,) * (k + 1)``; tokens below ``simple`` are the simple ones."""
    contexts = vocabulary**order
    last = np.arange(contexts) % vocabulary
    successor = _simple_chain(rng, vocabulary, simple)
    likely = np.where(last < simple, successor[last], rng.integers(vocabulary, size=contexts))
    zipf = 1 / np.arange(1, vocabulary)
    rest = (1 - complex_sure) * zipf / zipf.sum()
    base = np.arange(vocabulary - 1)
    rows = np.empty((contexts, vocabulary))
    for first in range(0, contexts, _CHUNK):  # in chunks, as the working copies are several times the size of their rows
        part = slice(first, min(first + _CHUNK, contexts))
        complicated = last[part] >= simple
        spread = np.full((len(complicated), vocabulary - 1), (1 - simple_sure) / (vocabulary - 1))
        order_of_rest = rng.permuted(np.tile(base, (int(complicated.sum()), 1)), axis=1)
        scattered = np.empty(order_of_rest.shape)
        np.put_along_axis(scattered, order_of_rest, rest[None, :], axis=1)
        spread[complicated] = scattered
        others = base + (base >= likely[part, None])  # every token but the likely one
        np.put_along_axis(rows[part], others, spread, axis=1)
        rows[np.arange(part.start, part.stop), likely[part]] = np.where(complicated, complex_sure, simple_sure)
    return rows.reshape((vocabulary,) * (order + 1))


def _simple_chain(rng: np.random.Generator, vocabulary: int, simple: int) -> Tokens:
    """The likely successor of every token ``(V,)``, used for the simple ones: a chain through all of them, then out.

    A free random function often closes a short cycle of simple tokens that swallows every sequence, or has almost no step
    from simple to simple; of ten languages drawn so, the low stratum's Bayes accuracy was 0.90 to 1.00. The chain keeps the
    tail long for every seed. Without complex tokens it closes to a ring.
    """
    order = rng.permutation(simple)
    successor = np.arange(vocabulary)
    successor[order[:-1]] = order[1:]
    if simple:
        successor[order[-1]] = rng.integers(simple, vocabulary) if simple < vocabulary else order[0]
    return successor


def _check_fits(vocabulary: int, order: int) -> None:
    """Refuse a transition tensor (with its cumulative copy) beyond half of this machine's memory."""
    need = 3 * 8 * vocabulary ** (order + 1)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have // 2:
        raise BadInputError(
            f"vocabulary {vocabulary} at order {order}: the transition tensor needs {need / 1e9:.3g} GB, "
            f"expected at most {have / 2e9:.3g} GB (half of the memory); choose a smaller vocabulary or order"
        )


@dataclass(frozen=True)
class LongTail:
    """How the information content is spread over sequences; bits unless said."""

    mean: float
    median: float
    deviation: float
    skewness: float
    top_quarter_share: float
    """Share of all bits that the top quarter of the sequences carries."""
    top_tenth_share: float


def long_tail(information: _Floats) -> LongTail:
    """Moments and shares of mass of the information content ``(N,)``.

    Example:
        >>> tail = long_tail(np.array([1.0, 1.0, 1.0, 5.0]))
        >>> tail.top_quarter_share, round(tail.skewness, 4)
        (0.625, 1.1547)
    """
    require(information.size >= 1, "sequences", information.size, "at least 1")
    ordered, total = np.sort(information)[::-1], float(information.sum())
    spread = float(information.std())
    cube = float(((information - information.mean()) ** 3).mean())

    def share(part: float) -> float:
        return float(ordered[: max(1, round(part * ordered.size))].sum() / total) if total > 0 else 0.0

    return LongTail(
        mean=float(information.mean()),
        median=float(np.median(information)),
        deviation=spread,
        skewness=cube / spread**3 if spread > 0 else 0.0,
        top_quarter_share=share(0.25),
        top_tenth_share=share(0.1),
    )
