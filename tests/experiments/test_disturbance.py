"""Seconds that other work disturbed: noted, and no ratio is made of them."""

from dataclasses import replace

import pytest

from thalweg.experiments.disturbance import costs_of, disturbance, is_disturbed
from thalweg.records.run import Provenance, RunRecord, RunSummary, Surroundings

MADE = Provenance("1", "", "2", "3.11", "Linux", "cpu", "float32", 1)


def run(waiting: float = 0.0, steal: float = 0.0, load: float = 2.0, known: bool = True) -> RunRecord:
    around = Surroundings(waiting, steal, load, 2) if known else None
    return RunRecord("r", (), (), RunSummary("a", 0, "", 1, 1.0, 0.0, 1.0, 1, "", 1, (), {}, {}, {}, MADE, (), around))


@pytest.mark.parametrize(
    ("one", "expected"),
    [(run(), False), (run(waiting=0.04), False), (run(waiting=0.06), True), (run(steal=0.06), True), (run(0.03, 0.03), True)],
)
def test_a_twentieth_of_the_time_disturbs(one: RunRecord, expected: bool) -> None:
    assert is_disturbed(one) is expected


def test_what_is_not_known_disturbs_nothing() -> None:
    assert not is_disturbed(run(known=False))
    assert not is_disturbed(replace(run(), summary=None))


def test_one_disturbed_run_leaves_operations_alone() -> None:
    assert list(costs_of({0: run()}, {0: run()})) == ["seconds", "operations"]
    assert list(costs_of({0: run()}, {0: run(waiting=0.5)})) == ["operations"]


def test_the_note_says_how_many_runs_and_how_much() -> None:
    note = disturbance([run(), run(0.34, 0.07, 7.9), run(0.2, 0.0, 3.0)])
    assert note.startswith(
        "Other work ran beside 2 of 3 runs: they waited for a core in up to 34 % of their time, the host took up to 7 % of the "
        "machine and the load was up to 7.9 on 2 cores. Seconds are disturbed"
    )
    assert "the host took" not in disturbance([run(waiting=0.5)])
    assert disturbance([run(), run()]) == ""
