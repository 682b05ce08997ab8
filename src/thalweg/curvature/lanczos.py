"""The Lanczos process: an orthonormal basis in which a symmetric operator is tridiagonal.

From a start vector v, the process builds rows q_1 = v / ||v||, q_2, ... by the three-term recurrence

    beta_j q_{j+1} = A q_j - alpha_j q_j - beta_{j-1} q_{j-1},    alpha_j = q_j . A q_j.

After m steps ``A Q = Q T + beta_m q_{m+1} e_m^T`` with T tridiagonal. Its eigenvalues (Ritz values) approximate those of A, best
at both ends of the spectrum, and are the nodes of a Gauss quadrature.

Shape letters: P dimension, m number of steps, j number of basis vectors so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.bounds import of_their_kind
from thalweg.curvature.context import undisturbed
from thalweg.curvature.operator import Operator, as_operator
from thalweg.errors import NonFiniteError, Phrase, ShapeMismatchError, require
from thalweg.reprs import short_repr

_PIECE = {"cpu": 1 << 14, "cuda": 1 << 20}
"""Entries of float32 vectors that are multiplied and summed in float32; sums over pieces are float64. A GPU sums in a tree."""
_LEAST = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps
"""Length of a float32 product below which its entries lose digits, 1e-31."""


ROUNDING = 10
"""Machine epsilons of the largest eigenvalue within which an eigenvalue is known."""


@short_repr
@dataclass(frozen=True)
class Krylov:
    """The result of m Lanczos steps: ``A Q = Q T + r e_m^T`` with Q the transposed ``basis``, T in float64."""

    basis: Tensor
    """Orthonormal rows, ``(m, P)``, in the dtype of the products; the first is the start vector, normalised."""
    alpha: Tensor
    """Diagonal of T, ``(m,)``."""
    beta: Tensor
    """``(m,)``: the m - 1 entries below the diagonal of T, and last the length of r."""
    residual: Tensor
    """r, ``(P,)``, orthogonal to the basis."""
    norm: float
    """Length of the start vector."""
    exhausted: bool
    """Whether the basis spans an invariant subspace, so that T has every eigenvalue in whose eigenspace v has a part, up to
    rounding."""

    @property
    def tridiagonal(self) -> Tensor:
        """T, ``(m, m)``."""
        below = self.beta[:-1]
        return torch.diag(self.alpha) + torch.diag(below, 1) + torch.diag(below, -1)

    def quadrature(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gauss quadrature of the start vector's spectral measure: nodes, weights and residuals.

        ``sum_i weights_i f(nodes_i) = v^T f(A) v`` for every polynomial f of degree up to 2m - 1, v the start vector. With
        ``T = S diag(nodes) S^T`` the weights are ``||v||^2 s_1i^2``. Costs ``O(m^3)`` operations and no product.

        Returns:
            Three ``(m,)`` in float64: Ritz values, ascending; their weights; and the residuals ``beta_m |s_mi|``: an eigenvalue of
            A lies within the residual of each node.
        Source:
            Golub and Welsch 1969; Golub and Meurant 2010, chapter 6.
        """
        nodes, vectors = torch.linalg.eigh(self.tridiagonal)
        return nodes, vectors[0] ** 2 * self.norm**2, self.beta[-1] * vectors[-1].abs()


def orthogonalise(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Remove from a vector its part in the span of a basis, by classical Gram-Schmidt done twice.

    ``r = v - Q Q^T v``, and again ``r - Q Q^T r``. One pass loses the digits that cancel; two are enough, unless nothing but
    rounding remains. Costs ``8 j P`` operations.

    Args:
        vector: v, ``(P,)`` float64 or float32.
        basis: orthonormal rows ``(j, P)`` in the same dtype; trusted, not checked.
    Returns:
        The remainder r, ``(P,)``, and the coefficients ``(j,)`` float64 of the part that was removed.
    Source:
        Giraud, Langou, Rozloznik and van den Eshof 2005.
    """
    first = _parts_along(basis, vector)
    remainder = torch.addmv(vector, basis.T, first.to(vector.dtype), alpha=-1)
    second = _parts_along(basis, remainder)
    return remainder.addmv_(basis.T, second.to(vector.dtype), alpha=-1), first + second


def _parts_along(basis: Tensor, vector: Tensor) -> Tensor:
    """``Q v`` in float64, ``(j,)``: float32 within pieces of the vectors, float64 over pieces.

    One float32 sum over millions of entries would be wrong by 1e-4 where the first of them are large.
    """
    if basis.dtype == torch.float64:
        return basis @ vector
    size = _PIECE["cuda" if basis.is_cuda else "cpu"]
    parts = torch.zeros(len(basis), dtype=torch.float64, device=basis.device)
    for start in range(0, basis.shape[1], size):
        parts += (basis[:, start : start + size] @ vector[start : start + size]).double()
    return parts


def length(vector: Tensor) -> float:
    """The length of a vector, by squares in float64: those of float32 would underflow below 1e-22."""
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def refuse_tiny(operator: Operator, scale: float) -> None:
    """Refuse float32 products so small that their entries have lost digits; ``scale`` is the largest length of a product.

    Raises:
        BadInputError: a length between 0 and 1e-31.
    """
    fine = operator.dtype != torch.float32 or scale == 0 or scale >= _LEAST
    require(
        fine, "products", Phrase(f"length {scale:.1e} in float32"), f"at least {_LEAST:.0e}; scale the loss, or compute in float64"
    )


def _breakdown_floor(operator: Operator, scale: float) -> float:
    """Length below which a residual counts as rounding, for products of size ``scale``: 2e-12 of it in float64, 7e-6 in float32.

    The power 3/4 leaves room for the growth of rounding where the start has hardly any part along some eigenvector. Where one
    eigenvalue is so large that others are below this, they cannot be told from rounding, nor from each other.
    """
    return breakdown(operator.dtype) * scale


def breakdown(dtype: torch.dtype) -> float:
    """Share of the largest product below which a residual counts as rounding, and eigenvalues are not told apart."""
    return torch.finfo(dtype).eps ** 0.75


@undisturbed
@of_their_kind
def lanczos(operator: Operator | Tensor, start: Tensor, steps: int) -> Krylov:
    """Up to ``steps`` steps of the Lanczos process with full reorthogonalisation.

    Without reorthogonalisation a converged eigenvalue returns as copies ("ghosts"); here every vector is made orthogonal to all
    vectors before it, twice. Vectors have the dtype of the products, sums over them are float64. The process ends early when the
    residual is rounding (`_breakdown_floor`): the basis then spans an invariant subspace. Cost: ``steps`` products, ``4 m^2 P``
    operations, and a basis of ``m P`` entries.

    Args:
        operator: A, symmetric, or its matrix ``(P, P)``; symmetry of an operator is trusted.
        start: v, ``(P,)``, of any length but zero.
        steps: number of steps, at least 1; more than P count as P.
    Returns:
        The basis in the dtype of the products, and T in float64.
    Raises:
        ShapeMismatchError: another shape of start than ``(P,)``.
        NonFiniteError: NaN or infinity in the start or a product.
        BadInputError: a zero start, fewer than 1 step, or float32 products too small for their digits.
    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
        >>> lanczos(matrix, torch.ones(2), steps=2).tridiagonal.round(decimals=12).tolist()
        [[2.0, 1.0], [1.0, 2.0]]

    Source:
        Lanczos 1950; Paige 1971 for the ghosts.
    """
    operator = as_operator(operator)
    require(steps >= 1, "steps", steps, "a whole number of at least 1")
    if start.shape != (operator.dim,):
        raise ShapeMismatchError(f"start vector: given shape {tuple(start.shape)}, expected ({operator.dim},)")
    vector = start.detach().to(operator.device, torch.float64)
    norm = float(vector.norm())
    if not torch.isfinite(vector).all():
        raise NonFiniteError("start vector: holds NaN or infinity, expected finite numbers")
    require(norm > 0, "start vector", Phrase("zeros"), "a vector of positive length")
    steps = min(steps, operator.dim)
    # q_1 is the start at length 1; `residual` always holds the next direction before it is normalised.
    basis = torch.empty(steps, operator.dim, dtype=operator.dtype, device=operator.device)
    alpha, beta = vector.new_zeros(steps), vector.new_zeros(steps)
    residual, scale, exhausted, m = (vector / norm).to(operator.dtype), 0.0, False, 0
    while m < steps and not exhausted:
        # q_m = r / beta_{m-1}, and one product A q_m.
        basis[m] = residual / (length(residual) if m == 0 else beta[m - 1])
        product = operator @ basis[m]
        scale = max(scale, length(product))
        # r = A q_m minus its parts along all rows so far; alpha_m is the part along q_m, beta_m the length of r.
        residual, taken = orthogonalise(product, basis[: m + 1])
        alpha[m], beta[m] = taken[m], length(residual)
        m += 1
        # Invariant subspace: the rows span everything, or r is rounding.
        exhausted = m == operator.dim or float(beta[m - 1]) <= _breakdown_floor(operator, scale)
    refuse_tiny(operator, scale)
    return Krylov(basis[:m], alpha[:m], beta[:m], residual, norm, exhausted)
