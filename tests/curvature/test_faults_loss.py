"""Faults of the loss function: weights that it captured, a count that is none, blocks that are computed again."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.curvature.cases import stirred
from tests.curvature.cases import whole as integers
from tests.curvature.faults import (
    EITHER,
    LABELS,
    Faults,
    Given,
    X,
    mlp,
    outcome_of,
    squared,
    summed,
    truth_of,
)
from tests.curvature.oracle import verdict, whole
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import thalweg as tw

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinks, and what PyTorch says about its own operations
FAULTS = Faults()


# Kind 1: the loss depends on weights that were captured before the call.
CAPTURED = "right | refused: weight"


def penalized(weights: Callable[[nn.Module], Any]) -> Given:
    """Squares of weights that were captured, against a penalty on the model's own."""
    model = mlp()
    kept = list(weights(model))
    own = lambda m, b: squared(m, b) + 0.1 * sum(p.square().sum() for p in m.parameters())  # noqa: E731
    return Given(lambda m, b: squared(m, b) + 0.1 * sum(p.square().sum() for p in kept), model, same=Given(own, model))


FAULTS.add("a penalty over a list of parameters", lambda: penalized(lambda m: m.parameters()), 1, CAPTURED)
FAULTS.add(
    "a penalty over the groups of an optimizer",
    lambda: penalized(lambda m: torch.optim.SGD(m.parameters(), lr=0.1).param_groups[0]["params"]),
    1,
    CAPTURED,
)
FAULTS.add("a penalty over a dict of names", lambda: penalized(lambda m: dict(m.named_parameters()).values()), 1, CAPTURED)
FAULTS.add(
    "a penalty over views that were taken before", lambda: penalized(lambda m: [p.view(-1) for p in m.parameters()]), 1, CAPTURED
)
FAULTS.add("a penalty over weights flattened before", lambda: penalized(lambda m: [p[None] for p in m.parameters()]), 1, CAPTURED)


@FAULTS.case(1, CAPTURED)
def one_captured_weight_in_the_middle_of_the_model():
    model = mlp()
    weight = model[2].weight
    loss = lambda m, b: (F.linear(m[1](m[0](b[0])), weight, m[2].bias) - b[1]).square().mean()  # noqa: E731
    return Given(loss, model, same=Given(squared, model))


@FAULTS.case(1, CAPTURED)
def elastic_weight_consolidation_with_kept_parameters():
    model = mlp()
    pairs = [(p, p.detach() + 0.1, p.detach().square()) for p in model.parameters()]
    own = lambda m, b: (  # noqa: E731
        squared(m, b)
        + sum((f.to(p) * (p - old.to(p)).square()).sum() for p, (_, old, f) in zip(m.parameters(), pairs, strict=True))
    )
    kept = lambda m, b: squared(m, b) + sum((f.to(p) * (p - old.to(p)).square()).sum() for p, old, f in pairs)  # noqa: E731
    return Given(kept, model, same=Given(own, model))


def tied_by_a_list(dtype: torch.dtype, listed: bool) -> Given:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.l = nn.Embedding(4, 3), nn.Linear(3, 3)
            self.head = [self.e.weight]

        def forward(self, i: Tensor) -> Tensor:
            return F.linear(torch.tanh(self.l(self.e(i))), self.head[0] if listed else self.e.weight)

    ids = integers(4, 8, seed=5)
    loss = lambda m, b: F.cross_entropy(m(b[0]), b[1])  # noqa: E731
    same = tied_by_a_list(dtype, False) if listed else None
    return Given(loss, stirred(Tied(), 0.6).to(dtype), [(ids, ids.roll(1))], same=same)


FAULTS.add("a head tied through a list", lambda: tied_by_a_list(torch.float32, True), 1, CAPTURED, ways=["Hessian 32", "dense 64"])
FAULTS.add(
    "a head tied through a list in float64",
    lambda: tied_by_a_list(torch.float64, True),
    1,
    CAPTURED,
    ways=["Hessian 64", "dense 64"],
)


@FAULTS.case(1)
def the_model_itself_from_outside():
    model = mlp()
    return Given(lambda m, b: squared(model, b), model, same=Given(squared, model))


@FAULTS.case(1)
def a_teacher_that_still_trains_is_a_constant():
    model, teacher = mlp(), stirred(mlp(), 0.4)
    teachers = {torch.float32: teacher, torch.float64: copy.deepcopy(teacher).double()}
    return Given(lambda m, b: (m(b[0]) - teachers[b[0].dtype](b[0])).square().mean(), model)


@FAULTS.case(1)
def captured_weights_that_are_not_chosen_are_constants():
    model = mlp()
    kept = model[0].weight
    loss = lambda m, b: squared(m, b) + m[2].weight.square().sum() * kept.square().sum().to(b[0])  # noqa: E731
    return Given(loss, model, params="2.*")


# Kind 2: the second value of (total, count) is not a count.
COUNT = "refused: count"


FAULTS.add(
    "the outputs in place of a count", lambda: Given(lambda m, b: (squared(m, b), m(b[0])), mlp(), same=torch.eye(20)), 2, COUNT
)
FAULTS.add(
    "another loss in place of a count",
    lambda: Given(lambda m, b: (squared(m, b), m(b[0]).square().mean()), mlp(), same=torch.eye(20)),
    2,
    COUNT,
)
FAULTS.add(
    "a dict of numbers in place of a count",
    lambda: Given(lambda m, b: (squared(m, b), {"mse": 1.0}), mlp(), same=torch.eye(20)),
    2,
    COUNT,
)
FAULTS.add(
    "a count for every sample", lambda: Given(lambda m, b: (squared(m, b), torch.ones(8)), mlp(), same=torch.eye(20)), 2, COUNT
)
FAULTS.add("a count that is text", lambda: Given(lambda m, b: (squared(m, b), "8"), mlp(), same=torch.eye(20)), 2, COUNT)
FAULTS.add("a count that is nan", lambda: Given(lambda m, b: (squared(m, b), float("nan")), mlp(), same=torch.eye(20)), 2, COUNT)
FAULTS.add(
    "nothing in place of a count", lambda: Given(lambda m, b: (squared(m, b), None), mlp(), same=Given(squared, mlp())), 2, EITHER
)
FAULTS.add(
    "a list of total and count",
    lambda: Given(lambda m, b: list(summed(m, b)), mlp(), [(X, LABELS)], same=Given(summed, mlp(), [(X, LABELS)])),
    2,
    EITHER,
)
FAULTS.add(
    "a count as a tensor of whole numbers",
    lambda: Given(lambda m, b: (summed(m, b)[0], (b[1] >= 0).sum()), mlp(), [(X, LABELS)]),
    2,
)
FAULTS.add("a count of numpy", lambda: Given(lambda m, b: (summed(m, b)[0], np.int64(8)), mlp(), [(X, LABELS)]), 2)


# Kind 4: what is computed again in the backward pass, when the model's own weights are back.
def again(run: Callable[..., Tensor]) -> Given:
    return Given(lambda m, b: (run(m, b[0]) - b[1]).square().mean(), mlp(), same=Given(squared, mlp()))


@FAULTS.case(4)
def a_checkpointed_block():
    return again(lambda m, x: m[2](checkpoint(lambda t: m[1](m[0](t)), x, use_reentrant=False)))


@FAULTS.case(4)
def a_checkpointed_model():
    return again(lambda m, x: checkpoint(m, x, use_reentrant=False))


FAULTS.add("a checkpointed sequence", lambda: again(lambda m, x: checkpoint_sequential(m, 2, x, use_reentrant=False)), 4)


@FAULTS.case(4)
def checkpoints_in_checkpoints():
    inner = lambda m, t: checkpoint(m[0], t, use_reentrant=False)  # noqa: E731
    return again(lambda m, x: m[2](checkpoint(lambda t: m[1](inner(m, t)), x, use_reentrant=False)))


FAULTS.add(
    "a checkpoint without kept random state",
    lambda: again(lambda m, x: checkpoint(m, x, use_reentrant=False, preserve_rng_state=False, determinism_check="none")),
    4,
)


@FAULTS.case(4)
def saved_on_the_cpu():
    def run(m: nn.Module, x: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return m(x)

    return again(run)


@FAULTS.case(4, EITHER)
def a_reversible_block_that_computes_again_with_the_models_weights():
    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, module: nn.Module, *weights: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            ctx.module = module
            with torch.no_grad():
                return module(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            x = ctx.saved_tensors[0].detach().requires_grad_(True)
            with torch.enable_grad():
                y = ctx.module(x)
            parts = torch.autograd.grad(y, [x, *ctx.module.parameters()], g)
            return parts[0], None, *parts[1:]

    return again(lambda m, x: m[2](Again.apply(x, m[:2], *m[:2].parameters())))


@pytest.mark.parametrize("method", ["rebuilt", "recorded", "differences"])
def test_checkpointed_products_are_right_or_refused_in_every_method(method):
    given = a_checkpointed_block()
    truth = truth_of(a_checkpointed_block)
    attempt = lambda: whole(tw.Hessian(given.loss, given.model.double(), given.batches, method=method))  # noqa: E731
    assert verdict(attempt, truth, 1e-6).is_as(EITHER if method == "recorded" else "right")


@pytest.mark.parametrize("build", [a_checkpointed_block, a_checkpointed_model, saved_on_the_cpu])
def test_an_operator_stays_when_the_model_is_trained_on(build):
    given = build()
    hessian = tw.Hessian(given.loss, given.model, given.batches, check=False)
    before = whole(hessian)
    with torch.no_grad():
        for p in given.model.parameters():
            p.add_(0.5)
    assert torch.equal(whole(hessian), before)


@pytest.mark.parametrize(("fault", "way"), FAULTS.attempts(), ids=str)
def test_it_is_right_or_refused_as_the_table_says(fault, way):
    outcome = outcome_of(fault, way)
    assert outcome.is_as(fault.expected), outcome
