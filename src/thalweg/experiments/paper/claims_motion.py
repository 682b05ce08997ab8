"""Claims about motion: trapped, hopping, the force on the river and what it gives, and gradients that agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from thalweg.errors import InsufficientDataError
from thalweg.experiments.metrics import MIN_SEEDS, as_cell
from thalweg.experiments.paper.evidence import (
    LATE,
    Evidence,
    Finding,
    all_or_none,
    beyond,
    conjunction,
    known,
    log_ratio,
    mean,
    over_seeds,
    share,
    shown,
)
from thalweg.intervals import interval
from thalweg.records.landscape import AlignmentRecord, GroupRecord, ReplayRecord, TheoremsRecord
from thalweg.records.run import Cell

_ABLATED = ("supported", "not supported", "opposed", "no progress")
"""What an ablation says where it was made."""
_CHANCE = 0.5
_LEAST_ALIGNMENTS = 3
"""Checkpoints that have a first and a last third."""
_WHOLE = "all"
"""The group of all parameters, which is no matrix."""


def _replays_of(e: Evidence, arm: str, least: int = MIN_SEEDS) -> list[tuple[ReplayRecord, ...]]:
    """The windows of every seed whose last window reaches the last third of its run.

    Raises:
        InsufficientDataError: too few seeds have any.
    """
    found = [
        at.replays
        for seed, at in e.landscapes_of(arm).items()
        if at.replays and at.replays[-1].step + at.replays[-1].window >= LATE * e.steps(arm, seed)
    ]
    if not found:
        raise InsufficientDataError(f"no replays of {arm} to the end of the run")
    if len(found) < least:
        raise InsufficientDataError(f"replays of {arm} to the end of the run: {len(found)} seeds, at least {least} needed")
    return found


def _conditions_of(seeds: Sequence[Sequence[ReplayRecord]], decision: str, arm: str) -> dict[str, Cell]:
    """Share of the seeds in which a condition holds in any of the windows."""
    words = dict.fromkeys(held.words for windows in seeds for window in windows for held in window.conditions.get(decision, ()))
    return {
        f"{condition}, {arm}": share([any(_holds(window, decision, condition) for window in windows) for windows in seeds])
        for condition in words
    }


def _holds(window: ReplayRecord, decision: str, words: str) -> bool:
    """Whether a condition of a window holds."""
    return any(held.held for held in window.conditions.get(decision, ()) if held.words == words)


def trapped(e: Evidence) -> Finding:
    """Single is trapped at the end of its run."""
    seeds = [windows[-1:] for windows in _replays_of(e, "single")]
    flags = [windows[-1].trapped for windows in seeds]
    numbers = {"share of seeds trapped, single": share(flags)} | _conditions_of(seeds, "trapped", "single")
    test = (
        f"last replayed window of {len(flags)} seeds: trapped if all of no slope along the river, a loss that stands, an edge "
        f"ratio below 0.5 and class U hold; supported if every seed is, contradicted if none"
    )
    return Finding(all_or_none(flags), test, numbers)


def hops(e: Evidence) -> Finding:
    """Looped hops between the walls of its valley."""
    seeds = _replays_of(e, "looped")
    flags = [any(window.hops for window in windows) for windows in seeds]
    numbers = {"share of seeds that hop, looped": share(flags)} | _conditions_of(seeds, "hopping", "looped")
    if e.landscapes.get("single") and any(at.replays for at in e.landscapes_of("single").values()):
        others = [any(window.hops for window in at.replays) for at in e.landscapes_of("single").values() if at.replays]
        numbers["share of seeds that hop, single"] = share(others)
    numbers["edge ratio, looped"] = shown(mean(window.edge for window in windows) for windows in seeds)
    numbers["cubic drift, looped"] = shown(mean(window.cubic_drift for window in windows) for windows in seeds)
    test = (
        f"replayed windows of {len(flags)} seeds: a window hops if flips are significant, tau_V >= 2 and the edge ratio is in "
        f"(0.5, 1.2]; supported if every seed hops in some window, contradicted if none in any"
    )
    return Finding(all_or_none(flags), test, numbers)


def drives(e: Evidence) -> Finding:
    """Without hopping Looped's river loses progress."""
    seeds = [[window.ablation for window in windows if window.ablation in _ABLATED] for windows in _replays_of(e, "looped")]
    shares = [mean(float(word == "supported") for word in words) for words in seeds]
    found = over_seeds(shares, "ablations of looped")
    carried = [value > _CHANCE for value in known(shares)]
    decision = "supported" if sum(carried) > _CHANCE * len(carried) else "undecided" if found.mean > 0 else "contradicted"
    counts = Counter(word for words in seeds for word in words)
    numbers = {"share of windows supported, looped": as_cell(found), "share of seeds with most supported, looped": share(carried)}
    test = (
        f"gradient descent from the replays' begin, plain, without the valley and at half the rate: a window is supported if the "
        f"last two both lose progress along the river; supported if in more than half of {found.n} seeds more than half of the "
        f"windows are, contradicted if no window is; {', '.join(f'{count} {word}' for word, count in sorted(counts.items()))}"
    )
    return Finding(decision, test, numbers)


_Pairs = list[list[tuple[TheoremsRecord, TheoremsRecord]]]


def _force_pairs(e: Evidence) -> _Pairs:
    """Looped's and Single's records at the same step, rate and number of steps, by seed."""
    seeds = []
    for seed in e.both("looped", "single"):
        one, two = ({(t.step, t.rate, t.steps): t for t in e.landscapes[arm][seed].theorems} for arm in ("looped", "single"))
        if common := sorted(one.keys() & two.keys()):
            seeds.append([(one[key], two[key]) for key in common])
    return seeds


def _log_forces(seeds: _Pairs, name: str) -> list[list[float | None]]:
    """``log(looped / single)`` of a positive number, by seed and checkpoint."""
    return [[log_ratio(getattr(one, name), getattr(other, name)) for one, other in pairs] for pairs in seeds]


def _agreement(one: Sequence[float | None], other: Sequence[float | None]) -> float | None:
    """Share of the places at which two numbers have the same sign; where one is missing or 0 there is none."""
    products = known(a * b for a, b in zip(one, other, strict=True) if a is not None and b is not None)
    return mean(float(product > 0) for product in products if product != 0)


def larger_force(e: Evidence) -> Finding:
    """Corollary 1, for the forces themselves and not their bounds."""
    seeds = _force_pairs(e)
    forces, bounds = _log_forces(seeds, "force_measured"), _log_forces(seeds, "upper_paper")
    found = over_seeds([mean(logs) for logs in forces], "forces at common checkpoints of looped and single")
    orders = [_agreement(a, b) for a, b in zip(forces, bounds, strict=True)]
    numbers = {
        "log force ratio, looped / single": as_cell(found),
        "log ratio of the forces relative to the start": shown(mean(logs) for logs in _log_forces(seeds, "relative_measured")),
        "log ratio of the paper's bounds": shown(mean(logs) for logs in bounds),
        "share of checkpoints where the bounds order as the forces": shown(orders),
    }
    test = (
        f"log of the measured force on the river, counted from the valley's floor, along {_steps_in_words(seeds)}, looped minus "
        f"single, mean over common checkpoints, paired 95 % t-interval over seeds against 0"
    )
    return Finding(beyond(found), test, numbers)


def _steps_in_words(seeds: _Pairs) -> str:
    """K and eta of the descents."""
    kinds = sorted({(one.steps, one.rate) for pairs in seeds for one, _ in pairs})
    return " and ".join(f"{steps} steps of gradient descent at rate {rate:g}" for steps, rate in kinds)


def force_pays(e: Evidence) -> Finding:
    """Corollary 2: the larger force goes with the larger decrease of the loss."""
    seeds = _force_pairs(e)
    forces = _log_forces(seeds, "force_measured")
    falls = [[one.decrease - other.decrease for one, other in pairs] for pairs in seeds]
    found = over_seeds([mean(values) for values in falls], "theorems at common checkpoints of looped and single")
    agree = over_seeds(
        [_agreement(a, b) for a, b in zip(forces, falls, strict=True)], "forces that differ between looped and single"
    )
    decision = conjunction((beyond(found), beyond(agree, _CHANCE)))
    numbers = {"decrease of the loss, looped - single": as_cell(found), "share that orders as the force": as_cell(agree)}
    test = (
        f"decrease of the loss over {_steps_in_words(seeds)}, looped minus single, mean over common checkpoints; and share of the "
        f"checkpoints at which the arm with the larger measured force has the larger decrease; 95 % t-intervals over seeds: "
        f"supported if above 0 and above {_CHANCE:g}, contradicted if one of them lies below"
    )
    return Finding(decision, test, numbers)


def _thirds(records: Sequence[AlignmentRecord]) -> dict[str, Sequence[AlignmentRecord]]:
    """The first and the last third of the checkpoints, by number."""
    size = math.ceil(len(records) / 3)
    return {"early": records[:size], "late": records[-size:]}


def _of_group(records: Sequence[AlignmentRecord], group: str) -> list[GroupRecord]:
    """One group's records, where it is there."""
    return [record.groups[group] for record in records if group in record.groups]


def along(e: Evidence, arm: str) -> list[dict[str, Sequence[AlignmentRecord]]]:
    """Thirds of the alignments of every seed of an arm that has enough of them."""
    return [_thirds(at.alignments) for at in e.landscapes.get(arm, {}).values() if len(at.alignments) >= _LEAST_ALIGNMENTS]


def cosines(seeds: Sequence[dict[str, Sequence[AlignmentRecord]]], group: str, when: str) -> list[float]:
    """Mean batch cosine of one matrix in a third of the checkpoints, by seed."""
    return known(mean(found.cosine for found in _of_group(seed[when], group)) for seed in seeds)


def aligned_early(e: Evidence) -> Finding:
    """Theorem 3: gradients of both models agree early in training, in every matrix."""
    chosen = next((arm for arm in ("single", "looped") if len(along(e, arm)) >= MIN_SEEDS), None)
    if chosen is None:
        most = max((len(along(e, arm)) for arm in ("single", "looped")), default=0)
        few = f"{most} seeds with at least {_LEAST_ALIGNMENTS} checkpoints, at least {MIN_SEEDS} needed"
        raise InsufficientDataError(f"alignments along single or looped: {few}" if most else "no alignments along single or looped")
    numbers: dict[str, Cell] = {}
    for arm in dict.fromkeys((chosen, "looped")):
        numbers |= _alignment_cells(along(e, arm), arm)
    seeds = along(e, chosen)
    early = {group: cosines(seeds, group, "early") for group in _matrices(seeds)}
    early = {group: values for group, values in early.items() if len(values) >= MIN_SEEDS}
    if not early:
        raise InsufficientDataError(f"no matrix with a cosine in {MIN_SEEDS} seeds along {chosen}")
    found = {group: interval(values) for group, values in early.items()}
    least = min(found, key=lambda group: found[group].mean)
    decision = "supported" if all(beyond(one) == "supported" for one in found.values()) else "undecided"
    if beyond(interval(early[least], 1 - 0.05 / len(early))) == "contradicted":
        decision = "contradicted"
    test = (
        f"cosine of the batch gradients of all passes and of one at {chosen}'s weights, mean over the first third of its "
        f"checkpoints, t-intervals over seeds against 0: supported if the 95 % interval of every matrix lies above; contradicted "
        f"if that of the smallest ({least}) lies below, at 5 % over all {len(early)} matrices"
    )
    return Finding(decision, test, numbers)


def _matrices(seeds: Sequence[dict[str, Sequence[AlignmentRecord]]]) -> list[str]:
    """All groups but the whole, in their order."""
    return [g for g in dict.fromkeys(g for seed in seeds for r in (*seed["early"], *seed["late"]) for g in r.groups) if g != _WHOLE]


def _alignment_cells(seeds: Sequence[dict[str, Sequence[AlignmentRecord]]], arm: str) -> dict[str, Cell]:
    """Cosine of each matrix and share of opposed samples, early and late."""
    return {
        f"{what} {group}, {when}, along {arm}": shown(values)
        for group in _matrices(seeds)
        for when in ("early", "late")
        for what, values in (
            ("cosine", cosines(seeds, group, when)),
            ("opposed samples", [mean(found.opposed for found in _of_group(seed[when], group)) for seed in seeds]),
        )
    }
