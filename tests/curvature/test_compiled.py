import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg.curvature import compiled as module
from thalweg.curvature.compiled import compare, lifted, structure
from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.linear import record
from thalweg.errors import WrongProductError


def program(factor):
    weights = factor * torch.arange(1.0, 4.0)
    return record(lambda v: [(v * weights).cumsum(0) * weights], [torch.tensor([0.3, 0.7, 0.2])])


def test_programs_that_differ_in_their_numbers_alone_have_one_structure():
    assert structure(program(1.0), 4) == structure(program(2.0), 4)


def test_programs_that_differ_in_steps_or_width_do_not():
    other = record(lambda v: [v * 2.0], [torch.tensor([0.3, 0.7, 0.2])])
    assert len({structure(program(1.0), 4), structure(program(1.0), 5), structure(other, 4)}) == 3


def test_constants_are_arguments():
    v = torch.tensor([1.0, -2.0, 0.5])
    weights = 3 * torch.arange(1.0, 4.0)
    given = [weights if torch.equal(c, torch.arange(1.0, 4.0)) else c for c in module.distinct(program(1.0))]
    assert torch.equal(lifted(program(1.0))(v, *given)[0], program(3.0)(v)[0])


def test_compiled_code_that_computes_something_else_is_refused():
    right = (torch.ones(3),)
    compare(right, right)
    with pytest.raises(WrongProductError, match=r"compiled product: differs from the replay by 1.0e-03"):
        compare((torch.full((3,), 1.001),), right)
    with pytest.raises(WrongProductError, match="differs from the replay by nan"):
        compare((torch.full((3,), float("nan")),), right)


def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3))
    batch = (torch.randn(10, 4), torch.randint(0, 3, (10,)))
    return lambda m, b: functional.cross_entropy(m(b[0]), b[1]), model, [batch]


@pytest.mark.slow
def test_compiled_equals_replayed_and_a_second_point_compiles_nothing():
    loss_fn, model, batches = case()
    compiled = dense_hessian(loss_fn, model, batches, compile="always")
    replayed = dense_hessian(loss_fn, model, batches, compile="never")
    assert compiled.how.endswith("compiled")
    assert replayed.how.endswith("replayed")
    assert (compiled.matrix - replayed.matrix).norm() < 1e-5 * replayed.matrix.norm()
    known = set(module.COMPILED)
    with torch.no_grad():
        model[0].weight += 0.1 * torch.randn(6, 4)
    moved = dense_hessian(loss_fn, model, batches, compile="always")
    again = dense_hessian(loss_fn, model, batches, compile="never")
    assert set(module.COMPILED) == known
    assert (moved.matrix - again.matrix).norm() < 1e-5 * again.matrix.norm()
    assert (moved.matrix - replayed.matrix).norm() > 1e-3 * replayed.matrix.norm()


@pytest.fixture
def nothing_compiled(monkeypatch):
    monkeypatch.setattr(module, "COMPILED", {})


@pytest.mark.usefixtures("nothing_compiled")
def test_without_a_compiler_columns_are_replayed_and_it_says_so(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no compiler\nin sight")

    monkeypatch.setattr(module.torch, "compile", fails)
    found = dense_hessian(*case(), compile="always")
    assert found.how.endswith("replayed; compilation failed: no compiler")


@pytest.mark.usefixtures("nothing_compiled")
def test_the_decision_counts_how_many_matrices_are_to_come():
    assert "replayed (about" in dense_hessian(*case()).how
    assert "would save" in dense_hessian(*case(), matrices=2).how
