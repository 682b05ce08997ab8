"""The whole quadratic run: valley and river with feedback, forcing and noise, exactly.

Shape letters: P = dV + dR, K steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import EmptySubspaceError
from thalweg.theory.bounds import largest_singular, lower_bounds
from thalweg.theory.force import cumulative_force, modes
from thalweg.theory.inputs import Condition, positive_rate, positive_steps, shaped, symmetric
from thalweg.theory.kernel import doubled_kernel, kernel
from thalweg.theory.quadratic import Quadratic


@dataclass(frozen=True)
class Run:
    """K steps of gradient descent on a quadratic."""

    last: Tensor
    """theta_K, ``(P,)``."""
    total: Tensor
    """``sum_{k<K} theta_k``, ``(P,)``."""


def run(hessian: Tensor, pull: Tensor, start: Tensor, rate: float, steps: int) -> Run:
    """``theta_{k+1} = theta_k - eta (H theta_k - h)`` in closed form.

    ``theta_K = theta_0 - s_K(H)(H theta_0 - h)``, and the sum of all positions is ``s_K(H) / eta theta_0 + q_K(H) h``.

    Args:
        hessian: ``(P, P)``, symmetric, of any signs.
        pull: h, the negative gradient at 0, ``(P,)``.
        start: theta_0, ``(P,)``.
    Example:
        >>> run(torch.eye(1), torch.zeros(1), torch.ones(1), rate=0.5, steps=2).last.tolist()
        [0.25]
    """
    matrix = symmetric("hessian", hessian)
    h, theta = shaped("pull", pull, len(matrix)), shaped("start", start, len(matrix))
    values, vectors = torch.linalg.eigh(matrix)
    y, f = vectors.T @ theta, vectors.T @ h
    s, q = kernel(values, rate, steps), doubled_kernel(values, rate, steps)
    return Run(theta - vectors @ (s * (values * y - f)), vectors @ (s / rate * y + q * f))


@dataclass(frozen=True)
class CoupledForce:
    """The force on the river in the full run, beside that of a valley left to itself."""

    vector: Tensor
    """F_K = -eta B^T sum_k x_k of the coupled run, ``(dR,)``."""
    unforced: Tensor
    """C_K, ``(dR,)``."""
    feedback: Tensor
    """F_K - C_K by its own formula, ``(dR,)``."""
    feedback_bound: float
    """``eta sum_j max_i |s_{K-1-j}| ||B|| (||B|| ||r_j|| + ||h_V||)``."""
    conditions: tuple[Condition, ...]
    """Whether the unforced part dominates: the bound over the lower bound of ``||C_K||`` at most 0.1. The paper assumes it."""


def coupled_force(model: Quadratic, start: Tensor, rate: float, steps: int) -> CoupledForce:
    """F_K = C_K + sum_{j<=K-2} eta B^T s_{K-1-j}(A) (B r_j - h_V), exact.

    Whether the part that the paper keeps dominates is measured, not assumed.

    Args:
        model: the pull is minus its gradient.
        start: theta_0, valley first, ``(dV + dR,)``.
    """
    if not (len(model.valley) and len(model.river)):
        raise EmptySubspaceError("coupled force: expected a valley and a river")
    positive_steps(steps)
    width, eta = len(model.valley), positive_rate(rate)
    theta = shaped("start", start, width + len(model.river))
    whole = run(model.hessian, -model.gradient, theta, eta, steps)
    inside = modes(model)
    size, pull = largest_singular(model.coupling), -model.valley_gradient
    feedback, bound, here = torch.zeros_like(theta[width:]), 0.0, theta
    for j in range(steps - 1):
        s = kernel(inside.values, eta, steps - 1 - j)
        pushed = inside.vectors.T @ (model.coupling @ here[width:] - pull)
        feedback = feedback + eta * inside.couplings.T @ (s * pushed)
        bound += eta * float(s.abs().max()) * size * (size * float(here[width:].norm()) + float(pull.norm()))
        here = here - eta * (model.hessian @ here + model.gradient)
    unforced = cumulative_force(model, theta[:width], eta, steps).vector
    least = lower_bounds(model, theta[:width], eta, steps, along=unforced).best
    ratio = bound / least if least else (float("inf") if bound else 0.0)
    return CoupledForce(
        vector=-eta * model.coupling.T @ whole.total[:width],
        unforced=unforced,
        feedback=feedback,
        feedback_bound=bound,
        conditions=(Condition("feedback bound / ||C_K|| <= 0.1", ratio <= 0.1, ratio),),
    )


def noise_covariance(model: Quadratic, noise: Tensor, rate: float, steps: int) -> Tensor:
    """Covariance of C_K from independent gradient noise Q: ``eta^2 sum_{j<K} B^T s_{K-1-j}(A) Q s_{K-1-j}(A) B``, ``(dR, dR)``.

    Args:
        noise: covariance of the valley's gradient noise in one step, ``(dV, dV)``.
    """
    inside = modes(model)
    q = inside.vectors.T @ symmetric("noise", shaped("noise", noise, *model.valley.shape)) @ inside.vectors
    total = torch.zeros_like(q)
    for j in range(positive_steps(steps) - 1):
        s = kernel(inside.values, rate, steps - 1 - j)
        total = total + s.unsqueeze(1) * q * s
    return rate**2 * inside.couplings.T @ total @ inside.couplings
