"""What the frontier says, claim by claim: operations at equal loss against the stabilised loop and the best constant depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from thalweg.errors import plural
from thalweg.experiments.drop import drop, paired_drops
from thalweg.experiments.frontier.arms import PLAIN, PLANS, STABILISERS, STAGED, TWO_STAGES, UNSCALED, constant
from thalweg.experiments.frontier.equal_loss import Curve, Ratios, equal_loss, loss_ratio
from thalweg.experiments.frontier.source import FrontierConfig
from thalweg.experiments.frontier.sources import source_of
from thalweg.experiments.metrics import Pairs, cell, final_loss, seeds_needed, sign_of, too_few
from thalweg.records.run import Cell, RunRecord, Verdict
from thalweg.report.page import amount

Curves = dict[str, dict[int, Curve]]
"""Arm -> seed -> points."""
_FALL = 0.5
"""Percentage points of accuracy that may be lost at a switch."""
_SAME = 0.99
"""Ratio of operations from which two runs cost the same but for whole updates."""


def excess(run: RunRecord) -> float:
    """Held-out loss above the best possible one where that is known, else above zero."""
    assert run.summary is not None
    ceilings = run.summary.ceilings.get("held-out", {})
    return final_loss(run) - (ceilings["all"].loss if "all" in ceilings else 0.0)


def curves_of(records: Mapping[str, Mapping[float, Pairs]], measure: Callable[[RunRecord], float] = excess) -> Curves:
    """Arm -> seed -> points by budget; only seeds at which every budget of the arm is complete and its measure above zero.

    Args:
        records: arm -> budget -> seed -> complete run.
        measure: number of a run, the lower the better.
    """
    curves: Curves = {}
    for arm, by_budget in records.items():
        seeds = set.intersection(*(set(runs) for runs in by_budget.values())) if by_budget else set()
        curves[arm] = {}
        for seed in sorted(seeds):
            points = [(runs[seed].evaluations[-1].flops, measure(runs[seed])) for runs in by_budget.values()]
            if all(value > 0 for _, value in points):
                curves[arm][seed] = points
    return curves


def depths_of(curves: Mapping[str, Mapping[int, Curve]], loops: int) -> dict[int, Mapping[int, Curve]]:
    """Constant depth -> its curves, of those that have any."""
    return {depth: curves[constant(depth)] for depth in range(1, loops + 1) if curves.get(constant(depth))}


def mean_loss(curves: Mapping[int, Curve], budget: int) -> float:
    """Geometric mean over seeds of the loss at one budget."""
    logs = [math.log(sorted(curve)[budget][1]) for curve in curves.values() if budget < len(curve)]
    return math.exp(sum(logs) / len(logs)) if logs else math.inf


def best_constant(curves: Mapping[str, Mapping[int, Curve]], plan: FrontierConfig, budget: int = -1) -> int | None:
    """The constant depth with the lowest loss at one budget, the largest when not given."""
    depths = depths_of(curves, plan.loops)
    index = budget % len(plan.budgets)
    return min(depths, key=lambda depth: mean_loss(depths[depth], index)) if depths else None


def strongest_looped(curves: Mapping[str, Mapping[int, Curve]], plan: FrontierConfig) -> str:
    """The arm with T stabilised passes throughout that has the lowest loss at the largest budget: the baseline."""
    arms = [arm for arm in (constant(plan.loops), *STABILISERS) if curves.get(arm)]
    return min(arms, key=lambda arm: mean_loss(curves[arm], len(plan.budgets) - 1), default=constant(plan.loops))


def answers(curves: Curves, plan: FrontierConfig) -> list[Verdict]:
    """Which depth is the best, then each comparison with its numbers."""
    made = [_depth_pays(curves, plan)]
    looped = strongest_looped(curves, plan)
    words = source_of(plan.source).arm_words(looped, plan.loops)[0]
    if any(curves.get(arm) for arm in STABILISERS):
        words = f"the strongest loop ({words})"
    for arm in (STAGED, UNSCALED, TWO_STAGES, PLAIN, *STABILISERS):
        if curves.get(arm) and arm != looped:
            made.append(against(curves, plan, arm, looped, words))
            best = best_constant(curves, plan)
            if best is not None and best != plan.loops and arm not in STABILISERS:
                depth_words = f"the best constant depth ({plural(best, 'pass', 'passes')})"
                made.append(against(curves, plan, arm, constant(best), depth_words))
    for arm in PLANS:
        if curves.get(arm) and curves.get(STAGED):
            made.append(against(curves, plan, arm, STAGED, "the recommended plan (staged)"))
    return made


def operations_needed(curves: Curves, plan: FrontierConfig, arm: str, rival: str) -> dict[float, Ratios]:
    """Budget of the rival -> operations at equal loss.

    The cheapest budget is left out, as no cheaper run of the arm was made that could end as low. So is a budget where all that is
    known is a bound of 1: the arm's dearest run is still higher, and cost as much as the rival's.
    """
    cheapest = 1 if len(plan.budgets) > 1 else 0
    rivals = list(enumerate(plan.budgets))[cheapest:]
    made = {budget: equal_loss(curves[arm], curves[rival], index) for index, budget in rivals}
    known = {budget: ratios for budget, ratios in made.items() if ratios is not None}
    informative = {budget: ratios for budget, ratios in known.items() if not _is_bound_of_one(ratios)}
    return informative or known


def _is_bound_of_one(ratios: Ratios) -> bool:
    """Whether every seed gives a bound only, and that bound is 1 but for whole updates."""
    bounded = ratios.n in (ratios.upper_bounds, ratios.lower_bounds)
    return bounded and _SAME < ratios.value < 1 / _SAME


def _depth_pays(curves: Curves, plan: FrontierConfig) -> Verdict:
    """The best constant depth at every budget, and whether two passes or fewer are shown to be worse at the largest."""
    question = "Which constant depth is the best?"
    depths = depths_of(curves, plan.loops)
    if len(depths) < 2:
        return Verdict(question, "fewer than two constant depths have been trained at every budget")
    by_budget = {budget: best_constant(curves, plan, index) for index, budget in enumerate(plan.budgets)}
    found = "; ".join(f"{depth} at {amount(budget)} GFLOP" for budget, depth in by_budget.items())
    best = by_budget[plan.budgets[-1]]
    numbers, last = {}, len(plan.budgets) - 1
    assert best is not None
    for depth in depths:
        if depth != best and (logs := loss_ratio(depths[depth], depths[best], last)) is not None:
            numbers[f"loss of depth {depth} over depth {best}'s, largest budget"] = _factor(logs.mean, logs.low, logs.high, logs.n)
    few = too_few(min(len(curve) for curve in depths.values()))
    shallow = {depth: loss_ratio(depths[depth], depths[best], last) for depth in (1, 2) if depth in depths and depth != best}
    pays = best > 2 and bool(shallow) and all(one is not None and sign_of(one) > 0 for one in shallow.values())
    named = {(1,): "one pass is", (2,): "two passes are", (1, 2): "one and two passes are"}
    words = f"depth pays: {named[tuple(shallow)]} worse" if pays else "it is not shown that more than two passes pay"
    return Verdict(question, few or f"{found}; {words}", numbers=numbers)


def fall_at_switches(staged: Mapping[float, Pairs], looped: Mapping[float, Pairs]) -> Verdict:
    """Whether held-out accuracy falls at the switches of staged training, beside Looped's own fall at the same updates.

    Args:
        staged: budget -> seed -> run of staged training.
        looped: the same of T passes throughout.
    """
    claim = f"At a switch the held-out accuracy falls by at most {_FALL:g} points"
    numbers, ends = {}, []
    for budget, runs in staged.items():
        drops = [lost for run in runs.values() if (lost := drop(run)) is not None]
        own = [control for _, control in paired_drops(runs, looped.get(budget, {}))]
        if drops:
            falls = cell(drops, least=0.0, most=100.0)
            numbers[f"fall at {amount(budget)} GFLOP (points)"] = falls
            ends.append((len(drops), falls))
        if own:
            numbers[f"fall of T passes at the same updates, {amount(budget)} GFLOP (points)"] = cell(own, least=0.0, most=100.0)
    few = too_few(min((count for count, _ in ends), default=0) if len(ends) == len(staged) else 0)
    highs = [one.high for _, one in ends if one.high is not None]
    lows = [one.low for _, one in ends if one.low is not None]
    if few or len(highs) < len(ends):
        verdict = few or "undecided"
    else:
        verdict = "supported" if max(highs) <= _FALL else "contradicted" if max(lows) > _FALL else "undecided"
    test = (
        "largest fall below the best accuracy so far, from before a switch until 400 updates after it; supported if the upper end "
        f"of its interval is at most {_FALL:g} at every budget, contradicted if the lower end of one is above"
    )
    return Verdict(claim, verdict, test, numbers, source="ours")


def _factor(mean: float, low: float | None, high: float | None, n: int) -> Cell:
    """A ratio over seeds from the interval of its logarithm."""
    ends = [None if end is None else math.exp(end) for end in (low, high)]
    return Cell(math.exp(mean), ends[0], ends[1], n)


def against(curves: Curves, plan: FrontierConfig, arm: str, rival: str, rival_words: str, measure: str = "loss") -> Verdict:
    """Whether an arm needs fewer operations than a rival for the same value of a measure, the lower the better."""
    claim = f"{arm} needs fewer operations than {rival_words} for the same {measure}, at every budget but the cheapest"
    if not curves.get(rival):
        return Verdict(claim, "not measured", f"{rival} has no complete curve")
    ratios = operations_needed(curves, plan, arm, rival)
    few = too_few(min((one.n for one in ratios.values()), default=0))
    below, above = (all(getattr(one, name) for one in ratios.values()) for name in ("is_below_one", "is_above_one"))
    verdict = "undecided" if few else "supported" if ratios and below else "contradicted" if ratios and above else "undecided"
    numbers = {}
    for budget, one in ratios.items():
        bound = f" ({one.bound})" if one.bound else ""
        numbers[f"share of the rival's {amount(budget)} GFLOP needed for its {measure}{bound}"] = one.cell
    needed = seeds_needed(*((one.logs, 0.0) for one in ratios.values() if one.logs is not None)) if _may_be_decided(ratios) else 0
    for index, budget in enumerate(plan.budgets):
        logs = loss_ratio(curves[arm], curves[rival], index)
        if logs is not None:
            numbers[f"{measure} at {amount(budget)} GFLOP, over the rival's"] = _factor(logs.mean, logs.low, logs.high, logs.n)
    test = (
        f"operations at equal {measure} over the rival's, paired t-interval of the logarithm over seeds: supported if below 1 at "
        "every budget but the cheapest, contradicted if above 1 at each of them"
    )
    return Verdict(claim, verdict, test, numbers, seeds_needed=needed if verdict == "undecided" else 0, source="ours")


def _may_be_decided(ratios: Mapping[float, Ratios]) -> bool:
    """Whether more seeds can decide: a ratio at every budget, all on the same side of 1."""
    return all(one.logs is not None for one in ratios.values()) and len({one.value > 1 for one in ratios.values()}) == 1
