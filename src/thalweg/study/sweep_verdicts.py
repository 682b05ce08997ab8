"""Answers that a sweep gives to the questions about SHIFT, each with the numbers it rests on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

from thalweg.intervals import Interval, interval
from thalweg.records import Cell, EvaluationRecord, RunRecord
from thalweg.shift.criterion import Plateau
from thalweg.study.measures import Pairs, as_cell, paired, smoothed
from thalweg.study.outcomes import drop, fluctuation, loss_at_end, share_over_seeds, shares
from thalweg.study.switching import Way
from thalweg.study.verdicts import Runs
from thalweg.sweeps import SweepVerdict

GOAL, GOAL_HIGH, GOAL_DROP = 0.45, 0.6, 0.5
AXES = ("delta_loss", "delta_grad", "patience")
LOSS_NOISE, COST_NOISE = 0.002, 0.05
"""Differences in nats and in log operations that are too small to matter, whatever their interval."""

Ways = list[Way]


def verdicts_of(ways: Ways, runs: Runs, default: Plateau) -> list[SweepVerdict]:
    """Every question that the runs can answer; of a sweep that is still going on, those whose seeds can be paired."""

    def pairs(a: str, b: str) -> bool:
        return bool(runs.get(a, {}).keys() & runs.get(b, {}).keys())

    found: list[SweepVerdict] = []
    if pairs("shift", "looped"):
        found += [sooner(runs), smooth(runs), as_good(runs)]
    grid = [way for way in ways if way.group == "scp" and pairs(way.name, "looped")]
    if grid:
        looped = runs["looped"]
        common = {way.name: {s: r for s, r in runs[way.name].items() if s in looped} for way in grid}
        found.append(region(grid, runs | common, default))
    found += [against(runs, way.name) for way in ways if way.group == "share" and pairs(way.name, "shift")]
    for group, words in (("onset", "onset"), ("optimizer", "treatment of the optimizer"), ("stages", "ladder")):
        rivals = [way.name for way in ways if way.group == group and pairs(way.name, "shift")]
        if rivals:
            found.append(rivals_of_shift(rivals, words, runs))
    return found


def sooner(runs: Runs) -> SweepVerdict:
    """The default against the goal of 0.45 of Looped's time."""
    numbers: dict[str, Cell] = {}
    for words, spent in (("seconds", seconds), ("operations", operations)):
        for arm in ("shift", "shift-hard"):
            found = share_over_seeds(list(shares(runs[arm], runs["looped"], spent).values())) if runs.get(arm) else None
            if found is not None:
                numbers[f"share of {words}, {arm}"] = Cell(found.value, found.low, found.high, found.n - found.censored)
    found = share_over_seeds(list(shares(runs["shift"], runs["looped"], seconds).values()))
    assert found is not None
    if found.censored:
        answer = f"not in every run: {found.censored} of {found.n} never reached it"
    elif found.high is None:
        answer = f"undecided: {found.value:.2f} of its time at the only seed"
    elif found.value is not None and found.value <= GOAL and found.high < GOAL_HIGH:
        answer = "yes"
    else:
        answer = f"no: {found.value:.2f} of its time, up to {found.high:.2f}"
    return SweepVerdict(
        f"Does SHIFT reach Looped's final loss in {GOAL:.0%} of its time (upper end below {GOAL_HIGH:.0%})?", answer, numbers
    )


def smooth(runs: Runs) -> SweepVerdict:
    """Drop of accuracy at the switch."""
    numbers: dict[str, Cell] = {}
    for arm in ("shift", "shift-hard"):
        drops = [value for run in runs.get(arm, {}).values() if (value := drop(run)) is not None]
        if drops:
            numbers[f"drop of {arm} (points)"] = as_cell(interval(drops))
    pairs = [(runs["looped"][seed], run) for seed, run in runs["shift"].items() if seed in runs["looped"]]
    same = [value for looped, run in pairs if (value := fluctuation(looped, run)) is not None]
    if same:
        numbers["the same along looped, at those updates, without a switch"] = as_cell(interval(same))
    mine = numbers.get("drop of shift (points)")
    if mine is None:
        return SweepVerdict(question_drop(), "no run has switched", numbers)
    if mine.high is None:
        return SweepVerdict(question_drop(), f"undecided: {mine.mean:.2f} at the only seed", numbers)
    answer = "yes" if mine.high <= GOAL_DROP else f"no: {mine.mean:.2f}, up to {mine.high:.2f}"
    return SweepVerdict(question_drop(), answer, numbers)


def question_drop() -> str:
    """In words."""
    return f"Is the drop in accuracy at SHIFT's switch at most {GOAL_DROP:g} points?"


def as_good(runs: Runs) -> SweepVerdict:
    """Final loss, paired."""
    found = difference(runs["shift"], runs["looped"])
    numbers = {"final loss, shift - looped": as_cell(found)}
    if runs.get("shift-hard", {}).keys() & runs["looped"].keys():
        numbers["final loss, shift-hard - looped"] = as_cell(difference(runs["shift-hard"], runs["looped"]))
    answer = {-1: "yes, it is lower", 0: "no difference was found", 1: "no, it is higher"}[side(found)]
    return SweepVerdict("Is SHIFT's final loss as good as Looped's?", answer, numbers)


def region(grid: Ways, runs: Runs, default: Plateau) -> SweepVerdict:
    """The settings of SCP whose outcome is within noise of the best one's, in final loss and in operations to Looped's loss.

    Operations, not seconds, which other work on the machine disturbs. A setting with a run that never reaches Looped's loss has
    none: what it spent may be as little as Single's. It is not the fastest and not in the region, unless no setting reaches it at
    every seed; then the region is by final loss alone.
    """
    looped = runs["looped"]
    best = min(grid, key=lambda way: mean(loss_at_end(run) for run in runs[way.name].values()))
    reaching = [way for way in grid if reaches(runs[way.name], looped)]
    fast = min(reaching, key=lambda way: mean(logs(runs[way.name], looped).values()), default=None)
    inside = [way for way in reaching or grid if near(way, best, LOSS_NOISE, runs, losses)]
    if fast is not None:
        inside = [way for way in inside if near(way, fast, COST_NOISE, runs, logs)]
    answer = region_in_words(inside, grid, default) if inside else "no setting is near the best in both"
    answer += "" if reaching else "; by final loss alone, as no setting reaches Looped's at every seed"
    numbers = {f"final loss of the best, {best.name}": as_cell(interval([loss_at_end(run) for run in runs[best.name].values()]))}
    if fast is not None:
        times = interval(list(logs(runs[fast.name], looped).values()))
        numbers[f"log share of operations of the best, {fast.name}"] = as_cell(times)
    own = next((way for way in grid if setting_of(way) == default_setting(default)), None)
    if own is not None and runs[own.name].keys() & runs[best.name].keys():
        numbers["final loss, default - best"] = as_cell(difference(runs[own.name], runs[best.name]))
    return SweepVerdict(
        "Which settings of SCP are within noise of the best, in final loss and in operations to Looped's loss?", answer, numbers
    )


def near(way: Way, best: Way, margin: float, runs: Runs, measure: Callable[[Pairs, Pairs], dict[int, float]]) -> bool:
    """Whether a setting is within noise of the best; not before they have a seed in common."""
    mine, theirs = measure(runs[way.name], runs["looped"]), measure(runs[best.name], runs["looped"])
    common = sorted(mine.keys() & theirs.keys())
    return bool(common) and within(interval([mine[seed] - theirs[seed] for seed in common]), margin)


def reaches(runs: Pairs, looped: Pairs) -> bool:
    """Whether every run gets to Looped's final loss."""
    return all(reached for _, reached in shares(runs, looped, operations).values())


def losses(runs: Pairs, looped: Pairs) -> dict[int, float]:
    """Seed -> final loss, at the seeds that Looped has too."""
    return {seed: loss_at_end(runs[seed]) for seed in sorted(runs.keys() & looped.keys())}


def setting_of(way: Way) -> tuple:
    """A point of the grid."""
    return tuple(way.settings[axis] for axis in AXES)


def default_setting(default: Plateau) -> tuple:
    """The default as a point of the grid."""
    return tuple(getattr(default, axis) for axis in AXES)


def region_in_words(inside: Ways, grid: Ways, default: Plateau) -> str:
    """How large the region is, how far it reaches, and how well inside the default lies."""
    points, own = {setting_of(way) for way in inside}, default_setting(default)
    near = neighbours(own, [setting_of(way) for way in grid])
    reach = [(axis, sorted(float(point[place]) for point in points)) for place, axis in enumerate(AXES)]
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


def against(runs: Runs, name: str) -> SweepVerdict:
    """SCP against another moment, at equal wall-clock."""
    early, end = at_equal_time(runs["shift"], runs[name]), difference(runs[name], runs["shift"])
    decided = side(early)
    answer = {1: "SCP is better", 0: "no difference was found", -1: f"`{name}` is better"}[decided]
    numbers = {f"loss at equal seconds, {name} - shift": as_cell(early), f"final loss, {name} - shift": as_cell(end)}
    return SweepVerdict(f"SCP against `{name}`, at equal wall-clock?", answer, numbers)


def rivals_of_shift(names: list[str], words: str, runs: Runs) -> SweepVerdict:
    """Which others end better or worse than the default."""
    found = {name: difference(runs[name], runs["shift"]) for name in names}
    better, worse = ([name for name, one in found.items() if side(one) == sign] for sign in (-1, 1))
    parts = [f"{verb}: {', '.join(some)}" for verb, some in (("better", better), ("worse", worse)) if some]
    answer = "; ".join(parts) or "no difference was found"
    return SweepVerdict(
        f"Does another {words} end with another loss than the default?",
        answer,
        {f"final loss, {name} - shift": as_cell(one) for name, one in found.items()},
    )


def at_equal_time(shift: Pairs, other: Pairs) -> Interval:
    """Smoothed held-out loss at the end of the shorter of the two runs, other minus shift, paired by seed."""
    found = []
    for seed in sorted(shift.keys() & other.keys()):
        end = min(run.evaluations[-1].seconds for run in (shift[seed], other[seed]))
        found.append(smoothed_at(other[seed], end) - smoothed_at(shift[seed], end))
    return interval(found)


def smoothed_at(run: RunRecord, when: float) -> float:
    """Held-out loss at a moment in seconds, on straight lines between the points of the smoothed curve."""
    points = smoothed(run, seconds)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= when <= x1:
            return y0 + (y1 - y0) * (when - x0) / (x1 - x0) if x1 > x0 else y1
    return points[0][1] if when < points[0][0] else points[-1][1]


def logs(runs: Pairs, looped: Pairs) -> dict[int, float]:
    """Seed -> log of the share of operations; a censored run counts with its end, the least that it can be."""
    return {seed: math.log(share) for seed, (share, _) in shares(runs, looped, operations).items()}


def within(worse: Interval, margin: float) -> bool:
    """Whether a paired difference to the best is noise, or too small to matter."""
    return worse.mean <= margin or (worse.low is not None and worse.low <= 0)


def difference(runs: Pairs, other: Pairs) -> Interval:
    """Final loss, paired by seed."""
    return interval(paired(runs, other, loss_at_end))


def side(found: Interval) -> int:
    """-1, 0 or 1: where the interval lies."""
    return 0 if not found.excludes_zero else (1 if found.mean > 0 else -1)


def mean(values: Iterable[float]) -> float:
    """Of at least one."""
    every = list(values)
    return sum(every) / len(every)


def seconds(record: EvaluationRecord) -> float:
    """Training seconds spent."""
    return record.seconds


def operations(record: EvaluationRecord) -> float:
    """Operations spent."""
    return record.flops
