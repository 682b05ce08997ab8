"""The kernel s_K of gradient descent on a quadratic, and its relatives.

Shape letters: n number of eigenvalues, K number of steps.

Along an eigenvector with eigenvalue lam, K steps at rate eta multiply a displacement by ``(1 - eta lam)^K``; everything that
the run sums up on the way is a kernel of lam, entire in lam and valid for every sign and size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.errors import NonFiniteError, StepSizeError, UnstableDirectionError, require
from thalweg.theory.inputs import finite, positive_rate, positive_steps

SMALL = 1e-9
"""Below this ``|eta lam| K`` the first two terms of the series are exact to rounding."""
_SERIES = 1e-3
"""Below this ``|eta lam| K`` `doubled_kernel` takes its series: five terms leave 1e-18, differences lose 1e-13."""


def kernel(values: Tensor, rate: float, steps: int, overflow: str = "raise") -> Tensor:
    """s_K(lam) = eta sum_{k<K} (1 - eta lam)^k = (1 - (1 - eta lam)^K) / lam, and eta K at lam = 0.

    What a unit displacement adds up to over K steps, times eta. For ``0 < eta lam < 2`` it tends to 1 / lam; for
    ``eta lam <= 1`` it lies between ``(1 - exp(-eta lam K)) / lam`` and ``min(eta K, 1 / lam)``; for ``1 <= eta lam < 2``
    between 0 and eta. It falls strictly in lam up to 1 / eta, and up to 2 / eta for even K; for odd K it does not.

    Args:
        values: lam, any shape; computed in float64.
        rate: eta, positive.
        steps: K, at least 1.
        overflow: "raise", or "inf" to let infinities through (lam < 0 or eta lam > 2 with many steps).
    Returns:
        float64, the shape of ``values``.
    Raises:
        NonFiniteError: NaN or infinity in values, or in the result.
        StepSizeError: a rate that is not positive.
    Example:
        >>> kernel(torch.tensor([0.0, 0.5, 1.0, 2.0]), rate=1.0, steps=3).tolist()
        [3.0, 1.75, 1.0, 1.0]

    Source:
        arXiv 2510.10089, theorem 1; the stable form and the properties are ours.
    """
    lam, eta, count = finite("values", values), positive_rate(rate), positive_steps(steps)
    require(overflow in ("raise", "inf"), "overflow", overflow, "'raise' or 'inf'")
    x = eta * lam
    safe = torch.where(x == 0, torch.ones_like(lam), lam)
    below = -torch.expm1(count * torch.log1p(-x.clamp(max=0.5))) / safe
    above = (1 - (1 - x) ** count) / safe
    series = eta * count * (1 - x * (count - 1) / 2)
    result = torch.where(x.abs() * count < SMALL, series, torch.where(x <= 0.5, below, above))
    return unless_overflown("kernel", result, overflow)


def schedule_kernel(values: Tensor, rates: Sequence[float], overflow: str = "raise") -> Tensor:
    """s(lam) = sum_k eta_k prod_{j<k} (1 - eta_j lam) = (1 - prod_k (1 - eta_k lam)) / lam for a schedule of rates.

    The sum telescopes. Summed as it stands, which is stable for every lam; K operations an entry.

    Args:
        values: lam, any shape.
        rates: eta_0 ... eta_{K-1}, each at least 0 (warm-up may start at 0), not all 0.
    Example:
        >>> schedule_kernel(torch.tensor([0.5]), [1.0, 1.0, 1.0]).tolist()
        [1.75]
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
    """q_K(lam) = (K - s_K(lam) / eta) / lam = sum_{k<K} s_k(lam), and eta K (K-1) / 2 at lam = 0.

    A kernel of a kernel: what a constant force adds to the sum of positions.

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
    for order in range(2, 7):
        series = series + term
        term = term * -x * (count - order) / (order + 1)
    return unless_overflown("kernel", torch.where(x.abs() * count < _SERIES, series, direct), overflow)


def unless_overflown(name: str, result: Tensor, overflow: str) -> Tensor:
    """The result, refused where it is not finite unless that was asked for.

    Raises:
        NonFiniteError: an infinity.
    """
    if overflow == "raise" and not torch.isfinite(result).all():
        raise NonFiniteError(f"{name}: grows beyond float64; fewer steps, a smaller rate, or overflow='inf'")
    return result


def limit(values: Tensor, rate: float) -> Tensor:
    """1 / lam, the limit of s_K for K to infinity.

    Raises:
        UnstableDirectionError: some lam <= 0.
        StepSizeError: some eta lam >= 2.
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
    """K from which ``|s_K - 1 / lam| <= relative / lam``: log(1 / relative) / -log |1 - eta lam|, float64.

    Example:
        >>> steps_to_limit(torch.tensor([0.5]), rate=1.0, relative=0.125).round(decimals=9).tolist()
        [3.0]
    """
    require(0 < relative < 1, "relative", relative, "a number between 0 and 1")
    limit(values, rate)
    x = rate * finite("values", values)
    return math.log(relative) / torch.where(x < 1, torch.log1p(-x.clamp(max=0.999999999)), torch.log((1 - x).abs()))
