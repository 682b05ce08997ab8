"""Add two binary numbers, with both digits of a column in one token.

The two numbers need no alignment in this encoding, so the model has to learn only the carry. (The built-in task
``thalweg study tasks --task addition`` writes one number after the other instead.)

    python examples/addition_by_columns.py 12000

trains a looped block for 12,000 updates, which takes a quarter of an hour on one core. Training begins with the shortest length and
adds one length whenever the current one is learned; 12,000 updates reach length 20. Without a number it trains for 40 updates only.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import thalweg as tw
from thalweg.experiments.tasks.recipes import TaskPreset, looped, task_recipe
from thalweg.records.run import read_lengths
from thalweg.train.config import ShiftConfig
from thalweg.train.trainer import train


class Columns:
    """Token ``a + 2 b`` is the column of digits a and b, least significant column first; token 4 ends the answer."""

    name = "addition-by-columns"
    symbols = 4

    def query(self, length, count, rng):
        """Draw ``count`` queries of one length, as an array (count, Q)."""
        return rng.integers(self.symbols, size=(count, length))

    def answer(self, query, length):
        """Compute the answers of all queries at once, as an array (count, slots): add as integers, then take the digits."""
        total = ((query % 2 + query // 2) * 2 ** powers(length)).sum(1, keepdims=True)
        return (total // 2 ** powers(length + 1) % 2).astype(np.int64)

    def oracle(self, query, length):
        """Compute the answer of one query in a different way: column by column with a carry."""
        digits, carry = [], 0
        for column in query:
            carry, digit = divmod(column % 2 + column // 2 + carry, 2)
            digits.append(digit)
        return [*digits, carry]

    def slots(self, length):
        """Number of tokens of the longest answer at this length."""
        return length + 1

    def loops(self, length):
        """Number of passes through the model that this length needs: one for each digit of the sum."""
        return length + 1


def powers(length):
    """Exponents 0, 1, ..., as Python integers, so that long numbers stay exact."""
    return np.arange(length).astype(object)


if __name__ == "__main__":
    steps, longest = (int(sys.argv[1]), 20) if len(sys.argv) > 1 else (40, 3)

    # Start from the recipe of the study of tasks.
    preset = TaskPreset(1, ("looped",), steps=steps, longest=longest, width=32, deepest=2, batch=32, rate=7e-4)
    recipe = task_recipe(f"{__name__}:Columns", preset)

    # Then train in stages: each stage has its own length and number of passes, and ends when its loss is below 0.1 nats.
    learned = tw.LossBelow(loss=0.1, window=20)
    stages = ShiftConfig(recipe.ladder, learned, tw.Hard())
    config = replace(looped(recipe), data=replace(recipe.data, lengths="stage", grow=0), shift=stages)

    with tempfile.TemporaryDirectory() as folder:
        summary = train(config, Path(folder) / "run")
        passes = summary.switches[-1].loops_after if summary.switches else recipe.ladder[0]
        print(f"{summary.steps} updates in {summary.seconds:.0f} s; the last stage has {passes} passes")
        lengths = read_lengths(Path(folder) / "run")
        for scores in lengths:
            print(
                f"length {scores.length}: accuracy {scores.accuracy:.2f} after {scores.loops} passes, "
                f"{scores.confident_batch:.2f} after the most confident pass"
            )

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([scores.length for scores in lengths], [scores.accuracy for scores in lengths], "o-", label="T(n) passes")
    axes.plot(
        [scores.length for scores in lengths], [scores.confident_batch for scores in lengths], "s:", label="most confident pass"
    )
    axes.axvline(longest + 0.5, color="gray", linestyle=":", label="longest trained length")
    axes.set(xlabel="digits", ylabel="exact match", ylim=(-0.05, 1.05), title=f"{steps} updates")
    axes.legend()
    figure.savefig("addition_by_columns.png")
