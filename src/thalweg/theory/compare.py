"""Corollaries 1 and 2: conditions under which one model has the larger force, or the smaller loss, than another.

Shape letters: dV dimension of the valley, dR of the river, K steps.

As in the paper, model 1 is Single and model 2 is Looped. Both have the same rate, number of steps and start.
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
"""Largest cosine of two couplings that count as orthogonal."""


@dataclass(frozen=True)
class ForceOrder:
    """The forces of two models, first Single, then Looped, and sufficient conditions for their order."""

    norms: tuple[float, float]
    """``||C_K||``, exact."""
    along_slope: tuple[float, float]
    """``h_R.C_K / ||h_R||``, exact: the component down the river; 0 without a slope."""
    paper_bounds: tuple[float, float]
    """The paper's upper bounds. Their order implies nothing about the forces."""
    expected: tuple[float, float]
    """``E ||C_K||^2`` over isotropic starts of unit variance, exact."""
    conditions: tuple[Condition, ...]
    """Sufficient for a larger second force: "SC1" for this start, "SC-E" in the mean, "SC-O" for this start and orthogonal b_i."""

    @property
    def second_is_larger(self) -> bool:
        """Whether the second force has the larger norm."""
        return self.norms[1] > self.norms[0]


def compare_forces(first: Quadratic, second: Quadratic, start: Tensor, rate: float, steps: int) -> ForceOrder:
    """Compare two forces exactly, and check three conditions that are sufficient for the second to be larger.

    Statement (SC1): ``sigma_min(B_2) ||s_K(A_2) x_0|| > ||B_1|| ||s_K(A_1) x_0||`` implies ``||C_2|| > ||C_1||``.
    (SC-E): ``E ||C||^2`` over isotropic starts is larger exactly if ``sum_i s_i^2 ||b_i||^2`` is larger.
    (SC-O): with orthogonal couplings, larger sorted ``|s_i c_i| ||b_i||`` imply a larger force.
    The paper's corollary 1 infers the order of the forces from the order of their upper bounds. This is false: a coupling may miss
    the flat direction, parts may cancel, the rate may be too large for one valley, or the flat direction may not have settled.
    See `theory.counterexamples`.

    Args:
        first: model of Single.
        second: model of Looped, with a valley of the same dimension.
        start: x_0 ``(dV,)``, the same for both.
        rate: eta.
        steps: K.
    Raises:
        ShapeMismatchError: the valleys have different dimensions.
    Source:
        Ours, in place of corollary 1 of arXiv 2510.10089.
    """
    if len(first.valley) != len(second.valley):
        raise ShapeMismatchError(f"valleys: dimensions {len(first.valley)} and {len(second.valley)}, expected the same")
    models = (first, second)
    x = shaped("start", start, len(first.valley))
    # Exact forces, their components along the slope, and their means over starts.
    forces = [cumulative_force(model, x, rate, steps) for model in models]
    slopes = [river_slope(model) for model in models]
    along = [float(h @ f.vector / h.norm()) if h.any() else 0.0 for h, f in zip(slopes, forces, strict=True)]
    expected = [expected_force(model, 1.0, rate, steps).mean for model in models]
    # SC1 compares a lower bound of the second force with an upper bound of the first.
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
    """SC-O: orthogonal couplings within each model; sorted ``|s_i c_i| ||b_i||`` at least as large, and one strictly larger."""
    sizes, cosines = [], 0.0
    for model in (first, second):
        eigen = modes(model)
        lengths = eigen.couplings.norm(dim=1)
        unit = eigen.couplings / lengths.clamp_min(1e-300).unsqueeze(1)
        # Cosines of different couplings; they have to vanish, so that the modes' parts add as squares.
        off = (unit @ unit.T).fill_diagonal_(0)
        cosines = max(cosines, float(off.abs().max()))
        sizes.append((kernel(eigen.values, rate, steps) * (eigen.vectors.T @ x)).abs() * lengths)
    # Sorted one against the other: every part of the second has to be at least as large.
    lead = (sizes[1].sort().values - sizes[0].sort().values).min()
    held = cosines <= _ORTHOGONAL and float(lead) >= 0 and bool(sizes[1].sum() > sizes[0].sum())
    return Condition("SC-O: orthogonal couplings, |s_i c_i| ||b_i|| dominates", held, float(lead))


@dataclass(frozen=True)
class CorollaryTwo:
    """Two quadratic runs from the same start: their losses, and the two terms that decide the order of the losses."""

    losses: tuple[float, float]
    """m(theta_K) - m at the reference point, exact."""
    odd: float
    """``h^T B^T (A_2^-1 - A_1^-1) x_0``: changes sign with x_0, so its sign is random for symmetrically distributed starts."""
    even: float
    """``-eta^2 K^2 h^T B^T (A_2^-1 - A_1^-1) B h``: the flatter valley lowers the river's effective curvature."""
    control: float
    """Pi = (eta K)^2 ||h_R|| ||B|| / ||x_0||. For Pi far below 1 (the paper's regime) `odd` dominates, for Pi above 1 `even`."""
    flips: bool
    """Whether the order of the losses changes when x_0 changes its sign."""
    order: LossOrder
    """The order by the exact identity, with the sufficient condition on the gradients' spectral measures."""
    conditions: tuple[Condition, ...]
    """Conditions of `odd` and `even`, which are asymptotic. The losses are exact, whether or not they hold."""

    @property
    def predicted(self) -> float:
        """``odd + even``, approximately ``losses[1] - losses[0]`` if the conditions hold."""
        return self.odd + self.even


def corollary_two(first: Quadratic, second: Quadratic, start: Tensor, rate: float, steps: int) -> CorollaryTwo:
    """Test corollary 2 (a larger force gives a smaller loss) for two models: exact losses, and the two terms that decide.

    Statement: to leading order ``losses[1] - losses[0] = odd + even``. The paper states the corollary for a dominant unforced part
    (Pi far below 1); there it holds for about half of the starts. It holds for a dominant forced part (Pi above 1).
    Domain of the two terms: the conditions, which require settled valleys and a river of negligible curvature.

    Args:
        first: model of Single, with valley gradient zero and river gradient -h_R.
        second: model of Looped; `odd` and `even` require the same coupling, river and slope as in ``first``.
        start: x_0 ``(dV,)``; the river starts at 0.
        rate: eta.
        steps: K.
    Raises:
        ShapeMismatchError: the couplings have different shapes.
    Source:
        Ours, in place of corollary 2 of arXiv 2510.10089.
    """
    positive_rate(rate)
    positive_steps(steps)
    x = shaped("start", start, len(first.valley))
    if second.coupling.shape != first.coupling.shape:
        raise ShapeMismatchError(f"couplings: {tuple(first.coupling.shape)} and {tuple(second.coupling.shape)}, expected the same")
    # Exact losses from +x_0 and -x_0, and the gradients' spectral measures at the start.
    losses, measures, start_losses = [], [], []
    for model in (first, second):
        theta = torch.cat([x, x.new_zeros(len(model.river))])
        losses.append(last_loss(model, theta, rate, steps))
        start_losses.append(value(model, theta))
        measures.append(gradient_measure(model.hessian, model.hessian @ theta + model.gradient))
    flipped = [last_loss(model, torch.cat([-x, x.new_zeros(len(model.river))]), rate, steps) for model in (first, second)]
    # The two asymptotic terms and their conditions.
    slope, b = -first.river_gradient, first.coupling
    inverse_change = torch.linalg.pinv(second.valley, hermitian=True) - torch.linalg.pinv(first.valley, hermitian=True)
    size, time = largest_singular(b), rate * steps
    least = min(float(modes(model).values.min()) for model in (first, second))
    curved = max(float(torch.linalg.eigvalsh(_relaxed(model)).abs().max()) for model in (first, second))
    same = torch.equal(first.coupling, second.coupling) and torch.equal(first.river_gradient, second.river_gradient)
    return CorollaryTwo(
        losses=(losses[0], losses[1]),
        odd=float(slope @ b.T @ inverse_change @ x),
        even=-(time**2) * float(slope @ b.T @ inverse_change @ b @ slope),
        control=time**2 * float(slope.norm()) * size / float(x.norm()) if x.any() else float("inf"),
        flips=(losses[1] < losses[0]) != (flipped[1] < flipped[0]),
        order=compare_losses(measures[0], measures[1], rate, steps, (start_losses[0], start_losses[1])),
        conditions=(
            Condition("same coupling and slope", same, 0.0 if same else 1.0),
            Condition("eta K lam_min >= 3", time * least >= 3, time * least),
            Condition("eta K ||D - B^T A^-1 B|| <= 0.1", time * curved <= 0.1, time * curved),
        ),
    )


def _relaxed(model: Quadratic) -> Tensor:
    """The river's Hessian after the valley has relaxed, ``D - B^T A^+ B``, ``(dR, dR)``."""
    return model.river - model.coupling.T @ torch.linalg.pinv(model.valley, hermitian=True) @ model.coupling


def value(model: Quadratic, theta: Tensor) -> float:
    """Compute the model's loss at theta ``(dV + dR,)`` relative to the reference point."""
    return float(theta @ (model.hessian @ theta) / 2 + model.gradient @ theta)


def last_loss(model: Quadratic, theta: Tensor, rate: float, steps: int) -> float:
    """Compute the model's loss after K steps of gradient descent from theta, relative to the reference point."""
    return value(model, run(model.hessian, -model.gradient, theta, rate, steps).last)
