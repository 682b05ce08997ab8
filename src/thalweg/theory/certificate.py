"""Theorem 2 repaired: bounds between the losses and forces of real runs and those of their models, and what they certify.

Shape letters: P dimension, K steps, dV dimension of the valley, dR of the river.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.reprs import short_repr
from thalweg.theory.descent import Gradient, slope
from thalweg.theory.horizon import Lipschitz, lipschitz, prior_bound
from thalweg.theory.inputs import Condition, finite, frame, shaped
from thalweg.theory.taylor import Followed, TaylorModel, run_points


@dataclass(frozen=True)
class LossBound:
    """The loss after K steps as predicted by the model, with its error bound Err_K. Losses in the unit of the loss function."""

    predicted: float
    """m(phi_K), the model's loss at the end of its own run."""
    bound: float
    """Err_K, bound on ``|L(theta_K) - m(phi_K)|``: the sum of `cubic` and `apart`; may be infinite."""
    cubic: float
    """First part of Err_K, ``rho/6 ||theta_K - theta_0||^3``: difference of loss and model at the same point."""
    apart: float
    """Second part of Err_K, ``||g_0 + H (phi_K - theta_0)|| ||e_K|| + ||H||/2 ||e_K||^2``: the model between the two ends."""
    error: float
    """The bound on ``||e_K||`` that Err_K uses."""
    measured: bool
    """True if `error` is a-posteriori, from a run; False if it is a-priori, from the model alone."""
    conditions: tuple[Condition, ...]
    """Condition on rho: with an estimated rho, Err_K is an estimate, not a bound."""


def loss_bound(model: TaylorModel, start_loss: float, rho: float | Lipschitz, followed: Followed | None = None) -> LossBound:
    """Predict the loss after K steps from the model, and bound the error of the prediction.

    Statement: ``|L(theta_K) - m(phi_K)| <= Err_K`` with
    ``Err_K = rho/6 ||theta_K - theta_0||^3 + ||g_0 + H (phi_K - theta_0)|| ||e_K|| + ||H||/2 ||e_K||^2``.
    Domain: H is rho-Lipschitz on a ball around theta_0 that contains both runs.

    Args:
        model: the model at theta_0 with its run.
        start_loss: L(theta_0).
        rho: a trusted bound on the Hessian's Lipschitz constant, or an estimate.
        followed: a run, for its a-posteriori bound and distance; None uses the a-priori bound, before any run.
    Example:
        >>> from thalweg.theory.taylor import taylor_model
        >>> loss = loss_bound(taylor_model(torch.eye(1), torch.ones(1), rate=1.0, steps=1), start_loss=0.5, rho=6.0)
        >>> loss.predicted, loss.bound
        (0.0, 1.0)

    Source:
        Ours, for theorem 2 of arXiv 2510.10089, which has no bound.
    """
    given, last = lipschitz(rho), model.displacements[-1]
    # H (phi_K - theta_0): with it the model's loss and gradient at phi_K follow.
    pull = model.hessian @ last
    if followed is None:
        error = float(prior_bound(model, given).bound[-1])
        distance = float(last.norm()) + error
    else:
        error, distance = float(followed.bound[-1]), float(followed.moved[-1])
    # Taylor's remainder: a loss with a rho-Lipschitz Hessian is within rho/6 d^3 of its model at distance d.
    cubic = given.value / 6 * distance * distance * distance if given.value else 0.0
    # The model's loss at theta_K and phi_K: first and second order in e_K.
    model_part = math.inf if math.isinf(error) else float((model.gradient + pull).norm()) * error + model.size / 2 * error * error
    return LossBound(
        predicted=float(
            finite("start loss", torch.tensor(start_loss, dtype=torch.float64)) + model.gradient @ last + last @ pull / 2
        ),
        bound=cubic + model_part,
        cubic=cubic,
        apart=model_part,
        error=error,
        measured=followed is not None,
        conditions=(given.condition,),
    )


@dataclass(frozen=True)
class Certificate:
    """Whether the second run's loss is guaranteed to end below the first run's. Losses in the unit of the loss function."""

    verdict: str
    """"certified" or "not certified"; the latter implies nothing about the losses."""
    lead: float
    """``m_1(phi_1) - m_2(phi_2)``: by how much the second model ends lower."""
    needed: float
    """``Err_1 + Err_2``; the lead has to be larger."""
    predicted: tuple[float, float]
    """The models' losses ``m_1(phi_1)`` and ``m_2(phi_2)``."""
    bounds: tuple[float, float]
    """``Err_1`` and ``Err_2``."""
    conditions: tuple[Condition, ...]
    """Conditions of both bounds; the certificate holds under these conditions only."""

    @property
    def unconditional(self) -> bool:
        """Whether the verdict is "certified" and every condition holds."""
        return self.verdict == "certified" and all(condition.held for condition in self.conditions)


def certify(first: LossBound, second: LossBound) -> Certificate:
    """Certify that the second run ends at the lower loss, if the models' losses differ by more than their bounds.

    Statement: if ``m_1 - m_2 > Err_1 + Err_2`` then ``L_2(theta_2) < L_1(theta_1)``; otherwise nothing is claimed.
    Proof: ``L_1 >= m_1 - Err_1 > m_2 + Err_2 >= L_2``.

    Args:
        first: loss bound of Single.
        second: loss bound of Looped.
    Source:
        In place of theorem 2 of arXiv 2510.10089, which orders losses without a condition.
    """
    lead, needed = first.predicted - second.predicted, first.bound + second.bound
    return Certificate(
        verdict="certified" if lead > needed else "not certified",
        lead=lead,
        needed=needed,
        predicted=(first.predicted, second.predicted),
        bounds=(first.bound, second.bound),
        conditions=first.conditions + second.conditions,
    )


@short_repr
@dataclass(frozen=True)
class ForceBound:
    """The force along a real run, the force along the model's run, and a bound on their difference; units of the weights."""

    real: Tensor
    """``-eta sum_k P_R [grad L(theta_k) - grad L(theta_k - V x_k)]``, ``(dR,)``, as `force.measured_force`."""
    model: Tensor
    """``-eta sum_k B^T V^T (phi_k - floor)``, ``(dR,)``: of the model's own coupled run."""
    bound: float
    """Bound on ``||real - model||``; the sum of `coupling` and `residual`."""
    coupling: float
    """``eta ||B|| sum_k ||P_V e_k||``: the valleys of the two runs move differently."""
    residual: float
    """``eta sum_k (||P_R r_k|| + ||P_R r(theta_k - V x_k)||)``: the gradient is not linear at the two compared points."""

    @property
    def apart(self) -> float:
        """The measured difference ``||real - model||``."""
        return float((self.real - self.model).norm())


def force_bound(model: TaylorModel, gradient: Gradient, points: Tensor, floor: Tensor, valley: Tensor, river: Tensor) -> ForceBound:
    """Bound the difference between the force along a real run and the force along the model's run.

    Statement: ``||C_real - C_model|| <= eta ||B|| sum ||P_V e_k|| + eta sum (||P_R r_k|| + ||P_R r(theta_k - V x_k)||)``; both
    sides are 0 on a quadratic loss. The real force is a difference of two gradients, so the residuals of both enter. Without the
    second residual, K = 1 on ``x^2/2 + x^2 y`` from (1, 0) with floor 0 is a counterexample: the forces differ by eta, although
    ``e_0 = r_0 = 0``.
    Proof: ``P_R [grad L(theta_k) - grad L(theta_k - V x_k)] = B^T x_k + P_R r_k - P_R r(theta_k - V x_k)``.

    Args:
        model: the model at ``points[0]``.
        gradient: gradient of the loss.
        points: theta_0 ... theta_K, ``(K + 1, P)``.
        floor: a point on the valley's floor, ``(P,)``; ``x_k = V^T (theta_k - floor)``.
        valley: orthonormal columns ``(P, dV)``.
        river: orthonormal columns ``(P, dR)``, orthogonal to the valley's.
    Raises:
        OrthonormalityError: the columns of both frames together are not orthonormal.
    Source:
        Ours, for theorem 2 of arXiv 2510.10089.
    """
    path, dim = run_points(model, points), model.hessian.dim
    both = frame("valley and river frame", torch.cat([valley, river], 1), dim)
    v, r = both[:, : valley.shape[1]], both[:, valley.shape[1] :]
    origin = shaped("floor", floor, dim)
    # B in the two frames, and its norm.
    block = (model.hessian @ v).T @ r
    size = float(torch.linalg.matrix_norm(block, 2)) if block.numel() else 0.0
    real, modelled, coupling, residual = r.new_zeros(r.shape[1]), r.new_zeros(r.shape[1]), 0.0, 0.0
    for k in range(model.steps):
        # theta_k - V x_k: the same river coordinates, on the valley's floor.
        lowered = path[k] - v @ (v.T @ (path[k] - origin))
        forces = []
        # The gradient and its residual at theta_k, and at the same point lowered to the floor.
        for point in (path[k], lowered):
            forces.append(r.T @ slope(gradient, point, k))
            linear = r.T @ (model.gradient + model.hessian @ (point - path[0]))
            residual += model.rate * float((forces[-1] - linear).norm())
        # The valley's part of the error e_k.
        gap = path[k] - path[0] - model.displacements[k]
        coupling += model.rate * size * float((v.T @ gap).norm())
        # One step of both forces.
        real = real - model.rate * (forces[0] - forces[1])
        modelled = modelled - model.rate * (block.T @ (v.T @ (path[0] + model.displacements[k] - origin)))
    return ForceBound(real, modelled, coupling + residual, coupling, residual)
