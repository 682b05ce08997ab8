"""The spectrum of one point, exact or as a density, and the numbers of its record.

Shape letters: P number of parameters, k eigenvectors kept, n probes, m nodes of a probe, f quadratic forms.
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
from thalweg.curvature.lanczos import ROUNDING
from thalweg.curvature.operator import Operator
from thalweg.curvature.probes import gaussian, mean_of
from thalweg.errors import EmptySubspaceError, NonFiniteError, Phrase, require
from thalweg.landscape.entropy import MatrixEntropy, density_entropy, jackknife, matrix_entropy
from thalweg.landscape.information import sample_information
from thalweg.landscape.noise import Batches
from thalweg.landscape.similarity import compared, image_rows, log_spectrum_distance, matrix_row, subspace_overlap
from thalweg.landscape.threshold import machine_floor, threshold
from thalweg.landscape.valley import classify_shape, shape
from thalweg.records.landscape import ChangeRecord, ConditionRecord, Measure, SplitRecord, number
from thalweg.reprs import short_repr
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


@short_repr
@dataclass(frozen=True)
class Spectrum:
    """The spectrum of the Hessian at one point: either all eigenvalues, or a density."""

    layout: Layout
    """Names and shapes of the parameters, in the order of the rows of ``top``."""
    top: Tensor
    """Eigenvectors of the algebraically largest eigenvalues, in falling order, ``(P, k)`` float32."""
    floor: float
    """Size below which an eigenvalue cannot be distinguished from zero: the machine floor, or the density's resolution where that
    is coarser."""
    values: Tensor | None = None
    """All eigenvalues, rising, ``(P,)`` float64; None where there is a density."""
    density: SpectralDensity | None = None
    """The density; None where there are eigenvalues."""

    @property
    def how(self) -> Literal["exact", "matrix-free"]:
        """ "exact" with eigenvalues, "matrix-free" with a density."""
        return "matrix-free" if self.values is None else "exact"

    @property
    def distribution(self) -> Tensor | SpectralDensity:
        """The eigenvalues ``(P,)``, or the density."""
        given = self.density if self.values is None else self.values
        assert given is not None
        return given

    def tensors(self) -> dict[str, Tensor]:
        """The spectrum as CPU tensors for a safetensors file.

        "top" ``(P, k)``, and either "values" ``(P,)``, or "nodes" and "weights" ``(n, m)`` with "resolution" ``(1,)``.
        """
        tensors = {"top": self.top}
        if self.values is not None:
            tensors["values"] = self.values
        elif self.density is not None:
            resolution = torch.tensor([self.density.resolution], dtype=torch.float64)
            tensors |= {"nodes": self.density.nodes, "weights": self.density.weights, "resolution": resolution}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


@short_repr
@dataclass(frozen=True)
class Point:
    """Everything of a point that the next point is compared with."""

    step: int
    """Number of updates made."""
    spectrum: Spectrum
    """Spectrum of the point."""
    hessian: Tensor | None
    """Dense Hessian ``(P, P)`` of an exact point; None where it is matrix-free."""
    forms: Tensor | None
    """``z^T H z`` of common Gaussian probes, ``(f,)``; None where they were left out."""
    probes: Tensor | None
    """Z, ``(P, n)``, of a matrix-free point, the same in the whole series."""
    images: Tensor | None
    """``H Z``, ``(P, n)``, of a matrix-free point."""


def entropies(spectrum: Spectrum) -> dict[str, Measure]:
    """The entropies of a record by their keys: Shannon's as "abs 1", and those of `_ENTROPIES` that exist, in nats.

    Raises:
        EmptySubspaceError: all eigenvalues are zero.
    """
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
    """The matrix entropy of a spectrum of either kind; arguments as for `thalweg.landscape.entropy.matrix_entropy`."""
    given = spectrum.distribution
    if isinstance(given, SpectralDensity):
        return density_entropy(given, order, sign)
    return matrix_entropy(given, order, sign, zero_below=0.0 if order else spectrum.floor)


def exact_numbers(spectrum: Spectrum, values: Tensor) -> dict[str, Any]:
    """The fields of a record that follow from all eigenvalues; nothing is estimated.

    Args:
        spectrum: an exact spectrum.
        values: its eigenvalues ``(P,)``, rising.
    """
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
    """The fields of a record that follow from a density and the top eigenpairs; trace and norm come from `sums`.

    Args:
        spectrum: a matrix-free spectrum.
        density: its density.
        pairs: the largest eigenvalues.
        smallest: the smallest eigenvalue.
    """
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
    """The number of eigenvalues above 1: exact where the last converged pair lies below, else P times the density's mass.

    The mass above x of a probe's spectral measure lies between the sums of the weights beyond the two nodes around x, with and
    without these two (inequalities of Chebyshev, Markov and Stieltjes). The width w of that range enters the error as
    ``w / sqrt(12)``, the standard deviation of a uniform distribution, in addition to the probes' own error.
    """
    if pairs.converged and float(pairs.values[-1]) <= 1:
        return Measure(float((pairs.values > 1).sum()))
    # Mass above 1 of each probe, and the weights of the two nodes around 1, between which the true mass lies.
    above = density.nodes > 1
    shares = (density.weights * above).sum(1)
    next_above = torch.where(above, density.nodes, math.inf).argmin(1, keepdim=True)
    next_below = torch.where(above, -math.inf, density.nodes).argmax(1, keepdim=True)
    width = density.weights.gather(1, next_above) * above.any(1, keepdim=True)
    width += density.weights.gather(1, next_below) * (~above).any(1, keepdim=True)
    counted = mean_of(density.dim * shares, density.products)
    return Measure(counted.value, math.hypot(counted.standard_error, density.dim * float(width.mean()) / math.sqrt(12)))


def sums(operator: Operator, density: SpectralDensity, pairs: EigenPairs, point: Point, seed: int) -> dict[str, Measure]:
    """Trace and Frobenius norm from products that were computed anyway: those of the density's probes, and the images of Z.

    For both kinds of probe ``E[z z^T] = I`` once scaled, so ``E[z^T H z] = tr H`` and ``E ||H z||^2 = ||H||_F^2``. The parts of the
    top pairs, ``lam (v . z)^2`` and ``lam^2 (v . z)^2``, are subtracted for each probe and added back exactly as ``lam`` and
    ``lam^2``. This is unbiased for any pairs independent of the probes, converged or not; how much it lowers the errors depends
    on how accurate the pairs are. Costs no product.

    Args:
        operator: H, for its dimension and device.
        density: density of the point.
        pairs: the largest eigenvalues with their vectors.
        point: common probes Z and their images ``H Z``.
        seed: seed of the density's probes.
    """
    assert point.probes is not None
    assert point.images is not None
    # Squared components (v . z)^2 of all probes along the top eigenvectors.
    lam, vectors = pairs.values, pairs.vectors
    drawn = torch.stack([gaussian(operator, index, seed).cpu() for index in range(len(density.nodes))], 1)
    shares = torch.cat([operator.dim * (vectors.T @ (drawn / drawn.norm(dim=0))).square(), (vectors.T @ point.probes).square()], 1)
    estimates = []
    # Power 1: z^T H z for the trace. Power 2: ||H z||^2 for the squared norm. The quadrature is exact for both.
    for power, of_images in ((1, point.probes), (2, point.images)):
        moments = operator.dim * (density.weights * density.nodes**power).sum(1)
        whole = torch.cat([moments, (of_images * point.images).sum(0)])
        remainder = mean_of(whole - lam**power @ shares, 0)
        estimates.append((float((lam**power).sum()) + remainder.value, remainder.standard_error))
    (trace, error), (square, wide) = estimates
    norm = math.sqrt(max(square, 0.0))
    return {"trace": Measure(trace, error), "frobenius": Measure(norm, wide / (2 * norm) if norm else 0.0)}


def split_record(values: Tensor, precision: torch.dtype, batches: Batches | None, seed: int) -> SplitRecord | None:
    """The record of river, valley and ridge by the default threshold; None for a single eigenvalue.

    Args:
        values: all eigenvalues ``(P,)``.
        precision: dtype of the arithmetic that computed H.
        batches: Hessians of single batches, for the noise floor; None leaves it out.
        seed: seed of the noise floor.
    """
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
        ridge_mass=spectrum_shape.ridge_mass,
        name=verdict.name,
        conditions=held((*verdict.conditions, *(noise.conditions if noise else ()))),
    )


def held(conditions: Sequence[Condition]) -> tuple[ConditionRecord, ...]:
    """Conditions in the form of records, with None for a measured value that is no finite number."""
    return tuple(
        ConditionRecord(one.words, None if one.held is None else bool(one.held), number(one.measured)) for one in conditions
    )


def change_record(before: Point, now: Point, seed: int) -> ChangeRecord:
    """Compare the Hessian of a point with that of the point before.

    A quantity that does not exist is None; an undefined cosine is 0 with the error 1.

    Args:
        before, now: two points, both exact or both matrix-free.
        seed: seed of the baseline of the mutual information.
    Raises:
        BadInputError: one point is exact and the other matrix-free.
    """
    dim = now.spectrum.layout.dim
    if before.hessian is not None and now.hessian is not None:
        similarity = compared(matrix_row(before.hessian, now.hessian), dim, 0)
    else:
        candidates = [before.images, now.images, now.probes]
        images = [tensor for tensor in candidates if tensor is not None]
        require(len(images) == 3, "points", Phrase("one exact and one matrix-free"), "two of a kind")
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
    """A cosine limited to [-1, 1] with its error; 0 with the error 1 where it is undefined, as for a deviatoric part of zero."""
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
    """The spectrum of a point from its eigenvalues or its density, on the CPU, with its floor.

    Args:
        layout: names and shapes of the parameters.
        pairs: the largest eigenvalues with their vectors.
        precision: dtype of the arithmetic that computed H.
        values: all eigenvalues, or None.
        density: the density, or None; one of the two is given.
    Raises:
        EmptySubspaceError: the Hessian is zero.
    """
    sizes = torch.cat([pairs.values, density.nodes.flatten()]) if density is not None else values
    assert sizes is not None
    if not sizes.any():
        raise EmptySubspaceError("Hessian: zero in all entries, expected a loss that curves somewhere")
    if density is None:
        floor = machine_floor(sizes, precision)
    else:  # the nodes are eigenvalues of small matrices, whose rounding does not grow with the parameters
        floor = max(machine_floor(sizes, precision) / len(sizes) * ROUNDING, density.resolution)
    return Spectrum(layout, pairs.vectors.to("cpu", torch.float32), floor, values, density)


def refuse_non_finite(record: Any) -> None:
    """Refuse a record that holds NaN or infinity.

    Raises:
        NonFiniteError: a number is not finite; the message names its field.
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
