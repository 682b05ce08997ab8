import math

import numpy as np
import pytest
import torch
from scipy import stats

from thalweg.errors import BadInputError, EmptySubspaceError, InsufficientDataError, ShapeMismatchError
from thalweg.landscape.edge import edge
from thalweg.landscape.flips import flips
from thalweg.landscape.geometry import geometry
from thalweg.landscape.hopping import HoppingThenRiver, hopping, river_motion, trapped

VALLEY, RIVER = torch.eye(2)[:, :1], torch.eye(2)[:, 1:]


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decided(sharpness, drift=0.0, steps=50):
    """On a parabola of this sharpness, eta = 1, with a straight river."""
    x = (1 - sharpness) ** torch.arange(steps + 1, dtype=torch.float64)
    walk = torch.stack([x, torch.arange(steps + 1, dtype=torch.float64)], 1)
    return hopping(flips(x[:-1, None]), geometry(walk, VALLEY), edge([sharpness / 2] * steps), drift)


@pytest.mark.parametrize(("sharpness", "hops"), [(0.5, False), (1.2, False), (1.34, True), (1.9, True), (2.3, True), (2.5, False)])
def test_a_parabola_hops_from_four_thirds_to_the_upper_ratio(sharpness, hops):
    assert decided(sharpness).hops == hops


def test_every_condition_can_decide_alone():
    assert [c.held for c in decided(0.5).conditions] == [False, False, False]
    assert [c.held for c in decided(1.2).conditions] == [True, False, True]
    assert [c.held for c in decided(2.5).conditions] == [True, True, False]


def test_the_sign_of_the_cubic_drift_is_always_there():
    assert decided(1.5, 0.2).drift_words == "hopping brakes the river"
    assert decided(1.5, -0.2).drift_words == "hopping helps the river"
    assert decided(0.5, 0.0).drift_words == "no cubic drift along the slope"


def test_the_hopping_directions_are_named():
    x = torch.stack([0.9 ** torch.arange(51.0), (-0.9) ** torch.arange(51.0), torch.arange(51.0)], 1).double()
    found = hopping(flips(x[:-1, :2]), geometry(x, torch.eye(3)[:, :2]), edge([0.95] * 50), 0.0)
    assert found.directions.tolist() == [1]
    assert not decided(0.5).directions.numel()


def test_flips_above_the_threshold_by_chance_are_undecided_and_rare_ones_are_not():
    signs = torch.ones(51, dtype=torch.float64)
    signs[1::4] = signs[2::4] = -1  # + - - +: half of the pairs flip
    signs[-3:] = torch.tensor([1.0, -1.0, 1.0])
    counted = flips(signs[:, None])
    assert counted.share > 0.5
    found = hopping(counted, geometry(torch.stack([signs, torch.arange(51.0)], 1), VALLEY), edge([0.9] * 50), 0.0)
    assert not found.hops
    assert [c.held for c in found.conditions] == [None, True, True]
    slow = (torch.arange(51.0, dtype=torch.float64) / 8).sin()  # flips seldom
    rare = hopping(flips(slow[:, None]), geometry(torch.stack([slow, torch.arange(51.0)], 1), VALLEY), edge([0.9] * 50), 0.0)
    assert rare.conditions[0].held is False


def test_a_valley_without_motion_does_not_hop():
    walk = torch.stack([torch.zeros(51), torch.arange(51.0)], 1)
    assert not hopping(flips(walk[:-1, :1]), geometry(walk, VALLEY), edge([0.9] * 50), 0.0).hops


def walks(aim, seed, steps=60):
    """A walk with unit noise and a drift along the river."""
    moves = drawn(seed, steps, 3)
    moves[:, 2] += aim
    return torch.cat([torch.zeros(1, 3).double(), moves.cumsum(0)])


AIM = torch.tensor([5.0, 0.0, 1.0])
ALONG = torch.eye(3)[:, 1:]


def test_a_river_that_flows_is_seen():
    found = river_motion(walks(3, 0), AIM, ALONG)
    assert found.flows
    assert found.per_step.mean == pytest.approx(3, abs=0.5)
    assert river_motion(walks(-3, 0), AIM, ALONG).conditions[0].held is False


def test_a_walk_without_aim_is_not_shown_to_stand():
    found = [river_motion(walks(0, seed), AIM, ALONG).conditions[0].held for seed in range(200)]
    assert sum(held is None for held in found) > 180


def test_a_walk_without_aim_is_forward_as_rarely_as_the_level_says():
    """2.5 % plus 4 standard errors of 600 walks; the norm of its displacement is positive always."""
    found = [river_motion(walks(0, seed), AIM, ALONG) for seed in range(600)]
    assert sum(one.conditions[0].held is True for one in found) / 600 < 0.025 + 4 * (0.025 / 600) ** 0.5


def test_along_its_own_net_displacement_a_walk_without_aim_looks_forward():
    """Why the direction has to be chosen before the window."""
    for seed in range(20):
        walk = torch.cat([torch.zeros(1, 41).double(), drawn(seed, 60, 41).cumsum(0)])
        assert river_motion(walk, walk[-1] - walk[0], torch.eye(41)[:, 1:]).conditions[0].held


def test_a_winding_river_does_not_flow():
    k = torch.arange(61, dtype=torch.float64)
    walk = torch.stack([0 * k, 3 * (-1) ** k, k], 1)
    found = river_motion(walk, AIM, ALONG)
    assert [c.held for c in found.conditions] == [True, False]


def test_river_and_valley_say_the_same():
    one, two = river_motion(walks(1, 0), AIM, ALONG), river_motion(walks(1, 0), AIM, valley=torch.eye(3)[:, :1])
    assert one.per_step.mean == pytest.approx(two.per_step.mean)
    assert one.tortuosity == pytest.approx(two.tortuosity)


def test_a_noiseless_river_flows():
    assert river_motion(torch.arange(41.0).unsqueeze(1) * torch.ones(2), torch.ones(2), RIVER).flows


def test_hopping_then_river_needs_both():
    flowing, still = river_motion(walks(3, 0), AIM, ALONG), river_motion(walks(0, 0), AIM, ALONG)
    assert HoppingThenRiver(decided(1.9, -0.1), flowing).holds
    assert HoppingThenRiver(decided(1.9, -0.1), flowing).cubic_drift == -0.1
    assert not HoppingThenRiver(decided(1.9), still).holds
    assert not HoppingThenRiver(decided(0.5), flowing).holds


STILL = {
    "river_gradient": 1e-4,
    "first_gradient": 1.0,
    "losses": [2.0 - 1e-7 * k for k in range(100)],
    "edge_ratio": 0.49,
    "valley_class": "U",
    "cubic_drift": 0.3,
}


def test_trapped_is_when_all_four_hold():
    assert trapped(**STILL).is_trapped
    assert trapped(**STILL).cubic_drift == 0.3


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"river_gradient": 1.1e-3}),
        (1, {"losses": [2.0 - 3e-6 * k for k in range(100)]}),
        (1, {"losses": [2.0 + 3e-6 * k for k in range(100)]}),
        (2, {"edge_ratio": 0.5}),
        (3, {"valley_class": "V"}),
        (3, {"valley_class": "indeterminate"}),
    ],
)
def test_each_condition_frees_alone(number, change):
    found = trapped(**{**STILL, **change})
    assert [i for i, condition in enumerate(found.conditions) if not condition.held] == [number]


@pytest.mark.parametrize(("noise", "slope", "held"), [(1e-5, 0, True), (3e-3, 0, None), (3e-3, 1e-2, False), (1e-5, 1.5e-4, False)])
def test_a_loss_is_constant_only_if_its_slopes_interval_lies_within_the_margin(noise, slope, held):
    """A noisy loss without a visible slope used to count as constant where its slope happened to be small."""
    k = np.arange(100)
    losses = 2 * (1 + slope * k / 100 + noise * np.random.default_rng(3).standard_normal(100))
    found = trapped(**{**STILL, "losses": losses.tolist()})
    assert found.conditions[1].held is held
    assert found.is_trapped == (held is True)
    blocks, centres = (losses / losses.mean()).reshape(10, 10).mean(1), np.arange(10) / 10
    line = stats.linregress(centres, blocks)
    half = stats.t.ppf(0.975, 8) * line.stderr
    assert found.conditions[1].measured == pytest.approx(max(abs(line.slope - half), abs(line.slope + half)))


def test_a_class_that_is_not_known_leaves_a_window_undecided():
    held = {name: trapped(**{**STILL, "valley_class": name}).conditions[3].held for name in ("U", "V", "saddle", "indeterminate")}
    assert held == {"U": True, "V": False, "saddle": False, "indeterminate": None}


def test_losses_of_zero_stand():
    assert trapped(**{**STILL, "losses": [0.0] * 20}).is_trapped


def test_what_is_refused():
    with pytest.raises(BadInputError, match=r"^cubic_drift: given nan, expected a finite number$"):
        decided(1.5, math.nan)
    with pytest.raises(InsufficientDataError, match=r"^window: 10 steps, expected at least 20$"):
        river_motion(drawn(0, 11, 2), torch.ones(2), RIVER)
    with pytest.raises(EmptySubspaceError, match=r"^downhill: has no part in the river, expected a direction that does$"):
        river_motion(drawn(0, 41, 2), torch.tensor([1.0, 0.0]), RIVER)
    with pytest.raises(BadInputError, match=r"^river and valley: given 0 frames, expected one of the two$"):
        river_motion(drawn(0, 41, 2), torch.ones(2))
    with pytest.raises(ShapeMismatchError, match=r"^points: given shape \(41,\), expected \(W \+ 1, P\)$"):
        river_motion(drawn(0, 41), torch.ones(1), RIVER)
    with pytest.raises(BadInputError, match=r"^unknown class 'W'"):
        trapped(**{**STILL, "valley_class": "W"})
    with pytest.raises(InsufficientDataError, match=r"^window: 3 losses, expected at least 20$"):
        trapped(**{**STILL, "losses": [1.0] * 3})
    with pytest.raises(BadInputError, match=r"^first_gradient: given 0.0, expected a positive norm$"):
        trapped(**{**STILL, "first_gradient": 0.0})
    with pytest.raises(BadInputError, match=r"^river_gradient: given -1.0, expected a norm$"):
        trapped(**{**STILL, "river_gradient": -1.0})
