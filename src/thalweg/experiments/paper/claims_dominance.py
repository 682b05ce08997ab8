"""Assumption 1 along the runs: are Looped's low eigenvalues smaller than Single's, one by one?

Shape letters: S seeds, P number of parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.errors import BadInputError, EmptySubspaceError, InsufficientDataError, ShapeMismatchError
from thalweg.experiments.paper.claims_spectra import epsilon_of, precision_of
from thalweg.experiments.paper.evidence import LATE, Evidence, Finding
from thalweg.records.run import Cell
from thalweg.theory.dominance import MOST, SEEDS, Direction, Dominance, dominance

_ARMS = ("single", "looped")
_SHARE = 1e-3
"""Of the largest eigenvalue of all spectra: the threshold where none of the widest gaps leaves a valley in every seed."""


def smaller_one_by_one(e: Evidence) -> Finding:
    """Assumption 1 and its reverse at the first, the middle and the last common checkpoint; the last decides."""
    steps = _common_exact(e)
    places = {"first": steps[0], "middle": steps[len(steps) // 2], "last": steps[-1]}
    end = max(e.steps(arm, seed) for arm in _ARMS for seed in e.both(*_ARMS))
    if places["last"] < LATE * end:
        raise InsufficientDataError(f"no common exact spectra in the last third of the run; the last are at step {places['last']}")
    last, seeds, rule = _dominance_at(e, places["last"])
    decision = "supported" if last.forward.verdict == "supported" else "undecided"  # both may be contradicted, by each other
    decision = "contradicted" if last.reverse.verdict == "supported" else decision
    numbers: dict[str, Cell] = {}
    words = [_tau_words(last.forward, "looped"), _tau_words(last.reverse, "single")]
    for name in ("first", "middle"):
        try:
            found, count, _ = _dominance_at(e, places[name])
            numbers |= _cells_of(found, count, name)
        except BadInputError as error:
            words.append(f"{name} checkpoint not tested ({error})")
    numbers |= _cells_of(last, seeds, "last")
    test = (
        f"log of the lowest eigenvalues above {rule} (at most 10 places of the ascending spectra), "
        f"single against looped, largest t over all sign flips of {seeds} seeds at the 5 % level, both directions, at steps "
        f"{', '.join(map(str, places.values()))}: supported if looped's are smaller at the last and not the reverse, contradicted "
        f"if the reverse; shares with 95 % intervals over resampled seeds. At the last step {'; '.join(words)}"
    )
    return Finding(decision, test, numbers)


def _common_exact(e: Evidence) -> list[int]:
    """Steps at which enough seeds have exact spectra of both arms, rising.

    Raises:
        InsufficientDataError: there are none.
    """
    counts: dict[int, int] = {}
    for seed in e.both(*_ARMS):
        one, two = ({p.step for p in e.landscapes[arm][seed].points if p.how == "exact"} for arm in _ARMS)
        for step in one & two:
            counts[step] = counts.get(step, 0) + 1
    if not counts:
        lacking = [arm for arm in _ARMS if not any(p.how == "exact" for at in e.landscapes_of(arm).values() for p in at.points)]
        raise InsufficientDataError(f"no exact spectra of {' and '.join(lacking) if lacking else 'both at the same step'}")
    most = max(counts.values())
    if most < SEEDS:
        raise InsufficientDataError(f"exact spectra of single and looped: {most} seeds, at least {SEEDS} needed")
    return sorted(step for step, count in counts.items() if count >= SEEDS)


def _dominance_at(e: Evidence, step: int) -> tuple[Dominance, int, str]:
    """The test at one step, the number of its seeds, and its threshold in words.

    Raises:
        BadInputError: it cannot be made.
    """
    rows: dict[str, list[Tensor]] = {arm: [] for arm in _ARMS}
    epsilons: list[float] = []
    for seed in e.both(*_ARMS):
        points = {arm: [p for p in e.landscapes[arm][seed].points if p.step == step and p.how == "exact"] for arm in _ARMS}
        found = {arm: values for arm in _ARMS if points[arm] and (values := e.spectra(arm, seed, step)) is not None}
        if len(found) == len(_ARMS) and len(rows["single"]) < MOST:
            for arm, values in found.items():
                rows[arm].append(values)
                epsilons.append(epsilon_of(points[arm][-1], values, precision_of(e, arm)))
    seeds = len(rows["single"])
    if seeds < SEEDS:
        raise InsufficientDataError(f"exact spectra of single and looped at step {step}: {seeds} seeds, at least {SEEDS} needed")
    sizes = {len(values) for found in rows.values() for values in found}
    if len(sizes) > 1:
        raise ShapeMismatchError(
            f"spectra of different models mixed at step {step}: {sorted(sizes)} eigenvalues, expected one number"
        )
    single, looped = torch.stack(rows["single"]), torch.stack(rows["looped"])
    try:
        return dominance(single, looped, max(epsilons)), seeds, "the largest epsilon of all spectra"
    except EmptySubspaceError:  # the widest gap lies at the very top of some spectrum
        largest = float(torch.maximum(single.amax(), looped.amax()))
        return (
            dominance(single, looped, _SHARE * largest),
            seeds,
            f"{_SHARE:g} of the largest eigenvalue (no place is above every epsilon)",
        )


def _cells_of(found: Dominance, seeds: int, name: str) -> dict[str, Cell]:
    """Shares dominated and p-values, both ways."""
    cells: dict[str, Cell] = {}
    for arm, way in (("looped", found.forward), ("single", found.reverse)):
        cells[f"share with {arm} smaller, {name}"] = Cell(way.share, *way.share_interval, n=seeds)
        cells[f"p of {arm} smaller, {name}"] = Cell(way.flips.p_value, n=seeds)
    return cells


def _tau_words(way: Direction, arm: str) -> str:
    """Where one arm has at least as many eigenvalues up to tau in every seed."""
    if way.interval is None:
        return f"{arm} has the more eigenvalues below no tau"
    return f"{arm} has the more eigenvalues below every tau from {way.interval[0]:.3g} to {way.interval[1]:.3g}"
