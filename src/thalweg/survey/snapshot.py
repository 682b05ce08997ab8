"""A model as it was at one snapshot, and the names of its matrices.

Shape letters: N sequences, L tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from thalweg.landscape.gauge import Pair
from thalweg.train.checkpoint import Checkpoint, load_weights, read_checkpoint
from thalweg.train.config import RunConfig
from thalweg.train.step import next_token_loss


@dataclass(frozen=True)
class Passes:
    """What a loss depends on beside weights and batch."""

    loops: int
    gains: tuple[float, ...] | None = None
    """None where every pass counts in full."""

    def loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        """Mean next-token loss of ``(N, L)``."""
        return next_token_loss(model, rows, self.loops, self.gains)


@dataclass(frozen=True)
class Snapshot:
    """Weights and passes of one moment, and the batch that every moment is judged on."""

    checkpoint: Checkpoint
    step: int
    """Updates made."""
    passes: Passes
    """For the next update."""
    model: nn.Module
    batch: Tensor
    """Training sequences ``(N, L)``, the same at every place."""

    @property
    def loss(self) -> Callable[[nn.Module, Tensor], Tensor]:
        """``(model, rows)`` -> mean loss with the passes of that moment."""
        return self.passes.loss


def place_of(path: Path, config: RunConfig, model: nn.Module, batch: Tensor) -> Snapshot:
    """Read a snapshot into a model of the run; the model is the caller's, and changes with the next place."""
    found = read_checkpoint(path)
    shift = config.shift.schedule()
    shift.load_state_dict(found.facts["shift"])
    load_weights(found, model)
    gains = None if all(gain == 1 for gain in shift.depth_gains) else shift.depth_gains
    return Snapshot(found, int(found.facts["step"]), Passes(shift.depth, gains), model, batch)


def gauge_pairs(names: Sequence[str]) -> tuple[Pair, ...]:
    """Key and query weights of every block, with their biases if any."""
    found = []
    for name in names:
        if name.endswith("attention.key.weight"):
            stem = name.removesuffix("key.weight")
            key_bias, query_bias = (bias if bias in names else None for bias in (f"{stem}key.bias", f"{stem}query.bias"))
            found.append(Pair(name, f"{stem}query.weight", key_bias, query_bias))
    return tuple(found)


def matrix_groups(names: Sequence[str]) -> dict[str, list[str]]:
    """The matrices that theorem 3 speaks of, over all blocks: query, key, value, head, embedding, and what else there is."""
    wanted = {
        "query": "attention.query.",
        "key": "attention.key.",
        "value": "attention.value.",
        "output": "attention.output.",
        "up": ".up.",
        "down": ".down.",
        "head": "head.",
        "embedding": "embedding.",
        "positions": "positions.",
    }
    groups = {group: [name for name in names if part in f".{name}"] for group, part in wanted.items()}
    return {group: members for group, members in groups.items() if members}
