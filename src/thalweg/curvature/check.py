"""Three checks that an operator is the Hessian of its loss. Each one that fails raises an error.

1. Determinism: two gradients at one point agree (`repeated`).
2. Derivative: ``H v`` agrees with the central difference ``(g(theta + h v) - g(theta - h v)) / 2h`` (`differing`).
3. Symmetry: ``u.Hv = v.Hu`` (`symmetric`).

Distances are measured in units of the weights' own sizes: with theta = s * phi, s the root mean square of each tensor, the
derivative of the gradient with respect to phi is ``s H s``, whose entries are all in units of the loss. A time constant of 1e6
next to a network, or weights of 1e-8, therefore neither hide a wrong product nor make a right one look wrong.

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
"""Steps h of the central difference, in units of eps^(1/3) of a weight's size.

The shorter steps distinguish a loss that bends within the first step, or has a kink there, from a wrong product: the error of the
difference falls with the step, that of a wrong product stays. Below the last step rounding takes over."""
_ROUGH = 3e-3
"""Largest relative distance of a product from a difference that could only be taken in float32."""
_SHIFT = 1e-2
"""Distance of the second point, where a loss with a kink at the first one is checked again, in units of a weight's size."""
_FLOOR = 32.0
"""Rounding of a sum of a few terms, in units of eps."""
_SQUARED_NOISE = 1e-18
"""Rounding of differences of logits in float64, squared as they are in ``v.G v``."""
_DRAWS = 5
"""Gradients that are compared where a loss draws random numbers, because two may agree by chance."""


@dataclass(frozen=True)
class CheckReport:
    """What the three checks measured; all numbers are relative and below the limits of this file."""

    symmetry: float
    """``|u.Hv - v.Hu| sqrt(P) / (||u|| ||Hv||)``: about ``||H - H^T|| / ||H||``."""
    difference: float
    """``||Hv - (g(x + hv) - g(x - hv)) / 2h|| / ||Hv||``, the gradients in float64 where the loss can be computed there."""
    repeat: float
    """``||g - g'|| / ||g||`` of two gradients at the point."""
    shifted: bool = False
    """Whether the difference was taken at a second point near by, as the loss has a kink at the first."""


def signs(dim: int, seed: int, step: int, like: Tensor) -> Tensor:
    """A unit vector of random signs divided by sqrt(P), the same on every rank.

    Args:
        dim: P.
        seed: seed of the stream "probes".
        step: number of the vector within the seed's stream.
        like: tensor whose device and dtype the vector takes.
    Returns:
        The vector ``(P,)``.
    """
    drawn = stream(seed, "probes", step=step).integers(0, 2, size=dim)
    return torch.from_numpy(2.0 * drawn - 1).to(like.device, like.dtype) / max(1, dim) ** 0.5


def check_hessian(operator: Operator, objective: Objective, seed: int = 0) -> CheckReport:
    """Check determinism, agreement with the gradient's central difference, and symmetry of a Hessian operator.

    The difference is taken in float64 whatever the operator's arithmetic, or in float32 where the loss cannot be computed in
    float64. The two vectors are random signs times the weights' sizes, so that every parameter takes part. Costs 2 products and 3
    gradients where everything agrees at the first step.

    Args:
        operator: the operator to be checked, of the objective's Hessian.
        objective: loss, point and gradient.
        seed: seed of the two vectors.
    Returns:
        What was measured.
    Raises:
        NotDeterministicError, WrongProductError, NotSymmetricError: a check failed; the message says what to do.
    """
    # Determinism comes first: without it the other two comparisons mean nothing.
    repeat = repeated(objective)
    sizes = scales(objective)
    u, v = (sizes * signs(operator.dim, seed, step, objective.point) for step in (0, 1))
    # Derivative: H v against (g(theta + h v) - g(theta - h v)) / 2h.
    product = operator @ v
    difference, shifted = differing(objective, v, product, operator.dtype, operator.difference_error)
    # Symmetry: u.Hv against v.Hu, which costs one more product.
    symmetry = symmetric(operator, objective, u, v, product)
    return CheckReport(symmetry, difference, repeat, shifted)


def check_gauss_newton(
    operator: Operator, objective: Objective, quadratic_form: Callable[[Tensor, float], float], seed: int = 0
) -> CheckReport:
    """Check a Gauss-Newton operator as `check_hessian` does, with ``v.G v`` compared with central differences of the outputs.

    G is not the derivative of a gradient. Its quadratic form is, for cross-entropy, ``mean of z^T (diag(p) - p p^T) z`` with
    z the derivative of the logits along v, so z is taken by central differences in float64.

    Args:
        operator: the operator to be checked.
        objective: loss, point and gradient.
        quadratic_form: ``(v, h) -> v.G v`` of this rank's batches by differences of step h.
        seed: seed of the two vectors.
    Returns:
        What was measured.
    Raises:
        NotDeterministicError, WrongProductError, NotSymmetricError: a check failed; the message says what to do.
    """
    repeat = repeated(objective)
    sizes = scales(objective)
    u, v = (sizes * signs(operator.dim, seed, step, objective.point) for step in (0, 1))
    product = operator @ v
    value = float(v.double() @ product.double())

    def distance(step: float) -> tuple[float, float]:
        def of_this_rank() -> Tensor:
            with objective.quiet():
                return torch.tensor(quadratic_form(v, step), dtype=torch.float64, device="cpu")

        expected = float(ranks.total_of(of_this_rank, torch.zeros((), dtype=torch.float64, device="cpu")))
        return abs(value - expected), abs(expected)

    limit, floor = DIFFERENCE[operator.dtype], _SQUARED_NOISE
    within = lambda gap, size, step: gap <= (max(limit, _ROUGH) if objective.rounds_below_float64 else limit) * size + floor  # noqa: E731
    gap, size, agrees = _nearest(distance, torch.float64, operator.dim, within)
    if not agrees:
        raise WrongProductError(
            f"product: v.G v differs from central differences of the outputs by {_relative(gap, size):.1e}; "
            + _reason(objective, f"an operation with a wrong derivative{_custom(objective)} is the usual cause")
        )
    return CheckReport(symmetric(operator, objective, u, v, product), _relative(gap, size), repeat)


def repeated(objective: Objective) -> float:
    """Compute the gradient again at the same point and compare; five times where the loss draws random numbers.

    A loss whose random numbers do not change its gradient gets the seed 0, so that it stays as it is.

    Args:
        objective: loss, point and first gradient g.
    Returns:
        The largest ``||g - g'|| / ||g||``, in units of the weights' sizes.
    Raises:
        NotDeterministicError: two gradients differ by more than rounding.
    """
    is_random = objective.observed.random and objective.seed is None
    # What to do, for both messages.
    remedy = "; or fix it with seed= (dropout of modules is off in mode='eval')" if is_random else ""
    advice = f"take randomness out of loss_fn (functional dropout, sampling, noise), and draw the batches before{remedy}"
    if is_random and objective.mode != "eval":
        raise NotDeterministicError(f"loss: draws random numbers in mode={objective.mode!r} (dropout, noise); {advice}")
    sizes, gap = scales(objective), 0.0
    size = float((sizes * objective.gradient).norm())
    # A gradient that nearly cancels still carries the rounding of the loss itself: eps |L| per weight, spread over sqrt(P).
    floor = _FLOOR * torch.finfo(objective.dtype).eps * abs(objective.value) / max(1, objective.dim) ** 0.5
    for _ in range(_DRAWS if is_random else 1):
        second_gradient = objective.gradient_at(objective.point)
        gap = max(gap, float((sizes * (second_gradient - objective.gradient)).norm()))
        if not gap <= _REPEAT[objective.dtype] * size + floor:
            gap = _relative(gap, size)
            raise NotDeterministicError(f"loss: two gradients at one point differ by {gap:.1e} of their size; {advice}")
    if is_random:
        objective.seed = 0  # the random numbers did not matter; from now on they are always the same
    return _relative(gap, size)


def scales(objective: Objective) -> Tensor:
    """The size of every weight: the root mean square of its tensor.

    Tensors of zeros take the median size of the others. So do tensors so small that a change by their own size hardly moves the
    loss, such as a factor that training has just begun to move from zero.

    Args:
        objective: point and gradient.
    Returns:
        Sizes ``(P,)``, positive, in the objective's dtype and in units of theta.
    """
    points = objective.layout.split(objective.point.double())
    gradients = objective.layout.split(objective.gradient.double())
    sizes = {name: _rms(part) for name, part in points.items()}
    given = sorted(size for size in sizes.values() if size > 0)
    middle = given[len(given) // 2] if given else 1.0
    # First change of the loss when a tensor moves by its own size: s ||g||.
    felt = {name: sizes[name] * float(gradients[name].norm()) for name in sizes}
    strongest = max(felt.values(), default=0.0)
    for name, size in sizes.items():
        if size == 0 or felt[name] < 1e-6 * strongest:
            sizes[name] = max(size, middle)
    return objective.layout.join(torch.full_like(part, sizes[name]) for name, part in points.items()).to(objective.dtype)


def differing(
    objective: Objective, direction: Tensor, product: Tensor, dtype: torch.dtype, error: float = 0.0
) -> tuple[float, bool]:
    """Distance of a product ``H v`` from the derivative of the gradient along v, relative to its size.

    The derivative is the central difference ``(g(theta + h v) - g(theta - h v)) / 2h`` at falling steps h; the nearest one counts.
    Where the loss has a kink at the point, the comparison is repeated at a second point near by.

    Args:
        objective: loss and point.
        direction: v, ``(P,)``.
        product: ``H v``, ``(P,)``.
        dtype: arithmetic that the product was computed in, which sets the limit.
        error: relative error of the product, where it was itself made by differences; 0 elsewhere.
    Returns:
        The relative distance, and whether it was the second point that agreed.
    Raises:
        WrongProductError: the distance is above the limit at every step.
    """
    sizes = scales(objective)
    floor = _FLOOR * torch.finfo(dtype).eps * _natural_size(objective, sizes) / max(1, objective.dim) ** 0.5
    limit = max(DIFFERENCE[dtype], 10 * error)
    # First at the point itself, then, if a kink may be the reason, at a point near by.
    gap, size, agrees = _distance(objective, objective.point, direction, product, limit, floor)
    if agrees:
        return _relative(gap, size), False
    if objective.kinks and _agrees_nearby(objective, direction, product, limit, floor):
        return _relative(gap, size), True
    raise WrongProductError(
        f"product: differs from the central difference of the gradient by {_relative(gap, size):.1e} of its size; "
        + _reason(
            objective,
            f"an operation with a custom or wrong second derivative{_custom(objective)} is the usual cause: "
            "use method='differences'",
        )
    )


def _distance(
    objective: Objective, point: Tensor, direction: Tensor, product: Tensor, limit: float, floor: float
) -> tuple[float, float, bool]:
    """Distance of a product at a point from the nearest difference, the size of that difference, and whether they agree.

    Differences are taken in the most precise arithmetic that the loss works in. If float64 turns out not to work, or to be rounded
    inside, the comparison is repeated with that knowledge.
    """

    def compare() -> tuple[float, float, bool]:
        exact, rough = objective.precise, objective.precise != torch.float64 or objective.rounds_below_float64
        sizes, along, here = (vector.to(exact) for vector in (scales(objective), direction, point))
        strength = 0.0

        def distance(step: float) -> tuple[float, float]:
            nonlocal strength
            ahead, behind = (objective.gradient_at(here + sign * step * along, exact) for sign in (1, -1))
            strength = max(float((sizes * ahead).norm()), float((sizes * behind).norm()))
            expected = (ahead - behind) / (2 * step)
            return float((sizes * (product.to(exact) - expected)).norm()), float((sizes * expected).norm())

        # Rounding of the two gradients, eps ||g||, is divided by the step; it must not count as a wrong product.
        arithmetic = torch.float32 if rough else torch.float64
        noise = _FLOOR * torch.finfo(arithmetic).eps
        allowed = max(limit, _ROUGH) if rough else limit
        within = lambda gap, size, step: gap <= allowed * size + floor + noise * strength / step  # noqa: E731
        return _nearest(distance, arithmetic, objective.dim, within)

    before = objective.precise, objective.rounds_below_float64
    try:
        outcome = compare()
    except Exception:  # an operation without float64; an error of the loss itself is raised again in its own arithmetic
        if objective.precise == objective.dtype:
            raise
        objective.precise = objective.dtype
        return compare()
    return outcome if outcome[2] or before == (objective.precise, objective.rounds_below_float64) else compare()


def _nearest(
    distance: Callable[[float], tuple[float, float]],
    dtype: torch.dtype,
    dim: int,
    within: Callable[[float, float, float], bool],
) -> tuple[float, float, bool]:
    """The smallest distance over falling steps, the size that it is relative to, and whether it is within the limit.

    Stops at the first step within the limit. The longest step, eps^(1/3) of a weight's size, balances the truncation error h^2
    and the rounding error eps / h of a central difference.
    """
    unit = torch.finfo(dtype).eps ** (1 / 3) * max(1, dim) ** 0.5  # directions have entries of 1 / sqrt(P) of a weight's size
    nearest, nearest_size = math.inf, 0.0
    for step in _STEPS:
        gap, size = distance(unit * step)
        if within(gap, size, unit * step):
            return gap, size, True
        if not gap >= nearest:
            nearest, nearest_size = gap, size
    return nearest, nearest_size, False


def _agrees_nearby(objective: Objective, direction: Tensor, product: Tensor, limit: float, floor: float) -> bool:
    """Whether a kink at the point explains the disagreement, because products made in the same way are right near by.

    Where the weights lie exactly on a kink (a rectified unit whose input is zero), differences jump and decide nothing. So double
    backward has to agree with the given product at the point, and with differences at a second point.
    """
    exact = objective.precise
    here, along, sizes = (vector.to(exact) for vector in (objective.point, direction, scales(objective)))
    moved = here + _SHIFT * sizes * signs(objective.dim, 1, 2, here) * objective.dim**0.5
    try:
        at_moved, at_point = objective.product_at(moved, along), objective.product_at(here, along)
    except (RuntimeError, ThalwegError):
        return False
    gap, size = float((sizes * (product.to(exact) - at_point)).norm()), float((sizes * at_point).norm())
    return gap <= limit * size + floor and _distance(objective, moved, along, at_moved, limit, floor)[2]


def symmetric(operator: Operator, objective: Objective, u: Tensor, v: Tensor, product: Tensor) -> float:
    """``|u.Hv - v.Hu|`` relative to a typical ``|u.Hv|``, which is ``||u|| ||Hv|| / sqrt(P)``; costs one product.

    Args:
        operator: H.
        objective: loss and point, for the weights' sizes.
        u, v: two vectors ``(P,)``.
        product: ``H v``, ``(P,)``.
    Returns:
        The relative difference: about ``||H - H^T|| / ||H||``.
    Raises:
        NotSymmetricError: the difference is above the limit.
    """
    other = operator @ u
    sizes = scales(objective).double()
    gap = abs(float(u.double() @ product.double() - v.double() @ other.double()))
    norms = [float((sizes * vector.double()).norm()) for vector in (product, other)]
    size = float((u.double() / sizes).norm()) * max(norms) / operator.dim**0.5
    floor = _FLOOR * torch.finfo(operator.dtype).eps * _natural_size(objective, sizes) / operator.dim
    if not gap <= max(SYMMETRY[operator.dtype], 10 * operator.difference_error) * size + floor:
        several_ranks = f"rank {ranks.rank()} of {ranks.world()}: have all ranks the same weights?"
        no_loss = "the gradient of a loss has a symmetric derivative, so this gradient is not one of a loss"
        one_rank = _reason(objective, no_loss)
        raise NotSymmetricError(
            f"operator: |u.Hv - v.Hu| is {_relative(gap, size):.1e} of its size, expected a symmetric operator; "
            f"{several_ranks if ranks.world() > 1 else one_rank}"
        )
    return _relative(gap, size)


def _natural_size(objective: Objective, sizes: Tensor) -> float:
    """``|L| + ||s g||``, the loss and its first change when weights move by their sizes: what rounding is relative to."""
    return abs(objective.value) + float((sizes.double() * objective.gradient.double()).norm())


def _reason(objective: Objective, usual: str) -> str:
    """Why a check failed, for a message: what is known for sure, else what may be the reason, and the usual one."""
    if objective.observed.padded:
        token = objective.observed.padded[0]
        return (
            f"an embedding with padding_idx={token} looks up token {token}, whose weights change the loss but get no gradient, so "
            "that the gradient is not the derivative of the loss; leave these positions out of the loss and of attention, or set "
            "padding_idx of the embedding to None"
        )
    clauses = []
    # PyTorch runs the forward pass of a custom function under no_grad, so there it tells nothing.
    cuts = [cut for cut in objective.observed.cuts if cut != "no_grad" or not objective.observed.custom]
    if cuts:
        clauses.append(
            f"the loss takes values that depend on the weights out of the graph ({', '.join(cuts)}), so its gradient may not be "
            "the derivative of its value; "
        )
    if objective.kinks:
        clauses.append(
            f"the loss has kinks ({', '.join(objective.kinks)}), and {len(_STEPS)} steps and a second point were tried; "
        )
    if objective.rounds_below_float64:
        clauses.append("the loss rounds to a lower precision inside; ")
    return "".join([*clauses, usual])


def _custom(objective: Objective) -> str:
    """The names of the loss's custom autograd functions in parentheses, for a message."""
    return f" ({', '.join(objective.observed.custom)})" if objective.observed.custom else ""


def _relative(gap: float, size: float) -> float:
    """A distance divided by a size, or the distance itself where the size is zero."""
    return gap / size if size else gap


def _rms(part: Tensor) -> float:
    """Root mean square of a tensor; 0 for one without entries."""
    return float(part.square().mean().sqrt()) if part.numel() else 0.0
