"""A long run in segments, each short enough for the quadratic model at its start.

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
    """Steps that one model describes."""

    start: int
    """Step of the anchor."""
    end: int
    """Step of the last point, the next anchor; above start."""
    bound: float
    """A-posteriori bound on ``||e||`` at the end."""
    error: float
    """``||e||`` at the end, measured."""
    moved: float
    """``||theta_end - theta_start||``."""
    contraction: float
    """q = ||I - eta H|| at the anchor."""

    @property
    def steps(self) -> int:
        """How many."""
        return self.end - self.start


def segments(
    gradient: Gradient,
    hessian_at: Callable[[Tensor], Operator | Tensor],
    points: Tensor,
    rate: float,
    share: float = 0.05,
    every: int | None = None,
) -> tuple[Segment, ...]:
    """Re-anchor the model before its a-posteriori error bound exceeds a share of the distance from the anchor.

    A model at one point is good for some tens of steps. A segment has at least one step (the model is exact for the first), and
    its bound is rigorous; where every segment is short, no statement about the quadratic model speaks of this run.
    One gradient and two products a step, one pair of extreme eigenvalues a segment.

    Args:
        gradient: of the loss.
        hessian_at: the Hessian at a point ``(P,)``.
        points: theta_0 ... theta_K, ``(K + 1, P)``.
        share: of ``||theta_k - theta_anchor||``.
        every: re-anchor after so many steps instead.
    Raises:
        InsufficientDataError: fewer than two points.
        NonFiniteError: the run diverges.
    Example:
        >>> from thalweg.theory.descent import descend
        >>> points = descend(lambda point: point, torch.ones(1), rate=0.5, steps=20)
        >>> [(part.start, part.end) for part in segments(lambda point: point, lambda point: torch.eye(1), points, 0.5)]
        [(0, 20)]

    Source:
        Ours.
    """
    require(0 < share < 1, "share", share, "a number between 0 and 1")
    require(every is None or every >= 1, "every", every, "a whole number of at least 1")
    eta, path = positive_rate(rate), run_path(points)
    slopes = torch.stack([slope(gradient, point, k) for k, point in enumerate(path[:-1])])
    found: list[Segment] = []
    while not found or found[-1].end < len(slopes):
        start = found[-1].end if found else 0
        found.append(_one_segment(in_float64(hessian_at(path[start])), slopes, path, start, eta, share, every))
    return tuple(found)


def _one_segment(
    hessian: Operator, slopes: Tensor, path: Tensor, start: int, rate: float, share: float, every: int | None
) -> Segment:
    """From an anchor as far as its model goes."""
    low, high = extreme_values(hessian)
    q = max(abs(1 - rate * low), abs(1 - rate * high))
    anchor, model, bound, here = path[start], torch.zeros_like(path[start]), 0.0, start
    while here < len(slopes):
        residual = slopes[here] - slopes[start] - hessian @ (path[here] - anchor)
        stray = path[here + 1] - path[here] + rate * slopes[here]
        reached = q * bound + rate * float(residual.norm()) + float(stray.norm())
        spent = reached > share * float((path[here + 1] - anchor).norm()) if every is None else here - start >= every
        if spent and here > start:
            break
        bound, here = reached, here + 1
        model = model - rate * (slopes[start] + hessian @ model)
    away = path[here] - anchor
    return Segment(start, here, bound, float((away - model).norm()), float(away.norm()), q)
