"""Define your own experiment: list its arms (configs), and state what is computed from their runs.

The command trains every arm with every seed in a queue of processes, resumes an interrupted experiment, and writes a table and an
HTML page:

    thalweg study an_experiment_of_your_own:Widths --out results/widths
    thalweg study an_experiment_of_your_own:Widths --out results/widths --seeds 5    # adds seeds 3 and 4

Without the command, this file runs a small version of the experiment in a temporary folder.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

import thalweg as tw
from thalweg.data.markov_data import MarkovConfig
from thalweg.experiments.engine import make
from thalweg.experiments.metrics import answer_by_sign, final, paired
from thalweg.train.config import TrainingConfig

# What all arms have in common: a small Markov language, a small model, 60 updates.
BASE = tw.RunConfig(
    data=MarkovConfig(sequences=200, held_out=100),
    model=tw.ModelConfig(length=11, width=8),
    training=TrainingConfig(steps=60, batch=32, evaluate_every=15, device="cpu", threads=1),
)


class Widths(tw.Experiment):
    """Does a wider model end with a lower held-out loss?"""

    def arms(self):
        """Map the name of each arm to its config."""
        return {f"width {width}": replace(BASE, model=replace(BASE.model, width=width)) for width in (4, 16)}

    def outcomes(self, runs):
        """Compute the columns of the table: arm -> heading -> one number for each seed. ``runs`` maps arm -> seed -> run."""
        return {arm: {"held-out loss (nats)": [loss(run) for run in by_seed.values()]} for arm, by_seed in runs.items()}

    def answers(self, runs):
        """Answer the experiment's questions, here by a paired comparison over the seeds."""
        change = paired(runs.get("width 4", {}), runs.get("width 16", {}), loss)
        return [answer_by_sign("Does width 16 end lower than width 4?", change, "difference (nats)")]

    def figures(self, runs):
        """Draw the figures of the page: heading -> matplotlib figure."""
        figure, axes = plt.subplots()
        for arm, by_seed in runs.items():
            for seed, run in by_seed.items():
                losses = [evaluation.scores["held-out"]["all"].loss for evaluation in run.evaluations]
                axes.plot([evaluation.step for evaluation in run.evaluations], losses, label=f"{arm}, seed {seed}")
        axes.set(xlabel="update", ylabel="held-out loss (nats)")
        axes.legend()
        figure.savefig("an_experiment_of_your_own.png")  # beside the page, which gets the figure, too
        return {"Held-out loss over training": figure}


def loss(run):
    """Return the final held-out loss of a run, in nats."""
    return final(run, "held-out", "all", "loss")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make(Widths("an_experiment_of_your_own:Widths"), Path(folder) / "widths", workers=2, as_json=False)
