import functools

import pytest
import torch
from tests.curvature.cases import CASES, Case, apart, case_of, normal, ragged, stirred
from torch.nn import functional

from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.hessian import Hessian
from thalweg.errors import BadInputError, MemoryLimitError

ROUNDING = 1e-11
FLOAT32 = 2e-5
SOME = ["MLP", "LayerNorm", "gpt, tied, 2 loops", "tied", "frozen", "by pattern", "BatchNorm", "convolution", "ragged", "dropout"]


@functools.cache
def dense_of(name):
    return dense_hessian(*case_of(name).given, dtype=torch.float64)


@pytest.mark.parametrize("name", [*SOME, "nested batches", "dict batches", "softmax attention with norm, 3 loops"])
def test_the_matrix_holds_the_products(name):
    case, dense = case_of(name), dense_of(name)
    directions = torch.stack([case.direction(seed) for seed in range(4)], dim=1)
    hessian = Hessian(*case.given, dtype=torch.float64, method="rebuilt", check=False)
    assert apart(dense.matrix @ directions, hessian @ directions) < ROUNDING


@pytest.mark.parametrize("name", ["LayerNorm", "tied", "ragged", "convolution"])
def test_the_matrix_is_the_difference_of_the_gradient(name):
    case, dense = case_of(name), dense_of(name)
    assert apart(dense.matrix @ case.direction(), case.product(case.direction())) < 1e-7


@pytest.mark.parametrize("name", SOME)
def test_symmetric_to_the_bit(name):
    assert torch.equal(dense_of(name).matrix, dense_of(name).matrix.T)


@pytest.mark.parametrize("name", ["MLP", "LayerNorm", "gpt, tied, 2 loops"])
def test_float32_is_close_to_float64(name):
    assert apart(dense_hessian(*case_of(name).given).matrix, dense_of(name).matrix) < FLOAT32


def test_blocks_by_name():
    dense = dense_of("MLP")
    assert dense.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert torch.equal(dense["0.bias", "2.*"], dense.matrix[15:20, 20:32])
    assert torch.equal(dense[["0.weight", "2.bias"], "0.bias"], torch.cat([dense.matrix[:15, 15:20], dense.matrix[30:, 15:20]]))


def test_an_unknown_block_comes_with_the_likely_name():
    with pytest.raises(BadInputError, match=r"unknown parameter '0.wieght'; did you mean '0.weight'\?"):
        dense_of("MLP")["0.wieght", "2.bias"]


def test_a_limit_that_is_too_small_is_refused_with_the_way_out():
    message = r"^dense Hessian of 32 parameters: needs .* bytes, the limit is .* bytes; choose fewer parameters with params="
    with pytest.raises(MemoryLimitError, match=message):
        dense_hessian(*case_of("MLP").given, memory=1000)


def long_batch(loss_fn):
    model = stirred(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)))
    return Case(model, loss_fn, [(normal(rows, 3, seed=rows), normal(rows, 2, seed=rows)) for rows in (100, 70)])


def summed(model, batch):
    return functional.gelu(model(batch[0]) - batch[1]).square().sum(), len(batch[0])


def contrastive(model, batch):
    states = model(batch[0])
    return functional.cross_entropy(states @ states.T, torch.arange(len(states)), reduction="sum"), len(states)


@pytest.mark.parametrize("loss_fn", [summed, contrastive])
def test_batches_longer_than_a_piece(loss_fn):
    case = long_batch(loss_fn)
    dense = dense_hessian(*case.given, dtype=torch.float64)
    assert apart(dense.matrix @ case.direction(), case.product(case.direction())) < 1e-7


def test_progress_ends_at_all():
    seen = []
    case = ragged()
    dense_hessian(*case.given, progress=lambda done, whole: seen.append((done, whole)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_nothing_of_the_callers_is_changed():
    case = CASES["dropout"]()
    before = [parameter.detach().clone() for parameter in case.model.parameters()]
    state = torch.get_rng_state()
    dense_hessian(*case.given)
    assert [module.training for module in case.model.modules()] == [True] * 6
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, case.model.parameters(), strict=True))


@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_model_of_fewer_than_8_parameters_has_a_dense_hessian(width: int) -> None:
    model = torch.nn.Linear(width, 1, bias=False).double()
    rows = torch.randn(9, width, dtype=torch.float64, generator=torch.Generator().manual_seed(width))
    found = dense_hessian(lambda m, x: m(x).square().mean(), model, [rows])
    torch.testing.assert_close(found.matrix, 2 * rows.T @ rows / 9)
