"""Theorem 2 for a general loss: how far from a point its quadratic model describes gradient descent.

Shape letters: P dimension, K steps, n columns of noise, d columns of a frame, dR dimension of the river.

theta_k is the run on the loss, phi_k the run of the model at theta_0 from the same point, ``e_k = theta_k - phi_k``, and
``r_k = grad L(theta_k) - g_0 - H (theta_k - theta_0)`` is what the model leaves out of the gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.operator import Matrix, Operator
from thalweg.errors import InsufficientDataError, ShapeMismatchError, require
from thalweg.theory.descent import Gradient, bounded, slope
from thalweg.theory.inputs import Condition, finite, frame, positive_rate, positive_steps, shaped, symmetric

_NOISE = 100.0
"""Residuals below this many roundings of their terms count as zero where they are divided by."""
_STRAY = 1e-6
"""Of the largest step; a run that strays less from gradient descent counts as one."""


@dataclass(frozen=True)
class TaylorModel:
    """The quadratic model at a point, and its own run of gradient descent."""

    hessian: Operator
    """H at theta_0."""
    gradient: Tensor
    """g_0, ``(P,)``."""
    rate: float
    """eta."""
    displacements: Tensor
    """phi_k - theta_0, ``(K + 1, P)``; the first is 0, the last ``-s_K(H) g_0``."""
    extremes: tuple[float, float]
    """Smallest and largest eigenvalue of H."""

    @property
    def steps(self) -> int:
        """K."""
        return len(self.displacements) - 1

    @property
    def contraction(self) -> float:
        """q = ||I - eta H||: what a step multiplies an error by, at most."""
        return max(abs(1 - self.rate * value) for value in self.extremes)

    @property
    def size(self) -> float:
        """``||H||``."""
        return max(abs(value) for value in self.extremes)


@dataclass(frozen=True)
class Followed:
    """A run on the loss beside the model's, step by step."""

    model: TaylorModel
    moved: Tensor
    """``||theta_k - theta_0||``, ``(K + 1,)``."""
    residuals: Tensor
    """r_k, ``(K, P)``."""
    strays: Tensor
    """``theta_{k+1} - theta_k + eta grad L(theta_k)``, ``(K, P)``: 0 for full-batch descent, up to rounding."""
    roundings: Tensor
    """Rounding of r_k as far as its terms' sizes tell, ``(K,)``."""
    errors: Tensor
    """``||e_k||``, ``(K + 1,)``, measured."""
    bound: Tensor
    """A-posteriori bound on ``||e_k||``, ``(K + 1,)``; infinite where it overflows. Rigorous."""
    river_errors: Tensor | None
    """``||P_R e_k||``, ``(K + 1,)``; None without a river."""
    river_bound: Tensor | None
    """A-posteriori bound on ``||P_R e_k||``, ``(K + 1,)``. Rigorous."""
    conditions: tuple[Condition, ...]
    """Whether the run is one of full-batch gradient descent; what it strays is in the bounds, whatever this says."""


def in_float64(hessian: Operator | Tensor) -> Operator:
    """The operator itself, or that of a matrix in float64, whatever it comes in."""
    return Matrix(symmetric("hessian", hessian)) if isinstance(hessian, Tensor) else hessian


def extreme_values(hessian: Operator | Tensor) -> tuple[float, float]:
    """Smallest and largest eigenvalue: all of them for a matrix, Lanczos for an operator, then widened by its residuals."""
    operator = in_float64(hessian)
    if isinstance(operator, Matrix):
        values = torch.linalg.eigvalsh(operator.entries.to(torch.float64))
        return float(values[0]), float(values[-1])
    ends = [eigenpairs(operator, 1, which) for which in ("smallest", "largest")]
    return float(ends[0].values[0] - ends[0].residuals[0]), float(ends[1].values[0] + ends[1].residuals[0])


def taylor_model(
    hessian: Operator | Tensor, gradient: Tensor, rate: float, steps: int, extremes: tuple[float, float] | None = None
) -> TaylorModel:
    """The model's run phi_{k+1} = phi_k - eta (g_0 + H (phi_k - theta_0)), by K products.

    Args:
        hessian: at theta_0, ``(P, P)`` or an operator.
        gradient: g_0, ``(P,)``.
        extremes: smallest and largest eigenvalue of H where they are known, trusted; None looks for them.
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
    """e_K = -eta sum_{k<K} (I - eta H)^(K-1-k) r_k, ``(P,)``: exact for every loss.

    Proof: ``e_{k+1} = (I - eta H) e_k - eta r_k`` with ``e_0 = 0``. For a run with mini-batch noise put ``r_k + xi_k``.

    Args:
        residuals: r_0 ... r_{K-1}, ``(K, P)``.
    Raises:
        InsufficientDataError: fewer than K of them.
    Example:
        >>> model = taylor_model(torch.eye(1), torch.ones(1), rate=0.5, steps=2)
        >>> error_from_residuals(model, torch.tensor([[1.0], [1.0]])).tolist()
        [-0.75]
    """
    enough(len(residuals), model.steps)
    error = torch.zeros_like(model.gradient)
    for residual in shaped("residuals", residuals, model.steps, len(model.gradient)):
        error = error - model.rate * (model.hessian @ error + residual)
    return error


def enough(recorded: int, steps: int) -> None:
    """Refuse residuals of fewer steps than the run has."""
    if recorded < steps:
        raise InsufficientDataError(f"residuals: recorded on {recorded} steps, expected all {steps}; record one at each step")


def posterior_bound(sizes: Tensor, contraction: float, rate: float, steps: int) -> Tensor:
    """||e_k|| <= eta sum_{j<k} q^(k-1-j) ||r_j||, for k from 0 to K, ``(K + 1,)``; infinite where it overflows.

    Args:
        sizes: ``||r_k||``, ``(K,)``.
        contraction: q.
    Raises:
        InsufficientDataError: fewer than K sizes.
    Example:
        >>> posterior_bound(torch.tensor([0.0, 1.0, 1.0]), contraction=2.0, rate=0.5, steps=3).tolist()
        [0.0, 0.0, 0.5, 1.5]
    """
    enough(len(sizes), positive_steps(steps))
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
    """A run beside its model, with the a-posteriori bound: one gradient and one product a step, no constant to be guessed.

    The bound on the river's part is much tighter, as its own q_R is close to 1 from above at most by eta eps:
    ``||P_R e_{k+1}|| <= q_R ||P_R e_k|| + eta ||P_R H (I - P_R)|| ||e_k|| + eta ||P_R r_k||``. The middle term vanishes for
    eigenvectors of H; it is here so that the bound holds for every frame.

    Args:
        model: at ``points[0]``, with the steps of the run.
        gradient: of the loss.
        points: theta_0 ... theta_K, ``(K + 1, P)``, as from `descend`. For another run the strays enter the bounds.
        river: orthonormal columns ``(P, dR)``.
        river_contraction: q_R; None takes it from ``R^T H R``.
    Raises:
        InsufficientDataError: fewer than K + 1 points.
        NonFiniteError: the run diverges.
    Example:
        >>> slope = lambda point: point + point**2 / 2
        >>> from thalweg.theory.descent import descend
        >>> points = descend(slope, torch.ones(1), rate=0.25, steps=2)
        >>> found = follow(taylor_model(2 * torch.eye(1), slope(points[0]), 0.25, 2), slope, points)
        >>> found.errors.tolist() == found.bound.tolist() == [0, 0, 0.25 * (1.5 / 4) ** 2 / 2]
        True

    Source:
        arXiv 2510.10089, theorem 2, which has no bound on what the expansion leaves out; the bounds are ours.
    """
    path = run_points(model, points)
    away = path - path[0]
    slopes = torch.stack([slope(gradient, point, k) for k, point in enumerate(path[:-1])])
    products = (model.hessian @ away[:-1].T).T
    residuals, strays = slopes - model.gradient - products, path.diff(dim=0) + model.rate * slopes
    gaps = away - model.displacements
    precision = max(torch.finfo(kind).eps for kind in (gradient(path[0]).dtype, model.hessian.dtype))
    sizes = residuals.norm(dim=1) + strays.norm(dim=1) / model.rate
    leading = float(path.diff(dim=0).norm(dim=1).max())
    straying = float(strays.norm(dim=1).max()) / leading if leading else float(strays.norm(dim=1).max())
    inside = _river_part(model, residuals - strays / model.rate, gaps, river, river_contraction)
    return Followed(
        model=model,
        moved=away.norm(dim=1),
        residuals=residuals,
        strays=strays,
        roundings=_NOISE * precision * (slopes.norm(dim=1) + products.norm(dim=1) + model.gradient.norm()),
        errors=gaps.norm(dim=1),
        bound=posterior_bound(sizes, model.contraction, model.rate, model.steps),
        river_errors=inside[0],
        river_bound=inside[1],
        conditions=(Condition("the points are full-batch gradient descent at this rate", straying <= _STRAY, straying),),
    )


def run_points(model: TaylorModel, points: Tensor) -> Tensor:
    """theta_0 ... theta_K in float64, as many as the model has steps."""
    if points.dim() == 2 and len(points) <= model.steps:
        raise InsufficientDataError(f"points: given {len(points)}, expected {model.steps + 1}, before and after each step")
    return bounded("run", shaped("points", points, *model.displacements.shape))


def _river_part(
    model: TaylorModel, residuals: Tensor, gaps: Tensor, river: Tensor | None, contraction: float | None
) -> tuple[Tensor | None, Tensor | None]:
    """Measured error within the river, and its bound; see `follow`."""
    if river is None:
        return None, None
    columns = frame("river frame", river, model.hessian.dim)
    if not columns.shape[1]:
        return gaps.new_zeros(len(gaps)), gaps.new_zeros(len(gaps))
    product = model.hessian @ columns
    block = columns.T @ product
    leak = float(torch.linalg.matrix_norm(product - columns @ block, 2))
    values = torch.linalg.eigvalsh((block + block.T) / 2)
    q = float((1 - model.rate * values).abs().max()) if contraction is None else contraction
    sizes = (residuals @ columns).norm(dim=1) + leak * gaps[:-1].norm(dim=1)
    return (gaps @ columns).norm(dim=1), posterior_bound(sizes, q, model.rate, model.steps)


def error_covariance(hessian: Operator | Tensor, noise: Tensor, rate: float, steps: int, onto: Tensor | None = None) -> Tensor:
    """Covariance of e_K from independent mini-batch noise: eta^2 sum_{j<K} (I - eta H)^j Q (I - eta H)^j.

    Args:
        noise: F with ``Q = F F^T`` the covariance of the gradient's noise in one step, ``(P, n)``: a root of Q, or centred
            gradients of n batches over ``sqrt(n - 1)``.
        onto: orthonormal columns ``(P, d)`` to see it in; None for all of it. Costs n K products.
    Returns:
        ``(P, P)``, or ``(d, d)`` in the frame.
    Raises:
        NonFiniteError: the noise is amplified without end.
    Example:
        >>> error_covariance(torch.eye(1), torch.ones(1, 1), rate=0.5, steps=2).tolist()
        [[0.3125]]
    """
    operator, eta = in_float64(hessian), positive_rate(rate)
    if noise.dim() != 2 or noise.shape[0] != operator.dim:
        raise ShapeMismatchError(f"noise: given shape {tuple(noise.shape)}, expected ({operator.dim}, n)")
    here, columns = finite("noise", noise), None if onto is None else frame("onto", onto, operator.dim)
    width = operator.dim if columns is None else columns.shape[1]
    total = here.new_zeros(width, width)
    for j in range(positive_steps(steps)):
        seen = here if columns is None else columns.T @ here
        total = total + eta**2 * seen @ seen.T
        here = here - eta * (operator @ here)
        bounded("noise", here.reshape(1, -1), j + 1)
    return total
