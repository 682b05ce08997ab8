import pytest
import torch

from thalweg.errors import EigenSplitCouplingWarning, EmptySubspaceError, NonFiniteError
from thalweg.landscape.split import block_split, coordinates, eigen_split
from thalweg.landscape.theorems import theorems_at


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MATRIX = drawn(0, 8, 8) @ drawn(0, 8, 8).T / 8 + 0.1 * torch.eye(8)
PULL = drawn(1, 8)


def split():
    return block_split(coordinates(8, torch.arange(5)), coordinates(8, torch.arange(5, 8)))


def on_quadratic(steps=12, rate=0.2):
    loss = lambda point: float(point @ MATRIX @ point / 2 + PULL @ point)  # noqa: E731
    return theorems_at(loss, lambda point: MATRIX @ point + PULL, MATRIX, drawn(2, 8), split(), rate, steps)


def test_on_a_quadratic_the_coupled_force_is_the_measured_one():
    found = on_quadratic()
    assert found.force.measured == pytest.approx(found.force.with_feedback, rel=1e-9)
    assert found.force.cosine == pytest.approx(1, abs=1e-9)


def test_on_a_quadratic_the_identity_is_the_decrease():
    found = on_quadratic()
    assert found.decrease == pytest.approx(found.decrease_predicted, rel=1e-10)
    assert found.error < 1e-12
    assert found.loss_error < 1e-12


def test_bounds_hold_from_both_sides():
    found = on_quadratic()
    assert found.lower_best <= found.force.predicted * (1 + 1e-12)
    assert found.force.predicted <= found.upper_best <= found.upper_paper


def test_without_feedback_the_relative_force_is_measured_too():
    """A river that the valley does not feel in one step: two steps, of which only the first displacement counts."""
    found = on_quadratic(steps=2)
    assert found.relative.measured == pytest.approx(found.relative.predicted, rel=1e-9)


def test_elsewhere_the_error_stays_within_its_bound():
    loss = lambda point: float((point**2 / 2 + point**4 / 20).sum() + PULL @ point)  # noqa: E731
    start = drawn(3, 8)
    hessian = torch.diag(1 + 0.6 * start**2)
    found = theorems_at(loss, lambda point: point + point**3 / 5 + PULL, hessian, start, split(), 0.1, 5)
    assert 0 < found.error <= found.error_bound
    assert found.loss_error <= found.loss.bound


def test_a_run_that_diverges_is_refused():
    with pytest.raises(NonFiniteError, match=r"^run: .* a smaller rate or fewer steps$"):
        on_quadratic(steps=2000, rate=50.0)


def test_a_split_of_the_same_hessian_is_warned_of():
    values, vectors = torch.linalg.eigh(MATRIX)
    own = eigen_split(values, vectors, float(values[3:5].mean()))
    with pytest.warns(EigenSplitCouplingWarning, match="coupling is zero"):
        found = theorems_at(lambda p: 0.0, lambda point: MATRIX @ point + PULL, MATRIX, drawn(2, 8), own, 0.1, 3)
    assert found.coupling == 0


def test_a_split_without_a_river_is_refused():
    empty = block_split(torch.eye(8, dtype=torch.float64), torch.zeros(8, 0, dtype=torch.float64))
    with pytest.raises(EmptySubspaceError, match="river directions, expected both"):
        theorems_at(lambda p: 0.0, lambda point: MATRIX @ point, MATRIX, drawn(2, 8), empty, 0.1, 3)
