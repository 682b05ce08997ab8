"""Which runs a frontier has: the arms, budgets, settings and seeds of a preset."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.bounds import seed_numbers
from thalweg.errors import require, require_known
from thalweg.experiments.frontier.arms import PLANS, STABILISERS, STAGED, constant
from thalweg.experiments.frontier.source import FrontierConfig, Source
from thalweg.experiments.frontier.sources import source_of
from thalweg.train.config import RunConfig

_FIRST_SEED, _FIRST_TUNING_SEED = 300, 900
"""Schedules were chosen on seeds below 300; what is reported rests on none of them."""


@dataclass(frozen=True)
class FrontierPlan(FrontierConfig):
    """A plan whose source, preset and arms exist, also where it was read from a folder."""

    def __post_init__(self) -> None:
        kind = source_of(self.source)
        kind.preset(self.preset)
        _known_arms(kind, self.loops, self.arms)


def _known_arms(kind: Source, loops: int, asked: Sequence[str]) -> tuple[str, ...]:
    """Every arm of a source for T passes, after a check that these are enough and that the arms that were asked for exist."""
    require(loops >= 2, "--loops", loops, "at least 2 passes")
    known = kind.arms(loops)
    require_known("arm", asked, known)
    return known


def plan_frontier(
    source: str,
    preset: str,
    arms: Sequence[str] = (),
    seeds: int = 0,
    loops: int = 0,
    device: str = "auto",
    optimizer: str = "adamw",
    text: str = "",
    budgets: Sequence[float] = (),
) -> FrontierPlan:
    """The plan of a frontier.

    Args:
        source: "markov", "pointers", "ancestors", "text", or a task: a built-in one, or the user's own as ``module:attribute``.
        preset: "quick" or "paper"; of markov "deep", of text "gpu" too.
        arms: some of them; when empty those of the preset, or all but other stabilisers and other plans of the stages. Looped at
            T passes is always there, as everything is compared with it.
        seeds: how many; 0 for the preset's.
        loops: T; 0 for the preset's. That of a task follows from its lengths.
        device: where it is trained.
        optimizer: "adamw" or "muon", for every arm.
        text: file or folder of source "text"; empty for Python's standard library.
        budgets: GFLOP of a run, rising; empty for the preset's.
    Raises:
        BadInputError: a source, preset, arm or optimizer that does not exist, a text for another source, or budgets that are
            not above zero or do not rise.
    """
    kind = source_of(source)
    require(not text or kind.reads_text, "--text", text, f"nothing: source {source!r} reads no text")
    require_known("optimizer", [optimizer], ("adamw", "muon"))
    chosen, deepest = kind.preset(preset), kind.passes(preset, loops)
    known = _known_arms(kind, deepest, arms)
    usual = {*known} - {*STABILISERS, *PLANS}
    few = {*(constant(depth) for depth in chosen.depths if depth <= deepest), STAGED} if chosen.depths else usual
    needed = {*(arms or few), constant(deepest)}
    rising = all(before < after for before, after in itertools.pairwise((0.0, *budgets)))
    require(rising, "--budgets", ", ".join(f"{budget:g}" for budget in budgets), "numbers of GFLOP above 0 that rise")
    return FrontierPlan(
        source=source,
        preset=preset,
        loops=deepest,
        arms=tuple(arm for arm in known if arm in needed),
        budgets=tuple(float(budget) for budget in budgets or chosen.budgets),
        rates=chosen.rates,
        curricula=chosen.curricula,
        tuning_seeds=tuple(range(_FIRST_TUNING_SEED, _FIRST_TUNING_SEED + chosen.tuning_seeds)),
        seeds=tuple(_FIRST_SEED + number for number in seed_numbers(seeds, chosen.seeds)),
        device=device,
        optimizer=optimizer,  # type: ignore[arg-type]
        text=text,
    )


def one_run(source: str, arm: str = "", preset: str = "quick") -> RunConfig:
    """The config of a single run, to be edited and trained by hand: an arm at the largest budget, with the middle setting.

    Args:
        source: name of a source, such as "pointers".
        arm: such as "depth-5" or "staged"; empty for the deepest constant depth.
        preset: of the source.
    Raises:
        BadInputError: a source, arm or preset that does not exist.
    """
    plan = plan_frontier(source, preset, (arm,) if arm else (), seeds=1)
    setting = plan.settings[len(plan.settings) // 2]
    return source_of(source).run(plan, arm or constant(plan.loops), plan.budgets[-1], setting, plan.seeds[0])
