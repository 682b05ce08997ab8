"""The face of everything symmetric: ``dim`` and ``@``.

Shape letters: P dimension, k number of vectors.
"""

from __future__ import annotations

import abc
from typing import final

import torch
from torch import Tensor

from thalweg.errors import NonFiniteError, NotSymmetricError, ShapeMismatchError, require

SYMMETRY_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Largest ``||A - A^T|| / ||A||`` (Frobenius) of a matrix that counts as symmetric."""


class Operator(abc.ABC):
    """A symmetric linear map on flat vectors.

    Products are computed in ``dtype`` on ``device`` and come back in the dtype of what was given, so that a float64
    eigensolver can work with float32 products.
    """

    dim: int
    """P."""
    dtype: torch.dtype
    """Arithmetic of a product."""
    device: torch.device
    """Where products are computed."""

    @abc.abstractmethod
    def rows(self, vectors: Tensor) -> Tensor:
        """Products with the rows of ``(k, P)``, as rows; in ``dtype`` on ``device``."""

    @final
    def __matmul__(self, vectors: Tensor) -> Tensor:
        """``A v`` for ``(P,)``, or ``A V`` for ``(P, k)``.

        Raises:
            ShapeMismatchError: another first dimension than P.
            NonFiniteError: NaN or infinity in the vectors or in the product.
        """
        if vectors.dim() not in (1, 2) or vectors.shape[0] != self.dim:
            shape = tuple(vectors.shape)
            raise ShapeMismatchError(f"vectors: given shape {shape}, expected ({self.dim},) or ({self.dim}, k)")
        require(vectors.is_floating_point(), "vectors", vectors.dtype, "a floating-point tensor")
        if not torch.isfinite(vectors).all():
            raise NonFiniteError("vectors: hold NaN or infinity, expected finite numbers")
        if not vectors.numel():
            return vectors.clone()
        given = vectors.detach().to(self.device, self.dtype)
        product = self.rows(given.unsqueeze(0) if given.dim() == 1 else given.T.contiguous())
        if not torch.isfinite(product).all():
            raise NonFiniteError(f"product: NaN or infinity in {self.dtype}; scale the vectors or compute in float64")
        product = product.to(vectors.device, vectors.dtype)
        return product[0] if vectors.dim() == 1 else product.T


class Matrix(Operator):
    """A symmetric matrix given by its entries.

    Args:
        entries: ``(P, P)``; symmetrised when it is symmetric up to rounding.
    Raises:
        ShapeMismatchError: not square, or empty.
        NonFiniteError: NaN or infinity in it.
        NotSymmetricError: ``||A - A^T|| > rtol ||A||``, rtol 1e-8 in float64 and 1e-4 in float32.
    Example:
        >>> (Matrix(torch.diag(torch.tensor([1.0, 2.0]))) @ torch.ones(2)).tolist()
        [1.0, 2.0]
    """

    def __init__(self, entries: Tensor) -> None:
        if entries.dim() != 2 or entries.shape[0] != entries.shape[1] or not entries.numel():
            raise ShapeMismatchError(f"matrix: given shape {tuple(entries.shape)}, expected (P, P) with P of at least 1")
        if not torch.isfinite(entries).all():
            raise NonFiniteError("matrix: holds NaN or infinity, expected finite numbers")
        require(entries.dtype in SYMMETRY_TOLERANCE, "matrix", entries.dtype, "float32 or float64")
        apart, size = (entries - entries.T).norm(), entries.norm()
        if apart > SYMMETRY_TOLERANCE[entries.dtype] * size:
            raise NotSymmetricError(f"matrix: ||A - A^T|| is {float(apart / size):.1e} of ||A||, expected a symmetric matrix")
        self.entries = (entries + entries.T) / 2
        self.dim, self.dtype, self.device = entries.shape[0], entries.dtype, entries.device

    def rows(self, vectors: Tensor) -> Tensor:
        return vectors @ self.entries


def as_operator(given: Operator | Tensor) -> Operator:
    """The operator itself, or that of a symmetric matrix ``(P, P)``."""
    return Matrix(given) if isinstance(given, Tensor) else given
