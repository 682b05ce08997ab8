"""Exact gradient descent on the whole quadratic model: valley and river with feedback, forcing and noise.

Shape letters: P = dV + dR, K steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import EmptySubspaceError
from thalweg.reprs import short_repr
from thalweg.theory.bounds import largest_singular, lower_bounds
from thalweg.theory.force import cumulative_force, modes
from thalweg.theory.inputs import Condition, positive_rate, positive_steps, shaped, symmetric
from thalweg.theory.kernel import doubled_kernel, kernel
from thalweg.theory.quadratic import Quadratic


@short_repr
@dataclass(frozen=True)
class Run:
    """The result of K steps of gradient descent on a quadratic."""

    last: Tensor
    """theta_K, the last point, ``(P,)``."""
    total: Tensor
    """``sum_{k<K} theta_k``, the sum of all points but the last, ``(P,)``."""


def run(hessian: Tensor, pull: Tensor, start: Tensor, rate: float, steps: int) -> Run:
    """Run ``theta_{k+1} = theta_k - eta (H theta_k - h)`` for K steps, in closed form.

    Statement: ``theta_K = theta_0 - s_K(H) (H theta_0 - h)``, and the sum of all positions is
    ``s_K(H) / eta theta_0 + q_K(H) h``, with q_K of `kernel.doubled_kernel`. Exact for every symmetric H.

    Args:
        hessian: H, ``(P, P)``, symmetric, with eigenvalues of any sign.
        pull: h, the negative gradient at 0, ``(P,)``.
        start: theta_0, ``(P,)``.
        rate: eta.
        steps: K.
    Raises:
        NonFiniteError: the run grows beyond float64.
    Example:
        >>> run(torch.eye(1), torch.zeros(1), torch.ones(1), rate=0.5, steps=2).last.tolist()
        [0.25]

    Source:
        Ours.
    """
    matrix = symmetric("hessian", hessian)
    h, theta = shaped("pull", pull, len(matrix)), shaped("start", start, len(matrix))
    values, vectors = torch.linalg.eigh(matrix)
    # In eigenvectors every coordinate is a scalar recursion with force f.
    y, f = vectors.T @ theta, vectors.T @ h
    s, q = kernel(values, rate, steps), doubled_kernel(values, rate, steps)
    return Run(theta - vectors @ (s * (values * y - f)), vectors @ (s / rate * y + q * f))


@short_repr
@dataclass(frozen=True)
class CoupledForce:
    """The force on the river in the full run, and its part without feedback and forcing. Units of the weights."""

    vector: Tensor
    """F_K = -eta B^T sum_k x_k of the coupled run, ``(dR,)``."""
    unforced: Tensor
    """C_K of theorem 1, ``(dR,)``."""
    feedback: Tensor
    """F_K - C_K, computed by its own formula, ``(dR,)``."""
    feedback_bound: float
    """Upper bound of ``||feedback||``: ``eta sum_j max_i |s_{K-1-j}| ||B|| (||B|| ||r_j|| + ||h_V||)``."""
    conditions: tuple[Condition, ...]
    """Whether C_K dominates: `feedback_bound` is at most 0.1 of a lower bound of ``||C_K||``. The paper assumes it."""


def coupled_force(model: Quadratic, start: Tensor, rate: float, steps: int) -> CoupledForce:
    """Compute the force on the river in the full run, and decompose it into theorem 1's force and the rest.

    Statement: ``F_K = C_K + sum_{j<=K-2} eta B^T s_{K-1-j}(A) (B r_j - h_V)``, exact, with ``h_V = -g_V``. The paper keeps C_K
    only; the condition measures whether C_K dominates.

    Args:
        model: the whole quadratic model.
        start: theta_0, valley first, ``(dV + dR,)``.
        rate: eta.
        steps: K.
    Raises:
        EmptySubspaceError: the valley or the river has no dimension.
    Source:
        Ours.
    """
    if not (len(model.valley) and len(model.river)):
        sizes = f"a valley of dimension {len(model.valley)} and a river of dimension {len(model.river)}"
        raise EmptySubspaceError(f"coupled force: given {sizes}, expected both above 0")
    positive_steps(steps)
    width, eta = len(model.valley), positive_rate(rate)
    theta = shaped("start", start, width + len(model.river))
    # The whole run in closed form gives F_K.
    whole = run(model.hessian, -model.gradient, theta, eta, steps)
    eigen = modes(model)
    size, pull = largest_singular(model.coupling), -model.valley_gradient
    # Step through the run: at step j the valley is pushed by B r_j - h_V, which acts for the remaining K - 1 - j steps.
    feedback, bound, position = torch.zeros_like(theta[width:]), 0.0, theta
    for j in range(steps - 1):
        s = kernel(eigen.values, eta, steps - 1 - j)
        pushed = eigen.vectors.T @ (model.coupling @ position[width:] - pull)
        feedback = feedback + eta * eigen.couplings.T @ (s * pushed)
        bound += eta * float(s.abs().max()) * size * (size * float(position[width:].norm()) + float(pull.norm()))
        position = position - eta * (model.hessian @ position + model.gradient)
    unforced = cumulative_force(model, theta[:width], eta, steps).vector
    # A lower bound of ||C_K||: only against it can the feedback be called small.
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
    """Compute the covariance of C_K that independent gradient noise in every step causes, ``(dR, dR)``.

    Statement: ``eta^2 sum_{j<K} B^T s_{K-1-j}(A) Q s_{K-1-j}(A) B``, exact.

    Args:
        model: its blocks A and B are used.
        noise: Q, covariance of the valley's gradient noise in one step, ``(dV, dV)``.
        rate: eta.
        steps: K.
    Source:
        Ours.
    """
    eigen = modes(model)
    q = eigen.vectors.T @ symmetric("noise", shaped("noise", noise, *model.valley.shape)) @ eigen.vectors
    # Noise of step j acts on the force for the remaining K - 1 - j steps.
    total = torch.zeros_like(q)
    for j in range(positive_steps(steps) - 1):
        s = kernel(eigen.values, rate, steps - 1 - j)
        total = total + s.unsqueeze(1) * q * s
    return rate**2 * eigen.couplings.T @ total @ eigen.couplings
