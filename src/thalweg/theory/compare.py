"""Corollaries 1 and 2: when does one model's force, or loss, beat another's?

Shape letters: dV dimension of the valley, dR of the river, K steps.

Superscripts of the paper: 1 is Single, 2 is Looped. Same rate, steps and start; the dimensions of the valleys may differ where
each has its own start.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import ShapeMismatchError
from thalweg.theory.bounds import expected_force, largest_singular, lower_bounds, upper_bounds
from thalweg.theory.coupled import run
from thalweg.theory.force import cumulative_force, modes, river_slope
from thalweg.theory.inputs import Condition, positive_rate, positive_steps, shaped
from thalweg.theory.kernel import kernel
from thalweg.theory.loss import LossOrder, compare_losses, gradient_measure
from thalweg.theory.quadratic import Quadratic

_ORTHOGONAL = 1e-10
"""Largest cosine between couplings of two directions that count as orthogonal."""


@dataclass(frozen=True)
class ForceOrder:
    """Two forces side by side; first is Single, second Looped."""

    norms: tuple[float, float]
    """``||C_K||``, exact."""
    along_slope: tuple[float, float]
    """``h_R . C_K / ||h_R||``, exact: what helps to go down the river; 0 without a slope."""
    paper_bounds: tuple[float, float]
    """The paper's upper bounds. Their order implies nothing."""
    expected: tuple[float, float]
    """``E ||C_K||^2`` over isotropic starts of unit variance, exact."""
    conditions: tuple[Condition, ...]
    """Sufficient for a larger second force: "SC1" (this start), "SC-E" (in the mean), "SC-O" (orthogonal couplings, this start)."""

    @property
    def second_is_larger(self) -> bool:
        """Of the norms."""
        return self.norms[1] > self.norms[0]


def compare_forces(first: Quadratic, second: Quadratic, start: Tensor, rate: float, steps: int) -> ForceOrder:
    """The exact order of two forces, and three conditions that imply it.

    The paper's corollary 1 infers it from the order of the upper bounds. That is false: a coupling may miss the flat direction,
    parts may cancel, the rate may not suit both, the flat direction may not have settled. See `theory.counterexamples`.

    Args:
        start: x_0 ``(dV,)``, the same for both.
    Raises:
        ShapeMismatchError: valleys of different dimensions.
    """
    if len(first.valley) != len(second.valley):
        raise ShapeMismatchError(f"valleys: dimensions {len(first.valley)} and {len(second.valley)}, expected the same")
    models = (first, second)
    x = shaped("start", start, len(first.valley))
    forces = [cumulative_force(model, x, rate, steps) for model in models]
    slopes = [river_slope(model) for model in models]
    along = [float(h @ f.vector / h.norm()) if h.any() else 0.0 for h, f in zip(slopes, forces, strict=True)]
    expected = [expected_force(model, 1.0, rate, steps).mean for model in models]
    floor, roof = lower_bounds(second, x, rate, steps).full_rank, upper_bounds(first, x, rate, steps).start
    conditions = (
        Condition("SC1: sigma_min(B_2) ||s_K(A_2) x_0|| > ||B_1|| ||s_K(A_1) x_0||", floor > roof, floor - roof),
        Condition("SC-E: sum s_i^2 ||b_i||^2 larger for the second", expected[1] > expected[0], expected[1] - expected[0]),
        _orthogonal_dominance(first, second, x, rate, steps),
    )
    return ForceOrder(
        norms=(forces[0].norm, forces[1].norm),
        along_slope=(along[0], along[1]),
        paper_bounds=(upper_bounds(first, x, rate, steps).paper, upper_bounds(second, x, rate, steps).paper),
        expected=(expected[0], expected[1]),
        conditions=conditions,
    )


def _orthogonal_dominance(first: Quadratic, second: Quadratic, x: Tensor, rate: float, steps: int) -> Condition:
    """SC-O: couplings orthogonal within each model, and ``|s_i c_i| ||b_i||`` larger in rising order, somewhere strictly."""
    sizes, cosines = [], 0.0
    for model in (first, second):
        inside = modes(model)
        lengths = inside.couplings.norm(dim=1)
        unit = inside.couplings / lengths.clamp_min(1e-300).unsqueeze(1)
        off = (unit @ unit.T).fill_diagonal_(0)
        cosines = max(cosines, float(off.abs().max()))
        sizes.append((kernel(inside.values, rate, steps) * (inside.vectors.T @ x)).abs() * lengths)
    lead = (sizes[1].sort().values - sizes[0].sort().values).min()
    held = cosines <= _ORTHOGONAL and float(lead) >= 0 and bool(sizes[1].sum() > sizes[0].sum())
    return Condition("SC-O: orthogonal couplings, |s_i c_i| ||b_i|| dominates", held, float(lead))


@dataclass(frozen=True)
class CorollaryTwo:
    """Two quadratic runs from the same start, and why the losses order as they do."""

    losses: tuple[float, float]
    """m(theta_K) - m at the reference point, exact."""
    odd: float
    """``h^T B^T (A_2^-1 - A_1^-1) x_0``: changes its sign with x_0, a coin flip for every symmetric start."""
    even: float
    """``-eta^2 K^2 h^T B^T (A_2^-1 - A_1^-1) B h``: the flatter valley lowers the river's effective curvature."""
    control: float
    """Pi = (eta K)^2 ||h_R|| ||B|| / ||x_0||. Far below 1, the paper's own regime, the order is a coin flip; above, it holds."""
    flips: bool
    """Whether the order of the losses changes when x_0 changes its sign."""
    order: LossOrder
    """By the exact identity, with the sufficient condition on the gradients' measures."""
    conditions: tuple[Condition, ...]
    """For `odd` and `even`, which are asymptotic; the losses are exact whatever they say."""

    @property
    def predicted(self) -> float:
        """odd + even, about ``losses[1] - losses[0]`` where the conditions hold."""
        return self.odd + self.even


def corollary_two(first: Quadratic, second: Quadratic, start: Tensor, rate: float, steps: int) -> CorollaryTwo:
    """Does the larger force make the smaller loss? The exact losses, and the two terms that decide.

    The paper's corollary 2 says so where the unforced part dominates (Pi much below 1): there it is a coin flip. It becomes true
    where the forced part dominates (Pi above 1).

    Args:
        first: Single's model; valley gradient zero, river gradient -h_R.
        second: Looped's; the same couplings, river and slope for `odd` and `even` to describe the difference.
        start: x_0 ``(dV,)``; the river starts at 0.
    """
    positive_rate(rate)
    positive_steps(steps)
    x = shaped("start", start, len(first.valley))
    if second.coupling.shape != first.coupling.shape:
        raise ShapeMismatchError(f"couplings: {tuple(first.coupling.shape)} and {tuple(second.coupling.shape)}, expected the same")
    losses, measures, before = [], [], []
    for model in (first, second):
        theta = torch.cat([x, x.new_zeros(len(model.river))])
        losses.append(last_loss(model, theta, rate, steps))
        before.append(value(model, theta))
        measures.append(gradient_measure(model.hessian, model.hessian @ theta + model.gradient))
    flipped = [last_loss(model, torch.cat([-x, x.new_zeros(len(model.river))]), rate, steps) for model in (first, second)]
    slope, b = -first.river_gradient, first.coupling
    apart = torch.linalg.pinv(second.valley, hermitian=True) - torch.linalg.pinv(first.valley, hermitian=True)
    size, time = largest_singular(b), rate * steps
    least = min(float(modes(model).values.min()) for model in (first, second))
    curved = max(float(torch.linalg.eigvalsh(_relaxed(model)).abs().max()) for model in (first, second))
    same = torch.equal(first.coupling, second.coupling) and torch.equal(first.river_gradient, second.river_gradient)
    return CorollaryTwo(
        losses=(losses[0], losses[1]),
        odd=float(slope @ b.T @ apart @ x),
        even=-(time**2) * float(slope @ b.T @ apart @ b @ slope),
        control=time**2 * float(slope.norm()) * size / float(x.norm()) if x.any() else float("inf"),
        flips=(losses[1] < losses[0]) != (flipped[1] < flipped[0]),
        order=compare_losses(measures[0], measures[1], rate, steps, (before[0], before[1])),
        conditions=(
            Condition("same coupling and slope", same, 0.0 if same else 1.0),
            Condition("eta K lam_min >= 3", time * least >= 3, time * least),
            Condition("eta K ||D - B^T A^-1 B|| <= 0.1", time * curved <= 0.1, time * curved),
        ),
    )


def _relaxed(model: Quadratic) -> Tensor:
    """D - B^T A^+ B, ``(dR, dR)``."""
    return model.river - model.coupling.T @ torch.linalg.pinv(model.valley, hermitian=True) @ model.coupling


def value(model: Quadratic, theta: Tensor) -> float:
    """m(theta) - m at the reference point."""
    return float(theta @ (model.hessian @ theta) / 2 + model.gradient @ theta)


def last_loss(model: Quadratic, theta: Tensor, rate: float, steps: int) -> float:
    """m(theta_K) after K steps of gradient descent."""
    return value(model, run(model.hessian, -model.gradient, theta, rate, steps).last)
