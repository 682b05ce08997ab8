"""Configs of the study of tasks: a recipe for each task, arms that change a few lines of it, presets that set its size.

T(n) is the number of passes that a task sets for length n. All arms of a task start from the same config, so data, initial weights
and batches are paired by seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from thalweg.bounds import seed_numbers
from thalweg.data.find_task import checked_task, find_task, own
from thalweg.data.task_data import TaskConfig, with_extra
from thalweg.data.tasks import TASKS
from thalweg.errors import require, require_known
from thalweg.models.config import ModelConfig
from thalweg.records.experiment import ALONG
from thalweg.shift.criterion import LossBelow, Plateau
from thalweg.shift.onset import Handover, Hard, Ramp
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig, TrainingConfig


@dataclass(frozen=True)
class TaskPreset:
    """The size of a study of tasks."""

    seeds: int
    """Runs of every arm, with seeds 0, 1, ..."""
    arms: tuple[str, ...]
    steps: int
    """Updates of a run."""
    longest: int
    """Longest training length of a task with T(n) about n; shorter where T(n) grows faster. Lengths up to twice that are tested."""
    width: int
    """Width of the model."""
    deepest: int
    """Most blocks in the stack."""
    batch: int = 64
    """Samples of an update."""
    rate: float = 1e-3
    """Learning rate after warm-up."""
    own: dict[str, dict[str, float]] = field(default_factory=dict)
    """Task -> fields of this class whose values differ for that task."""

    def of(self, task: str) -> TaskPreset:
        """The preset for one task, with the task's own values filled in."""
        return replace(self, **self.own.get(task, {}))  # type: ignore[arg-type]


_ADDITION = {"width": 64, "deepest": 3, "steps": 12_000, "rate": 7e-4}
"""Settings of addition in `paper`. At this rate 20 lengths were learned in 8,400 updates; at 1e-3 only six were in 4,800.
See docs/log/2026-11-26-tasks-on-a-gpu.md."""
SHORT = 0.6
"""Share of the updates that the arms `shift-short` and `looped-short` make."""
ALL = (
    "single",
    "looped",
    "shift",
    "shift-short",
    "shift-scp",
    "shift-hard",
    "looped-fast",
    "looped-short",
    "next-token",
    "fixed",
    "random",
)
PRESETS = {
    "small": TaskPreset(3, ("single", "looped", "shift"), 400, 6, 32, 2, batch=32, rate=2e-3),
    "quick": TaskPreset(3, ("single", "looped", "shift", "shift-hard"), 1500, 10, 32, 2, batch=32),
    "paper": TaskPreset(3, ALL, 8000, 20, 32, 2, batch=32, rate=1.5e-3, own={"addition": _ADDITION}),
    "gpu": TaskPreset(3, ("single", "looped", "shift", "shift-hard", "looped-fast"), 5000, 20, 64, 3, rate=7e-4),
    "source": TaskPreset(5, ALL, 100_000, 20, 256, 4, rate=1e-4),
}
"""`small` takes a minute a task, `quick` an hour for all tasks, and `paper` hours on two cores; `gpu` is sized for one GPU;
`source`, the size of the source, takes days on one."""
_LAYERS = {"parity": 1, "copy": 2, "addition": 3, "binary-sum": 3, "multiplication": 4, "unique-set": 3}
"""Task -> blocks in the stack, as in the source; other tasks have 2."""


@dataclass(frozen=True)
class TaskStudyConfig:
    """The plan of a study of tasks, stored in its folder; everything else follows from it."""

    preset: str
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    device: str = "auto"

    def __post_init__(self) -> None:
        require_known("preset", [self.preset], PRESETS)
        require_known("task", [task for task in self.tasks if not own(task)], TASKS)
        require_known("arm", self.arms, ALL)


def plan_tasks(
    preset: str, tasks: tuple[str, ...] = (), arms: tuple[str, ...] = (), seeds: int = 0, device: str = "auto"
) -> TaskStudyConfig:
    """The plan of a study of tasks from command-line options.

    Args:
        preset: name in `PRESETS`.
        tasks: names, built-in or a user's own; empty takes all six built-in tasks.
        arms: names in `ALL`; empty takes the preset's.
        seeds: number of seeds; 0 takes the preset's.
        device: "auto", "cpu" or a CUDA device.
    Raises:
        BadInputError: an unknown preset, task or arm (the message suggests the closest name), a negative number of seeds, or a
            task of the user's own that contradicts itself.
    """
    require_known("preset", [preset], PRESETS)
    for task in tasks:
        checked_task(task, task_recipe(task, PRESETS[preset]).data.used_lengths)
    numbers = seed_numbers(seeds, PRESETS[preset].seeds)
    all_tasks, all_arms = tuple(dict.fromkeys(tasks)) or tuple(TASKS), tuple(dict.fromkeys(arms)) or PRESETS[preset].arms
    for task in all_tasks:
        _refuse_falling(task, all_arms, preset)
    return TaskStudyConfig(preset, all_tasks, all_arms, numbers, device)


def _refuse_falling(task: str, arms: tuple[str, ...], preset: str) -> None:
    """Refuse arms whose stages follow the lengths for a task whose T(n) falls from one length to the next."""
    passes, longest = find_task(task).loops, task_recipe(task, PRESETS[preset]).data.longest
    falls = [n for n in range(2, longest + 1) if passes(n) < passes(n - 1)]
    along = [arm for arm in ALONG if arm in arms]
    expected = (
        f"other arms for {task}, whose T(n) falls at length {falls[:1]}: {', '.join(along)} take a pass more for every length"
    )
    require(not (falls and along), "--arms", ",".join(arms), expected)


@dataclass(frozen=True)
class TaskRecipe:
    """One task: the config that all arms start from, and the settings in which the arms differ."""

    base: RunConfig
    """Config without stages."""
    loops: int
    """T of the longest training length: the most passes of Looped and of SHIFT's last stage, at which no length is capped."""
    ladder: tuple[int, ...]
    """T of every training length: the stages of the arm `shift`."""
    learned: LossBelow
    """Criterion of `shift`: the next length comes in when the loss on the present ones is below a bound."""
    criterion: Plateau
    """Criterion of `shift-scp` and `shift-hard`: SCP, from one pass to all."""
    ramp: Ramp
    """Onset of `shift-scp`."""
    fall: float
    """Factor on the learning rate at every new stage of `shift`."""
    fast: int
    """Updates over which the lengths grow in `looped-fast`."""

    @property
    def data(self) -> TaskConfig:
        """The config of the data that every arm starts from."""
        assert isinstance(self.base.data, TaskConfig)
        return self.base.data


@dataclass(frozen=True)
class TaskFacts:
    """What a recipe needs to know of a task."""

    symbols: int
    """Number of the task's symbols; the vocabulary has one more."""
    longest: int
    """Longest training length."""
    length: int
    """One more than the positions of an input of that length."""
    passes: tuple[int, ...]
    """The values of T over the training lengths, rising, each once."""


def asked(name: str, preset: TaskPreset) -> TaskFacts:
    """The facts of a task from its definition; a user's own task is imported.

    The longest training length is the largest n up to the preset's with T(n) at most one above the preset's length (at least 1).
    """
    task = find_task(name)
    longest = max(n for n in range(1, preset.longest + 1) if n == 1 or task.loops(n) <= preset.longest + 1)
    length = TaskConfig(task=name, longest=longest, start=min(3, longest)).length
    return TaskFacts(task.symbols, longest, length, tuple(sorted({task.loops(n) for n in range(1, longest + 1)})))


def remembered(configs: Mapping[str, RunConfig]) -> TaskFacts:
    """The facts of a task from the configs of its runs, so that the task itself need not be imported any more.

    Args:
        configs: arm -> config of one of its runs; at least one.
    Returns:
        The facts. T is known for every training length where an arm's stages follow the lengths, else only for the longest one
        (``passes`` then has one entry, which is all that the other arms need).
    """
    first = next(iter(configs.values()))
    assert isinstance(first.data, TaskConfig)
    last = {arm: config.shift.stages[-1] for arm, config in configs.items()}
    along = [configs[arm].shift.stages for arm in ALONG if arm in configs]
    deepest = [last[arm] for arm in ("looped", "looped-short", "looped-fast", "shift-scp", "shift-hard", "fixed") if arm in last]
    if "random" in last:  # its last stage has T passes and extra ones: invert that
        deepest += [loops for loops in range(1, last["random"] + 1) if with_extra(loops) == last["random"]]
    passes = along[0] if along else tuple(deepest[:1]) or (1,)
    return TaskFacts(first.model.vocabulary - 1, first.data.longest, first.model.length, passes)


def task_recipe(name: str, preset: TaskPreset, device: str = "auto", facts: TaskFacts | None = None) -> TaskRecipe:
    """The recipe of a task: GPT-2-style blocks without positions, input injection, lengths that grow over half of the run.

    The standard deviation of the initial matrices is GPT-2's 0.02 at width 768, scaled by sqrt(768 / width): with 0.02 at width 32,
    copy is learned far later.

    Args:
        name: of the task.
        preset: size of the study; the task's own values in it are used.
        device: of the runs.
        facts: what the recipe needs to know of the task; None takes them from the task's definition.
    """
    preset = preset.of(name)
    facts = facts or asked(name, preset)
    longest, ladder = facts.longest, facts.passes
    data = TaskConfig(task=name, longest=longest, start=min(3, longest), grow=preset.steps // 2)
    model = ModelConfig(
        vocabulary=facts.symbols + 1,
        length=facts.length,
        width=preset.width,
        layers=min(preset.deepest, _LAYERS.get(name, 2)),
        heads=4,
        block="gpt",
        positions="none",
        injection=True,
        deviation=round(0.02 * math.sqrt(768 / preset.width), 3),
    )
    settings = TrainingConfig(
        steps=preset.steps,
        batch=preset.batch,
        evaluate_every=max(min(30, preset.steps), preset.steps // 100),
        checkpoint_every=max(1, preset.steps // 10),
        threads=1,
        device=device,
    )
    optimizer = OptimizerConfig(rate=preset.rate, warmup=min(200, preset.steps // 10), schedule="wsd", beta2=0.98)
    base = RunConfig(data=data, model=model, optimizer=optimizer, training=settings)
    rule = Plateau(delta_loss=0.1, delta_grad=0.5, patience=2, window=max(10, preset.steps // 100))
    return TaskRecipe(
        base=base,
        loops=ladder[-1],
        ladder=ladder,
        learned=LossBelow(loss=0.02, window=20, most=max(20, data.grow // max(1, len(ladder) - 1))),
        criterion=rule,
        ramp=Ramp(max(1, preset.steps // 5), order="in turn"),
        fall=0.4 ** (1 / max(1, len(ladder) - 1)),
        fast=data.grow // 4,
    )


def single(recipe: TaskRecipe) -> RunConfig:
    """The arm `single`: one pass at every length."""
    return replace(recipe.base, shift=ShiftConfig(stages=(1,)))


def looped(recipe: TaskRecipe) -> RunConfig:
    """The arm `looped`: T(n) passes from the first update on."""
    return replace(recipe.base, shift=ShiftConfig(stages=(recipe.loops,)))


def shift(recipe: TaskRecipe) -> RunConfig:
    """The arm `shift`: each stage adds the passes of one more length, and trains on the lengths that it has passes for.

    The next stage begins when the loss is below the recipe's bound, or after a fixed number of updates in the stage. Every sample
    has its T(n) passes, and a length that was learned keeps them, so a switch changes nothing that was learned. The arm is Looped
    with lengths that grow as fast as they are learned; `_looped_fast` is the control for the speed alone. Longer answers need a
    lower rate, so the rate falls at every stage, to 0.4 of its value over all stages.
    """
    data = replace(recipe.data, lengths="stage", grow=0)
    return replace(recipe.base, data=data, shift=ShiftConfig(recipe.ladder, recipe.learned, Hard(), Handover(rate=recipe.fall)))


def _looped_fast(recipe: TaskRecipe) -> RunConfig:
    """Control of `shift`: Looped whose lengths grow four times as fast, on a fixed schedule."""
    return replace(looped(recipe), data=replace(recipe.data, grow=recipe.fast))


def _shift_short(recipe: TaskRecipe) -> RunConfig:
    """`shift` with 60 % of the updates: once the last length is in training, the remaining gain comes from the rate's decay.

    Stages may last as long as those of `shift`, so the last length comes in after five sixths of the run at the latest.
    """
    return shorter(shift(recipe))


def _looped_short(recipe: TaskRecipe) -> RunConfig:
    """Control of `shift-short`: Looped with the same number of updates, its lengths growing over half of them."""
    run = looped(recipe)
    return shorter(replace(run, data=replace(recipe.data, grow=round(SHORT * recipe.data.grow))))


def shorter(run: RunConfig) -> RunConfig:
    """The same run with 60 % of the updates; the rate decays over their last fifth.

    The interval between evaluations is kept, because costs to a target are compared.
    """
    return replace(run, training=replace(run.training, steps=max(1, round(SHORT * run.training.steps))))


def _shift_scp(recipe: TaskRecipe) -> RunConfig:
    """SHIFT as on the Markov language: all lengths from the start, first with one pass, then without a cap; SCP and a ramp."""
    return replace(recipe.base, shift=ShiftConfig(_capped(recipe), recipe.criterion, recipe.ramp))


def shift_hard(recipe: TaskRecipe) -> RunConfig:
    """The arm `shift-hard`, SHIFT as in the paper: SCP and a hard onset."""
    return replace(recipe.base, shift=ShiftConfig(_capped(recipe), recipe.criterion, Hard()))


def _capped(recipe: TaskRecipe) -> tuple[int, ...]:
    """Most passes of two stages: one, and T of the longest length; a task with T = 1 everywhere has a single stage."""
    return tuple(dict.fromkeys((1, recipe.loops)))


def _next_token(recipe: TaskRecipe) -> RunConfig:
    """Baseline: next-token prediction of the answer with one pass."""
    run = single(recipe)
    return replace(run, data=replace(recipe.data, format="next"))


def fixed(recipe: TaskRecipe) -> RunConfig:
    """The baseline `fixed`: the passes of the longest training length at every length."""
    run = looped(recipe)
    return replace(run, data=replace(recipe.data, loops="fixed"))


def _random_loops(recipe: TaskRecipe) -> RunConfig:
    """Looped whose passes are drawn for every sample in training, from T(n) to 1.5 T(n); T(n) in testing."""
    run = looped(recipe)
    data = replace(recipe.data, loops="random")
    return replace(run, data=data, shift=ShiftConfig(stages=(with_extra(recipe.loops),)))


ARMS: dict[str, Callable[[TaskRecipe], RunConfig]] = {
    "single": single,
    "looped": looped,
    "shift": shift,
    "shift-short": _shift_short,
    "shift-scp": _shift_scp,
    "looped-fast": _looped_fast,
    "shift-hard": shift_hard,
    "looped-short": _looped_short,
    "next-token": _next_token,
    "fixed": fixed,
    "random": _random_loops,
}


def task_runs(study: TaskStudyConfig, facts: Mapping[str, TaskFacts] | None = None) -> dict[tuple[str, str, int], RunConfig]:
    """``(task, arm, seed)`` -> config of that run, for every run of a study.

    Args:
        study: plan of the study.
        facts: task -> what its recipe needs to know of it; a task that is missing here is imported.
    """
    preset, configs = PRESETS[study.preset], {}
    for name in study.tasks:
        recipe = task_recipe(name, preset, study.device, (facts or {}).get(name))
        for arm in study.arms:
            for seed in study.seeds:
                configs[name, arm, seed] = replace(ARMS[arm](recipe), arm=arm, seed=seed)
    return configs
