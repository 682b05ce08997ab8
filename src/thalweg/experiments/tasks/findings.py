"""The first screen of the page of a study of tasks: what was asked, what was found, how sure it is, and what to do with it.

Every sentence follows from exact matches and counted operations, never from seconds, so a busy machine gives the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from thalweg.errors import plural
from thalweg.experiments.metrics import MIN_SEEDS, Comparison, compared, seeds_to_compare, sign_of, too_few
from thalweg.experiments.share import operations
from thalweg.experiments.tasks.answers import Outcomes, Runs, beyond_gaps, by_task, end_gaps, not_learned, right_beyond
from thalweg.experiments.tasks.outcomes import shares_of
from thalweg.experiments.words import factor, listed
from thalweg.intervals import Interval, interval
from thalweg.records.experiment import MARGIN, SWITCHING, FirstScreen
from thalweg.report.page import seeds_words

_ASKED = (
    "arXiv 2409.15647 (https://arxiv.org/abs/2409.15647) trains looped transformers on algorithmic tasks that generalise to longer "
    "inputs, and arXiv 2510.10089 (https://arxiv.org/abs/2510.10089) trains with one pass first and more later (SHIFT). "
    "thalweg asks which tasks generalise, whether stages get there sooner, and what simpler controls do."
)
_NONE = "no difference in any seed"
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


def first_screen(outcomes: Outcomes, runs: Runs, longest: Mapping[str, int], missing: int) -> FirstScreen:
    """What a reader takes home who reads nothing else.

    Args:
        outcomes: one for each task and arm.
        runs: task -> arm -> seed -> complete run.
        longest: task -> longest training length.
        missing: number of runs that are not complete.
    """
    looping = beyond_gaps(outcomes, longest, "looped", "single")
    arm = next((arm for arm in SWITCHING if by_task(outcomes, arm)), "")
    of_arm, of_single = _costs(runs, arm), _costs(runs, "single")
    control, ends = _control_gaps(runs, arm), end_gaps(outcomes, runs, arm)
    wrong = not_learned(outcomes)
    found = [
        _trained(outcomes, ["single", "looped", *filter(None, [arm])]),
        f"No arm answers half of the trained lengths of {listed(wrong)} right: nothing is compared there." if wrong else "",
        _looping(looping),
        _generalising(outcomes, longest),
        _cost("single", of_single),
        _cost(arm, of_arm),
        _against_control(arm, control),
        _end(arm, ends),
    ]
    seeds = max((len(outcome.seeds) for outcome in outcomes), default=0)
    if missing:
        advice = f"Nothing is advised while runs are missing: {plural(missing, 'run is', 'runs are')} not complete."
    else:
        advice = _advice(_decided(looping, of_single, arm, of_arm, ends, control), wrong)
    return FirstScreen(_ASKED, tuple(filter(None, found)), _sure(seeds, bool(missing)), advice)


@dataclass(frozen=True)
class _Costs:
    """What an arm spends until it is as often right as Looped, less one point, over what Looped spends itself."""

    ratios: dict[str, Interval]
    """Task on which every run gets there -> logarithm of the ratio of operations."""
    missed: dict[str, str]
    """Any other task -> how many runs do not get there."""


def _costs(runs: Runs, arm: str) -> _Costs:
    """The costs of an arm; tasks of which Looped answers less than half are left out."""
    ratios, missed = {}, {}
    for task, arms in runs.items():
        shares = list(shares_of(arms.get(arm, {}), arms.get("looped", {}), operations).values())
        late = sum(not reached for _, reached in shares)
        if late:
            missed[task] = f"not reached in {late} of {plural(len(shares), 'run')}"
        elif shares:
            ratios[task] = interval([math.log(share) for share, _ in shares])
    return _Costs(ratios, missed)


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


def _by_task(gaps: Gaps, shown: Callable[[Interval], str], margin: float = 0.0) -> list[str]:
    """Each task with its number, and whether that is decided; a difference within the margin does not matter."""
    return [f"{task} {_NONE if _equal(gap) else shown(gap)}{_open(gap, margin)}" for task, gap in gaps.items()]


def _equal(gap: Interval) -> bool:
    """Whether there is no difference in any of several seeds."""
    return gap.low == gap.high == gap.mean == 0


def _compared(gap: Interval, margin: float = MARGIN) -> Comparison:
    """See `compared`; two seeds without any difference are equal here."""
    return "equal" if _equal(gap) else compared(gap, margin)


def _open(gap: Interval, margin: float = 0.0) -> str:
    """What the interval leaves open of a difference, with the seeds that would decide it; empty where its sign is decided."""
    found = _compared(gap, margin)
    told = {"within": f" (equal within {100 * margin:g} points)", "not lower": f" (at most {100 * margin:g} points lower)"}
    if found != "undecided":
        return told.get(found, "")
    words = seeds_words(seeds_to_compare(gap, margin)).removesuffix(" at the spread seen")
    return f" (not decided{f'; {words}' if words else ''})"


def _points(gap: Interval) -> str:
    """A difference of shares in percentage points, with its interval; small ones have more digits."""
    values = [100 * value for value in (gap.mean, gap.low, gap.high) if value is not None]
    digits = 0 if all(abs(value) >= 1 for value in values) else 1 if all(abs(value) >= 0.1 for value in values) else 2
    mean, *ends = (f"{value:+.{digits}f}" for value in values)
    return f"{mean}{f' [{ends[0]}, {ends[1]}]' if ends else ''} points"


def _times(gap: Interval) -> str:
    """A ratio from the interval of its logarithm."""
    return f"{factor(gap)} times"


def _sentence(start: str, parts: Iterable[str]) -> str:
    """A start with its parts after a colon; empty without parts."""
    told = "; ".join(parts)
    return f"{start}: {told}." if told else ""


def _trained(outcomes: Outcomes, arms: Sequence[str]) -> str:
    """How much do the main arms learn of the lengths that they are trained on?"""
    parts = {}
    for arm in arms:
        for task, one in by_task(outcomes, arm).items():
            parts.setdefault(task, []).append(f"{arm} {100 * (one.trained.mean or 0.0):.1f} %")
    return _sentence("Right answers on the trained lengths", [f"{task} {', '.join(told)}" for task, told in parts.items()])


def _looping(gaps: Gaps) -> str:
    """Is Looped more often right than one pass beyond the trained lengths?"""
    start = "Right answers beyond the trained lengths, Looped (as many passes as the task sets for a length) minus one pass"
    return _sentence(start, _by_task(gaps, _points, MARGIN))


def _generalising(outcomes: Outcomes, longest: Mapping[str, int]) -> str:
    """On which tasks is Looped right at lengths that it was not trained on?"""
    enough = [task for task, outcome in by_task(outcomes, "looped").items() if not too_few(len(outcome.seeds))]
    judged = {task: holds for task, (_, holds) in right_beyond(outcomes, longest).items() if task in enough}
    parts = [f"{task} {'yes' if holds else 'no'}" for task, holds in judged.items()]
    start = "Looped is right for at least 95 % of the samples in every seed, at about 1.5 times the longest trained length"
    return _sentence(start, parts)


def _cost(arm: str, costs: _Costs) -> str:
    """What does an arm spend until it is as often right as Looped?"""
    name = "one pass" if arm == "single" else _STAGES.get(arm, arm)
    start = f"Operations that {name} takes to come within a point of Looped's final score on the trained lengths, over Looped's own"
    return _sentence(start, [*_by_task(costs.ratios, _times), *(f"{task} {told}" for task, told in costs.missed.items())])


def _against_control(arm: str, gaps: Gaps) -> str:
    """Is it the stages, or only that the lengths grow faster?"""
    control = _CONTROL.get(arm, "")
    start = f"Those of {arm} over those of {control}, which has no stages and lengths that grow faster too"
    return _sentence(start, _by_task(gaps, _times))


def _end(arm: str, gaps: Gaps) -> str:
    """Is SHIFT as often right as Looped when the training ends?"""
    start = f"Right answers on the trained lengths when the training ends, {arm} minus Looped"
    return _sentence(start, _by_task(gaps, _points, MARGIN))


def _sure(seeds: int, missing: bool) -> str:
    """What the numbers rest on, and what they leave open."""
    few = "" if seeds >= MIN_SEEDS else f" At least {MIN_SEEDS} seeds are needed for any answer."
    most = "at most " if missing else ""
    points = f"{100 * MARGIN:g} points"
    return (
        f"Numbers are means over {most}{plural(seeds, 'seed')}, geometric ones of ratios; comparisons are paired by seed. A 95 % "
        f"interval stands in brackets; where it holds both answers, nothing is decided. Arms are equal within {points} where the "
        f"whole interval lies between -{points} and +{points}, and one is at most {points} lower where the whole interval lies "
        f"above -{points}.{few} Seeds that would decide something are estimated from the spread seen. Operations are counted, not "
        "timed, so a busy machine gives the same numbers. All arms of a task start from one learning rate, which was not tuned for "
        "each; models are small, and other sizes may differ."
    )


@dataclass(frozen=True)
class _Decided:
    """Tasks by what was decided of them."""

    arm: str
    """The arm of SHIFT."""
    loop: list[str]
    """Loops are more often right beyond the trained lengths."""
    one_pass: list[str]
    """Others on which one pass gets as far as Looped on the trained lengths, for fewer operations."""
    one_pass_so_far: list[str]
    """The same, where it is not decided whether Looped is more often right beyond the trained lengths."""
    stage: list[str]
    """SHIFT gets as far as Looped for fewer operations, and was not shown to end lower."""
    open_end: list[str]
    """Those of ``stage`` for which that is not decided."""
    lower: list[str]
    """SHIFT gets as far for fewer operations, and ends lower."""
    rest: list[str]
    """SHIFT was trained, and saves nothing that was shown."""
    simpler: list[str]
    """Those of ``stage`` on which the control was not shown to need more than SHIFT."""
    as_far: list[str]
    """SHIFT was trained where one pass learns the trained lengths too, and loops were not shown to get further beyond them."""


def _decided(looping: Gaps, of_single: _Costs, arm: str, of_arm: _Costs, ends: Gaps, control: Gaps) -> _Decided:
    """Sort the tasks."""
    further = {task: _compared(gap) for task, gap in looping.items()}
    loop = [task for task, found in further.items() if found == "higher"]
    one_pass = [task for task, gap in of_single.ratios.items() if sign_of(gap) < 0 and task not in loop]
    open_beyond = [task for task in one_pass if further.get(task, "undecided") in ("undecided", "not lower")]
    others = [task for task in (*of_arm.ratios, *of_arm.missed) if task not in one_pass]
    cheaper = [task for task in others if task in of_arm.ratios and sign_of(of_arm.ratios[task]) < 0]
    at_end = {task: _compared(gap) for task, gap in ends.items()}
    lower = [task for task in cheaper if at_end.get(task) == "lower"]
    stage = [task for task in cheaper if task not in lower]
    open_end = [task for task in stage if at_end.get(task, "undecided") == "undecided"]
    simpler = [task for task in stage if task in control and sign_of(control[task]) >= 0]
    closed = [task for task in one_pass if task not in open_beyond]
    rest = [task for task in others if task not in cheaper]
    as_far = [task for task in others if task in of_single.ratios and task not in loop]
    return _Decided(arm, loop, closed, open_beyond, stage, open_end, lower, rest, simpler, as_far)


def _advice(tasks: _Decided, wrong: Sequence[str]) -> str:
    """What a user can do with it; ``wrong`` are the tasks that no arm has learned."""
    arm, sentences = tasks.arm, []
    for names, further in ((tasks.one_pass, ""), (tasks.one_pass_so_far, "; whether loops get further beyond them is not decided")):
        if names:
            sentences.append(f"On {listed(names)} train one pass: it learns the trained lengths for fewer operations{further}.")
    if tasks.loop:
        sentences.append(f"Loop on {listed(tasks.loop)}: beyond the trained lengths one pass does not get as far.")
    if tasks.stage:
        config = f"thalweg recipe {tasks.stage[0]} --arm {arm} prints its config"
        sentences.append(f"Train {listed(tasks.stage)} as the arm {arm} does; {config}.")
    if tasks.simpler:
        sentences.append(f"On {listed(tasks.simpler)} the control {_CONTROL[arm]} is simpler, and was not shown to need more.")
    if tasks.lower:
        sentences.append(f"On {listed(tasks.lower)} {arm} saves operations but ends lower: only where that is enough.")
    if tasks.rest:
        sentences.append(f"On {listed(tasks.rest)} nothing shows that {arm} saves operations: if you loop, loop throughout.")
    if tasks.open_end:
        sentences.append(f"Whether {arm} ends lower than Looped is not decided on {listed(tasks.open_end)}.")
    if tasks.as_far:
        told = "one pass learns the trained lengths too, and loops were not shown to get further beyond them"
        sentences.append(f"On {listed(tasks.as_far)} {told}.")
    if wrong:
        sentences.append(f"Train {listed(wrong)} longer first, by a larger preset, or on shorter inputs: no arm has learned it.")
    if not sentences:
        return "Nothing that was trained here is shown to be better: more seeds, or the arms single, looped and shift, may decide."
    return " ".join([*sentences, "Measure again at the size that you will train."])
