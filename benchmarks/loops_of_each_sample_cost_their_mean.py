"""Individual numbers of loops for each sample cost as much as their mean for all samples; drawing the samples costs little.

One update of a GPT-2-style block (width 64, two layers, input injection) on 64 samples of parity: with T(n) passes for each sample,
with the mean of T(n), rounded up, for all, and with the largest T(n) for all. Then the time to draw a batch, for every task.

Shapes: 64 x at most 21 tokens of 3, T(n) from 1 to 20.
"""

from __future__ import annotations

import math

import timing  # before torch
import torch

from thalweg.data.task_data import TaskConfig, TaskData
from thalweg.data.tasks import TASKS
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.train.config import OptimizerConfig
from thalweg.train.step import TaskBatch, make_optimizer, on_device, train_step

BATCH = 64


def main() -> None:
    options = timing.arguments(__doc__, rounds=30).parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    config = ModelConfig(vocabulary=3, width=64, layers=2, heads=4, block="gpt", positions="none", injection=True)
    model = LoopedTransformer(config, torch.Generator().manual_seed(0))
    optimizer = make_optimizer(OptimizerConfig(), model)
    batch = on_device(TaskData(TaskConfig("parity"), 0).batch(0, BATCH), torch.device("cpu"))
    assert isinstance(batch, TaskBatch)
    mean, most = batch.loops.double().mean().item(), int(batch.loops.max())
    depths = {"T(n) each": batch.loops, "the mean": math.ceil(mean), "the largest": most}

    def update(loops: torch.Tensor | int) -> None:
        passes = loops if isinstance(loops, torch.Tensor) else torch.full((BATCH,), loops)
        rows = TaskBatch(batch.inputs, batch.targets, passes)
        train_step(model, optimizer, rows, loops=most, gains=None, rate=1e-3, clip=1.0)

    times = timing.interleaved({name: lambda loops=loops: update(loops) for name, loops in depths.items()}, options.rounds)
    passes = {"T(n) each": mean, "the mean": math.ceil(mean), "the largest": most}
    ratios = {name: f"{timing.ratio(times, name, 'the mean'):.2f}" for name in depths}
    rows = [[name, f"{passes[name]:.2f}", timing.spread(times[name]), ratios[name]] for name in depths]
    timing.print_table(["passes", "mean number", "ms an update [lowest, highest]", "of the mean's"], rows)
    cost = timing.ratio(times, "T(n) each", "the mean") * math.ceil(mean) / mean
    print(f"\nT(n) each / the mean, for as many passes: {cost:.2f} (claim: at most 1.1)\n")
    data = {name: TaskData(TaskConfig(name, samples=1), 0) for name in TASKS}
    drawn = timing.interleaved({name: lambda task=task: task.batch(1, BATCH) for name, task in data.items()}, options.rounds)
    both = drawn | {"update": times["T(n) each"]}
    rows = [[name, timing.spread(drawn[name]), f"{timing.ratio(both, name, 'update'):.1%}"] for name in TASKS]
    timing.print_table(["task", "ms to draw 64 samples", "of parity's update"], rows)
    worst = max(timing.ratio(both, name, "update") for name in TASKS)
    print(f"\ndrawing / update, the worst: {worst:.1%} (claim: under 5 %)")


if __name__ == "__main__":
    main()
