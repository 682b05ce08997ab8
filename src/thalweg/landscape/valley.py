"""The class of a valley, U (all directions about equally steep) or V (flat and steep ones together), and its comparison.

The valley are the eigenvalues above a threshold epsilon. Its class follows from ``kappa_q``, the quotient of their 90 % and 10 %
quantiles. The condition number alone classifies nothing: ``kappa <= rho / epsilon``, and it is 1 for epsilon between the two
largest eigenvalues, so every spectrum is U for one threshold and V for another. A class therefore belongs to a threshold that
lies on a plateau, a range of thresholds that all give the same split.

Shape letters: n number of eigenvalues, S seeds, b batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thalweg.errors import EmptySubspaceError, InsufficientDataError, ShapeMismatchError, require
from thalweg.intervals import Interval, interval, student_quantile
from thalweg.landscape.noise import Batches, dense_batches
from thalweg.landscape.split import parts
from thalweg.landscape.threshold import plateau, threshold
from thalweg.records.landscape import MIN_VALLEY, PLATEAU, ClassName
from thalweg.reprs import short_repr
from thalweg.streams import stream
from thalweg.theory.inputs import Condition

QUANTILE = 0.1
"""q of ``kappa_q``, the quotient of the 1 - q and the q quantile."""
FOR_QUANTILES = 10
"""Number of valley directions from which on quantiles replace the largest and smallest eigenvalue."""
_MAX_RIDGE = 0.05
"""Share of ``sum |lam|`` below -epsilon, above which the point is a saddle."""
MIN_SEEDS = 5
"""Fewest seeds of an interval or a test."""
_EXACT_SEEDS = 16
"""Number of seeds up to which the sign-flip test takes all sign patterns; beyond, it draws 100,000."""


@dataclass(frozen=True)
class Shape:
    """The numbers that describe a spectrum split at a threshold epsilon."""

    valley: int
    """dV, number of eigenvalues above epsilon."""
    river: int
    """dR, number of eigenvalues of size at most epsilon."""
    ridge: int
    """Number of eigenvalues below -epsilon."""
    kappa: float
    """Condition number: largest over smallest eigenvalue of the valley; NaN where it is empty."""
    kappa_q: float
    """90 % over 10 % quantile of the valley's eigenvalues; kappa where it has fewer than 10."""
    by_quantiles: bool
    """Whether kappa_q comes from quantiles."""
    spread: float
    """Standard deviation of ``log lam`` over the valley, in nats; NaN where it is empty."""
    ridge_mass: float
    """``sum |lam|`` over eigenvalues below -epsilon, as a share of the sum over all."""
    plateau: float
    """Width of the range around epsilon without an eigenvalue, in decades."""

    @property
    def log10_kappa_q(self) -> float:
        """``log10 kappa_q``, by which two models can be compared without any bound of a class."""
        return math.log10(self.kappa_q)


def shape(values: Tensor, epsilon: float, precision: torch.dtype | None = None) -> Shape:
    """Describe a spectrum that is split at a threshold: counts, condition numbers, ridge mass and plateau.

    Args:
        values: eigenvalues ``(n,)`` in any order, not all zero.
        epsilon: the threshold, in units of the eigenvalues, at least 0.
        precision: dtype of the arithmetic that computed H, for the machine floor; None takes the dtype of the values.
    Returns:
        The numbers; an empty valley has kappa NaN.
    Raises:
        EmptySubspaceError: all eigenvalues are zero.
    Example:
        >>> spectrum_shape = shape(torch.tensor([4.0, 1.0, 0.001]), 0.03)
        >>> spectrum_shape.valley, spectrum_shape.kappa
        (2, 4.0)
    """
    split = parts(values, epsilon)
    valley, gap = split.valley, plateau(values, epsilon, precision)
    kappa = float(valley[-1] / valley[0]) if len(valley) else math.nan
    by_quantiles = len(valley) >= FOR_QUANTILES
    quantiles = valley.quantile(torch.tensor([QUANTILE, 1 - QUANTILE], dtype=valley.dtype)) if by_quantiles else None
    return Shape(
        valley=len(valley),
        river=len(split.river),
        ridge=len(split.ridge),
        kappa=kappa,
        kappa_q=kappa if quantiles is None else float(quantiles[1] / quantiles[0]),
        by_quantiles=by_quantiles,
        spread=float(valley.log().std(unbiased=False)) if len(valley) else math.nan,
        ridge_mass=split.ridge_mass,
        plateau=gap.decades,
    )


def condition_number(values: Tensor, epsilon: float) -> float:
    """The condition number of the valley, its largest over its smallest eigenvalue.

    Args:
        values: eigenvalues ``(n,)``, not all zero.
        epsilon: threshold, in units of the eigenvalues.
    Raises:
        EmptySubspaceError: no eigenvalue above epsilon.
    """
    outcome = shape(values, epsilon)
    if not outcome.valley:
        raise EmptySubspaceError(f"valley: no eigenvalue above epsilon = {epsilon:.3g}, expected at least one; lower epsilon")
    return outcome.kappa


@dataclass(frozen=True)
class Class:
    """The class of a valley, with everything that decided it."""

    name: ClassName
    """U, V, saddle, or indeterminate where the interval or a condition decides nothing."""
    kappa_q: float
    """kappa_q of the spectrum; over seeds its geometric mean."""
    low: float
    """Lower end of the 95 % interval of kappa_q; kappa_q itself for one spectrum without batches."""
    high: float
    """Upper end of the 95 % interval."""
    source: Literal["spectrum", "seeds", "batches"]
    """What the interval is over."""
    shapes: tuple[Shape, ...]
    """Shapes of the spectrum, or of every seed; for batches, of their mean and of every mean with one left out."""
    conditions: tuple[Condition, ...]
    """Conditions on ridge mass, plateau and size of the valley, each for the worst seed."""


def classify_shapes(
    shapes: Sequence[Shape],
    kappa: tuple[float, float, float],
    source: Literal["spectrum", "seeds", "batches"],
    flat: float,
    steep: float,
) -> Class:
    """Decide the class of a valley from the shapes of its spectra and the interval of kappa_q.

    U where the whole interval lies at or below ``flat``, V where it lies at or above ``steep``, else indeterminate. Indeterminate
    too where a condition fails, except that the class is saddle where every spectrum has too much ridge mass.

    Args:
        shapes: shapes of all spectra.
        kappa: kappa_q with the lower and the upper end of its interval.
        source: what the interval is over.
        flat: largest kappa_q of a U.
        steep: smallest kappa_q of a V, above ``flat``.
    """
    require(1 <= flat < steep, "flat, steep", (flat, steep), "1 <= flat < steep")
    masses = [each.ridge_mass for each in shapes]
    narrow, few = min(each.plateau for each in shapes), min(each.valley for each in shapes)
    conditions = (
        Condition(f"ridge mass <= {_MAX_RIDGE:g}", max(masses) <= _MAX_RIDGE, max(masses)),
        Condition(f"plateau >= {PLATEAU:g} decades", narrow >= PLATEAU, narrow),
        Condition(f"directions in the valley >= {MIN_VALLEY}", few >= MIN_VALLEY, few),
    )
    name: ClassName = "indeterminate"
    if min(masses) > _MAX_RIDGE:
        name = "saddle"
    elif all(condition.held for condition in conditions):
        name = "U" if kappa[2] <= flat else "V" if kappa[1] >= steep else "indeterminate"
    return Class(name, *kappa, source, tuple(shapes), conditions)


def classify(
    values: Tensor, epsilon: float | None = None, flat: float = 2.0, steep: float = 10.0, precision: torch.dtype | None = None
) -> Class:
    """The class of one spectrum, without an interval.

    U for ``kappa_q <= flat``, V for ``kappa_q >= steep``, saddle for a ridge mass above 5 %, else indeterminate. Indeterminate
    too where the threshold has less than 0.3 decades of plateau, or the valley fewer than 3 directions. Both bounds are
    conventions: compare two models by `contrast`.

    Args:
        values: eigenvalues ``(n,)``, not all zero.
        epsilon: threshold; None takes the default rule, see `thalweg.landscape.threshold.threshold`.
        flat: largest kappa_q of a U, at least 1.
        steep: smallest kappa_q of a V, above ``flat``.
        precision: dtype of the arithmetic that computed H.
    Source:
        Ours; the paper classifies by kappa alone.
    Example:
        >>> classify(torch.tensor([3.0, 2.5, 2.0, 1e-6, 1e-6, 1e-6])).name
        'U'
    """
    epsilon = threshold(values, precision=precision).epsilon if epsilon is None else epsilon
    return classify_shape(shape(values, epsilon, precision), flat, steep)


def classify_shape(given: Shape, flat: float = 2.0, steep: float = 10.0) -> Class:
    """The class of one spectrum from its shape, see `classify`."""
    return classify_shapes([given], (given.kappa_q, given.kappa_q, given.kappa_q), "spectrum", flat, steep)


def shapes_of(
    spectra: Sequence[Tensor], epsilons: Sequence[float] | None = None, precision: torch.dtype | None = None
) -> tuple[Shape, ...]:
    """The shape of every seed's spectrum.

    Args:
        spectra: eigenvalues ``(n,)`` of each seed.
        epsilons: a threshold for each seed; None takes the default rule.
        precision: dtype of the arithmetic that computed H.
    Raises:
        ShapeMismatchError: spectra of different sizes.
    """
    shapes = []
    for number, values in enumerate(spectra):
        if len(values) != len(spectra[0]):
            counts = f"{len(values)} eigenvalues, expected {len(spectra[0])}"
            raise ShapeMismatchError(f"spectrum {number}: {counts} as in spectrum 0; compare models with equally many parameters")
        epsilon = threshold(values, precision=precision).epsilon if epsilons is None else epsilons[number]
        shapes.append(shape(values, epsilon, precision))
    return tuple(shapes)


def classify_seeds(
    spectra: Sequence[Tensor],
    epsilons: Sequence[float] | None = None,
    flat: float = 2.0,
    steep: float = 10.0,
    precision: torch.dtype | None = None,
) -> Class:
    """The class over seeds, by the 95 % t-interval of the mean of ``log kappa_q``; see `classify`.

    Args:
        spectra: eigenvalues ``(n,)`` of each seed.
        epsilons: a threshold for each seed; None takes the default rule.
        flat, steep, precision: as for `classify`.
    Raises:
        InsufficientDataError: fewer than 5 seeds.
        ShapeMismatchError: spectra of different sizes.
    """
    if len(spectra) < MIN_SEEDS:
        raise InsufficientDataError(f"spectra: given {len(spectra)} seeds, expected at least {MIN_SEEDS} for an interval")
    shapes = shapes_of(spectra, epsilons, precision)
    logs = interval([math.log(each.kappa_q) for each in shapes])
    mean, low, high = (math.nan if end is None else math.exp(end) for end in (logs.mean, logs.low, logs.high))
    return classify_shapes(shapes, (mean, low, high), "seeds", flat, steep)


def classify_batches(
    batches: Batches, epsilon: float | None = None, flat: float = 2.0, steep: float = 10.0, precision: torch.dtype | None = None
) -> Class:
    """The class of one network, by the jackknife over batches: ``se^2 = (b-1)/b sum_i (l_i - mean l)^2``, l_i without batch i.

    The interval is ``log kappa_q`` of the mean Hessian plus and minus t times se, with b - 1 degrees of freedom. It describes the
    noise of the batches, not the differences between seeds. The threshold stays that of the mean. Costs b + 1 eigenvalue problems.

    Args:
        batches: Hessians of independent batches at one point.
        epsilon: threshold; None takes the default rule with the noise of the batches.
        flat, steep: as for `classify`.
        precision: dtype of the arithmetic that computed H; None takes that of the batches.
    Raises:
        InsufficientDataError: fewer than 2 batches, for the noise.
    Source:
        Ours; the jackknife is J. W. Tukey's, 1958.
    """
    stack = dense_batches(batches)
    count, mean = len(stack), stack.mean(0)
    without = torch.linalg.eigvalsh((count * mean - stack) / (count - 1))
    # `without` holds the spectra of the means with one batch left out.
    values = torch.linalg.eigvalsh(mean)
    precision = batches[0].dtype if precision is None else precision
    epsilon = threshold(values, stack, precision=precision).epsilon if epsilon is None else epsilon
    whole, jackknife_shapes = shape(values, epsilon, precision), [shape(each, epsilon, precision) for each in without]
    logs = torch.tensor([math.log(each.kappa_q) for each in jackknife_shapes], dtype=torch.float64)
    half = student_quantile(0.975, count - 1) * float(((count - 1) * logs.var(unbiased=False)).sqrt())
    ends = (whole.kappa_q, whole.kappa_q * math.exp(-half), whole.kappa_q * math.exp(half))
    return classify_shapes([whole, *jackknife_shapes], ends, "batches", flat, steep)


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of the hypothesis that differences are symmetric about zero.

    The share of sign patterns for which the sum is at least as far from zero as the observed sum. All ``2^n`` patterns up to 16
    differences; beyond, 100,000 random patterns and the observed one. The smallest p-value of n differences is ``2 / 2^n``:
    0.063 for 5 and 0.031 for 6.

    Args:
        differences: one for each pair, for instance for each seed.
    Source:
        R. A. Fisher, The design of experiments, 1935.

    Example:
        >>> sign_flip_test([1.0, 2.0, 3.0])
        0.25
    """
    count = len(differences)
    observed = torch.tensor(differences, dtype=torch.float64)
    if count <= _EXACT_SEEDS:
        signs = 1.0 - 2.0 * ((torch.arange(2**count).unsqueeze(1) >> torch.arange(count)) & 1)
    else:
        drawn = torch.from_numpy(stream(0, "bootstrap").choice([-1.0, 1.0], (100_000, count)))
        signs = torch.cat([torch.ones(1, count, dtype=torch.float64), drawn])
    sums = (signs.to(torch.float64) @ observed).abs()
    return float((sums >= float(observed.sum().abs()) - 1e-12 * float(observed.abs().sum())).double().mean())


@short_repr
@dataclass(frozen=True)
class Contrast:
    """The valleys of two models compared without any bound of a class."""

    differences: Tensor
    """``log kappa_q`` of the second model minus that of the first, ``(S,)``, in nats."""
    mean: Interval
    """Mean of the differences, with its 95 % t-interval."""
    p_value: float
    """p-value of the sign-flip test; at least ``2 / 2^S``."""


def contrast(first: Sequence[Shape], second: Sequence[Shape]) -> Contrast:
    """Compare two models by ``Delta = log kappa_q(second) - log kappa_q(first)``, paired over seeds.

    Delta is above zero where the second model's valley has the larger spread of steepness.

    Args:
        first, second: shapes of the same seeds in the same order, see `shapes_of`.
    Raises:
        InsufficientDataError: fewer than 5 seeds; a p-value below 0.05 needs 6.
        ShapeMismatchError: different numbers of seeds.
        EmptySubspaceError: a seed without a valley.
    Source:
        Ours; R. A. Fisher, The design of experiments, 1935, for the test.
    """
    if len(first) != len(second):
        raise ShapeMismatchError(f"seeds: {len(first)} of the first model and {len(second)} of the second, expected pairs")
    if len(first) < MIN_SEEDS:
        raise InsufficientDataError(f"seeds: given {len(first)} pairs, expected at least {MIN_SEEDS}")
    for number, pair in enumerate(zip(first, second, strict=True)):
        if not (pair[0].valley and pair[1].valley):
            raise EmptySubspaceError(f"seed {number}: a valley without directions, expected some in both models; lower epsilon")
    differences = [math.log(b.kappa_q) - math.log(a.kappa_q) for a, b in zip(first, second, strict=True)]
    return Contrast(torch.tensor(differences, dtype=torch.float64), interval(differences), sign_flip_test(differences))
