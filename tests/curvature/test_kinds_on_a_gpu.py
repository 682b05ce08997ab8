"""What goes wrong on a GPU in its own way: kernels, autocast, generators and containers there. Skipped where there is none."""

from collections import UserDict

import numpy as np
import pytest
import torch
from tests.curvature.cases import apart, normal, stirred, whole
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.gauss_newton import GaussNewton
from thalweg.curvature.hessian import Hessian
from thalweg.errors import BadInputError, NotDeterministicError

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
CLOSE = {torch.float32: 1e-4, torch.float64: 1e-9}


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inner, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.inner(x)[0])


def attention(x):
    return functional.scaled_dot_product_attention(x, x, x, is_causal=True)


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        states = self.into(x)
        return self.out(attention(states.unsqueeze(1)).squeeze(1))


class Checkpointed(Attends):
    def forward(self, x):
        states = checkpoint(self.into, x, use_reentrant=False)
        return self.out(torch.tanh(states))


def squares(model, batch):
    return (model(batch["x"]) - batch["y"]).square().mean()


MODELS = {
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "attention": Attends,
    "checkpointed": Checkpointed,
    "transformer layer": lambda: nn.Sequential(
        nn.Linear(3, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation="gelu"), nn.Linear(4, 2)
    ),
    "convolution": lambda: nn.Sequential(nn.Conv1d(5, 5, 3, padding=1), nn.GELU(), nn.Linear(3, 2)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(3, 2), nn.Tanh()),
}


def batch(device):
    return UserDict(x=normal(6, 5, 3, seed=1).to(device), y=normal(6, 5, 2, seed=2).to(device))


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_products_and_matrix_are_those_of_the_cpu_in_float64(name, dtype):
    model = stirred(MODELS[name]())
    direction = torch.randn(sum(p.numel() for p in model.parameters()), generator=torch.Generator().manual_seed(0)).double()
    expected = Hessian(squares, model, [batch("cpu")], dtype=torch.float64) @ direction
    there = model.to(GPU)
    found = Hessian(squares, there, [batch("cpu")], dtype=dtype) @ direction.to(GPU)
    assert apart(found.cpu(), expected) < CLOSE[dtype]
    matrix = dense_hessian(squares, there, [batch(GPU)], dtype=dtype).matrix.double()
    assert apart((matrix @ direction.to(GPU)).cpu(), expected) < CLOSE[dtype]


def test_autocast_inside_is_refused_and_outside_is_left():
    model = stirred(Attends()).to(GPU)
    plain = Hessian(squares, model, [batch(GPU)]) @ torch.ones(50, device=GPU)

    def loss_fn(model, given):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return squares(model, given)

    with pytest.raises(BadInputError, match=r"computes under torch\.autocast in torch\.bfloat16"):
        Hessian(loss_fn, model, [batch(GPU)])
    with torch.autocast("cuda", dtype=torch.bfloat16):
        around = Hessian(squares, model, [batch(GPU)]) @ torch.ones(50, device=GPU)
    assert apart(around, plain) < 1e-6


def test_dropout_in_training_is_refused_or_fixed_by_a_seed():
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2)).to(GPU)
    with pytest.raises(NotDeterministicError, match="draws random numbers in mode='train'"):
        Hessian(squares, model, [batch(GPU)], mode="train")
    state = torch.cuda.get_rng_state()
    first, second = (Hessian(squares, model, [batch(GPU)], mode="train", seed=3) @ torch.ones(50, device=GPU) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.cuda.get_rng_state())


def test_half_precision_weights_and_logits():
    model = stirred(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))).to(GPU)
    given = [(normal(9, 3).to(GPU), whole(3, 9).to(GPU))]
    plain = GaussNewton(lambda m, b: (m(b[0]), b[1]), model, given) @ torch.ones(31, device=GPU)
    halved = GaussNewton(lambda m, b: (m(b[0]).half(), b[1]), model, given) @ torch.ones(31, device=GPU)
    assert apart(halved, plain) < 1e-5


def test_arrays_and_numpy_vectors_go_there_and_back():
    model = stirred(nn.Linear(3, 2)).to(GPU)
    operator = Hessian(lambda m, b: m(b).square().mean(), model, [normal(5, 3)])
    assert isinstance(operator @ np.ones(8), np.ndarray)
