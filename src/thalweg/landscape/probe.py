"""The curvature of any loss of any model at a series of points, as records.

At each point the probe takes these steps:

1. Choose a variant, once for each series: all eigenvalues of a dense Hessian ("exact"), or a density and a few eigenpairs from
   products alone ("matrix-free"), by memory and expected time.
2. Measure: the Hessian or its products, the spectrum, the top eigenpairs.
3. Compute the numbers of the record, and compare the point with the one before.

Shape letters: P number of parameters, k top directions, n probes, f quadratic forms, b batches.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from thalweg import ranks
from thalweg.bounds import of_their_kind
from thalweg.curvature import memory as limits
from thalweg.curvature.context import Mode, undisturbed
from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.density import SpectralDensity, spectral_density
from thalweg.curvature.eigenpairs import EigenPairs, eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.lanczos import length
from thalweg.curvature.loss_operator import Method
from thalweg.curvature.objective import LossFunction, Objective
from thalweg.curvature.operator import Matrix, Operator
from thalweg.curvature.probes import blocks, gaussian
from thalweg.errors import NoClassWarning, require, unknown, warn
from thalweg.landscape.context import Gauge, MeasurementContext, measurement_context, refuse_other, refuse_unequal
from thalweg.landscape.convergence import converge
from thalweg.landscape.cost import COLUMN, Counted, Progress, eigen_seconds, has_threads, matrix_bytes, product_seconds
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
from thalweg.records.convergence import Convergence
from thalweg.records.landscape import LandscapeRecord
from thalweg.reprs import describe, short_repr
from thalweg.screen import duration
from thalweg.threads import threads
from thalweg.vectors import Choice

_Variant = Literal["exact", "matrix-free"]
_FIRST_PROBE = 1 << 20
"""Number of the first probe that all points of a series share; lower numbers belong to the density and the quadratic forms."""
_SMALLEST = 1e-4
"""Relative residual of the most negative eigenvalue; the relative error of the value itself is about its square."""


@short_repr
@dataclass(frozen=True)
class PointMeasurement:
    """What was measured at one point, before the numbers of its record are computed."""

    point: Point
    """Spectrum, and what the next point is compared with."""
    operator: Operator
    """The Hessian."""
    pairs: EigenPairs
    """The largest eigenvalues with their vectors."""
    loss: float
    """Mean loss at the point."""
    gradient_norm: float
    """Euclidean norm of its gradient."""
    batches: Tensor | None = None
    """Hessians of single batches ``(b, P, P)``, if ``noise=True``."""


class LandscapeProbe:
    """Measures the Hessian spectrum of a series of points, each compared with the one before.

    The first point of a series decides between the exact spectrum and a matrix-free one, so that a series is not mixed. To continue
    a series after a restart, call `remember` on its last point (or measure it again) with ``method`` as in its records. A
    matrix-free point costs about n (m + 1) products for m Lanczos steps, and those of the eigenpairs (about 20 k + 100).

    Args:
        top: k, number of largest eigenvalues that are computed with their vectors; all of them where the model has fewer weights.
        lanczos: Lanczos steps of a matrix-free density.
        probes: n, probes of the density, and as many for the comparison of successive matrix-free points.
            Standard errors over n probes are rough for small n (n - 1 degrees of freedom): the entropy of a small GPT lay more than
            4 of them from the truth in 4 % of 300 seeds at n = 4, in 3 % at 8, in 1 % of 100 at 20.
        exact_seconds: longest expected time of an exact spectrum, in seconds. A longer one is still taken where a matrix-free one
            is expected to take as long; 0 never takes it.
        memory: bytes; None takes half of what is free.
        dtype: arithmetic of the products, float32 or float64; eigenvalues are computed in float64.
        method: "auto", "exact" (refused where it does not fit into the memory) or "matrix-free".
        forms: f, quadratic forms for ``change.forms``, the mutual information of successive exact points by quadratic forms; 0
            leaves it out. ``change.information``, the other measure of it, is always there.
        seed: seed of all probes; series with the same seed share them.
        pairs: query and key weights, which are balanced in a copy of the model: the same function, and one spectrum for all gauges.
            Gradient norm and eigenvectors are those of the balanced weights.
        heads, rotary: heads and positions of every pair, see `thalweg.landscape.gauge.balance`.
        matrices: number of exact Hessians of this structure that are planned.
        warm: whether the eigenpairs of a matrix-free point start from those of the point before, see ``after`` of
            `thalweg.curvature.eigenpairs.eigenpairs`; the record's ``reason`` says so. It takes fewer products, but a copy of an
            eigenvalue that is new at a point is not searched for. The density's probes are always random.
        products: how Hessian-vector products are computed, the ``method`` of `thalweg.curvature.hessian.Hessian`; "differences" for
            operations without a second derivative.
    Raises:
        BadInputError: an argument out of its range; the message names it.
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
        warm: bool = False,
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
        self.products_method, self.warm = products, warm
        self.seconds_of: dict[tuple[Any, ...], float] = {}
        self.seconds_without: dict[tuple[Any, ...], float] = {}
        self.eigen_alone = False  # whether the eigenvalues of a matrix take one thread, as far as they were timed
        self.reset()

    def __repr__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        parts = [f"top={self.top}", f"lanczos={self.lanczos}", f"probes={self.probes}", f"method={self.method!r}", kind]
        return describe(self, *parts, "no point" if self.last_point is None else f"{self.variant} at step {self.last_point.step}")

    def reset(self) -> None:
        """Begin a new series: the next point is compared with none, and chooses the variant again."""
        self.last_point: Point | None = None
        self.last_pairs: dict[str, EigenPairs] = {}
        self.variant: _Variant | None = None
        self.alone: bool | None = None  # whether products take one thread; None before they were timed
        self.first_step = 0

    @property
    def spectrum(self) -> Spectrum | None:
        """Spectrum of the last point; None before the first one."""
        return None if self.last_point is None else self.last_point.spectrum

    @property
    def hessian(self) -> Tensor | None:
        """Dense Hessian of the last point, ``(P, P)``; None where it was matrix-free."""
        return None if self.last_point is None else self.last_point.hessian

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
        """Measure the curvature at the model's present weights, which are not changed.

        Args:
            loss_fn, model, batches, params: as for `thalweg.curvature.hessian.Hessian`.
            step: number of updates made so far, at least 0; it stands in the record. Points are compared in the order of the calls.
            progress: see `Progress`.
            noise: whether the differences between batches enter the threshold of an exact point (one dense Hessian for each batch,
                and their plain mean, so that all batches must have equal counts); no effect on a matrix-free point. One process
                only.
            mode, seed: evaluation mode or training mode, and what fixes random parts of the loss, as for `Hessian`.
        Returns:
            The record of the point, with its change since the point before.
        Raises:
            BadInputError: another model than that of the point before; or what `Hessian` refuses.
            MemoryLimitError: method "exact", and the matrix does not fit.
            EmptySubspaceError: the Hessian is zero.
            NonFiniteError: a number of the record is NaN or infinite.
        """
        started = time.perf_counter()
        require(step >= 0, "step", step, "the number of updates made so far, at least 0")
        require(not noise or ranks.world() == 1, "noise", noise, "False on several ranks, which share the batches out")
        context = self.context(loss_fn, model, batches, params, mode, seed)
        with threads(), self._unchanged_by_failure():
            measurement, reason, products = self.measure_point(context, step, progress, noise)
            numbers, remark, extra_products = self.record_fields(measurement)
            if measurement.point.spectrum.values is not None:
                self.seconds_of.setdefault(context.key, time.perf_counter() - started)
            record = LandscapeRecord(
                step=step,
                how=measurement.point.spectrum.how,
                reason=reason + remark,
                dim=context.layout.dim,
                products=products + extra_products,
                seconds=time.perf_counter() - started,
                loss=measurement.loss,
                gradient_norm=measurement.gradient_norm,
                imbalance=context.imbalance,
                mode=context.mode,
                change=None if self.last_point is None else change_record(self.last_point, measurement.point, self.seed),
                **numbers,
            )
            record = replace(record, seconds=time.perf_counter() - started)
            refuse_non_finite(record)
        self.last_point = measurement.point
        return record

    @contextlib.contextmanager
    def _unchanged_by_failure(self) -> Iterator[None]:
        """Leave the series as it was at the point before where the next one fails."""
        before = {name: getattr(self, name) for name in ("last_point", "last_pairs", "variant", "alone", "first_step")}
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise

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
        """Measure a point only as far as the next one is compared with it, without a record; arguments as for `measure`."""
        context = self.context(loss_fn, model, batches, params, mode, seed)
        with threads(), self._unchanged_by_failure():
            self.last_point = self.measure_point(context, step, progress, noise=False)[0].point

    @undisturbed
    @of_their_kind
    def converge(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        tolerance: float = 0.05,
        params: Choice = None,
        progress: Progress | None = None,
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> Convergence:
        """How many batches and probes are enough: every quantity of the point over disjoint sets of 1, 2, 4, ... and all batches.

        Quantities: loss, gradient norm, curvature along the gradient, the k largest eigenvalues and the smallest, trace, Frobenius
        norm, third and fourth moment of the density, entropy, and negative mass. All of them are computed from products, with the
        probe's Lanczos steps and probes. Batches are taken as independent draws of equal size: give them in random order. The
        report is printed as a table with a verdict in words; `thalweg.plot` draws it. It costs about log2(B) + 1 matrix-free
        points. The errors of the quadrature and of the eigenvalues (1e-6 of the largest) are not part of it. The series is not
        changed.

        Args:
            loss_fn, model, batches, params, progress, mode, seed: as for `measure`; at least 4 batches that differ.
            tolerance: relative half-width of a 95 % interval that counts as enough, from 0.001 to 1.
        Raises:
            BadInputError: fewer than 4 batches that differ, several ranks, ``products="differences"``, or what `Hessian` refuses.
        Example:
            >>> x = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(0))
            >>> report = LandscapeProbe(top=1).converge(lambda m, b: m(b).square().mean(), nn.Linear(3, 1), list(x))
            >>> report.batches, [level.batches for level in report["trace"].levels]
            (8, [1, 2, 4, 8])
        """
        gauge = Gauge(self.pairs, self.heads, self.rotary)
        context = measurement_context(loss_fn, model, batches, params, self.dtype, gauge, mode, seed)
        options = {"method": self.products_method, "memory": self.memory, "mode": context.mode, "seed": context.seed}
        hessian = Hessian(context.loss_fn, context.model, context.batches, context.params, self.dtype, **options)
        return converge(hessian, self.top, self.lanczos, self.probes, self.seed, tolerance, progress, self.memory)

    def context(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        params: Choice,
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> MeasurementContext:
        """Loss, batches and balanced model of one point, checked to have the same layout as the point before."""
        gauge = Gauge(self.pairs, self.heads, self.rotary)
        context = measurement_context(loss_fn, model, batches, params, self.dtype, gauge, mode, seed)
        if self.last_point is not None:
            refuse_other(context.layout, self.last_point.spectrum.layout, self.last_point.step)
        return context

    def measure_point(
        self, context: MeasurementContext, step: int, progress: Progress | None, noise: bool
    ) -> tuple[PointMeasurement, str, int]:
        """Measure a point by the variant of its series; returns it, the reason for the variant, and the products so far."""
        operator: Counted | None = None
        if self.variant is not None:
            variant = self.variant
            reason = f"{variant}: {context.layout.dim:,} parameters, as at step {self.first_step} of the same series"
        elif self.method == "auto":
            variant, reason, operator = self.choose_variant(context, noise, progress)
        else:
            variant = "exact" if self.method == "exact" else "matrix-free"
            reason = f"{variant}: {context.layout.dim:,} parameters, asked for"
        spent = operator.products if operator is not None else 0
        if variant == "exact":
            measurement, products = self.measure_exact(context, step, progress, noise), context.layout.dim + spent
        else:
            operator = operator or self.operator(context, progress)
            if self.alone is None and ranks.same(has_threads(operator.device)):
                self.alone = ranks.same(product_seconds(operator)[1])
            if self.alone:
                torch.set_num_threads(1)  # restored by the caller
                reason += "; products on one thread, which is faster here"
            if "largest" in self.last_pairs and self.last_point is not None:
                reason += f"; eigenpairs started from those of step {self.last_point.step}"
            measurement = self.measure_matrix_free(context, step, operator)
            products = operator.products
        if self.variant is None:
            self.variant, self.first_step = variant, step
        return measurement, reason, products

    def record_fields(self, measurement: PointMeasurement) -> tuple[dict[str, Any], str, int]:
        """The spectral fields of the record, a remark on eigenvalues that did not converge, and the products that this took."""
        spectrum, operator, pairs, remark = measurement.point.spectrum, measurement.operator, measurement.pairs, ""
        if not pairs.converged:
            worst = float(pairs.residuals.max())
            remark = f"; the {len(pairs.values)} largest eigenvalues did not converge, each is within {worst:.1e} of one"
        if spectrum.values is not None:
            split = split_record(spectrum.values, self.dtype, measurement.batches, self.seed)
            return exact_numbers(spectrum, spectrum.values) | {"split": split}, remark, 0
        assert spectrum.density is not None
        options = {"strict": False, "verify": False, "after": self.last_pairs.get("smallest")}
        memory = ranks.least(limits.budget(self.memory, operator.device))
        smallest = eigenpairs(operator, 1, "smallest", _SMALLEST, None, memory, self.seed + 1, **options)
        self.keep("smallest", smallest)
        if not smallest.converged:
            remark += f"; the smallest eigenvalue did not converge, it is within {float(smallest.residuals[0]):.1e} of one"
        fields = free_numbers(spectrum, spectrum.density, pairs, float(smallest.values[0]))
        fields |= sums(operator, spectrum.density, pairs, measurement.point, self.seed)
        return fields | {"split": None}, remark, smallest.products

    def keep(self, end: str, pairs: EigenPairs) -> None:
        """Keep the pairs of one end of the spectrum, on the CPU, as a start for the next point."""
        if self.warm:
            self.last_pairs = self.last_pairs | {end: replace(pairs, vectors=pairs.vectors.cpu(), values=pairs.values.cpu())}

    def operator(self, context: MeasurementContext, progress: Progress | None) -> Counted:
        """The Hessian as an operator that counts its products; checked at the first point of a series only."""
        first = self.last_point is None
        options = {"method": self.products_method, "memory": self.memory, "check": first}
        options |= {"mode": context.mode, "seed": context.seed}
        hessian = Hessian(context.loss_fn, context.model, context.batches, context.params, self.dtype, **options)
        expected = self.probes * (self.lanczos + 1) + 20 * self.top + 100
        return Counted(hessian, 2 if first else 0, expected, progress)

    def choose_variant(
        self, context: MeasurementContext, noise: bool, progress: Progress | None
    ) -> tuple[_Variant, str, Counted | None]:
        """Choose "exact" where the matrix fits and its expected time is allowed, or no longer than that of a matrix-free point.

        Returns the variant, the reason, and the operator if it was timed.
        Memory is that of the rank with the least; times are those of rank 0, so that all ranks choose alike.
        """
        dim, device = context.layout.dim, context.device
        parameters, allowed = f"{dim:,} parameters", ranks.least(limits.budget(self.memory, device))
        needed = matrix_bytes(dim, len(context.batches) if noise else 0)
        if needed > allowed:
            size = f"a dense matrix needs {limits.format_bytes(needed)} of {limits.format_bytes(allowed)} allowed"
            return "matrix-free", f"matrix-free: {parameters}, {size}", None
        # Expected time: that of an earlier point of this structure, else that of the eigenvalues and the columns.
        operator, known = None, ranks.same(self.seconds_of.get(context.key))
        seconds, self.eigen_alone = ranks.same(eigen_seconds(dim, device, noise)) if known is None else (known, self.eigen_alone)
        without = ranks.same(self.seconds_without.get(context.key, 0.0))
        if known is None and self.exact_seconds:
            operator = self.operator(context, progress)
            product, self.alone = ranks.same(product_seconds(operator))
            seconds, without = seconds + COLUMN * dim * product, operator.expected * product
            self.seconds_without[context.key] = without
        variant: _Variant = "exact" if self.exact_seconds and seconds <= max(self.exact_seconds, without) else "matrix-free"
        estimate = f"about {duration(seconds)} expected" if known is None else f"{duration(seconds)} measured before"
        reason = f"{variant}: {parameters}, {estimate} of {duration(self.exact_seconds)} allowed"
        if variant == "exact" and seconds > self.exact_seconds:
            reason += f", and about {duration(without)} by products alone"
        if variant == "matrix-free" and self.exact_seconds and ranks.rank() == 0:
            warn(
                f"{parameters} are measured without their Hessian's matrix, so the valley gets no class: an exact spectrum would "
                f"take about {duration(seconds)}, with {duration(self.exact_seconds)} allowed; for the class pass exact_seconds="
                f"{math.ceil(2 * seconds)} (--exact-seconds), or to go without it method='matrix-free' (--exact-seconds 0)",
                NoClassWarning,
            )
        return variant, reason, operator

    def measure_exact(self, context: MeasurementContext, step: int, progress: Progress | None, noise: bool) -> PointMeasurement:
        """Measure a point by its dense Hessian: all eigenvalues, the top eigenvectors, and quadratic forms of common probes."""
        dim = context.layout.dim
        loss_fn, model, params = context.loss_fn, context.model, context.params
        objective = Objective(loss_fn, model, context.batches, params, self.dtype, context.mode, context.seed)
        advice = "choose fewer parameters with params=, or method='matrix-free'"
        needed = matrix_bytes(dim, len(context.batches) if noise else 0)
        allowed = ranks.least(limits.budget(self.memory, objective.device))
        limits.ensure(needed, allowed, f"spectrum of {dim:,} parameters", advice)

        def dense(batches: list[Any]) -> Tensor:
            options = {"memory": self.memory, "compile": "never", "matrices": self.matrices, "progress": progress}
            options |= {"method": self.products_method, "mode": context.mode, "seed": context.seed}
            return dense_hessian(loss_fn, model, batches, params, self.dtype, **options).matrix

        # The Hessian; with noise, one for each batch and their mean.
        stack = None
        if noise:
            refuse_unequal(context, self.dtype)
            stack = torch.stack([dense([batch]) for batch in context.batches])
        matrix = dense(context.batches) if stack is None else stack.mean(0)
        entries = Matrix(matrix.double())
        with threads(1 if self.eigen_alone else None):
            values = torch.linalg.eigvalsh(entries.entries).cpu()
            pairs = eigenpairs(entries, min(self.top, dim), "largest", seed=self.seed + 1, strict=False)
        # Quadratic forms z^T H z of probes that all points share, for the mutual information of successive points.
        forms = None
        if self.forms:
            z = torch.stack([gaussian(entries, index, self.seed) for index in range(self.forms)], 1)
            forms = (z * (entries.entries @ z)).sum(0).cpu()
        spectrum = spectrum_of(context.layout, pairs, self.dtype, values=values)
        return PointMeasurement(
            Point(step, spectrum, matrix, forms, None, None),
            entries,
            pairs,
            objective.value,
            length(objective.gradient),
            stack,
        )

    def measure_matrix_free(self, context: MeasurementContext, step: int, operator: Counted) -> PointMeasurement:
        """Measure a point by products alone: a density, the top eigenpairs, and the images ``H Z`` of the series' common probes."""
        options = {"strict": False, "after": self.last_pairs.get("largest")}
        memory = ranks.least(limits.budget(self.memory, operator.device))
        pairs = eigenpairs(operator, min(self.top, operator.dim), "largest", None, None, memory, self.seed + 1, **options)
        density = _on_cpu(spectral_density(operator, self.lanczos, self.probes, self.seed))
        probes = torch.cat(list(blocks(operator, _FIRST_PROBE, _FIRST_PROBE + self.probes, self.seed)), 1)
        images = operator @ probes
        pairs = replace(pairs, values=pairs.values.cpu(), vectors=pairs.vectors.cpu(), residuals=pairs.residuals.cpu())
        self.keep("largest", pairs)
        spectrum = spectrum_of(context.layout, pairs, self.dtype, density=density)
        hessian = operator.inner
        return PointMeasurement(
            Point(step, spectrum, None, None, probes.cpu(), images.cpu()),
            operator,
            pairs,
            hessian.loss,
            length(hessian.gradient),
        )


def _on_cpu(density: SpectralDensity) -> SpectralDensity:
    """The same density with its nodes and weights on the CPU."""
    return replace(density, nodes=density.nodes.cpu(), weights=density.weights.cpu())
