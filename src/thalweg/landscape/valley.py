"""The class of a valley, U (all its directions about equally steep) or V (flat and steep ones together), and its comparison.

Shape letters: n number of eigenvalues, S seeds, b batches.

The condition number alone classifies nothing: ``kappa <= rho / epsilon``, and it is 1 for epsilon between the two largest
eigenvalues, so every spectrum is U for one threshold and V for another. A class belongs to a threshold on a plateau.
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
from thalweg.landscape.threshold import PLATEAU, plateau, threshold
from thalweg.streams import stream
from thalweg.theory.inputs import Condition

QUANTILE = 0.1
"""q of kappa_q."""
FOR_QUANTILES = 10
"""Valley directions from which quantiles replace largest and smallest."""
_MIN_VALLEY = 3
"""Valley directions below which there is no class."""
_MAX_NEGATIVE = 0.05
"""Share of ``sum |lam|`` below -epsilon, above which the point is a saddle."""
MIN_SEEDS = 5
_EXACT_SEEDS = 16
"""Seeds up to which every sign is flipped; beyond, 100 000 random ones."""

_Name = Literal["U", "V", "saddle", "indeterminate"]


@dataclass(frozen=True)
class Shape:
    """How a spectrum looks at a threshold."""

    valley: int
    """dV, number of eigenvalues above epsilon."""
    river: int
    ridge: int
    """Number below -epsilon."""
    kappa: float
    """Largest over smallest eigenvalue of the valley; NaN where it is empty."""
    kappa_q: float
    """90 % over 10 % quantile of the valley's eigenvalues; kappa where it has fewer than 10."""
    by_quantiles: bool
    """Whether kappa_q comes from quantiles."""
    spread: float
    """Standard deviation of ``log lam`` over the valley; nats."""
    negative_mass: float
    """``sum |lam|`` below -epsilon over that of all."""
    plateau: float
    """Decades around epsilon without an eigenvalue."""

    @property
    def log10_kappa_q(self) -> float:
        """To compare two models without any threshold of class."""
        return math.log10(self.kappa_q)


def shape(values: Tensor, epsilon: float, precision: torch.dtype | None = None) -> Shape:
    """Condition numbers and conditions of a spectrum at a threshold; an empty valley has kappa NaN.

    Args:
        values: ``(n,)``, not all zero.
        precision: of the arithmetic that made H, for the machine floor.
    Example:
        >>> found = shape(torch.tensor([4.0, 1.0, 0.001]), 0.03)
        >>> found.valley, found.kappa
        (2, 4.0)
    """
    found = parts(values, epsilon)
    valley, around = found.valley, plateau(values, epsilon, precision)
    kappa = float(valley[-1] / valley[0]) if len(valley) else math.nan
    enough = len(valley) >= FOR_QUANTILES
    quantiles = valley.quantile(torch.tensor([QUANTILE, 1 - QUANTILE], dtype=valley.dtype)) if enough else None
    return Shape(
        valley=len(valley),
        river=len(found.river),
        ridge=len(found.ridge),
        kappa=kappa,
        kappa_q=kappa if quantiles is None else float(quantiles[1] / quantiles[0]),
        by_quantiles=enough,
        spread=float(valley.log().std(unbiased=False)) if len(valley) else math.nan,
        negative_mass=found.negative_mass,
        plateau=around.decades,
    )


def condition_number(values: Tensor, epsilon: float) -> float:
    """kappa of the valley.

    Raises:
        EmptySubspaceError: no eigenvalue above epsilon.
    """
    found = shape(values, epsilon)
    if not found.valley:
        raise EmptySubspaceError(f"valley: no eigenvalue above epsilon = {epsilon:.3g}, expected at least one; lower epsilon")
    return found.kappa


@dataclass(frozen=True)
class Class:
    """U, V, saddle or indeterminate, with everything that decided."""

    name: _Name
    kappa_q: float
    """Of the spectrum; over seeds their geometric mean."""
    low: float
    """Of the 95 % interval of kappa_q; kappa_q itself for one spectrum without batches."""
    high: float
    source: Literal["spectrum", "seeds", "batches"]
    """What the interval comes from."""
    shapes: tuple[Shape, ...]
    """Of the spectrum, or of every seed; for batches of their mean and of every mean with one left out."""
    conditions: tuple[Condition, ...]
    """Of the worst seed: negative mass, plateau, size of the valley."""


def decided(
    shapes: Sequence[Shape],
    kappa: tuple[float, float, float],
    source: Literal["spectrum", "seeds", "batches"],
    flat: float,
    steep: float,
) -> Class:
    """U where the whole interval lies below, V where it lies above; no class where a condition fails.

    Saddle where every spectrum has too much negative mass; where only some have, indeterminate.
    """
    require(1 <= flat < steep, "flat, steep", (flat, steep), "1 <= flat < steep")
    masses = [found.negative_mass for found in shapes]
    narrow, few = min(found.plateau for found in shapes), min(found.valley for found in shapes)
    conditions = (
        Condition(f"negative mass <= {_MAX_NEGATIVE:g}", max(masses) <= _MAX_NEGATIVE, max(masses)),
        Condition(f"plateau >= {PLATEAU:g} decades", narrow >= PLATEAU, narrow),
        Condition(f"dV >= {_MIN_VALLEY}", few >= _MIN_VALLEY, few),
    )
    name: _Name = "indeterminate"
    if min(masses) > _MAX_NEGATIVE:
        name = "saddle"
    elif all(condition.held for condition in conditions):
        name = "U" if kappa[2] <= flat else "V" if kappa[1] >= steep else "indeterminate"
    return Class(name, *kappa, source, tuple(shapes), conditions)


def classify(
    values: Tensor, epsilon: float | None = None, flat: float = 2.0, steep: float = 10.0, precision: torch.dtype | None = None
) -> Class:
    """The class of one spectrum, without an interval.

    U for ``kappa_q <= flat``, V for ``kappa_q >= steep``, saddle for a negative mass above 5 %, else indeterminate; also where the
    threshold has less than 0.3 decades of plateau or the valley fewer than 3 directions. Both bounds are conventions: compare two
    models by `contrast`.

    Args:
        values: ``(n,)``.
        epsilon: threshold; by the default rule unless given.
        flat: 1 + delta.
    Source:
        Ours; the paper classifies by kappa alone.
    Example:
        >>> classify(torch.tensor([3.0, 2.5, 2.0, 1e-6, 1e-6, 1e-6])).name
        'U'
    """
    epsilon = threshold(values, precision=precision).epsilon if epsilon is None else epsilon
    return of_shape(shape(values, epsilon, precision), flat, steep)


def of_shape(found: Shape, flat: float = 2.0, steep: float = 10.0) -> Class:
    """The class of one shape, see `classify`."""
    return decided([found], (found.kappa_q, found.kappa_q, found.kappa_q), "spectrum", flat, steep)


def shapes_of(
    spectra: Sequence[Tensor], epsilons: Sequence[float] | None = None, precision: torch.dtype | None = None
) -> tuple[Shape, ...]:
    """The shape of every seed's spectrum.

    Args:
        spectra: one for each seed, all of one size.
        epsilons: one for each; by the default rule unless given.
    Raises:
        ShapeMismatchError: spectra of different sizes.
    """
    found = []
    for number, values in enumerate(spectra):
        if len(values) != len(spectra[0]):
            counts = f"{len(values)} eigenvalues, expected {len(spectra[0])}"
            raise ShapeMismatchError(f"spectrum {number}: {counts} as in spectrum 0; compare models with equally many parameters")
        epsilon = threshold(values, precision=precision).epsilon if epsilons is None else epsilons[number]
        found.append(shape(values, epsilon, precision))
    return tuple(found)


def classify_seeds(
    spectra: Sequence[Tensor],
    epsilons: Sequence[float] | None = None,
    flat: float = 2.0,
    steep: float = 10.0,
    precision: torch.dtype | None = None,
) -> Class:
    """The class over seeds, by the 95 % t-interval of the mean of ``log kappa_q``; see `classify`.

    Raises:
        InsufficientDataError: fewer than 5 seeds.
        ShapeMismatchError: spectra of different sizes.
    """
    if len(spectra) < MIN_SEEDS:
        raise InsufficientDataError(f"spectra: given {len(spectra)} seeds, expected at least {MIN_SEEDS} for an interval")
    found = shapes_of(spectra, epsilons, precision)
    logs = interval([math.log(each.kappa_q) for each in found])
    mean, low, high = (math.nan if end is None else math.exp(end) for end in (logs.mean, logs.low, logs.high))
    return decided(found, (mean, low, high), "seeds", flat, steep)


def classify_batches(
    batches: Batches, epsilon: float | None = None, flat: float = 2.0, steep: float = 10.0, precision: torch.dtype | None = None
) -> Class:
    """The class of one network, by the jackknife over batches: ``se^2 = (b-1)/b sum_i (l_i - mean l)^2``, l_i without batch i.

    The interval is ``log kappa_q`` of the mean Hessian plus and minus t times se, b - 1 degrees of freedom. It tells of the noise
    of the batches, not of other seeds. The threshold stays that of the mean.

    Raises:
        InsufficientDataError: fewer than 2 batches, for the noise.
    Source:
        Ours; the jackknife is J. W. Tukey's, 1958.
    """
    stack = dense_batches(batches)
    count, mean = len(stack), stack.mean(0)
    without = torch.linalg.eigvalsh((count * mean - stack) / (count - 1))
    values = torch.linalg.eigvalsh(mean)
    precision = batches[0].dtype if precision is None else precision
    epsilon = threshold(values, stack, precision=precision).epsilon if epsilon is None else epsilon
    whole, left = shape(values, epsilon, precision), [shape(each, epsilon, precision) for each in without]
    logs = torch.tensor([math.log(each.kappa_q) for each in left], dtype=torch.float64)
    half = student_quantile(0.975, count - 1) * float(((count - 1) * logs.var(unbiased=False)).sqrt())
    ends = (whole.kappa_q, whole.kappa_q * math.exp(-half), whole.kappa_q * math.exp(half))
    return decided([whole, *left], ends, "batches", flat, steep)


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of "symmetric about zero": the share of sign patterns with a sum at least as far from zero.

    Exact up to 16 differences; beyond, over 100 000 random patterns and the given one. The smallest value that n differences can
    give is ``2 / 2^n``: 0.063 for 5 and 0.031 for 6.

    Example:
        >>> sign_flip_test([1.0, 2.0, 3.0])
        0.25
    """
    count = len(differences)
    given = torch.tensor(differences, dtype=torch.float64)
    if count <= _EXACT_SEEDS:
        signs = 1.0 - 2.0 * ((torch.arange(2**count).unsqueeze(1) >> torch.arange(count)) & 1)
    else:
        drawn = torch.from_numpy(stream(0, "bootstrap").choice([-1.0, 1.0], (100_000, count)))
        signs = torch.cat([torch.ones(1, count, dtype=torch.float64), drawn])
    sums = (signs.to(torch.float64) @ given).abs()
    return float((sums >= float(given.sum().abs()) - 1e-12 * float(given.abs().sum())).double().mean())


@dataclass(frozen=True)
class Contrast:
    """Two models compared without any bound of class."""

    differences: Tensor
    """``log kappa_q`` of the second minus that of the first, ``(S,)``; nats."""
    mean: Interval
    """Of the differences, with its 95 % t-interval."""
    p_value: float
    """Of the exact sign-flip test; at least ``2 / 2^S``."""


def contrast(first: Sequence[Shape], second: Sequence[Shape]) -> Contrast:
    """``Delta = log kappa_q(second) - log kappa_q(first)``, paired over seeds; above zero where the second's valley is more uneven.

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
