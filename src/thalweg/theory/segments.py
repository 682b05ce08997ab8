"""Division of a long run into segments, each short enough for the quadratic model at its first point.

Shape letters: P dimension, K steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import Operator
from thalweg.errors import require
from thalweg.theory.descent import Gradient, run_path, slope
from thalweg.theory.inputs import positive_rate
from thalweg.theory.taylor import extreme_values, in_float64


@dataclass(frozen=True)
class Segment:
    """A part of a run that one quadratic model describes. The anchor is the point at which the model is built."""

    start: int
    """Step of the anchor."""
    end: int
    """Step of the last point, which is the next anchor; larger than ``start``."""
    bound: float
    """A-posteriori bound on the model's error ``||e||`` at the end."""
    error: float
    """The measured error ``||e||`` at the end."""
    moved: float
    """``||theta_end - theta_start||``."""
    contraction: float
    """q = ||I - eta H|| at the anchor."""

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.end - self.start


def segments(
    gradient: Gradient,
    hessian_at: Callable[[Tensor], Operator | Tensor],
    points: Tensor,
    rate: float,
    share: float = 0.05,
    every: int | None = None,
) -> tuple[Segment, ...]:
    """Divide a run into segments; a new one begins before the error bound exceeds a share of the distance from the anchor.

    The model at one point is accurate for some tens of steps. A segment has at least one step, for which the model is exact, and
    its bound is rigorous. If every segment is short, statements about the quadratic model do not apply to this run.
    Cost: one gradient and two Hessian products for each step, one pair of extreme eigenvalues for each segment.

    Args:
        gradient: gradient of the loss.
        hessian_at: returns the Hessian at a point ``(P,)``.
        points: theta_0 ... theta_K of gradient descent, ``(K + 1, P)``.
        rate: eta.
        share: largest bound relative to ``||theta_k - theta_anchor||``, between 0 and 1.
        every: length of the segments in steps, in place of ``share``.
    Returns:
        The segments in order; together they cover the run.
    Raises:
        InsufficientDataError: fewer than two points.
        NonFiniteError: the run diverges.
    Example:
        >>> from thalweg.theory.descent import descend
        >>> points = descend(lambda point: point, torch.ones(1), rate=0.5, steps=20)
        >>> [(segment.start, segment.end) for segment in segments(lambda point: point, lambda point: torch.eye(1), points, 0.5)]
        [(0, 20)]

    Source:
        Ours.
    """
    require(0 < share < 1, "share", share, "a number between 0 and 1")
    require(every is None or every >= 1, "every", every, "a whole number of at least 1")
    eta, path = positive_rate(rate), run_path(points)
    slopes = torch.stack([slope(gradient, point, k) for k, point in enumerate(path[:-1])])
    finished: list[Segment] = []
    while not finished or finished[-1].end < len(slopes):
        start = finished[-1].end if finished else 0
        finished.append(_one_segment(in_float64(hessian_at(path[start])), slopes, path, start, eta, share, every))
    return tuple(finished)


def _one_segment(
    hessian: Operator, slopes: Tensor, path: Tensor, start: int, rate: float, share: float, every: int | None
) -> Segment:
    """Extend a segment from its anchor for as long as the model is accurate enough."""
    # q = ||I - eta H||: the factor by which a step may multiply the error so far.
    low, high = extreme_values(hessian)
    q = max(abs(1 - rate * low), abs(1 - rate * high))
    anchor, model, bound, step = path[start], torch.zeros_like(path[start]), 0.0, start
    while step < len(slopes):
        # The error bound grows by the residual of this step and by the run's deviation from gradient descent.
        residual = slopes[step] - slopes[start] - hessian @ (path[step] - anchor)
        stray = path[step + 1] - path[step] + rate * slopes[step]
        reached = q * bound + rate * float(residual.norm()) + float(stray.norm())
        exceeded = reached > share * float((path[step + 1] - anchor).norm()) if every is None else step - start >= every
        if exceeded and step > start:
            break
        bound, step = reached, step + 1
        model = model - rate * (slopes[start] + hessian @ model)
    # The measured error at the end: run minus model, both from the anchor.
    moved = path[step] - anchor
    return Segment(start, step, bound, float((moved - model).norm()), float(moved.norm()), q)
