"""The spectrum of one point, exact or as a density, and the numbers of its record.

Shape letters: P number of parameters, k directions kept, n probes, m nodes of a probe, f quadratic forms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.curvature.density import SpectralDensity
from thalweg.curvature.eigenpairs import EigenPairs
from thalweg.curvature.operator import Operator
from thalweg.curvature.probes import gaussian, mean_of
from thalweg.errors import EmptySubspaceError, NonFiniteError, require
from thalweg.landscape.entropy import MatrixEntropy, density_entropy, jackknife, matrix_entropy
from thalweg.landscape.information import sample_information
from thalweg.landscape.noise import Batches
from thalweg.landscape.similarity import compared, image_rows, log_spectrum_distance, matrix_row, subspace_overlap
from thalweg.landscape.threshold import machine_floor, threshold
from thalweg.landscape.valley import classify_shape, shape
from thalweg.records.landscape import ChangeRecord, ConditionRecord, Measure, SplitRecord, number
from thalweg.theory.inputs import Condition
from thalweg.vectors import Layout

_ENTROPIES: dict[str, tuple[str, float]] = {
    "abs 0": ("abs", 0.0),
    "abs 2": ("abs", 2.0),
    "abs inf": ("abs", math.inf),
    "positive 1": ("positive", 1.0),
    "square 1": ("square", 1.0),
}
"""Key of a record's entropies -> sign rule, order. Order 0 counts what lies above the machine floor, and needs eigenvalues."""


@dataclass(frozen=True)
class Spectrum:
    """Of one point; either the eigenvalues or a density."""

    layout: Layout
    """Of the parameters, in the order of the rows of ``top``."""
    top: Tensor
    """Eigenvectors of the algebraically largest eigenvalues, falling, ``(P, k)`` float32."""
    floor: float
    """Sizes below are not told from zero: the machine floor, or the density's resolution where that is coarser."""
    values: Tensor | None = None
    """``(P,)`` float64, rising."""
    density: SpectralDensity | None = None

    @property
    def how(self) -> Literal["exact", "matrix-free"]:
        """Which of the two it is."""
        return "matrix-free" if self.values is None else "exact"

    @property
    def distribution(self) -> Tensor | SpectralDensity:
        """Eigenvalues or density."""
        given = self.density if self.values is None else self.values
        assert given is not None
        return given

    def tensors(self) -> dict[str, Tensor]:
        """For a safetensors file, on the CPU: "top", and "values", or "nodes", "weights" ``(n, m)`` with "resolution" ``(1,)``."""
        tensors = {"top": self.top}
        if self.values is not None:
            tensors["values"] = self.values
        elif self.density is not None:
            resolution = torch.tensor([self.density.resolution], dtype=torch.float64)
            tensors |= {"nodes": self.density.nodes, "weights": self.density.weights, "resolution": resolution}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Point:
    """What the next point is compared with."""

    step: int
    spectrum: Spectrum
    hessian: Tensor | None
    """``(P, P)`` of an exact point."""
    forms: Tensor | None
    """``z^T H z`` of common Gaussian probes, ``(f,)``."""
    probes: Tensor | None
    """Z, ``(P, n)`` of a matrix-free point, the same in the whole series."""
    images: Tensor | None
    """``H Z``."""


def entropies(spectrum: Spectrum) -> dict[str, Measure]:
    """Those of `_ENTROPIES` that exist, and Shannon's as "abs 1"."""
    measures = {}
    for name, (sign, order) in {"abs 1": ("abs", 1.0), **_ENTROPIES}.items():
        if order == 0 and spectrum.values is None:
            continue
        try:
            outcome = entropy(spectrum, order, sign)
        except EmptySubspaceError:
            if name == "abs 1":
                raise
            continue
        if math.isfinite(outcome.value) and math.isfinite(outcome.standard_error):
            measures[name] = Measure(outcome.value, outcome.standard_error)
    return measures


def entropy(spectrum: Spectrum, order: float, sign: str) -> MatrixEntropy:
    """Of either kind of spectrum."""
    given = spectrum.distribution
    if isinstance(given, SpectralDensity):
        return density_entropy(given, order, sign)
    return matrix_entropy(given, order, sign, zero_below=0.0 if order else spectrum.floor)


def exact_numbers(spectrum: Spectrum, values: Tensor) -> dict[str, Any]:
    """The fields of a record that eigenvalues ``(P,)``, rising, give; nothing is estimated."""
    measures, sizes = entropies(spectrum), values.abs()
    return {
        "largest": tuple(values[-spectrum.top.shape[1] :].flip(0).tolist()),
        "smallest": float(values[0]),
        "trace": Measure(float(values.sum())),
        "frobenius": Measure(float(values.norm())),
        "entropy": measures.pop("abs 1"),
        "entropies": measures,
        "negative_mass": Measure(float((sizes * (values < 0)).sum() / sizes.sum())),
        "above_one": Measure(float((values > 1).sum())),
        "resolution": None,
    }


def free_numbers(spectrum: Spectrum, density: SpectralDensity, pairs: EigenPairs, smallest: float) -> dict[str, Any]:
    """The fields of a record that a density and the top eigenpairs give, trace and norm excepted (see `sums`)."""
    measures, sizes = entropies(spectrum), density.weights * density.nodes.abs()
    mass, error = jackknife(torch.stack([(sizes * (density.nodes < 0)).sum(1), sizes.sum(1)], 1), lambda s: s[..., 0] / s[..., 1])
    return {
        "largest": tuple(pairs.values.tolist()),
        "smallest": smallest,
        "entropy": measures.pop("abs 1"),
        "entropies": measures,
        "negative_mass": Measure(mass, error),
        "above_one": above_one(density, pairs),
        "resolution": density.resolution,
    }


def above_one(density: SpectralDensity, pairs: EigenPairs) -> Measure:
    """Number of eigenvalues above 1: exact where the last converged pair is not, else P times the density's mass.

    The mass above x of a probe's spectral measure lies between the sums of the weights beyond the two nodes around x, with and
    without these two (Chebyshev, Markov, Stieltjes). That width w enters the error as ``w / sqrt(12)``, beside the probes' own.
    """
    if pairs.converged and float(pairs.values[-1]) <= 1:
        return Measure(float((pairs.values > 1).sum()))
    above = density.nodes > 1
    shares = (density.weights * above).sum(1)
    next_above = torch.where(above, density.nodes, math.inf).argmin(1, keepdim=True)
    next_below = torch.where(above, -math.inf, density.nodes).argmax(1, keepdim=True)
    width = density.weights.gather(1, next_above) * above.any(1, keepdim=True)
    width += density.weights.gather(1, next_below) * (~above).any(1, keepdim=True)
    counted = mean_of(density.dim * shares, density.products)
    return Measure(counted.value, math.hypot(counted.standard_error, density.dim * float(width.mean()) / math.sqrt(12)))


def sums(operator: Operator, density: SpectralDensity, pairs: EigenPairs, point: Point, seed: int) -> dict[str, Measure]:
    """Trace and Frobenius norm from products that were made anyway: first steps of the density's probes, and images of Z.

    Both kinds of probe have ``E[z z^T] = I`` once scaled. The top pairs' shares ``lam (v . z)^2`` and ``lam^2 (v . z)^2`` are taken
    out of each probe's ``z^T H z`` and ``||H z||^2`` and put back exactly. That is unbiased for any pairs independent of
    the probes, converged or not; how much it lowers the errors depends on how good they are.
    """
    assert point.probes is not None
    assert point.images is not None
    lam, vectors = pairs.values, pairs.vectors
    drawn = torch.stack([gaussian(operator, index, seed).cpu() for index in range(len(density.nodes))], 1)
    shares = torch.cat([operator.dim * (vectors.T @ (drawn / drawn.norm(dim=0))).square(), (vectors.T @ point.probes).square()], 1)
    estimates = []
    for power, of_images in ((1, point.probes), (2, point.images)):
        moments = operator.dim * (density.weights * density.nodes**power).sum(1)
        whole = torch.cat([moments, (of_images * point.images).sum(0)])
        remainder = mean_of(whole - lam**power @ shares, 0)
        estimates.append((float((lam**power).sum()) + remainder.value, remainder.standard_error))
    (trace, error), (square, wide) = estimates
    norm = math.sqrt(max(square, 0.0))
    return {"trace": Measure(trace, error), "frobenius": Measure(norm, wide / (2 * norm) if norm else 0.0)}


def split_record(values: Tensor, precision: torch.dtype, batches: Batches | None, seed: int) -> SplitRecord | None:
    """River, valley and ridge by the default threshold; None for a single eigenvalue."""
    if len(values) < 2:
        return None
    rule = threshold(values, batches, precision=precision, seed=seed)
    spectrum_shape = shape(values, rule.epsilon, precision)
    verdict = classify_shape(spectrum_shape)
    noise = rule.noise_floor
    rules = {"machine_floor": rule.floor, "relative": rule.relative, "log_gap": rule.log_gap.epsilon}
    return SplitRecord(
        epsilon=rule.epsilon,
        rule=rule.rule,
        rules=rules | ({"noise_floor": noise.epsilon} if noise else {}),
        plateau=spectrum_shape.plateau,
        valley=spectrum_shape.valley,
        river=spectrum_shape.river,
        ridge=spectrum_shape.ridge,
        kappa=number(spectrum_shape.kappa),
        kappa_q=number(spectrum_shape.kappa_q),
        spread=number(spectrum_shape.spread),
        negative_mass=spectrum_shape.negative_mass,
        name=verdict.name,
        conditions=held((*verdict.conditions, *(noise.conditions if noise else ()))),
    )


def held(conditions: Sequence[Condition]) -> tuple[ConditionRecord, ...]:
    """As records keep them: None for what is not a number."""
    return tuple(ConditionRecord(condition.words, bool(condition.held), number(condition.measured)) for condition in conditions)


def change_record(before: Point, now: Point, seed: int) -> ChangeRecord:
    """How much the Hessian of one point tells of the one before; what does not exist is None, or has the error 1 of a cosine."""
    dim = now.spectrum.layout.dim
    if before.hessian is not None and now.hessian is not None:
        similarity = compared(matrix_row(before.hessian, now.hessian), dim, 0)
    else:
        candidates = [before.images, now.images, now.probes]
        images = [tensor for tensor in candidates if tensor is not None]
        require(len(images) == 3, "points", "one exact and one matrix-free", "two of a kind")
        similarity = compared(image_rows(*images), dim, 2 * images[0].shape[1])
    known = math.isfinite(similarity.value) and math.isfinite(similarity.standard_error)
    forms = None if before.forms is None or now.forms is None else sample_information(before.forms, now.forms, seed=seed)
    return ChangeRecord(
        since=before.step,
        cosine=cosine(similarity.cosine.value, similarity.cosine.standard_error),
        deviatoric=cosine(similarity.deviatoric.value, similarity.deviatoric.standard_error),
        information=Measure(similarity.value, similarity.standard_error) if known else None,
        forms=None if forms is None else forms.value,
        forms_baseline=None if forms is None else forms.baseline,
        overlap=min(1.0, subspace_overlap(before.spectrum.top, now.spectrum.top)),
        distance=log_spectrum_distance(
            before.spectrum.distribution, now.spectrum.distribution, max(before.spectrum.floor, now.spectrum.floor)
        ),
    )


def cosine(value: float, error: float) -> Measure:
    """In [-1, 1]; 0 with an error of 1 where nothing is known of it (a deviatoric part of zero)."""
    if not math.isfinite(value):
        return Measure(0.0, 1.0)
    return Measure(max(-1.0, min(1.0, value)), error if math.isfinite(error) else 1.0)


def spectrum_of(
    layout: Layout,
    pairs: EigenPairs,
    precision: torch.dtype,
    values: Tensor | None = None,
    density: SpectralDensity | None = None,
) -> Spectrum:
    """Put together, on the CPU.

    Raises:
        EmptySubspaceError: a Hessian of zeros.
    """
    sizes = torch.cat([pairs.values, density.nodes.flatten()]) if density is not None else values
    assert sizes is not None
    if not sizes.any():
        raise EmptySubspaceError("Hessian: zero in all entries, expected a loss that curves somewhere")
    rounding = machine_floor(sizes, precision) / len(sizes) * layout.dim
    floor = rounding if density is None else max(rounding, density.resolution)
    return Spectrum(layout, pairs.vectors.to("cpu", torch.float32), floor, values, density)


def refuse_non_finite(record: Any) -> None:
    """Every number of a record is finite.

    Raises:
        NonFiniteError: names the field.
    """
    open_: list[tuple[str, Any]] = list(asdict(record).items())
    while open_:
        name, value = open_.pop()
        if isinstance(value, dict):
            open_ += [(f"{name}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            open_ += [(f"{name}[{index}]", item) for index, item in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            raise NonFiniteError(f"record: {name} is {value}, expected a finite number; measure in float64 or earlier in training")
