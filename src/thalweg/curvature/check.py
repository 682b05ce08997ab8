"""Is it a Hessian? Three questions asked before an operator is used; each fails loudly.

Weights are compared in units of their own size: with theta = s * phi, s the size of each tensor, the derivative of the gradient
with respect to phi is ``s H s``, whose entries are all in units of the loss. So one time constant of 1e6 beside a network, or
weights of 1e-8, neither hide a wrong product nor make a right one look wrong.

Shape letters: P number of chosen parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg import ranks
from thalweg.curvature.objective import Objective
from thalweg.curvature.operator import Operator
from thalweg.errors import NotDeterministicError, NotSymmetricError, ThalwegError, WrongProductError
from thalweg.streams import stream

SYMMETRY = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest ``|u.Hv - v.Hu|`` relative to a typical ``|u.Hv|``."""
DIFFERENCE = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Largest distance of a product from the central difference, relative to the product."""
_REPEAT = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest distance of two gradients at one point, relative to the gradient."""
_STEPS = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
"""Of the central difference, in units of eps^(1/3) of a weight's size.

A loss that bends within the first step, or has a kink there, is told from a wrong product by the shorter ones: the error of the
difference falls, that of the product stays. Below the last one rounding takes over."""
_ROUGH = 3e-3
"""Largest distance from a difference that could only be taken in float32."""
_BESIDE = 1e-2
"""Distance of the second point, where a loss with a kink at the first one is asked again, in units of a weight's size."""
_FLOOR = 32.0
"""Rounding of a sum of a few terms, in units of eps."""
_SQUARED_NOISE = 1e-18
"""Rounding of differences of logits in float64, squared as they are in ``v.G v``."""
_DRAWS = 5
"""Gradients that are compared where a loss draws random numbers: by chance, two may agree."""


@dataclass(frozen=True)
class CheckReport:
    """What was measured; all three are relative and were below the limits of this file."""

    symmetry: float
    """``|u.Hv - v.Hu| sqrt(P) / (||u|| ||Hv||)``: about ``||H - H^T|| / ||H||``."""
    difference: float
    """``||Hv - (g(x + hv) - g(x - hv)) / 2h|| / ||Hv||``, the gradients in float64 where the loss can be computed there."""
    repeat: float
    """``||g - g'|| / ||g||`` of two gradients at the point."""
    beside: bool = False
    """The difference was taken at a second point near by, as a kink lies at the first."""


def signs(dim: int, seed: int, step: int, like: Tensor) -> Tensor:
    """A vector ``(P,)`` of random signs divided by sqrt(P), the same on every rank."""
    drawn = stream(seed, "probes", step=step).integers(0, 2, size=dim)
    return torch.from_numpy(2.0 * drawn - 1).to(like.device, like.dtype) / max(1, dim) ** 0.5


def check_hessian(operator: Operator, objective: Objective, seed: int = 0) -> CheckReport:
    """Determinism, agreement with the gradient's central difference, symmetry; 2 products and 3 gradients.

    The difference is taken in float64 whatever the operator's arithmetic, or in float32 where the loss cannot be computed in
    float64. The vectors are random signs times the weights' sizes, so that every parameter takes part.

    Raises:
        NotDeterministicError, WrongProductError, NotSymmetricError: with what was measured and what to do.
    """
    repeat = repeated(objective)
    sizes = scales(objective)
    u, v = (sizes * signs(operator.dim, seed, step, objective.point) for step in (0, 1))
    product = operator @ v
    difference, beside = differing(objective, v, product, operator.dtype, operator.difference_error)
    symmetry = symmetric(operator, objective, u, v, product)
    return CheckReport(symmetry, difference, repeat, beside)


def check_gauss_newton(
    operator: Operator, objective: Objective, quadratic_form: Callable[[Tensor, float], float], seed: int = 0
) -> CheckReport:
    """As `check_hessian`, with ``v.G v`` compared with central differences of the outputs, in float64.

    Raises:
        NotDeterministicError, WrongProductError, NotSymmetricError: with what was measured and what to do.
    """
    repeat = repeated(objective)
    sizes = scales(objective)
    u, v = (sizes * signs(operator.dim, seed, step, objective.point) for step in (0, 1))
    product = operator @ v
    value = float(v.double() @ product.double())

    def distance(step: float) -> tuple[float, float]:
        with objective.quiet():
            form = torch.tensor(quadratic_form(v, step), dtype=torch.float64, device="cpu")
        expected = float(ranks.total(form))
        return abs(value - expected), abs(expected)

    limit, floor = DIFFERENCE[operator.dtype], _SQUARED_NOISE
    within = lambda apart, size, step: apart <= (max(limit, _ROUGH) if objective.rounds else limit) * size + floor  # noqa: E731
    apart, size, held = _nearest(distance, torch.float64, operator.dim, within)
    if not held:
        raise WrongProductError(
            f"product: v.G v differs from central differences of the outputs by {_relative(apart, size):.1e}; {_cause(objective)}"
            f"an operation with a wrong derivative{_custom(objective)} is the usual cause"
        )
    return CheckReport(symmetric(operator, objective, u, v, product), _relative(apart, size), repeat)


def repeated(objective: Objective) -> float:
    """Does the same gradient come out twice?

    Raises:
        NotDeterministicError: no.
    """
    draws = objective.seen.random and objective.seed is None
    drawn = "; or fix it with seed= (dropout of modules is off in mode='eval')" if draws else ""
    told = f"take randomness out of loss_fn (functional dropout, sampling, noise), and draw the batches before{drawn}"
    if draws and objective.mode != "eval":
        raise NotDeterministicError(f"loss: draws random numbers in mode={objective.mode!r} (dropout, noise); {told}")
    sizes, apart = scales(objective), 0.0
    size = float((sizes * objective.gradient).norm())
    floor = _FLOOR * torch.finfo(objective.dtype).eps * abs(objective.value) / max(1, objective.dim) ** 0.5
    for _ in range(_DRAWS if draws else 1):
        again = objective.gradient_at(objective.point)
        apart = max(apart, float((sizes * (again - objective.gradient)).norm()))
        if not apart <= _REPEAT[objective.dtype] * size + floor:
            apart = _relative(apart, size)
            raise NotDeterministicError(f"loss: two gradients at one point differ by {apart:.1e} of their size; {told}")
    if draws:
        objective.seed = 0  # what is drawn did not matter, and from now on is the same
    return _relative(apart, size)


def scales(objective: Objective) -> Tensor:
    """The size of every weight, ``(P,)`` in the objective's dtype: the root mean square of its tensor.

    Tensors of zeros, and those so small that the loss does not feel a change by their size (a factor that training has just begun
    to move from zero), take the median size of the others.
    """
    points = objective.layout.split(objective.point.double())
    gradients = objective.layout.split(objective.gradient.double())
    sizes = {name: _rms(part) for name, part in points.items()}
    given = sorted(size for size in sizes.values() if size > 0)
    middle = given[len(given) // 2] if given else 1.0
    felt = {name: sizes[name] * float(gradients[name].norm()) for name in sizes}
    strongest = max(felt.values(), default=0.0)
    for name, size in sizes.items():
        if size == 0 or felt[name] < 1e-6 * strongest:
            sizes[name] = max(size, middle)
    return objective.layout.join(torch.full_like(part, sizes[name]) for name, part in points.items()).to(objective.dtype)


def differing(
    objective: Objective, direction: Tensor, product: Tensor, dtype: torch.dtype, error: float = 0.0
) -> tuple[float, bool]:
    """How far a product is from the derivative of the gradient, relative to its size, and whether that was asked beside the point.

    Args:
        objective: of the loss.
        direction: ``(P,)``.
        product: with it, ``(P,)``.
        dtype: arithmetic that the product was computed in, which sets the limit.
        error: of the product, relative, where it was itself made by differences.
    Raises:
        WrongProductError: farther than the limit at every step.
    """
    sizes = scales(objective)
    floor = _FLOOR * torch.finfo(dtype).eps * _natural_size(objective, sizes) / max(1, objective.dim) ** 0.5
    limit = max(DIFFERENCE[dtype], 10 * error)
    apart, size, held = _distance(objective, objective.point, direction, product, limit, floor)
    if held:
        return _relative(apart, size), False
    if objective.kinks and _right_beside(objective, direction, product, limit, floor):
        return _relative(apart, size), True
    raise WrongProductError(
        f"product: differs from the central difference of the gradient by {_relative(apart, size):.1e} of its size; "
        f"{_cause(objective)}an operation with a custom or wrong second derivative{_custom(objective)} is the usual cause: "
        "use method='differences'"
    )


def _distance(
    objective: Objective, point: Tensor, direction: Tensor, product: Tensor, limit: float, floor: float
) -> tuple[float, float, bool]:
    """Distance of a product at a point from the nearest difference, the size of that, and whether it is within the limit."""

    def asked() -> tuple[float, float, bool]:
        exact, rough = objective.precise, objective.precise != torch.float64 or objective.rounds
        sizes, along, here = (vector.to(exact) for vector in (scales(objective), direction, point))
        strength = 0.0

        def distance(step: float) -> tuple[float, float]:
            nonlocal strength
            ahead, behind = (objective.gradient_at(here + sign * step * along, exact) for sign in (1, -1))
            strength = max(float((sizes * ahead).norm()), float((sizes * behind).norm()))
            expected = (ahead - behind) / (2 * step)
            return float((sizes * (product.to(exact) - expected)).norm()), float((sizes * expected).norm())

        arithmetic = torch.float32 if rough else torch.float64
        noise = _FLOOR * torch.finfo(arithmetic).eps
        allowed = max(limit, _ROUGH) if rough else limit
        within = lambda apart, size, step: apart <= allowed * size + floor + noise * strength / step  # noqa: E731
        return _nearest(distance, arithmetic, objective.dim, within)

    before = objective.precise, objective.rounds
    try:
        found = asked()
    except Exception:  # an operation without float64; an error of the loss's own comes again in its own arithmetic
        if objective.precise == objective.dtype:
            raise
        objective.precise = objective.dtype
        return asked()
    return found if found[2] or before == (objective.precise, objective.rounds) else asked()


def _nearest(
    distance: Callable[[float], tuple[float, float]],
    dtype: torch.dtype,
    dim: int,
    within: Callable[[float, float, float], bool],
) -> tuple[float, float, bool]:
    """The smallest distance over falling steps, with the size that it is relative to; ends at the first one within the limit."""
    unit = torch.finfo(dtype).eps ** (1 / 3) * max(1, dim) ** 0.5  # directions have entries of 1 / sqrt(P) of a weight's size
    nearest, its_size = math.inf, 0.0
    for step in _STEPS:
        apart, size = distance(unit * step)
        if within(apart, size, unit * step):
            return apart, size, True
        if not apart >= nearest:
            nearest, its_size = apart, size
    return nearest, its_size, False


def _right_beside(objective: Objective, direction: Tensor, product: Tensor, limit: float, floor: float) -> bool:
    """Is the kink to blame? At a point near by, without a kink, a product made in the same way has to be right.

    Where the weights lie exactly on a kink (a rectified unit whose input is zero), differences jump and tell nothing. So double
    backward is compared with differences at a second point, and with the product at the first.
    """
    exact = objective.precise
    here, along, sizes = (vector.to(exact) for vector in (objective.point, direction, scales(objective)))
    moved = here + _BESIDE * sizes * signs(objective.dim, 1, 2, here) * objective.dim**0.5
    try:
        there, same = objective.product_at(moved, along), objective.product_at(here, along)
    except (RuntimeError, ThalwegError):
        return False
    apart, size = float((sizes * (product.to(exact) - same)).norm()), float((sizes * same).norm())
    return apart <= limit * size + floor and _distance(objective, moved, along, there, limit, floor)[2]


def symmetric(operator: Operator, objective: Objective, u: Tensor, v: Tensor, product: Tensor) -> float:
    """``|u.Hv - v.Hu|`` relative to a typical ``|u.Hv|``.

    Raises:
        NotSymmetricError: above the limit.
    """
    other = operator @ u
    sizes = scales(objective).double()
    apart = abs(float(u.double() @ product.double() - v.double() @ other.double()))
    norms = [float((sizes * vector.double()).norm()) for vector in (product, other)]
    size = float((u.double() / sizes).norm()) * max(norms) / operator.dim**0.5
    floor = _FLOOR * torch.finfo(operator.dtype).eps * _natural_size(objective, sizes) / operator.dim
    if not apart <= max(SYMMETRY[operator.dtype], 10 * operator.difference_error) * size + floor:
        several = f"rank {ranks.rank()} of {ranks.world()}: have all ranks the same weights?"
        alone = _cause(objective) + "the gradient of a loss has a symmetric derivative, so this gradient is not one of a loss"
        raise NotSymmetricError(
            f"operator: |u.Hv - v.Hu| is {_relative(apart, size):.1e} of its size, expected a symmetric operator; "
            f"{several if ranks.world() > 1 else alone}"
        )
    return _relative(apart, size)


def _natural_size(objective: Objective, sizes: Tensor) -> float:
    """The loss and its first change along the weights, in units of the loss: what rounding is relative to."""
    return abs(objective.value) + float((sizes.double() * objective.gradient.double()).norm())


def _cause(objective: Objective) -> str:
    """What is known of the loss that may be the reason."""
    words = []
    # PyTorch runs the forward pass of a custom function under no_grad, so there it tells nothing.
    cuts = [cut for cut in objective.seen.cuts if cut != "no_grad" or not objective.seen.custom]
    if cuts:
        words.append(
            f"the loss takes values that depend on the weights out of the graph ({', '.join(cuts)}), so its gradient may not be "
            "the derivative of its value; "
        )
    if objective.kinks:
        words.append(f"the loss has kinks ({', '.join(objective.kinks)}), and was asked at {len(_STEPS)} steps and beside them; ")
    if objective.rounds:
        words.append("the loss rounds to a lower precision inside; ")
    return "".join(words)


def _custom(objective: Objective) -> str:
    """The custom functions of the loss, for a message."""
    return f" ({', '.join(objective.seen.custom)})" if objective.seen.custom else ""


def _relative(apart: float, size: float) -> float:
    """A distance in units of a size, or as it is where that is zero."""
    return apart / size if size else apart


def _rms(part: Tensor) -> float:
    """Root mean square; 0 of nothing."""
    return float(part.square().mean().sqrt()) if part.numel() else 0.0
