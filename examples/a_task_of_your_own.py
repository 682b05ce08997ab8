"""A task of your own: say the symbols backwards. Checked against its own oracle, then trained, then asked longer queries.

    thalweg study tasks --task a_task_of_your_own:Reverse --preset quick

trains every arm on it over seeds, when this file is where Python finds it.
"""

import tempfile
from pathlib import Path

import thalweg as tw
from thalweg.experiments.tasks.recipes import TaskPreset, looped, task_recipe
from thalweg.records.run import read_lengths
from thalweg.train.trainer import train


class Reverse:
    """Three symbols: tokens 0, 1, 2; the end token is 3."""

    name = "reverse"
    symbols = 3

    def query(self, length, count, rng):
        """Queries of one length, (count, Q)."""
        return rng.integers(self.symbols, size=(count, length))

    def answer(self, query, length):
        """All their answers at once, (count, slots)."""
        return query[:, ::-1].copy()

    def oracle(self, query, length):
        """The answer of one query, by other means."""
        return list(reversed(query))

    def slots(self, length):
        """Tokens of the longest answer."""
        return length

    def loops(self, length):
        """Passes that the length asks for."""
        return length


if __name__ == "__main__":
    tw.check_task(Reverse())
    print("the task agrees with its oracle")
    recipe = task_recipe(f"{__name__}:Reverse", TaskPreset(1, ("looped",), steps=40, longest=3, width=32, deepest=1))
    with tempfile.TemporaryDirectory() as folder:
        done = train(looped(recipe), Path(folder) / "run")
        print(f"{done.steps} updates: {done.final['held-out']['all'].accuracy:.2f} of the answers are right on trained lengths")
        for one in read_lengths(Path(folder) / "run"):
            print(f"length {one.length}: {one.accuracy:.2f} after {one.loops} passes")
