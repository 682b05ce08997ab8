import math

import pytest
import torch

from thalweg.errors import EmptySubspaceError, NonFiniteError, OrthonormalityError, ShapeMismatchError, StepSizeError
from thalweg.landscape.ablation import ablation

VALLEY, RIVER = torch.eye(2)[:, :1], torch.eye(2)[:, 1:]


def bent(bend, base, slope):
    """Gradient of ``(base + bend y) x^2 / 2 - slope y``: the river sharpens where bend is above 0."""
    return lambda p: torch.stack([(base + bend * p[1]) * p[0], bend * p[0] ** 2 / 2 - slope])


def flattening():
    return ablation(bent(-1.0, 1.9, 3e-4), torch.tensor([0.1, 0.0]).double(), VALLEY, 1.0, 100)


def test_hopping_drives_a_river_that_flattens():
    found = flattening()
    assert found.verdict == "supported"
    assert found.plain.along_slope == pytest.approx(0.0538, abs=1e-4)
    assert found.bulk_on_floor.along_slope == pytest.approx(0.03, abs=1e-6)


def test_hopping_brakes_a_river_that_sharpens():
    assert ablation(bent(1.0, 2.0, 1e-3), torch.tensor([1e-3, 0.0]).double(), VALLEY, 1.0, 400).verdict == "opposed"


def test_hopping_may_keep_a_river_from_moving_at_all():
    found = ablation(bent(1.0, 2.0, 1e-3), torch.tensor([0.05, 0.0]).double(), VALLEY, 1.0, 300)
    assert found.plain.along_slope < 0
    assert math.isnan(found.lost(found.half_rate))
    assert found.verdict == "opposed"


def test_on_a_parabola_the_river_does_not_care():
    found = ablation(bent(0.0, 1.9, 1e-3), torch.tensor([1.0, 0.0]).double(), VALLEY, 1.0, 50)
    assert found.verdict == "not supported"
    assert found.lost(found.half_rate) == pytest.approx(0, abs=1e-12)


def test_bulk_only_off_the_floor_goes_further_although_hopping_drives():
    """The valley's displacement stays and pushes at each step: ``K (h + x^2 / 2)``."""
    found = flattening()
    assert found.bulk_only.along_slope == pytest.approx(100 * (3e-4 + 0.1**2 / 2))
    assert found.bulk_only.along_slope > 5 * found.plain.along_slope


def test_valley_only_leaves_the_river_and_bulk_only_the_valley():
    found = flattening()
    assert found.valley_only.along_slope == 0
    assert found.bulk_only.last[0] == pytest.approx(0.1)
    assert found.plain.last[0].abs() < 1e-3


def test_one_loss_alone_is_not_support():
    """Coupling at quadratic order: the floor is where progress is lost, but half of the rate keeps it."""

    def coupled(p):
        return torch.stack([0.5 * p[0], -0.01 - 0.5 * p[0]])

    found = ablation(coupled, torch.tensor([1.0, 0.0]).double(), VALLEY, 1.0, 100)
    assert found.lost(found.bulk_on_floor) > 0.1
    assert abs(found.lost(found.half_rate)) < 0.1
    assert found.verdict == "not supported"


def test_progress_against_the_slope_is_no_progress():
    found = ablation(bent(0.0, 1.0, 1.0), torch.zeros(2).double(), VALLEY, 0.1, 10, downhill=torch.tensor([3.0, -1.0]))
    assert found.plain.along_slope == pytest.approx(-1)
    assert found.verdict == "no progress"


def test_a_river_frame_gives_its_coordinates():
    gradient = lambda p: torch.tensor([1.5, 0.0, 0.0]).double() * p - torch.tensor([0.0, 1.0, 2.0])  # noqa: E731
    frame = torch.eye(3)[:, 1:]
    found = ablation(gradient, torch.ones(3).double(), torch.eye(3)[:, :1], 0.1, 10, river=frame)
    assert found.plain.displacement.tolist() == pytest.approx([1, 2])
    assert found.plain.norm == pytest.approx(5**0.5)
    whole = ablation(gradient, torch.ones(3).double(), torch.eye(3)[:, :1], 0.1, 10)
    assert whole.plain.displacement.tolist() == pytest.approx([0, 1, 2])
    assert whole.plain.along_slope == pytest.approx(found.plain.along_slope)


def test_one_step_and_float32_are_taken():
    found = ablation(bent(0.0, 1.0, 1.0), torch.zeros(2), VALLEY, 0.5, 1)
    assert found.plain.along_slope == 0.5
    assert found.plain.last.dtype == torch.float64


def test_what_is_refused():
    start, run = torch.ones(2).double(), bent(0.0, 1.5, 1.0)
    with pytest.raises(
        NonFiniteError, match=r"^gradient: NaN or infinity in the plain run, expected finite numbers; take a smaller rate$"
    ):
        ablation(bent(1.0, 1.0, -1.0), start, VALLEY, 3.0, 2000, downhill=torch.ones(2), settle=0)
    with pytest.raises(EmptySubspaceError, match=r"^downhill: has no part in the river"):
        ablation(run, start, VALLEY, 0.1, 5, downhill=torch.tensor([1.0, 0.0]))
    with pytest.raises(EmptySubspaceError, match=r"^downhill: has no part in the river"):
        ablation(bent(0.0, 1.5, 0.0), start, VALLEY, 0.1, 5)
    with pytest.raises(ShapeMismatchError, match=r"^gradient: returned shape \(1,\), expected \(2,\)$"):
        ablation(lambda p: p[:1], start, VALLEY, 0.1, 5)
    with pytest.raises(ShapeMismatchError, match=r"^start: given shape \(1, 2\), expected \(P,\)$"):
        ablation(run, start.unsqueeze(0), VALLEY, 0.1, 5)
    with pytest.raises(ShapeMismatchError, match=r"^valley frame: given shape \(3, 1\), expected \(2, k\)$"):
        ablation(run, start, torch.eye(3)[:, :1], 0.1, 5)
    with pytest.raises(OrthonormalityError, match=r"^valley frame: "):
        ablation(run, start, 2 * VALLEY, 0.1, 5)
    with pytest.raises(StepSizeError, match=r"^rate: given -1, expected a positive number$"):
        ablation(run, start, VALLEY, -1, 5)
