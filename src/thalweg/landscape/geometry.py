"""The geometry of a path: its length against its net displacement, across the valley and along the river.

Shape letters: W steps of a window, P number of parameters, d columns of a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import InsufficientDataError, ShapeMismatchError, require
from thalweg.landscape.flips import SHORTEST, aligned, checked_frames
from thalweg.reprs import short_repr
from thalweg.theory.inputs import finite, positive_steps


@dataclass(frozen=True)
class Path:
    """Length and net displacement of a path, or of its projection to a subspace."""

    length: float
    """Sum of the lengths of the steps, in units of theta."""
    net: float
    """Distance of the last point from the first, in units of theta."""

    @property
    def tortuosity(self) -> float:
        """Length over net displacement: 1 for a straight path, infinite for a closed one, NaN without motion."""
        return ratio(self.length, self.net)


@short_repr
@dataclass(frozen=True)
class Geometry:
    """A window's path across the valley and along the river."""

    valley: Path
    """The path's projection to the valley."""
    river: Path
    """The path's projection to the river."""
    amplitude: Tensor
    """Root mean square deviation from the moving average along each valley direction, ``(d,)``, in units of theta."""

    @property
    def hop_ratio(self) -> float:
        """Length across the valley per unit of net progress along the river; infinite without progress, NaN without any motion."""
        return ratio(self.valley.length, self.river.net)


def ratio(top: float, bottom: float) -> float:
    """The quotient of two numbers of at least 0, with 1/0 infinite and 0/0 NaN."""
    return top / bottom if bottom else (math.inf if top else math.nan)


def path(steps: Tensor) -> Path:
    """Length and net displacement of a path: ``sum_k ||s_k||`` and ``||sum_k s_k||``.

    Args:
        steps: s, ``(W, P)``.
    Example:
        >>> path(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        Path(length=7.0, net=5.0)
    """
    rows = finite("steps", steps)
    return Path(float(rows.norm(dim=1).sum()), float(rows.sum(0).norm()))


def geometry(points: Tensor, valley: Tensor, river: Tensor | None = None, average: int = 10) -> Geometry:
    """Tortuosity of a run across the valley and along the river, its hop ratio and its amplitude.

    ``tau_V = sum_k ||P_V (theta_{k+1} - theta_k)|| / ||P_V (theta_W - theta_0)||``, and likewise for the river. With one frame for
    each step the projected steps are added up in the whole space, where signs and bases do not matter.

    The moving average has weights ``(1/2, 1, ..., 1, 1/2) / m``: it removes hopping from side to side exactly and follows a
    steady drift exactly, so the amplitude of hops +-a is a, and that of a drift is 0.

    Args:
        points: theta_0 ... theta_W, ``(W + 1, P)``, W of at least 20.
        valley: orthonormal columns ``(P, d)``, or one frame for each step ``(W, P, d)``.
        river: the same for the river; None takes all that is orthogonal to the valley.
        average: m, even; number of steps that the moving average spans.
    Raises:
        InsufficientDataError: W below 20 or below m + 2.
    Example:
        >>> x = torch.arange(21.0)
        >>> walk = torch.stack([(-1.0) ** x, x / 10], 1)
        >>> window = geometry(walk, torch.eye(2)[:, :1])
        >>> window.river.tortuosity, window.amplitude.tolist()
        (1.0, [1.0])

    Source:
        Ours.
    """
    if points.dim() != 2:
        raise ShapeMismatchError(f"points: given shape {tuple(points.shape)}, expected (W + 1, P)")
    steps, dim = len(points) - 1, points.shape[1]
    if steps < SHORTEST:
        raise InsufficientDataError(f"window: {max(steps, 0)} steps, expected at least {SHORTEST}")
    require(average >= 2 and average % 2 == 0, "average", average, "an even whole number of at least 2")
    if steps < average + 2:
        raise InsufficientDataError(f"window: {steps} steps, expected at least average + 2 = {average + 2}")
    moves = finite("points", points).diff(dim=0)
    frames = checked_frames("valley frame", valley, dim, steps)
    across = _projected(moves, frames)
    along = moves - across if river is None else _projected(moves, checked_frames("river frame", river, dim, steps))
    columns = frames if len(frames) == 1 else aligned(frames).frames
    coordinates = torch.einsum("wp,wpd->wd", moves, columns.expand(steps, -1, -1)).cumsum(0)
    return Geometry(
        path(across),
        path(along),
        amplitude(torch.cat([coordinates.new_zeros(1, coordinates.shape[1]), coordinates]), average),
    )


def _projected(moves: Tensor, frames: Tensor) -> Tensor:
    """``V_k V_k^T`` applied to each step, ``(W, P)``; frames ``(1, P, d)`` or ``(W, P, d)``."""
    if len(frames) == 1:
        return moves @ frames[0] @ frames[0].T
    return (frames @ (frames.mT @ moves.unsqueeze(2))).squeeze(2)


def amplitude(coordinates: Tensor, average: int = 10) -> Tensor:
    """Root mean square deviation from the centred moving average; the ``average // 2`` points at either end are left out.

    Args:
        coordinates: ``(n, d)``.
        average: m, see `geometry`.
    Returns:
        ``(d,)`` float64, in units of the coordinates.
    """
    weights = torch.full((average + 1,), 1 / average, dtype=torch.float64, device=coordinates.device)
    weights[[0, -1]] /= 2
    average_path = coordinates.unfold(0, average + 1, 1) @ weights
    half = average // 2
    return (coordinates[half : len(coordinates) - half] - average_path).square().mean(0).sqrt()


def quadratic_tortuosity(sharpness: float, steps: int) -> float:
    """Tortuosity tau_V of gradient descent on a parabola: ``eta lam (1 - |q|^K) / ((1 - |q|) |1 - q^K|)``, q = 1 - eta lam.

    It is 1 up to eta lam = 1. Beyond, it is ``eta lam / |2 - eta lam|`` for every even K, and this times
    ``|1 - |q|^K| / (1 + |q|^K)`` for odd K. So tau_V >= 2 means eta lam >= 4/3, which is more than hopping as such.

    Args:
        sharpness: eta lam, any sign and size.
        steps: K.
    Returns:
        Infinite at eta lam = 2 for even K; NaN at 0, where nothing moves.
    Example:
        >>> quadratic_tortuosity(0.5, 10), round(quadratic_tortuosity(1.5, 10), 12)
        (1.0, 3.0)

    Source:
        Ours.
    """
    require(math.isfinite(sharpness), "sharpness", sharpness, "a finite number")
    k = positive_steps(steps)
    if sharpness <= 1:
        return 1.0 if sharpness else math.nan
    r = sharpness - 1  # |q|
    if r == 1:
        return float(k) if k % 2 else math.inf
    limit = (1 + r) / abs(1 - r)
    return limit * math.tanh(k * abs(math.log(r)) / 2) if k % 2 else limit
