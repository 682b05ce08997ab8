"""Measure what happens at a hard switch from 1 to T passes: loss, gradients, and curvature relative to the learning rate.

A model is trained with one pass for SWITCH updates. Then the same weights are measured with one pass, with T passes whose gains
rise from 0.1 to 1, and with T full passes. Training goes on with T passes, once with a hard onset and once with a ramp of 320
updates, and is measured again along the way.

Columns: loss (nats); norm of the gradient; its cosine with the gradient of one pass; rate times lambda, the largest eigenvalue of
the Hessian; the same for the Hessian preconditioned by Adam, P^(-1/2) H P^(-1/2) with P = sqrt(v) + epsilon, divided by 38, which
is the edge of stability for beta1 = 0.9; share of seeds whose gradient is clipped.

    python examples/why_a_hard_switch_hurts.py SEEDS SWITCH T
"""

import copy
import sys

import matplotlib.pyplot as plt
import torch

import thalweg as tw
from thalweg.data.markov_data import MarkovConfig, MarkovData
from thalweg.intervals import interval
from thalweg.landscape.edge import adam_preconditioner, preconditioned_sharpness
from thalweg.train.config import OptimizerConfig
from thalweg.train.step import make_optimizer, next_token_loss, train_step

RATE, RAMP, AFTER = 3e-3, 320, (1, 5, 20, 80, 320)
COLUMNS = ("loss", "|g|", "cos to Single", "rate x lambda", "Adam: rate x lambda / 38", "clipped")


def measure(model, optimizer, batch, loops, gains, single) -> list[float]:
    """Compute the numbers of one row at the model's weights, for the given passes; ``single`` is the gradient of one pass."""

    def loss_fn(model, rows):
        return next_token_loss(model, rows, loops, gains)

    loss = loss_fn(model, batch)
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    hessian = tw.Hessian(loss_fn, model, [batch[:128]], dtype=torch.float64)
    largest = float(tw.eigenpairs(hessian, k=1, which="largest", tolerance=1e-3, verify=False).values[0])
    states = [optimizer.state[parameter] for parameter in model.parameters()]
    second = torch.cat([state["exp_avg_sq"].flatten() for state in states]).double()
    sharp = preconditioned_sharpness(hessian, adam_preconditioner(second, int(states[0]["step"])))
    norm = float(gradient.norm())
    cosine = float(torch.nn.functional.cosine_similarity(gradient, single, dim=0)) if single is not None else 1.0
    return [loss.item(), norm, cosine, RATE * largest, RATE * sharp / 38, float(norm > 1)]


def rows_of(seed: int, switch: int, loops: int) -> dict[str, list[float]]:
    """Train and measure one seed; return the numbers of each row by its name."""
    data = MarkovData(MarkovConfig(), seed)
    model = tw.LoopedTransformer(tw.ModelConfig(vocabulary=16, length=11, width=64), torch.Generator().manual_seed(seed))
    optimizer = make_optimizer(OptimizerConfig(rate=RATE), model)
    for step in range(switch):
        train_step(model, optimizer, torch.from_numpy(data.batch(step, 128)), loops=1, gains=None, rate=RATE, clip=1.0)
    batch = torch.from_numpy(data.tokens[:512])
    parts = torch.autograd.grad(next_token_loss(model, batch, 1), list(model.parameters()))
    single = torch.cat([part.flatten() for part in parts])
    # The same weights, with one pass and with T passes at several gains.
    rows = {"1 pass": measure(model, optimizer, batch, 1, None, single)}
    for gain in (0.1, 0.25, 0.5, 1.0):
        gains = (1.0, *(gain,) * (loops - 1))
        rows[f"{loops} passes, gain {gain:g}"] = measure(model, optimizer, batch, loops, gains, single)
    # Training with T passes from here on, hard or with a ramp, each on its own copy of model and optimizer.
    for name, onset in (("hard", tw.Hard()), ("ramp", tw.Ramp(RAMP))):
        twin, twin_optimizer = copy.deepcopy((model, optimizer))
        done = 0
        for age in AFTER:
            for k in range(done, age):
                tokens = torch.from_numpy(data.batch(switch + k, 128))
                gains = (1.0, *onset.gains(k, loops - 1))
                train_step(twin, twin_optimizer, tokens, loops=loops, gains=gains, rate=RATE, clip=1.0)
            done = age
            gains = (1.0, *onset.gains(age, loops - 1))
            rows[f"{name}, {age} updates after"] = measure(twin, twin_optimizer, batch, loops, gains, None)
    return rows


arguments = sys.argv[1:]
arguments += ["1", "30", "3"][len(arguments) :]
seeds, switch, loops = (int(argument) for argument in arguments)
torch.set_num_threads(1)
runs = [rows_of(seed, switch, loops) for seed in range(seeds)]
print(f"{seeds} seeds, switch 1 -> {loops} after {switch} updates, Adam {RATE:g}; mean [95 % interval over seeds]")
print("row | " + " | ".join(COLUMNS))
for name in runs[0]:
    cells = []
    for column in range(len(COLUMNS)):
        estimate = interval([rows[name][column] for rows in runs])
        ends = f" [{estimate.low:.3g}, {estimate.high:.3g}]" if estimate.low is not None else ""
        cells.append(f"{estimate.mean:.3g}{ends}")
    print(f"{name} | " + " | ".join(cells))

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name in ("hard", "ramp"):
    after = [sum(rows[f"{name}, {age} updates after"][0] for rows in runs) / seeds for age in AFTER]
    axes.semilogx(AFTER, after, "o-", label=f"{name} switch")
axes.axhline(sum(rows["1 pass"][0] for rows in runs) / seeds, color="gray", linestyle=":", label="one pass, before the switch")
axes.set(xlabel="updates after the switch", ylabel="loss (nats, mean over seeds)")
axes.legend()
figure.savefig("why_a_hard_switch_hurts.png")
