"""Operations at equal loss: how many of a rival's operations an arm needs to end as low.

Each run has a complete schedule, so a curve is made of runs of several budgets. Between two budgets the log of the loss is taken as
linear in the log of the operations. Outside of an arm's own budgets nothing is extrapolated: where the rival's loss is above all of
an arm's, the arm's cheapest run gives an upper bound; where it is below all of them, the arm's dearest run gives a lower one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thalweg.experiments.metrics import MIN_SEEDS
from thalweg.intervals import Interval, interval
from thalweg.records.run import Cell

Curve = Sequence[tuple[float, float]]
"""Of one arm and seed, by budget: operations (FLOPs), loss above the floor (nats)."""


_BOTH = "some seeds give an upper bound, others a lower one"
"""Said where the bounds of the seeds together bound nothing."""


@dataclass(frozen=True)
class Ratio:
    """Operations of an arm over those of a rival at the same loss, one seed."""

    value: float
    bound: int
    """0 where both curves have the loss; -1 where the ratio is at most, 1 where it is at least ``value``."""


@dataclass(frozen=True)
class Ratios:
    """The same over seeds: geometric mean and t-interval of the logarithms, paired by seed."""

    value: float
    low: float | None
    high: float | None
    n: int
    upper_bounds: int
    """Seeds at which the arm's cheapest run is already lower: the true ratio is smaller."""
    lower_bounds: int
    """Seeds at which none of the arm's runs gets there: the true ratio is larger, and no interval is given."""

    @property
    def is_below_one(self) -> bool:
        """Whether the arm needs fewer operations, on at least `MIN_SEEDS` seeds, bounds taken at their worst."""
        return self.n >= MIN_SEEDS and not self.lower_bounds and self.high is not None and self.high < 1

    @property
    def is_above_one(self) -> bool:
        """Whether the arm needs more operations."""
        return self.n >= MIN_SEEDS and not self.upper_bounds and self.low is not None and self.low > 1

    @property
    def logs(self) -> Interval | None:
        """Mean and interval of the logarithm; None where a seed gives a bound only."""
        bounded = self.lower_bounds or self.upper_bounds
        if bounded or self.low is None or self.high is None:
            return None
        return Interval(math.log(self.value), math.log(self.low), math.log(self.high), self.n)

    @property
    def bound(self) -> str:
        """How the true ratio lies to ``value`` where some seeds give a bound only; empty where none does."""
        if self.lower_bounds and self.upper_bounds:
            return _BOTH
        return "at least" if self.lower_bounds else "at most" if self.upper_bounds else ""

    @property
    def cell(self) -> Cell:
        """Mean and interval; a bound at every seed, or one from below at any, has no interval, only its mean."""
        bounded = self.lower_bounds or self.upper_bounds == self.n
        return Cell(self.value, None, None, self.n) if bounded else Cell(self.value, self.low, self.high, self.n)

    def __str__(self) -> str:
        low, high = self.cell.low, self.cell.high
        if self.bound == _BOTH:
            return f"about {self.value:.2f} ({_BOTH})"
        return f"{self.bound} {self.value:.2f}".lstrip() + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def operations_at(curve: Curve, loss: float) -> Ratio:
    """Operations at which a curve has a loss; a bound where it never has it.

    Where a curve is not monotone the first budget that is low enough counts.

    Returns:
        ``value`` in operations.
    Example:
        >>> operations_at([(1.0, 4.0), (4.0, 1.0)], 2.0)
        Ratio(value=2.0, bound=0)
    """
    ordered = sorted(curve)
    previous = None
    for operations, value in ordered:
        if value <= loss:
            if previous is None:
                return Ratio(operations, 0 if value == loss else -1)
            before, above = previous
            if value == loss:
                return Ratio(operations, 0)
            share = math.log(above / loss) / math.log(above / value)
            return Ratio(before * (operations / before) ** share, 0)
        previous = operations, value
    return Ratio(ordered[-1][0], 1)


def equal_loss(arm: Mapping[int, Curve], rival: Mapping[int, Curve], budget: int) -> Ratios | None:
    """Operations of an arm over those of a rival at the loss that the rival has at one of its budgets.

    Args:
        arm: seed -> curve.
        rival: seed -> curve; compared at the same seeds.
        budget: index of the rival's budget, from the lowest.
    Returns:
        None where no seed has both.
    """
    ratios = []
    for seed in sorted(arm.keys() & rival.keys()):
        ordered = sorted(rival[seed])
        if budget < len(ordered) and arm[seed]:
            operations, loss = ordered[budget]
            reached = operations_at(arm[seed], loss)
            ratios.append(Ratio(reached.value / operations, reached.bound))
    if not ratios:
        return None
    logs = interval([math.log(ratio.value) for ratio in ratios])
    ends = [None if end is None else math.exp(end) for end in (logs.low, logs.high)]
    above, below = (sum(ratio.bound == sign for ratio in ratios) for sign in (1, -1))
    return Ratios(math.exp(logs.mean), ends[0], ends[1], len(ratios), below, above)


def loss_ratio(arm: Mapping[int, Curve], rival: Mapping[int, Curve], budget: int) -> Interval | None:
    """Log of the loss of an arm over a rival's at the same budget, paired by seed; None where no seed has both."""
    pairs = [(sorted(arm[seed]), sorted(rival[seed])) for seed in sorted(arm.keys() & rival.keys())]
    logs = [math.log(a[budget][1] / b[budget][1]) for a, b in pairs if budget < min(len(a), len(b))]
    return interval(logs) if logs else None
