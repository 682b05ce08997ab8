"""Functions of a symmetric operator, seen through Gauss quadrature.

Shape letters: P dimension, m number of Lanczos steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.bounds import of_their_kind
from thalweg.curvature.lanczos import lanczos
from thalweg.curvature.operator import Operator, as_operator
from thalweg.curvature.probes import Estimate, mean_of, rademacher, require_probes
from thalweg.errors import NonFiniteError, ShapeMismatchError, require

_Function = Callable[[Tensor], Tensor]
"""Maps a float64 tensor of eigenvalues ``(m,)`` to values of the same shape, entry by entry."""


def evaluate(function: _Function, nodes: Tensor) -> Tensor:
    """The function at the nodes, refused by its name where it is not finite.

    Raises:
        NonFiniteError: NaN or infinity at a node.
        ShapeMismatchError: another shape than that of the nodes.
    """
    name = getattr(function, "__name__", repr(function))
    values = function(nodes)
    if values.shape != nodes.shape:
        raise ShapeMismatchError(f"function {name}: gave shape {tuple(values.shape)}, expected {tuple(nodes.shape)}")
    bad = ~torch.isfinite(values)
    if bad.any():
        place = float(nodes[bad][0])
        raise NonFiniteError(f"function {name}: NaN or infinity at {place:.6g}; define it on the whole range of eigenvalues")
    return values


@of_their_kind
def quadratic_form(operator: Operator | Tensor, function: _Function, vector: Tensor, steps: int) -> float:
    """``v^T f(A) v`` by Gauss quadrature from Lanczos started at v.

    Exact up to rounding for polynomials of degree up to ``2 steps - 1``, and for every f when the process exhausts v's
    Krylov space. So the loss that K steps of gradient descent remove from a quadratic,
    ``1/2 g^T s_2K(H) g`` with ``s_2K(x) = (1 - (1 - eta x)^2K) / x``, takes K products.

    Args:
        operator: symmetric, or its matrix ``(P, P)``.
        function: see `_Function`.
        vector: ``(P,)``; the zero vector gives 0 without a product.
        steps: at least 1; one product each.
    Raises:
        NonFiniteError: the function at a Ritz value, or the vector, is NaN or infinite.
    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
        >>> round(quadratic_form(matrix, torch.square, torch.ones(2), steps=2), 12)
        10.0

    Source:
        Golub and Meurant 2010, chapter 7.
    """
    operator = as_operator(operator)
    require(steps >= 1, "steps", steps, "a whole number of at least 1")
    if vector.shape == (operator.dim,) and not vector.any():
        return 0.0
    nodes, weights, _ = lanczos(operator, vector, steps).quadrature()
    return float(weights @ evaluate(function, nodes))


@of_their_kind
def trace_function(operator: Operator | Tensor, function: _Function, steps: int = 80, probes: int = 10, seed: int = 0) -> Estimate:
    """``tr f(A)`` by stochastic Lanczos quadrature.

    The mean of ``z^T f(A) z`` over Rademacher probes, each by quadrature. The standard error is that of the probes; the
    error of the quadrature comes on top of it, zero for polynomials of degree up to ``2 steps - 1`` and slow to fall
    where f has a kink or a pole inside of the spectrum.

    Args:
        operator: symmetric, or its matrix ``(P, P)``.
        function: see `_Function`.
        steps: products a probe, at least 1.
        probes: at least 2.
        seed: of the probes.
    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
        >>> round(trace_function(matrix, torch.exp).value - torch.tensor([1.0, 3.0]).exp().sum().item(), 5)
        0.0

    Source:
        Ubaru, Chen and Saad 2017.
    """
    operator = as_operator(operator)
    require_probes(probes)
    values, products = [], 0
    for index in range(probes):
        krylov = lanczos(operator, rademacher(operator, index, seed), steps)
        nodes, weights, _ = krylov.quadrature()
        values.append(weights @ evaluate(function, nodes))
        products += len(nodes)
    return mean_of(torch.stack(values), products)
