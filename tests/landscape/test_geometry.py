import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.errors import BadInputError, EmptySubspaceError, InsufficientDataError, OrthonormalityError, ShapeMismatchError
from thalweg.landscape.geometry import geometry, path, quadratic_tortuosity


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parabola(sharpness, steps, drift=0.1):
    """Gradient descent on a valley of this sharpness with a straight river."""
    x = [1.0]
    for _ in range(steps):
        x.append(x[-1] - sharpness * x[-1])
    return torch.stack([torch.tensor(x, dtype=torch.float64), drift * torch.arange(steps + 1, dtype=torch.float64)], 1)


VALLEY = torch.eye(2)[:, :1]


@pytest.mark.parametrize(("sharpness", "stated"), [(0.05, 1), (0.5, 1), (0.95, 1), (1.05, 1.105), (1.5, 3.0), (1.95, 39.0)])
def test_the_valley_winds_as_the_closed_form_says(sharpness, stated):
    assert geometry(parabola(sharpness, 40), VALLEY).valley.tortuosity == pytest.approx(
        quadratic_tortuosity(sharpness, 40), rel=1e-10
    )
    assert quadratic_tortuosity(sharpness, 40) == pytest.approx(stated, abs=5e-4)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1, 3).filter(lambda z: min(abs(z), abs(z - 2)) > 1e-3), st.integers(1, 60))
def test_the_closed_form_is_the_sum(sharpness, steps):
    q = [(1 - sharpness) ** k for k in range(steps)]
    exact = abs(sharpness) * math.fsum(map(abs, q)) / abs(sharpness * math.fsum(q))
    assert quadratic_tortuosity(sharpness, steps) == pytest.approx(exact, rel=1e-9)


def test_the_closed_form_at_its_limits():
    assert math.isnan(quadratic_tortuosity(0.0, 5))
    assert quadratic_tortuosity(1.0, 5) == 1
    assert quadratic_tortuosity(2.0, 5) == 5
    assert quadratic_tortuosity(2.0, 6) == math.inf
    assert quadratic_tortuosity(1.7, 1) == pytest.approx(1)
    assert quadratic_tortuosity(3.0, 10**9) == 3
    assert quadratic_tortuosity(-5.0, 10**9) == 1


@settings(max_examples=100, deadline=None)
@given(st.floats(1.001, 1.999), st.integers(1, 100))
def test_two_means_four_thirds(sharpness, half):
    assert (quadratic_tortuosity(sharpness, 2 * half) >= 2) == (sharpness / (2 - sharpness) >= 2)


def test_a_straight_river_has_tortuosity_one():
    found = geometry(parabola(1.9, 40), VALLEY)
    assert found.river.tortuosity == pytest.approx(1, abs=1e-12)
    assert found.river.net == pytest.approx(4)
    assert found.hop_ratio == pytest.approx(found.valley.length / 4)


def test_rotating_everything_changes_nothing():
    turn = torch.linalg.qr(drawn(0, 4, 4))[0]
    points, valley, river = drawn(1, 31, 4), torch.eye(4).double()[:, :2], torch.eye(4).double()[:, 3:]
    one, two = geometry(points, valley, river), geometry(points @ turn.T, turn @ valley, turn @ river)
    assert one.valley.tortuosity == pytest.approx(two.valley.tortuosity)
    assert one.hop_ratio == pytest.approx(two.hop_ratio)
    assert torch.allclose(one.amplitude, two.amplitude)


def test_one_frame_a_step_that_stays_is_a_frozen_frame_whatever_its_signs():
    points, valley = drawn(1, 31, 4), torch.linalg.qr(drawn(2, 4, 2))[0]
    moving = valley * drawn(3, 30, 1, 2).sign()
    one, two = geometry(points, valley), geometry(points, moving)
    assert one.valley.tortuosity == pytest.approx(two.valley.tortuosity)
    assert one.river.tortuosity == pytest.approx(two.river.tortuosity)
    assert torch.allclose(one.amplitude, two.amplitude)


def test_amplitude_is_that_of_the_hops_and_not_of_the_drift():
    k = torch.arange(41, dtype=torch.float64)
    walk = torch.stack([0.3 * (-1) ** k + 2 * k, 5 * k, 0 * k], 1)
    found = geometry(walk, torch.eye(3)[:, :2], torch.eye(3)[:, 2:])
    assert found.amplitude.tolist() == pytest.approx([0.3, 0], abs=1e-12)


def test_no_motion_has_no_tortuosity():
    found = geometry(torch.ones(30, 2), VALLEY)
    assert math.isnan(found.valley.tortuosity)
    assert math.isnan(found.hop_ratio)


def test_a_closed_walk_is_infinitely_winding():
    assert path(torch.tensor([[1.0], [-1.0]])).tortuosity == math.inf
    k = torch.arange(31, dtype=torch.float64)
    assert geometry(torch.stack([(-1) ** k, 0 * k], 1), VALLEY).hop_ratio == math.inf


def test_float32_is_taken():
    one, two = geometry(parabola(1.5, 30), VALLEY), geometry(parabola(1.5, 30).float(), VALLEY)
    assert one.river.tortuosity == pytest.approx(two.river.tortuosity, rel=1e-6)


def test_what_is_refused():
    with pytest.raises(InsufficientDataError, match=r"^window: 19 steps, expected at least 20$"):
        geometry(drawn(0, 20, 2), VALLEY)
    with pytest.raises(InsufficientDataError, match=r"^window: 25 steps, expected at least average \+ 2 = 32$"):
        geometry(drawn(0, 26, 2), VALLEY, average=30)
    with pytest.raises(BadInputError, match=r"^average: given 5, expected an even whole number of at least 2$"):
        geometry(drawn(0, 30, 2), VALLEY, average=5)
    with pytest.raises(ShapeMismatchError, match=r"^points: given shape \(30,\), expected \(W \+ 1, P\)$"):
        geometry(drawn(0, 30), VALLEY)
    with pytest.raises(ShapeMismatchError, match=r"^river frame: given shape \(3, 1\), expected \(2, k\) or \(29, 2, k\)$"):
        geometry(drawn(0, 30, 2), VALLEY, torch.eye(3)[:, :1])
    with pytest.raises(OrthonormalityError, match=r"^valley frame: "):
        geometry(drawn(0, 30, 2), 2 * VALLEY)
    with pytest.raises(EmptySubspaceError, match=r"^valley frame: has no direction"):
        geometry(drawn(0, 30, 2), VALLEY[:, :0])
    with pytest.raises(BadInputError, match=r"^sharpness: given nan, expected a finite number$"):
        quadratic_tortuosity(math.nan, 5)
