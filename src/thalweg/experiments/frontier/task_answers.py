"""What the frontier of a task says besides its loss: operations at equal exact match, and exact match beyond the lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thalweg.experiments.frontier.answers import Curves, against, curves_of
from thalweg.experiments.frontier.arms import STAGED, constant
from thalweg.experiments.frontier.source import FrontierConfig
from thalweg.experiments.metrics import Pairs, by_sign, cell, too_few
from thalweg.intervals import interval
from thalweg.records.experiment import MARGIN
from thalweg.records.run import TaskLength, Verdict


def error_curves(records: Mapping[str, Mapping[float, Pairs]], samples: int) -> Curves:
    """Arm -> seed -> operations and share of wrong answers on held-out samples of the trained lengths, by budget.

    Half an answer is added to the wrong ones, so that the logarithm exists where none is wrong.

    Args:
        records: arm -> budget -> seed -> complete run; a seed that lacks a budget is left out.
        samples: number of held-out answers that are scored.
    """
    return curves_of(records, lambda run: 1 - run.evaluations[-1].scores["held-out"]["all"].accuracy + 0.5 / samples)


def match_beyond(tested: Sequence[TaskLength], longest: int) -> float | None:
    """Mean exact match over the tested lengths above the longest trained one; None where none was tested."""
    beyond = [length.accuracy for length in tested if length.length > longest]
    return sum(beyond) / len(beyond) if beyond else None


def exact_match_answers(curves: Curves, beyond: Mapping[str, Mapping[int, float]], plan: FrontierConfig) -> list[Verdict]:
    """Whether SHIFT along the lengths needs fewer operations than Looped for its exact match, and is no worse beyond the lengths.

    Args:
        curves: see `error_curves`.
        beyond: arm -> seed -> exact match beyond the trained lengths, at the largest budget.
        plan: of the frontier.
    """
    looped = constant(plan.loops)
    if not curves.get(STAGED):
        return []
    fewer = against(curves, plan, STAGED, looped, "T(n) passes", measure="share of wrong answers")
    own, other = beyond.get(STAGED, {}), beyond.get(looped, {})
    differences = [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]
    if not differences:
        return [fewer]
    change = interval(differences)
    shifted = interval([difference + MARGIN for difference in differences])
    numbers = {
        "exact match beyond, staged": cell(list(own.values())),
        f"exact match beyond, {looped}": cell(list(other.values())),
        "staged minus the other, paired": cell(differences),
    }
    return [
        fewer,
        Verdict(
            f"Beyond the trained lengths staged is at most {100 * MARGIN:g} points worse than T(n) passes at equal operations",
            too_few(change.n) or by_sign(shifted),
            "mean over the tested lengths that were not trained, at the largest budget; supported if the lower end of the paired "
            f"interval is above -{MARGIN:g}, contradicted if the upper end is below",
            numbers,
            source="ours",
        ),
    ]
