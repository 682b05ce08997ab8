import math
import warnings

import numpy as np
import pytest
import torch
from matrices import drawn, hessian, rotated, rotation

from thalweg.errors import BadInputError, NegativeMIWarning, ShapeMismatchError
from thalweg.landscape.information import (
    SortedPairsWarning,
    gaussian_gram,
    gram_entropy,
    mutual_information,
    quadratic_form_information,
    sample_information,
    sorted_pairs_information,
)


def cross_grams():
    """Points (0, j) and (i, 0), i and j from 1 to 10, and a kernel that tells different numbers apart."""
    x = torch.tensor([0.0] * 10 + list(range(1, 11)))
    y = torch.tensor([*range(1, 11)] + [0.0] * 10)
    return [(v.unsqueeze(1) == v).double() for v in (x, y)]


def at_order(order, *grams):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegativeMIWarning)
        return mutual_information(*grams, order=order)


def test_a_partitions_entropy_is_that_of_its_shares():
    x = torch.tensor([0.0, 0, 1, 2])
    expected = {1: 1.5, 2: -math.log2(0.25 + 2 / 16), math.inf: 1.0}
    for order, bits in expected.items():
        assert gram_entropy((x.unsqueeze(1) == x).double(), order) / math.log(2) == pytest.approx(bits)


def test_a_partitions_information_is_shannons():
    """Counts (1, 1; 0, 2) of four samples."""
    x, y = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 1, 1])
    found = mutual_information(*((v.unsqueeze(1) == v).double() for v in (x, y)))
    assert found / math.log(2) == pytest.approx(1 + 0.8112781 - 1.5)


def test_the_entropy_is_the_same_for_rescaled_samples_of_the_feature_space():
    gram = gaussian_gram(drawn(0, 12), 1.0)
    scale = drawn(1, 12).abs() + 0.1
    assert gram_entropy(scale.unsqueeze(1) * gram * scale) == pytest.approx(gram_entropy(gram))


def test_renyi_information_may_be_negative():
    found = [at_order(order, *cross_grams()) for order in (1, 2, 5)]
    assert found == pytest.approx([0.6931, -0.4138, -1.2629], abs=1e-4)


def test_a_narrow_gaussian_is_the_partition():
    x = torch.tensor([0.0] * 10 + list(range(1, 11)))
    assert mutual_information(gaussian_gram(x, 0.05), gaussian_gram(x, 0.05)) == pytest.approx(gram_entropy(cross_grams()[0]))


@pytest.mark.parametrize("seed", range(40))
def test_order_one_lies_between_zero_and_either_entropy(seed):
    n, width = 3 + seed % 12, 0.1 * (1 + seed % 7)
    grams = [gaussian_gram(drawn(seed, n), width), drawn(seed + 100, n, 1 + seed % 4)]
    grams[1] = grams[1] @ grams[1].T
    found = mutual_information(*grams)
    assert -1e-10 <= found <= min(gram_entropy(gram) for gram in grams) + 1e-10


@pytest.mark.parametrize("order", [0.5, 2, 5])
def test_at_any_order_the_joint_is_at_least_either(order):
    for seed in range(10):
        grams = [gaussian_gram(drawn(seed, 9), 0.5), gaussian_gram(drawn(seed + 50, 9), 0.9)]
        assert at_order(order, *grams) <= min(gram_entropy(gram, order) for gram in grams) + 1e-10


def test_orders_other_than_one_warn():
    message = r"^order: given 2, mutual information may be negative for orders other than 1; use order=1$"
    with pytest.warns(NegativeMIWarning, match=message):
        mutual_information(torch.eye(3), torch.eye(3), order=2)


def test_information_of_independent_points_falls_from_log_n_to_zero_with_the_bandwidth():
    x, y = drawn(2, 60, 4), drawn(3, 60, 4)
    found = [mutual_information(gaussian_gram(x, width), gaussian_gram(y, width)) for width in (0.05, 0.3, 1, 2, 30)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(math.log(60))
    assert found[-1] == pytest.approx(0, abs=1e-3)


def test_raw_hessians_are_refused():
    with pytest.raises(BadInputError, match=r"^first, smallest diagonal entry: given -.* a Hessian needs quadratic_form_info"):
        mutual_information(hessian(0), hessian(1))
    lifted = hessian(0) + 3 * torch.eye(30)
    with pytest.raises(BadInputError, match=r"^first, smallest over largest eigenvalue: given -.*no negative eigenvalue"):
        mutual_information(lifted, lifted)


def test_float32_grams_pass():
    gram = gaussian_gram(drawn(4, 60), 3.0)
    assert mutual_information(gram.float(), gram.float()) == pytest.approx(mutual_information(gram, gram), abs=1e-4)


def test_grams_of_different_sizes_are_refused():
    with pytest.raises(ShapeMismatchError, match=r"^grams: given shapes \(2, 2\) and \(3, 3\), expected the same$"):
        mutual_information(torch.eye(2), torch.eye(3))
    with pytest.raises(ShapeMismatchError, match=r"^points: given shape \(1, 1, 1\), expected \(n,\) or \(n, d\)"):
        gaussian_gram(torch.ones(1, 1, 1), 1.0)
    with pytest.raises(BadInputError, match=r"^bandwidth: given 0, expected a positive number$"):
        gaussian_gram(torch.ones(3), 0)


def test_dependent_samples_stand_out_and_independent_ones_do_not():
    x = drawn(5, 120)
    assert sample_information(x, x.square() + 0.1 * drawn(6, 120)).z_score > 20
    assert abs(sample_information(x, drawn(7, 120)).z_score) < 3


def test_samples_in_other_units_are_the_same():
    x, y = drawn(5, 50), drawn(6, 50)
    assert sample_information(x, y).value == pytest.approx(sample_information(3 - 1e6 * x, 1e-6 * y).value)


def test_the_value_is_that_of_the_grams_of_standardised_samples():
    x, y = drawn(8, 30), drawn(9, 30)
    scaled = [gaussian_gram((v - v.mean()) / v.std(), 1.06 * 30**-0.2) for v in (x, y)]
    found = sample_information(x, y)
    assert found.value == pytest.approx(mutual_information(*scaled))
    assert found.bandwidth == 1.06 * 30**-0.2
    assert found.excess == found.value - found.baseline


def test_the_baseline_is_the_mean_over_random_pairings():
    x = drawn(10, 40)
    draw = np.random.default_rng(0)
    chance = [sample_information(x, x[draw.permutation(40)]).value for _ in range(40)]
    found = sample_information(x, x, permutations=40)
    assert abs(found.baseline - np.mean(chance)) < 4 * np.std(chance) / math.sqrt(20)
    assert 0.5 < found.baseline_deviation / np.std(chance) < 2


def test_the_same_seed_gives_the_same_numbers():
    a, b = hessian(0), hessian(1)
    assert quadratic_form_information(a, b, 40) == quadratic_form_information(a, b, 40)


def test_samples_that_do_not_pair_or_vary_are_refused():
    with pytest.raises(ShapeMismatchError, match=r"^samples: 3 and 4, expected the same number$"):
        sample_information(torch.ones(3), torch.ones(4))
    with pytest.raises(BadInputError, match=r"^samples, standard deviation: given 0.0, expected samples that vary$"):
        sample_information(torch.ones(5), drawn(0, 5))
    with pytest.raises(BadInputError, match=r"^permutations: given 5, expected at least 20$"):
        sample_information(drawn(0, 5), drawn(1, 5), permutations=5)
    with pytest.raises(BadInputError, match=r"^samples: given 2, expected at least 3 pairs$"):
        sample_information(drawn(0, 2), drawn(1, 2))
    with pytest.raises(BadInputError, match=r"^probes: given 2, expected a whole number of at least 3$"):
        quadratic_form_information(hessian(0), hessian(1), probes=2)


def test_sorted_independent_spectra_look_like_twice_the_same_one():
    with pytest.warns(SortedPairsWarning, match=r"^sorted: eigenvalues paired by rank look dependent whatever they are; use"):
        apart = sorted_pairs_information(drawn(11, 150), drawn(12, 150))
    with pytest.warns(SortedPairsWarning):
        same = sorted_pairs_information(drawn(11, 150), drawn(11, 150))
    assert apart.value > 0.9 * same.value
    assert apart.baseline < 0.25 * same.value


def test_quadratic_forms_lose_information_with_the_cosine():
    a, noise = hessian(0), hessian(1)
    found = [quadratic_form_information(a, a + scale * noise, 150) for scale in (0.1, 0.5, 2)]
    values = [one.value for one in found]
    assert values == sorted(values, reverse=True)
    assert found[0].z_score > 20
    assert found[0].products == 300


def test_the_rotated_copy_of_a_traceless_matrix_is_at_its_baseline():
    a = hessian(0) - hessian(0).trace() / 30 * torch.eye(30)
    assert quadratic_form_information(a, rotated(a, rotation(2)), 150).z_score < 4
