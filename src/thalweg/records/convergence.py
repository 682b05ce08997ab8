"""How far the numbers of a landscape depend on the batches and the probes that they were computed from, and how many are enough.

Let Q be a quantity of the Hessian of a mean loss over k batches, estimated with n probes. Batches are taken as independent draws,
and so are probes. Then Q is off its value with unlimited batches and probes by about

    c / k  +  s / sqrt(k) x  +  sqrt((p^2 + e^2 (1/k - 1/B)) / n) y,        x and y of mean 0 and variance 1,

with c the bias of a quantity that is not linear in the Hessian (the largest eigenvalue of a mean over few batches is too large), s
the standard deviation over single batches, p that over single probes at all B batches, and e that of their interaction.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from thalweg.errors import UnknownNameError, unknown
from thalweg.intervals import student_quantile

_MOST = 10**9
"""Largest number of batches or probes that is named; beyond it the value is as good as zero."""


@dataclass(frozen=True)
class BatchLevel:
    """Values of a quantity over disjoint sets of as many batches each, with all probes."""

    batches: int
    """Number of batches in each set."""
    values: tuple[float, ...]
    """One value for each set."""


@dataclass(frozen=True)
class QuantityConvergence:
    """One quantity: its value, its levels, and the four numbers of the module's formula."""

    name: str
    value: float
    """With all batches and all probes."""
    levels: tuple[BatchLevel, ...]
    """From 1 batch to all of them."""
    running: tuple[float, ...]
    """Values of all batches with the first 2, 4, ... probes; empty for a quantity without probes."""
    bias: float
    """c: ``mean value with k batches - value with unlimited batches`` is about c / k."""
    batch_deviation: float
    """s: standard deviation over single batches."""
    probe_deviation: float
    """p: standard deviation over single probes with all batches; 0 for a quantity without probes."""
    interaction: float
    """e: standard deviation of the interaction of a single batch and a single probe."""
    batches: int
    """B, number of batches that were measured."""
    probes: int
    """n, number of probes; 0 for a quantity without probes."""

    def batch_error(self, batches: int) -> float:
        """Half-width ``|c| / k + t s / sqrt(k)`` of the 95 % interval from the choice of k batches alone, in the value's unit."""
        return abs(self.bias) / batches + _factor(self.batches) * self.batch_deviation / math.sqrt(batches)

    def probe_error(self, probes: int, batches: int | None = None) -> float:
        """Half-width of the 95 % interval from the choice of n probes alone, with k batches (None: all)."""
        if not self.probes:
            return 0.0
        fewer = max(0.0, 1 / (batches or self.batches) - 1 / self.batches)
        deviation = math.sqrt(self.probe_deviation**2 + fewer * self.interaction**2)
        return _factor(self.probes) * deviation / math.sqrt(probes)

    @property
    def error(self) -> float:
        """Half-width of the 95 % interval with all batches and all probes, in the quantity's unit."""
        return math.hypot(self.batch_error(self.batches), self.probe_error(max(1, self.probes)))

    def batches_for(self, tolerance: float) -> int | None:
        """Fewest batches with a batch error of at most ``tolerance`` times the value; None where no number is enough.

        More than were measured are an extrapolation.
        """
        allowed = tolerance * abs(self.value)
        spread, bias = _factor(self.batches) * self.batch_deviation, abs(self.bias)
        if not spread and not bias:
            return 1
        if not allowed:
            return None
        # |c| / k + t s / sqrt(k) = allowed is a quadratic equation in sqrt(k).
        root = (spread + math.sqrt(spread**2 + 4 * allowed * bias)) / (2 * allowed)
        return _whole(root**2)

    def probes_for(self, tolerance: float) -> int | None:
        """Fewest probes with a probe error of at most ``tolerance`` times the value, with all batches; None as above."""
        if not self.probe_deviation:
            return 0 if not self.probes else 1
        allowed = tolerance * abs(self.value)
        return _whole((_factor(self.probes) * self.probe_deviation / allowed) ** 2) if allowed else None


@dataclass(frozen=True)
class Convergence:
    """How many batches and probes are enough for a relative tolerance; ``print`` gives a table and a verdict in words."""

    quantities: tuple[QuantityConvergence, ...]
    tolerance: float
    """Relative half-width of the 95 % interval that is asked for."""
    batches: int
    """B, number of batches that were measured."""
    probes: int
    """n, number of probes of the density."""
    dim: int
    """P, number of parameters."""
    products: int
    """Products of one batch with one vector that the report took."""
    seconds: float
    """Time that the report took."""
    lanczos: int
    """Lanczos steps of every density; a probe takes one product more."""

    def __getitem__(self, name: str) -> QuantityConvergence:
        """The quantity of a name.

        Raises:
            UnknownNameError: there is none; the message suggests one and lists them.
        """
        found = {quantity.name: quantity for quantity in self.quantities}
        if name not in found:
            raise UnknownNameError(str(unknown("quantity", name, found)))
        return found[name]

    def exact_is_cheaper(self, probes: int) -> bool:
        """Whether so many probes take at least the P products of an exact spectrum, in which no probe is left."""
        return probes * (self.lanczos + 1) >= self.dim

    @property
    def verdict(self) -> str:
        """Which number of batches, and of probes, is enough for which quantities, in sentences."""
        percent, sentences = f"{100 * self.tolerance:g} %", list[str]()
        for what, measured, needed in (
            ("batch", self.batches, {q.name: q.batches_for(self.tolerance) for q in self.quantities}),
            ("probe", self.probes, {q.name: q.probes_for(self.tolerance) for q in self.quantities if q.probes}),
        ):
            enough = {name: count for name, count in needed.items() if count is not None and count <= measured}
            short = {name: count for name, count in needed.items() if name not in enough}
            dear = [name for name, count in short.items() if what == "probe" and count is not None and self.exact_is_cheaper(count)]
            if enough:
                most = max(enough.values())
                verb = f"{what} is" if most == 1 else f"{what}es are" if what == "batch" else f"{what}s are"
                sentences.append(f"{most:,} {verb} enough for {percent} of {_listed(list(enough))}.")
            if short:
                plural = f"{what}es" if what == "batch" else f"{what}s"
                told = [f"{name} ({'too near to 0' if count is None else f'about {count:,}'})" for name, count in short.items()]
                sentences.append(
                    f"{measured:,} {plural} are not enough for {percent} of {_listed(told)}; numbers are extrapolated."
                )
            if dear:
                sentences.append(
                    f"For {_listed(dear)} that is no less than an exact spectrum, {self.dim:,} products: "
                    "measure with method='exact' where the matrix fits."
                )
        return " ".join(sentences)

    def __str__(self) -> str:
        heading = f"{'quantity':<32}{'value':>12}{'+- (95 %)':>12}{'batches':>10}{'probes':>10}"
        title = f"{self.dim:,} parameters, {self.batches:,} batches, {self.probes:,} probes; needed for {100 * self.tolerance:g} %:"
        rows = [
            f"{q.name:<32}{q.value:>12.4g}{q.error:>12.2g}{_count(q.batches_for(self.tolerance)):>10}"
            + (f"{self._probes(q.probes_for(self.tolerance)):>10}" if q.probes else f"{'-':>10}")
            for q in self.quantities
        ]
        return "\n".join([title, heading, *rows, self.verdict])

    def _probes(self, count: int | None) -> str:
        """A number of probes for the table; "exact" where more are needed than were measured and an exact spectrum is cheaper."""
        dear = count is not None and count > self.probes and self.exact_is_cheaper(count)
        return "exact" if dear else _count(count)


@functools.cache
def _factor(count: int) -> float:
    """Student's t of a two-sided 95 % interval whose standard deviation was estimated from ``count`` draws."""
    return student_quantile(0.975, max(1, count - 1))


def _whole(count: float) -> int | None:
    """The next whole number, at least 1; None beyond `_MOST`. A relative 1e-9 below it is rounding."""
    return max(1, math.ceil(count * (1 - 1e-9))) if count <= _MOST else None


def _count(count: int | None) -> str:
    """A number of batches or probes for a table."""
    return "never" if count is None else f"{count:,}"


def _listed(names: list[str]) -> str:
    """Names joined by commas and "and"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
