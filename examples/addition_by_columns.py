"""Addition with both digits of a place in one token, so that nothing has to be lined up: what is left of it is the carry.

    python examples/addition_by_columns.py 12000

trains a looped block to length 20, one more length when this one is learned, in a quarter of an hour on one core; without a number
of updates it only shows that it works. `thalweg study tasks --task addition` has the digits of one number after those of the other.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import thalweg as tw
from thalweg.experiments.tasks.recipes import TaskPreset, looped, task_recipe
from thalweg.records.run import read_lengths
from thalweg.train.config import ShiftConfig
from thalweg.train.trainer import train


class Columns:
    """Token a + 2 b is the column of digits a and b, least significant first; the end token is 4."""

    name = "addition-by-columns"
    symbols = 4

    def query(self, length, count, rng):
        """Queries of one length, (count, Q)."""
        return rng.integers(self.symbols, size=(count, length))

    def answer(self, query, length):
        """All their answers at once, (count, slots)."""
        total = ((query % 2 + query // 2) * 2 ** powers(length)).sum(1, keepdims=True)
        return (total // 2 ** powers(length + 1) % 2).astype(np.int64)

    def oracle(self, query, length):
        """The answer of one query, by other means: school arithmetic with a carry."""
        digits, carry = [], 0
        for column in query:
            carry, digit = divmod(column % 2 + column // 2 + carry, 2)
            digits.append(digit)
        return [*digits, carry]

    def slots(self, length):
        """Tokens of the longest answer."""
        return length + 1

    def loops(self, length):
        """Passes that the length asks for."""
        return length + 1


def powers(length):
    """Exponents 0, 1, ... of exact integers, however long."""
    return np.arange(length).astype(object)


if __name__ == "__main__":
    steps, longest = (int(sys.argv[1]), 20) if len(sys.argv) > 1 else (40, 3)
    amounts = TaskPreset(1, ("looped",), steps=steps, longest=longest, width=32, deepest=2, batch=32, rate=7e-4)
    recipe = task_recipe(f"{__name__}:Columns", amounts)
    learned = tw.LossBelow(loss=0.1, window=20)
    by_stages = ShiftConfig(recipe.ladder, learned, tw.Hard())
    config = replace(looped(recipe), data=replace(recipe.data, lengths="stage", grow=0), shift=by_stages)
    with tempfile.TemporaryDirectory() as folder:
        done = train(config, Path(folder) / "run")
        reached = done.switches[-1].loops_after if done.switches else recipe.ladder[0]
        print(f"{done.steps} updates, {done.seconds:.0f} s: stages up to {reached} passes")
        for one in read_lengths(Path(folder) / "run"):
            print(f"length {one.length}: {one.accuracy:.2f} after {one.loops} passes, {one.confident_batch:.2f} where it is surest")
