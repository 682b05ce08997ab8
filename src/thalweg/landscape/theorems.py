"""Predictions of the theorems at a point of a real model, compared with gradient descent from that point.

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
    """A force on the river, by its formula and measured along the run."""

    predicted: float
    """Norm by the closed form without feedback of the river on the valley."""
    with_feedback: float | None
    """Norm by the coupled closed form, with river and forcing; None where it was not computed."""
    measured: float
    """Norm measured along the run, by two gradients at each step."""
    cosine: float
    """Cosine between the measured force and the closed form, with feedback where there is one."""


@dataclass(frozen=True)
class TheoremsAt:
    """Theorem 1, the loss identity and theorem 2 at one point, for K steps of gradient descent."""

    rate: float
    """eta."""
    steps: int
    """K."""
    largest: float
    """lam_max of H."""
    valley: int
    """dV, number of valley directions."""
    river: int
    """dR, number of river directions."""
    coupling: float
    """``||B|| / ||H||`` (Frobenius), the relative coupling of valley and river."""
    floor_distance: float
    """``||A^+ g_V||``, distance of the valley's floor; the force of theorem 1 refers to a displacement from there."""
    moved: float
    """``||theta_K - theta_0||`` of the run. Where it is far below the floor's distance, the run has not explored the floor."""
    force: ForceAt
    """C_K, with displacements measured from the floor."""
    relative: ForceAt
    """X_K, with displacements measured from the start; no matrix is inverted."""
    upper_paper: float
    """Upper bound of C_K in arXiv 2510.10089."""
    upper_best: float
    """The best upper bound of C_K."""
    lower_best: float
    """The best lower bound of C_K."""
    decrease_predicted: float
    """``L_0 - L_K`` by the loss identity."""
    decrease: float
    """``L_0 - L_K`` of the run."""
    error: float
    """``||e_K||``, distance of the model's end point from that of the run."""
    error_bound: float
    """Rigorous a-posteriori bound of the error."""
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
    """All predictions of theorems 1 and 2 for K steps of full-batch gradient descent, and the run itself.

    The split must not come from this Hessian, because its coupling would be zero. Take it from another point of the run (`frozen`).
    Costs 6 K gradients, two eigendecompositions of H's size (of H, and of both blocks together) and some of A's.

    Args:
        loss: the loss of a point ``(P,)``.
        gradient: the gradient ``(P,)`` of the same loss.
        hessian: H at the start, ``(P, P)``.
        start: theta_0, ``(P,)``.
        split: frames of river and valley.
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
    # Theorem 1: the force on the river, measured along the run and by its closed forms, from the floor and from the start.
    floor = floor_displacement(model)
    valley, river = split.valley.to(torch.float64), split.river.to(torch.float64)
    measured = [measured_force(gradient, points[:-1], origin, valley, river, rate) for origin in (theta - valley @ floor, theta)]
    free = cumulative_force(model, floor, rate, steps).vector
    coupled = _coupled_from_floor(model, floor, rate, steps)
    relative = relative_force(model, rate, steps)
    upper = upper_bounds(model, floor, rate, steps)
    # Loss identity and theorem 2: the quadratic model's run, its error, and the bounds.
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
    """The force F_K of the coupled run, ``(dR,)``, with positions measured from the valley's floor."""
    at_floor = quadratic(
        model.valley,
        model.coupling,
        model.river,
        model.valley_gradient - model.valley @ floor,
        model.river_gradient - model.coupling.T @ floor,
    )
    return coupled_force(at_floor, torch.cat([floor, floor.new_zeros(len(model.river))]), rate, steps).vector


def cosine(first: Tensor, second: Tensor) -> float:
    """Cosine between two vectors; NaN where one is zero."""
    return float(first @ second / (first.norm() * second.norm()))
