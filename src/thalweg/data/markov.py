"""The Markov language: a synthetic source of sequences whose information content has a long tail and is known exactly.

Shape letters: N sequences, L tokens, V vocabulary, k order, C = V^k contexts.

Some tokens are *simple*: the token after one is, with probability 0.98, a fixed function of it. The others are *complex*: the token
after one is, with probability 0.65, a fixed random function of the last k tokens, and the rest of the probability is spread over
the other tokens in proportion to 1 / rank in a random order. Sequences of simple tokens carry few bits, those of complex ones many.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thalweg.bounds import of_their_kind
from thalweg.errors import BadInputError, Phrase, require
from thalweg.reprs import describe
from thalweg.streams import stream

Tokens = NDArray[np.int64]
_Floats = NDArray[np.float64]
_CHUNK = 4096
"""Number of contexts whose transitions are drawn at once; changes the memory, not the numbers."""


@dataclass(frozen=True)
class Bayes:
    """Scores of the Bayes-optimal predictor by position: ``accuracy`` (share) and ``loss`` (nats), each ``(L - k,)``."""

    accuracy: _Floats
    loss: _Floats


class MarkovLanguage:
    """A Markov source of any order and vocabulary with a random transition tensor.

    Args:
        vocabulary: number of tokens V, at least 2.
        order: number of previous tokens k that decide the next one, at least 1.
        simple: share of the tokens that are simple, 0 to 1 (rounded to whole tokens).
        simple_sure, complex_sure: probability of the likely next token after a simple and after a complex token.
        seed: seed of the transition tensor.
    Raises:
        BadInputError: a value is out of range, or a tensor of V^(k+1) numbers would not fit into half of the memory.
    Example:
        >>> source = MarkovLanguage(vocabulary=4, order=1)
        >>> source.sample(2, 6, seed=0).shape
        (2, 6)
        >>> bool(np.allclose(source.transitions.sum(-1), 1))
        True

    Source:
        arXiv 2510.10089, section 4; the paper gives no values, ours are the defaults.
    """

    @of_their_kind
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

    def __repr__(self) -> str:
        return describe(self, f"vocabulary={self.vocabulary}", f"order={self.order}", f"{self.simple_tokens} simple tokens")

    @of_their_kind
    def sample(self, n: int, length: int, seed: int, name: str = "train", step: int = 0, rank: int = 0) -> Tokens:
        """Draw sequences ``(N, L)``; the first k tokens are uniform.

        Args:
            n: number of sequences N.
            length: tokens L of a sequence, more than the order.
            seed: seed of the draw.
            name: random stream, "train" or "held-out"; different streams share no random number.
            step, rank: index within the stream, see `thalweg.streams.stream`.
        """
        require(n >= 1, "sequences", n, "at least 1")
        require(length > self.order, "length", length, f"more tokens than the order {self.order}")
        rng = stream(seed, name, step, rank)
        tokens = np.empty((n, length), dtype=np.int64)
        tokens[:, : self.order] = rng.integers(self.vocabulary, size=(n, self.order))
        for position in range(self.order, length):
            context = self._index(tokens[:, position - self.order : position])
            # Invert the cumulative distribution: count the entries that the uniform number has passed.
            tokens[:, position] = (rng.random(n)[:, None] >= self._cumulative[context]).sum(axis=1)
        return tokens

    def contexts(self, tokens: Tokens) -> Tokens:
        """Index of the context, a row of the transition matrix, at each scored position of ``(N, L)`` tokens: ``(N, L - k)``."""
        require(tokens.shape[1] > self.order, "length", tokens.shape[1], f"more tokens than the order {self.order}")
        windows = np.lib.stride_tricks.sliding_window_view(tokens, self.order, axis=1)[:, :-1]
        return self._index(windows)

    def information(self, tokens: Tokens) -> _Floats:
        """Exact information content of each sequence in bits, ``(N,)``: the sum of ``-log2 p`` over its transitions."""
        return -np.log2(self._chosen(tokens)).sum(axis=1)

    def bayes(self, tokens: Tokens) -> Bayes:
        """Scores of the Bayes-optimal predictor on sequences ``(N, L)``, by position.

        The predictor knows the transition tensor, so that no causal model does better in expectation. A model that has memorised
        its training set can exceed these scores there, and only there.
        """
        best = self._rows.argmax(axis=1)
        hits = best[self.contexts(tokens)] == tokens[:, self.order :]
        return Bayes(hits.mean(axis=0), -np.log(self._chosen(tokens)).mean(axis=0))

    @of_their_kind
    def expected(self, length: int) -> Bayes:
        """Expected Bayes-optimal scores over the whole language, by position, for sequences of ``length`` tokens.

        The distribution over contexts starts uniform and is propagated from position to position:
        ``p'(b, c) = sum_a p(a, b) P(c | a, b)``.
        """
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
        """Number of the context of each window of k tokens, ``(..., k) -> (...)``."""
        powers = self.vocabulary ** np.arange(self.order - 1, -1, -1, dtype=np.int64)
        return windows @ powers

    def _chosen(self, tokens: Tokens) -> _Floats:
        """Probability of every transition that occurs in sequences ``(N, L)``: ``(N, L - k)``."""
        chosen = self._rows[self.contexts(tokens), tokens[:, self.order :]]
        require(bool((chosen > 0).all()), "sequence", Phrase("a transition of probability 0"), "sequences of this language")
        return chosen


def _draw_transitions(
    rng: np.random.Generator, vocabulary: int, order: int, simple: int, simple_sure: float, complex_sure: float
) -> _Floats:
    """Draw the transition tensor ``(V,) * (k + 1)``; the tokens below ``simple`` are the simple ones."""
    # The likely next token of every context, and the probabilities of the other tokens after a complex one.
    contexts = vocabulary**order
    last = np.arange(contexts) % vocabulary
    successor = _simple_chain(rng, vocabulary, simple)
    likely = np.where(last < simple, successor[last], rng.integers(vocabulary, size=contexts))
    zipf = 1 / np.arange(1, vocabulary)
    rest = (1 - complex_sure) * zipf / zipf.sum()
    base = np.arange(vocabulary - 1)
    rows = np.empty((contexts, vocabulary))
    # Fill the rows in chunks, as the temporaries are several times the size of their rows.
    for first in range(0, contexts, _CHUNK):
        part = slice(first, min(first + _CHUNK, contexts))
        is_complex = last[part] >= simple
        # Probabilities of the unlikely tokens: equal after a simple token, 1 / rank in a random order after a complex one.
        spread = np.full((len(is_complex), vocabulary - 1), (1 - simple_sure) / (vocabulary - 1))
        ranking = rng.permuted(np.tile(base, (int(is_complex.sum()), 1)), axis=1)
        scattered = np.empty(ranking.shape)
        np.put_along_axis(scattered, ranking, rest[None, :], axis=1)
        spread[is_complex] = scattered
        others = base + (base >= likely[part, None])  # every token but the likely one
        np.put_along_axis(rows[part], others, spread, axis=1)
        rows[np.arange(part.start, part.stop), likely[part]] = np.where(is_complex, complex_sure, simple_sure)
    return rows.reshape((vocabulary,) * (order + 1))


def _simple_chain(rng: np.random.Generator, vocabulary: int, simple: int) -> Tokens:
    """The likely successor of every token, ``(V,)``, used for the simple ones: a random chain through all of them.

    A free random function often has a short cycle of simple tokens that no sequence leaves, or almost no step from simple to
    simple token: in ten languages drawn so, the Bayes accuracy of the "low" stratum ranged from 0.90 to 1.00. With a chain the
    distribution has a long tail for every seed. Its last token leads to a complex token, or, without any, to its first token.
    """
    order = rng.permutation(simple)
    successor = np.arange(vocabulary)
    successor[order[:-1]] = order[1:]
    if simple:
        successor[order[-1]] = rng.integers(simple, vocabulary) if simple < vocabulary else order[0]
    return successor


def _check_fits(vocabulary: int, order: int) -> None:
    """Refuse a transition tensor that, with its cumulative copy, needs more than half of this machine's memory."""
    need = 3 * 8 * vocabulary ** (order + 1)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have // 2:
        raise BadInputError(
            f"vocabulary {vocabulary} at order {order}: the transition tensor needs {need / 1e9:.3g} GB, "
            f"expected at most {have / 2e9:.3g} GB (half of the memory); choose a smaller vocabulary or order"
        )


@dataclass(frozen=True)
class LongTail:
    """Distribution of the information content over sequences; in bits, except skewness and shares."""

    mean: float
    median: float
    deviation: float
    skewness: float
    top_quarter_share: float
    """Share of all bits that the top quarter of the sequences carries."""
    top_tenth_share: float
    """Share of all bits that the top tenth of the sequences carries."""


def long_tail(information: _Floats) -> LongTail:
    """Moments of the information content ``(N,)`` and the shares of it that the most informative sequences carry.

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
