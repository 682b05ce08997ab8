"""Theorem 1: the exact force of the valley's motion on the river.

Shape letters: dV dimension of the valley, dR of the river, K steps, P all parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import Operator, as_operator
from thalweg.errors import EmptySubspaceError
from thalweg.reprs import short_repr
from thalweg.theory.inputs import Condition, frame, positive_rate, positive_steps, shaped
from thalweg.theory.kernel import doubled_kernel, kernel, unless_overflown
from thalweg.theory.quadratic import ZERO, Quadratic


@short_repr
@dataclass(frozen=True)
class Modes:
    """The valley in the eigenvectors of A."""

    values: Tensor
    """Eigenvalues lam, ``(dV,)``, ascending."""
    vectors: Tensor
    """Eigenvectors u_i, columns ``(dV, dV)``."""
    couplings: Tensor
    """Rows b_i = B^T u_i, ``(dV, dR)``."""


@short_repr
@dataclass(frozen=True)
class Force:
    """A cumulative force on the river, a displacement of the river's weights."""

    vector: Tensor
    """The force C_K, ``(dR,)``."""
    per_mode: Tensor
    """Rows ``-s_K(lam_i) c_i b_i``, ``(dV, dR)``; their sum is the vector."""
    unstable: int
    """Number of valley eigenvalues below zero, along which the force grows with K."""
    conditions: tuple[Condition, ...]
    """Conditions of the limit of many steps. At finite K the vector is exact, whether or not they hold."""

    @property
    def norm(self) -> float:
        """Length of the force, ``||C_K||``."""
        return float(self.vector.norm())


def modes(model: Quadratic) -> Modes:
    """Diagonalise the valley block A and express the coupling B in its eigenvectors.

    Raises:
        EmptySubspaceError: the valley has no dimension.
    """
    if not len(model.valley):
        raise EmptySubspaceError("valley: has no dimension, expected at least 1")
    values, vectors = torch.linalg.eigh(model.valley)
    return Modes(values, vectors, vectors.T @ model.coupling)


def cumulative_force(model: Quadratic, start: Tensor, rate: float, steps: int, overflow: str = "raise") -> Force:
    """Compute the cumulative force on the river of a valley that starts at x_0 and has no feedback or forcing (theorem 1).

    Statement: ``C_K = -eta sum_{k<K} B^T x_k = -B^T s_K(A) x_0 = -sum_i s_K(lam_i) c_i b_i``, an equality for every spectrum,
    negative eigenvalues and ``eta lam > 2`` included.
    Proof: ``x_k = (I - eta A)^k x_0``, and the geometric sum is s_K.

    Args:
        model: its blocks A and B are used.
        start: x_0, displacement from the valley's floor, ``(dV,)``.
        rate: eta.
        steps: K.
        overflow: see `kernel`.
    Returns:
        The force ``(dR,)`` in units of the weights, and its part for each valley eigenvector.
    Raises:
        NonFiniteError: the force grows beyond float64.
    Example:
        >>> from thalweg.theory.quadratic import quadratic
        >>> model = quadratic(torch.diag(torch.tensor([1.0, 0.5])), torch.ones(2, 1))
        >>> cumulative_force(model, torch.ones(2), rate=1.0, steps=3).vector.tolist()
        [-2.75]

    Source:
        arXiv 2510.10089, theorem 1, as stated there.
    """
    # In the eigenvectors of A every mode has its own kernel: part i is -s_K(lam_i) c_i b_i.
    eigen = modes(model)
    x = eigen.vectors.T @ shaped("start", start, len(eigen.values))
    s = kernel(eigen.values, rate, steps, overflow)
    parts = -(s * x).unsqueeze(1) * eigen.couplings
    total = unless_overflown("force", parts.sum(0), overflow)
    return Force(total, parts, int((eigen.values < 0).sum()), limit_conditions(eigen.values, rate, steps))


def limit_conditions(values: Tensor, rate: float, steps: int) -> tuple[Condition, ...]:
    """Check the conditions of the limit "sum of 1 / lam": ``0 < eta lam < 2`` for all lam, and ``eta K lam_min >= 3``."""
    least, most = float(rate * values.min()), float(rate * values.max())
    return (
        Condition("eta lam_min > 0", least > 0, least),
        Condition("eta lam_max < 2", most < 2, most),
        Condition("eta K lam_min >= 3", steps * least >= 3, steps * least),
    )


def relative_force(model: Quadratic, rate: float, steps: int, overflow: str = "raise") -> Tensor:
    """Compute the force relative to the start, which does not need the valley's floor.

    Statement: ``X_K = B^T [(eta K - s_K(A)) A^-1] g_V``, ``(dR,)``, exact for every spectrum. Without feedback (D = 0) the
    river's whole displacement is ``-eta K g_R + X_K``.
    The floor ``-A^-1 g_V`` is ill-posed along flat directions. The kernel of the bracket is entire in lam, so A is not inverted.

    Args:
        model: its A, B and valley gradient g_V are used.
        rate: eta.
        steps: K.
        overflow: see `kernel`.
    Source:
        Ours.
    """
    eigen = modes(model)
    # (eta K - s_K) / lam is eta q_K: no division by lam is left.
    q = rate * doubled_kernel(eigen.values, rate, steps, overflow)
    return unless_overflown("force", eigen.couplings.T @ (q * (eigen.vectors.T @ model.valley_gradient)), overflow)


def floor_displacement(model: Quadratic) -> Tensor:
    """Compute ``x_0 = A^+ g_V``, ``(dV,)``: the reference point's displacement from the valley's floor.

    Directions with eigenvalues below 1e-10 of the largest are left out, because the floor is not defined along them.
    """
    return torch.linalg.pinv(model.valley, rtol=ZERO, hermitian=True) @ model.valley_gradient


def river_slope(model: Quadratic) -> Tensor:
    """Compute ``h_R = -g_R + B^T A^+ g_V``, ``(dR,)``: the negative gradient along the river on the valley's floor."""
    return -model.river_gradient + model.coupling.T @ floor_displacement(model)


def force_by_products(hessian: Operator | Tensor, start: Tensor, valley: Tensor, river: Tensor, rate: float, steps: int) -> Tensor:
    """Compute C_K of theorem 1, ``(dR,)``, by the recursion ``x <- x - eta P_V H x``: K Hessian products, no eigenvalues.

    Args:
        hessian: H of all parameters, ``(P, P)`` or an operator.
        start: valley coordinates x_0, ``(dV,)``.
        valley: orthonormal columns ``(P, dV)``.
        river: orthonormal columns ``(P, dR)``.
        rate: eta.
        steps: K.
    Raises:
        NonFiniteError: the force grows beyond float64.
    Source:
        arXiv 2510.10089, theorem 1.
    """
    operator = as_operator(hessian)
    v, r = frame("valley frame", valley, operator.dim), frame("river frame", river, operator.dim)
    x = shaped("start", start, v.shape[1])
    total = r.new_zeros(r.shape[1])
    eta = positive_rate(rate)
    for _ in range(positive_steps(steps)):
        # One product gives the step of the valley and the push on the river.
        product = operator @ (v @ x)
        total = total - eta * (r.T @ product)
        x = x - eta * (v.T @ product)
    return unless_overflown("force", total, "raise")


def measured_force(
    gradient: Callable[[Tensor], Tensor], points: Tensor, floor: Tensor, valley: Tensor, river: Tensor, rate: float
) -> Tensor:
    """Measure the force of the valley on the river along a real run, for any loss.

    It is ``-eta sum_k P_R [g(theta_k) - g(theta_k - V x_k)]``, ``(dR,)``, with x_k the valley coordinates of ``theta_k - floor``:
    the river's gradient at each point, minus the same gradient with the point lowered to the floor. On a quadratic it equals
    C_K. It needs no model, and two gradients for each step.

    Args:
        gradient: gradient of the loss, ``(P,) -> (P,)``.
        points: theta_0 ... theta_{K-1}, ``(K, P)``.
        floor: a point on the valley's floor, ``(P,)``.
        valley: orthonormal columns ``(P, dV)``.
        river: orthonormal columns ``(P, dR)``.
        rate: eta.
    Source:
        Ours.
    """
    v, r = frame("valley frame", valley, points.shape[1]), frame("river frame", river, points.shape[1])
    origin = shaped("floor", floor, points.shape[1])
    total = r.new_zeros(r.shape[1])
    for point in points.to(torch.float64):
        # The same point with its valley coordinates set to the floor's.
        lowered = point - v @ (v.T @ (point - origin))
        total = total - rate * (r.T @ (gradient(point) - gradient(lowered)).to(torch.float64))
    return total
