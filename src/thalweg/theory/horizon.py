"""Theorem 2 before the run: the error of the model from the smoothness of the Hessian, and the steps it allows.

Shape letters: P dimension, K steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.operator import Matrix, Operator
from thalweg.errors import InsufficientDataError, require
from thalweg.theory.inputs import Condition, finite, positive_rate
from thalweg.theory.taylor import Followed, TaylorModel, in_float64


@dataclass(frozen=True)
class Lipschitz:
    """How fast the Hessian changes: ``||H(a) - H(b)|| <= rho ||a - b||``."""

    value: float
    """rho."""
    source: str
    """"given" (a bound, trusted), or "directional" or "operator": the largest seen, a LOWER estimate of the true one."""

    @property
    def condition(self) -> Condition:
        """Whether what is computed with it is a bound, or an estimate of one."""
        return Condition("rho bounds the Hessian's change, not estimated from below", self.source == "given", self.value)


@dataclass(frozen=True)
class Prior:
    """What can be said about ``||e_k||`` from the model alone."""

    rho: Lipschitz
    bound: Tensor
    """On ``||e_k||``, ``(K + 1,)``; infinite where it says nothing. With an estimated rho an estimate, not a bound."""
    closed: float
    """``2 eta rho K max(1, q)^K D^2`` on ``||e_K||``, D the model's largest distance; infinite where its condition fails."""
    horizon: float
    """Steps up to which D is sure to be small enough, ``(2 rho eta^2 ||g_0||)^(-1/2)``."""
    conditions: tuple[Condition, ...]
    """On rho, of the closed form, and of the horizon, in this order."""


def lipschitz(rho: float | Lipschitz) -> Lipschitz:
    """A number is taken for a given bound."""
    found = rho if isinstance(rho, Lipschitz) else Lipschitz(float(rho), "given")
    require(0 <= found.value < math.inf, "rho", found.value, "a finite number of at least 0")
    return found


def prior_bound(model: TaylorModel, rho: float | Lipschitz) -> Prior:
    """E_0 = 0, E_{k+1} = q E_k + (eta rho / 2)(||phi_k - theta_0|| + E_k)^2 bounds ||e_k||.

    H has to be rho-Lipschitz on a ball around theta_0 that holds both runs: then ``||r_k|| <= rho/2 ||theta_k - theta_0||^2``.
    The closed form is by induction: while ``E_k <= D``, a step adds at most ``2 eta rho D^2``.

    Example:
        >>> from thalweg.theory.taylor import taylor_model
        >>> found = prior_bound(taylor_model(torch.eye(1), torch.ones(1), rate=1.0, steps=2), rho=0.25)
        >>> found.bound.tolist(), found.closed
        ([0.0, 0.0, 0.125], 1.0)

    Source:
        Ours; the closed form for q above 1 too, so that slightly negative curvature does not void it.
    """
    given, eta, q, steps = lipschitz(rho), model.rate, model.contraction, model.steps
    distances = model.displacements.norm(dim=1)
    bounds = [0.0]
    for distance in distances[:-1].tolist():
        reach = distance + bounds[-1]
        bounds.append(math.inf if math.isinf(reach) else q * bounds[-1] + eta * given.value / 2 * reach * reach)
    farthest = float(distances.max())
    growth = math.inf if steps * math.log(max(1.0, q)) > 700 else max(1.0, q) ** steps
    load = 2 * eta * given.value * steps * growth * farthest if given.value * farthest else 0.0
    low, high = model.extremes
    return Prior(
        rho=given,
        bound=torch.tensor(bounds, dtype=torch.float64),
        closed=load * farthest if load <= 1 else math.inf,
        horizon=horizon(given, eta, float(model.gradient.norm())),
        conditions=(
            given.condition,
            Condition("2 eta rho K max(1, q)^K D <= 1", load <= 1, load),
            Condition("lam_min >= 0 and eta lam_max <= 2", low >= 0 and eta * high <= 2, low if low < 0 else eta * high),
        ),
    )


def horizon(rho: float | Lipschitz, rate: float, gradient_norm: float) -> float:
    """(2 rho eta^2 ||g_0||)^(-1/2): up to so many steps the closed form holds, if H >= 0 and eta lam_max <= 2.

    Proof: then ``|s_k| <= eta k``, so ``D <= eta K ||g_0||``. No theorem on the quadratic model reaches much further.

    Example:
        >>> horizon(2.0, rate=0.5, gradient_norm=0.01)
        10.0
    """
    given, eta = lipschitz(rho), positive_rate(rate)
    require(0 <= gradient_norm < math.inf, "gradient_norm", gradient_norm, "a finite number of at least 0")
    load = 2 * given.value * eta**2 * gradient_norm
    return 1 / math.sqrt(load) if load else math.inf


def rho_directional(followed: Followed) -> Lipschitz:
    """max_k 2 ||r_k|| / ||theta_k - theta_0||^2: the largest change along the run, as the residuals show it.

    A lower estimate of rho. Residuals within their rounding are left out; 0 where all are. With it `prior_bound` does hold for
    ``||e_k||`` of this same run, but neither for another run nor for a loss.
    """
    sizes, moved = followed.residuals.norm(dim=1), followed.moved[:-1]
    seen = (sizes > followed.roundings) & (moved > 0)
    return Lipschitz(float((2 * sizes[seen] / moved[seen].square()).max()) if seen.any() else 0.0, "directional")


def rho_operator(hessian_at: Callable[[Tensor], Operator | Tensor], points: Tensor) -> Lipschitz:
    """max_k ||H(theta_k) - H(theta_0)|| / ||theta_k - theta_0|| over the points after the first: a lower estimate of rho.

    Args:
        hessian_at: the Hessian at a point ``(P,)``.
        points: theta_0 and others, ``(n + 1, P)``; those equal to the first say nothing and are left out.
    Raises:
        InsufficientDataError: no point away from the first.
    Example:
        >>> rho_operator(lambda point: (1 + 3 * point).unsqueeze(0), torch.tensor([[0.0], [0.5]]))
        Lipschitz(value=3.0, source='operator')
    """
    path = finite("points", points)
    away = [point for point in path[1:] if not torch.equal(point, path[0])]
    if not away:
        raise InsufficientDataError(f"points: given {len(path)}, expected at least one away from the first")
    anchor = in_float64(hessian_at(path[0]))
    sizes = [_change_size(in_float64(hessian_at(point)), anchor) / float((point - path[0]).norm()) for point in away]
    return Lipschitz(max(sizes), "operator")


def _change_size(here: Operator, anchor: Operator) -> float:
    """``||H - H_0||``."""
    if isinstance(here, Matrix) and isinstance(anchor, Matrix):
        return float(torch.linalg.matrix_norm(here.entries - anchor.entries, 2))
    return float(eigenpairs(Difference(here, anchor), 1, "magnitude", verify=False).values.abs()[0])


class Difference(Operator):
    """One operator minus another."""

    def __init__(self, first: Operator, second: Operator) -> None:
        self.first, self.second = first, second
        self.dim, self.dtype, self.device = first.dim, first.dtype, first.device

    def rows(self, vectors: Tensor) -> Tensor:
        return self.first.rows(vectors) - (self.second @ vectors.T).T
