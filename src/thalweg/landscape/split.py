"""River, valley and ridge: the three parts of a spectrum, their frames, and the coupling between them.

A threshold epsilon divides the eigenvalues: the river has sizes up to epsilon, the valley lies above, the ridge below -epsilon.
Frames of valley and river need not be eigenvectors of the Hessian at hand (`Kind`); then their coupling ``B = V_V^T H V_R`` is not
zero.

Shape letters: P dimension, n number of eigenpairs, b batches, dV columns of the valley, dR of the river, s sign vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from thalweg.curvature.operator import Operator, as_operator
from thalweg.errors import ShapeMismatchError, require
from thalweg.landscape.noise import Batches, dense_batches, noise_weights
from thalweg.landscape.threshold import machine_floor, threshold
from thalweg.reprs import short_repr
from thalweg.streams import stream
from thalweg.theory.inputs import frame, shaped, spectrum
from thalweg.theory.quadratic import Quadratic, in_frames

Kind = Literal["eigen", "block", "frozen", "crossfit"]
"""Where the frames come from: eigenvectors; parameter groups; eigenvectors at another point; eigenvectors of other data."""

SAME = 10.0
"""Number of rounding errors of a product, ``sqrt(n) u rho`` each, within which eigenvectors count as those of a Hessian."""


@short_repr
@dataclass(frozen=True)
class Parts:
    """A spectrum in three parts, each in rising order."""

    valley: Tensor
    """Eigenvalues above epsilon; with ``merge_ridge`` those below -epsilon too."""
    river: Tensor
    """Eigenvalues of size at most epsilon."""
    ridge: Tensor
    """Eigenvalues below -epsilon; none with ``merge_ridge``."""
    epsilon: float
    """The threshold, in units of the eigenvalues."""

    @property
    def ridge_mass(self) -> float:
        """``sum |lam|`` over eigenvalues below -epsilon, as a share of the whole; 0 for a zero spectrum."""
        below = self.ridge if len(self.ridge) else self.valley[self.valley < 0]
        total = sum(float(part.abs().sum()) for part in (self.valley, self.river, self.ridge))
        return float(below.abs().sum()) / total if total else 0.0


def parts(values: Tensor, epsilon: float, merge_ridge: bool = False) -> Parts:
    """Divide eigenvalues into ``river = {|lam| <= epsilon}``, ``valley = {lam > epsilon}`` and ``ridge = {lam < -epsilon}``.

    The definition of arXiv 2510.10089 merges valley and ridge. Here they are separate by default: on the ridge the kernel grows as
    ``(1 + eta |lam|)^K``, so the limits of theorem 1 do not exist there.

    Args:
        values: eigenvalues ``(n,)`` in any order.
        epsilon: threshold in units of the eigenvalues, at least 0.
        merge_ridge: whether the ridge belongs to the valley.
    Example:
        >>> split = parts(torch.tensor([-1.0, 0.0, 2.0]), 0.1)
        >>> split.valley.tolist(), split.river.tolist(), split.ridge.tolist()
        ([2.0], [0.0], [-1.0])
    """
    require(0 <= epsilon < math.inf, "epsilon", epsilon, "a number of at least 0")
    lam = spectrum("values", values).sort().values
    valley, river, ridge = (lam[mask] for mask in masks(lam, epsilon, merge_ridge))
    return Parts(valley, river, ridge, float(epsilon))


def masks(lam: Tensor, epsilon: float, merge_ridge: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Boolean masks ``(n,)`` of the eigenvalues of valley, river and ridge, see `parts`."""
    river, ridge = lam.abs() <= epsilon, lam < -epsilon
    return (~river, river, ridge & False) if merge_ridge else (~river & ~ridge, river, ridge)


@short_repr
@dataclass(frozen=True)
class Split:
    """Frames of valley, river and ridge, orthonormal together."""

    valley: Tensor
    """Columns of the valley, ``(P, dV)`` float64."""
    river: Tensor
    """Columns of the river, ``(P, dR)`` float64."""
    ridge: Tensor
    """Columns of the ridge, ``(P, n - dV - dR)`` float64."""
    kind: Kind
    """Where the frames come from."""
    parts: Parts | None = None
    """Eigenvalues of the columns, in their order; None for a block split."""
    rounding: float = 0.0
    """Rounding error of an entry of a product with the Hessian that the split was made of, in units of H."""
    point: Tensor | None = None
    """Parameters ``(P,)`` at which the split was made, if given."""


def eigen_split(
    values: Tensor,
    vectors: Tensor,
    epsilon: float,
    merge_ridge: bool = False,
    precision: torch.dtype | None = None,
    point: Tensor | None = None,
) -> Split:
    """Split eigenpairs by a threshold into frames of valley, river and ridge.

    Args:
        values: eigenvalues ``(n,)``; n may be below P, then the river has only those of its directions that are given.
        vectors: eigenvectors as columns ``(P, n)``, orthonormal.
        epsilon: threshold, in units of the eigenvalues.
        merge_ridge: whether the ridge belongs to the valley.
        precision: dtype of the products that the pairs come from; None takes the dtype of ``values``.
        point: parameters ``(P,)``, kept for later comparisons.
    Raises:
        OrthonormalityError: vectors that are not orthonormal.
        ShapeMismatchError: another number of vectors than of eigenvalues.
    Example:
        >>> eigen_split(torch.tensor([0.0, 2.0]), torch.eye(2), 0.1).valley.tolist()
        [[0.0], [1.0]]
    """
    lam = spectrum("values", values)
    if vectors.dim() != 2 or vectors.shape[1] != len(lam):
        raise ShapeMismatchError(f"vectors: given shape {tuple(vectors.shape)}, expected (P, {len(lam)}) for as many eigenvalues")
    columns, order = orthonormal(vectors), lam.argsort()
    frames = [columns[:, order[mask]] for mask in masks(lam[order], epsilon, merge_ridge)]
    rounding = machine_floor(values, precision) / math.sqrt(len(lam)) if lam.any() else 0.0
    point = None if point is None else shaped("point", point, len(columns))
    return Split(frames[0], frames[1], frames[2], "eigen", parts(lam, epsilon, merge_ridge), rounding, point)


def orthonormal(vectors: Tensor) -> Tensor:
    """A frame ``(P, n)`` in float64.

    Columns in float32 are orthonormal to about 1e-7 only, so a float32 frame within 1e-5 is replaced by the nearest orthonormal
    one, ``U V^T`` of its singular value decomposition.

    Raises:
        OrthonormalityError: columns that are not orthonormal.
    """
    if vectors.dtype == torch.float32 and vectors.numel() and torch.isfinite(vectors).all():
        exact = vectors.to(torch.float64)
        left, singular, right = torch.linalg.svd(exact, full_matrices=False)
        vectors = left @ right if float((singular - 1).abs().max()) < 1e-5 else exact
    return frame("vectors", vectors, vectors.shape[0])


def coordinates(dim: int, places: Tensor) -> Tensor:
    """The frame ``(P, k)`` of k parameters: columns of the unit matrix at the given positions, for instance `Layout.places`."""
    return torch.eye(dim, dtype=torch.float64)[:, places]


def block_split(valley: Tensor, river: Tensor) -> Split:
    """The split by any two orthogonal frames, such as parameter groups: query and key as river, value and head as valley.

    Args:
        valley: columns ``(P, dV)``.
        river: columns ``(P, dR)``.
    Raises:
        ShapeMismatchError: frames that do not have the same number of rows.
        OrthonormalityError: frames that are not orthonormal together.
    Example:
        >>> split = block_split(coordinates(2, torch.tensor([0])), coordinates(2, torch.tensor([1])))
        >>> coupling(split, torch.tensor([[2.0, 1.0], [1.0, 3.0]])).tolist()
        [[1.0]]
    """
    if valley.dim() != 2 or river.dim() != 2 or len(valley) != len(river):
        raise ShapeMismatchError(
            f"frames: given shapes {tuple(valley.shape)} and {tuple(river.shape)}, expected (P, dV) and (P, dR)"
        )
    both = frame("valley and river frame", torch.cat([valley, river], 1), len(valley))
    return Split(both[:, : valley.shape[1]], both[:, valley.shape[1] :], both[:, :0], "block")


def frozen(split: Split) -> Split:
    """The same frames, marked for use with the Hessian of another point theta'.

    Then ``||B(theta')|| <= ||H(theta') - H(theta)||``: the coupling grows with the drift of the Hessian, an effect of third
    derivatives.
    """
    return replace(split, kind="frozen")


def made_of(split: Split, hessian: Operator | Tensor) -> bool:
    """Whether a split consists of this Hessian's eigenvectors, up to rounding.

    Costs one product: ``H V s = V (lam s)`` is checked for all eigenpairs together, with random signs s.

    Args:
        split: the frames with their eigenvalues.
        hessian: H, an operator or its matrix ``(P, P)``.
    """
    if split.kind != "eigen" or split.parts is None:
        return False
    values = torch.cat([split.parts.valley, split.parts.river, split.parts.ridge])
    columns = torch.cat([split.valley, split.river, split.ridge], 1)
    signs = torch.from_numpy(stream(0, "probes").choice([-1.0, 1.0], len(values)))
    residual = as_operator(hessian) @ (columns @ signs) - columns @ (values * signs)
    return float(residual.norm()) <= SAME * split.rounding * math.sqrt(len(values))


def blocks(split: Split, hessian: Operator | Tensor, gradient: Tensor | None = None, of_itself: bool | None = None) -> Quadratic:
    """The quadratic model in the coordinates of a split's valley and river; directions of the ridge are left out.

    Its blocks are ``A = V_V^T H V_V``, ``B = V_V^T H V_R`` and ``V_R^T H V_R``, with the gradients ``V_V^T g`` and ``V_R^T g``.

    Args:
        split: the frames.
        hessian: H, an operator or its matrix ``(P, P)``.
        gradient: g, ``(P,)``; None takes zero.
        of_itself: whether the split was made of this Hessian, so that its coupling is zero (with `EigenSplitCouplingWarning`); None
            checks it by one product. Give it where the eigenvectors are less exact than rounding.
    Raises:
        EmptySubspaceError: no valley or no river.
    """
    gradient = torch.zeros(as_operator(hessian).dim, dtype=torch.float64) if gradient is None else gradient
    own = made_of(split, hessian) if of_itself is None else of_itself
    return in_frames(hessian, gradient, split.valley, split.river, of_itself=own)


def coupling(split: Split, hessian: Operator | Tensor, of_itself: bool | None = None) -> Tensor:
    """The coupling of valley and river, ``B = V_V^T H V_R``, ``(dV, dR)``; arguments as for `blocks`."""
    return blocks(split, hessian, of_itself=of_itself).coupling


@short_repr
@dataclass(frozen=True)
class Crossfit:
    """The coupling of one set of batches in the eigenvectors of another set, and the coupling that noise alone gives."""

    split: Split
    """Frames from the first set."""
    model: Quadratic
    """Quadratic model of the second set in these frames."""
    size: float
    """``||B||``, the largest singular value of the coupling, in units of H."""
    null: Tensor
    """``||B||`` of noise alone, one for each pair of sign vectors that differs from all others by more than a sign, ``(s,)``."""
    p_value: float
    """``(1 + #{null >= size}) / (1 + s)``, at least ``1 / (1 + s)``; small only where the sets differ by more than noise."""


def crossfit(first: Batches, second: Batches, epsilon: float | None = None, signs: int = 99, seed: int = 0) -> Crossfit:
    """Test for a coupling beyond noise: frames from one set of batches, blocks from another, and a null distribution.

    ``B = V_V^T (H_2 - H_1) V_R`` exactly, since ``V_V^T H_1 V_R = 0``. Two halves of the data at one point differ by noise only, so
    their coupling shows nothing but noise; a larger one needs a second set from another point or another source.
    The null replaces ``H_2 - H_1`` by ``D_2 + D_1``, signed sums of each set's own batches with the covariance of its mean's error.

    Args:
        first: Hessians of at least 2 batches; the frames come from their mean.
        second: Hessians of at least 2 batches of the same dimension; the blocks come from their mean.
        epsilon: threshold of the split; None takes the default rule with the first set's noise.
        signs: number of draws of the null; few batches have few different ones, and each counts once, so that p is not below
            ``1 / (1 + s)``.
        seed: seed of the draws.
    Raises:
        EmptySubspaceError: no valley or no river at this threshold.
        InsufficientDataError: fewer than 2 batches in a set.
    Source:
        Ours.
    """
    require(signs >= 1, "signs", signs, "a whole number of at least 1")
    stack_a, stack_b = dense_batches(first), dense_batches(second)
    if stack_a.shape[1:] != stack_b.shape[1:]:
        raise ShapeMismatchError(f"second set: dimension {stack_b.shape[-1]}, expected {stack_a.shape[-1]} as in the first")
    values, vectors = torch.linalg.eigh(stack_a.mean(0))
    epsilon = threshold(values, stack_a, seed=seed).epsilon if epsilon is None else epsilon
    split = replace(eigen_split(values, vectors, epsilon), kind="crossfit")
    model = blocks(split, stack_b.mean(0))
    # Null: V_V^T (D_1 + D_2) V_R for pairs of sign vectors; the second set takes other signs.
    pairs = [noise_weights(len(stack), signs * 2, seed)[number::2] for number, stack in enumerate((stack_a, stack_b))]
    weights = _up_to_sign(torch.cat(pairs, 1)).split([len(stack_a), len(stack_b)], 1)
    noise = torch.zeros(len(weights[0]), *model.coupling.shape, dtype=torch.float64)
    for draws, stack in zip(weights, (stack_a, stack_b), strict=True):
        noise += torch.einsum("sb,bvr->svr", draws, split.valley.T @ stack @ split.river)
    null = torch.linalg.matrix_norm(noise, 2)
    size = float(torch.linalg.matrix_norm(model.coupling, 2))
    return Crossfit(split, model, size, null, (1 + int((null >= size).sum())) / (1 + len(null)))


def _up_to_sign(rows: Tensor) -> Tensor:
    """The rows that differ from all others by more than a factor of -1, each once."""
    first = rows.gather(1, (rows != 0).int().argmax(1, keepdim=True))
    return torch.unique(rows * first.sign(), dim=0)
