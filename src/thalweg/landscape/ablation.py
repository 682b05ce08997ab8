"""Ablation of hopping: gradient descent with hopping removed in two ways, to see whether progress along the river slows down.

Shape letters: P number of parameters, dV columns of the valley's frame, dR of the river's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import EmptySubspaceError, NonFiniteError, ShapeMismatchError, require
from thalweg.landscape.flips import checked_frames
from thalweg.reprs import short_repr
from thalweg.theory.inputs import finite, positive_rate, positive_steps, shaped

_SETTLE = 100
"""Steps at a quarter of the rate that move a start to the valley's floor; a hopping direction needs about ten."""


@short_repr
@dataclass(frozen=True)
class Progress:
    """How far one run moved along the river."""

    along_slope: float
    """Displacement along the unit vector of the slope, in units of theta."""
    displacement: Tensor
    """Displacement in the river's frame ``(dR,)``; without a frame, its part orthogonal to the valley ``(P,)``."""
    last: Tensor
    """The last point theta_K, ``(P,)``."""

    @property
    def norm(self) -> float:
        """Length of the displacement, in units of theta."""
        return float(self.displacement.norm())


@dataclass(frozen=True)
class Ablation:
    """A run and the same run without hopping."""

    plain: Progress
    """Gradient descent as it is."""
    bulk_only: Progress
    """(a) From the same start, without the valley's part of the gradient: the valley coordinates stay where they are."""
    bulk_on_floor: Progress
    """(a) Without the valley's part too, but from a start moved to the valley's floor; the verdict uses this run."""
    valley_only: Progress
    """(b) With the valley's part of the gradient alone."""
    half_rate: Progress
    """(c) Half of the rate for twice the steps."""
    tolerance: float
    """Smallest share of the plain run's progress that counts as lost."""

    def lost(self, other: Progress) -> float:
        """Share of the plain run's progress that another run lacks; negative where it moved further, NaN without progress."""
        progress = self.plain.along_slope
        return (progress - other.along_slope) / progress if progress > 0 else float("nan")

    @property
    def verdict(self) -> str:
        """The verdict on "hopping drives the river" from (a) and (c) together.

        "supported": both lose progress. "opposed": both move further down the slope than the plain run, which may not move at all.
        "no progress": the plain run does not move down the slope, and hopping is not the reason. Else "not supported".
        """
        progress, others = self.plain.along_slope, (self.bulk_on_floor.along_slope, self.half_rate.along_slope)
        if min(others) > (1 + self.tolerance) * max(progress, 0.0):
            return "opposed"
        if progress <= 0:
            return "no progress"
        return "supported" if max(others) < (1 - self.tolerance) * progress else "not supported"


def ablation(
    gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    valley: Tensor,
    rate: float,
    steps: int,
    river: Tensor | None = None,
    downhill: Tensor | None = None,
    tolerance: float = 0.1,
    settle: int = _SETTLE,
) -> Ablation:
    """Run gradient descent as it is and with hopping removed, to test whether hopping drives motion along the river.

    "Hopping drives the river" is supported if both ways of removing hopping lose progress. Without the valley's part of the
    gradient the valley coordinates stay *where they are*, mostly off the floor, and there their constant force
    ``-1/2 grad_R(x^T A x)`` acts on the river at every step, while the force of decaying hops acts for some time only. So a
    bulk-only run can move further than the plain one although hopping drives the river. The verdict therefore uses a run that
    starts on the floor; `bulk_only` from the same start, as in the literature, is returned too. Costs ``6 K + settle`` gradients.

    Args:
        gradient: gradient of the loss, ``(P,) -> (P,)``; it may be noisy.
        start: theta_0, ``(P,)``.
        valley: orthonormal columns ``(P, dV)``.
        rate: eta, positive.
        steps: K.
        river: orthonormal columns ``(P, dR)``; None takes all that is orthogonal to the valley.
        downhill: direction that counts as progress ``(P,)``; None takes minus the gradient at the start moved to the floor. Its
            part in the river is used.
        tolerance: smallest share of the plain run's progress that counts as lost.
        settle: steps at rate / 4 with the valley's part alone that move the start to the floor.
    Returns:
        The progress of all runs, and the verdict.
    Raises:
        NonFiniteError: a run overflowed; the message names it.
        EmptySubspaceError: no slope along the river.
    Example:
        >>> still = ablation(lambda p: p * torch.tensor([1.9, 0.0]) - torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]),
        ...                  torch.eye(2)[:, :1], rate=1.0, steps=10)
        >>> still.plain.along_slope, still.half_rate.along_slope, still.verdict
        (10.0, 10.0, 'not supported')

    Source:
        Bulk-only runs: Song, Ahn and Yun, arXiv 2405.16002. The start on the floor and the verdict are ours.
    """
    positive_rate(rate)
    positive_steps(steps)
    require(0 <= tolerance < 1, "tolerance", tolerance, "a number from 0 to below 1")
    if start.dim() != 1:
        raise ShapeMismatchError(f"start: given shape {tuple(start.shape)}, expected (P,)")
    theta, dim = finite("start", start), len(start)
    v = checked_frames("valley frame", valley, dim)[0]
    r = None if river is None else checked_frames("river frame", river, dim)[0]

    def unchanged(g: Tensor) -> Tensor:
        return g

    def outside_valley(g: Tensor) -> Tensor:
        return g - v @ (v.T @ g)

    def within_valley(g: Tensor) -> Tensor:
        return v @ (v.T @ g)

    floor = _descend("settling", gradient, theta, within_valley, rate / 4, settle)
    downhill_direction = -evaluated("settling", gradient, floor) if downhill is None else shaped("downhill", downhill, dim)
    slope = outside_valley(downhill_direction) if r is None else r @ (r.T @ downhill_direction)
    if float(slope.norm()) <= 1e-12 * float(downhill_direction.norm()):
        raise EmptySubspaceError("downhill: has no part in the river, expected a direction that does")

    def run(name: str, begin: Tensor, kept: Callable[[Tensor], Tensor], eta: float, count: int) -> Progress:
        last = _descend(name, gradient, begin, kept, eta, count)
        moved = last - begin
        return Progress(float(moved @ slope / slope.norm()), outside_valley(moved) if r is None else r.T @ moved, last)

    return Ablation(
        plain=run("plain", theta, unchanged, rate, steps),
        bulk_only=run("bulk-only", theta, outside_valley, rate, steps),
        bulk_on_floor=run("bulk-only on the floor", floor, outside_valley, rate, steps),
        valley_only=run("valley-only", theta, within_valley, rate, steps),
        half_rate=run("half rate", theta, unchanged, rate / 2, 2 * steps),
        tolerance=tolerance,
    )


def evaluated(name: str, gradient: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """The gradient at theta in float64, after a check that it has theta's shape and is finite.

    Args:
        name: name of the run, for messages.
        gradient: ``(P,) -> (P,)``.
        theta: ``(P,)``.
    Raises:
        NonFiniteError: the gradient holds NaN or infinity.
        ShapeMismatchError: the gradient has another shape.
    """
    g = gradient(theta)
    if g.shape != theta.shape:
        raise ShapeMismatchError(f"gradient: returned shape {tuple(g.shape)}, expected {tuple(theta.shape)}")
    if not torch.isfinite(g).all():
        raise NonFiniteError(f"gradient: NaN or infinity in the {name} run, expected finite numbers; take a smaller rate")
    return g.detach().to(torch.float64)


def _descend(
    name: str, gradient: Callable[[Tensor], Tensor], theta: Tensor, kept: Callable[[Tensor], Tensor], rate: float, steps: int
) -> Tensor:
    """The last point ``(P,)`` of K steps ``theta <- theta - eta kept(g(theta))``."""
    for _ in range(steps):
        theta = theta - rate * kept(evaluated(name, gradient, theta))
    return theta
