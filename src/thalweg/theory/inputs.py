"""Checks of the inputs of all formulas: float64, finite, of matching shapes.

Shape letters: n number of eigenvalues, P dimension, d columns of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.bounds import require_kind
from thalweg.curvature.operator import Matrix
from thalweg.errors import NonFiniteError, OrthonormalityError, ShapeMismatchError, StepSizeError, require

ORTHONORMAL = {torch.float64: 1e-8, torch.float32: 1e-5}
"""For each dtype, the largest entry of ``V^T V - I`` with which a frame V counts as orthonormal."""


@dataclass(frozen=True)
class Condition:
    """A condition under which a result is valid, and whether it holds for the given input."""

    words: str
    """The condition as an inequality, in the symbols of the formula."""
    held: bool | None
    """Whether the condition holds; None where the interval of what was measured decides neither."""
    measured: float
    """The measured left side of the inequality, or the quantity that decides it."""


def finite(name: str, value: Tensor) -> Tensor:
    """Return a tensor in float64, detached; ``name`` is used in the error.

    Raises:
        NonFiniteError: the tensor holds NaN or infinity.
    """
    if not torch.isfinite(value).all():
        raise NonFiniteError(f"{name}: holds NaN or infinity, expected finite numbers")
    return value.detach().to(torch.float64)


def shaped(name: str, value: Tensor, *shape: int) -> Tensor:
    """Check that a tensor has the given shape and is finite; return it in float64.

    Raises:
        ShapeMismatchError: the tensor has another shape.
        NonFiniteError: the tensor holds NaN or infinity.
    """
    if tuple(value.shape) != shape:
        raise ShapeMismatchError(f"{name}: given shape {tuple(value.shape)}, expected {shape}")
    return finite(name, value)


def spectrum(name: str, values: Tensor) -> Tensor:
    """Check a vector of eigenvalues ``(n,)``, which may be empty; return it in float64.

    Raises:
        ShapeMismatchError: not a vector.
        NonFiniteError: an eigenvalue is NaN or infinite.
    """
    if values.dim() != 1:
        raise ShapeMismatchError(f"{name}: given shape {tuple(values.shape)}, expected (n,)")
    return finite(name, values)


def symmetric(name: str, matrix: Tensor) -> Tensor:
    """Check a symmetric matrix ``(P, P)``, which may be empty; return it in float64, made exactly symmetric.

    Raises:
        NotSymmetricError: ``||A - A^T|| > rtol ||A||``, rtol 1e-8 for float64 and 1e-4 for float32.
    """
    if matrix.shape == (0, 0):
        return matrix.to(torch.float64)
    finite(name, matrix)
    return Matrix(matrix).entries.detach().to(torch.float64)


def frame(name: str, columns: Tensor, dim: int) -> Tensor:
    """Check a frame of orthonormal columns ``(P, d)``, with d >= 0; return it in float64.

    Raises:
        ShapeMismatchError: not a matrix with P rows.
        OrthonormalityError: an entry of ``V^T V - I`` is above 1e-8, or above 1e-5 for float32.
    """
    if columns.dim() != 2 or columns.shape[0] != dim:
        raise ShapeMismatchError(f"{name}: given shape {tuple(columns.shape)}, expected ({dim}, d)")
    # The tolerance follows the dtype in which the frame was computed.
    allowed = ORTHONORMAL.get(columns.dtype, ORTHONORMAL[torch.float32])
    columns = finite(name, columns)
    gram = columns.T @ columns - torch.eye(columns.shape[1], dtype=torch.float64, device=columns.device)
    if columns.shape[1] and float(gram.abs().max()) > allowed:
        raise OrthonormalityError(f"{name}: |V^T V - I| is {float(gram.abs().max()):.1e}, expected at most {allowed:.0e}")
    return columns


def positive_rate(rate: float) -> float:
    """Check that the rate eta is a positive, finite number; return it as a float.

    Raises:
        StepSizeError: it is not.
    """
    if not 0 < rate < float("inf"):
        raise StepSizeError(f"rate: given {rate!r}, expected a positive number")
    return float(rate)


def positive_steps(steps: int) -> int:
    """Check that the number of steps K is a whole number of at least 1; return it.

    Raises:
        BadInputError: it is not.
    """
    require_kind(int, steps, "steps", steps, "a whole number of at least 1")
    require(steps >= 1, "steps", steps, "a whole number of at least 1")
    return int(steps)
