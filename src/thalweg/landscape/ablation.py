"""Does hopping drive the river? Take it away, twice, and see whether the river slows down.

Shape letters: P number of parameters, dV columns of the valley's frame, dR of the river's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import EmptySubspaceError, NonFiniteError, ShapeMismatchError, require
from thalweg.landscape.flips import checked_frames
from thalweg.theory.inputs import finite, positive_rate, positive_steps, shaped

_SETTLE = 100
"""Steps at a quarter of the rate that lower a start onto the valley's floor; a hopping direction needs about ten."""


@dataclass(frozen=True)
class Progress:
    """How far one run came along the river."""

    along_slope: float
    """Displacement along the unit slope, units of theta."""
    displacement: Tensor
    """In the river's frame ``(dR,)``; without one, the part orthogonal to the valley ``(P,)``."""
    last: Tensor
    """theta_K, ``(P,)``."""

    @property
    def norm(self) -> float:
        """Of the displacement."""
        return float(self.displacement.norm())


@dataclass(frozen=True)
class Ablation:
    """A run and the same run without hopping."""

    plain: Progress
    bulk_only: Progress
    """(a) From the same start, without the valley's part of the gradient: the valley coordinates stay where they are."""
    bulk_on_floor: Progress
    """(a) Without the valley's part too, but from a start lowered onto the valley's floor: what the verdict takes."""
    valley_only: Progress
    """(b) With the valley's part alone."""
    half_rate: Progress
    """(c) Half of the rate for twice the steps."""
    tolerance: float
    """Share of the plain run's progress that counts as a loss."""

    def lost(self, other: Progress) -> float:
        """Share of the plain run's progress that another run lacks; negative where it came further. NaN without progress."""
        progress = self.plain.along_slope
        return (progress - other.along_slope) / progress if progress > 0 else float("nan")

    @property
    def verdict(self) -> str:
        """What (a) and (c) say together.

        "supported": both lose progress. "opposed": both go further down the slope than the plain run, which may not move at all.
        "no progress": the plain run goes nowhere or uphill, and it is not hopping that keeps it. Else "not supported".
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
    """Gradient descent as it is, and with hopping taken away: "hopping drives the river" needs both ways to lose progress.

    Without the valley's part of the gradient the valley coordinates stand still *where they are*, mostly off the floor, and
    there the river feels their standing force ``-1/2 grad_R(x^T A x)`` at every step; hops that die out feel it for a while only.
    So a bulk-only run can go further than the plain one although hopping drives the river. The verdict therefore starts it on
    the floor. `bulk_only` from the same start, as in the literature, comes back beside it.

    Args:
        gradient: of the loss, ``(P,) -> (P,)``; may have noise of its own.
        start: ``(P,)``.
        valley: orthonormal columns ``(P, dV)``.
        rate: eta.
        steps: K.
        river: orthonormal columns ``(P, dR)``; None takes all that is orthogonal to the valley.
        downhill: direction that counts as progress ``(P,)``; None takes minus the gradient at the start lowered onto the floor. Its
            river part is taken.
        tolerance: see `Ablation`.
        settle: steps at rate / 4 with the valley's part alone that lower the start.
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
    """The gradient in float64, of theta's shape, finite.

    Raises:
        NonFiniteError: NaN or infinity.
        ShapeMismatchError: another shape.
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
    """theta_K of ``theta <- theta - eta kept(g(theta))``, ``(P,)``."""
    for _ in range(steps):
        theta = theta - rate * kept(evaluated(name, gradient, theta))
    return theta
