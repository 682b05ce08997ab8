"""How many updates each stage of a run gets for a budget of operations.

A stage of k passes costs about k times as much for each update as one of a single pass. Stages are therefore planned by shares of
the operations: a share of 0.2 in a stage of two passes buys many more updates than the same share in one of six.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from thalweg.errors import BadInputError, require
from thalweg.shift.criterion import as_number

_LADDER = (2, 3, 6)
"""Passes of the stages before the last one."""
_EARLY = (0.2, 0.5, 0.75)
"""Shares of the operations after which the stages end where depth pays."""
_LATE = (0.6, 0.85, 0.95)
"""Shares of the updates after which the stages end where depth hardly pays."""
_EVIDENCE = {
    True: (
        "the best constant depth was T passes throughout; training in stages reaches their final loss in 0.45 [0.26, 0.76] of "
        "their operations on roots of trees, and in 0.50 [0.37, 0.68] on topmost marked ancestors (T = 5, five fresh seeds, rate "
        "and curriculum tuned for each arm)"
    ),
    False: (
        "training in stages reaches the final loss of T stabilised passes throughout in 0.44 [0.37, 0.51] of their operations; "
        "with Muon, that of the strongest loop of T passes in 0.52 [0.37, 0.72]; against two passes throughout, the best constant "
        "depth, no saving was shown (Markov language, T = 6, five fresh seeds, rates tuned for each arm)"
    ),
}


@dataclass(frozen=True)
class StagePlan:
    """The stages of a run, planned for a budget."""

    stages: tuple[int, ...]
    """Passes of each stage, rising."""
    updates: tuple[int, ...]
    """Updates in each stage, at least 1."""
    operations: float
    """Planned for the whole run, in floating-point operations; the budget but for rounding to whole updates."""

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return sum(self.updates)

    @property
    def switches(self) -> tuple[int, ...]:
        """Updates before each change of stage."""
        return tuple(itertools.accumulate(self.updates))[:-1]


def plan_stages(budget: float, stages: Sequence[int], shares: Sequence[float], price: Callable[[int], float]) -> StagePlan:
    """Divide a budget of operations between stages.

    Args:
        budget: operations of the whole run (FLOPs), forward and backward.
        stages: passes of each stage, rising.
        shares: share of the budget after which each stage but the last ends, rising, between 0 and 1.
        price: operations of one update with so many passes.
    Raises:
        BadInputError: another number of shares than stages less one, shares that do not rise, or a stage that is rounded to no
            update,
            or prices that do not rise with the passes.
    Example:
        >>> plan_stages(100.0, stages=(2, 5), shares=(0.4,), price=float)
        StagePlan(stages=(2, 5), updates=(20, 12), operations=100.0)
    """
    require(len(shares) == len(stages) - 1, "shares", len(shares), f"{len(stages) - 1}, one for each change of stage")
    edges = [0.0, *shares, 1.0]
    require(all(a < b for a, b in itertools.pairwise(edges)), "shares", tuple(shares), "numbers between 0 and 1 that rise")
    budget, prices = as_number(budget, "budget"), {k: _price(price, k) for k in stages}
    require(0 < budget < math.inf, "budget", budget, "the operations of the whole run, a finite number above 0")
    rises = all(prices[few] < prices[more] for few, more in itertools.pairwise(stages))
    require(rises, "price", prices, "more operations for more passes: the function of the number of passes has to use it")
    updates = tuple(round((b - a) * budget / prices[k]) for (a, b), k in zip(itertools.pairwise(edges), stages, strict=True))
    for loops, count in zip(stages, updates, strict=True):
        if count < 1:
            needed = max(prices[k] / (b - a) for (a, b), k in zip(itertools.pairwise(edges), stages, strict=True))
            raise BadInputError(
                f"budget: given {budget:.3g} operations, which pay for no update with {loops} passes "
                f"({prices[loops]:.3g} each) after the other stages; expected at least {needed:.3g}"
            )
    return StagePlan(tuple(stages), updates, sum(count * prices[loops] for loops, count in zip(stages, updates, strict=True)))


def _price(price: Callable[[int], float], loops: int) -> float:
    """The operations of one update with so many passes, from the caller's function."""
    example = "lambda k: thalweg.cost(model.config, batch, length, loops=k).training_step"
    require(callable(price), "price", price, f"a function of the number of passes, such as {example}")
    operations = as_number(price(loops), f"price({loops})")
    require(0 < operations < math.inf, f"price({loops})", operations, "the operations of one update, a finite number above 0")
    return operations


def recommended(loops: int, depth_pays: bool) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The stages, and the shares of the operations after which they end, that were found best for T passes.

    Where depth pays (roots of trees) the stages end early: two passes to 20 % of the operations, three to half of
    them. Where it hardly does (the Markov language) they end late: two passes to 60 % of the updates, three to 85 %.

    Args:
        loops: T, the passes of the last stage, at least 2.
        depth_pays: whether many passes are known to help, at equal operations.
    Example:
        >>> recommended(5, depth_pays=True)
        ((2, 3, 5), (0.2, 0.5))

    Source:
        Ours, measured: `docs/results.md`.
    """
    return stages_ending("early" if depth_pays else "late", loops)


def stages_ending(when: Literal["early", "even", "late"], loops: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Stages of 2, 3, 6, then T passes, and the shares of the operations after which they end.

    Args:
        when: "early": after 20, 50 and 75 % of the operations; "late": after 60, 85 and 95 % of the updates; "even": each stage
            has the same share of the operations.
        loops: T, at least 2.
    Example:
        >>> stages_ending("even", 3)
        ((2, 3), (0.5,))
    """
    require(loops >= 2, "loops", loops, "at least 2 passes")
    ladder = tuple(k for k in _LADDER if k < loops)
    stages = (*ladder, loops)
    shares = {
        "early": _EARLY[: len(ladder)],
        "even": tuple(index / len(stages) for index in range(1, len(stages))),
        "late": _as_operations(stages, _LATE[: len(ladder)]),
    }
    return stages, shares[when]


def evidence(loops: int, depth_pays: bool) -> str:
    """What was measured of the schedule that `recommended` gives, in a sentence."""
    if len(recommended(loops, depth_pays)[0]) == 1:
        return f"nothing was measured: stages begin with 2 passes, so that {loops} passes are trained throughout"
    return f"measured on thalweg's own sources and small models, not on yours: {_EVIDENCE[depth_pays]}"


def _as_operations(stages: Sequence[int], updates: Sequence[float]) -> tuple[float, ...]:
    """Shares of the updates as shares of the operations, where an update costs as much as its passes."""
    edges = (0.0, *updates, 1.0)
    spent = [(after - before) * loops for (before, after), loops in zip(itertools.pairwise(edges), stages, strict=True)]
    return tuple(running / sum(spent) for running in itertools.accumulate(spent[:-1]))
