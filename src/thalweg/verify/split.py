"""Checks of section 2: thresholds between river and valley under noise, the class of a valley, the gauge of query and key."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from thalweg.landscape import gauge, noise, sweep, threshold, valley
from thalweg.records.landscape import CLASSES
from thalweg.verify.statement import Finding, Statement, cases, errors_within, normal, rotation

DIM = 60
"""Dimension P of the planted Hessians."""


def planted(rng: np.random.Generator, batches: int, size: float) -> tuple[int, Tensor, Tensor]:
    """Draw a Hessian whose valley is known, and noisy Hessians of batches around it.

    The valley has 3 to 8 eigenvalues in [1, 5], the river has eigenvalue 0; each batch adds ``size`` times a Wigner matrix.

    Returns:
        the dimension of the valley, the Hessian ``(P, P)``, and the batches' Hessians ``(batches, P, P)``.
    """
    count = int(rng.integers(3, 9))
    values = torch.zeros(DIM, dtype=torch.float64)
    values[:count] = 10 ** torch.from_numpy(rng.uniform(0, 0.7, count))
    vectors = rotation(rng, DIM)
    whole = vectors @ torch.diag(values) @ vectors.T
    added = normal(rng, batches, DIM, DIM)
    return count, whole, whole + size * (added + added.mT) / math.sqrt(2)


def _log_gap_finds_the_valley() -> Finding:
    """The widest log-gap has to find the planted dimension in all cases, the threshold 1e-3 of the largest in none."""
    rng, errors, baseline = cases(200), [], 0
    for _ in range(60):
        count, _, stack = planted(rng, 8, 0.03)
        values = torch.linalg.eigvalsh(stack.mean(0))
        errors.append(abs(threshold.log_gap(values).above - count))
        # The usual threshold, a fixed share of the largest eigenvalue.
        baseline += int((values.abs() > threshold.relative(values, 1e-3)).sum()) == count
    return Finding(60, max(errors) + baseline, 0, f"log-gap {errors.count(0)} of 60, a thousandth of the largest {baseline} of 60")


def _noise_floor_finds_the_valley() -> Finding:
    """The noise floor has to find the planted dimension in all cases; without its margin it is only reported."""
    rng, errors, without_margin = cases(201), [], 0
    for _ in range(60):
        count, _, stack = planted(rng, 8, 0.03)
        floor = noise.noise_floor(stack, signs=8)
        errors.append(abs(floor.above - count))
        values = torch.linalg.eigvalsh(stack.mean(0))
        without_margin += int((values.abs() > floor.epsilon / noise.MARGIN).sum()) == count
    return errors_within(errors, 0, f"with the margin of 1.1 {errors.count(0)} of 60, without {without_margin} of 60")


def _marchenko_pastur_finds_the_valley() -> Finding:
    """Covariances of rows with equal noise and 3 to 5 larger scales, with more and with fewer rows than columns."""
    rng, errors, variances = cases(202), [], []
    for case in range(60):
        samples = (300, 40)[case % 2]
        count = int(rng.integers(3, 6))
        scales = torch.full((DIM,), 0.3, dtype=torch.float64)
        scales[:count] = torch.from_numpy(rng.uniform(2, 5, count))
        rows = normal(rng, samples, DIM) * scales
        edge = threshold.marchenko_pastur(torch.linalg.eigvalsh(rows.T @ rows / samples), samples)
        errors.append(abs(edge.above - count))
        variances.append(edge.variance / 0.09 - 1)
    details = f"N = 300 and 40 at n = {DIM}; sigma^2 off by {100 * float(np.mean(np.abs(variances))):.1f} % in the mean"
    return errors_within(errors, 0, details)


def _every_spectrum_is_both() -> Finding:
    """Log-uniform spectra: the sweep of thresholds has to reach kappa below 2 and above 10, and keep ``kappa <= rho / epsilon``."""
    rng, missing, details = cases(203), [], ""
    for case in range(8):
        values = 10 ** torch.from_numpy(rng.uniform(-4, 0, 100))
        swept = sweep.sweep(values)
        # Condition numbers at the thresholds that leave a valley.
        filled = swept.kappa[swept.valley > 0]
        missing += [float(filled.min()) - 2, 10 - float(filled.max())]
        missing.append(float((filled * swept.epsilon[swept.valley > 0] / values.max()).max()) - 1)
        if not case:
            shapes = [valley.shape(values, epsilon) for epsilon in (1e-3, 1e-2, 0.1, 0.5)]
            figures = ", ".join(f"{shape.kappa:.3g} (dV {shape.valley})" for shape in shapes)
            details = f"kappa at epsilon = 1e-3, 1e-2, 0.1, 0.5: {figures}"
    return Finding(8, max(*missing, 0.0), 1e-12, details)


def spectrum_of(kind: str, rng: np.random.Generator) -> Tensor:
    """Draw a spectrum of 200 eigenvalues whose class is known: "U", "V", "saddle" or "indeterminate"."""
    river = 1e-9 * torch.from_numpy(rng.uniform(0.1, 1, 170))
    if kind == "U":
        return torch.cat([torch.from_numpy(rng.uniform(0.9, 1.1, 30)), river])
    if kind == "V":
        return torch.cat([10 ** torch.from_numpy(rng.uniform(-3, 0, 30)), river])
    if kind == "saddle":
        return torch.cat([10 ** torch.from_numpy(rng.uniform(-3, 0, 20)), -torch.from_numpy(rng.uniform(0.5, 1, 10)), river])
    return 10 ** (-torch.arange(200, dtype=torch.float64) / 50 + 0.01 * normal(rng, 200))


def _planted_classes_are_found() -> Finding:
    """Every planted class has to be found, from one spectrum and from five seeds."""
    rng, errors = cases(204), []
    for kind in CLASSES:
        for _ in range(10):
            spectra = [spectrum_of(kind, rng) for _ in range(5)]
            errors.append(float(valley.classify(spectra[0]).name != kind))
            errors.append(float(valley.classify_seeds(spectra).name != kind))
    details = "two levels U, three decades V, with a ridge saddle, no gap indeterminate; one spectrum and five seeds"
    return errors_within(errors, 0, details)


SHAPES = {"key": (4, 4), "query": (4, 4), "value": (4, 4), "head": (3, 4)}
"""Weights of the model whose gauge is changed."""


def loss(parts: dict[str, Tensor], tokens: Tensor, classes: Tensor) -> Tensor:
    """Compute the mean loss of linear attention with two loops; tokens ``(S, d, n)``, classes ``(S,)``."""
    state = tokens
    for _ in range(2):
        state = state + parts["value"] @ (state @ (state.mT @ parts["key"].T @ parts["query"] @ state))
    return torch.nn.functional.cross_entropy(state[:, :, -1] @ parts["head"].T, classes)


def _spectrum_at(parts: dict[str, Tensor], tokens: Tensor, classes: Tensor) -> Tensor:
    """Ascending eigenvalues of the loss's Hessian in all weights."""
    flat = torch.cat([parts[name].flatten() for name in SHAPES])

    def of_flat(flat: Tensor) -> Tensor:
        pieces = flat.split([math.prod(shape) for shape in SHAPES.values()])
        return loss({name: p.view(s) for (name, s), p in zip(SHAPES.items(), pieces, strict=True)}, tokens, classes)

    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(of_flat, flat))  # type: ignore[arg-type]


def _gauge_changes_only_the_spectrum() -> Finding:
    """Three gauges of the same function: equal loss, equal balanced spectrum, other unbalanced spectrum."""
    rng, errors, details = cases(205), [], ""
    for case in range(2):
        tokens, classes = normal(rng, 8, 4, 4) / 2, torch.from_numpy(rng.integers(0, 3, 8))
        drawn = {name: 0.3 * normal(rng, *shape) for name, shape in SHAPES.items()}
        weights = gauge.balance_weights(drawn, [gauge.Pair("key", "query")])
        by_factor = gauge.gauge_sweep(
            lambda parts, t=tokens, c=classes: (
                loss(parts, t, c),
                _spectrum_at(parts, t, c),
                _spectrum_at(gauge.balance_weights(parts, [gauge.Pair("key", "query")]), t, c),
            ),
            weights,
            [gauge.Pair("key", "query")],
            (1.0, 3.0, 10.0),
        )
        # Factor 1 is the balanced gauge.
        base = by_factor[1.0]
        for factor, (value, _, balanced) in by_factor.items():
            errors.append(abs(float(value / loss(drawn, tokens, classes)) - 1))
            errors.append(float((balanced - base[1]).norm() / base[1].norm()))
            errors.append(0.0 if factor == 1 or by_factor[factor][1][-1] > 1.5 * base[1][-1] else 1.0)
        if not case:
            shapes = [valley.shape(values, 1e-2 * float(values.abs().max())) for _, values, _ in by_factor.values()]
            details = "s = 1, 3, 10: lam_max " + ", ".join(f"{float(values[-1]):.3g}" for _, values, _ in by_factor.values())
            details += "; dV " + ", ".join(str(shape.valley) for shape in shapes)
            details += "; kappa_q " + ", ".join(f"{shape.kappa_q:.3g}" for shape in shapes)
    return errors_within(errors, 1e-9, details)


def _noisy_extremes_are_between() -> Finding:
    """The crossed estimate has to lie three standard errors below the true sum of the largest, the naive one three above."""
    rng, low, high, excess = cases(206), [], [], []
    for count in (1, 3):
        low, high = [], []
        for seed in range(60):
            _, whole, stack = planted(rng, 8, 0.15)
            true = float(torch.linalg.eigvalsh(whole)[-count:].sum())
            sandwich = noise.sandwich(stack, count, splits=4, seed=seed)
            low.append(sandwich.low - true)
            high.append(sandwich.high - true)
        scores = [float(np.mean(part)) / float(np.std(part) / math.sqrt(60)) for part in (low, high)]
        excess += [scores[0] + 3, 3 - scores[1]]  # three standard errors below and above
    return errors_within(excess, 0, f"sum of the 3 largest: {np.mean(low):+.2f} crossed, {np.mean(high):+.2f} naive")


STATEMENTS = (
    Statement(
        "2.1",
        "the widest log-gap recovers a planted valley; a fixed share of the largest does not",
        "ours",
        _log_gap_finds_the_valley,
    ),
    Statement("2.2", "the noise floor of the batches recovers a planted valley", "ours", _noise_floor_finds_the_valley),
    Statement(
        "2.3", "the Marchenko-Pastur edge recovers a planted valley under equal noise", "ours", _marchenko_pastur_finds_the_valley
    ),
    Statement("2.4", "any spectrum is U for one threshold and V for another", "vacuous", _every_spectrum_is_both),
    Statement("2.5", "with threshold and plateau the planted classes of spectra are found", "repaired", _planted_classes_are_found),
    Statement(
        "2.6",
        "a gauge of query and key keeps the loss, changes the spectrum; balancing undoes it",
        "ours",
        _gauge_changes_only_the_spectrum,
    ),
    Statement(
        "2.7", "sum of the largest under noise: crossed halves too small, one half too large", "ours", _noisy_extremes_are_between
    ),
)
