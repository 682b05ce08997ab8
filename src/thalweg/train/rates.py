"""Learning rate of every update, as a pure function of its number."""

from __future__ import annotations

import math

from thalweg.train.config import OptimizerConfig


def rate_at(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of update ``step`` (from 0) of ``steps``.

    Warm-up multiplies whichever schedule by ``(step + 1) / warmup`` until it reaches 1.

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
