"""What keeps many loops stable that are trained from the first update on?

On the Markov language (8,000 sequences) with width 64, Adam, batch 128 and clip 1. First the rate: the one of four that is best for
one loop. Then, at this rate, many loops with and without what `thalweg.ModelConfig` has for them. A run has diverged if it is not
finite, or if its training loss (mean of the last tenth) is above that of the uniform guess or 0.05 nats above that of one loop.

`python examples/deep_loops_stay_stable.py 5 1500 8 16` (seeds, updates, loops) takes over an hour; without, a quick look.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

import thalweg as tw
from thalweg.data.markov_data import MarkovConfig, MarkovData
from thalweg.intervals import interval
from thalweg.train.config import OptimizerConfig
from thalweg.train.evaluate import evaluate
from thalweg.train.step import make_optimizer, train_step

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
MARGIN = 0.05  # nats
data_of = cache(lambda seed: MarkovData(MarkovConfig(), seed))


def variants(loops: int) -> dict[str, dict]:
    norm, scale, gains = {"loop_norm": True}, {"residual_loops": loops}, {"learned_gains": loops}
    return {
        "pre-norm": {},
        "+ injection": {"injection": True},
        "+ loop norm": norm,
        "+ residual / sqrt(T)": scale,
        "+ learned gains": gains,
        "+ loop norm, residual": norm | scale,
        "+ all four": norm | scale | gains | {"injection": True},
    }


@dataclass(frozen=True)
class Ended:
    """Training loss at the end and held-out loss in nats; largest norm of the gradient in the last half. Infinite if not finite."""

    loss: float = math.inf
    norm: float = math.inf
    held_out: float = math.inf


def run(seed: int, updates: int, loops: int, rate: float, **config) -> Ended:
    data, losses, norms = data_of(seed), [], []
    shape = tw.ModelConfig(vocabulary=data.vocabulary, length=data.length - 1, width=64, **config)
    model = tw.LoopedTransformer(shape, torch.Generator().manual_seed(seed))
    optimizer = make_optimizer(OptimizerConfig(rate=rate), model)
    for step in range(updates):
        rows = torch.from_numpy(data.batch(step, 128))
        made = train_step(model, optimizer, rows, loops=loops, gains=None, rate=rate, clip=1.0)
        if not made.finite:
            return Ended()
        losses.append(made.loss)
        norms.append(made.grad_norm)
    held_out = evaluate(model, data.evaluation[1:], torch.device("cpu"), loops)["held-out"]["all"].loss
    tail = losses[-max(1, updates // 10) :]
    return Ended(sum(tail) / len(tail), max(norms[updates // 2 :]), held_out if math.isfinite(held_out) else math.inf)


def show(words: str, runs: Sequence[Ended], single: Sequence[Ended] | None = None) -> None:
    """One row: mean and interval over the runs that ended finite; ``single`` are the runs with one loop, seed by seed."""
    guess = math.log(data_of(0).vocabulary)
    limits = [min(guess, one.loss + MARGIN) for one in single] if single else [guess] * len(runs)
    diverged = sum(made.loss > limit or math.isinf(made.held_out) for made, limit in zip(runs, limits, strict=True))
    finite = [made.held_out for made in runs if math.isfinite(made.held_out)]
    found = interval(finite) if finite else None
    mean = "-" if found is None else f"{found.mean:.4f}"
    ends = "" if found is None or found.low is None else f" [{found.low:.4f}, {found.high:.4f}]"
    left = "" if len(finite) == len(runs) else f" of {len(finite)} runs"
    print(f"{words:28} {diverged:>4} of {len(runs)} {max(made.norm for made in runs):>14.3g}   {mean}{ends}{left}", flush=True)


def main(seeds: int = 1, updates: int = 15, *many: int) -> None:
    torch.set_num_threads(1)
    print(f"{'':28} {'diverged':>9} {'largest norm':>14}   held-out loss in nats [95 % interval over seeds]")
    single: dict[float, list[Ended]] = {}
    for rate in RATES:
        single[rate] = [run(seed, updates, 1, rate) for seed in range(seeds)]
        show(f"T = 1, rate {rate:g}", single[rate])
    best = min(RATES, key=lambda rate: sum(made.held_out for made in single[rate]))
    print(f"rate {best:g} from here on")
    for loops in many or (2, 4):
        for name, config in variants(loops).items():
            show(f"T = {loops}, {name}", [run(seed, updates, loops, best, **config) for seed in range(seeds)], single[best])


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
