"""The landscape of a run, 40 exact spectra, costs minutes; compared with training and with a matrix-free survey.

Model: the study's attention-only model on the Markov language, 64 sequences of 12 tokens, float32 products, float64 eigenvalues;
width 24 (as in the study, 2,544 parameters) and 32 (4,160), Single and Looped with 3 passes. A run of 300 updates keeps 40
snapshots; its training time is scaled to the study's 6,000 updates. The goal is 180 s for 40 points of about 4,500 parameters on
two cores. Rival: the same points matrix-free (10 eigenpairs, a density of 60 steps and 4 probes). Two threads.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import timing  # noqa: F401  before torch
import torch

from thalweg.experiments.paper.recipes import ARMS, markov
from thalweg.records.landscape import LandscapePlan, LandscapeSummary
from thalweg.survey.survey import survey
from thalweg.train.trainer import train

UPDATES, STUDY, THREADS = 300, 6000, 2
EXACT = LandscapePlan(alignment=False, replays=0, lengths=(), slices=False)


def measured(folder: Path, plan: LandscapePlan) -> LandscapeSummary:
    """Measure the landscape of a run; a landscape measured before is moved away."""
    if (folder / "landscape").exists():
        (folder / "landscape").rename(folder.parent / f"{folder.name}-first")
    summary = survey(folder, plan).summary
    assert summary is not None
    return summary


def main() -> None:
    torch.set_num_threads(THREADS)
    for width in (24, 32):
        recipe = markov(UPDATES)
        base = replace(recipe.base, model=replace(recipe.base.model, width=width))
        settings = replace(base.training, snapshots=40, threads=THREADS)
        recipe = replace(recipe, base=replace(base, training=settings))
        for arm in ("single", "looped"):
            with tempfile.TemporaryDirectory() as parent:
                folder = Path(parent) / arm
                run = train(replace(ARMS[arm](recipe), arm=arm), folder)
                exact = measured(folder, EXACT)
                rival = measured(folder, replace(EXACT, exact_seconds=0))
            training = run.seconds * STUDY / UPDATES
            print(
                f"{arm:>6}, width {width}, {run.parameters:,} parameters: {exact.points} exact points {exact.seconds:6.1f} s "
                f"({180 / exact.seconds:.2f} of the goal's speed), matrix-free {rival.seconds:6.1f} s, training {training:6.1f} s; "
                f"exact / matrix-free {exact.seconds / rival.seconds:.2f}, exact / training {exact.seconds / training:.2f}"
            )


if __name__ == "__main__":
    main()
