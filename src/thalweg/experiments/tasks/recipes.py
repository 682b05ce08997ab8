"""Runs on algorithmic tasks as functions: a recipe for each task, arms as few changed lines, presets as amounts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from thalweg.data.find_task import checked_task, find_task
from thalweg.data.task_data import TaskConfig, with_extra
from thalweg.data.tasks import TASKS
from thalweg.errors import require, unknown
from thalweg.models.config import ModelConfig
from thalweg.records.experiment import ALONG
from thalweg.shift.criterion import LossBelow, Plateau
from thalweg.shift.onset import Handover, Hard, Ramp
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig, TrainingConfig


@dataclass(frozen=True)
class TaskPreset:
    """How much of a study of tasks is made."""

    seeds: int
    arms: tuple[str, ...]
    steps: int
    """Updates of a run."""
    longest: int
    """Length up to which is trained where T(n) is about n, less where it is more; twice that is tested."""
    width: int
    deepest: int
    """Most blocks in the stack."""
    batch: int = 64
    rate: float = 1e-3
    own: dict[str, dict[str, float]] = field(default_factory=dict)
    """Task -> fields in which it differs."""

    def of(self, task: str) -> TaskPreset:
        """The amounts for one task."""
        return replace(self, **self.own.get(task, {}))  # type: ignore[arg-type]


_ADDITION = {"width": 64, "deepest": 3, "steps": 12_000, "rate": 7e-4}
"""In `paper`: at this rate 20 lengths were learned in 8,400 updates, at 1e-3 six in 4,800, see docs/log/2026-11-26-tasks-on-a-gpu.md."""
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
    "quick": TaskPreset(3, ("single", "looped", "shift", "shift-hard"), 1500, 10, 32, 2, batch=32),
    "paper": TaskPreset(3, ALL, 8000, 20, 32, 2, batch=32, rate=1.5e-3, own={"addition": _ADDITION}),
    "gpu": TaskPreset(3, ("single", "looped", "shift", "shift-hard", "looped-fast"), 5000, 20, 64, 3, rate=7e-4),
    "source": TaskPreset(5, ALL, 100_000, 20, 256, 4, rate=1e-4),
}
"""The first two for two cores, minutes and hours; one for a GPU; and the source's size, days of a GPU."""
_LAYERS = {"parity": 1, "copy": 2, "addition": 3, "binary-sum": 3, "multiplication": 4, "unique-set": 3}
"""Blocks in the stack, as in the source; other tasks have 2."""


@dataclass(frozen=True)
class TaskStudyConfig:
    """What a folder of a study of tasks belongs to; everything else follows from it."""

    preset: str
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    device: str = "auto"


def plan_tasks(
    preset: str, tasks: tuple[str, ...] = (), arms: tuple[str, ...] = (), seeds: int = 0, device: str = "auto"
) -> TaskStudyConfig:
    """A study of tasks from what a user asks for; empty or zero takes the preset's own, and all six tasks.

    Raises:
        BadInputError: an unknown preset, task or arm (with the likely meaning), a number of seeds below 1, or a task of the user's
            own that contradicts itself.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    for task in tasks:
        checked_task(task, task_recipe(task, PRESETS[preset]).data.used_lengths)
    for arm in arms:
        if arm not in ALL:
            raise unknown("arm", arm, ALL)
    require(seeds >= 0, "--seeds", seeds, "a whole number of at least 1")
    numbers = tuple(range(seeds or PRESETS[preset].seeds))
    all_tasks, all_arms = tuple(dict.fromkeys(tasks)) or tuple(TASKS), tuple(dict.fromkeys(arms)) or PRESETS[preset].arms
    for task in all_tasks:
        _refuse_falling(task, all_arms, preset)
    return TaskStudyConfig(preset, all_tasks, all_arms, numbers, device)


def _refuse_falling(task: str, arms: tuple[str, ...], preset: str) -> None:
    """Refuse SHIFT along the lengths for a task that asks for fewer passes at a length than at the one before."""
    passes, longest = find_task(task).loops, task_recipe(task, PRESETS[preset]).data.longest
    falls = [n for n in range(2, longest + 1) if passes(n) < passes(n - 1)]
    along = [arm for arm in ALONG if arm in arms]
    wanted = f"other arms for {task}, whose T(n) falls at length {falls[:1]}: {', '.join(along)} take a pass more for every length"
    require(not (falls and along), "--arms", ",".join(arms), wanted)


@dataclass(frozen=True)
class TaskRecipe:
    """One task: the config that all arms start from, and the numbers that make the arms."""

    base: RunConfig
    loops: int
    """T of the longest training length: the cap of Looped, and of SHIFT's last stage, that is none."""
    ladder: tuple[int, ...]
    """T of every training length: the stages of SHIFT."""
    learned: LossBelow
    """When SHIFT goes to the next length."""
    criterion: Plateau
    """When SHIFT by SCP goes from one pass to all."""
    ramp: Ramp
    fall: float
    """Factor on the rate at every stage of SHIFT."""
    fast: int
    """Updates over which lengths grow in the control."""

    @property
    def data(self) -> TaskConfig:
        """The data of every arm."""
        assert isinstance(self.base.data, TaskConfig)
        return self.base.data


@dataclass(frozen=True)
class TaskFacts:
    """What a recipe takes from a task itself."""

    symbols: int
    longest: int
    """Length up to which is trained."""
    length: int
    """One more than the positions of an input of that length."""
    passes: tuple[int, ...]
    """T of every training length, rising, each once."""


def asked(name: str, preset: TaskPreset) -> TaskFacts:
    """The facts of a task, asked of the task; a user's own is imported."""
    task = find_task(name)
    longest = max(n for n in range(1, preset.longest + 1) if n == 1 or task.loops(n) <= preset.longest + 1)
    length = TaskConfig(task=name, longest=longest, start=min(3, longest)).length
    return TaskFacts(task.symbols, longest, length, tuple(sorted({task.loops(n) for n in range(1, longest + 1)})))


def remembered(configs: Mapping[str, RunConfig]) -> TaskFacts:
    """The facts of a task from the configs that its runs were made with (by arm), so that it need not be imported any more.

    The passes of every length are known where SHIFT went along the lengths, else those of the longest one.
    """
    some = next(iter(configs.values()))
    assert isinstance(some.data, TaskConfig)
    last = {arm: config.shift.stages[-1] for arm, config in configs.items()}
    along = [configs[arm].shift.stages for arm in ALONG if arm in configs]
    deepest = [last[arm] for arm in ("looped", "looped-short", "looped-fast", "shift-scp", "shift-hard", "fixed") if arm in last]
    if "random" in last:
        deepest += [loops for loops in range(1, last["random"] + 1) if with_extra(loops) == last["random"]]
    passes = along[0] if along else tuple(deepest[:1]) or (1,)
    return TaskFacts(some.model.vocabulary - 1, some.data.longest, some.model.length, passes)


def task_recipe(name: str, preset: TaskPreset, device: str = "auto", facts: TaskFacts | None = None) -> TaskRecipe:
    """GPT-2-style block without positions, input injection, lengths that grow over half of the run.

    Matrices begin as large beside the width as GPT-2's own, 0.02 at width 768: with 0.02 at width 32 copy is learned far later.
    Without ``facts`` the task is asked for them.
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
    """One pass at every length."""
    return replace(recipe.base, shift=ShiftConfig(stages=(1,)))


def looped(recipe: TaskRecipe) -> RunConfig:
    """T(n) passes from the first update on."""
    return replace(recipe.base, shift=ShiftConfig(stages=(recipe.loops,)))


def shift(recipe: TaskRecipe) -> RunConfig:
    """SHIFT along the lengths: a stage has the passes of one more length, and trains on those that it has the passes for.

    The next stage begins when this one is learned, or after a number of updates in it. No sample gets fewer passes than it
    asks for, and a length that was learned keeps its passes, so a switch changes nothing that was learned. It is Looped whose
    lengths grow as fast as they are learned; what speed alone is worth is seen beside `_looped_fast`.
    Longer answers ask for a lower rate: it falls with every stage, to 0.4 over all of them.
    """
    data = replace(recipe.data, lengths="stage", grow=0)
    return replace(recipe.base, data=data, shift=ShiftConfig(recipe.ladder, recipe.learned, Hard(), Handover(rate=recipe.fall)))


def _looped_fast(recipe: TaskRecipe) -> RunConfig:
    """Control of `shift`: Looped whose lengths grow four times as fast, by the clock."""
    return replace(looped(recipe), data=replace(recipe.data, grow=recipe.fast))


def _shift_short(recipe: TaskRecipe) -> RunConfig:
    """`shift` with fewer updates: what is left to gain when the last length is there comes as the rate decays.

    Stages may take as long as those of `shift`, so the last length is there after five sixths of the run at the latest.
    """
    return shorter(shift(recipe))


def _looped_short(recipe: TaskRecipe) -> RunConfig:
    """Control of `shift-short`: Looped with as many updates, its lengths growing over half of them."""
    run = looped(recipe)
    return shorter(replace(run, data=replace(recipe.data, grow=round(SHORT * recipe.data.grow))))


def shorter(run: RunConfig) -> RunConfig:
    """The same over fewer updates: the rate decays over their last fifth. Scored as often, as costs to a target are compared."""
    return replace(run, training=replace(run.training, steps=max(1, round(SHORT * run.training.steps))))


def _shift_scp(recipe: TaskRecipe) -> RunConfig:
    """SHIFT as on the Markov language: all lengths, the stage caps T(n), at first at one pass; SCP and a ramp."""
    return replace(recipe.base, shift=ShiftConfig(_capped(recipe), recipe.criterion, recipe.ramp))


def shift_hard(recipe: TaskRecipe) -> RunConfig:
    """SHIFT as in the paper: SCP and a hard onset."""
    return replace(recipe.base, shift=ShiftConfig(_capped(recipe), recipe.criterion, Hard()))


def _capped(recipe: TaskRecipe) -> tuple[int, ...]:
    """Caps of two stages, one pass and none; a task that asks for one pass at every length has one stage."""
    return tuple(dict.fromkeys((1, recipe.loops)))


def _next_token(recipe: TaskRecipe) -> RunConfig:
    """Baseline: the answer token by token, one pass."""
    run = single(recipe)
    return replace(run, data=replace(recipe.data, format="next"))


def fixed(recipe: TaskRecipe) -> RunConfig:
    """Baseline: the loops of the longest training length at every length."""
    run = looped(recipe)
    return replace(run, data=replace(recipe.data, loops="fixed"))


def _random_loops(recipe: TaskRecipe) -> RunConfig:
    """From T(n) to half as many again in training, drawn for every sample; T(n) in testing."""
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
    """(task, arm, seed) -> config; a task without ``facts`` is asked for them."""
    preset, found = PRESETS[study.preset], {}
    for name in study.tasks:
        recipe = task_recipe(name, preset, study.device, (facts or {}).get(name))
        for arm in study.arms:
            for seed in study.seeds:
                found[name, arm, seed] = replace(ARMS[arm](recipe), arm=arm, seed=seed)
    return found
