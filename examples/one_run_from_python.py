"""A run from a recipe, three lines changed, trained in a folder that can be resumed."""

import tempfile
from dataclasses import replace
from pathlib import Path

from thalweg.experiments.paper.recipes import markov, shift
from thalweg.train.trainer import train

config = shift(markov(steps=240))
config = replace(config, model=replace(config.model, width=32), seed=7)
with tempfile.TemporaryDirectory() as folder:
    summary = train(config, Path(folder) / "run")
print(f"{summary.steps} updates, {summary.seconds:.1f} s, {summary.flops / 1e9:.1f} GFLOP counted")
print(f"held-out: {summary.final['held-out']['all']}; best possible: {summary.ceilings['held-out']['all']}")
