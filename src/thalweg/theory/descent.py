"""Plain gradient descent on any loss, and checks of its points.

Shape letters: P dimension, K steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.errors import InsufficientDataError, NonFiniteError, ShapeMismatchError
from thalweg.theory.inputs import finite, positive_rate, positive_steps

_LARGEST = 1e150
"""Largest coordinate of a run that has not diverged; the squares of larger ones may overflow float64."""

Gradient = Callable[[Tensor], Tensor]
"""Type of the gradient of a full-batch loss, ``(P,) -> (P,)``; it is called with a float64 point."""


def descend(gradient: Gradient, start: Tensor, rate: float, steps: int) -> Tensor:
    """Run full-batch gradient descent ``theta_{k+1} = theta_k - eta grad L(theta_k)``.

    Args:
        gradient: gradient of the loss.
        start: theta_0, ``(P,)``.
        rate: eta.
        steps: K.
    Returns:
        theta_0 ... theta_K, ``(K + 1, P)``, float64.
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
    """Evaluate the gradient at one point of a run, in float64; ``step`` is named in errors.

    Raises:
        ShapeMismatchError: the gradient has another shape than the point.
        NonFiniteError: the gradient holds NaN or infinity.
    """
    value = gradient(point).detach()
    if value.shape != point.shape:
        raise ShapeMismatchError(f"gradient: given shape {tuple(value.shape)}, expected {tuple(point.shape)}")
    if not torch.isfinite(value).all():
        raise NonFiniteError(f"run: its gradient is not finite at step {step}; use a smaller rate or fewer steps")
    return value.to(torch.float64)


def bounded(name: str, points: Tensor, first: int = 0) -> Tensor:
    """Return the points of a run ``(n, P)`` if none has diverged; ``first`` is the step of the first point.

    Raises:
        NonFiniteError: a coordinate is NaN or larger than 1e150; the message names the step.
    """
    # NaN compares as false, so it counts as diverged too.
    far = ~(points.abs() <= _LARGEST).all(1)
    if far.any():
        step = first + int(far.int().argmax())
        raise NonFiniteError(f"{name}: diverges beyond {_LARGEST:.0e} at step {step}; use a smaller rate or fewer steps")
    return points


def run_path(points: Tensor) -> Tensor:
    """Check the points of a run ``(K + 1, P)``: at least two, none diverged; return them in float64.

    Raises:
        ShapeMismatchError: not a matrix.
        InsufficientDataError: fewer than two points.
        NonFiniteError: a point is not finite or has diverged.
    """
    if points.dim() != 2:
        raise ShapeMismatchError(f"points: given shape {tuple(points.shape)}, expected (K + 1, P)")
    if len(points) < 2:
        raise InsufficientDataError(f"points: given {len(points)}, expected at least 2, one before and one after a step")
    return bounded("run", finite("points", points))
