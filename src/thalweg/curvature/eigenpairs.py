"""A few eigenpairs of a symmetric operator, with their residuals, by Lanczos with a thick restart.

One search (`thalweg.curvature.search.Search`) goes through these stages:

1. Grow a Krylov basis by products, and solve the small eigenproblem in it (Rayleigh-Ritz).
2. When the basis is full, cut it down to its best Ritz vectors and go on (thick restart).
3. When the k best Ritz pairs have converged, lock them, and search again at right angles to them: one Krylov space holds each
   distinct eigenvalue only once, so copies of repeated eigenvalues can only be found there.
4. Stop when the second search finds nothing better than the locked pairs.

Along a training run the search starts from the pairs of the checkpoint before (``after=``) and leaves out the second search where
that checkpoint had no copies. Block methods were measured too: a block Lanczos or Davidson search around the old pairs took 1.3
times the products of a cold search, as ten vectors cost ten products for one more degree of the polynomial.

Shape letters: P dimension, k pairs wanted, m vectors of the running basis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.bounds import of_their_kind
from thalweg.curvature import memory as limits
from thalweg.curvature.context import undisturbed
from thalweg.curvature.lanczos import refuse_tiny
from thalweg.curvature.operator import Operator, as_operator
from thalweg.curvature.search import ORDERS, Search
from thalweg.errors import NotConvergedError, ShapeMismatchError, require, unknown
from thalweg.reprs import short_repr

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}
"""Largest residual over the largest absolute eigenvalue, by the dtype of the products.

The error of a value is at most ``residual^2 / gap`` (and never more than the residual): 1e-8 gives values to rounding
where the gap is above 1e-8 of the largest; float32 products carry 1e-7 of noise, which 1e-5 stays clear of.
"""

_COPY = 1e-3
"""Distance of two eigenvalues over the largest below which they may be copies at the next checkpoint."""

_PIECE = 1 << 16
"""Entries of each vector that are converted to float64 at once."""

Progress = Callable[[int, float], None]
"""Called with the products so far and the worst residual over its bound (1 or less: converged; infinity: too early)."""


@short_repr
@dataclass(frozen=True)
class EigenPairs:
    """k eigenpairs, in the order of the end of the spectrum that was chosen."""

    values: Tensor
    """``(k,)`` float64: "magnitude" by falling absolute value, "largest" falling, "smallest" rising."""
    vectors: Tensor
    """``(P, k)`` float64, orthonormal columns, the component of largest magnitude positive in each."""
    residuals: Tensor
    """``||A v - value v||``, ``(k,)``, in units of the eigenvalues."""
    converged: bool
    """Whether every residual is within the tolerance."""
    products: int
    """Number of products of the operator with one vector."""
    restarts: int
    """Number of times that the basis was full and was cut down to its best vectors."""


@undisturbed
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
    verify: bool | None = None,
    after: EigenPairs | None = None,
) -> EigenPairs:
    """The k eigenpairs ``A v = lambda v`` at one end of the spectrum, or largest in magnitude, repeated eigenvalues included.

    Lanczos with a thick restart; it stops when ``||A v - value v|| <= tolerance * largest |Ritz value|`` for all k. One
    Krylov space holds each distinct eigenvalue only once, so a second search then runs at right angles to the pairs found,
    until its best Ritz value is no better than the last of the k (its upper error bound included, or to a thousandth of
    the largest) and it took enough steps to see, with probability 0.99, any copy better by a tenth of the largest.
    That costs about 15 to 20 products; ``verify=False`` saves them where no eigenvalue repeats. Memory: up to 4 k + 80 vectors.

    Args:
        operator: A, symmetric, or its matrix ``(P, P)``; symmetry of an operator is trusted. Entries below 1e-150, the squares
            of which underflow, count as zeros; float32 products shorter than 1e-31 are refused.
        k: number of pairs, from 1 to P.
        which: "magnitude", "largest" or "smallest" (most negative).
        tolerance: relative residual, between 0 and 1; None takes `TOLERANCE`.
        max_products: at least k; None takes 1,000 + 20 k. The second search stays within it too.
        memory: bytes for the basis, in the dtype of the products; None takes half of what is free. The result
            takes ``8 k P`` bytes on top. With less memory a search takes more products.
        seed: seed of the starting directions; the same seed gives the same pairs.
        strict: whether pairs that did not converge are an error.
        progress: see `Progress`.
        verify: whether to search for copies of repeated eigenvalues; None does so unless ``after`` has none.
        after: pairs of an operator near by, such as the same loss at the checkpoint before, for a start from their vectors. The
            residuals, and with them the errors of the values, obey the same bound as without. The second search is left out where
            all values of ``after`` are further apart than a thousandth of the largest: an eigenvalue that becomes an exact copy of
            another just between the two points would then be found once; ``verify=True`` looks for it.
    Returns:
        Pairs with their residuals, taken from the Lanczos relation: true up to the rounding of the products.
    Raises:
        BadInputError: k, tolerance, max_products or which out of range.
        MemoryLimitError: fewer than k + 4 vectors fit (P, where that is less).
        NotConvergedError: max_products were not enough.
        ShapeMismatchError: ``after`` has vectors of another length than P.
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
        raise unknown("value of which", which, ORDERS)
    require(1 <= k <= operator.dim, "k", k, f"a whole number from 1 to {operator.dim}, the dimension")
    tolerance = TOLERANCE[operator.dtype] if tolerance is None else tolerance
    require(0 < tolerance < 1, "tolerance", tolerance, "a number between 0 and 1")
    budget = 1000 + 20 * k if max_products is None else max_products
    require(budget >= k, "max_products", budget, f"at least k, {k}")
    if after is not None and after.vectors.shape[0] != operator.dim:
        raise ShapeMismatchError(f"after: given vectors of length {after.vectors.shape[0]}, expected {operator.dim}")
    near = None if after is None else after.vectors
    search = Search(operator, k, which, _basis_size(operator, k, memory), seed, near)
    second = (after is None or may_hold_copies(after)) if verify is None else verify
    while not _advance(search, tolerance, budget, second, progress):
        pass
    return report(search, tolerance, strict)


def may_hold_copies(pairs: EigenPairs) -> bool:
    """Whether two of the values are nearer than a thousandth of the largest, or the pairs did not converge."""
    values = pairs.values.sort().values
    return not pairs.converged or bool((values.diff() <= _COPY * values.abs().max()).any())


def _basis_size(operator: Operator, k: int, memory: int | None) -> int:
    """Number of basis vectors kept before a restart: up to 4 k + 80, at least k + 4, never more than P.

    Raises:
        MemoryLimitError: not even k + 4 fit.
    """
    allowed, vector = limits.budget(memory, operator.device), operator.dtype.itemsize * operator.dim
    least = min(operator.dim, k + 4)
    kind = str(operator.dtype).removeprefix("torch.")
    what = f"eigenpairs: {least} basis vectors of {operator.dim:,} {kind} entries"
    limits.ensure(least * vector, allowed, what, "give more memory or ask for fewer pairs")
    return min(operator.dim, 4 * k + 80, allowed // vector)


def _advance(search: Search, tolerance: float, budget: int, verify: bool, progress: Progress | None) -> bool:
    """Compute a few products, solve the small eigenproblem once, and act on it; returns whether the search is over.

    The small eigenproblem costs about 9 m^3 operations, and the orthogonalisation of a vector 8 m P, which are 3 times faster.
    Solving it once in 3 m^2 / P products therefore at most doubles the cost of orthogonalisation. It never waits for more than a
    tenth of the basis.
    """
    for _ in range(1 + min(search.m // 10, 3 * search.m**2 // search.operator.dim)):
        search.grow()
        if search.exhausted or search.full or search.products >= budget:
            break
    # Rayleigh-Ritz: how many of the running pairs belong to the best k, and how large is the worst residual?
    ritz = search.ritz()
    bound = search.bound(ritz, tolerance)
    count = search.wanted(ritz, slack=bound)
    complete, spent = search.locked + count >= search.k, search.products >= budget
    worst = float(torch.cat([search.residuals, ritz.residuals[:count]]).max())
    if progress is not None:
        progress(search.products, (worst / bound if bound else 0.0) if complete else float("inf"))
    # k pairs are locked and none of the running ones is better: over, once the second search has seen enough.
    if search.locked == search.k and count == 0:
        if spent or search.nothing_better(ritz, bound):
            return True
    elif search.exhausted or spent or (complete and worst <= bound):
        # Converged, or no further progress possible: lock the pairs and begin a search at right angles to them.
        whole_space = search.spans_all
        search.lock(ritz, count)
        if whole_space or spent or (search.locked == search.k and not verify):
            return True
        search.begin()
        return False
    if search.full:
        search.restart(ritz, count)
    return False


def _columns(rows: Tensor, order: Tensor) -> Tensor:
    """Rows ``(k, P)``, orthonormal to their own rounding, as columns ``(P, k)`` orthonormal to that of float64, with fixed signs.

    With ``Q Q^T = L L^T`` (Cholesky), close to the identity, they are ``(L^{-1} Q)^T``. An eigenvector is defined up to its sign;
    the component of largest magnitude is made positive. Pieces of the rows are converted one after the other, so that no second
    copy in float64 is needed.

    Args:
        rows: the rows.
        order: ``(k,)``, the row that each column is made of.
    """
    pieces = rows.split(_PIECE, dim=1)
    gram = sum(part @ part.T for part in (piece.double() for piece in pieces))
    turn = torch.linalg.inv(torch.linalg.cholesky(gram))[order]
    columns = torch.empty(rows.shape[1], len(order), dtype=torch.float64, device=rows.device)
    largest = torch.zeros(len(order), dtype=torch.float64, device=rows.device)
    for piece, part in zip(pieces, columns.split(_PIECE), strict=True):
        torch.mm(piece.double().T, turn.T, out=part)
        peak = part.gather(0, part.abs().argmax(0, keepdim=True))[0]
        largest = torch.where(peak.abs() > largest.abs(), peak, largest)
    return columns.mul_(largest.sign())


def report(search: Search, tolerance: float, strict: bool) -> EigenPairs:
    """The locked pairs in their order.

    Args:
        search: a search that is over.
        tolerance: relative residual that counts as converged.
        strict: whether a larger residual is an error.
    Raises:
        NotConvergedError: ``strict``, and a residual above the bound.
        BadInputError: float32 products too small for their digits.
    """
    refuse_tiny(search.operator, search.scale)
    order = search.key(search.values).argsort(descending=True, stable=True)
    values, residuals = search.values[order], search.residuals[order]
    bound, worst = tolerance * search.largest, float(residuals.max())
    converged = worst <= bound
    if strict and not converged:
        raise NotConvergedError(
            f"eigenpairs: largest residual {worst:.1e} after {search.products:,} products, expected at most {bound:.1e}; "
            "give more max_products or memory, a larger tolerance or another k, or strict=False to take them as they are"
        )
    vectors = _columns(search.rows[: len(values)], order)
    return EigenPairs(values, vectors, residuals, converged, search.products, search.restarts)
