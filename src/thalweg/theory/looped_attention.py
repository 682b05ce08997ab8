"""Linear looped attention, its exact gradients for any number of loops, and how far it can grow.

Shape letters: d width, n tokens, m query width, C classes, T loops, S samples.

``E_t = E_{t-1} + W_V E_{t-1} E_{t-1}^T Q E_{t-1}`` with ``Q = W_K^T W_Q``; the last token is classified, ``z = W_h E_T e_n``,
under cross-entropy with the class y. This is the paper's model; tokens are columns.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import GrowthWarning, NonFiniteError, ShapeMismatchError, require
from thalweg.theory.inputs import Condition, finite


@dataclass(frozen=True)
class Attention:
    """Weights of the linear model, float64; a gradient has the same form."""

    key: Tensor
    """W_K, ``(m, d)``."""
    query: Tensor
    """W_Q, ``(m, d)``."""
    value: Tensor
    """W_V, ``(d, d)``."""
    head: Tensor
    """W_h, ``(C, d)``."""

    def parts(self) -> dict[str, Tensor]:
        """The four by name."""
        return {"key": self.key, "query": self.query, "value": self.value, "head": self.head}


def attention(key: Tensor, query: Tensor, value: Tensor, head: Tensor) -> Attention:
    """The weights, checked.

    Raises:
        ShapeMismatchError: shapes that do not fit together.
    """
    width = value.shape[-1]
    if not (value.shape == (width, width) and key.shape == query.shape == (key.shape[0], width) and head.shape[1:] == (width,)):
        shapes = ", ".join(str(tuple(part.shape)) for part in (key, query, value, head))
        raise ShapeMismatchError(f"weights: given shapes {shapes}, expected (m, d), (m, d), (d, d), (C, d)")
    return Attention(finite("key", key), finite("query", query), finite("value", value), finite("head", head))


def states(weights: Attention, tokens: Tensor, loops: int) -> list[Tensor]:
    """E_0 ... E_T for tokens ``(S, d, n)``.

    Raises:
        NonFiniteError: a state grows beyond float64; there is no norm in this model.
    """
    require(loops >= 1, "loops", loops, "a whole number of at least 1")
    if tokens.dim() != 3 or tokens.shape[1] != weights.value.shape[0]:
        raise ShapeMismatchError(f"tokens: given shape {tuple(tokens.shape)}, expected (S, {weights.value.shape[0]}, n)")
    scores, here = weights.key.T @ weights.query, finite("tokens", tokens)
    seen = [here]
    for _ in range(loops):
        here = here + weights.value @ (here @ (here.mT @ scores @ here))
        seen.append(here)
    if not torch.isfinite(here).all():
        raise NonFiniteError(f"states: grow beyond float64 within {loops} loops; smaller weights or fewer loops")
    return seen


def gradients(weights: Attention, tokens: Tensor, classes: Tensor, loops: int) -> Attention:
    """Gradients of every sample's loss by the reverse sweep, ``(S, ...)`` each; exact for every T.

    ``G_T = W_h^T u e_n^T`` with ``u = softmax(z) - e_y``. For t = T ... 1, with ``E = E_{t-1}``, ``M = E E^T`` and
    ``N = W_V^T G_t E^T Q^T``: ``dW_V += G_t (M Q E)^T``, ``dQ += M W_V^T G_t E^T``,
    ``G_{t-1} = G_t + Q^T M W_V^T G_t + (N + N^T) E``.

    Args:
        tokens: ``(S, d, n)``.
        classes: y, whole numbers below C, ``(S,)``.
        loops: T.
    Source:
        Ours; the tests compare it with autograd.
    """
    seen = states(weights, tokens, loops)
    scores, last = weights.key.T @ weights.query, seen[-1][:, :, -1]
    residual = (last @ weights.head.T).softmax(-1)
    residual[torch.arange(len(classes)), classes] -= 1
    flow = torch.zeros_like(seen[0])
    flow[:, :, -1] = residual @ weights.head
    value, pairing = torch.zeros_like(flow @ flow.mT), torch.zeros_like(flow @ flow.mT)
    for here in reversed(seen[:-1]):
        gram, pulled = here @ here.mT, weights.value.T @ flow
        value = value + flow @ (gram @ scores @ here).mT
        pairing = pairing + gram @ pulled @ here.mT
        mixed = pulled @ here.mT @ scores.T
        flow = flow + scores.T @ gram @ pulled + (mixed + mixed.mT) @ here
    head = residual.unsqueeze(2) * last.unsqueeze(1)
    return Attention(weights.query @ pairing.mT, weights.key @ pairing, value, head)


@dataclass(frozen=True)
class Growth:
    """How far states and gradients can grow in T loops."""

    strength: float
    """a = ``||W_V|| ||Q|| ||E_0||^2``, the largest over samples."""
    states: float
    """Bound of ``||E_T|| / ||E_0||``: ``(1 - 2 a T)^(-1/2)``; infinite where the condition fails."""
    gradients: float
    """Bound of ``||G_0||_F / ||G_T||_F``: ``(1 - 2 a T)^(-3/2)``; infinite likewise."""
    conditions: tuple[Condition, ...]
    """2 a T < 1."""


def growth(weights: Attention, tokens: Tensor, loops: int) -> Growth:
    """Bounds of growth for ``2 a T < 1``, and `GrowthWarning` beyond: the equation e' = a e^3 blows up at T = 1 / (2 a)."""
    norm = lambda matrix: torch.linalg.matrix_norm(matrix, 2)  # noqa: E731
    scores = weights.key.T @ weights.query
    a = float(norm(weights.value) * norm(scores) * norm(finite("tokens", tokens)).max() ** 2)
    room = 1 - 2 * a * loops
    if room <= 0:
        message = f"loops: 2 a T is {2 * a * loops:.3g}, bounds need it below 1; smaller weights or fewer loops"
        warnings.warn(message, GrowthWarning, stacklevel=2)
    bounds = (room**-0.5, room**-1.5) if room > 0 else (float("inf"), float("inf"))
    return Growth(a, *bounds, (Condition("2 a T < 1", room > 0, 2 * a * loops),))
