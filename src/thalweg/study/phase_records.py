"""The phases of every run of a study, as records."""

from __future__ import annotations

import torch

from thalweg.landscape.phases import LEAST_POINTS, phases
from thalweg.landscapes import RunLandscape
from thalweg.records import PhaseRecord


def phase_records(landscapes: dict[str, dict[int, RunLandscape]]) -> tuple[PhaseRecord, ...]:
    """Of the matrix entropy of every run that has enough checkpoints, in the order of arms, seeds and steps."""
    return tuple(
        record
        for arm, seeds in landscapes.items()
        for seed, found in sorted(seeds.items())
        if len(found.points) >= LEAST_POINTS
        for record in phases_of_run(arm, seed, found)
    )


def phases_of_run(arm: str, seed: int, found: RunLandscape) -> list[PhaseRecord]:
    """Straight pieces of the entropy over the checkpoints, as the claim on the three phases cuts them."""
    series = torch.tensor([point.entropy.value for point in found.points], dtype=torch.float64)
    steps = [*(point.step for point in found.points), found.points[-1].step]
    cut = phases(series, spacing="log-step")
    return [PhaseRecord(arm, seed, steps[one.start], steps[one.stop], one.label) for one in cut.segments]
