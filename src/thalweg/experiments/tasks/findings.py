"""The first screen of the page of a study of tasks: what was asked, what was found, how sure it is, and what to do with it.

Every sentence follows from exact matches and counted operations, never from seconds, so a busy machine gives the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from thalweg.errors import plural
from thalweg.experiments.metrics import MIN_SEEDS, seeds_needed, sign_of, too_few
from thalweg.experiments.share import operations
from thalweg.experiments.tasks.answers import Outcomes, Runs, beyond_gaps, by_task, end_gaps, right_beyond
from thalweg.experiments.tasks.outcomes import LEARNED, shares_of
from thalweg.experiments.words import listed
from thalweg.intervals import Interval, interval
from thalweg.records.experiment import SWITCHING, FirstScreen
from thalweg.report.page import seeds_words

_ASKED = (
    "arXiv 2409.15647 (https://arxiv.org/abs/2409.15647) trains looped transformers on algorithmic tasks that generalise to longer "
    "inputs, and arXiv 2510.10089 (https://arxiv.org/abs/2510.10089) trains with one pass first and more later (SHIFT). "
    "thalweg asks which tasks generalise, whether stages get there sooner, and what simpler controls do."
)
_CONTROL = {"shift": "looped-fast", "shift-short": "looped-short"}
"""Arm of SHIFT -> Looped without stages whose lengths grow as fast, or over as few updates."""
_STAGES = {
    "shift": "shift (a new stage for each length)",
    "shift-short": "shift-short (a new stage for each length, fewer updates)",
    "shift-scp": "shift-scp (one pass, then all by a ramp)",
    "shift-hard": "shift-hard (one pass, then all at once)",
}
"""Arm of SHIFT -> its name with a definition in a few words."""

Gaps = Mapping[str, Interval]
"""Task -> an interval over seeds."""


def first_screen(outcomes: Outcomes, runs: Runs, longest: Mapping[str, int], seeds: int) -> FirstScreen:
    """What a reader takes home who reads nothing else.

    Args:
        outcomes: one for each task and arm.
        runs: task -> arm -> seed -> complete run.
        longest: task -> longest training length.
        seeds: of the study.
    """
    looping = beyond_gaps(outcomes, longest, "looped", "single")
    arm = next((arm for arm in SWITCHING if by_task(outcomes, arm)), "")
    costs, short_of_it = _costs(runs, arm)
    ends = end_gaps(runs, arm)
    control = _control_gaps(runs, arm)
    found = [
        _looping(looping),
        _generalising(outcomes, longest),
        _cost(arm, costs, short_of_it, _unlearned(outcomes)),
        _against_control(arm, control),
        _end(arm, ends),
    ]
    advice = [_advised_loops(looping), *_advised_stages(arm, costs, ends, control, list(short_of_it))]
    if any(found):
        end = "Measure again for a task and a size of your own."
    else:
        end = "Nothing can be compared yet: train at least the arms single, looped and shift with three seeds each."
    return FirstScreen(
        _ASKED,
        tuple(filter(None, found)),
        _sure(seeds, bool(costs or short_of_it)),
        " ".join(filter(None, [*advice, end])),
    )


def _costs(runs: Runs, arm: str) -> tuple[dict[str, Interval], dict[str, str]]:
    """Task -> log of the arm's operations to Looped's exact match over Looped's own; and task -> how many runs fell short of it."""
    costs, short_of_it = {}, {}
    for task, arms in runs.items():
        shares = list(shares_of(arms.get(arm, {}), arms.get("looped", {}), operations).values())
        missed = sum(not reached for _, reached in shares)
        if missed:
            short_of_it[task] = f"{missed} of {plural(len(shares), 'run')}"
        elif shares:
            costs[task] = interval([math.log(share) for share, _ in shares])
    return costs, short_of_it


def _control_gaps(runs: Runs, arm: str) -> dict[str, Interval]:
    """Task -> log of the arm's operations over those of its control, where all runs of both reach Looped's exact match."""
    gaps = {}
    for task, arms in runs.items():
        looped = arms.get("looped", {})
        own, other = (shares_of(arms.get(name, {}), looped, operations) for name in (arm, _CONTROL.get(arm, "")))
        common = sorted(own.keys() & other.keys())
        if common and all(side[seed][1] for side in (own, other) for seed in common):
            gaps[task] = interval([math.log(own[seed][0] / other[seed][0]) for seed in common])
    return gaps


def _unlearned(outcomes: Outcomes) -> list[str]:
    """The tasks of which Looped answers less than half."""
    return [task for task, one in by_task(outcomes, "looped").items() if (one.trained.mean or 0.0) < LEARNED]


def _sorted(gaps: Gaps, below: str, above: str, shown: Callable[[Interval], str]) -> str:
    """The tasks by the sign of their number, as clauses: decided ones first, then those that are not.

    Args:
        gaps: task -> number.
        below: opens the clause of tasks whose number lies below zero.
        above: the same above zero.
        shown: a number as text.
    """
    equal = [task for task, gap in gaps.items() if gap.low == gap.high == gap.mean == 0]
    clauses = []
    for sign, opening in ((-1, below), (1, above), (0, "not decided on")):
        some = {task: gap for task, gap in gaps.items() if sign_of(gap) == sign and task not in equal}
        tasks = [f"{task} ({shown(gap)}{_open(gap) if not sign else ''})" for task, gap in some.items()]
        clauses += [f"{opening} {listed(tasks)}"] if tasks else []
    clauses += [f"no difference in any seed on {listed(equal)}"] if equal else []
    return "; ".join(clauses)


def _open(gap: Interval) -> str:
    """How many seeds would decide it, after a semicolon; empty where no spread is known."""
    words = seeds_words(seeds_needed((gap, 0.0)), "this")
    return f"; {words}" if words else ""


def _points(gap: Interval) -> str:
    """A difference of shares in percentage points, with its interval; small ones have more digits."""
    values = [100 * value for value in (gap.mean, gap.low, gap.high) if value is not None]
    digits = 0 if all(abs(value) >= 1 for value in values) else 1 if all(abs(value) >= 0.1 for value in values) else 2
    mean, *ends = (f"{value:+.{digits}f}" for value in values)
    return f"{mean}{f' [{ends[0]}, {ends[1]}]' if ends else ''} points"


def _times(gap: Interval) -> str:
    """A ratio from the interval of its logarithm."""
    ends = "" if gap.low is None or gap.high is None else f" [{math.exp(gap.low):.2f}, {math.exp(gap.high):.2f}]"
    return f"{math.exp(gap.mean):.2f}{ends} times"


def _looping(gaps: Gaps) -> str:
    """Is Looped more often right than one pass beyond the trained lengths?"""
    clauses = _sorted(gaps, "fewer right answers on", "more right answers on", _points)
    start = "Beyond the trained lengths, looping (as many passes as the task sets for a length) against one pass"
    return f"{start}: {clauses}." if clauses else ""


def _generalising(outcomes: Outcomes, longest: Mapping[str, int]) -> str:
    """On which tasks is Looped right at lengths that it was not trained on?"""
    enough = [task for task, outcome in by_task(outcomes, "looped").items() if not too_few(len(outcome.seeds))]
    judged = {task: holds for task, (_, holds) in right_beyond(outcomes, longest).items() if task in enough}
    if not judged:
        return ""
    right, wrong = ([task for task, holds in judged.items() if holds == wanted] for wanted in (True, False))
    rest = f", and not on {listed(wrong)}" if right and wrong else ""
    where = f"on {listed(right) or 'no task'}{rest}"
    return f"At about 1.5 times the longest trained length every seed of Looped is right for at least 95 % of the samples {where}."


def _cost(arm: str, costs: Gaps, short_of_it: Mapping[str, str], unlearned: Iterable[str]) -> str:
    """What does SHIFT spend until it is as often right as Looped?"""
    clauses = [_sorted(costs, "fewer on", "more on", _times)] if costs else []
    if short_of_it:
        missed = [f"{task} ({count} did not)" for task, count in short_of_it.items()]
        clauses.append(f"not reached by every run on {listed(missed)}")
    left = [task for task in unlearned if task not in costs and task not in short_of_it]
    clauses += [f"Looped itself answers less than half of {listed(left)}"] if clauses and left else []
    name = _STAGES.get(arm, arm)
    start = f"Operations until {name} is as often right as Looped on the trained lengths, less one point, over Looped's own"
    return f"{start}: {'; '.join(clauses)}." if clauses else ""


def _against_control(arm: str, gaps: Gaps) -> str:
    """Is it the stages, or only that the lengths grow faster?"""
    clauses = _sorted(gaps, "fewer on", "more on", _times)
    control = f"those of {_CONTROL[arm]}, which has no stages and lengths that grow faster too" if clauses else ""
    return f"The same over {control}: {clauses}." if clauses else ""


def _end(arm: str, gaps: Gaps) -> str:
    """Is SHIFT as often right as Looped when the training ends?"""
    clauses = _sorted(gaps, "fewer right answers on", "more right answers on", _points)
    return f"When the training ends, {arm} against Looped on the trained lengths: {clauses}." if clauses else ""


def _sure(seeds: int, costs: bool) -> str:
    """What the numbers rest on, and what they leave open."""
    few = "" if seeds >= MIN_SEEDS else f" At least {MIN_SEEDS} seeds are needed for any answer."
    counted = " Operations are counted, not timed, so a busy machine gives the same numbers." if costs else ""
    return (
        f"Numbers are means over {plural(seeds, 'seed')}, paired, geometric ones of ratios; a 95 % interval stands in brackets, "
        f"and where it holds no difference, nothing is decided.{few}{counted} All arms of a task start from one rate, which "
        "was not tuned for each; models are small, and other sizes may differ."
    )


def _advised_loops(looping: Gaps) -> str:
    """On which tasks to loop."""
    loop = [task for task, gap in looping.items() if sign_of(gap) > 0]
    if loop:
        return f"Loop on {listed(loop)}: one pass does not get as far."
    return "No task shows that looping pays beyond the trained lengths." if looping else ""


def _advised_stages(arm: str, costs: Gaps, ends: Gaps, control: Gaps, short_of_it: list[str]) -> list[str]:
    """On which tasks to train in stages, and where that is not advised although it saves operations."""
    cheaper = [task for task, gap in costs.items() if sign_of(gap) < 0]
    lower = [task for task in cheaper if task in ends and sign_of(ends[task]) < 0]
    stage = [task for task in cheaper if task not in lower]
    simpler = [task for task in stage if task in control and sign_of(control[task]) >= 0]
    sentences = []
    if stage:
        sentences.append(f"Train {listed(stage)} as the arm {arm} does: thalweg recipe {stage[0]} --arm {arm} prints its config.")
    if simpler:
        sentences.append(f"On {listed(simpler)} the control {_CONTROL[arm]} is simpler, and was not shown to need more.")
    if lower:
        sentences.append(f"On {listed(lower)} {arm} saves operations but ends lower: only where that is enough.")
    if not cheaper and (costs or short_of_it):
        sentences.append(f"Nothing here shows that {arm} saves operations: train Looped throughout.")
    return sentences
