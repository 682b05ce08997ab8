"""The decrease of a quadratic loss under gradient descent: an exact identity, its matrix-free form, and a comparison of two.

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
from thalweg.reprs import short_repr
from thalweg.theory.inputs import Condition, positive_rate, positive_steps, shaped, spectrum, symmetric
from thalweg.theory.kernel import kernel, schedule_kernel


@short_repr
@dataclass(frozen=True)
class Measure:
    """Spectral measure of a gradient under a Hessian: the weight ``(v_i.g)^2`` at each eigenvalue lam_i."""

    values: Tensor
    """lam, ``(n,)``, ascending."""
    weights: Tensor
    """``(v_i.g)^2``, ``(n,)``, at least 0; their sum is ``||g||^2``."""


def gradient_measure(hessian: Tensor, gradient: Tensor) -> Measure:
    """Compute the spectral measure of a gradient ``(P,)`` under a Hessian ``(P, P)``, by a full eigendecomposition."""
    matrix = symmetric("hessian", hessian)
    values, vectors = torch.linalg.eigh(matrix)
    return Measure(values, (vectors.T @ shaped("gradient", gradient, len(matrix))).square())


def checked(measure: Measure) -> Measure:
    """Check a measure and return it in float64 with ascending eigenvalues.

    Raises:
        BadInputError: a weight is negative.
        ShapeMismatchError: eigenvalues and weights have different shapes.
    """
    values = spectrum("measure", measure.values)
    weights = shaped("measure's weights", measure.weights, len(values))
    require(bool((weights >= 0).all()), "measure's weights", float(weights.min()) if len(weights) else 0, "none below 0")
    order = values.argsort()
    return Measure(values[order], weights[order])


def loss_decrease(measure: Measure, rate: float, steps: int, overflow: str = "raise") -> Tensor:
    """Compute how much each eigendirection lowers a quadratic loss in K steps.

    Statement: ``L_0 - L_K = 1/2 sum_i s_2K(lam_i) (v_i.g_0)^2``, an equality for every quadratic, with eigenvalues of any sign,
    coupling and forcing. It replaces the paper's corollary 2 (a larger force gives a smaller loss), which is false.
    Proof: in one dimension ``L_K - L_0 = lam/2 d^2 ((1 - eta lam)^2K - 1)`` and ``g_0 = lam d``.

    Args:
        measure: spectral measure of the gradient at the start.
        rate: eta.
        steps: K.
        overflow: see `kernel`.
    Returns:
        The decrease for each eigenvalue, ``(n,)``, ascending in the eigenvalue; their sum is ``L_0 - L_K`` in the loss's unit.
    Example:
        >>> loss_decrease(gradient_measure(torch.eye(1), torch.ones(1)), rate=1.0, steps=1).tolist()
        [0.5]

    Source:
        Ours, in place of corollary 2 of arXiv 2510.10089.
    """
    given = checked(measure)
    return 0.5 * kernel(given.values, rate, 2 * positive_steps(steps), overflow) * given.weights


def scheduled_decrease(measure: Measure, rates: Sequence[float]) -> Tensor:
    """Compute the decrease in each eigendirection ``(n,)`` for a schedule of rates eta_k.

    Statement: `loss_decrease` with the kernel ``(1 - prod_k (1 - eta_k lam)^2) / lam``, that of the schedule with every rate twice.
    """
    given = checked(measure)
    return 0.5 * schedule_kernel(given.values, [rate for rate in rates for _ in range(2)]) * given.weights


def loss_decrease_by_products(hessian: Operator | Tensor, gradient: Tensor, rate: float, steps: int, products: int = 0) -> float:
    """Compute the decrease ``L_0 - L_K`` by Lanczos, started at the gradient; no eigendecomposition of the whole Hessian.

    Exact with K products, an estimate with fewer: s_2K is a polynomial of degree 2K - 1, and K Lanczos steps give a quadrature
    that is exact up to that degree.

    Args:
        hessian: H, ``(P, P)`` or an operator.
        gradient: g_0, ``(P,)``.
        rate: eta.
        steps: K.
        products: number of Lanczos steps; 0 means K.
    Source:
        Ours.
    """
    positive_rate(rate)
    # 1/2 g^T s_2K(H) g is a quadratic form of a matrix function, which Lanczos evaluates.
    function = lambda values: 0.5 * kernel(values, rate, 2 * positive_steps(steps))  # noqa: E731
    return quadratic_form(hessian, function, gradient, products or steps)


def expected_loss(values: Tensor, pull: Tensor, deviation: float, rate: float, steps: int) -> float:
    """Compute the expected loss after K steps on ``1/2 theta^T H theta - h^T theta``, over starts ``N(0, deviation^2 I)``.

    Statement: ``E L_K = sum_i [deviation^2 / 2 lam_i (1 - eta lam_i)^2K - 1/2 s_2K(lam_i) (v_i.h)^2]``, exact.

    Args:
        values: lam, ``(P,)``.
        pull: h in the eigenvectors, v_i.h, ``(P,)``.
        deviation: standard deviation of each coordinate of the start.
        rate: eta.
        steps: K.
    Source:
        Ours.
    """
    lam = spectrum("values", values)
    h = shaped("pull", pull, len(lam))
    # The start's variance shrinks by (1 - eta lam)^2K; the force lowers the loss by the identity of `loss_decrease`.
    left = (1 - positive_rate(rate) * lam) ** (2 * positive_steps(steps))
    return float((deviation**2 / 2 * lam * left - 0.5 * kernel(lam, rate, 2 * steps) * h.square()).sum())


@dataclass(frozen=True)
class LossOrder:
    """The decreases of two quadratic losses, and which run ends lower."""

    first: float
    """L_0 - L_K of the first."""
    second: float
    """L_0 - L_K of the second."""
    second_ends_lower: bool
    """Whether ``decrease_2 - decrease_1 > start_2 - start_1``; exact, not a bound."""
    dominance: Condition
    """Sufficient condition for ``second >= first``: the gradient energy of the second loss lies at lower curvature."""


def compare_losses(first: Measure, second: Measure, rate: float, steps: int, starts: tuple[float, float] = (0.0, 0.0)) -> LossOrder:
    """Compare the losses of two quadratic runs after K steps, exactly and by a condition that can be checked before the runs.

    Statement: if ``eta lam < 2`` for both and ``mu_2((-inf, t]) >= mu_1((-inf, t])`` for all t (first-order stochastic dominance),
    then the second loss decreases at least as much; equality for equal measures.
    Proof: s_2K is positive and falls on ``(-inf, 2 / eta)``.
    The condition replaces the paper's step from assumption 1 to corollary 2: it concerns where the gradient energy lies. The number
    of small eigenvalues alone implies nothing.

    Args:
        first: spectral measure of Single's gradient at the start.
        second: spectral measure of Looped's gradient at the start.
        rate: eta.
        steps: K.
        starts: both losses before the first step.
    Raises:
        ShapeMismatchError: a measure has no eigenvalue.
    Source:
        Ours, in place of corollary 2 of arXiv 2510.10089.
    """
    measure_1, measure_2 = checked(first), checked(second)
    if not (len(measure_1.values) and len(measure_2.values)):
        raise ShapeMismatchError("measures: given an empty one, expected at least one eigenvalue each")
    decreases = [float(loss_decrease(measure, rate, steps).sum()) for measure in (measure_1, measure_2)]
    # Dominance is decided at the eigenvalues of either measure, up to rounding of the cumulative weights.
    points = torch.cat([measure_1.values, measure_2.values]).sort().values
    lead = (_mass_below(measure_2, points) - _mass_below(measure_1, points)).min()
    most = rate * float(points.max())
    slack = 1e-12 * float(max(measure_1.weights.sum(), measure_2.weights.sum()))
    held = float(lead) >= -slack and most < 2
    condition = "mu_2((-inf, t]) >= mu_1((-inf, t]) for all t, and eta lam < 2"
    lower = decreases[1] - decreases[0] > starts[1] - starts[0]
    return LossOrder(decreases[0], decreases[1], lower, Condition(condition, held, float(lead)))


def _mass_below(measure: Measure, points: Tensor) -> Tensor:
    """Cumulative measure ``mu((-inf, t])`` at every t, ``(m,)``."""
    # A leading 0 stands for the points below all eigenvalues.
    sums = torch.cat([measure.weights.new_zeros(1), measure.weights.cumsum(0)])
    return sums[torch.searchsorted(measure.values.contiguous(), points.contiguous(), right=True)]
