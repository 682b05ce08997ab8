"""Faults where other tools meet ours: hooks and modes of the user, and types of other libraries."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from tests.curvature.cases import normal
from tests.curvature.cases import whole as integers
from tests.curvature.faults import (
    EITHER,
    LABELS,
    WAYS,
    Faults,
    Given,
    X,
    Y,
    as_seen,
    attempted,
    classes,
    dropout_in_evaluation,
    mlp,
    net,
    outcome_of,
    squared,
    truth_of,
)
from tests.curvature.oracle import verdict
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw
from thalweg.curvature.trace import trace
from thalweg.errors import ThalwegError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinks, and what PyTorch says about its own operations
FAULTS = Faults()


# Kind 11: instruments of ours meet the user's.
ADJACENCY = (normal(8, 8, seed=10).abs() * (normal(8, 8, seed=11) > 0.3)) + torch.eye(8)


def convolved(mm: Callable[[Tensor, Tensor], Tensor], adjacency: Tensor) -> Given:
    of = lambda mm: lambda m, b: (mm(b[2], m[2](m[1](mm(b[2], m[0](b[0]))))) - b[1]).square().mean()  # noqa: E731
    return Given(of(mm), mlp(), [(X, Y, adjacency)], same=Given(of(torch.mm), mlp(), [(X, Y, ADJACENCY)], step=3e-4))


FAULTS.add("a sparse graph", lambda: convolved(torch.sparse.mm, ADJACENCY.to_sparse()), 11)
FAULTS.add("a sparse graph in rows", lambda: convolved(torch.sparse.mm, ADJACENCY.to_sparse_csr()), 11)
FAULTS.add("a sparse graph by the operator", lambda: convolved(lambda a, h: a @ h, ADJACENCY.to_sparse()), 11)


@FAULTS.case(11)
def a_derivative_by_functions():
    def inner(m: nn.Module, b: Any) -> Tensor:
        d = torch.func.vmap(torch.func.grad(lambda t: m(t)[0]))(b[0])
        return (d[:, 0] + m(b[0])[:, 0]).square().mean() + m(b[0])[:, 1].square().mean()

    def plain(m: nn.Module, b: Any) -> Tensor:
        t = b[0].detach().clone().requires_grad_(True)
        u = m(t)
        d = torch.autograd.grad(u[:, 0].sum(), t, create_graph=True)[0]
        return (d[:, 0] + u[:, 0]).square().mean() + u[:, 1].square().mean()

    return Given(inner, mlp(), same=Given(plain, mlp()))


@FAULTS.case(11)
def a_laplacian_by_functions():
    def laplacian(m: nn.Module, b: Any) -> Tensor:
        bends = torch.vmap(lambda t: torch.func.jacfwd(torch.func.jacrev(lambda s: m(s)[0]))(t).trace())(b[0])
        return (bends + m(b[0]).sum(1)).square().mean()

    def by_hand(m: nn.Module, b: Any) -> Tensor:
        t = b[0].detach().clone().requires_grad_(True)
        slope = torch.autograd.grad(m(t)[:, 0].sum(), t, create_graph=True)[0]
        bends = [torch.autograd.grad(slope[:, i].sum(), t, create_graph=True)[0][:, i] for i in range(3)]
        return (sum(bends) + m(b[0]).sum(1)).square().mean()

    return Given(laplacian, mlp(), same=Given(by_hand, mlp()))


@FAULTS.case(11)
def an_adaptation_step_by_functions():
    def adapted(m: nn.Module, b: Any) -> Tensor:
        weights = dict(m.named_parameters())
        inner = lambda w: (torch.func.functional_call(m, w, (b[0][:4],)) - b[1][:4]).square().mean()  # noqa: E731
        steps = torch.func.grad(inner)(weights)
        moved = {name: w - 0.1 * steps[name] for name, w in weights.items()}
        return (torch.func.functional_call(m, moved, (b[0][4:],)) - b[1][4:]).square().mean()

    def by_hand(m: nn.Module, b: Any) -> Tensor:
        weights = dict(m.named_parameters())
        steps = torch.autograd.grad(squared(m, (b[0][:4], b[1][:4])), list(weights.values()), create_graph=True)
        w0, b0, w1, b1 = (w - 0.1 * step for w, step in zip(weights.values(), steps, strict=True))
        return (torch.tanh(b[0][4:] @ w0.T + b0) @ w1.T + b1 - b[1][4:]).square().mean()

    return Given(adapted, mlp(), same=Given(by_hand, mlp()))


@FAULTS.case(11)
def a_jagged_batch():
    parts = [normal(2, 3, seed=1), normal(4, 3, seed=2)]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged)
    plain = Given(lambda m, b: (m(b[0]) - 0.3).square().mean(), mlp(), [(torch.cat(parts),)])
    return Given(lambda m, b: (m(b).values() - 0.3).square().mean(), mlp(), [nested], same=plain)


@FAULTS.case(11)
def hooks_of_the_users_on_what_is_saved():
    def loss(m: nn.Module, b: Any) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            return squared(m, b)

    return Given(loss, mlp(), same=Given(squared, mlp()))


@FAULTS.case(11)
def sparse_gradients():
    model = net(lambda m, i: m.l(torch.tanh(m.e(i))), e=nn.Embedding(4, 3, sparse=True), l=nn.Linear(3, 2))
    return Given(squared, model, [(integers(4, 8, seed=1), Y)])


@FAULTS.case(11)
def sparse_gradients_and_padding():
    model = net(lambda m, i: m.l(torch.tanh(m.e(i))), e=nn.Embedding(4, 3, sparse=True, padding_idx=0), l=nn.Linear(3, 2))
    return Given(squared, model, [(1 + integers(3, 8, seed=1), Y)])


@FAULTS.case(11, "refused: ")
def a_padding_row_that_is_read_but_has_no_gradient():
    model = net(lambda m, i: m.l(torch.tanh(m.e(i))), e=nn.Embedding(4, 3, padding_idx=0), l=nn.Linear(3, 2))
    return Given(squared, model, [(integers(4, 8, seed=1), Y)], same=torch.eye(20))


@FAULTS.case(11, "right | refused: max_norm")
def an_embedding_that_writes_its_weights():
    def model(**options: Any) -> nn.Module:
        made = net(lambda m, i: m.l(torch.tanh(m.e(i))), e=nn.Embedding(4, 3, **options), l=nn.Linear(3, 2))
        with torch.no_grad():
            made.e.weight.copy_(F.normalize(made.e.weight, dim=1) * 0.4)
        return made

    batch = [(integers(4, 8, seed=1), Y)]
    return Given(squared, model(max_norm=0.5), batch, same=Given(squared, model(), batch))


CONTEXTS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "a default device": lambda: torch.device("cpu"),
    "counted operations": lambda: __import__("torch.utils.flop_counter", fromlist=["x"]).FlopCounterMode(display=False),
    "hooks on what is saved": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    "a profiler": lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("way", WAYS)
def test_inside_of_a_context_it_is_right_or_refused_by_its_name(context, way):
    truth, given = truth_of(dropout_in_evaluation), dropout_in_evaluation()
    with CONTEXTS[context]():
        outcome = verdict(lambda: attempted(given, way), as_seen(truth, way), 1e-5)
    assert outcome.is_as(f"right | refused: {context}"), outcome


# Kind 20: types of other tools are taken, or refused by name.
def loss_of_classes(m: Any, b: Any) -> Tensor:
    return F.cross_entropy(m(b[0]), b[1])


OPERATOR = functools.cache(lambda: tw.Hessian(squared, mlp(), [(X, Y)]))
FOREIGN: dict[str, Callable[[], Any]] = {
    "a vector of numpy": lambda: OPERATOR() @ np.ones(20),
    "a matrix of numpy": lambda: OPERATOR() @ np.ones((20, 2)),
    "a list of numbers": lambda: OPERATOR() @ ([1.0] * 20),
    "a list of tensors": lambda: OPERATOR() @ [torch.ones_like(p) for p in mlp().parameters()],
    "a dict of tensors": lambda: OPERATOR() @ {name: torch.ones_like(p) for name, p in mlp().named_parameters()},
    "a vector of whole numbers": lambda: OPERATOR() @ torch.ones(20, dtype=torch.long),
    "a complex vector": lambda: OPERATOR() @ torch.ones(20, dtype=torch.complex64),
    "a sparse vector": lambda: OPERATOR() @ torch.ones(20).to_sparse(),
    "a number": lambda: OPERATOR() @ 2.0,
    "eigenpairs of a matrix of numpy": lambda: tw.eigenpairs(np.eye(4), k=1),
    "eigenpairs of whole numbers": lambda: tw.eigenpairs(torch.eye(4, dtype=torch.long), k=1),
    "eigenpairs of scipy's operator": lambda: tw.eigenpairs(scipy.sparse.linalg.aslinearoperator(np.eye(4)), k=1),
    "eigenpairs of scipy's sparse matrix": lambda: tw.eigenpairs(scipy.sparse.eye(4, format="csr"), k=1),
    "eigenpairs of a sparse tensor": lambda: tw.eigenpairs(torch.eye(4).to_sparse(), k=1),
    "eigenpairs of a function": lambda: tw.eigenpairs(lambda v: 2 * v, k=1),
    "eigenpairs of a list of lists": lambda: tw.eigenpairs([[1.0, 0.0], [0.0, 2.0]], k=1),
    "eigenpairs of nothing": lambda: tw.eigenpairs(None, k=1),
    "a trace of numpy": lambda: trace(np.eye(4)),
    "a density of numpy": lambda: tw.spectral_density(np.eye(4)),
    "the operator for scipy": lambda: scipy.sparse.linalg.aslinearoperator(OPERATOR()),
    "a function as model": lambda: tw.Hessian(squared, lambda x: x, [(X, Y)]),
    "a method as model": lambda: tw.Hessian(squared, mlp().forward, [(X, Y)]),
    "a list of weights as model": lambda: tw.Hessian(squared, list(mlp().parameters()), [(X, Y)]),
    "a class as model": lambda: tw.Hessian(squared, nn.Linear, [(X, Y)]),
    "label -1": lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1]), classes(), [(X, LABELS - 1)]),
    "labels above the classes": lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1]), classes(), [(X, LABELS + 5)]),
    "labels that are real numbers": lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1]), classes(), [(X, LABELS.float())]),
    "labels that are shares": lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1]), classes(), [(X, torch.ones(8, 3) / 3)]),
    "outputs that are logits alone": lambda: tw.GaussNewton(lambda m, b: m(b[0]), classes(), [(X, LABELS)]),
    "a loss of outputs and targets": lambda: tw.Hessian(nn.MSELoss(), mlp(), [(X, Y)]),
    "a data set in place of batches": lambda: tw.Hessian(squared, mlp(), torch.utils.data.TensorDataset(X, Y)),
    "a pair in place of batches": lambda: tw.Hessian(squared, mlp(), (X, Y)),
    "an array in place of batches": lambda: tw.Hessian(squared, mlp(), X.numpy()),
    "a sum of operators": lambda: OPERATOR() + OPERATOR(),
    "a multiple": lambda: 2.0 * OPERATOR(),
    "the negative": lambda: -OPERATOR(),
    "the shape": lambda: OPERATOR().shape,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_other_tools_take_is_taken_or_refused_by_name(name):
    outcome = verdict(lambda: (FOREIGN[name](), torch.zeros(1))[1], torch.zeros(1), 1.0)
    assert outcome.is_as(EITHER), outcome


def test_what_is_taken_from_other_tools_is_right():
    hessian, ones = OPERATOR(), torch.ones(20)
    truth = (hessian @ ones).double()
    for name in ("a vector of numpy", "a list of tensors", "a dict of tensors"):
        try:
            outcome = FOREIGN[name]()
        except ThalwegError:
            continue
        parts = (
            outcome.values() if isinstance(outcome, dict) else outcome if isinstance(outcome, list) else [torch.as_tensor(outcome)]
        )
        assert torch.allclose(torch.cat([torch.as_tensor(part).reshape(-1) for part in parts]).double(), truth, rtol=1e-5)


@FAULTS.case(20)
def a_loader_of_data():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=4)
    return Given(squared, mlp(), loader, same=Given(squared, mlp()))


FAULTS.add(
    "a model in a wrapper for data parallelism", lambda: Given(squared, nn.DataParallel(mlp()), same=Given(squared, mlp())), 20
)


@FAULTS.case(20)
def an_averaged_model():
    model = torch.optim.swa_utils.AveragedModel(mlp())
    return Given(squared, model)


@FAULTS.case(20)
def a_loss_that_is_a_partial_function():
    weighed = lambda m, b, scale: scale * squared(m, b)  # noqa: E731
    return Given(functools.partial(weighed, scale=2.0), mlp())


@pytest.mark.parametrize(("fault", "way"), FAULTS.attempts(), ids=str)
def test_it_is_right_or_refused_as_the_table_says(fault, way):
    outcome = outcome_of(fault, way)
    assert outcome.is_as(fault.expected), outcome
