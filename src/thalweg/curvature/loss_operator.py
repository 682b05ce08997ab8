"""Products ``A v`` batch by batch, the part that the Hessian and the Gauss-Newton matrix of a loss share.

For as many batches as fit into the memory, the linear map ``v -> A_b v`` is recorded once as a program and replayed at every
product. The other batches are differentiated anew each time.

Shape letters: P number of chosen parameters, k number of vectors.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from thalweg import ranks
from thalweg.curvature import cuda_replay, memory
from thalweg.curvature.check import CheckReport
from thalweg.curvature.containers import tensors_in
from thalweg.curvature.context import Mode
from thalweg.curvature.linear import CannotRecordError, Program, is_same, record
from thalweg.curvature.microbatches import microbatches, pieces
from thalweg.curvature.objective import LossFunction, Objective
from thalweg.curvature.operator import Operator
from thalweg.curvature.shorten import shorten
from thalweg.errors import NonFiniteError, NotSymmetricError, WrongProductError, require
from thalweg.streams import stream
from thalweg.vectors import Choice, Layout

Method = Literal["auto", "recorded", "rebuilt", "differences"]
"""How products are computed: recorded where possible, recorded or an error, by reverse mode, or by differences of the gradient."""
CACHE_BYTES = 4 << 20
"""Largest intermediate of a pass over several vectors: about what stays in the last-level cache."""
_TWICE = 5
"""Memory of a product by double backward over what autograd keeps for a gradient (measured: 4.3 to 5.6 on a small GPT)."""
_MOST_PIECES = 64
"""Most pieces that a batch is divided into; more would cost more time than their memory is worth."""
_WHILE_RECORDING = 4
"""Memory used while a batch is recorded, over what is kept of it (measured: up to 3, and the allocator keeps some)."""
_ROOM = 1.25
"""Memory that the allocator of a GPU takes over what it hands out, as fragments."""
Parts = Mapping[str, Tensor]
"""Name of a parameter -> its tensor."""


class LossOperator(Operator):
    """A symmetric operator made of a loss, its model and its batches, at a fixed point.

    Attributes:
        objective: the mean loss, its point and its gradient.
        programs: batch number -> recorded product of that batch.
        reason: why not all batches are recorded; empty where they are.
        allowed: bytes that recorded programs may hold.
        pieces: for each batch what is differentiated twice at a time: itself, or its parts where memory is short.
        vmapped: whether replays work under ``vmap``; None until that was tried.
        graphs: batch number -> its recorded product as a CUDA graph, None where it has none; see `thalweg.curvature.cuda_replay`.
        uses: batch number -> products made without a graph so far.
    """

    layout: Layout
    """Names and shapes of the parameters in the flat vector."""

    def __init__(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        params: Choice,
        dtype: torch.dtype | None,
        method: Method,
        limit: int | None,
        mode: Mode,
        seed: int | None,
    ) -> None:
        require(method in get_args(Method), "method", method, "auto, recorded, rebuilt or differences")
        self.objective = Objective(loss_fn, model, batches, params, dtype, mode, seed)
        self.layout, self.dim = self.objective.layout, self.objective.dim
        self.dtype, self.device = self.objective.dtype, self.objective.device
        self.method, self.reason = method, ""
        self.allowed = memory.budget(limit, self.device)
        self.programs: dict[int, Program] = {}
        self.vmapped: bool | None = None
        self.graphs: dict[int, Callable[[Tensor], Tensor] | None] = {}
        self.uses: dict[int, int] = {}
        self.pool: Any = None
        if method in ("auto", "recorded"):
            with ranks.together():
                self.record_batches()
        self.pieces = [[batch] for batch in self.objective.batches]
        if method != "differences":
            with ranks.together():
                self.cut_batches()

    @abc.abstractmethod
    def derivative(self, index: int) -> Callable[..., Sequence[Tensor]]:
        """The product for one batch as a function ``(*parts of a direction) -> parts``, made of forward-mode derivatives."""

    @abc.abstractmethod
    def product(self, batch: Any, direction: Tensor) -> Tensor:
        """The product ``(P,)`` for one batch, or for a piece of one, by reverse mode alone; nothing is kept."""

    def cut_batches(self) -> None:
        """Divide batches for the products that are not recorded, where differentiating a whole one twice would not fit.

        ``pieces`` then holds how; a loss that does not add up over samples is left whole, and ``reason`` says so.
        """
        batches, needed = self.objective.batches, _TWICE * self.objective.saved_bytes
        if len(self.programs) == len(batches) or needed <= self.allowed:
            return
        size = max((len(tensor) for tensor in tensors_in(batches[0]) if tensor.dim()), default=1)
        samples = max(1, math.ceil(size / _MOST_PIECES), int(size * self.allowed / needed))
        _, why = microbatches(self.objective, samples, products=False)
        cut = why.endswith(f"of at most {samples} samples")
        self.pieces = [pieces(batch, samples) for batch in batches] if cut else [[batch] for batch in batches]
        advice = "a bare mean, return (total, count)" if self.objective.is_bare_mean else why
        short = f"a product of a batch needs about {memory.format_bytes(needed)}"
        short += f", so it is made of {why}" if cut else f" and cannot be divided: {advice}"
        self.reason = f"{self.reason}; {short}" if self.reason else short

    def record_batches(self) -> None:
        """Record a program for as many batches as fit into the memory allowed; ``reason`` says why not for all."""
        held, factor = 0, float(_WHILE_RECORDING)
        for index in range(len(self.objective.batches)):
            # The memory of the next batch is estimated by the largest so far, or by what autograd kept in the first evaluation.
            largest = max((program.bytes() for program in self.programs.values()), default=self.objective.saved_bytes * 2)
            if held + factor * largest > self.allowed:
                self.reason = (
                    f"{index} of {len(self.objective.batches)} batches fit into the limit of {memory.format_bytes(self.allowed)}"
                )
                break
            before = memory.in_use(self.device)
            try:
                self.programs[index] = self.recorded(index)
            except Exception as problem:  # an error of the loss itself is raised again when the batch is differentiated twice
                expected = isinstance(problem, CannotRecordError | NotImplementedError | RuntimeError)
                if isinstance(problem, torch.OutOfMemoryError) or (self.method == "recorded" and not expected):
                    raise
                lines = str(problem).strip().splitlines() or [type(problem).__name__]
                self.reason = "cannot be recorded: " + lines[0]
                break
            kept = self.programs[index].bytes()
            held += kept
            if before is not None and index == 0:  # on a GPU the allocator knows how much recording took
                factor = min(factor, max(1.0, _ROOM * (memory.most_used(self.device) - before) / max(1, kept)))
        require(not (self.method == "recorded" and self.reason), "method", "recorded", f"'auto' or 'rebuilt' ({self.reason})")

    def made_of(self) -> list[str]:
        batches = len(self.objective.batches)
        how = "differences" if self.method == "differences" else f"{len(self.programs)} recorded"
        loss = f"loss {self.objective.value:.4g}"
        return [f"of {type(self.objective.model).__name__}", loss, f"{batches} {'batch' if batches == 1 else 'batches'}, {how}"]

    def recorded(self, index: int) -> Program:
        """The shortened program of one batch's product."""
        with self.objective.quiet(), torch.no_grad():
            directions = list(self.layout.split(gaussian(self.objective.point)).values())
            return shorten(record(self.derivative(index), directions))

    def settle(self, check: Callable[[], CheckReport]) -> CheckReport:
        """Run a check and return its report; where recorded products fail it, products by reverse mode are checked instead.

        Raises:
            NotDeterministicError, NotSymmetricError, WrongProductError: the check failed, and no other method passed it.
        """
        try:
            return check()
        except (NonFiniteError, NotSymmetricError, WrongProductError) as problem:
            if self.method != "auto" or not any(ranks.gathered(bool(self.programs))):
                raise
            self.programs, self.graphs, self.uses = {}, {}, {}
            self.reason = f"recorded products were not used, as their check failed ({problem})"
            return check()

    def rows(self, vectors: Tensor) -> Tensor:
        return ranks.total_of(lambda: self.own_rows(vectors), vectors) * self.objective.weight

    def own_rows(self, vectors: Tensor) -> Tensor:
        """Products of this rank's batches with the rows of ``(k, P)``, as rows; not yet divided by the counts of all batches."""
        products = torch.zeros_like(vectors)
        for index in range(len(self.objective.batches)):
            products += self.batch_rows(index, vectors)
        return products

    def batch_rows(self, index: int, vectors: Tensor) -> Tensor:
        """Products of one batch of this rank with the rows of ``(k, P)``; the mean's is their sum times the objective's weight."""
        with torch.no_grad():
            if index in self.programs:
                return self.replayed(index, vectors)
            products = torch.zeros_like(vectors)
            with self.objective.quiet():
                for piece in self.pieces[index]:
                    products += torch.stack([self.product(piece, vector) for vector in vectors])
            return products

    def replayed(self, index: int, vectors: Tensor) -> Tensor:
        """Apply the program of a batch to the rows of ``(k, P)``, as many in one pass as the cache holds.

        The first pass over several is compared with one of them alone: an operation may fail, or be wrong, under ``vmap``.
        """
        program = self.programs[index]
        apply = lambda vector: self.layout.join(program(*self.layout.split(vector).values()))  # noqa: E731
        step = max(1, CACHE_BYTES // max(1, program.largest()))
        if len(vectors) == 1 or step == 1 or self.vmapped is False:
            run = (self.graph(index, apply) if vectors.is_cuda else None) or apply
            return torch.stack([run(vector) for vector in vectors])
        if self.vmapped is None:
            self.vmapped = _same_under_vmap(apply, vectors[:step])
            return self.replayed(index, vectors)
        return torch.cat([torch.vmap(apply)(chunk) for chunk in vectors.split(step)])

    def graph(self, index: int, apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor] | None:
        """The CUDA graph of a batch's product, captured once it has been used a few times; None where it has none."""
        self.uses[index] = self.uses.get(index, 0) + 1
        if index not in self.graphs and self.uses[index] > cuda_replay.USES:
            captured = None
            if cuda_replay.can_be_captured(self.programs[index]):
                self.pool = self.pool or torch.cuda.graph_pool_handle()
                captured = cuda_replay.as_graph(apply, gaussian(self.objective.point), self.pool)
            self.graphs[index] = captured
        return self.graphs.get(index)

    def explain(self) -> str:
        """How products are computed and why, as a sentence for a reader."""
        batches = len(self.objective.batches)
        kept = sum(program.bytes() for program in self.programs.values())
        how = {"differences": "central differences of the gradient"}.get(
            self.method, f"{len(self.programs)} of {batches} batches recorded"
        )
        clauses = [
            f"{type(self).__name__}: P = {self.dim:,}, {self.dtype} on {self.device}, {how} ({memory.format_bytes(kept)} kept)"
        ]
        clauses += [_describe_mode(self.objective.mode, self.objective.seed)]
        clauses += [self.reason] if self.reason else []
        seen = self.objective.observed
        clauses += [f"casts of the loss to {', '.join(seen.casts)} left out"] if seen.casts else []
        clauses += [f"cross-entropy of {seen.classes:,} classes in pieces"] if seen.classes else []
        clauses += [f"kinks left out: {', '.join(seen.kinks)}"] if seen.kinks else []
        return "; ".join(clauses)


def _describe_mode(mode: Mode, seed: int | None) -> str:
    """A phrase that says in which mode the model is evaluated and whether a seed fixes random parts."""
    descriptions = {"eval": "evaluation mode (dropout off, running statistics)", "train": "training mode (statistics of the batch)"}
    return descriptions.get(mode, "modules in the modes they were in") + (
        "" if seed is None else f", random parts fixed by seed {seed}"
    )


def gaussian(like: Tensor) -> Tensor:
    """A fixed Gaussian direction in the shape and dtype and on the device of a tensor."""
    drawn = stream(0, "probes").standard_normal(like.numel())
    return torch.from_numpy(drawn).to(like.device, like.dtype).view(like.shape)


def _same_under_vmap(apply: Callable[[Tensor], Tensor], vectors: Tensor) -> bool:
    """Whether a replay over several vectors at once gives the same product as for the last of them alone."""
    try:
        batched = torch.vmap(apply)(vectors)[-1]
    except Exception:  # an operation without a batching rule
        return False
    return is_same(batched, apply(vectors[-1]))
