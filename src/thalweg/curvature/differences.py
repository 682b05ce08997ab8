"""Products by differences of the gradient, with an estimate of their error: for kernels without a second derivative."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def central_difference(gradient: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor, length: float) -> Tensor:
    """``(g(x + h v) - g(x - h v)) / 2 h`` with ``h ||v|| = length``; error O(h^2), exact for quadratic losses."""
    size = float(direction.norm())
    if size == 0:
        return torch.zeros_like(point)
    step = length / size
    return (gradient(point + step * direction) - gradient(point - step * direction)) / (2 * step)


def second_difference(gradient: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor) -> tuple[Tensor, float]:
    """``H v`` by Richardson's extrapolation of two central differences, and the relative error that their distance suggests.

    With D(h) = H v + a h^2 + O(h^4), ``(4 D(h) - D(2 h)) / 3`` has error O(h^4) and ``|D(2 h) - D(h)| / 3`` is the error of D(h),
    which bounds it from above where the loss is smooth. Four gradients.

    Args:
        gradient: function of a point ``(P,)``.
        point: ``(P,)``.
        direction: ``(P,)``, any length.
    Returns:
        Product ``(P,)`` and relative error; a kink between the points shows as an error near 1.
    Source:
        Step h = eps^(1/5) / 10 times the point's norm (at least 1): balances rounding eps / h against truncation h^4.
    """
    length = 0.1 * torch.finfo(point.dtype).eps ** 0.2 * max(1.0, float(point.norm()))
    near = central_difference(gradient, point, direction, length)
    far = central_difference(gradient, point, direction, 2 * length)
    best = (4 * near - far) / 3
    apart, size = float((far - near).norm()) / 3, float(best.norm())
    return best, apart / size if size else 0.0
