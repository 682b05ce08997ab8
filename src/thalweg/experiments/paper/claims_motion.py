"""Claims about motion: Single is trapped, Looped hops, the force on the river and its effect, and gradients that agree.

They rest on three kinds of records: replayed windows of training (`ReplayRecord`), the theorems compared with gradient descent
(`TheoremsRecord`), and the gradients of one pass and of all passes at shared weights (`AlignmentRecord`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from thalweg.errors import InsufficientDataError
from thalweg.experiments.metrics import MIN_SEEDS, as_cell, seeds_needed
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
"""Outcomes of an ablation that was made; any other text says why it was not."""
_CHANCE = 0.5
"""Share that agreement by chance would give."""
_LEAST_ALIGNMENTS = 3
"""Fewest checkpoints that have a first, a middle and a last third."""
_WHOLE = "all"
"""Name of the group of all parameters, which is not a single matrix."""


def _replays_of(e: Evidence, arm: str, least: int = MIN_SEEDS) -> list[tuple[ReplayRecord, ...]]:
    """The replayed windows of each seed whose last window reaches the last third of its run.

    Raises:
        InsufficientDataError: fewer than ``least`` seeds have one.
    """
    seeds = [
        landscape.replays
        for seed, landscape in e.landscapes_of(arm).items()
        if landscape.replays and landscape.replays[-1].step + landscape.replays[-1].window >= LATE * e.steps(arm, seed)
    ]
    if not seeds:
        raise InsufficientDataError(f"no replays of {arm} to the end of the run")
    if len(seeds) < least:
        raise InsufficientDataError(f"replays of {arm} to the end of the run: {len(seeds)} seeds, at least {least} needed")
    return seeds


def _conditions_of(seeds: Sequence[Sequence[ReplayRecord]], decision: str, arm: str) -> dict[str, Cell]:
    """For each condition of a decision ("trapped", "hopping"), the share of the seeds in which it holds in any window."""
    records = [condition for windows in seeds for window in windows for condition in window.conditions.get(decision, ())]
    names = dict.fromkeys(condition.words for condition in records)
    return {
        f"{name}, {arm}": share([any(_holds(window, decision, name) for window in windows) for windows in seeds]) for name in names
    }


def _holds(window: ReplayRecord, decision: str, name: str) -> bool:
    """Whether the condition of this name holds in a window."""
    return any(condition.held for condition in window.conditions.get(decision, ()) if condition.words == name)


def trapped(e: Evidence) -> Finding:
    """Claim: Single is trapped at the end of its run, judged by the last replayed window of each seed."""
    seeds = [windows[-1:] for windows in _replays_of(e, "single")]
    flags = [windows[-1].trapped for windows in seeds]
    open_ones = sum(not windows[-1].trapped and not windows[-1].shown_not("trapped") for windows in seeds)
    numbers = {"share of seeds trapped, single": share(flags)} | _conditions_of(seeds, "trapped", "single")
    test = (
        f"last replayed window of {len(flags)} seeds: trapped if all of no slope along the river, a constant loss (equivalence "
        f"test), an edge ratio below 0.5 and class U hold, not trapped if one fails; supported if every seed is, contradicted if "
        f"every seed is not" + (f"; {open_ones} undecided" if open_ones else "")
    )
    return Finding(_unless_open(all_or_none(flags), open_ones), test, numbers)


def hops(e: Evidence) -> Finding:
    """Claim: Looped hops between the walls of its valley in some replayed window of every seed."""
    seeds = _replays_of(e, "looped")
    flags = [any(window.hops for window in windows) for windows in seeds]
    open_ones = sum(any(not window.hops and not window.shown_not("hopping") for window in windows) for windows in seeds)
    numbers = {"share of seeds that hop, looped": share(flags)} | _conditions_of(seeds, "hopping", "looped")
    single = [landscape.replays for _, landscape in sorted(e.landscapes.get("single", {}).items()) if landscape.replays]
    if single:
        numbers["share of seeds that hop, single"] = share([any(window.hops for window in windows) for windows in single])
    numbers["edge ratio, looped"] = shown(mean(window.edge for window in windows) for windows in seeds)
    numbers["cubic drift, looped"] = shown(mean(window.cubic_drift for window in windows) for windows in seeds)
    test = (
        f"replayed windows of {len(flags)} seeds: a window hops if flips are significant, tau_V >= 2 and the edge ratio is in "
        f"(0.5, 1.2], and it does not if one fails, the flips below their threshold with 95 % confidence; supported if every seed "
        f"hops in some window, contradicted if every window of every seed does not"
        + (f"; {open_ones} undecided" if open_ones else "")
    )
    return Finding(_unless_open(all_or_none(flags), open_ones), test, numbers)


def _unless_open(decision: str, open_ones: int) -> str:
    """A decision, which contradicts nothing while some seeds are undecided."""
    return "undecided" if decision == "contradicted" and open_ones else decision


def drives(e: Evidence) -> Finding:
    """Claim: hopping drives Looped down the river, so that it makes less progress along the river where hopping is prevented.

    The ablation is plain gradient descent and the run may use another optimizer, so the ablation can support the claim but cannot
    refute it.
    """
    seeds = [[window.ablation for window in windows if window.ablation in _ABLATED] for windows in _replays_of(e, "looped")]
    shares = [mean(float(ablation == "supported") for ablation in ablations) for ablations in seeds]
    supported_share = over_seeds(shares, "ablations of looped")
    mostly = [value > _CHANCE for value in known(shares)]
    decision = "supported" if sum(mostly) > _CHANCE * len(mostly) else "undecided"
    counts = Counter(ablation for ablations in seeds for ablation in ablations)
    numbers = {
        "share of windows supported, looped": as_cell(supported_share),
        "share of seeds with most supported, looped": share(mostly),
    }
    by_kind = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    test = (
        "gradient descent from the start of each replayed window: plain, without the valley, and at half the rate; a window is "
        "supported if the last two both lose progress along the river; supported if more than half of the windows are in more "
        f"than half of {supported_share.n} seeds, else undecided, as the run itself may use another optimizer; {by_kind}"
    )
    return Finding(decision, test, numbers)


_Pairs = list[list[tuple[TheoremsRecord, TheoremsRecord]]]
"""Seed, then common checkpoint -> the records of Looped and of Single."""


def _force_pairs(e: Evidence) -> _Pairs:
    """Looped's and Single's records at the same checkpoint, for descents of the same rate and number of steps, by seed."""
    seeds = []
    for seed in e.both("looped", "single"):
        looped, single = ({(t.step, t.rate, t.steps): t for t in e.landscapes[arm][seed].theorems} for arm in ("looped", "single"))
        if common := sorted(looped.keys() & single.keys()):
            seeds.append([(looped[key], single[key]) for key in common])
    return seeds


def _log_forces(seeds: _Pairs, name: str) -> list[list[float | None]]:
    """``log(looped / single)`` of a positive field of the records, by seed and checkpoint."""
    return [[log_ratio(getattr(looped, name), getattr(single, name)) for looped, single in pairs] for pairs in seeds]


def _agreement(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """Share of the checkpoints at which two numbers have the same sign; those where one is missing or 0 are left out."""
    products = known(a * b for a, b in zip(first, second, strict=True) if a is not None and b is not None)
    return mean(float(product > 0) for product in products if product != 0)


def larger_force(e: Evidence) -> Finding:
    """Corollary 1: the force on the river is larger in Looped than in Single.

    The claim is judged by the measured forces themselves; the ratio of the paper's upper bounds, and how often the bounds order the
    arms as the forces do, are reported with it.
    """
    seeds = _force_pairs(e)
    forces, bounds = _log_forces(seeds, "force_measured"), _log_forces(seeds, "upper_paper")
    force_gap = over_seeds([mean(logs) for logs in forces], "forces at common checkpoints of looped and single")
    orders = [_agreement(a, b) for a, b in zip(forces, bounds, strict=True)]
    numbers = {
        "log force ratio, looped / single": as_cell(force_gap),
        "log ratio of the forces relative to the start": shown(mean(logs) for logs in _log_forces(seeds, "relative_measured")),
        "log ratio of the paper's bounds": shown(mean(logs) for logs in bounds),
        "share of checkpoints where the bounds order as the forces": shown(orders),
    }
    test = (
        f"log of the measured force on the river, counted from the valley's floor, along {_describe_descents(seeds)}, looped "
        f"minus single, mean over common checkpoints, paired 95 % t-interval over seeds against 0"
    )
    return Finding(beyond(force_gap), test, numbers, seeds_needed((force_gap, 0.0)))


def _describe_descents(seeds: _Pairs) -> str:
    """Number of steps K and rate eta of the gradient descents that the theorems were compared with."""
    kinds = sorted({(looped.steps, looped.rate) for pairs in seeds for looped, _ in pairs})
    return " and ".join(f"{steps} steps of gradient descent at rate {rate:g}" for steps, rate in kinds)


def force_pays(e: Evidence) -> Finding:
    """Corollary 2: the arm with the larger force on the river has the larger decrease of the loss.

    Two claims are tested at once: Looped's loss decreases more, and the force and the decrease order the two arms alike at more
    than half of the checkpoints.
    """
    seeds = _force_pairs(e)
    forces = _log_forces(seeds, "force_measured")
    decreases = [[looped.decrease - single.decrease for looped, single in pairs] for pairs in seeds]
    decrease_gap = over_seeds([mean(values) for values in decreases], "theorems at common checkpoints of looped and single")
    agree = over_seeds(
        [_agreement(a, b) for a, b in zip(forces, decreases, strict=True)], "forces that differ between looped and single"
    )
    decision = conjunction((beyond(decrease_gap), beyond(agree, _CHANCE)))
    numbers = {"decrease of the loss, looped - single": as_cell(decrease_gap), "share that orders as the force": as_cell(agree)}
    test = (
        f"decrease of the loss over {_describe_descents(seeds)}, looped minus single, mean over common checkpoints; and share of "
        f"the checkpoints at which the arm with the larger measured force has the larger decrease; 95 % t-intervals over seeds: "
        f"supported if above 0 and above {_CHANCE:g}, contradicted if one of them lies below"
    )
    return Finding(decision, test, numbers, seeds_needed((decrease_gap, 0.0), (agree, _CHANCE)))


def _thirds(records: Sequence[AlignmentRecord]) -> dict[str, Sequence[AlignmentRecord]]:
    """The first third of the checkpoints ("early") and the last third ("late"), rounded up."""
    size = math.ceil(len(records) / 3)
    return {"early": records[:size], "late": records[-size:]}


def _of_group(records: Sequence[AlignmentRecord], group: str) -> list[GroupRecord]:
    """The records of one group of parameters, at the checkpoints that have it."""
    return [record.groups[group] for record in records if group in record.groups]


def along(e: Evidence, arm: str) -> list[dict[str, Sequence[AlignmentRecord]]]:
    """The first and the last third of the alignments of an arm, for every seed with at least three checkpoints."""
    landscapes = e.landscapes.get(arm, {}).values()
    return [_thirds(landscape.alignments) for landscape in landscapes if len(landscape.alignments) >= _LEAST_ALIGNMENTS]


def cosines(seeds: Sequence[dict[str, Sequence[AlignmentRecord]]], group: str, when: str) -> list[float]:
    """Mean cosine of the two batch gradients of one matrix, one number for each seed.

    Args:
        seeds: result of `along`.
        group: name of the matrix.
        when: "early" or "late", the third of the checkpoints that the mean is over.
    """
    return known(mean(record.cosine for record in _of_group(seed[when], group)) for seed in seeds)


def aligned_early(e: Evidence) -> Finding:
    """Theorem 3: the gradients of Looped and of Single at shared weights agree early in training, in every matrix.

    The claim is judged along Single's trajectory, or along Looped's where Single has too few alignments.
    """
    chosen = next((arm for arm in ("single", "looped") if len(along(e, arm)) >= MIN_SEEDS), None)
    if chosen is None:
        most = max((len(along(e, arm)) for arm in ("single", "looped")), default=0)
        if not most:
            raise InsufficientDataError("no alignments along single or looped")
        given = f"{most} seeds with at least {_LEAST_ALIGNMENTS} checkpoints"
        raise InsufficientDataError(f"alignments along single or looped: {given}, at least {MIN_SEEDS} needed")
    numbers: dict[str, Cell] = {}
    for arm in dict.fromkeys((chosen, "looped")):
        numbers |= _alignment_cells(along(e, arm), arm)
    seeds = along(e, chosen)
    early = {group: cosines(seeds, group, "early") for group in _matrices(seeds)}
    early = {group: values for group, values in early.items() if len(values) >= MIN_SEEDS}
    if not early:
        raise InsufficientDataError(f"no matrix with a cosine in {MIN_SEEDS} seeds along {chosen}")
    # Support needs every matrix above 0, each at 5 %. One matrix below 0 contradicts the claim, but with many matrices one may lie
    # there by chance: so the smallest is tested at 5 % divided by their number (Bonferroni).
    intervals = {group: interval(values) for group, values in early.items()}
    least = min(intervals, key=lambda group: intervals[group].mean)
    decision = "supported" if all(beyond(estimate) == "supported" for estimate in intervals.values()) else "undecided"
    if beyond(interval(early[least], 1 - 0.05 / len(early))) == "contradicted":
        decision = "contradicted"
    test = (
        f"cosine of the batch gradients of all passes and of one at {chosen}'s weights, mean over the first third of its "
        f"checkpoints, t-intervals over seeds against 0: supported if the 95 % interval of every matrix lies above; contradicted "
        f"if that of the smallest ({least}) lies below, at 5 % over all {len(early)} matrices"
    )
    return Finding(decision, test, numbers, seeds_needed(*((estimate, 0.0) for estimate in intervals.values())))


def _matrices(seeds: Sequence[dict[str, Sequence[AlignmentRecord]]]) -> list[str]:
    """Names of all groups of parameters except the one of all parameters, in the order in which they occur."""
    records = [record for seed in seeds for record in (*seed["early"], *seed["late"])]
    return [group for group in dict.fromkeys(group for record in records for group in record.groups) if group != _WHOLE]


def _alignment_cells(seeds: Sequence[dict[str, Sequence[AlignmentRecord]]], arm: str) -> dict[str, Cell]:
    """Cosine of each matrix and share of the samples with a negative cosine, early and late."""
    return {
        f"{name} {group}, {when}, along {arm}": shown(values)
        for group in _matrices(seeds)
        for when in ("early", "late")
        for name, values in (
            ("cosine", cosines(seeds, group, when)),
            ("opposed samples", [mean(record.opposed for record in _of_group(seed[when], group)) for seed in seeds]),
        )
    }
