"""Theorem 1: the force that the valley's motion puts on the river, exactly.

Shape letters: dV dimension of the valley, dR of the river, K steps, P all parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import Operator, as_operator
from thalweg.errors import EmptySubspaceError
from thalweg.theory.inputs import Condition, frame, positive_rate, positive_steps, shaped
from thalweg.theory.kernel import doubled_kernel, kernel, unless_overflown
from thalweg.theory.quadratic import ZERO, Quadratic


@dataclass(frozen=True)
class Modes:
    """The valley in the eigenvectors of A."""

    values: Tensor
    """lam, ``(dV,)``, ascending."""
    vectors: Tensor
    """u_i, columns ``(dV, dV)``."""
    couplings: Tensor
    """Rows b_i = B^T u_i, ``(dV, dR)``."""


@dataclass(frozen=True)
class Force:
    """A cumulative force on the river."""

    vector: Tensor
    """C_K, ``(dR,)``."""
    per_mode: Tensor
    """Rows ``-s_K(lam_i) c_i b_i``, ``(dV, dR)``; their sum is the vector."""
    unstable: int
    """Valley eigenvalues below zero, along which the force grows with K."""
    conditions: tuple[Condition, ...]
    """For the limit of many steps only; at finite K the vector is exact whatever they say."""

    @property
    def norm(self) -> float:
        """``||C_K||``."""
        return float(self.vector.norm())


def modes(model: Quadratic) -> Modes:
    """The valley's eigenvalues and what each couples to.

    Raises:
        EmptySubspaceError: no valley.
    """
    if not len(model.valley):
        raise EmptySubspaceError("valley: has no dimension, expected at least 1")
    values, vectors = torch.linalg.eigh(model.valley)
    return Modes(values, vectors, vectors.T @ model.coupling)


def cumulative_force(model: Quadratic, start: Tensor, rate: float, steps: int, overflow: str = "raise") -> Force:
    """C_K = -eta sum_{k<K} B^T x_k = -B^T s_K(A) x_0 for a valley displaced by x_0 from its floor and left to itself.

    The paper's theorem 1; correct as stated, for every spectrum, negative eigenvalues and eta lam above 2 included.
    Proof: ``x_k = (I - eta A)^k x_0``, and the geometric sum is s_K.

    Args:
        model: A and B are used.
        start: x_0, displacement from the valley's floor, ``(dV,)``.
        rate: eta.
        steps: K.
        overflow: see `kernel`.
    Example:
        >>> from thalweg.theory.quadratic import quadratic
        >>> model = quadratic(torch.diag(torch.tensor([1.0, 0.5])), torch.ones(2, 1))
        >>> cumulative_force(model, torch.ones(2), rate=1.0, steps=3).vector.tolist()
        [-2.75]

    Source:
        arXiv 2510.10089, theorem 1.
    """
    inside = modes(model)
    x = inside.vectors.T @ shaped("start", start, len(inside.values))
    s = kernel(inside.values, rate, steps, overflow)
    parts = -(s * x).unsqueeze(1) * inside.couplings
    total = unless_overflown("force", parts.sum(0), overflow)
    return Force(total, parts, int((inside.values < 0).sum()), limit_conditions(inside.values, rate, steps))


def limit_conditions(values: Tensor, rate: float, steps: int) -> tuple[Condition, ...]:
    """What the limit "sum of 1 / lam" rests on: ``0 < eta lam < 2`` for all, and ``eta K lam_min >= 3``."""
    least, most = float(rate * values.min()), float(rate * values.max())
    return (
        Condition("eta lam_min > 0", least > 0, least),
        Condition("eta lam_max < 2", most < 2, most),
        Condition("eta K lam_min >= 3", steps * least >= 3, steps * least),
    )


def relative_force(model: Quadratic, rate: float, steps: int, overflow: str = "raise") -> Tensor:
    """X_K = B^T [(eta K - s_K(A)) A^-1] g_V, ``(dR,)``: the force relative to the start, without the valley's floor.

    The floor lies at ``-A^-1 g_V``, ill-posed along flat directions; here nothing is inverted, as the kernel is entire. The
    river's whole displacement without feedback (D = 0) is ``-eta K g_R + X_K``.
    """
    inside = modes(model)
    q = rate * doubled_kernel(inside.values, rate, steps, overflow)
    return unless_overflown("force", inside.couplings.T @ (q * (inside.vectors.T @ model.valley_gradient)), overflow)


def floor_displacement(model: Quadratic) -> Tensor:
    """x_0 = A^+ g_V, ``(dV,)``: how far the reference point is from the valley's floor; flat directions are left out."""
    return torch.linalg.pinv(model.valley, rtol=ZERO, hermitian=True) @ model.valley_gradient


def river_slope(model: Quadratic) -> Tensor:
    """h_R = -g_R + B^T A^+ g_V, ``(dR,)``: the pull along the river on the valley's floor."""
    return -model.river_gradient + model.coupling.T @ floor_displacement(model)


def force_by_products(hessian: Operator | Tensor, start: Tensor, valley: Tensor, river: Tensor, rate: float, steps: int) -> Tensor:
    """C_K, ``(dR,)``, with K products and no eigenvalues: the recursion ``x <- x - eta P_V H x`` itself.

    Args:
        hessian: of the whole, ``(P, P)`` or an operator.
        start: valley coordinates x_0, ``(dV,)``.
        valley: orthonormal columns ``(P, dV)``.
        river: orthonormal columns ``(P, dR)``.
    """
    operator = as_operator(hessian)
    v, r = frame("valley frame", valley, operator.dim), frame("river frame", river, operator.dim)
    x = shaped("start", start, v.shape[1])
    total = r.new_zeros(r.shape[1])
    eta = positive_rate(rate)
    for _ in range(positive_steps(steps)):
        product = operator @ (v @ x)
        total = total - eta * (r.T @ product)
        x = x - eta * (v.T @ product)
    return unless_overflown("force", total, "raise")


def measured_force(
    gradient: Callable[[Tensor], Tensor], points: Tensor, floor: Tensor, valley: Tensor, river: Tensor, rate: float
) -> Tensor:
    """The force along a real run: ``-eta sum_k P_R [g(theta_k) - g(theta_k - V x_k)]``, ``(dR,)``, for any loss.

    x_k are the valley coordinates of ``theta_k - floor``. On a quadratic it is C_K; elsewhere it is what the valley's motion did
    to the river, with no model in between. Two gradients a step.

    Args:
        gradient: of the loss, ``(P,) -> (P,)``.
        points: theta_0 ... theta_{K-1}, ``(K, P)``.
        floor: a point on the valley's floor, ``(P,)``.
    """
    v, r = frame("valley frame", valley, points.shape[1]), frame("river frame", river, points.shape[1])
    origin = shaped("floor", floor, points.shape[1])
    total = r.new_zeros(r.shape[1])
    for point in points.to(torch.float64):
        lowered = point - v @ (v.T @ (point - origin))
        total = total - rate * (r.T @ (gradient(point) - gradient(lowered)).to(torch.float64))
    return total
