"""The quadratic model in river and valley coordinates, and what its coupling can be.

Shape letters: P dimension, dV of the valley, dR of the river.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import Operator, as_operator
from thalweg.errors import EigenSplitCouplingWarning, EmptySubspaceError, IndefiniteModelWarning
from thalweg.theory.inputs import frame, shaped, symmetric

ZERO = 1e-10
"""Of the largest absolute eigenvalue; smaller ones count as zero."""


@dataclass(frozen=True)
class Quadratic:
    """``m(x, r) = g_V.x + g_R.r + 1/2 x^T A x + x^T B r + 1/2 r^T D r``, in float64.

    The paper's setting has no valley gradient, no river curvature, and the slope ``h_R = -g_R``.
    """

    valley: Tensor
    """A, ``(dV, dV)``, symmetric."""
    coupling: Tensor
    """B, ``(dV, dR)``; the paper's H_RV is its transpose."""
    river: Tensor
    """D, ``(dR, dR)``, symmetric."""
    valley_gradient: Tensor
    """g_V, ``(dV,)``."""
    river_gradient: Tensor
    """g_R, ``(dR,)``."""

    @property
    def hessian(self) -> Tensor:
        """The whole matrix ``(dV + dR, dV + dR)``, valley first."""
        return torch.cat([torch.cat([self.valley, self.coupling], 1), torch.cat([self.coupling.T, self.river], 1)])

    @property
    def gradient(self) -> Tensor:
        """The gradient at the reference point, valley first."""
        return torch.cat([self.valley_gradient, self.river_gradient])


def quadratic(
    valley: Tensor,
    coupling: Tensor,
    river: Tensor | None = None,
    valley_gradient: Tensor | None = None,
    river_gradient: Tensor | None = None,
) -> Quadratic:
    """The model from its blocks; what is not given is zero.

    Raises:
        ShapeMismatchError: blocks that do not fit together.
        NotSymmetricError: a valley or river block that is not symmetric.
    Example:
        >>> quadratic(torch.eye(1), torch.ones(1, 2)).hessian.tolist()
        [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    a = symmetric("valley block", valley)
    b = shaped("coupling", coupling, a.shape[0], coupling.shape[-1])
    width = b.shape[1]
    d = a.new_zeros(width, width) if river is None else symmetric("river block", shaped("river block", river, width, width))
    g = a.new_zeros(len(a)) if valley_gradient is None else shaped("valley gradient", valley_gradient, len(a))
    h = a.new_zeros(width) if river_gradient is None else shaped("river gradient", river_gradient, width)
    return Quadratic(a, b, d, g, h)


def in_frames(hessian: Operator | Tensor, gradient: Tensor, valley: Tensor, river: Tensor, of_itself: bool = False) -> Quadratic:
    """The model of a loss at a point, seen in two orthonormal frames.

    A split by the eigenvectors of this same Hessian has no coupling: ``V_V^T H V_R = 0``. The paper's definition of the split (by
    eigenvectors) and of a coupling that is not zero exclude each other; a coupling needs a split made elsewhere, by parameter
    groups, or from other data. Then ``||B|| <= ||H(theta') - H(theta)||``: it is a third-derivative effect.

    Args:
        hessian: ``(P, P)`` or an operator; one product for each column of both frames.
        gradient: ``(P,)``.
        valley: orthonormal columns ``(P, dV)``.
        river: orthonormal columns ``(P, dR)``, orthogonal to those of the valley.
        of_itself: whether the frames are eigenvectors of this Hessian; then the coupling is set to zero, with a warning.
    Raises:
        OrthonormalityError: frames that are not orthonormal, together.
        EmptySubspaceError: a frame without columns.
    Example:
        >>> frames = torch.eye(2)[:, :1], torch.eye(2)[:, 1:]
        >>> in_frames(torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.zeros(2), *frames).coupling.tolist()
        [[1.0]]
    """
    operator = as_operator(hessian)
    if not (valley.shape[-1] and river.shape[-1]):
        raise EmptySubspaceError(f"split: given {valley.shape[-1]} valley and {river.shape[-1]} river directions, expected both")
    both = frame("valley and river frame", torch.cat([valley, river], 1), operator.dim)
    g = shaped("gradient", gradient, operator.dim)
    width = valley.shape[1]
    block = both.T @ (operator @ both)
    block = (block + block.T) / 2
    if of_itself:
        warnings.warn(
            "split: made of this Hessian's eigenvectors, so its coupling is zero; split at another point, by groups or other data",
            EigenSplitCouplingWarning,
            stacklevel=2,
        )
        block[:width, width:] = 0
        block[width:, :width] = 0
    projected = both.T @ g
    return Quadratic(block[:width, :width], block[:width, width:], block[width:, width:], projected[:width], projected[width:])


@dataclass(frozen=True)
class Consistency:
    """Whether a coupling can belong to a positive semidefinite Hessian."""

    ratio: float
    """``||B||^2 / (||A|| ||D||)`` in operator norms; at most 1 for a semidefinite whole; infinite if D = 0 != B."""
    direction_ratio: float
    """Largest ``||B^T u_i||^2 / (lam_i ||D||)`` over valley eigenvectors with positive lam_i; at most 1 likewise."""
    negative: int
    """Number of negative eigenvalues of the whole."""
    relaxed: Tensor
    """Eigenvalues ``(dR,)`` of ``D - B^T A^+ B``, the river's Hessian after the valley has relaxed, rising."""

    @property
    def consistent(self) -> bool:
        """Whether the model has a minimum as far as its Hessian goes."""
        return self.ratio <= 1 + 1e-10 and self.negative == 0


def consistency(model: Quadratic) -> Consistency:
    """Compare a coupling with what a positive semidefinite Hessian allows: ``||B||^2 <= ||A|| ||D||``.

    The paper's setting takes D = 0 with B != 0. Then H is indefinite: with A > 0 it has exactly rank(B) negative eigenvalues
    (inertia of A plus that of the Schur complement), the model falls without end, and
    "loss convergence" is a descent to minus infinity.
    Proof of the bound: ``|x^T H r|^2 <= (x^T H x)(r^T H r)`` for H >= 0.

    Raises:
        EmptySubspaceError: no valley or no river.
    Example:
        >>> from thalweg.theory.quadratic import quadratic
        >>> consistency(quadratic(torch.eye(2), torch.zeros(2, 1), torch.eye(1))).negative
        0
    """
    a, b, d = model.valley, model.coupling, model.river
    if not (len(a) and len(d)):
        raise EmptySubspaceError(f"consistency: valley of dimension {len(a)}, river of {len(d)}, expected both above 0")
    sizes = [float(torch.linalg.matrix_norm(block, 2)) for block in (a, b, d)]
    lam, u = torch.linalg.eigh(a)
    positive = lam > ZERO * sizes[0]
    coupled = (b.T @ u[:, positive]).square().sum(0) / (lam[positive] * sizes[2]) if sizes[2] else b.new_tensor([0.0])
    whole = torch.linalg.eigvalsh(model.hessian)
    result = Consistency(
        ratio=sizes[1] ** 2 / (sizes[0] * sizes[2]) if sizes[0] * sizes[2] else (float("inf") if sizes[1] else 0.0),
        direction_ratio=float(coupled.max()) if coupled.numel() else 0.0,
        negative=int((whole < -ZERO * whole.abs().max()).sum()),
        relaxed=torch.linalg.eigvalsh(d - b.T @ torch.linalg.pinv(a, hermitian=True) @ b),
    )
    if not result.consistent:
        warnings.warn(
            f"model: ||B||^2 is {result.ratio:.2g} of ||A|| ||D|| and {result.negative} eigenvalues are negative: no minimum",
            IndefiniteModelWarning,
            stacklevel=2,
        )
    return result
