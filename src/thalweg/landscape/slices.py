"""Loss along lines and over planes around a point.

Shape letters: P number of chosen parameters, n and m positions along directions, K points of a path, c points in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from thalweg import ranks
from thalweg.bounds import of_their_kind
from thalweg.curvature import memory as limits
from thalweg.curvature.check import repeated
from thalweg.curvature.context import Mode, undisturbed
from thalweg.curvature.objective import LossFunction, Objective
from thalweg.errors import NotDeterministicError, Phrase, ShapeMismatchError, require
from thalweg.landscape.directions import Direction, cosine_between, direction, projected
from thalweg.reprs import describe, short_repr
from thalweg.theory.inputs import finite, shaped
from thalweg.vectors import Choice, Layout

_Progress = Callable[[int, int], None]
"""Called with (points done, points in all)."""

_AGREEMENT = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest relative distance between a loss from a pass over several points and the same loss computed alone."""
_SMALL_EVALUATION = 3 << 20
"""Bytes that autograd keeps of one evaluation of the first batch, below which several points in one pass are faster on a CPU.

Measured on one core, alone over together in passes of 16: 1,488 parameters 1.97 (0.6 MB), 1.2 (1.2 MB), 1.1 (2.4 MB),
0.7 (9.7 MB); 110,336 parameters 2.2 (2.3 MB), 0.9 (15 MB), 0.7 (31 MB). The activations decide, not the parameters.
"""
_MOST_PER_PASS = 16
"""Largest number of points in one pass on a CPU: by then the overhead of a pass is small for each point. Not studied carefully."""


@short_repr
@dataclass(frozen=True)
class Line:
    """Loss along a direction, ``L(centre + a d)``."""

    places: Tensor
    """Positions a, ``(n,)``, in lengths of the direction."""
    losses: Tensor
    """``(n,)`` float64, in the loss function's unit; NaN or infinite where the loss is."""
    name: str
    """Name of the direction."""


@short_repr
@dataclass(frozen=True)
class Plane:
    """Loss over a plane, ``L(centre + a d + b e)``."""

    first: Tensor
    """Positions a along the first direction, ``(n,)``, in lengths of the direction."""
    second: Tensor
    """Positions b along the second direction, ``(m,)``, in lengths of the direction."""
    losses: Tensor
    """``(n, m)`` float64, in the loss function's unit; NaN or infinite where the loss is."""
    path: Tensor | None
    """Coordinates of the path's points, projected to the plane, ``(K, 2)``, in lengths of the directions; None without a path."""
    held: float | None
    """Share of the path's squared displacement from the centre that lies in the plane; NaN if the path never leaves the centre,
    None without a path."""
    names: tuple[str, str]
    """Names of the directions."""
    lengths: tuple[float, float]
    """Lengths of the directions, in units of theta."""
    cosine: float
    """Cosine of the angle between the directions; the picture shows angles as they are where it is 0."""

    @property
    def angle(self) -> float:
        """Angle between the directions, in degrees."""
        return math.degrees(math.acos(max(-1.0, min(1.0, self.cosine))))

    @property
    def orthonormality(self) -> float:
        """Largest absolute entry of ``D^T D - I`` for the directions D; at 0, distances in the picture are those of theta."""
        a, b = self.lengths
        return max(abs(a * a - 1), abs(b * b - 1), abs(a * b * self.cosine))


class Slices:
    """The mean loss around the model's present weights, or around any other centre: lines, planes, and any list of points.

    Points are evaluated several at once under ``vmap`` where that is faster, if the loss allows it and gives the same value as
    a single evaluation at the point tried; else one by one. `how` says which and why. Each point costs one evaluation of the loss.

    Args:
        loss_fn: ``(model, batch) -> mean loss``, or ``(total, count)`` for a mean weighted by what counts.
        model: any module; its weights are copied.
        batches: a list of batches.
        params: which parameters move, see `thalweg.vectors.select`.
        dtype: arithmetic, float32 or float64; None keeps the weights' own. Small steps need float64.
        together: points in one pass, 1 for one by one; None chooses by memory and measured speed.
        memory: bytes that one pass may take; None takes half of what is free.
        mode, seed: evaluation mode or training mode, and what fixes random parts, see `thalweg.curvature.objective.Objective`.
    Raises:
        NotDeterministicError: the loss has two values at the model's weights.
        BadInputError: and its kinds, see `thalweg.curvature.objective.Objective`.
    Example:
        >>> model = nn.Linear(1, 1, bias=False).requires_grad_()
        >>> _ = model.weight.data.fill_(1.0)
        >>> slices = Slices(lambda m, x: (m(x) ** 2).mean(), model, [torch.tensor([[2.0]])])
        >>> slices.line(torch.tensor([1.0]), [-1, 0, 1]).losses.tolist()
        [0.0, 4.0, 16.0]

    Source:
        Goodfellow et al. 2015 (lines), Li et al. 2018 (planes).
    """

    @undisturbed
    @of_their_kind
    def __init__(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        params: Choice = None,
        dtype: torch.dtype | None = None,
        *,
        together: int | None = None,
        memory: int | None = None,
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> None:
        require(together is None or together >= 1, "together", together, "a whole number of at least 1, or None")
        self.objective = Objective(loss_fn, model, batches, params, dtype, mode, seed)
        self.together, self.how = self.choose_pass_size(together, limits.budget(memory, self.objective.device))
        self.vmap_agrees = self.with_gradients = False
        self.check_centre()

    def __repr__(self) -> str:
        return describe(
            self, f"of {type(self.objective.model).__name__}", f"{self.objective.dim:,} parameters", f"loss {self.loss:.4g}"
        )

    def check_centre(self) -> None:
        """Check that the loss evaluated for slices equals the loss of the objective at the model's weights.

        Some models take another path through their code, with another value, when gradients are off. For such a model slices are
        evaluated with gradients on.

        Raises:
            NotDeterministicError: two evaluations at the model's weights differ.
        """
        repeated(self.objective)
        losses = self.centre_losses()
        if not _equal(losses[0], losses[1], self.objective.dtype):
            raise NotDeterministicError(
                f"loss: {losses[0]:.6g} and {losses[1]:.6g} at one point; take randomness out of loss_fn (functional dropout, "
                "sampling, noise), or fix it with seed="
            )
        if _equal(losses[0], self.loss, self.objective.dtype):
            return
        self.with_gradients, self.together = True, 1
        losses = self.centre_losses()
        if not _equal(losses[0], self.loss, self.objective.dtype):
            raise NotDeterministicError(
                f"loss: {self.loss:.6g} and {losses[0]:.6g} at one point; take randomness out of loss_fn, and what changes from "
                "call to call"
            )
        self.how = "one by one, with gradients on: without them the loss is computed on another path, with another value"

    def centre_losses(self) -> list[float]:
        """The loss at the model's weights, evaluated twice."""
        per_pass, self.together = self.together, 1
        try:
            return self.losses(iter([self.point, self.point]), 2).tolist()
        finally:
            self.together = per_pass

    @property
    def layout(self) -> Layout:
        """Names and shapes of the parameters in the flat vector."""
        return self.objective.layout

    @property
    def point(self) -> Tensor:
        """The model's weights, ``(P,)``."""
        return self.objective.point

    @property
    def loss(self) -> float:
        """Mean loss at the model's weights."""
        return self.objective.value

    def choose_pass_size(self, requested: int | None, allowed: int) -> tuple[int, str]:
        """Number of points in one pass, and the reason as a phrase."""
        saved, size = self.objective.saved_bytes, self.objective.point.element_size()
        # Memory of one point: what autograd saves, an upper estimate of the activations, and three copies of the weights (joined,
        # split and fused).
        fits = max(1, allowed // (saved + 3 * size * self.objective.dim))
        if requested is not None:
            count, reason = min(requested, fits), " and as memory allows" if requested > fits else ""
            return count, f"{count} points in a pass, as asked{reason}"
        if self.objective.device.type != "cpu":  # not measured: assumes small kernels that wait for launches
            return fits, f"up to {fits} points in a pass, as memory allows"
        if saved > _SMALL_EVALUATION:
            return 1, f"one by one: an evaluation keeps {limits.format_bytes(saved)}, too much for passes of several to be faster"
        count = min(_MOST_PER_PASS, fits)
        return count, f"up to {count} points in a pass: an evaluation keeps only {limits.format_bytes(saved)}"

    @undisturbed
    def line(
        self,
        along: Tensor | Direction,
        places: Sequence[float] | Tensor,
        centre: Tensor | None = None,
        name: str = "direction",
        progress: _Progress | None = None,
    ) -> Line:
        """The loss along a line, ``L(centre + a d)`` for each position a; costs n evaluations.

        Args:
            along: d, ``(P,)``, of any length but zero.
            places: positions a, ``(n,)``.
            centre: ``(P,)``; None takes the model's weights.
            name: name for a direction that has none.
            progress: called with (points done, points in all).
        Returns:
            The losses, NaN or infinite where the loss is.
        Raises:
            BadInputError: a zero direction, a wrong length, or no positions.
        """
        d, a = self.on_device(along, name), _checked_places("places", places)
        middle = self.middle(centre)
        losses = self.losses((middle + float(step) * d.vector for step in a), len(a), progress)
        return Line(a, losses, d.name)

    @undisturbed
    def plane(
        self,
        along: tuple[Tensor | Direction, Tensor | Direction],
        first: Sequence[float] | Tensor,
        second: Sequence[float] | Tensor,
        centre: Tensor | None = None,
        path: Tensor | None = None,
        names: tuple[str, str] = ("first", "second"),
        progress: _Progress | None = None,
    ) -> Plane:
        """The loss over a grid in a plane, ``L(centre + a d + b e)``, and the course of a path through it; costs n m evaluations.

        Args:
            along: d and e, ``(P,)`` each, of any length and at any angle but zero.
            first: positions a, ``(n,)``.
            second: positions b, ``(m,)``.
            centre: ``(P,)``; None takes the model's weights. For directions of `principal` give its centre.
            path: points ``(K, P)``, for instance checkpoints; they are projected to the plane by least squares.
            names: names for directions that have none.
            progress: called with (points done, points in all).
        Returns:
            The losses, and the path's coordinates with the share of its displacement that lies in the plane.
        Raises:
            BadInputError: parallel directions, a zero direction, a wrong length, or no positions.
        """
        d, e = (self.on_device(vector, name) for vector, name in zip(along, names, strict=True))
        a, b, middle = _checked_places("first", first), _checked_places("second", second), self.middle(centre)
        columns = torch.stack([d.vector, e.vector], dim=1)
        cosine = cosine_between(d, e)
        coordinates, share = (None, None) if path is None else projected(self.checked_path(path) - middle, columns)
        grid = (middle + float(x) * d.vector + float(y) * e.vector for x in a for y in b)
        losses = self.losses(grid, len(a) * len(b), progress).view(len(a), len(b))
        return Plane(a, b, losses, coordinates, share, (d.name, e.name), (d.length, e.length), cosine)

    def on_device(self, along: Tensor | Direction, name: str) -> Direction:
        """The direction, checked, on the device of the weights."""
        checked = direction(along, self.objective.dim, name)
        return Direction(checked.vector.to(self.objective.device), checked.name)

    def middle(self, centre: Tensor | None) -> Tensor:
        """The centre, or the model's weights for None, in float64 on the device of the weights."""
        given = self.objective.point if centre is None else centre
        return shaped("centre", given, self.objective.dim).to(self.objective.device)

    def checked_path(self, path: Tensor) -> Tensor:
        """The path ``(K, P)``, checked, in float64 on the device of the weights."""
        if path.dim() != 2 or path.shape[1] != self.objective.dim:
            raise ShapeMismatchError(f"path: given shape {tuple(path.shape)}, expected (K, {self.objective.dim})")
        return finite("path", path).to(self.objective.device)

    def losses(self, points: Iterable[Tensor], count: int, progress: _Progress | None = None) -> Tensor:
        """The mean loss at each of a series of points, summed over ranks.

        Args:
            points: ``count`` points ``(P,)``, drawn a pass at a time.
            count: number of points.
            progress: called with (points done, points in all).
        Returns:
            ``(count,)`` float64, on the CPU.
        """
        shares: list[Tensor] = []
        done, remaining = 0, iter(points)
        with ranks.together(), self.objective.quiet(), torch.set_grad_enabled(self.with_gradients):
            while done < count:
                stack = torch.stack(
                    [point.to(self.objective.dtype) for point in taken(remaining, min(self.together, count - done))]
                )
                shares.append(self.several(stack))
                done += len(stack)
                if progress is not None:
                    progress(done, count)
        return ranks.total(torch.cat(shares))

    def several(self, points: Tensor) -> Tensor:
        """This rank's share of the mean loss at points ``(c, P)``, in one pass if that works; ``(c,)``."""
        if len(points) > 1 and self.together > 1:
            if self.vmap_agrees:
                return self.in_one_pass(points)
            try:
                losses, alone = self.in_one_pass(points), self.alone(points[-1])
            except Exception as problem:  # whatever vmap cannot do; an error of the loss itself is raised again below
                reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
                self.together, self.how = 1, f"one by one: vmap failed ({reason})"
            else:
                tolerance = _AGREEMENT[self.objective.dtype]
                if torch.allclose(losses[-1], alone, rtol=tolerance, atol=0.0, equal_nan=True):
                    self.vmap_agrees = bool(alone.isfinite())  # that both overflow proves little; the next pass is tried too
                    return losses
                difference = float(losses[-1] - alone)
                self.together, self.how = 1, f"one by one: under vmap the loss at one point differs by {difference:.1e}"
        return torch.stack([self.alone(point) for point in points])

    def in_one_pass(self, points: Tensor) -> Tensor:
        """`alone` for points ``(c, P)`` at once under ``vmap``, ``(c,)``."""
        return self.summed(lambda batch: vmap(lambda flat: self.part(batch, flat))(points))

    def alone(self, point: Tensor) -> Tensor:
        """This rank's share of the mean loss at a point ``(P,)``."""
        return self.summed(lambda batch: self.part(batch, point))

    def part(self, batch: Any, flat: Tensor) -> Tensor:
        """Loss of one batch at weights ``(P,)``, as the loss function returns it."""
        parts = self.layout.split(flat)
        if self.with_gradients:  # as the loss sees its weights when it is differentiated
            parts = {name: part.detach().requires_grad_() for name, part in parts.items()}
        return self.objective.part(batch, parts)[0]

    def summed(self, value: Callable[[Any], Tensor]) -> Tensor:
        """The weighted sum of a value over this rank's batches, in float64 on the CPU."""
        total = sum((value(batch).double() for batch in self.objective.batches), torch.zeros((), dtype=torch.float64))
        return (self.objective.weight * total).detach().cpu()


def _equal(first: float, second: float, dtype: torch.dtype) -> bool:
    """Whether two evaluations of one loss are equal up to rounding; two NaN are."""
    return math.isclose(first, second, rel_tol=_AGREEMENT[dtype], abs_tol=0.0) or (math.isnan(first) and math.isnan(second))


def taken(points: Iterator[Tensor], count: int) -> list[Tensor]:
    """The next ``count`` points of an iterator."""
    return [next(points) for _ in range(count)]


def _checked_places(name: str, places: Sequence[float] | Tensor) -> Tensor:
    """Positions along a direction as ``(n,)`` in float64, n at least 1.

    Raises:
        ShapeMismatchError: no one-dimensional list of positions.
        BadInputError: no position.
    """
    row = finite(name, torch.as_tensor(places, dtype=torch.float64)).cpu()
    if row.dim() != 1:
        raise ShapeMismatchError(f"{name}: given shape {tuple(row.shape)}, expected a row of places (n,)")
    require(len(row) > 0, name, Phrase("no places"), "at least one")
    return row
