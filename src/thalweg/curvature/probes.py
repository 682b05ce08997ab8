"""Random probe vectors, and the mean over several of them as an estimate.

Probe number i of a seed is a fixed vector, whatever the number of probes: series of one seed share their probes.

Shape letters: P dimension, n number of probes, b probes in one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.curvature.operator import Operator
from thalweg.errors import require
from thalweg.streams import stream

_BLOCK = 16
"""b, products computed in one call: enough to fill a batched product, and 128 P bytes of probes."""


@dataclass(frozen=True)
class Estimate:
    """A mean over random probes, with its standard error.

    ``standard_error`` is that of sampling alone: one standard deviation of ``value`` over seeds, without any quadrature error.
    """

    value: float
    standard_error: float
    products: int
    """Number of products of the operator with one vector."""


def gaussian(operator: Operator, index: int, seed: int) -> Tensor:
    """Probe number ``index`` of a seed with independent entries N(0, 1), ``(P,)`` float64; its direction is uniform.

    Args:
        operator: gives P and the device.
        index: number of the probe, from 0.
        seed: seed of the stream "probes".
    """
    draws = stream(seed, "probes", step=index).standard_normal(operator.dim)
    return torch.from_numpy(draws).to(operator.device)


def rademacher(operator: Operator, index: int, seed: int) -> Tensor:
    """Probe number ``index`` of a seed with independent entries +1 or -1, ``(P,)`` float64.

    Among probes z with independent entries of unit variance it gives ``z^T A z`` the least variance,
    ``2 (||A||_F^2 - sum_i A_ii^2)``: none at all for a diagonal matrix, where a Gaussian has ``2 ||A||_F^2``.

    Args:
        operator: gives P and the device.
        index: number of the probe, from 0.
        seed: seed of the stream "probes".
    Source:
        Hutchinson 1989, proposition 1.
    """
    drawn = np.frombuffer(stream(seed, "probes", step=index).bytes(-(-operator.dim // 8)), np.uint8)
    bits = torch.from_numpy(np.unpackbits(drawn, count=operator.dim))
    return bits.to(operator.device).double().mul_(2.0).sub_(1.0)


def blocks(operator: Operator, first: int, last: int, seed: int) -> Iterator[Tensor]:
    """Rademacher probes number ``first`` to ``last - 1``, as columns ``(P, b)`` of at most `_BLOCK` at a time."""
    for start in range(first, last, _BLOCK):
        yield torch.stack([rademacher(operator, i, seed) for i in range(start, min(start + _BLOCK, last))], dim=1)


def require_probes(probes: int) -> None:
    """Refuse fewer than 2 probes, which have no standard error.

    Raises:
        BadInputError: fewer than 2.
    """
    require(probes >= 2, "probes", probes, "a whole number of at least 2, as one probe has no standard error")


def mean_of(values: Tensor, products: int) -> Estimate:
    """Mean of independent values and its standard error, ``sqrt(sum (x - mean)^2 / (n - 1) / n)``, in float64.

    Args:
        values: ``(n,)``, n of at least 2 (trusted).
        products: number of products that the values took, passed on.
    Example:
        >>> mean_of(torch.tensor([1.0, 3.0]), products=2)
        Estimate(value=2.0, standard_error=1.0, products=2)
    """
    centre = values.double().mean()
    variance = float(((values - centre) ** 2).sum()) / (len(values) - 1)
    return Estimate(float(centre), math.sqrt(variance / len(values)), products)
