"""The effect of the batches' noise on the spectrum of their mean Hessian.

Noise widens a spectrum: the largest eigenvalue is estimated too large, the smallest too small, and subsampling creates negative
eigenvalues. The size of the effect follows from the differences between the batches, without any further product.

Shape letters: n number of eigenvalues, b batches, s sign vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import Operator, as_operator
from thalweg.errors import InsufficientDataError, ShapeMismatchError, require
from thalweg.reprs import short_repr
from thalweg.streams import stream
from thalweg.theory.inputs import Condition

MARGIN = 1.1
"""Factor of the noise floor: at 1.0 a planted dimension is missed in 5 of 60 cases, at 1.1 in none; see `thalweg verify 2.2`."""

Batches = Sequence[Operator | Tensor] | Tensor
"""Hessians of independent batches at one point: operators or ``(n, n)`` each, or one ``(b, n, n)``."""


def dense_batches(batches: Batches) -> Tensor:
    """The Hessians of batches as dense matrices ``(b, n, n)`` in float64; an operator costs n products.

    Raises:
        InsufficientDataError: fewer than 2 batches.
        ShapeMismatchError: batches of different dimensions.
    """
    operators = [as_operator(batch) for batch in batches]
    if len(operators) < 2:
        raise InsufficientDataError(f"batches: given {len(operators)}, expected at least 2 to see noise")
    dim = operators[0].dim
    for number, operator in enumerate(operators):
        if operator.dim != dim:
            raise ShapeMismatchError(f"batch {number}: dimension {operator.dim}, expected {dim} as in batch 0")
    columns = torch.stack([operator @ torch.eye(dim, dtype=torch.float64) for operator in operators])
    return (columns + columns.mT) / 2


def balanced_signs(batches: int, count: int, seed: int) -> Tensor:
    """Random sign vectors that sum to zero.

    Args:
        batches: b.
        count: s.
        seed: seed of the stream "probes".
    Returns:
        ``(s, b)`` with as many entries +1 as -1, in random order; for odd b one entry is 0.
    """
    draw = stream(seed, "probes")
    row = torch.ones(batches, dtype=torch.float64)
    row[: batches // 2] = -1
    row[2 * (batches // 2) :] = 0
    return torch.stack([row[torch.from_numpy(draw.permutation(batches))] for _ in range(count)])


def noise_weights(batches: int, count: int, seed: int) -> Tensor:
    """Weights w, ``(s, b)``, for which ``sum_i w_i H_i`` has mean 0 and the covariance of the error of the batches' mean."""
    even = 2 * (batches // 2)
    return balanced_signs(batches, count, seed) / math.sqrt(even * batches)


@short_repr
@dataclass(frozen=True)
class NoiseFloor:
    """The largest eigenvalue of the mean Hessian that noise alone can produce."""

    epsilon: float
    """1.1 times the 95 % quantile of ``floors``, in units of H."""
    floors: Tensor
    """Floor for each sign vector, ``(s,)``, in units of H."""
    error: float
    """95 % quantile of ``||D_s||``, an estimate of ``||H - E[H]||``, which bounds the error of every eigenvalue."""
    semicircle: float
    """``2 ||D||_F / sqrt(n)``: the floor if noise were equal in all directions."""
    above: int
    """Number of eigenvalues with a size above epsilon."""
    sine: float
    """Upper bound of the sine of the angle between the measured river and the true one; 1 where there is no bound."""
    conditions: tuple[Condition, ...]
    """``||E|| < gap / 2``; where it fails, single directions have no meaning."""


def bulk_floor(values: Tensor, difference: Tensor) -> float:
    """The noise of the bulk: the fixed point of ``e -> ||W^T D W||`` with W the eigenvectors of size at most e, from ``e = ||D||``.

    Args:
        values: eigenvalues ``(n,)`` of the mean Hessian.
        difference: D in the eigenbasis of the mean, ``(n, n)``.
    Returns:
        e; where no eigenvector is left, the last e.
    """
    inside = torch.ones(len(values), dtype=torch.bool)
    while True:
        floor = float(torch.linalg.eigvalsh(difference[inside][:, inside]).abs().max())
        smaller = inside & (values.abs() <= floor)
        if not smaller.any() or torch.equal(smaller, inside):
            return floor
        inside = smaller


def noise_floor(batches: Batches, signs: int = 16, seed: int = 0, margin: float = MARGIN) -> NoiseFloor:
    """The size below which eigenvalues of the mean Hessian may be noise of the batches.

    For a balanced sign vector s (sum zero), ``D_s = (1/b) sum_i s_i H_i`` has mean 0 and the covariance of ``E = H - E[H]``, from
    the same products. Its norm is set by the noise of the top directions, so the floor is that of the bulk: see `bulk_floor`.
    It refers to the Hessian of the population. The Hessian of the full training set has only the machine floor. Costs about s
    eigenvalue problems of size n, and some more for each floor.

    Angles: ``||sin 2 Theta|| <= 2 ||E|| / gap`` (Davis and Kahan), with the gap of sizes at epsilon. The form
    ``||sin Theta|| <= ||E|| / gap`` needs the gap between one matrix and the other; with the gap of one it is false:
    for ``diag(1, 0)`` and ``||E|| = 0.45`` the sine can be 0.53.

    Args:
        batches: Hessians of at least 2 independent batches at one point; for an odd number each sign vector leaves one out.
        signs: s, number of sign vectors, at least 8.
        seed: seed of the sign vectors.
        margin: factor on the quantile of the floors.
    Raises:
        InsufficientDataError: fewer than 2 batches.
    Source:
        Ours; C. Davis and W. M. Kahan, The rotation of eigenvectors by a perturbation III, 1970, for the angle.
    """
    require(signs >= 8, "signs", signs, "a whole number of at least 8")
    stack = dense_batches(batches)
    mean = stack.mean(0)
    values, vectors = torch.linalg.eigh(mean)
    # D_s in the eigenbasis of the mean, for all sign vectors.
    noise = torch.einsum("sb,bij->sij", noise_weights(len(stack), signs, seed), vectors.T @ stack @ vectors)
    floors = torch.tensor([bulk_floor(values, part) for part in noise], dtype=torch.float64)
    epsilon = margin * float(floors.quantile(0.95))
    error = float(torch.linalg.eigvalsh(noise).abs().amax(-1).quantile(0.95))
    # The gap of sizes at epsilon, for the angle between measured and true river.
    falling = values.abs().sort(descending=True).values
    above = int((falling > epsilon).sum())
    gap = float(falling[above - 1] - falling[above]) if 0 < above < len(falling) else math.inf
    held = error < gap / 2
    return NoiseFloor(
        epsilon,
        floors,
        error,
        2 * float(noise.square().sum((1, 2)).mean().sqrt()) / math.sqrt(len(values)),
        above,
        math.sin(math.asin(2 * error / gap) / 2) if held else 1.0,
        (Condition("||E|| / gap < 1/2", held, error / gap if gap else math.inf),),
    )


@dataclass(frozen=True)
class Sandwich:
    """Two estimates of the sum of the largest eigenvalues of E[H], one too low and one too high on average."""

    low: float
    """Mean of ``tr V_a^T H_b V_a`` with V_a from one half of the batches and H_b from the other, in units of H."""
    high: float
    """Mean of the sum of the largest eigenvalues of one half, in units of H."""


def sandwich(batches: Batches, count: int = 1, splits: int = 16, seed: int = 0) -> Sandwich:
    """Bounds on average of the sum of the k largest eigenvalues of E[H], from random halves a, b of the batches.

    ``E tr V_a^T H_b V_a <= lam_1 + ... + lam_k of E[H] <= E[lam_1 + ... + lam_k of H_a]``: the sum of the k largest is convex in H
    (Jensen: the right side is too large) and a maximum over frames (the left side is too small). For the smallest eigenvalues give
    ``-H``. Costs two eigenvalue problems for each division.

    Args:
        batches: Hessians of at least 2 independent batches; for an odd number each division leaves one out.
        count: k, up to n.
        splits: number of random divisions into halves.
        seed: seed of the divisions.
    Source:
        Ours; Ky Fan, 1949, for the sum of eigenvalues as a maximum.
    """
    stack = dense_batches(batches)
    require(1 <= count <= stack.shape[-1], "count", count, f"a whole number from 1 to {stack.shape[-1]}")
    require(splits >= 1, "splits", splits, "a whole number of at least 1")
    low, high = [], []
    for signs in balanced_signs(len(stack), splits, seed):
        halves = stack[signs > 0].mean(0), stack[signs < 0].mean(0)
        for first_half, second_half in (halves, halves[::-1]):
            values, vectors = torch.linalg.eigh(first_half)
            top = vectors[:, -count:]
            high.append(float(values[-count:].sum()))
            low.append(float((top * (second_half @ top)).sum()))
    return Sandwich(sum(low) / len(low), sum(high) / len(high))
