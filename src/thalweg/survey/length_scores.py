"""The end of a run on sequences longer than those it learned from.

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
"""Called with (lengths done, lengths in all)."""
VALUES = 1 << 24
"""Numbers in the largest tensor of one pass (64 MB in float32), about; bounds the memory, not the result."""


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
    """Accuracy and loss by stratum at multiples of the training length, beside the best possible.

    A length that cannot be scored (learned positions end before it, the held-out text is shorter, the loss is not finite) has a
    record with ``error`` and without scores; what is known of its sequences is in the record all the same.

    Args:
        model: called as ``model(tokens, loops=, gains=)``; stands on ``device``.
        config: of the run.
        data: of the run; gives the sequences.
        loops: passes T.
        step: updates made.
        multiples: of the training length, each at least 1 and there once.
        count: sequences of each length, at most.
        gains: factor of each pass.
        device: where the tokens go; None takes the model's.
        progress: see `_Progress`.
    Returns:
        One record a multiple, in their order.
    Raises:
        BadInputError: a multiple below 1 or given twice.
    """
    require(all(m >= 1 for m in multiples), "multiples", list(multiples), "whole numbers of at least 1")
    require(len(set(multiples)) == len(multiples), "multiples", list(multiples), "each multiple once")
    device = device or next((p.device for p in model.parameters()), torch.device("cpu"))
    records: list[LengthRecord] = []
    for multiple in multiples:
        record, found = _sequences_at(data, config.model, multiple, count)
        if found is not None:
            scores = _stratum_scores(model, config.model, found, loops, gains, device)
            record = replace(record, **kept(scores))
        records.append(replace(record, step=step, loops=loops))
        if progress is not None:
            progress(len(records), len(multiples))
    return records


def _sequences_at(data: Data, model: ModelConfig, multiple: int, count: int) -> tuple[LengthRecord, EvaluationSet | None]:
    """What is known of one length before the model is asked, and its sequences; None, with the reason, where it cannot be."""
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
    model: nn.Module, config: ModelConfig, found: EvaluationSet, loops: int, gains: Gains, device: torch.device
) -> dict[str, Score]:
    """The score of every stratum of one set."""
    tokens = torch.from_numpy(found.tokens)
    parts = [
        torch.stack(sequence_scores(model, rows.to(device), found.scored_from, loops, gains)).cpu()
        for rows in tokens.split(rows_at_once(config, tokens.shape[1]))
    ]
    by_sequence: Tensor = torch.cat(parts, dim=1)  # (2, N): hits and losses
    means = {name: by_sequence[:, torch.from_numpy(mask)].mean(1).tolist() for name, mask in found.strata.items()}
    return {name: Score(*mean) for name, mean in means.items()}


def kept(scores: dict[str, Score]) -> dict[str, dict[str, Score] | str]:
    """The scores, or an error in their place when a loss is not a number that a record can hold."""
    bad = [name for name, score in scores.items() if not math.isfinite(score.loss)]
    return {"error": f"the loss is not finite ({', '.join(bad)})"} if bad else {"scores": scores}


def rows_at_once(config: ModelConfig, length: int) -> int:
    """Sequences of one pass, so that its largest tensor (logits, hidden layer or attention) has about `VALUES` numbers.

    Example:
        >>> [rows_at_once(ModelConfig(vocabulary=256, length=64), length) for length in (12, 512, 4096)]
        [512, 64, 1]
    """
    widest = max(config.vocabulary, config.width * config.expansion, config.heads * length)
    return max(1, min(ROWS, VALUES // (length * widest)))
