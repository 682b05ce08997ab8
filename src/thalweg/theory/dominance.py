"""Assumption 1 put to the test over seeds: are Looped's low eigenvalues smaller, one by one?

Shape letters: S seeds, P eigenvalues, J eigenvalues compared, G places of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import EmptySubspaceError, InsufficientDataError, ShapeMismatchError, require
from thalweg.streams import stream
from thalweg.theory.inputs import finite

SEEDS = 5
"""Fewest: the smallest p-value of S seeds is ``2^-S``."""
MOST = 20
"""Of seeds: all ``2^S`` sign flips are tried."""
_ROWS = 1 << 14
"""Sign flips at a time."""
_RESAMPLES = 2000
"""Of the seeds, for the interval of a share."""
_TIES = 1e-12
"""Relative; statistics of two flips this close count as equal."""


@dataclass(frozen=True)
class SignFlips:
    """Paired differences against all ``2^S`` flips of the seeds' signs."""

    statistics: Tensor
    """``t_j = mean / (sd / sqrt S)``, ``(J,)``; infinite where all seeds agree, 0 where all are 0."""
    p_value: float
    """That the largest t_j is as large by chance, all j at once; at least ``2^-S``. Rejecting says: SOME of the J are above 0."""
    p_each: Tensor
    """The same for each t_j against the flips' largest, ``(J,)``: which ones. Family-wise."""
    p_every: float
    """The largest of the p-values of each t_j alone. Rejecting says: ALL of the J are above 0."""


@dataclass(frozen=True)
class Direction:
    """One claim: the low eigenvalues of one model are smaller than the other's."""

    words: str
    """The claim."""
    flips: SignFlips
    """Of ``log(larger) - log(smaller)`` as claimed, eigenvalue by eigenvalue."""
    share: float
    """Of the S J pairs that are as claimed."""
    share_interval: tuple[float, float]
    """Of the share, 95 %, percentiles of resampled seeds."""
    counts: Tensor
    """``N_tau(claimed smaller) - N_tau(other)`` at every place of the grid, mean over seeds, ``(G,)``."""
    interval: tuple[float, float] | None
    """Longest stretch of the grid with counts of at least 0 in every seed and above 0 in the mean; None where there is none."""
    verdict: str
    """"supported" (some of the J significantly, none the other way), "contradicted" (some significantly the other way), or
    "undecided"."""


@dataclass(frozen=True)
class Dominance:
    """Assumption 1 and its reverse."""

    forward: Direction
    """Looped below Single, as the paper assumes."""
    reverse: Direction
    """Single below Looped, which the T^2 law says near the start."""
    indices: tuple[int, int]
    """First and one past the last of the ascending eigenvalues compared."""
    thresholds: Tensor
    """The grid of tau, ``(G,)``, ascending."""


def dominance(
    single: Tensor, looped: Tensor, threshold: float, lowest: int = 10, level: float = 0.05, places: int = 50, seed: int = 0
) -> Dominance:
    """Test "Looped has component-wise smaller low eigenvalues", and the reverse, over seeds.

    Compared are the J lowest places of the ascending spectra that lie above the threshold in every seed of both models: the same
    place in both. To take the J lowest above the threshold of each spectrum by itself would compare different places: one
    eigenvalue of Looped that rises above the threshold would then make Looped's whole valley look lower.
    Family-wise error at most the level in each direction; so at most twice the level for a wrong verdict.

    Args:
        single: spectra ``(S, P)``, one row a seed, any order; gauge-balanced, which is trusted.
        looped: of the same seeds, row by row.
        threshold: eps, above which an eigenvalue belongs to the valley.
        lowest: J, at most; fewer where the valley has fewer.
        level: of significance.
        places: G, of tau, log-spaced from the threshold to the largest eigenvalue.
        seed: of the resamples.
    Raises:
        InsufficientDataError: fewer than 5 seeds, or too few for the level, below ``2^-S``.
        ShapeMismatchError: spectra of different models mixed.
        EmptySubspaceError: no place above the threshold in every seed.
    Example:
        >>> spectra = torch.tensor([[1.0, 2.0, 4.0]]).repeat(5, 1)
        >>> dominance(spectra, spectra / 2, threshold=0.1).forward.verdict
        'supported'

    Source:
        Assumption 1 of arXiv 2510.10089; the test is ours. Max-t over sign flips: Westfall and Young 1993.
    """
    one, two = paired(single, looped)
    _refuse_few(len(one), level)
    require(0 < threshold < math.inf, "threshold", threshold, "a positive number")
    require(lowest >= 1, "lowest", lowest, "a whole number of at least 1")
    require(places >= 2, "places", places, "a whole number of at least 2")
    first = int((torch.cat([one, two]) <= threshold).sum(1).max())
    last = min(first + lowest, one.shape[1])
    if first == last:
        raise EmptySubspaceError(f"valley: no place of the spectra is above {threshold:.3g} in every seed; a lower threshold")
    tau = torch.logspace(math.log10(threshold), math.log10(float(max(one.max(), two.max()))), places, dtype=torch.float64)
    logs, counts = one[:, first:last].log() - two[:, first:last].log(), below(two, tau) - below(one, tau)
    flips = sign_flips(logs), sign_flips(-logs)
    forward = direction("Looped's low eigenvalues are smaller than Single's", logs, flips, level, seed, counts, tau)
    reverse = direction(
        "Single's low eigenvalues are smaller than Looped's", -logs, (flips[1], flips[0]), level, seed, -counts, tau
    )
    return Dominance(forward, reverse, (first, last), tau)


def direction(
    words: str, logs: Tensor, flips: tuple[SignFlips, SignFlips], level: float, seed: int, counts: Tensor, tau: Tensor
) -> Direction:
    """One claim judged; flips of the claim and of its reverse."""
    ours, theirs = (found.p_value <= level for found in flips)
    shares = (logs > 0).double().mean(1)
    return Direction(
        words=words,
        flips=flips[0],
        share=float(shares.mean()),
        share_interval=resampled(shares, seed),
        counts=counts.double().mean(0),
        interval=longest(counts, tau),
        verdict="contradicted" if theirs else "supported" if ours else "undecided",
    )


def paired(single: Tensor, looped: Tensor) -> tuple[Tensor, Tensor]:
    """Both ascending in float64, after a look at their shapes."""
    if single.dim() != 2 or single.shape != looped.shape:
        given = f"{tuple(single.shape)} and {tuple(looped.shape)}"
        raise ShapeMismatchError(
            f"spectra of different models mixed: {given}, expected (S, P) twice, the same seeds and parameters"
        )
    return finite("single", single).sort(1).values, finite("looped", looped).sort(1).values


def _refuse_few(seeds: int, level: float = 0.05) -> None:
    """At least 5 seeds, at most 20, and enough of them to reach the level."""
    require(0 < level < 1, "level", level, "a number between 0 and 1")
    needed = max(SEEDS, math.ceil(-math.log2(level)))
    if seeds < needed:
        least = f"the smallest p-value of {seeds} is {2.0**-seeds:.2g}"
        raise InsufficientDataError(f"seeds: given {seeds}, expected at least {needed} for level {level:g}; {least}")
    require(seeds <= MOST, "seeds", seeds, f"at most {MOST}; all 2^S sign flips are tried")


def below(spectra: Tensor, tau: Tensor) -> Tensor:
    """N_tau of every seed, eigenvalues up to tau, negative ones included: ``(S, G)``.

    Counted over the whole spectrum, ``N2_tau >= N1_tau`` for all tau says the same as ``lam2_i <= lam1_i`` for all i.
    """
    return torch.searchsorted(spectra.contiguous(), tau.expand(len(spectra), -1).contiguous(), right=True)


def sign_flips(differences: Tensor) -> SignFlips:
    """Paired differences ``(S, J)`` against all ``2^S`` sign flips of whole seeds; exact, one-sided, family-wise over J.

    Under the null hypothesis the two models of a seed can be exchanged, which flips the sign of its whole row.

    Example:
        >>> sign_flips(torch.ones(5, 2)).p_value == 2**-5
        True
    """
    if differences.dim() != 2:
        raise ShapeMismatchError(f"differences: given shape {tuple(differences.shape)}, expected (S, J)")
    given, seeds = finite("differences", differences), len(differences)
    _refuse_few(seeds)
    observed = statistics(given, torch.ones(1, seeds, dtype=torch.float64))[0]
    bar = torch.where(observed.isinf(), observed, observed - _TIES * observed.abs())
    largest, alone = torch.zeros_like(bar), torch.zeros_like(bar)
    for begin in range(0, 1 << seeds, _ROWS):
        numbers = torch.arange(begin, min(begin + _ROWS, 1 << seeds)).unsqueeze(1)
        flipped = statistics(given, 1.0 - 2.0 * (numbers >> torch.arange(seeds) & 1))
        largest += (flipped.amax(1, keepdim=True) >= bar).sum(0)
        alone += (flipped >= bar).sum(0)
    each = largest / (1 << seeds)
    return SignFlips(observed, float(each.min()), each, float(alone.max()) / (1 << seeds))


def statistics(differences: Tensor, signs: Tensor) -> Tensor:
    """t of every row of signs ``(n, S)`` and every column of differences ``(S, J)``: ``(n, J)``."""
    flipped = signs.to(torch.float64).unsqueeze(2) * differences
    mean, deviation = flipped.mean(1), flipped.std(1)
    deviation = torch.where(deviation <= _TIES * mean.abs(), 0.0, deviation)
    return (mean / deviation * math.sqrt(len(differences))).nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)


def resampled(shares: Tensor, seed: int) -> tuple[float, float]:
    """95 % interval of the mean of one number a seed, by percentiles over resampled seeds."""
    picks = stream(seed, "bootstrap").integers(0, len(shares), (_RESAMPLES, len(shares)))
    low, high = np.quantile(shares.numpy(force=True)[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


def longest(counts: Tensor, tau: Tensor) -> tuple[float, float] | None:
    """The longest stretch of tau, in decades, on which the first has no fewer in any seed and more in the mean."""
    good = ((counts >= 0).all(0) & (counts.double().mean(0) > 0)).tolist()
    best, begin = None, None
    for place, held in enumerate([*good, False]):
        if held and begin is None:
            begin = place
        elif not held and begin is not None:
            if best is None or tau[place - 1] / tau[begin] > tau[best[1]] / tau[best[0]]:
                best = (begin, place - 1)
            begin = None
    return None if best is None else (float(tau[best[0]]), float(tau[best[1]]))
