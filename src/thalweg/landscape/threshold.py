"""Where the river ends: rules for the threshold epsilon between river and valley.

Shape letters: n number of eigenvalues, N samples.

Every rule follows the scale of H and does not change under rotations. "Size" means the absolute value of an eigenvalue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import as_operator
from thalweg.errors import EmptySubspaceError, ShapeMismatchError, UnstableDirectionError, require
from thalweg.landscape.noise import Batches, NoiseFloor, noise_floor
from thalweg.theory.inputs import Condition, spectrum

PLATEAU = 0.3
"""Decades free of eigenvalues around the threshold, below which river and valley are not separate."""


def sizes(values: Tensor) -> Tensor:
    """``|lam|``, falling.

    Raises:
        EmptySubspaceError: no eigenvalue, or all of them zero.
    """
    magnitudes = spectrum("values", values).abs().sort(descending=True).values
    if not len(magnitudes) or not magnitudes[0]:
        raise EmptySubspaceError(f"values: {len(magnitudes)} eigenvalues, none other than 0, expected a spectrum with a valley")
    return magnitudes


def machine_floor(values: Tensor, precision: torch.dtype | None = None) -> float:
    """``n u rho``: smaller eigenvalues are rounding.

    Args:
        values: ``(n,)``; rho is the largest size.
        precision: of the arithmetic that made H, which is not that of the eigensolver: float32 for float32 products. None takes
            the dtype of ``values``. u is its machine epsilon.
    Example:
        >>> machine_floor(torch.tensor([2.0, 0.0]), torch.float32) == 4 * torch.finfo(torch.float32).eps
        True
    """
    precision = values.dtype if precision is None else precision
    require(precision.is_floating_point, "precision", precision, "a floating-point dtype, such as torch.float32")
    return float(sizes(values)[0]) * len(values) * torch.finfo(precision).eps


def relative(values: Tensor, share: float = 1e-3) -> float:
    """``c rho``, a baseline only: it knows nothing of noise, and misses a planted dimension in most noisy spectra."""
    require(0 < share < 1, "share", share, "a number between 0 and 1")
    return share * float(sizes(values)[0])


@dataclass(frozen=True)
class Plateau:
    """A range of thresholds that all give the same split."""

    low: float
    """The largest size below; the machine floor where there is none above it. As H."""
    high: float
    """The smallest size above; as H."""
    above: int
    """Number of eigenvalues with a size above."""

    @property
    def decades(self) -> float:
        """``log10(high / low)``."""
        return math.log10(self.high / self.low)


def plateaus(values: Tensor, precision: torch.dtype | None = None) -> tuple[Plateau, ...]:
    """All of them, from the top down: the gaps of ``log |lam|``, then the one between the smallest size and the machine floor."""
    floor = machine_floor(values, precision)
    edges = [*sizes(values).clamp_min(floor).tolist(), floor]
    return tuple(Plateau(edges[k], edges[k - 1], k) for k in range(1, len(edges)))


def plateau(values: Tensor, epsilon: float, precision: torch.dtype | None = None) -> Plateau:
    """The one around a threshold; of no length at or above the largest size, where no eigenvalue is left."""
    floor = machine_floor(values, precision)
    magnitudes = sizes(values).clamp_min(floor)
    above = int((magnitudes > epsilon).sum())
    low = float(magnitudes[above]) if above < len(magnitudes) else floor
    return Plateau(low, float(magnitudes[above - 1]) if above else low, above)


@dataclass(frozen=True)
class LogGap:
    """The widest plateau."""

    epsilon: float
    """Geometric middle of the gap."""
    above: int
    """Number of eigenvalues with a size above."""
    decades: float
    """Width of the gap."""
    ratio: float
    """Over the width of the second widest; near 1 the choice is arbitrary. Infinite where there is no second."""


def log_gap(values: Tensor, least: int = 1, most: int | None = None, precision: torch.dtype | None = None) -> LogGap:
    """``k = argmax log(a_k / a_{k+1})`` over falling sizes, ``epsilon = sqrt(a_k a_{k+1})``.

    Sizes below the machine floor count as the floor: else the widest gap would lie between two roundings of zero.

    Args:
        values: ``(n,)``, n at least 2.
        least, most: range of k; most is n // 2 unless given.
    Example:
        >>> log_gap(torch.tensor([8.0, 4.0, 0.25, 0.25])).epsilon  # sqrt(4 * 0.25)
        1.0
    """
    count = len(values)
    if count < 2:
        raise EmptySubspaceError(f"values: {count} eigenvalues, expected at least 2 for a gap")
    most = count // 2 if most is None else most
    require(1 <= least <= most < count, "range of k", (least, most), f"1 <= least <= most < {count}")
    gaps = plateaus(values, precision)[least - 1 : most]
    widest = max(gaps, key=lambda gap: gap.decades)
    second = max((gap.decades for gap in gaps if gap is not widest), default=0.0)
    ratio = widest.decades / second if second else math.inf
    return LogGap(math.sqrt(widest.low) * math.sqrt(widest.high), widest.above, widest.decades, ratio)


def marchenko_pastur_median(aspect: float, points: int = 100_000) -> float:
    """Median of the Marchenko-Pastur law with unit variance and aspect gamma at most 1."""
    half, middle = 2 * math.sqrt(aspect), 1 + aspect
    angles = (torch.arange(points, dtype=torch.float64) + 0.5) * math.pi / points  # midpoints: the ends may divide by zero
    positions = middle - half * angles.cos()
    mass = (angles.sin().square() / positions).cumsum(0)
    return float(positions[mass <= mass[-1] / 2][-1])


@dataclass(frozen=True)
class MarchenkoPastur:
    """The upper edge of a sample covariance's bulk."""

    epsilon: float
    """``sigma^2 (1 + sqrt(gamma))^2 (1 + 2 m^(-2/3))``, m the smaller of n and N."""
    variance: float
    """sigma^2, of the noise."""
    aspect: float
    """gamma = n / N."""
    above: int
    """Number of eigenvalues above the edge."""


def marchenko_pastur(values: Tensor, samples: int, precision: torch.dtype | None = None) -> MarchenkoPastur:
    """The edge of the bulk of ``G = J^T J / N``, rows of J independent: Gauss-Newton, Fisher and gradient covariance.

    Equal noise in all directions is assumed; correlated features widen the bulk, and then this is too low. The variance
    is the bulk's median over the law's, outliers removed until none is left. With n > N the N eigenvalues that are not zero follow
    ``gamma`` times the law with aspect ``1 / gamma``.

    Args:
        values: all n, zeros included.
        samples: N.
    Raises:
        UnstableDirectionError: a negative eigenvalue: an indefinite Hessian has no such law.
    Source:
        V. A. Marchenko and L. A. Pastur, 1967; the width of the edge, 2 m^(-2/3), is ours.
    """
    require(samples >= 2, "samples", samples, "a whole number of at least 2")
    magnitudes, floor = sizes(values), machine_floor(values, precision)
    least = float(values.min())
    if least < -floor:
        raise UnstableDirectionError(f"values: smallest is {least:.3g}, Marchenko-Pastur expects a covariance; use noise_floor")
    aspect = len(magnitudes) / samples
    nonzero = magnitudes[: min(len(magnitudes), samples)]
    unit = marchenko_pastur_median(aspect) if aspect <= 1 else aspect * marchenko_pastur_median(1 / aspect)
    width = (1 + math.sqrt(aspect)) ** 2 * (1 + 2 * len(nonzero) ** (-2 / 3))
    bulk = nonzero
    while True:
        variance = float(bulk.quantile(0.5)) / unit
        inside = nonzero[nonzero <= variance * width]
        if len(inside) in (0, len(bulk)):
            return MarchenkoPastur(variance * width, variance, aspect, int((magnitudes > variance * width).sum()))
        bulk = inside


@dataclass(frozen=True)
class Threshold:
    """The threshold, and what every rule would have said."""

    epsilon: float
    """As H."""
    rule: str
    """The rule that gave it: log_gap, noise_floor or machine_floor."""
    floor: float
    """The machine floor."""
    relative: float
    """A thousandth of the largest size."""
    log_gap: LogGap
    noise_floor: NoiseFloor | None
    """None without batches."""
    marchenko_pastur: MarchenkoPastur | None
    """None without the number of samples; recorded, never chosen."""
    plateau: Plateau
    """Around epsilon."""
    conditions: tuple[Condition, ...]
    """A plateau of at least 0.3 decades; ||E|| < gap / 2 where there are batches."""


def threshold(
    values: Tensor,
    batches: Batches | None = None,
    samples: int | None = None,
    precision: torch.dtype | None = None,
    seed: int = 0,
) -> Threshold:
    """The larger of the widest log-gap and the noise floor; without batches the machine floor takes the place of the latter.

    Args:
        values: eigenvalues of H ``(n,)``; with batches, of their mean.
        batches: Hessians of independent batches, if H stands for the population's.
        samples: N, if H is a sample covariance.
        precision: of the arithmetic that made H, see `machine_floor`.
    Raises:
        ShapeMismatchError: batches of another dimension than the number of eigenvalues.
    Source:
        Ours.
    Example:
        >>> found = threshold(torch.tensor([8.0, 4.0, 0.25, 0.25]))
        >>> found.epsilon, found.rule, found.plateau.above
        (1.0, 'log_gap', 2)
    """
    noise = None if batches is None else noise_floor(batches, seed=seed)
    if batches is not None and as_operator(batches[0]).dim != len(values):
        raise ShapeMismatchError(f"values: {len(values)} eigenvalues, expected {as_operator(batches[0]).dim} as in the batches")
    gap, floor = log_gap(values, precision=precision), machine_floor(values, precision)
    rules = {"log_gap": gap.epsilon, "machine_floor": floor} | ({"noise_floor": noise.epsilon} if noise else {})
    rule = max(rules, key=lambda name: rules[name])
    gap_around = plateau(values, rules[rule], precision)
    wide_enough = Condition(f"plateau >= {PLATEAU:g} decades", gap_around.decades >= PLATEAU, gap_around.decades)
    return Threshold(
        rules[rule],
        rule,
        floor,
        relative(values),
        gap,
        noise,
        None if samples is None else marchenko_pastur(values, samples, precision),
        gap_around,
        (wide_enough, *(noise.conditions if noise else ())),
    )
