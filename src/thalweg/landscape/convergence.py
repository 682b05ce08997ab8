"""Every quantity of a point against the number of batches and probes that it is computed from.

1. Check the Hessian of all batches once; products with single batches are then those of its recorded programs.
2. For k = 1, 2, 4, ... and all B batches, divide the batches into disjoint sets of k, and measure every set: loss, gradient,
   extreme eigenvalues, and a density whose probes are the same for all sets.
3. From the values, estimate bias and standard deviations over batches and probes (`thalweg.records.convergence`).

Shape letters: P number of parameters, B batches, S sets of one level, n probes, d sums of a density.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thalweg import ranks
from thalweg.curvature.containers import tensors_in
from thalweg.curvature.density import SpectralDensity, spectral_density
from thalweg.curvature.eigenpairs import EigenPairs, eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.objective import scalar_and_count
from thalweg.curvature.operator import Operator
from thalweg.curvature.probes import require_probes
from thalweg.errors import Phrase, require
from thalweg.landscape.cost import Progress
from thalweg.records.convergence import BatchLevel, Convergence, QuantityConvergence

LEAST_BATCHES = 4
"""Fewest batches from which a standard deviation is estimated."""
_RESIDUAL = 1e-3
"""Relative residual of the eigenpairs; the relative error of a value is about its square, far below the smallest tolerance."""
_MOMENTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "trace": lambda sums, dim: dim * sums[..., 0],
    "Frobenius norm": lambda sums, dim: (dim * sums[..., 1]).clamp(min=0.0).sqrt(),
    "third moment of the density": lambda sums, dim: sums[..., 2],
    "fourth moment of the density": lambda sums, dim: sums[..., 3],
    "entropy": lambda sums, dim: torch.log(dim * sums[..., 4]) - sums[..., 5] / sums[..., 4],
    "negative mass": lambda sums, dim: sums[..., 6] / sums[..., 4],
}
"""Quantity -> its function of the mean over probes of `_sums`, ``(..., d)``, and of P."""
_Table = dict[str, Tensor]
"""Quantity -> values ``(S, n)`` of sets and probes; one column where it takes no probes."""


class BatchSet(Operator):
    """The Hessian of the mean loss over some of an operator's batches.

    Args:
        hessian: the operator of all batches.
        chosen: numbers of the batches.
        counts: what counts in every batch, n_b; the mean is ``sum l_b / sum n_b`` over the chosen ones.
    """

    def __init__(self, hessian: Hessian, chosen: Sequence[int], counts: Sequence[float]) -> None:
        self.hessian, self.chosen, self.weight = hessian, tuple(chosen), 1 / sum(counts[index] for index in chosen)
        self.dim, self.dtype, self.device = hessian.dim, hessian.dtype, hessian.device
        self.products = 0

    def rows(self, vectors: Tensor) -> Tensor:
        self.products += len(vectors) * len(self.chosen)
        products = torch.zeros_like(vectors)
        for index in self.chosen:
            products += self.hessian.batch_rows(index, vectors)
        return products * self.weight


@dataclass
class Sampling:
    """Losses, counts and gradients of the single batches, and how every set of them is measured."""

    hessian: Hessian
    top: int
    """Number of largest eigenvalues."""
    lanczos: int
    """Lanczos steps of a density."""
    probes: int
    """n."""
    seed: int
    memory: int | None
    """Bytes that a search for eigenvalues may take."""
    losses: list[float] = field(default_factory=list)
    """l_b, the loss as the loss function returns it."""
    counts: list[float] = field(default_factory=list)
    """n_b."""
    gradients: list[Tensor] = field(default_factory=list)
    """Gradient of l_b, ``(P,)``."""
    largest: EigenPairs | None = None
    """Pairs of all batches, from which the searches of the sets start."""
    smallest: EigenPairs | None = None
    products: int = 0

    def __post_init__(self) -> None:
        objective = self.hessian.objective
        with objective.quiet(), torch.no_grad():
            parts = objective.layout.split(objective.point)
            for batch in objective.batches:
                value, count = scalar_and_count(objective.call(objective.loss_fn, batch, parts))
                self.losses.append(float(value))
                self.counts.append(1.0 if count is None else float(count))
        with objective.quiet():
            self.gradients = [objective.gradient_of(batch, objective.point) for batch in objective.batches]

    def different(self) -> int:
        """The number of different batches; equal ones have the same tensors, loss and gradient."""
        groups: dict[tuple[float, float], list[int]] = {}
        for index, (loss, gradient) in enumerate(zip(self.losses, self.gradients, strict=True)):
            kept = groups.setdefault((loss, float(gradient.norm())), [])
            if not any(self._equal(index, other) for other in kept):
                kept.append(index)
        return sum(map(len, groups.values()))

    def _equal(self, one: int, other: int) -> bool:
        """Whether two batches hold the same tensors and give the same gradient."""
        ours, theirs = (tensors_in(self.hessian.objective.batches[index]) for index in (one, other))
        pairs = [*zip(ours, theirs, strict=False), (self.gradients[one], self.gradients[other])]
        return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in pairs)

    def measure(self, chosen: Sequence[int]) -> tuple[dict[str, float], SpectralDensity]:
        """Numbers that take no probes, by name, and the density, of one set of batches."""
        operator = BatchSet(self.hessian, chosen, self.counts)
        gradient = (torch.stack([self.gradients[index] for index in chosen]).double().sum(0)) * operator.weight
        options = {"memory": self.memory, "seed": self.seed + 1, "verify": False}
        largest = eigenpairs(operator, self.top, "largest", _RESIDUAL, after=self.largest, **options)
        smallest = eigenpairs(operator, 1, "smallest", _RESIDUAL, after=self.smallest, **options)
        if self.largest is None:
            self.largest, self.smallest = largest, smallest
        norm = float(gradient.norm())
        numbers = {"loss": sum(self.losses[index] for index in chosen) * operator.weight, "gradient norm": norm}
        if norm:
            direction = gradient / norm
            numbers["curvature along the gradient"] = float(direction @ (operator @ direction))
        numbers["sharpness (largest eigenvalue)"] = float(largest.values[0])
        numbers |= {f"eigenvalue {place}": float(value) for place, value in enumerate(largest.values[1:].tolist(), 2)}
        numbers["smallest eigenvalue"] = float(smallest.values[0])
        density = spectral_density(operator, self.lanczos, self.probes, self.seed)
        self.products += operator.products
        return numbers, density


def converge(
    hessian: Hessian,
    top: int,
    lanczos: int,
    probes: int,
    seed: int,
    tolerance: float,
    progress: Progress | None,
    memory: int | None = None,
) -> Convergence:
    """Measure how every quantity depends on batches and probes, see `thalweg.landscape.probe.LandscapeProbe.converge`.

    Args:
        hessian: the checked operator of all batches, at least `LEAST_BATCHES`.
        top: number of largest eigenvalues.
        lanczos: Lanczos steps of every density.
        probes: n, probes of every density.
        seed: seed of all probes.
        tolerance: relative half-width of a 95 % interval that counts as enough, from 0.001 to 1.
        progress: called with (sets done, sets in all).
        memory: bytes that a search for eigenvalues may take; None takes half of what is free.
    Raises:
        BadInputError: fewer than `LEAST_BATCHES` batches that differ, several ranks, products by differences, or a tolerance out of
            its range.
    """
    started = time.perf_counter()
    count = len(hessian.objective.batches)
    require(count >= LEAST_BATCHES, "batches", count, f"at least {LEAST_BATCHES}, to estimate how much they differ")
    require(ranks.world() == 1, "ranks", ranks.world(), "one process, which has all batches; see thalweg.alone")
    require(hessian.method != "differences", "products", "differences", "auto, recorded or rebuilt: single batches are multiplied")
    require(0.001 <= tolerance <= 1, "tolerance", tolerance, "a number from 0.001 to 1, such as 0.05 for 5 %")
    require_probes(probes)
    sampling = Sampling(hessian, min(top, hessian.dim), lanczos, probes, seed, memory)
    differ = sampling.different()
    wanted = f"at least {LEAST_BATCHES} different ones, drawn independently: equal batches do not tell how much batches differ"
    require(differ >= LEAST_BATCHES, "batches", Phrase(f"{count} batches of which {differ} differ"), wanted)
    # All batches first: the other searches start from their eigenvectors.
    sets = {size: list(batched(count, size)) for size in sizes(count)[::-1]}
    tables: dict[int, _Table] = {}
    done, whole, running = 0, sum(map(len, sets.values())), {}
    for size, chosen_sets in sets.items():
        rows = []
        for chosen in chosen_sets:
            rows.append(sampling.measure(chosen))
            done += 1
            if progress is not None:
                progress(done, whole)
        if size == count:
            running = {name: _running(function, rows[0][1]) for name, function in moments(rows[0][1]).items()}
        tables[size] = table(rows)
    kept = [name for name in tables[count] if all(name in measured for measured in tables.values())]
    return Convergence(
        quantities=tuple(quantity(name, tables, running.get(name, ())) for name in kept),
        tolerance=tolerance,
        batches=count,
        probes=probes,
        dim=hessian.dim,
        products=sampling.products,
        seconds=time.perf_counter() - started,
        lanczos=lanczos,
    )


def sizes(count: int) -> list[int]:
    """1, 2, 4, ... up to half of the batches, and all of them."""
    return [2**power for power in range(count.bit_length()) if 2 ** (power + 1) <= count] + [count]


def batched(count: int, size: int) -> list[range]:
    """Disjoint sets of ``size`` of the numbers 0 .. count - 1, neighbours together; a remainder is left out."""
    return [range(first, first + size) for first in range(0, count - size + 1, size)]


def moments(density: SpectralDensity) -> Mapping[str, Callable[[Tensor, int], Tensor]]:
    """The quantities that exist for a density: no shares of a spectrum of zeros."""
    whole = bool(_sums(density)[:, 4].min() > 0)
    return {name: function for name, function in _MOMENTS.items() if whole or name not in ("entropy", "negative mass")}


def _sums(density: SpectralDensity) -> Tensor:
    """Sums over the nodes of each probe, ``(n, d)``: the first four moments, ``|x|``, ``|x| log |x|`` and ``|x| [x < 0]``."""
    nodes, size = density.nodes, density.nodes.abs()
    powers = [nodes, nodes**2, nodes**3, nodes**4, size, torch.xlogy(size, size), size * (nodes < 0)]
    return torch.stack([(density.weights * power).sum(1) for power in powers], 1)


def _running(function: Callable[[Tensor, int], Tensor], density: SpectralDensity) -> tuple[float, ...]:
    """A quantity with the first 2, 4, ... probes, and with all of them."""
    rows = _sums(density)
    counts = sorted({*(2**power for power in range(1, len(rows).bit_length()) if 2**power <= len(rows)), len(rows)})
    return tuple(float(function(rows[:count].mean(0), density.dim)) for count in counts)


def pseudo_values(rows: Tensor, function: Callable[[Tensor, int], Tensor], dim: int) -> Tensor:
    """Jackknife pseudo-values ``n f - (n - 1) f_(-i)``, ``(n,)``, of a function f of the mean of rows ``(n, d)`` and of P.

    For a linear function they are its values of the single rows; their mean is f up to 1 / n^2, their variance n times that of f.
    """
    count = len(rows)
    return count * function(rows.mean(0), dim) - (count - 1) * function((rows.sum(0) - rows) / (count - 1), dim)


def table(rows: Sequence[tuple[dict[str, float], SpectralDensity]]) -> _Table:
    """The values of all sets of one level: ``(S, 1)`` for what takes no probes, pseudo-values ``(S, n)`` for the rest."""
    names = [name for name in rows[0][0] if all(name in numbers for numbers, _ in rows)]
    values = {name: torch.tensor([[numbers[name]] for numbers, _ in rows], dtype=torch.float64) for name in names}
    shared = [name for name in _MOMENTS if all(name in moments(density) for _, density in rows)]
    for name in shared:
        values[name] = torch.stack([pseudo_values(_sums(density), _MOMENTS[name], density.dim) for _, density in rows]).cpu()
    return values


def quantity(name: str, tables: Mapping[int, _Table], running: tuple[float, ...]) -> QuantityConvergence:
    """Bias, deviations and levels of one quantity.

    Args:
        name: its name in the tables.
        tables: batches of a set -> values of all sets of this size; the largest size is B, one set.
        running: values with the first probes, for the record.
    """
    count = max(tables)
    columns = {size: measured[name] for size, measured in sorted(tables.items())}
    whole = columns[count][0]
    value, probes = float(whole.mean()), len(whole)
    # Each level's variance over sets, times its size, estimates s^2 + e^2 / n; levels are pooled by their degrees of freedom.
    freedom, spread, mixed = 0, 0.0, 0.0
    for size, values in columns.items():
        if len(values) > 1:
            between, inner = components(values)
            spread += (len(values) - 1) * size * between
            mixed += (len(values) - 1) * size * inner
            freedom += len(values) - 1
    # Without the probes' part e^2 / n, but only where that leaves half of it: a small difference of two estimates is noise.
    own = spread - mixed / probes
    spread = own if own > spread / 2 else spread
    # Bias: mean_k - value = c (1/k - 1/B), by least squares over the levels.
    shares = [(1 / size - 1 / count, float(values.mean()) - value) for size, values in columns.items() if size < count]
    bias = sum(share * shift for share, shift in shares) / sum(share**2 for share, _ in shares)
    return QuantityConvergence(
        name=name,
        value=value,
        levels=tuple(BatchLevel(size, tuple(values.mean(1).tolist())) for size, values in columns.items()),
        running=running,
        bias=0.0 if abs(bias) <= 1e-12 * abs(value) else bias,
        batch_deviation=math.sqrt(spread / freedom),
        probe_deviation=float(whole.std()) if probes > 1 else 0.0,
        interaction=math.sqrt(mixed / freedom),
        batches=count,
        probes=probes if probes > 1 else 0,
    )


def components(values: Tensor) -> tuple[float, float]:
    """Variance of the sets' means, and that of the interaction of set and probe, of values ``(S, n)`` with S of at least 2.

    The two-way analysis of variance without replication: the interaction's variance is the mean square of what row and column means
    leave over. It enters the variance of the sets' means with a share of 1 / n. With one column there is no interaction.
    """
    if values.shape[1] == 1:
        return float(values.var()), 0.0
    row_means = values.mean(1, keepdim=True)
    remainder = values - row_means - values.mean(0, keepdim=True) + values.mean()
    inner = float(remainder.square().sum()) / ((values.shape[0] - 1) * (values.shape[1] - 1))
    return float(row_means.var()), inner
