import math

import pytest

from thalweg.train.config import OptimizerConfig
from thalweg.train.rates import rate_at


def rates(steps: int, **fields) -> list[float]:
    return [rate_at(OptimizerConfig(rate=2.0, **fields), step, steps) for step in range(steps)]


def test_constant_is_constant() -> None:
    assert set(rates(9)) == {2.0}


def test_cosine_is_half_way_in_the_middle_and_near_zero_at_the_end() -> None:
    values = rates(100, schedule="cosine")
    assert (values[0], values[50]) == (2.0, pytest.approx(1.0))
    assert values[99] == pytest.approx(1 + math.cos(math.pi * 0.99))


def test_wsd_is_stable_and_then_falls_in_a_straight_line() -> None:
    values = rates(100, schedule="wsd", decay_share=0.2)
    assert set(values[:80]) == {2.0}
    assert values[80:] == pytest.approx([2.0 * (100 - s) / 20 for s in range(80, 100)])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd"])
def test_warmup_rises_in_a_straight_line_from_the_first_update(schedule: str) -> None:
    cold = rates(50, schedule=schedule)
    warm = rates(50, schedule=schedule, warmup=10)
    assert [w / c for w, c in zip(warm, cold, strict=True)] == pytest.approx([min(1, (s + 1) / 10) for s in range(50)])
