"""Define your own algorithmic task: reverse a sequence of symbols.

The task is checked against an independent oracle, a looped model is trained on it, and the model is evaluated on longer inputs.
With this file on the Python path, the command

    thalweg study tasks --task a_task_of_your_own:Reverse --preset quick

trains every arm of the study of tasks on it, over several seeds.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import thalweg as tw
from thalweg.experiments.tasks.recipes import TaskPreset, looped, task_recipe
from thalweg.records.run import read_lengths
from thalweg.train.trainer import train


class Reverse:
    """Reverse a sequence of three symbols. Tokens 0, 1, 2 are the symbols; token 3 ends the answer."""

    name = "reverse"
    symbols = 3

    def query(self, length, count, rng):
        """Draw ``count`` queries of one length, as an array (count, Q)."""
        return rng.integers(self.symbols, size=(count, length))

    def answer(self, query, length):
        """Compute the answers of all queries at once, as an array (count, slots)."""
        return query[:, ::-1].copy()

    def oracle(self, query, length):
        """Compute the answer of one query in a different way; `check_task` compares it with `answer`."""
        return list(reversed(query))

    def slots(self, length):
        """Number of tokens of the longest answer at this length."""
        return length

    def loops(self, length):
        """Number of passes through the model that this length needs."""
        return length


if __name__ == "__main__":
    tw.check_task(Reverse())
    print("The task agrees with its oracle.")

    # Train Looped for 40 updates on lengths 1 to 3. This is too short to learn the task; raise `steps` for a real run.
    recipe = task_recipe(f"{__name__}:Reverse", TaskPreset(1, ("looped",), steps=40, longest=3, width=32, deepest=1))
    with tempfile.TemporaryDirectory() as folder:
        summary = train(looped(recipe), Path(folder) / "run")
        accuracy = summary.final["held-out"]["all"].accuracy
        print(f"After {summary.steps} updates {accuracy:.0%} of the answers are right on the trained lengths.")
        # Accuracy at each length, including lengths beyond the trained ones.
        lengths = read_lengths(Path(folder) / "run")
        for scores in lengths:
            print(f"length {scores.length}: {scores.accuracy:.2f} after {scores.loops} passes")

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([scores.length for scores in lengths], [scores.accuracy for scores in lengths], "o-")
    axes.axvline(3.5, color="gray", linestyle=":", label="longest trained length")
    axes.set(xlabel="length", ylabel="exact match", ylim=(-0.05, 1.05))
    axes.legend()
    figure.savefig("a_task_of_your_own.png")
