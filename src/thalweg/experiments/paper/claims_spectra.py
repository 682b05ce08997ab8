"""Claims about spectra: a freeze, phases, the class of a valley, and which arm is the steeper one.

Shape letters: P number of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.errors import InsufficientDataError
from thalweg.experiments.metrics import MIN_SEEDS, as_cell
from thalweg.experiments.paper.evidence import LATE, Evidence, Finding, Rule, beyond, known, log_ratio, mean, over_seeds, shown
from thalweg.intervals import Interval, slope
from thalweg.landscape.phases import LEAST_POINTS, THREE, PhasesOverSeeds, phases_over_seeds
from thalweg.landscape.threshold import threshold
from thalweg.landscape.valley import MIN_SEEDS as CLASS_SEEDS
from thalweg.landscape.valley import Class, classify_seeds, sign_flip_test
from thalweg.records.landscape import LandscapeRecord, RunLandscape
from thalweg.records.run import Cell

_STILL = 0.05
"""Share of the range of all entropies within which a rise is none."""
_ENOUGH = 2 / 3
"""Share of the seeds with the same phases that makes them the phases."""


def freezes(e: Evidence) -> Finding:
    """Single's entropy stands over the last third of the run: shown to be small, not only not shown to be large."""
    rises = {arm: [_late_rise(e, arm, seed) for seed in e.landscapes.get(arm, {})] for arm in ("single", "looped")}
    e.of("single")
    found = over_seeds(rises["single"], "seeds of single with at least 2 checkpoints in the last third of the run")
    arms = [arm for arm in rises if e.landscapes.get(arm)]
    entropies = [point.entropy.value for arm in arms for landscape in e.of(arm).values() for point in landscape.points]
    tolerance = _STILL * (max(entropies) - min(entropies))
    numbers = {"rise, single": as_cell(found), "tolerance": Cell(tolerance)}
    numbers |= {"rise, looped": shown(rises["looped"])} if "looped" in arms else {}
    for arm in arms:
        changes = [[p.change for p in e.late(arm, seed, at.points) if p.change is not None] for seed, at in e.of(arm).items()]
        cosines = [mean(change.cosine.value for change in late) for late in changes]
        numbers[f"cosine of successive Hessians in the last third, {arm}"] = shown(cosines)
    test = (
        f"rise of the entropy S_1 over the last third of the run (least-squares slope against steps x length; nats), 95 % "
        f"t-interval over seeds: supported if all of it lies within +-{tolerance:.3g}, contradicted if all of it lies outside, on "
        f"one side; the tolerance is {_STILL:.0%} of the range of the entropies of all runs of {' and '.join(arms)}"
    )
    return Finding(_equivalent(found, tolerance), test, numbers)


def _equivalent(found: Interval, tolerance: float) -> str:
    """Whether a whole interval lies within, or on one side outside, of plus and minus the tolerance."""
    assert found.low is not None
    assert found.high is not None
    if found.low > tolerance or found.high < -tolerance:
        return "contradicted"
    return "supported" if -tolerance <= found.low and found.high <= tolerance else "undecided"


def _late_rise(e: Evidence, arm: str, seed: int) -> float | None:
    """Of the entropy, over the last third; None with fewer than two checkpoints there."""
    late = {point.step: point.entropy.value for point in e.late(arm, seed, e.landscapes[arm][seed].points)}
    return slope(list(late), list(late.values())) * e.steps(arm, seed) * (1 - LATE) if len(late) > 1 else None


def three_phases(e: Evidence) -> Finding:
    """Looped's entropy collapses, diversifies and stands."""
    found = phases_of(e, "looped")
    other = ", ".join(found.modal)
    if found.three_phases:
        decision = "supported"
    else:
        most = len(found.runs) >= CLASS_SEEDS and found.share >= _ENOUGH - 1e-12
        decision = "contradicted" if most and found.modal != THREE else "undecided"
    numbers, words = _shares_of(found, "looped"), f"looped is mostly {other}"
    try:
        single = phases_of(e, "single")
    except InsufficientDataError as error:
        words += f"; single not known ({error})"
    else:
        numbers |= _shares_of(single, "single")
        words += f"; single is mostly {', '.join(single.modal)}"
    test = (
        f"straight pieces of the entropy S_1 over the checkpoints (log-step), breaks by a bootstrap at the 5 % level against "
        f"AR(1) noise: supported if exactly {', '.join(THREE)} in at least 2/3 of at least {CLASS_SEEDS} seeds, contradicted if "
        f"other phases are in as many; {words}"
    )
    return Finding(decision, test, numbers)


def phases_of(e: Evidence, arm: str) -> PhasesOverSeeds:
    """Of the seeds whose runs were measured to their end, at enough checkpoints."""
    late = [found for seed, found in e.of(arm).items() if e.late(arm, seed, found.points)]
    cut = cut_over_seeds(e, arm)
    if cut is None or len(cut.runs) < MIN_SEEDS:
        fewest = min((len(found.points) for found in late), default=0)
        if fewest < LEAST_POINTS and late:
            raise InsufficientDataError(f"{arm}: {fewest} checkpoints, at least {LEAST_POINTS} needed")
        raise InsufficientDataError(f"entropies of {arm} to the end of the run: {len(late)} seeds, at least {MIN_SEEDS} needed")
    return cut


def cut_over_seeds(e: Evidence, arm: str) -> PhasesOverSeeds | None:
    """The phases of all runs of `long_landscapes`, in their order, with one tolerance; None where there are none."""
    series = [
        torch.tensor([point.entropy.value for point in found.points], dtype=torch.float64)
        for found in long_landscapes(e, arm).values()
    ]
    return phases_over_seeds(series, spacing="log-step") if series else None


def long_landscapes(e: Evidence, arm: str) -> dict[int, RunLandscape]:
    """Seed -> landscape that goes to the end of its run, with enough checkpoints to look for phases."""
    found = e.landscapes.get(arm, {})
    return {s: found[s] for s in sorted(found) if len(found[s].points) >= LEAST_POINTS and e.late(arm, s, found[s].points)}


def _shares_of(found: PhasesOverSeeds, arm: str) -> dict[str, Cell]:
    """Share of the seeds with the paper's phases, and with those that most have."""
    count = len(found.runs)
    three = sum(run.labels == THREE for run in found.runs) / count
    return {
        f"share of seeds with the three phases, {arm}": Cell(three, n=count),
        f"share of seeds with {', '.join(found.modal)}, {arm}": Cell(found.share, n=count),
    }


def _last_exact(e: Evidence, arm: str, seed: int) -> tuple[LandscapeRecord, Tensor] | None:
    """The last exact spectrum in the last third of a run."""
    for point in reversed(e.late(arm, seed, e.landscapes[arm][seed].points)):
        if point.how == "exact" and (values := e.spectra(arm, seed, point.step)) is not None:
            return point, values
    return None


def precision_of(e: Evidence, arm: str) -> torch.dtype:
    """Of the arithmetic that made the Hessians."""
    return getattr(torch, next(iter(e.of(arm).values())).plan.dtype)


def epsilon_of(point: LandscapeRecord, values: Tensor, precision: torch.dtype) -> float:
    """The recorded threshold, or that of the default rule."""
    return threshold(values, precision=precision).epsilon if point.split is None else point.split.epsilon


def _class_of(e: Evidence, arm: str) -> Class:
    """Over seeds, of the last exact spectra.

    Raises:
        InsufficientDataError: fewer than 5 seeds have one.
    """
    found = [last for seed in e.of(arm) if (last := _last_exact(e, arm, seed)) is not None]
    if not found:
        raise InsufficientDataError(f"no exact spectra of {arm} at the end of the run")
    if len(found) < CLASS_SEEDS:
        raise InsufficientDataError(f"exact spectra of {arm} at the end: {len(found)} seeds, at least {CLASS_SEEDS} needed")
    precision = precision_of(e, arm)
    epsilons = [epsilon_of(point, values, precision) for point, values in found]
    return classify_seeds([values for _, values in found], epsilons, precision=precision)


def valley_is(arm: str, name: str) -> Rule:
    """The rule "this arm's valley is a U", or a V."""

    def rule(e: Evidence) -> Finding:
        found = _class_of(e, arm)
        decision = "supported" if found.name == name else "undecided" if found.name == "indeterminate" else "contradicted"
        finite = math.isfinite(found.kappa_q)
        numbers = {
            f"kappa_q, {arm}": Cell(found.kappa_q, found.low, found.high, len(found.shapes)) if finite else Cell(None),
            f"negative mass, {arm}": shown(shape.negative_mass for shape in found.shapes),
            f"plateau around epsilon (decades), {arm}": shown(shape.plateau for shape in found.shapes),
        }
        failed = [f"{c.words} fails with {c.measured:.3g}" for c in found.conditions if not c.held]
        test = (
            f"class of {arm}'s last exact spectra over {len(found.shapes)} seeds, by the 95 % t-interval of log kappa_q (90 % over "
            f"10 % quantile of the valley): U if kappa_q <= 2, V if >= 10, saddle if the negative mass is above 5 % in every seed; "
            f"found {found.name}{': ' if failed else ''}{', '.join(failed)}"
        )
        return Finding(decision, test, numbers)

    return rule


def _compared(what: str, words: str, number: Callable[[LandscapeRecord], float | None]) -> Rule:
    """The rule "a positive number of Looped's landscape is the larger one", at the last common checkpoint."""

    def rule(e: Evidence) -> Finding:
        def has(point: LandscapeRecord) -> bool:
            value = number(point)
            return value is not None and value > 0

        pairs = [pair for seed in e.both("looped", "single") if (pair := e.last_pair("looped", "single", seed, has)) is not None]
        logs = known(log_ratio(number(one) or 0.0, number(other) or 0.0) for one, other in pairs)
        found = over_seeds(logs, f"{what} of looped and single at a common checkpoint in the last third of the run")
        numbers = {f"log({what}), looped - single": as_cell(found), "p, sign flips": Cell(sign_flip_test(logs), n=found.n)}
        for place, arm in enumerate(("looped", "single")):
            numbers[f"{what}, {arm}"] = shown(number(pair[place]) for pair in pairs)
        test = (
            f"log of {words} at the last common checkpoint (step {_in_words({one.step for one, _ in pairs})}), looped minus "
            f"single, paired 95 % t-interval over seeds against 0; beside it p of the sign-flip test, at least "
            f"{2.0 ** (1 - found.n):.2g}"
        )
        return Finding(beyond(found), test, numbers)

    return rule


def _in_words(steps: set[int]) -> str:
    """One step, or from the first to the last."""
    return str(min(steps)) if len(steps) == 1 else f"{min(steps)} to {max(steps)}"


uneven = _compared("kappa_q", "kappa_q", lambda point: None if point.split is None else point.split.kappa_q)
steeper = _compared("largest eigenvalue", "the largest eigenvalue", lambda point: point.largest[0] if point.largest else None)
