"""Quadratic forms ``v^T f(A) v`` and traces ``tr f(A)`` of functions of a symmetric operator, by Gauss quadrature.

Shape letters: P dimension, m number of Lanczos steps, n number of probes.
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
    """The values of a function at quadrature nodes, checked; an error names the function.

    Args:
        function: see `_Function`.
        nodes: ``(m,)`` float64.
    Returns:
        Values ``(m,)``.
    Raises:
        NonFiniteError: the function is NaN or infinite at a node.
        ShapeMismatchError: its result has another shape than the nodes.
    """
    name = getattr(function, "__name__", repr(function))
    values = torch.as_tensor(function(nodes)).to(nodes)  # a condition such as x > 2 counts eigenvalues
    if values.shape != nodes.shape:
        raise ShapeMismatchError(f"function {name}: gave shape {tuple(values.shape)}, expected {tuple(nodes.shape)}")
    wrong = ~torch.isfinite(values)
    if wrong.any():
        node = float(nodes[wrong][0])
        raise NonFiniteError(f"function {name}: NaN or infinity at {node:.6g}; define it on the whole range of eigenvalues")
    return values


@of_their_kind
def quadratic_form(operator: Operator | Tensor, function: _Function, vector: Tensor, steps: int) -> float:
    """The quadratic form ``v^T f(A) v`` by Gauss quadrature from Lanczos started at v.

    Exact up to rounding for polynomials of degree up to ``2 steps - 1``, and for every f when the process exhausts v's
    Krylov space. So the loss that K steps of gradient descent remove from a quadratic,
    ``1/2 g^T s_2K(H) g`` with ``s_2K(x) = (1 - (1 - eta x)^2K) / x``, takes K products. Costs ``steps`` products.

    Args:
        operator: A, symmetric, or its matrix ``(P, P)``.
        function: f, see `_Function`.
        vector: v, ``(P,)``; the zero vector gives 0 without a product.
        steps: m, at least 1; one product each.
    Returns:
        The form, in units of f times those of v squared.
    Raises:
        NonFiniteError: the function is NaN or infinite at a Ritz value, or the vector is.
        ShapeMismatchError: a vector of another shape than ``(P,)``.
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
    """The trace ``tr f(A) = sum_i f(lambda_i)`` by stochastic Lanczos quadrature.

    ``E[z^T f(A) z] = tr f(A)`` for Rademacher probes z; each form is computed by quadrature (`quadratic_form`). The standard error
    is that of the probes. The error of the quadrature comes on top of it: it is zero for polynomials of degree up to
    ``2 steps - 1``, and falls slowly where f has a kink or a pole inside of the spectrum. Costs n m products.

    Args:
        operator: A, symmetric, or its matrix ``(P, P)``.
        function: f, see `_Function`.
        steps: m, products for each probe, at least 1.
        probes: n, at least 2.
        seed: seed of the probes.
    Returns:
        The trace in units of f, with its standard error over probes.
    Raises:
        NonFiniteError: the function is NaN or infinite at a Ritz value.
        BadInputError: fewer than 2 probes or 1 step.
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
