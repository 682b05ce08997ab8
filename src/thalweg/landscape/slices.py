"""Loss along lines and over planes around a point.

Shape letters: P number of chosen parameters, n and m places along directions, K points of a path, c points in one pass.
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
from thalweg.errors import NotDeterministicError, ShapeMismatchError, require
from thalweg.landscape.directions import Direction, cosine_between, direction, projected
from thalweg.theory.inputs import finite, shaped
from thalweg.vectors import Choice, Layout

_Progress = Callable[[int, int], None]
"""Called with (points done, points in all)."""

_AGREEMENT = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest relative distance between a loss from a pass over several points and the same loss alone."""
_SMALL = 3 << 20
"""Bytes that one evaluation of the first batch leaves to autograd, below which several points in one pass are faster on a CPU.

Measured on one core, alone over together in passes of 16: 1,488 parameters 1.97 (0.6 MB), 1.2 (1.2 MB), 1.1 (2.4 MB),
0.7 (9.7 MB); 110,336 parameters 2.2 (2.3 MB), 0.9 (15 MB), 0.7 (31 MB). It is the activations that count, not the parameters.
"""
_TOGETHER = 16
"""Points in one pass on a CPU at most: the overhead is shared out by then; not studied carefully."""


@dataclass(frozen=True)
class Line:
    """Loss along a direction."""

    places: Tensor
    """``(n,)``, in lengths of the direction."""
    losses: Tensor
    """``(n,)``; NaN or infinite where the loss is."""
    name: str
    """Of the direction."""


@dataclass(frozen=True)
class Plane:
    """Loss over a plane."""

    first: Tensor
    """Places along the first direction, ``(n,)``, in its lengths."""
    second: Tensor
    """Likewise, ``(m,)``."""
    losses: Tensor
    """``(n, m)``; NaN or infinite where the loss is."""
    path: Tensor | None
    """Coordinates of the path's points nearest to them in the plane, ``(K, 2)``, in the directions' lengths."""
    held: float | None
    """Share of the path's squared displacement from the centre that lies in the plane; NaN if it never leaves the centre."""
    names: tuple[str, str]
    lengths: tuple[float, float]
    """Of the directions, units of theta."""
    cosine: float
    """Between the directions; the picture is true to angles where it is 0."""

    @property
    def angle(self) -> float:
        """Between the directions, degrees."""
        return math.degrees(math.acos(max(-1.0, min(1.0, self.cosine))))

    @property
    def orthonormality(self) -> float:
        """Largest entry of ``D^T D - I`` for the directions D: 0 where distances in the picture are distances of theta."""
        a, b = self.lengths
        return max(abs(a * a - 1), abs(b * b - 1), abs(a * b * self.cosine))


class Slices:
    """The mean loss around the model's present weights, or around any other centre.

    Points are evaluated several at once under ``vmap`` where that is faster, if the loss allows it and gives the same value as
    alone at the point tried; else one by one. `how` says which and why.

    Args:
        loss_fn: ``(model, batch) -> mean loss``, or ``(total, count)`` for a mean weighted by what counts.
        model: any module; its weights are copied.
        batches: a list of batches.
        params: which parameters move, see `thalweg.vectors.select`.
        dtype: arithmetic, float32 or float64; None keeps the weights' own. Small steps need float64.
        together: points in one pass; None decides (1 is one by one).
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
        self.together, self.how = self.decided(together, limits.budget(memory, self.objective.device))
        self.tried = self.with_gradients = False
        self.settle()

    def settle(self) -> None:
        """Is the loss at the centre the loss? Some models take another path where no gradient is asked for.

        Raises:
            NotDeterministicError: two evaluations at the model's weights differ.
        """
        repeated(self.objective)
        again = self.centre_losses()
        if not _equal(again[0], again[1], self.objective.dtype):
            raise NotDeterministicError(
                f"loss: {again[0]:.6g} and {again[1]:.6g} at one point; take randomness out of loss_fn (functional dropout, "
                "sampling, noise), or fix it with seed="
            )
        if _equal(again[0], self.loss, self.objective.dtype):
            return
        self.with_gradients, self.together = True, 1
        again = self.centre_losses()
        if not _equal(again[0], self.loss, self.objective.dtype):
            raise NotDeterministicError(
                f"loss: {self.loss:.6g} and {again[0]:.6g} at one point; take randomness out of loss_fn, and what changes from "
                "call to call"
            )
        self.how = "one by one, with gradients on: without them the loss is computed on another path, with another value"

    def centre_losses(self) -> list[float]:
        """The loss at the model's weights, evaluated twice."""
        together, self.together = self.together, 1
        try:
            return self.losses(iter([self.point, self.point]), 2).tolist()
        finally:
            self.together = together

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

    def decided(self, asked: int | None, allowed: int) -> tuple[int, str]:
        """How many points go into one pass, and why."""
        saved, size = self.objective.saved_bytes, self.objective.point.element_size()
        # What autograd saves is an upper estimate of what is alive at once; three copies of the weights: joined, split, fused.
        fits = max(1, allowed // (saved + 3 * size * self.objective.dim))
        if asked is not None:
            return min(asked, fits), f"{min(asked, fits)} points in a pass, as asked" + (
                " and as memory allows" if asked > fits else ""
            )
        if self.objective.device.type != "cpu":
            return (
                fits,
                f"up to {fits} points in a pass, as memory allows",
            )  # not measured: assumes small kernels that wait for launches
        if saved > _SMALL:
            return 1, f"one by one: an evaluation keeps {limits.format_bytes(saved)}, too much for passes of several to be faster"
        return min(
            _TOGETHER, fits
        ), f"up to {min(_TOGETHER, fits)} points in a pass: an evaluation keeps only {limits.format_bytes(saved)}"

    @undisturbed
    def line(
        self,
        along: Tensor | Direction,
        places: Sequence[float] | Tensor,
        centre: Tensor | None = None,
        name: str = "direction",
        progress: _Progress | None = None,
    ) -> Line:
        """``L(centre + a d)`` for each place a.

        Args:
            along: d, ``(P,)``, of any length but zero.
            places: ``(n,)``.
            centre: ``(P,)``; None takes the model's weights.
            name: of a direction that has none.
            progress: see `_Progress`.
        Raises:
            BadInputError: a zero direction, a wrong length, no places.
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
        """``L(centre + a d + b e)`` over a grid, and where a path runs through it.

        Args:
            along: d and e, ``(P,)`` each, of any length and at any angle but zero.
            first: places a, ``(n,)``.
            second: places b, ``(m,)``.
            centre: ``(P,)``; None takes the model's weights. For `principal` give its centre.
            path: points ``(K, P)``, say checkpoints.
            names: of directions that have none.
            progress: see `_Progress`.
        Raises:
            BadInputError: parallel directions, a zero direction, a wrong length, no places.
        """
        d, e = (self.on_device(vector, name) for vector, name in zip(along, names, strict=True))
        a, b, middle = _checked_places("first", first), _checked_places("second", second), self.middle(centre)
        columns = torch.stack([d.vector, e.vector], dim=1)
        cosine = cosine_between(d, e)
        inside = None if path is None else projected(self.checked_path(path) - middle, columns)
        grid = (middle + float(x) * d.vector + float(y) * e.vector for x in a for y in b)
        losses = self.losses(grid, len(a) * len(b), progress).view(len(a), len(b))
        held = None if inside is None else inside[1]
        path = None if inside is None else inside[0]
        return Plane(a, b, losses, path, held, (d.name, e.name), (d.length, e.length), cosine)

    def on_device(self, along: Tensor | Direction, name: str) -> Direction:
        """The direction, checked, where the weights are."""
        found = direction(along, self.objective.dim, name)
        return Direction(found.vector.to(self.objective.device), found.name)

    def middle(self, centre: Tensor | None) -> Tensor:
        """The centre in float64, where the weights are."""
        given = self.objective.point if centre is None else centre
        return shaped("centre", given, self.objective.dim).to(self.objective.device)

    def checked_path(self, path: Tensor) -> Tensor:
        """``(K, P)`` in float64, where the weights are."""
        if path.dim() != 2 or path.shape[1] != self.objective.dim:
            raise ShapeMismatchError(f"path: given shape {tuple(path.shape)}, expected (K, {self.objective.dim})")
        return finite("path", path).to(self.objective.device)

    def losses(self, points: Iterable[Tensor], count: int, progress: _Progress | None = None) -> Tensor:
        """Mean loss at each of ``count`` points ``(P,)``: ``(count,)`` float64, on the CPU; summed over ranks."""
        found: list[Tensor] = []
        done, left = 0, iter(points)
        with ranks.together(), self.objective.quiet(), torch.set_grad_enabled(self.with_gradients):
            while done < count:
                here = torch.stack([point.to(self.objective.dtype) for point in taken(left, min(self.together, count - done))])
                found.append(self.several(here))
                done += len(here)
                if progress is not None:
                    progress(done, count)
        return ranks.total(torch.cat(found))

    def several(self, points: Tensor) -> Tensor:
        """This rank's share of the mean loss at points ``(c, P)``, in one pass if that works; ``(c,)``."""
        if len(points) > 1 and self.together > 1:
            if self.tried:
                return self.in_one_pass(points)
            try:
                losses, alone = self.in_one_pass(points), self.alone(points[-1])
            except Exception as problem:  # whatever vmap cannot do; an error of the loss itself comes again below
                reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
                self.together, self.how = 1, f"one by one: vmap failed ({reason})"
            else:
                tolerance = _AGREEMENT[self.objective.dtype]
                if torch.allclose(losses[-1], alone, rtol=tolerance, atol=0.0, equal_nan=True):
                    self.tried = bool(alone.isfinite())  # that both overflow proves little; the next pass is tried too
                    return losses
                apart = float(losses[-1] - alone)
                self.together, self.how = 1, f"one by one: under vmap the loss at one point differs by {apart:.1e}"
        return torch.stack([self.alone(point) for point in points])

    def in_one_pass(self, points: Tensor) -> Tensor:
        """`alone` for points ``(c, P)`` under vmap, ``(c,)``."""
        return self.summed(lambda batch: vmap(lambda flat: self.part(batch, flat))(points))

    def alone(self, point: Tensor) -> Tensor:
        """This rank's share of the mean loss at a point ``(P,)``."""
        return self.summed(lambda batch: self.part(batch, point))

    def part(self, batch: Any, flat: Tensor) -> Tensor:
        """Loss of one batch as the loss function gives it."""
        return self.objective.part(batch, self.layout.split(flat))[0]

    def summed(self, value: Callable[[Any], Tensor]) -> Tensor:
        """Over batches, weighted, in float64, on the CPU."""
        total = sum((value(batch).double() for batch in self.objective.batches), torch.zeros((), dtype=torch.float64))
        return (self.objective.weight * total).detach().cpu()


def _equal(first: float, second: float, dtype: torch.dtype) -> bool:
    """Two evaluations of one loss, up to rounding."""
    return math.isclose(first, second, rel_tol=_AGREEMENT[dtype], abs_tol=0.0) or (math.isnan(first) and math.isnan(second))


def taken(points: Iterator[Tensor], count: int) -> list[Tensor]:
    """The next ``count`` points."""
    return [next(points) for _ in range(count)]


def _checked_places(name: str, places: Sequence[float] | Tensor) -> Tensor:
    """``(n,)`` in float64, n at least 1.

    Raises:
        ShapeMismatchError: not a row.
        BadInputError: none.
    """
    found = finite(name, torch.as_tensor(places, dtype=torch.float64)).cpu()
    if found.dim() != 1:
        raise ShapeMismatchError(f"{name}: given shape {tuple(found.shape)}, expected a row of places (n,)")
    require(len(found) > 0, name, "no places", "at least one")
    return found
