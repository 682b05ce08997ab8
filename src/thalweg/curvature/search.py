"""The state of a search for eigenpairs: pairs that are locked, and a Krylov basis at right angles to them.

Shape letters: P dimension, c capacity in vectors, k pairs wanted, l pairs locked, m vectors of the running basis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.curvature.lanczos import ROUNDING, length, orthogonalise
from thalweg.curvature.operator import Operator
from thalweg.curvature.probes import gaussian

ORDERS: dict[str, Callable[[Tensor], Tensor]] = {"magnitude": torch.abs, "largest": torch.clone, "smallest": torch.neg}
"""Which end of the spectrum -> function of the eigenvalues that is largest for the pairs that come first."""

_SHARE_OF_CHANCE = 0.1
"""Length of the random part of a first direction that is made of given vectors, over that of the other part.

Without it, a direction in which the given vectors have no part (another sector of a symmetry) would never be seen. It costs 0 to 2
products (measured).
"""

_COLUMNS = 1 << 16
"""Entries of each vector mixed at once when the basis is cut down; bounds the scratch memory."""


class Ritz(NamedTuple):
    """The approximate eigenpairs of the running basis, best first."""

    values: Tensor
    """Ritz values, ``(m,)``."""
    mix: Tensor
    """Ritz vectors as columns of coefficients in the running basis, ``(m, m)``."""
    residuals: Tensor
    """``||A y - value y||``, ``(m,)``: the part along the next vector and the part along the locked ones."""


class Search:
    """Thick-restart Lanczos around locked pairs; every vector is made orthogonal to all others, twice.

    With V the running rows, W the locked ones and q the next direction,
    ``A V^T = V^T projected + W^T coupling + beta q e_m^T``, so residuals cost no product.

    Attributes:
        rows: basis ``(c, P)`` in the dtype of the products; first the l locked vectors W, then the m running ones V.
        values, residuals: of the locked pairs, ``(l,)``.
        projected: ``V A V^T``, in the upper left ``(m, m)``; this and all other numbers below are float64.
        coupling: ``W A V^T``, in the first m columns of ``(l, c - l)``.
        beta: length of the last residual; ``next`` is its direction q, ``(P,)``.
        exhausted: whether the running basis spans an invariant subspace, so that it cannot grow.
        scale: largest length of a product so far.
        largest: largest absolute Ritz value so far.
        products, restarts, rounds, steps: products in all; restarts in all; searches begun; products of this search.

    Source:
        Wu and Simon 2000 for the restart.
    """

    def __init__(self, operator: Operator, k: int, which: str, capacity: int, seed: int, near: Tensor | None = None) -> None:
        self.operator, self.k, self.key, self.capacity, self.seed = operator, k, ORDERS[which], capacity, seed
        # Rows have the dtype of the products, whose rounding they share; sums over their entries are float64 (`orthogonalise`).
        self.rows = torch.empty(capacity, operator.dim, dtype=operator.dtype, device=operator.device)
        self.values = torch.empty(0, dtype=torch.float64, device=operator.device)
        self.residuals = self.values.clone()
        self.scale, self.largest, self.products, self.restarts, self.rounds = 0.0, 0.0, 0, 0, 0
        self.begin(near)

    def begin(self, near: Tensor | None = None) -> None:
        """Start a new running basis, from a random direction at right angles to the locked vectors.

        With ``near``, columns ``(P, j)`` of unit length near the vectors that are sought, it starts from their sum, with a random
        part (`_SHARE_OF_CHANCE`): all of them are then in one Krylov space, which grows by one product at a time.
        """
        self.locked, self.m, self.steps = len(self.values), 0, 0
        self.beta, self.exhausted = 0.0, False
        room = self.capacity - self.locked
        self.projected = self.values.new_zeros(room, room)
        self.coupling = self.values.new_zeros(self.locked, room)
        direction = gaussian(self.operator, self.rounds, self.seed).to(self.rows.dtype)
        if near is not None:
            whole = near.to(self.rows).sum(1)
            direction = whole / whole.norm() + _SHARE_OF_CHANCE * direction / direction.norm()
        for _ in range(2):  # the second time on unit length, where most of the first draw was locked
            direction, _ = orthogonalise(direction, self.rows[: self.locked])
            direction /= direction.norm()
        self.next = direction
        self.rounds += 1

    @property
    def spans_all(self) -> bool:
        """Whether locked and running vectors together span the whole space."""
        return self.locked + self.m == self.operator.dim

    @property
    def full(self) -> bool:
        """Whether there is no room for another vector."""
        return self.locked + self.m == self.capacity

    def grow(self) -> None:
        """Add the next vector to the running basis, by one product."""
        here = self.locked + self.m
        self.rows[here] = self.next
        product = self.operator @ self.next
        self.scale = max(self.scale, length(product))
        # The part along the locked rows goes into `coupling`, that along the running rows into `projected`; the rest is beta q.
        remainder, taken = orthogonalise(product, self.rows[: here + 1])
        self.coupling[:, self.m] = taken[: self.locked]
        self.projected[: self.m + 1, self.m] = self.projected[self.m, : self.m + 1] = taken[self.locked :]
        self.m, self.steps, self.products = self.m + 1, self.steps + 1, self.products + 1
        self.beta = length(remainder)
        self.exhausted = self.spans_all or self.beta <= ROUNDING * torch.finfo(self.operator.dtype).eps * self.scale
        if not self.exhausted:
            self.next = remainder / self.beta

    def ritz(self) -> Ritz:
        """The Ritz pairs of the running basis (Rayleigh-Ritz), with residuals from the Lanczos relation."""
        values, mix = torch.linalg.eigh(self.projected[: self.m, : self.m])
        order = self.key(values).argsort(descending=True)
        values, mix = values[order], mix[:, order]
        # A y - value y has a part along q, beta times y's last coefficient, and a part along the locked rows.
        along_next, along_locked = self.beta * mix[-1], self.coupling[:, : self.m] @ mix
        return Ritz(values, mix, (along_next**2 + (along_locked**2).sum(0)).sqrt())

    def bound(self, ritz: Ritz, tolerance: float) -> float:
        """The largest residual that counts as converged: relative to the largest absolute Ritz value so far."""
        self.largest = max(self.largest, float(ritz.values.abs().max()))
        return tolerance * self.largest

    def wanted(self, ritz: Ritz, slack: float) -> int:
        """Number of Ritz pairs among the best k; to replace a locked pair they must be better by ``slack``."""
        shift = slack if self.locked >= self.k else 0.0
        keys = torch.cat([self.key(self.values), self.key(ritz.values) - shift])
        count = int((keys.argsort(descending=True, stable=True)[: self.k] >= self.locked).sum())
        room = self.capacity - self.locked
        return min(count, room if self.capacity == self.operator.dim else room - 2)

    def nothing_better(self, ritz: Ritz, slack: float) -> bool:
        """Whether the complement of the k locked vectors holds no pair that belongs among them, see `eigenpairs`.

        Enough steps are those after which Lanczos from a random start misses, with probability 0.01 at most, an eigenvalue that is
        better by a tenth of the largest: ``log(1.648 sqrt(P) / 0.01) / (2 sqrt(0.1)) + 1/2``.
        """
        scale = max(self.scale, 1e-300)
        gap, chance = 0.1, 0.01  # Kuczynski and Wozniakowski 1992, theorem 4.1 (b)
        least = math.log(1.648 * math.sqrt(self.operator.dim) / chance) / (2 * math.sqrt(gap)) + 0.5
        top, worst = self.key(ritz.values[:1]) + ritz.residuals[:1], self.key(self.values).min()
        enough = self.steps >= least and bool(top <= worst + slack or ritz.residuals[0] <= 1e-3 * scale)
        return self.exhausted or enough

    def lock(self, ritz: Ritz, count: int) -> None:
        """Lock the best k among the locked pairs and the first ``count`` Ritz pairs; the running basis is dropped."""
        keys = torch.cat([self.key(self.values), self.key(ritz.values[:count])])
        best = keys.argsort(descending=True, stable=True)[: self.k]
        mix = self.values.new_zeros(self.locked + self.m, self.locked + count)
        mix[: self.locked, : self.locked] = torch.eye(self.locked, dtype=mix.dtype, device=mix.device)
        mix[self.locked :, self.locked :] = ritz.mix[:, :count]
        self._combine(0, self.locked + self.m, mix[:, best])
        self.values = torch.cat([self.values, ritz.values[:count]])[best]
        self.residuals = torch.cat([self.residuals, ritz.residuals[:count]])[best]
        self.locked, self.m = len(best), 0

    def restart(self, ritz: Ritz, needed: int) -> None:
        """Thick restart: cut the full running basis down to its best Ritz vectors, those needed and a third of the other room."""
        room = self.capacity - self.locked
        keep = max(1, needed) + (room - max(1, needed)) // 3
        # In the new basis A is diagonal with the Ritz values; the next column of `projected` comes with the next product.
        mix = ritz.mix[:, :keep]
        self._combine(self.locked, self.locked + self.m, mix)
        self.coupling[:, :keep] = self.coupling[:, : self.m] @ mix
        self.projected.zero_()
        self.projected[:keep, :keep] = torch.diag(ritz.values[:keep])
        self.m, self.restarts = keep, self.restarts + 1

    def _combine(self, first: int, last: int, mix: Tensor) -> None:
        """Replace the rows from ``first`` up to ``last`` by fewer linear combinations of them, in place, computed in float64."""
        for start in range(0, self.operator.dim, _COLUMNS):
            columns = self.rows[:, start : start + _COLUMNS]
            columns[first : first + mix.shape[1]] = (mix.T @ columns[first:last].double()).to(columns.dtype)
