"""What every formula asks of its inputs: float64, finite, of matching shapes.

Shape letters: n number of eigenvalues, P dimension, d columns of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import Matrix
from thalweg.errors import NonFiniteError, OrthonormalityError, ShapeMismatchError, StepSizeError, require

ORTHONORMAL = {torch.float64: 1e-8, torch.float32: 1e-5}
"""Largest entry of ``V^T V - I`` of a frame that counts as orthonormal."""


@dataclass(frozen=True)
class Condition:
    """What a number rests on, and whether it was so."""

    words: str
    """As an inequality, with the names of the formula."""
    held: bool
    measured: float
    """The left side, or what was looked at."""


def finite(name: str, value: Tensor) -> Tensor:
    """In float64.

    Raises:
        NonFiniteError: NaN or infinity in it.
    """
    if not torch.isfinite(value).all():
        raise NonFiniteError(f"{name}: holds NaN or infinity, expected finite numbers")
    return value.detach().to(torch.float64)


def shaped(name: str, value: Tensor, *shape: int) -> Tensor:
    """Finite, in float64, of this shape.

    Raises:
        ShapeMismatchError: another shape.
    """
    if tuple(value.shape) != shape:
        raise ShapeMismatchError(f"{name}: given shape {tuple(value.shape)}, expected {shape}")
    return finite(name, value)


def spectrum(name: str, values: Tensor) -> Tensor:
    """A row of eigenvalues ``(n,)``, finite, in float64; n may be 0."""
    if values.dim() != 1:
        raise ShapeMismatchError(f"{name}: given shape {tuple(values.shape)}, expected (n,)")
    return finite(name, values)


def symmetric(name: str, matrix: Tensor) -> Tensor:
    """``(P, P)`` in float64, symmetric to the bit; P may be 0.

    Raises:
        NotSymmetricError: ``||A - A^T|| > rtol ||A||``, rtol 1e-8 for float64 and 1e-4 for float32.
    """
    if matrix.shape == (0, 0):
        return matrix.to(torch.float64)
    finite(name, matrix)
    return Matrix(matrix).entries.detach().to(torch.float64)


def frame(name: str, columns: Tensor, dim: int) -> Tensor:
    """Orthonormal columns ``(P, d)`` in float64; d may be 0.

    Raises:
        OrthonormalityError: an entry of ``V^T V - I`` above 1e-8.
    """
    if columns.dim() != 2 or columns.shape[0] != dim:
        raise ShapeMismatchError(f"{name}: given shape {tuple(columns.shape)}, expected ({dim}, d)")
    allowed = ORTHONORMAL.get(columns.dtype, ORTHONORMAL[torch.float32])
    columns = finite(name, columns)
    gram = columns.T @ columns - torch.eye(columns.shape[1], dtype=torch.float64, device=columns.device)
    if columns.shape[1] and float(gram.abs().max()) > allowed:
        raise OrthonormalityError(f"{name}: |V^T V - I| is {float(gram.abs().max()):.1e}, expected at most {allowed:.0e}")
    return columns


def positive_rate(rate: float) -> float:
    """The step size eta.

    Raises:
        StepSizeError: not a positive number.
    """
    if not 0 < rate < float("inf"):
        raise StepSizeError(f"rate: given {rate!r}, expected a positive number")
    return float(rate)


def positive_steps(steps: int) -> int:
    """The number of steps K."""
    require(isinstance(steps, int) and steps >= 1, "steps", steps, "a whole number of at least 1")
    return steps
