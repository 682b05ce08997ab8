"""Phases of a study's runs, from planted entropies."""

from dataclasses import replace

from planted import END, landscape, point, run

from thalweg.experiments.paper.claims_spectra import phases_of
from thalweg.experiments.paper.evidence import Evidence
from thalweg.experiments.paper.phase_records import phase_records
from thalweg.landscape.phases import LEAST_POINTS
from thalweg.records.landscape import Measure


def recorded(landscapes):
    return phase_records(Evidence({}, landscapes, lambda *key: None))


def planted_run(values):
    return landscape(points=tuple(replace(point(10 * k), entropy=Measure(value)) for k, value in enumerate(values)))


def test_a_fall_and_a_rise_are_two_phases_that_meet_and_cover_the_run():
    half = LEAST_POINTS // 2
    values = [5 - 0.1 * k for k in range(half)] + [3 + 0.1 * k for k in range(half)]
    found = recorded({"looped": {3: planted_run(values)}})
    assert [(one.arm, one.seed, one.label) for one in found] == [("looped", 3, "collapse"), ("looped", 3, "diversification")]
    assert (found[0].begin, found[-1].end) == (0, 10 * (2 * half - 1))
    assert found[0].end == found[1].begin
    assert abs(found[0].end - 10 * half) <= 10


def test_runs_with_few_checkpoints_have_none():
    assert recorded({"looped": {0: planted_run([1.0] * (LEAST_POINTS - 1))}}) == ()


def test_what_is_drawn_is_what_the_claim_is_judged_by():
    """A rise of a hundredth of what another seed spans is stable: all runs of an arm are cut with one tolerance."""
    wide = [5 - 0.1 * k for k in range(LEAST_POINTS)]
    narrow = [1 + 0.001 * k for k in range(LEAST_POINTS)]
    evidence = Evidence({}, {"looped": {0: planted_run(wide), 1: planted_run(narrow), 2: planted_run(wide)}}, lambda *key: None)
    found = {one.seed: one.label for one in phase_records(evidence)}
    assert found == {0: "collapse", 1: "stable", 2: "collapse"}
    assert [run.labels for run in phases_of(evidence, "looped").runs] == [("collapse",), ("stable",), ("collapse",)]
    assert {one.label for one in recorded({"looped": {1: planted_run(narrow)}})} == {"diversification"}


def test_runs_that_were_not_measured_to_their_end_have_none():
    assert 10 * LEAST_POINTS < END / 2
    evidence = Evidence({"looped": {0: run()}}, {"looped": {0: planted_run([1.0] * LEAST_POINTS)}}, lambda *key: None)
    assert phase_records(evidence) == ()
