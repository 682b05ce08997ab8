"""Phases of a study's runs, from planted entropies."""

from dataclasses import replace

from planted import landscape, point

from thalweg.landscape.phases import LEAST_POINTS
from thalweg.landscapes import Measure
from thalweg.study.phase_records import phase_records


def planted_run(values):
    return landscape(points=tuple(replace(point(10 * k), entropy=Measure(value)) for k, value in enumerate(values)))


def test_a_fall_and_a_rise_are_two_phases_that_meet_and_cover_the_run():
    half = LEAST_POINTS // 2
    values = [5 - 0.1 * k for k in range(half)] + [3 + 0.1 * k for k in range(half)]
    found = phase_records({"looped": {3: planted_run(values)}})
    assert [(one.arm, one.seed, one.label) for one in found] == [("looped", 3, "collapse"), ("looped", 3, "diversification")]
    assert (found[0].begin, found[-1].end) == (0, 10 * (2 * half - 1))
    assert found[0].end == found[1].begin
    assert abs(found[0].end - 10 * half) <= 10


def test_runs_with_few_checkpoints_have_none():
    assert phase_records({"looped": {0: planted_run([1.0] * (LEAST_POINTS - 1))}}) == ()
