"""Theorem 2 for a general loss: how well gradient descent on a quadratic model describes gradient descent on the loss.

Shape letters: P dimension, K steps, n columns of noise, d columns of a frame, dR dimension of the river.

``theta_k`` is the run on the loss, ``phi_k`` the run of the quadratic model at ``theta_0`` from the same point. The error is
``e_k = theta_k - phi_k``. The residual ``r_k = grad L(theta_k) - g_0 - H (theta_k - theta_0)`` is the part of the gradient that
the model does not contain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.operator import Matrix, Operator
from thalweg.errors import InsufficientDataError, ShapeMismatchError, require
from thalweg.reprs import short_repr
from thalweg.theory.descent import Gradient, bounded, slope
from thalweg.theory.inputs import Condition, finite, frame, positive_rate, positive_steps, shaped, symmetric

_NOISE = 100.0
"""Residuals smaller than this many roundings of their terms count as zero in quotients."""
_STRAY = 1e-6
"""Largest deviation of a run from gradient descent, relative to its largest step, with which it counts as gradient descent."""


@short_repr
@dataclass(frozen=True)
class TaylorModel:
    """The quadratic model of a loss at theta_0, and the run of gradient descent on the model."""

    hessian: Operator
    """H, the Hessian at theta_0."""
    gradient: Tensor
    """g_0, the gradient at theta_0, ``(P,)``."""
    rate: float
    """Step size eta."""
    displacements: Tensor
    """phi_k - theta_0, ``(K + 1, P)``; the first is 0, the last ``-s_K(H) g_0``."""
    extremes: tuple[float, float]
    """Smallest and largest eigenvalue of H."""

    @property
    def steps(self) -> int:
        """Number of steps K."""
        return len(self.displacements) - 1

    @property
    def contraction(self) -> float:
        """q = ||I - eta H||: the largest factor by which one step multiplies an error."""
        return max(abs(1 - self.rate * value) for value in self.extremes)

    @property
    def size(self) -> float:
        """Operator norm ``||H||``, the largest absolute eigenvalue."""
        return max(abs(value) for value in self.extremes)


@short_repr
@dataclass(frozen=True)
class Followed:
    """A run on the loss compared with the model's run, step by step."""

    model: TaylorModel
    """The model at theta_0."""
    moved: Tensor
    """``||theta_k - theta_0||``, ``(K + 1,)``."""
    residuals: Tensor
    """r_k, ``(K, P)``."""
    strays: Tensor
    """``theta_{k+1} - theta_k + eta grad L(theta_k)``, ``(K, P)``: 0 up to rounding for full-batch gradient descent."""
    roundings: Tensor
    """Estimate of the rounding error of r_k from the sizes of its terms, ``(K,)``."""
    errors: Tensor
    """``||e_k||``, ``(K + 1,)``, measured."""
    bound: Tensor
    """Rigorous a-posteriori bound on ``||e_k||``, ``(K + 1,)``; infinite where it overflows."""
    river_errors: Tensor | None
    """``||P_R e_k||``, ``(K + 1,)``; None without a river."""
    river_bound: Tensor | None
    """Rigorous a-posteriori bound on ``||P_R e_k||``, ``(K + 1,)``; None without a river."""
    conditions: tuple[Condition, ...]
    """Whether the run is full-batch gradient descent. If it is not, the bounds still hold, because they contain the strays."""


def in_float64(hessian: Operator | Tensor) -> Operator:
    """Return an operator as it is, and a symmetric matrix as a float64 operator."""
    return Matrix(symmetric("hessian", hessian)) if isinstance(hessian, Tensor) else hessian


def extreme_values(hessian: Operator | Tensor) -> tuple[float, float]:
    """Compute the smallest and the largest eigenvalue.

    A matrix is diagonalised. For an operator both come from Lanczos and are widened by their residuals.
    """
    operator = in_float64(hessian)
    if isinstance(operator, Matrix):
        values = torch.linalg.eigvalsh(operator.entries.to(torch.float64))
        return float(values[0]), float(values[-1])
    ends = [eigenpairs(operator, 1, which) for which in ("smallest", "largest")]
    return float(ends[0].values[0] - ends[0].residuals[0]), float(ends[1].values[0] + ends[1].residuals[0])


def taylor_model(
    hessian: Operator | Tensor, gradient: Tensor, rate: float, steps: int, extremes: tuple[float, float] | None = None
) -> TaylorModel:
    """Build the quadratic model at theta_0 and run gradient descent on it, by K Hessian products.

    The run is ``phi_{k+1} = phi_k - eta (g_0 + H (phi_k - theta_0))`` from ``phi_0 = theta_0``.

    Args:
        hessian: H at theta_0, ``(P, P)`` or an operator.
        gradient: g_0, ``(P,)``.
        rate: eta.
        steps: K.
        extremes: smallest and largest eigenvalue of H if they are known, trusted; None computes them.
    Raises:
        NonFiniteError: the model's run diverges.
    Example:
        >>> taylor_model(torch.eye(1), torch.ones(1), rate=0.5, steps=2).displacements.flatten().tolist()
        [0.0, -0.5, -0.75]
    """
    operator, eta = in_float64(hessian), positive_rate(rate)
    g = shaped("gradient", gradient, operator.dim)
    ends = extreme_values(operator) if extremes is None else extremes
    require(-math.inf < ends[0] <= ends[1] < math.inf, "extremes", extremes, "the smallest and the largest eigenvalue")
    path = [torch.zeros_like(g)]
    for k in range(positive_steps(steps)):
        path.append(path[-1] - eta * (g + operator @ path[-1]))
        bounded("model's run", path[-1].unsqueeze(0), k + 1)
    return TaylorModel(operator, g, eta, torch.stack(path), (float(ends[0]), float(ends[1])))


def error_from_residuals(model: TaylorModel, residuals: Tensor) -> Tensor:
    """Compute the error of the model from its residuals; exact for every loss.

    Statement: ``e_K = -eta sum_{k<K} (I - eta H)^(K-1-k) r_k``, ``(P,)``.
    Proof: ``e_{k+1} = (I - eta H) e_k - eta r_k`` with ``e_0 = 0``. For a run with mini-batch noise xi_k, use ``r_k + xi_k``.

    Args:
        residuals: r_0 ... r_{K-1}, ``(K, P)``.
    Raises:
        InsufficientDataError: fewer than K residuals.
    Example:
        >>> model = taylor_model(torch.eye(1), torch.ones(1), rate=0.5, steps=2)
        >>> error_from_residuals(model, torch.tensor([[1.0], [1.0]])).tolist()
        [-0.75]

    Source:
        Ours.
    """
    _require_residuals(len(residuals), model.steps)
    error = torch.zeros_like(model.gradient)
    for residual in shaped("residuals", residuals, model.steps, len(model.gradient)):
        error = error - model.rate * (model.hessian @ error + residual)
    return error


def _require_residuals(recorded: int, steps: int) -> None:
    """Refuse residuals of fewer steps than the run has."""
    if recorded < steps:
        raise InsufficientDataError(f"residuals: recorded on {recorded} steps, expected all {steps}; record one at each step")


def posterior_bound(sizes: Tensor, contraction: float, rate: float, steps: int) -> Tensor:
    """Bound the error of the model from the sizes of its residuals, for k from 0 to K, ``(K + 1,)``.

    Statement: ``||e_k|| <= eta sum_{j<k} q^(k-1-j) ||r_j||``, infinite where it overflows. Equality holds in one dimension with
    ``1 - eta H >= 0`` and residuals of one sign.

    Args:
        sizes: ``||r_k||``, ``(K,)``.
        contraction: q.
        rate: eta.
        steps: K.
    Raises:
        InsufficientDataError: fewer than K sizes.
    Example:
        >>> posterior_bound(torch.tensor([0.0, 1.0, 1.0]), contraction=2.0, rate=0.5, steps=3).tolist()
        [0.0, 0.0, 0.5, 1.5]

    Source:
        Ours, for theorem 2 of arXiv 2510.10089.
    """
    _require_residuals(len(sizes), positive_steps(steps))
    bounds = [0.0]
    for size in shaped("sizes", sizes, steps).tolist():
        bounds.append(math.inf if math.isinf(bounds[-1]) else contraction * bounds[-1] + rate * size)
    return torch.tensor(bounds, dtype=torch.float64)


def follow(
    model: TaylorModel,
    gradient: Gradient,
    points: Tensor,
    river: Tensor | None = None,
    river_contraction: float | None = None,
) -> Followed:
    """Compare a run with its model, and bound the error a posteriori.

    One gradient and one Hessian product for each step; no constant has to be guessed.
    Statement: `posterior_bound`, and within the river
    ``||P_R e_{k+1}|| <= q_R ||P_R e_k|| + eta ||P_R H (I - P_R)|| ||e_k|| + eta ||P_R r_k||``. The river's bound is much tighter,
    because its q_R exceeds 1 by at most eta eps. The middle term vanishes if the river is spanned by eigenvectors of H; with
    that term the bound holds for every frame.

    Args:
        model: the model at ``points[0]``, with as many steps as the run.
        gradient: gradient of the loss.
        points: theta_0 ... theta_K, ``(K + 1, P)``, as from `descend`. For another run the bounds contain the strays.
        river: orthonormal columns ``(P, dR)``; None leaves out the river.
        river_contraction: q_R; None computes it from ``R^T H R``.
    Raises:
        InsufficientDataError: fewer than K + 1 points.
        NonFiniteError: the run diverges.
    Example:
        >>> slope = lambda point: point + point**2 / 2
        >>> from thalweg.theory.descent import descend
        >>> points = descend(slope, torch.ones(1), rate=0.25, steps=2)
        >>> followed = follow(taylor_model(2 * torch.eye(1), slope(points[0]), 0.25, 2), slope, points)
        >>> followed.errors.tolist() == followed.bound.tolist() == [0, 0, 0.25 * (1.5 / 4) ** 2 / 2]
        True

    Source:
        arXiv 2510.10089, theorem 2, which has no bound on what the expansion leaves out; the bounds are ours.
    """
    path = run_points(model, points)
    # Displacements, gradients and products H (theta_k - theta_0) give residuals r_k and strays.
    moved = path - path[0]
    slopes = torch.stack([slope(gradient, point, k) for k, point in enumerate(path[:-1])])
    products = (model.hessian @ moved[:-1].T).T
    residuals, strays = slopes - model.gradient - products, path.diff(dim=0) + model.rate * slopes
    gaps = moved - model.displacements
    precision = max(torch.finfo(kind).eps for kind in (gradient(path[0]).dtype, model.hessian.dtype))
    # A stray s_k acts like a residual s_k / eta.
    sizes = residuals.norm(dim=1) + strays.norm(dim=1) / model.rate
    # The run counts as gradient descent if its strays are small against its largest step.
    leading = float(path.diff(dim=0).norm(dim=1).max())
    straying = float(strays.norm(dim=1).max()) / leading if leading else float(strays.norm(dim=1).max())
    river_part = _river_part(model, residuals - strays / model.rate, gaps, river, river_contraction)
    return Followed(
        model=model,
        moved=moved.norm(dim=1),
        residuals=residuals,
        strays=strays,
        roundings=_NOISE * precision * (slopes.norm(dim=1) + products.norm(dim=1) + model.gradient.norm()),
        errors=gaps.norm(dim=1),
        bound=posterior_bound(sizes, model.contraction, model.rate, model.steps),
        river_errors=river_part[0],
        river_bound=river_part[1],
        conditions=(Condition("the points are full-batch gradient descent at this rate", straying <= _STRAY, straying),),
    )


def run_points(model: TaylorModel, points: Tensor) -> Tensor:
    """Check that there are K + 1 points, none of them diverged; return theta_0 ... theta_K in float64."""
    if points.dim() == 2 and len(points) <= model.steps:
        raise InsufficientDataError(f"points: given {len(points)}, expected {model.steps + 1}, the start and one after each step")
    return bounded("run", shaped("points", points, *model.displacements.shape))


def _river_part(
    model: TaylorModel, residuals: Tensor, gaps: Tensor, river: Tensor | None, contraction: float | None
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the measured error within the river and its bound, see `follow`."""
    if river is None:
        return None, None
    columns = frame("river frame", river, model.hessian.dim)
    if not columns.shape[1]:
        return gaps.new_zeros(len(gaps)), gaps.new_zeros(len(gaps))
    # ||P_R H (I - P_R)||: how much of an error outside the river one product carries into it.
    product = model.hessian @ columns
    block = columns.T @ product
    leak = float(torch.linalg.matrix_norm(product - columns @ block, 2))
    values = torch.linalg.eigvalsh((block + block.T) / 2)
    # The river's own contraction q_R, unless it is given.
    q = float((1 - model.rate * values).abs().max()) if contraction is None else contraction
    sizes = (residuals @ columns).norm(dim=1) + leak * gaps[:-1].norm(dim=1)
    return (gaps @ columns).norm(dim=1), posterior_bound(sizes, q, model.rate, model.steps)


def error_covariance(hessian: Operator | Tensor, noise: Tensor, rate: float, steps: int, onto: Tensor | None = None) -> Tensor:
    """Compute the covariance of e_K that independent mini-batch noise causes.

    Statement: ``eta^2 sum_{j<K} (I - eta H)^j Q (I - eta H)^j``, exact for the quadratic model. Costs n K Hessian products.

    Args:
        hessian: H, ``(P, P)`` or an operator.
        noise: F with ``Q = F F^T`` the covariance of the gradient's noise in one step, ``(P, n)``: a root of Q, or the centred
            gradients of n batches over ``sqrt(n - 1)``.
        rate: eta.
        steps: K.
        onto: orthonormal columns ``(P, d)`` onto which the error is projected; None keeps all directions.
    Returns:
        The covariance ``(P, P)``, or ``(d, d)`` in the frame.
    Raises:
        NonFiniteError: the steps amplify the noise beyond float64.
    Example:
        >>> error_covariance(torch.eye(1), torch.ones(1, 1), rate=0.5, steps=2).tolist()
        [[0.3125]]

    Source:
        Ours.
    """
    operator, eta = in_float64(hessian), positive_rate(rate)
    if noise.dim() != 2 or noise.shape[0] != operator.dim:
        raise ShapeMismatchError(f"noise: given shape {tuple(noise.shape)}, expected ({operator.dim}, n)")
    root, columns = finite("noise", noise), None if onto is None else frame("onto", onto, operator.dim)
    width = operator.dim if columns is None else columns.shape[1]
    total = root.new_zeros(width, width)
    # root is F_j = (I - eta H)^j F.
    for j in range(positive_steps(steps)):
        projected = root if columns is None else columns.T @ root
        total = total + eta**2 * projected @ projected.T
        root = root - eta * (operator @ root)
        bounded("noise", root.reshape(1, -1), j + 1)
    return total
