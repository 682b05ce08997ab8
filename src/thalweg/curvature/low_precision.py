"""Products in bfloat16 or float16, with the error that their rounding makes measured against products in float32 or float64.

Rounding in half precision is neither small nor of mean zero: it moves the weights, the activations and every sum. So nothing is
assumed about it. Estimates have two levels: many cheap products, and the mean difference to a few precise ones, which removes the
bias. Eigenvectors are searched with cheap products, and their values and residuals are computed with precise ones.

Shape letters: P number of parameters, k eigenpairs, n probes, r references.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg import ranks
from thalweg.bounds import named_arguments, of_their_kind
from thalweg.curvature import eigenpairs as search
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.operator import Operator
from thalweg.curvature.probes import gaussian, rademacher, require_probes
from thalweg.errors import Phrase, ResolutionError, require
from thalweg.intervals import student_quantile
from thalweg.reprs import describe

_LOW = (torch.bfloat16, torch.float16)
_HIDDEN = 0.5
"""Largest error from rounding, as a share of the value, with which a number is returned."""
_TOLERANCE = {torch.bfloat16: 0.03, torch.float16: 0.004}
"""Relative residual at which a search with rounded products ends: a few units in the last place."""


_ULPS = 4
"""Rounding of a precise quadratic form ``z.A z``, in units of eps ``||z|| ||A z||``; part of every bar."""


@dataclass(frozen=True)
class BarredEstimate:
    """An estimate with the half-width of its 95 % interval, sampling and rounding together."""

    value: float
    bar: float
    """Half-width of the 95 % interval for the value without rounding."""
    rounding_bias: float
    """Mean difference between precise and rounded products, which the value contains as a correction."""
    rounding_bar: float
    """Half-width of the 95 % interval from the differences alone."""
    products: int
    """Products in low precision."""
    precise_products: int
    """Products in the precision of the operator."""


@dataclass(frozen=True)
class ProductNoise:
    """How far products in low precision are off, relative to their norm, over random directions."""

    relative: float
    """Root mean square of ``||A_low v - A v|| / ||A v||``."""
    along: float
    """Root mean square of ``|v.(A_low v - A v)|`` over ``||v|| ||A v||``: what enters a quadratic form."""
    products: int
    """Products in low precision, and as many precise ones."""


@named_arguments
class LowPrecision:
    """The Hessian's products computed in bfloat16 or float16, never returned without the measured error of their rounding.

    By default `Hessian` multiplies bfloat16 weights in float32. This class is for models whose float32 products are too slow. It is
    no operator: a number made of rounded products alone has an unknown bias.

    Args:
        hessian: the checked operator, in float32 or float64; its products are the reference.
        dtype: ``torch.bfloat16`` or ``torch.float16``.
    Raises:
        BadInputError: another operator or dtype, or a Hessian by differences.
    Example:
        >>> model, data = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> low = LowPrecision(Hessian(lambda m, x: (m(x) ** 2).mean(), model, [data]))
        >>> low.trace(probes=4, references=2).value  # 1, 2 and 4 are exact in bfloat16
        5.0
    """

    def __init__(self, hessian: Hessian, dtype: torch.dtype = torch.bfloat16) -> None:
        require(isinstance(hessian, Hessian), "hessian", Phrase(type(hessian).__name__), "a Hessian")
        require(hessian.method != "differences", "hessian", Phrase("one by differences"), "auto, recorded or rebuilt")
        require(dtype in _LOW, "dtype", dtype, "torch.bfloat16 or torch.float16")
        self.hessian, self.low = hessian, _Rounded(hessian, dtype)

    def __repr__(self) -> str:
        return describe(self, repr(self.hessian), str(self.low.rounded_to).removeprefix("torch."))

    @of_their_kind
    def noise(self, samples: int = 8, seed: int = 0) -> ProductNoise:
        """The error of a product over Gaussian directions; costs ``samples`` products of each kind."""
        require_probes(samples)
        whole, along = 0.0, 0.0
        for index in range(samples):
            v = gaussian(self.hessian, index, seed)
            precise = self.hessian @ v
            error, size = self.low @ v - precise, float(precise.norm()) or 1.0
            whole += (float(error.norm()) / size) ** 2
            along += (float(v @ error) / float(v.norm()) / size) ** 2
        return ProductNoise(math.sqrt(whole / samples), math.sqrt(along / samples), samples)

    @of_their_kind
    def trace(self, probes: int = 60, references: int = 8, seed: int = 0) -> BarredEstimate:
        """The trace by Hutchinson's method in two levels, unbiased for the trace of the precise operator whatever the rounding.

        With Rademacher probes z, ``tr A = E[z.A_low(z)] + E[z.(A z - A_low(z))]``. The first mean runs over n cheap products, the
        second over r others with a precise product each. The two are independent; for the half-width see `two_levels`.

        Args:
            probes: n, at least 2.
            references: r, at least 2.
            seed: seed of the probes.
        Raises:
            ResolutionError: the half-width from rounding alone exceeds half of the value, so that rounding hides the answer.
        Source:
            Giles 2015 for estimates in levels.
        """
        require_probes(probes)
        require(references >= 2, "references", references, "at least 2 precise products, to measure how they differ")
        cheap, differences, size = [], [], 0.0
        for index in range(probes + references):
            z = rademacher(self.hessian, index, seed)
            low = float(z @ (self.low @ z))
            if index < probes:
                cheap.append(low)
            else:
                image = self.hessian @ z
                differences.append(float(z @ image) - low)
                size = max(size, float(z.norm() * image.norm()))
        value, bar = two_levels(cheap, differences)
        bias, rounding = interval_of(differences)
        self._refuse_hidden("trace", rounding, value)
        own = _ULPS * torch.finfo(self.hessian.dtype).eps * size
        return BarredEstimate(value, bar + own, bias, rounding + own, probes + references, references)

    @of_their_kind
    def eigenpairs(self, k: int = 10, which: str = "magnitude", seed: int = 0) -> search.EigenPairs:
        """k eigenpairs, searched with rounded products; values and residuals are those of precise products.

        Lanczos runs with rounded products until its residuals are a few units in their last place. The precise operator is then
        diagonalised in the space found (Rayleigh-Ritz), which costs k precise products. Each returned interval
        ``value +- residual`` holds an eigenvalue of the precise operator (Parlett 1998, theorem 4.5.1), however noisy the search
        was; that it holds the i-th one is likely, not certain. ``products`` counts those of both kinds.

        Args:
            k, which, seed: as for `thalweg.curvature.eigenpairs.eigenpairs`.
        Raises:
            ResolutionError: a residual exceeds half of its eigenvalue, so that rounding hides the answer.
        """
        tolerance = _TOLERANCE[self.low.rounded_to]
        options = {"max_products": 20 * k + 60, "seed": seed, "strict": False, "verify": False}
        found = search.eigenpairs(self.low, k, which, tolerance, **options)
        images = self.hessian @ found.vectors
        inside = found.vectors.T @ images
        values, turn = torch.linalg.eigh((inside + inside.T) / 2)
        order = {"magnitude": values.abs(), "largest": values, "smallest": -values}[which].argsort(descending=True)
        values, turn = values[order], turn[:, order]
        vectors = found.vectors @ turn
        residuals = (images @ turn - vectors * values).norm(dim=0)
        for value, residual in zip(values.tolist(), residuals.tolist(), strict=True):
            self._refuse_hidden(f"eigenvalue {value:.3g}", residual, value)
        largest = vectors.abs().argmax(0, keepdim=True)
        signed = vectors * vectors.gather(0, largest).sign()
        return search.EigenPairs(values, signed, residuals, found.converged, found.products + k, found.restarts)

    def _refuse_hidden(self, what: str, error: float, value: float) -> None:
        """Refuse a number that is not much larger than the error of rounding."""
        if error > _HIDDEN * abs(value):
            raise ResolutionError(
                f"{what}: the rounding of products in {self.low.rounded_to} leaves an error of {error:.2g} in {value:.3g}, "
                f"expected at most {100 * _HIDDEN:.0f} %; use the operator in {self.hessian.dtype} itself, or more references"
            )


class _Rounded(Operator):
    """A Hessian whose products are computed in low precision by double backward; vectors are scaled to a largest entry of 1."""

    def __init__(self, hessian: Hessian, rounded_to: torch.dtype) -> None:
        self.hessian, self.rounded_to = hessian, rounded_to
        self.dim, self.dtype, self.device, self.layout = hessian.dim, hessian.dtype, hessian.device, hessian.layout

    def rows(self, vectors: Tensor) -> Tensor:
        objective, products = self.hessian.objective, torch.zeros_like(vectors)
        sizes = vectors.abs().amax(1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
        point, directions = objective.point.to(self.rounded_to), (vectors / sizes).to(self.rounded_to)
        with objective.quiet():
            for batch in objective.batches:
                parts = [objective.twice_differentiated(batch, point, direction) for direction in directions]
                products += torch.stack(parts).to(vectors.dtype)
        return ranks.total(products) * objective.weight * sizes


def two_levels(cheap: Sequence[float], differences: Sequence[float]) -> tuple[float, float]:
    """The sum of the means of two independent samples, with the half-width of its 95 % interval.

    Student's t with the degrees of freedom of Welch and Satterthwaite, widened where samples are skewed: if few eigenvalues are
    large, ``z.A z`` is nearly a sum of few squares. With g the skewness of the estimate, Hall's
    ``t + g t^2 / 3 + g^2 t^3 / 27 + g / 6`` is distributed about as t would be without it; the longer side of its interval is the
    half-width. Means of 8 squares of normal numbers lie within it in 94 of 100 trials, within Student's in 85; means of 8 normal
    numbers in up to 98.

    Source:
        Hall 1992, On the removal of skewness by transformation.
    """
    first, second = torch.tensor(cheap, dtype=torch.float64), torch.tensor(differences, dtype=torch.float64)
    parts = (float(first.var()) / len(first), float(second.var()) / len(second))
    error = math.sqrt(sum(parts))
    quantile = student_quantile(0.975, _welch(parts, (len(first) - 1, len(second) - 1)))
    skewness = _third(first, error) + _third(second, error) if error else 0.0
    sides = [abs(_without_skewness(sign * quantile, skewness)) for sign in (1, -1)]
    return float(first.mean() + second.mean()), max(quantile, *sides) * error


def _third(values: Tensor, error: float) -> float:
    """The third cumulant of the mean of n values in units of ``error^3``, estimated without bias; 0 for fewer than three."""
    n = len(values)
    if n < 3:
        return 0.0
    return float((((values - values.mean()) / error) ** 3).sum()) / ((n - 1) * (n - 2) * n)


def _without_skewness(quantile: float, skewness: float) -> float:
    """The t that Hall's transformation takes to a quantile: ``3 ((1 + g (q - g / 6))^(1/3) - 1) / g``."""
    if abs(skewness) < 1e-6:
        return quantile
    inside = 1 + skewness * (quantile - skewness / 6)
    return 3 * (math.copysign(abs(inside) ** (1 / 3), inside) - 1) / skewness


def interval_of(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval."""
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.mean()), student_quantile(0.975, len(values) - 1) * float(found.std()) / math.sqrt(len(values))


def _welch(parts: tuple[float, float], freedoms: tuple[int, int]) -> int:
    """Degrees of freedom of a sum of two estimated variances (Welch and Satterthwaite), rounded down, at least 1."""
    total = sum(parts)
    if not total:
        return min(freedoms)
    return max(1, math.floor(1 / sum((part / total) ** 2 / freedom for part, freedom in zip(parts, freedoms, strict=True))))
