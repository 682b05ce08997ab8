"""Dense Hessians of forty checkpoints of a run share one compilation, and are computed faster than by replaying.

Model: that of the paper, linear attention without norm, three loops, 4,480 parameters, 128 x 12 tokens of 16, float32. Each round
moves the weights at random, as another checkpoint would. ``matrices=40`` announces the number of matrices, so that `dense_hessian`
decides by itself whether to compile (with --quick it always compiles). The time of forty checkpoints is projected from medians: 40
times the replayed time, against the first compiled call plus 39 times the later ones. After the first call nothing may compile.
"""

from __future__ import annotations

import statistics
import time

import rivals
import timing  # before torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.curvature.compiled import COMPILED
from thalweg.curvature.dense import DenseHessian, dense_hessian
from thalweg.models.config import ModelConfig
from thalweg.models.cost import parameters
from thalweg.models.looped import LoopedTransformer

CHECKPOINTS, LOOPS = 40, 3
CONFIG = ModelConfig(vocabulary=16, length=12, width=32, norm="none", attention="linear")
SMALL = ModelConfig(vocabulary=8, length=6, width=8, norm="none", attention="linear")


def loss_fn(model: nn.Module, tokens: Tensor) -> tuple[Tensor, int]:
    logits = model(tokens[:, :-1], loops=LOOPS)
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"), tokens[:, 1:].numel()


def timed(model: nn.Module, tokens: Tensor, compile: str) -> tuple[float, DenseHessian]:
    """Compute a dense Hessian; return the seconds and the matrix."""
    started = time.perf_counter()
    hessian = dense_hessian(loss_fn, model, [tokens], compile=compile, matrices=CHECKPOINTS)
    return time.perf_counter() - started, hessian


def main() -> None:
    parser = timing.arguments(__doc__, rounds=5)
    parser.add_argument("--quick", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--threads", type=int, default=2, help="threads of both candidates")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    config, mode = (SMALL, "always") if options.quick else (CONFIG, "auto")
    model = LoopedTransformer(config)
    tokens = torch.randint(config.vocabulary, (128, config.length + 1))
    print(
        f"torch {torch.__version__}, {options.threads} threads, {parameters(model):,} parameters, "
        f"128 x {config.length}, {LOOPS} loops"
    )
    first, hessian = timed(model, tokens, mode)
    print(f"first call {first:.1f} s: {hessian.how}")
    programs = len(COMPILED)
    times: timing.Times = {"replayed": [], "compiled": []}
    distance = 0.0
    for number in range(options.rounds):
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.05 * torch.randn_like(weight)
        turns = [("replayed", "never"), ("compiled", mode)]
        matrices = {}
        for name, compile in turns if number % 2 else turns[::-1]:
            seconds, hessian = timed(model, tokens, compile)
            times[name].append(seconds)
            matrices[name] = hessian.matrix
        distance = max(distance, rivals.relative_error(matrices["compiled"], matrices["replayed"].double()))
    replayed, compiled = (statistics.median(times[name]) for name in ("replayed", "compiled"))
    whole = {"replayed": CHECKPOINTS * replayed, "compiled": first + (CHECKPOINTS - 1) * compiled}
    rows = [[name, timing.spread(times[name], unit=1), f"{whole[name]:.0f}"] for name in times]
    timing.print_table(["dense Hessian", "s a checkpoint [lowest, highest]", f"s for {CHECKPOINTS}, projected"], rows)
    print(f"largest relative distance between the two matrices: {distance:.0e}; the last one: {hessian.how}")
    later = len(COMPILED) - programs
    print(f"{programs} programs compiled in the first call, {later} in the {options.rounds} rounds after it (claim: 0)")
    print(
        f"\nratio replayed/compiled: {timing.ratio(times, 'replayed', 'compiled'):.2f} a checkpoint, "
        f"{whole['replayed'] / whole['compiled']:.2f} over {CHECKPOINTS} with the compilation (claim: above 1)"
    )


if __name__ == "__main__":
    main()
