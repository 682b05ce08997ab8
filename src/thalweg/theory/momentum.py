"""Theorem 1 with momentum, whose limit is that of gradient descent, and with a frozen preconditioner, whose limit is another.

Shape letters: P all parameters, dV dimension of the valley, dR of the river, K steps, n eigenvalues or entries.

Heavy ball: ``z_{k+1} = z_k - eta g_k + beta (z_k - z_{k-1})`` from rest, in the valley and along the river. The form of Adam,
``m <- beta m + (1 - beta) g; z <- z - eta m`` from ``m = 0``, is the heavy ball at the rate ``(1 - beta) eta``. PyTorch's
``dampening`` is that form too but for its first step, which it does not dampen.
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
from thalweg.theory.force import Force, limit_conditions, modes
from thalweg.theory.inputs import Condition, finite, positive_rate, positive_steps, shaped, symmetric
from thalweg.theory.kernel import kernel, limit, unless_overflown
from thalweg.theory.quadratic import Quadratic

_FORMS = ("heavy-ball", "ema")
_FROZEN = 0.1
"""Largest drift of a preconditioner, relative to it, that counts as frozen."""


@dataclass(frozen=True)
class HeavyBall:
    """What a unit displacement of the valley adds up to, eigenvalue by eigenvalue; without momentum both are s_K."""

    total: Tensor
    """``eta sum_{k<K} x_k``, like the eigenvalues."""
    displacement: Tensor
    """Minus the displacement after K steps of a river coordinate of unit coupling, itself with momentum, like the eigenvalues."""


def heavy_ball(values: Tensor, rate: float, steps: int, momentum: float) -> HeavyBall:
    """The sum of a valley's positions and the river's displacement under heavy-ball momentum, exact for every eigenvalue.

    River and valley pass their gradients through the same filter, so the displacement is ``(1 - x_K) / lam`` with x_K the
    valley's position after K steps: the river has gone as far as the valley came, in the ratio of their gradients. That holds
    for every method whose step is a fixed linear function of past gradients; at lam = 0 it is a sum. And the sum is
    ``(1 - beta) d_K + beta (d_K - d_{K-1})`` of the displacements d.

    Args:
        values: lam, any shape.
        rate: eta of the heavy ball; see `heavy_ball_rate` for Adam's form.
        steps: K.
        momentum: beta, at least 0 and below 1.
    Raises:
        NonFiniteError: NaN or infinity in the eigenvalues; a growth beyond float64.
    Example:
        >>> found = heavy_ball(torch.tensor([0.0, 0.5]), rate=1.0, steps=2, momentum=0.5)
        >>> found.total.tolist(), found.displacement.tolist()
        ([2.0, 1.5], [2.5, 2.0])

    Source:
        Ours; B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964, for the method.
    """
    lam, eta, beta = finite("values", values), positive_rate(rate), _known_momentum(momentum)
    if beta == 0:
        return HeavyBall(kernel(lam, eta, steps), kernel(lam, eta, steps))
    x, count = eta * lam, positive_steps(steps)
    slow, fast = _by_doubling(x, count, beta), _by_roots(x, count, beta)
    total, river = (eta * torch.where(x < 1, below, above) for below, above in zip(slow, fast, strict=True))
    if not (torch.isfinite(total).all() and torch.isfinite(river).all()):
        raise NonFiniteError("heavy ball: grows beyond float64; fewer steps, or a smaller rate")
    return HeavyBall(total, river)


def _by_doubling(x: Tensor, steps: int, beta: float) -> tuple[Tensor, Tensor]:
    """``sum x_k`` and ``sum w_{k+1}`` over k < K for the map ``w' = beta w + x, x' = x - (eta lam) w'``; good at eta lam < 1.

    With ``G_n = sum_{k<n} M^k``: ``G_2n = G_n (2 I - (I - M) G_n)``, Newton's iteration for ``(I - M)^-1``. It inverts nothing,
    so that lam = 0 and equal roots are nothing special; near eta lam = 4 it loses K / (1 - beta)^2 roundings.
    """
    one = torch.ones_like(x)
    move = torch.stack([torch.stack([-x, -beta * x], -1), torch.stack([one, (beta - 1) * one], -1)], -2)  # M - I
    unit = torch.eye(2, dtype=torch.float64, device=x.device).expand_as(move)
    sums = unit
    for digit in bin(steps)[3:]:
        sums = sums + sums @ (unit + move @ sums)  # In the other order rounding grows without end.
        if digit == "1":
            sums = unit + sums + move @ sums
    return sums[..., 0, 0], sums[..., 0, 0] + beta * sums[..., 1, 0]


def _by_roots(x: Tensor, steps: int, beta: float) -> tuple[Tensor, Tensor]:
    """The same by the roots a, b of ``z^2 - (1 + beta - eta lam) z + beta``; good at eta lam >= 1, where neither is near 1.

    With ``p_n = (a^n - b^n) / (a - b)``: w_n = p_n and x_n = p_{n+1} - beta p_n.
    """
    move = _root_powers(x, steps, beta)
    river = (1 - _root_powers(x, steps + 1, beta) + beta * move) / x
    return (1 - beta) * river + beta * move, river


def _root_powers(x: Tensor, count: int, beta: float) -> Tensor:
    """``(a^n - b^n) / (a - b)``, ``n a^(n-1)`` for equal roots."""
    trace = 1 + beta - x
    gap = trace**2 - 4 * beta
    half, size = gap.abs().sqrt(), trace.abs()
    angle = torch.atan2(half, size)
    turning = beta ** ((count - 1) / 2) * torch.sin(count * angle) / torch.sin(angle)
    ratio = -2 * torch.atanh((half / size).clamp(max=1))
    falling = ((size + half) / 2) ** (count - 1) * torch.where(gap == 0, count, torch.expm1(count * ratio) / torch.expm1(ratio))
    return torch.where(gap < 0, turning, falling) * torch.where(trace < 0, -1.0, 1.0) ** (count - 1)


def heavy_ball_limit(values: Tensor, rate: float, momentum: float) -> HeavyBall:
    """The limits for K to infinity: ``(1 - beta) / lam`` for the sum, ``1 / lam`` for the displacement, that of gradient descent.

    Raises:
        UnstableDirectionError: some lam <= 0.
        StepSizeError: some ``eta lam >= 2 (1 + beta)``.
    Example:
        >>> found = heavy_ball_limit(torch.tensor([2.0]), rate=1.0, momentum=0.5)
        >>> found.total.tolist(), found.displacement.tolist()
        ([0.25], [0.5])
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
    """The river's displacement after K steps with momentum, for a valley left to itself: theorem 1's C_K at momentum 0.

    Args:
        model: A and B are used.
        start: x_0, from the valley's floor and at rest, ``(dV,)``.
        rate: eta, of the form chosen.
        steps: K.
        momentum: beta.
        form: "heavy-ball", or "ema" (Adam's).
    Example:
        >>> from thalweg.theory.quadratic import quadratic
        >>> displacement(quadratic(torch.eye(1), torch.ones(1, 1)), torch.ones(1), 0.5, 2, momentum=0.5).vector.tolist()
        [-1.0]

    Source:
        Ours.
    """
    inside = modes(model)
    x, eta = inside.vectors.T @ shaped("start", start, len(inside.values)), heavy_ball_rate(rate, momentum, form)
    parts = -(heavy_ball(inside.values, eta, steps, momentum).displacement * x).unsqueeze(1) * inside.couplings
    least, most, edge = float(eta * inside.values.min()), float(eta * inside.values.max()), stable_range(momentum)[1]
    conditions = (
        Condition("eta lam_min > 0", least > 0, least),
        Condition("eta lam_max < 2 (1 + beta)", most < edge, most),
        Condition("eta K lam_min / (1 - beta) >= 3", steps * least >= 3 * (1 - momentum), steps * least / (1 - momentum)),
    )
    return Force(parts.sum(0), parts, int((inside.values < 0).sum()), conditions)


def heavy_ball_rate(rate: float, momentum: float, form: str = "heavy-ball") -> float:
    """The heavy ball's eta: the rate itself, or ``(1 - beta)`` of it for "ema"."""
    require(form in _FORMS, "form", form, f"one of {', '.join(_FORMS)}")
    return positive_rate(rate) * (1 - _known_momentum(momentum) if form == "ema" else 1)


def stable_range(momentum: float, form: str = "heavy-ball") -> tuple[float, float]:
    """The open interval of eta lam in which momentum converges: up to ``2 (1 + beta)``, "ema" ``2 (1 + beta) / (1 - beta)``.

    Proof: ``z^2 - (1 + beta - eta lam) z + beta`` has its roots within the unit circle if and only if ``beta < 1`` and its
    values at 1 and -1, ``eta lam`` and ``2 (1 + beta) - eta lam``, are positive.

    Example:
        >>> stable_range(0.5), stable_range(0.5, form="ema")
        ((0.0, 3.0), (0.0, 6.0))

    Source:
        Cohen and others, arXiv 2207.14484, for 38 / eta at beta = 0.9.
    """
    beta = _known_momentum(momentum)
    return 0.0, 2 * (1 + beta) / heavy_ball_rate(1.0, beta, form)


def edge_ratio(sharpness: float, rate: float, momentum: float = 0.0, form: str = "heavy-ball") -> float:
    """How near the edge of stability: eta lam over the end of `stable_range`; gradient descent's is ``eta lam / 2``.

    Args:
        sharpness: lam_max, of the preconditioned Hessian where there is a preconditioner (`preconditioned_values`).
    Example:
        >>> edge_ratio(2.0, rate=1.0), edge_ratio(3.0, rate=1.0, momentum=0.5), round(edge_ratio(38.0, 1.0, 0.9, "ema"), 12)
        (1.0, 1.0, 1.0)
    """
    require(abs(sharpness) < float("inf"), "sharpness", sharpness, "a finite number")
    return positive_rate(rate) * sharpness / stable_range(momentum, form)[1]


def preconditioned_values(matrix: Tensor, preconditioner: Tensor) -> Tensor:
    """Eigenvalues ``(n,)`` of ``P^1/2 A P^1/2``, ascending: the curvature that the rate meets.

    Args:
        matrix: A, ``(n, n)``, symmetric.
        preconditioner: P, which multiplies the gradient, for Adam ``1 / (sqrt(v) + epsilon)``; its diagonal ``(n,)`` or
            ``(n, n)``, positive definite.
    Example:
        >>> preconditioned_values(torch.tensor([[3.0]]), torch.tensor([4.0])).round(decimals=12).tolist()
        [12.0]
    """
    a = symmetric("matrix", matrix)
    root = _triangular_root("preconditioner", preconditioner, len(a))
    return torch.linalg.eigvalsh(root.T @ a @ root)


def preconditioned_force(model: Quadratic, start: Tensor, valley: Tensor, river: Tensor, rate: float, steps: int) -> Force:
    """C_K = -P_R B^T P_V^1/2 s_K(P_V^1/2 A P_V^1/2) P_V^-1/2 x_0, for gradient descent with a fixed block preconditioner.

    Proof: ``x_{k+1} = (I - eta P_V A) x_k`` becomes gradient descent in ``P_V^-1/2 x``.

    Args:
        model: A and B are used.
        start: x_0, ``(dV,)``.
        valley: P_V, which multiplies the gradient, its diagonal ``(dV,)`` or ``(dV, dV)``, positive definite.
        river: P_R, ``(dR,)`` or ``(dR, dR)``.
        rate: eta.
        steps: K.
    Returns:
        The force; its modes are eigenvectors of the preconditioned valley.
    Raises:
        BadInputError: a preconditioner that is not positive definite.
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
    """-P_R B^T A^-1 P_V^-1 x_0, the limit for K to infinity: unlike momentum, a preconditioner changes it.

    Raises:
        UnstableDirectionError: some eigenvalue of the preconditioned valley <= 0.
        StepSizeError: some eta w >= 2.
    """
    return preconditioned(model, start, valley, river, rate, lambda w: limit(w, rate))


def preconditioned(
    model: Quadratic, start: Tensor, valley: Tensor, river: Tensor, rate: float, of: Callable[[Tensor], Tensor], steps: int = 0
) -> Force:
    """``-P_R B^T L of(L^T A L) L^-1 x_0`` with ``P_V = L L^T``; the factor L serves as well as the root."""
    modes(model)  # refuses an empty valley
    width, breadth = model.coupling.shape
    root, outer = _triangular_root("valley preconditioner", valley, width), _triangular_root("river preconditioner", river, breadth)
    w, vectors = torch.linalg.eigh(root.T @ model.valley @ root)
    lowered = torch.linalg.solve_triangular(root, shaped("start", start, width).unsqueeze(1), upper=False)[:, 0]
    couplings = vectors.T @ root.T @ model.coupling @ outer @ outer.T
    parts = -(of(w) * (vectors.T @ lowered)).unsqueeze(1) * couplings
    conditions = limit_conditions(w, rate, steps)
    return Force(
        unless_overflown("force", parts.sum(0), "raise"), parts, int((w < 0).sum()), conditions if steps else conditions[:2]
    )


def _triangular_root(name: str, preconditioner: Tensor, dim: int) -> Tensor:
    """L, ``(dim, dim)``, lower triangular, with ``P = L L^T``."""
    whole = torch.diag(shaped(name, preconditioner, dim)) if preconditioner.dim() == 1 else preconditioner
    root, info = torch.linalg.cholesky_ex(symmetric(name, shaped(name, whole, dim, dim)))
    require(int(info) == 0, name, "a matrix with an eigenvalue of at most 0", "a positive definite one")
    return root


@dataclass(frozen=True)
class Frozen:
    """The mean preconditioner of a window, and how far the window strays from it."""

    preconditioner: Tensor
    """P, ``(n,)`` or ``(n, n)``."""
    drift: float
    """Largest ``||P_k - P|| / ||P||`` in the operator norm: the largest entries decide it."""
    relative_drift: float
    """Largest ``||P^-1/2 (P_k - P) P^-1/2||``, at least the drift: no direction's rate strays by more."""
    conditions: tuple[Condition, ...]
    """That the relative drift is small too; a direction with a small entry may change many times while the drift is small."""


def require_frozen(preconditioners: Tensor, tolerance: float = _FROZEN) -> Frozen:
    """The frozen preconditioner of a window of a real run, refused where it was not frozen.

    The formulas here are exact for a fixed P only; over a window of Adam they stand for the run as far as P_k stays at P.

    Args:
        preconditioners: P_k, diagonals ``(K, n)`` or matrices ``(K, n, n)``, positive definite, at least 2.
        tolerance: for both drifts; only the first is refused.
    Raises:
        InsufficientDataError: fewer than 2.
        BadInputError: a drift above the tolerance.
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
    words = f"||P^-1/2 (P_k - P) P^-1/2|| <= {tolerance:g}"
    return Frozen(mean, drift, relative, (Condition(words, relative <= tolerance, relative),))


def _diagonal_drifts(every: Tensor, mean: Tensor) -> tuple[float, float]:
    """Both drifts of diagonals ``(K, n)``."""
    require(bool((mean > 0).all()), "mean preconditioner", float(mean.min()), "entries above 0")
    off = (every - mean).abs()
    return float(off.max() / mean.max()), float((off / mean).max())


def _matrix_drifts(every: Tensor, mean: Tensor) -> tuple[float, float]:
    """Both drifts of matrices ``(K, n, n)``."""
    root, off = _triangular_root("mean preconditioner", mean, len(mean)), every - mean
    half = torch.linalg.solve_triangular(root, off, upper=False)
    inner = torch.linalg.solve_triangular(root.T, half, upper=True, left=False)
    return float(torch.linalg.matrix_norm(off, 2).max() / torch.linalg.matrix_norm(mean, 2)), float(
        torch.linalg.matrix_norm(inner, 2).max()
    )


def _known_momentum(momentum: float) -> float:
    """beta, at least 0 and below 1."""
    require(0 <= momentum < 1, "momentum", momentum, "a number of at least 0 and below 1")
    return float(momentum)
