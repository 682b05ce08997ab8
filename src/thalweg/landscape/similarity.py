"""Similarity of two Hessians: inner product, closed-form information, overlap of subspaces, distance of spectra.

Shape letters: n samples, P dimension, k columns of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.density import SpectralDensity
from thalweg.curvature.operator import Matrix, Operator, as_operator
from thalweg.curvature.probes import Estimate, blocks, require_probes
from thalweg.errors import EmptySubspaceError, ShapeMismatchError, require
from thalweg.landscape.entropy import jackknife
from thalweg.theory.inputs import frame, spectrum, symmetric

_PROPORTIONAL = 1e-14
"""Value of ``1 - cosine^2``, and share of a squared norm that remains without the trace, below which it is rounding."""
_ROWS = 1024
"""Number of rows of a matrix that are converted to float64 at a time."""


@dataclass(frozen=True)
class GaussianInformation:
    """Two symmetric matrices compared by their inner product."""

    value: float
    """``-1/2 log(1 - cosine^2)`` in nats; infinite for proportional matrices."""
    standard_error: float
    """Standard error over probes; 0 from matrices, NaN where probes gave an infinite value."""
    cosine: Estimate
    """``tr(A B) / (||A|| ||B||)`` in [-1, 1]."""
    deviatoric: Estimate
    """Cosine of the deviatoric parts ``A - tr(A)/P I`` and ``B - tr(B)/P I``; NaN where one of them is zero."""


def pair(first: Operator | Tensor, second: Operator | Tensor) -> tuple[Operator, Operator]:
    """Two operators of the same dimension, made from operators or matrices; matrices are converted to float64.

    Raises:
        ShapeMismatchError: different dimensions.
    """
    a, b = (Matrix(symmetric("matrix", given)) if isinstance(given, Tensor) else as_operator(given) for given in (first, second))
    if a.dim != b.dim:
        raise ShapeMismatchError(f"operators: dimensions {a.dim} and {b.dim}, expected the same")
    return a, b


def moments(first: Operator | Tensor, second: Operator | Tensor, probes: int, seed: int) -> tuple[Tensor, int]:
    """Estimates of ``||A||^2, ||B||^2, tr(A B), tr A, tr B`` as rows whose mean is unbiased, and the products used.

    Each Rademacher probe z gives a row ``||A z||^2, ||B z||^2, (A z).(B z), z.A z, z.B z`` at two products. Two matrices give a
    single row, which is exact.

    Args:
        first: A, ``(P, P)`` or an operator.
        second: B, of the same dimension.
        probes: number of probes, at least 2; not used for two matrices.
        seed: seed of the probes.
    Returns:
        Rows ``(n, 5)``, and the number of products.
    """
    a, b = pair(first, second)
    if isinstance(first, Tensor) and isinstance(second, Tensor) and isinstance(a, Matrix) and isinstance(b, Matrix):
        return matrix_row(a.entries, b.entries), 0
    require_probes(probes)
    return torch.cat([image_rows(a @ z, b @ z, z) for z in blocks(a, 0, probes, seed)]), 2 * probes


def matrix_row(first: Tensor, second: Tensor) -> Tensor:
    """The exact row ``(1, 5)`` of `moments` from two symmetric matrices ``(P, P)``; sums in float64, no matrix is copied."""
    sums = torch.zeros(3, dtype=torch.float64, device=first.device)
    for x, y in zip(first.split(_ROWS), second.split(_ROWS), strict=True):
        x, y = x.double(), y.double()
        sums += torch.stack([x.square().sum(), y.square().sum(), (x * y).sum()])
    traces = torch.stack([matrix.diagonal().double().sum() for matrix in (first, second)])
    return torch.cat([sums, traces]).unsqueeze(0)


def image_rows(first: Tensor, second: Tensor, probes: Tensor) -> Tensor:
    """Rows ``(n, 5)`` of `moments` from the images ``A Z`` and ``B Z`` of the same probes Z, each ``(P, n)``."""
    x, y, z = first, second, probes
    return torch.stack([(u * v).sum(0) for u, v in ((x, x), (y, y), (x, y), (z, x), (z, y))], 1)


def _summarised(rows: Tensor, function: Callable[[Tensor], Tensor], products: int) -> Estimate:
    """A function of the rows' mean, with the jackknife's standard error; the error is 0 for a single, exact row."""
    value, error = jackknife(rows, function) if products else (float(function(rows[0])), 0.0)
    return Estimate(value, error, products)


def inner_product(first: Operator | Tensor, second: Operator | Tensor, probes: int = 60, seed: int = 0) -> Estimate:
    """The inner product ``tr(A B)`` of two symmetric matrices.

    It is half of the covariance of ``z^T A z`` and ``z^T B z`` over Gaussian z. Exact from two matrices. Otherwise
    the mean of ``(A z).(B z)`` over Rademacher probes, at two products each.

    Args:
        first: A, ``(P, P)`` or an operator.
        second: B, of the same dimension.
        probes: at least 2; not used for two matrices.
        seed: seed of the probes.
    Returns:
        The inner product in units of A's times B's eigenvalues, with its standard error.
    Example:
        >>> inner_product(torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([3.0, -1.0]))).value
        1.0
    """
    rows, products = moments(first, second, probes, seed)
    return _summarised(rows, lambda means: means[..., 2], products)


def gaussian_information(
    first: Operator | Tensor, second: Operator | Tensor, probes: int = 60, seed: int = 0
) -> GaussianInformation:
    """Mutual information of Gaussians with the correlation of two matrices, ``I_G = -1/2 log(1 - cos^2)``.

    ``cos = tr(A B) / (||A|| ||B||)`` is the correlation of ``z^T A z`` and ``z^T B z`` over Gaussian z, whose covariance is
    ``2 tr(A B)`` and whose variances are ``2 ||A||^2`` and ``2 ||B||^2``. It is invariant under a common rotation and under
    ``A -> c A``, and defined for any signs of the eigenvalues. The deviatoric cosine leaves the trace out, which any two positive
    matrices have in common.

    Args:
        first: A, ``(P, P)`` or an operator.
        second: B, of the same dimension.
        probes: at least 2, two products each; not used for two matrices, which are exact.
        seed: seed of the probes.
    Returns:
        The information in nats, infinite for proportional matrices, with both cosines.
    Raises:
        BadInputError: a matrix of zeros.
    Example:
        >>> similarity = gaussian_information(torch.diag(torch.tensor([1.0, 0.0])), torch.eye(2))
        >>> round(similarity.cosine.value**2, 9), round(similarity.value / math.log(2), 9)
        (0.5, 0.5)

    Source:
        Ours.
    """
    rows, products = moments(first, second, probes, seed)
    return compared(rows, (first if isinstance(first, Operator) else as_operator(first)).dim, products)


def compared(rows: Tensor, dim: int, products: int) -> GaussianInformation:
    """`gaussian_information` from rows of `moments`.

    Args:
        rows: one exact row ``(1, 5)`` with 0 products, or one row for each probe ``(n, 5)``.
        dim: P.
        products: number of products that the rows took.
    Raises:
        BadInputError: a matrix of zeros.
    """
    least = float(rows[:, :2].sum(0).min())
    require(least > 0, "matrices, smallest squared norm", least, "a matrix that is not zero")

    def cosine(means: Tensor) -> Tensor:
        return means[..., 2] / (means[..., 0].sqrt() * means[..., 1].sqrt())

    def deviatoric(means: Tensor) -> Tensor:
        left = torch.stack([means[..., i] - means[..., 3 + i].square() / dim for i in (0, 1)])
        left = torch.where(left > _PROPORTIONAL * means[..., :2].movedim(-1, 0), left, math.nan)
        return (means[..., 2] - means[..., 3] * means[..., 4] / dim) / (left[0].sqrt() * left[1].sqrt())

    def information(means: Tensor) -> Tensor:
        gap = 1 - cosine(means).square()
        return -torch.log(torch.where(gap > _PROPORTIONAL, gap, 0.0)) / 2

    outcome = _summarised(rows, information, products)
    return GaussianInformation(
        outcome.value, outcome.standard_error, _summarised(rows, cosine, products), _summarised(rows, deviatoric, products)
    )


def subspace_overlap(first: Tensor, second: Tensor) -> float:
    """Overlap of two subspaces, ``||V^T W||_F^2 / k`` in [0, 1]: 1 for the same space, ``k / P`` on average for random ones.

    Args:
        first: V, orthonormal columns ``(P, k)``.
        second: W, orthonormal columns ``(P, k)``.
    Raises:
        ShapeMismatchError, OrthonormalityError: frames of different shapes, or not orthonormal.
        EmptySubspaceError: k is 0.
    Example:
        >>> subspace_overlap(torch.eye(4)[:, :2], torch.eye(4)[:, 1:3])
        0.5
    """
    if first.shape != second.shape:
        raise ShapeMismatchError(f"frames: given shapes {tuple(first.shape)} and {tuple(second.shape)}, expected the same")
    v, w = frame("first", first, first.shape[0]), frame("second", second, first.shape[0])
    if not v.shape[1]:
        raise EmptySubspaceError("overlap: frames without a column, expected at least 1")
    return float((v.T @ w).square().sum()) / v.shape[1]


def log_spectrum_distance(first: Tensor | SpectralDensity, second: Tensor | SpectralDensity, floor: float = 0.0) -> float:
    """1-Wasserstein distance of the distributions of ``log |lam|``: the average logarithm of the factor between two spectra.

    ``integral |F_1(x) - F_2(x)| dx`` with F the cumulative distributions of ``x = log |lam|``.

    Args:
        first: eigenvalues ``(n,)``, or a density from products.
        second: eigenvalues of the same or another number, or a density.
        floor: smaller ``|lam|`` count as this; needed where an eigenvalue is zero, and for densities, at their resolution.
    Returns:
        The distance in nats.
    Raises:
        EmptySubspaceError: an eigenvalue of zero without a floor.
    Example:
        >>> lam = torch.tensor([1.0, -2.0, 3.0])
        >>> round(math.exp(log_spectrum_distance(lam, 5 * lam)), 9)
        5.0
    """
    require(0 <= floor < math.inf, "floor", floor, "a number of at least 0")
    logs, masses = zip(*(_log_sizes(given, floor) for given in (first, second)), strict=True)
    positions, order = torch.cat(logs).sort()
    gaps = torch.cat([masses[0], -masses[1]])[order].cumsum(0)
    return float(gaps[:-1].abs() @ positions.diff())


def _log_sizes(given: Tensor | SpectralDensity, floor: float) -> tuple[Tensor, Tensor]:
    """``log max(|lam|, floor)`` of eigenvalues or nodes, and their masses, which sum to 1."""
    if isinstance(given, SpectralDensity):
        positive = given.weights > 0
        sizes, masses = given.nodes[positive].abs(), given.weights[positive] / given.weights.sum()
    else:
        sizes = spectrum("values", given).abs()
        masses = torch.full_like(sizes, 1 / max(len(sizes), 1))
    sizes = sizes.clamp_min(floor)
    if not len(sizes) or not float(sizes.min()):
        raise EmptySubspaceError("distance: no eigenvalue, or one that is zero, expected positive sizes; give a floor")
    return sizes.log(), masses
