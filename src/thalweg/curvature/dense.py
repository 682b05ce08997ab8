"""Every entry of the Hessian of a small model.

Shape letters: P number of chosen parameters, C directions in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, jvp

from thalweg import ranks
from thalweg.curvature import memory
from thalweg.curvature.blocks import Block, blocks, by_depth
from thalweg.curvature.check import DIFFERENCE, SYMMETRY, signs
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.linear import CannotRecordError, Program, record
from thalweg.curvature.microbatches import microbatches
from thalweg.curvature.objective import LossFunction, Objective, quiet
from thalweg.curvature.shorten import shorten
from thalweg.errors import NonFiniteError, NotSymmetricError, WrongProductError, require
from thalweg.vectors import Choice, Layout

Progress = Callable[[int, int], None]
"""Called with (columns done, columns in all), counted over microbatches."""


@dataclass(frozen=True)
class DenseHessian:
    """A Hessian with all its entries.

    ``exact["*query*", "*key*"]`` is the block with these rows and columns; patterns as in `thalweg.vectors.select`.
    """

    matrix: Tensor
    """``(P, P)``, symmetric to the bit."""
    layout: Layout
    """Names and shapes in the order of the rows."""
    symmetry_residual: float
    """``||H - H^T|| / ||H||`` (Frobenius) over the blocks that were computed on both sides of the diagonal, before symmetrising."""
    product_residual: float
    """``||H v - p|| / ||p||`` against one product p by double backward on the undivided batches."""
    how: str
    """What was decided, in words."""

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the order of the rows."""
        return self.layout.names

    def __getitem__(self, pair: tuple[str | Sequence[str], str | Sequence[str]]) -> Tensor:
        rows, columns = (self.layout.places(choice).to(self.matrix.device) for choice in pair)
        return self.matrix[rows][:, columns]


def dense_hessian(
    loss_fn: LossFunction,
    model: nn.Module,
    batches: Iterable[Any],
    params: Choice = None,
    dtype: torch.dtype | None = None,
    *,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> DenseHessian:
    """All P x P second derivatives of the mean loss, at the model's present weights.

    Columns are computed many at a time as replays of a recorded linear program, on pieces of the batches that stay in the cache
    (only if the loss adds up over samples, which is tried), and only on and below the diagonal of parameter groups ordered by depth.
    The result is compared with an independent product before it is given out.

    Args:
        loss_fn, model, batches, params, dtype: as for `thalweg.curvature.hessian.Hessian`.
        memory_limit: bytes for the matrix and its making; None takes half of what is free.
        progress: called as columns are done.
    Raises:
        MemoryLimitError: two copies of the matrix do not fit; the message says how much is needed.
        NotSymmetricError, WrongProductError: the result failed its comparison.
        BadInputError: and its kinds, as for `Hessian`.
    Source:
        Forward over reverse; block-triangular order and recording are ours.
    """
    objective = Objective(loss_fn, model, batches, params, dtype)
    allowed = memory.budget(memory_limit, objective.device)
    size = objective.point.element_size() * objective.dim**2
    instead = "choose fewer parameters with params=, or work matrix-free with Hessian"
    memory.ensure(int(2.2 * size), allowed, f"dense Hessian of {objective.dim:,} parameters", instead)
    pieces, told = microbatches(objective)
    maker = Maker(objective, pieces, progress)
    maker.fill()
    return maker.finished(Hessian(loss_fn, model, batches, params, dtype, method="rebuilt", check=False), told)


PIECE_BYTES = 128 << 10
PASS_BYTES = 4 << 20


class Maker:
    """The matrix while it is being filled."""

    def __init__(self, objective: Objective, pieces: Sequence[Any], progress: Progress | None) -> None:
        self.objective, self.pieces, self.progress = objective, pieces, progress
        self.sizes = dict(zip(objective.layout.names, objective.layout.sizes, strict=True))
        self.blocks = blocks(by_depth(objective), self.sizes, smallest=16)
        ends = torch.tensor(objective.layout.sizes).cumsum(0).tolist()
        self.starts = {
            name: end - size for name, end, size in zip(objective.layout.names, ends, objective.layout.sizes, strict=True)
        }
        self.matrix = objective.point.new_zeros(objective.dim, objective.dim)
        self.done = 0

    def fill(self) -> None:
        """Add every piece's columns of every block."""
        for piece in self.pieces:
            for block in self.blocks:
                self.add(block, self.program(block, piece))

    def program(self, block: Block, piece: Any) -> Program:
        """The linear map from a direction in the block's columns to the gradient's change in its rows."""
        parts = self.objective.layout.split(self.objective.point)

        def total(parameters: dict[str, Tensor]) -> Tensor:
            return self.objective.part(piece, parameters)[0]

        def along(*direction: Tensor) -> list[Tensor]:
            fixed = {name: part for name, part in parts.items() if name not in block.rows}
            rows = {name: part for name, part in parts.items() if name in block.rows and name not in block.columns}
            columns = {name: parts[name] for name in block.columns}
            gradient = lambda moving: grad(lambda given: total({**fixed, **given}))({**rows, **moving})  # noqa: E731
            change = jvp(gradient, (columns,), (dict(zip(block.columns, direction, strict=True)),))[1]
            return [change[name] for name in block.rows]

        with quiet(self.objective.model), torch.no_grad():
            return shorten(record(along, [torch.zeros_like(parts[name]) for name in block.columns]))

    def add(self, block: Block, program: Program) -> None:
        """Replay the program over all one-hot directions of the block."""
        shapes = [self.objective.layout.split(self.objective.point)[name].shape for name in block.columns]
        sizes = [self.sizes[name] for name in block.columns]
        places = [torch.arange(self.starts[name], self.starts[name] + self.sizes[name]) for name in block.columns]
        columns = torch.cat(places).to(self.matrix.device)
        count = max(1, PASS_BYTES // program.largest())
        identity = torch.eye(sum(sizes), dtype=self.matrix.dtype, device=self.matrix.device)

        def one(direction: Tensor) -> tuple[Tensor, ...]:
            parts = [part.view(shape) for part, shape in zip(direction.split(sizes), shapes, strict=True)]
            return tuple(program(*parts))

        with torch.no_grad():
            for first in range(0, len(identity), count):
                chunk = identity[first : first + count]
                changes = torch.vmap(one)(chunk)
                for name, change in zip(block.rows, changes, strict=True):
                    rows = slice(self.starts[name], self.starts[name] + self.sizes[name])
                    self.matrix[columns[first : first + count], rows] += change.flatten(1)
                self.done += len(chunk)
                if self.progress is not None:
                    self.progress(self.done, self.objective.dim * len(self.pieces))

    def finished(self, hessian: Hessian, told: str) -> DenseHessian:
        """Sum over ranks, measure, mirror, compare."""
        matrix = ranks.total(self.matrix).mul_(self.objective.weight)
        if not torch.isfinite(matrix).all():
            raise NonFiniteError(f"dense Hessian: NaN or infinity in {matrix.dtype}; compute in float64")
        residual = self.mirror(matrix)
        v = signs(self.objective.dim, 0, 0, matrix)
        product = hessian @ v
        apart = float((matrix @ v - product).norm() / product.norm().clamp_min(1e-30))
        if residual > SYMMETRY[matrix.dtype]:
            raise NotSymmetricError(
                f"dense Hessian: ||H - H^T|| is {residual:.1e} of ||H||, expected below {SYMMETRY[matrix.dtype]:.0e}"
            )
        if apart > DIFFERENCE[matrix.dtype]:
            raise WrongProductError(
                f"dense Hessian: H v differs from a product by {apart:.1e}; run Hessian(...).check() to see which is wrong"
            )
        how = f"{len(self.blocks)} blocks by depth, {told}, eager"
        return DenseHessian(matrix, self.objective.layout, residual, apart, how)

    def mirror(self, matrix: Tensor) -> float:
        """Make the matrix symmetric in place; the residual of the blocks that were computed on both sides."""
        apart, whole = 0.0, 0.0
        for block in self.blocks:
            places = [torch.arange(self.starts[name], self.starts[name] + self.sizes[name]) for name in block.columns]
            inside = torch.cat(places).to(matrix.device)
            later = [name for name in block.rows if name not in block.columns]
            diagonal = matrix[inside][:, inside]
            apart += float((diagonal - diagonal.T).double().square().sum())
            whole += float(diagonal.double().square().sum())
            matrix[inside.unsqueeze(1), inside] = (diagonal + diagonal.T) / 2
            for name in later:
                rows = slice(self.starts[name], self.starts[name] + self.sizes[name])
                matrix[rows, inside] = matrix[inside, rows].T
        return (apart / whole) ** 0.5 if whole else 0.0
