import pytest
import torch
from tests.curvature.cases import CASES, case_of, mlp, normal, pairs, squares
from torch import nn
from torch.nn import functional

from thalweg.curvature.check import check_hessian
from thalweg.curvature.context import seeded
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.objective import Objective
from thalweg.curvature.operator import Matrix, Operator
from thalweg.errors import KinkWarning, NotDeterministicError, NotSymmetricError, WrongProductError


class Unchecked(Operator):
    """Any matrix, symmetric or not."""

    def __init__(self, entries):
        self.entries, self.dim, self.dtype, self.device = entries, len(entries), entries.dtype, entries.device

    def rows(self, vectors):
        return vectors @ self.entries.T


def entries_and_objective(dtype=torch.float64):
    hessian = Hessian(*case_of("MLP").given, dtype=dtype)
    return hessian @ torch.eye(hessian.dim, dtype=dtype), hessian.objective


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_matrix_itself_passes(dtype):
    entries, objective = entries_and_objective(dtype)
    report = check_hessian(Unchecked(entries), objective)
    assert report.symmetry < 1e-5
    assert report.difference < 1e-4


@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_symmetric_matrix_is_noticed(seed):
    entries, objective = entries_and_objective()
    with pytest.raises(WrongProductError, match=r"^product: differs from the central difference of the gradient by 1.0e-03 of its"):
        check_hessian(Matrix(1.001 * entries), objective, seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_matrix_that_is_not_symmetric_is_noticed(seed):
    entries, objective = entries_and_objective()
    generator = torch.Generator().manual_seed(seed)
    skew = torch.randn(entries.shape, dtype=torch.float64, generator=generator)
    skew = (skew - skew.T) * 1e-7 * entries.norm() / skew.norm()  # below what the difference notices
    with pytest.raises(NotSymmetricError, match=r"^operator: \|u.Hv - v.Hu\| is .* of its size, expected a symmetric operator"):
        check_hessian(Unchecked(entries + skew), objective, seed)


RANDOM = {
    "noise": lambda m, b: (m(b[0]) + 0.1 * torch.randn(7, 2) - b[1]).square().mean(),
    "functional dropout": lambda m, b: (functional.dropout(m(b[0]), 0.5, training=True) - b[1]).square().mean(),
}


@pytest.mark.parametrize("method", ["auto", "rebuilt", "differences"])
@pytest.mark.parametrize("name", RANDOM)
def test_a_random_loss_is_noticed(name, method):
    case = mlp()
    with pytest.raises(NotDeterministicError, match=r"^loss: two gradients at one point differ by .* of their size; take"):
        Hessian(RANDOM[name], case.model, case.batches, method=method)


def test_a_loss_that_depends_on_how_often_it_was_called_is_noticed():
    case, calls = mlp(), []

    def loss_fn(model, batch):
        calls.append(None)
        return case.loss_fn(model, batch) * len(calls)

    with pytest.raises(NotDeterministicError, match="two gradients at one point differ"):
        Hessian(loss_fn, case.model, case.batches, method="rebuilt")


class Wrong(torch.autograd.Function):
    """A cube with the right first and a wrong second derivative: the square in it is taken for a constant."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0].detach() ** 2 * grad


@pytest.mark.parametrize("method", ["auto", "rebuilt"])
def test_a_wrong_second_derivative_is_noticed(method):
    case = mlp()
    loss_fn = lambda m, b: (Wrong.apply(m(b[0])) - b[1]).square().mean()  # noqa: E731
    with pytest.raises(WrongProductError, match=r"of its size; an operation with a custom or wrong .* method='differences'$"):
        Hessian(loss_fn, case.model, case.batches, method=method)
    assert Hessian(loss_fn, case.model, case.batches, method="differences").report.difference < 1e-3


class Wave(torch.nn.Module):
    """Bends within the step of the central difference: the third derivative is a thousand times the second."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.1, 0.9, 5, dtype=torch.float64))

    def forward(self, batch):
        return batch * torch.cos(3000 * self.weight) / 9e6


def test_a_loss_that_bends_within_the_step_is_no_wrong_product():
    model, batch = Wave(), torch.ones(5, dtype=torch.float64)
    hessian = Hessian(lambda m, b: m(b).sum(), model, [batch])
    v = torch.arange(5.0, dtype=torch.float64)
    torch.testing.assert_close(hessian @ v, -torch.cos(3000 * model.weight.detach()) * v)


def test_a_check_at_a_stationary_point_passes():
    model, x = torch.nn.Linear(3, 2).double(), normal(5, 3).double()
    hessian = Hessian(squares, model, [(x, model(x).detach())])
    assert not hessian.gradient.any()
    assert hessian.report.difference < 1e-8


def test_the_check_can_be_left_out_and_asked_for():
    hessian = Hessian(*mlp().given, check=False)
    assert hessian.report is None
    assert hessian.check().difference < 1e-4


def test_the_objective_is_not_changed_by_a_check():
    case = CASES["MLP"]()
    objective = Objective(*case.given)
    before = objective.point.clone()
    check_hessian(Hessian(*case.given, check=False), objective)
    assert torch.equal(objective.point, before)


def test_a_seed_fixes_noise_whose_numbers_depend_on_the_arithmetic():
    """PyTorch draws other normal numbers in float64 than in float32, so the check has to stay in float32."""
    case, batches = mlp(), pairs(3, 2, size=20)

    def noisy(model, batch):
        out = model(batch[0])
        return ((out + torch.randn_like(out)) ** 4).mean()

    hessian = Hessian(noisy, case.model, batches, seed=3)
    assert hessian.objective.precise == torch.float32
    with seeded(3):
        noise = torch.randn(20, 2)
    fixed = Hessian(lambda m, b: ((m(b[0]) + noise) ** 4).mean(), case.model, batches)
    torch.testing.assert_close(hessian @ torch.ones(32), fixed @ torch.ones(32))


def test_a_kink_at_the_point_is_asked_beside_it():
    """Zero biases and zero inputs: rectified units whose input is exactly zero, where every difference jumps."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).double()
    model[0].bias.data.zero_()
    x = normal(8, 3).double()
    x[:4] = 0.0
    with pytest.warns(KinkWarning, match="relu"):
        hessian = Hessian(squares, model, [(x, normal(8, 2, seed=1).double())])
    assert hessian.report.shifted


def test_a_wrong_product_beside_a_kink_is_still_noticed():
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).double()
    model[0].bias.data.zero_()
    x = normal(8, 3).double()
    x[:4] = 0.0
    loss_fn = lambda m, b: (Wrong.apply(m(b[0])) - b[1]).square().mean()  # noqa: E731
    with pytest.warns(KinkWarning, match="relu"), pytest.raises(WrongProductError, match=r"kinks \(relu\).*\(Wrong\)"):
        Hessian(loss_fn, model, [(x, normal(8, 2, seed=1).double())])


def test_a_recorded_product_that_is_wrong_is_replaced_by_one_in_reverse_mode(monkeypatch):
    case = mlp()
    right = Hessian(*case.given, method="rebuilt") @ torch.ones(32)
    monkeypatch.setattr(Hessian, "derivative", lambda self, index: lambda *v: [2.0 * part for part in v])
    hessian = Hessian(*case.given)
    assert "recorded products were not used, as their check failed" in hessian.explain()
    assert torch.equal(hessian @ torch.ones(32), right)


class Padded(nn.Module):
    """A next-token model whose embedding has a padding token."""

    def __init__(self, padding_idx: int | None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3, padding_idx=padding_idx)
        self.head = nn.Linear(3, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            scale = self.head.weight.norm() * 0 + 1  # a value out of the graph, which is not the cause
        return self.head(torch.tanh(self.embedding(tokens))) * scale


def next_token(model, tokens):
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0)


@pytest.mark.parametrize("padding_idx", [0, -5])
@pytest.mark.parametrize(
    "make",
    [
        lambda model, tokens: Hessian(next_token, model, [tokens]),
        lambda model, tokens: Hessian(next_token, model, [tokens], method="differences"),
    ],
    ids=["recorded", "differences"],
)
def test_a_padding_token_that_is_looked_up_is_named_as_the_cause_and_nothing_else(make, padding_idx):
    torch.manual_seed(0)
    with pytest.raises((WrongProductError, NotSymmetricError)) as caught:
        make(Padded(padding_idx), torch.tensor([[0, 1, 2], [3, 4, 0]]))
    told = str(caught.value)
    assert "an embedding with padding_idx=0 looks up token 0, whose weights change the loss but get no gradient" in told
    assert "no_grad" not in told
    assert "usual cause" not in told


def test_a_padding_token_that_is_not_looked_up_or_left_out_changes_nothing():
    torch.manual_seed(0)
    assert Hessian(next_token, Padded(0), [torch.tensor([[3, 1, 2], [3, 4, 0]])]).report is not None
    assert Hessian(next_token, Padded(None), [torch.tensor([[0, 1, 2], [3, 4, 0]])]).report is not None
