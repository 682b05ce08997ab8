"""Assumption 1 along the runs: Looped's low eigenvalues are smaller than Single's, compared one by one in ascending order.

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
"""Fallback threshold as a share of the largest eigenvalue of all spectra; used where epsilon leaves some spectrum no valley."""


def smaller_one_by_one(e: Evidence) -> Finding:
    """Test Assumption 1 and its reverse at the first, the middle and the last common checkpoint; the last one decides.

    Supported if Looped's low eigenvalues are smaller at the last checkpoint (and Single's are not), contradicted if Single's are.
    """
    steps = _common_exact(e)
    checkpoints = {"first": steps[0], "middle": steps[len(steps) // 2], "last": steps[-1]}
    end = max(e.steps(arm, seed) for arm in _ARMS for seed in e.both(*_ARMS))
    if steps[-1] < LATE * end:
        raise InsufficientDataError(f"no common exact spectra in the last third of the run; the last are at step {steps[-1]}")
    last, seeds, threshold = _dominance_at(e, steps[-1])
    # Only support counts, in either direction: "contradicted" in one direction may come together with the same in the other.
    decision = "supported" if last.forward.verdict == "supported" else "undecided"
    decision = "contradicted" if last.reverse.verdict == "supported" else decision
    numbers: dict[str, Cell] = {}
    remarks = [_tau_range(last.forward, "looped"), _tau_range(last.reverse, "single")]
    for name in ("first", "middle"):
        try:
            earlier, count, _ = _dominance_at(e, checkpoints[name])
            numbers |= _cells_of(earlier, count, name)
        except BadInputError as error:
            remarks.append(f"{name} checkpoint not tested ({error})")
    numbers |= _cells_of(last, seeds, "last")
    test = (
        f"log of the lowest eigenvalues above {threshold} (at most 10 places of the ascending spectra), "
        f"single against looped, largest t over all sign flips of {seeds} seeds at the 5 % level, both directions, at steps "
        f"{', '.join(map(str, checkpoints.values()))}: supported if looped's are smaller at the last and not the reverse, "
        f"contradicted if the reverse; shares with 95 % intervals over resampled seeds. At the last step {'; '.join(remarks)}"
    )
    return Finding(decision, test, numbers)


def _common_exact(e: Evidence) -> list[int]:
    """Steps, rising, at which at least `SEEDS` seeds have exact spectra of both arms.

    Raises:
        InsufficientDataError: there are none.
    """
    counts: dict[int, int] = {}
    for seed in e.both(*_ARMS):
        single, looped = ({p.step for p in e.landscapes[arm][seed].points if p.how == "exact"} for arm in _ARMS)
        for step in single & looped:
            counts[step] = counts.get(step, 0) + 1
    if not counts:
        exact = {arm for arm in _ARMS for each in e.landscapes_of(arm).values() for p in each.points if p.how == "exact"}
        lacking = [arm for arm in _ARMS if arm not in exact]
        raise InsufficientDataError(f"no exact spectra of {' and '.join(lacking) if lacking else 'both at the same step'}")
    most = max(counts.values())
    if most < SEEDS:
        raise InsufficientDataError(f"exact spectra of single and looped: {most} seeds, at least {SEEDS} needed")
    return sorted(step for step, count in counts.items() if count >= SEEDS)


def _dominance_at(e: Evidence, step: int) -> tuple[Dominance, int, str]:
    """The result of the test at one step, the number of its seeds, and the name of its threshold.

    Raises:
        BadInputError: too few seeds have both spectra, or the spectra have different lengths.
    """
    rows: dict[str, list[Tensor]] = {arm: [] for arm in _ARMS}
    epsilons: list[float] = []
    for seed in e.both(*_ARMS):
        points = {arm: [p for p in e.landscapes[arm][seed].points if p.step == step and p.how == "exact"] for arm in _ARMS}
        spectra = {arm: values for arm in _ARMS if points[arm] and (values := e.spectra(arm, seed, step)) is not None}
        if len(spectra) == len(_ARMS) and len(rows["single"]) < MOST:  # MOST bounds the 2**S sign flips
            for arm, values in spectra.items():
                rows[arm].append(values)
                epsilons.append(epsilon_of(points[arm][-1], values, precision_of(e, arm)))
    seeds = len(rows["single"])
    if seeds < SEEDS:
        raise InsufficientDataError(f"exact spectra of single and looped at step {step}: {seeds} seeds, at least {SEEDS} needed")
    sizes = {len(values) for spectra in rows.values() for values in spectra}
    if len(sizes) > 1:
        raise ShapeMismatchError(
            f"spectra of different models mixed at step {step}: {sorted(sizes)} eigenvalues, expected one number"
        )
    single, looped = torch.stack(rows["single"]), torch.stack(rows["looped"])  # (S, P)
    try:
        return dominance(single, looped, max(epsilons)), seeds, "the largest epsilon of all spectra"
    except EmptySubspaceError:  # epsilon is the middle of the widest gap, which lies at the very top of some spectrum
        largest = float(torch.maximum(single.amax(), looped.amax()))
        return (
            dominance(single, looped, _SHARE * largest),
            seeds,
            f"{_SHARE:g} of the largest eigenvalue (no place is above every epsilon)",
        )


def _cells_of(test: Dominance, seeds: int, checkpoint: str) -> dict[str, Cell]:
    """Share of the eigenvalues at which an arm is smaller, and p-value, in both directions."""
    cells: dict[str, Cell] = {}
    for arm, direction in (("looped", test.forward), ("single", test.reverse)):
        cells[f"share with {arm} smaller, {checkpoint}"] = Cell(direction.share, *direction.share_interval, n=seeds)
        cells[f"p of {arm} smaller, {checkpoint}"] = Cell(direction.flips.p_value, n=seeds)
    return cells


def _tau_range(direction: Direction, arm: str) -> str:
    """The range of tau over which an arm has at least as many eigenvalues up to tau as the other in every seed, as a phrase."""
    if direction.interval is None:
        return f"{arm} has the more eigenvalues below no tau"
    return f"{arm} has the more eigenvalues below every tau from {direction.interval[0]:.3g} to {direction.interval[1]:.3g}"
