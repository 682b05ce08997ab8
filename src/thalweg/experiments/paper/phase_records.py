"""The phases of every run of a study, as records: those that the claim on the three phases is judged by."""

from __future__ import annotations

from thalweg.experiments.paper.claims_spectra import cut_over_seeds, long_landscapes
from thalweg.experiments.paper.evidence import Evidence
from thalweg.records.run import PhaseRecord


def phase_records(evidence: Evidence) -> tuple[PhaseRecord, ...]:
    """Straight pieces of the matrix entropy of every run that is long enough, in the order of arms, seeds and steps."""
    return tuple(record for arm in evidence.landscapes for record in _phases_of_arm(evidence, arm))


def _phases_of_arm(evidence: Evidence, arm: str) -> list[PhaseRecord]:
    """Of the runs of one arm, cut with one tolerance."""
    cut, records = cut_over_seeds(evidence, arm), []
    for (seed, found), phases in zip(long_landscapes(evidence, arm).items(), cut.runs if cut else (), strict=True):
        steps = [*(point.step for point in found.points), found.points[-1].step]
        records += [PhaseRecord(arm, seed, steps[one.start], steps[one.stop], one.label) for one in phases.segments]
    return records
