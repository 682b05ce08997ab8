"""Linear systems with an operator, ``A x = b``, by conjugate gradients of scipy.

Shape letters: P dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.bounds import of_their_kind
from thalweg.curvature.operator import Operator, as_operator, scipy_linalg
from thalweg.errors import BadInputError, NonFiniteError, NotConvergedError, ShapeMismatchError, require
from thalweg.reprs import short_repr


@short_repr
@dataclass(frozen=True)
class Solution:
    """An approximate solution of ``A x = b``."""

    vector: Tensor
    """x, ``(P,)``, with the dtype and device of b."""
    residual: float
    """``||A x - b|| / ||b||``, from a product of its own."""
    converged: bool
    """Whether the residual is within the tolerance."""
    products: int
    """Number of products of the operator with one vector."""


@of_their_kind
def solve(
    operator: Operator | Tensor, right: Tensor, tolerance: float = 1e-6, max_products: int | None = None, strict: bool = True
) -> Solution:
    """The solution of ``A x = b`` for a symmetric positive definite A, by conjugate gradients (scipy's ``cg``).

    A Hessian is rarely positive definite: give a shifted one, ``hessian + 0.1``, or a Gauss-Newton matrix plus a damping. Negative
    curvature along a search direction is refused when it is met; conjugate gradients would go on and return a vector that minimises
    nothing. The iterations run in float64; the residual is measured by a last product.

    Args:
        operator: A, or its matrix ``(P, P)``.
        right: b, ``(P,)``.
        tolerance: relative residual, between 0 and 1.
        max_products: at least 2; None takes 10 P.
        strict: whether a residual above the tolerance is an error.
    Raises:
        BadInputError: scipy is not installed, or the curvature along a search direction is not positive.
        ShapeMismatchError, NonFiniteError: b has another shape than ``(P,)``, or holds NaN or infinity.
        NotConvergedError: max_products were not enough.
    Example:
        >>> solve(torch.diag(torch.tensor([1.0, 4.0])), torch.tensor([1.0, 2.0])).vector.tolist()
        [1.0, 0.5]

    Source:
        Hestenes and Stiefel 1952.
    """
    operator = as_operator(operator)
    require(0 < tolerance < 1, "tolerance", tolerance, "a number between 0 and 1")
    limit = 10 * operator.dim + 2 if max_products is None else max_products
    require(limit >= 2, "max_products", limit, "at least 2")
    if right.shape != (operator.dim,):
        raise ShapeMismatchError(f"right side: given shape {tuple(right.shape)}, expected ({operator.dim},)")
    require(right.dtype in (torch.float32, torch.float64), "right side", right.dtype, "float32 or float64")
    if not torch.isfinite(right).all():
        raise NonFiniteError("right side: holds NaN or infinity, expected finite numbers")
    linalg, products = scipy_linalg(), 0

    def multiply(direction: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        product = operator @ direction
        curvature = float(direction @ product)
        if curvature <= 0 and direction.any():
            raise BadInputError(
                f"operator: curvature {curvature / float(direction @ direction):.2e} along a search direction, expected a positive "
                "definite operator; add a shift (operator + 0.1), or take GaussNewton"
            )
        return product

    counted = linalg.LinearOperator(operator.shape, matvec=multiply, dtype=np.float64)
    b = right.detach().double().cpu().numpy()
    found, _ = linalg.cg(counted, b, rtol=tolerance / 2, atol=0.0, maxiter=limit - 1)
    size = float(np.linalg.norm(b))
    residual = float(np.linalg.norm(operator @ found - b)) / size if size else 0.0
    if strict and not residual <= tolerance:
        raise NotConvergedError(
            f"solve: relative residual {residual:.1e} after {products + 1:,} products, expected at most {tolerance:.1e}; give more "
            "max_products, a larger tolerance or shift, dtype=torch.float64, or strict=False to take it as it is"
        )
    return Solution(torch.from_numpy(found).to(right), residual, residual <= tolerance, products + 1)
