"""The time of a training step with T loops grows no faster than its counted operations.

For T = 2, 4, 8: step time at T over step time at 1, divided by the ratio of the counted FLOPs (`thalweg.models.cost`). All steps
are `thalweg.train.step.train_step` on the same model, batch and optimizer, in turn in one process. Embedding, loss, clip and
optimizer are part of the time but not of the count, which makes the quotient smaller. Norms, softmax and GELU of every pass are
part of the time but not of the count either.

Shapes: width 128, one layer, 4 heads, 12 x 64 tokens of 256, with the GPT block and with the attention-only block.
"""

from __future__ import annotations

import timing  # before torch
import torch

from thalweg.models.config import ModelConfig
from thalweg.models.cost import cost
from thalweg.models.looped import LoopedTransformer
from thalweg.train.config import OptimizerConfig
from thalweg.train.step import make_optimizer, train_step

BATCH, LENGTH, RATE = 12, 64, 1e-3
SHAPES = {
    "GPT block": ModelConfig(vocabulary=256, length=LENGTH, width=128, layers=1, heads=4, block="gpt"),
    "attention only": ModelConfig(vocabulary=256, length=LENGTH, width=128, layers=1, heads=4, block="attention"),
}
LOOPS = (1, 2, 4, 8)


def main() -> None:
    options = timing.arguments(__doc__, rounds=40).parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    rows, quotients = [], []
    for name, config in SHAPES.items():
        model = LoopedTransformer(config)
        optimizer = make_optimizer(OptimizerConfig(rate=RATE), model)
        tokens = torch.randint(config.vocabulary, (BATCH, LENGTH + 1))

        def step(loops: int, model=model, optimizer=optimizer, tokens=tokens) -> object:
            return train_step(model, optimizer, tokens, loops=loops, gains=None, rate=RATE, clip=1.0)

        times = timing.interleaved({str(loops): lambda n=loops, s=step: s(n) for loops in LOOPS}, options.rounds)
        single = cost(config, BATCH, LENGTH).training_step
        for loops in LOOPS:
            work = cost(config, BATCH, LENGTH, loops).training_step / single
            time = timing.ratio(times, str(loops), "1")
            rows.append([name, str(loops), timing.spread(times[str(loops)]), f"{time:.2f}", f"{work:.2f}", f"{time / work:.3f}"])
            if loops > 1:
                quotients.append(time / work)
    timing.print_table(["block", "T", "ms a step [lowest, highest]", "time / T=1", "FLOPs / T=1", "quotient"], rows)
    print(f"\nlargest quotient of time and FLOPs: {max(quotients):.2f} (claim: at most 1.05)")


if __name__ == "__main__":
    main()
