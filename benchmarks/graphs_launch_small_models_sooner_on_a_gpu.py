"""On a GPU, updates of small models take a third of the time when forward and backward are replayed as CUDA graphs.

One update (forward, loss, backward, clip, AdamW) of a GPT-2-style block of two layers with input injection, on two tasks: next
tokens with T passes for all samples, and the copy task with T(n) passes for each sample, which a graph computes with a mask. At
width 256 the arithmetic in float32 takes nearly as long as launching the kernels.

Shapes: 64 x 63 tokens of 16; copy: 64 x at most 40 tokens of 3, T(n) from 1 to 20.
"""

from __future__ import annotations

import timing  # before torch
import torch

from thalweg.data.task_data import TaskConfig, TaskData
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.train.config import OptimizerConfig
from thalweg.train.graphs import Graphs
from thalweg.train.step import Batch, TaskBatch, make_optimizer, on_device, train_step

GPU, ROWS = torch.device("cuda"), 64


def pair(width: int, batch: Batch, loops: int) -> dict:
    """Build the same update twice, launched kernel by kernel and as a graph, each with its own model."""
    vocabulary = 3 if isinstance(batch, TaskBatch) else 16
    config = ModelConfig(vocabulary=vocabulary, width=width, layers=2, heads=4, block="gpt", positions="none", injection=True)
    updates = {}
    for name in ("launched", "graph"):
        model = LoopedTransformer(config, torch.Generator().manual_seed(0)).to(GPU)
        optimizer = make_optimizer(OptimizerConfig(), model)
        backward = Graphs(model).backward if name == "graph" else None

        def update(model=model, optimizer=optimizer, backward=backward) -> None:
            train_step(model, optimizer, batch, loops=loops, gains=None, rate=1e-4, clip=1.0, backward=backward)
            torch.cuda.synchronize()

        updates[name] = update
    return updates


def main() -> None:
    options = timing.arguments(__doc__, rounds=15).parse_args()
    if not torch.cuda.is_available():
        print("This machine has no GPU, so nothing was measured.")
        return
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}\n")
    tokens = torch.randint(16, (ROWS, 64), generator=torch.Generator().manual_seed(0)).to(GPU)
    copy = on_device(TaskData(TaskConfig("copy", samples=1), 0).batch(0, ROWS), GPU)
    cases = [("next tokens", width, tokens, loops) for width in (64, 256) for loops in (1, 6, 20)]
    cases += [("copy, T(n) each", width, copy, 20) for width in (64, 256)]
    rows: list[list[str]] = []
    ratios: dict[int, list[float]] = {}
    for kind, width, batch, loops in cases:
        times = timing.interleaved(pair(width, batch, loops), options.rounds)
        faster = timing.ratio(times, "launched", "graph")
        ratios.setdefault(width, []).append(faster)
        spreads = [timing.spread(times[name]) for name in ("launched", "graph")]
        rows.append([kind, str(width), str(loops), *spreads, f"{faster:.1f}"])
    headings = ["update", "width", "passes", "launched, ms [lowest, highest]", "graph, ms", "times faster"]
    timing.print_table(headings, rows)
    summary = "; ".join(f"width {width}: {min(values):.1f} to {max(values):.1f}" for width, values in ratios.items())
    print(f"\nlaunched / graph: {summary} (claim: at least 3 at width 64)")


if __name__ == "__main__":
    main()
