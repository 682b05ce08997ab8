"""Decisions about a window of steps: whether it hops across its valley, moves along the river, or is trapped.

Each decision is a conjunction of conditions; all conditions are returned with their measured values.

Shape letters: W steps of a window, P number of parameters, k valley directions, dR of the river.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import EmptySubspaceError, InsufficientDataError, Phrase, ShapeMismatchError, require, unknown
from thalweg.intervals import Interval, interval, slope_interval
from thalweg.landscape.edge import Edge
from thalweg.landscape.flips import SHORTEST, Flips, checked_frames
from thalweg.landscape.geometry import Geometry, path
from thalweg.records.landscape import CLASSES
from thalweg.reprs import short_repr
from thalweg.theory.inputs import Condition, finite, shaped

_TORTUOUS, _STRAIGHT = 2.0, 1.5
"""Smallest tortuosity tau_V of a hopping window; largest tortuosity tau_R of motion along the river."""
_BLOCKS = 10
"""Number of blocks of steps whose means the intervals of the river's motion and of the loss treat as independent."""
_CONSTANT = 1e-4
"""Equivalence margin of a constant loss: largest slope in 100 steps, as a share of the loss."""


@short_repr
@dataclass(frozen=True)
class Hopping:
    """Whether a window hops across its valley."""

    conditions: tuple[Condition, ...]
    """Conditions on flips, tortuosity and edge ratio; the window hops if all three hold."""
    directions: Tensor
    """Numbers of the valley directions with significant flips, ``(n,)``."""
    cubic_drift: float
    """``grad_R lam_1 . h_R``, as given. Above 0 the valley sharpens downstream and hopping slows the river's progress; below 0 it
    flattens and hopping speeds it up."""

    @property
    def hops(self) -> bool:
        """Whether all conditions hold."""
        return all(condition.held for condition in self.conditions)

    @property
    def drift_words(self) -> str:
        """The meaning of the sign of the cubic drift, as a sentence for a reader."""
        if self.cubic_drift == 0:
            return "no cubic drift along the slope"
        return "hopping brakes the river" if self.cubic_drift > 0 else "hopping helps the river"


def hopping(flips: Flips, geometry: Geometry, edge: Edge, cubic_drift: float) -> Hopping:
    """Decide whether a window hops: significant flips, tau_V >= 2, and a median edge ratio in (0.5, 1.2].

    On a parabola tau_V >= 2 means ``eta lam >= 4/3`` (see `geometry.quadratic_tortuosity`), so a window that barely hops is not
    called hopping.

    Args:
        flips: flips of the valley's directions; momentum and mini-batch gradients are options there.
        geometry: geometry of the same window.
        edge: edge ratios of the same window.
        cubic_drift: ``grad_R lam_1 . h_R``: derivative of the largest eigenvalue, that is of ``u^T H u``, along the river, times
            the river's downward slope. Hopping as such does not say whether the river gains.
    Source:
        Ours.
    """
    require(abs(cubic_drift) < float("inf"), "cubic_drift", cubic_drift, "a finite number")
    lead = float((flips.low - flips.threshold).max())
    seldom = bool((flips.high <= flips.threshold).all())
    tau = geometry.valley.tortuosity
    return Hopping(
        conditions=(
            Condition(
                f"flips: lower end of some interval > {flips.threshold:.3f}",
                True if lead > 0 else False if seldom else None,
                lead + flips.threshold,
            ),
            Condition("tau_V >= 2", tau >= _TORTUOUS, tau),
            Condition("0.5 < edge ratio <= 1.2", 0.5 < edge.median <= 1.2, edge.median),
        ),
        directions=flips.significant.nonzero().flatten(),
        cubic_drift=float(cubic_drift),
    )


@dataclass(frozen=True)
class RiverMotion:
    """How a window moved along the river."""

    per_step: Interval
    """Mean displacement along the downhill direction per step, with a t-interval over blocks of steps; in units of theta."""
    tortuosity: float
    """tau_R, path length over net displacement in the river."""
    conditions: tuple[Condition, ...]
    """Displacement above 0 with 95 % confidence (None where its interval contains 0), and a straight path."""

    @property
    def flows(self) -> bool:
        """Whether both conditions hold."""
        return all(condition.held for condition in self.conditions)


def river_motion(points: Tensor, downhill: Tensor, river: Tensor | None = None, valley: Tensor | None = None) -> RiverMotion:
    """Decide whether a run moves down the river: mean displacement along the slope above 0 (t-test), and tau_R <= 1.5.

    The norm of a net displacement cannot be tested, because it is positive for every random walk. So the direction has to be fixed
    before the window, and the test is on the signed displacement along it, over ten blocks of steps.

    Args:
        points: theta_0 ... theta_W after the hopping window, ``(W + 1, P)``, W of at least 20.
        downhill: direction chosen without these points, ``(P,)``, such as minus the gradient where the window starts; its part in
            the river is used.
        river: orthonormal columns ``(P, dR)`` of the river.
        valley: orthonormal columns ``(P, k)`` of the valley, in place of the river, which is then all that is orthogonal to them.
    Raises:
        InsufficientDataError: W below 20.
        EmptySubspaceError: the direction has no part in the river.
    """
    if points.dim() != 2:
        raise ShapeMismatchError(f"points: given shape {tuple(points.shape)}, expected (W + 1, P)")
    steps, dim = len(points) - 1, points.shape[1]
    if steps < SHORTEST:
        raise InsufficientDataError(f"window: {max(steps, 0)} steps, expected at least {SHORTEST}")
    moves, downward = finite("points", points).diff(dim=0), shaped("downhill", downhill, dim)
    frames = [("river", river), ("valley", valley)]
    frames = [(name, checked_frames(f"{name} frame", columns, dim)[0]) for name, columns in frames if columns is not None]
    require(len(frames) == 1, "river and valley", Phrase(f"{len(frames)} frames"), "one of the two")
    name, frame = frames[0]
    moves, downward = ((rows @ frame @ frame.T) if name == "river" else rows - rows @ frame @ frame.T for rows in (moves, downward))
    size = float(downward.norm())
    if size <= 1e-12 * float(downhill.norm()):
        raise EmptySubspaceError("downhill: has no part in the river, expected a direction that does")
    length = steps // _BLOCKS
    blocks = (moves @ downward / size)[steps - _BLOCKS * length :].view(_BLOCKS, length).mean(1)
    per_step, tau = interval(blocks.tolist()), path(moves).tortuosity
    low, high = (per_step.mean if end is None else end for end in (per_step.low, per_step.high))
    forward = Condition("displacement > 0 (95 % interval)", True if low > 0 else False if high <= 0 else None, low)
    return RiverMotion(per_step, tau, (forward, Condition("tau_R <= 1.5", tau <= _STRAIGHT, tau)))


@dataclass(frozen=True)
class HoppingThenRiver:
    """Two successive windows, the first hopping and the second moving along the river.

    That the second follows the first does not prove that the first caused it: see `thalweg.landscape.ablation`.
    """

    before: Hopping
    """The first window."""
    after: RiverMotion
    """The second window."""

    @property
    def holds(self) -> bool:
        """Whether the first hops and the second flows."""
        return self.before.hops and self.after.flows

    @property
    def cubic_drift(self) -> float:
        """Cubic drift of the first window, see `Hopping`."""
        return self.before.cubic_drift


@dataclass(frozen=True)
class Trapped:
    """Whether a window is trapped in a flat valley."""

    conditions: tuple[Condition, ...]
    """Conditions on slope, loss, edge ratio and class; the window is trapped if all four hold, and it is not if one of them fails.
    Otherwise it is undecided."""
    cubic_drift: float
    """See `Hopping`."""

    @property
    def is_trapped(self) -> bool:
        """Whether all conditions hold."""
        return all(condition.held for condition in self.conditions)


def _constant(losses: Tensor) -> tuple[bool | None, float]:
    """Whether a loss is constant: yes, no (it changes), or None (undecided).

    Args:
        losses: ``(W,)``.
    Returns:
        The decision, and the end of the interval of the slope that is farther from 0, per 100 steps as a share of the loss.
    """
    level, length = float(losses.abs().mean()), len(losses) // _BLOCKS
    if not level:
        return True, 0.0
    blocks = losses[len(losses) - _BLOCKS * length :].view(_BLOCKS, length).mean(1) / level
    found = slope_interval([k * length / 100 for k in range(_BLOCKS)], blocks.tolist())
    assert found.low is not None
    assert found.high is not None
    farthest, changes = max(-found.low, found.high), found.low >= _CONSTANT or found.high <= -_CONSTANT
    return (True if farthest < _CONSTANT else False if changes else None), farthest


def trapped(
    river_gradient: float, first_gradient: float, losses: Sequence[float], edge_ratio: float, valley_class: str, cubic_drift: float
) -> Trapped:
    """Decide whether a window is trapped: no slope along the river, a constant loss, no hopping, and a valley of class U.

    A constant loss is an equivalence test. It holds if the 95 % t-interval of the slope over ten blocks of steps lies within the
    margin of 1e-4 of the loss per 100 steps, it fails if the interval lies beyond the margin, and it is undecided otherwise: a
    noisy loss without a visible slope does not show that nothing moves. An indeterminate class is undecided too.

    At quadratic order without coupling the river's progress ``eta K ||h_R||^2`` does not depend on the valley at all, so such a
    state does not follow from setting 1 of arXiv 2510.10089.

    Args:
        river_gradient: ``||P_R g||`` now.
        first_gradient: ``||g_0||`` at the start of training.
        losses: losses of the window's steps, at least 20.
        edge_ratio: see `thalweg.theory.momentum.edge_ratio`; below 1/2 means eta lam_max < 1, with momentum < 1 + beta.
        valley_class: "U", "V", "saddle" or "indeterminate".
        cubic_drift: see `hopping`.
    Raises:
        InsufficientDataError: fewer than 20 losses.
    Example:
        >>> trapped(1e-5, 1.0, [2.0] * 50, edge_ratio=0.1, valley_class="U", cubic_drift=0.0).is_trapped
        True

    Source:
        Ours.
    """
    if valley_class not in CLASSES:
        raise unknown("class", valley_class, CLASSES)
    if len(losses) < SHORTEST:
        raise InsufficientDataError(f"window: {len(losses)} losses, expected at least {SHORTEST}")
    require(first_gradient > 0, "first_gradient", first_gradient, "a positive norm")
    require(0 <= river_gradient < float("inf"), "river_gradient", river_gradient, "a norm")
    values = finite("losses", torch.as_tensor(losses, dtype=torch.float64))
    within, largest = _constant(values)
    share = river_gradient / first_gradient
    return Trapped(
        conditions=(
            Condition("||P_R g|| / ||g_0|| < 1e-3", share < 1e-3, share),
            Condition(f"|slope of the loss| per 100 steps < {_CONSTANT:g} of it (95 %)", within, largest),
            Condition("edge ratio < 0.5", edge_ratio < 0.5, edge_ratio),
            Condition("class U", None if valley_class == "indeterminate" else valley_class == "U", float(valley_class == "U")),
        ),
        cubic_drift=float(cubic_drift),
    )
