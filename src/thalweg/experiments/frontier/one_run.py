"""The config of a single run of a frontier, to be edited and trained by hand."""

from __future__ import annotations

from pathlib import Path

from thalweg.experiments.frontier.definition import FrontierStudy
from thalweg.experiments.frontier.recipes import plan_frontier
from thalweg.train.config import RunConfig

SOURCES_WITHOUT_STUDY = ("pointers", "ancestors")
"""Sources that a frontier alone learns from, so that no study has a recipe for them."""


def recipe(source: str, arm: str = "", preset: str = "quick") -> RunConfig:
    """The run of an arm at the largest budget of a preset, with the setting in the middle of those that are tried.

    Args:
        source: name of a source, such as "pointers".
        arm: such as "depth-5" or "staged"; empty for the deepest constant depth.
        preset: of the source.
    Raises:
        BadInputError: a source, arm or preset that does not exist.
    """
    plan = plan_frontier(source, preset, (arm,) if arm else (), seeds=1)
    setting = plan.settings[len(plan.settings) // 2]
    runs = FrontierStudy(plan).runs_of(Path(), arm or f"depth-{plan.loops}", setting)
    return runs[plan.budgets[-1]][plan.seeds[0]].config
