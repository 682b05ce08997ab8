"""The phases of every run of a study as records, the same phases that the claim about three phases is judged by."""

from __future__ import annotations

from thalweg.experiments.paper.claims_spectra import cut_over_seeds, long_landscapes
from thalweg.experiments.paper.evidence import Evidence
from thalweg.records.run import PhaseRecord


def phase_records(evidence: Evidence) -> tuple[PhaseRecord, ...]:
    """The phases (straight pieces) of the matrix entropy along every run that is long enough, ordered by arm, seed and step."""
    return tuple(record for arm in evidence.landscapes for record in _phases_of_arm(evidence, arm))


def _phases_of_arm(evidence: Evidence, arm: str) -> list[PhaseRecord]:
    """The phases of the runs of one arm; all runs share one tolerance."""
    cut, records = cut_over_seeds(evidence, arm), []
    for (seed, landscape), phases in zip(long_landscapes(evidence, arm).items(), cut.runs if cut else (), strict=True):
        # A segment ends where the next one starts; the last one, whose stop is one past the end, ends at the last step.
        steps = [*(point.step for point in landscape.points), landscape.points[-1].step]
        records += [PhaseRecord(arm, seed, steps[piece.start], steps[piece.stop], piece.label) for piece in phases.segments]
    return records
