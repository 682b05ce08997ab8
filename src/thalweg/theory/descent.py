"""Gradient descent as it is, on any loss.

Shape letters: P dimension, K steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.errors import InsufficientDataError, NonFiniteError, ShapeMismatchError
from thalweg.theory.inputs import finite, positive_rate, positive_steps

_LARGEST = 1e150
"""A run whose coordinates grow beyond it has diverged: squares still fit into float64."""

Gradient = Callable[[Tensor], Tensor]
"""Of the full-batch loss, ``(P,) -> (P,)``; called with float64."""


def descend(gradient: Gradient, start: Tensor, rate: float, steps: int) -> Tensor:
    """Full-batch gradient descent: theta_0 ... theta_K, ``(K + 1, P)`` in float64.

    Raises:
        NonFiniteError: the run diverges; the message says at which step.
    Example:
        >>> descend(lambda point: point, torch.ones(1), rate=0.5, steps=2).flatten().tolist()
        [1.0, 0.5, 0.25]
    """
    eta = positive_rate(rate)
    points = [finite("start", start)]
    for k in range(positive_steps(steps)):
        points.append(points[-1] - eta * slope(gradient, points[-1], k))
    return bounded("run", torch.stack(points))


def slope(gradient: Gradient, point: Tensor, step: int) -> Tensor:
    """The gradient at the point of one step, in float64."""
    found = gradient(point).detach()
    if found.shape != point.shape:
        raise ShapeMismatchError(f"gradient: of shape {tuple(found.shape)}, expected {tuple(point.shape)}")
    if not torch.isfinite(found).all():
        raise NonFiniteError(f"run: its gradient is not finite at step {step}; a smaller rate or fewer steps")
    return found.to(torch.float64)


def bounded(name: str, points: Tensor, first: int = 0) -> Tensor:
    """The points of a run ``(n, P)``, from one step on, refused where it has diverged."""
    far = ~(points.abs() <= _LARGEST).all(1)
    if far.any():
        step = first + int(far.int().argmax())
        raise NonFiniteError(f"{name}: diverges, beyond {_LARGEST:.0e} at step {step}; a smaller rate or fewer steps")
    return points


def run_path(points: Tensor) -> Tensor:
    """Points of a run in float64, two at least."""
    if points.dim() != 2:
        raise ShapeMismatchError(f"points: given shape {tuple(points.shape)}, expected (K + 1, P)")
    if len(points) < 2:
        raise InsufficientDataError(f"points: given {len(points)}, expected at least 2, before and after a step")
    return bounded("run", finite("points", points))
