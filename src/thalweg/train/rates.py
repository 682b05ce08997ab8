"""Learning-rate schedules: the rate of an update as a function of its number."""

from __future__ import annotations

import math

from thalweg.train.config import OptimizerConfig


def rate_at(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of update ``step`` (from 0) of ``steps``.

    The rate is ``rate * min(1, (step + 1) / warmup) * shape(step)``, where the shape is 1 for "constant",
    ``(1 + cos(pi step / steps)) / 2`` for "cosine", and ``min(1, (steps - step) / (decay_share * steps))`` for "wsd".

    Example:
        >>> config = OptimizerConfig(rate=1.0, schedule="wsd", warmup=2, decay_share=0.5)
        >>> [rate_at(config, step, 8) for step in range(8)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * step / steps))
    elif config.schedule == "wsd":
        shape = min(1.0, (steps - step) / (config.decay_share * steps))
    else:
        shape = 1.0
    return config.rate * warm * shape
