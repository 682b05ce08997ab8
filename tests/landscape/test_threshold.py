import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from thalweg.errors import BadInputError, EmptySubspaceError, NonFiniteError, ShapeMismatchError, UnstableDirectionError
from thalweg.landscape.threshold import (
    log_gap,
    machine_floor,
    marchenko_pastur,
    marchenko_pastur_median,
    plateau,
    plateaus,
    relative,
    threshold,
)

SPECTRA = st.lists(st.floats(-6, 2), min_size=2, max_size=30).map(
    lambda logs: torch.tensor([10**x for x in logs], dtype=torch.float64)
)


def test_the_machine_floor_is_that_of_the_products_not_of_the_eigensolver():
    values = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert machine_floor(values) == 3 * np.finfo(np.float64).eps
    assert machine_floor(values, torch.float32) == pytest.approx(3 * np.finfo(np.float32).eps)


def test_the_gap_between_two_roundings_of_zero_does_not_count():
    values = torch.tensor([2.0, 1.0, 1e-9, 1e-16, 1e-17, 1e-18], dtype=torch.float64)
    assert log_gap(values, most=5, precision=torch.float32).above == 2


def test_the_threshold_is_the_geometric_middle_of_the_gap():
    found = log_gap(torch.tensor([9.0, 4.0, 0.01, 0.01], dtype=torch.float64))
    assert found.epsilon == pytest.approx(0.2)
    assert found.above == 2


def test_negative_eigenvalues_count_by_their_size():
    assert log_gap(torch.tensor([-4.0, 1.0, 1e-3, -1e-3])).above == 2


def test_a_second_gap_as_wide_makes_the_ratio_one():
    found = log_gap(torch.tensor([16.0, 4.0, 1.0, 1.0], dtype=torch.float64))
    assert found.ratio == pytest.approx(1)
    assert found.decades == pytest.approx(math.log10(4))


def test_without_a_second_gap_the_ratio_is_infinite():
    assert log_gap(torch.tensor([4.0, 1.0])).ratio == math.inf


@given(SPECTRA, st.floats(0.01, 100))
def test_rules_follow_the_scale(values, factor):
    assert relative(factor * values) == pytest.approx(factor * relative(values))
    assert machine_floor(factor * values) == pytest.approx(factor * machine_floor(values))
    assert log_gap(factor * values).decades == pytest.approx(log_gap(values).decades, abs=1e-9)


@given(SPECTRA)
def test_the_log_gap_is_the_longest_plateau_in_its_range(values):
    half = len(values) // 2
    assert log_gap(values).decades == max(each.decades for each in plateaus(values) if each.above <= half)


@given(SPECTRA, st.floats(-7, 3))
def test_the_plateau_around_a_threshold_holds_it(values, place):
    epsilon = 10**place
    found = plateau(values, epsilon)
    assert found.above == int((values > epsilon).sum())
    assert found.low <= epsilon < found.high or not found.above or epsilon < machine_floor(values)


def test_above_everything_there_is_no_plateau():
    assert plateau(torch.tensor([2.0, 1.0]), 3.0).decades == 0


@pytest.mark.parametrize("aspect", [0.05, 0.3, 0.9, 1.0])
def test_the_median_of_the_marchenko_pastur_law_halves_its_density(aspect):
    low, high = (1 - math.sqrt(aspect)) ** 2, (1 + math.sqrt(aspect)) ** 2
    density = lambda x: math.sqrt(max((high - x) * (x - low), 0)) / (2 * math.pi * aspect * x)  # noqa: E731
    assert quad(density, low, marchenko_pastur_median(aspect))[0] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("samples", [30, 60, 400])
def test_the_marchenko_pastur_edge_leaves_the_planted_directions_above(samples):
    rows = torch.randn(samples, 60, generator=torch.Generator().manual_seed(samples), dtype=torch.float64)
    rows[:, :4] *= 8
    found = marchenko_pastur(torch.linalg.eigvalsh(rows.T @ rows / samples), samples)
    assert found.above == 4
    assert found.variance == pytest.approx(1, rel=0.25)


def test_pure_noise_has_nothing_above_the_edge():
    rows = torch.randn(300, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert marchenko_pastur(torch.linalg.eigvalsh(rows.T @ rows / 300), 300).above == 0


def test_the_default_is_the_larger_of_gap_and_noise():
    values = torch.tensor([4.0, 2.0, 1e-4, 1e-4], dtype=torch.float64)
    a = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    quiet, loud = (torch.diag(values) + size * (a + a.mT) for size in (1e-6, 1.0))
    assert threshold(values).rule == threshold(values, quiet).rule == "log_gap"
    found = threshold(values, loud)
    assert found.rule == "noise_floor"
    assert found.epsilon == found.noise_floor.epsilon > found.log_gap.epsilon


def test_every_rule_is_recorded():
    found = threshold(torch.tensor([4.0, 2.0, 1e-2, 1e-2]), samples=100)
    assert found.relative == pytest.approx(4e-3)
    assert found.floor == pytest.approx(16 * np.finfo(np.float32).eps)
    assert found.marchenko_pastur.aspect == 0.04
    assert found.noise_floor is None


def test_a_spectrum_without_a_gap_says_so():
    assert not threshold(torch.linspace(1, 2, 40)).conditions[0].held


def test_what_is_refused():
    with pytest.raises(EmptySubspaceError, match=r"^values: 2 eigenvalues, none other than 0, expected a spectrum with a valley$"):
        relative(torch.zeros(2))
    with pytest.raises(EmptySubspaceError, match=r"^values: 1 eigenvalues, expected at least 2 for a gap$"):
        log_gap(torch.ones(1))
    with pytest.raises(NonFiniteError, match=r"^values: holds NaN or infinity"):
        log_gap(torch.tensor([1.0, math.nan]))
    with pytest.raises(BadInputError, match=r"^range of k: given \(1, 4\), expected 1 <= least <= most < 3$"):
        log_gap(torch.ones(3), most=4)
    with pytest.raises(BadInputError, match=r"^share: given 2, expected a number between 0 and 1$"):
        relative(torch.ones(3), 2)
    with pytest.raises(BadInputError, match=r"^precision: given torch.int64, expected a floating-point dtype"):
        machine_floor(torch.ones(3), torch.int64)
    with pytest.raises(
        UnstableDirectionError, match=r"^values: smallest is -1, Marchenko-Pastur expects a covariance; use noise_floor$"
    ):
        marchenko_pastur(torch.tensor([-1.0, 2.0]), 10)
    with pytest.raises(ShapeMismatchError, match=r"^values: 3 eigenvalues, expected 2 as in the batches$"):
        threshold(torch.ones(3), torch.eye(2).expand(4, 2, 2))
