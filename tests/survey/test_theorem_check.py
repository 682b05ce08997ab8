import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from thalweg.errors import BadInputError, EmptySubspaceError, NonFiniteError
from thalweg.landscape.split import block_split, coordinates
from thalweg.records.landscape import TheoremsRecord
from thalweg.serialization import from_dict
from thalweg.survey.theorem_check import check_theorems, require_finite


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MATRIX = drawn(0, 8, 8) @ drawn(0, 8, 8).T / 8 + 0.1 * torch.eye(8)
PULL, START = drawn(1, 8), drawn(2, 8)
SPLIT = block_split(coordinates(8, torch.arange(5)), coordinates(8, torch.arange(5, 8)))


class Quadratic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(START.clone())

    def forward(self, rows: Tensor) -> Tensor:
        return rows.mean() * (self.theta @ MATRIX @ self.theta / 2 + PULL @ self.theta)


def beside(rate: float = 0.2, steps: int = 12, split_step: int = 3, step: int = 7, split=SPLIT, rows=1.0) -> TheoremsRecord:
    batch = torch.full((2,), rows, dtype=torch.float64)
    return check_theorems(lambda m, b: m(b), Quadratic(), batch, MATRIX, split, split_step, step, rate, steps)


def descent(rate: float, steps: int) -> list[Tensor]:
    points = [START]
    for _ in range(steps):
        points.append(points[-1] - rate * (MATRIX @ points[-1] + PULL))
    return points


def value(point: Tensor) -> float:
    return float(point @ MATRIX @ point / 2 + PULL @ point)


def test_decrease_and_sharpness_are_those_of_the_descent() -> None:
    found, points = beside(), descent(0.2, 12)
    assert found.decrease == pytest.approx(value(points[0]) - value(points[-1]), rel=1e-10)
    assert found.decrease_predicted == pytest.approx(found.decrease, rel=1e-9)
    assert found.sharpness == pytest.approx(0.2 * float(torch.linalg.eigvalsh(MATRIX)[-1]), rel=1e-12)
    assert found.error < 1e-11


def test_the_measured_force_is_the_valleys_push_along_the_descent() -> None:
    """``-eta sum_k B^T (x_k - floor)`` and ``-eta sum_k B^T (x_k - x_0)``, by hand."""
    found, points = beside(), descent(0.2, 12)
    valley, coupling = MATRIX[:5, :5], MATRIX[:5, 5:]
    gradient = MATRIX @ START + PULL
    floor = START[:5] - torch.linalg.solve(valley, gradient[:5])
    pushed = sum((-0.2 * coupling.T @ (point[:5] - floor) for point in points[:-1]), torch.zeros(3).double())
    moved = sum((-0.2 * coupling.T @ (point[:5] - START[:5]) for point in points[:-1]), torch.zeros(3).double())
    assert found.force_measured == pytest.approx(float(pushed.norm()), rel=1e-8)
    assert found.relative_measured == pytest.approx(float(moved.norm()), rel=1e-8)
    assert found.force_cosine == pytest.approx(1, abs=1e-9)
    assert found.coupling == pytest.approx(float(torch.linalg.matrix_norm(coupling) / torch.linalg.matrix_norm(MATRIX)))


def test_the_predicted_force_is_that_of_a_valley_left_to_itself() -> None:
    found = beside()
    valley, coupling = MATRIX[:5, :5], MATRIX[:5, 5:]
    x = torch.linalg.solve(valley, (MATRIX @ START + PULL)[:5])
    total = torch.zeros(3, dtype=torch.float64)
    for _ in range(12):
        total -= 0.2 * coupling.T @ x
        x = x - 0.2 * valley @ x
    assert found.force_predicted == pytest.approx(float(total.norm()), rel=1e-9)
    assert found.lower_best <= found.force_predicted <= found.upper_best <= found.upper_paper


def test_steps_dimensions_and_rate_are_kept_and_json_holds_the_record() -> None:
    found = beside()
    assert (found.step, found.split_step, found.rate, found.steps, found.valley, found.river) == (7, 3, 0.2, 12, 5, 3)
    assert from_dict(TheoremsRecord, json.loads(json.dumps(asdict(found), allow_nan=False))) == found


def test_a_split_of_the_same_or_a_later_snapshot_is_refused() -> None:
    with pytest.raises(BadInputError, match="split_step: given 7, expected a snapshot before the step, 7"):
        beside(split_step=7)


def test_a_descent_that_diverges_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="a smaller rate or fewer steps"):
        beside(rate=1e6, steps=60)


def test_a_split_without_a_valley_is_refused() -> None:
    nothing = block_split(coordinates(8, torch.arange(0)), coordinates(8, torch.arange(8)))
    with pytest.raises(EmptySubspaceError, match="valley"):
        beside(split=nothing)


def test_a_number_that_does_not_exist_is_named() -> None:
    with pytest.raises(NonFiniteError, match="theorems at step 7: upper_paper is inf"):
        require_finite(replace(beside(), upper_paper=float("inf")))


def test_the_model_is_left_as_it_was() -> None:
    model = Quadratic()
    check_theorems(lambda m, b: m(b), model, torch.ones(2).double(), MATRIX, SPLIT, 3, 7, 0.2, 12)
    assert torch.equal(model.theta, START)
