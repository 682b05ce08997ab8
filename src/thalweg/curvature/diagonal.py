"""The diagonal of an operator, from products alone: exactly where it is small, else from random signs.

Shape letters: P dimension, n number of probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thalweg.bounds import of_their_kind
from thalweg.curvature.operator import Matrix, Operator, as_operator
from thalweg.curvature.probes import blocks, require_probes
from thalweg.errors import unknown
from thalweg.reprs import short_repr

_METHODS = ("auto", "exact", "probes")
_AT_ONCE = 64
"""Unit vectors multiplied in one call."""


@short_repr
@dataclass(frozen=True)
class Diagonal:
    """The diagonal of an operator, with the standard error of every entry."""

    values: Tensor
    """``A_ii``, ``(P,)`` float64."""
    standard_errors: Tensor
    """``(P,)`` float64, those of the probes; zeros where the diagonal is exact."""
    products: int
    """Number of products of the operator with one vector; 0 for a matrix."""


@of_their_kind
def diagonal(
    operator: Operator | Tensor, probes: int = 60, method: Literal["auto", "exact", "probes"] = "auto", seed: int = 0
) -> Diagonal:
    """The diagonal entries ``A_ii``, exact or as unbiased estimates.

    Exact: one product with each unit vector, P in all; a matrix is read. Estimated: the mean of ``z * (A z)`` over Rademacher
    probes z, entry by entry; entry i has the variance ``sum_(j != i) A_ij^2 / n``, so that a nearly diagonal operator needs few
    probes, and an operator with strong coupling many.

    Args:
        operator: A, symmetric, or its matrix ``(P, P)``.
        probes: n, number of probes and of products, at least 2.
        method: "exact", "probes", or "auto": exact for a matrix, and where P is no more than ``probes``.
        seed: seed of the probes.
    Raises:
        BadInputError: fewer than 2 probes, or an unknown method.
    Example:
        >>> diagonal(torch.tensor([[2.0, 1.0], [1.0, 5.0]])).values.tolist()
        [2.0, 5.0]

    Source:
        Bekas, Kokiopoulou and Saad 2007.
    """
    operator = as_operator(operator)
    if method not in _METHODS:
        raise unknown("method", str(method), _METHODS)
    if method == "exact" or (method == "auto" and (isinstance(operator, Matrix) or operator.dim <= probes)):
        return _exact(operator)
    require_probes(probes)
    # Sums of x = z * A z and of x^2 over probes, about the first x, so that the variance loses no digits.
    first, total, squares = torch.zeros(3, operator.dim, dtype=torch.float64, device=operator.device)
    for number, probe in enumerate(blocks(operator, 0, probes, seed)):
        sample = probe * (operator @ probe)
        first = sample[:, 0] if number == 0 else first
        apart = sample - first.unsqueeze(1)
        total, squares = total + apart.sum(1), squares + apart.square().sum(1)
    variance = ((squares - total.square() / probes) / (probes - 1)).clamp(min=0.0)
    return Diagonal(first + total / probes, (variance / probes).sqrt(), probes)


def _exact(operator: Operator) -> Diagonal:
    """The diagonal by products with unit vectors, or read off a matrix."""
    if isinstance(operator, Matrix):
        values = operator.entries.diagonal().double()
        return Diagonal(values.clone(), torch.zeros_like(values), 0)
    values = torch.empty(operator.dim, dtype=torch.float64, device=operator.device)
    for start in range(0, operator.dim, _AT_ONCE):
        places = torch.arange(start, min(start + _AT_ONCE, operator.dim), device=operator.device)
        units = values.new_zeros(operator.dim, len(places))
        units[places, places - start] = 1.0
        values[places] = (operator @ units)[places, places - start]
    return Diagonal(values, torch.zeros_like(values), operator.dim)
