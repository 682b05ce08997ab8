"""CUDA graphs of forward and backward: recorded once for each shape of batch and number of passes, then replayed.

T passes over a small block launch some dozens of kernels each, of a few microseconds, and the GPU waits for the Python code that
launches them. A graph launches all of them at once. As its shapes are fixed, a batch whose samples need different numbers of passes
is computed with all passes for all samples, and masked.

Shape letters: B batch, L positions, T passes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import BadInputError
from thalweg.models.looped import LoopedTransformer
from thalweg.train.step import Batch, Gains, TaskBatch, next_token_loss, target_loss

_WARM = 3
"""Number of forward and backward passes before the recording, in which libraries choose kernels and allocate memory."""


@dataclass(frozen=True)
class Recorded:
    """A graph and the tensors that it reads and writes in every replay."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    """Tokens, or inputs, targets and passes of each sample; see `graph_inputs`."""
    gains: Tensor | None
    loss: Tensor
    gradients: tuple[Tensor | None, ...]


class Graphs:
    """Loss and gradients of a model by CUDA graphs, one for each shape of batch and number of passes.

    Args:
        model: the model, on a GPU.
        forward: computes its logits in another precision, an `InBFloat16`; None for the model itself.
    """

    def __init__(self, model: LoopedTransformer, forward: Any = None) -> None:
        self.model, self.forward = model, model if forward is None else forward
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        self.recorded: dict[tuple, Recorded] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.seconds = 0.0
        """Time spent on recording."""

    def backward(self, batch: Batch, loops: int, gains: Gains) -> Tensor:
        """Compute the mean loss of a batch and replace the gradients in the parameters by its gradients.

        Args:
            batch: tokens, or samples of a task.
            loops: number of passes; of a task, the largest number.
            gains: gain of each pass; None for gains of 1.
        Raises:
            BadInputError: the model does something that cannot be recorded as a CUDA graph.
        """
        inputs, passes = graph_inputs(batch, loops, gains)
        key = (tuple((part.shape, part.dtype) for part in inputs), passes, gains is None)
        recorded = self.recorded.get(key)
        if recorded is None:
            started = time.perf_counter()
            with torch.cuda.device(self.device):  # streams, pool and capture belong to the current device
                recorded = self.recorded[key] = self._record(inputs, passes, gains)
            self.seconds += time.perf_counter() - started
        # Copy this batch into the tensors that the graph reads, and replay it.
        for fixed, new in zip(recorded.inputs, inputs, strict=True):
            fixed.copy_(new, non_blocking=True)
        if recorded.gains is not None:
            recorded.gains.copy_(as_tensor(gains, passes, recorded.gains))
        recorded.graph.replay()
        for parameter, gradient in zip(self.parameters, recorded.gradients, strict=True):
            parameter.grad = gradient
        return recorded.loss

    def _record(self, inputs: tuple[Tensor, ...], passes: int, gains: Gains) -> Recorded:
        """Record a new graph; weights and optimizer are not changed."""
        fixed = tuple(part.to(self.device).clone() for part in inputs)
        factors = None if gains is None else as_tensor(gains, passes, self.parameters[0])
        self.model.zero_grad()  # without gradients, the backward pass creates new ones rather than adding to old ones
        # Warm up on a side stream, as PyTorch requires before a capture.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                graph_loss(self.forward, fixed, passes, factors).backward()
                self.model.zero_grad()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                loss = graph_loss(self.forward, fixed, passes, factors)
                loss.backward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error.__context__ or error).splitlines()[0]  # ending the capture fails too, with a vaguer message
            advice = "expected a model whose updates can be recorded as a CUDA graph; set training.graphs to false"
            raise BadInputError(f"training.graphs: given true ({reason}), {advice}") from error
        torch.cuda.synchronize()
        return Recorded(graph, fixed, factors, loss.detach(), tuple(parameter.grad for parameter in self.parameters))


def graph_inputs(batch: Batch, loops: int, gains: Gains = None) -> tuple[tuple[Tensor, ...], int]:
    """The tensors of a batch that a graph reads, and its number of passes T.

    T leaves out the last passes if their gains are 0, as these change nothing.

    Returns:
        ``(tokens,)`` or ``(inputs, targets, passes of each sample)``; and T.
    """
    begun = loops if gains is None else max(index + 1 for index, gain in enumerate(gains) if index == 0 or gain != 0)
    if isinstance(batch, TaskBatch):
        capped = batch.capped(min(loops, begun))
        return (batch.inputs, batch.targets, capped), int(capped.max())
    return (batch,), begun


def as_tensor(gains: Gains, passes: int, like: Tensor) -> Tensor:
    """The gains of the first T passes as a tensor ``(T,)`` with the type and device of another tensor."""
    assert gains is not None
    return torch.as_tensor(gains, dtype=like.dtype)[:passes].to(like.device)


def graph_loss(model: Any, tensors: tuple[Tensor, ...], passes: int, gains: Tensor | None) -> Tensor:
    """The loss of `thalweg.train.step.mean_loss`, with fixed shapes: samples are masked after their own number of passes.

    Args:
        model: a `thalweg.models.looped.LoopedTransformer`, or an `InBFloat16`.
        tensors: from `graph_inputs`.
        passes: number of passes T.
        gains: gain of each pass ``(T,)``; None for gains of 1.
    """
    if len(tensors) == 1:
        return next_token_loss(model, tensors[0], passes, gains)
    inputs, targets, loops = tensors
    return target_loss(model.forward_masked(inputs, loops, passes, gains), targets)
