"""What gradient descent takes off a quadratic loss: an identity, its matrix-free form, and who decreases more.

Shape letters: P dimension, K steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.functionals import quadratic_form
from thalweg.curvature.operator import Operator
from thalweg.errors import ShapeMismatchError, require
from thalweg.theory.inputs import Condition, positive_rate, positive_steps, shaped, spectrum, symmetric
from thalweg.theory.kernel import kernel, schedule_kernel


@dataclass(frozen=True)
class Measure:
    """Where the gradient's energy lies: ``mu = sum_i (v_i.g)^2`` at lam_i."""

    values: Tensor
    """lam, ``(n,)``, ascending."""
    weights: Tensor
    """``(v_i.g)^2``, ``(n,)``, not negative."""


def gradient_measure(hessian: Tensor, gradient: Tensor) -> Measure:
    """The gradient's spectral measure under a Hessian ``(P, P)``."""
    matrix = symmetric("hessian", hessian)
    values, vectors = torch.linalg.eigh(matrix)
    return Measure(values, (vectors.T @ shaped("gradient", gradient, len(matrix))).square())


def checked(measure: Measure) -> Measure:
    """In float64, ascending, with weights that are not negative."""
    values = spectrum("measure", measure.values)
    weights = shaped("measure's weights", measure.weights, len(values))
    require(bool((weights >= 0).all()), "measure's weights", float(weights.min()) if len(weights) else 0, "none below 0")
    order = values.argsort()
    return Measure(values[order], weights[order])


def loss_decrease(measure: Measure, rate: float, steps: int, overflow: str = "raise") -> Tensor:
    """L_0 - L_K = 1/2 sum_i s_2K(lam_i) (v_i.g_0)^2, direction by direction ``(n,)``; their sum is the whole.

    Exact for every quadratic, of any signs, coupling and forcing. It takes the place of the paper's corollary 2 (a larger force
    makes a smaller loss), which is false. Proof: in one dimension ``L_K - L_0 = lam/2 d^2 ((1 - eta lam)^2K - 1)`` and
    ``g_0 = lam d``.

    Example:
        >>> loss_decrease(gradient_measure(torch.eye(1), torch.ones(1)), rate=1.0, steps=1).tolist()
        [0.5]

    Source:
        Ours.
    """
    given = checked(measure)
    return 0.5 * kernel(given.values, rate, 2 * positive_steps(steps), overflow) * given.weights


def scheduled_decrease(measure: Measure, rates: Sequence[float]) -> Tensor:
    """The same for a schedule of rates: the kernel is ``(1 - prod_k (1 - eta_k lam)^2) / lam``, every rate taken twice."""
    given = checked(measure)
    return 0.5 * schedule_kernel(given.values, [rate for rate in rates for _ in range(2)]) * given.weights


def loss_decrease_by_products(hessian: Operator | Tensor, gradient: Tensor, rate: float, steps: int, products: int = 0) -> float:
    """The whole decrease by Lanczos started at the gradient: exact with K products, an estimate with fewer.

    s_2K is a polynomial of degree 2K - 1, and K steps of Lanczos are a quadrature that is exact up to that degree.

    Args:
        hessian: ``(P, P)`` or an operator.
        gradient: g_0, ``(P,)``.
        products: Lanczos steps; 0 takes K.
    """
    positive_rate(rate)
    function = lambda values: 0.5 * kernel(values, rate, 2 * positive_steps(steps))  # noqa: E731
    return quadratic_form(hessian, function, gradient, products or steps)


def expected_loss(values: Tensor, pull: Tensor, deviation: float, rate: float, steps: int) -> float:
    """E L_K over starts ``N(0, deviation^2 I)`` on ``1/2 theta^T H theta - h^T theta``.

    ``sum_i [deviation^2 / 2 lam_i (1 - eta lam_i)^2K - 1/2 s_2K(lam_i) (v_i.h)^2]``.

    Args:
        values: lam, ``(P,)``.
        pull: h in eigenvectors, v_i.h, ``(P,)``.
    """
    lam = spectrum("values", values)
    h = shaped("pull", pull, len(lam))
    left = (1 - positive_rate(rate) * lam) ** (2 * positive_steps(steps))
    return float((deviation**2 / 2 * lam * left - 0.5 * kernel(lam, rate, 2 * steps) * h.square()).sum())


@dataclass(frozen=True)
class LossOrder:
    """Which of two quadratic runs ends lower."""

    first: float
    """L_0 - L_K of the first."""
    second: float
    """L_0 - L_K of the second."""
    second_ends_lower: bool
    """``decrease_2 - decrease_1 > start_2 - start_1``: exact, not a bound."""
    dominance: Condition
    """The sufficient condition: the second's gradient energy lies at lower curvature."""


def compare_losses(first: Measure, second: Measure, rate: float, steps: int, starts: tuple[float, float] = (0.0, 0.0)) -> LossOrder:
    """The exact order of two losses after K steps, and the condition that can be checked beforehand.

    If eta lam < 2 for both and ``mu_2((-inf, t]) >= mu_1((-inf, t])`` for all t, then the second decreases at least as much.
    Proof: s_2K is positive and falls on ``(-inf, 2 / eta)``. This is what can be tested in
    place of "Assumption 1, hence corollary 2": compare where the gradients' energy lies, not how many eigenvalues are small.

    Args:
        starts: the losses before the first step.
    """
    one, two = checked(first), checked(second)
    if not (len(one.values) and len(two.values)):
        raise ShapeMismatchError("measures: given an empty one, expected at least one eigenvalue each")
    fallen = [float(loss_decrease(measure, rate, steps).sum()) for measure in (one, two)]
    places = torch.cat([one.values, two.values]).sort().values
    lead = (_mass_below(two, places) - _mass_below(one, places)).min()
    most = rate * float(places.max())
    slack = 1e-12 * float(max(one.weights.sum(), two.weights.sum()))
    held = float(lead) >= -slack and most < 2
    words = "mu_2((-inf, t]) >= mu_1((-inf, t]) for all t, and eta lam < 2"
    lower = fallen[1] - fallen[0] > starts[1] - starts[0]
    return LossOrder(fallen[0], fallen[1], lower, Condition(words, held, float(lead)))


def _mass_below(measure: Measure, places: Tensor) -> Tensor:
    """``mu((-inf, t])`` at every place."""
    sums = torch.cat([measure.weights.new_zeros(1), measure.weights.cumsum(0)])
    return sums[torch.searchsorted(measure.values.contiguous(), places.contiguous(), right=True)]
