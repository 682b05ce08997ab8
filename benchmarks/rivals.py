"""Hessians of other libraries, if installed, for the benchmarks of curvature, and the model that all of them use."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import timing  # before torch
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.curvature.hessian import Hessian
from thalweg.models.config import ModelConfig

GPT = ModelConfig(vocabulary=2048, length=128, width=128, layers=4, heads=4, block="gpt", tied=True)
"""1,071,872 parameters."""
SMALL = ModelConfig(vocabulary=64, length=16, width=16, layers=1, heads=2, block="gpt", tied=True)
"""A tiny model for short trials."""


def installed(name: str) -> bool:
    """Return whether a library can be imported; print a line if not."""
    available = importlib.util.find_spec(name) is not None
    if not available:
        print(f"left out: {name} is not installed")
    return available


def attention_by_products() -> Any:
    """Select the attention kernel that has second derivatives; thalweg selects it by itself."""
    return sdpa_kernel(SDPBackend.MATH)


def total_and_count(model: nn.Module, tokens: Tensor) -> tuple[Tensor, int]:
    """Return the summed next-token loss and the number of targets."""
    logits = model(tokens[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"), tokens[:, 1:].numel()


def mean_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the mean next-token loss."""
    return functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def eigenthings(model: nn.Module, tokens: Tensor) -> Any:
    """Build the Hessian operator of hessian-eigenthings."""
    from hessian_eigenthings import HessianOperator

    return HessianOperator(model, [tokens], mean_loss)


class FlatCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy of logits ``(B, L, V)`` as a module, the form that curvlinops needs."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over ``(B, L)``."""
        return super().forward(logits.flatten(0, 1), targets.flatten())


def curvlinops(model: nn.Module, tokens: Tensor) -> Any:
    """Build the Hessian operator of curvlinops."""
    from curvlinops import HessianLinearOperator

    batches = [(tokens[:, :-1], tokens[:, 1:])]
    return HessianLinearOperator(model, FlatCrossEntropy(), list(model.parameters()), batches, check_deterministic=False)


def inside(operator: Any) -> Callable[[Tensor], Tensor]:
    """Wrap the product of an operator so that it uses attention with second derivatives."""

    def product(vector: Tensor) -> Tensor:
        with attention_by_products():
            return operator @ vector

    return product


def exact(model: nn.Module, tokens: Tensor) -> Hessian:
    """Build the reference for errors: products in float64 by double backward."""
    return Hessian(total_and_count, model, [tokens], dtype=torch.float64, method="rebuilt")


def true_residual(exact: Hessian, values: Tensor, vectors: Tensor) -> float:
    """Return the largest residual of eigenpairs ``(k,)``, ``(P, k)`` over the largest absolute eigenvalue."""
    values, vectors = values.double(), vectors.double() / vectors.double().norm(dim=0)
    return float((exact @ vectors - vectors * values).norm(dim=0).max()) / float(values.abs().max())


def relative_error(given: Tensor, truth: Tensor) -> float:
    """Return the distance relative to the norm of ``truth``."""
    return float((given.double() - truth).norm() / truth.norm())


def gemm_peak(size: int = 1500) -> float:
    """Return the operations per second of the fastest of ten large float32 products."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(timing.seconds(lambda: torch.mm(left, right)) for _ in range(10))
