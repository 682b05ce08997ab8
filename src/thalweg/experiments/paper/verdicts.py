"""What a study says of the paper's claims: supported, contradicted or undecided, with the test that decided."""

from __future__ import annotations

import math
from collections.abc import Callable

from thalweg.experiments.drop import jump
from thalweg.experiments.metrics import MIN_SEEDS, Pairs, as_cell, by_sign, final, last_third_rise, paired
from thalweg.experiments.share import seconds, shares
from thalweg.intervals import Interval, interval
from thalweg.records.run import Cell, Verdict

_STALL_MARGIN = 0.01
"""A rise of less than one point of accuracy over the last third of a run counts as a stall."""

Runs = dict[str, Pairs]
"""Arm -> seed -> complete run."""


def verdict(claim: str, decision: str, test: str, numbers: dict[str, Cell], topic: str) -> Verdict:
    """A verdict as a record; ``topic`` is a section of the page, see `thalweg.report.paper.sections`."""
    return Verdict(claim, decision, test, numbers, topic)


def stalls(runs: Runs, arm: str, where: str, topic: str = "samples") -> Verdict:
    """Single-Attn stalls on high-information sequences."""
    rises = interval([last_third_rise(run, where, "high") for run in runs[arm].values()])
    flat = rises.low is not None and rises.high is not None and rises.low <= 0 <= rises.high
    if rises.n < MIN_SEEDS or rises.high is None or rises.low is None:
        decision = "undecided"
    elif rises.low > 0 and rises.mean >= _STALL_MARGIN:
        decision = "contradicted"
    else:
        decision = "supported" if flat and rises.high < _STALL_MARGIN else "undecided"
    test = (
        f"rise of the {where} high-information accuracy over the last third (least-squares slope x length), t-interval over "
        f"seeds: supported if it contains 0 and ends below {_STALL_MARGIN:g}; contradicted if above "
        f"0 with mean >= {_STALL_MARGIN:g}"
    )
    return verdict(f"{arm} stalls on high-information sequences ({where})", decision, test, {"rise": as_cell(rises)}, topic)


def better(runs: Runs, arm: str, other: str, where: str, stratum: str, claim: str, topic: str = "samples") -> Verdict:
    """One arm ends with the higher accuracy in a stratum."""
    found = interval(paired(runs[arm], runs[other], lambda run: final(run, where, stratum, "accuracy")))
    test = f"final {where} accuracy ({stratum}), {arm} minus {other}, paired t-interval over seeds against 0"
    return verdict(claim, by_sign(found), test, {"difference": as_cell(found)}, topic)


def lower_loss(runs: Runs, arm: str, other: str, claim: str) -> Verdict:
    """One arm ends with the lower held-out loss."""
    found = interval(paired(runs[other], runs[arm], lambda run: final(run, "held-out", "all", "loss")))
    test = f"final held-out loss, {other} minus {arm} (nats), paired t-interval over seeds against 0"
    return verdict(claim, by_sign(found), test, {"difference": as_cell(found)}, "samples")


def sooner(runs: Runs, arm: str, other: str) -> Verdict:
    """One arm reaches the other's final quality in less than the other's training time."""
    switched = Cell(float(sum(bool(run.switches) for run in runs[arm].values())), n=len(runs[arm]))
    found = list(shares(runs[arm], runs[other], seconds).values())
    logs, missed = [math.log(share) for share, reached in found if reached], sum(not reached for _, reached in found)
    claim = f"{arm} reaches {other}'s final held-out loss in less time than {other} takes"
    test = f"log of (time to target / {other}'s time to it), paired by seed, t-interval against 0; every seed must reach it"
    if not switched.mean:
        return verdict(claim, "undecided", f"{test}; no seed of {arm} has switched", {"seeds that switched": switched}, "cost")
    if not logs or missed:
        numbers = {"seeds that never reached it": Cell(float(missed), n=missed + len(logs))}
        return verdict(claim, "undecided" if logs or missed < MIN_SEEDS else "contradicted", test, numbers, "cost")
    found = interval(logs)
    ends = (None if end is None else math.exp(end) for end in (found.low, found.high))
    share = Cell(math.exp(found.mean), *ends, n=found.n)
    return verdict(claim, by_sign(Interval(-found.mean, *_negated(found), found.n)), test, {"share of the time": share}, "cost")


def _negated(found: Interval) -> tuple[float | None, float | None]:
    """The ends of the interval of the opposite."""
    return (None if found.high is None else -found.high), (None if found.low is None else -found.low)


def smooth_switch(runs: Runs, arm: str, other: str) -> Verdict:
    """The switch of one arm jumps less than the other's."""
    jumps = [[j for r in runs[a].values() if (j := jump(r)) is not None] for a in (arm, other)]
    numbers = {f"jump of {a}": as_cell(interval(values)) for a, values in zip((arm, other), jumps, strict=True) if values}
    found = paired(runs[other], runs[arm], jump)
    decision = by_sign(interval(found)) if found else "undecided"
    test = f"held-out loss after minus before the switch, same weights: {other} minus {arm}, paired t-interval against 0"
    return verdict(f"the ramp of {arm} avoids the jump in loss of {other}", decision, test, numbers, "cost")


def markov_verdicts(runs: Runs) -> list[Verdict]:
    """Every claim that the arms of a Markov study can decide."""
    rules: list[tuple[set[str], Callable[[], Verdict]]] = []
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
    """Every claim that needs no strata."""
    rules: list[tuple[set[str], Callable[[], Verdict]]] = [
        (
            {"single", "looped"},
            lambda: lower_loss(runs, "looped", "single", "looped ends with a lower held-out loss than single"),
        ),
        ({"shift", "looped"}, lambda: sooner(runs, "shift", "looped")),
        ({"shift-hard", "looped"}, lambda: sooner(runs, "shift-hard", "looped")),
        ({"shift", "shift-hard"}, lambda: smooth_switch(runs, "shift", "shift-hard")),
    ]
    return decided(rules, runs)


def decided(rules: list[tuple[set[str], Callable[[], Verdict]]], runs: Runs) -> list[Verdict]:
    """The verdicts for which every arm has runs."""
    return [rule() for needed, rule in rules if all(runs.get(arm) for arm in needed)]
