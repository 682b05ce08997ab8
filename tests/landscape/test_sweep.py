import math

import numpy as np
import pytest
import torch

from thalweg.errors import BadInputError, EmptySubspaceError, NoPlateauWarning
from thalweg.landscape.sweep import sweep
from thalweg.landscape.threshold import log_gap, machine_floor


def log_uniform(seed, count=100, low=-4.0):
    return torch.from_numpy(10 ** np.random.default_rng(seed).uniform(low, 0, count))


def test_the_grid_goes_from_the_floor_to_the_largest_in_equal_steps():
    values = log_uniform(0)
    found = sweep(values)
    assert len(found.epsilon) == 200
    assert (float(found.epsilon[0]), float(found.epsilon[-1])) == (machine_floor(values), float(values.max()))
    steps = found.epsilon.log().diff()
    assert torch.allclose(steps, steps[:1])


def test_each_row_counts_the_three_parts():
    values = torch.cat([log_uniform(1), -log_uniform(2)])
    found = sweep(values)
    for row in (0, 77, 150, 199):
        epsilon = float(found.epsilon[row])
        counts = [int(mask.sum()) for mask in (values > epsilon, values.abs() <= epsilon, values < -epsilon)]
        assert [int(found.valley[row]), int(found.river[row]), int(found.ridge[row])] == counts


def test_kappa_is_at_most_the_largest_over_the_threshold_and_one_at_the_end():
    values = torch.cat([log_uniform(3), torch.tensor([3.0], dtype=torch.float64)])  # a gap that the grid meets
    found = sweep(values, points=400)
    kappa, filled = found.kappa, found.valley > 0
    assert (kappa[filled] <= values.max() / found.epsilon[filled] * (1 + 1e-12)).all()
    assert float(kappa[found.valley == 1][-1]) == 1
    assert math.isnan(float(kappa[-1]))


def test_the_first_plateau_is_the_log_gap():
    values = torch.cat([1 + log_uniform(4, 10), 1e-5 * (1 + log_uniform(5, 30))])
    found = sweep(values)
    assert found.plateaus[0].above == 40  # nothing lies between the smallest and the machine floor
    assert found.plateaus[1].above == log_gap(values).above == 10
    assert found.plateaus[1].decades == log_gap(values).decades


def test_classes_depend_on_the_threshold_only_where_a_plateau_is():
    values = torch.cat([1 + 0.1 * log_uniform(4, 10), 1e-5 * (1 + 0.1 * log_uniform(5, 30))])
    found = sweep(values)
    names = {name for name, epsilon in zip(found.classes, found.epsilon.tolist(), strict=True) if 2e-5 < epsilon < 0.9}
    assert names == {"U"}
    assert found.classes[-1] == "indeterminate"


def test_a_threshold_without_a_plateau_warns():
    values = torch.logspace(-4, 0, 100, dtype=torch.float64)
    with pytest.warns(
        NoPlateauWarning,
        match=r"^threshold 0\.01: only 0\.04 decades around it have no eigenvalue, expected at least 0\.3; river and",
    ):
        found = sweep(values, chosen=0.01)
    assert not found.separated


def test_a_threshold_on_a_plateau_does_not_warn():
    found = sweep(torch.tensor([2.0, 1.0, 1e-4]), chosen=0.01)
    assert found.separated
    assert found.chosen.above == 2


def test_what_is_refused():
    with pytest.raises(BadInputError, match=r"^points: given 1, expected a whole number of at least 2$"):
        sweep(torch.ones(3), points=1)
    with pytest.raises(EmptySubspaceError, match=r"^values: 3 eigenvalues, none other than 0"):
        sweep(torch.zeros(3))
