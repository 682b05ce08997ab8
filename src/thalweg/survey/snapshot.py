"""The state of a model at one snapshot of a run, and groups of its parameters by name.

Shape letters: N sequences, L tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from thalweg import ranks
from thalweg.curvature.objective import LossFunction
from thalweg.errors import plural
from thalweg.landscape.gauge import Pair
from thalweg.train.checkpoint import Checkpoint, load_weights, read_checkpoint
from thalweg.train.config import RunConfig
from thalweg.train.step import next_token_loss


@dataclass(frozen=True)
class Passes:
    """The passes of a forward call, on which the loss depends besides weights and batch."""

    loops: int
    """Number of passes T."""
    gains: tuple[float, ...] | None = None
    """Gain of each pass, T numbers; None if all are 1."""

    @property
    def words(self) -> str:
        """The passes as text, with their gains where these are not all 1."""
        gains = "" if self.gains is None else f" with gains {', '.join(f'{gain:.2g}' for gain in self.gains)}"
        return f"{plural(self.loops, 'pass', 'passes')}{gains}"

    def loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        """Mean next-token loss in nats of sequences ``(N, L)`` with these passes."""
        return next_token_loss(model, rows, self.loops, self.gains)

    def total_loss(self, model: nn.Module, rows: Tensor) -> tuple[Tensor, int]:
        """The loss times the number of sequences, and that number, so that a mean over parts of a batch is that of the batch."""
        return self.loss(model, rows) * len(rows), len(rows)


@dataclass(frozen=True)
class Snapshot:
    """Weights and passes at one step of a run, and the fixed batch on which its loss is studied."""

    checkpoint: Checkpoint
    step: int
    """Number of updates made."""
    passes: Passes
    """Passes of the next update."""
    model: nn.Module
    """The model with the weights of this step."""
    batch: Tensor
    """Training sequences ``(N, L)``, the same for every snapshot."""

    @property
    def loss(self) -> Callable[[nn.Module, Tensor], Tensor]:
        """The loss function ``(model, rows) -> mean loss`` with the passes of this step."""
        return self.passes.loss

    @property
    def shared_out(self) -> tuple[LossFunction, Tensor]:
        """Loss function and this rank's part of the batch; its mean over all ranks is `loss` of the whole batch.

        Rank r of W has the sequences r, r + W, r + 2 W, ...; in one process it is the whole batch.
        """
        if ranks.world() == 1:
            return self.loss, self.batch
        return self.passes.total_loss, self.batch[ranks.rank() :: ranks.world()]


def read_snapshot(path: Path, config: RunConfig, model: nn.Module, batch: Tensor) -> Snapshot:
    """Read a snapshot and put its weights into a model.

    The model is shared: reading the next snapshot into it makes this one invalid.

    Args:
        path: file of the snapshot or checkpoint.
        config: config of the run.
        model: a model of the run, which receives the weights.
        batch: the fixed sequences ``(N, L)``.
    Raises:
        DamagedFileError: the file cannot be read or does not fit the model.
    """
    checkpoint = read_checkpoint(path)
    shift = config.shift.schedule()
    shift.load_state_dict(checkpoint.facts["shift"])
    load_weights(checkpoint, model)
    gains = None if all(gain == 1 for gain in shift.depth_gains) else shift.depth_gains
    passes = Passes(shift.depth, gains)
    return Snapshot(checkpoint, int(checkpoint.facts["step"]), passes, model, batch)


def gauge_pairs(names: Sequence[str]) -> tuple[Pair, ...]:
    """The names of the key and query weights of every block, with those of their biases if there are any.

    Only their product matters to the model, so that a common factor can move from one to the other; see
    `thalweg.landscape.gauge`.
    """
    pairs = []
    for name in names:
        if name.endswith("attention.key.weight"):
            stem = name.removesuffix("key.weight")
            key_bias, query_bias = (bias if bias in names else None for bias in (f"{stem}key.bias", f"{stem}query.bias"))
            pairs.append(Pair(name, f"{stem}query.weight", key_bias, query_bias))
    return tuple(pairs)


def matrix_groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Group parameter names by their role over all blocks: those of theorem 3 (query, key, value, head, embedding) and the rest.

    Args:
        names: parameter names of a `thalweg.LoopedTransformer`.
    Returns:
        Group -> names of its parameters; groups without parameters are left out.
    """
    roles = {
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
    groups = {group: [name for name in names if part in f".{name}"] for group, part in roles.items()}
    return {group: members for group, members in groups.items() if members}
