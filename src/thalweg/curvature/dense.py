"""Every entry of the Hessian of a small model.

Column j of the Hessian is the derivative of the gradient along the one-hot vector e_j. The parameters are divided into blocks
ordered by depth (`thalweg.curvature.blocks`); for each block the map "direction in its columns -> change of the gradient in its
rows" is recorded once and replayed for many one-hot directions at a time. Entries above the diagonal blocks follow by symmetry.

Shape letters: P number of chosen parameters, C directions in one pass.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import grad, jvp

from thalweg import ranks
from thalweg.bounds import of_their_kind
from thalweg.curvature import memory as limits
from thalweg.curvature.blocks import Block, blocks, by_depth
from thalweg.curvature.check import SYMMETRY, differing, repeated, scales, signs
from thalweg.curvature.compiled import compiled, is_known, replayed
from thalweg.curvature.context import Mode, undisturbed
from thalweg.curvature.hessian import Hessian, warn_of_kinks
from thalweg.curvature.linear import Program, record
from thalweg.curvature.loss_operator import CACHE_BYTES, Method, gaussian
from thalweg.curvature.microbatches import microbatches
from thalweg.curvature.objective import LossFunction, Objective
from thalweg.curvature.shorten import shorten
from thalweg.errors import KinkWarning, MemoryLimitError, NonFiniteError, NotSymmetricError, require
from thalweg.reprs import short_repr
from thalweg.threads import threads
from thalweg.vectors import Choice, Layout

Progress = Callable[[int, int], None]
"""Called with (columns done, columns in all), counted over microbatches."""
_Compile = Literal["auto", "always", "never"]
_COLUMNS_AT_ONCE = 64
"""Products computed in one call where the matrix is made of products."""
_COMPILE_SECONDS = 20.0
"""Expected cost of compiling one block's program (measured: 15 to 24 s on two cores)."""
_COMPILE_GAIN = 2.5
"""Expected quotient of replayed over compiled time (measured: 2.2 to 2.9)."""


@short_repr
@dataclass(frozen=True)
class DenseHessian:
    """A Hessian with all its entries, and what its checks measured.

    ``exact["*query*", "*key*"]`` is the block with these rows and columns; patterns as in `thalweg.vectors.select`.
    """

    matrix: Tensor
    """The Hessian ``(P, P)``, symmetric to the bit, in units of the loss over units of theta squared."""
    layout: Layout
    """Names and shapes in the order of the rows."""
    symmetry_residual: float
    """``||H - H^T|| / ||H||`` (Frobenius) over the blocks that were computed on both sides of the diagonal, before symmetrising."""
    product_residual: float
    """``||H v - d|| / ||d||`` against one central difference d of the gradient on the undivided batches, in float64."""
    how: str
    """How the matrix was computed and why, as a sentence for a reader."""

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the order of the rows."""
        return self.layout.names

    def __getitem__(self, pair: tuple[str | Sequence[str], str | Sequence[str]]) -> Tensor:
        two = isinstance(pair, tuple) and len(pair) == 2
        require(two, "block", pair, "two choices of parameters, rows and columns: dense['weight', 'weight']")
        rows, columns = (self.layout.places(choice).to(self.matrix.device) for choice in pair)
        return self.matrix[rows][:, columns]


@undisturbed
@of_their_kind
def dense_hessian(
    loss_fn: LossFunction,
    model: nn.Module,
    batches: Iterable[Any],
    params: Choice = None,
    dtype: torch.dtype | None = None,
    *,
    memory: int | None = None,
    compile: _Compile = "auto",
    matrices: int = 1,
    progress: Progress | None = None,
    method: Method = "auto",
    mode: Mode = "eval",
    seed: int | None = None,
) -> DenseHessian:
    """All P x P second derivatives of the mean loss at the model's present weights, ``H_ij = d^2 L / dtheta_i dtheta_j``.

    Columns are computed many at a time as replays of a recorded linear program, on pieces of the batches that stay in the cache
    (only if the loss adds up over samples, which is tried), on and below the diagonal of parameter groups ordered by depth.
    Where this fails (an operation without forward derivatives, or one that cannot be recorded), the columns are products of a
    `Hessian` by reverse mode. The matrix is compared with differences of the gradient before it is returned. Costs about 0.4 to
    0.9 of P single products, and memory for about two copies of the matrix.

    Args:
        loss_fn, model, batches, params, dtype, mode, seed: as for `thalweg.curvature.hessian.Hessian`.
        memory: bytes allowed for the matrix and its computation; None takes half of what is free.
        compile: "always", "never", or "auto", where the expected cost decides (20 s per block, once per structure).
        matrices: number of Hessians of this structure that are planned, over checkpoints, seeds and conditions; used by "auto".
        progress: called with (columns done, columns in all).
        method: "auto", "recorded" (or an error), "rebuilt" (products by double backward), or "differences" of the gradient.
    Returns:
        The matrix, with the residuals of its two checks.
    Raises:
        MemoryLimitError: two copies of the matrix do not fit; the message says how much is needed.
        NotSymmetricError, WrongProductError: the result failed its comparison.
        BadInputError: and its kinds, as for `Hessian`.
    Source:
        Pearlmutter 1994, forward over reverse; block-triangular order and recording are ours.
    """
    require(method in get_args(Method), "method", method, "auto, recorded, rebuilt or differences")
    objective = Objective(loss_fn, model, batches, params, dtype, mode, seed)
    repeated(objective)  # refuses a loss with two gradients at one point
    # The matrix and its symmetrised copy have to fit, with a tenth of one for everything else.
    allowed = limits.budget(memory, objective.device)
    size = objective.point.element_size() * objective.dim**2
    advice = "choose fewer parameters with params=, or work matrix-free with Hessian"
    with ranks.together():
        limits.ensure(int(2.2 * size), allowed, f"dense Hessian of {objective.dim:,} parameters", advice)
    if objective.kinks:
        warn_of_kinks(objective.kinks)
    reason, told = f"asked for method={method!r}", _Told(progress)
    if method in ("auto", "recorded"):
        try:
            return _by_replays(objective, compile, matrices, told if progress else None)
        except Exception as problem:  # whatever a replay or vmap cannot do; an error of the loss itself is raised again below
            if (
                told.failed
                or method == "recorded"
                or isinstance(problem, torch.OutOfMemoryError | MemoryLimitError | KeyboardInterrupt)
            ):
                raise
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KinkWarning)  # given above
        hessian = Hessian(loss_fn, model, objective.batches, params, dtype, method=method, memory=memory, mode=mode, seed=seed)
    return _by_products(hessian, reason, progress)


class _Told:
    """A user's ``progress``, and whether it raised an error itself."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.failed = progress, False

    def __call__(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.failed = True
            self.progress(done, total)
            self.failed = False


def _by_replays(objective: Objective, compile: _Compile, matrices: int, progress: Progress | None) -> DenseHessian:
    """The matrix by replays of recorded programs, block by block."""
    with ranks.together():
        pieces, division = microbatches(objective)
        assembly = Assembly(objective, pieces, compile, matrices, progress)
        assembly.fill()
    return assembly.finished(division)


def _by_products(hessian: Hessian, reason: str, progress: Progress | None) -> DenseHessian:
    """The matrix by products of an operator that passed its own check; used where replays fail."""
    dim, columns = hessian.dim, []
    for first in range(0, dim, _COLUMNS_AT_ONCE):
        width = min(_COLUMNS_AT_ONCE, dim - first)
        directions = torch.zeros(dim, width, dtype=hessian.dtype, device=hessian.device)
        directions[first : first + width] = torch.eye(width, dtype=hessian.dtype, device=hessian.device)
        columns.append(hessian @ directions)
        if progress is not None:
            progress(first + width, dim)
    matrix = torch.cat(columns, 1)
    matrix = (matrix + matrix.T) / 2
    asymmetry = float((torch.cat(columns, 1) - matrix).norm()) * 2
    residual = asymmetry / float(matrix.norm()) if asymmetry else 0.0
    how = f"{dim} products of a Hessian ({hessian.explain()}), because blocks could not be replayed: {reason}"
    return _compared(hessian.objective, matrix, residual, how, hessian.difference_error)


def _compared(objective: Objective, matrix: Tensor, residual: float, how: str, error: float = 0.0) -> DenseHessian:
    """The result, after the matrix was compared with its own transpose and with a difference of the gradient.

    Raises:
        NonFiniteError, NotSymmetricError, WrongProductError: the matrix is not the derivative of the gradient.
    """
    if not torch.isfinite(matrix).all():
        raise NonFiniteError(f"dense Hessian: NaN or infinity in {matrix.dtype}; compute in float64")
    limit = max(SYMMETRY[matrix.dtype], 10 * error)
    if residual > limit:
        raise NotSymmetricError(f"dense Hessian: ||H - H^T|| is {residual:.1e} of ||H||, expected below {limit:.0e}")
    # One random direction through all parameters: H v against (g(theta + h v) - g(theta - h v)) / 2h.
    v = scales(objective) * signs(objective.dim, 0, 1, objective.point)
    distance, _ = differing(objective, v, matrix @ v, matrix.dtype, error)
    return DenseHessian(matrix, objective.layout, residual, distance, how)


class Assembly:
    """The matrix while it is being filled: its blocks, the positions of the parameters, and the decision to compile."""

    def __init__(
        self, objective: Objective, pieces: Sequence[Any], compile: _Compile, matrices: int, progress: Progress | None
    ) -> None:
        self.objective, self.pieces, self.progress = objective, pieces, progress
        self.compile, self.matrices = compile, matrices
        names, sizes = objective.layout.names, objective.layout.sizes
        self.sizes = dict(zip(names, sizes, strict=True))
        self.spans = dict(
            zip(names, (slice(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)), strict=True)
        )
        self.blocks = blocks(by_depth(objective), self.sizes, smallest=max(1, min(256, objective.dim // 8)))
        self.matrix = objective.point.new_zeros(objective.dim, objective.dim)
        self.done = 0
        self.how = "replayed"
        self.pool: Callable[..., Iterable[int]] = map

    def fill(self) -> None:
        """Add the contribution of every piece of the batches to every block."""
        with self.workers():
            for number, piece in enumerate(self.pieces):
                for block in self.blocks:
                    started = time.perf_counter()
                    program = self.program(block, piece)
                    self.add(block, program)
                    if number == 0 and block is self.blocks[0] and self.compile == "auto":
                        self.decide(time.perf_counter() - started, is_known(program, self.count(block, program)))

    @contextlib.contextmanager
    def workers(self) -> Iterator[None]:
        """Run passes in parallel on a CPU, one thread each: their tensors are too small to be divided within one operation."""
        count = torch.get_num_threads()
        if self.matrix.device.type != "cpu" or count == 1:
            yield
            return
        with threads(1), ThreadPoolExecutor(count) as executor:
            self.pool = executor.map
            try:
                yield
            finally:
                self.pool = map

    def decide(self, seconds: float, known: bool) -> None:
        """Compile the other blocks if that is expected to save time, judged by the first block, or if the code exists already."""
        # The first block's time, scaled by its share of the columns to all blocks, pieces and matrices.
        share = sum(self.sizes[name] for name in self.blocks[0].columns) / self.objective.dim
        expected = seconds / share * len(self.pieces) * self.matrices
        saved, cost = expected * (1 - 1 / _COMPILE_GAIN), _COMPILE_SECONDS * len(self.blocks)
        self.compile = "always" if saved > cost or known else "never"
        self.how = f"replayed (about {expected:.0f} s expected; compiling costs about {cost:.0f} s and would save {saved:.0f} s)"

    def program(self, block: Block, piece: Any) -> Program:
        """The recorded linear map from a direction in the block's columns to the change of the gradient in its rows.

        Forward over reverse: ``jvp`` of ``grad`` along the columns. Parameters outside of the block's rows are constants.
        """
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

        with self.objective.quiet(), torch.no_grad():
            return shorten(record(along, [gaussian(parts[name]) for name in block.columns]))

    def add(self, block: Block, program: Program) -> None:
        """Add the program's results for all one-hot directions of the block to the matrix."""
        columns = torch.cat([torch.arange(self.dim)[self.spans[name]] for name in block.columns]).to(self.matrix.device)
        count = self.count(block, program)
        run = self.runner(block, program, count)

        def take(first: int) -> int:
            indices = columns[first : first + count]
            with torch.no_grad():
                changes = run(*self.one_hot(block, first, count))
                # Direction j, a column of H, fills row j of the matrix; `mirror` copies it to column j.
                for name, change in zip(block.rows, changes, strict=True):
                    self.matrix[indices, self.spans[name]] += change[: len(indices)].reshape(len(indices), -1)
            return len(indices)

        for done in self.pool(take, range(0, len(columns), count)):
            self.done += done
            if self.progress is not None:
                self.progress(self.done, self.dim * len(self.pieces))

    def count(self, block: Block, program: Program) -> int:
        """C, the number of directions in one pass: as many as the cache holds of the program's largest intermediate."""
        return min(sum(self.sizes[name] for name in block.columns), max(1, CACHE_BYTES // program.largest()))

    def runner(self, block: Block, program: Program, count: int) -> Callable[..., tuple[Tensor, ...]]:
        """The program over ``count`` directions at once: compiled if that was decided, otherwise replayed under ``vmap``."""
        if self.compile == "always":
            try:
                with torch.no_grad():
                    run = compiled(program, self.one_hot(block, 0, count))
            except (RuntimeError, ImportError, OSError) as problem:
                self.compile = "never"
                self.how = "replayed; compilation failed: " + str(problem).strip().splitlines()[0]
            else:
                self.how = "compiled"
                return run
        return replayed(program)

    def one_hot(self, block: Block, first: int, count: int) -> list[Tensor]:
        """One-hot directions ``first .. first + count`` of the block in its parameters' shapes; zeros beyond the last."""
        sizes = [self.sizes[name] for name in block.columns]
        rows = torch.zeros(count, sum(sizes), dtype=self.matrix.dtype, device=self.matrix.device)
        rows.diagonal(first)[:] = 1
        shapes = dict(zip(self.objective.layout.names, self.objective.layout.shapes, strict=True))
        parts = zip(rows.split(sizes, dim=1), block.columns, strict=True)
        return [part.reshape(count, *shapes[name]) for part, name in parts]

    @property
    def dim(self) -> int:
        """P, the number of chosen parameters."""
        return self.objective.dim

    def finished(self, division: str) -> DenseHessian:
        """The result: the matrix summed over ranks, symmetrised and checked."""
        matrix = ranks.total(self.matrix).mul_(self.objective.weight)
        residual = self.mirror(matrix)
        return _compared(self.objective, matrix, residual, f"{len(self.blocks)} blocks by depth, {division}, {self.how}")

    def mirror(self, matrix: Tensor) -> float:
        """Make the matrix symmetric in place.

        Diagonal blocks were computed on both sides and are averaged with their transpose; the blocks below are copied above.
        Returns ``||D - D^T|| / ||D||`` over the diagonal blocks D.
        """
        asymmetry, size = 0.0, 0.0
        for block in self.blocks:
            inside = torch.cat([torch.arange(self.dim)[self.spans[name]] for name in block.columns]).to(matrix.device)
            diagonal = matrix[inside][:, inside]
            asymmetry += float((diagonal - diagonal.T).double().square().sum())
            size += float(diagonal.double().square().sum())
            matrix[inside.unsqueeze(1), inside] = (diagonal + diagonal.T) / 2
            for name in block.rows[len(block.columns) :]:
                matrix[self.spans[name], inside] = matrix[inside, self.spans[name]].T
        return (asymmetry / size) ** 0.5 if size else 0.0
