"""Test of assumption 1 over seeds: is every low eigenvalue of Looped smaller than the same eigenvalue of Single?

Shape letters: S seeds, P eigenvalues, J compared eigenvalues, G thresholds tau of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import EmptySubspaceError, InsufficientDataError, ShapeMismatchError, require
from thalweg.reprs import short_repr
from thalweg.streams import stream
from thalweg.theory.inputs import finite

SEEDS = 5
"""Fewest seeds: the smallest p-value of S seeds is ``2^-S``."""
MOST = 20
"""Most seeds, because all ``2^S`` sign flips are evaluated."""
_ROWS = 1 << 14
"""Number of sign flips that are evaluated at once."""
_RESAMPLES = 2000
"""Number of resamples of the seeds, for the interval of a share."""
_TIES = 1e-12
"""Relative difference below which the statistics of two flips count as equal."""


@short_repr
@dataclass(frozen=True)
class SignFlips:
    """Test of paired differences: their statistics against those of all ``2^S`` flips of the seeds' signs."""

    statistics: Tensor
    """``t_j = mean / (sd / sqrt S)``, ``(J,)``; infinite where all seeds agree, 0 where all are 0."""
    p_value: float
    """p-value of the largest t_j, for all j at once, at least ``2^-S``. If it is small, SOME of the J means are above 0."""
    p_each: Tensor
    """p-value of each t_j against the largest of each flip, ``(J,)``, family-wise. It tells which means are above 0."""
    p_every: float
    """The largest p-value of the t_j taken alone. If it is small, ALL J means are above 0."""


@short_repr
@dataclass(frozen=True)
class Direction:
    """The claim that the low eigenvalues of one model are smaller than those of the other, and its test."""

    words: str
    """The claim as a sentence."""
    flips: SignFlips
    """Test of ``log(larger) - log(smaller)``, larger and smaller as claimed, for each of the J eigenvalues."""
    share: float
    """Share of the S J pairs that are ordered as claimed."""
    share_interval: tuple[float, float]
    """95 % interval of the share, by percentiles over resampled seeds."""
    counts: Tensor
    """``N_tau(claimed smaller) - N_tau(other)`` at every threshold of the grid, mean over seeds, ``(G,)``."""
    interval: tuple[float, float] | None
    """Longest range of tau with counts of at least 0 in every seed and above 0 in the mean; None if there is no such range."""
    verdict: str
    """"supported": some of the J significantly as claimed, none significantly reversed. "contradicted": some significantly
    reversed. "undecided": neither."""


@short_repr
@dataclass(frozen=True)
class Dominance:
    """Assumption 1 and its reverse, each with its test."""

    forward: Direction
    """Claim of the paper: Looped's low eigenvalues are smaller than Single's."""
    reverse: Direction
    """Reverse claim: Single's low eigenvalues are smaller, as the T^2 law implies near zero weights."""
    indices: tuple[int, int]
    """Compared ranks of the ascending eigenvalues: the first, and one past the last."""
    thresholds: Tensor
    """The grid of tau, ``(G,)``, ascending."""


def dominance(
    single: Tensor, looped: Tensor, threshold: float, lowest: int = 10, level: float = 0.05, places: int = 50, seed: int = 0
) -> Dominance:
    """Test the claim "Looped has component-wise smaller low eigenvalues", and the reverse claim, over seeds.

    The compared eigenvalues have the J lowest ranks at which the ascending spectra lie above the threshold in every seed of both
    models. Both models are compared at the same ranks. With the J lowest eigenvalues above the threshold of each spectrum by
    itself, the ranks could differ: one eigenvalue of Looped that rises above the threshold would make Looped's whole valley
    appear lower.
    The family-wise error of each direction is at most ``level``, so that of the verdict is at most twice the level.

    Args:
        single: spectra of Single ``(S, P)``, one row for each seed, in any order; trusted to be gauge-balanced.
        looped: spectra of Looped, with the same seeds in the same rows.
        threshold: eps; eigenvalues above it belong to the valley.
        lowest: largest J; fewer eigenvalues are compared if the valley has fewer.
        level: level of significance of each direction.
        places: G, number of thresholds tau, log-spaced from ``threshold`` to the largest eigenvalue.
        seed: of the resamples for the intervals.
    Returns:
        Both claims with their tests, shares, counts and verdicts.
    Raises:
        InsufficientDataError: fewer than 5 seeds, or so few that ``2^-S`` is above the level.
        ShapeMismatchError: the spectra have different shapes.
        EmptySubspaceError: no rank lies above the threshold in every seed.
    Example:
        >>> spectra = torch.tensor([[1.0, 2.0, 4.0]]).repeat(5, 1)
        >>> dominance(spectra, spectra / 2, threshold=0.1).forward.verdict
        'supported'

    Source:
        Assumption 1 of arXiv 2510.10089; the paper does not test it, the test is ours. Max-t over sign flips: Westfall and
        Young 1993.
    """
    single_values, looped_values = _ascending_pair(single, looped)
    _refuse_few(len(single_values), level)
    require(0 < threshold < math.inf, "threshold", threshold, "a positive number")
    require(lowest >= 1, "lowest", lowest, "a whole number of at least 1")
    require(places >= 2, "places", places, "a whole number of at least 2")
    # The first rank that is above the threshold in every seed of both models.
    first = int((torch.cat([single_values, looped_values]) <= threshold).sum(1).max())
    last = min(first + lowest, single_values.shape[1])
    if first == last:
        raise EmptySubspaceError(
            f"valley: no eigenvalue rank is above the threshold {threshold:.3g} in every seed; choose a lower threshold"
        )
    largest = float(max(single_values.max(), looped_values.max()))
    tau = torch.logspace(math.log10(threshold), math.log10(largest), places, dtype=torch.float64)
    # Paired differences of logarithms, above 0 where Looped is smaller; and differences of the counts N_tau.
    logs = single_values[:, first:last].log() - looped_values[:, first:last].log()
    counts = _counts_up_to(looped_values, tau) - _counts_up_to(single_values, tau)
    flips = sign_flips(logs), sign_flips(-logs)
    forward = _judge("Looped's low eigenvalues are smaller than Single's", logs, flips, level, seed, counts, tau)
    reverse = _judge("Single's low eigenvalues are smaller than Looped's", -logs, (flips[1], flips[0]), level, seed, -counts, tau)
    return Dominance(forward, reverse, (first, last), tau)


def _judge(
    words: str, logs: Tensor, flips: tuple[SignFlips, SignFlips], level: float, seed: int, counts: Tensor, tau: Tensor
) -> Direction:
    """Judge one claim; ``flips`` holds the tests of the claim and of its reverse."""
    claimed, reversed_claim = (flip.p_value <= level for flip in flips)
    shares = (logs > 0).double().mean(1)
    return Direction(
        words=words,
        flips=flips[0],
        share=float(shares.mean()),
        share_interval=_bootstrap_interval(shares, seed),
        counts=counts.double().mean(0),
        interval=longest_interval(counts, tau),
        verdict="contradicted" if reversed_claim else "supported" if claimed else "undecided",
    )


def _ascending_pair(single: Tensor, looped: Tensor) -> tuple[Tensor, Tensor]:
    """Check that both spectra have the same shape ``(S, P)``; return them ascending, in float64."""
    if single.dim() != 2 or single.shape != looped.shape:
        given = f"{tuple(single.shape)} and {tuple(looped.shape)}"
        raise ShapeMismatchError(
            f"spectra of different models mixed: {given}, expected two of shape (S, P) with the same seeds and parameters"
        )
    return finite("single", single).sort(1).values, finite("looped", looped).sort(1).values


def _refuse_few(seeds: int, level: float = 0.05) -> None:
    """Refuse fewer than 5 or more than 20 seeds, and too few seeds for the level."""
    require(0 < level < 1, "level", level, "a number between 0 and 1")
    needed = max(SEEDS, math.ceil(-math.log2(level)))
    if seeds < needed:
        least = f"the smallest p-value of {seeds} is {2.0**-seeds:.2g}"
        raise InsufficientDataError(f"seeds: given {seeds}, expected at least {needed} for level {level:g}; {least}")
    require(seeds <= MOST, "seeds", seeds, f"at most {MOST}; all 2^S sign flips are tried")


def _counts_up_to(spectra: Tensor, tau: Tensor) -> Tensor:
    """Count the eigenvalues up to each tau, negative ones included, for every seed: N_tau, ``(S, G)``.

    Over the whole spectrum, ``N2_tau >= N1_tau`` for all tau is equivalent to ``lam2_i <= lam1_i`` for all i.
    """
    return torch.searchsorted(spectra.contiguous(), tau.expand(len(spectra), -1).contiguous(), right=True)


def sign_flips(differences: Tensor) -> SignFlips:
    """Test whether the means of paired differences are above 0, against all ``2^S`` sign flips of whole seeds.

    The test is exact, one-sided and family-wise over J. Under the null hypothesis the two models of a seed are exchangeable;
    an exchange flips the sign of the seed's whole row, so the flips keep the dependence between the J differences.

    Args:
        differences: ``(S, J)``, one row for each seed, 5 to 20 seeds.
    Raises:
        InsufficientDataError: fewer than 5 seeds.
        BadInputError: more than 20 seeds.
        ShapeMismatchError: not a matrix.

    Example:
        >>> sign_flips(torch.ones(5, 2)).p_value == 2**-5
        True

    Source:
        Westfall and Young 1993.
    """
    if differences.dim() != 2:
        raise ShapeMismatchError(f"differences: given shape {tuple(differences.shape)}, expected (S, J)")
    given, seeds = finite("differences", differences), len(differences)
    _refuse_few(seeds)
    observed = _t_statistics(given, torch.ones(1, seeds, dtype=torch.float64))[0]
    # Flips whose statistic equals the observed one up to rounding have to count.
    reached = torch.where(observed.isinf(), observed, observed - _TIES * observed.abs())
    # Count the flips that reach the observed statistic: with their largest entry, and entry by entry.
    largest, alone = torch.zeros_like(reached), torch.zeros_like(reached)
    for begin in range(0, 1 << seeds, _ROWS):
        # The S binary digits of a number are the signs of one flip.
        numbers = torch.arange(begin, min(begin + _ROWS, 1 << seeds)).unsqueeze(1)
        flipped = _t_statistics(given, 1.0 - 2.0 * (numbers >> torch.arange(seeds) & 1))
        largest += (flipped.amax(1, keepdim=True) >= reached).sum(0)
        alone += (flipped >= reached).sum(0)
    each = largest / (1 << seeds)
    return SignFlips(observed, float(each.min()), each, float(alone.max()) / (1 << seeds))


def _t_statistics(differences: Tensor, signs: Tensor) -> Tensor:
    """Compute t of every row of signs ``(n, S)`` and every column of differences ``(S, J)``: ``(n, J)``."""
    flipped = signs.to(torch.float64).unsqueeze(2) * differences
    mean, deviation = flipped.mean(1), flipped.std(1)
    # Differences that agree in all seeds have a deviation of rounding only; their t is infinite, or 0 if they are 0.
    deviation = torch.where(deviation <= _TIES * mean.abs(), 0.0, deviation)
    return (mean / deviation * math.sqrt(len(differences))).nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)


def _bootstrap_interval(shares: Tensor, seed: int) -> tuple[float, float]:
    """Bootstrap the 95 % interval of a mean over seeds: percentiles over resampled seeds; ``shares`` is ``(S,)``."""
    # Whole seeds are resampled, because the pairs of one seed are not independent.
    picks = stream(seed, "bootstrap").integers(0, len(shares), (_RESAMPLES, len(shares)))
    low, high = np.quantile(shares.numpy(force=True)[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


def longest_interval(counts: Tensor, tau: Tensor) -> tuple[float, float] | None:
    """Find the longest range of tau, in decades, in which the counts favour the claim.

    Args:
        counts: differences of N_tau, ``(S, G)``.
        tau: thresholds, ascending, ``(G,)``.
    Returns:
        First and last tau of the range in which every seed has a count of at least 0 and the mean is above 0, or None.
    """
    # Scan the grid for runs of good thresholds; the extra False closes the last run.
    good = ((counts >= 0).all(0) & (counts.double().mean(0) > 0)).tolist()
    best, begin = None, None
    for index, dominated in enumerate([*good, False]):
        if dominated and begin is None:
            begin = index
        elif not dominated and begin is not None:
            if best is None or tau[index - 1] / tau[begin] > tau[best[1]] / tau[best[0]]:
                best = (begin, index - 1)
            begin = None
    return None if best is None else (float(tau[best[0]]), float(tau[best[1]]))
