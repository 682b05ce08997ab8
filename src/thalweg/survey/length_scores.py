"""Scores of a model on sequences longer than those it was trained on.

Shape letters: N sequences, L tokens of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from thalweg.data.batches import Data, EvaluationSet
from thalweg.errors import InsufficientDataError, require
from thalweg.models.config import ModelConfig
from thalweg.records.landscape import LengthRecord
from thalweg.records.run import Score
from thalweg.train.config import RunConfig
from thalweg.train.evaluate import ROWS, sequence_scores
from thalweg.train.step import Gains

_Progress = Callable[[int, int], None]
"""Called with (number of lengths done, number of all lengths)."""
VALUES = 1 << 24
"""Approximate number of entries in the largest tensor of a forward call (64 MB in float32); does not change the result."""


def score_lengths(
    model: nn.Module,
    config: RunConfig,
    data: Data,
    loops: int,
    step: int,
    multiples: Sequence[int],
    count: int = 1000,
    gains: Gains = None,
    device: torch.device | None = None,
    progress: _Progress | None = None,
) -> list[LengthRecord]:
    """Accuracy and loss by stratum at multiples of the training length, with the best possible scores.

    A length that cannot be scored (longer than the learned positions or than the held-out text, or with a loss that is not finite)
    has a record with ``error`` instead of scores; the facts about its sequences are recorded all the same.

    Args:
        model: called as ``model(tokens, loops=, gains=)``; on ``device``.
        config: config of the run.
        data: data of the run, which provides the sequences.
        loops: number of passes T.
        step: number of updates made, for the records.
        multiples: multiples of the training length, at least 1 and all different.
        count: largest number of sequences of each length.
        gains: gain of each pass, ``(T,)``; None for gains of 1.
        device: device for the tokens; None takes that of the model.
        progress: see `_Progress`.
    Returns:
        One record for each multiple, in their order.
    Raises:
        BadInputError: a multiple is below 1 or given twice.
    """
    require(all(m >= 1 for m in multiples), "multiples", list(multiples), "whole numbers of at least 1")
    require(len(set(multiples)) == len(multiples), "multiples", list(multiples), "each multiple once")
    device = device or next((p.device for p in model.parameters()), torch.device("cpu"))
    records: list[LengthRecord] = []
    for multiple in multiples:
        record, sequences = _sequences_at(data, config.model, multiple, count)
        if sequences is not None:
            scores = _stratum_scores(model, config.model, sequences, loops, gains, device)
            not_finite = [name for name, score in scores.items() if not math.isfinite(score.loss)]
            if not_finite:  # no record can hold NaN or infinity
                record = replace(record, error=f"the loss is not finite ({', '.join(not_finite)})")
            else:
                record = replace(record, scores=scores)
        records.append(replace(record, step=step, loops=loops))
        if progress is not None:
            progress(len(records), len(multiples))
    return records


def _sequences_at(data: Data, model: ModelConfig, multiple: int, count: int) -> tuple[LengthRecord, EvaluationSet | None]:
    """The facts about one length, and its sequences; None if the model cannot be scored on them, with the reason in ``error``."""
    record = LengthRecord(0, 1, multiple, data.length_at(multiple), 0, {}, {}, None, None, {})
    try:
        longer = data.longer(multiple, count)
    except InsufficientDataError as error:
        return replace(record, error=str(error)), None
    record = replace(
        record,
        sequences=len(longer.set.tokens),
        ceilings={name: Score(best.accuracy, best.loss) for name, best in longer.set.ceilings.items()},
        bits_mean=longer.bits_mean,
        bits_deviation=longer.bits_deviation,
        shares=longer.shares,
    )
    if model.positions == "learned" and record.length - 1 > model.length:  # the last token is a target only
        return replace(record, error=f'learned positions end at {model.length} tokens; use model.positions="rotary"'), None
    return record, longer.set


def _stratum_scores(
    model: nn.Module, config: ModelConfig, sequences: EvaluationSet, loops: int, gains: Gains, device: torch.device
) -> dict[str, Score]:
    """The scores of every stratum of one set of sequences."""
    tokens = torch.from_numpy(sequences.tokens)
    parts = [
        torch.stack(sequence_scores(model, rows.to(device), sequences.scored_from, loops, gains)).cpu()
        for rows in tokens.split(rows_at_once(config, tokens.shape[1]))
    ]
    by_sequence: Tensor = torch.cat(parts, dim=1)  # (2, N): hits and losses
    means = {name: by_sequence[:, torch.from_numpy(mask)].mean(1).tolist() for name, mask in sequences.strata.items()}
    return {name: Score(*mean) for name, mean in means.items()}


def rows_at_once(config: ModelConfig, length: int) -> int:
    """Number of sequences per forward call such that its largest tensor (logits, MLP or attention) has about `VALUES` entries.

    Example:
        >>> [rows_at_once(ModelConfig(vocabulary=256, length=64), length) for length in (12, 512, 4096)]
        [512, 64, 1]
    """
    widest = max(config.vocabulary, config.width * config.expansion, config.heads * length)
    return max(1, min(ROWS, VALUES // (length * widest)))
