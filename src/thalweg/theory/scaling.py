"""The T^2 law: near zero weights Looped is Single with its value weights times T.

Shape letters: P number of parameters, T loops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thalweg.errors import ShapeMismatchError, UnstableDirectionError, require
from thalweg.theory.inputs import Condition, spectrum
from thalweg.theory.looped_attention import Attention

_ZERO = 1e-10
"""Of the largest eigenvalue; smaller ones have no meaningful ratio."""


@dataclass(frozen=True)
class Rescaled:
    """A Single model that moves as a Looped one does, to first order in a T."""

    weights: Attention
    """W_V times T, the others as they are."""
    value_rate: float
    """Step size of W_V: T^2 times the others' under gradient descent, T times under Adam (the gradient does not scale its step)."""
    rate: float
    """Step size of the others."""


def rescaled_single(weights: Attention, loops: int, rate: float, adam: bool = False) -> Rescaled:
    """``L_T(W_V, rest) = L_1(T W_V, rest)`` to first order, so Looped with step eta is Single at T W_V with step T^2 eta on W_V.

    Proof: ``z_T = W_h (E_0 + T W_V E_0 E_0^T Q E_0 + O((a T)^2))_n``, and the chain rule gives one factor T for the gradient and
    one for the move. Every comparison of Single with Looped needs this control: without any loop it makes up most of
    Looped's early lead.

    Source:
        Ours.
    """
    require(loops >= 1, "loops", loops, "a whole number of at least 1")
    factor = loops if adam else loops**2
    return Rescaled(replace(weights, value=loops * weights.value), factor * rate, rate)


@dataclass(frozen=True)
class Ratios:
    """Gauss-Newton eigenvalues of Looped over those of Single, in order."""

    values: Tensor
    """``(r,)``, of Single's eigenvalues that are not zero."""
    steeper: float
    """Share of at least 1: Looped is steeper there."""
    conditions: tuple[Condition, ...]
    """``1 <= ratio <= T^2`` within the slack: what the law says to first order."""


def spectrum_ratios(looped: Tensor, single: Tensor, loops: int, slack: float = 0.02) -> Ratios:
    """Compare two Gauss-Newton spectra with the law ``lam_i(GN_T) in [1, T^2] lam_i(GN_1)`` for every i.

    ``GN_T = S GN_1 S`` with S = T on attention and 1 on the head, and Ostrowski's theorem. So near the start Looped is steeper
    everywhere, the opposite of the paper's assumption 1; if that holds, it has to arise in training.

    Args:
        looped: ``(P,)``, any order.
        single: ``(P,)``, any order.
        slack: relative, for terms of higher order.
    Raises:
        UnstableDirectionError: a negative eigenvalue; Gauss-Newton matrices have none.
    """
    two, one = spectrum("looped", looped).sort().values, spectrum("single", single).sort().values
    if one.shape != two.shape:
        raise ShapeMismatchError(f"spectra: {len(two)} and {len(one)} eigenvalues, expected the same number")
    for name, values in (("looped", two), ("single", one)):
        if len(values) and float(values.min()) < -_ZERO * float(values.max()):
            raise UnstableDirectionError(f"{name}: smallest eigenvalue {float(values.min()):.3g}, expected none below 0")
    kept = one > _ZERO * one.max()
    ratios = two[kept] / one[kept]
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
    """Mean Gauss-Newton matrix of the linear model, ``(P, P)``, parameters in the order key, query, value, head.

    By Jacobians of the logits; for small models.
    """
    sizes, shapes = zip(*((part.numel(), part.shape) for part in weights.parts().values()), strict=True)

    def logits(flat: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(flat.split(list(sizes)), shapes, strict=True)]
        here, scores = tokens, parts[0].T @ parts[1]
        for _ in range(loops):
            here = here + parts[2] @ (here @ (here.mT @ scores @ here))
        return here[:, :, -1] @ parts[3].T

    flat = torch.cat([part.flatten() for part in weights.parts().values()])
    jacobian = torch.autograd.functional.jacobian(logits, flat)
    p = logits(flat).softmax(-1)
    curvature = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return torch.einsum("scp,scd,sdq->pq", jacobian, curvature, jacobian) / len(tokens)
