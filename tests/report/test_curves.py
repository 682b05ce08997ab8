from dataclasses import replace

import numpy as np
import pytest

from thalweg.records.run import EvaluationRecord, RunRecord, Score
from thalweg.report.curves import band, by_arm


def line(slope: float, offset: float = 0.0, seconds: float = 1.0) -> RunRecord:
    scores = lambda s: {"held-out": {"all": Score(0.0, slope * s + offset)}}  # noqa: E731
    return RunRecord("r", tuple(EvaluationRecord(s, s * seconds, s, 1, scores(s)) for s in range(0, 101, 10)), (), None)


def loss(e: EvaluationRecord) -> float:
    return e.scores["held-out"]["all"].loss


def test_runs_scored_at_the_same_steps_keep_them() -> None:
    found = band([line(1.0), line(3.0)], lambda e: e.step, loss)
    np.testing.assert_array_equal(found.x, np.arange(0, 101, 10))
    np.testing.assert_allclose(found.mean, 2 * found.x)


def test_runs_of_different_speed_share_the_stretch_that_all_cover() -> None:
    found = band([line(1.0, seconds=1.0), line(2.0, seconds=2.0)], lambda e: e.seconds, loss, points=11)
    assert (found.x[0], found.x[-1]) == (0, 100)
    np.testing.assert_allclose(found.mean, found.x, atol=1e-12)
    np.testing.assert_allclose(found.high - found.low, 0, atol=1e-9)


def test_band_of_two_seeds_is_the_t_interval() -> None:
    found = band([line(0.0, 1.0), line(0.0, 3.0)], lambda e: e.step, loss)
    np.testing.assert_allclose(found.high - found.mean, 12.706204736, rtol=1e-9)


def test_a_single_seed_has_no_band() -> None:
    found = band([line(1.0)], lambda e: e.step, loss)
    np.testing.assert_array_equal(found.low, found.high)


def test_runs_that_are_not_complete_are_left_out(runs: dict[str, RunRecord]) -> None:
    runs["looped-seed1"] = replace(runs["looped-seed1"], summary=None)
    assert [len(group) for group in by_arm(runs, ("looped", "single")).values()] == [2, 3]


def test_an_arm_without_runs_is_left_out(runs: dict[str, RunRecord]) -> None:
    assert list(by_arm(runs, ("looped", "other"))) == ["looped"]


@pytest.mark.parametrize("order", [("single", "looped"), ("looped", "single")])
def test_arms_keep_their_order(runs: dict[str, RunRecord], order: tuple[str, ...]) -> None:
    assert tuple(by_arm(runs, order)) == order
