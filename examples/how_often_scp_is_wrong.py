"""Simulate false alarms of the SHIFT criterion (`thalweg.Plateau`).

How often does the criterion fire on a loss that still falls, and how late does it fire on a loss that does not? Each simulated loss
falls exponentially, with independent relative noise in every update as from single batches; the gradient norm is constant with 15 %
noise. The table has one row for each speed of the fall and each noise, and one column for each patience.

    python examples/how_often_scp_is_wrong.py [runs]
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw

UPDATES, GRAD_NOISE = 600, 0.15


def first_fire(rule: tw.Plateau, losses: np.ndarray, norms: np.ndarray) -> int | None:
    """Return the update at which the criterion fires, or None if it never does."""
    state = rule.begin()
    for step, (loss, norm) in enumerate(zip(losses.tolist(), norms.tolist(), strict=True), start=1):
        state, reason = rule.observe(state, step, loss, norm)
        if reason is not None:
            return step
    return None


runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
rng = np.random.default_rng(0)
print(f"{runs} runs of {UPDATES} updates; share of runs in which the criterion fires (median update)")
print("delta_loss 0.02, delta_grad 0.1, window 20")
print("fall per window | noise | patience 1 | patience 2 | patience 3 | patience 5")
shares = {}  # (patience, noise) -> share of runs that fire, one for each fall
for fall in (0.0, 0.01, 0.02, 0.03, 0.04):
    for noise in (0.01, 0.03, 0.1):
        cells = []
        for patience in (1, 2, 3, 5):
            rule = tw.Plateau(delta_loss=0.02, delta_grad=0.1, patience=patience, window=20)
            fired = []
            for _ in range(runs):
                losses = np.exp(-fall * np.arange(UPDATES) / rule.window) * (1 + noise * rng.standard_normal(UPDATES))
                norms = 1 + GRAD_NOISE * rng.standard_normal(UPDATES)
                fired.append(first_fire(rule, losses, norms))
            steps = [step for step in fired if step is not None]
            shares.setdefault((patience, noise), []).append(len(steps) / runs)
            cells.append(f"{len(steps) / runs:.2f}" + (f" ({int(np.median(steps))})" if steps else ""))
        print(f"{fall:15.0%} | {noise:5.0%} | " + " | ".join(f"{cell:>10}" for cell in cells))

figure, panels = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True, layout="constrained")
for axes, noise in zip(panels, (0.01, 0.03, 0.1), strict=True):
    for patience in (1, 2, 3, 5):
        axes.plot([0, 1, 2, 3, 4], shares[patience, noise], "o-", label=f"patience {patience}")
    axes.set(title=f"noise {noise:.0%}", xlabel="fall of the loss per window (%)")
panels[0].set_ylabel("share of runs that fire")
panels[0].legend()
figure.savefig("how_often_scp_is_wrong.png")
