import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.curvature.density import spectral_density
from thalweg.errors import BadInputError, EmptySubspaceError, NonFiniteError, ResolutionError
from thalweg.landscape.entropy import SIGNS, density_entropy, jackknife, matrix_entropy, renyi, signed_split

ORDERS = (0.0, 0.3, 0.95, 1 - 1e-9, 1.0, 1 + 1e-9, 1.05, 2.0, 7.0, 60.0, math.inf)
ROUNDING = 1e-10


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotated(values, seed=1):
    q = torch.linalg.qr(drawn(seed, len(values), len(values)))[0]
    matrix = q @ torch.diag(values) @ q.T
    return (matrix + matrix.T) / 2


def test_the_orders_are_their_formulas():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    assert renyi(p, 0) == pytest.approx(math.log(4))
    assert renyi(p, 1) == pytest.approx(-float((p * p.log()).sum()))
    assert renyi(p, 2) == pytest.approx(-math.log(float((p * p).sum())))
    assert renyi(p, 0.5) == pytest.approx(2 * math.log(float(p.sqrt().sum())))
    assert renyi(p, math.inf) == pytest.approx(-math.log(0.5))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=30).filter(any))
def test_not_increasing_in_the_order_and_between_zero_and_log_n(shares):
    found = [renyi(torch.tensor(shares, dtype=torch.float64), order) for order in ORDERS]
    assert all(later <= earlier + ROUNDING for earlier, later in itertools.pairwise(found))
    assert -ROUNDING <= found[-1] <= found[0] + ROUNDING <= math.log(len(shares)) + 2 * ROUNDING


@pytest.mark.parametrize("order", [1 - 1e-7, 1 + 1e-7, 1 - 1e-12, 1 + 1e-12])
def test_continuous_at_order_one(order):
    p = drawn(0, 50).square()
    assert renyi(p, order) == pytest.approx(renyi(p, 1), abs=1e-6)


@pytest.mark.parametrize("edge", [0.9, 1.1])
def test_both_forms_agree_where_one_takes_over(edge):
    p = drawn(0, 50).square()
    assert renyi(p, edge - 1e-9) == pytest.approx(renyi(p, edge + 1e-9), abs=1e-8)


@pytest.mark.parametrize("order", ORDERS)
def test_a_flat_spectrum_has_log_n_and_a_single_value_none(order):
    assert matrix_entropy(torch.full((9,), -2.0), order).effective_rank == pytest.approx(9)
    assert matrix_entropy(torch.tensor([0.0, 3.0, 0.0]), order).value == 0


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, math.inf])
def test_the_same_after_scaling_rotation_and_zeros(sign, order):
    values = drawn(2, 20)
    expected = matrix_entropy(values, order, sign).value
    for changed in (1e-200 * values, 1e150 * values, torch.cat([values, torch.zeros(5)])):
        assert matrix_entropy(changed, order, sign).value == pytest.approx(expected)
    assert matrix_entropy(torch.linalg.eigvalsh(rotated(values)), order, sign).value == pytest.approx(expected)


def test_appended_zeros_change_the_normalised_entropy_only():
    values = torch.ones(4)
    padded = matrix_entropy(torch.cat([values, torch.zeros(12)]))
    assert matrix_entropy(values).normalised == pytest.approx(1)
    assert padded.normalised == pytest.approx(0.5)
    assert padded.deficit == pytest.approx(math.log(4))
    assert padded.bits == pytest.approx(2)
    assert math.isnan(matrix_entropy(torch.ones(1)).normalised)


def test_positive_drops_negative_eigenvalues_and_says_how_much():
    found = matrix_entropy(torch.tensor([3.0, 3.0, -2.0, 0.0]), sign="positive")
    assert found.effective_rank == pytest.approx(2)
    assert found.dropped_mass == pytest.approx(0.25)
    assert found.negative_mass == pytest.approx(0.25)


def test_square_takes_the_squares_as_masses():
    found = matrix_entropy(torch.tensor([3.0, -1.0], dtype=torch.float64), sign="square")
    assert found.value == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    assert found.negative_mass == pytest.approx(0.1)
    assert matrix_entropy(drawn(3, 9), 2, "square").value == pytest.approx(
        -math.log(float(drawn(3, 9).pow(4).sum() / drawn(3, 9).square().sum() ** 2))
    )


def test_signed_split_is_the_entropy_of_each_side():
    found = signed_split(torch.tensor([4.0, 4.0, -1.0, -1.0, 0.01]), zero_below=0.1)
    assert found.positive.effective_rank == pytest.approx(2)
    assert found.negative.effective_rank == pytest.approx(2)
    assert found.negative_mass == pytest.approx(0.2)
    assert signed_split(torch.ones(3)).negative is None


def test_the_entropy_of_the_whole_is_the_mixture_of_its_sides():
    """Grouping: ``S = H(m) + (1 - m) S_+ + m S_-``."""
    values = drawn(5, 40)
    found, m = signed_split(values), signed_split(values).negative_mass
    mixed = -m * math.log(m) - (1 - m) * math.log(1 - m) + (1 - m) * found.positive.value + m * found.negative.value
    assert matrix_entropy(values).value == pytest.approx(mixed)


def test_values_below_the_threshold_count_as_zeros():
    found = matrix_entropy(torch.tensor([1.0, -1.0, 1e-3, 1e-3]), order=0, zero_below=0.01)
    assert found.effective_rank == pytest.approx(2)
    assert found.dropped_mass == pytest.approx(2e-3 / 2.002)
    assert found.dim == 4


def test_float32_is_computed_in_float64():
    values = drawn(6, 30).float()
    assert matrix_entropy(values).value == matrix_entropy(values.double()).value


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 1.02, 2.0, 5.0])
def test_products_give_the_eigenvalues_entropy_within_three_standard_errors(sign, order):
    values = drawn(7, 120)
    density = spectral_density(rotated(values), steps=120, probes=12)
    exact, found = matrix_entropy(values, order, sign, 1e-6), density_entropy(density, order, sign, 1e-6)
    assert 0 < found.standard_error < 0.1
    assert abs(found.value - exact.value) < 3 * found.standard_error
    assert found.negative_mass == pytest.approx(exact.negative_mass, abs=0.05)
    assert found.dropped_mass == pytest.approx(exact.dropped_mass, abs=0.05)


def test_standard_errors_are_the_scatter_over_seeds():
    matrix, found = rotated(drawn(8, 40)), []
    for seed in range(40):
        found.append(density_entropy(spectral_density(matrix, steps=3, probes=8, seed=seed), 2, "square"))
    scatter = float(torch.tensor([one.value for one in found], dtype=torch.float64).std())
    assert 0.6 < sum(one.standard_error for one in found) / 40 / scatter < 1.5


def test_order_one_of_the_sizes_is_the_densitys_own_entropy():
    density = spectral_density(rotated(drawn(9, 60)), steps=30, probes=5)
    found = density_entropy(density)
    assert (found.value, found.standard_error) == density.entropy()
    near = density_entropy(density, order=1 + 1e-10)
    assert near.value == pytest.approx(found.value)
    assert near.standard_error == pytest.approx(found.standard_error, rel=1e-6)


def test_order_infinity_needs_the_largest_node_and_the_sum():
    values = drawn(10, 60)
    density = spectral_density(rotated(values), steps=60, probes=10)
    found = density_entropy(density, math.inf)
    assert abs(found.value - matrix_entropy(values, math.inf).value) < 3 * found.standard_error


def test_the_jackknife_of_a_mean_is_its_standard_error():
    rows = drawn(11, 30, 1)
    value, error = jackknife(rows, lambda means: means[..., 0])
    assert value == pytest.approx(float(rows.mean()))
    assert error == pytest.approx(float(rows.std()) / math.sqrt(30))


def test_an_empty_spectrum_is_refused():
    left = r"^entropy: no eigenvalue is left, expected one that is not zero; see the sign rule and threshold$"
    zeros = r"^entropy: a spectrum of zeros, expected an eigenvalue that is not zero$"
    with pytest.raises(EmptySubspaceError, match=zeros):
        matrix_entropy(torch.zeros(3))
    with pytest.raises(EmptySubspaceError, match=zeros):
        matrix_entropy(torch.zeros(0))
    with pytest.raises(EmptySubspaceError, match=left):
        matrix_entropy(-torch.ones(3), sign="positive")
    with pytest.raises(EmptySubspaceError, match=zeros):
        density_entropy(spectral_density(torch.zeros(3, 3), steps=2))
    with pytest.raises(EmptySubspaceError, match=left):
        density_entropy(spectral_density(-torch.eye(3), steps=2), sign="positive")


def test_what_else_is_refused():
    with pytest.raises(BadInputError, match=r"^order: given -1, expected a number of at least 0, or infinity$"):
        matrix_entropy(torch.ones(3), order=-1)
    with pytest.raises(BadInputError, match=r"^unknown sign 'signed-split'; known: abs, positive, square$"):
        matrix_entropy(torch.ones(3), sign="signed-split")
    with pytest.raises(BadInputError, match=r"^zero_below: given -1.0, expected a number of at least 0$"):
        matrix_entropy(torch.ones(3), zero_below=-1.0)
    with pytest.raises(NonFiniteError, match=r"^values: holds NaN or infinity"):
        matrix_entropy(torch.tensor([1.0, math.nan]))
    with pytest.raises(BadInputError, match=r"^shares: given -1.0, expected numbers of at least 0$"):
        renyi(torch.tensor([1.0, -1.0]))
    with pytest.raises(BadInputError, match=r"^probes: given 1, expected at least 2, as one has no standard error$"):
        jackknife(torch.ones(1, 2), lambda means: means[..., 0])


def test_a_density_refuses_a_threshold_finer_than_it_sees():
    density = spectral_density(rotated(drawn(12, 200)), steps=10, probes=3)
    with pytest.raises(ResolutionError, match=r"^mass: given a window of width"):
        density_entropy(density, zero_below=1e-3)
    with pytest.raises(BadInputError, match=r"^zero_below: given 0.0, expected a positive number for order 0"):
        density_entropy(density, order=0)
