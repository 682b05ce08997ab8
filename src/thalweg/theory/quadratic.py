"""The quadratic model in river and valley coordinates, and which couplings a semidefinite Hessian allows.

Shape letters: P all parameters, dV dimension of the valley, dR of the river.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import Operator, as_operator
from thalweg.errors import EigenSplitCouplingWarning, EmptySubspaceError, IndefiniteModelWarning, warn
from thalweg.reprs import short_repr
from thalweg.theory.inputs import frame, shaped, symmetric

ZERO = 1e-10
"""Share of the largest absolute eigenvalue below which an eigenvalue counts as zero."""


@short_repr
@dataclass(frozen=True)
class Quadratic:
    """``m(x, r) = g_V.x + g_R.r + 1/2 x^T A x + x^T B r + 1/2 r^T D r``, in float64.

    The paper's setting has no valley gradient, no river curvature, and the slope ``h_R = -g_R``.
    """

    valley: Tensor
    """A, the valley block of the Hessian, ``(dV, dV)``, symmetric."""
    coupling: Tensor
    """B, the coupling of valley and river, ``(dV, dR)``; the paper's H_RV is its transpose."""
    river: Tensor
    """D, the river block of the Hessian, ``(dR, dR)``, symmetric."""
    valley_gradient: Tensor
    """g_V, gradient along the valley at the reference point, ``(dV,)``."""
    river_gradient: Tensor
    """g_R, gradient along the river at the reference point, ``(dR,)``."""

    @property
    def hessian(self) -> Tensor:
        """The whole Hessian ``(dV + dR, dV + dR)``, valley first."""
        return torch.cat([torch.cat([self.valley, self.coupling], 1), torch.cat([self.coupling.T, self.river], 1)])

    @property
    def gradient(self) -> Tensor:
        """The gradient at the reference point, ``(dV + dR,)``, valley first."""
        return torch.cat([self.valley_gradient, self.river_gradient])


def quadratic(
    valley: Tensor,
    coupling: Tensor,
    river: Tensor | None = None,
    valley_gradient: Tensor | None = None,
    river_gradient: Tensor | None = None,
) -> Quadratic:
    """Build the model from its blocks; blocks that are not given are zero.

    Args:
        valley: A, ``(dV, dV)``.
        coupling: B, ``(dV, dR)``.
        river: D, ``(dR, dR)``.
        valley_gradient: g_V, ``(dV,)``.
        river_gradient: g_R, ``(dR,)``.
    Raises:
        ShapeMismatchError: the blocks do not fit together.
        NotSymmetricError: the valley or the river block is not symmetric.
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
    """Express a loss's quadratic model at a point in a valley frame and a river frame.

    Statement: a split by the eigenvectors of the same Hessian has no coupling, ``V_V^T H V_R = 0``. So the paper's definitions of
    the split (by eigenvectors) and of a non-zero coupling exclude each other. A coupling needs a split at another point, by
    parameter groups, or from other data. For a split at theta' it has ``||B|| <= ||H(theta') - H(theta)||``: it is an effect of
    third derivatives.

    Args:
        hessian: H at theta, ``(P, P)`` or an operator; costs one product for each column of both frames.
        gradient: gradient at theta, ``(P,)``.
        valley: orthonormal columns ``(P, dV)``.
        river: orthonormal columns ``(P, dR)``, orthogonal to those of the valley.
        of_itself: whether the frames are eigenvectors of this Hessian; then the coupling is set to zero, with a warning.
    Raises:
        OrthonormalityError: the columns of both frames together are not orthonormal.
        EmptySubspaceError: a frame has no columns.
    Example:
        >>> frames = torch.eye(2)[:, :1], torch.eye(2)[:, 1:]
        >>> in_frames(torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.zeros(2), *frames).coupling.tolist()
        [[1.0]]

    Source:
        Ours; definitions 1 and 2 of arXiv 2510.10089 exclude each other.
    """
    operator = as_operator(hessian)
    if not (valley.shape[-1] and river.shape[-1]):
        raise EmptySubspaceError(f"split: given {valley.shape[-1]} valley and {river.shape[-1]} river directions, expected both")
    # One frame for both, so that orthogonality of river and valley is checked too.
    both = frame("valley and river frame", torch.cat([valley, river], 1), operator.dim)
    g = shaped("gradient", gradient, operator.dim)
    width = valley.shape[1]
    # Blocks A, B, D of H in the frame, symmetric up to rounding before the next line.
    block = both.T @ (operator @ both)
    block = (block + block.T) / 2
    if of_itself:
        warn(
            "split: made of this Hessian's eigenvectors, so its coupling is zero; split at another point, by groups or other data",
            EigenSplitCouplingWarning,
        )
        block[:width, width:] = 0
        block[width:, :width] = 0
    projected = both.T @ g
    return Quadratic(block[:width, :width], block[:width, width:], block[width:, width:], projected[:width], projected[width:])


@short_repr
@dataclass(frozen=True)
class Consistency:
    """Whether the coupling of a model is possible in a positive semidefinite Hessian."""

    ratio: float
    """``||B||^2 / (||A|| ||D||)`` in operator norms; at most 1 if the Hessian is semidefinite; infinite if D = 0 and B is not."""
    direction_ratio: float
    """Largest ``||B^T u_i||^2 / (lam_i ||D||)`` over the valley eigenvectors with lam_i > 0; at most 1 if semidefinite."""
    negative: int
    """Number of negative eigenvalues of the whole Hessian."""
    relaxed: Tensor
    """Ascending eigenvalues ``(dR,)`` of ``D - B^T A^+ B``, the river's Hessian after the valley has relaxed."""

    @property
    def consistent(self) -> bool:
        """Whether the Hessian is positive semidefinite up to rounding, so that the model can have a minimum."""
        return self.ratio <= 1 + 1e-10 and self.negative == 0


def consistency(model: Quadratic) -> Consistency:
    """Compare the coupling with the bound that a positive semidefinite Hessian imposes; warn if there is no minimum.

    Statement 1: ``H >= 0`` implies ``||B||^2 <= ||A|| ||D||`` and ``||b_i||^2 <= lam_i ||D||``; equality holds for H of rank 1.
    Proof: ``|x^T H r|^2 <= (x^T H x)(r^T H r)`` for ``H >= 0``.
    Statement 2: with ``D = 0`` and ``A > 0``, H has exactly rank(B) negative eigenvalues (the inertia of A plus that of the Schur
    complement). The paper's setting takes ``D = 0`` with ``B != 0``: that model has no minimum and decreases without bound.

    Args:
        model: the quadratic model.
    Raises:
        EmptySubspaceError: the valley or the river has no dimension.
    Example:
        >>> from thalweg.theory.quadratic import quadratic
        >>> consistency(quadratic(torch.eye(2), torch.zeros(2, 1), torch.eye(1))).negative
        0

    Source:
        Ours; setting 1 of arXiv 2510.10089 takes ``D = 0`` and ``B != 0``.
    """
    a, b, d = model.valley, model.coupling, model.river
    if not (len(a) and len(d)):
        raise EmptySubspaceError(f"consistency: valley of dimension {len(a)}, river of {len(d)}, expected both above 0")
    sizes = [float(torch.linalg.matrix_norm(block, 2)) for block in (a, b, d)]
    # Ratio for each valley eigenvector with positive curvature; without D it is not defined.
    lam, u = torch.linalg.eigh(a)
    positive = lam > ZERO * sizes[0]
    coupled = (b.T @ u[:, positive]).square().sum(0) / (lam[positive] * sizes[2]) if sizes[2] else b.new_tensor([0.0])
    # The whole Hessian decides whether there is a minimum.
    whole = torch.linalg.eigvalsh(model.hessian)
    result = Consistency(
        ratio=sizes[1] ** 2 / (sizes[0] * sizes[2]) if sizes[0] * sizes[2] else (float("inf") if sizes[1] else 0.0),
        direction_ratio=float(coupled.max()) if coupled.numel() else 0.0,
        negative=int((whole < -ZERO * whole.abs().max()).sum()),
        relaxed=torch.linalg.eigvalsh(d - b.T @ torch.linalg.pinv(a, hermitian=True) @ b),
    )
    if not result.consistent:
        warn(
            f"model: ||B||^2 is {result.ratio:.2g} of ||A|| ||D|| and {result.negative} eigenvalues are negative: no minimum",
            IndefiniteModelWarning,
        )
    return result
