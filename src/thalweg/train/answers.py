"""Exact match on algorithmic tasks: with as many loops as the length asks for, with more, and where the model is surest.

Shape letters: B samples, L positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.data.task_data import BEYOND, IGNORED, TaskData, TaskSet
from thalweg.records.run import Score, TaskLength
from thalweg.train.step import Gains, TaskBatch, on_device

ROWS = 512
"""Samples scored at once; bounds the memory, not the result."""


def exact(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether every position that is asked is right, ``(B,)``."""
    return ((logits.argmax(-1) == targets) | (targets == IGNORED)).all(1)


def answer_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of the positions that are asked, ``(B,)`` in float64."""
    losses = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED).double()
    return losses.sum(1) / (targets != IGNORED).sum(1)


@torch.inference_mode()
def score_answers(model: nn.Module, one: TaskSet, device: torch.device, cap: int, gains: Gains) -> dict[str, Score]:
    """Exact match and loss of all samples ("all") and of each length, with ``cap`` loops at most."""
    hits: dict[str, Tensor] = {}
    losses: dict[str, Tensor] = {}
    for group in one.groups:
        batch = on_device(group, device)
        assert isinstance(batch, TaskBatch)
        loops = min(cap, int(batch.loops[0]))
        found = [
            (exact(logits, targets).double(), answer_losses(logits, targets))
            for inputs, targets in zip(batch.inputs.split(ROWS), batch.targets.split(ROWS), strict=True)
            for logits in (model(inputs, loops=loops, gains=None if gains is None else gains[:loops]),)
        ]
        name = str(int(group.lengths[0]))
        hits[name], losses[name] = (torch.cat([pair[place] for pair in found]).cpu() for place in range(2))
    hits["all"], losses["all"] = (torch.cat(list(parts.values())) for parts in (hits, losses))
    return {name: Score(float(hits[name].mean()), float(losses[name].mean())) for name in hits}


@torch.inference_mode()
def score_length(
    model: nn.Module, data: TaskData, device: torch.device, length: int, count: int, gains: Sequence[float]
) -> TaskLength:
    """Samples of one length after every number of loops, up to `BEYOND` times what the longest tested length asks for.

    So halting looks over the same passes at every length, and is not told T(n).

    Args:
        gains: one for each pass of the stage in which the run ended. A model that ended with fewer than the longest training length
            asks for has no more than those; else passes beyond them have the last one's gain.

    Source:
        Halting where the cross-entropy against the model's own answer, its doubt, is smallest: arXiv 2409.15647, section 5. At its
        sharpest dip: ours; a model that was trained at T(n) alone can be surer still far away from it.
    """
    batch = on_device(data.at(length, count), device)
    assert isinstance(batch, TaskBatch)
    asked, uncapped = int(batch.loops[0]), len(gains) >= data.deepest
    own = asked if uncapped else min(len(gains), asked)
    horizon = max(data.config.horizon, math.ceil(BEYOND * asked)) if uncapped else len(gains)
    factors = [*gains, *[gains[-1]] * (horizon - len(gains))][:horizon]
    hits, doubts = (torch.zeros(horizon, count, dtype=torch.float64) for _ in range(2))
    for first in range(0, count, ROWS):
        inputs, targets = batch.inputs[first : first + ROWS], batch.targets[first : first + ROWS]
        for index, logits in enumerate(model.unrolled(inputs, horizon, factors)):  # type: ignore[operator]
            logits = logits.double()  # a sure answer's doubt is far below what float32 resolves
            own_answer = torch.where(targets == IGNORED, IGNORED, logits.argmax(-1))
            hits[index, first : first + ROWS] = exact(logits, targets).double().cpu()
            doubts[index, first : first + ROWS] = answer_losses(logits, own_answer).cpu()
    surest = doubts.argmin(0)
    return TaskLength(
        length=length,
        loops=own,
        samples=count,
        accuracy=float(hits[own - 1].mean()),
        confident=float(hits.gather(0, surest[None]).mean()),
        confident_loops=float(surest.double().mean()) + 1,
        confident_batch=float(hits[int(doubts.mean(1).argmin())].mean()),
        by_loops=tuple(hits.mean(1).tolist()),
        dip=float(hits[sharpest_dip(doubts.mean(1))].mean()),
    )


def sharpest_dip(doubts: Tensor) -> int:
    """Index of the number that lies furthest below the geometric mean of its neighbours; of the smallest where none has two.

    Example:
        >>> sharpest_dip(torch.tensor([1e-9, 1e-3, 1e-1, 1e-7, 1e-1]))
        3
    """
    logs = doubts.clamp_min(torch.finfo(doubts.dtype).tiny).log()
    if len(logs) < 3:
        return int(logs.argmin())
    return int(((logs[:-2] + logs[2:]) / 2 - logs[1:-1]).argmax()) + 1
