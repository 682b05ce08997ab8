"""Losses that a check must not refuse, and differences of the gradient across kinks."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.curvature.cases import normal, stirred
from tests.curvature.faults import (
    LABELS,
    Faults,
    Given,
    Net,
    X,
    Y,
    mlp,
    net,
    outcome_of,
    plain_network,
    squared,
    truth_of,
)
from tests.curvature.oracle import by_differences, verdict, whole
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinks, and what PyTorch says about its own operations
FAULTS = Faults()


# Kind 6: checks that are too strict. All of these are right.
class InFloat32(nn.Module):
    """A norm that computes in float32 whatever it is given, in one of the ways that people write."""

    def __init__(self, down: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.down = nn.Parameter(torch.ones(3)), down

    def forward(self, h: Tensor) -> Tensor:
        low = self.down(h)
        return self.weight * (low * torch.rsqrt(low.square().mean(-1, keepdim=True) + 1e-6)).to(h.dtype)


DOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda h: h.float(),
    "to": lambda h: h.to(torch.float32),
    "to by name": lambda h: h.to(dtype=torch.float32),
    "type": lambda h: h.type(torch.float32),
    "type by name": lambda h: h.type("torch.FloatTensor"),
    "to another": lambda h: h.to(torch.ones(1)),
    "type_as": lambda h: h.type_as(torch.ones(1)),
    "a constant": lambda h: h.float() * torch.tensor([1.5], dtype=torch.float32),
}


def normed_in(down: Callable[[Tensor], Tensor]) -> nn.Module:
    return stirred(nn.Sequential(nn.Linear(3, 3), InFloat32(down), nn.Tanh(), nn.Linear(3, 2)), 0.6)


def in_float32(name: str) -> Given:
    kept = (lambda h: h * 1.5) if name == "a constant" else (lambda h: h)
    return Given(squared, normed_in(DOWN[name]), same=Given(squared, normed_in(kept)))


for name in DOWN:
    FAULTS.add(f"a norm in float32 by {name}", functools.partial(in_float32, name), 6, tolerance=1e-5)


@FAULTS.case(6, tolerance=1e-5)
def logits_in_float32():
    plain = lambda m, b: F.cross_entropy(m(b[0]), b[1])  # noqa: E731
    cast = lambda m, b: F.cross_entropy(m(b[0]).float(), b[1])  # noqa: E731
    return Given(cast, mlp(), [(X, LABELS)], same=Given(plain, mlp(), [(X, LABELS)]))


@FAULTS.case(6, tolerance=1e-5)
def a_softmax_in_float32():
    attend = lambda h: h.softmax(-1, dtype=torch.float32).to(h.dtype) * h  # noqa: E731
    kept = lambda h: h.softmax(-1) * h  # noqa: E731
    of = lambda bend: lambda m, b: (m[2](bend(m[0](b[0]))) - b[1]).square().mean()  # noqa: E731
    return Given(of(attend), mlp(), same=Given(of(kept), mlp()))


@FAULTS.case(6, tolerance=1e-5)
def rotary_angles_in_float32():
    angles = lambda x: (torch.arange(len(x), dtype=torch.float32, device=x.device)[:, None] / 7).cos()  # noqa: E731
    return Given(
        lambda m, b: ((m(b[0]).float() * angles(b[0])).to(b[0].dtype) - b[1]).square().mean(),
        mlp(),
        same=Given(
            lambda m, b: (m(b[0]) * (torch.arange(8, dtype=torch.float64)[:, None] / 7).cos() - b[1]).square().mean(), mlp()
        ),
    )


FAULTS.add(
    "a layer in half precision",
    lambda: Given(lambda m, b: (m(b[0]).bfloat16().to(b[0].dtype) - b[1]).square().mean(), mlp(), same=Given(squared, mlp())),
    6,
    "right | refused: half | refused: float16 | refused: bfloat16 | refused: precision",
    tolerance=1e-5,
)


@FAULTS.case(6, "right | refused: autocast", tolerance=1e-5)
def autocast():
    def loss(m: nn.Module, b: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = m(b[0])
        return (out.float() - b[1]).square().mean()

    return Given(loss, mlp(), same=Given(squared, mlp()))  # autocast leaves float64 alone


class Sized(nn.Module):
    """Weights of a size, that the loss takes in units of that size."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.w, self.size = nn.Parameter(torch.linspace(-1, 1, 5).double() * size), size

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.w / self.size * x).sum(1)


def of_size(size: float) -> Given:
    return Given(lambda m, b: m(b).square().mean(), Sized(size), [normal(8, 5, seed=7).double()], step=1e-3 * size)


FAULTS.add("weights of size 1e minus 6", lambda: of_size(1e-6), 6, ways=["Hessian 64", "dense 64"])
FAULTS.add("weights of size 1e minus 8", lambda: of_size(1e-8), 6, ways=["Hessian 64", "dense 64"])
FAULTS.add("weights of size 1e6", lambda: of_size(1e6), 6, ways=["Hessian 64", "dense 64"])


@FAULTS.case(6, tolerance=1e-5)
def one_weight_of_3e6_beside_a_net():
    model = net(lambda m, x: m.n(x) * torch.log1p(m.t / 1e6), t=nn.Parameter(torch.zeros(1)), n=mlp())
    with torch.no_grad():
        model.t.fill_(3e6)
    scale = torch.ones(21, dtype=torch.float64)
    scale[0] = 1e6  # in units of 1e6, where differences are good: the weight comes first
    small = net(lambda m, x: m.n(x) * torch.log1p(m.t), t=nn.Parameter(torch.zeros(1)), n=mlp())
    with torch.no_grad():
        small.t.fill_(3.0)
    truth = by_differences(squared, small, [(X, Y)]) / scale / scale[:, None]
    return Given(squared, model, same=truth)


FAULTS.add("a loss in large units", lambda: Given(lambda m, b: 1e12 * squared(m, b), mlp()), 6)
FAULTS.add("a loss in small units", lambda: Given(lambda m, b: 1e-12 * squared(m, b), mlp()), 6)


@FAULTS.case(6)
def a_loss_that_is_met():
    model = mlp()
    met = {torch.float32: model(X).detach(), torch.float64: copy.deepcopy(model).double()(X.double()).detach()}
    return Given(lambda m, b: (m(b[0]) - met[b[0].dtype]).square().mean(), model)


FAULTS.add(
    "a loss that bends fast",
    lambda: Given(lambda m, b: torch.sin(300 * m(b[0])).square().mean(), mlp(), step=1e-5),
    6,
    ways=["Hessian 64", "dense 64"],
)
FAULTS.add(
    "a linear loss has no curvature",
    lambda: Given(lambda m, b: m(b[0]).mean(), stirred(nn.Linear(3, 2), 0.6), same=torch.zeros(8, 8, dtype=torch.float64)),
    6,
    ways=["Hessian 32", "Hessian 64", "dense 64"],
)


@FAULTS.case(6)
def all_weights_zero():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return Given(lambda m, b: F.cross_entropy(m(b[0]), b[1]), model, [(X, LABELS)])


# Kind 19: differences of the gradient across kinks.
KINKED: dict[str, nn.Module] = {
    "ReLU": nn.ReLU(),
    "LeakyReLU": nn.LeakyReLU(0.2),
    "Hardtanh": nn.Hardtanh(-0.3, 0.3),
    "maxout": Net(lambda m, h: torch.maximum(h, h.roll(1, 1))),
    "abs": Net(lambda m, h: h.abs()),
    "largest first": Net(lambda m, h: h.sort(1).values),
}


@pytest.mark.parametrize("kink", KINKED)
def test_differences_across_kinks_are_right_or_refused(kink):
    model = stirred(nn.Sequential(nn.Linear(6, 4), KINKED[kink], nn.Linear(4, 2)), 0.6).double()
    batch = [(normal(200, 6, seed=1).double() / 30, normal(200, 2, seed=2).double())]
    truth = by_differences(squared, model, batch, 1e-8)
    outcome = verdict(lambda: whole(tw.Hessian(squared, model, batch, method="differences")), truth, 1e-2)
    assert outcome.is_as("right | refused: kink"), outcome


def test_differences_of_a_smooth_loss_are_right():
    outcome = verdict(
        lambda: whole(tw.Hessian(squared, mlp().double(), [(X, Y)], method="differences")),
        truth_of(plain_network),
        1e-6,
    )
    assert outcome.word == "right", outcome


@pytest.mark.parametrize(("fault", "way"), FAULTS.attempts(), ids=str)
def test_it_is_right_or_refused_as_the_table_says(fault, way):
    outcome = outcome_of(fault, way)
    assert outcome.is_as(fault.expected), outcome
