"""Theorem 3: the angle between the gradients of Single and Looped at shared weights.

Shape letters: d width, n tokens, C classes, S samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import NonFiniteError
from thalweg.reprs import short_repr
from thalweg.theory.inputs import Condition, symmetric
from thalweg.theory.looped_attention import Attention, gradients, growth, states

_SLACK = 1e-12
"""Tolerance of the kernel's condition, relative to the kernel's largest entry."""


@short_repr
@dataclass(frozen=True)
class Aligned:
    """Comparison of the gradients of Looped (g_T) and Single (g_1) for one weight matrix."""

    per_sample: Tensor
    """Cosine for each sample, ``(S,)``; NaN where a gradient is zero."""
    batch: float
    """Cosine of the gradients summed over samples; NaN if a sum is zero."""
    ratio: float
    """``||g_T|| / ||g_1||`` of the summed gradients; tends to T for small weights."""
    product: float
    """``<g_T, g_1>`` of the summed gradients."""

    @property
    def opposed(self) -> float:
        """Share of samples whose cosine is negative."""
        return float((self.per_sample < 0).double().mean())


def alignment(looped: Attention, single: Attention) -> dict[str, Aligned]:
    """Compare the gradients of Looped and Single, for each weight matrix by its name.

    Statement: for small weights Looped's gradient is T times Single's. The paper's theorem 3 states a positive inner product
    without a condition. This is false for large a T. It is false for batches even if every sample has cosine +1, because looping
    changes the weights of the samples.

    Args:
        looped: gradients of every sample at T loops, ``(S, ...)`` each, as from `looped_attention.gradients`.
        single: the same at one loop.
    Source:
        arXiv 2510.10089, theorem 3; see 6.5 and CE-A to CE-C in docs/theory.md.
    """
    return {name: aligned(part, single.parts()[name]) for name, part in looped.parts().items()}


def aligned(looped: Tensor, single: Tensor) -> Aligned:
    """Compare the gradients ``(S, ...)`` of one weight matrix, see `alignment`.

    Raises:
        NonFiniteError: a gradient holds NaN or infinity.
    """
    flat_looped, flat_single = looped.flatten(1), single.flatten(1)
    if not (torch.isfinite(flat_looped).all() and torch.isfinite(flat_single).all()):
        raise NonFiniteError("gradients: hold NaN or infinity, expected finite numbers")
    # The batch's gradient is the sum over samples; its cosine is not the mean of the samples' cosines.
    sums = flat_looped.sum(0), flat_single.sum(0)
    sizes = [float(part.norm()) for part in sums]
    product = float(sums[0] @ sums[1])
    return Aligned(
        per_sample=(flat_looped * flat_single).sum(1) / (flat_looped.norm(dim=1) * flat_single.norm(dim=1)),
        batch=product / (sizes[0] * sizes[1]) if all(sizes) else math.nan,
        ratio=sizes[0] / sizes[1] if sizes[1] else math.nan,
        product=product,
    )


def transfer_rate(product: float, single_norm: float, smoothness: float) -> float:
    """Compute the rate below which a gradient step of Single lowers the loss of Looped; 0 if no rate does.

    Statement: every rate below ``2 <g_T, g_1> / (beta_T ||g_1||^2)`` does, by the descent lemma.

    Args:
        product: ``<g_T, g_1>``.
        single_norm: ``||g_1||``.
        smoothness: beta_T, the largest absolute eigenvalue of Looped's Hessian along the step.
    """
    return max(0.0, 2 * product / (smoothness * single_norm**2))


@dataclass(frozen=True)
class Certificate:
    """Lower bound on a cosine, for the gradient of ``Q = W_K^T W_Q`` and one sample."""

    cosine: float
    """The measured cosine of dL_T/dQ with its first-order direction ``M W_V^T G_T E_0^T``, ``M = E_0 E_0^T``."""
    bound: float
    """The lower bound ``sqrt(1 - zeta^2)``; NaN if a condition fails."""
    conditions: tuple[Condition, ...]
    """``2 a T < 1`` and ``zeta < 1``."""


def certificate(weights: Attention, tokens: Tensor, label: int, loops: int) -> Certificate:
    """Bound the cosine of Looped's gradient of Q with its first-order direction from below, for one sample.

    Statement: with Gamma = dL_T/dQ and Gbar its first-order direction,
    ``||Gamma - T Gbar||_F <= T ||E_0||^3 ||W_V|| ||G_T||_F [(1 - 2 a T)^-3 - 1]`` for ``2 a T < 1``. With nu the norm of Gbar over
    ``||E_0||^3 ||W_V|| ||G_T||_F`` and ``zeta = [(1 - 2 a T)^-3 - 1] / nu < 1``, the cosine is at least ``sqrt(1 - zeta^2)``.

    Args:
        weights: of the linear model.
        tokens: E_0 of one sample, ``(d, n)``.
        label: the class y.
        loops: T.
    Source:
        Ours, in place of arXiv 2510.10089, theorem 3.
    """
    size = growth(weights, tokens.unsqueeze(0), loops)
    state, room = tokens.to(torch.float64), 1 - 2 * size.strength * loops
    # With identities for keys, the "query" gradient of (Q as query) is dL/dQ itself.
    eye = torch.eye(state.shape[0], dtype=torch.float64)
    as_scores = Attention(eye, weights.key.T @ weights.query, weights.value, weights.head)
    sweep = gradients(as_scores, state.unsqueeze(0), torch.tensor([label]), loops)
    gamma = sweep.query[0]
    flow = torch.zeros_like(state)
    flow[:, -1] = _final_flow(as_scores, state, label, loops)
    # First-order direction Gbar = M W_V^T G_T E_0^T; G_T is zero except for the last token.
    direction = state @ state.T @ weights.value.T @ flow @ state.T
    norms = [float(torch.linalg.matrix_norm(part, 2)) for part in (state, weights.value)]
    scale = norms[0] ** 3 * norms[1] * float(flow.norm())
    cosine = float((gamma * direction).sum() / (gamma.norm() * direction.norm()))
    # zeta: bound of the higher orders in a T, relative to the first-order direction.
    zeta = (room**-3 - 1) * scale / float(direction.norm()) if room > 0 else math.inf
    conditions = (*size.conditions, Condition("zeta < 1", zeta < 1, zeta))
    return Certificate(cosine, math.sqrt(1 - zeta**2) if zeta < 1 else math.nan, conditions)


def _final_flow(weights: Attention, tokens: Tensor, label: int, loops: int) -> Tensor:
    """The gradient of the loss at the last token's final state, ``W_h^T u``, of one sample, ``(d,)``."""
    residual = (weights.head @ states(weights, tokens.unsqueeze(0), loops)[-1][0, :, -1]).softmax(0)
    residual[label] -= 1
    return weights.head.T @ residual


def kernels(weights: Attention, tokens: Tensor) -> dict[str, Tensor]:
    """Compute the kernels ``(C, C)`` that decide the sign of ``<g_T, g_1>`` for value, key and query.

    Statement: ``<g_T, g_1> = T c u_T^T Kern u_1`` to first order in a T, with c a squared norm and ``u = softmax(z) - e_y``.

    Args:
        weights: of the linear model.
        tokens: E_0 of one sample, ``(d, n)``.
    """
    gram = tokens.to(torch.float64) @ tokens.to(torch.float64).T
    # W_h W_V M with M = E_0 E_0^T; the value's kernel W_h W_h^T needs no tokens.
    through_value = weights.head @ weights.value @ gram
    return {
        "value": weights.head @ weights.head.T,
        "key": through_value @ through_value.T,
        "query": through_value @ weights.key.T @ weights.key @ through_value.T,
    }


def kernel_condition(matrix: Tensor, label: int) -> Condition:
    """Check whether a kernel gives a non-negative inner product for every pair of predictions.

    Statement: ``u_T^T K u_1 >= 0`` for all pairs of predictions if and only if ``K_yy + K_ij >= K_iy + K_jy`` for all i, j other
    than y. Equality of the inner product with 0 occurs for a prediction without error.
    Proof: ``u = sum_{i != y} p_i (e_i - e_y)`` is linear in p; the product is bilinear on two simplices, so its extremes lie at
    corners.

    Args:
        matrix: a kernel K, positive semidefinite, ``(C, C)``.
        label: the class y.
    Example:
        >>> kernel_condition(torch.eye(3), 0).held
        True

    Source:
        Ours, in place of theorem 3 of arXiv 2510.10089.
    """
    k = symmetric("kernel", matrix)
    others = [i for i in range(len(k)) if i != label]
    # All (i, j) at once: K_yy + K_ij - K_iy - K_jy; the condition holds if the smallest entry is not negative.
    sums = k[label, label] + k[others][:, others] - k[others, label].unsqueeze(1) - k[others, label]
    least = float(sums.min()) if others else 0.0
    return Condition("K_yy + K_ij >= K_iy + K_jy", least >= -_SLACK * float(k.abs().max()), least)
