import itertools

import pytest
import torch

from thalweg.errors import BadInputError, InsufficientDataError, NonFiniteError
from thalweg.theory.descent import descend
from thalweg.theory.segments import segments
from thalweg.theory.taylor import follow, taylor_model

ROWS = torch.randn(10, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.linspace(-1, 1, 6, dtype=torch.float64)


def gradient(point):
    return ROWS.T @ (ROWS @ point).tanh() / 4 - 0.3


def hessian(point):
    return (ROWS.T / (ROWS @ point).cosh().square()) @ ROWS / 4


RUN = descend(gradient, START, 0.1, 80)


def test_segments_cover_the_run_without_gaps():
    found = segments(gradient, hessian, RUN, 0.1)
    assert len(found) > 2
    assert found[0].start == 0
    assert found[-1].end == 80
    assert all(one.end == two.start for one, two in itertools.pairwise(found))


def test_every_segment_of_more_than_a_step_keeps_its_share():
    for share in (0.01, 0.05, 0.3):
        found = segments(gradient, hessian, RUN, 0.1, share)
        assert all(part.bound <= share * part.moved or part.steps == 1 for part in found)


def test_segments_are_as_long_as_they_can_be():
    for part in segments(gradient, hessian, RUN, 0.1)[:-1]:
        model = taylor_model(hessian(RUN[part.start]), gradient(RUN[part.start]), 0.1, part.steps + 1)
        longer = follow(model, gradient, RUN[part.start : part.end + 2])
        assert float(longer.bound[-1]) > 0.05 * float(longer.moved[-1])


def test_errors_and_bounds_are_those_of_the_model_at_the_anchor():
    for part in segments(gradient, hessian, RUN, 0.1):
        model = taylor_model(hessian(RUN[part.start]), gradient(RUN[part.start]), 0.1, part.steps)
        found = follow(model, gradient, RUN[part.start : part.end + 1])
        assert part.error == pytest.approx(float(found.errors[-1]), rel=1e-9, abs=1e-15)
        assert part.bound == pytest.approx(float(found.bound[-1]), rel=1e-9, abs=1e-15)
        assert part.error <= part.bound + 1e-14


def test_a_larger_share_makes_fewer_segments():
    counts = [len(segments(gradient, hessian, RUN, 0.1, share)) for share in (0.01, 0.05, 0.3)]
    assert counts[0] > counts[1] > counts[2]


def test_re_anchored_after_a_number_of_steps():
    found = segments(gradient, hessian, RUN, 0.1, every=30)
    assert [(part.start, part.end) for part in found] == [(0, 30), (30, 60), (60, 80)]


def test_a_quadratic_is_one_segment():
    points = descend(lambda p: p / 2, START, 0.3, 200)
    assert [part.steps for part in segments(lambda p: p / 2, lambda _: torch.eye(6) / 2, points, 0.3)] == [200]


def test_a_resting_run_is_one_segment():
    assert [part.steps for part in segments(torch.zeros_like, lambda _: torch.eye(6), START.repeat(9, 1), 0.3)] == [8]


def test_what_is_refused():
    with pytest.raises(InsufficientDataError, match=r"^points: given 1, expected at least 2, one before and one after a step$"):
        segments(gradient, hessian, RUN[:1], 0.1)
    with pytest.raises(BadInputError, match=r"^share: given 0, expected a number between 0 and 1$"):
        segments(gradient, hessian, RUN, 0.1, share=0)
    with pytest.raises(BadInputError, match=r"^every: given 0, expected a whole number of at least 1$"):
        segments(gradient, hessian, RUN, 0.1, every=0)
    with pytest.raises(NonFiniteError, match=r"^run: diverges beyond 1e\+150 at step 80;"):
        segments(gradient, hessian, torch.cat([RUN[:-1], RUN[-1:] * 1e200]), 0.1)
