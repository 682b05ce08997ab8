"""Answers that a study of tasks gives, each with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from thalweg.experiments.metrics import Pairs, as_cell, paired, sign_of, too_few
from thalweg.experiments.outcomes import beside
from thalweg.experiments.tasks.outcomes import LEARNED, trained_accuracy
from thalweg.intervals import interval
from thalweg.records.experiment import ALONG, CONTROLS, GOAL, GOAL_DROP, HALTING, SWITCHING, Share, Table, TaskOutcome
from thalweg.records.run import Cell, Verdict

Outcomes = Sequence[TaskOutcome]
Runs = dict[str, dict[str, Pairs]]
"""Task -> arm -> seed -> run."""


def task_verdicts(outcomes: Outcomes, runs: Runs, longest: dict[str, int]) -> list[Verdict]:
    """Every question that the runs can answer; what is asked of several arms is asked of each by itself."""
    found = [generalises(outcomes, longest)]
    found += [sooner(outcomes, arm) for arm in (*ALONG, *CONTROLS)]
    found += [smooth(outcomes, runs, arm) for arm in SWITCHING]
    found += [beyond(outcomes, longest, arm) for arm in ALONG]
    found += [as_good(runs, arm) for arm in ALONG]
    return [one for one in [*found, halting(outcomes)] if one.numbers]


def of_arm(outcomes: Outcomes, arm: str) -> dict[str, TaskOutcome]:
    """Task -> outcome of one arm that has complete runs."""
    return {one.task: one for one in outcomes if one.arm == arm and one.seeds}


def listed(names: Sequence[str]) -> str:
    """Names in words."""
    return ", ".join(names) or "none"


def answered(answer: str, seeds: dict[str, int]) -> str:
    """An answer over tasks, with those named that have too few seeds for one; none where no task has enough.

    Example:
        >>> answered("parity", {"parity": 3, "copy": 1})
        'parity; undecided: 1 of at least 3 seeds on copy'
    """
    if seeds and all(map(too_few, seeds.values())):
        return too_few(max(seeds.values()))
    few = [f"{too_few(count)} on {task}" for task, count in seeds.items() if too_few(count)]
    return "; ".join([answer, *few])


def generalises(outcomes: Outcomes, longest: dict[str, int]) -> Verdict:
    """Looped at one and a half times the longest training length, or the tested length nearest to it."""
    numbers, seeds, there = {}, {}, []
    for task, one in of_arm(outcomes, "looped").items():
        lengths = [n for n in one.lengths if n > longest[task]]
        if not lengths:
            continue
        length = min(lengths, key=lambda n: abs(n - 1.5 * longest[task]))
        for arm in ("looped", "single", "next-token"):
            other = of_arm(outcomes, arm).get(task)
            if other is not None and length in other.lengths:
                numbers[f"{task} at {length}, {arm}"] = as_cell(interval(list(other.accuracy[other.lengths.index(length)])))
        seeds[task] = len(one.seeds)
        there += [task] if not too_few(seeds[task]) and min(one.accuracy[one.lengths.index(length)]) >= 0.95 else []
    question = "On which tasks is every Looped seed at least 0.95 right at about one and a half times the longest training length?"
    return Verdict(question, answered(listed(there), seeds), numbers=numbers)


def sooner(outcomes: Outcomes, arm: str) -> Verdict:
    """Tasks on which an arm reaches Looped's exact match in the goal's share of its cost."""
    numbers: dict[str, Cell] = {}
    mine = of_arm(outcomes, arm)
    for task, one in mine.items():
        for what, share in (("time", one.share_seconds), ("operations", one.share_flops)):
            if share is not None:
                numbers[f"share of {what}, {task}"] = Cell(share.value, share.low, share.high, share.n - share.censored)
    question = f"On which tasks does {arm} reach Looped's exact match in {GOAL:.0%} of its cost (geometric mean over seeds)?"
    counts = {task: one.share_flops.n for task, one in mine.items() if one.share_flops}
    return Verdict(question, answered(reached(mine), counts), numbers=numbers)


def reached(outcomes: dict[str, TaskOutcome]) -> str:
    """The tasks on which an arm is as cheap as the goal and every run gets there, by time and by operations, in words."""
    found = []
    for what, name in (("time", "share_seconds"), ("operations", "share_flops")):
        shares: dict[str, Share | None] = {task: getattr(one, name) for task, one in outcomes.items()}
        known = {task: s for task, s in shares.items() if s and not s.censored and not too_few(s.n)}
        cheap = {task: s for task, s in known.items() if s.value is not None and s.value <= GOAL}
        told = [task + (" (its interval holds 1)" if s.high is not None and s.high >= 1 else "") for task, s in cheap.items()]
        found.append(f"by {what}: {listed(told)}")
    ended = {task: one.share_flops for task, one in outcomes.items()}
    never = [f"{task} ({s.censored} of {s.n} never)" for task, s in ended.items() if s and s.censored]
    return "; ".join(found) + (f"; not in every run: {listed(never)}" if never else "")


def smooth(outcomes: Outcomes, runs: Runs, arm: str) -> Verdict:
    """Drop of an arm at the switch, by task, beside what Looped loses at the same updates without one, as its lengths grow."""
    drops = {task: one.drop for task, one in of_arm(outcomes, arm).items() if one.drop.mean is not None}
    numbers = {f"drop, {task} (points)": drop for task, drop in drops.items()}
    large = [task for task, drop in drops.items() if drop.high is not None and drop.high > GOAL_DROP and not too_few(drop.n)]
    same = []
    for task in large:
        arms = runs.get(task, {})
        known = beside(arms.get(arm, {}), arms.get("looped", {}))
        if known:
            more = interval([mine - theirs for mine, theirs in known])
            numbers[f"drop beyond Looped's at the same updates, {task} (points)"] = as_cell(more)
            same += [task] if not too_few(more.n) and sign_of(more) <= 0 else []
    answer = f"not on {listed(large)}" if large else "yes"
    answer += f", but no more than Looped loses without a switch on {listed(same)}" if same else ""
    question = f"Is the largest drop of {arm} at a switch at most {GOAL_DROP:g} point (upper end of the interval) on every task?"
    return Verdict(question, answered(answer, {task: drop.n for task, drop in drops.items()}), numbers=numbers)


def beyond(outcomes: Outcomes, longest: dict[str, int], arm: str) -> Verdict:
    """An arm against Looped out of the trained range: mean over the tested lengths there, paired by seed."""
    looped, found = of_arm(outcomes, "looped"), {}
    for task, one in of_arm(outcomes, arm).items():
        if task in looped:
            mine, theirs = (_out_of_range(outcome, longest[task]) for outcome in (one, looped[task]))
            found[task] = [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
    return _against_looped(f"Is {arm} out of the trained range as good as Looped?", f"exact match beyond, {arm} - looped", found)


def _against_looped(question: str, what: str, apart: dict[str, list[float]]) -> Verdict:
    """The answer that differences from Looped give, by task, one for each seed."""
    known = {task: interval(values) for task, values in apart.items() if values}
    low = [task for task, one in known.items() if sign_of(one) < 0]
    answer = f"it is lower on {listed(low)}" if low else "no difference was found, or it is better"
    numbers = {f"{what}, {task}": as_cell(one) for task, one in known.items()}
    return Verdict(question, answered(answer, {task: one.n for task, one in known.items()}), numbers=numbers)


def _out_of_range(one: TaskOutcome, longest: int) -> dict[int, float]:
    """Seed -> mean exact match over the tested lengths above the longest training length."""
    rows = [row for length, row in zip(one.lengths, one.accuracy, strict=True) if length > longest]
    return {seed: sum(row[place] for row in rows) / len(rows) for place, seed in enumerate(one.seeds)} if rows else {}


def halting(outcomes: Outcomes) -> Verdict:
    """Halting where the model is surest, or at the sharpest dip of its doubt, against T(n); of Looped, and with random passes.

    Tasks that were not learned are left out, as where nothing is right all ways to halt are alike, and runs of earlier versions,
    which looked for T(n) near T(n).
    """
    numbers: dict[str, Cell] = {}
    counts: dict[str, int] = {}
    near: dict[str, list[str]] = {"by confidence": [], "by that of the batch": [], "at the sharpest dip of the doubt": []}
    for arm in ("looped", "random"):
        for task, one in of_arm(outcomes, arm).items():
            if one.trained.mean is None or one.trained.mean < LEARNED or one.told_passes:
                continue
            name = task if arm == "looped" else f"{task} ({arm})"
            for how, found in zip(near, (one.confident, one.confident_batch, one.dip), strict=True):
                if one.lengths and found:
                    gap = _largest_gap(found, one.accuracy)
                    numbers[f"largest gap over lengths and seeds, {how}, {name}"] = Cell(gap, n=len(one.seeds))
                    near[how] += [name] if gap <= HALTING and not too_few(len(one.seeds)) else []
                    counts[name] = len(one.seeds)
    question = "On which learned tasks is halting without knowing T(n) within 2 points of it at every tested length and seed?"
    answer = "; ".join(f"{how}: {listed(tasks)}" for how, tasks in near.items())
    return Verdict(question, answered(answer, counts), numbers=numbers)


def _largest_gap(first: Table, second: Table) -> float:
    """Between two tables of the same shape."""
    return max(abs(a - b) for row, own in zip(first, second, strict=True) for a, b in zip(row, own, strict=True))


def as_good(runs: Runs, arm: str) -> Verdict:
    """Final exact match on trained lengths, an arm minus Looped."""
    found = {task: paired(arms.get(arm, {}), arms.get("looped", {}), trained_accuracy) for task, arms in runs.items()}
    what = f"exact match on trained lengths, {arm} - looped"
    return _against_looped(f"Is {arm} on the trained lengths as good as Looped?", what, found)
