import pytest
import torch

from thalweg.errors import InsufficientDataError, NonFiniteError, ShapeMismatchError, StepSizeError
from thalweg.theory.descent import descend, run_path


def test_on_a_quadratic_a_displacement_shrinks_by_its_power():
    values = torch.tensor([0.0, 1.0, 2.0, 4.0, -1.0], dtype=torch.float64)
    points = descend(lambda point: values * point, torch.ones(5), rate=0.5, steps=7)
    assert torch.allclose(points, (1 - 0.5 * values) ** torch.arange(8).unsqueeze(1), rtol=1e-12, atol=0)


def test_a_gradient_in_float32_is_followed_in_float64():
    assert descend(lambda point: point.float(), torch.ones(3), rate=0.1, steps=2).dtype == torch.float64


def test_a_diverging_run_is_refused_with_its_step():
    with pytest.raises(NonFiniteError, match=r"^run: diverges beyond 1e\+150 at step 158; use a smaller rate or fewer steps$"):
        descend(lambda point: -8 * point, torch.ones(1), rate=1.0, steps=170)
    with pytest.raises(NonFiniteError, match=r"^run: its gradient is not finite at step 1; use a smaller rate or fewer steps$"):
        descend(lambda point: point.sqrt(), torch.ones(1), rate=2.0, steps=5)


def test_what_is_refused():
    with pytest.raises(ShapeMismatchError, match=r"^gradient: given shape \(2,\), expected \(3,\)$"):
        descend(lambda point: point[:2], torch.ones(3), rate=1.0, steps=1)
    with pytest.raises(StepSizeError, match=r"^rate: given 0, expected a positive number$"):
        descend(lambda point: point, torch.ones(3), rate=0, steps=1)
    with pytest.raises(InsufficientDataError, match=r"^points: given 1, expected at least 2, one before and one after a step$"):
        run_path(torch.ones(1, 3))
    with pytest.raises(ShapeMismatchError, match=r"^points: given shape \(3,\), expected \(K \+ 1, P\)$"):
        run_path(torch.ones(3))
