"""Faults of batches: pieces that break the loss, and containers and buffers of every kind."""

import collections
import functools
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.curvature.cases import normal, stirred
from tests.curvature.cases import whole as integers
from tests.curvature.faults import (
    Faults,
    Given,
    X,
    Y,
    by_key,
    many,
    mlp,
    net,
    outcome_of,
    squared,
    summed,
)
from tests.curvature.oracle import whole
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinks, and what PyTorch says about its own operations
FAULTS = Faults()


# Kind 9: pieces of a batch break the loss.
@FAULTS.case(9)
def a_graph_as_one_batch():
    adjacency = torch.eye(70) / 2 + normal(70, 70, seed=8).abs() / 70
    model = net(lambda m, x, a: a @ m.b(torch.tanh(a @ m.a(x))), a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    loss = lambda m, b: (F.cross_entropy(m(b[0], b[2]), b[1], reduction="sum"), len(b[1]))  # noqa: E731
    return Given(loss, model, [(many(70, 3), integers(2, 70), adjacency)])


@FAULTS.case(9)
def edges_as_many_as_nodes():
    def run(m: Any, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        return m.b(torch.zeros(70, 3).to(x).index_add(0, end, torch.tanh(m.a(x))[start]))

    model = net(run, a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    loss = lambda m, b: (F.cross_entropy(m(b[0], b[2], b[3]), b[1], reduction="sum"), len(b[1]))  # noqa: E731
    return Given(loss, model, [(many(70, 3), integers(2, 70), integers(70, 70, seed=1), integers(70, 70, seed=2))])


@FAULTS.case(9)
def a_batch_term_without_gradient_here():
    model = nn.ParameterDict({"w": torch.zeros(3), "v": torch.ones(3)})
    loss = lambda m, b: ((b @ m["v"] - 1).square().sum() + (b @ m["w"]).sum().square(), len(b))  # noqa: E731
    return Given(loss, model, [many(150, 3)])


@FAULTS.case(9)
def a_batch_term_in_two_weights_that_are_zero():
    model = nn.ParameterDict({"w": torch.zeros(2), "v": torch.ones(3)})
    loss = lambda m, b: ((b @ m["v"] - 1).square().sum() + b.sum().square() * m["w"].prod(), len(b))  # noqa: E731
    return Given(loss, model, [many(150, 3)])


@FAULTS.case(9)
def a_contrastive_loss():
    def loss(m: nn.Module, b: Any) -> tuple[Tensor, int]:
        h = F.normalize(m(b[0]), dim=-1)
        return F.cross_entropy(h @ h.flip(0).T, torch.arange(len(h)), reduction="sum"), len(h)

    return Given(loss, mlp(), [(many(70, 3), integers(2, 70))])


@FAULTS.case(9)
def a_size_that_is_written_into_the_loss():
    loss = lambda m, b: (F.cross_entropy(m(b[0]).view(35, 2, 2).flatten(0, 1), b[1], reduction="sum"), 70)  # noqa: E731
    return Given(loss, mlp(), [(many(70, 3), integers(2, 70))])


@FAULTS.case(9)
def a_statistic_of_the_batch():
    loss = lambda m, b: summed(m, (b[0] - b[0].mean(0), b[1]))  # noqa: E731
    return Given(loss, mlp(), [(many(70, 3), integers(2, 70))])


@FAULTS.case(9)
def nothing_counts_in_the_first_piece():
    labels = integers(2, 130)
    labels[:64] = -100

    def loss(m: nn.Module, b: Any) -> tuple[Tensor, Tensor]:
        kept = (b[1] != -100).sum()
        return F.cross_entropy(m(b[0]), b[1]) * kept, kept

    return Given(loss, mlp(), [(many(130, 3), labels)])


@FAULTS.case(9)
def weights_of_classes_as_many_as_samples():
    model = stirred(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 66, bias=False)), 0.6)
    with_weights = lambda m, b: (F.cross_entropy(m(b[0]), b[1], weight=b[2].exp(), reduction="sum"), len(b[1]))  # noqa: E731
    head = Given(with_weights, model, [(many(66, 3), integers(66, 66), normal(66, seed=3))], params="0.*")
    return head


@FAULTS.case(9)
def a_balance_of_experts():
    def loss(m: nn.Module, b: Any) -> tuple[Tensor, int]:
        out = m(b[0])
        share = out.softmax(-1).mean(0)
        return F.cross_entropy(out, b[1], reduction="sum") + 10 * len(out) * share.square().sum(), len(out)

    return Given(loss, mlp(), [(many(70, 3), integers(2, 70))])


@FAULTS.case(9, ways=["Hessian 64", "dense 64"])
def time_comes_first():
    model = net(lambda m, x: m.o(m.r(x)[0]), r=nn.RNN(1, 2), o=nn.Linear(2, 1))
    loss = lambda m, b: ((m(b[0]) - b[1]).square().sum(), b[1].numel())  # noqa: E731
    return Given(loss, model, [(normal(70, 1, 1, seed=1), normal(70, 1, 1, seed=2))])


# Kind 12: batches in containers and buffers of every kind.
BATCH = "right | refused: batch"


@dataclass
class Sample:
    x: Any
    y: Any


@dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any


class Holder:
    """A class of the user's."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y


class Moving(Holder):
    """One that knows how to be moved, as batches of graphs do."""

    def to(self, *given: Any, **named: Any) -> "Moving":
        return Moving(self.x.to(*given, **named), self.y.to(*given, **named))


Pair = collections.namedtuple("Pair", "x y")
by_name = lambda m, b: squared(m, (b.x, b.y))  # noqa: E731
tensors = lambda b: (torch.from_numpy(b[0]), torch.from_numpy(b[1]))  # noqa: E731
BATCHES: dict[str, tuple[Any, Any]] = {
    "a dataclass": (by_name, Sample(X, Y)),
    "a frozen dataclass": (by_name, Frozen(X, Y)),
    "a named tuple": (by_name, Pair(X, Y)),
    "a class of ones own": (by_name, Holder(X, Y)),
    "a class that moves": (by_name, Moving(X, Y)),
    "a namespace": (by_name, types.SimpleNamespace(x=X, y=Y)),
    "a user dict": (by_key, collections.UserDict(x=X, y=Y)),
    "an ordered dict": (by_key, collections.OrderedDict(x=X, y=Y)),
    "a default dict": (by_key, collections.defaultdict(list, x=X, y=Y)),
    "a proxy of a dict": (by_key, types.MappingProxyType({"x": X, "y": Y})),
    "a chain of dicts": (by_key, collections.ChainMap({"x": X}, {"y": Y})),
    "a user dict in a list": (lambda m, b: by_key(m, b[0]), [collections.UserDict(x=X, y=Y)]),
    "a dataclass in a dict": (lambda m, b: by_name(m, b["in"]), {"in": Sample(X, Y)}),
    "a user list": (squared, collections.UserList([X, Y])),
    "a deque": (squared, collections.deque([X, Y])),
    "arrays": (lambda m, b: squared(m, tensors(b)), (X.numpy(), Y.numpy())),
    "arrays in a dict": (lambda m, b: squared(m, tensors((b["x"], b["y"]))), {"x": X.numpy(), "y": Y.numpy()}),
    "inputs that need gradients": (squared, (X.clone().requires_grad_(True), Y)),
}


def held(name: str) -> Given:
    return Given(BATCHES[name][0], mlp(), [BATCHES[name][1]], same=Given(squared, mlp()))


for name in BATCHES:
    FAULTS.add(name, functools.partial(held, name), 12, BATCH)


@FAULTS.case(12, "refused: different shapes")
def ragged_user_dicts_under_a_bare_mean():
    batches = [collections.UserDict(x=X, y=Y), collections.UserDict(x=X[:3], y=Y[:3])]
    return Given(by_key, mlp(), batches, same=torch.eye(20))


FAULTS.add(
    "ragged dataclasses under a bare mean",
    lambda: Given(by_name, mlp(), [Sample(X, Y), Sample(X[:3], Y[:3])], same=torch.eye(20)),
    12,
    "refused: different shapes | refused: batch",
)


@FAULTS.case(12, BATCH)
def many_samples_in_a_user_dict():
    x, y = many(70, 3), integers(2, 70)
    loss = lambda m, b: summed(m, (b[0]["x"], b[1]))  # noqa: E731
    return Given(loss, mlp(), [(collections.UserDict(x=x), y)], same=Given(summed, mlp(), [(x, y)]))


def through_one_buffer(hand: Callable[[Tensor, Tensor], Any]) -> Iterator[Any]:
    buffer, labels = torch.empty(4, 3), torch.empty(4, 2)
    for start in (0, 4):
        buffer.copy_(X[start : start + 4])
        labels.copy_(Y[start : start + 4])
        yield hand(buffer, labels)


FAULTS.add(
    "one buffer for all batches",
    lambda: Given(squared, mlp(), through_one_buffer(lambda x, y: (x, y)), same=Given(squared, mlp())),
    12,
    BATCH,
)
FAULTS.add(
    "views of one buffer",
    lambda: Given(squared, mlp(), through_one_buffer(lambda x, y: (x.view(4, 3), y[:])), same=Given(squared, mlp())),
    12,
    BATCH,
)
FAULTS.add(
    "one buffer in dicts",
    lambda: Given(by_key, mlp(), through_one_buffer(lambda x, y: {"x": x, "y": y}), same=Given(squared, mlp())),
    12,
    BATCH,
)


@FAULTS.case(12, BATCH)
def one_buffer_of_arrays():
    hand = lambda x, y: (x.numpy(), y.numpy())  # noqa: E731
    return Given(lambda m, b: squared(m, tensors(b)), mlp(), through_one_buffer(hand), same=Given(squared, mlp()))


@FAULTS.case(12, BATCH)
def one_dict_that_is_filled_again():
    def batches() -> Iterator[Any]:
        kept: dict[str, Tensor] = {}
        for start in (0, 4):
            kept["x"], kept["y"] = X[start : start + 4], Y[start : start + 4]
            yield kept

    return Given(by_key, mlp(), batches(), same=Given(squared, mlp()))


@pytest.mark.parametrize("method", ["recorded", "rebuilt", "differences"])
def test_an_operator_stays_when_its_batch_is_overwritten(method):
    x, model = X.clone(), mlp().double()
    hessian = tw.Hessian(squared, model, [(x.double() if method == "recorded" else x, Y)], method=method)
    before = whole(hessian)
    x.zero_()
    assert torch.equal(whole(hessian), before)


@pytest.mark.parametrize(("fault", "way"), FAULTS.attempts(), ids=str)
def test_it_is_right_or_refused_as_the_table_says(fault, way):
    outcome = outcome_of(fault, way)
    assert outcome.is_as(fault.expected), outcome
