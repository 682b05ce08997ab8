"""The region of SCP's thresholds in which SHIFT's outcome is within noise of the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from thalweg.experiments.metrics import Pairs, as_cell, too_few
from thalweg.experiments.outcomes import difference, logs, loss_at_end, losses, reaches
from thalweg.experiments.paper.verdicts import Runs
from thalweg.experiments.switching.variants import Variant
from thalweg.intervals import Interval, interval
from thalweg.records.run import Verdict
from thalweg.shift.criterion import Plateau

_AXES = ("delta_loss", "delta_grad", "patience")
_LOSS_NOISE, _COST_NOISE = 0.002, 0.05
"""Differences in nats and in log operations that are too small to matter, whatever their interval."""

Ways = list[Variant]


def region(grid: Ways, runs: Runs, default: Plateau) -> Verdict:
    """The settings of SCP whose outcome is within noise of the best one's, in final loss and in operations to Looped's loss.

    Operations, not seconds, which other work on the machine disturbs. A setting with a run that never reaches Looped's loss has
    none: what it spent may be as little as Single's. It is not the fastest and not in the region, unless no setting reaches it at
    every seed; then the region is by final loss alone.
    """
    looped = runs["looped"]
    best = min(grid, key=lambda variant: mean(loss_at_end(run) for run in runs[variant.name].values()))
    reaching = [variant for variant in grid if reaches(runs[variant.name], looped)]
    fast = min(reaching, key=lambda variant: mean(logs(runs[variant.name], looped).values()), default=None)
    inside = [variant for variant in reaching or grid if near(variant, best, _LOSS_NOISE, runs, losses)]
    if fast is not None:
        inside = [variant for variant in inside if near(variant, fast, _COST_NOISE, runs, logs)]
    answer = _region_in_words(inside, grid, default) if inside else "no setting is near the best in both"
    answer += "" if reaching else "; by final loss alone, as no setting reaches Looped's at every seed"
    numbers = {f"final loss of the best, {best.name}": as_cell(interval([loss_at_end(run) for run in runs[best.name].values()]))}
    if fast is not None:
        times = interval(list(logs(runs[fast.name], looped).values()))
        numbers[f"log share of operations of the best, {fast.name}"] = as_cell(times)
    own = next((variant for variant in grid if _setting_of(variant) == _default_setting(default)), None)
    if own is not None and runs[own.name].keys() & runs[best.name].keys():
        numbers["final loss, default - best"] = as_cell(difference(runs[own.name], runs[best.name]))
    fewest = min((len(runs[variant.name]) for variant in grid), default=0)
    answer = f"{too_few(fewest)}; so far {answer}" if too_few(fewest) else answer
    question = "Which settings of SCP are within noise of the best, in final loss and in operations to Looped's loss?"
    return Verdict(question, answer, numbers=numbers)


def near(variant: Variant, best: Variant, margin: float, runs: Runs, measure: Callable[[Pairs, Pairs], dict[int, float]]) -> bool:
    """Whether a setting is within noise of the best; not before they have a seed in common."""
    mine, theirs = measure(runs[variant.name], runs["looped"]), measure(runs[best.name], runs["looped"])
    common = sorted(mine.keys() & theirs.keys())
    return bool(common) and within(interval([mine[seed] - theirs[seed] for seed in common]), margin)


def _setting_of(variant: Variant) -> tuple:
    """A point of the grid."""
    return tuple(variant.settings[axis] for axis in _AXES)


def _default_setting(default: Plateau) -> tuple:
    """The default as a point of the grid."""
    return tuple(getattr(default, axis) for axis in _AXES)


def _region_in_words(inside: Ways, grid: Ways, default: Plateau) -> str:
    """How large the region is, how far it reaches, and how well inside the default lies."""
    points, own = {_setting_of(variant) for variant in inside}, _default_setting(default)
    near = neighbours(own, [_setting_of(variant) for variant in grid])
    reach = [(axis, sorted(float(point[place]) for point in points)) for place, axis in enumerate(_AXES)]
    ranges = ", ".join(f"{axis} {values[0]:g} to {values[-1]:g}" for axis, values in reach)
    stands = "inside" if own in points else "outside"
    held = sum(point in points for point in near)
    size = f"{len(inside)} of {len(grid)} settings ({ranges})"
    return f"{size}; the default is {stands}, with {held} of its {len(near)} neighbours inside"


def neighbours(own: tuple, settings: list[tuple]) -> list[tuple]:
    """Settings one step away along one axis.

    Example:
        >>> neighbours((1, 1), [(0, 1), (1, 1), (1, 3), (2, 2), (1, 2)])
        [(0, 1), (1, 2)]
    """
    axes = [sorted({setting[axis] for setting in settings} | {own[axis]}) for axis in range(len(own))]

    def apart(other: tuple) -> int:
        return sum(abs(values.index(a) - values.index(b)) for values, a, b in zip(axes, own, other, strict=True))

    return [setting for setting in settings if apart(setting) == 1]


def within(worse: Interval, margin: float) -> bool:
    """Whether a paired difference to the best is noise, or too small to matter."""
    return worse.mean <= margin or (worse.low is not None and worse.low <= 0)


def mean(values: Iterable[float]) -> float:
    """Of at least one."""
    every = list(values)
    return sum(every) / len(every)
