"""A training set and a held-out set of the Markov language, with strata and the best possible scores.

The strata are quarters of the training set by information content: "low" is the bottom quarter, "high" the top quarter. The same
cuts, in bits, are applied to the held-out set. Sequences of another length (`MarkovData.longer`) have cuts of their own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar

import numpy as np

from thalweg.bounds import LARGEST_SEED, Number, Share, Whole, named_arguments
from thalweg.data.batches import Ceiling, EvaluationSet, Longer, Tokens, shuffled_rows
from thalweg.data.markov import MarkovLanguage, long_tail
from thalweg.data.source_facts import source_facts
from thalweg.errors import require
from thalweg.reprs import describe
from thalweg.serialization import checked

_Sure = Annotated[float, Number(0, 1, "a probability between 0 and 1", open_below=True, open_above=True)]
_Quartered = Annotated[int, Whole(4, 10**9, "at least 4, one for each quarter")]
"""A number of sequences, enough to divide them into quarters."""


@named_arguments
@dataclass(frozen=True)
class MarkovConfig:
    """A Markov language, and how many sequences of it are drawn."""

    kind: ClassVar[str] = "markov"
    vocabulary: Annotated[int, Whole(2, 10**6, "at least 2 tokens")] = 16
    """Number of distinct tokens V."""
    order: Annotated[int, Whole(1, 64, "at least 1: the next token depends on the last one")] = 2
    """Number of previous tokens that decide the next one."""
    length: Annotated[int, Whole(2, 10**6, "more tokens than the order")] = 12
    """Number of tokens in a sequence."""
    simple: Share = 0.4
    """Share of the tokens that are simple, after which the next token is nearly certain."""
    simple_sure: _Sure = 0.98
    """Probability of the likely next token after a simple token."""
    complex_sure: _Sure = 0.65
    """Probability of the likely next token after a complex token."""
    sequences: _Quartered = 8000
    """Number of training sequences."""
    held_out: _Quartered = 2000
    """Number of held-out sequences."""
    source_seed: Annotated[int, Whole(0, LARGEST_SEED)] = 3
    """Seed of the transition probabilities; the language does not depend on the seed of the run."""
    scored: Annotated[int, Whole(0, 10**9)] = 0
    """Number of training sequences, from the first on, that are scored as the set "train"; 0 for all."""

    def __post_init__(self) -> None:
        checked(self, "data.")
        longer = f"more tokens than the order {self.order}"
        require(self.length > self.order, "data.length", self.length, longer)
        fits = self.scored == 0 or 4 <= self.scored <= self.sequences
        require(fits, "data.scored", self.scored, f"0 for all, or from 4 to the {self.sequences} training sequences")


class MarkovData:
    """Sequences of one `MarkovLanguage`, drawn once for each seed of a run and used in repeated passes.

    Args:
        config: the language and the numbers of sequences.
        seed: seed of the sequences and of their order in training.
    """

    def __init__(self, config: MarkovConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.vocabulary, self.length = config.vocabulary, config.length
        self.source = MarkovLanguage(
            config.vocabulary, config.order, config.simple, config.simple_sure, config.complex_sure, config.source_seed
        )
        self.tokens = self.source.sample(config.sequences, config.length, seed, "train")
        held_out = self.source.sample(config.held_out, config.length, seed, "held-out")
        information = self.source.information(self.tokens)
        self.cuts = _quarters(information)
        self.tail = long_tail(information)
        self.histogram = histogram(information)
        first = self.tokens[: config.scored] if config.scored else self.tokens
        self.evaluation = (self.scored("train", first), self.scored("held-out", held_out))

    def __repr__(self) -> str:
        return describe(self, repr(self.source), f"{len(self.tokens):,} sequences of {self.length}", f"seed={self.seed}")

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> Tokens:
        rows = shuffled_rows(len(self.tokens), self.seed, step, size, rank, world)
        return self.tokens[rows]

    def length_at(self, multiple: int) -> int:
        return multiple * self.length

    def longer(self, multiple: int, count: int = 1000) -> Longer:
        """New sequences of ``multiple * length`` tokens, with strata by quarters of their own information content.

        They are drawn from a part of the held-out stream that nothing else uses, and share no random number with the training and
        held-out sequences. Short sequences of few bits can still be equal to one of those by chance; removing them would change
        the language.

        Args:
            multiple: at least 1; 1 gives new sequences of the training length.
            count: number of sequences, at least 4, one for each quarter.
        Returns:
            The set, and the distribution of its information content. This concentrates as sequences grow: by the law of large
            numbers both ``shares`` go to 0 if the mean lies between the cuts.
        Raises:
            BadInputError: a multiple below 1 or a count below 4.
        """
        require(multiple >= 1, "multiple", multiple, "a whole number of at least 1")
        require(count >= 4, "count", count, "at least 4, one for each quarter")
        tokens = self.source.sample(count, self.length_at(multiple), self.seed, "held-out", step=multiple)
        information = self.source.information(tokens)
        bits = information / (tokens.shape[1] - self.config.order)
        low, high = (cut / (self.length - self.config.order) for cut in self.cuts)
        shares = {"low": float((bits < low).mean()), "high": float((bits > high).mean())}
        return Longer(self.scored(f"{multiple}x", tokens, _quarters(information)), float(bits.mean()), float(bits.std()), shares)

    def scored(self, name: str, tokens: Tokens, cuts: tuple[float, float] | None = None) -> EvaluationSet:
        """An evaluation set with strata and best possible scores; by default its strata are cut like those of the training set."""
        bits, (low, high) = self.source.information(tokens), cuts or self.cuts
        members = {"low": bits <= low, "high": bits >= high, "all": np.ones(len(bits), dtype=bool)}
        members = {stratum: mask for stratum, mask in members.items() if mask.any()}
        ceilings = {stratum: self.ceiling(tokens[mask]) for stratum, mask in members.items()}
        return EvaluationSet(name, tokens, self.config.order, members, ceilings)

    def ceiling(self, tokens: Tokens) -> Ceiling:
        """The Bayes-optimal scores on sequences ``(N, L)``."""
        best = self.source.bayes(tokens)
        accuracy, loss = (tuple(float(x) for x in values) for values in (best.accuracy, best.loss))
        return Ceiling(float(best.accuracy.mean()), float(best.loss.mean()), accuracy, loss)

    def facts(self) -> dict:
        return {
            "kind": "markov",
            "cuts_bits": list(self.cuts),
            "long_tail": asdict(self.tail),
            "source": source_facts(self.source, self.tokens),
            "histogram": self.histogram,
            "ceilings": {s.name: {k: asdict(c) for k, c in s.ceilings.items()} for s in self.evaluation},
            "strata": {s.name: {k: int(m.sum()) for k, m in s.strata.items()} for s in self.evaluation},
        }


def _quarters(bits: np.ndarray) -> tuple[float, float]:
    """The end of the bottom quarter and the begin of the top quarter of some numbers.

    Example:
        >>> _quarters(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
        (2.0, 4.0)
    """
    low, high = np.quantile(bits, [0.25, 0.75])
    return float(low), float(high)


def histogram(bits: np.ndarray, bins: int = 60) -> dict[str, list[float]]:
    """Histogram of the information content ``(N,)``: counts and edges in bits."""
    counts, edges = np.histogram(bits, bins=bins)
    return {"counts": [float(c) for c in counts], "edges_bits": [float(e) for e in edges]}
