"""Decisions about a window: does it hop, does the river move afterwards, is it trapped?

Each decision is a conjunction of conditions, all of which come back with what was measured.

Shape letters: W steps of a window, P number of parameters, k valley directions, dR of the river.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import EmptySubspaceError, InsufficientDataError, ShapeMismatchError, require, unknown
from thalweg.intervals import Interval, interval, slope
from thalweg.landscape.edge import Edge
from thalweg.landscape.flips import SHORTEST, Flips, checked_frames
from thalweg.landscape.geometry import Geometry, path
from thalweg.theory.inputs import Condition, finite, shaped

_TORTUOUS, _STRAIGHT = 2.0, 1.5
"""tau_V of a hopping window at least; tau_R of a river that flows at most."""
_CLASSES = ("U", "V", "saddle", "indeterminate")
_BLOCKS = 10
"""Blocks of steps whose means the t-test of the river takes for independent."""


@dataclass(frozen=True)
class Hopping:
    """Whether a window hops across its valley."""

    conditions: tuple[Condition, ...]
    """Flips, tortuosity, edge ratio; all three make it hopping."""
    directions: Tensor
    """Valley directions with significant flips, numbers ``(n,)``."""
    cubic_drift: float
    """grad_R lam_1 . h_R, as given: above 0 the river sharpens and hopping brakes it, below 0 it flattens and hopping helps."""

    @property
    def hops(self) -> bool:
        """Whether all conditions hold."""
        return all(condition.held for condition in self.conditions)

    @property
    def drift_words(self) -> str:
        """What the sign of the cubic drift means."""
        if self.cubic_drift == 0:
            return "no cubic drift along the slope"
        return "hopping brakes the river" if self.cubic_drift > 0 else "hopping helps the river"


def hopping(flips: Flips, geometry: Geometry, edge: Edge, cubic_drift: float) -> Hopping:
    """Hopping = flips significant AND tau_V >= 2 AND the median edge ratio in (0.5, 1.2].

    On a parabola the second asks for ``eta lam >= 4/3`` (see `geometry.quadratic_tortuosity`), so a window that hops barely is
    not called hopping.

    Args:
        flips: of the valley's directions, with mini-batch gradients or momentum said there.
        geometry: of the same window.
        edge: of the same window.
        cubic_drift: ``grad_R lam_1 . h_R``: derivative of the largest eigenvalue, that is of ``u^T H u``, along the river, times
            the river's downward slope. Hopping as such does not say whether the river gains.
    Source:
        Ours.
    """
    require(abs(cubic_drift) < float("inf"), "cubic_drift", cubic_drift, "a finite number")
    lead = float((flips.low - flips.threshold).max())
    tau = geometry.valley.tortuosity
    return Hopping(
        conditions=(
            Condition(f"flips: lower end of some interval > {flips.threshold:.3f}", lead > 0, lead + flips.threshold),
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
    """Displacement along the given slope for each step, t-interval over blocks of steps; units of theta."""
    tortuosity: float
    """tau_R."""
    conditions: tuple[Condition, ...]
    """Forward beyond doubt, and straight."""

    @property
    def flows(self) -> bool:
        """Whether both hold."""
        return all(condition.held for condition in self.conditions)


def river_motion(points: Tensor, downhill: Tensor, river: Tensor | None = None, valley: Tensor | None = None) -> RiverMotion:
    """Does the run go down the river: mean step along the slope above 0 (t-test) and tau_R <= 1.5?

    The norm of a net displacement cannot be tested: it is positive for every walk, also one without aim. So the direction has to
    be fixed before the window, and the test is on the signed displacement along it, over ten blocks of steps.

    Args:
        points: theta_0 ... theta_W after the hopping window, ``(W + 1, P)``.
        downhill: direction chosen without these points, ``(P,)``: minus the gradient where the window starts. Its river part is
            taken.
        river: orthonormal columns ``(P, dR)``; None takes all that is orthogonal to the valley.
        valley: ``(P, k)``, instead of the river.
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
    require(len(frames) == 1, "river and valley", f"{len(frames)} frames", "one of the two")
    name, frame = frames[0]
    moves, downward = ((rows @ frame @ frame.T) if name == "river" else rows - rows @ frame @ frame.T for rows in (moves, downward))
    size = float(downward.norm())
    if size <= 1e-12 * float(downhill.norm()):
        raise EmptySubspaceError("downhill: has no part in the river, expected a direction that does")
    length = steps // _BLOCKS
    blocks = (moves @ downward / size)[steps - _BLOCKS * length :].view(_BLOCKS, length).mean(1)
    per_step, tau = interval(blocks.tolist()), path(moves).tortuosity
    low = per_step.mean if per_step.low is None else per_step.low
    return RiverMotion(
        per_step, tau, (Condition("displacement > 0 (95 %)", low > 0, low), Condition("tau_R <= 1.5", tau <= _STRAIGHT, tau))
    )


@dataclass(frozen=True)
class HoppingThenRiver:
    """Two windows, one after the other. That the second follows is no proof that the first caused it: see `ablation`."""

    before: Hopping
    after: RiverMotion

    @property
    def holds(self) -> bool:
        """Whether the first hops and the second flows."""
        return self.before.hops and self.after.flows

    @property
    def cubic_drift(self) -> float:
        """Of the first, see `Hopping`."""
        return self.before.cubic_drift


@dataclass(frozen=True)
class Trapped:
    """Whether a window is trapped in a flat valley."""

    conditions: tuple[Condition, ...]
    """All four make it trapped."""
    cubic_drift: float
    """See `Hopping`."""

    @property
    def is_trapped(self) -> bool:
        """Whether all conditions hold."""
        return all(condition.held for condition in self.conditions)


def trapped(
    river_gradient: float, first_gradient: float, losses: Sequence[float], edge_ratio: float, valley_class: str, cubic_drift: float
) -> Trapped:
    """Trapped = no slope along the river AND a loss that stands AND no hopping AND a valley of class U.

    At quadratic order without coupling the river's progress ``eta K ||h_R||^2`` does not depend on the valley at all, so such a
    state is no consequence of the paper's setting 1.

    Args:
        river_gradient: ``||P_R g||`` now.
        first_gradient: ``||g_0||`` at the start of training.
        losses: of the window's steps, one each.
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
    if valley_class not in _CLASSES:
        raise unknown("class", valley_class, _CLASSES)
    if len(losses) < SHORTEST:
        raise InsufficientDataError(f"window: {len(losses)} losses, expected at least {SHORTEST}")
    require(first_gradient > 0, "first_gradient", first_gradient, "a positive norm")
    require(0 <= river_gradient < float("inf"), "river_gradient", river_gradient, "a norm")
    values = finite("losses", torch.as_tensor(losses, dtype=torch.float64))
    level = float(values.abs().mean())
    change = 100 * abs(slope(range(len(values)), values.tolist())) / level if level else 0.0
    share = river_gradient / first_gradient
    return Trapped(
        conditions=(
            Condition("||P_R g|| / ||g_0|| < 1e-3", share < 1e-3, share),
            Condition("|slope of the loss| per 100 steps < 1e-4 of it", change < 1e-4, change),
            Condition("edge ratio < 0.5", edge_ratio < 0.5, edge_ratio),
            Condition("class U", valley_class == "U", float(valley_class == "U")),
        ),
        cubic_drift=float(cubic_drift),
    )
