"""Why a hard switch hurts: the loss, its largest eigenvalue times the rate, and the gradients, on both sides of a switch 1 -> T.

Trains Single for SWITCH updates; looks at the same weights with one pass, with T passes at rising gains, and with T in full; then
goes on with a hard onset and with a ramp of 320 updates, and looks again. Adam's own measure is the largest eigenvalue of
P^(-1/2) H P^(-1/2), P = sqrt(v) + epsilon; with beta1 = 0.9 its edge of stability lies at 38 / rate.

    python examples/why_a_hard_switch_hurts.py SEEDS SWITCH T
"""

import copy
import sys

import torch

import thalweg as tw
from thalweg.data.markov_data import MarkovConfig, MarkovData
from thalweg.intervals import interval
from thalweg.landscape.edge import adam_preconditioner, preconditioned_sharpness
from thalweg.train.config import OptimizerConfig
from thalweg.train.step import make_optimizer, next_token_loss, train_step

RATE, RAMP, AFTER = 3e-3, 320, (1, 5, 20, 80, 320)
COLUMNS = ("loss", "|g|", "cos to Single", "rate x lambda", "Adam: rate x lambda / 38", "clipped")


def look(model, optimizer, batch, loops, gains, single) -> list[float]:
    """One row: the landscape at the model's weights, as the passes that are given see it."""

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
    """Row name -> numbers, of one seed."""
    data = MarkovData(MarkovConfig(), seed)
    model = tw.LoopedTransformer(tw.ModelConfig(vocabulary=16, length=11, width=64), torch.Generator().manual_seed(seed))
    optimizer = make_optimizer(OptimizerConfig(rate=RATE), model)
    for step in range(switch):
        train_step(model, optimizer, torch.from_numpy(data.batch(step, 128)), loops=1, gains=None, rate=RATE, clip=1.0)
    batch = torch.from_numpy(data.tokens[:512])
    parts = torch.autograd.grad(next_token_loss(model, batch, 1), list(model.parameters()))
    single = torch.cat([part.flatten() for part in parts])
    found = {"1 pass": look(model, optimizer, batch, 1, None, single)}
    for gain in (0.1, 0.25, 0.5, 1.0):
        gains = (1.0, *(gain,) * (loops - 1))
        found[f"{loops} passes, gain {gain:g}"] = look(model, optimizer, batch, loops, gains, single)
    for name, onset in (("hard", tw.Hard()), ("ramp", tw.Ramp(RAMP))):
        twin, other = copy.deepcopy((model, optimizer))
        done = 0
        for age in AFTER:
            for k in range(done, age):
                tokens = torch.from_numpy(data.batch(switch + k, 128))
                gains = (1.0, *onset.gains(k, loops - 1))
                train_step(twin, other, tokens, loops=loops, gains=gains, rate=RATE, clip=1.0)
            done = age
            gains = (1.0, *onset.gains(age, loops - 1))
            found[f"{name}, {age} updates after"] = look(twin, other, batch, loops, gains, None)
    return found


seeds, switch, loops = (int(given) for given in (sys.argv[1:] + ["1", "30", "3"][len(sys.argv) - 1 :]))
torch.set_num_threads(1)
seen = [rows_of(seed, switch, loops) for seed in range(seeds)]
print(f"{seeds} seeds, switch 1 -> {loops} after {switch} updates, Adam {RATE:g}; mean [95 % interval over seeds]")
print("what | " + " | ".join(COLUMNS))
for name in seen[0]:
    cells = []
    for place in range(len(COLUMNS)):
        one = interval([found[name][place] for found in seen])
        cells.append(f"{one.mean:.3g}" + (f" [{one.low:.3g}, {one.high:.3g}]" if one.low is not None else ""))
    print(f"{name} | " + " | ".join(cells))
