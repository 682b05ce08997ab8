"""Verdicts of a sweep over switching variants: one answer for each question about SHIFT, with the numbers it rests on.

All comparisons are paired by seed. A share is the cost of a run until it reaches Looped's final held-out loss, divided by the cost
of Looped until it reaches that loss itself (`thalweg.experiments.share.shares`).
"""

from __future__ import annotations

import itertools

from thalweg.experiments.disturbance import costs_of
from thalweg.experiments.drop import drop, paired_drops
from thalweg.experiments.metrics import Measure, Pairs, as_cell, cell, seeds_needed, sign_of, smoothed, too_few
from thalweg.experiments.outcomes import difference
from thalweg.experiments.paper.verdicts import Runs
from thalweg.experiments.share import logs, operations, reaches, share_over_seeds, shares
from thalweg.experiments.switching.scp_region import region
from thalweg.experiments.switching.variants import SHORT, Variant
from thalweg.intervals import Interval, interval
from thalweg.records.run import Cell, RunRecord, Verdict
from thalweg.shift.criterion import Plateau

_GOAL, _GOAL_HIGH, _GOAL_DROP = 0.45, 0.6, 0.5
"""Goals for SHIFT: share of Looped's time, upper end of its interval, and drop in accuracy at a switch (percentage points)."""
_BASES = {
    "onset": ("another onset", "shift"),
    "optimizer": ("another treatment of the optimizer", "shift-scp"),
    "stages": ("another ladder", "shift"),
    "model": ("another model (looped or in stages)", "shift"),
}
"""Group -> what its variants change, and the variant that they are compared with."""
_SHIFTS = ("shift", "shift-scp", "shift-hard")
"""Arms of SHIFT whose cost is compared with Looped's."""
_NETS = {"shift-hard": "hard, net", "hard half way": "hard half way, net"}
"""Variant with a hard switch -> the same variant with the safety net."""


def verdicts_of(variants: list[Variant], runs: Runs, default: Plateau) -> list[Verdict]:
    """Answer every question for which the complete runs suffice; an unfinished sweep is judged by the seeds that can be paired.

    Args:
        variants: all variants of the sweep.
        runs: variant -> seed -> complete run.
        default: the recipe's own setting of SCP, whose place in the grid is reported.
    """

    def paired(first: str, second: str) -> bool:
        return bool(runs.get(first, {}).keys() & runs.get(second, {}).keys())

    verdicts: list[Verdict] = []
    if paired("shift", "looped"):
        verdicts += [sooner(runs), smooth(runs), _as_good(runs)]
    if paired("shift-short", "looped"):
        verdicts.append(_short_run_matches(runs))
    grid = [variant for variant in variants if variant.group == "scp" and paired(variant.name, "looped")]
    if grid:
        # Settings of SCP are compared through their cost relative to Looped, so only seeds that Looped has count.
        looped = runs["looped"]
        common = {variant.name: {s: r for s, r in runs[variant.name].items() if s in looped} for variant in grid}
        verdicts.append(region(grid, runs | common, default))
    rivals = ["shift", *(variant.name for variant in variants if variant.group == "share")]
    verdicts += [against(runs, name) for name in rivals if paired(name, "shift-scp")]
    for group, (change, base) in _BASES.items():
        rivals = [variant.name for variant in variants if variant.group == group and paired(variant.name, base)]
        if rivals:
            verdicts.append(_rivals_of(base, rivals, change, runs))
    verdicts += [
        _shift_gain_on_stable_model(runs, kind)
        for kind in ("learned gains", "stable")
        if paired(f"shift, {kind}", f"looped, {kind}")
    ]
    if any(paired(bare, netted) for bare, netted in _NETS.items()):
        verdicts.append(_safety_net_effect(runs))
    return verdicts


def sooner(runs: Runs) -> Verdict:
    """Judge whether SHIFT reaches Looped's final loss within the goal of 0.45 of Looped's training time.

    Where other work disturbed the seconds, operations are judged instead. "yes" needs the geometric mean of the share at or below
    0.45, the upper end of its 95 % interval below 0.6, and every seed to reach the loss. The shares of operations and those of the
    other SHIFT arms are reported with it.
    """
    numbers: dict[str, Cell] = {}
    costs = costs_of(runs["looped"], *(runs.get(arm, {}) for arm in _SHIFTS))
    for unit, spent in costs.items():
        for arm in _SHIFTS:
            share = share_over_seeds(list(shares(runs[arm], runs["looped"], spent).values())) if runs.get(arm) else None
            if share is not None:
                numbers[f"share of {unit}, {arm}"] = Cell(share.value, share.low, share.high, share.n - share.censored)
    judged = next(iter(costs))
    share = share_over_seeds(list(shares(runs["shift"], runs["looped"], costs[judged]).values()))
    assert share is not None
    if share.censored:
        answer = f"not in every run: {share.censored} of {share.n} did not reach it"
    elif too_few(share.n):
        answer = too_few(share.n)
    elif share.value is not None and share.high is not None and share.value <= _GOAL and share.high < _GOAL_HIGH:
        answer = "yes"
    else:
        answer = f"no: {share.value:.2f} of its {judged}, up to {share.high:.2f}"
    bound = f"upper end below {100 * _GOAL_HIGH:.0f} %"
    question = f"Does SHIFT reach Looped's final loss in {100 * _GOAL:.0f} % of Looped's {judged} to it ({bound})?"
    return Verdict(question, answer, numbers=numbers)


def smooth(runs: Runs) -> Verdict:
    """Judge whether SHIFT loses at most half a percentage point of held-out accuracy at its switch.

    "yes" needs the upper end of the 95 % interval at or below the goal. A drop says little where Looped, which does not switch,
    loses as much at the same updates; so the paired difference to Looped's own fluctuation is reported too.
    """
    numbers: dict[str, Cell] = {}
    for arm in ("shift", "shift-scp", "shift-hard"):
        drops = [points for run in runs.get(arm, {}).values() if (points := drop(run)) is not None]
        if drops:
            numbers[f"drop of {arm} (points)"] = cell(drops, least=0.0, most=100.0)
    drop_pairs = paired_drops(runs["shift"], runs["looped"])
    excess = interval([shift - looped for shift, looped in drop_pairs]) if drop_pairs else None
    if excess is not None:
        fluctuations = cell([looped for _, looped in drop_pairs], least=0.0, most=100.0)
        numbers["the same along looped, at those updates, without a switch"] = fluctuations
        numbers["drop of shift beyond that (points)"] = as_cell(excess)
    shift_drop = numbers.get("drop of shift (points)")
    question = f"Is the drop in accuracy at SHIFT's switch at most {_GOAL_DROP:g} points (upper end of the interval)?"
    if shift_drop is None:
        return Verdict(question, "no run has switched", numbers=numbers)
    if shift_drop.high is None or too_few(shift_drop.n):
        return Verdict(question, too_few(shift_drop.n), numbers=numbers)
    answer = "yes" if shift_drop.high <= _GOAL_DROP else f"no: {shift_drop.mean:.2f}, up to {shift_drop.high:.2f}"
    if shift_drop.high > _GOAL_DROP and excess is not None and not too_few(excess.n) and sign_of(excess) <= 0:
        answer += "; but not shown to be more than Looped loses there without a switch"
    return Verdict(question, answer, numbers=numbers)


def _as_good(runs: Runs) -> Verdict:
    """Judge SHIFT's final loss against Looped's after the same number of updates, paired by seed."""
    shift_gap = difference(runs["shift"], runs["looped"])
    numbers = {"final loss, shift - looped": as_cell(shift_gap)}
    for arm in ("shift-scp", "shift-hard", "single"):
        if runs.get(arm, {}).keys() & runs["looped"].keys():
            numbers[f"final loss, {arm} - looped"] = as_cell(difference(runs[arm], runs["looped"]))
    question, needed = "Is SHIFT as good as Looped after as many updates?", seeds_needed((shift_gap, 0.0))
    return Verdict(question, _gap_to_looped_answer(shift_gap), numbers=numbers, seeds_needed=needed)


def _short_run_matches(runs: Runs) -> Verdict:
    """Judge the final loss of the short run, whose rate schedule is fitted into its fewer updates, against Looped's.

    Under the full schedule the rate decays late, and every run reaches Looped's final loss late; the short run decays early.
    """
    short, looped = runs["shift-short"], runs["looped"]
    seeds = sorted(short.keys() & looped.keys())
    gap = difference(short, looped)
    numbers = {"final loss, shift-short - looped": as_cell(gap)}
    for unit, spent in costs_of(short, looped).items():
        ratios = [spent(short[seed].evaluations[-1]) / spent(looped[seed].evaluations[-1]) for seed in seeds]
        numbers[f"{unit} of the whole run as a share of looped's"] = as_cell(interval(ratios))
    question = f"Is SHIFT as good as Looped after {100 * SHORT:.0f} % of its updates, the rate's schedule fitted into them?"
    return Verdict(question, _gap_to_looped_answer(gap), numbers=numbers, seeds_needed=seeds_needed((gap, 0.0)))


def _gap_to_looped_answer(gap: Interval) -> str:
    """The answer that a paired difference to Looped's final loss gives to "is it as good as Looped?"."""
    by_sign = {-1: "yes, its final loss is lower", 0: "no difference was found", 1: "no, its final loss is higher"}
    return too_few(gap.n) or by_sign[sign_of(gap)]


def against(runs: Runs, name: str) -> Verdict:
    """Compare SCP with another switching time under the same ramp: held-out loss when both have used equal training time.

    The comparison at equal counted operations is reported with it, and stands alone where other work disturbed the seconds.

    Args:
        runs: variant -> seed -> complete run.
        name: the variant that switches at another time.
    """
    scp, other = runs["shift-scp"], runs[name]
    gaps = {unit: at_equal_cost(scp, other, spent) for unit, spent in costs_of(scp, other).items()}
    answers = {
        unit: too_few(gap.n) or {1: "SCP is better", 0: "no difference was found", -1: f"“{name}” is better"}[sign_of(gap)]
        for unit, gap in gaps.items()
    }
    judged = next(iter(answers))
    same = answers[judged] == answers["operations"]
    answer = answers[judged] if same else f"{answers[judged]}; at equal operations {answers['operations']}"
    numbers = {f"loss at equal {unit}, {name} - shift-scp": as_cell(gap) for unit, gap in gaps.items()}
    numbers |= {f"final loss, {name} - shift-scp": as_cell(difference(other, scp))}
    equal = "wall-clock" if judged == "seconds" else judged
    needed = seeds_needed((gaps[judged], 0.0))
    return Verdict(f"SCP against “{name}”, at equal {equal}?", answer, numbers=numbers, seeds_needed=needed)


def _rivals_of(base: str, names: list[str], change: str, runs: Runs) -> Verdict:
    """List the variants that end with a lower or higher loss than ``base``, or need fewer or more operations.

    Operations are compared only among variants of which every run reaches Looped's final loss.
    """
    looped = runs.get("looped", {})
    loss_gaps = {name: difference(runs[name], runs[base]) for name in names}
    reaching = [name for name in (base, *names) if reaches(runs[name], looped)]
    base_logs = logs(runs[base], looped)
    cost_gaps = {}
    for name in reaching[1:] if base in reaching else ():
        rival_logs = logs(runs[name], looped)
        cost_gaps[name] = interval([rival_logs[seed] - base_logs[seed] for seed in sorted(rival_logs.keys() & base_logs.keys())])
    parts = sides(loss_gaps, "lower final loss", "higher final loss") + sides(cost_gaps, "fewer operations", "more operations")
    numbers = {f"final loss, {name} - {base}": as_cell(gap) for name, gap in loss_gaps.items()}
    numbers |= {f"log operations to Looped's loss, {name} - {base}": as_cell(gap) for name, gap in cost_gaps.items()}
    undecided = too_few(max(gap.n for gap in loss_gaps.values()))
    answer = undecided or "; ".join(parts) or "no difference was found"
    return Verdict(f"Is {change} better than that of {base}?", answer, numbers=numbers)


def _shift_gain_on_stable_model(runs: Runs, kind: str) -> Verdict:
    """Judge whether SHIFT saves operations on a model that brings in its passes gradually by itself, against that model looped."""
    shift, looped = runs[f"shift, {kind}"], runs[f"looped, {kind}"]
    share = share_over_seeds(list(shares(shift, looped, operations).values()))
    assert share is not None
    numbers = {"final loss, shift - looped": as_cell(difference(shift, looped))}
    numbers["share of operations, shift"] = Cell(share.value, share.low, share.high, share.n - share.censored)
    if share.censored:
        answer = f"not in every run: {share.censored} of {share.n} did not reach its loss"
    elif too_few(share.n):
        answer = too_few(share.n)
    else:
        answer = "yes" if share.high is not None and share.high < 1 else "not shown"
        answer += f": {share.value:.2f} of the operations that Looped spends to its final loss"
    question = f"With the model “{kind}”, does SHIFT save something against the same model looped?"
    return Verdict(question, answer, numbers=numbers)


def sides(differences: dict[str, Interval], below: str, above: str) -> list[str]:
    """Sort variants by the sign of their difference: a phrase for those below zero, and one for those above.

    Args:
        differences: variant -> paired difference with its interval; a variant whose interval contains zero is not named.
        below: heading of the variants whose whole interval lies below zero.
        above: heading of those whose whole interval lies above zero.
    Returns:
        "HEADING: NAME, NAME" for each side that has a variant.
    """
    by_side = {
        heading: [name for name, gap in differences.items() if sign_of(gap) == sign] for heading, sign in ((below, -1), (above, 1))
    }
    return [f"{heading}: {', '.join(names)}" for heading, names in by_side.items() if names]


def _safety_net_effect(runs: Runs) -> Verdict:
    """Compare the final loss of hard switches with and without the safety net, and count the switches it took back."""
    numbers: dict[str, Cell] = {}
    answers = []
    for bare, netted in _NETS.items():
        if runs.get(netted, {}).keys() & runs.get(bare, {}).keys():
            gap = difference(runs[netted], runs[bare])
            numbers[f"final loss, {netted} - {bare}"] = as_cell(gap)
            retreats = sum(len(run.retreats) for run in runs[netted].values())
            effect = too_few(gap.n) or ("lower loss", "no difference was found", "higher loss")[sign_of(gap) + 1]
            answers.append(f"{bare}: {retreats} taken back, {effect}")
    return Verdict("Does the safety net mend a hard switch?", "; ".join(answers), numbers=numbers)


def at_equal_cost(shift: Pairs, other: Pairs, spent: Measure) -> Interval:
    """Difference of the smoothed held-out loss at equal cost, ``other`` minus ``shift``, paired by seed.

    Equal cost is what the cheaper run of the two had spent at its end. Both curves are read there, see `smoothed_at`.

    Args:
        shift: seed -> run.
        other: seed -> run; seeds that only one side has are left out.
        spent: cost of an evaluation, `seconds` or `operations`.
    Returns:
        Mean and 95 % t-interval over seeds, in the unit of the loss.
    """
    gaps = []
    for seed in sorted(shift.keys() & other.keys()):
        end = min(spent(run.evaluations[-1]) for run in (shift[seed], other[seed]))
        gaps.append(smoothed_at(other[seed], end, spent) - smoothed_at(shift[seed], end, spent))
    return interval(gaps)


def smoothed_at(run: RunRecord, when: float, spent: Measure) -> float:
    """Smoothed held-out loss of a run when it had spent ``when``.

    The curve is linear between the points of `thalweg.experiments.metrics.smoothed` and constant before the first and after the
    last one.
    """
    points = smoothed(run, spent)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= when <= x1:
            return y0 + (y1 - y0) * (when - x0) / (x1 - x0) if x1 > x0 else y1
    return points[0][1] if when < points[0][0] else points[-1][1]
