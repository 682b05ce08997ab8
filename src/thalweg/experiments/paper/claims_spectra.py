"""Claims about spectra: Single's freezes, Looped's has phases, the class of a valley, and which arm is steeper.

S_1 is the Shannon entropy of the normalised magnitudes of the Hessian's eigenvalues (the matrix entropy), in nats. Each public rule
docstring names the claim; the test that decides it stands in the text that the rule builds.

Shape letters: P number of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.errors import InsufficientDataError
from thalweg.experiments.metrics import MIN_SEEDS, as_cell, seeds_needed
from thalweg.experiments.paper.evidence import LATE, Evidence, Finding, Rule, beyond, known, log_ratio, mean, over_seeds, shown
from thalweg.intervals import NO_SEEDS, Interval, slope
from thalweg.landscape.phases import LEAST_POINTS, THREE, UNDECIDED, PhasesOverSeeds, phases_over_seeds
from thalweg.landscape.threshold import threshold
from thalweg.landscape.valley import MIN_SEEDS as CLASS_SEEDS
from thalweg.landscape.valley import Class, classify_seeds, sign_flip_test
from thalweg.records.landscape import LandscapeRecord, RunLandscape
from thalweg.records.run import Cell

_STILL = 0.05
"""Share of the range of all entropies within which a rise counts as zero."""
_ENOUGH = 2 / 3
"""Share of the seeds that must have the same phases for the claim to be decided."""


def freezes(e: Evidence) -> Finding:
    """Claim: the entropy of Single's spectrum no longer changes in the last third of the run.

    This is an equivalence test: the interval of the rise must lie within a tolerance. An interval that merely contains zero is not
    enough, as a noisy measurement would then support the claim.
    """
    rises = {arm: [_late_rise(e, arm, seed) for seed in e.landscapes.get(arm, {})] for arm in ("single", "looped")}
    e.landscapes_of("single")  # raises where there are none, with a clearer reason than below
    single_rise = over_seeds(rises["single"], "seeds of single with at least 2 checkpoints in the last third of the run")
    # The tolerance is a share of the range of S_1 over all points of both arms, so that it has the scale of what could change.
    arms = [arm for arm in rises if e.landscapes.get(arm)]
    entropies = [point.entropy.value for arm in arms for landscape in e.landscapes_of(arm).values() for point in landscape.points]
    tolerance = _STILL * (max(entropies) - min(entropies))
    numbers = {"rise, single": as_cell(single_rise), "tolerance": Cell(tolerance)}
    numbers |= {"rise, looped": shown(rises["looped"])} if "looped" in arms else {}
    for arm in arms:
        changes = [
            [point.change for point in e.late(arm, seed, landscape.points) if point.change is not None]
            for seed, landscape in e.landscapes_of(arm).items()
        ]
        cosines = [mean(change.cosine.value for change in late) for late in changes]
        numbers[f"cosine of successive Hessians in the last third, {arm}"] = shown(cosines)
    test = (
        f"rise of the entropy S_1 over the last third of the run (least-squares slope against steps x length; nats), 95 % "
        f"t-interval over seeds: supported if all of it lies within +-{tolerance:.3g}, contradicted if all of it lies outside, on "
        f"one side; the tolerance is {100 * _STILL:.0f} % of the range of the entropies of all runs of {' and '.join(arms)}"
    )
    # The interval must clear the end of the tolerance that is nearer to the mean.
    needed = seeds_needed((single_rise, math.copysign(tolerance, single_rise.mean)))
    return Finding(_equivalent(single_rise, tolerance), test, numbers, needed)


def _equivalent(estimate: Interval, tolerance: float) -> str:
    """The decision on "zero up to the tolerance": supported if the interval lies within +-tolerance, contradicted if beyond it."""
    assert estimate.low is not None
    assert estimate.high is not None
    if estimate.low > tolerance or estimate.high < -tolerance:
        return "contradicted"
    return "supported" if -tolerance <= estimate.low and estimate.high <= tolerance else "undecided"


def _late_rise(e: Evidence, arm: str, seed: int) -> float | None:
    """Rise of S_1 over the last third of a run: least-squares slope times its length; None with fewer than two checkpoints."""
    late = {point.step: point.entropy.value for point in e.late(arm, seed, e.landscapes[arm][seed].points)}
    return slope(list(late), list(late.values())) * e.steps(arm, seed) * (1 - LATE) if len(late) > 1 else None


def three_phases(e: Evidence) -> Finding:
    """Claim: the entropy of Looped's spectrum goes through collapse, diversification and a stable phase."""
    looped = phases_of(e, "looped")
    if looped.three_phases:
        decision = "supported"
    else:
        agreed = len(looped.runs) >= CLASS_SEEDS and looped.share >= _ENOUGH - 1e-12
        decision = "contradicted" if agreed and looped.modal not in (THREE, (UNDECIDED,)) else "undecided"
    numbers, summary = _shares_of(looped, "looped"), f"looped is mostly {', '.join(looped.modal)}"
    try:
        single = phases_of(e, "single")
    except InsufficientDataError as error:
        summary += f"; single not known ({error})"
    else:
        numbers |= _shares_of(single, "single")
        summary += f"; single is mostly {', '.join(single.modal)}"
    test = (
        f"straight pieces of the entropy S_1 over the checkpoints (log-step), breaks by simulation at the 5 % level against "
        f"AR(1) noise: supported if exactly {', '.join(THREE)} in at least 2/3 of at least {CLASS_SEEDS} seeds, contradicted if "
        f"other phases are in as many; {summary}"
    )
    return Finding(decision, test, numbers)


def phases_of(e: Evidence, arm: str) -> PhasesOverSeeds:
    """The phases of S_1 along an arm's runs, over the seeds that were measured to the end of the run at enough checkpoints.

    Raises:
        InsufficientDataError: fewer than `MIN_SEEDS` seeds were.
    """
    late = [landscape for seed, landscape in e.landscapes_of(arm).items() if e.late(arm, seed, landscape.points)]
    cut = cut_over_seeds(e, arm)
    if cut is None or len(cut.runs) < MIN_SEEDS:
        fewest = min((len(landscape.points) for landscape in late), default=0)
        if fewest < LEAST_POINTS and late:
            raise InsufficientDataError(f"{arm}: {fewest} checkpoints, at least {LEAST_POINTS} needed")
        raise InsufficientDataError(f"entropies of {arm} to the end of the run: {len(late)} seeds, at least {MIN_SEEDS} needed")
    return cut


def cut_over_seeds(e: Evidence, arm: str) -> PhasesOverSeeds | None:
    """The phases of the runs of `long_landscapes`, in their order, cut with one common tolerance; None where there are no runs."""
    series = [
        torch.tensor([point.entropy.value for point in landscape.points], dtype=torch.float64)
        for landscape in long_landscapes(e, arm).values()
    ]
    return phases_over_seeds(series, spacing="log-step") if series else None


def long_landscapes(e: Evidence, arm: str) -> dict[int, RunLandscape]:
    """Seed -> landscape, rising, of the runs that were measured to their end at enough checkpoints to find phases."""
    return {
        seed: landscape
        for seed, landscape in sorted(e.landscapes.get(arm, {}).items())
        if len(landscape.points) >= LEAST_POINTS and e.late(arm, seed, landscape.points)
    }


def _shares_of(phases: PhasesOverSeeds, arm: str) -> dict[str, Cell]:
    """Share of the seeds with the paper's three phases, and share with the most frequent sequence of phases."""
    count = len(phases.runs)
    three = sum(run.labels == THREE for run in phases.runs) / count
    return {
        f"share of seeds with the three phases, {arm}": Cell(three, n=count),
        f"share of seeds with {', '.join(phases.modal)}, {arm}": Cell(phases.share, n=count),
    }


def _last_exact(e: Evidence, arm: str, seed: int) -> tuple[LandscapeRecord, Tensor] | None:
    """The last point of the last third of a run that has an exact spectrum, with its eigenvalues ``(P,)``; None without one."""
    for point in reversed(e.late(arm, seed, e.landscapes[arm][seed].points)):
        if point.how == "exact" and (values := e.spectra(arm, seed, point.step)) is not None:
            return point, values
    return None


def precision_of(e: Evidence, arm: str) -> torch.dtype:
    """The floating-point type in which an arm's Hessian-vector products were computed; it sets the noise floor of eigenvalues."""
    return getattr(torch, next(iter(e.landscapes_of(arm).values())).plan.dtype)


def epsilon_of(point: LandscapeRecord, values: Tensor, precision: torch.dtype) -> float:
    """The threshold epsilon between river and valley: the recorded one, else that of the default rule for these eigenvalues."""
    return threshold(values, precision=precision).epsilon if point.split is None else point.split.epsilon


def _class_of(e: Evidence, arm: str) -> Class:
    """The class of an arm's valley over seeds, from the last exact spectrum of each run.

    Raises:
        InsufficientDataError: fewer than 5 seeds have one.
    """
    spectra = [last for seed in e.landscapes_of(arm) if (last := _last_exact(e, arm, seed)) is not None]
    if not spectra:
        raise InsufficientDataError(f"no exact spectra of {arm} at the end of the run")
    if len(spectra) < CLASS_SEEDS:
        raise InsufficientDataError(f"exact spectra of {arm} at the end: {len(spectra)} seeds, at least {CLASS_SEEDS} needed")
    precision = precision_of(e, arm)
    epsilons = [epsilon_of(point, values, precision) for point, values in spectra]
    return classify_seeds([values for _, values in spectra], epsilons, precision=precision)


def valley_is(arm: str, name: str) -> Rule:
    """The rule for the claim "the valley of this arm is a U" (or a V).

    Args:
        arm: whose last exact spectra are classified.
        name: "U" or "V"; an indeterminate class leaves the claim undecided, any other class contradicts it.
    """

    def rule(e: Evidence) -> Finding:
        valley = _class_of(e, arm)
        decision = "supported" if valley.name == name else "undecided" if valley.name == "indeterminate" else "contradicted"
        finite = math.isfinite(valley.kappa_q)
        numbers = {
            f"kappa_q, {arm}": Cell(valley.kappa_q, valley.low, valley.high, len(valley.shapes)) if finite else Cell(None),
            f"ridge mass, {arm}": shown(shape.ridge_mass for shape in valley.shapes),
            f"plateau around epsilon (decades), {arm}": shown(shape.plateau for shape in valley.shapes),
        }
        failed = [f"{c.words} fails with {c.measured:.3g}" for c in valley.conditions if not c.held]
        test = (
            f"class of {arm}'s last exact spectra over {len(valley.shapes)} seeds, by the 95 % t-interval of log kappa_q (90 % "
            f"over 10 % quantile of the valley): U if kappa_q <= 2, V if >= 10, saddle if the ridge mass is above 5 % in every "
            f"seed; found {valley.name}{': ' if failed else ''}{', '.join(failed)}"
        )
        # A condition fails where the worst seed does not meet it: further seeds cannot make up for that one.
        return Finding(decision, test, numbers, NO_SEEDS if failed and decision == "undecided" else 0)

    return rule


def _larger_in_looped(name: str, quantity: str, number: Callable[[LandscapeRecord], float | None]) -> Rule:
    """The rule for "a positive quantity is larger in Looped's landscape than in Single's", at the last common checkpoint.

    It tests ``log(looped / single)`` against 0, paired by seed; ``name`` heads the numbers, ``quantity`` names it in the test.
    """

    def rule(e: Evidence) -> Finding:
        def has(point: LandscapeRecord) -> bool:
            value = number(point)
            return value is not None and value > 0

        pairs = [pair for seed in e.both("looped", "single") if (pair := e.last_pair("looped", "single", seed, has)) is not None]
        log_ratios = known(log_ratio(number(looped) or 0.0, number(single) or 0.0) for looped, single in pairs)
        gap = over_seeds(log_ratios, f"{name} of looped and single at a common checkpoint in the last third of the run")
        numbers = {f"log({name}), looped - single": as_cell(gap), "p, sign flips": Cell(sign_flip_test(log_ratios), n=gap.n)}
        for index, arm in enumerate(("looped", "single")):
            numbers[f"{name}, {arm}"] = shown(number(pair[index]) for pair in pairs)
        # With n seeds there are 2**n sign flips, so the two-sided p-value cannot be below 2 / 2**n.
        test = (
            f"log of {quantity} at the last common checkpoint (step {_step_range({looped.step for looped, _ in pairs})}), looped "
            f"minus single, paired 95 % t-interval over seeds against 0; also reported: p of the sign-flip test, at least "
            f"{2.0 ** (1 - gap.n):.2g}"
        )
        return Finding(beyond(gap), test, numbers, seeds_needed((gap, 0.0)))

    return rule


def _step_range(steps: set[int]) -> str:
    """A single step, or "FIRST to LAST"."""
    return str(min(steps)) if len(steps) == 1 else f"{min(steps)} to {max(steps)}"


uneven = _larger_in_looped("kappa_q", "kappa_q", lambda point: None if point.split is None else point.split.kappa_q)
"""Claim: Looped's valley is more uneven than Single's, by kappa_q (90 % over 10 % quantile of the valley's eigenvalues)."""
steeper = _larger_in_looped(
    "largest eigenvalue", "the largest eigenvalue", lambda point: point.largest[0] if point.largest else None
)
"""Claim: Looped's largest Hessian eigenvalue is larger than Single's."""
