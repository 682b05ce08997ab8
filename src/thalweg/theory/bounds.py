"""Bounds around theorem 1: upper and lower bounds of the force, its expectation, the share of steep directions, its validity.

Shape letters: dV dimension of the valley, dR of the river, K steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import HorizonWarning, UnstableDirectionError, require, warn
from thalweg.theory.force import Modes, cumulative_force, modes
from thalweg.theory.inputs import Condition, positive_rate, positive_steps, shaped
from thalweg.theory.kernel import kernel
from thalweg.theory.quadratic import Quadratic


@dataclass(frozen=True)
class UpperBounds:
    """Five upper bounds of ``||C_K||``, each valid for every spectrum.

    Symbols: ``s_i = s_K(lam_i)``, ``c_i = u_i.x_0`` and ``b_i = B^T u_i`` for the valley's eigenpairs lam_i, u_i.
    """

    paper: float
    """``||B|| ||x_0|| sum_i |s_i|``, the paper's bound; up to dV times larger than `largest`."""
    largest: float
    """``||B|| ||x_0|| max_i |s_i|``."""
    modes: float
    """``sum_i |s_i c_i| ||b_i||``."""
    start: float
    """``||B|| ||s_K(A) x_0||``."""
    coupling: float
    """``||B^T s_K(A)|| ||x_0||``."""

    @property
    def best(self) -> float:
        """The smallest bound; `modes`, `start` and `coupling` have no fixed order."""
        return min(self.modes, self.start, self.coupling)


def upper_bounds(model: Quadratic, start: Tensor, rate: float, steps: int, overflow: str = "raise") -> UpperBounds:
    """Compute five upper bounds of the cumulative force ``||C_K||``.

    Statement: ``start <= largest <= paper``, ``coupling <= largest`` and ``modes <= paper``; the formulas stand in `UpperBounds`.
    All five equal the force if the valley has one dimension. The paper takes the size of its bound for the size of the force.
    Over random valleys of 60 dimensions its bound is 82 times the force in the median, and `start` is 1.7 times the force
    (``thalweg verify 3.4``).
    Proof: Cauchy-Schwarz, applied at different places of ``B^T s_K(A) x_0``.

    Args:
        model: its blocks A and B are used.
        start: x_0, displacement from the valley's floor, ``(dV,)``.
        rate: eta.
        steps: K.
        overflow: see `kernel`.
    Source:
        arXiv 2510.10089 for `paper`; the other bounds are ours.
    """
    eigen = modes(model)
    x, s = _start_modes(eigen, start), kernel(eigen.values, rate, steps, overflow)
    # ||B|| and ||x_0||; s_i c_i is the weight of mode i.
    size, length = largest_singular(eigen.couplings), float(x.norm())
    return UpperBounds(
        paper=size * length * float(s.abs().sum()),
        largest=size * length * float(s.abs().max()),
        modes=float((s * x).abs() @ eigen.couplings.norm(dim=1)),
        start=size * float((s * x).norm()),
        coupling=largest_singular(s.unsqueeze(1) * eigen.couplings) * length,
    )


@dataclass(frozen=True)
class LowerBounds:
    """Lower bounds of ``||C_K||``. To order the forces of two models, one needs a lower bound of the larger force."""

    full_rank: float
    """``sigma_min(B) ||s_K(A) x_0||`` where the river has at least the valley's dimension, else 0."""
    along: float
    """``|w.C_K|`` along the given unit direction w; 0 if none is given."""
    flattest: float
    """Component along b_1, the coupling of the largest kernel, minus the most that other directions may cancel; at least 0."""

    @property
    def best(self) -> float:
        """The largest bound."""
        return max(self.full_rank, self.along, self.flattest)


def lower_bounds(model: Quadratic, start: Tensor, rate: float, steps: int, along: Tensor | None = None) -> LowerBounds:
    """Compute three lower bounds of the cumulative force ``||C_K||``.

    Statement: ``||C_K|| >= sigma_min(B) ||s_K(A) x_0||`` for ``dR >= dV``, ``||C_K|| >= |w.C_K|`` for every unit direction w, and
    the bound of the flattest direction in `LowerBounds`. The second is an equality for w along C_K.

    Args:
        model: its blocks A and B are used.
        start: x_0, displacement from the valley's floor, ``(dV,)``.
        rate: eta.
        steps: K.
        along: a direction of the river ``(dR,)``, such as its slope, of any length; None leaves that bound at 0.
    Source:
        Ours.
    """
    eigen = modes(model)
    x, s = _start_modes(eigen, start), kernel(eigen.values, rate, steps)
    valley, river = eigen.couplings.shape
    # sigma_min(B): with fewer river than valley directions B^T has a kernel, and the bound is 0.
    least = float(torch.linalg.svdvals(eigen.couplings).min()) if river >= valley else 0.0
    # Along b_1: the part of the flattest direction, minus the largest possible parts of all others.
    first = int(s.abs().argmax())
    b = eigen.couplings[first]
    weights = (s * x).abs()
    overlaps = (eigen.couplings @ b).abs() / b.norm().clamp_min(1e-300)
    others = weights @ overlaps - weights[first] * overlaps[first]
    towards = 0.0
    if along is not None:
        w = shaped("along", along, river)
        force = cumulative_force(model, start, rate, steps).vector
        towards = float((w @ force).abs() / w.norm()) if w.any() else 0.0
    return LowerBounds(least * float((s * x).norm()), towards, max(0.0, float(weights[first] * overlaps[first] - others)))


@dataclass(frozen=True)
class ExpectedForce:
    """Mean and variance of ``||C_K||^2`` over starts ``x_0 ~ N(0, deviation^2 I)``."""

    mean: float
    """``deviation^2 sum_i s_i^2 ||b_i||^2``, exact for every isotropic distribution of starts."""
    variance: float
    """``2 deviation^4 ||M||_F^2`` with ``M = s_K(A) B B^T s_K(A)``, for Gaussian starts only."""
    participation: float
    """``(tr M)^2 / ||M||_F^2``, the effective number of directions. Near 1 the force of a single seed is not informative."""

    @property
    def variation(self) -> float:
        """Standard deviation of ``||C_K||^2`` over its mean, ``sqrt(2 / participation)``; 0 without a force."""
        return math.sqrt(2 / self.participation) if self.participation else 0.0


def expected_force(model: Quadratic, deviation: float, rate: float, steps: int) -> ExpectedForce:
    """Compute the exact mean and variance of the squared force over isotropic starts.

    Statement: ``E ||C_K||^2 = deviation^2 sum_i s_i^2 ||b_i||^2``. For K to infinity the mean tends to
    ``deviation^2 sum_i ||b_i||^2 / lam_i^2``, with squared eigenvalues; the paper has a sum of 1 / lam.

    Args:
        model: its blocks A and B are used.
        deviation: standard deviation of each coordinate of the start, above 0.
        rate: eta.
        steps: K.
    Source:
        Ours.
    """
    require(deviation > 0, "deviation", deviation, "a positive number")
    eigen = modes(model)
    # Rows s_i b_i: ||C_K||^2 is a quadratic form of the start with the matrix M of their inner products.
    weighted = kernel(eigen.values, rate, steps).unsqueeze(1) * eigen.couplings
    total = float(weighted.square().sum())
    # The smaller Gram matrix has the same non-zero eigenvalues.
    gram = weighted @ weighted.T if len(weighted) <= weighted.shape[1] else weighted.T @ weighted
    square = float(gram.square().sum())
    return ExpectedForce(deviation**2 * total, 2 * deviation**4 * square, total**2 / square if square else 0.0)


@dataclass(frozen=True)
class SteepPart:
    """The part of the force that comes from the steep valley directions G, ``lam >= tau``; F are the flat ones."""

    threshold: float
    """tau, the eigenvalue from which on a direction counts as steep."""
    bound: float
    """R_tau = s_K(tau) ``||B^T P_G|| ||P_G x_0||``, an upper bound of `steep` under the conditions."""
    steep: float
    """``||C_G||``, the force of the steep directions."""
    flat: float
    """``||C_F||``, the force of the flat directions."""
    share: float
    """``<C_F, C> / ||C||^2``, the flat directions' share: signed, outside [0, 1] where parts cancel; NaN without a force."""
    expected_share: float
    """``sum_F s_i^2 ||b_i||^2`` over the sum of all directions, in [0, 1]; NaN without a coupling."""
    conditions: tuple[Condition, ...]
    """Conditions of the bound: ``eta tau <= 1`` and ``eta lam_max < 2``."""

    @property
    def ratio_bound(self) -> float:
        """Bound of ``||C_G|| / ||C||``: ``R / (flat - R)``; infinite if the flat part is not above R."""
        return self.bound / (self.flat - self.bound) if self.flat > self.bound else math.inf


def steep_parts(model: Quadratic, start: Tensor, rate: float, steps: int, thresholds: Tensor) -> list[SteepPart]:
    """Bound and measure the steep directions' part of the force, for each of several thresholds.

    Statement: ``||C_G|| <= R_tau = s_K(tau) ||B^T P_G|| ||P_G x_0||`` for ``eta tau <= 1`` and ``eta lam_max < 2``.
    Proof: under these conditions the kernel of every lam above tau is at most s_K(tau).

    Args:
        model: its blocks A and B are used.
        start: x_0, displacement from the valley's floor, ``(dV,)``.
        rate: eta.
        steps: K.
        thresholds: tau, positive, ``(n,)``.
    Returns:
        One entry for each threshold, in the given order.
    Source:
        Ours, as a repair of the paper's version; see 3.7 in docs/theory.md.
    """
    eigen = modes(model)
    x, s = _start_modes(eigen, start), kernel(eigen.values, rate, steps)
    # Part of every mode, and its expected energy s_i^2 ||b_i||^2.
    parts = -(s * x).unsqueeze(1) * eigen.couplings
    energies = s.square() * eigen.couplings.square().sum(1)
    whole, energy, most = parts.sum(0), float(energies.sum()), float(rate * eigen.values.max())
    shares = []
    for tau in thresholds.to(torch.float64).tolist():
        require(tau > 0, "thresholds", tau, "positive numbers")
        # Directions below tau are flat, the others are steep.
        flat = eigen.values < tau
        force, size = parts[flat].sum(0), float(whole.square().sum())
        size_steep = largest_singular(eigen.couplings[~flat]) * float(x[~flat].norm())
        shares.append(
            SteepPart(
                threshold=tau,
                bound=float(kernel(x.new_tensor(tau), rate, steps)) * size_steep,
                steep=float(parts[~flat].sum(0).norm()),
                flat=float(force.norm()),
                share=float(force @ whole) / size if size else math.nan,
                expected_share=float(energies[flat].sum()) / energy if energy else math.nan,
                conditions=(
                    Condition("eta tau <= 1", rate * tau <= 1, rate * tau),
                    Condition("eta lam_max < 2", most < 2, most),
                ),
            )
        )
    return shares


@dataclass(frozen=True)
class Window:
    """The range of K in which the limit "sum of 1 / lam" describes a run, in steps."""

    first: float
    """``3 / (eta lam_min)``: from this K on the flattest valley direction has settled."""
    last: float
    """``0.1 / (eta max(||D||, ||B^T A^-1 B||))``: up to this K the river's own curvature is negligible."""

    @property
    def is_open(self) -> bool:
        """Whether the range is not empty, that is, whether lam_min is at least 30 times the river's curvature."""
        return self.first <= self.last


def validity_window(model: Quadratic, rate: float, steps: int | None = None) -> Window:
    """Compute for which K the limit of theorem 1 holds: after the valley has settled, before the river's curvature matters.

    Statement: ``3 / (eta lam_min) <= K <= 0.1 / (eta max(||D||, ||B^T A^-1 B||))``. The paper takes the limit without this range.
    If lam_min is about as small as the river's curvature, the limit contradicts its own assumption.

    Args:
        model: the whole quadratic model.
        rate: eta.
        steps: K; a K outside the range gives a `HorizonWarning`.
    Raises:
        UnstableDirectionError: a valley eigenvalue is not positive.
    Example:
        >>> from thalweg.theory.quadratic import quadratic
        >>> model = quadratic(torch.tensor([[0.1]]), torch.zeros(1, 1), torch.tensor([[1e-3]]))
        >>> [round(number) for number in vars(validity_window(model, rate=1.0)).values()]
        [30, 100]

    Source:
        Ours, for the limit in theorem 1 of arXiv 2510.10089.
    """
    eta, eigen = positive_rate(rate), modes(model)
    least = float(eigen.values.min())
    if least <= 0:
        raise UnstableDirectionError(f"window: smallest valley eigenvalue is {least:.3g}, expected all above 0")
    # B^T A^-1 B: curvature that the river gains or loses because the valley follows it.
    relaxing = eigen.couplings.T @ (eigen.couplings / eigen.values.unsqueeze(1))
    curved = max(largest_singular(model.river), largest_singular(relaxing))
    window = Window(3 / (eta * least), 0.1 / (eta * curved) if curved else math.inf)
    if steps is not None and not window.first <= positive_steps(steps) <= window.last:
        warn(
            f"steps: {steps}, the limit holds from {window.first:.3g} to {window.last:.3g}; use the finite-K formulas",
            HorizonWarning,
        )
    return window


def _start_modes(eigen: Modes, start: Tensor) -> Tensor:
    """Coordinates of the start in the valley's eigenvectors, ``c = U^T x_0``, ``(dV,)``."""
    return eigen.vectors.T @ shaped("start", start, len(eigen.values))


def largest_singular(matrix: Tensor) -> float:
    """Compute the operator norm of a matrix; 0 for an empty one."""
    return float(torch.linalg.matrix_norm(matrix, 2)) if matrix.numel() else 0.0
