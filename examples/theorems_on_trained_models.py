"""Compare the statements of docs/theory.md with real gradient steps on a trained Single and a trained Looped model.

Both models (width 16) are trained on the Markov language. Then gradient descent takes 20 small steps, and 5 very small ones, from
the trained weights. The table shows force, bounds, decrease of the loss and errors as the formulas predict them, and as measured.

    python examples/theorems_on_trained_models.py 6000 128

trains for 6,000 updates and measures on 128 sequences, which takes a few minutes. Without numbers it runs a short trial.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import thalweg as tw
from thalweg.curvature.objective import Objective
from thalweg.experiments.paper.recipes import ARMS, markov
from thalweg.landscape.slices import Slices
from thalweg.landscape.split import eigen_split, frozen
from thalweg.landscape.theorems import TheoremsAt, theorems_at
from thalweg.landscape.threshold import threshold
from thalweg.theory.certificate import certify
from thalweg.train.assemble import make_data, make_model
from thalweg.train.checkpoint import checkpoints, load_weights, read_checkpoint
from thalweg.train.step import next_token_loss


def column(arm: str, updates: int, sequences: int) -> list[TheoremsAt]:
    """Train one arm and evaluate the theorems at its last checkpoint, once for each pair of rate and steps."""
    recipe = markov(updates)
    config = replace(ARMS[arm](recipe), arm=arm)
    settings = replace(config.training, checkpoint_every=max(1, updates // 12), device="cpu")
    config = replace(config, model=replace(config.model, width=16), training=settings)
    with tempfile.TemporaryDirectory() as folder:
        tw.train_run(config, Path(folder))
        earlier, last = (read_checkpoint(path) for path in checkpoints(Path(folder) / "checkpoints")[-2:])
    loops, model = config.shift.stages[-1], make_model(config)
    batch = torch.from_numpy(make_data(config).evaluation[0].tokens[:sequences])

    def loss_fn(model, rows):
        return next_token_loss(model, rows, loops)

    # River and valley come from the Hessian of the checkpoint before the last one: a split by the eigenvectors of the same Hessian
    # would have no coupling.
    hessians = []
    for checkpoint in (earlier, last):
        load_weights(checkpoint, model)
        hessians.append(tw.dense_hessian(loss_fn, model, [batch], dtype=torch.float64).matrix)
    values, vectors = torch.linalg.eigh(hessians[0])
    split = frozen(eigen_split(values, vectors, threshold(values).epsilon))

    # Real gradient descent from the last checkpoint, at 1 and at 0.05 over the largest eigenvalue.
    objective = Objective(loss_fn, model, [batch], dtype=torch.float64)
    slices = Slices(loss_fn, model, [batch], dtype=torch.float64)
    loss_at = lambda point: float(slices.losses(point.unsqueeze(0), 1, None)[0])  # noqa: E731
    largest = float(torch.linalg.eigvalsh(hessians[1])[-1])
    runs = ((1 / largest, 20), (0.05 / largest, 5))
    return [theorems_at(loss_at, objective.gradient_at, hessians[1], objective.point, split, rate, steps) for rate, steps in runs]


def main(updates: int = 300, sequences: int = 32) -> None:
    columns = {arm: column(arm, updates, sequences) for arm in ("single", "looped")}
    for single, looped in zip(*columns.values(), strict=True):
        show(single, looped)

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    names = ["lower bound", "measured force", "formula", "upper bound", "the paper's bound"]
    for axes, *pair in zip(panels, *columns.values(), strict=True):
        for arm, found in zip(columns, pair, strict=True):
            sizes = [found.lower_best, found.force.measured, found.force.predicted, found.upper_best, found.upper_paper]
            axes.semilogy(names, sizes, "o", label=arm)
        axes.set(title=f"{found.steps} steps, rate {found.rate:.2g}", ylabel="force on the river")
        axes.tick_params(axis="x", labelrotation=25)
    panels[0].legend()
    figure.savefig("theorems_on_trained_models.png")


def show(single: TheoremsAt, looped: TheoremsAt) -> None:
    """Print one table with a column for each model, and the verdict of theorem 2's certificate."""
    print(f"{'':40} {'single':>28} {'looped':>28}")
    rows = {
        "steps, rate": lambda t: f"{t.steps}, {t.rate:.3g}",
        "dimensions of valley and river": lambda t: f"{t.valley}, {t.river}",
        "coupling ||B|| / ||H||": lambda t: f"{t.coupling:.3g}",
        "distance to the floor, of the run": lambda t: f"{t.floor_distance:.3g}, {t.moved:.3g}",
        "force C_K: formula, with feedback": lambda t: f"{t.force.predicted:.3g}, {t.force.with_feedback:.3g}",
        "force C_K: measured (cosine)": lambda t: f"{t.force.measured:.3g} ({t.force.cosine:.3f})",
        "force X_K: formula, measured (cosine)": lambda t: (
            f"{t.relative.predicted:.3g}, {t.relative.measured:.3g} ({t.relative.cosine:.3f})"
        ),
        "bounds: lower, upper, paper's upper": lambda t: f"{t.lower_best:.3g}, {t.upper_best:.3g}, {t.upper_paper:.3g}",
        "decrease of the loss: identity, real": lambda t: f"{t.decrease_predicted:.4g}, {t.decrease:.4g}",
        "||e_K||: real, bound": lambda t: f"{t.error:.3g}, {t.error_bound:.3g}",
        "|L - m|: real, Err_K": lambda t: f"{t.loss_error:.3g}, {t.loss.bound:.3g}",
    }
    for caption, cell in rows.items():
        print(f"{caption:40} {cell(single):>28} {cell(looped):>28}")
    certificate = certify(single.loss, looped.loss)
    verdict = f"{certificate.verdict} (lead {certificate.lead:.3g}, needed {certificate.needed:.3g})"
    print(f"theorem 2, looped ends lower: {verdict}\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
