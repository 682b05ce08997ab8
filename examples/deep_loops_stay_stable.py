"""Which model options keep training with many loops stable, if all loops are used from the first update?

Data: the Markov language (8,000 sequences). Model: width 64, Adam, batch 128, gradient norm clipped at 1. First, the learning rate
is chosen: the one of four that is best for one loop. Then, at this rate, many loops are trained with and without the options of
`thalweg.ModelConfig` for deep loops. A run counts as diverged if it is not finite, or if its training loss (mean of the last tenth)
is above the loss of a uniform guess or 0.05 nats above the loss of one loop.

    python examples/deep_loops_stay_stable.py 5 1500 8 16

runs 5 seeds with 1,500 updates at 8 and 16 loops, which takes over an hour. Without arguments it runs a short trial.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import matplotlib.pyplot as plt
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
    """Model options by name: arguments of `thalweg.ModelConfig`."""
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
class Outcome:
    """The end of one run; infinite numbers mean that the run was not finite."""

    loss: float = math.inf  # training loss, mean of the last tenth, in nats
    norm: float = math.inf  # largest norm of the gradient in the last half
    held_out: float = math.inf  # held-out loss, in nats


def run(seed: int, updates: int, loops: int, rate: float, **config) -> Outcome:
    """Train one model with the same number of loops throughout."""
    data, losses, norms = data_of(seed), [], []
    shape = tw.ModelConfig(vocabulary=data.vocabulary, length=data.length - 1, width=64, **config)
    model = tw.LoopedTransformer(shape, torch.Generator().manual_seed(seed))
    optimizer = make_optimizer(OptimizerConfig(rate=rate), model)
    for step in range(updates):
        rows = torch.from_numpy(data.batch(step, 128))
        update = train_step(model, optimizer, rows, loops=loops, gains=None, rate=rate, clip=1.0)
        if not update.finite:
            return Outcome()
        losses.append(update.loss)
        norms.append(update.grad_norm)
    held_out = evaluate(model, data.evaluation[1:], torch.device("cpu"), loops)["held-out"]["all"].loss
    tail = losses[-max(1, updates // 10) :]
    return Outcome(sum(tail) / len(tail), max(norms[updates // 2 :]), held_out if math.isfinite(held_out) else math.inf)


def show(name: str, outcomes: Sequence[Outcome], single: Sequence[Outcome] | None = None) -> None:
    """Print one row; ``single`` holds the runs with one loop, seed by seed, against which divergence is judged."""
    guess = math.log(data_of(0).vocabulary)
    limits = [min(guess, outcome.loss + MARGIN) for outcome in single] if single else [guess] * len(outcomes)
    diverged = sum(outcome.loss > limit or math.isinf(outcome.held_out) for outcome, limit in zip(outcomes, limits, strict=True))
    # Mean and interval of the held-out loss over the runs that ended finite.
    finite = [outcome.held_out for outcome in outcomes if math.isfinite(outcome.held_out)]
    estimate = interval(finite) if finite else None
    mean = "-" if estimate is None else f"{estimate.mean:.4f}"
    ends = "" if estimate is None or estimate.low is None else f" [{estimate.low:.4f}, {estimate.high:.4f}]"
    count = "" if len(finite) == len(outcomes) else f" of {len(finite)} runs"
    largest = max(outcome.norm for outcome in outcomes)
    print(f"{name:28} {diverged:>4} of {len(outcomes)} {largest:>14.3g}   {mean}{ends}{count}", flush=True)


def main(seeds: int = 1, updates: int = 15, *many: int) -> None:
    torch.set_num_threads(1)
    print(f"{'':28} {'diverged':>9} {'largest norm':>14}   held-out loss in nats [95 % interval over seeds]")

    # One loop: choose the rate with the lowest held-out loss.
    single: dict[float, list[Outcome]] = {}
    for rate in RATES:
        single[rate] = [run(seed, updates, 1, rate) for seed in range(seeds)]
        show(f"T = 1, rate {rate:g}", single[rate])
    best = min(RATES, key=lambda rate: sum(outcome.held_out for outcome in single[rate]))
    print(f"All further runs use rate {best:g}.")

    # Many loops at this rate, with each set of options.
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for loops in many or (2, 4):
        ends = {}
        for name, config in variants(loops).items():
            outcomes = [run(seed, updates, loops, best, **config) for seed in range(seeds)]
            show(f"T = {loops}, {name}", outcomes, single[best])
            ends[name] = [outcome.held_out for outcome in outcomes]
        axes.plot([sum(found) / len(found) for found in ends.values()], list(ends), "o", label=f"T = {loops}")
    axes.axvline(sum(outcome.held_out for outcome in single[best]) / seeds, color="gray", linestyle=":", label="one loop")
    axes.set(xlabel=f"held-out loss after {updates} updates (nats, mean over seeds)")
    axes.invert_yaxis()
    axes.legend()
    figure.savefig("deep_loops_stay_stable.png")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
