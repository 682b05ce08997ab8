"""Linear looped attention, its exact gradients for any number of loops, and bounds on its growth.

Shape letters: d width, n tokens, m query width, C classes, T loops, S samples.

The model is the paper's. Tokens are columns: ``E_t = E_{t-1} + W_V E_{t-1} E_{t-1}^T Q E_{t-1}`` with ``Q = W_K^T W_Q``. The last
token is classified, ``z = W_h E_T e_n``, and the loss is the cross-entropy with the class y.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import GrowthWarning, NonFiniteError, ShapeMismatchError, require, warn
from thalweg.reprs import short_repr
from thalweg.theory.inputs import Condition, finite


@short_repr
@dataclass(frozen=True)
class Attention:
    """Weights of the linear model, float64. Gradients have the same form, with a leading dimension S for every sample."""

    key: Tensor
    """W_K, ``(m, d)``."""
    query: Tensor
    """W_Q, ``(m, d)``."""
    value: Tensor
    """W_V, ``(d, d)``."""
    head: Tensor
    """W_h, ``(C, d)``."""

    def parts(self) -> dict[str, Tensor]:
        """The four matrices by name: key, query, value, head."""
        return {"key": self.key, "query": self.query, "value": self.value, "head": self.head}


def attention(key: Tensor, query: Tensor, value: Tensor, head: Tensor) -> Attention:
    """Build the weights of the linear model after a check of their shapes.

    Args:
        key: W_K, ``(m, d)``.
        query: W_Q, ``(m, d)``.
        value: W_V, ``(d, d)``.
        head: W_h, ``(C, d)``.
    Raises:
        ShapeMismatchError: the shapes do not fit together.
        NonFiniteError: a matrix holds NaN or infinity.
    """
    width = value.shape[-1]
    if not (value.shape == (width, width) and key.shape == query.shape == (key.shape[0], width) and head.shape[1:] == (width,)):
        shapes = ", ".join(str(tuple(part.shape)) for part in (key, query, value, head))
        raise ShapeMismatchError(f"weights: given shapes {shapes}, expected (m, d), (m, d), (d, d), (C, d)")
    return Attention(finite("key", key), finite("query", query), finite("value", value), finite("head", head))


def states(weights: Attention, tokens: Tensor, loops: int) -> list[Tensor]:
    """Compute the states E_0 ... E_T, each ``(S, d, n)``.

    Args:
        weights: of the linear model.
        tokens: E_0, ``(S, d, n)``.
        loops: T.
    Raises:
        NonFiniteError: a state grows beyond float64, which is possible because the model has no norm.
        ShapeMismatchError: the tokens do not fit the weights.
    """
    require(loops >= 1, "loops", loops, "a whole number of at least 1")
    if tokens.dim() != 3 or tokens.shape[1] != weights.value.shape[0]:
        raise ShapeMismatchError(f"tokens: given shape {tuple(tokens.shape)}, expected (S, {weights.value.shape[0]}, n)")
    # Q = W_K^T W_Q; E^T Q E are the attention scores, without softmax.
    scores, state = weights.key.T @ weights.query, finite("tokens", tokens)
    trajectory = [state]
    for _ in range(loops):
        state = state + weights.value @ (state @ (state.mT @ scores @ state))
        trajectory.append(state)
    if not torch.isfinite(state).all():
        raise NonFiniteError(f"states: grow beyond float64 within {loops} loops; use smaller weights or fewer loops")
    return trajectory


def gradients(weights: Attention, tokens: Tensor, classes: Tensor, loops: int) -> Attention:
    """Compute the gradients of every sample's loss by one reverse sweep, ``(S, ...)`` each; exact for every T.

    Statement: ``G_T = W_h^T u e_n^T`` with ``u = softmax(z) - e_y``. For t = T ... 1, with ``E = E_{t-1}``, ``M = E E^T`` and
    ``N = W_V^T G_t E^T Q^T``: ``dW_V += G_t (M Q E)^T``, ``dQ += M W_V^T G_t E^T``, and
    ``G_{t-1} = G_t + Q^T M W_V^T G_t + (N + N^T) E``.

    Args:
        weights: of the linear model.
        tokens: E_0, ``(S, d, n)``.
        classes: y, whole numbers below C, ``(S,)``.
        loops: T.
    Raises:
        NonFiniteError: a state grows beyond float64.
    Source:
        Ours; the tests compare it with autograd.
    """
    trajectory = states(weights, tokens, loops)
    scores, last = weights.key.T @ weights.query, trajectory[-1][:, :, -1]
    # G_T: the residual u of the prediction, carried back through the head to the last token.
    residual = (last @ weights.head.T).softmax(-1)
    residual[torch.arange(len(classes)), classes] -= 1
    flow = torch.zeros_like(trajectory[0])
    flow[:, :, -1] = residual @ weights.head
    # From the last loop to the first: add the gradients of W_V and Q, then carry G_t back to G_{t-1}.
    value, pairing = torch.zeros_like(flow @ flow.mT), torch.zeros_like(flow @ flow.mT)
    for state in reversed(trajectory[:-1]):
        gram, pulled = state @ state.mT, weights.value.T @ flow
        value = value + flow @ (gram @ scores @ state).mT
        pairing = pairing + gram @ pulled @ state.mT
        mixed = pulled @ state.mT @ scores.T
        flow = flow + scores.T @ gram @ pulled + (mixed + mixed.mT) @ state
    head = residual.unsqueeze(2) * last.unsqueeze(1)
    return Attention(weights.query @ pairing.mT, weights.key @ pairing, value, head)


@dataclass(frozen=True)
class Growth:
    """Bounds on the growth of states and gradients in T loops."""

    strength: float
    """``a = ||W_V|| ||Q|| ||E_0||^2`` in operator norms, the largest over samples."""
    states: float
    """Bound on ``||E_T|| / ||E_0||``: ``(1 - 2 a T)^(-1/2)``; infinite if the condition fails."""
    gradients: float
    """Bound on ``||G_0||_F / ||G_T||_F``: ``(1 - 2 a T)^(-3/2)``; infinite if the condition fails."""
    conditions: tuple[Condition, ...]
    """``2 a T < 1``."""


def growth(weights: Attention, tokens: Tensor, loops: int) -> Growth:
    """Bound the growth of states and gradients in T loops.

    Statement: ``||E_T|| <= (1 - 2 a T)^(-1/2) ||E_0||`` and ``||G_0||_F <= (1 - 2 a T)^(-3/2) ||G_T||_F``.
    Domain: ``2 a T < 1``; otherwise there is no bound and a `GrowthWarning` is given. The bounds are those of the equation
    ``e' = a e^3``, whose solution is infinite at ``T = 1 / (2 a)``.

    Args:
        weights: of the linear model.
        tokens: E_0, ``(S, d, n)``.
        loops: T.
    Source:
        Ours.
    """
    norm = lambda matrix: torch.linalg.matrix_norm(matrix, 2)  # noqa: E731
    scores = weights.key.T @ weights.query
    a = float(norm(weights.value) * norm(scores) * norm(finite("tokens", tokens)).max() ** 2)
    # The bounds need 1 - 2 a T > 0.
    room = 1 - 2 * a * loops
    if room <= 0:
        message = f"loops: 2 a T is {2 * a * loops:.3g}, expected below 1 for bounds; use smaller weights or fewer loops"
        warn(message, GrowthWarning)
    bounds = (room**-0.5, room**-1.5) if room > 0 else (float("inf"), float("inf"))
    return Growth(a, *bounds, (Condition("2 a T < 1", room > 0, 2 * a * loops),))
