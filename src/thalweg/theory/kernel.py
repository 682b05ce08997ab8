"""The kernel s_K of gradient descent on a quadratic, and related kernels.

Shape letters: n number of eigenvalues, K number of steps.

Along an eigenvector with eigenvalue lam, K steps at rate eta multiply a displacement by ``(1 - eta lam)^K``. Every sum over the
run is a function of lam, called a kernel. The kernels are entire in lam: they are valid for every sign and size of lam.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.errors import NonFiniteError, StepSizeError, UnstableDirectionError, require
from thalweg.theory.inputs import finite, positive_rate, positive_steps

SMALL = 1e-9
"""Bound on ``|eta lam| K`` below which the first two terms of the series are exact to rounding."""
_SERIES = 1e-3
"""Bound on ``|eta lam| K`` below which `doubled_kernel` uses its series: five terms leave 1e-18, differences lose 1e-13."""


def kernel(values: Tensor, rate: float, steps: int, overflow: str = "raise") -> Tensor:
    """Compute the kernel s_K: the sum over K steps of a displacement that starts at 1, times eta.

    Statement: ``s_K(lam) = eta sum_{k<K} (1 - eta lam)^k = (1 - (1 - eta lam)^K) / lam``, and ``eta K`` at lam = 0.
    For ``0 < eta lam < 2`` it tends to 1 / lam. For ``0 < eta lam <= 1`` it lies between ``(1 - exp(-eta lam K)) / lam`` and
    ``min(eta K, 1 / lam)``; for ``1 <= eta lam < 2`` between 0 and eta. It falls strictly in lam up to 1 / eta, for even K up to
    2 / eta, which does not hold for odd K.

    Args:
        values: lam, any shape; computed in float64.
        rate: eta, positive.
        steps: K, at least 1.
        overflow: "raise", or "inf" to return infinities (lam < 0 or eta lam > 2 with many steps).
    Returns:
        The kernel, float64, the shape of ``values``, unit 1 / lam.
    Raises:
        NonFiniteError: the values or the result hold NaN or infinity.
        StepSizeError: the rate is not positive.
    Example:
        >>> kernel(torch.tensor([0.0, 0.5, 1.0, 2.0]), rate=1.0, steps=3).tolist()
        [3.0, 1.75, 1.0, 1.0]

    Source:
        arXiv 2510.10089, theorem 1; the stable form and the properties are ours.
    """
    lam, eta, count = finite("values", values), positive_rate(rate), positive_steps(steps)
    require(overflow in ("raise", "inf"), "overflow", overflow, "'raise' or 'inf'")
    # Three forms, each accurate in its range: the series for tiny eta lam K, expm1 for eta lam <= 0.5, powers above.
    x = eta * lam
    safe = torch.where(x == 0, torch.ones_like(lam), lam)
    below = -torch.expm1(count * torch.log1p(-x.clamp(max=0.5))) / safe
    above = (1 - (1 - x) ** count) / safe
    series = eta * count * (1 - x * (count - 1) / 2)
    result = torch.where(x.abs() * count < SMALL, series, torch.where(x <= 0.5, below, above))
    return unless_overflown("kernel", result, overflow)


def schedule_kernel(values: Tensor, rates: Sequence[float], overflow: str = "raise") -> Tensor:
    """Compute the kernel of a schedule of rates.

    Statement: ``s(lam) = sum_k eta_k prod_{j<k} (1 - eta_j lam) = (1 - prod_k (1 - eta_k lam)) / lam``: the sum telescopes.
    The code adds the terms of the sum, which is stable for every lam, at K operations for each entry.

    Args:
        values: lam, any shape.
        rates: eta_0 ... eta_{K-1}, each at least 0 (warm-up may start at 0), not all 0.
        overflow: see `kernel`.
    Raises:
        StepSizeError: a rate is negative or not finite, or all are 0.
        NonFiniteError: the values or the result hold NaN or infinity.
    Example:
        >>> schedule_kernel(torch.tensor([0.5]), [1.0, 1.0, 1.0]).tolist()
        [1.75]

    Source:
        Ours.
    """
    lam = finite("values", values)
    positive = all(0 <= rate < math.inf for rate in rates) and any(rates)
    if not positive:
        raise StepSizeError(f"rates: given {list(rates)!r}, expected numbers of at least 0, not all 0")
    total, left = torch.zeros_like(lam), torch.ones_like(lam)
    for rate in rates:
        total = total + rate * left
        left = left * (1 - rate * lam)
    return unless_overflown("schedule kernel", total, overflow)


def doubled_kernel(values: Tensor, rate: float, steps: int, overflow: str = "raise") -> Tensor:
    """Compute the kernel q_K: what a constant force adds to the sum of positions over K steps.

    Statement: ``q_K(lam) = (K - s_K(lam) / eta) / lam = sum_{k<K} s_k(lam)``, and ``eta K (K-1) / 2`` at lam = 0.

    Args:
        values: lam, any shape.
        rate: eta.
        steps: K.
        overflow: see `kernel`.
    Example:
        >>> doubled_kernel(torch.tensor([0.0, 0.5]), rate=1.0, steps=3).tolist()
        [3.0, 2.5]

    Source:
        Ours. The series has five terms: with two, the error at ``|eta lam| K = 1e-4`` is 8e-10.
    """
    lam, eta, count = finite("values", values), positive_rate(rate), positive_steps(steps)
    x = eta * lam
    safe = torch.where(x == 0, torch.ones_like(lam), lam)
    direct = (count - kernel(lam, eta, count, overflow) / eta) / safe
    term, series = torch.full_like(lam, eta * count * (count - 1) / 2), torch.zeros_like(lam)
    # Each term of the series follows from the one before.
    for order in range(2, 7):
        series = series + term
        term = term * -x * (count - order) / (order + 1)
    return unless_overflown("kernel", torch.where(x.abs() * count < _SERIES, series, direct), overflow)


def unless_overflown(name: str, result: Tensor, overflow: str) -> Tensor:
    """Return the result; refuse infinities and NaN unless ``overflow`` is "inf".

    Raises:
        NonFiniteError: the result is not finite.
    """
    if overflow == "raise" and not torch.isfinite(result).all():
        raise NonFiniteError(f"{name}: grows beyond float64; use fewer steps, a smaller rate, or overflow='inf'")
    return result


def limit(values: Tensor, rate: float) -> Tensor:
    """Compute 1 / lam, the limit of the kernel s_K for K to infinity; domain ``0 < eta lam < 2``.

    Raises:
        UnstableDirectionError: an eigenvalue is not positive.
        StepSizeError: for an eigenvalue ``eta lam >= 2``.
    Example:
        >>> limit(torch.tensor([0.5, 2.0]), rate=0.9).tolist()
        [2.0, 0.5]
    """
    lam, eta = finite("values", values), positive_rate(rate)
    if (lam <= 0).any():
        raise UnstableDirectionError(f"limit: smallest eigenvalue {float(lam.min()):.3g}, expected all above 0; use a finite K")
    if (eta * lam >= 2).any():
        raise StepSizeError(f"limit: rate times largest eigenvalue is {float(eta * lam.max()):.3g}, expected below 2")
    return 1 / lam


def steps_to_limit(values: Tensor, rate: float, relative: float = 0.01) -> Tensor:
    """Compute from which K on the kernel is within a relative error of its limit, float64, the shape of ``values``.

    Statement: ``|s_K - 1 / lam| <= relative / lam`` for ``K >= log(1 / relative) / -log |1 - eta lam|``.

    Args:
        values: lam, with ``0 < eta lam < 2``.
        rate: eta.
        relative: the relative error, between 0 and 1.
    Raises:
        UnstableDirectionError: an eigenvalue is not positive.
        StepSizeError: for an eigenvalue ``eta lam >= 2``.
    Example:
        >>> steps_to_limit(torch.tensor([0.5]), rate=1.0, relative=0.125).round(decimals=9).tolist()
        [3.0]
    """
    require(0 < relative < 1, "relative", relative, "a number between 0 and 1")
    limit(values, rate)
    x = rate * finite("values", values)
    return math.log(relative) / torch.where(x < 1, torch.log1p(-x.clamp(max=0.999999999)), torch.log((1 - x).abs()))
