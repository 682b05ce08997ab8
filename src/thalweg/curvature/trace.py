"""Trace, Frobenius norm and trace of the absolute value, from products alone.

Shape letters: P dimension, s columns of the sketch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.bounds import of_their_kind
from thalweg.curvature.functionals import trace_function
from thalweg.curvature.operator import Operator, as_operator
from thalweg.curvature.probes import Estimate, blocks, gaussian, mean_of, require_probes
from thalweg.errors import require, unknown

_METHODS = ("hutch++", "hutchinson", "xtrace")


@of_their_kind
def trace(operator: Operator | Tensor, probes: int = 60, method: str = "hutch++", seed: int = 0) -> Estimate:
    """An unbiased estimate of the trace ``tr A`` in a given number of products.

    Hutchinson's estimate is the mean of ``z^T A z`` over Rademacher probes z; its standard error is ``sqrt(2 / probes)`` times the
    Frobenius norm of A's off-diagonal part. Hutch++ computes the trace on the range of a sketch exactly, with Q an orthonormal
    basis of the columns of ``A S``: ``tr A = tr(Q^T A Q) + tr((I - Q Q^T) A (I - Q Q^T))``; only the second term is estimated from
    probes. It is better where few eigenvalues are large, and worse by ``sqrt(3)`` for a flat spectrum or a nearly diagonal A. Its
    standard error is that of the second term, as the sketch adds no variance: given any sketch the mean is the trace. XTrace uses
    every product for both terms: each probe in turn is left out of the sketch and estimates the remainder (`_xtrace`). It is the
    best one where the eigenvalues fall fast; its estimates share the sketch, so that its standard error is an approximation.

    Args:
        operator: A, symmetric, or its matrix ``(P, P)``.
        probes: products in all, at least 2; Hutch++ needs 6, uses a third for the sketch, as many for the trace on its range,
            and the others (at least a third) for the second term. XTrace needs 4, and uses an even number.
        method: "hutch++", "hutchinson" or "xtrace".
        seed: seed of the probes.
    Returns:
        The trace in units of A's eigenvalues; ``products`` counts those used (fewer than ``probes`` where P is small).
    Raises:
        BadInputError: too few probes for a standard error, or an unknown method.
    Example:
        >>> trace(torch.diag(torch.tensor([1.0, 3.0])), probes=4, method="hutchinson")
        Estimate(value=4.0, standard_error=0.0, products=4)

    Source:
        Hutchinson 1989; Meyer, Musco, Musco and Woodruff 2021, algorithm 1; Epperly, Tropp and Webber 2024, section 2.
    """
    operator = as_operator(operator)
    if method not in _METHODS:
        raise unknown("method", method, _METHODS)
    require_probes(probes)
    if method == "hutchinson":
        values = [((operator @ z) * z).sum(0) for z in blocks(operator, 0, probes, seed)]
        return mean_of(torch.cat(values), probes)
    if method == "xtrace":
        require(probes >= 4, "probes", probes, "at least 4 for XTrace, two sketches of two, or method='hutchinson'")
        return _xtrace(operator, probes // 2, seed)
    require(probes >= 6, "probes", probes, "at least 6 for Hutch++, two in each third, or method='hutchinson'")
    # Sketch: Q, an orthonormal basis of the range of A S with random signs S ``(P, s)``.
    sketch = min(probes // 3, operator.dim)
    image = torch.cat([operator @ z for z in blocks(operator, 0, sketch, seed)], dim=1)
    basis = torch.linalg.qr(image).Q
    # First term, exact: tr(Q^T A Q).
    on_range = float(((operator @ basis) * basis).sum())
    if sketch == operator.dim:  # the basis is the whole space: nothing is left to estimate
        return Estimate(on_range, 0.0, 2 * sketch)
    # Second term: Hutchinson's estimate with probes from which the range of Q is removed.
    deflated = [z - basis @ (basis.T @ z) for z in blocks(operator, sketch, probes - sketch, seed)]
    remainder = mean_of(torch.cat([((operator @ z) * z).sum(0) for z in deflated]), probes)
    return Estimate(on_range + remainder.value, remainder.standard_error, probes)


def _xtrace(operator: Operator, count: int, seed: int) -> Estimate:
    """XTrace with ``count`` probes and twice as many products, with normalised remainders.

    For probe i let Q_i be an orthonormal basis of the images ``A w_j`` of the other probes. Its estimate is
    ``tr(Q_i^T A Q_i) + d / ||x||^2 * x^T A x`` with ``x = (I - Q_i Q_i^T) w_i`` and d the dimension of the complement of Q_i. As
    ``Q_i Q_i^T = Q (I - s_i s_i^T) Q^T``, s_i the unit vector along ``R^-T e_i`` of ``A W = Q R``, all of them come from one
    factorisation.
    """
    if 2 * count >= operator.dim:  # all unit vectors cost no more, and leave nothing to estimate
        unit = torch.eye(operator.dim, dtype=torch.float64, device=operator.device)
        return Estimate(float((operator @ unit).trace()), 0.0, operator.dim)
    probes = torch.stack([gaussian(operator, index, seed) for index in range(count)], 1)
    image = operator @ probes
    basis, triangle = torch.linalg.qr(image)
    small = triangle.diagonal().abs() <= 1e-12 * triangle.diagonal().abs().max()
    if small.any():  # the images span the whole range: the trace is that on the range
        return Estimate(float(((operator @ basis) * basis).sum()), 0.0, 2 * count)
    inside = basis.T @ (operator @ basis)
    # Columns s_i, the coordinates w_i of the probes, and u_i, those of their parts in the span of Q_i.
    left_out = torch.linalg.solve_triangular(triangle.T, torch.eye(count).to(triangle), upper=False)
    left_out = left_out / left_out.norm(dim=0)
    coordinates = basis.T @ probes
    kept = coordinates - left_out * (left_out * coordinates).sum(0)
    on_range = inside.trace() - (left_out * (inside @ left_out)).sum(0)
    form = (probes * image).sum(0) - 2 * (kept * triangle).sum(0) + (kept * (inside @ kept)).sum(0)
    length = probes.square().sum(0) - kept.square().sum(0)
    return mean_of(on_range + (operator.dim - count + 1) / length * form, 2 * count)


@of_their_kind
def frobenius(operator: Operator | Tensor, probes: int = 30, seed: int = 0) -> Estimate:
    """The Frobenius norm ``||A||_F``, as the square root of the mean of ``||A z||^2`` over Rademacher probes z.

    ``E ||A z||^2 = tr(A^2) = ||A||_F^2``, so the square is unbiased; the root is low by about ``standard_error^2 / (2 value)``. The
    standard error is that of the square divided by twice the norm (delta method). Costs ``probes`` products.

    Args:
        operator: A, symmetric, or its matrix ``(P, P)``.
        probes: number of probes and of products, at least 2.
        seed: seed of the probes.
    Returns:
        The norm in units of A's eigenvalues; 0 with standard error 0 for a zero operator.
    Raises:
        BadInputError: fewer than 2 probes.
    Example:
        >>> frobenius(torch.diag(torch.tensor([3.0, 4.0])), probes=2)
        Estimate(value=5.0, standard_error=0.0, products=2)
    """
    operator = as_operator(operator)
    require_probes(probes)
    squares = torch.cat([(operator @ z).square().sum(0) for z in blocks(operator, 0, probes, seed)])
    square = mean_of(squares, probes)
    norm = math.sqrt(square.value)
    return Estimate(norm, square.standard_error / (2 * norm) if norm else 0.0, probes)


@of_their_kind
def trace_abs(operator: Operator | Tensor, steps: int = 80, probes: int = 10, seed: int = 0) -> Estimate:
    """``tr |A| = sum_i |lambda_i|``, by stochastic Lanczos quadrature, see `trace_function`.

    The kink of ``|x|`` at zero leaves a quadrature error that falls about as ``1 / steps`` with the node spacing, and that the
    standard error does not contain. There is none for a spectrum of one sign, or when ``steps`` reaches P. Costs ``probes``
    times ``steps`` products.

    Args:
        operator: A, symmetric, or its matrix ``(P, P)``.
        steps: products for each probe, at least 1.
        probes: number of probes, at least 2.
        seed: seed of the probes.
    Returns:
        The sum in units of A's eigenvalues, with its standard error over probes.
    Raises:
        BadInputError: fewer than 2 probes or 1 step.
    Example:
        >>> round(trace_abs(torch.diag(torch.tensor([1.0, -3.0], dtype=torch.float64))).value, 12)
        4.0
    """
    return trace_function(operator, torch.abs, steps, probes, seed)
