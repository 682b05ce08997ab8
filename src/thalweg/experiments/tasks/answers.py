"""Answers that a study of tasks gives, each with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from thalweg.experiments.metrics import Pairs, as_cell, paired
from thalweg.experiments.outcomes import beside
from thalweg.experiments.switching.answers import side
from thalweg.experiments.tasks.outcomes import LEARNED, trained_accuracy
from thalweg.intervals import interval
from thalweg.records.experiment import Answer, Share
from thalweg.records.run import Cell
from thalweg.records.task_study import ALONG, CONTROLS, GOAL, GOAL_DROP, HALTING, SWITCHING, Table, TaskOutcome

Outcomes = Sequence[TaskOutcome]
Runs = dict[str, dict[str, Pairs]]
"""Task -> arm -> seed -> run."""


def task_verdicts(outcomes: Outcomes, runs: Runs, longest: dict[str, int]) -> list[Answer]:
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


def generalises(outcomes: Outcomes, longest: dict[str, int]) -> Answer:
    """Looped at one and a half times the longest training length, or the tested length nearest to it."""
    numbers, there = {}, []
    for task, one in of_arm(outcomes, "looped").items():
        lengths = [n for n in one.lengths if n > longest[task]]
        if not lengths:
            continue
        length = min(lengths, key=lambda n: abs(n - 1.5 * longest[task]))
        for arm in ("looped", "single", "next-token"):
            other = of_arm(outcomes, arm).get(task)
            if other is not None and length in other.lengths:
                numbers[f"{task} at {length}, {arm}"] = as_cell(interval(list(other.accuracy[other.lengths.index(length)])))
        there += [task] if min(one.accuracy[one.lengths.index(length)]) >= 0.95 else []
    question = "On which tasks is every Looped seed at least 0.95 right at about one and a half times the longest training length?"
    return Answer(question, listed(there), numbers)


def sooner(outcomes: Outcomes, arm: str) -> Answer:
    """Tasks on which an arm reaches Looped's exact match in the goal's share of its cost."""
    numbers: dict[str, Cell] = {}
    mine = of_arm(outcomes, arm)
    for task, one in mine.items():
        for what, share in (("time", one.share_seconds), ("operations", one.share_flops)):
            if share is not None:
                numbers[f"share of {what}, {task}"] = Cell(share.value, share.low, share.high, share.n - share.censored)
    question = f"On which tasks does {arm} reach Looped's exact match in {GOAL:.0%} of its cost (geometric mean over seeds)?"
    return Answer(question, reached(mine), numbers)


def reached(outcomes: dict[str, TaskOutcome]) -> str:
    """The tasks on which an arm is as cheap as the goal and every run gets there, by time and by operations, in words."""
    found = []
    for what, name in (("time", "share_seconds"), ("operations", "share_flops")):
        shares: dict[str, Share | None] = {task: getattr(one, name) for task, one in outcomes.items()}
        cheap = {task: s for task, s in shares.items() if s and s.value is not None and s.value <= GOAL and not s.censored}
        told = [task + (" (its interval holds 1)" if s.high is not None and s.high >= 1 else "") for task, s in cheap.items()]
        found.append(f"by {what}: {listed(told)}")
    ended = {task: one.share_flops for task, one in outcomes.items()}
    never = [f"{task} ({s.censored} of {s.n} never)" for task, s in ended.items() if s and s.censored]
    return "; ".join(found) + (f"; not in every run: {listed(never)}" if never else "")


def smooth(outcomes: Outcomes, runs: Runs, arm: str) -> Answer:
    """Drop of an arm at the switch, by task, beside what Looped loses at the same updates without one, as its lengths grow."""
    drops = {task: one.drop for task, one in of_arm(outcomes, arm).items() if one.drop.mean is not None}
    numbers = {f"drop, {task} (points)": drop for task, drop in drops.items()}
    large = [task for task, drop in drops.items() if drop.mean is not None and drop.mean > GOAL_DROP]
    same = []
    for task in large:
        arms = runs.get(task, {})
        known = beside(arms.get(arm, {}), arms.get("looped", {}))
        if known:
            more = interval([mine - theirs for mine, theirs in known])
            numbers[f"drop beyond Looped's at the same updates, {task} (points)"] = as_cell(more)
            same += [task] if side(more) <= 0 else []
    answer = f"not on {listed(large)}" if large else "yes"
    answer += f", but no more than Looped loses without a switch on {listed(same)}" if same else ""
    question = f"Is the largest drop of {arm} at a switch at most {GOAL_DROP:g} point (mean over seeds) on every task?"
    return Answer(question, answer, numbers)


def beyond(outcomes: Outcomes, longest: dict[str, int], arm: str) -> Answer:
    """An arm against Looped out of the trained range: mean over the tested lengths there, paired by seed."""
    looped, found = of_arm(outcomes, "looped"), {}
    for task, one in of_arm(outcomes, arm).items():
        if task in looped:
            mine, theirs = (out_of_range(outcome, longest[task]) for outcome in (one, looped[task]))
            found[task] = [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
    return against_looped(f"Is {arm} out of the trained range as good as Looped?", f"exact match beyond, {arm} - looped", found)


def against_looped(question: str, what: str, apart: dict[str, list[float]]) -> Answer:
    """The answer that differences from Looped give, by task, one for each seed."""
    known = {task: interval(values) for task, values in apart.items() if values}
    low = [task for task, one in known.items() if side(one) < 0]
    answer = f"it is lower on {listed(low)}" if low else "no difference was found, or it is better"
    return Answer(question, answer, {f"{what}, {task}": as_cell(one) for task, one in known.items()})


def out_of_range(one: TaskOutcome, longest: int) -> dict[int, float]:
    """Seed -> mean exact match over the tested lengths above the longest training length."""
    rows = [row for length, row in zip(one.lengths, one.accuracy, strict=True) if length > longest]
    return {seed: sum(row[place] for row in rows) / len(rows) for place, seed in enumerate(one.seeds)} if rows else {}


def halting(outcomes: Outcomes) -> Answer:
    """Halting where the model is surest, or at the sharpest dip of its doubt, against T(n); of Looped, and with random passes.

    Tasks that were not learned are left out, as where nothing is right all ways to halt are alike, and runs of earlier versions,
    which looked for T(n) near T(n).
    """
    numbers: dict[str, Cell] = {}
    near: dict[str, list[str]] = {"by confidence": [], "by that of the batch": [], "at the sharpest dip of the doubt": []}
    for arm in ("looped", "random"):
        for task, one in of_arm(outcomes, arm).items():
            if one.trained.mean is None or one.trained.mean < LEARNED or one.told_passes:
                continue
            name = task if arm == "looped" else f"{task} ({arm})"
            for how, found in zip(near, (one.confident, one.confident_batch, one.dip), strict=True):
                if one.lengths and found:
                    gap = largest_gap(found, one.accuracy)
                    numbers[f"largest gap over lengths and seeds, {how}, {name}"] = Cell(gap, n=len(one.seeds))
                    near[how] += [name] if gap <= HALTING else []
    question = "On which learned tasks is halting without knowing T(n) within 2 points of it at every tested length and seed?"
    return Answer(question, "; ".join(f"{how}: {listed(tasks)}" for how, tasks in near.items()), numbers)


def largest_gap(first: Table, second: Table) -> float:
    """Between two tables of the same shape."""
    return max(abs(a - b) for row, own in zip(first, second, strict=True) for a, b in zip(row, own, strict=True))


def as_good(runs: Runs, arm: str) -> Answer:
    """Final exact match on trained lengths, an arm minus Looped."""
    found = {task: paired(arms.get(arm, {}), arms.get("looped", {}), trained_accuracy) for task, arms in runs.items()}
    what = f"exact match on trained lengths, {arm} - looped"
    return against_looped(f"Is {arm} on the trained lengths as good as Looped?", what, found)
