import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from thalweg.errors import BadInputError, EmptySubspaceError, InsufficientDataError, ShapeMismatchError
from thalweg.landscape.valley import (
    classify,
    classify_batches,
    classify_seeds,
    condition_number,
    contrast,
    shape,
    shapes_of,
    sign_flip_test,
)


def with_river(valley, river=40):
    return torch.cat([torch.as_tensor(valley, dtype=torch.float64), torch.full((river,), 1e-8, dtype=torch.float64)])


def steep(seed, count=30, low=-3.0):
    return with_river(10 ** np.random.default_rng(seed).uniform(low, 0, count), 170)


def level(seed, count=30):
    return with_river(np.random.default_rng(seed).uniform(0.9, 1.1, count), 170)


def test_figures_of_a_shape_are_numpy_s():
    values, found = steep(0), shape(steep(0), 1e-5)
    valley = values[values > 1e-5].numpy()
    assert found.kappa == pytest.approx(valley.max() / valley.min())
    assert found.kappa_q == pytest.approx(np.quantile(valley, 0.9) / np.quantile(valley, 0.1))
    assert found.spread == pytest.approx(np.log(valley).std())
    assert (found.valley, found.river, found.by_quantiles) == (30, 170, True)
    assert found.log10_kappa_q == pytest.approx(math.log10(found.kappa_q))


def test_a_small_valley_takes_kappa_and_says_so():
    found = shape(with_river([1.0, 2.0, 8.0]), 0.1)
    assert found.kappa_q == found.kappa == 8
    assert not found.by_quantiles


@pytest.mark.parametrize(("values", "name"), [(level(0), "U"), (steep(0), "V"), (torch.logspace(-4, 0, 300), "indeterminate")])
def test_planted_spectra_have_their_class(values, name):
    assert classify(values).name == name


def test_between_the_bounds_there_is_no_class():
    assert classify(with_river(np.linspace(1, 6, 20))).name == "indeterminate"


def test_a_ridge_above_five_percent_is_a_saddle():
    values = torch.cat([level(0), torch.tensor([-1.0] * 3, dtype=torch.float64)])
    found = classify(values)
    assert found.name == "saddle"
    assert found.conditions[0].measured == pytest.approx(3 / 33, rel=0.05)


def test_a_spectrum_below_zero_is_a_saddle_without_a_kappa():
    found = classify(-level(1))
    assert found.name == "saddle"
    assert math.isnan(found.kappa_q)


def test_two_directions_are_no_valley():
    assert classify(with_river([1.0, 1.0])).name == "indeterminate"


def test_seeds_give_the_t_interval_of_the_logarithm():
    spectra = [steep(seed) for seed in range(6)]
    found = classify_seeds(spectra, [1e-5] * 6)
    logs = [math.log(shape(values, 1e-5).kappa_q) for values in spectra]
    low, high = stats.t.interval(0.95, 5, np.mean(logs), stats.sem(logs))
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((low, high))
    assert found.name == "V"


def test_seeds_that_disagree_have_no_class():
    assert classify_seeds([level(0), level(1), level(2), steep(0), steep(1)]).name == "indeterminate"


def test_a_saddle_in_some_seeds_only_is_indeterminate():
    ridge = torch.cat([level(0)[:-5], torch.full((5,), -1.0, dtype=torch.float64)])
    assert classify_seeds([ridge] + [level(seed) for seed in range(4)]).name == "indeterminate"
    assert classify_seeds([ridge] * 5).name == "saddle"


def noisy(values, batches, size, seed=0):
    a = torch.from_numpy(np.random.default_rng(seed).standard_normal((batches, len(values), len(values))))
    return torch.diag(values) + size * (a + a.mT) / math.sqrt(2)


def test_the_jackknife_of_noisy_batches_covers_the_planted_value():
    values = with_river(np.linspace(1, 4, 20), 20)
    stack = noisy(values, 12, 0.02)
    found = classify_batches(stack)
    assert found.low < shape(values, 0.1).kappa_q < found.high
    assert 0 < math.log(found.high / found.low) < 0.2


def test_the_jackknife_is_that_of_its_formula():
    stack = noisy(with_river(np.linspace(1, 4, 12), 8), 6, 0.05)
    found = classify_batches(stack, epsilon=0.5)
    left = [stack[[j for j in range(6) if j != i]].mean(0) for i in range(6)]
    logs = np.array([math.log(shape(torch.linalg.eigvalsh(one), 0.5).kappa_q) for one in left])
    error = math.sqrt(5 / 6 * ((logs - logs.mean()) ** 2).sum())
    assert math.log(found.high / found.kappa_q) == pytest.approx(stats.t.ppf(0.975, 5) * error)


def test_batches_of_two_levels_are_u():
    assert classify_batches(noisy(with_river(np.linspace(1, 1.2, 20), 20), 8, 0.01)).name == "U"


def test_the_sign_flip_test_counts_every_pattern():
    values = [0.3, -0.1, 0.8, 0.5, -0.2, 0.9]
    sums = [abs(np.dot(signs, values)) for signs in itertools.product([1, -1], repeat=6)]
    assert sign_flip_test(values) == np.mean(np.array(sums) >= abs(sum(values)) - 1e-12)


@pytest.mark.parametrize(("count", "least"), [(5, 2 / 32), (6, 2 / 64)])
def test_the_smallest_p_value_is_two_patterns(count, least):
    assert sign_flip_test([1.0] * count) == least


def test_many_seeds_are_tested_by_random_patterns():
    values = np.random.default_rng(0).standard_normal(20) + 0.4
    normal = 2 * stats.norm.sf(abs(values.sum()) / math.sqrt((values**2).sum()))
    assert sign_flip_test(values.tolist()) == pytest.approx(normal, rel=0.15)


def test_the_contrast_is_paired_and_signed():
    first, second = ([steep(seed, low=low) for seed in range(6)] for low in (-1.0, -3.0))
    found = contrast(shapes_of(first), shapes_of(second))
    assert found.mean.mean == pytest.approx(2 * 0.8 * math.log(10), rel=0.2)
    assert found.p_value == 2 / 64
    assert torch.equal(contrast(shapes_of(second), shapes_of(first)).differences, -found.differences)


def test_float32_spectra_are_taken():
    assert classify(level(3).float()).name == "U"


def test_what_is_refused():
    with pytest.raises(
        EmptySubspaceError, match=r"^valley: no eigenvalue above epsilon = 3, expected at least one; lower epsilon$"
    ):
        condition_number(torch.ones(3), 3.0)
    with pytest.raises(InsufficientDataError, match=r"^spectra: given 4 seeds, expected at least 5 for an interval$"):
        classify_seeds([level(0)] * 4)
    with pytest.raises(ShapeMismatchError, match=r"^spectrum 1: 2 eigenvalues, expected 200 as in spectrum 0; compare models with"):
        classify_seeds([level(0), torch.ones(2), *[level(0)] * 3])
    with pytest.raises(InsufficientDataError, match=r"^batches: given 1, expected at least 2 to see noise$"):
        classify_batches([torch.eye(3)])
    with pytest.raises(InsufficientDataError, match=r"^seeds: given 1 pairs, expected at least 5$"):
        contrast(shapes_of([level(0)]), shapes_of([level(0)]))
    with pytest.raises(ShapeMismatchError, match=r"^seeds: 1 of the first model and 2 of the second, expected pairs$"):
        contrast(shapes_of([level(0)]), shapes_of([level(0)] * 2))
    with pytest.raises(
        EmptySubspaceError, match=r"^seed 0: a valley without directions, expected some in both models; lower epsilon$"
    ):
        contrast(shapes_of([-level(0)] * 5), shapes_of([level(0)] * 5))
    with pytest.raises(BadInputError, match=r"^flat, steep: given \(3, 2\), expected 1 <= flat < steep$"):
        classify(level(0), flat=3, steep=2)
