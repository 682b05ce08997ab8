"""Answers that a sweep gives to the questions about SHIFT, each with the numbers it rests on."""

from __future__ import annotations

import itertools

from thalweg.experiments.metrics import Measure, Pairs, as_cell, sign_of, smoothed, too_few
from thalweg.experiments.outcomes import beside, difference, drop, logs, operations, reaches, seconds, share_over_seeds, shares
from thalweg.experiments.paper.verdicts import Runs
from thalweg.experiments.switching.scp_region import region
from thalweg.experiments.switching.variants import SHORT, Variant
from thalweg.intervals import Interval, interval
from thalweg.records.run import Cell, RunRecord, Verdict
from thalweg.shift.criterion import Plateau

_GOAL, _GOAL_HIGH, _GOAL_DROP = 0.45, 0.6, 0.5
_BASES = {
    "onset": ("another onset", "shift"),
    "optimizer": ("another treatment of the optimizer", "shift-scp"),
    "stages": ("another ladder", "shift"),
    "model": ("another model (looped or in stages)", "shift"),
}
"""Group -> what is asked of it, and the way that its members are compared with."""
_NETS = {"shift-hard": "hard, net", "hard half way": "hard half way, net"}
"""A hard switch -> the same with the safety net."""

Ways = list[Variant]


def verdicts_of(variants: Ways, runs: Runs, default: Plateau) -> list[Verdict]:
    """Every question that the runs can answer; of a sweep that is still going on, those whose seeds can be paired."""

    def pairs(a: str, b: str) -> bool:
        return bool(runs.get(a, {}).keys() & runs.get(b, {}).keys())

    found: list[Verdict] = []
    if pairs("shift", "looped"):
        found += [sooner(runs), smooth(runs), _as_good(runs)]
    if pairs("shift-short", "looped"):
        found.append(_short_run_matches(runs))
    grid = [variant for variant in variants if variant.group == "scp" and pairs(variant.name, "looped")]
    if grid:
        looped = runs["looped"]
        common = {variant.name: {s: r for s, r in runs[variant.name].items() if s in looped} for variant in grid}
        found.append(region(grid, runs | common, default))
    rivals = ["shift", *(variant.name for variant in variants if variant.group == "share")]
    found += [against(runs, name) for name in rivals if pairs(name, "shift-scp")]
    for group, (words, base) in _BASES.items():
        rivals = [variant.name for variant in variants if variant.group == group and pairs(variant.name, base)]
        if rivals:
            found.append(_rivals_of(base, rivals, words, runs))
    found += [
        _shift_gain_on_stable_model(runs, kind)
        for kind in ("learned gains", "stable")
        if pairs(f"shift, {kind}", f"looped, {kind}")
    ]
    if any(pairs(bare, name) for bare, name in _NETS.items()):
        found.append(_safety_net_effect(runs))
    return found


def sooner(runs: Runs) -> Verdict:
    """The default against the goal of 0.45 of Looped's time."""
    numbers: dict[str, Cell] = {}
    for words, spent in (("seconds", seconds), ("operations", operations)):
        for arm in ("shift", "shift-scp", "shift-hard"):
            found = share_over_seeds(list(shares(runs[arm], runs["looped"], spent).values())) if runs.get(arm) else None
            if found is not None:
                numbers[f"share of {words}, {arm}"] = Cell(found.value, found.low, found.high, found.n - found.censored)
    found = share_over_seeds(list(shares(runs["shift"], runs["looped"], seconds).values()))
    assert found is not None
    if found.censored:
        answer = f"not in every run: {found.censored} of {found.n} never reached it"
    elif too_few(found.n):
        answer = too_few(found.n)
    elif found.value is not None and found.high is not None and found.value <= _GOAL and found.high < _GOAL_HIGH:
        answer = "yes"
    else:
        answer = f"no: {found.value:.2f} of its time, up to {found.high:.2f}"
    question = f"Does SHIFT reach Looped's final loss in {_GOAL:.0%} of Looped's time to it (upper end below {_GOAL_HIGH:.0%})?"
    return Verdict(question, answer, numbers=numbers)


def smooth(runs: Runs) -> Verdict:
    """Drop of accuracy at the switch, beside what Looped loses at the same updates without one."""
    numbers: dict[str, Cell] = {}
    for arm in ("shift", "shift-scp", "shift-hard"):
        drops = [value for run in runs.get(arm, {}).values() if (value := drop(run)) is not None]
        if drops:
            numbers[f"drop of {arm} (points)"] = as_cell(interval(drops))
    known = beside(runs["shift"], runs["looped"])
    beyond = interval([mine - same for mine, same in known]) if known else None
    if beyond is not None:
        numbers["the same along looped, at those updates, without a switch"] = as_cell(interval([same for _, same in known]))
        numbers["drop of shift beyond that (points)"] = as_cell(beyond)
    mine = numbers.get("drop of shift (points)")
    question = f"Is the drop in accuracy at SHIFT's switch at most {_GOAL_DROP:g} points (upper end of the interval)?"
    if mine is None:
        return Verdict(question, "no run has switched", numbers=numbers)
    if mine.high is None or too_few(mine.n):
        return Verdict(question, too_few(mine.n), numbers=numbers)
    answer = "yes" if mine.high <= _GOAL_DROP else f"no: {mine.mean:.2f}, up to {mine.high:.2f}"
    if mine.high > _GOAL_DROP and beyond is not None and not too_few(beyond.n) and sign_of(beyond) <= 0:
        answer += "; but no more than Looped loses there without a switch"
    return Verdict(question, answer, numbers=numbers)


def _as_good(runs: Runs) -> Verdict:
    """Final loss, paired."""
    found = difference(runs["shift"], runs["looped"])
    numbers = {"final loss, shift - looped": as_cell(found)}
    for arm in ("shift-scp", "shift-hard", "single"):
        if runs.get(arm, {}).keys() & runs["looped"].keys():
            numbers[f"final loss, {arm} - looped"] = as_cell(difference(runs[arm], runs["looped"]))
    return Verdict("Is SHIFT as good as Looped after as many updates?", _as_words(found), numbers=numbers)


def _short_run_matches(runs: Runs) -> Verdict:
    """The short run, with a decay of its own: under one that decays late, Looped's loss is reached late whatever the run."""
    short, looped = runs["shift-short"], runs["looped"]
    seeds = sorted(short.keys() & looped.keys())
    numbers = {"final loss, shift-short - looped": as_cell(difference(short, looped))}
    for words, spent in (("seconds", seconds), ("operations", operations)):
        spends = [spent(short[seed].evaluations[-1]) / spent(looped[seed].evaluations[-1]) for seed in seeds]
        numbers[f"{words} of the whole run as a share of looped's"] = as_cell(interval(spends))
    return Verdict(
        f"Is SHIFT as good as Looped after {SHORT:.0%} of its updates, the rate's schedule fitted into them?",
        _as_words(difference(short, looped)),
        numbers=numbers,
    )


def _as_words(found: Interval) -> str:
    """A paired difference to Looped's final loss as an answer."""
    words = {-1: "yes, its final loss is lower", 0: "no difference was found", 1: "no, its final loss is higher"}
    return too_few(found.n) or words[sign_of(found)]


def against(runs: Runs, name: str) -> Verdict:
    """SCP against another moment, with the same ramp, at equal wall-clock; operations beside it, which nothing else disturbs."""
    scp, other = runs["shift-scp"], runs[name]
    early = {"seconds": at_equal_cost(scp, other, seconds), "operations": at_equal_cost(scp, other, operations)}
    told = {
        words: too_few(one.n) or {1: "SCP is better", 0: "no difference was found", -1: f"“{name}” is better"}[sign_of(one)]
        for words, one in early.items()
    }
    same = told["seconds"] == told["operations"]
    answer = told["seconds"] if same else f"{told['seconds']}; at equal operations {told['operations']}"
    numbers = {f"loss at equal {words}, {name} - shift-scp": as_cell(one) for words, one in early.items()}
    numbers |= {f"final loss, {name} - shift-scp": as_cell(difference(other, scp))}
    return Verdict(f"SCP against “{name}”, at equal wall-clock?", answer, numbers=numbers)


def _rivals_of(base: str, names: list[str], words: str, runs: Runs) -> Verdict:
    """Which others end lower than one way, or get to Looped's loss with fewer operations, where all runs get there."""
    looped = runs.get("looped", {})
    ends = {name: difference(runs[name], runs[base]) for name in names}
    there = [name for name in (base, *names) if reaches(runs[name], looped)]
    own = logs(runs[base], looped)
    costs = {}
    for name in there[1:] if base in there else ():
        theirs = logs(runs[name], looped)
        costs[name] = interval([theirs[seed] - own[seed] for seed in sorted(theirs.keys() & own.keys())])
    parts = sides(ends, "lower final loss", "higher final loss") + sides(costs, "fewer operations", "more operations")
    numbers = {f"final loss, {name} - {base}": as_cell(one) for name, one in ends.items()}
    numbers |= {f"log operations to Looped's loss, {name} - {base}": as_cell(one) for name, one in costs.items()}
    few = too_few(max(one.n for one in ends.values()))
    answer = few or "; ".join(parts) or "no difference was found"
    return Verdict(f"Is {words} better than that of {base}?", answer, numbers=numbers)


def _shift_gain_on_stable_model(runs: Runs, kind: str) -> Verdict:
    """Whether SHIFT still saves something where the model itself brings its passes in softly: against that model's own Looped."""
    shift, looped = runs[f"shift, {kind}"], runs[f"looped, {kind}"]
    share = share_over_seeds(list(shares(shift, looped, operations).values()))
    assert share is not None
    apart = difference(shift, looped)
    numbers = {"final loss, shift - looped": as_cell(apart)}
    numbers["share of operations, shift"] = Cell(share.value, share.low, share.high, share.n - share.censored)
    if share.censored:
        answer = f"not in every run: {share.censored} of {share.n} never reached its loss"
    elif too_few(share.n):
        answer = too_few(share.n)
    else:
        answer = "yes" if share.high is not None and share.high < 1 else "not shown"
        answer += f": {share.value:.2f} of the operations that Looped spends to its final loss"
    question = f"With the model “{kind}”, does SHIFT save something against the same model looped?"
    return Verdict(question, answer, numbers=numbers)


def sides(found: dict[str, Interval], below: str, above: str) -> list[str]:
    """The names whose interval lies below zero, and those above."""
    named = {words: [name for name, one in found.items() if sign_of(one) == sign] for words, sign in ((below, -1), (above, 1))}
    return [f"{words}: {', '.join(names)}" for words, names in named.items() if names]


def _safety_net_effect(runs: Runs) -> Verdict:
    """Hard switches with the safety net against the same without."""
    numbers: dict[str, Cell] = {}
    answers = []
    for bare, name in _NETS.items():
        if runs.get(name, {}).keys() & runs.get(bare, {}).keys():
            found = difference(runs[name], runs[bare])
            numbers[f"final loss, {name} - {bare}"] = as_cell(found)
            times = sum(len(run.retreats) for run in runs[name].values())
            words = too_few(found.n) or ("lower loss", "no difference was found", "higher loss")[sign_of(found) + 1]
            answers.append(f"{bare}: {times} taken back, {words}")
    return Verdict("Does the safety net mend a hard switch?", "; ".join(answers), numbers=numbers)


def at_equal_cost(shift: Pairs, other: Pairs, spent: Measure) -> Interval:
    """Smoothed held-out loss where the cheaper of the two runs ends, other minus shift, paired by seed."""
    found = []
    for seed in sorted(shift.keys() & other.keys()):
        end = min(spent(run.evaluations[-1]) for run in (shift[seed], other[seed]))
        found.append(smoothed_at(other[seed], end, spent) - smoothed_at(shift[seed], end, spent))
    return interval(found)


def smoothed_at(run: RunRecord, when: float, spent: Measure) -> float:
    """Held-out loss when so much was spent, on straight lines between the points of the smoothed curve."""
    points = smoothed(run, spent)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= when <= x1:
            return y0 + (y1 - y0) * (when - x0) / (x1 - x0) if x1 > x0 else y1
    return points[0][1] if when < points[0][0] else points[-1][1]
