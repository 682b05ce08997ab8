"""The Gauss-Newton matrix with classes at minus infinity, and NaN."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.curvature.cases import normal
from tests.curvature.cases import whole as integers
from tests.curvature.faults import (
    EITHER,
    WAYS,
    Given,
    X,
    attempted,
    classes,
    mlp,
    squared,
)
from tests.curvature.oracle import by_differences, verdict, whole
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw
from thalweg.errors import ThalwegError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinks, and what PyTorch says about its own operations


# Kind 13: the Gauss-Newton matrix with classes at minus infinity, and NaN.
def truth_of_classes(keep: Callable[[Tensor], Tensor] = lambda x: x, labels: Any = None) -> Tensor:
    """The Hessian of the head, which is linear in the logits: the Gauss-Newton matrix of the head."""
    y = integers(3, 8, seed=3) if labels is None else labels
    loss = lambda m, b: F.cross_entropy(keep(m(b[0])), b[1])  # noqa: E731
    return by_differences(loss, classes(), [(X, y)], chosen=lambda name: name.startswith("2."))


def newton(outputs: Any, dtype: torch.dtype, batch: Any = None) -> Tensor:
    batch = batch or (X, integers(3, 8, seed=3))
    return whole(tw.GaussNewton(outputs, classes(), [batch], "2.*", dtype))


def padded(m: nn.Module, b: Any) -> tuple[Tensor, Tensor]:
    logits = m(b[0])
    return torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1), b[1]


LEGAL = F.one_hot(integers(3, 8, seed=3), 3).bool() | (normal(8, 3, seed=12) > 0)


def legal(m: nn.Module, b: Any) -> tuple[Tensor, Tensor]:
    return m(b[0]).masked_fill(~LEGAL, -torch.inf), b[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("outputs", "keep"), [(padded, lambda x: x), (legal, lambda x: x.masked_fill(~LEGAL, -torch.inf))], ids=["padded", "legal"]
)
def test_gauss_newton_with_impossible_classes(outputs, keep, dtype):
    outcome = verdict(lambda: newton(outputs, dtype), truth_of_classes(keep), 1e-5)
    assert outcome.word == "right", outcome


def test_gauss_newton_where_only_one_class_is_possible():
    only = lambda m, b: (m(b[0]).masked_fill(~F.one_hot(b[1], 3).bool(), -torch.inf), b[1])  # noqa: E731
    outcome = verdict(lambda: newton(only, torch.float64), torch.zeros(12, 12, dtype=torch.float64), 1e-12)
    assert outcome.word == "right", outcome


def test_gauss_newton_of_logits_in_half_precision_is_near_or_refused():
    outcome = verdict(lambda: newton(lambda m, b: (m(b[0]).bfloat16(), b[1]), torch.float32), truth_of_classes(), 3e-2)
    assert outcome.is_as("right | refused: bfloat16 | refused: precision | refused: half"), outcome


def test_gauss_newton_with_an_impossible_target_is_refused():
    with pytest.raises(ThalwegError, match="inf"):
        newton(lambda m, b: (m(b[0]).masked_fill(F.one_hot(b[1], 3).bool(), -torch.inf), b[1]), torch.float64)


def test_gauss_newton_with_nan_where_nothing_counts_is_right_or_refused():
    labels = integers(3, 8, seed=3)
    labels[0] = -100
    rows = torch.ones(8, 1)
    rows[0] = torch.nan
    outputs = lambda m, b: (m(b[0]) * rows.to(b[0]), b[1])  # noqa: E731
    outcome = verdict(lambda: newton(outputs, torch.float64, (X, labels)), truth_of_classes(labels=labels), 1e-5)
    assert outcome.is_as(EITHER), outcome


@pytest.mark.parametrize("way", WAYS)
def test_a_finite_loss_with_a_gradient_that_is_nan_is_refused_as_that(way):
    loss = lambda m, b: squared(m, b) + m(b[0]).mul(0).abs().sqrt().sum()  # noqa: E731
    with pytest.raises(ThalwegError, match=r"(?i)gradient.*(nan|finite)|(nan|finite).*gradient"):
        attempted(Given(loss, mlp()), way)


@pytest.mark.parametrize("way", WAYS)
def test_a_second_derivative_that_is_nan_is_refused(way):
    class Blunt(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * 2 * ctx.saved_tensors[0] + 0 * (ctx.saved_tensors[0] * 0).sqrt()

    loss = lambda m, b: (Blunt.apply(m(b[0])) - b[1]).square().mean()  # noqa: E731
    with pytest.raises(ThalwegError, match=r"(?i)nan|finite"):
        attempted(Given(loss, mlp()), way)
