"""The T^2 law: near zero weights, Looped equals Single with its value weights multiplied by T.

Shape letters: P number of parameters, T loops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thalweg.errors import ShapeMismatchError, UnstableDirectionError, require
from thalweg.reprs import short_repr
from thalweg.theory.inputs import Condition, spectrum
from thalweg.theory.looped_attention import Attention

_ZERO = 1e-10
"""Share of the largest eigenvalue below which an eigenvalue counts as zero and has no ratio."""


@dataclass(frozen=True)
class Rescaled:
    """A Single model that trains like a Looped model, to first order in a T."""

    weights: Attention
    """The weights with W_V multiplied by T."""
    value_rate: float
    """Step size of W_V: T^2 times `rate` under gradient descent, T times under Adam, whose step ignores the gradient's size."""
    rate: float
    """Step size of the other weights."""


def rescaled_single(weights: Attention, loops: int, rate: float, adam: bool = False) -> Rescaled:
    """Build the control "rescaled Single", which has one loop and trains like Looped near zero weights.

    Statement: ``L_T(W_V, rest) = L_1(T W_V, rest)`` to first order in a T. So Looped with step size eta equals Single at T W_V
    with step size T^2 eta on W_V.
    Proof: ``z_T = W_h (E_0 + T W_V E_0 E_0^T Q E_0 + O((a T)^2))_n``; the chain rule gives one factor T for the gradient and one
    for the step.
    A comparison of Single with Looped needs this control: without any loop it reproduces most of Looped's early lead.

    Args:
        weights: of the Looped model.
        loops: T.
        rate: eta, step size of Looped.
        adam: whether the optimizer is Adam.
    Source:
        Ours.
    """
    require(loops >= 1, "loops", loops, "a whole number of at least 1")
    # The gradient of W_V grows by T and the step's effect by T; Adam cancels the first factor.
    factor = loops if adam else loops**2
    return Rescaled(replace(weights, value=loops * weights.value), factor * rate, rate)


@short_repr
@dataclass(frozen=True)
class Ratios:
    """Ratios of the ordered Gauss-Newton eigenvalues, Looped over Single."""

    values: Tensor
    """The ratios ``(r,)``, ascending in Single's eigenvalue, for the eigenvalues of Single that are not zero."""
    steeper: float
    """Share of ratios of at least 1, where Looped is the steeper one."""
    conditions: tuple[Condition, ...]
    """``1 <= ratio`` and ``ratio <= T^2`` for all ratios, within the slack."""


def spectrum_ratios(looped: Tensor, single: Tensor, loops: int, slack: float = 0.02) -> Ratios:
    """Compare the Gauss-Newton spectra of Looped and Single with the T^2 law.

    Statement: ``lam_i(GN_1) <= lam_i(GN_T) <= T^2 lam_i(GN_1)`` for every i, to first order in a T; the upper equality holds on the
    attention weights alone.
    Proof: ``GN_T = S GN_1 S`` with S = T on attention and 1 on the head, and Ostrowski's theorem.
    So near zero weights Looped is steeper in every direction. The paper's assumption 1 states the opposite for the low
    eigenvalues; where it holds, it has to arise in training.

    Args:
        looped: eigenvalues of Looped ``(P,)``, in any order.
        single: eigenvalues of Single ``(P,)``, in any order.
        loops: T.
        slack: relative tolerance for terms of higher order.
    Raises:
        ShapeMismatchError: the spectra have different lengths.
        UnstableDirectionError: an eigenvalue is negative; Gauss-Newton matrices have none.
    Source:
        Ours; it contradicts assumption 1 of arXiv 2510.10089 near the start.
    """
    looped_values, single_values = spectrum("looped", looped).sort().values, spectrum("single", single).sort().values
    if single_values.shape != looped_values.shape:
        raise ShapeMismatchError(f"spectra: {len(looped_values)} and {len(single_values)} eigenvalues, expected the same number")
    for name, values in (("looped", looped_values), ("single", single_values)):
        if len(values) and float(values.min()) < -_ZERO * float(values.max()):
            raise UnstableDirectionError(f"{name}: smallest eigenvalue {float(values.min()):.3g}, expected none below 0")
    # Ratios exist for the eigenvalues of Single that are not zero.
    nonzero = single_values > _ZERO * single_values.max()
    ratios = looped_values[nonzero] / single_values[nonzero]
    least, most = (float(ratios.min()), float(ratios.max())) if len(ratios) else (1.0, 1.0)
    return Ratios(
        ratios,
        float((ratios >= 1).double().mean()),
        (
            Condition("lam_i(GN_T) >= lam_i(GN_1)", least >= 1 - slack, least),
            Condition("lam_i(GN_T) <= T^2 lam_i(GN_1)", most <= loops**2 * (1 + slack), most),
        ),
    )


def gauss_newton(weights: Attention, tokens: Tensor, loops: int) -> Tensor:
    """Compute the mean Gauss-Newton matrix of the linear model, ``(P, P)``, for small models.

    It is ``mean_s J_s^T (diag(p) - p p^T) J_s`` with J the Jacobian of the logits and p the prediction.

    Args:
        weights: of the linear model; the parameters are in the order key, query, value, head.
        tokens: E_0, ``(S, d, n)``.
        loops: T.
    """
    sizes, shapes = zip(*((part.numel(), part.shape) for part in weights.parts().values()), strict=True)

    def logits(flat: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(flat.split(list(sizes)), shapes, strict=True)]
        state, scores = tokens, parts[0].T @ parts[1]
        for _ in range(loops):
            state = state + parts[2] @ (state @ (state.mT @ scores @ state))
        return state[:, :, -1] @ parts[3].T

    flat = torch.cat([part.flatten() for part in weights.parts().values()])
    jacobian = torch.autograd.functional.jacobian(logits, flat)
    p = logits(flat).softmax(-1)
    # Hessian of the cross-entropy in the logits, for each sample.
    curvature = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return torch.einsum("scp,scd,sdq->pq", jacobian, curvature, jacobian) / len(tokens)
