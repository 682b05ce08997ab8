import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from thalweg.errors import BadInputError, EmptySubspaceError, InsufficientDataError, NonFiniteError, ShapeMismatchError
from thalweg.theory.dominance import dominance, longest_interval, sign_flips


def spectra(seed, seeds=8, shift=0.0, size=12):
    """Single and Looped of the same seeds, Looped lower by so many nats."""
    draw = np.random.default_rng(seed)
    common = draw.normal(0, 1, (seeds, 1))
    pair = [np.exp(common + draw.normal(0, 1, (seeds, size)) - lower) for lower in (0.0, shift)]
    return tuple(torch.from_numpy(one) for one in pair)


def differences(seed, seeds=8, shift=0.0):
    one, two = (values.log().sort(1).values for values in spectra(seed, seeds, shift))
    return one - two


def test_p_values_are_those_of_all_sign_flips_one_by_one():
    given = differences(0, 5, 0.4)
    largest, alone = [], []
    for signs in itertools.product((1.0, -1.0), repeat=5):
        t = stats.ttest_1samp(given.numpy() * np.array(signs)[:, None], 0).statistic
        largest.append(t.max())
        alone.append(t)
    observed = np.array(alone[0])
    found = sign_flips(given)
    assert np.allclose(found.statistics, observed, rtol=1e-10)
    assert np.allclose(found.p_each, [np.mean(np.array(largest) >= t - 1e-9) for t in observed])
    assert found.p_value == np.mean(np.array(largest) >= observed.max() - 1e-9)
    assert found.p_every == (np.array(alone) >= observed - 1e-9).mean(0).max()


def test_the_smallest_p_value_is_that_of_one_flip():
    for seeds in (5, 8, 12):
        assert sign_flips(torch.ones(seeds, 3)).p_value == 2.0**-seeds


def test_no_difference_is_no_evidence():
    found = sign_flips(torch.zeros(6, 3))
    assert found.statistics.tolist() == [0, 0, 0]
    assert (found.p_value, found.p_every) == (1.0, 1.0)


@pytest.mark.parametrize("seeds", [5, 8, 12])
def test_the_family_wise_error_is_kept(seeds):
    reps = 40 if seeds == 12 else 400
    rejected = np.mean([sign_flips(differences(rep, seeds)).p_value <= 0.05 for rep in range(reps)])
    assert rejected <= 0.05 + 3 * (0.05 * 0.95 / reps) ** 0.5


def test_a_shift_of_one_nat_is_always_found_with_eight_seeds():
    assert all(dominance(*spectra(rep, 8, 1.0), threshold=1e-3).forward.flips.p_value <= 0.05 for rep in range(100))


def test_planted_dominance_is_supported_and_its_reverse_contradicted():
    found = dominance(*spectra(0, 8, 3.0), threshold=1e-4)
    assert (found.forward.verdict, found.reverse.verdict) == ("supported", "contradicted")
    assert found.forward.share == 1.0
    assert found.forward.share_interval == (1.0, 1.0)


def test_swapping_the_models_swaps_the_directions():
    one, two = spectra(3, 8, 1.5)
    found, swapped = dominance(one, two, 1e-3), dominance(two, one, 1e-3)
    assert (found.forward.verdict, found.reverse.verdict) == (swapped.reverse.verdict, swapped.forward.verdict)
    assert found.forward.flips.p_value == swapped.reverse.flips.p_value
    assert torch.equal(found.forward.counts, swapped.reverse.counts)


def test_equal_models_are_undecided():
    one, _ = spectra(1)
    found = dominance(one, one, 1e-3)
    assert (found.forward.verdict, found.reverse.verdict) == ("undecided", "undecided")
    assert found.forward.interval is None
    assert found.forward.share == 0


def test_one_place_the_other_way_contradicts_a_component_wise_claim():
    one = torch.tensor([[1.0, 2.0, 3.0]]).repeat(8, 1)
    two = torch.tensor([[0.5, 1.0, 3.5]]).repeat(8, 1)
    found = dominance(one, two, 0.1)
    assert (found.forward.verdict, found.reverse.verdict) == ("contradicted", "contradicted")
    assert found.forward.flips.p_each.tolist() == [2 * 2**-8, 2 * 2**-8, 1.0]
    assert found.forward.flips.p_every == 1.0


def test_an_eigenvalue_that_rises_above_the_threshold_is_no_dominance():
    """Looped is nowhere below Single. Each one's lowest above 0.1, place by place, would be (1, 2, 4) against (0.2, 1, 2)."""
    one = torch.tensor([[0.05, 1.0, 2.0, 4.0]]).repeat(8, 1)
    two = torch.tensor([[0.2, 1.0, 2.0, 4.0]]).repeat(8, 1)
    found = dominance(one, two, 0.1, lowest=3)
    assert found.indices == (1, 4)
    assert found.forward.verdict == "undecided"
    naive = sign_flips(one[:, 1:].log() - two[:, :3].log())
    assert naive.p_value == naive.p_every == 2**-8


def test_the_lowest_places_above_the_threshold_are_compared():
    found = dominance(*spectra(0), threshold=0.3, lowest=4)
    below = (torch.cat(spectra(0)) <= 0.3).sum(1).max()
    assert found.indices == (int(below), int(below) + 4)


def test_negative_eigenvalues_are_counted_not_compared():
    one = torch.tensor([[-1.0, 1.0, 2.0]]).repeat(6, 1)
    found = dominance(one, one / 2, 0.1)
    assert found.indices == (1, 3)


def test_the_interval_is_where_more_of_looped_lie_below():
    one, two = torch.tensor([[1.0, 10.0, 100.0]]).repeat(6, 1), torch.tensor([[0.1, 10.0, 100.0]]).repeat(6, 1)
    found = dominance(one, two, 0.01, places=401)
    low, high = found.forward.interval
    assert low == pytest.approx(0.1, rel=0.03)
    assert high == pytest.approx(1.0, rel=0.03)
    assert found.reverse.interval is None


def test_the_longest_stretch_in_decades_is_taken():
    tau = torch.tensor([1.0, 2.0, 3.0, 4.0, 40.0, 50.0])
    counts = torch.tensor([[1, 1, -1, 1, 1, 0]])
    assert longest_interval(counts, tau) == (4.0, 40.0)
    assert longest_interval(torch.tensor([[1, 1], [-1, 1]]), tau[:2]) == (2.0, 2.0)


def test_the_shares_interval_covers_it_and_is_reproducible():
    found, again = (dominance(*spectra(5, 8, 0.3), threshold=1e-3) for _ in range(2))
    low, high = found.forward.share_interval
    assert 0 <= low <= found.forward.share <= high <= 1
    assert (low, high) == again.forward.share_interval


def test_float32_gives_the_same_verdict():
    one, two = spectra(0, 8, 3.0)
    assert dominance(one.float(), two.float(), 1e-4).forward.verdict == "supported"


def test_more_seeds_than_one_block_of_flips_are_exact_still():
    given = torch.ones(17, 1)
    assert sign_flips(given).p_value == 2.0**-17


def test_what_is_refused():
    one, two = spectra(0)
    with pytest.raises(InsufficientDataError, match=r"^seeds: given 4, expected at least 5 for level 0.05; .* of 4 is 0.062$"):
        dominance(one[:4], two[:4], 1e-3)
    with pytest.raises(InsufficientDataError, match=r"^seeds: given 8, expected at least 10 for level 0.001; .* is 0.0039$"):
        dominance(one, two, 1e-3, level=1e-3)
    with pytest.raises(ShapeMismatchError, match=r"^spectra of different models mixed: \(8, 12\) and \(8, 11\), expected "):
        dominance(one, two[:, 1:], 1e-3)
    with pytest.raises(
        EmptySubspaceError, match=r"^valley: no eigenvalue rank is above the threshold 1e\+09 in every seed; choose "
    ):
        dominance(one, two, 1e9)
    with pytest.raises(NonFiniteError, match=r"^looped: holds NaN or infinity, expected finite numbers$"):
        dominance(one, two / 0, 1e-3)
    with pytest.raises(BadInputError, match=r"^seeds: given 21, expected at most 20; all 2\^S sign flips are tried$"):
        sign_flips(torch.ones(21, 1))
    with pytest.raises(ShapeMismatchError, match=r"^differences: given shape \(5,\), expected \(S, J\)$"):
        sign_flips(torch.ones(5))


@pytest.mark.parametrize(("name", "value"), [("threshold", 0.0), ("lowest", 0), ("level", 1.0), ("places", 1)])
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(BadInputError, match=rf"^{name}: given {value}, expected "):
        dominance(*spectra(0), **{"threshold": 1e-3, name: value})
