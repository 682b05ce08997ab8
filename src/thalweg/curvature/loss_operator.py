"""What the Hessian and the Gauss-Newton matrix of a loss share: products batch by batch, kept or made anew.

Shape letters: P number of chosen parameters, k number of vectors.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg import ranks
from thalweg.curvature import memory
from thalweg.curvature.linear import CannotRecordError, Program, record
from thalweg.curvature.objective import LossFunction, Objective, quiet
from thalweg.curvature.operator import Operator
from thalweg.curvature.shorten import shorten
from thalweg.errors import NotDifferentiableError, require
from thalweg.streams import stream
from thalweg.vectors import Choice

Method = Literal["auto", "recorded", "rebuilt", "differences"]
CACHE_BYTES = 4 << 20
"""Largest intermediate of a pass over several vectors: about what stays in the last-level cache."""
WHILE_RECORDING = 4
"""What is alive while a batch is recorded, over what is kept of it (measured: up to 3, and the allocator keeps some)."""
Parts = Mapping[str, Tensor]


class LossOperator(Operator):
    """A symmetric operator made of a loss, its model and its batches, at a fixed point."""

    def __init__(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        params: Choice,
        dtype: torch.dtype | None,
        method: Method,
        limit: int | None,
    ) -> None:
        require(
            method in ("auto", "recorded", "rebuilt", "differences"), "method", method, "auto, recorded, rebuilt or differences"
        )
        self.objective = Objective(loss_fn, model, batches, params, dtype)
        self.layout, self.dim = self.objective.layout, self.objective.dim
        self.dtype, self.device = self.objective.dtype, self.objective.device
        self.method, self.reason = method, ""
        self.allowed = memory.budget(limit, self.device)
        self.programs: dict[int, Program] = {}
        if method in ("auto", "recorded"):
            self.record_batches()

    @abc.abstractmethod
    def derivative(self, index: int) -> Callable[..., Sequence[Tensor]]:
        """The product for one batch, ``(*parts of a direction) -> parts``, made of forward-mode derivatives."""

    @abc.abstractmethod
    def product(self, index: int, direction: Tensor) -> Tensor:
        """The product ``(P,)`` for one batch by reverse mode alone, nothing kept."""

    def record_batches(self) -> None:
        """Keep a program for as many batches as fit into the memory allowed; say in ``reason`` why not all."""
        held = 0
        for index in range(len(self.objective.batches)):
            largest = max((program.bytes() for program in self.programs.values()), default=self.objective.saved_bytes * 2)
            if held + WHILE_RECORDING * largest > self.allowed:
                self.reason = f"the limit of {memory.words(self.allowed)} holds {index} of {len(self.objective.batches)} batches"
                break
            try:
                self.programs[index] = self.recorded(index)
            except (CannotRecordError, NotImplementedError, RuntimeError) as problem:
                if isinstance(problem, torch.OutOfMemoryError):
                    raise
                self.reason = "cannot be recorded: " + str(problem).strip().splitlines()[0]
                break
            held += self.programs[index].bytes()
        require(not (self.method == "recorded" and self.reason), "method", "recorded", f"'auto' or 'rebuilt' ({self.reason})")

    def recorded(self, index: int) -> Program:
        """The program of one batch."""
        with quiet(self.objective.model), torch.no_grad():
            directions = list(self.layout.split(gaussian(self.objective.point)).values())
            return shorten(record(self.derivative(index), directions))

    def rows(self, vectors: Tensor) -> Tensor:
        products = torch.zeros_like(vectors)
        with torch.no_grad():
            for index in range(len(self.objective.batches)):
                if index in self.programs:
                    products += self.replayed(self.programs[index], vectors)
                else:
                    with quiet(self.objective.model):
                        products += torch.stack([self.product(index, vector) for vector in vectors])
        return ranks.total(products) * self.objective.weight

    def replayed(self, program: Program, vectors: Tensor) -> Tensor:
        """A program on the rows of ``(k, P)``, as many in one pass as the cache holds."""
        step = max(1, CACHE_BYTES // max(1, program.largest()))
        if len(vectors) == 1 or step == 1:
            return torch.stack([self.layout.join(program(*self.layout.split(vector).values())) for vector in vectors])
        one = lambda vector: self.layout.join(program(*self.layout.split(vector).values()))  # noqa: E731
        return torch.cat([torch.vmap(one)(chunk) for chunk in vectors.split(step)])

    def explain(self) -> str:
        """What was decided and why, for a reader."""
        batches = len(self.objective.batches)
        kept = sum(program.bytes() for program in self.programs.values())
        how = {"differences": "central differences of the gradient"}.get(
            self.method, f"{len(self.programs)} of {batches} batches recorded"
        )
        words = [f"{type(self).__name__}: P = {self.dim:,}, {self.dtype} on {self.device}, {how} ({memory.words(kept)} kept)"]
        words += [self.reason] if self.reason else []
        words += [f"kinks left out: {', '.join(self.objective.kinks)}"] if self.objective.kinks else []
        return "; ".join(words)


def gaussian(like: Tensor) -> Tensor:
    """A fixed random direction in the shape, dtype and place of a tensor."""
    drawn = stream(0, "probes").standard_normal(like.numel())
    return torch.from_numpy(drawn).to(like.device, like.dtype).view(like.shape)


def differentiated_twice(value: Callable[[Parts], Tensor], parts: Parts, direction: Parts) -> list[Tensor]:
    """``H v`` of one batch by double backward.

    Raises:
        NotDifferentiableError: an operation has no second derivative.
    """
    leaves = {name: part.detach().clone().requires_grad_() for name, part in parts.items()}
    gradients = torch.autograd.grad(value(leaves), list(leaves.values()), create_graph=True, allow_unused=True)
    pairs = [(g, direction[name]) for g, name in zip(gradients, leaves, strict=True) if g is not None and g.requires_grad]
    try:
        # Not autograd.grad with the leaves as inputs: that leaves out the nodes that would report a missing derivative.
        torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    except RuntimeError as problem:
        if isinstance(problem, torch.OutOfMemoryError):
            raise
        line = str(problem).strip().splitlines()[0]
        raise NotDifferentiableError(f"loss: an operation has no second derivative ({line}); use method='differences'") from problem
    return [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves.values()]
