import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from thalweg.errors import (
    BadInputError,
    EmptySubspaceError,
    InsufficientDataError,
    NonFiniteError,
    OrthonormalityError,
    ShapeMismatchError,
)
from thalweg.landscape.flips import (
    aligned,
    along,
    deterministic_law,
    driven_law,
    flips,
    minibatch_law,
    minibatch_sharpness,
)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def settled_run(sharpness, momentum=0.0, steps=400, runs=200, minibatch=False, seed=0):
    """The recursion with noise, 300 steps to settle."""
    noise, x, before, rows = drawn(seed, steps + 300, runs), torch.zeros(runs).double(), torch.zeros(runs).double(), []
    for row in noise:
        rows.append(sharpness * x + row * minibatch)
        x, before = x - sharpness * x - row + momentum * (x - before), x
    return torch.stack(rows[300:])


def turning(degrees, steps=40, dim=5, columns=2):
    """Frames that turn in the plane of the first and the last axis."""
    frames = torch.eye(dim, dtype=torch.float64)[:, :columns].repeat(steps, 1, 1)
    angles = torch.deg2rad(torch.linspace(0, degrees, steps, dtype=torch.float64))
    frames[:, 0, 0], frames[:, -1, 0] = angles.cos(), angles.sin()
    return frames


def test_random_signs_look_like_hopping_and_aligned_ones_do_not():
    """TEST 23: .51 against .07."""
    a = settled_run(0.024, steps=1500, runs=2)
    frames = turning(20, 1500)
    gradients = torch.einsum("wpk,wk->wp", frames, a)
    anew = frames * drawn(1, 1500, 1, 2).sign()
    trapped = flips(torch.einsum("wp,wpk->wk", gradients, anew)).share
    true = flips(a).share
    assert trapped.tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert true.max() < 0.12
    assert torch.equal(flips(along(gradients, anew)).share, true)


def test_procrustes_undoes_any_rotation_within_the_block():
    steps = 60
    base = torch.linalg.qr(drawn(0, 7, 3))[0]
    turns = torch.linalg.qr(drawn(1, steps, 3, 3))[0]
    found = aligned(base @ turns, block=True)
    assert torch.allclose(found.frames, (base @ turns[0]).expand(steps, -1, -1), atol=1e-12)
    assert found.degrees.max() < 1e-4


def test_aligned_columns_keep_their_sign_from_step_to_step():
    frames = turning(170, 100) * drawn(0, 100, 1, 2).sign()
    found = aligned(frames).frames
    assert ((found[1:] * found[:-1]).sum(1) > 0).all()


def test_rotation_is_measured_in_degrees():
    assert aligned(turning(25.0)).degrees.max() == pytest.approx(25, abs=1e-6)
    assert aligned(turning(25.0), block=True).degrees.max() == pytest.approx(25, abs=1e-6)


def test_a_frame_that_turns_too_far_is_refused():
    gradients = drawn(0, 40, 5)
    along(gradients, turning(29))
    with pytest.raises(
        BadInputError, match=r"^frames: rotate by 31 degrees, expected at most 30; shorten the window, or block=True"
    ):
        along(gradients, turning(31))
    with pytest.raises(BadInputError, match=r"expected at most 10; shorten the window$"):
        along(gradients, turning(11), block=True, most_degrees=10)


def test_eigenvectors_that_swap_are_one_block():
    frames = turning(0).clone()
    frames[20:] = frames[20:].flip(2)
    with pytest.raises(BadInputError, match="rotate by 90 degrees"):
        along(drawn(0, 40, 5), frames)
    assert torch.allclose(along(drawn(0, 40, 5), frames, block=True), drawn(0, 40, 5)[:, :2])


def test_a_frozen_frame_is_a_product():
    gradients, frame = drawn(0, 30, 6), torch.linalg.qr(drawn(1, 6, 2))[0]
    assert torch.allclose(along(gradients, frame), gradients @ frame)
    assert torch.allclose(along(gradients.float(), frame.float()), gradients @ frame, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 2.5).filter(lambda z: abs(z - 1) > 1e-3), st.integers(20, 200))
def test_descent_without_noise_gives_its_curvature_exactly(sharpness, steps):
    """TEST 22, first regime."""
    assume(abs(1 - sharpness) ** steps > 1e-300)  # below, the last coefficients are 0 and have no sign
    a = torch.tensor([(1 - sharpness) ** k for k in range(steps)], dtype=torch.float64).unsqueeze(1)
    found = flips(a)
    assert found.sharpness.item() == pytest.approx(sharpness, abs=1e-9)
    assert found.share.item() == deterministic_law(sharpness) == float(sharpness > 1)
    assert found.significant.item() == (sharpness > 1)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 1.5, 1.9])
def test_a_run_driven_by_noise_flips_by_the_law(sharpness):
    """TEST 22, second regime."""
    share = flips(settled_run(sharpness)).share
    assert abs(share.mean() - driven_law(sharpness)) < 4 * share.std() / len(share) ** 0.5
    assert flips(settled_run(sharpness)).sharpness.mean().item() == pytest.approx(sharpness, abs=0.02)


@pytest.mark.parametrize(("sharpness", "stated"), [(0.1, 0.517), (0.5, 0.578), (1.0, 0.666), (1.5, 0.769), (1.9, 0.899)])
def test_minibatch_gradients_flip_more_than_half_at_every_rate(sharpness, stated):
    """TEST 22, third regime."""
    found = flips(settled_run(sharpness, minibatch=True), minibatch=True)
    assert abs(found.share.mean() - minibatch_law(sharpness)) < 4 * found.share.std() / len(found.share) ** 0.5
    assert minibatch_law(sharpness) == pytest.approx(stated, abs=4e-3)
    assert found.sharpness.mean().item() == pytest.approx(sharpness, abs=0.02)


def test_minibatch_gradients_at_a_small_rate_hop_only_to_the_wrong_threshold():
    run = settled_run(0.5, minibatch=True, steps=3000, runs=5)
    assert flips(run).significant.all()
    assert not flips(run, minibatch=True).significant.any()
    assert flips(run, minibatch=True).threshold == pytest.approx(2 / 3)


@pytest.mark.parametrize(("sharpness", "stated"), [(0.01, 0.028), (0.5, 0.236), (1, 0.343), (1.9, 0.5), (2.5, 0.602), (3.5, 0.819)])
def test_heavy_ball_flips_with_its_angle(sharpness, stated):
    """TEST 22 with momentum."""
    roots = torch.linalg.eigvals(torch.tensor([[1.9 - sharpness, -0.9], [1.0, 0.0]], dtype=torch.float64))
    assert deterministic_law(sharpness, 0.9) == pytest.approx(roots.angle().abs().max().item() / math.pi, abs=1e-12)
    assert deterministic_law(sharpness, 0.9) == pytest.approx(stated, abs=5e-4)


def test_heavy_ball_outside_of_oscillation_flips_never_or_always():
    assert deterministic_law(0.002, 0.9) == 0
    assert deterministic_law(3.799, 0.9) == 1
    assert deterministic_law(-1.0, 0.5) == 0


@pytest.mark.parametrize("momentum", [0.3, 0.9])
@pytest.mark.parametrize("sharpness", [0.2, 1.5, 2.2])
def test_momentum_with_noise_has_its_curvature_and_share(momentum, sharpness):
    found = flips(settled_run(sharpness, momentum, steps=1500), momentum)
    assert abs(found.share.mean() - driven_law(sharpness, momentum)) < 4 * found.share.std() / 200**0.5
    assert found.sharpness.mean().item() == pytest.approx(sharpness, abs=0.02)


@pytest.mark.parametrize("momentum", [0.3, 0.9])
@pytest.mark.parametrize("sharpness", [0.2, 1.5, 2.2])
def test_momentum_with_minibatch_gradients_flips_by_the_law(momentum, sharpness):
    found = flips(settled_run(sharpness, momentum, 1500, minibatch=True), momentum, minibatch=True)
    assert abs(found.share.mean() - minibatch_law(sharpness, momentum)) < 4 * found.share.std() / 200**0.5


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.001, 0.999))
def test_minibatch_threshold_with_momentum_separates_hopping(momentum, part):
    threshold = flips(drawn(0, 20, 1), momentum, minibatch=True).threshold
    edge = 1 + momentum
    assert minibatch_law(edge, momentum) == pytest.approx(threshold, abs=1e-12)
    assert minibatch_law(part * edge, momentum) < threshold < minibatch_law((1 + part) * edge, momentum)


@settings(max_examples=100, deadline=None)
@given(st.floats(0.0, 0.95), st.floats(0.01, 0.99))
def test_minibatch_curvature_inverts_the_law(momentum, part):
    sharpness = 2 * (1 + momentum) * part
    correlation = math.cos(math.pi * minibatch_law(sharpness, momentum))
    found = minibatch_sharpness(torch.tensor([correlation], dtype=torch.float64), momentum).item()
    if correlation < -1e-3:
        assert found == pytest.approx(sharpness, rel=1e-6)
    elif correlation > 1e-9 and momentum:
        assert math.isnan(found)


@pytest.mark.parametrize("minibatch", [False, True])
@pytest.mark.parametrize("steps", [20, 50, 200])
def test_at_the_threshold_hopping_is_claimed_as_rarely_as_the_level_says(minibatch, steps):
    """2.5 % a side; 4 standard errors of 500 runs are 2.8 %."""
    run = settled_run(1.0, steps=steps, runs=500, minibatch=minibatch)
    claimed = [flips(run[:, [i]], minibatch=minibatch).significant.item() for i in range(500)]
    assert sum(claimed) / len(claimed) < 0.06


def test_many_directions_share_the_level():
    run = settled_run(1.0, steps=100, runs=40)
    together, alone = flips(run), flips(run[:, :1])
    assert together.high[0] - together.low[0] > alone.high[0] - alone.low[0]


def test_the_interval_is_that_of_many_resamples():
    """The closed form against the circular block bootstrap drawn by hand."""
    a = settled_run(1.4, steps=41, runs=1)
    found = flips(a)
    series, length = (a[1:, 0] * a[:-1, 0] < 0).double(), int(found.block[0])
    n = len(series)
    starts = torch.randint(n, (20000, n // length), generator=torch.Generator().manual_seed(0))
    blocks = series[(starts.unsqueeze(2) + torch.arange(length)) % n].mean(2).mean(1)
    error = blocks.std() * ((n // length) * length / n) ** 0.5 * (n / (n - length)) ** 0.5
    half = stats.t.ppf(0.975, n // length - 1) * error
    assert (found.high - found.low).item() / 2 == pytest.approx(half.item(), rel=0.03)


def test_blocks_are_as_long_as_the_memory():
    found = flips(settled_run(0.1, steps=2000, runs=3))
    assert torch.equal(found.block, (3 / (1 - found.correlation.abs())).ceil().long())
    assert found.conditions[0].held
    assert not flips(settled_run(0.02, steps=40, runs=1)).conditions[0].held


def test_a_direction_without_gradient_has_no_curvature_and_no_flips():
    found = flips(torch.cat([torch.zeros(30, 1), drawn(0, 30, 1)], 1))
    assert found.share[0] == 0
    assert found.sharpness.isnan().tolist() == [True, False]
    assert not found.conditions[1].held


def test_float32_and_tiny_series_are_taken():
    a = (-0.2) ** torch.arange(60, dtype=torch.float64).unsqueeze(1) * 1e-200
    assert flips(a).sharpness.item() == pytest.approx(1.2, abs=1e-9)
    assert flips(settled_run(1.2, runs=1).float()).sharpness.dtype == torch.float64


def test_scale_does_not_matter():
    run = settled_run(1.2, runs=3)
    assert torch.equal(flips(run).share, flips(1e-3 * run).share)
    assert torch.allclose(flips(run).sharpness, flips(1e-3 * run).sharpness)


@pytest.mark.parametrize("law", [driven_law, minibatch_law])
@pytest.mark.parametrize("sharpness", [0.0, 2.0, -0.1])
def test_laws_of_settled_runs_need_a_run_that_settles(law, sharpness):
    with pytest.raises(BadInputError, match=r"^sharpness: given .*, expected eta lam between 0 and 2 \(1 \+ momentum\) = 2$"):
        law(sharpness)


def test_what_is_refused():
    with pytest.raises(InsufficientDataError, match=r"^window: 19 steps, expected at least 20$"):
        flips(drawn(0, 19, 2))
    with pytest.raises(ShapeMismatchError, match=r"^coefficients: given shape \(30,\), expected \(W, k\) with k of at least 1$"):
        flips(drawn(0, 30))
    with pytest.raises(NonFiniteError, match=r"^coefficients: holds NaN"):
        flips(torch.full((30, 1), torch.nan))
    with pytest.raises(BadInputError, match=r"^momentum: given 1.0, expected a number from 0 to below 1$"):
        flips(drawn(0, 30, 1), momentum=1.0)
    with pytest.raises(BadInputError, match=r"^level: given 1.0, expected a number between 0 and 1$"):
        flips(drawn(0, 30, 1), level=1.0)
    with pytest.raises(ShapeMismatchError, match=r"^frames: given shape \(5, 2\), expected \(W, P, k\)"):
        aligned(torch.eye(5)[:, :2])
    with pytest.raises(ShapeMismatchError, match=r"^frames: given shape \(4, 2\), expected \(5, k\) or \(30, 5, k\)$"):
        along(drawn(0, 30, 5), torch.eye(4)[:, :2])
    with pytest.raises(ShapeMismatchError, match=r"^gradients: given shape \(5,\), expected \(W, P\)$"):
        along(drawn(0, 5), torch.eye(5))
    with pytest.raises(OrthonormalityError, match=r"^frames: \|V\^T V - I\| is 3.0e\+00, expected at most 1e-08$"):
        along(drawn(0, 30, 5), 2 * torch.eye(5).double())
    with pytest.raises(EmptySubspaceError, match=r"^frames: has no direction, expected at least 1$"):
        along(drawn(0, 30, 5), torch.eye(5)[:, :0])
