"""Gains and loops of a call: what cannot be is refused wherever it comes in, what is right is taken in every form."""

import math

import numpy as np
import pytest
import torch

from thalweg.errors import BadInputError
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer

MODEL = LoopedTransformer(ModelConfig(vocabulary=7, length=5, width=8), torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[0, 3, 6, 1, 2], [5, 5, 4, 0, 1]])
WAYS = {
    "forward": lambda gains: MODEL(TOKENS, loops=3, gains=gains),
    "forward, loops of each": lambda gains: MODEL(TOKENS, loops=torch.tensor([3, 3]), gains=gains),
    "masked": lambda gains: MODEL.forward_masked(TOKENS, torch.tensor([3, 3]), 3, gains),
    "unrolled": lambda gains: list(MODEL.unrolled(TOKENS, 3, gains))[-1],
}
every_way = pytest.mark.parametrize("call", WAYS.values(), ids=WAYS)
FIRST = "expected 1: the first pass always counts in full"


@every_way
@pytest.mark.parametrize(
    ("gains", "message"),
    [
        ((0.5, 1.0, 1.0), rf"gains\[0\]: given 0\.5, {FIRST}"),
        ((0, 1, 1), rf"gains\[0\]: given 0.*, {FIRST}"),
        (np.array([0.9, 1.0, 1.0]), rf"gains\[0\]: given 0\.9, {FIRST}"),
        (torch.tensor([0.5, 1.0, 1.0]), rf"gains\[0\]: given 0\.5, {FIRST}"),
        ([torch.tensor(0.5), 1.0, 1.0], rf"gains\[0\]: given 0\.5, {FIRST}"),
        ((1.0, math.nan, 1.0), r"gains\[1\]: given nan, expected a finite number"),
        ((1.0, 1.0, math.inf), r"gains\[2\]: given inf, expected a finite number"),
        (torch.tensor([1.0, math.nan, 1.0]), r"gains\[1\]: given nan, expected a finite number"),
        ((1.0, "x", 1.0), r"gains\[1\]: given 'x', expected a finite number"),
        ((1.0, None, 1.0), r"gains\[1\]: given None, expected a finite number"),
        ((1.0, True, 1.0), r"gains\[1\]: given True, expected a finite number"),
        ((1, 10**400, 1), r"gains\[1\]: given inf, expected a finite number"),
        ((1.0, torch.ones(2), 1.0), r"gains\[1\]: given \(2,\), expected one number"),
        ((1.0, 1.0), r"gains: given \(1\.0, 1\.0\), expected one number for each of the 3 passes"),
        (torch.ones(2), r"gains: given \(2,\), expected one number for each of the 3 passes"),
        (torch.tensor(1.0), r"gains: given \(\), expected one number for each of the 3 passes"),
        (1.0, r"gains: given 1\.0, expected one number for each of the 3 passes"),
        ("111", "gains: given '111', expected one number for each of the 3 passes"),
    ],
    ids=str,
)
def test_gains_that_cannot_be_are_refused_in_one_line(call, gains, message):
    with pytest.raises(BadInputError, match=message) as caught:
        call(gains)
    assert "\n" not in str(caught.value)


@every_way
@pytest.mark.parametrize(
    "gains",
    [
        np.array([1.0, 0.5, 0.25]),
        (1, np.float32(0.5), np.float64(0.25)),
        [1.0, torch.tensor(0.5), 0.25],
        torch.tensor([1.0, 0.5, 0.25]),
        torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64),
    ],
    ids=["array", "numpy numbers", "tensor among numbers", "tensor", "tensor of float64"],
)
def test_gains_of_every_kind_of_number_mean_the_same(call, gains):
    assert torch.allclose(call(gains), WAYS["forward"]((1.0, 0.5, 0.25)), atol=1e-6)


def test_gains_keep_their_gradient():
    gains = torch.tensor([1.0, 0.5, 0.25], requires_grad=True)
    WAYS["forward"](gains).square().sum().backward()
    assert (gains.grad[1:] != 0).all()


@pytest.mark.parametrize("loops", [2.0, "3", True, None, math.nan, 0, -1], ids=str)
def test_loops_that_are_no_whole_number_of_at_least_1_are_refused(loops):
    with pytest.raises(BadInputError, match=r"loops: given .*, expected a whole number of at least 1"):
        MODEL(TOKENS, loops=loops)


@pytest.mark.parametrize("loops", [torch.tensor([1.0, 2.0]), torch.tensor([True, True])], ids=str)
def test_loops_of_each_that_are_no_whole_numbers_are_refused(loops):
    with pytest.raises(BadInputError, match=r"loops: given 'torch\.(float32|bool)', expected whole numbers"):
        MODEL(TOKENS, loops=loops)


def test_loops_of_numpy_are_taken():
    assert torch.equal(MODEL(TOKENS, loops=np.int64(3)), MODEL(TOKENS, loops=3))
