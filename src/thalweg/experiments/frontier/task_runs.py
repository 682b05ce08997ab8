"""Algorithmic tasks on the frontier: one pass, T(n) passes, and SHIFT along the lengths, each at a budget of operations.

A sample of length n has T(n) passes. Looped trains on lengths that grow with the updates, SHIFT on lengths that grow as soon as the
present ones are learned (`thalweg.experiments.tasks.recipes.shift`). Rate and growth are tuned for each arm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from thalweg.data.find_task import find_task
from thalweg.data.tasks import TASKS
from thalweg.experiments.tasks.recipes import PRESETS, TaskRecipe, looped, shift, single, task_recipe
from thalweg.models.cost import cost
from thalweg.train.config import RunConfig

ARMS: dict[str, Callable[[TaskRecipe], RunConfig]] = {"single": single, "looped": looped, "shift": shift}


@functools.cache
def recipe_of(task: str, device: str = "auto") -> TaskRecipe:
    """The recipe of a built-in task at the size of the study's preset ``quick``."""
    return task_recipe(task, PRESETS["quick"], device)


def passes_of(task: str) -> tuple[int, ...]:
    """T(n) of the trained lengths, rising, each once."""
    return recipe_of(task).ladder


def is_task(source: str) -> bool:
    """Whether a source is an algorithmic task."""
    return source in TASKS


def task_run(task: str, arm: str, operations: float, rate: float, grow: float, device: str = "auto") -> RunConfig:
    """A run of a task with as many updates as a number of operations pays for, and a complete schedule.

    The lengths of SHIFT grow at least as fast as Looped's, so it can cost more than planned; what a run has really cost is counted.

    Args:
        task: name of a built-in task.
        arm: "single", "looped" or "shift".
        operations: FLOPs of the run.
        rate: peak learning rate.
        grow: share of the updates over which the lengths grow; of SHIFT the longest share that they may take.
        device: where it is trained.
    Returns:
        The config; ``arm`` and ``seed`` are left as they are.
    """
    recipe = recipe_of(task, device)
    data, batch = recipe.data, recipe.base.training.batch
    deepest = 1 if arm == "single" else recipe.loops
    prices = [_price(recipe, batch, longest, deepest) for longest in range(data.start, data.longest + 1)]
    mean = grow * sum(prices) / len(prices) + (1 - grow) * prices[-1]
    steps = max(1, round(operations / mean))
    growth = round(grow * steps)
    recipe = replace(
        recipe,
        base=replace(
            recipe.base,
            data=replace(data, grow=growth),
            optimizer=replace(recipe.base.optimizer, rate=rate, warmup=max(20, min(200, steps // 10))),
            training=replace(
                recipe.base.training,
                steps=steps,
                evaluate_every=max(1, steps // 20),
                checkpoint_every=steps,
                log_every=max(1, steps // 50),
            ),
        ),
        learned=replace(recipe.learned, most=max(20, growth // max(1, len(recipe.ladder) - 1))),
    )
    return ARMS[arm](recipe)


def _price(recipe: TaskRecipe, batch: int, longest: int, deepest: int) -> float:
    """Operations of an update on lengths 1 to ``longest``, drawn uniformly and padded to the longest."""
    task = find_task(recipe.data.task)
    passes = [min(deepest, task.loops(length)) for length in range(1, longest + 1)]
    return cost(recipe.base.model, batch, recipe.data.positions(longest), sum(passes) / len(passes)).training_step
