"""The cubic force of valley hopping on the river, which acts where the Hessian has no coupling of river and valley.

Shape letters: P all parameters, dV dimension of the valley, dR of the river, K steps.

A split by eigenvectors has no coupling, so theorem 1 gives a force of zero. The leading force is then cubic in the loss: the
valley's curvature changes along the river, and a displaced valley pushes the river to where that curvature is lower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import BadInputError, EmptySubspaceError, NotDifferentiableError, ShapeMismatchError, require
from thalweg.reprs import short_repr
from thalweg.theory.inputs import Condition, finite, frame, positive_rate, shaped, spectrum, symmetric
from thalweg.theory.kernel import kernel, limit, unless_overflown

_EIGENVECTOR = 1e-3
"""Largest ``||H v - lam v|| / |lam|`` of a direction v that counts as an eigenvector."""


def cubic_kernel(first: Tensor, second: Tensor, rate: float, steps: int, overflow: str = "raise") -> Tensor:
    """Compute the kernel of the cubic force, for pairs of eigenvalues.

    Statement: ``m_K(lam_i, lam_j) = eta sum_{k<K} (q_i q_j)^k = eta (1 - (q_i q_j)^K) / (1 - q_i q_j)`` with ``q = 1 - eta lam``,
    and eta K where ``q_i q_j = 1``: the sum over K steps of the product of two unit displacements, times eta.
    It equals s_K at ``lam_i + lam_j - eta lam_i lam_j``, and does not change if both ``eta lam`` become ``2 - eta lam``. For
    equal eigenvalues in ``0 < eta lam < 2`` it tends to ``1 / (lam (2 - eta lam))``, which is large at both ends of the
    interval; s_K is large only at the lower end.

    Args:
        first: lam_i, any shape.
        second: lam_j, a shape that broadcasts with it.
        rate: eta.
        steps: K.
        overflow: "raise", or "inf" to return infinities (``|q_i q_j| > 1`` with many steps).
    Returns:
        The kernel, float64, the broadcast shape, unit 1 / H.
    Raises:
        NonFiniteError: the eigenvalues or the result hold NaN or infinity.
    Example:
        >>> lam = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])
        >>> cubic_kernel(lam, lam, rate=1.0, steps=2).tolist()
        [2.0, 1.25, 1.0, 1.25, 2.0]

    Source:
        Ours.
    """
    eta = positive_rate(rate)
    return unless_overflown("cubic kernel", eta * kernel(_pair_decay(first, second, eta), 1.0, steps, overflow), overflow)


def cubic_limit(first: Tensor, second: Tensor, rate: float) -> Tensor:
    """Compute the limit of m_K for K to infinity: ``eta / (1 - q_i q_j)``, ``1 / (lam (2 - eta lam))`` for equal eigenvalues.

    Raises:
        UnstableDirectionError: an eigenvalue is not positive.
        StepSizeError: for an eigenvalue ``eta lam >= 2``.
    Example:
        >>> cubic_limit(torch.tensor([0.5, 1.5]), torch.tensor([0.5, 1.5]), rate=1.0).tolist() == [4 / 3, 4 / 3]
        True

    Source:
        Ours.
    """
    eta = positive_rate(rate)
    limit(first, eta)
    limit(second, eta)
    return eta / _pair_decay(first, second, eta)


def _pair_decay(first: Tensor, second: Tensor, eta: float) -> Tensor:
    """1 - q_i q_j = x + y - x y, with x and y the two ``eta lam``."""
    x, y = eta * finite("first", first), eta * finite("second", second)
    # Where both are near 2 the sum cancels. 2 - x is exact for x in [1, 4], and replacing both keeps the product of the q.
    both = (x > 1) & (y > 1)
    x, y = torch.where(both, 2 - x, x), torch.where(both, 2 - y, y)
    return x + y - x * y


@short_repr
@dataclass(frozen=True)
class CubicForce:
    """The cumulative cubic force on the river, a displacement of the river's weights."""

    vector: Tensor
    """``-1/2 sum_ij T_{r,ij} c_i c_j m_K(lam_i, lam_j)``, ``(dR,)``."""
    per_mode: Tensor
    """Its diagonal part, rows ``-1/2 T_{r,ii} c_i^2 m_K(lam_i, lam_i)``, ``(dV, dR)``."""
    unstable: int
    """Number of valley eigenvalues below zero, along which the force grows with K."""
    conditions: tuple[Condition, ...]
    """For the limit of many steps: ``0 < eta lam < 2``."""

    @property
    def norm(self) -> float:
        """Length of the vector, ``||C_K||``."""
        return float(self.vector.norm())

    @property
    def mixed(self) -> Tensor:
        """The part of pairs of different modes, ``(dR,)``; as small as one step's force where their signs alternate."""
        return self.vector - self.per_mode.sum(0)


def cubic_force(third: Tensor, values: Tensor, start_modes: Tensor, rate: float, steps: int, overflow: str = "raise") -> CubicForce:
    """Compute the river's displacement by the motion of a valley that has no coupling to it (B = 0).

    Statement: ``C_K = -1/2 sum_ij T_{r,ij} c_i c_j m_K(lam_i, lam_j)``.
    Domain: exact to second order in the displacement c. With ``B = D = 0`` and no slope along the river, the relative error is
    of the order of c.
    The force points to lower curvature of the excited directions, whether or not the loss is lower there. A direction that
    hops, at ``eta lam = 2 - y``, has the same kernel as a flat one at y; theorem 1's kernel gives it at most eta. The kernel is
    smallest at ``eta lam = 1``.
    Proof: to second order the river's gradient is ``1/2 T[x_k, x_k]``, and ``x_k = q^k c``; the sum over k is m_K.

    Args:
        third: T_{r,ij}, derivative of the valley's Hessian along the river, ``(dR, dV, dV)``; only the part symmetric in ij counts.
        values: lam, ``(dV,)``.
        start_modes: c, displacement from the valley's floor in its eigenvectors, ``(dV,)``.
        rate: eta.
        steps: K.
        overflow: see `cubic_kernel`.
    Returns:
        The force with its diagonal part; the conditions concern the limit of many steps only.
    Raises:
        EmptySubspaceError: the valley has no dimension.
        ShapeMismatchError: the shapes do not fit together.
    Example:
        >>> cubic_force(torch.ones(1, 1, 1), torch.tensor([1.5]), torch.ones(1), rate=1.0, steps=2).vector.tolist()
        [-0.625]

    Source:
        Ours, in place of the paper's "hopping drives the river"; the term is that of self-stabilisation, Damian, Nichani and Lee,
        arXiv 2209.15594.
    """
    lam = spectrum("values", values)
    t, c = tensor("third", third, len(lam)), shaped("start modes", start_modes, len(lam))
    # c_i c_j m_K(lam_i, lam_j) for all pairs, (dV, dV); contracted with T it gives the force.
    weights = c.unsqueeze(1) * cubic_kernel(lam.unsqueeze(1), lam, rate, steps, overflow) * c
    vector = unless_overflown("cubic force", -torch.einsum("rij,ij->r", t, weights) / 2, overflow)
    per_mode = -weights.diagonal().unsqueeze(1) * t.diagonal(dim1=1, dim2=2).T / 2
    least, most = float(rate * lam.min()), float(rate * lam.max())
    conditions = (Condition("eta lam_min > 0", least > 0, least), Condition("eta lam_max < 2", most < 2, most))
    return CubicForce(vector, per_mode, int((lam < 0).sum()), conditions)


def stochastic_drift(third: Tensor, covariance: Tensor) -> Tensor:
    """Compute the mean velocity of a river whose valley is kept in motion by noise.

    Statement: ``-1/2 grad_R tr(A Cov)``, ``(dR,)``, for each unit of rate times steps. Proof: it is the mean of ``-1/2 T[x, x]``.

    Args:
        third: as in `cubic_force`, in any basis of the valley.
        covariance: of the valley's displacement in that basis, ``(dV, dV)``.
    Example:
        >>> stochastic_drift(torch.ones(1, 1, 1), 4 * torch.eye(1)).tolist()
        [-2.0]

    Source:
        Ours.
    """
    cov = symmetric("covariance", covariance)
    return -torch.einsum("rij,ij->r", tensor("third", third, len(cov)), cov) / 2


def curvature_gradient(loss: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor) -> Tensor:
    """Compute the gradient of a direction's curvature, without forming a matrix.

    Statement: ``T[u, u] = grad_theta (u^T H u)``, ``(P,)``, by three nested backward passes. For a unit eigenvector of a simple
    eigenvalue it is the gradient of that eigenvalue.

    Args:
        loss: maps a flat point ``(P,)``, float64, to one number; three times differentiable by autograd.
        point: theta, ``(P,)``.
        direction: u, ``(P,)``, of any length; the result is quadratic in it.
    Raises:
        NotDifferentiableError: the loss does not depend on the point by autograd.
        BadInputError: the loss is not one number.
    Example:
        >>> curvature_gradient(lambda p: p[0] ** 2 * p[1], torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])).tolist()
        [0.0, 2.0]

    Source:
        Ours.
    """
    return curvature_and_gradient(loss, point, direction)[1]


def third_derivatives(loss: Callable[[Tensor], Tensor], point: Tensor, river: Tensor, valley: Tensor) -> Tensor:
    """Compute the third derivatives of a loss along one river and two valley directions, for small valleys.

    Statement: ``T_{r,ij} = d^3 L[r, v_i, v_j]``, ``(dR, dV, dV)``, by ``1 + dV (dV + 3) / 2`` backward passes.

    Args:
        loss: see `curvature_gradient`.
        point: theta, ``(P,)``.
        river: orthonormal columns ``(P, dR)``.
        valley: orthonormal columns ``(P, dV)``, orthogonal to the river's.
    Raises:
        EmptySubspaceError: the valley frame has no columns.
        OrthonormalityError: the columns of both frames together are not orthonormal.
    Example:
        >>> axes = torch.eye(2, dtype=torch.float64)
        >>> third_derivatives(lambda p: p[0] ** 2 * p[1], torch.zeros(2), axes[:, 1:], axes[:, :1]).tolist()
        [[[2.0]]]
    """
    if not valley.shape[-1]:
        raise EmptySubspaceError("valley frame: has no columns, expected at least 1")
    both = frame("river and valley frame", torch.cat([river, valley], 1), len(point))
    r, v = both[:, : river.shape[1]], both[:, river.shape[1] :]
    third = v.new_zeros(r.shape[1], v.shape[1], v.shape[1])
    theta, gradient = first_gradient(loss, point)
    with torch.enable_grad():
        # One pass for H v_i, then one for grad (v_j^T H v_i); the result is symmetric in i and j.
        for i in range(v.shape[1]):
            product = _slope_of(gradient @ v[:, i], theta)
            for j in range(i + 1):
                third[:, i, j] = third[:, j, i] = r.T @ _slope_of(product @ v[:, j], theta).detach()
    return third


@short_repr
@dataclass(frozen=True)
class Sharpening:
    """Whether the valley becomes sharper or flatter on the way down the river."""

    gradient: Tensor
    """grad_R lam_1, gradient of the largest eigenvalue along the river, ``(dR,)``."""
    value: float
    """``grad_R lam_1 . h_R``, the change of lam_1 along the slope of the river."""
    conditions: tuple[Condition, ...]
    """Whether the direction is an eigenvector; if not, `gradient` is not the gradient of lam_1."""

    @property
    def sign(self) -> int:
        """1: the valley sharpens and hopping slows the river; -1: it flattens and hopping helps; 0: neither."""
        return (self.value > 0) - (self.value < 0)


def sharpening(loss: Callable[[Tensor], Tensor], point: Tensor, top: Tensor, river: Tensor, slope: Tensor) -> Sharpening:
    """Compute grad_R lam_1 . h_R, whose sign decides whether hopping along the top direction drives the river or stops it.

    The cubic force of hopping is a positive multiple of ``-grad_R lam_1``. The paper's "hopping drives the river" holds if the
    sign is negative and fails if it is positive.

    Args:
        loss: see `curvature_gradient`.
        point: theta, ``(P,)``.
        top: eigenvector of the largest eigenvalue, ``(P,)``, of any length; the eigenvalue has to be simple to have a gradient.
        river: orthonormal columns ``(P, dR)``.
        slope: h_R, minus the river's gradient on the valley's floor, ``(dR,)``.
    Raises:
        OrthonormalityError: the river frame is not orthonormal.
        BadInputError: the top direction is zero.
    Example:
        >>> axes = torch.eye(2, dtype=torch.float64)
        >>> sharpens = lambda p: (1 + p[1]) * p[0] ** 2 - p[1]
        >>> sharpening(sharpens, torch.zeros(2), axes[0], axes[:, 1:], torch.ones(1)).sign
        1

    Source:
        Ours.
    """
    r = frame("river frame", river, len(point))
    v, h = shaped("top direction", top, len(point)), shaped("slope", slope, r.shape[1])
    if not v.any():
        raise BadInputError("top direction: is zero, expected an eigenvector")
    v = v / v.norm()
    # H v and grad (v^T H v) at once; the first tells whether v is an eigenvector.
    product, slope_of_curvature = curvature_and_gradient(loss, point, v)
    lam = float(v @ product)
    residual = float((product - lam * v).norm()) / abs(lam) if lam else float("inf")
    gradient = r.T @ slope_of_curvature
    condition = f"||H v - lam v|| / |lam| <= {_EIGENVECTOR:g}"
    return Sharpening(gradient, float(gradient @ h), (Condition(condition, residual <= _EIGENVECTOR, residual),))


def curvature_and_gradient(loss: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Compute H u and T[u, u], each ``(P,)``."""
    u = shaped("direction", direction, len(point))
    theta, gradient = first_gradient(loss, point)
    with torch.enable_grad():
        product = _slope_of(gradient @ u, theta)
        slope = _slope_of(product @ u, theta)
    return finite("curvature", product), finite("gradient of the curvature", slope)


def first_gradient(loss: Callable[[Tensor], Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
    """Make the point a float64 leaf, and compute the loss's gradient there with its graph."""
    theta = shaped("point", point, *point.shape[:1]).clone().requires_grad_()
    with torch.enable_grad():
        value = loss(theta)
        require(value.numel() == 1, "loss", tuple(value.shape), "one number")
        if not value.requires_grad:
            raise NotDifferentiableError(
                "loss: does not depend on the point by autograd; compute the loss from the tensor that it receives"
            )
        return theta, _slope_of(value.sum(), theta)


def _slope_of(value: Tensor, theta: Tensor) -> Tensor:
    """Gradient of a number with its graph; zero if the number does not depend on theta."""
    if not value.requires_grad:
        return torch.zeros_like(theta)
    return torch.autograd.grad(value, theta, create_graph=True, materialize_grads=True)[0]


def tensor(name: str, third: Tensor, valley: int) -> Tensor:
    """Check a third derivative: ``(dR, dV, dV)`` with dV >= 1, finite; return it in float64."""
    if not valley:
        raise EmptySubspaceError("valley: has no dimension, expected at least 1")
    if third.dim() != 3:
        raise ShapeMismatchError(f"{name}: given shape {tuple(third.shape)}, expected (dR, {valley}, {valley})")
    return shaped(name, third, third.shape[0], valley, valley)
