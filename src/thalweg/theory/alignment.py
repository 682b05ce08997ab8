"""Theorem 3: do the gradients of Single and Looped point the same way at shared weights?

Shape letters: d width, n tokens, C classes, S samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import NonFiniteError
from thalweg.theory.inputs import Condition, symmetric
from thalweg.theory.looped_attention import Attention, gradients, growth, states

_SLACK = 1e-12
"""Of the kernel's largest entry, allowed in its condition."""


@dataclass(frozen=True)
class Aligned:
    """Gradients of Looped against those of Single, for one matrix."""

    per_sample: Tensor
    """Cosines, ``(S,)``; NaN where a gradient is zero."""
    batch: float
    """Cosine of the summed gradients."""
    ratio: float
    """``||g_T|| / ||g_1||`` of the sums; T for small weights."""
    product: float
    """``<g_T, g_1>`` of the sums."""

    @property
    def opposed(self) -> float:
        """Share of samples with a negative cosine."""
        return float((self.per_sample < 0).double().mean())


def alignment(looped: Attention, single: Attention) -> dict[str, Aligned]:
    """Cosines of per-sample gradients ``(S, ...)`` and of their sums, for each matrix.

    The paper's theorem 3 has them positive without condition: false for large a T, and false for batches even where every
    sample agrees, as looping weighs the samples anew.
    """
    return {name: aligned(part, single.parts()[name]) for name, part in looped.parts().items()}


def aligned(looped: Tensor, single: Tensor) -> Aligned:
    """One matrix of `alignment`."""
    one, two = looped.flatten(1), single.flatten(1)
    if not (torch.isfinite(one).all() and torch.isfinite(two).all()):
        raise NonFiniteError("gradients: hold NaN or infinity, expected finite numbers")
    whole = one.sum(0), two.sum(0)
    sizes = [float(part.norm()) for part in whole]
    product = float(whole[0] @ whole[1])
    return Aligned(
        per_sample=(one * two).sum(1) / (one.norm(dim=1) * two.norm(dim=1)),
        batch=product / (sizes[0] * sizes[1]) if all(sizes) else math.nan,
        ratio=sizes[0] / sizes[1] if sizes[1] else math.nan,
        product=product,
    )


def transfer_rate(product: float, single_norm: float, smoothness: float) -> float:
    """Rates below ``2 <g_T, g_1> / (beta_T ||g_1||^2)`` let a Single step lower the Looped loss (descent lemma); 0 if none does.

    Args:
        smoothness: beta_T, the largest absolute eigenvalue of Looped's Hessian along the step.
    """
    return max(0.0, 2 * product / (smoothness * single_norm**2))


@dataclass(frozen=True)
class Certificate:
    """Theorem 3', for the gradient of Q and one sample."""

    cosine: float
    """Of dL_T/dQ with the first-order direction ``M W_V^T G_T E_0^T``."""
    bound: float
    """``sqrt(1 - zeta^2)``, at most the cosine; NaN where the conditions fail."""
    conditions: tuple[Condition, ...]
    """2 a T < 1 and zeta < 1."""


def certificate(weights: Attention, tokens: Tensor, label: int, loops: int) -> Certificate:
    """How close Looped's gradient of Q is to its first-order direction, from below.

    ``||Gamma - T Gbar||_F <= T ||E_0||^3 ||W_V|| ||G_T||_F [(1 - 2 a T)^-3 - 1]`` for ``2 a T < 1``; with nu the size of Gbar over
    ``||E_0||^3 ||W_V|| ||G_T||_F`` and ``zeta = [(1 - 2 a T)^-3 - 1] / nu < 1`` the cosine is at least ``sqrt(1 - zeta^2)``.

    Args:
        tokens: E_0 of one sample, ``(d, n)``.
        label: y.
    Source:
        Ours, in place of arXiv 2510.10089, theorem 3.
    """
    size = growth(weights, tokens.unsqueeze(0), loops)
    here, room = tokens.to(torch.float64), 1 - 2 * size.strength * loops
    # With identities for keys, the "query" gradient of (Q as query) is dL/dQ itself.
    eye = torch.eye(here.shape[0], dtype=torch.float64)
    as_scores = Attention(eye, weights.key.T @ weights.query, weights.value, weights.head)
    found = gradients(as_scores, here.unsqueeze(0), torch.tensor([label]), loops)
    gamma = found.query[0]
    flow = torch.zeros_like(here)
    flow[:, -1] = _final_flow(as_scores, here, label, loops)
    direction = here @ here.T @ weights.value.T @ flow @ here.T
    norms = [float(torch.linalg.matrix_norm(part, 2)) for part in (here, weights.value)]
    scale = norms[0] ** 3 * norms[1] * float(flow.norm())
    cosine = float((gamma * direction).sum() / (gamma.norm() * direction.norm()))
    zeta = (room**-3 - 1) * scale / float(direction.norm()) if room > 0 else math.inf
    conditions = (*size.conditions, Condition("zeta < 1", zeta < 1, zeta))
    return Certificate(cosine, math.sqrt(1 - zeta**2) if zeta < 1 else math.nan, conditions)


def _final_flow(weights: Attention, tokens: Tensor, label: int, loops: int) -> Tensor:
    """W_h^T u of one sample, ``(d,)``."""
    residual = (weights.head @ states(weights, tokens.unsqueeze(0), loops)[-1][0, :, -1]).softmax(0)
    residual[label] -= 1
    return weights.head.T @ residual


def kernels(weights: Attention, tokens: Tensor) -> dict[str, Tensor]:
    """Kernels ``(C, C)`` with ``<g_T, g_1> = T ||.||^2 u_T^T Kern u_1`` to first order in a T, for value, key and query."""
    gram = tokens.to(torch.float64) @ tokens.to(torch.float64).T
    seen = weights.head @ weights.value @ gram
    return {
        "value": weights.head @ weights.head.T,
        "key": seen @ seen.T,
        "query": seen @ weights.key.T @ weights.key @ seen.T,
    }


def kernel_condition(matrix: Tensor, label: int) -> Condition:
    """``K_yy + K_ij >= K_iy + K_jy`` for all i, j other than y: exactly when ``u_T^T K u_1 >= 0`` for all pairs of predictions.

    Proof: ``u = sum_{i != y} p_i (e_i - e_y)`` is linear in p, the product bilinear on two simplices, its extremes at corners.

    Args:
        matrix: a kernel, positive semidefinite, ``(C, C)``.
        label: y.
    Example:
        >>> kernel_condition(torch.eye(3), 0).held
        True
    """
    k = symmetric("kernel", matrix)
    others = [i for i in range(len(k)) if i != label]
    sums = k[label, label] + k[others][:, others] - k[others, label].unsqueeze(1) - k[others, label]
    least = float(sums.min()) if others else 0.0
    return Condition("K_yy + K_ij >= K_iy + K_jy", least >= -_SLACK * float(k.abs().max()), least)
