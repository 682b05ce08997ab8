"""Faults that only a check can find, and messages that say what to do."""

import collections
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.curvature.faults import (
    LABELS,
    Faults,
    Given,
    X,
    Y,
    attempted,
    by_key,
    classes,
    mlp,
    net,
    outcome_of,
    squared,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

import thalweg as tw
from thalweg.errors import ThalwegError
from thalweg.landscape.slices import Slices

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinks, and what PyTorch says about its own operations
FAULTS = Faults()


# Kind 5: checks that are missing or let everything pass. The gradient below is not that of a loss, or its derivative is wrong.
WRONG = "refused: "


class Cube(torch.autograd.Function):
    """A custom function that forgets that its derivative depends on the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 3 * ctx.saved_tensors[0].detach() ** 2


class Reversed(torch.autograd.Function):
    """The identity, the gradient turned round, as for adversarial domains."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


def scaled(loss: Any, scale: float) -> Given:
    return Given(lambda m, b: scale * loss(m, b), mlp(), same=torch.eye(20))


def through(bend: Callable[[Tensor], Tensor], scale: float = 1.0) -> Given:
    """Something between the layers."""
    return scaled(lambda m, b: (m[2](bend(m[0](b[0]))) - b[1]).square().mean(), scale)


FAULTS.add("a wrong second derivative", lambda: through(Cube.apply), 5, WRONG)
FAULTS.add("a wrong second derivative of a small loss", lambda: through(Cube.apply, 1e-7), 5, WRONG)
FAULTS.add("a wrong second derivative of a tiny loss", lambda: through(Cube.apply, 1e-12), 5, WRONG)


@FAULTS.case(5, WRONG)
def a_wrong_second_derivative_beside_kinks():
    return through(lambda h: F.relu(Cube.apply(h)))


@FAULTS.case(5, WRONG)
def a_head_on_detached_features():
    return scaled(lambda m, b: squared(m, b) + (m[2](m[1](m[0](b[0])).detach()) + b[1]).square().mean(), 1.0)


FAULTS.add(
    "a head on detached features of a small loss",
    lambda: scaled(lambda m, b: squared(m, b) + (m[2](m[1](m[0](b[0])).detach()) + b[1]).square().mean(), 1e-8),
    5,
    WRONG,
)
FAULTS.add("a straight through sign", lambda: through(lambda h: h + (torch.sign(h) - h).detach()), 5, WRONG)
FAULTS.add(
    "straight through rounding as for quantisation", lambda: through(lambda h: h + ((4 * h).round() / 4 - h).detach()), 5, WRONG
)


@FAULTS.case(5, WRONG)
def a_stopped_gradient_on_the_other_branch():
    def loss(m: nn.Module, b: Any) -> Tensor:
        p, z = m(b[0]), m(b[0].flip(1)).detach()
        return -F.cosine_similarity(p, z).mean()

    return scaled(loss, 1.0)


FAULTS.add("a gradient turned round", lambda: through(lambda h: Reversed.apply(torch.tanh(h))), 5, WRONG)


@FAULTS.case(5, WRONG)
def a_policy_gradient_with_a_detached_reward():
    def loss(m: nn.Module, b: Any) -> Tensor:
        chance = m(b[0]).log_softmax(-1)
        return -(chance[:, 0] * chance[:, 1].exp().detach()).mean()

    return scaled(loss, 1.0)


FAULTS.add(
    "a loss normed by its own detached size",
    lambda: scaled(lambda m, b: squared(m, b) / squared(m, b).detach() + 0.1 * m(b[0]).square().mean(), 1.0),
    5,
    WRONG,
)


@FAULTS.case(5, "refused: differ")
def functional_dropout():
    return through(lambda h: F.dropout(h, 0.5))


@FAULTS.case(5, "refused: differ")
def functional_dropout_beside_kinks():
    return through(lambda h: F.dropout(F.relu(h), 0.5), 1e-8)


FAULTS.add(
    "noise on the inputs",
    lambda: scaled(lambda m, b: squared(m, (b[0] + 0.1 * torch.randn_like(b[0]), b[1])), 1.0),
    5,
    "refused: differ",
)


@FAULTS.case(5, "right | refused: ", ways=["Hessian 64", "dense 64", "probe 32"])
def weight_norm_and_a_kink():
    torch.manual_seed(1)
    return Given(squared, nn.Sequential(weight_norm(nn.Linear(3, 3)), nn.ReLU(), nn.Linear(3, 2)), step=1e-5)


def one_step() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        z, e = x.new_zeros(len(x), 3), m.i(x)
        with torch.no_grad():
            for _ in range(3):
                z = torch.relu(m.f(z) + e)
        return m.o(torch.relu(m.f(z) + e))

    return net(run, i=nn.Linear(3, 3), f=nn.Linear(3, 3), o=nn.Linear(3, 2))


@FAULTS.case(5, WRONG)
def a_gradient_of_the_last_step_only():
    return Given(squared, one_step(), same=torch.eye(32))


MATRIX_FREE = [
    weight_norm_and_a_kink,
    a_gradient_of_the_last_step_only,
    functional_dropout_beside_kinks,
    a_wrong_second_derivative_beside_kinks,
]


@pytest.mark.parametrize("build", MATRIX_FREE, ids=lambda build: build.__name__)
def test_a_matrix_free_probe_refuses_them_too(build):
    given = build()
    probe = tw.LandscapeProbe(top=2, forms=0, method="matrix-free", dtype=torch.float64)
    with pytest.raises(ThalwegError, match=r"derivative|differ|symmetric|gradient"):
        probe.measure(given.loss, given.model, given.batches)


def test_slices_refuse_a_random_loss():
    with pytest.raises(ThalwegError, match=r"random|differ"):
        Slices(functional_dropout().loss, mlp(), [(X, Y)]).line(torch.ones(20), [0.0, 0.1])


def test_the_gauss_newton_matrix_of_detached_logits_is_refused():
    outputs = lambda m, b: (1e-3 * (m(b[0]) + m(b[0].flip(1)).detach()), b[1])  # noqa: E731
    with pytest.raises(ThalwegError, match="differ"):
        tw.GaussNewton(outputs, mlp(), [(X, LABELS)])


# Kind 15: messages that say what to do.
def test_a_lazy_layer_is_told_to_be_run_once():
    with pytest.raises(ThalwegError, match=r"(?i)lazy|run the model once|uninitialized"):
        tw.Hessian(squared, nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), [(X, Y)])


def test_a_name_with_brackets_is_a_name():
    model = nn.ModuleDict({"conv[3x3]": nn.Linear(3, 2), "other": nn.Linear(3, 2)})
    hessian = tw.Hessian(lambda m, b: squared(m["conv[3x3]"], b), model, [(X, Y)], params="conv[3x3].weight")
    assert hessian.layout.names == ("conv[3x3].weight",)


@pytest.mark.parametrize("params", ["conv[3x3].*", ["conv[3x3].weight", "conv[3x3].bias"]])
def test_a_pattern_with_brackets_in_a_name(params):
    model = nn.ModuleDict({"conv[3x3]": nn.Linear(3, 2), "other": nn.Linear(3, 2)})
    hessian = tw.Hessian(lambda m, b: squared(m["conv[3x3]"], b), model, [(X, Y)], params=params)
    assert hessian.layout.names == ("conv[3x3].weight", "conv[3x3].bias")


MESSAGES: dict[str, tuple[Callable[[], Any], str]] = {
    "a reentrant checkpoint": (
        lambda: tw.Hessian(
            lambda m, b: (m[2](checkpoint(m[:2], b[0], use_reentrant=True)) - b[1]).square().mean(), mlp(), [(X, Y)]
        ),
        "checkpoint.*use_reentrant",
    ),
    "a gradient of the last step": (lambda: tw.Hessian(squared, one_step(), [(X, Y)]), "no_grad|detach"),
    "detached features": (lambda: attempted(a_head_on_detached_features(), "Hessian 64"), "no_grad|detach|derivative"),
    "one batch that is a tuple": (lambda: tw.Hessian(squared, mlp(), (X, Y)), r"\[batch\]|\[\(x, y\)\]"),
    "one batch that is a dict": (lambda: tw.Hessian(by_key, mlp(), {"x": X, "y": Y}), r"\[batch\]"),
    "one batch that is a user dict": (lambda: tw.Hessian(by_key, mlp(), collections.UserDict(x=X, y=Y)), r"\[batch\]"),
    "no batches": (lambda: tw.Hessian(squared, mlp(), None), "batches"),
    "weights of another model": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], params=list(mlp().parameters())), "params.*name"),
    "a module as params": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], params=mlp()), "params.*name"),
    "a number as params": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], params=3), "params.*name"),
    "a misspelt name": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], params="0.weigth"), "did you mean '0.weight'"),
    "loss and model swapped": (lambda: tw.Hessian(mlp(), squared, [(X, Y)]), "model"),
    "no model": (lambda: tw.Hessian(squared, None, [(X, Y)]), "model"),
    "a dtype as text": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], dtype="float64"), r"dtype.*torch\.float64"),
    "half precision": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], dtype=torch.bfloat16), r"dtype.*torch\.float32"),
    "a misspelt method": (lambda: tw.Hessian(squared, mlp(), [(X, Y)], method="recoded"), "method.*recorded"),
    "a loss that is a number": (lambda: tw.Hessian(lambda m, b: squared(m, b).item(), mlp(), [(X, Y)]), "loss_fn.*float"),
    "a loss of every sample": (lambda: tw.Hessian(lambda m, b: (m(b[0]) - b[1]).square(), mlp(), [(X, Y)]), "loss_fn.*shape"),
    "a loss in a dict": (lambda: tw.Hessian(lambda m, b: {"loss": squared(m, b)}, mlp(), [(X, Y)]), "loss_fn.*dict"),
    "a loss of nothing": (lambda: tw.Hessian(lambda m, b: None, mlp(), [(X, Y)]), "loss_fn.*NoneType"),
    "a detached loss": (lambda: tw.Hessian(lambda m, b: squared(m, b).detach(), mlp(), [(X, Y)]), "no graph"),
    "complex weights": (
        lambda: tw.Hessian(
            lambda m, b: m.w.abs().sum(), net(lambda m, x: x, w=nn.Parameter(torch.ones(2, dtype=torch.complex64))), [X]
        ),
        "complex",
    ),
    "targets of another shape": (
        lambda: tw.GaussNewton(lambda m, b: (m(b[0]), b[1][:3]), classes(), [(X, LABELS)]),
        "logits.*targets",
    ),
    "a direction of another length": (lambda: tw.Hessian(squared, mlp(), [(X, Y)]) @ torch.ones(3), "vectors.*20"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_message_says_what_to_do_about(name):
    attempt, words = MESSAGES[name]
    with pytest.raises(ThalwegError, match=f"(?is){words}") as caught:
        attempt()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("fault", "way"), FAULTS.attempts(), ids=str)
def test_it_is_right_or_refused_as_the_table_says(fault, way):
    outcome = outcome_of(fault, way)
    assert outcome.is_as(fault.expected), outcome
