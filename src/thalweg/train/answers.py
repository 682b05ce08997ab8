"""Scores on algorithmic tasks: exact match after T(n) passes, after other numbers of passes, and at the most confident pass.

Shape letters: B samples, L positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg import ranks
from thalweg.data.task_data import BEYOND, IGNORED, TaskData, TaskSet
from thalweg.records.run import Score, TaskLength
from thalweg.train.step import Gains, TaskBatch, on_device

ROWS = 512
"""Number of samples in one forward call; bounds the memory, does not change the result."""


def exact(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the most likely token is the target at every position that has one (exact match), ``(B,)``.

    Args:
        logits: ``(B, L, V)``.
        targets: ``(B, L)``, `IGNORED` where there is no target.
    """
    return ((logits.argmax(-1) == targets) | (targets == IGNORED)).all(1)


def answer_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the positions that have a target, ``(B,)`` in float64; arguments as in `exact`."""
    losses = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED).double()
    return losses.sum(1) / (targets != IGNORED).sum(1)


@torch.inference_mode()
def score_answers(
    model: nn.Module, samples: TaskSet, device: torch.device, cap: int, gains: Gains, rank: int = 0, world: int = 1
) -> dict[str, Score]:
    """Exact match and loss over all samples ("all") and over those of each length; ranks share the forward calls out.

    Args:
        model: called as ``model(inputs, loops=, gains=)``; on ``device``.
        samples: the samples, in groups of one length.
        device: device for the samples.
        cap: largest number of passes; shorter lengths take the T(n) that they need.
        gains: gain of each of ``cap`` passes; None for gains of 1.
        rank, world: number of this process and of all processes that share the work.
    """
    hits: dict[str, Tensor] = {}
    losses: dict[str, Tensor] = {}
    calls = 0
    for group in samples.groups:
        batch = on_device(group, device)
        assert isinstance(batch, TaskBatch)
        loops = min(cap, int(batch.loops[0]))
        group_hits, group_losses = [], []
        for inputs, targets in zip(batch.inputs.split(ROWS), batch.targets.split(ROWS), strict=True):
            calls += 1
            if calls % world != rank:  # of another rank
                group_hits.append(torch.zeros(len(inputs), dtype=torch.float64, device=device))
                group_losses.append(group_hits[-1])
                continue
            logits = model(inputs, loops=loops, gains=None if gains is None else gains[:loops])
            group_hits.append(exact(logits, targets).double())
            group_losses.append(answer_losses(logits, targets))
        name = str(int(group.lengths[0]))
        own = torch.stack((torch.cat(group_hits), torch.cat(group_losses))).cpu()
        hits[name], losses[name] = ranks.total(own) if world > 1 else own
    hits["all"], losses["all"] = (torch.cat(list(parts.values())) for parts in (hits, losses))
    return {name: Score(float(hits[name].mean()), float(losses[name].mean())) for name in hits}


@torch.inference_mode()
def score_length(
    model: nn.Module, data: TaskData, device: torch.device, length: int, count: int, gains: Sequence[float]
) -> TaskLength:
    """Score samples of one length after every number of passes, and by halting rules that do not know T(n).

    The *doubt* of a pass is the cross-entropy of its logits against the model's own most likely answer. Halting takes the pass
    with the smallest doubt, of each sample or of the mean over the batch, or the sharpest dip of the mean doubt. The candidates go
    up to `BEYOND` times the passes that the longest tested length needs, the same at every length, as otherwise their number
    would leak T(n).

    Args:
        model: a `thalweg.LoopedTransformer` on ``device``.
        data: the task.
        device: device for the samples.
        length: length n of the samples.
        count: number of samples.
        gains: gain of each pass of the stage in which the run ended. If the run ended with fewer passes than the longest training
            length needs, no further passes are tried; otherwise passes beyond these take the last one's gain.
    Source:
        Halting at the smallest doubt: arXiv 2409.15647, section 5. Halting at the sharpest dip: ours, as a model that was trained
        at T(n) only can be even more confident far away from it.
    """
    batch = on_device(data.at(length, count), device)
    assert isinstance(batch, TaskBatch)
    needed, uncapped = int(batch.loops[0]), len(gains) >= data.deepest
    trained = needed if uncapped else min(len(gains), needed)
    horizon = max(data.config.horizon, math.ceil(BEYOND * needed)) if uncapped else len(gains)
    factors = [*gains, *[gains[-1]] * (horizon - len(gains))][:horizon]
    hits, doubts = (torch.zeros(horizon, count, dtype=torch.float64) for _ in range(2))
    for first in range(0, count, ROWS):
        inputs, targets = batch.inputs[first : first + ROWS], batch.targets[first : first + ROWS]
        for index, logits in enumerate(model.unrolled(inputs, horizon, factors)):  # type: ignore[operator]
            logits = logits.double()  # the doubt of a confident answer is far below what float32 resolves
            own_answer = torch.where(targets == IGNORED, IGNORED, logits.argmax(-1))
            hits[index, first : first + ROWS] = exact(logits, targets).double().cpu()
            doubts[index, first : first + ROWS] = answer_losses(logits, own_answer).cpu()
    most_confident = doubts.argmin(0)
    return TaskLength(
        length=length,
        loops=trained,
        samples=count,
        accuracy=float(hits[trained - 1].mean()),
        confident=float(hits.gather(0, most_confident[None]).mean()),
        confident_loops=float(most_confident.double().mean()) + 1,
        confident_batch=float(hits[int(doubts.mean(1).argmin())].mean()),
        by_loops=tuple(hits.mean(1).tolist()),
        dip=float(hits[sharpest_dip(doubts.mean(1))].mean()),
    )


def sharpest_dip(doubts: Tensor) -> int:
    """Index of the doubt that lies furthest, as a ratio, below the geometric mean of its two neighbours.

    Of fewer than three numbers it is the index of the smallest.

    Example:
        >>> sharpest_dip(torch.tensor([1e-9, 1e-3, 1e-1, 1e-7, 1e-1]))
        3
    """
    logs = doubts.clamp_min(torch.finfo(doubts.dtype).tiny).log()
    if len(logs) < 3:
        return int(logs.argmin())
    return int(((logs[:-2] + logs[2:]) / 2 - logs[1:-1]).argmax()) + 1
