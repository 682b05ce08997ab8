"""A ramp that brings in six passes one after the other costs two thirds of a ramp that brings them in together.

Passes whose gain is still 0 are skipped, so that on average 4 of 6 passes are computed. Measured is one update in each tenth of a
ramp from 1 to 6 passes, with the same model, batch and optimizer; both orders take turns in one process.

Shapes: attention-only block, width 64, batch 128 x 11 tokens, vocabulary 16.
"""

from __future__ import annotations

import timing  # before torch
import torch

from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.shift.onset import Ramp
from thalweg.train.config import OptimizerConfig
from thalweg.train.step import make_optimizer, train_step

LOOPS, STEPS, RATE = 6, 1000, 1e-3
ORDERS = ("together", "in turn")


def main() -> None:
    options = timing.arguments(__doc__, rounds=20).parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    model = LoopedTransformer(ModelConfig(vocabulary=16, length=11, width=64))
    optimizer = make_optimizer(OptimizerConfig(rate=RATE), model)
    tokens = torch.randint(16, (128, 12))

    def ramp(order: str) -> None:
        for age in range(STEPS // 20, STEPS, STEPS // 10):
            gains = (1.0, *Ramp(STEPS, order=order).gains(age, LOOPS - 1))  # type: ignore[arg-type]
            train_step(model, optimizer, tokens, loops=LOOPS, gains=gains, rate=RATE, clip=1.0)

    times = timing.interleaved({order: lambda order=order: ramp(order) for order in ORDERS}, options.rounds)
    rows = [[order, timing.spread(times[order]), f"{timing.ratio(times, order, 'together'):.2f}"] for order in ORDERS]
    timing.print_table(["order", "ms for ten updates [lowest, highest]", "of together"], rows)
    print(f"\nin turn / together: {timing.ratio(times, 'in turn', 'together'):.2f} (claim: about 0.67)")


if __name__ == "__main__":
    main()
