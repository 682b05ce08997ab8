"""Forward and backward of an update as CUDA graphs: recorded once for each shape and number of passes, then replayed.

T passes over a small block are T times some dozens of kernels of a few microseconds, and a GPU waits for the Python that launches
them. A graph launches all of them at once. Passes of samples that need different numbers are computed for all samples and masked,
as a graph's shapes are fixed.

Shape letters: B batch, L positions, T passes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import BadInputError
from thalweg.models.looped import LoopedTransformer
from thalweg.train.step import Batch, Gains, TaskBatch, asked_loss, next_token_loss

_WARM = 3
"""Updates' worth of forward and backward before one is recorded: libraries choose their kernels and take their memory then."""


@dataclass(frozen=True)
class Recorded:
    """One graph with the tensors that it reads and writes, always the same ones."""

    graph: torch.cuda.CUDAGraph
    given: tuple[Tensor, ...]
    """Tokens, or inputs, targets and passes of each sample."""
    gains: Tensor | None
    loss: Tensor
    gradients: tuple[Tensor | None, ...]


class Graphs:
    """Loss and gradients of a model on a GPU by graphs, one for each shape of batch and number of passes."""

    def __init__(self, model: LoopedTransformer) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        self.recorded: dict[tuple, Recorded] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.seconds = 0.0
        """Spent on recording."""

    def backward(self, batch: Batch, loops: int, gains: Gains) -> Tensor:
        """The mean loss of a batch; its gradients are in the parameters, in place of any that were there.

        Raises:
            BadInputError: the model does something that cannot be recorded.
        """
        given, passes = given_of(batch, loops, gains)
        key = (tuple((part.shape, part.dtype) for part in given), passes, gains is None)
        found = self.recorded.get(key)
        if found is None:
            began = time.perf_counter()
            with torch.cuda.device(self.device):  # streams, pool and capture are those of the current device
                found = self.recorded[key] = self.record(given, passes, gains)
            self.seconds += time.perf_counter() - began
        for mine, new in zip(found.given, given, strict=True):
            mine.copy_(new, non_blocking=True)
        if found.gains is not None:
            found.gains.copy_(as_tensor(gains, passes, found.gains))
        found.graph.replay()
        for parameter, gradient in zip(self.parameters, found.gradients, strict=True):
            parameter.grad = gradient
        return found.loss

    def record(self, given: tuple[Tensor, ...], passes: int, gains: Gains) -> Recorded:
        """A new graph; weights and optimizer are not touched."""
        mine = tuple(part.to(self.device).clone() for part in given)
        factors = None if gains is None else as_tensor(gains, passes, self.parameters[0])
        self.model.zero_grad()  # no gradients: the next backward makes new ones, rather than adding to those that are there
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                loss_of(self.model, mine, passes, factors).backward()
                self.model.zero_grad()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                loss = loss_of(self.model, mine, passes, factors)
                loss.backward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            said = str(error.__context__ or error).splitlines()[0]  # the end of the capture fails too, and says less
            advice = "expected a model whose updates can be recorded as a CUDA graph; set training.graphs to false"
            raise BadInputError(f"training.graphs: given true ({said}), {advice}") from error
        torch.cuda.synchronize()
        return Recorded(graph, mine, factors, loss.detach(), tuple(parameter.grad for parameter in self.parameters))


def given_of(batch: Batch, loops: int, gains: Gains = None) -> tuple[tuple[Tensor, ...], int]:
    """The tensors of a batch that change from update to update, and T: without the last passes where their gains are 0."""
    begun = loops if gains is None else max(index + 1 for index, gain in enumerate(gains) if index == 0 or gain != 0)
    if isinstance(batch, TaskBatch):
        capped = batch.capped(min(loops, begun))
        return (batch.inputs, batch.targets, capped), int(capped.max())
    return (batch,), begun


def as_tensor(gains: Gains, passes: int, like: Tensor) -> Tensor:
    """Gains of the T passes, ``(T,)``, of the type and on the device of another tensor."""
    assert gains is not None
    return torch.as_tensor(gains, dtype=like.dtype)[:passes].to(like.device)


def loss_of(model: LoopedTransformer, given: tuple[Tensor, ...], passes: int, gains: Tensor | None) -> Tensor:
    """As `thalweg.train.step.mean_loss`, with masks where samples have passes of their own."""
    if len(given) == 1:
        return next_token_loss(model, given[0], passes, gains)
    inputs, targets, loops = given
    return asked_loss(model.forward_masked(inputs, loops, passes, gains), targets)
