"""The region of SCP's settings in which SHIFT's outcome is within noise of the best setting's.

A setting is a point ``(delta_loss, delta_grad, patience)`` of the sweep's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from thalweg.experiments.metrics import Pairs, as_cell, too_few
from thalweg.experiments.outcomes import difference, losses
from thalweg.experiments.paper.verdicts import Runs
from thalweg.experiments.share import logs, loss_at_end, reaches
from thalweg.experiments.switching.variants import Variant
from thalweg.intervals import Interval, interval
from thalweg.records.run import Verdict
from thalweg.shift.criterion import Plateau

_AXES = ("delta_loss", "delta_grad", "patience")
_LOSS_NOISE, _COST_NOISE = 0.002, 0.05
"""Differences in nats and in log operations that are too small to matter, whatever their interval."""


def region(grid: list[Variant], runs: Runs, default: Plateau) -> Verdict:
    """The settings of SCP within noise of the best one, in final loss and in operations until Looped's loss is reached.

    The cost is counted in operations, not in seconds, because other load on the machine disturbs seconds. A setting with a run that
    never reaches Looped's loss has no cost: what it spent may be as little as Single's. Such a setting is neither the fastest nor
    in the region, unless no setting reaches the loss at every seed; then the region is decided by the final loss alone.

    Args:
        grid: the variants of SCP's grid.
        runs: variant -> seed -> complete run; of the grid's variants only seeds that Looped has.
        default: the recipe's own setting, whose place relative to the region is reported.
    """
    looped = runs["looped"]
    # The best setting of either kind: lowest mean final loss, and lowest mean log cost among settings that always get there.
    best = min(grid, key=lambda variant: _mean(loss_at_end(run) for run in runs[variant.name].values()))
    reaching = [variant for variant in grid if reaches(runs[variant.name], looped)]
    fastest = min(reaching, key=lambda variant: _mean(logs(runs[variant.name], looped).values()), default=None)
    # The region holds what cannot be told from the best in loss, and from the fastest in cost.
    inside = [variant for variant in reaching or grid if near(variant, best, _LOSS_NOISE, runs, losses)]
    if fastest is not None:
        inside = [variant for variant in inside if near(variant, fastest, _COST_NOISE, runs, logs)]
    answer = _region_summary(inside, grid, default) if inside else "no setting is near the best in both"
    answer += "" if reaching else "; by final loss alone, as no setting reaches Looped's at every seed"
    numbers = {f"final loss of the best, {best.name}": as_cell(interval([loss_at_end(run) for run in runs[best.name].values()]))}
    if fastest is not None:
        log_shares = interval(list(logs(runs[fastest.name], looped).values()))
        numbers[f"log share of operations of the best, {fastest.name}"] = as_cell(log_shares)
    own = next((variant for variant in grid if _setting_of(variant) == _default_setting(default)), None)
    if own is not None and runs[own.name].keys() & runs[best.name].keys():
        numbers["final loss, default - best"] = as_cell(difference(runs[own.name], runs[best.name]))
    fewest = min((len(runs[variant.name]) for variant in grid), default=0)
    answer = f"{too_few(fewest)}; so far {answer}" if too_few(fewest) else answer
    question = "Which settings of SCP are within noise of the best, in final loss and in operations to Looped's loss?"
    return Verdict(question, answer, numbers=numbers)


def near(variant: Variant, best: Variant, margin: float, runs: Runs, measure: Callable[[Pairs, Pairs], dict[int, float]]) -> bool:
    """Whether a setting is within noise of the best; False while they have no seed in common.

    Args:
        variant: the setting that is tested.
        best: the setting that it is compared with, paired by seed.
        margin: difference that is too small to matter, in the unit of ``measure``.
        runs: variant -> seed -> complete run.
        measure: ``(runs, looped)`` -> number of each seed, the lower, the better.
    """
    own, lowest = measure(runs[variant.name], runs["looped"]), measure(runs[best.name], runs["looped"])
    common = sorted(own.keys() & lowest.keys())
    return bool(common) and within(interval([own[seed] - lowest[seed] for seed in common]), margin)


def _setting_of(variant: Variant) -> tuple:
    """The point of the grid that a variant has."""
    return tuple(variant.settings[axis] for axis in _AXES)


def _default_setting(default: Plateau) -> tuple:
    """The recipe's own setting as a point of the grid."""
    return tuple(getattr(default, axis) for axis in _AXES)


def _region_summary(inside: list[Variant], grid: list[Variant], default: Plateau) -> str:
    """How many settings the region has, its range along each axis, and how well inside it the default lies."""
    settings, own = {_setting_of(variant) for variant in inside}, _default_setting(default)
    adjacent = neighbours(own, [_setting_of(variant) for variant in grid])
    values_by_axis = [(axis, sorted(float(setting[index]) for setting in settings)) for index, axis in enumerate(_AXES)]
    ranges = ", ".join(f"{axis} {values[0]:g} to {values[-1]:g}" for axis, values in values_by_axis)
    position = "inside" if own in settings else "outside"
    adjacent_inside = sum(setting in settings for setting in adjacent)
    size = f"{len(inside)} of {len(grid)} settings ({ranges})"
    return f"{size}; the default is {position}, with {adjacent_inside} of its {len(adjacent)} neighbours inside"


def neighbours(own: tuple, settings: list[tuple]) -> list[tuple]:
    """The settings one step away from ``own`` along one axis, where an axis steps through the values that occur on it.

    Example:
        >>> neighbours((1, 1), [(0, 1), (1, 1), (1, 3), (2, 2), (1, 2)])
        [(0, 1), (1, 2)]
    """
    axes = [sorted({setting[axis] for setting in settings} | {own[axis]}) for axis in range(len(own))]

    def steps_away(other: tuple) -> int:
        return sum(abs(values.index(a) - values.index(b)) for values, a, b in zip(axes, own, other, strict=True))

    return [setting for setting in settings if steps_away(setting) == 1]


def within(worse: Interval, margin: float) -> bool:
    """Whether a paired difference to the best is noise (its interval reaches 0 or below) or at most ``margin``."""
    return worse.mean <= margin or (worse.low is not None and worse.low <= 0)


def _mean(values: Iterable[float]) -> float:
    """Arithmetic mean of at least one number."""
    numbers = list(values)
    return sum(numbers) / len(numbers)
