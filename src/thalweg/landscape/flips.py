"""Sign flips of the gradient along given directions, which show whether a run hops across its valley.

Along an eigenvector with eigenvalue lam, gradient descent with rate eta multiplies the gradient by ``1 - eta lam`` at each step: it
changes its sign, the run hops, where ``eta lam > 1``. The share of flips and the lag-1 correlation of the coefficients therefore
measure eta lam without a Hessian. Eigenvectors have arbitrary signs, so moving frames are aligned first (`aligned`).

Shape letters: W steps of a window, P number of parameters, k columns of a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from thalweg.errors import (
    BadInputError,
    EmptySubspaceError,
    InsufficientDataError,
    OrthonormalityError,
    ShapeMismatchError,
    require,
)
from thalweg.intervals import student_quantile
from thalweg.reprs import short_repr
from thalweg.theory.inputs import Condition, finite

SHORTEST = 20
"""Fewest steps of a window."""
MOST_DEGREES = 30.0
"""Largest rotation of the frame within a window for which its directions count as the same directions."""
_FEWEST_BLOCKS = 4
"""Fewest blocks of the bootstrap: the block is limited to a quarter of the window."""
_ORTHONORMAL = {torch.float64: 1e-8, torch.float32: 1e-5}
"""Largest entry of ``V^T V - I`` of a frame that counts as orthonormal, by the precision in which it was given."""


def checked_frames(name: str, frames: Tensor, dim: int, steps: int | None = None) -> Tensor:
    """Check one frame, or one frame for each step, and return it in float64.

    Args:
        name: name in messages.
        frames: one frozen frame ``(P, k)``; or, with ``steps`` given, one for each step ``(W, P, k)``.
        dim: P.
        steps: W; None allows a frozen frame only.
    Returns:
        ``(1, P, k)`` for a frozen frame, else ``(W, P, k)``.
    Raises:
        ShapeMismatchError: neither of these shapes.
        EmptySubspaceError: a frame without columns.
        OrthonormalityError: an entry of ``V^T V - I`` above 1e-8 (float32: 1e-5).
    """
    columns = frames.unsqueeze(0) if frames.dim() == 2 else frames
    if columns.dim() != 3 or columns.shape[1] != dim or (frames.dim() == 3 and len(frames) != steps):
        moving = "" if steps is None else f" or ({steps}, {dim}, k)"
        raise ShapeMismatchError(f"{name}: given shape {tuple(frames.shape)}, expected ({dim}, k){moving}")
    if not columns.shape[2]:
        raise EmptySubspaceError(f"{name}: has no direction, expected at least 1")
    allowed, columns = _ORTHONORMAL.get(frames.dtype, _ORTHONORMAL[torch.float32]), finite(name, columns)
    deviation = float((columns.mT @ columns - torch.eye(columns.shape[2], dtype=torch.float64, device=columns.device)).abs().max())
    if deviation > allowed:
        raise OrthonormalityError(f"{name}: |V^T V - I| is {deviation:.1e}, expected at most {allowed:.0e}")
    return columns


@short_repr
@dataclass(frozen=True)
class AlignedFrames:
    """Frames of a window in which each direction keeps its sign from step to step."""

    frames: Tensor
    """Orthonormal columns, ``(W, P, k)`` float64."""
    degrees: Tensor
    """Rotation against the first frame in degrees, ``(W,)``: of the column that turned most, or the largest angle between the
    subspaces."""


def aligned(frames: Tensor, block: bool = False) -> AlignedFrames:
    """Choose the signs (or the basis) of each step's frame so that it continues the frame before.

    An eigenvector is defined up to its sign, so with a frame from a new diagonalisation at each step ``v . g`` would flip half of
    the time in a run that does not hop at all.

    Args:
        frames: orthonormal columns ``(W, P, k)``, W of at least 1.
        block: False keeps the columns and sets ``v_k <- v_k sign(v_k . v_{k-1})``: for separate eigenvalues. True keeps the
            subspaces and rotates each basis to the nearest one, ``V_k <- V_k U W^T`` with ``V_k^T V_{k-1} = U S W^T`` (Procrustes):
            for eigenvalues that are close or cross, where a single column has no meaning.
    Example:
        >>> v = torch.tensor([[1.0], [0.0]])
        >>> aligned(torch.stack([v, -v, v])).frames[:, 0, 0].tolist()
        [1.0, 1.0, 1.0]

    Source:
        Schönemann 1966 for the nearest basis.
    """
    if frames.dim() != 3 or not len(frames):
        raise ShapeMismatchError(f"frames: given shape {tuple(frames.shape)}, expected (W, P, k) with W of at least 1")
    columns = checked_frames("frames", frames, frames.shape[1], len(frames)).clone()
    for step in range(1, len(columns)):
        overlap = columns[step].T @ columns[step - 1]
        if block:
            u, _, wt = torch.linalg.svd(overlap)
            columns[step] = columns[step] @ (u @ wt)
        else:
            columns[step] *= torch.where(overlap.diagonal() < 0, -1.0, 1.0)
    overlaps = columns[0].T @ columns
    cosines = torch.linalg.svdvals(overlaps) if block else overlaps.diagonal(dim1=1, dim2=2)
    return AlignedFrames(columns, torch.rad2deg(cosines.min(1).values.clamp(-1, 1).arccos()))


def along(gradients: Tensor, frames: Tensor, block: bool = False, most_degrees: float = MOST_DEGREES) -> Tensor:
    """Coefficients of gradients along directions, ``a_i(k) = v_i . g(theta_k)``, in a frozen frame or in frames aligned first.

    Args:
        gradients: ``(W, P)``, on one fixed batch.
        frames: ``(P, k)``, or one for each step ``(W, P, k)``.
        block: see `aligned`.
        most_degrees: largest rotation of the frame within the window.
    Returns:
        ``(W, k)`` float64.
    Raises:
        BadInputError: the frame rotates by more than ``most_degrees``.
        ShapeMismatchError, OrthonormalityError: see `checked_frames`.
    """
    if gradients.dim() != 2:
        raise ShapeMismatchError(f"gradients: given shape {tuple(gradients.shape)}, expected (W, P)")
    g = finite("gradients", gradients)
    columns = checked_frames("frames", frames, g.shape[1], len(g))
    if frames.dim() == 2:
        return g @ columns[0]
    continued = aligned(frames, block)
    turned = float(continued.degrees.max())
    if turned > most_degrees:
        advice = "shorten the window" if block else "shorten the window, or block=True where eigenvalues cross"
        raise BadInputError(f"frames: rotate by {turned:.0f} degrees, expected at most {most_degrees:g}; {advice}")
    return torch.einsum("wp,wpk->wk", g, continued.frames)


@short_repr
@dataclass(frozen=True)
class Flips:
    """How often each direction's gradient changes its sign, and the curvature that follows."""

    share: Tensor
    """Share of flips among the W - 1 pairs of neighbouring steps, ``(k,)``."""
    low: Tensor
    """Lower ends of the intervals, ``(k,)``; the k intervals hold simultaneously."""
    high: Tensor
    """Upper ends, ``(k,)``."""
    threshold: float
    """Share above which a direction hops: 1/2, and 2/3 for mini-batch gradients (less with momentum)."""
    correlation: Tensor
    """Lag-1 correlation ``r1 = sum a_k a_{k+1} / sum a_k^2``, ``(k,)``; NaN for a direction without a gradient."""
    sharpness: Tensor
    """Estimate of eta lam from the correlations, ``(k,)``, without a Hessian; see `flips`."""
    sharpness_from_share: Tensor
    """Estimate of eta lam from the share of flips, ``(k,)``; valid only for a settled run that noise drives."""
    block: Tensor
    """Length of the bootstrap's blocks in steps, ``(k,)``."""
    conditions: tuple[Condition, ...]
    """Whether the window holds enough blocks for the intervals."""

    @property
    def significant(self) -> Tensor:
        """Whether the whole interval lies above the threshold, ``(k,)``."""
        return self.low > self.threshold


def flips(coefficients: Tensor, momentum: float = 0.0, minibatch: bool = False, level: float = 0.95) -> Flips:
    """Share of sign flips with a block-bootstrap interval, and the curvature that follows from the correlations.

    On a fixed batch a settled direction is an autoregression with ``r1 = 1 - eta lam``; it hops over its valley where
    ``eta lam > 1``, which is a share above 1/2. With heavy ball (momentum beta) the same share means ``eta lam > 1 + beta``.
    The curvature is ``sum a_k ((1 + beta) a_k - a_{k+1} - beta a_{k-1}) / sum a_k^2``, which is 1 - r1 without momentum: exact
    for a quadratic without noise, consistent with noise. A direction whose gradient does not vanish in the mean flips less.

    With gradients of the training mini-batches the correlation is ``-eta lam / 2`` for *every* rate, as each step is followed by
    its own correction; so a share above 1/2 does not mean hopping. There the threshold is ``arccos(-(1 - beta^2) / 2) / pi``, 2/3
    without momentum, and the curvature is -2 r1.

    Args:
        coefficients: a, ``(W, k)``, W of at least 20, see `along`.
        momentum: beta of heavy ball, from 0 to below 1; in the averaged form (Adam) eta stands for eta (1 - beta).
        minibatch: whether these are the gradients of the training mini-batches themselves.
        level: simultaneous coverage of the k intervals (Bonferroni).
    Returns:
        Intervals from the circular block bootstrap with blocks of ``3 / (1 - |r1|)`` steps, its standard error in closed form
        (what infinitely many resamples give) and Student's t for the number of blocks.
    Raises:
        InsufficientDataError: W below 20.
    Example:
        >>> hopping = flips(((-0.5) ** torch.arange(50.0)).unsqueeze(1))
        >>> hopping.share.item(), round(hopping.sharpness.item(), 6)
        (1.0, 1.5)

    Source:
        Politis and Romano 1992 for the bootstrap; the laws are ours.
    """
    if coefficients.dim() != 2 or not coefficients.shape[1]:
        raise ShapeMismatchError(f"coefficients: given shape {tuple(coefficients.shape)}, expected (W, k) with k of at least 1")
    if len(coefficients) < SHORTEST:
        raise InsufficientDataError(f"window: {len(coefficients)} steps, expected at least {SHORTEST}")
    _checked_momentum(momentum)
    require(0 < level < 1, "level", level, "a number between 0 and 1")
    a = finite("coefficients", coefficients)
    a = a / a.abs().amax(0).clamp_min(1e-300)  # squares of a series that decays would underflow
    # Flips and the lag-1 correlation of each direction.
    signs = a.sign()
    flipped = (signs[1:] * signs[:-1] < 0).double()
    r1 = (a[1:] * a[:-1]).sum(0) / a[:-1].square().sum(0)
    # Blocks of about three correlation times; intervals for all directions with the same block length at once.
    pairs, directions = flipped.shape
    wanted = (3 / (1 - r1.nan_to_num().abs()).clamp_min(1e-6)).ceil()
    block = wanted.clamp_max(pairs // _FEWEST_BLOCKS).long()
    share, half = flipped.mean(0), torch.empty_like(r1)
    for length in block.unique().tolist():
        with_length = block == length
        half[with_length] = _half_widths(flipped[:, with_length], length, 1 - (1 - level) / directions)
    cosine = (math.pi * share).cos()
    return Flips(
        share=share,
        low=(share - half).clamp_min(0),
        high=(share + half).clamp_max(1),
        threshold=math.acos(-(1 - momentum**2) / 2) / math.pi if minibatch else 0.5,
        correlation=r1,
        sharpness=minibatch_sharpness(r1, momentum) if minibatch else _driven_sharpness(a, momentum),
        sharpness_from_share=minibatch_sharpness(cosine, momentum) if minibatch else (1 + momentum) * (1 - cosine),
        block=block,
        conditions=(
            Condition("W / block >= 4", bool((_FEWEST_BLOCKS * wanted <= pairs).all()), float(pairs / wanted.max())),
            Condition("every direction has a gradient", not bool(r1.isnan().any()), float(a.abs().amax(0).min())),
        ),
    )


def _half_widths(series: Tensor, block: int, level: float) -> Tensor:
    """Half widths of the intervals of means ``(k,)``: the circular block bootstrap's standard error times Student's t.

    The factor ``n / (n - L)`` corrects the bias from subtracting the mean, which the L steps of a block contribute to.
    """
    n = len(series)
    sums = torch.cat([series.new_zeros(1, series.shape[1]), series, series[: block - 1]]).cumsum(0)
    means = (sums[block:] - sums[:-block]) / block
    variance = (means - series.mean(0)).square().mean(0) * block / (n - block)
    return quantile((1 + level) / 2, n // block - 1) * variance.sqrt()


@lru_cache(maxsize=256)
def quantile(probability: float, freedom: int) -> float:
    """Student's t quantile with ``freedom`` degrees of freedom, cached because its bisection is slower than all else here."""
    return student_quantile(probability, freedom)


def _driven_sharpness(a: Tensor, momentum: float) -> Tensor:
    """eta lam, ``(k,)``, by least squares on the heavy-ball recursion ``a_{k+1} = (1 + beta - eta lam) a_k - beta a_{k-1}``."""
    if not momentum:
        return 1 - (a[1:] * a[:-1]).sum(0) / a[:-1].square().sum(0)
    drive = (1 + momentum) * a[1:-1] - a[2:] - momentum * a[:-2]
    return (a[1:-1] * drive).sum(0) / a[1:-1].square().sum(0)


def minibatch_sharpness(correlation: Tensor, momentum: float = 0.0) -> Tensor:
    """eta lam from the lag-1 correlation of mini-batch gradients; -2 r1 without momentum.

    With z = eta lam, ``r1 = z ((1 + beta)(2 beta - 1) - beta z) / (2 (1 - beta^2 + beta z))`` is solved for z.

    Args:
        correlation: r1, ``(k,)``.
        momentum: beta.
    Returns:
        ``(k,)``; NaN where r1 is above 0 with momentum, because two curvatures may give the same r1 there.
    Source:
        Ours.
    """
    beta, a, c = momentum, (1 + momentum) * (2 * momentum - 1), 1 - momentum**2
    if not beta:
        return -2 * correlation
    b = a - 2 * correlation * beta
    root = (b.square() - 8 * beta * correlation * c).clamp_min(0).sqrt()
    z = torch.where(b > 0, (b + root) / (2 * beta), 4 * correlation * c / (b - root))
    return torch.where(correlation > 0, torch.nan, z)


def _checked_momentum(momentum: float) -> float:
    """The momentum beta, after a check that it is from 0 to below 1."""
    require(0 <= momentum < 1, "momentum", momentum, "a number from 0 to below 1")
    return momentum


def deterministic_law(sharpness: float, momentum: float = 0.0) -> float:
    """Share of flips without noise at a given eta lam.

    For gradient descent it is 1 above eta lam = 1 and 0 below. For heavy ball it is ``phi / pi`` with
    ``cos phi = (1 + beta - eta lam) / (2 sqrt(beta))`` where that is a cosine, that is for eta lam between ``(1 - sqrt(beta))^2``
    and ``(1 + sqrt(beta))^2``; below there is no oscillation, above a flip at each step. A slow oscillation, phi / pi below 1/2, is
    an oscillation of the momentum and not hopping.

    Args:
        sharpness: eta lam.
        momentum: beta, from 0 to below 1.
    Example:
        >>> deterministic_law(1.5), deterministic_law(0.5), round(deterministic_law(1.9, momentum=0.9), 3)
        (1.0, 0.0, 0.5)
    """
    beta = _checked_momentum(momentum)
    trace = 1 + beta - sharpness
    if trace**2 >= 4 * beta:
        return 1.0 if trace < 0 else 0.0
    return math.acos(trace / (2 * beta**0.5)) / math.pi


def driven_law(sharpness: float, momentum: float = 0.0) -> float:
    """Share of flips of a settled run that Gaussian noise drives: ``arccos(1 - eta lam / (1 + beta)) / pi``, on a fixed batch.

    Proof: x is an autoregression with lag-1 correlation ``(1 + beta - eta lam) / (1 + beta)``, and two Gaussians of correlation r
    differ in sign with probability ``arccos(r) / pi``.

    Args:
        sharpness: eta lam, between 0 and ``2 (1 + beta)``, where the run settles.
        momentum: beta, from 0 to below 1.
    Example:
        >>> driven_law(1.0), round(driven_law(1.5), 4)
        (0.5, 0.6667)
    """
    return math.acos(1 - settled(sharpness, momentum) / (1 + momentum)) / math.pi


def minibatch_law(sharpness: float, momentum: float = 0.0) -> float:
    """Share of flips of a settled run in its own mini-batch gradients: ``arccos(-eta lam / 2) / pi`` without momentum.

    The noise of these gradients is the noise that drives the run. The share is above 1/2 for every rate, and 2/3 at eta lam = 1.
    With momentum see `minibatch_sharpness`.

    Args:
        sharpness: eta lam, between 0 and ``2 (1 + beta)``, where the run settles.
        momentum: beta, from 0 to below 1.
    Example:
        >>> round(minibatch_law(0.1), 3), round(minibatch_law(1.0), 4)
        (0.516, 0.6667)
    """
    z, beta = settled(sharpness, momentum), momentum
    correlation = z * ((1 + beta) * (2 * beta - 1) - beta * z) / (2 * (1 - beta**2 + beta * z))
    return math.acos(correlation) / math.pi


def settled(sharpness: float, momentum: float) -> float:
    """The value of eta lam, after a check that a run with noise settles: ``0 < eta lam < 2 (1 + beta)``.

    Raises:
        BadInputError: outside of this range.
    """
    limit = 2 * (1 + _checked_momentum(momentum))
    require(0 < sharpness < limit, "sharpness", sharpness, f"eta lam between 0 and 2 (1 + momentum) = {limit:g}")
    return sharpness
