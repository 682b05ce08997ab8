"""Verdicts of a study of tasks: one answer for each question, with the numbers it rests on.

Accuracies are exact matches: a sample counts when its whole answer is right. T(n) is the number of passes that the task sets for
length n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thalweg.experiments.drop import paired_drops
from thalweg.experiments.metrics import Comparison, Pairs, as_cell, compared, paired, seeds_to_compare, sign_of, too_few
from thalweg.experiments.tasks.outcomes import LEARNED, trained_accuracy
from thalweg.intervals import Interval, interval
from thalweg.records.experiment import ALONG, CONTROLS, GOAL, GOAL_DROP, MARGIN, SWITCHING, Share, Table, TaskOutcome
from thalweg.records.run import Cell, Verdict

_AGAINST: dict[Comparison, str] = {
    "equal": "it is equal on",
    "within": f"it is equal within {100 * MARGIN:g} points on",
    "higher": "it is higher on",
    "not lower": f"it is higher or at most {100 * MARGIN:g} points lower on",
    "lower": "it is lower on",
    "undecided": "undecided on",
}
"""How an arm's exact match compares with Looped's -> words, to be followed by tasks."""
_RIGHT = 0.95
"""Exact match at which a length beyond the training lengths counts as generalised."""

Outcomes = Sequence[TaskOutcome]
Runs = dict[str, dict[str, Pairs]]
"""Task -> arm -> seed -> run."""


def task_verdicts(outcomes: Outcomes, runs: Runs, longest: dict[str, int]) -> list[Verdict]:
    """Answer every question for which the runs suffice; a question about several arms is answered for each arm separately.

    Args:
        outcomes: one for each task and arm.
        runs: task -> arm -> seed -> complete run.
        longest: task -> longest training length.
    """
    verdicts = [generalises(outcomes, longest)]
    verdicts += [sooner(outcomes, arm) for arm in (*ALONG, *CONTROLS)]
    verdicts += [smooth(outcomes, runs, arm) for arm in SWITCHING]
    verdicts += [beyond(outcomes, longest, arm) for arm in ALONG]
    verdicts += [_as_good(outcomes, runs, arm) for arm in ALONG]
    verdicts.append(halting(outcomes))
    return [verdict for verdict in verdicts if verdict.numbers]


def by_task(outcomes: Outcomes, arm: str) -> dict[str, TaskOutcome]:
    """Task -> outcome of one arm, for the tasks on which it has complete runs."""
    return {outcome.task: outcome for outcome in outcomes if outcome.arm == arm and outcome.seeds}


def names_or_none(names: Sequence[str]) -> str:
    """Names separated by commas, "none" for an empty list; a sentence lists them by `thalweg.experiments.words.listed`."""
    return ", ".join(names) or "none"


def answered(answer: str, seeds: dict[str, int]) -> str:
    """An answer over tasks, followed by the tasks that have too few seeds for one.

    Args:
        answer: what the tasks with enough seeds say.
        seeds: task -> number of seeds; where none has enough, the answer is left out altogether.

    Example:
        >>> answered("parity", {"parity": 3, "copy": 1})
        'parity; undecided: 1 of at least 3 seeds on copy'
    """
    if seeds and all(map(too_few, seeds.values())):
        return too_few(max(seeds.values()))
    undecided = [f"{too_few(count)} on {task}" for task, count in seeds.items() if too_few(count)]
    return "; ".join([answer, *undecided])


def learned(*outcomes: TaskOutcome | None) -> bool:
    """Whether any of these arms is right for half of the samples of the trained lengths; else comparisons say nothing."""
    return any(one is not None and (one.trained.mean or 0.0) >= LEARNED for one in outcomes)


def not_learned(outcomes: Outcomes) -> list[str]:
    """The tasks that no arm has learned."""
    tasks = dict.fromkeys(outcome.task for outcome in outcomes if outcome.seeds)
    return [task for task in tasks if not learned(*(outcome for outcome in outcomes if outcome.task == task))]


def right_beyond(outcomes: Outcomes, longest: Mapping[str, int]) -> dict[str, tuple[int, bool]]:
    """Task -> a length beyond the trained ones, and whether every seed of Looped has an exact match of 0.95 there.

    The length is the tested one nearest to 1.5 times the longest training length. With too few seeds the answer is no.
    """
    found = {}
    for task, outcome in by_task(outcomes, "looped").items():
        lengths = [n for n in outcome.lengths if n > longest[task]]
        if lengths:
            length = min(lengths, key=lambda n: abs(n - 1.5 * longest[task]))
            right = min(outcome.accuracy[outcome.lengths.index(length)]) >= _RIGHT
            found[task] = length, right and not too_few(len(outcome.seeds))
    return found


def generalises(outcomes: Outcomes, longest: Mapping[str, int]) -> Verdict:
    """List the tasks of `right_beyond`; Single and the next-token baseline are reported at the same length."""
    numbers: dict[str, Cell] = {}
    judged = right_beyond(outcomes, longest)
    for task, (length, _) in judged.items():
        for arm in ("looped", "single", "next-token"):
            other = by_task(outcomes, arm).get(task)
            if other is not None and length in other.lengths:
                right = interval(list(other.accuracy[other.lengths.index(length)]))
                numbers[f"{task} at {length}, {arm}"] = as_cell(right.within(0, 1))
    seeds = {task: len(by_task(outcomes, "looped")[task].seeds) for task in judged}
    question = "On which tasks is every Looped seed at least 0.95 right at about one and a half times the longest training length?"
    return Verdict(
        question, answered(names_or_none([task for task, (_, holds) in judged.items() if holds]), seeds), numbers=numbers
    )


def sooner(outcomes: Outcomes, arm: str) -> Verdict:
    """List the tasks on which an arm reaches Looped's exact match within the goal's share of Looped's time and operations."""
    numbers: dict[str, Cell] = {}
    of_arm = by_task(outcomes, arm)
    for task, outcome in of_arm.items():
        for cost, share in (("time", outcome.share_seconds), ("operations", outcome.share_flops)):
            if share is not None:
                numbers[f"share of {cost}, {task}"] = Cell(share.value, share.low, share.high, share.n - share.censored)
    question = (
        f"On which tasks does {arm} reach Looped's exact match in {100 * GOAL:.0f} % of its cost (geometric mean over seeds)?"
    )
    counts = {task: outcome.share_flops.n for task, outcome in of_arm.items() if outcome.share_flops}
    return Verdict(question, answered(reached(of_arm), counts), numbers=numbers)


def reached(outcomes: dict[str, TaskOutcome]) -> str:
    """A phrase that lists the tasks on which an arm meets the goal of `sooner`, by time and by operations.

    A task counts where every run reaches Looped's exact match and the geometric mean of the shares is at most `GOAL`. Tasks with
    runs that never reach it are listed after that.

    Args:
        outcomes: task -> outcome of the arm.
    """
    phrases = []
    for cost, field in (("time", "share_seconds"), ("operations", "share_flops")):
        shares: dict[str, Share | None] = {task: getattr(outcome, field) for task, outcome in outcomes.items()}
        if field == "share_seconds" and not any(shares.values()):
            continue  # other work disturbed the seconds
        known = {task: s for task, s in shares.items() if s and not s.censored and not too_few(s.n)}
        cheap = {task: s for task, s in known.items() if s.value is not None and s.value <= GOAL}
        unsure = [task for task, share in cheap.items() if share.high is not None and share.high >= 1]
        told = names_or_none([task for task in cheap if task not in unsure])
        phrases.append(f"by {cost}: {told}" + (f" (undecided, as the interval holds 1: {', '.join(unsure)})" if unsure else ""))
    by_operations = {task: outcome.share_flops for task, outcome in outcomes.items()}
    never = [f"{task} ({s.censored} of {s.n} did not)" for task, s in by_operations.items() if s and s.censored]
    return "; ".join(phrases) + (f"; not in every run: {names_or_none(never)}" if never else "")


def smooth(outcomes: Outcomes, runs: Runs, arm: str) -> Verdict:
    """Judge whether an arm loses at most one percentage point of exact match at a switch, on every task.

    Where it loses more, its drop is compared with what Looped, which does not switch, loses at the same updates: exact match falls
    there too while the training lengths grow.
    """
    drops = {task: outcome.drop for task, outcome in by_task(outcomes, arm).items() if outcome.drop.mean is not None}
    numbers = {f"drop, {task} (points)": drop for task, drop in drops.items()}
    large = [task for task, drop in drops.items() if drop.high is not None and drop.high > GOAL_DROP and not too_few(drop.n)]
    as_looped = []
    for task in large:
        arms = runs.get(task, {})
        drop_pairs = paired_drops(arms.get(arm, {}), arms.get("looped", {}))
        if drop_pairs:
            excess = interval([own - looped for own, looped in drop_pairs])
            numbers[f"drop beyond Looped's at the same updates, {task} (points)"] = as_cell(excess)
            as_looped += [task] if not too_few(excess.n) and sign_of(excess) <= 0 else []
    never = [task for task, outcome in by_task(outcomes, arm).items() if outcome.drop.mean is None]
    small = f"yes on {names_or_none(list(drops))}" if never else "yes"
    answer = f"not on {names_or_none(large)}" if large else small
    answer += f", no switch was made on {names_or_none(never)}" if never else ""
    answer += f", but not shown to be more than Looped loses without a switch on {names_or_none(as_looped)}" if as_looped else ""
    question = f"Is the largest drop of {arm} at a switch at most {GOAL_DROP:g} point (upper end of the interval) on every task?"
    return Verdict(question, answered(answer, {task: drop.n for task, drop in drops.items()}), numbers=numbers)


def beyond(outcomes: Outcomes, longest: Mapping[str, int], arm: str) -> Verdict:
    """Compare an arm with Looped on lengths above the training lengths: mean exact match over those tested, paired by seed."""
    question = f"Is {arm} out of the trained range as good as Looped?"
    return _against_looped(question, f"exact match beyond, {arm} - looped", beyond_gaps(outcomes, longest, arm, "looped"))


def beyond_gaps(outcomes: Outcomes, longest: Mapping[str, int], arm: str, rival: str) -> dict[str, Interval]:
    """Task -> exact match of an arm minus that of a rival, mean over the tested lengths above the training lengths, paired.

    Tasks that neither has learned are left out: there both are as good as the other in being wrong.
    """
    rivals, gaps = by_task(outcomes, rival), {}
    for task, outcome in by_task(outcomes, arm).items():
        if task in rivals and learned(outcome, rivals[task]):
            own, other = (_out_of_range(side, longest[task]) for side in (outcome, rivals[task]))
            if common := sorted(own.keys() & other.keys()):
                gaps[task] = interval([own[seed] - other[seed] for seed in common])
    return gaps


def _against_looped(question: str, what: str, gaps: Mapping[str, Interval]) -> Verdict:
    """The answer that differences from Looped give, by task; ``what`` names the number."""
    groups: dict[str, list[str]] = {}
    for task, gap in gaps.items():
        groups.setdefault(_AGAINST[compared(gap, MARGIN)], []).append(task)
    answer = "; ".join(f"{word} {names_or_none(tasks)}" for word, tasks in groups.items())
    numbers = {f"{what}, {task}": as_cell(gap) for task, gap in gaps.items()}
    told = answered(answer, {task: gap.n for task, gap in gaps.items()})
    needed = [seeds_to_compare(gap, MARGIN) for gap in gaps.values() if compared(gap, MARGIN) == "undecided"]
    return Verdict(question, told, numbers=numbers, seeds_needed=max(needed, default=0) if all(needed) else 0)


def _out_of_range(outcome: TaskOutcome, longest: int) -> dict[int, float]:
    """Seed -> mean exact match over the tested lengths above the longest training length."""
    rows = [row for length, row in zip(outcome.lengths, outcome.accuracy, strict=True) if length > longest]
    return {seed: sum(row[index] for row in rows) / len(rows) for index, seed in enumerate(outcome.seeds)} if rows else {}


def halting(outcomes: Outcomes) -> Verdict:
    """List the tasks on which halting without knowing T(n) gives the exact match of halting after T(n) passes.

    Three rules are judged, for Looped and for the arm with random passes: each sample halts at its most confident pass; all samples
    of a length halt together at the most confident pass; they halt together at the sharpest dip of their mean doubt. A rule passes
    where its exact match is within 2 points at every tested length and seed.

    Left out are tasks that were not learned, where nothing is right and all rules agree trivially, and records of earlier versions,
    whose search over passes depended on T(n).
    """
    numbers: dict[str, Cell] = {}
    counts: dict[str, int] = {}
    rules = ("each sample, most confident", "whole batch, most confident", "sharpest dip")
    passing: dict[str, list[str]] = {rule: [] for rule in rules}
    for arm in ("looped", "random"):
        for task, outcome in by_task(outcomes, arm).items():
            if not learned(outcome) or outcome.told_passes:
                continue
            name = task if arm == "looped" else f"{task} ({arm})"
            for rule, accuracy in zip(passing, (outcome.confident, outcome.confident_batch, outcome.dip), strict=True):
                if outcome.lengths and accuracy:
                    gap = _largest_gap(accuracy, outcome.accuracy)
                    numbers[f"largest gap over lengths and seeds, {rule}, {name}"] = Cell(gap, n=len(outcome.seeds))
                    passing[rule] += [name] if gap <= MARGIN and not too_few(len(outcome.seeds)) else []
                    counts[name] = len(outcome.seeds)
    question = "On which learned tasks is halting without knowing T(n) within 2 points of it at every tested length and seed?"
    answer = "; ".join(f"{rule}: {names_or_none(tasks)}" for rule, tasks in passing.items())
    return Verdict(question, answered(answer, counts), numbers=numbers)


def _largest_gap(first: Table, second: Table) -> float:
    """Largest absolute difference between the entries of two tables of the same shape."""
    return max(abs(a - b) for row, other in zip(first, second, strict=True) for a, b in zip(row, other, strict=True))


def end_gaps(outcomes: Outcomes, runs: Runs, arm: str) -> dict[str, Interval]:
    """Task -> an arm's final exact match on the training lengths minus Looped's, paired by seed; see `beyond_gaps`."""
    own, looped = by_task(outcomes, arm), by_task(outcomes, "looped")
    known = {task: arms for task, arms in runs.items() if learned(own.get(task), looped.get(task))}
    found = {task: paired(arms.get(arm, {}), arms.get("looped", {}), trained_accuracy) for task, arms in known.items()}
    return {task: interval(gaps) for task, gaps in found.items() if gaps}


def _as_good(outcomes: Outcomes, runs: Runs, arm: str) -> Verdict:
    """Compare an arm's final exact match on the training lengths with Looped's."""
    what = f"exact match on trained lengths, {arm} - looped"
    return _against_looped(f"Is {arm} on the trained lengths as good as Looped?", what, end_gaps(outcomes, runs, arm))
