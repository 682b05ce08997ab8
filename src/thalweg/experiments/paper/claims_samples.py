"""Claims about what is learned: two phases of learning, longer sequences, and the control that could explain Looped's advantage.

Strata: "low" and "high" are the bottom and the top quarter of the sequences by information content, "all" is every sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thalweg.errors import InsufficientDataError
from thalweg.experiments.metrics import LAST, MIN_SEEDS, as_cell, cell, final, seeds_needed
from thalweg.experiments.paper.evidence import Evidence, Finding, beyond, conjunction, known, log_ratio, mean, over_seeds, shown
from thalweg.intervals import interval
from thalweg.records.landscape import LengthRecord, RunLandscape
from thalweg.records.run import Cell, RunRecord

_REACHED = 0.9
"""Share of its own gain in accuracy at which a stratum counts as learned."""
_GAIN = 0.01
"""Accuracy that must be gained on high-information sequences, after the low ones are learned, for a second phase."""
_HALF = 0.5
"""Share of Looped's advantage above which the control explains it."""


@dataclass(frozen=True)
class Learned:
    """When a run learned each stratum; all times in updates."""

    low: float | None
    """Updates until the low stratum had nine tenths of its gain; None where it gained nothing."""
    high: float | None
    """The same for the high stratum."""
    after: float | None
    """Accuracy gained on the high stratum after the low one was learned; None where the low one gained nothing."""

    @property
    def ratio(self) -> float | None:
        """``log(high / low)``, above 0 where the high stratum was learned later; None where a stratum gained nothing."""
        return None if self.low is None or self.high is None else math.log(self.high / self.low)


def reached(steps: list[int], values: list[float]) -> float | None:
    """The step at which a curve first has nine tenths of its gain; None where it gains nothing.

    The gain runs from the first value to the mean of the last `LAST` values; the step is interpolated linearly between evaluations.

    Args:
        steps: of the evaluations, rising.
        values: one for each step.

    Example:
        >>> reached([0, 10, 20, 30, 40], [0.0, 0.5, 1.0, 1.0, 1.0])
        18.0
    """
    target = values[0] + _REACHED * (sum(values[-LAST:]) / len(values[-LAST:]) - values[0])
    stop = next((index for index, value in enumerate(values) if value >= target > values[0]), None)
    if stop is None:  # no gain, or one within rounding
        return None
    (x0, x1), (y0, y1) = steps[stop - 1 : stop + 1], values[stop - 1 : stop + 1]
    return x0 + (x1 - x0) * (target - y0) / (y1 - y0)


def learned(run: RunRecord) -> Learned | None:
    """When a run learned the low and the high held-out stratum; None where an evaluation has no strata."""
    scores = [evaluation.scores.get("held-out", {}) for evaluation in run.evaluations]
    if not all("low" in score and "high" in score for score in scores):
        return None
    steps = [evaluation.step for evaluation in run.evaluations]
    low, high = ([score[stratum].accuracy for score in scores] for stratum in ("low", "high"))
    low_time = reached(steps, low)
    after = None
    if low_time is not None:
        after = final(run, "held-out", "high", "accuracy") - float(np.interp(low_time, steps, high))
    return Learned(low_time, reached(steps, high), after)


def two_phases(e: Evidence) -> Finding:
    """Claim: Looped learns low-information sequences first, and high-information ones in a second phase."""
    looped = [times for run in e.runs_of("looped").values() if (times := learned(run)) is not None]
    if not looped:
        raise InsufficientDataError("no low and high strata in the evaluations of looped")
    after = over_seeds((times.after for times in looped), "runs of looped that gain on low-information sequences")
    # The order of the phases: log(t_high / t_low) above 0. A seed that never learned the high stratum cannot support it.
    ratios = known(times.ratio for times in looped)
    order = "undecided" if len(ratios) < MIN_SEEDS else beyond(interval(ratios))
    order = "undecided" if order == "supported" and len(ratios) < len(looped) else order
    decision = conjunction((beyond(after, _GAIN), order))
    numbers: dict[str, Cell] = {}
    single = [times for run in e.runs.get("single", {}).values() if run.evaluations and (times := learned(run)) is not None]
    for arm, seeds in (("looped", looped), ("single", single)):
        if seeds:
            numbers |= {
                f"log(t_high / t_low), {arm}": shown(times.ratio for times in seeds),
                f"t_low, {arm}": shown(times.low for times in seeds),
                f"t_high, {arm}": shown(times.high for times in seeds),
                f"high accuracy gained after t_low, {arm}": shown(times.after for times in seeds),
            }
    test = (
        f"held-out accuracy; t = updates to {100 * _REACHED:.0f} % of a stratum's gain, first evaluation to mean of the last "
        f"{LAST}; 95 % t-intervals over seeds of log(t_high / t_low) against 0 and of the high accuracy gained after t_low against "
        f"{_GAIN:g}: supported if both lie above, contradicted if one lies below; a seed without t_high cannot support"
    )
    needed = seeds_needed((after, _GAIN), (interval(ratios), 0.0)) if len(ratios) == len(looped) else 0
    return Finding(decision, test, numbers, needed)


def lengths(landscape: RunLandscape) -> dict[int, LengthRecord]:
    """Multiple of the training length -> record at the last step that was scored.

    A record with an error has no scores, but may hold the information content of its sequences.
    """
    end = max((record.step for record in landscape.lengths), default=0)
    return {record.multiple: record for record in landscape.lengths if record.step == end}


def longer(e: Evidence) -> Finding:
    """Claim: Looped keeps more accuracy than Single on sequences longer than those in training."""
    pairs = [
        (lengths(e.landscapes_of("looped")[seed]), lengths(e.landscapes_of("single")[seed])) for seed in e.both("looped", "single")
    ]
    scored = [record for pair in pairs for by_multiple in pair for record in by_multiple.values() if record.scores]
    stratum = "high" if scored and all("high" in record.scores for record in scored) else "all"

    def advantage(looped: dict[int, LengthRecord], single: dict[int, LengthRecord]) -> float | None:
        common = [m for m in looped.keys() & single.keys() if m > 1 and stratum in looped[m].scores and stratum in single[m].scores]
        return mean(looped[m].scores[stratum].accuracy - single[m].scores[stratum].accuracy for m in common)

    gap = over_seeds([advantage(*pair) for pair in pairs], "sequences longer than in training scored for looped and single")
    numbers = {"looped - single": as_cell(gap)}
    for multiple in sorted({record.multiple for record in scored}):
        for index, arm in enumerate(("looped", "single")):
            records = [pair[index][multiple] for pair in pairs if multiple in pair[index]]
            numbers[f"{arm}, x{multiple}"] = _at_length(records, stratum)
    test = (
        f"accuracy ({stratum}) at the end of the run, mean over the lengths above the training length, looped minus single, "
        f"paired 95 % t-interval over seeds against 0"
    )
    return Finding(beyond(gap), test, numbers, seeds_needed((gap, 0.0)))


def _at_length(records: list[LengthRecord], stratum: str) -> Cell:
    """Accuracy at one length over seeds, with the Bayes ceiling where every record has one."""
    scored = [record for record in records if stratum in record.scores]
    ceilings = [record.ceilings[stratum].accuracy for record in scored if stratum in record.ceilings]
    return cell([record.scores[stratum].accuracy for record in scored], ceilings if len(ceilings) == len(scored) else ())


def easier(e: Evidence) -> Finding:
    """Claim: longer sequences have less information content per token.

    More of them lie below the training set's low cut, and fewer above its high cut. If so, accuracy on longer sequences may rise
    because they are easier.
    """
    by_seed: dict[int, dict[int, LengthRecord]] = {}
    for arm in ("looped", "single", *e.landscapes):  # a seed has the same sequences in every arm
        for seed, landscape in e.landscapes.get(arm, {}).items():
            scored = {m: r for m, r in lengths(landscape).items() if {"low", "high"} <= r.shares.keys()}
            if 1 in scored and len(scored) > len(by_seed.get(seed, {})):
                by_seed[seed] = scored
    largest = max(set.intersection(*(set(scored) for scored in by_seed.values())), default=1) if by_seed else 1
    if largest == 1:
        raise InsufficientDataError("no information content of sequences of the training length and of longer ones")
    ends = [(scored[1], scored[largest]) for scored in by_seed.values()]
    more = over_seeds((after.shares["low"] - before.shares["low"] for before, after in ends), "information content by length")
    fewer = over_seeds((before.shares["high"] - after.shares["high"] for before, after in ends), "information content by length")
    numbers = {
        "rise of the share below the low cut": as_cell(more),
        "fall of the share above the high cut": as_cell(fewer),
    }
    for multiple, records in ((1, [before for before, _ in ends]), (largest, [after for _, after in ends])):
        numbers |= {f"share {side}, x{multiple}": shown(record.shares[side] for record in records) for side in ("low", "high")}
        numbers[f"bits for each token, x{multiple}"] = shown(record.bits_mean for record in records)
        numbers[f"deviation of the bits for each token, x{multiple}"] = shown(record.bits_deviation for record in records)
    test = (
        f"share of sequences below the training set's low cut and above its high cut, both in bits for each token: rise of the "
        f"first and fall of the second from the training length to {largest} times it, 95 % t-intervals over seeds: supported if "
        f"both lie above 0, contradicted if one lies below"
    )
    return Finding(conjunction((beyond(more), beyond(fewer))), test, numbers, seeds_needed((more, 0.0), (fewer, 0.0)))


def explained_away(e: Evidence) -> Finding:
    """Claim: rescaling W_V and its step without a loop gives more than half of Looped's advantage in held-out loss.

    The share explained is 1 - (single-rescaled - looped) / (single - looped). The claim is undecided unless Single's loss is
    above Looped's at every seed, with its interval above 0.
    """
    arms = {arm: e.runs_of(arm) for arm in ("looped", "single", "single-rescaled")}
    losses = {
        arm: {seed: loss for seed, run in runs.items() if (loss := _held_out_loss(run)) is not None} for arm, runs in arms.items()
    }
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in losses.values())))
    gaps = [(losses["single"][s] - losses["looped"][s], losses["single-rescaled"][s] - losses["looped"][s]) for s in seeds]
    gap = over_seeds([single for single, _ in gaps], "seeds with held-out losses of looped, single and single-rescaled")
    numbers = {"gap, single - looped": as_cell(gap), "gap, single-rescaled - looped": shown(rescaled for _, rescaled in gaps)}
    numbers |= _landscape_gap(e)
    test = (
        f"final held-out loss; share explained = 1 - (single-rescaled - looped) / (single - looped), 95 % t-interval over seeds: "
        f"supported if above {_HALF:g}, contradicted if below; undecided where not every seed has a gap, or the gap's interval is "
        f"not above 0"
    )
    if beyond(gap) != "supported" or min(single for single, _ in gaps) <= 0:
        return Finding("undecided", f"{test}: there is no sure gap to explain", numbers, seeds_needed((gap, 0.0)))
    explained = over_seeds([1 - rescaled / single for single, rescaled in gaps], "seeds")
    needed = seeds_needed((explained, _HALF))
    return Finding(beyond(explained, _HALF), test, {"share explained": as_cell(explained)} | numbers, needed)


def _held_out_loss(run: RunRecord) -> float | None:
    """Final held-out loss over all sequences, in nats; None where one of the last evaluations did not score it."""
    late = [evaluation.scores.get("held-out", {}) for evaluation in run.evaluations[-LAST:]]
    return final(run, "held-out", "all", "loss") if all("all" in score for score in late) else None


def _landscape_gap(e: Evidence) -> dict[str, Cell]:
    """How rescaled Single's landscape differs from Looped's at the last common point; empty where either was not measured."""
    if not (e.landscapes.get("single-rescaled") and e.landscapes.get("looped")):
        return {}
    seeds = e.both("single-rescaled", "looped")
    pairs = [pair for seed in seeds if (pair := e.last_pair("single-rescaled", "looped", seed)) is not None]
    steep = [log_ratio(a.largest[0], b.largest[0]) for a, b in pairs if a.largest and b.largest]
    return {
        "log of the largest eigenvalue, single-rescaled / looped": shown(steep),
        "entropy, single-rescaled - looped (nats)": shown(a.entropy.value - b.entropy.value for a, b in pairs),
    }
