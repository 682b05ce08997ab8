"""Theorem 2 before any run: a bound on the model's error from the smoothness of the Hessian, and the number of steps it allows.

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
from thalweg.reprs import short_repr
from thalweg.theory.inputs import Condition, finite, positive_rate
from thalweg.theory.taylor import Followed, TaylorModel, in_float64


@dataclass(frozen=True)
class Lipschitz:
    """Lipschitz constant of the Hessian: ``||H(a) - H(b)|| <= rho ||a - b||``."""

    value: float
    """rho, in units of the Hessian for each unit of weight."""
    source: str
    """"given": a trusted bound. "directional" or "operator": the largest measured change, a LOWER estimate of the true rho."""

    @property
    def condition(self) -> Condition:
        """Whether a result computed from this rho is a bound; from an estimated rho it is only an estimate of a bound."""
        return Condition("rho bounds the Hessian's change, not estimated from below", self.source == "given", self.value)


@short_repr
@dataclass(frozen=True)
class Prior:
    """A-priori bounds on ``||e_k||``, from the model alone."""

    rho: Lipschitz
    """The Lipschitz constant that the bounds use."""
    bound: Tensor
    """Bound on ``||e_k||``, ``(K + 1,)``; infinite where it overflows. With an estimated rho it is an estimate, not a bound."""
    closed: float
    """Bound ``2 eta rho K max(1, q)^K D^2`` on ``||e_K||``, D the model's largest distance; infinite if its condition fails."""
    horizon: float
    """Number of steps up to which D is small enough for `closed`, ``(2 rho eta^2 ||g_0||)^(-1/2)``."""
    conditions: tuple[Condition, ...]
    """Conditions of rho, of `closed`, and of `horizon`, in this order."""


def lipschitz(rho: float | Lipschitz) -> Lipschitz:
    """Return a Lipschitz constant; a plain number counts as a trusted bound.

    Raises:
        BadInputError: rho is negative or not finite.
    """
    given = rho if isinstance(rho, Lipschitz) else Lipschitz(float(rho), "given")
    require(0 <= given.value < math.inf, "rho", given.value, "a finite number of at least 0")
    return given


def prior_bound(model: TaylorModel, rho: float | Lipschitz) -> Prior:
    """Bound the error ``||e_k||`` of the model before any run, from a Lipschitz constant of the Hessian.

    Statement: ``||e_k|| <= E_k`` with ``E_0 = 0`` and ``E_{k+1} = q E_k + (eta rho / 2) (||phi_k - theta_0|| + E_k)^2``.
    Domain: H is rho-Lipschitz on a ball around theta_0 that contains both runs; then ``||r_k|| <= rho/2 ||theta_k - theta_0||^2``.
    The closed form follows by induction: while ``E_k <= D``, a step adds at most ``2 eta rho D^2``.

    Args:
        model: the model at theta_0 with its run.
        rho: a trusted bound, or an estimate from `rho_directional` or `rho_operator`.
    Example:
        >>> from thalweg.theory.taylor import taylor_model
        >>> prior = prior_bound(taylor_model(torch.eye(1), torch.ones(1), rate=1.0, steps=2), rho=0.25)
        >>> prior.bound.tolist(), prior.closed
        ([0.0, 0.0, 0.125], 1.0)

    Source:
        Ours, for theorem 2 of arXiv 2510.10089. The closed form allows q above 1, so that it covers slightly negative curvature.
    """
    given, eta, q, steps = lipschitz(rho), model.rate, model.contraction, model.steps
    # The recursion for E_k.
    distances = model.displacements.norm(dim=1)
    bounds = [0.0]
    for distance in distances[:-1].tolist():
        reach = distance + bounds[-1]
        bounds.append(math.inf if math.isinf(reach) else q * bounds[-1] + eta * given.value / 2 * reach * reach)
    # The closed form; exp(700) is close to the largest float64.
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
    """Compute the number of steps up to which the closed form of `prior_bound` holds; infinite for rho = 0 or a zero gradient.

    Statement: it is ``(2 rho eta^2 ||g_0||)^(-1/2)`` for ``H >= 0`` and ``eta lam_max <= 2``.
    Proof: then ``|s_k| <= eta k``, so ``D <= eta K ||g_0||``. Statements about the quadratic model do not reach much further.

    Args:
        rho: a bound or an estimate.
        rate: eta.
        gradient_norm: ``||g_0||``.
    Example:
        >>> horizon(2.0, rate=0.5, gradient_norm=0.01)
        10.0

    Source:
        Ours.
    """
    given, eta = lipschitz(rho), positive_rate(rate)
    require(0 <= gradient_norm < math.inf, "gradient_norm", gradient_norm, "a finite number of at least 0")
    load = 2 * given.value * eta**2 * gradient_norm
    return 1 / math.sqrt(load) if load else math.inf


def rho_directional(followed: Followed) -> Lipschitz:
    """Estimate rho from the residuals of a run: ``max_k 2 ||r_k|| / ||theta_k - theta_0||^2``, a lower estimate.

    Residuals within their rounding are left out; the result is 0 if all are. With this estimate `prior_bound` holds for
    ``||e_k||`` of the same run, but not for another run and not for a loss.
    """
    # ||r_k|| <= rho/2 ||theta_k - theta_0||^2, solved for rho at each step.
    sizes, moved = followed.residuals.norm(dim=1), followed.moved[:-1]
    measurable = (sizes > followed.roundings) & (moved > 0)
    return Lipschitz(float((2 * sizes[measurable] / moved[measurable].square()).max()) if measurable.any() else 0.0, "directional")


def rho_operator(hessian_at: Callable[[Tensor], Operator | Tensor], points: Tensor) -> Lipschitz:
    """Estimate rho from Hessians: ``max_k ||H(theta_k) - H(theta_0)|| / ||theta_k - theta_0||``, a lower estimate.

    Args:
        hessian_at: returns the Hessian at a point ``(P,)``.
        points: theta_0 and other points, ``(n + 1, P)``; points equal to theta_0 are left out.
    Raises:
        InsufficientDataError: no point differs from the first one.
    Example:
        >>> rho_operator(lambda point: (1 + 3 * point).unsqueeze(0), torch.tensor([[0.0], [0.5]]))
        Lipschitz(value=3.0, source='operator')
    """
    path = finite("points", points)
    distinct = [point for point in path[1:] if not torch.equal(point, path[0])]
    if not distinct:
        raise InsufficientDataError(f"points: given {len(path)}, expected at least one away from the first")
    anchor = in_float64(hessian_at(path[0]))
    sizes = [_change_size(in_float64(hessian_at(point)), anchor) / float((point - path[0]).norm()) for point in distinct]
    return Lipschitz(max(sizes), "operator")


def _change_size(hessian: Operator, anchor: Operator) -> float:
    """Compute ``||H - H_0||``: exactly for matrices, by the largest eigenpair for operators."""
    if isinstance(hessian, Matrix) and isinstance(anchor, Matrix):
        return float(torch.linalg.matrix_norm(hessian.entries - anchor.entries, 2))
    return float(eigenpairs(Difference(hessian, anchor), 1, "magnitude", verify=False).values.abs()[0])


class Difference(Operator):
    """The difference of two operators, as an operator."""

    def __init__(self, first: Operator, second: Operator) -> None:
        self.first, self.second = first, second
        self.dim, self.dtype, self.device = first.dim, first.dtype, first.device

    def rows(self, vectors: Tensor) -> Tensor:
        """Multiply the difference with row vectors ``(n, P)``."""
        return self.first.rows(vectors) - (self.second @ vectors.T).T
