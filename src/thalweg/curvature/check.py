"""Is it a Hessian? Three questions asked before an operator is used; each fails loudly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg import ranks
from thalweg.curvature.differences import central_difference
from thalweg.curvature.objective import Objective, quiet
from thalweg.curvature.operator import Operator
from thalweg.errors import NotDeterministicError, NotSymmetricError, WrongProductError
from thalweg.streams import stream

SYMMETRY = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest ``|u.Hv - v.Hu|`` relative to a typical ``|u.Hv|``."""
DIFFERENCE = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Largest distance of a product from the central difference, relative to the product."""
REPEAT = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest distance of two gradients at one point, relative to the gradient."""
STEP = torch.finfo(torch.float64).eps ** (1 / 3)
"""Step of the central difference, in units of the point's norm (at least 1)."""


@dataclass(frozen=True)
class CheckReport:
    """What was measured; all three are relative and were below the limits of this file."""

    symmetry: float
    """``|u.Hv - v.Hu| sqrt(P) / (||u|| ||Hv||)``: about ``||H - H^T|| / ||H||``."""
    difference: float
    """``||Hv - (g(x + hv) - g(x - hv)) / 2h|| / ||Hv||``, the gradients in float64."""
    repeat: float
    """``||g - g'|| / ||g||`` of two gradients at the point."""


def signs(dim: int, seed: int, step: int, like: Tensor) -> Tensor:
    """A vector ``(P,)`` of random signs divided by sqrt(P), the same on every rank."""
    drawn = stream(seed, "probes", step=step).integers(0, 2, size=dim)
    return torch.from_numpy(2.0 * drawn - 1).to(like.device, like.dtype) / dim**0.5


def check_hessian(operator: Operator, objective: Objective, seed: int = 0) -> CheckReport:
    """Determinism, agreement with the gradient's central difference, symmetry; 2 products and 3 gradients.

    The difference is taken in float64 whatever the operator's arithmetic. The vectors
    are random signs, so that every parameter takes part.

    Raises:
        NotDeterministicError, WrongProductError, NotSymmetricError: with what was measured and what to do.
    """
    repeat = repeated(objective)
    u, v = (signs(operator.dim, seed, step, objective.point) for step in (0, 1))
    product = operator @ v
    difference = differing(operator, objective, v, product)
    symmetry = symmetric(operator, u, v, product)
    return CheckReport(symmetry, difference, repeat)


def check_gauss_newton(
    operator: Operator, objective: Objective, quadratic_form: Callable[[Tensor, float], float], seed: int = 0
) -> CheckReport:
    """As `check_hessian`, with ``v.G v`` compared with central differences of the outputs, in float64.

    Raises:
        NotDeterministicError, WrongProductError, NotSymmetricError: with what was measured and what to do.
    """
    repeat = repeated(objective)
    u, v = (signs(operator.dim, seed, step, objective.point) for step in (0, 1))
    product = operator @ v
    step = STEP * max(1.0, float(objective.point.norm()))
    with quiet(objective.model):
        value = torch.tensor(quadratic_form(v, step), dtype=torch.float64)
    expected = float(ranks.total(value))
    apart = abs(float(v.double() @ product.double()) - expected)
    if apart > DIFFERENCE[operator.dtype] * abs(expected) + NOISE[operator.dtype]:
        raise WrongProductError(
            f"product: v.G v differs from central differences of the outputs by {apart / max(abs(expected), 1e-300):.1e}; "
            "an operation with a wrong derivative is the usual cause"
        )
    return CheckReport(symmetric(operator, u, v, product), apart / abs(expected) if expected else apart, repeat)


def repeated(objective: Objective) -> float:
    """Does the same gradient come out twice?"""
    again = objective.gradient_at(objective.point)
    size = max(float(objective.gradient.norm()), torch.finfo(objective.dtype).tiny)
    apart = float((again - objective.gradient).norm()) / size
    if apart > REPEAT[objective.dtype] and float(again.norm()) > NOISE[objective.dtype]:
        raise NotDeterministicError(
            f"loss: two gradients at one point differ by {apart:.1e} of their size; take randomness out of loss_fn "
            "(functional dropout, sampling, noise), and draw the batches before"
        )
    return apart


NOISE = {torch.float32: 1e-6, torch.float64: 1e-14}
"""Norm below which a gradient or product is rounding noise."""


def differing(operator: Operator, objective: Objective, direction: Tensor, product: Tensor) -> float:
    """Is the product the derivative of the gradient?

    Where the loss bends within the step of the difference, the difference is what is wrong: its error falls with the square of
    the step, that of a wrong derivative stays. So shorter steps are tried before anything is refused.
    """
    exact = torch.float64 if objective.device.type != "mps" else torch.float32
    point, along = objective.point.to(exact), direction.to(exact)
    length = STEP * max(1.0, float(point.norm()))
    apart, size = math.inf, 0.0
    for shorter in (1.0, 0.1, 0.01):
        expected = central_difference(lambda x: objective.gradient_at(x, exact), point, along, shorter * length)
        found, size = float((product.to(exact) - expected).norm()), float(expected.norm())
        apart = min(apart, found)
        if apart <= DIFFERENCE[operator.dtype] * size + NOISE[operator.dtype]:
            break
    else:
        kinks = (
            f"the loss has kinks ({', '.join(objective.kinks)}), which the step may have crossed; pass check=False if so; "
            if objective.kinks
            else ""
        )
        raise WrongProductError(
            f"product: differs from the central difference of the gradient by {apart / max(size, 1e-300):.1e} of its size; {kinks}"
            "an operation with a custom or wrong second derivative is the usual cause: use method='differences'"
        )
    return apart / size if size else apart


def symmetric(operator: Operator, u: Tensor, v: Tensor, product: Tensor) -> float:
    """Does ``u.Hv`` equal ``v.Hu``?"""
    other = operator @ u
    apart = abs(float(u.double() @ product.double() - v.double() @ other.double()))
    size = float(u.norm()) * max(float(product.norm()), float(other.norm())) / operator.dim**0.5
    if apart > SYMMETRY[operator.dtype] * size + NOISE[operator.dtype]:
        raise NotSymmetricError(
            f"operator: |u.Hv - v.Hu| is {apart / size:.1e} of its size, expected a symmetric operator; "
            f"rank {ranks.rank()} of {ranks.world()}: have all ranks the same weights?"
        )
    return apart / size if size else apart
