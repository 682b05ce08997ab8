"""The curvature of any loss of any model at one point after the other, as records.

Shape letters: P number of parameters, k top directions, n probes, f quadratic forms.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from thalweg.bounds import of_their_kind
from thalweg.curvature import memory as limits
from thalweg.curvature.context import Mode, undisturbed
from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.density import SpectralDensity, spectral_density
from thalweg.curvature.eigenpairs import EigenPairs, eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.loss_operator import Method
from thalweg.curvature.objective import LossFunction, Objective
from thalweg.curvature.operator import Matrix, Operator
from thalweg.curvature.probes import blocks, gaussian
from thalweg.errors import require, unknown
from thalweg.landscape.context import Gauge, MeasurementContext, refuse_other, refuse_unequal, scene
from thalweg.landscape.cost import Counted, Progress, column_seconds, duration, eigen_seconds, matrix_bytes
from thalweg.landscape.gauge import Pair
from thalweg.landscape.spectrum import (
    Point,
    Spectrum,
    change_record,
    exact_numbers,
    free_numbers,
    refuse_non_finite,
    spectrum_of,
    split_record,
    sums,
)
from thalweg.records.landscape import LandscapeRecord
from thalweg.vectors import Choice

_Variant = Literal["exact", "matrix-free"]
_FIRST_PROBE = 1 << 20
"""Number of the first common probe; those below belong to the density and the quadratic forms."""
_SMALLEST = 1e-4
"""Residual of the most negative eigenvalue over the largest size; the value's own error is about its square."""


@dataclass(frozen=True)
class PointMeasurement:
    """What was seen, before it is put into numbers."""

    point: Point
    operator: Operator
    pairs: EigenPairs
    loss: float
    gradient_norm: float
    batches: Tensor | None = None
    """Hessians of single batches ``(b, P, P)``, where the noise is asked for."""


class LandscapeProbe:
    """Measures a series of points, each compared with the one before.

    The first point of a series decides between the exact spectrum and a matrix-free one, so that a series is not mixed. To go on
    with a series after a restart, call `remember` on its last point (or measure that again) with ``method`` as in its records.

    Args:
        top: k, of the largest eigenvalues, with their vectors.
        lanczos: steps of a matrix-free density.
        probes: n, of the density, and as many for the comparison of successive matrix-free points.
            Standard errors over n probes are rough for small n (n - 1 degrees of freedom): the entropy of a small GPT lay more than
            4 of them from the truth in 4 % of 300 seeds at n = 4, in 3 % at 8, in 1 % of 100 at 20.
        exact_seconds: longest expected time of an exact spectrum.
        memory: bytes; None takes half of what is free.
        dtype: arithmetic of the products, float32 or float64; eigenvalues are computed in float64.
        method: "auto", "exact" (refused where it does not fit the memory) or "matrix-free".
        forms: f, of the mutual information in exact points; 0 leaves it out.
        seed: of all probes; series of one seed share them.
        pairs: query and key weights, which are balanced in a copy of the model: the same function, and one spectrum for all gauges.
            Gradient norm and eigenvectors are those of the balanced weights.
        heads, rotary: of every pair, see `thalweg.landscape.gauge.balance`.
        matrices: how many exact Hessians of this kind are to come.
        products: how Hessian-vector products are made, the ``method`` of `thalweg.curvature.hessian.Hessian`; "differences" for
            operations without a second derivative.
    Example:
        >>> probe = LandscapeProbe(top=1, forms=0)
        >>> loss = lambda model, x: ((model(x) * torch.tensor([1.0, 2.0])) ** 2).sum() / 2
        >>> record = probe.measure(loss, nn.Linear(4, 2, bias=False), [torch.eye(4)])  # four times 1, four times 4
        >>> record.largest, record.trace.value, record.split.valley
        ((4.0,), 20.0, 4)
    """

    @of_their_kind
    def __init__(
        self,
        top: int = 10,
        lanczos: int = 60,
        probes: int = 4,
        exact_seconds: float = 60.0,
        memory: int | None = None,
        dtype: torch.dtype = torch.float32,
        method: Literal["auto", "exact", "matrix-free"] = "auto",
        forms: int = 400,
        seed: int = 0,
        pairs: Sequence[Pair] = (),
        heads: int = 1,
        rotary: bool = False,
        matrices: int = 1,
        products: Method = "auto",
    ) -> None:
        for name, value, least in (("top", top, 1), ("lanczos", lanczos, 2), ("probes", probes, 2)):
            require(value >= least, name, value, f"a whole number of at least {least}")
        require(exact_seconds >= 0, "exact_seconds", exact_seconds, "a number of at least 0")
        require(forms == 0 or forms >= 3, "forms", forms, "0, or at least 3")
        if method not in ("auto", *get_args(_Variant)):
            raise unknown("method", str(method), ("auto", *get_args(_Variant)))
        self.top, self.lanczos, self.probes, self.forms, self.seed = top, lanczos, probes, forms, seed
        self.exact_seconds, self.memory, self.dtype, self.method = exact_seconds, memory, dtype, method
        self.pairs, self.heads, self.rotary, self.matrices = tuple(pairs), heads, rotary, matrices
        require(products in get_args(Method), "products", products, "auto, recorded, rebuilt or differences")
        self.by = products
        self.took: dict[tuple[Any, ...], float] = {}
        self.reset()

    def reset(self) -> None:
        """Begin a new series: the next point has nothing to be compared with, and decides anew."""
        self.last: Point | None = None
        self.way: _Variant | None = None
        self.first = 0

    @property
    def spectrum(self) -> Spectrum | None:
        """Of the last point; None before the first."""
        return None if self.last is None else self.last.spectrum

    @property
    def hessian(self) -> Tensor | None:
        """Of the last point, ``(P, P)``; None where it was matrix-free."""
        return None if self.last is None else self.last.hessian

    @undisturbed
    @of_their_kind
    def measure(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        step: int = 0,
        params: Choice = None,
        progress: Progress | None = None,
        noise: bool = False,
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> LandscapeRecord:
        """The record of the model's present weights, which are not changed.

        Args:
            loss_fn, model, batches, params: as for `thalweg.curvature.hessian.Hessian`.
            step: updates made, for the record.
            progress: see `Progress`.
            noise: whether the batches' differences enter the threshold of an exact point (one dense Hessian a batch, and their
                plain mean, so that all batches must count alike); does nothing to a matrix-free one.
            mode, seed: evaluation mode or training mode, and what fixes random parts of the loss, as for `Hessian`.
        Raises:
            BadInputError: another model than that of the point before; or what `Hessian` refuses.
            MemoryLimitError: method "exact", and the matrix does not fit.
            EmptySubspaceError: the Hessian is zero.
        """
        started = time.perf_counter()
        scene = self.scene(loss_fn, model, batches, params, mode, seed)
        look, reason, products = self.look(scene, step, progress, noise)
        numbers, words, more = self.numbers(look)
        if look.point.spectrum.values is not None:
            self.took.setdefault(scene.key, time.perf_counter() - started)
        record = LandscapeRecord(
            step=step,
            how=look.point.spectrum.how,
            reason=reason + words,
            dim=scene.layout.dim,
            products=products + more,
            seconds=time.perf_counter() - started,
            loss=look.loss,
            gradient_norm=look.gradient_norm,
            imbalance=scene.imbalance,
            mode=scene.mode,
            change=None if self.last is None else change_record(self.last, look.point, self.seed),
            **numbers,
        )
        record = replace(record, seconds=time.perf_counter() - started)
        refuse_non_finite(record)
        self.last = look.point
        return record

    @undisturbed
    def remember(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        step: int = 0,
        params: Choice = None,
        progress: Progress | None = None,
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> None:
        """Compute only what the next point is compared with, as `measure` would have left it behind; see there."""
        self.last = self.look(self.scene(loss_fn, model, batches, params, mode, seed), step, progress, noise=False)[0].point

    def scene(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        params: Choice,
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> MeasurementContext:
        """What is looked at, of the same layout as the point before."""
        gauge = Gauge(self.pairs, self.heads, self.rotary)
        found = scene(loss_fn, model, batches, params, self.dtype, gauge, mode, seed)
        if self.last is not None:
            refuse_other(found.layout, self.last.spectrum.layout, self.last.step)
        return found

    def look(
        self, scene: MeasurementContext, step: int, progress: Progress | None, noise: bool
    ) -> tuple[PointMeasurement, str, int]:
        """The point in the way of its series; that way in words; products so far."""
        operator: Counted | None = None
        if self.way is not None:
            way, reason = self.way, f"{self.way}: {scene.layout.dim:,} parameters, as at step {self.first} of the same series"
        elif self.method == "auto":
            way, reason, operator = self.decided(scene, noise, progress)
        else:
            way = "exact" if self.method == "exact" else "matrix-free"
            reason = f"{way}: {scene.layout.dim:,} parameters, asked for"
        spent = operator.products if operator is not None else 0
        if way == "exact":
            found, products = self.exact(scene, step, progress, noise), scene.layout.dim + spent
        else:
            operator = operator or self.operator(scene, progress)
            found = self.free(scene, step, operator)
            products = operator.products
        if self.way is None:
            self.way, self.first = way, step
        return found, reason, products

    def numbers(self, look: PointMeasurement) -> tuple[dict[str, Any], str, int]:
        """Fields of the record; a remark on what did not converge; products that it took."""
        spectrum, words, bound = look.point.spectrum, "", float(look.pairs.residuals.max())
        if not look.pairs.converged:
            words = f"; the {len(look.pairs.values)} largest eigenvalues did not converge, each is within {bound:.1e} of one"
        if spectrum.values is not None:
            split = split_record(spectrum.values, self.dtype, look.batches, self.seed)
            return exact_numbers(spectrum, spectrum.values) | {"split": split}, words, 0
        assert spectrum.density is not None
        low = eigenpairs(look.operator, 1, "smallest", _SMALLEST, None, self.memory, self.seed + 1, strict=False, verify=False)
        if not low.converged:
            words += f"; the smallest eigenvalue did not converge, it is within {float(low.residuals[0]):.1e} of one"
        found = free_numbers(spectrum, spectrum.density, look.pairs, float(low.values[0]))
        found |= sums(look.operator, spectrum.density, look.pairs, look.point, self.seed)
        return found | {"split": None}, words, low.products

    def operator(self, scene: MeasurementContext, progress: Progress | None) -> Counted:
        """The Hessian by products; compared with differences of the gradient at the first point of a series."""
        first = self.last is None
        rest = {"method": self.by, "memory": self.memory, "check": first, "mode": scene.mode, "seed": scene.seed}
        hessian = Hessian(scene.loss_fn, scene.model, scene.batches, scene.params, self.dtype, **rest)
        expected = self.probes * (self.lanczos + 1) + 20 * self.top + 100
        return Counted(hessian, 2 if first else 0, expected, progress)

    def decided(self, scene: MeasurementContext, noise: bool, progress: Progress | None) -> tuple[_Variant, str, Counted | None]:
        """Exact where the matrix fits and its expected time is allowed; the reason; the operator, if one was tried."""
        dim, device = scene.layout.dim, scene.device
        words, allowed = f"{dim:,} parameters, ", limits.budget(self.memory, device)
        needed = matrix_bytes(dim, len(scene.batches) if noise else 0)
        if needed > allowed:
            size = f"a dense matrix needs {limits.format_bytes(needed)} of {limits.format_bytes(allowed)} allowed"
            return "matrix-free", f"matrix-free: {words}{size}", None
        operator, known = None, self.took.get(scene.key)
        seconds = eigen_seconds(dim, device, noise) if known is None else known
        if known is None and seconds <= self.exact_seconds:
            operator = self.operator(scene, progress)
            seconds += dim * column_seconds(operator)
        way: _Variant = "matrix-free" if seconds > self.exact_seconds else "exact"
        told = f"about {duration(seconds)} expected" if known is None else f"{duration(seconds)} measured before"
        return way, f"{way}: {words}{told} of {duration(self.exact_seconds)} allowed", operator

    def exact(self, scene: MeasurementContext, step: int, progress: Progress | None, noise: bool) -> PointMeasurement:
        """The dense Hessian and all its eigenvalues."""
        dim = scene.layout.dim
        objective = Objective(scene.loss_fn, scene.model, scene.batches, scene.params, self.dtype, scene.mode, scene.seed)
        instead = "choose fewer parameters with params=, or method='matrix-free'"
        needed = matrix_bytes(dim, len(scene.batches) if noise else 0)
        limits.ensure(needed, limits.budget(self.memory, objective.device), f"spectrum of {dim:,} parameters", instead)

        def dense(batches: list[Any]) -> Tensor:
            rest = {"memory": self.memory, "compile": "never", "matrices": self.matrices, "progress": progress}
            rest |= {"method": self.by, "mode": scene.mode, "seed": scene.seed}
            return dense_hessian(scene.loss_fn, scene.model, batches, scene.params, self.dtype, **rest).matrix

        stack = None
        if noise:
            refuse_unequal(scene, self.dtype)
            stack = torch.stack([dense([batch]) for batch in scene.batches])
        matrix = dense(scene.batches) if stack is None else stack.mean(0)
        entries = Matrix(matrix.double())
        values = torch.linalg.eigvalsh(entries.entries).cpu()
        pairs = eigenpairs(entries, min(self.top, dim), "largest", seed=self.seed + 1, strict=False)
        forms = None
        if self.forms:
            z = torch.stack([gaussian(entries, index, self.seed) for index in range(self.forms)], 1)
            forms = (z * (entries.entries @ z)).sum(0).cpu()
        spectrum = spectrum_of(scene.layout, pairs, self.dtype, values=values)
        return PointMeasurement(
            Point(step, spectrum, matrix, forms, None, None),
            entries,
            pairs,
            objective.value,
            float(objective.gradient.norm()),
            stack,
        )

    def free(self, scene: MeasurementContext, step: int, operator: Counted) -> PointMeasurement:
        """A density, the top eigenpairs, and the images of the series' common probes."""
        pairs = eigenpairs(operator, min(self.top, operator.dim), "largest", None, None, self.memory, self.seed + 1, strict=False)
        density = _on_cpu(spectral_density(operator, self.lanczos, self.probes, self.seed))
        probes = torch.cat(list(blocks(operator, _FIRST_PROBE, _FIRST_PROBE + self.probes, self.seed)), 1)
        images = operator @ probes
        pairs = replace(pairs, values=pairs.values.cpu(), vectors=pairs.vectors.cpu(), residuals=pairs.residuals.cpu())
        spectrum = spectrum_of(scene.layout, pairs, self.dtype, density=density)
        hessian = operator.inner
        return PointMeasurement(
            Point(step, spectrum, None, None, probes.cpu(), images.cpu()),
            operator,
            pairs,
            hessian.loss,
            float(hessian.gradient.norm()),
        )


def _on_cpu(density: SpectralDensity) -> SpectralDensity:
    """The same density; its nodes are few."""
    return replace(density, nodes=density.nodes.cpu(), weights=density.weights.cpu())
