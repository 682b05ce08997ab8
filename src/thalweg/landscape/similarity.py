"""How alike two Hessians are: inner product, closed-form information, overlap of subspaces, distance of spectra.

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
"""Squares of sines, and of what the trace leaves of a norm, below this are rounding."""
_ROWS = 1024
"""Of a matrix, taken to float64 at a time."""


@dataclass(frozen=True)
class GaussianInformation:
    """Two matrices compared by their inner product."""

    value: float
    """``-1/2 log(1 - cosine^2)`` in nats; infinite for proportional matrices."""
    standard_error: float
    """Over probes; 0 from matrices, NaN where probes gave an infinite value."""
    cosine: Estimate
    """``tr(A B) / (||A|| ||B||)`` in [-1, 1]."""
    deviatoric: Estimate
    """The same of ``A - tr(A)/P I`` and ``B - tr(B)/P I``; NaN where one of them is zero."""


def pair(first: Operator | Tensor, second: Operator | Tensor) -> tuple[Operator, Operator]:
    """Two operators of one dimension; matrices in float64."""
    a, b = (Matrix(symmetric("matrix", given)) if isinstance(given, Tensor) else as_operator(given) for given in (first, second))
    if a.dim != b.dim:
        raise ShapeMismatchError(f"operators: dimensions {a.dim} and {b.dim}, expected the same")
    return a, b


def moments(first: Operator | Tensor, second: Operator | Tensor, probes: int, seed: int) -> tuple[Tensor, int]:
    """Rows with the mean ``||A||^2, ||B||^2, tr(A B), tr A, tr B``, one a Rademacher probe, and the products used.

    Two matrices give a single row, which is exact.
    """
    a, b = pair(first, second)
    if isinstance(first, Tensor) and isinstance(second, Tensor) and isinstance(a, Matrix) and isinstance(b, Matrix):
        return matrix_row(a.entries, b.entries), 0
    require_probes(probes)
    return torch.cat([image_rows(a @ z, b @ z, z) for z in blocks(a, 0, probes, seed)]), 2 * probes


def matrix_row(first: Tensor, second: Tensor) -> Tensor:
    """The row of `moments` from two symmetric matrices ``(P, P)``, ``(1, 5)``; sums in float64, no matrix is copied."""
    sums = torch.zeros(3, dtype=torch.float64, device=first.device)
    for x, y in zip(first.split(_ROWS), second.split(_ROWS), strict=True):
        x, y = x.double(), y.double()
        sums += torch.stack([x.square().sum(), y.square().sum(), (x * y).sum()])
    traces = torch.stack([matrix.diagonal().double().sum() for matrix in (first, second)])
    return torch.cat([sums, traces]).unsqueeze(0)


def image_rows(first: Tensor, second: Tensor, probes: Tensor) -> Tensor:
    """Rows of `moments` from images ``A Z``, ``B Z`` of the same probes Z, ``(P, n)`` each: ``(n, 5)``."""
    x, y, z = first, second, probes
    return torch.stack([(u * v).sum(0) for u, v in ((x, x), (y, y), (x, y), (z, x), (z, y))], 1)


def _summarised(rows: Tensor, function: Callable[[Tensor], Tensor], products: int) -> Estimate:
    """A function of the means, and the jackknife's standard error; 0 for a single, exact row."""
    value, error = jackknife(rows, function) if products else (float(function(rows[0])), 0.0)
    return Estimate(value, error, products)


def inner_product(first: Operator | Tensor, second: Operator | Tensor, probes: int = 60, seed: int = 0) -> Estimate:
    """``tr(A B)``, half of the covariance of ``z^T A z`` and ``z^T B z`` over Gaussian z; exact from two matrices.

    Otherwise the mean of ``(A z).(B z)`` over Rademacher probes, two products each.

    Example:
        >>> inner_product(torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([3.0, -1.0]))).value
        1.0
    """
    rows, products = moments(first, second, probes, seed)
    return _summarised(rows, lambda means: means[..., 2], products)


def gaussian_information(
    first: Operator | Tensor, second: Operator | Tensor, probes: int = 60, seed: int = 0
) -> GaussianInformation:
    """``I_G = -1/2 log(1 - cos^2)`` with ``cos = tr(A B) / (||A|| ||B||)``: what Gaussians of that correlation share.

    ``z^T A z`` and ``z^T B z`` over Gaussian z have covariance ``2 tr(A B)`` and variances ``2 ||A||^2``, ``2 ||B||^2``: cos is
    their correlation. The same after a common rotation and for ``c A``, and for any signs of the eigenvalues. The deviatoric
    cosine leaves the trace out, which any two positive matrices have in common.

    Args:
        first: A, ``(P, P)`` or an operator.
        second: B, of the same dimension.
        probes: at least 2, two products each; not used for two matrices, which are exact.
        seed: of the probes.
    Raises:
        BadInputError: a matrix of zeros.
    Example:
        >>> found = gaussian_information(torch.diag(torch.tensor([1.0, 0.0])), torch.eye(2))
        >>> round(found.cosine.value**2, 9), round(found.value / math.log(2), 9)
        (0.5, 0.5)

    Source:
        Ours.
    """
    rows, products = moments(first, second, probes, seed)
    return compared(rows, (first if isinstance(first, Operator) else as_operator(first)).dim, products)


def compared(rows: Tensor, dim: int, products: int) -> GaussianInformation:
    """`gaussian_information` from rows of `moments`: one exact row (0 products), or one for each probe.

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
    """``||V^T W||_F^2 / k`` in [0, 1]: 1 for the same space, ``k / P`` in the mean for random ones.

    Args:
        first: V, orthonormal columns ``(P, k)``.
        second: W, ``(P, k)``.
    Raises:
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
    """1-Wasserstein distance of the distributions of ``log |lam|``, in nats: log of the factor between them, on average.

    Args:
        first: eigenvalues ``(n,)``, or a density from products.
        second: of the same or another number.
        floor: smaller ``|lam|`` count as this; needed where an eigenvalue is zero, and for densities, at their resolution.
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
    """``log max(|lam|, floor)`` and masses of sum 1."""
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
