"""Products ``H v`` by differences of the gradient, with an estimate of their error, for kernels without a second derivative.

Shape letters: P number of chosen parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LADDER = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
"""Steps that are tried, in units of the first; a shorter step may not reach a kink that the first one crosses."""
_GOOD = {torch.float64: 1e-6, torch.float32: 1e-2}
"""Estimated relative error below which no shorter step is tried."""


def second_difference(
    gradient: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor, sizes: Tensor
) -> tuple[Tensor, float]:
    """``H v`` by Richardson's extrapolation of two central differences, and the relative error that their distance suggests.

    With ``D(h) = (g(theta + h v) - g(theta - h v)) / 2h = H v + a h^2 + O(h^4)``, ``(4 D(h) - D(2 h)) / 3`` has error O(h^4), and
    ``|D(2 h) - D(h)| / 3`` is the error of D(h), which bounds it from above where the loss is smooth. Costs four gradients where
    the first step is good enough; else shorter steps are tried, and the one with the smallest estimated error is taken.

    Args:
        gradient: g, function of a point ``(P,)``.
        point: theta, ``(P,)``, in the arithmetic of the gradient.
        direction: v, ``(P,)``, of any length.
        sizes: sizes of the weights, ``(P,)``, positive; the first step moves no weight by more than eps^(1/5) / 10 of its size.
    Returns:
        The product ``(P,)`` and its relative error, measured in units of the sizes; a kink between the points shows as an error of
        0.1 to 1, and a zero direction has product and error 0.
    Source:
        Richardson 1911. The first step, ours, balances rounding eps / h against truncation h^4.
    """
    largest = float((direction.abs() / sizes).max()) if direction.numel() else 0.0
    if largest == 0:
        return torch.zeros_like(point), 0.0
    best, error = torch.zeros_like(point), math.inf
    for factor in LADDER:
        step = factor * 0.1 * torch.finfo(point.dtype).eps ** 0.2 / largest
        near, far = (_central(gradient, point, direction, multiple * step) for multiple in (1, 2))
        product = (4 * near - far) / 3
        # Estimated error of D(h), relative to the product; both in units of the weights' sizes.
        distance, size = float((sizes * (far - near)).norm()) / 3, float((sizes * product).norm())
        estimate = distance / size if size else (0.0 if distance == 0 else math.inf)
        if estimate < error:
            best, error = product, estimate
        if error <= _GOOD[point.dtype]:
            break
    return best, error


def _central(gradient: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor, step: float) -> Tensor:
    """``(g(x + h v) - g(x - h v)) / 2 h``; error O(h^2), exact for quadratic losses."""
    return (gradient(point + step * direction) - gradient(point - step * direction)) / (2 * step)
