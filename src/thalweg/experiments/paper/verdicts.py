"""Verdicts on the paper's claims about scores and cost: supported, contradicted or undecided, with the test that decided.

They need only the runs. The claims that need landscapes are in `thalweg.experiments.paper.claims`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from thalweg.experiments.drop import jump
from thalweg.experiments.metrics import MIN_SEEDS, Pairs, as_cell, by_sign, final, last_third_rise, paired, seeds_needed
from thalweg.experiments.share import operations, shares
from thalweg.intervals import Interval, interval
from thalweg.records.run import Cell, Verdict

_STALL_MARGIN = 0.01
"""A rise of less than one point of accuracy over the last third of a run counts as a stall."""

_Rules = list[tuple[set[str], Callable[[], Verdict]]]
"""Arms that a verdict needs, and the function that gives it."""
Runs = dict[str, Pairs]
"""Arm -> seed -> complete run."""


PAPER, OURS, CONTROL = "paper", "ours", "control"
"""Who makes a claim, see `thalweg.records.run.Verdict.source`."""


def verdict(
    claim: str, decision: str, test: str, numbers: dict[str, Cell], topic: str, source: str, seeds_needed: int = 0
) -> Verdict:
    """The record of a verdict; ``topic`` is a section of the page, see `thalweg.report.paper.sections`."""
    return Verdict(claim, decision, test, numbers, topic, seeds_needed if decision == "undecided" else 0, source)


def stalls(runs: Runs, arm: str, where: str, topic: str = "samples") -> Verdict:
    """Claim: an arm stops improving on high-information sequences in the last third of its run, up to a margin of one point.

    Args:
        runs: arm -> seed -> complete run.
        arm: the arm that is judged.
        where: "train" or "held-out".
        topic: section of the page.
    """
    rises = interval([last_third_rise(run, where, "high") for run in runs[arm].values()])
    if rises.n < MIN_SEEDS or rises.high is None or rises.low is None:
        decision = "undecided"
    elif rises.low > 0 and rises.mean >= _STALL_MARGIN:
        decision = "contradicted"
    else:
        decision = "supported" if rises.high < _STALL_MARGIN else "undecided"
    test = (
        f"rise of the {where} high-information accuracy over the last third (least-squares slope x length), t-interval over "
        f"seeds: supported if it ends below {_STALL_MARGIN:g}; contradicted if above 0 with mean >= {_STALL_MARGIN:g}"
    )
    # Towards "supported" the interval must end below the margin, towards "contradicted" it must lie above 0.
    needed = seeds_needed((rises, 0.0 if rises.mean >= _STALL_MARGIN else _STALL_MARGIN))
    claim = f"{arm} stalls on high-information sequences ({where})"
    return verdict(claim, decision, test, {"rise": as_cell(rises)}, topic, PAPER if arm == "single" else CONTROL, needed)


def better(runs: Runs, arm: str, other: str, where: str, stratum: str, claim: str, topic: str = "samples") -> Verdict:
    """Claim: one arm ends with a higher accuracy than the other in a stratum, paired by seed.

    Args:
        runs: arm -> seed -> complete run.
        arm: the arm that should be better.
        other: the arm that it is compared with.
        where: "train" or "held-out".
        stratum: "low", "high" or "all".
        claim: the text of the claim.
        topic: section of the page.
    """
    gap = interval(paired(runs[arm], runs[other], lambda run: final(run, where, stratum, "accuracy")))
    test = f"final {where} accuracy ({stratum}), {arm} minus {other}, paired t-interval over seeds against 0"
    source = CONTROL if topic == "controls" else PAPER
    return verdict(claim, by_sign(gap), test, {"difference": as_cell(gap)}, topic, source, seeds_needed((gap, 0.0)))


def lower_loss(runs: Runs, arm: str, other: str, claim: str) -> Verdict:
    """Claim: one arm ends with a lower held-out loss than the other, paired by seed; ``claim`` is its text."""
    gap = interval(paired(runs[other], runs[arm], lambda run: final(run, "held-out", "all", "loss")))
    test = f"final held-out loss, {other} minus {arm} (nats), paired t-interval over seeds against 0"
    return verdict(claim, by_sign(gap), test, {"difference": as_cell(gap)}, "samples", PAPER, seeds_needed((gap, 0.0)))


def cheaper(runs: Runs, arm: str, other: str) -> Verdict:
    """Claim: one arm reaches the other's final held-out loss with fewer counted operations than the other spends on it.

    The log of the share of the operations is tested against 0, paired by seed. Operations do not depend on the machine, as seconds
    do. The claim is supported only if every seed gets there, and contradicted also if at least `MIN_SEEDS` seeds ran and none does.
    An arm that never switched leaves it undecided.
    """
    source = PAPER if arm == "shift-hard" else OURS
    switched = Cell(float(sum(bool(run.switches) for run in runs[arm].values())), n=len(runs[arm]))
    spent = list(shares(runs[arm], runs[other], operations).values())
    logs = [math.log(share) for share, reached in spent if reached]
    missed = len(spent) - len(logs)
    claim = f"{arm} reaches {other}'s final held-out loss with fewer operations than {other} spends"
    test = f"log of (operations to target / {other}'s to it), paired by seed, t-interval against 0; every seed must reach it"
    if not switched.mean:
        test = f"{test}; no seed of {arm} has switched"
        return verdict(claim, "undecided", test, {"seeds that switched": switched}, "cost", source)
    if not logs or missed:
        numbers = {"seeds that never reached it": Cell(float(missed), n=missed + len(logs))}
        return verdict(claim, "undecided" if logs or missed < MIN_SEEDS else "contradicted", test, numbers, "cost", source)
    log_share = interval(logs)
    ends = (None if end is None else math.exp(end) for end in (log_share.low, log_share.high))
    share = Cell(math.exp(log_share.mean), *ends, n=log_share.n)
    needed = seeds_needed((log_share, 0.0))
    # "Fewer" means a negative log, and `by_sign` judges "greater than zero": so the interval is negated.
    return verdict(claim, by_sign(_negated(log_share)), test, {"share of the operations": share}, "cost", source, needed)


def _negated(estimate: Interval) -> Interval:
    """The interval of the number with the opposite sign."""
    low = None if estimate.high is None else -estimate.high
    high = None if estimate.low is None else -estimate.low
    return Interval(-estimate.mean, low, high, estimate.n)


def smooth_switch(runs: Runs, arm: str, other: str) -> Verdict:
    """Claim: the held-out loss jumps less at the switch of one arm than at the other's, paired by seed."""
    jumps = [[j for r in runs[a].values() if (j := jump(r)) is not None] for a in (arm, other)]
    numbers = {f"jump of {a}": as_cell(interval(values)) for a, values in zip((arm, other), jumps, strict=True) if values}
    differences = paired(runs[other], runs[arm], jump)
    decision = by_sign(interval(differences)) if differences else "undecided"
    needed = seeds_needed((interval(differences), 0.0)) if differences else 0
    test = f"held-out loss after minus before the switch, same weights: {other} minus {arm}, paired t-interval against 0"
    return verdict(f"the ramp of {arm} avoids the jump in loss of {other}", decision, test, numbers, "cost", OURS, needed)


def markov_verdicts(runs: Runs) -> list[Verdict]:
    """The verdicts on every claim that the arms of a study on the Markov language can decide."""
    rules: _Rules = []
    for where in ("train", "held-out"):
        rules += [
            ({"single"}, lambda where=where: stalls(runs, "single", where)),
            ({"single-flops"}, lambda where=where: stalls(runs, "single-flops", where, "controls")),
            (
                {"single", "looped"},
                lambda where=where: better(
                    runs,
                    "looped",
                    "single",
                    where,
                    "high",
                    f"looped rises above single on high-information sequences ({where})",
                ),
            ),
        ]
    rules += [
        (
            {"looped", "single-rescaled"},
            lambda: better(
                runs,
                "looped",
                "single-rescaled",
                "held-out",
                "high",
                "looped's advantage is more than the scale of W_V and its step",
                "controls",
            ),
        ),
        (
            {"looped", "single-flops"},
            lambda: better(
                runs,
                "looped",
                "single-flops",
                "held-out",
                "high",
                "looped beats single at the same counted operations",
                "controls",
            ),
        ),
    ]
    return decided(rules, runs) + text_verdicts(runs)


def text_verdicts(runs: Runs) -> list[Verdict]:
    """The verdicts on every claim that needs no strata: those of a study on text, and part of one on the Markov language."""
    rules: _Rules = [
        (
            {"single", "looped"},
            lambda: lower_loss(runs, "looped", "single", "looped ends with a lower held-out loss than single"),
        ),
        ({"shift", "looped"}, lambda: cheaper(runs, "shift", "looped")),
        ({"shift-hard", "looped"}, lambda: cheaper(runs, "shift-hard", "looped")),
        ({"shift", "shift-hard"}, lambda: smooth_switch(runs, "shift", "shift-hard")),
    ]
    return decided(rules, runs)


def decided(rules: _Rules, runs: Runs) -> list[Verdict]:
    """The verdicts of those rules for which all arms that they need have complete runs of a common seed."""
    return [rule() for needed, rule in rules if not needed or set.intersection(*(set(runs.get(arm, {})) for arm in needed))]
