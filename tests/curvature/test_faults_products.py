"""Faults of products: operations, shapes of parameters, and arithmetic while scalings are joined."""

import functools
from collections.abc import Callable
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
    attempted,
    mlp,
    net,
    normed,
    outcome_of,
    squared,
    truth_of,
)
from tests.curvature.oracle import verdict, whole
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinks, and what PyTorch says about its own operations
FAULTS = Faults()


# Kind 7: what products can do, the whole matrix and the probe can too (see also test_operations.py).
def recurrent(kind: Any) -> Given:
    model = net(lambda m, x: m.o(m.r(x)[0]), r=kind(1, 2, batch_first=True), o=nn.Linear(2, 1))
    return Given(squared, model, [(normal(3, 4, 1, seed=1), normal(3, 4, 1, seed=2))])


FAULTS.add("an lstm", lambda: recurrent(nn.LSTM), 7)
FAULTS.add("a gru", lambda: recurrent(nn.GRU), 7)
FAULTS.add("an rnn", lambda: recurrent(nn.RNN), 7)


@FAULTS.case(7)
def a_hook_on_the_backward_pass():
    model = mlp()
    model[0].register_full_backward_hook(lambda *given: None)
    return Given(squared, model, same=Given(squared, mlp()))


@FAULTS.case(7)
def a_hook_on_an_output():
    seen: list[Tensor] = []

    def loss(m: nn.Module, b: Any) -> Tensor:
        h = m(b[0])
        if h.requires_grad:
            h.register_hook(lambda g: seen.append(g))
        return (h - b[1]).square().mean()

    return Given(loss, mlp(), same=Given(squared, mlp()))


@FAULTS.case(7)
def a_loss_of_the_derivative_by_the_inputs():
    def loss(m: nn.Module, b: Any) -> Tensor:
        t = b[0].detach().clone().requires_grad_(True)
        u = m(t)[:, :1]
        return (torch.autograd.grad(u.sum(), t, create_graph=True)[0][:, :1] + u).square().mean()

    return Given(loss, mlp())


@FAULTS.case(7)
def a_penalty_on_the_gradient_of_the_inputs():
    def loss(m: nn.Module, b: Any) -> Tensor:
        t = b[0].detach().clone().requires_grad_(True)
        slope = torch.autograd.grad(squared(m, (t, b[1])), t, create_graph=True)[0]
        return squared(m, b) + slope.square().sum()

    return Given(loss, mlp())


@FAULTS.case(7)
def rows_written_in_place():
    def run(m: Any, x: Tensor) -> Tensor:
        h, o = m.a(x), torch.zeros(len(x), 3).to(x)
        o[:, :1] = h[:, :1].tanh()
        o[:, 1:] = h[:, 1:].sin()
        return m.b(o)

    return Given(squared, net(run, a=nn.Linear(3, 3), b=nn.Linear(3, 2)))


@FAULTS.case(7)
def a_scan_that_writes_its_states():
    def run(m: Any, x: Tensor) -> Tensor:
        states = x.new_zeros(x.shape[0], x.shape[1], 2)
        state = x.new_zeros(x.shape[0], 2)
        for t in range(x.shape[1]):
            state = torch.sigmoid(m.a(x[:, t])) * state + m.b(x[:, t])
            states[:, t] = state
        return m.o(states)

    model = net(run, a=nn.Linear(1, 2), b=nn.Linear(1, 2), o=nn.Linear(2, 1))
    return Given(squared, model, [(normal(3, 4, 1, seed=1), normal(3, 4, 1, seed=2))])


@FAULTS.case(7)
def a_fourier_layer():
    def run(m: Any, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * torch.complex(m.re, m.im), 4).tanh()

    model = net(run, re=nn.Parameter(torch.zeros(3)), im=nn.Parameter(torch.zeros(3)))
    return Given(squared, model, [(normal(5, 4, seed=1), normal(5, 4, seed=2))])


@FAULTS.case(7)
def batch_norm_put_into_training_by_the_loss():
    def loss(m: nn.Module, b: Any) -> Tensor:
        m.train()
        return squared(m, b)

    return Given(loss, normed(), train=True)


@FAULTS.case(7)
def a_spatial_transformer():
    def run(m: Any, x: Tensor) -> Tensor:
        grid = F.affine_grid(m.theta.expand(len(x), 2, 3), [len(x), 1, 3, 3], align_corners=False)
        return F.grid_sample(x, grid, align_corners=False).flatten(1) * m.gain

    model = net(run, theta=nn.Parameter(torch.zeros(1, 2, 3)), gain=nn.Parameter(torch.zeros(9)))
    return Given(squared, model, [(normal(2, 1, 3, 3, seed=1), normal(2, 9, seed=2))], step=1e-4)


# Kind 8: shapes of parameters.
@FAULTS.case(8)
def a_learned_scale_of_the_logits():
    run = lambda m, x, y: m.scale.exp() * F.normalize(m.a(x), dim=-1) @ F.normalize(m.b(y), dim=-1).T  # noqa: E731
    model = net(run, a=nn.Linear(3, 3), b=nn.Linear(2, 3), scale=nn.Parameter(torch.tensor(1.2)))
    return Given(lambda m, b: F.cross_entropy(m(*b), torch.arange(len(b[0]))), model)


FAULTS.add(
    "a parameter without entries",
    lambda: Given(squared, net(lambda m, x: torch.tanh(m.a(x)) + m.z.sum(), a=nn.Linear(3, 2), z=nn.Parameter(torch.zeros(0)))),
    8,
)


@FAULTS.case(8)
def a_matrix_without_rows():
    run = lambda m, x: torch.tanh(m.a(x)) + (m.z @ x.T).sum()  # noqa: E731
    return Given(squared, net(run, a=nn.Linear(3, 2), z=nn.Parameter(torch.zeros(0, 3))))


FAULTS.add(
    "one scalar alone",
    lambda: Given(
        lambda m, b: (torch.sin(m.t * b[0]) - b[1][:, :1]).square().mean(),
        net(lambda m, x: x, t=nn.Parameter(torch.tensor(0.5))),
    ),
    8,
)


@FAULTS.case(8)
def only_scalars():
    model = net(lambda m, x: torch.sin(m.t * x) * m.s.exp(), t=nn.Parameter(torch.tensor(0.5)), s=nn.Parameter(torch.tensor(0.2)))
    return Given(lambda m, b: (m(b[0]) - b[1][:, :1]).square().mean(), model)


@FAULTS.case(8)
def a_scalar_that_is_chosen():
    model = net(lambda m, x: torch.tanh(m.a(x)) * m.t.exp(), a=nn.Linear(3, 2), t=nn.Parameter(torch.tensor(0.5)))
    return Given(squared, model, params="t*")


@FAULTS.case(8)
def dimensions_of_one():
    run = lambda m, x: torch.tanh(m.w * x[:, None, None]).sum((1, 2)) + m.v  # noqa: E731
    return Given(
        lambda m, b: m(b[0]).square().mean(), net(run, w=nn.Parameter(torch.zeros(1, 1, 1)), v=nn.Parameter(torch.zeros(1, 3)))
    )


# Kind 10: arithmetic while scalings are joined.
def bent(bend: Callable[[Tensor, Any], Tensor], *more: Any) -> Given:
    """Something that scales between the layers, by constants of the batch."""
    loss = lambda m, b: (m[2](torch.tanh(bend(m[0](b[0]), b))) - b[1]).square().mean()  # noqa: E731
    return Given(loss, mlp(), [(X, Y, *more)])


LENGTHS = integers(7, 8, 1, seed=9) + 3


@FAULTS.case(10)
def a_mean_by_lengths():
    return bent(lambda h, b: h / b[2], LENGTHS)


FAULTS.add("a mean by lengths of one number", lambda: bent(lambda h, b: h / b[2], torch.tensor(7)), 10)


@FAULTS.case(10)
def a_mean_over_a_mask_of_flags():
    mask = integers(2, 8, 3, seed=9) == 1
    return bent(lambda h, b: h * b[2] / b[2].sum().clamp(min=1), mask)


@FAULTS.case(10)
def a_sum_over_two_masks_of_flags():
    mask = integers(2, 8, 3, seed=9) == 1
    return bent(lambda h, b: (h * h) * b[2] + (h * h) * b[3] + h, mask, mask.roll(1, 0) | mask)


FAULTS.add(
    "scaled twice by bytes",
    lambda: bent(
        lambda h, b: h * b[2] * b[3] / 4e4, torch.tensor([200], dtype=torch.uint8), torch.tensor([201], dtype=torch.uint8)
    ),
    10,
)
FAULTS.add(
    "scaled twice by large whole numbers",
    lambda: bent(lambda h, b: h * b[2] * b[3] / 1e20, torch.tensor([10**10]), torch.tensor([10**10])),
    10,
)
FAULTS.add(
    "divided by bytes", lambda: bent(lambda h, b: h / b[2] - h * b[2] / 100, torch.tensor([[3], [7]] * 4, dtype=torch.uint8)), 10
)
FAULTS.add("divided by a constant of its own precision", lambda: bent(lambda h, b: h / torch.tensor(0.7)), 10)
FAULTS.add(
    "scaled twice by constants of their own precision",
    lambda: bent(lambda h, b: h * torch.tensor(0.7) * torch.tensor(1.3) - h * torch.tensor(0.1)),
    10,
)
FAULTS.add("a mean over what is not nan", lambda: bent(lambda h, b: h - h.nanmean(0)), 10)
FAULTS.add("whole numbers as exponents", lambda: bent(lambda h, b: h ** b[2] / 3, integers(3, 8, 1, seed=9)), 10)


class Phase(nn.Module):
    """Through complex numbers, real in and out."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.l, self.bend = nn.Linear(3, 2), bend

    def forward(self, x: Tensor) -> Tensor:
        z = self.bend(self.l(x))
        return z.real + 0.5 * z.imag


COMPLEX: dict[str, Callable[[Tensor], Tensor]] = {
    "exp of 1j": lambda p: torch.exp(1j * p),
    "polar": lambda p: torch.polar(p.abs() + 1, p),
    "times 1j": lambda p: torch.complex(p, p.sin()) * 1j * p,
    "a square": lambda p: torch.complex(p, p.sin()) ** 2,
    "a quotient by 1j": lambda p: torch.complex(p, p.sin()) / (2 + 3j) - 1j,
    "a constant phase": lambda p: p * torch.exp(torch.tensor(0.7j, dtype=torch.complex128)).to(torch.complex(p, p).dtype),
    "rotary": lambda p: (
        torch.view_as_complex(p.view(-1, 1, 2)) * torch.polar(torch.ones(1), torch.full((1,), 0.3)).to(torch.complex(p, p).dtype)
    ),
    "a spectrum": lambda p: torch.fft.fft(p, dim=0) * 1j,
}


def complex_numbers(name: str) -> Given:
    return Given(lambda m, b: m(b[0]).square().mean() + (m(b[0]) - 0.3).mean(), stirred(Phase(COMPLEX[name]), 0.6))


for name in COMPLEX:
    FAULTS.add(f"complex numbers by {name}", functools.partial(complex_numbers, name), 10)


def test_whole_divisors_in_a_default_of_half_precision():
    given, truth = a_mean_by_lengths(), truth_of(a_mean_by_lengths)
    torch.set_default_dtype(torch.bfloat16)
    try:
        outcome = verdict(lambda: whole(tw.Hessian(given.loss, given.model, given.batches)), truth, 1e-5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert outcome.word == "right", outcome


def test_whole_divisors_lose_nothing_in_float64():
    given, real = a_mean_by_lengths(), a_mean_by_lengths()
    x, y, n = real.batches[0]
    exact = whole(tw.Hessian(real.loss, real.model, [(x, y, n.double())], dtype=torch.float64, method="rebuilt"))
    assert verdict(lambda: attempted(given, "Hessian 64"), exact, 1e-14).word == "right"
    assert verdict(lambda: attempted(given, "dense 64"), exact, 1e-14).word == "right"


@pytest.mark.parametrize(("fault", "way"), FAULTS.attempts(), ids=str)
def test_it_is_right_or_refused_as_the_table_says(fault, way):
    outcome = outcome_of(fault, way)
    assert outcome.is_as(fault.expected), outcome
