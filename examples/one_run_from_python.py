"""Train one model from Python: take a recipe, change its config, and train it in a folder.

If the folder is kept, calling `train` again with the same config resumes an interrupted run.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

from thalweg.experiments.paper.recipes import markov, shift
from thalweg.records.run import read_run
from thalweg.train.trainer import train

# The arm "shift" on the Markov language: it trains with one pass first, and with several passes later.
config = shift(markov(steps=240))
config = replace(config, model=replace(config.model, width=32), seed=7)
with tempfile.TemporaryDirectory() as folder:
    summary = train(config, Path(folder) / "run")
    record = read_run(Path(folder) / "run")
print(f"{summary.steps} updates, {summary.seconds:.1f} s, {summary.flops / 1e9:.1f} GFLOP counted")
print(f"held-out: {summary.final['held-out']['all']}; best possible: {summary.ceilings['held-out']['all']}")

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name in ("train", "held-out"):
    axes.plot([one.step for one in record.evaluations], [one.scores[name]["all"].loss for one in record.evaluations], label=name)
for switch in record.switches:
    axes.axvline(switch.step, color="gray", linestyle=":", label=f"{switch.loops_before} -> {switch.loops_after} passes")
axes.set(xlabel="update", ylabel="loss (nats)")
axes.legend()
figure.savefig("one_run_from_python.png")
