"""The first screen of a frontier's page: what was asked and by whom, what was found, how sure it is, and what to do with it.

Every sentence follows from held-out losses and counted operations, never from seconds, so a busy machine gives the same ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from thalweg.errors import plural
from thalweg.experiments.frontier.answers import Curves, best_constant, depths_of, operations_needed, strongest_looped
from thalweg.experiments.frontier.arms import STAGED, TWO_STAGES, constant, in_turn
from thalweg.experiments.frontier.equal_loss import loss_ratio
from thalweg.experiments.frontier.source import FrontierConfig
from thalweg.experiments.frontier.sources import source_of
from thalweg.experiments.metrics import MIN_SEEDS, seeds_needed, sign_of
from thalweg.experiments.words import factor, listed
from thalweg.intervals import Interval
from thalweg.records.experiment import FirstScreen
from thalweg.report.page import amount, seeds_words

_ASKED = (
    "The paper arXiv 2510.10089 (https://arxiv.org/abs/2510.10089) says that a looped transformer, which applies the same blocks "
    "several times, keeps learning sequences on which one pass stops improving, and proposes to train with one pass first and to "
    "loop later (SHIFT). thalweg, a library for such models, asks: for the same number of operations, how many passes end with the "
    "lowest loss on unseen sequences, and does training in stages save operations?"
)


def first_screen(curves: Curves, plan: FrontierConfig, parameters: int, budgets: Sequence[float] = ()) -> FirstScreen:
    """What a reader takes home who reads nothing else.

    Args:
        curves: arm -> seed -> points.
        plan: of the frontier; while runs are missing with the budgets that can be compared.
        budgets: of the whole frontier.
        parameters: weights of a model, the smallest and the largest may differ by the gains alone.
    """
    found = [*_looping(curves, plan), *_staging(curves, plan), *_best_depth(curves, plan)]
    rest = [amount(budget) for budget in budgets if budget not in plan.budgets]
    some = f"Runs are missing: what was found leaves out {listed(rest)} GFLOP until every arm has a run there. " if rest else ""
    return FirstScreen(_ASKED, tuple(found), some + _sure(curves, plan, parameters), _advice(curves, plan))


def _best_loop(curves: Curves, plan: FrontierConfig) -> int | None:
    """The constant depth of 2 or more with the lowest loss at the largest budget."""
    looped = {arm: by_seed for arm, by_seed in curves.items() if arm != constant(1)}
    return best_constant(looped, plan)


def _looping(curves: Curves, plan: FrontierConfig) -> list[str]:
    """Does the best loop end lower than one pass at equal operations?"""
    best, last = _best_loop(curves, plan), len(plan.budgets) - 1
    gap = None if best is None else loss_ratio(curves[constant(best)], curves.get(constant(1), {}), last)
    if best is None or gap is None:
        return []
    at = f"at {amount(plan.budgets[last])} GFLOP (billion operations of a whole training)"
    start = {
        -1: f"{best} passes are better than one pass {at}: they end with",
        0: f"Whether {best} passes are better than one pass is not decided {at}: they end with",
        1: f"No number of passes that was tried is better than one pass {at}: {best} passes end with",
    }[sign_of(gap)]
    deepest = loss_ratio(curves.get(constant(plan.loops), {}), curves[constant(1)], last) if best != plan.loops else None
    rest = "" if deepest is None else f"; {plan.loops} passes throughout end with {factor(deepest)} times one pass's loss"
    return [f"{start} {factor(gap)} times its loss{_open(gap)}{rest}.{_cheaper(curves, plan, best, sign_of(gap))}"]


def _cheaper(curves: Curves, plan: FrontierConfig, depth: int, sign: int) -> str:
    """Where the answer for a depth against one pass is another at cheaper budgets, as a sentence; empty where it is the same."""
    words = {
        -1: f"{depth} passes are better than one pass",
        0: f"whether {depth} passes are better than one pass is not decided",
        1: f"{depth} passes are worse than one pass",
    }
    others: dict[int, list[str]] = {}
    for index, budget in enumerate(plan.budgets[:-1]):
        gap = loss_ratio(curves[constant(depth)], curves[constant(1)], index)
        if gap is not None and sign_of(gap) != sign:
            others.setdefault(sign_of(gap), []).append(amount(budget))
    told = "; ".join(f"{words[other]} at {listed(budgets)} GFLOP" for other, budgets in others.items())
    return f" {told[0].upper()}{told[1:]}." if told else ""


def _staging(curves: Curves, plan: FrontierConfig) -> list[str]:
    """What does staged training save against the strongest loop of T passes?"""
    strongest = strongest_looped(curves, plan)
    if not curves.get(STAGED) or not curves.get(strongest):
        return []
    ratios = operations_needed(curves, plan, STAGED, strongest)
    if not ratios:
        return []
    budget = max(ratios)  # cheaper budgets have fewer cheaper runs below them, so that only bounds are known there
    one = ratios[budget]
    start = {
        -1: "training in stages saves operations.",
        0: "whether training in stages saves operations is not decided.",
        1: "training in stages costs operations.",
    }[one.is_above_one - one.is_below_one]
    source = source_of(plan.source)
    kind = "" if strongest == constant(plan.loops) else f" ({source.arm_words(strongest, plan.loops)[0]})"
    if source.along_lengths:
        own, theirs, given = "in stages along the lengths", f"the passes of each length, at most {plan.loops}", ""
    else:
        own, theirs = f"with {in_turn(source.stages(plan.loops)[0])} passes", f"{plan.loops} passes throughout"
        given = f"if the model must run {plan.loops} passes, "
    sentence = (
        f"Training {own} needs {one} times the {amount(budget)} GFLOP of {theirs}{kind} to end at the same loss{_open(one.logs)}."
    )
    opening = f"{given}{start}"
    return [f"{opening[0].upper()}{opening[1:]} {sentence}"]


def _best_depth(curves: Curves, plan: FrontierConfig) -> list[str]:
    """The best constant depth at each budget, and staged training beside it."""
    depths = depths_of(curves, plan.loops)
    best = best_constant(curves, plan)
    if best is None or len(depths) < 2:
        return []
    by_budget = [(best_constant(curves, plan, index), budget) for index, budget in enumerate(plan.budgets)]
    runs = [
        (depth, [amount(budget) for _, budget in group]) for depth, group in itertools.groupby(by_budget, key=lambda pair: pair[0])
    ]
    tried = f"Of {listed([str(depth) for depth in depths])} passes throughout,"
    if len(runs) == 1:
        sentence = f"{tried} {best} had the lowest mean loss at every budget."
    else:
        where = "; ".join(f"{depth} at {listed(budgets)} GFLOP" for depth, budgets in runs)
        sentence = f"{tried} the lowest mean loss had: {where}."
    gap = loss_ratio(curves.get(STAGED, {}), curves[constant(best)], len(plan.budgets) - 1)
    if gap is None:
        return [sentence]
    passes = plural(best, "pass", "passes")
    end = {-1: "it ends lower", 0: "the two cannot be told apart", 1: "it ends higher"}[sign_of(gap)]
    return [
        f"{sentence} Training in stages has {factor(gap)} times the loss of {passes} throughout at {amount(plan.budgets[-1])} "
        f"GFLOP: {end}{_open(gap)}."
    ]


def _sure(curves: Curves, plan: FrontierConfig, parameters: int) -> str:
    """What the numbers rest on, and what they leave open."""
    seeds = max((len(by_seed) for by_seed in curves.values()), default=0)
    if not seeds:
        return "No arm has complete runs that could be compared yet."
    few = "" if seeds >= MIN_SEEDS else f" At least {MIN_SEEDS} seeds are needed for any answer."
    source = source_of(plan.source)
    floor = " Loss means held-out loss above the best possible loss, which is known for this source." if source.best_known else ""
    absent = TWO_STAGES in source.arms(plan.loops) and not curves.get(TWO_STAGES)
    paper = " The paper's own schedule was not trained here." if absent else ""
    return (
        f"Numbers are means over {plural(seeds, 'seed')}; a 95 % interval stands in brackets.{few}{floor} Operations are "
        "counted, not timed, so a slow or busy machine gives the same numbers. All of this holds for one source of data, "
        f"{source.words}, and models of {parameters:,} weights. {_rates(plan)} The best number of passes was picked on the same "
        f"seeds, so its lead may be overstated a little.{paper}"
    )


def _rates(plan: FrontierConfig) -> str:
    """How the learning rates were chosen."""
    if len(plan.settings) == 1:
        return "All arms have one learning rate, which was not tuned for each."
    return f"Each arm has the best of {len(plan.settings)} settings, chosen on other seeds."


def _advice(curves: Curves, plan: FrontierConfig) -> str:
    """What a user can do with it."""
    best, last = best_constant(curves, plan), len(plan.budgets) - 1
    if best is None or not curves.get(STAGED):
        return (
            "Nothing can be compared yet. If runs are still missing, give the same command again; else train the arm staged and "
            "at least two constant depths."
        )
    gap = loss_ratio(curves[STAGED], curves[constant(best)], last)
    stages = in_turn(source_of(plan.source).stages(plan.loops)[0])
    if gap is not None and sign_of(gap) < 0:
        first = f"Train in stages of {stages} passes: no constant depth that was tried ends as low for the same operations."
    elif len(depths_of(curves, plan.loops)) < 2:
        first = "Train a second constant depth, such as one pass, to see whether depth pays here."
    else:
        gaps = {arm: loss_ratio(by_seed, curves[constant(best)], last) for arm, by_seed in curves.items() if arm != constant(best)}
        lower = [arm for arm, one in gaps.items() if one is not None and sign_of(one) < 0]
        tried = f"of what was tried here only {listed(lower)}" if lower else "nothing that was tried here"
        first = (
            f"If you may choose the depth, take {plural(best, 'pass', 'passes')} throughout: it is simple, and {tried} "
            "was shown to end lower."
        )
        ratios = operations_needed(curves, plan, STAGED, strongest_looped(curves, plan))
        if best != plan.loops and ratios and ratios[max(ratios)].is_below_one:
            first += f" If the model must run {plan.loops} passes, train it in stages of {stages} passes."
    return f"{first} For a source and a model of your own, measure again: how many passes pay depends on the data."


def _open(gap: Interval | None) -> str:
    """How many seeds would decide a comparison that is not decided; empty where it is, or where no spread is known."""
    words = "" if gap is None else seeds_words(seeds_needed((gap, 0.0)), "this comparison")
    return f"; {words}" if words else ""
