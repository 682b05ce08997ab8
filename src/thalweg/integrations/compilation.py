"""``torch.compile`` of looped models: graphs built before training begins, and their number.

A compiled looped model has one graph for each number of passes, as the gains are read from a tensor: a whole ramp needs no new
graph, with activation checkpointing or without. Every pass is computed there, also one with gain 0.

Layers that are compiled one by one (``layer.compile()``) have one graph in all: for every layer, pass and stage. It is built
sooner, embeddings and head are outside of it, and passes with gain 0 are skipped. `build_graphs` is not needed then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.integrations.looped_layers import LoopedLayers
from thalweg.shift.schedule import Shift

LossOf = Callable[[Any, Any], Tensor]
"""(model, batch) -> scalar loss."""


def graph_count() -> int:
    """Number of graphs that this process has compiled so far, for all models."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def depths_of(shift: Shift) -> list[int]:
    """Every number of passes that a schedule may ask for, rising.

    Example:
        >>> from thalweg.shift.schedule import Shift
        >>> depths_of(Shift(stages=(1, 4), spread=0.5))
        [1, 2, 3, 4, 5, 6]
    """
    ranges = [shift.range_of(stage) for stage in shift.stages]
    drawn = {passes for low, high in ranges for passes in range(low, high + 1)}
    return sorted(drawn | set(shift.stages))


def hugging_face_loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """The loss that a Hugging Face model returns for a batch with labels."""
    return model(**batch).loss


def build_graphs(model: Any, looped: LoopedLayers, shift: Shift, batch: Any, loss_of: LossOf = hugging_face_loss) -> dict[int, int]:
    """Compile the forward and backward graphs of every number of passes of a schedule, so that no update has to wait.

    Weights, gradients and random numbers stay as they are. PyTorch compiles one function for at most ``recompile_limit`` cases,
    8 by default, and then falls back to plain execution; the limit is raised if the schedule needs more.

    Args:
        model: result of ``torch.compile(model)``, in the mode in which it is trained.
        looped: its looped layers.
        shift: the schedule.
        batch: of the shapes that training has.
        loss_of: computes the loss.
    Returns:
        Number of passes -> number of graphs that were compiled for it.
    """
    config: Any = torch._dynamo.config
    passes_before, built = (looped.loops, looped.gains), {}
    parameters = list(model.parameters())
    gradients = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
    depths = depths_of(shift)
    config.recompile_limit = max(config.recompile_limit, len(depths) + 8)
    with torch.random.fork_rng():
        for depth in reversed(depths):  # the deepest first: a shallow graph may be compiled again after a deeper one
            before = graph_count()
            looped.set(depth)
            loss_of(model, batch).backward()
            built[depth] = graph_count() - before
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    looped.set(*passes_before)
    return dict(sorted(built.items()))
