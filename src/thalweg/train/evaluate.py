"""Accuracy and loss per stratum.

Shape letters: N sequences, L tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.data.batches import EvaluationSet
from thalweg.data.task_data import TaskSet
from thalweg.records.run import Score, Scores
from thalweg.train.answers import score_answers
from thalweg.train.step import Gains

ROWS = 512
"""Sequences scored at once; bounds the memory, not the result."""


@torch.inference_mode()
def sequence_scores(model: nn.Module, tokens: Tensor, scored_from: int, loops: int, gains: Gains) -> tuple[Tensor, Tensor]:
    """Mean top-1 hits and mean loss in nats over the scored positions of each sequence, each ``(N,)`` in float64."""
    hits, losses = [], []
    for rows in tokens.split(ROWS):
        logits = model(rows[:, :-1], loops=loops, gains=gains)[:, scored_from - 1 :]
        targets = rows[:, scored_from:]
        hits.append((logits.argmax(-1) == targets).double().mean(1))
        losses.append(functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").double().mean(1))
    return torch.cat(hits), torch.cat(losses)


def evaluate(
    model: nn.Module, sets: Sequence[EvaluationSet | TaskSet], device: torch.device, loops: int, gains: Gains = None
) -> Scores:
    """Scores of every stratum of every set, with the passes and gains now in use; of tasks see `score_answers`."""
    scores: Scores = {}
    for one in sets:
        if isinstance(one, TaskSet):
            scores[one.name] = score_answers(model, one, device, loops, gains)
            continue
        tokens = torch.from_numpy(one.tokens).to(device)
        hits, losses = (x.cpu() for x in sequence_scores(model, tokens, one.scored_from, loops, gains))
        members = {name: torch.from_numpy(mask) for name, mask in one.strata.items()}
        scores[one.name] = {name: Score(float(hits[mask].mean()), float(losses[mask].mean())) for name, mask in members.items()}
    return scores
