"""Evaluation: accuracy and loss on fixed sets of sequences, by stratum.

Shape letters: N sequences, L tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg import ranks
from thalweg.data.batches import EvaluationSet
from thalweg.data.task_data import TaskSet
from thalweg.records.run import Score, Scores
from thalweg.train.answers import score_answers
from thalweg.train.step import Gains

ROWS = 512
"""Number of sequences in one forward call; bounds the memory, does not change the result."""


@torch.inference_mode()
def sequence_scores(
    model: nn.Module, tokens: Tensor, scored_from: int, loops: int, gains: Gains, rank: int = 0, world: int = 1
) -> tuple[Tensor, Tensor]:
    """Top-1 accuracy and mean loss of each sequence over its scored positions.

    Args:
        model: called as ``model(tokens, loops=, gains=)``.
        tokens: sequences ``(N, L)`` on the model's device.
        scored_from: first position that counts as a target, at least 1.
        loops: number of passes.
        gains: gain of each pass; None for gains of 1.
        rank, world: make only every ``world``-th forward call, from number ``rank`` on.
    Returns:
        Accuracy (share) and loss (nats per token), each ``(N,)`` in float64; 0 for the sequences of the other ranks.
    """
    hits, losses = [], []
    for number, rows in enumerate(tokens.split(ROWS)):
        if number % world != rank:
            hits.append(rows.new_zeros(len(rows), dtype=torch.float64))
            losses.append(hits[-1])
            continue
        logits = model(rows[:, :-1], loops=loops, gains=gains)[:, scored_from - 1 :]
        targets = rows[:, scored_from:]
        hits.append((logits.argmax(-1) == targets).double().mean(1))
        losses.append(functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").double().mean(1))
    return torch.cat(hits), torch.cat(losses)


def evaluate(
    model: nn.Module,
    sets: Sequence[EvaluationSet | TaskSet],
    device: torch.device,
    loops: int,
    gains: Gains = None,
    rank: int = 0,
    world: int = 1,
) -> Scores:
    """Score a model on every stratum of every set.

    Several ranks share the forward calls out. Each call is the one that a single process would make, and its results are handed to
    all ranks unchanged, so that the scores do not depend on the number of ranks.

    Args:
        model: called as ``model(tokens, loops=, gains=)``; on ``device``.
        sets: sets of sequences, or of samples of an algorithmic task (see `score_answers`).
        device: device for the tokens.
        loops: number of passes; of a task, the largest number.
        gains: gain of each pass; None for gains of 1.
        rank, world: number of this process and of all processes that share the work.
    Returns:
        Name of the set -> name of the stratum -> mean accuracy and loss.
    """
    scores: Scores = {}
    for scored in sets:
        if isinstance(scored, TaskSet):
            scores[scored.name] = score_answers(model, scored, device, loops, gains, rank, world)
            continue
        tokens = torch.from_numpy(scored.tokens).to(device)
        own = torch.stack(sequence_scores(model, tokens, scored.scored_from, loops, gains, rank, world)).cpu()
        hits, losses = ranks.total(own) if world > 1 else own
        members = {name: torch.from_numpy(mask) for name, mask in scored.strata.items()}
        scores[scored.name] = {name: Score(float(hits[mask].mean()), float(losses[mask].mean())) for name, mask in members.items()}
    return scores
