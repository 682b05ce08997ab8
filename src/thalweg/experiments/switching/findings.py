"""The first screen of a sweep's page: what was asked, the main answers, how sure they are, and what to do with them."""

from __future__ import annotations

from collections.abc import Sequence

from thalweg.errors import plural
from thalweg.experiments.metrics import MIN_SEEDS
from thalweg.records.experiment import FirstScreen
from thalweg.records.run import Verdict
from thalweg.report.page import first_number

_ASKED = (
    "The paper arXiv 2510.10089 (https://arxiv.org/abs/2510.10089) trains a transformer with one pass first and with several later "
    "(SHIFT), and switches when a criterion on loss and gradient fires (SCP). thalweg asks when to switch, how to bring in the new "
    "passes, and what to do with the optimizer; every variant differs from a baseline in one setting."
)
_ANSWERS = 4
"""Answers on the first screen; all of them follow in a table."""


def first_screen(verdicts: Sequence[Verdict], task: str, seeds: int) -> FirstScreen:
    """What a reader takes home who reads nothing else.

    Args:
        verdicts: of the sweep, the main ones first.
        task: what the models learn.
        seeds: of the sweep.
    """
    few = "" if seeds >= MIN_SEEDS else f" At least {MIN_SEEDS} seeds are needed for any answer."
    corpus = "one text" if task == "text" else "one synthetic language"
    return FirstScreen(
        asked=_ASKED,
        found=tuple(map(_answered, verdicts[:_ANSWERS])),
        sure=(
            f"Numbers are means over {plural(seeds, 'seed')}, paired; a 95 % interval stands in brackets.{few} No variant has a "
            f"learning rate that was tuned for it. Looped is compared with itself trained in stages, on {corpus} and one size "
            "of model. Whether another constant number of passes would do better for the same operations is not asked here."
        ),
        advice=(
            "The answers and the tables name the variants that were shown to be better, and what each of them changes; where no "
            "difference was found, take the simpler one. To see which number of passes and which stages end lowest for the "
            f"operations that you can pay, run thalweg frontier {task}."
        ),
    )


def _answered(verdict: Verdict) -> str:
    """A question with its answer, its first number, and how many seeds would decide it."""
    details = first_number(verdict)
    answer = f"{verdict.verdict[:1].upper()}{verdict.verdict[1:]}"
    return f"{verdict.claim} {answer}{f' ({details})' if details else ''}."
