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
from thalweg.curvature.probes import Estimate, blocks, mean_of, require_probes
from thalweg.errors import require, unknown

_METHODS = ("hutch++", "hutchinson")


@of_their_kind
def trace(operator: Operator | Tensor, probes: int = 60, method: str = "hutch++", seed: int = 0) -> Estimate:
    """The trace, unbiased, in a given number of products.

    Hutchinson's is the mean of ``z^T A z``; its standard error is ``sqrt(2 / probes)`` times the Frobenius norm of A's
    off-diagonal part. Hutch++ takes the trace on the range of a sketch exactly and only the rest from probes; better where
    few eigenvalues are large, worse by ``sqrt(3)`` for a flat spectrum or one that is nearly diagonal. Its
    standard error is that of the rest's probes, as the sketch adds no variance: given any sketch the mean is the trace.

    Args:
        operator: symmetric, or its matrix ``(P, P)``.
        probes: products in all, at least 2; Hutch++ needs 6 and gives a third to the sketch, as many to the trace on it,
            and what is left (at least a third) to the rest.
        method: "hutch++" or "hutchinson".
        seed: of the probes.
    Returns:
        The trace in units of A's eigenvalues; ``products`` counts what was used (fewer than asked where P is small).
    Raises:
        BadInputError: too few probes for a standard error, or an unknown method.
    Example:
        >>> trace(torch.diag(torch.tensor([1.0, 3.0])), probes=4, method="hutchinson")
        Estimate(value=4.0, standard_error=0.0, products=4)

    Source:
        Hutchinson 1989; Meyer, Musco, Musco and Woodruff 2021, algorithm 1.
    """
    operator = as_operator(operator)
    if method not in _METHODS:
        raise unknown("method", method, _METHODS)
    require_probes(probes)
    if method == "hutchinson":
        values = [((operator @ z) * z).sum(0) for z in blocks(operator, 0, probes, seed)]
        return mean_of(torch.cat(values), probes)
    require(probes >= 6, "probes", probes, "at least 6 for Hutch++, two in each third, or method='hutchinson'")
    sketch = min(probes // 3, operator.dim)
    image = torch.cat([operator @ z for z in blocks(operator, 0, sketch, seed)], dim=1)
    basis = torch.linalg.qr(image).Q
    seen = float(((operator @ basis) * basis).sum())
    if sketch == operator.dim:  # the basis is the whole space: nothing is left to estimate
        return Estimate(seen, 0.0, 2 * sketch)
    rests = [z - basis @ (basis.T @ z) for z in blocks(operator, sketch, probes - sketch, seed)]
    rest = mean_of(torch.cat([((operator @ z) * z).sum(0) for z in rests]), probes)
    return Estimate(seen + rest.value, rest.standard_error, probes)


@of_their_kind
def frobenius(operator: Operator | Tensor, probes: int = 30, seed: int = 0) -> Estimate:
    """The Frobenius norm, as the square root of the mean of ``||A z||^2`` over Rademacher probes.

    The square is unbiased; the root is low by about ``standard_error^2 / (2 value)``. The standard error is that of the
    square divided by twice the norm (delta method).

    Args:
        operator: symmetric, or its matrix ``(P, P)``.
        probes: products, at least 2.
        seed: of the probes.
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
    """``tr |A|``, the sum of the absolute eigenvalues, by stochastic Lanczos quadrature.

    The kink of ``|x|`` at zero leaves a quadrature error that falls about as ``1 / steps`` with the node spacing, and that
    the standard error does not hold; none for a spectrum of one sign, or when ``steps`` reaches P.

    Args:
        operator: symmetric, or its matrix ``(P, P)``.
        steps: products a probe, at least 1.
        probes: at least 2.
        seed: of the probes.
    Example:
        >>> round(trace_abs(torch.diag(torch.tensor([1.0, -3.0], dtype=torch.float64))).value, 12)
        4.0
    """
    return trace_function(operator, torch.abs, steps, probes, seed)
