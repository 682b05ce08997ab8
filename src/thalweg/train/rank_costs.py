"""What a run costs on several ranks: operations, memory, bytes over the network, and time of an update.

With W ranks, P parameters of 4 bytes, and a batch shared evenly, every rank makes 1 / W of the operations and sends

    data parallel (one all-reduce of the gradients):                   (W - 1) / W * 4 * 2 P bytes,
    FSDP2 (all-gathers of weights, one reduce-scatter of gradients):   (W - 1) / W * 4 (2 P + (2 T - 1) P_looped + P_once) bytes.

That is what a ring, or halving and doubling, sends; an all-reduce is a reduce-scatter and an all-gather. With FSDP2 a looped block
is gathered in each of T passes forward and backward, a block of prelude or coda once each, and the rest of the model once in all
(`thalweg.train.sharding`). A model of one block is gathered once, as in data parallelism. An update takes

    operations / (W rate) + bytes / bandwidth + calls * (W - 1) * latency,

as nothing is sent while a rank computes. The model leaves out that ranks wait for the slowest one, and the optimizer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from thalweg.errors import require
from thalweg.models.config import ModelConfig
from thalweg.models.cost import cost
from thalweg.screen import Screen, say_json
from thalweg.serialization import to_dict
from thalweg.train.assemble import block_weights, copies_of_weights, fewest_weights, needs
from thalweg.train.config import RunConfig
from thalweg.train.state import Run

_UPDATES = 8
"""Number of timed updates; the median counts."""
_BYTES = 4
"""Bytes of a number."""


@dataclass(frozen=True)
class RankCosts:
    """Costs of one update in one stage, for one kind of parallelism."""

    parallel: Literal["ddp", "fsdp"]
    """Data parallelism, or fully sharded data parallelism."""
    ranks: int
    loops: int
    """Number of passes of the stage."""
    flops: float
    """Operations of one update, of all ranks."""
    memory: int
    """Bytes of weights, gradient, optimizer and activations of a rank, at least."""
    sent: int
    """Bytes that a rank sends in an update."""
    compute_seconds: float
    network_seconds: float

    @property
    def seconds(self) -> float:
        """Time of an update."""
        return self.compute_seconds + self.network_seconds

    @property
    def efficiency(self) -> float:
        """Share of the time in which a rank computes; the strong scaling efficiency where one rank computes at the same rate."""
        return self.compute_seconds / self.seconds


def rank_costs(
    config: RunConfig, ranks: int, rate: float, bandwidth: float, latency: float, parallel: Literal["ddp", "fsdp"] = "ddp"
) -> list[RankCosts]:
    """Estimate the costs of one update in every stage of a run; nothing is computed or allocated.

    Args:
        config: config of the run.
        ranks: number of ranks W.
        rate: counted operations per second of one rank.
        bandwidth: bytes per second that a rank sends.
        latency: seconds of a message.
        parallel: "ddp" or "fsdp".
    Raises:
        BadInputError: there are more ranks than samples in a batch.
    """
    enough = f"at least one sample for each of the {ranks} ranks"
    require(config.training.batch >= ranks, "training.batch", config.training.batch, enough)
    weights, need = fewest_weights(config.model), needs(config)
    model = _BYTES * copies_of_weights(config.optimizer) * weights
    gathered = gathered_weights(config.model)
    if parallel == "fsdp":
        model //= ranks
    costs = []
    for loops in config.shift.stages:
        flops = cost(config.model, config.training.batch, config.data.length - 1, loops).training_step
        memory = model + need.batch * loops // max(config.shift.stages) // ranks
        if parallel == "fsdp" and ranks > 1:  # on top of the own parts: gathered weights, and gradients that are not reduced yet
            memory += _BYTES * (gathered + (weights if loops > 1 else gathered))
        calls, entries = collectives(config.model, loops, parallel)
        sent = (ranks - 1) * _BYTES * entries // ranks
        network = sent / bandwidth + calls * (ranks - 1) * latency
        costs.append(RankCosts(parallel, ranks, loops, flops, memory, sent, flops / ranks / rate, network))
    return costs


def gathered_weights(model: ModelConfig) -> int:
    """Weights of a sharded model that a rank holds at a time: two blocks and what is in no block; all those of one block."""
    blocks = model.layers + model.prelude + model.coda
    return fewest_weights(model) - max(0, blocks - 2) * block_weights(model)


def collectives(model: ModelConfig, loops: int, parallel: Literal["ddp", "fsdp"]) -> tuple[int, int]:
    """Number of gathers and reductions of an update, and how many numbers all of them together send around the ring."""
    once = model.prelude + model.coda
    if parallel == "ddp" or model.layers + once == 1:
        return 2, 2 * fewest_weights(model)
    further = (2 * loops - 1) * model.layers + once  # gathers of a block beyond its first
    return 2 * (1 + model.layers + once) + further, 2 * fewest_weights(model) + further * block_weights(model)


def measured_rate(config: RunConfig, folder: Path) -> float:
    """Counted operations per second of updates in the last stage, on this machine with one process.

    Args:
        config: config of the run.
        folder: any path; nothing is written.
    """
    run = Run(config, folder)
    loops, spent = config.shift.stages[-1], []
    batch = run.batch(0)
    for _ in range(_UPDATES + 1):
        started = time.perf_counter()
        run.train_on(batch, loops, None)  # reads the loss, so that it waits for the device
        spent.append(time.perf_counter() - started)
    return run.flops(batch, loops) / sorted(spent[1:])[_UPDATES // 2]


def print_plan(config: RunConfig, ranks: int, rate: float, bandwidth: float, latency: float, as_json: bool) -> None:
    """Print the costs of every stage for both kinds of parallelism, as a table or as JSON; a rate of 0 is measured first."""
    measured = not rate
    rate = rate or measured_rate(config, Path())
    kinds: tuple[Literal["ddp", "fsdp"], ...] = ("ddp", "fsdp")
    rows = [costs for kind in kinds for costs in rank_costs(config, ranks, rate, bandwidth, latency, kind)]
    if as_json:
        listed = [to_dict(row) | {"seconds": row.seconds, "efficiency": row.efficiency} for row in rows]
        say_json({"rate": rate, "measured": measured, "costs": listed})
        return
    table = Table()
    headings = (
        "parallel",
        "passes",
        "operations",
        "memory of a rank",
        "sent by a rank",
        "computes (ms)",
        "sends (ms)",
        "efficiency",
    )
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        times = (f"{1000 * row.compute_seconds:.3g}", f"{1000 * row.network_seconds:.3g}", f"{100 * row.efficiency:.0f} %")
        table.add_row(row.parallel, str(row.loops), f"{row.flops:.3g}", _megabytes(row.memory), _megabytes(row.sent), *times)
    console = Screen(wide=160)
    how = "measured here" if measured else "as given"
    console.say(
        f"one update of {config.training.batch:,} samples on {ranks:,} ranks, "
        f"at least {fewest_weights(config.model):,} parameters; {rate:.3g} operations/s a rank ({how}), "
        f"{bandwidth:.3g} bytes/s and {latency:.2g} s a message (as given)"
    )
    console.print(table)


def _megabytes(count: int) -> str:
    """Bytes as text in MB."""
    return f"{count / 1e6:,.1f} MB"
