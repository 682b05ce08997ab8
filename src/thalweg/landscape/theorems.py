"""What the theorems say at a point of a real model, beside what gradient descent from there really did.

Shape letters: P dimension, dV of the valley, dR of the river, K steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.landscape.split import Split, blocks
from thalweg.theory.bounds import lower_bounds, upper_bounds
from thalweg.theory.certificate import LossBound, loss_bound
from thalweg.theory.coupled import coupled_force
from thalweg.theory.descent import Gradient, descend
from thalweg.theory.force import cumulative_force, floor_displacement, measured_force, relative_force, river_slope
from thalweg.theory.horizon import rho_directional
from thalweg.theory.inputs import shaped, symmetric
from thalweg.theory.loss import gradient_measure, loss_decrease
from thalweg.theory.quadratic import Quadratic, quadratic
from thalweg.theory.taylor import follow, taylor_model


@dataclass(frozen=True)
class ForceAt:
    """A force on the river: by its formula, and along the real run."""

    predicted: float
    """Norm by the closed form of a valley left to itself."""
    with_feedback: float | None
    """Norm by the coupled closed form, river and forcing included; None where it was not asked for."""
    measured: float
    """Norm along the real run, two gradients a step."""
    cosine: float
    """Between the measured force and the closed form with feedback, where there is one, else without."""


@dataclass(frozen=True)
class TheoremsAt:
    """Theorem 1, the loss identity and theorem 2 at one point, for K steps of gradient descent."""

    rate: float
    steps: int
    largest: float
    """lam_max of H."""
    valley: int
    river: int
    coupling: float
    """``||B||`` over ``||H||``, Frobenius."""
    floor_distance: float
    """``||A^+ g_V||``, how far the valley's floor is; the force of theorem 1 speaks of that displacement."""
    moved: float
    """``||theta_K - theta_0||`` of the real run: far below the floor's distance, the floor lies outside of what was seen."""
    force: ForceAt
    """C_K, displacement counted from the floor."""
    relative: ForceAt
    """X_K, displacement counted from the start; nothing inverted."""
    upper_paper: float
    """The paper's upper bound of C_K."""
    upper_best: float
    lower_best: float
    decrease_predicted: float
    """L_0 - L_K by the loss identity."""
    decrease: float
    """L_0 - L_K of the real run."""
    error: float
    """``||e_K||``, model against real run."""
    error_bound: float
    """Its a-posteriori bound, rigorous."""
    loss: LossBound
    """m(phi_K) and Err_K, for `thalweg.theory.certificate.certify`; rho is estimated along the run."""
    loss_error: float
    """``|L(theta_K) - m(phi_K)|``, to compare with Err_K."""


def theorems_at(
    loss: Callable[[Tensor], float],
    gradient: Gradient,
    hessian: Tensor,
    start: Tensor,
    split: Split,
    rate: float,
    steps: int,
) -> TheoremsAt:
    """Every prediction of theorems 1 and 2 for K steps of full-batch gradient descent, and the run itself.

    The split must not come from this Hessian: its coupling would be zero. Take it from another point of the run (`frozen`).
    Costs 6 K gradients, two eigendecompositions of H's size (of H, and of both blocks together) and some of A's.

    Args:
        loss: of a flat point ``(P,)``.
        gradient: of the same loss.
        hessian: at the start, ``(P, P)``.
        start: theta_0, ``(P,)``.
        split: river and valley.
        rate: eta.
        steps: K.
    Raises:
        EmptySubspaceError: no river or no valley.
        NonFiniteError: the run diverges; take a smaller rate.
    Source:
        arXiv 2510.10089, theorems 1 and 2, in the repaired forms of docs/theory.md.
    """
    matrix = symmetric("hessian", hessian)
    theta = shaped("start", start, len(matrix))
    g = gradient(theta).to(torch.float64)
    model = blocks(split, matrix, g)
    points = descend(gradient, theta, rate, steps)
    floor = floor_displacement(model)
    valley, river = split.valley.to(torch.float64), split.river.to(torch.float64)
    measured = [measured_force(gradient, points[:-1], origin, valley, river, rate) for origin in (theta - valley @ floor, theta)]
    free = cumulative_force(model, floor, rate, steps).vector
    coupled = _coupled_from_floor(model, floor, rate, steps)
    relative = relative_force(model, rate, steps)
    upper = upper_bounds(model, floor, rate, steps)
    energy = gradient_measure(matrix, g)
    taylor = taylor_model(matrix, g, rate, steps, (float(energy.values[0]), float(energy.values[-1])))
    followed = follow(taylor, gradient, points)
    before, after = float(loss(theta)), float(loss(points[-1]))
    bound = loss_bound(taylor, before, rho_directional(followed), followed)
    return TheoremsAt(
        rate=rate,
        steps=steps,
        largest=float(energy.values[-1]),
        valley=valley.shape[1],
        river=river.shape[1],
        coupling=float(model.coupling.norm() / matrix.norm()),
        floor_distance=float(floor.norm()),
        moved=float(followed.moved[-1]),
        force=ForceAt(
            float(free.norm()),
            float(coupled.norm()),
            float(measured[0].norm()),
            cosine(measured[0], coupled),
        ),
        relative=ForceAt(float(relative.norm()), None, float(measured[1].norm()), cosine(measured[1], relative)),
        upper_paper=upper.paper,
        upper_best=upper.best,
        lower_best=lower_bounds(model, floor, rate, steps, along=river_slope(model)).best,
        decrease_predicted=float(loss_decrease(energy, rate, steps).sum()),
        decrease=before - after,
        error=float(followed.errors[-1]),
        error_bound=float(followed.bound[-1]),
        loss=bound,
        loss_error=abs(after - bound.predicted),
    )


def _coupled_from_floor(model: Quadratic, floor: Tensor, rate: float, steps: int) -> Tensor:
    """F_K of the coupled run, ``(dR,)``, with positions counted from the valley's floor."""
    at_floor = quadratic(
        model.valley,
        model.coupling,
        model.river,
        model.valley_gradient - model.valley @ floor,
        model.river_gradient - model.coupling.T @ floor,
    )
    return coupled_force(at_floor, torch.cat([floor, floor.new_zeros(len(model.river))]), rate, steps).vector


def cosine(first: Tensor, second: Tensor) -> float:
    """Of two forces; NaN where one is zero."""
    return float(first @ second / (first.norm() * second.norm()))
