"""Random probe vectors, and the estimate that several of them make.

Shape letters: P dimension, n number of probes, b probes in one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import Operator
from thalweg.errors import require
from thalweg.streams import stream

_BLOCK = 16
"""Products asked for at once: enough to fill a batched product, and 128 P bytes of probes."""


@dataclass(frozen=True)
class Estimate:
    """A mean over random probes.

    ``standard_error`` is that of sampling alone: one standard deviation of ``value`` over seeds, quadrature error left out.
    """

    value: float
    standard_error: float
    products: int
    """Operator times one vector, counted."""


def gaussian(operator: Operator, index: int, seed: int) -> Tensor:
    """Probe number ``index`` of a seed, entries N(0, 1), ``(P,)`` float64: no direction is preferred, none is left out."""
    draws = stream(seed, "probes", step=index).standard_normal(operator.dim)
    return torch.from_numpy(draws).to(operator.device)


def rademacher(operator: Operator, index: int, seed: int) -> Tensor:
    """Probe number ``index`` of a seed, entries +1 or -1, ``(P,)`` float64.

    Among probes with independent entries of unit variance it gives ``z^T A z`` the least variance,
    ``2 (||A||_F^2 - sum_i A_ii^2)``: none at all for a diagonal matrix, where a Gaussian has ``2 ||A||_F^2``.

    Source:
        Hutchinson 1989, proposition 1.
    """
    draws = stream(seed, "probes", step=index).integers(0, 2, size=operator.dim)
    return torch.from_numpy(2.0 * draws - 1.0).to(operator.device)


def blocks(operator: Operator, first: int, last: int, seed: int) -> Iterator[Tensor]:
    """Rademacher probes from ``first`` up to but without ``last``, as columns ``(P, b)`` of at most `_BLOCK`."""
    for start in range(first, last, _BLOCK):
        yield torch.stack([rademacher(operator, i, seed) for i in range(start, min(start + _BLOCK, last))], dim=1)


def require_probes(probes: int) -> None:
    """Refuse fewer probes than a standard error needs."""
    require(probes >= 2, "probes", probes, "a whole number of at least 2, as one probe has no standard error")


def mean_of(values: Tensor, products: int) -> Estimate:
    """Mean and standard error of independent values ``(n,)``, n of at least 2.

    Example:
        >>> mean_of(torch.tensor([1.0, 3.0]), products=2)
        Estimate(value=2.0, standard_error=1.0, products=2)
    """
    centre = values.double().mean()
    variance = float(((values - centre) ** 2).sum()) / (len(values) - 1)
    return Estimate(float(centre), math.sqrt(variance / len(values)), products)
