"""Theorem 1 with momentum, which keeps the limit of gradient descent, and with a frozen preconditioner, which changes it.

Shape letters: P all parameters, dV dimension of the valley, dR of the river, K steps, n eigenvalues or entries.

Heavy ball, in the valley and along the river: ``z_{k+1} = z_k - eta g_k + beta (z_k - z_{k-1})``, starting at rest. Adam's form is
``m <- beta m + (1 - beta) g; z <- z - eta m`` with ``m = 0`` at the start; it equals the heavy ball at the rate
``(1 - beta) eta``. PyTorch's ``dampening`` equals Adam's form except in its first step, which PyTorch does not dampen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import (
    BadInputError,
    InsufficientDataError,
    NonFiniteError,
    ShapeMismatchError,
    StepSizeError,
    UnstableDirectionError,
    require,
)
from thalweg.reprs import short_repr
from thalweg.theory.force import Force, limit_conditions, modes
from thalweg.theory.inputs import Condition, finite, positive_rate, positive_steps, shaped, symmetric
from thalweg.theory.kernel import kernel, limit, unless_overflown
from thalweg.theory.quadratic import Quadratic

_FORMS = ("heavy-ball", "ema")
_FROZEN = 0.1
"""Largest relative drift of a preconditioner that counts as frozen."""


@short_repr
@dataclass(frozen=True)
class HeavyBall:
    """Sums of a valley that starts at displacement 1, for each eigenvalue. Without momentum both equal the kernel s_K."""

    total: Tensor
    """``eta sum_{k<K} x_k``, the shape of the eigenvalues, unit 1 / H."""
    displacement: Tensor
    """Minus the displacement after K steps of a river coordinate with unit coupling; the river has momentum too. Same shape."""


def heavy_ball(values: Tensor, rate: float, steps: int, momentum: float) -> HeavyBall:
    """Sum the valley's positions, and the river's displacement, under heavy-ball momentum; exact for every eigenvalue.

    Statement: the displacement is ``d_K = (1 - x_K) / lam`` with x_K the valley's position after K steps, and the sum is
    ``(1 - beta) d_K + beta (d_K - d_{K-1})``. River and valley filter their gradients in the same way, so their displacements
    have the ratio of their gradients. This holds for every method whose step is a fixed linear function of past gradients.
    Domain: every real lam, lam = 0 included, where the displacement is a sum of steps.

    Args:
        values: lam, any shape.
        rate: eta of the heavy ball; see `heavy_ball_rate` for Adam's form.
        steps: K.
        momentum: beta, at least 0 and below 1; 0 gives the kernel s_K.
    Returns:
        Both sums, float64, the shape of ``values``.
    Raises:
        NonFiniteError: the eigenvalues hold NaN or infinity, or a sum grows beyond float64.
        BadInputError: beta is outside [0, 1).
    Example:
        >>> sums = heavy_ball(torch.tensor([0.0, 0.5]), rate=1.0, steps=2, momentum=0.5)
        >>> sums.total.tolist(), sums.displacement.tolist()
        ([2.0, 1.5], [2.5, 2.0])

    Source:
        Ours; B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964, for the method.
    """
    lam, eta, beta = finite("values", values), positive_rate(rate), _known_momentum(momentum)
    if beta == 0:
        return HeavyBall(kernel(lam, eta, steps), kernel(lam, eta, steps))
    x, count = eta * lam, positive_steps(steps)
    # Each of the two forms is accurate on one side of eta lam = 1.
    slow, fast = _by_doubling(x, count, beta), _by_roots(x, count, beta)
    total, river = (eta * torch.where(x < 1, below, above) for below, above in zip(slow, fast, strict=True))
    if not (torch.isfinite(total).all() and torch.isfinite(river).all()):
        raise NonFiniteError("heavy ball: grows beyond float64; use fewer steps or a smaller rate")
    return HeavyBall(total, river)


def _by_doubling(x: Tensor, steps: int, beta: float) -> tuple[Tensor, Tensor]:
    """``sum x_k`` and ``sum w_{k+1}`` over k < K for the map ``w' = beta w + x, x' = x - (eta lam) w'``; good at eta lam < 1.

    With ``G_n = sum_{k<n} M^k``: ``G_2n = G_n (2 I - (I - M) G_n)``, Newton's iteration for ``(I - M)^-1``. It inverts nothing,
    so that lam = 0 and equal roots need no special case; near eta lam = 4 it loses K / (1 - beta)^2 roundings.
    """
    ones = torch.ones_like(x)
    # Rows of M - I for the state (x, w).
    move = torch.stack([torch.stack([-x, -beta * x], -1), torch.stack([ones, (beta - 1) * ones], -1)], -2)  # M - I
    unit = torch.eye(2, dtype=torch.float64, device=x.device).expand_as(move)
    sums = unit
    # Binary digits of K from the left: double the number of terms, then add one term for a digit 1.
    for digit in bin(steps)[3:]:
        sums = sums + sums @ (unit + move @ sums)  # In the other order of the product rounding grows without end.
        if digit == "1":
            sums = unit + sums + move @ sums
    return sums[..., 0, 0], sums[..., 0, 0] + beta * sums[..., 1, 0]


def _by_roots(x: Tensor, steps: int, beta: float) -> tuple[Tensor, Tensor]:
    """The same sums by the roots a, b of ``z^2 - (1 + beta - eta lam) z + beta``; good at eta lam >= 1, where no root is near 1.

    With ``p_n = (a^n - b^n) / (a - b)``: w_n = p_n and x_n = p_{n+1} - beta p_n.
    """
    move = _root_powers(x, steps, beta)
    river = (1 - _root_powers(x, steps + 1, beta) + beta * move) / x
    return (1 - beta) * river + beta * move, river


def _root_powers(x: Tensor, count: int, beta: float) -> Tensor:
    """Compute ``(a^n - b^n) / (a - b)`` for n = count; ``n a^(n-1)`` for equal roots."""
    # The roots are complex where the discriminant ``gap`` is negative.
    trace = 1 + beta - x
    gap = trace**2 - 4 * beta
    # Complex roots sqrt(beta) e^(+-i angle) give a sine ratio; real roots give a ratio of exponentials, without cancellation.
    half, size = gap.abs().sqrt(), trace.abs()
    angle = torch.atan2(half, size)
    turning = beta ** ((count - 1) / 2) * torch.sin(count * angle) / torch.sin(angle)
    ratio = -2 * torch.atanh((half / size).clamp(max=1))
    falling = ((size + half) / 2) ** (count - 1) * torch.where(gap == 0, count, torch.expm1(count * ratio) / torch.expm1(ratio))
    return torch.where(gap < 0, turning, falling) * torch.where(trace < 0, -1.0, 1.0) ** (count - 1)


def heavy_ball_limit(values: Tensor, rate: float, momentum: float) -> HeavyBall:
    """Limits of `heavy_ball` for K to infinity: ``(1 - beta) / lam`` for the sum, ``1 / lam`` for the displacement.

    The displacement has the same limit as gradient descent. Domain: ``0 < eta lam < 2 (1 + beta)``.

    Raises:
        UnstableDirectionError: an eigenvalue is not positive.
        StepSizeError: for an eigenvalue ``eta lam >= 2 (1 + beta)``.
    Example:
        >>> limits = heavy_ball_limit(torch.tensor([2.0]), rate=1.0, momentum=0.5)
        >>> limits.total.tolist(), limits.displacement.tolist()
        ([0.25], [0.5])

    Source:
        Ours.
    """
    lam, eta, beta = finite("values", values), positive_rate(rate), _known_momentum(momentum)
    edge = stable_range(beta)[1]
    if (lam <= 0).any():
        raise UnstableDirectionError(f"limit: smallest eigenvalue {float(lam.min()):.3g}, expected all above 0; use a finite K")
    if (eta * lam >= edge).any():
        most = float(eta * lam.max())
        raise StepSizeError(f"limit: rate times largest eigenvalue is {most:.3g}, expected below 2 (1 + momentum) = {edge:.3g}")
    return HeavyBall((1 - beta) / lam, 1 / lam)


def displacement(model: Quadratic, start: Tensor, rate: float, steps: int, momentum: float, form: str = "heavy-ball") -> Force:
    """Compute the river's displacement after K steps with momentum, driven by the valley's motion.

    Statement: ``-B^T d_K(A) x_0`` with d_K of `heavy_ball`, exact for a valley without feedback and forcing. At momentum 0 it is
    C_K of theorem 1 (`force.cumulative_force`).

    Args:
        model: its blocks A and B are used.
        start: x_0, displacement of the valley from its floor, at rest, ``(dV,)``.
        rate: eta, of the form chosen.
        steps: K.
        momentum: beta.
        form: "heavy-ball", or "ema" for Adam's form.
    Returns:
        The displacement ``(dR,)`` with its parts; the conditions concern the limit of many steps only.
    Example:
        >>> from thalweg.theory.quadratic import quadratic
        >>> displacement(quadratic(torch.eye(1), torch.ones(1, 1)), torch.ones(1), 0.5, 2, momentum=0.5).vector.tolist()
        [-1.0]

    Source:
        Ours.
    """
    eigen = modes(model)
    x, eta = eigen.vectors.T @ shaped("start", start, len(eigen.values)), heavy_ball_rate(rate, momentum, form)
    parts = -(heavy_ball(eigen.values, eta, steps, momentum).displacement * x).unsqueeze(1) * eigen.couplings
    least, most, edge = float(eta * eigen.values.min()), float(eta * eigen.values.max()), stable_range(momentum)[1]
    conditions = (
        Condition("eta lam_min > 0", least > 0, least),
        Condition("eta lam_max < 2 (1 + beta)", most < edge, most),
        Condition("eta K lam_min / (1 - beta) >= 3", steps * least >= 3 * (1 - momentum), steps * least / (1 - momentum)),
    )
    return Force(parts.sum(0), parts, int((eigen.values < 0).sum()), conditions)


def heavy_ball_rate(rate: float, momentum: float, form: str = "heavy-ball") -> float:
    """Return the heavy ball's rate eta: the rate itself for "heavy-ball", ``(1 - beta)`` times it for "ema"."""
    require(form in _FORMS, "form", form, f"one of {', '.join(_FORMS)}")
    return positive_rate(rate) * (1 - _known_momentum(momentum) if form == "ema" else 1)


def stable_range(momentum: float, form: str = "heavy-ball") -> tuple[float, float]:
    """Return the open interval of eta lam in which momentum converges.

    Statement: ``0 < eta lam < 2 (1 + beta)`` for the heavy ball, ``0 < eta lam < 2 (1 + beta) / (1 - beta)`` for "ema".
    Proof: ``z^2 - (1 + beta - eta lam) z + beta`` has its roots within the unit circle if and only if ``beta < 1`` and its
    values at 1 and -1, ``eta lam`` and ``2 (1 + beta) - eta lam``, are positive.

    Example:
        >>> stable_range(0.5), stable_range(0.5, form="ema")
        ((0.0, 3.0), (0.0, 6.0))

    Source:
        Cohen and others, arXiv 2207.14484, for 38 / eta at beta = 0.9 in Adam's form.
    """
    beta = _known_momentum(momentum)
    return 0.0, 2 * (1 + beta) / heavy_ball_rate(1.0, beta, form)


def edge_ratio(sharpness: float, rate: float, momentum: float = 0.0, form: str = "heavy-ball") -> float:
    """Divide eta lam by the end of `stable_range`: 1 at the edge of stability; ``eta lam / 2`` for gradient descent.

    Args:
        sharpness: lam_max; with a preconditioner that of the preconditioned Hessian, see `preconditioned_values`.
        rate: eta, of the form chosen.
        momentum: beta.
        form: "heavy-ball", or "ema" for Adam's form.
    Example:
        >>> edge_ratio(2.0, rate=1.0), edge_ratio(3.0, rate=1.0, momentum=0.5), round(edge_ratio(38.0, 1.0, 0.9, "ema"), 12)
        (1.0, 1.0, 1.0)
    """
    require(abs(sharpness) < float("inf"), "sharpness", sharpness, "a finite number")
    return positive_rate(rate) * sharpness / stable_range(momentum, form)[1]


def preconditioned_values(matrix: Tensor, preconditioner: Tensor) -> Tensor:
    """Compute the eigenvalues ``(n,)`` of ``P^1/2 A P^1/2``, ascending: the curvature in the preconditioned coordinates.

    Args:
        matrix: A, ``(n, n)``, symmetric.
        preconditioner: P, which multiplies the gradient, for Adam ``1 / (sqrt(v) + epsilon)``; its diagonal ``(n,)`` or
            ``(n, n)``, positive definite.
    Raises:
        BadInputError: the preconditioner is not positive definite.
    Example:
        >>> preconditioned_values(torch.tensor([[3.0]]), torch.tensor([4.0])).round(decimals=12).tolist()
        [12.0]
    """
    a = symmetric("matrix", matrix)
    root = _triangular_root("preconditioner", preconditioner, len(a))
    return torch.linalg.eigvalsh(root.T @ a @ root)


def preconditioned_force(model: Quadratic, start: Tensor, valley: Tensor, river: Tensor, rate: float, steps: int) -> Force:
    """Compute theorem 1's force for gradient descent with a fixed block preconditioner.

    Statement: ``C_K = -P_R B^T P_V^1/2 s_K(P_V^1/2 A P_V^1/2) P_V^-1/2 x_0``, exact for every A.
    Proof: ``x_{k+1} = (I - eta P_V A) x_k`` becomes gradient descent in ``P_V^-1/2 x``.

    Args:
        model: its blocks A and B are used.
        start: x_0, ``(dV,)``.
        valley: P_V, which multiplies the gradient, its diagonal ``(dV,)`` or ``(dV, dV)``, positive definite.
        river: P_R, ``(dR,)`` or ``(dR, dR)``.
        rate: eta.
        steps: K.
    Returns:
        The force; its modes are eigenvectors of the preconditioned valley.
    Raises:
        BadInputError: a preconditioner is not positive definite.
        NonFiniteError: the force grows beyond float64.
    Example:
        >>> from thalweg.theory.quadratic import quadratic
        >>> model = quadratic(torch.eye(1), torch.ones(1, 1))
        >>> preconditioned_force(model, torch.ones(1), torch.full((1,), 0.25), torch.ones(1), rate=2.0, steps=2).vector.tolist()
        [-3.0]

    Source:
        Ours.
    """
    return preconditioned(model, start, valley, river, rate, lambda w: kernel(w, rate, steps), steps)


def preconditioned_limit(model: Quadratic, start: Tensor, valley: Tensor, river: Tensor, rate: float) -> Force:
    """Compute ``-P_R B^T A^-1 P_V^-1 x_0``, the limit of `preconditioned_force` for K to infinity.

    Unlike momentum, a preconditioner changes the limit. Domain: ``0 < eta w < 2`` for the eigenvalues w of ``P_V^1/2 A P_V^1/2``.

    Raises:
        UnstableDirectionError: an eigenvalue w is not positive.
        StepSizeError: for an eigenvalue ``eta w >= 2``.
    """
    return preconditioned(model, start, valley, river, rate, lambda w: limit(w, rate))


def preconditioned(
    model: Quadratic, start: Tensor, valley: Tensor, river: Tensor, rate: float, of: Callable[[Tensor], Tensor], steps: int = 0
) -> Force:
    """``-P_R B^T L of(L^T A L) L^-1 x_0`` with ``P_V = L L^T``; the triangular factor L takes the place of the root P_V^1/2."""
    modes(model)  # raises EmptySubspaceError for a valley without a dimension
    width, breadth = model.coupling.shape
    root, outer = _triangular_root("valley preconditioner", valley, width), _triangular_root("river preconditioner", river, breadth)
    w, vectors = torch.linalg.eigh(root.T @ model.valley @ root)
    # L^-1 x_0: in these coordinates the run is plain gradient descent on L^T A L.
    lowered = torch.linalg.solve_triangular(root, shaped("start", start, width).unsqueeze(1), upper=False)[:, 0]
    couplings = vectors.T @ root.T @ model.coupling @ outer @ outer.T
    parts = -(of(w) * (vectors.T @ lowered)).unsqueeze(1) * couplings
    conditions = limit_conditions(w, rate, steps)
    return Force(
        unless_overflown("force", parts.sum(0), "raise"), parts, int((w < 0).sum()), conditions if steps else conditions[:2]
    )


def _triangular_root(name: str, preconditioner: Tensor, dim: int) -> Tensor:
    """Cholesky factor L ``(dim, dim)``, lower triangular, of ``P = L L^T``."""
    whole = torch.diag(shaped(name, preconditioner, dim)) if preconditioner.dim() == 1 else preconditioner
    root, info = torch.linalg.cholesky_ex(symmetric(name, shaped(name, whole, dim, dim)))
    if int(info) != 0:
        raise BadInputError(f"{name}: has an eigenvalue of at most 0, expected a positive definite matrix")
    return root


@short_repr
@dataclass(frozen=True)
class Frozen:
    """The mean preconditioner of a window of steps, and how much the preconditioner changes within the window."""

    preconditioner: Tensor
    """P, ``(n,)`` or ``(n, n)``."""
    drift: float
    """Largest ``||P_k - P|| / ||P||`` in the operator norm; the largest entries dominate it."""
    relative_drift: float
    """Largest ``||P^-1/2 (P_k - P) P^-1/2||``, at least the drift: no direction's rate changes by a larger share."""
    conditions: tuple[Condition, ...]
    """Whether the relative drift is small too; a small entry may change by a large factor while the drift is small."""


def require_frozen(preconditioners: Tensor, tolerance: float = _FROZEN) -> Frozen:
    """Return the mean preconditioner of a window of a real run, or refuse a window in which the preconditioner changes.

    The formulas of this file are exact for a fixed P. Over a window of Adam they describe the run as far as P_k stays near P.

    Args:
        preconditioners: P_k, diagonals ``(K, n)`` or matrices ``(K, n, n)``, positive definite, at least 2.
        tolerance: largest relative drift; a larger ``drift`` is an error, a larger ``relative_drift`` fails the condition.
    Raises:
        InsufficientDataError: fewer than 2 preconditioners are given.
        BadInputError: the drift is above the tolerance.
    Example:
        >>> require_frozen(torch.tensor([[1.0, 10.0], [3.0, 10.0]])).conditions[0].held
        False
    """
    if preconditioners.dim() not in (2, 3) or not preconditioners.shape[-1]:
        raise ShapeMismatchError(f"preconditioners: given shape {tuple(preconditioners.shape)}, expected (K, n) or (K, n, n)")
    if len(preconditioners) < 2:
        raise InsufficientDataError(f"preconditioners: given {len(preconditioners)}, expected at least 2; take a longer window")
    every = finite("preconditioners", preconditioners)
    mean = every.mean(0)
    drift, relative = (_diagonal_drifts if every.dim() == 2 else _matrix_drifts)(every, mean)
    if drift > tolerance:
        raise BadInputError(
            f"preconditioners: drift by {drift:.2g} of their mean, expected at most {tolerance:g}; take fewer steps"
        )
    condition = f"||P^-1/2 (P_k - P) P^-1/2|| <= {tolerance:g}"
    return Frozen(mean, drift, relative, (Condition(condition, relative <= tolerance, relative),))


def _diagonal_drifts(every: Tensor, mean: Tensor) -> tuple[float, float]:
    """Both drifts of diagonals ``(K, n)`` from their mean ``(n,)``."""
    require(bool((mean > 0).all()), "mean preconditioner", float(mean.min()), "entries above 0")
    deviations = (every - mean).abs()
    return float(deviations.max() / mean.max()), float((deviations / mean).max())


def _matrix_drifts(every: Tensor, mean: Tensor) -> tuple[float, float]:
    """Both drifts of matrices ``(K, n, n)`` from their mean ``(n, n)``."""
    root, deviations = _triangular_root("mean preconditioner", mean, len(mean)), every - mean
    # L^-1 (P_k - P) L^-T has the same norm as P^-1/2 (P_k - P) P^-1/2.
    half = torch.linalg.solve_triangular(root, deviations, upper=False)
    inner = torch.linalg.solve_triangular(root.T, half, upper=True, left=False)
    return float(torch.linalg.matrix_norm(deviations, 2).max() / torch.linalg.matrix_norm(mean, 2)), float(
        torch.linalg.matrix_norm(inner, 2).max()
    )


def _known_momentum(momentum: float) -> float:
    """Check that beta is at least 0 and below 1."""
    require(0 <= momentum < 1, "momentum", momentum, "a number of at least 0 and below 1")
    return float(momentum)
