"""A few eigenpairs of a symmetric operator, with proof of how good they are.

Shape letters: P dimension, k pairs wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.bounds import of_their_kind
from thalweg.curvature import memory as limits
from thalweg.curvature.operator import Operator, as_operator
from thalweg.curvature.search import ORDERS, Search
from thalweg.errors import NotConvergedError, require, unknown

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}
"""Largest residual over the largest absolute eigenvalue, by the dtype of the products.

The error of a value is at most ``residual^2 / gap`` (and never more than the residual): 1e-8 gives values to rounding
where the gap is above 1e-8 of the largest; float32 products carry 1e-7 of noise, which 1e-5 stays clear of.
"""

Progress = Callable[[int, float], None]
"""Called with the products so far and the worst residual over its bound (1 or less: converged; infinity: too early)."""


@dataclass(frozen=True)
class EigenPairs:
    """k eigenpairs, in the order that was asked for."""

    values: Tensor
    """``(k,)`` float64: "magnitude" by falling absolute value, "largest" falling, "smallest" rising."""
    vectors: Tensor
    """``(P, k)`` float64, orthonormal columns, the component of largest magnitude positive in each."""
    residuals: Tensor
    """``||A v - value v||``, ``(k,)``, in units of the eigenvalues."""
    converged: bool
    """Whether every residual is within the tolerance."""
    products: int
    """Operator times one vector, counted."""
    restarts: int
    """How often the basis was full and cut down to its best vectors."""


@of_their_kind
def eigenpairs(
    operator: Operator | Tensor,
    k: int = 10,
    which: str = "magnitude",
    tolerance: float | None = None,
    max_products: int | None = None,
    memory: int | None = None,
    seed: int = 0,
    strict: bool = True,
    progress: Progress | None = None,
    verify: bool = True,
) -> EigenPairs:
    """The k eigenpairs at one end of the spectrum, or largest in magnitude, repeated eigenvalues included.

    Lanczos with a thick restart; it stops when ``||A v - value v|| <= tolerance * largest |Ritz value|`` for all k. One
    Krylov space holds each distinct eigenvalue only once, so a second search then runs at right angles to what was found,
    until its best Ritz value is no better than the last of the k (its upper error bound included, or to a thousandth of
    the largest) and it took enough steps to see, with probability 0.99, any copy better by a tenth of the largest.
    That costs about 15 to 20 products; ``verify=False`` saves them where no eigenvalue repeats.

    Args:
        operator: symmetric, or its matrix ``(P, P)``; symmetry of an operator is trusted. Entries below 1e-150, the squares
            of which underflow, are taken for zeros.
        k: from 1 to P.
        which: "magnitude", "largest" or "smallest" (most negative).
        tolerance: relative residual; None takes `TOLERANCE`.
        max_products: at least k; None takes 1,000 + 20 k. The second search keeps within it too.
        memory: bytes for the basis, float64; None takes half of what is available. Few vectors mean more products.
        seed: of the starting directions; the same seed gives the same pairs.
        strict: whether pairs that did not converge are an error.
        progress: see `Progress`.
        verify: whether to search for copies of repeated eigenvalues.
    Returns:
        Pairs with their residuals, taken from the Lanczos relation: true up to the rounding of the products.
    Raises:
        BadInputError: k, tolerance, max_products or which out of range.
        MemoryLimitError: fewer than k + 4 vectors fit (P, where that is less).
        NotConvergedError: max_products were not enough.
    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, -5.0, 3.0], dtype=torch.float64))
        >>> eigenpairs(matrix, k=2).values.round(decimals=12).tolist()
        [-5.0, 3.0]

    Source:
        Wu and Simon 2000 (thick restart); Parlett 1998, theorem 11.7.1 (residual and error of a value);
        Kuczynski and Wozniakowski 1992 (random start).
    """
    operator = as_operator(operator)
    if which not in ORDERS:
        raise unknown("which", which, ORDERS)
    require(1 <= k <= operator.dim, "k", k, f"a whole number from 1 to {operator.dim}, the dimension")
    tolerance = TOLERANCE[operator.dtype] if tolerance is None else tolerance
    require(0 < tolerance < 1, "tolerance", tolerance, "a number between 0 and 1")
    budget = 1000 + 20 * k if max_products is None else max_products
    require(budget >= k, "max_products", budget, f"at least k, {k}")
    search = Search(operator, k, which, _basis_size(operator, k, memory), seed)
    while not _advance(search, tolerance, budget, verify, progress):
        pass
    return report(search, tolerance, strict)


def _basis_size(operator: Operator, k: int, memory: int | None) -> int:
    """How many basis vectors to keep before a restart: up to 4 k + 80, at least k + 4, never more than P.

    Raises:
        MemoryLimitError: not even k + 4 fit.
    """
    allowed, vector = limits.budget(memory, operator.device), 8 * operator.dim
    least = min(operator.dim, k + 4)
    what = f"eigenpairs: {least} basis vectors of {operator.dim:,} float64 entries"
    limits.ensure(least * vector, allowed, what, "give more memory or ask for fewer pairs")
    return min(operator.dim, 4 * k + 80, allowed // vector)


def _advance(search: Search, tolerance: float, budget: int, verify: bool, progress: Progress | None) -> bool:
    """A few products, then one look at the small eigenproblem; whether the search is over.

    A look costs about 9 m^3 operations and the orthogonalisation of a vector 8 m P, which are 3 times faster: looking once in
    3 m^2 / P products doubles the latter's cost at most. More than a tenth of the basis is never waited for.
    """
    for _ in range(1 + min(search.m // 10, 3 * search.m**2 // search.operator.dim)):
        search.grow()
        if search.exhausted or search.full or search.products >= budget:
            break
    ritz = search.ritz()
    bound = search.bound(ritz, tolerance)
    count = search.wanted(ritz, slack=bound)
    complete, spent = search.locked + count >= search.k, search.products >= budget
    worst = float(torch.cat([search.residuals, ritz.residuals[:count]]).max())
    if progress is not None:
        progress(search.products, (worst / bound if bound else 0.0) if complete else float("inf"))
    if search.locked == search.k and count == 0:
        if spent or search.nothing_better(ritz, bound):
            return True
    elif search.exhausted or spent or (complete and worst <= bound):
        last = search.spans_all
        search.lock(ritz, count)
        if last or spent or (search.locked == search.k and not verify):
            return True
        search.begin()
        return False
    if search.full:
        search.restart(ritz, count)
    return False


def report(search: Search, tolerance: float, strict: bool) -> EigenPairs:
    """The locked pairs in order, signs fixed.

    Raises:
        NotConvergedError: strict, and a residual above the bound.
    """
    order = search.key(search.values).argsort(descending=True, stable=True)
    values, residuals = search.values[order], search.residuals[order]
    bound, worst = tolerance * search.largest, float(residuals.max())
    converged = worst <= bound
    if strict and not converged:
        raise NotConvergedError(
            f"eigenpairs: largest residual {worst:.1e} after {search.products:,} products, expected at most {bound:.1e}; "
            "give more max_products or memory, a larger tolerance or another k, or strict=False to take them as they are"
        )
    vectors = search.rows[: len(values)][order].T.contiguous()
    places = vectors.abs().argmax(0, keepdim=True)
    return EigenPairs(values, vectors * vectors.gather(0, places).sign(), residuals, converged, search.products, search.restarts)
