"""Algorithmic tasks on the frontier: one pass, T(n) passes, and SHIFT along the lengths, each at a budget of operations.

A sample of length n has T(n) passes. Looped trains on lengths that grow with the updates, SHIFT on lengths that grow as soon as the
present ones are learned (`thalweg.experiments.tasks.recipes.shift`). Rate and growth are tuned for each arm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

from thalweg.data.find_task import checked_task, find_task
from thalweg.errors import require
from thalweg.experiments.frontier.arms import STAGED, constant
from thalweg.experiments.frontier.source import DECAY, GIGA, FrontierConfig, Preset, Setting, Source, require_paid
from thalweg.experiments.tasks.recipes import PRESETS, TaskRecipe, looped, shift, single, task_recipe
from thalweg.experiments.words import model_words
from thalweg.models.config import ModelConfig
from thalweg.models.cost import cost
from thalweg.train.config import RunConfig

_GROWTHS = ((0.0, 0.25), (0.0, 0.5))
_SINGLE = constant(1)
_RECIPES: dict[str, Callable[[TaskRecipe], RunConfig]] = {_SINGLE: single, STAGED: shift}
"""Arm -> its run; every other arm is Looped."""
_WORDS: dict[str, tuple[str, str]] = {
    STAGED: (
        "staged along the lengths",
        "SHIFT along the lengths: the passes that a sample's length needs, as in the arm before; the next length comes in when the "
        "loss on the present ones is below 0.02 nats, or at the latest after the tuned share of the updates; the rate falls to "
        "0.4 of its value over the stages",
    ),
    _SINGLE: ("1 pass", "1 pass at every length, on lengths that grow over a tuned share of the updates (the paper's Single)"),
}
_LOOPED = (
    "{loops} passes at most",
    "the passes that a sample's length needs, at most {loops}, on lengths that grow over a tuned share of the updates",
)


class TaskSource(Source):
    """A task at the size of the study's preset ``quick``; T is that of the longest length.

    Args:
        task: name of a built-in task, or ``module:attribute`` of the user's own.
    """

    along_lengths = True

    def __init__(self, task: str) -> None:
        self.name: str = task
        self.words: str = f"the task {task}"

    @functools.cached_property
    def recipe(self) -> TaskRecipe:
        """Model, data and passes of the task."""
        return task_recipe(self.name, PRESETS["quick"], "auto")

    @functools.cached_property
    def presets(self) -> Mapping[str, Preset]:  # type: ignore[override]
        """The largest budget is what Looped costs in the study of tasks, to two digits."""
        run = looped(self.recipe)
        updates, grow = run.training.steps, run.data.grow  # type: ignore[union-attr]
        most = float(f"{updates * self._mean_price(grow / updates, self.recipe.loops) / GIGA:.2g}")
        return {"quick": Preset(0, (most / 4, most / 2, most), (2e-3, 4e-3), _GROWTHS, 1, 3)}

    def check(self) -> None:
        checked_task(self.name, self.recipe.data.used_lengths)

    def passes(self, preset: str, asked: int) -> int:
        usual = self.recipe.loops
        require(
            usual >= 2,
            f"task {self.name}: loops(length)",
            usual,
            "at least 2 at the longest length, as there is one stage otherwise",
        )
        require(asked in (0, usual), "--loops", asked, f"{usual}, the passes that the longest length of {self.name!r} needs")
        return usual

    def arms(self, loops: int) -> tuple[str, ...]:
        return (_SINGLE, constant(loops), STAGED)

    def arm_words(self, arm: str, loops: int) -> tuple[str, str]:
        name, definition = _WORDS.get(arm, _LOOPED)
        return name.format(loops=loops), definition.format(loops=loops)

    def stages(self, loops: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """T(n) of the trained lengths, rising; a stage ends when its lengths are learned, so there are no shares."""
        return self.recipe.ladder, ()

    def run(self, plan: FrontierConfig, arm: str, budget: float, setting: Setting, seed: int) -> RunConfig:
        """As many updates as the budget pays for at Looped's growth of the lengths.

        The lengths of SHIFT grow at least as fast as Looped's, so it can cost more than planned; what a run has really cost is
        counted.
        """
        recipe, grow = self.recipe, setting.curriculum[1]
        base, data = recipe.base, recipe.data
        steps = max(1, round(budget * GIGA / self._mean_price(grow, 1 if arm == _SINGLE else recipe.loops)))
        growth = round(grow * steps)
        training = replace(
            base.training,
            steps=steps,
            evaluate_every=max(1, steps // 20),
            checkpoint_every=steps,
            log_every=max(1, steps // 50),
            device=plan.device,
        )
        warmup = max(20, min(200, steps // 10))
        require_paid(budget, steps, warmup, arm)
        optimizer = replace(base.optimizer, name=plan.optimizer, rate=setting.rate, warmup=warmup, decay_share=DECAY)
        scheduled = replace(
            recipe,
            base=replace(base, data=replace(data, grow=growth), optimizer=optimizer, training=training),
            learned=replace(recipe.learned, most=max(20, growth // max(1, len(recipe.ladder) - 1))),
        )
        return replace(_RECIPES.get(arm, looped)(scheduled), arm=arm, seed=seed)

    def facts(self, model: ModelConfig) -> dict[str, str]:
        data = self.recipe.data
        return {
            "Data": (
                f"{self.name}: samples of lengths 1 to {data.longest}, drawn afresh for every update; scored on {data.samples} "
                f"held-out samples of each length; tested on {data.tests} of each of {', '.join(map(str, data.tested_lengths))}"
            ),
            "Model": f"{model_words(model)}; the embeddings are added again before every pass",
        }

    def _mean_price(self, grow: float, deepest: int) -> float:
        """Operations of an update, the mean over a run whose lengths grow evenly over a share of the updates."""
        data = self.recipe.data
        prices = [_price(self.recipe, longest, deepest) for longest in range(data.start, data.longest + 1)]
        return grow * sum(prices) / len(prices) + (1 - grow) * prices[-1]


def _price(recipe: TaskRecipe, longest: int, deepest: int) -> float:
    """Operations of an update on lengths 1 to ``longest``, drawn uniformly and padded to the longest."""
    task = find_task(recipe.data.task)
    passes = [min(deepest, task.loops(length)) for length in range(1, longest + 1)]
    batch = recipe.base.training.batch
    return cost(recipe.base.model, batch, recipe.data.positions(longest), sum(passes) / len(passes)).training_step
