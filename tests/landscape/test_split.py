import math
import warnings

import pytest
import torch

from thalweg.errors import (
    BadInputError,
    EigenSplitCouplingWarning,
    EmptySubspaceError,
    InsufficientDataError,
    OrthonormalityError,
    ShapeMismatchError,
)
from thalweg.landscape.entropy import matrix_entropy
from thalweg.landscape.spectrum import split_record
from thalweg.landscape.split import block_split, blocks, coordinates, coupling, crossfit, eigen_split, frozen, made_of, parts
from thalweg.landscape.valley import shape
from thalweg.records.landscape import SplitRecord
from thalweg.serialization import from_dict, to_dict


def symmetric(seed, *shape):
    a = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (a + a.mT) / 2


def planted(seed, size, batches=16, dim=40, turn=0.0):
    """A valley of 4 in a river of zeros, turned by an angle into the river, with noise in each batch."""
    values, vectors = torch.tensor([1.0, 1.5, 2.0, 3.0], dtype=torch.float64), torch.zeros(dim, 4, dtype=torch.float64)
    for column in range(4):
        vectors[column, column], vectors[4 + column, column] = math.cos(turn), math.sin(turn)
    return vectors @ torch.diag(values) @ vectors.T + size * math.sqrt(2) * symmetric(seed, batches, dim, dim)


def mlp_hessian(weights):
    inputs = torch.linspace(-1, 1, 60, dtype=torch.float64).view(20, 3)
    targets = inputs.square().sum(1)

    def loss(flat):
        first, second, third = flat[:12].view(4, 3), flat[12:28].view(4, 4), flat[28:32]
        hidden = torch.tanh(torch.tanh(inputs @ first.T) @ second.T)
        return (hidden @ third - targets).square().mean()

    return torch.autograd.functional.hessian(loss, weights)


def test_the_three_parts_and_their_merge():
    values = torch.tensor([0.1, 5.0, -3.0, -0.1, 0.0])
    found, merged = parts(values, 0.1 + 1e-6), parts(values, 0.1 + 1e-6, merge_ridge=True)
    assert [part.tolist() for part in (found.valley, found.ridge)] == [[5.0], [-3.0]]
    assert merged.valley.tolist() == [-3.0, 5.0]
    assert len(merged.ridge) == 0
    assert found.ridge_mass == merged.ridge_mass == pytest.approx(3 / 8.2)


def test_ridge_mass_leaves_out_negative_eigenvalues_of_the_river_and_negative_mass_does_not():
    values = torch.tensor([5.0, -3.0, -1.0], dtype=torch.float64)
    assert shape(values, 2.0).ridge_mass == parts(values, 2.0).ridge_mass == pytest.approx(3 / 9)
    assert matrix_entropy(values).negative_mass == pytest.approx(4 / 9)


def test_a_split_that_an_earlier_version_recorded_is_read():
    record = split_record(
        torch.tensor([5.0, 4.0, -3.5, 3.0, 0.02, 0.015, 0.01, 0.01], dtype=torch.float64), torch.float64, None, seed=0
    )
    written = to_dict(record)
    assert written["ridge_mass"] == pytest.approx(3.5 / 15.555)
    assert from_dict(SplitRecord, {"negative_mass": written.pop("ridge_mass")} | written) == record


def test_a_zero_spectrum_has_no_ridge_mass():
    assert parts(torch.zeros(3), 0.0).ridge_mass == 0


def test_frames_are_the_eigenvectors_of_their_part():
    hessian = symmetric(0, 12, 12)
    values, vectors = torch.linalg.eigh(hessian)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    split = eigen_split(values[order], vectors[:, order], 0.5)
    three = split.parts
    for frame, part in ((split.valley, three.valley), (split.river, three.river), (split.ridge, three.ridge)):
        assert torch.allclose(hessian @ frame, frame * part, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 5, 50, 200])
def test_the_coupling_of_the_own_hessian_is_zero_with_a_warning(dim):
    hessian = symmetric(dim, dim, dim)
    values, vectors = torch.linalg.eigh(hessian)
    split = eigen_split(values, vectors, float(values.abs().median()) * 1.0001, merge_ridge=True)
    with pytest.warns(EigenSplitCouplingWarning, match="made of this Hessian's eigenvectors, so its coupling is zero"):
        assert not coupling(split, hessian).any()


def test_float32_eigenvectors_are_the_hessian_s_own_too():
    hessian = symmetric(1, 30, 30).float()
    values, vectors = torch.linalg.eigh(hessian)
    split = eigen_split(values, vectors, 0.8, merge_ridge=True)
    with pytest.warns(EigenSplitCouplingWarning, match="coupling is zero"):
        assert not coupling(split, hessian).any()


def test_another_hessian_is_told_apart_and_keeps_its_coupling():
    hessian, other = symmetric(2, 20, 20), symmetric(3, 20, 20)
    split = eigen_split(*torch.linalg.eigh(hessian), 1.0, merge_ridge=True)
    assert not made_of(split, other)
    assert torch.allclose(coupling(split, other), split.valley.T @ other @ split.river, atol=1e-12)


def test_a_small_drift_is_told_from_rounding():
    hessian = symmetric(2, 20, 20)
    split = eigen_split(*torch.linalg.eigh(hessian), 1.0, merge_ridge=True)
    assert made_of(split, hessian)
    assert not made_of(split, hessian + 1e-9 * symmetric(3, 20, 20))


def test_the_coupling_of_a_frozen_split_grows_with_the_drift_and_below_the_change_of_the_hessian():
    start = 0.5 * torch.randn(32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    way = torch.randn(32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    before = mlp_hessian(start)
    values, vectors = torch.linalg.eigh(before)
    split = frozen(eigen_split(values, vectors, 0.05, point=start))
    logs = []
    for drift in (1e-3, 1e-2, 1e-1):
        after = mlp_hessian(start + drift * way / way.norm())
        size = float(torch.linalg.matrix_norm(coupling(split, after), 2))
        assert 0 < size <= float(torch.linalg.matrix_norm(after - before, 2)) + 1e-12
        logs.append(math.log10(size))
    assert 0.9 < (logs[2] - logs[0]) / 2 < 1.1
    assert torch.equal(split.point, start)


def test_blocks_are_the_parts_of_the_matrix_in_a_block_split():
    hessian = symmetric(6, 6, 6)
    split = block_split(coordinates(6, torch.tensor([0, 2])), coordinates(6, torch.tensor([1, 3, 5])))
    model = blocks(split, hessian, torch.arange(6.0))
    assert torch.allclose(model.coupling, hessian[[0, 2]][:, [1, 3, 5]])
    assert torch.allclose(model.valley, hessian[[0, 2]][:, [0, 2]])
    assert model.river_gradient.tolist() == [1.0, 3.0, 5.0]


def test_the_coupling_of_two_halves_is_noise_alone_and_the_null_knows():
    found = [crossfit(planted(seed, 0.05)[::2], planted(seed, 0.05)[1::2], signs=19) for seed in range(20)]
    ratio = sum(each.size for each in found) / sum(float(each.null.mean()) for each in found)
    assert ratio == pytest.approx(1, abs=0.05)
    assert sum(each.p_value <= 0.1 for each in found) <= 6


def test_the_coupling_of_two_halves_is_their_difference_in_the_frames():
    stack = planted(1, 0.05)
    found = crossfit(stack[:8], stack[8:])
    apart = found.split.valley.T @ (stack[8:].mean(0) - stack[:8].mean(0)) @ found.split.river
    assert torch.allclose(found.model.coupling, apart, atol=1e-12)
    assert found.split.kind == "crossfit"


def test_a_coupling_beyond_noise_is_seen():
    assert crossfit(planted(2, 0.02), planted(3, 0.02, turn=0.3), signs=99).p_value == 0.01


def test_no_warning_where_the_split_is_declared_frozen():
    hessian = symmetric(7, 10, 10)
    split = frozen(eigen_split(*torch.linalg.eigh(hessian), 0.8, merge_ridge=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert coupling(split, hessian).abs().max() < 1e-12


def test_what_is_refused():
    with pytest.raises(EmptySubspaceError, match=r"^split: given 2 valley and 0 river directions, expected both$"):
        coupling(eigen_split(torch.ones(2), torch.eye(2), 0.5), torch.eye(2))
    with pytest.raises(ShapeMismatchError, match=r"^vectors: given shape \(3, 3\), expected \(P, 2\) for as many eigenvalues$"):
        eigen_split(torch.ones(2), torch.eye(3), 0.5)
    with pytest.raises(OrthonormalityError, match=r"^vectors: \|V\^T V - I\| is 3\.0e\+00, expected at most 1e-08$"):
        eigen_split(torch.ones(2), 2 * torch.eye(2), 0.5)
    with pytest.raises(OrthonormalityError, match=r"^valley and river frame: "):
        block_split(torch.eye(2), torch.eye(2))
    with pytest.raises(ShapeMismatchError, match=r"^frames: given shapes \(2, 2\) and \(3, 3\), expected \(P, dV\) and \(P, dR\)$"):
        block_split(torch.eye(2), torch.eye(3))
    with pytest.raises(BadInputError, match=r"^epsilon: given -1, expected a number of at least 0$"):
        parts(torch.ones(2), -1)
    with pytest.raises(ShapeMismatchError, match=r"^second set: dimension 2, expected 3 as in the first$"):
        crossfit(torch.eye(3).expand(2, 3, 3), torch.eye(2).expand(2, 2, 2))
    with pytest.raises(InsufficientDataError, match=r"^batches: given 1, expected at least 2 to see noise$"):
        crossfit(torch.eye(3).expand(1, 3, 3), torch.eye(3).expand(2, 3, 3))


@pytest.mark.parametrize(("batches", "least"), [(2, 1 / 3), (3, 0.05), (4, 0.05)])
def test_few_batches_have_few_draws_and_no_small_p(batches: int, least: float) -> None:
    """Two batches have two draws that differ by more than a sign, whatever number is asked for."""
    found = crossfit(planted(0, 0.05)[:batches], planted(1, 0.05)[:batches], epsilon=0.5, signs=99)
    assert len(found.null) == len(found.null.unique())
    assert found.p_value >= 1 / (1 + len(found.null)) >= least
