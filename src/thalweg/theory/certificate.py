"""Theorem 2 repaired: losses and forces of real runs from those of their models, with what may be claimed.

Shape letters: P dimension, K steps, dV dimension of the valley, dR of the river.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.theory.descent import Gradient, slope
from thalweg.theory.horizon import Lipschitz, lipschitz, prior_bound
from thalweg.theory.inputs import Condition, finite, frame, shaped
from thalweg.theory.taylor import Followed, TaylorModel, run_points


@dataclass(frozen=True)
class LossBound:
    """The loss after K steps, from the model."""

    predicted: float
    """m(phi_K), the model's loss at the end of its own run."""
    bound: float
    """Err_K, on ``|L(theta_K) - m(phi_K)|``; infinite where it says nothing."""
    cubic: float
    """Its first part, ``rho/6 ||theta_K - theta_0||^3``: the loss against the model at the same point."""
    apart: float
    """Its other part, ``||g_0 + H (phi_K - theta_0)|| ||e_K|| + ||H||/2 ||e_K||^2``: the model at the two ends."""
    error: float
    """The bound on ``||e_K||`` in it."""
    measured: bool
    """Whether that bound is a-posteriori, from a run, or a-priori, from the model alone."""
    conditions: tuple[Condition, ...]
    """On rho: with an estimated one Err_K is an estimate."""


def loss_bound(model: TaylorModel, start_loss: float, rho: float | Lipschitz, followed: Followed | None = None) -> LossBound:
    """|L(theta_K) - m(phi_K)| <= rho/6 ||theta_K - theta_0||^3 + ||g_0 + H(phi_K - theta_0)|| ||e_K|| + ||H||/2 ||e_K||^2.

    Args:
        start_loss: L(theta_0).
        rho: of the Hessian, on a ball around theta_0 that holds both runs.
        followed: a run, for its a-posteriori bound and distance; None takes the a-priori ones, before any run.
    Example:
        >>> from thalweg.theory.taylor import taylor_model
        >>> found = loss_bound(taylor_model(torch.eye(1), torch.ones(1), rate=1.0, steps=1), start_loss=0.5, rho=6.0)
        >>> found.predicted, found.bound
        (0.0, 1.0)

    Source:
        Ours.
    """
    given, last = lipschitz(rho), model.displacements[-1]
    pull = model.hessian @ last
    if followed is None:
        error = float(prior_bound(model, given).bound[-1])
        distance = float(last.norm()) + error
    else:
        error, distance = float(followed.bound[-1]), float(followed.moved[-1])
    cubic = given.value / 6 * distance * distance * distance if given.value else 0.0
    apart = math.inf if math.isinf(error) else float((model.gradient + pull).norm()) * error + model.size / 2 * error * error
    return LossBound(
        predicted=float(
            finite("start loss", torch.tensor(start_loss, dtype=torch.float64)) + model.gradient @ last + last @ pull / 2
        ),
        bound=cubic + apart,
        cubic=cubic,
        apart=apart,
        error=error,
        measured=followed is not None,
        conditions=(given.condition,),
    )


@dataclass(frozen=True)
class Certificate:
    """Whether the second run's loss is sure to end below the first's."""

    verdict: str
    """"certified" or "not certified"; the latter says nothing about the losses."""
    lead: float
    """``m_1(phi_1) - m_2(phi_2)``: by how much the second model ends lower."""
    needed: float
    """``Err_1 + Err_2``; the lead has to be above it."""
    predicted: tuple[float, float]
    bounds: tuple[float, float]
    conditions: tuple[Condition, ...]
    """Of both bounds; a certificate is as good as they are."""

    @property
    def unconditional(self) -> bool:
        """Certified, and with no condition that failed."""
        return self.verdict == "certified" and all(condition.held for condition in self.conditions)


def certify(first: LossBound, second: LossBound) -> Certificate:
    """If m_1 - m_2 > Err_1 + Err_2 then L_2(theta_2) < L_1(theta_1).

    Proof: ``L_1 >= m_1 - Err_1 > m_2 + Err_2 >= L_2``.

    Args:
        first: Single's.
        second: Looped's.
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


@dataclass(frozen=True)
class ForceBound:
    """The force along a real run beside that along the model's."""

    real: Tensor
    """``-eta sum_k P_R [grad L(theta_k) - grad L(theta_k - V x_k)]``, ``(dR,)``, as `force.measured_force`."""
    model: Tensor
    """``-eta sum_k B^T V^T (phi_k - floor)``, ``(dR,)``: of the model's own coupled run."""
    bound: float
    """On ``||real - model||``; the sum of the next two."""
    coupling: float
    """``eta ||B|| sum_k ||P_V e_k||``: the two valleys move differently."""
    residual: float
    """``eta sum_k (||P_R r_k|| + ||P_R r(theta_k - V x_k)||)``: the gradient is not linear, at either of its two places."""

    @property
    def apart(self) -> float:
        """``||real - model||``."""
        return float((self.real - self.model).norm())


def force_bound(model: TaylorModel, gradient: Gradient, points: Tensor, floor: Tensor, valley: Tensor, river: Tensor) -> ForceBound:
    """||C_real - C_model|| <= eta ||B|| sum ||P_V e_k|| + eta sum (||P_R r_k|| + ||P_R r(theta_k - V x_k)||).

    The real force is a difference of two gradients, so the residual of each enters. Without the second, K = 1 on
    ``x^2/2 + x^2 y`` from (1, 0) with floor 0 is a counterexample: the forces differ by eta, ``e_0 = r_0 = 0``.
    Proof: ``P_R [grad L(theta_k) - grad L(theta_k - V x_k)] = B^T x_k + P_R r_k - P_R r(theta_k - V x_k)``.

    Args:
        model: at ``points[0]``.
        points: theta_0 ... theta_K, ``(K + 1, P)``.
        floor: a point on the valley's floor, ``(P,)``; ``x_k = V^T (theta_k - floor)``.
        valley: orthonormal columns ``(P, dV)``.
        river: orthonormal columns ``(P, dR)``, at right angles to the valley's.
    Source:
        Ours.
    """
    path, dim = run_points(model, points), model.hessian.dim
    both = frame("valley and river frame", torch.cat([valley, river], 1), dim)
    v, r = both[:, : valley.shape[1]], both[:, valley.shape[1] :]
    origin = shaped("floor", floor, dim)
    block = (model.hessian @ v).T @ r
    size = float(torch.linalg.matrix_norm(block, 2)) if block.numel() else 0.0
    real, modelled, coupling, residual = r.new_zeros(r.shape[1]), r.new_zeros(r.shape[1]), 0.0, 0.0
    for k in range(model.steps):
        lowered = path[k] - v @ (v.T @ (path[k] - origin))
        forces = []
        for place in (path[k], lowered):
            forces.append(r.T @ slope(gradient, place, k))
            linear = r.T @ (model.gradient + model.hessian @ (place - path[0]))
            residual += model.rate * float((forces[-1] - linear).norm())
        gap = path[k] - path[0] - model.displacements[k]
        coupling += model.rate * size * float((v.T @ gap).norm())
        real = real - model.rate * (forces[0] - forces[1])
        modelled = modelled - model.rate * (block.T @ (v.T @ (path[0] + model.displacements[k] - origin)))
    return ForceBound(real, modelled, coupling + residual, coupling, residual)
