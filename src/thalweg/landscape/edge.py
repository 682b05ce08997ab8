"""The edge of stability: how close the sharpness is to the largest for which the optimizer is stable, ``2 / eta``.

Shape letters: W steps of a window, P number of parameters, b batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.operator import Operator, as_operator
from thalweg.errors import EmptySubspaceError, InsufficientDataError, ShapeMismatchError, require
from thalweg.landscape.flips import SHORTEST
from thalweg.theory.inputs import finite, positive_rate, shaped


def adam_preconditioner(second: Tensor, step: int, beta: float = 0.999, epsilon: float = 1e-8) -> Tensor:
    """The diagonal of Adam's preconditioner, ``P = sqrt(v / (1 - beta^t)) + epsilon``.

    Args:
        second: v, running average of squared gradients ``(P,)``, as the optimizer stores it (without bias correction).
        step: t, number of updates made, at least 1.
        beta: beta_2, from 0 to below 1.
        epsilon: added outside of the root, as in PyTorch.
    Returns:
        ``(P,)`` float64.
    Example:
        >>> adam_preconditioner(torch.tensor([3.0]), step=1, beta=0.25, epsilon=0.0).item()
        2.0
    """
    require(step >= 1, "step", step, "a whole number of at least 1")
    require(0 <= beta < 1, "beta", beta, "a number from 0 to below 1")
    v = finite("second", second)
    require(bool((v >= 0).all()), "second", float(v.min()) if v.numel() else 0.0, "no negative entry")
    return (v / -math.expm1(step * math.log(beta)) if beta else v).sqrt() + epsilon


class Preconditioned(Operator):
    """The operator ``P^(-1/2) H P^(-1/2)`` for a positive diagonal P ``(P,)``; a product costs one with H."""

    def __init__(self, inner: Operator, diagonal: Tensor) -> None:
        self.inner = inner
        self.dim, self.dtype, self.device = inner.dim, inner.dtype, inner.device
        self.scale = diagonal.rsqrt().to(inner.device, inner.dtype)

    def rows(self, vectors: Tensor) -> Tensor:
        return self.scale * self.inner.rows(self.scale * vectors)


def preconditioned_sharpness(hessian: Operator | Tensor, diagonal: Tensor) -> float:
    """The largest eigenvalue of ``P^(-1/2) H P^(-1/2)``, on which the stability of an adaptive optimizer depends.

    Args:
        hessian: H, ``(P, P)`` or an operator.
        diagonal: diagonal of P, positive, ``(P,)``; see `adam_preconditioner`.
    Example:
        >>> round(preconditioned_sharpness(torch.diag(torch.tensor([4.0, 9.0])), torch.tensor([1.0, 3.0])), 5)
        4.0
    """
    operator = as_operator(hessian)
    p = shaped("diagonal", diagonal, operator.dim)
    require(bool((p > 0).all()), "diagonal", float(p.min()), "positive entries")
    return float(eigenpairs(Preconditioned(operator, p), k=1, which="largest", verify=False).values[0])


@dataclass(frozen=True)
class BatchSharpness:
    """Curvature of each batch's loss along its own gradient, averaged over batches; to be compared with 2 / eta."""

    of_means: float
    """``E[g^T H g] / E||g||^2``: the ratio of the means, on which the expected change of the loss depends."""
    mean_of_ratios: float
    """``E[g^T H g / ||g||^2]``: the mean of the ratios, by Andreyev and Beneventano; small gradients count like large ones."""
    batches: int
    """Number of batches with a gradient; the others have no ratio."""

    def edge_ratios(self, rate: float) -> tuple[float, float]:
        """Both sharpnesses times eta / 2, which is 1 at the edge of stability."""
        return positive_rate(rate) * self.of_means / 2, rate * self.mean_of_ratios / 2


def batch_sharpness(gradients: Tensor, products: Tensor) -> BatchSharpness:
    """Batch sharpness, ``g_B^T H_B g_B / ||g_B||^2`` over batches B, averaged in two ways, see `BatchSharpness`.

    Args:
        gradients: g_B, ``(b, P)``.
        products: ``H_B g_B`` with the same batch's Hessian, ``(b, P)``.
    Raises:
        EmptySubspaceError: every gradient is zero.
    Example:
        >>> g = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> batch_sharpness(g, g * torch.tensor([1.0, 3.0]))
        BatchSharpness(of_means=2.6, mean_of_ratios=2.0, batches=2)

    Source:
        Andreyev and Beneventano, arXiv 2412.20553.
    """
    if gradients.dim() != 2 or products.shape != gradients.shape:
        shapes = f"{tuple(gradients.shape)} and {tuple(products.shape)}"
        raise ShapeMismatchError(f"gradients and products: given shapes {shapes}, expected both (b, P)")
    g, hg = finite("gradients", gradients), finite("products", products)
    squares = g.square().sum(1)
    kept = squares > 0
    if not kept.any():
        raise EmptySubspaceError("gradients: all zero, expected a batch that has a gradient")
    forms, squares = (g * hg).sum(1)[kept], squares[kept]
    return BatchSharpness(float(forms.sum() / squares.sum()), float((forms / squares).mean()), int(kept.sum()))


@dataclass(frozen=True)
class Edge:
    """Edge ratios of a window of steps."""

    median: float
    """Median of the ratios."""
    inside: float
    """Share of the steps with a ratio between `low` and `high`."""
    low: float
    """Smallest ratio at the edge."""
    high: float
    """Largest ratio at the edge."""

    @property
    def at_edge(self) -> bool:
        """Whether every step of the window is inside."""
        return self.inside == 1


def edge(ratios: Sequence[float] | Tensor, low: float = 0.9, high: float = 1.1) -> Edge:
    """Decide whether a window is at the edge of stability, that is whether all of its edge ratios lie in [0.9, 1.1].

    Args:
        ratios: edge ratio of each measured step, ``(W,)``, W of at least 20; see `thalweg.theory.momentum.edge_ratio`.
        low: smallest ratio at the edge.
        high: largest ratio at the edge.
    Raises:
        InsufficientDataError: fewer than 20 ratios.
    Example:
        >>> edge([1.0] * 20).at_edge
        True
    """
    values = finite("ratios", torch.as_tensor(ratios, dtype=torch.float64))
    if values.dim() != 1:
        raise ShapeMismatchError(f"ratios: given shape {tuple(values.shape)}, expected (W,)")
    if len(values) < SHORTEST:
        raise InsufficientDataError(f"window: {len(values)} steps, expected at least {SHORTEST}")
    require(low <= high, "low", low, f"at most high, {high}")
    inside = (values >= low) & (values <= high)
    return Edge(float(values.quantile(0.5)), float(inside.double().mean()), low, high)
