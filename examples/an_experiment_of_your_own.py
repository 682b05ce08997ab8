"""An experiment of your own: name the arms and say what is computed from their runs; thalweg does the rest.

The command gives it a folder, a queue, resuming, extending, a table and a page:
    thalweg study an_experiment_of_your_own:Widths --out results/widths
    thalweg study an_experiment_of_your_own:Widths --out results/widths --seeds 5    # trains seeds 3 and 4 only
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

BASE = tw.RunConfig(
    data=MarkovConfig(sequences=200, held_out=100),
    model=tw.ModelConfig(length=11, width=8),
    training=TrainingConfig(steps=60, batch=32, evaluate_every=15, device="cpu", threads=1),
)


class Widths(tw.Experiment):
    """Does a wider model end with a lower held-out loss?"""

    def arms(self):
        """Name of each arm -> its config."""
        return {f"width {width}": replace(BASE, model=replace(BASE.model, width=width)) for width in (4, 16)}

    def outcomes(self, runs):
        """Arm -> heading of a column -> one number for each seed."""
        return {arm: {"held-out loss (nats)": [loss(run) for run in seeds.values()]} for arm, seeds in runs.items()}

    def answers(self, runs):
        """Questions, answered by a paired comparison over the seeds."""
        change = paired(runs.get("width 4", {}), runs.get("width 16", {}), loss)
        return [answer_by_sign("Does width 16 end lower than width 4?", change, "difference (nats)")]

    def figures(self, runs):
        """Heading -> matplotlib figure."""
        figure, axes = plt.subplots()
        for arm, seeds in runs.items():
            for seed, run in seeds.items():
                axes.plot([e.scores["held-out"]["all"].loss for e in run.evaluations], label=f"{arm}, seed {seed}")
        axes.legend(title="held-out loss (nats) at each evaluation")
        return {"Held-out loss over training": figure}


def loss(run):
    """Final held-out loss of a run, in nats."""
    return final(run, "held-out", "all", "loss")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make(Widths("an_experiment_of_your_own:Widths"), Path(folder) / "widths", workers=2, as_json=False)
