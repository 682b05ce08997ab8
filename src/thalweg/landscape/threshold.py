"""Rules for the threshold epsilon between river (small eigenvalues) and valley (large ones).

The rules: the machine floor (below it eigenvalues are rounding), a share of the largest size, the widest gap of the logarithms
(`log_gap`), the noise of the batches (`thalweg.landscape.noise`), and the edge of the Marchenko-Pastur law for covariances.
`threshold` computes all and takes the larger of gap and noise. Every rule scales with H and is invariant under rotations. "Size"
means the absolute value of an eigenvalue.

Shape letters: n number of eigenvalues, N samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import as_operator
from thalweg.errors import EmptySubspaceError, ShapeMismatchError, UnstableDirectionError, require
from thalweg.landscape.noise import Batches, NoiseFloor, noise_floor
from thalweg.records.landscape import PLATEAU
from thalweg.theory.inputs import Condition, spectrum


def sizes(values: Tensor) -> Tensor:
    """The sizes ``|lam|`` of eigenvalues ``(n,)``, in falling order, float64.

    Raises:
        EmptySubspaceError: no eigenvalue, or all of them zero.
    """
    magnitudes = spectrum("values", values).abs().sort(descending=True).values
    if not len(magnitudes) or not magnitudes[0]:
        raise EmptySubspaceError(f"values: {len(magnitudes)} eigenvalues, none other than 0, expected a spectrum with a valley")
    return magnitudes


def machine_floor(values: Tensor, precision: torch.dtype | None = None) -> float:
    """The machine floor ``n u rho``, below which eigenvalues are rounding.

    Args:
        values: eigenvalues ``(n,)``; rho is the largest size.
        precision: dtype of the arithmetic that computed H, which may differ from that of the eigensolver: float32 for float32
            products. None takes the dtype of ``values``. u is its machine epsilon.
    Returns:
        The floor, in units of the eigenvalues.
    Raises:
        EmptySubspaceError: no eigenvalue, or all of them zero.
    Example:
        >>> machine_floor(torch.tensor([2.0, 0.0]), torch.float32) == 4 * torch.finfo(torch.float32).eps
        True
    """
    precision = values.dtype if precision is None else precision
    require(precision.is_floating_point, "precision", precision, "a floating-point dtype, such as torch.float32")
    return float(sizes(values)[0]) * len(values) * torch.finfo(precision).eps


def relative(values: Tensor, share: float = 1e-3) -> float:
    """The threshold ``c rho``, a baseline only: it ignores noise, and misses a planted dimension in most noisy spectra.

    Args:
        values: eigenvalues ``(n,)``; rho is the largest size.
        share: c, between 0 and 1.
    """
    require(0 < share < 1, "share", share, "a number between 0 and 1")
    return share * float(sizes(values)[0])


@dataclass(frozen=True)
class Plateau:
    """A range of thresholds that all give the same split."""

    low: float
    """The largest size below the range; the machine floor where there is none above it. In units of H."""
    high: float
    """The smallest size above the range, in units of H."""
    above: int
    """Number of eigenvalues with a size above the range."""

    @property
    def decades(self) -> float:
        """Width of the range, ``log10(high / low)``."""
        return math.log10(self.high / self.low)


def plateaus(values: Tensor, precision: torch.dtype | None = None) -> tuple[Plateau, ...]:
    """All plateaus of a spectrum, from the largest eigenvalue down.

    They are the gaps between neighbouring ``log |lam|``, and last the gap between the smallest size and the machine floor.

    Args:
        values: eigenvalues ``(n,)``.
        precision: see `machine_floor`.
    Returns:
        n plateaus; some may have no width.
    """
    floor = machine_floor(values, precision)
    edges = [*sizes(values).clamp_min(floor).tolist(), floor]
    return tuple(Plateau(edges[k], edges[k - 1], k) for k in range(1, len(edges)))


def plateau(values: Tensor, epsilon: float, precision: torch.dtype | None = None) -> Plateau:
    """The plateau around a threshold.

    Args:
        values: eigenvalues ``(n,)``.
        epsilon: threshold, in units of H.
        precision: see `machine_floor`.
    Returns:
        A plateau without width for a threshold at or above the largest size.
    """
    floor = machine_floor(values, precision)
    magnitudes = sizes(values).clamp_min(floor)
    above = int((magnitudes > epsilon).sum())
    low = float(magnitudes[above]) if above < len(magnitudes) else floor
    return Plateau(low, float(magnitudes[above - 1]) if above else low, above)


@dataclass(frozen=True)
class LogGap:
    """The widest gap between the logarithms of neighbouring sizes."""

    epsilon: float
    """Geometric middle of the gap, in units of H."""
    above: int
    """Number of eigenvalues with a size above the gap."""
    decades: float
    """Width of the gap in decades."""
    ratio: float
    """Width over that of the second widest gap; near 1 the choice is arbitrary. Infinite where there is no second one."""


def log_gap(values: Tensor, least: int = 1, most: int | None = None, precision: torch.dtype | None = None) -> LogGap:
    """The threshold in the widest gap: ``k = argmax log(a_k / a_{k+1})`` over falling sizes a, ``epsilon = sqrt(a_k a_{k+1})``.

    Sizes below the machine floor count as the floor: otherwise the widest gap could lie between two roundings of zero.

    Args:
        values: eigenvalues ``(n,)``, n at least 2.
        least, most: range of k; None takes n // 2 for ``most``.
        precision: see `machine_floor`.
    Raises:
        EmptySubspaceError: fewer than 2 eigenvalues, or all zero.
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
    """Median of the Marchenko-Pastur law with unit variance and aspect gamma at most 1.

    The density is ``sqrt((b - x)(x - a)) / (2 pi gamma x)`` with ``a, b = (1 -+ sqrt(gamma))^2``. With
    ``x = 1 + gamma - 2 sqrt(gamma) cos(phi)`` it becomes ``sin(phi)^2 / x`` up to a factor, which is summed over phi.

    Args:
        aspect: gamma.
        points: number of points of the sum.
    """
    half, middle = 2 * math.sqrt(aspect), 1 + aspect
    angles = (torch.arange(points, dtype=torch.float64) + 0.5) * math.pi / points  # midpoints: the ends may divide by zero
    positions = middle - half * angles.cos()
    mass = (angles.sin().square() / positions).cumsum(0)
    return float(positions[mass <= mass[-1] / 2][-1])


@dataclass(frozen=True)
class MarchenkoPastur:
    """The upper edge of a sample covariance's bulk."""

    epsilon: float
    """``sigma^2 (1 + sqrt(gamma))^2 (1 + 2 m^(-2/3))``, m the smaller of n and N; in units of H."""
    variance: float
    """sigma^2, the variance of the noise."""
    aspect: float
    """gamma = n / N, parameters over samples."""
    above: int
    """Number of eigenvalues above the edge."""


def marchenko_pastur(values: Tensor, samples: int, precision: torch.dtype | None = None) -> MarchenkoPastur:
    """The edge of the bulk of ``G = J^T J / N`` with independent rows of J, as for Gauss-Newton, Fisher and gradient covariance.

    Equal noise in all directions is assumed; correlated features widen the bulk, and then the edge is too low. The variance
    is the bulk's median over that of the law, where eigenvalues above the edge are removed until none is left. With n > N the N
    eigenvalues that are not zero follow ``gamma`` times the law with aspect ``1 / gamma``.

    Args:
        values: all n eigenvalues, zeros included.
        samples: N, at least 2.
        precision: see `machine_floor`.
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
    # Fit the variance by the median, remove what lies above the edge, and repeat until nothing is removed.
    bulk = nonzero
    while True:
        variance = float(bulk.quantile(0.5)) / unit
        inside = nonzero[nonzero <= variance * width]
        if len(inside) in (0, len(bulk)):
            return MarchenkoPastur(variance * width, variance, aspect, int((magnitudes > variance * width).sum()))
        bulk = inside


@dataclass(frozen=True)
class Threshold:
    """The threshold, and the results of all rules."""

    epsilon: float
    """The threshold, in units of H."""
    rule: str
    """The rule that it comes from: log_gap, noise_floor or machine_floor."""
    floor: float
    """The machine floor, in units of H."""
    relative: float
    """A thousandth of the largest size, in units of H."""
    log_gap: LogGap
    """The widest gap."""
    noise_floor: NoiseFloor | None
    """Noise of the batches; None without batches."""
    marchenko_pastur: MarchenkoPastur | None
    """Edge of the bulk; None without the number of samples. Recorded, never chosen."""
    plateau: Plateau
    """The plateau around epsilon."""
    conditions: tuple[Condition, ...]
    """A plateau of at least 0.3 decades; and ``||E|| < gap / 2`` where there are batches."""


def threshold(
    values: Tensor,
    batches: Batches | None = None,
    samples: int | None = None,
    precision: torch.dtype | None = None,
    seed: int = 0,
) -> Threshold:
    """The default threshold: the larger of the widest log-gap and the noise floor, or the machine floor without batches.

    Args:
        values: eigenvalues of H ``(n,)``, n at least 2; with batches, of their mean.
        batches: Hessians of independent batches, if H stands for that of the population.
        samples: N, if H is a sample covariance.
        precision: dtype of the arithmetic that computed H, see `machine_floor`.
        seed: seed of the noise floor.
    Raises:
        ShapeMismatchError: batches of another dimension than the number of eigenvalues.
    Source:
        Ours.
    Example:
        >>> rule = threshold(torch.tensor([8.0, 4.0, 0.25, 0.25]))
        >>> rule.epsilon, rule.rule, rule.plateau.above
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
