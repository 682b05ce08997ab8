"""The list of the paper's claims about samples, spectra, valleys and forces, with the rule that judges each of them."""

from __future__ import annotations

from dataclasses import replace

from thalweg.experiments.paper.claims_dominance import smaller_one_by_one
from thalweg.experiments.paper.claims_motion import aligned_early, drives, force_pays, hops, larger_force, trapped
from thalweg.experiments.paper.claims_samples import easier, explained_away, longer, two_phases
from thalweg.experiments.paper.claims_spectra import freezes, steeper, three_phases, uneven, valley_is
from thalweg.experiments.paper.evidence import Evidence, Finding, Rule, conjunction, judged
from thalweg.experiments.paper.verdicts import CONTROL, OURS, PAPER, verdict
from thalweg.intervals import NO_SEEDS
from thalweg.records.run import Cell, Verdict

U, _TRAPPED = "single's valley is a U", "single is trapped"
V, _HOPS, _DRIVES = "looped's valley is a V", "looped hops between the valley's walls", "hopping drives looped down the river"


def conjecture_1(e: Evidence) -> Finding:
    """Conjecture 1: Single sits in a U-shaped valley and is trapped; the conjunction of the two claims."""
    return together({U: judged(valley_is("single", "U"), e), _TRAPPED: judged(trapped, e)})


def conjecture_2(e: Evidence) -> Finding:
    """Conjecture 2: Looped sits in a V-shaped valley and hops, and hopping drives it down the river.

    It is the conjunction of the three claims; the comparison of the two valleys' unevenness is reported with it.
    """
    conjecture = together({V: judged(valley_is("looped", "V"), e), _HOPS: judged(hops, e), _DRIVES: judged(drives, e)})
    return replace(conjecture, numbers=conjecture.numbers | judged(uneven, e).numbers)


def together(parts: dict[str, Finding]) -> Finding:
    """The finding on a claim that holds if all its parts hold (see `conjunction`), with the numbers of all parts.

    Args:
        parts: claim of each part -> its finding.
    """
    numbers: dict[str, Cell] = {}
    for part in parts.values():
        numbers |= part.numbers
    decisions = "; ".join(
        f"{claim}: {part.decision}{f' ({part.test})' if part.decision == 'not measured' else ''}" for claim, part in parts.items()
    )
    decision = conjunction(part.decision for part in parts.values())
    open_parts = [part.seeds_needed for part in parts.values() if part.decision == "undecided"]
    if open_parts and set(open_parts) == {NO_SEEDS}:
        needed = NO_SEEDS
    else:  # of a part that seeds cannot decide, another one may or may not settle the whole
        needed = max(open_parts, default=0) if all(count > 0 for count in open_parts) else 0
    return Finding(decision, f"supported if all parts are, contradicted if one is: {decisions}", numbers, needed)


CLAIMS: dict[str, dict[str, Rule]] = {
    "samples": {
        "looped learns in two phases: low-information sequences first, high-information ones after": two_phases,
    },
    "controls": {
        "the scale of W_V and its step explain looped's advantage away": explained_away,
    },
    "spectra": {
        "single's spectrum freezes": freezes,
        "looped's spectrum goes through collapse, diversification and a stable phase": three_phases,
        "looped is steeper than single (largest eigenvalue)": steeper,
    },
    "valleys": {
        "conjecture 1: single sits in a U-valley and is trapped": conjecture_1,
        "conjecture 2: looped sits in a V-valley, hops, and hopping drives it down the river": conjecture_2,
        U: valley_is("single", "U"),
        V: valley_is("looped", "V"),
        "looped's valley is more uneven than single's (kappa_q)": uneven,
    },
    "motion": {
        _TRAPPED: trapped,
        _HOPS: hops,
        _DRIVES: drives,
        "assumption 1: looped's low eigenvalues are smaller than single's, one by one": smaller_one_by_one,
        "corollary 1: looped feels the larger force on the river": larger_force,
        "corollary 2: the larger force goes with the lower loss": force_pays,
    },
    "alignment": {
        "theorem 3: gradients of looped and single are aligned early in training": aligned_early,
    },
    "lengths": {
        "looped keeps more accuracy on longer sequences than single": longer,
        "longer sequences shift the mix towards low information content": easier,
    },
}
"""Section of the page -> claim -> the rule that judges it."""
_NOT_THE_PAPERS: dict[Rule, str] = {explained_away: CONTROL, easier: CONTROL, steeper: OURS, uneven: OURS}
"""Rules of claims that the paper does not make -> who makes them."""


def landscape_verdicts(evidence: Evidence) -> list[Verdict]:
    """The verdict on every claim in `CLAIMS`; "not measured" where the records do not suffice."""
    return [
        verdict(
            claim,
            finding.decision,
            finding.test,
            finding.numbers,
            topic,
            _NOT_THE_PAPERS.get(rule, PAPER),
            finding.seeds_needed,
        )
        for topic, rules in CLAIMS.items()
        for claim, rule in rules.items()
        for finding in (judged(rule, evidence),)
    ]
