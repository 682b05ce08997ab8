"""Configs of the study of the paper: a recipe for each task, arms that change a few lines of it, presets that set its size.

Every arm of a study starts from the same config and seed, so that data, initial weights and order of the batches are paired
over arms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from thalweg.bounds import seed_numbers
from thalweg.data.markov_data import MarkovConfig
from thalweg.data.text import TextConfig
from thalweg.errors import require, require_known
from thalweg.models.config import ModelConfig
from thalweg.models.cost import cost
from thalweg.records.landscape import LandscapePlan
from thalweg.shift.criterion import Plateau
from thalweg.shift.onset import Hard, Ramp
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig, TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """One task: the config that all arms start from, and the settings in which the arms differ."""

    base: RunConfig
    """Config without stages."""
    loops: int
    """T of Looped and of SHIFT's last stage."""
    criterion: Plateau
    """SCP of the SHIFT arms."""
    ramp: Ramp
    """Onset of the `shift` arm."""


def markov(steps: int) -> Recipe:
    """The recipe of the paper's own question: an attention-only model on the Markov language.

    The width is 24, so that every spectrum of a study can be exact; positions are rotary, so that longer sequences can be scored.

    Args:
        steps: updates of a run.
    """
    base = RunConfig(
        data=MarkovConfig(),
        model=ModelConfig(vocabulary=16, length=11, width=24, attention="linear", positions="rotary"),
        optimizer=OptimizerConfig(rate=3e-3),
        training=TrainingConfig(steps=steps, batch=128, evaluate_every=steps // 24, threads=1),
    )
    return Recipe(base, loops=3, criterion=Plateau(delta_loss=0.02, patience=3, window=40), ramp=Ramp(steps=300))


def text(steps: int, path: str = "") -> Recipe:
    """The recipe of text: GPT-2-style blocks on bytes.

    Args:
        steps: updates of a run.
        path: file or folder of the corpus; empty takes the files of Python's standard library.
    """
    base = RunConfig(
        data=TextConfig(path=path, length=65),
        model=ModelConfig(vocabulary=256, length=64, width=64, heads=4, block="gpt", positions="rotary", injection=True),
        optimizer=OptimizerConfig(rate=3e-3, schedule="wsd", warmup=50, weight_decay=0.1, beta2=0.99),
        training=TrainingConfig(steps=steps, batch=32, evaluate_every=steps // 20, threads=1),
    )
    return Recipe(base, loops=4, criterion=Plateau(delta_loss=0.05, patience=2, window=20), ramp=Ramp(steps=100))


@dataclass(frozen=True)
class TextSize:
    """Model and batches of a preset of the task `text`."""

    width: int
    heads: int
    length: int
    """Bytes of a window, the last target included."""
    batch: int
    rate: float


TEXT_SIZES = {
    # Windows half as long as those of the other presets, so that two cores can measure the curvature.
    "large": TextSize(width=288, heads=4, length=33, batch=16, rate=3e-3),
    "gpu": TextSize(width=896, heads=14, length=65, batch=32, rate=1e-3),
}
"""Parameters: 1 and 10 million. The rate of the larger one is that of `thalweg frontier text --preset gpu`."""


def _sized_text(size: TextSize, steps: int, path: str) -> Recipe:
    """The recipe of text with another size."""
    recipe = text(steps, path)
    base = recipe.base
    model = replace(base.model, width=size.width, heads=size.heads, length=size.length - 1)
    data, settings = replace(base.data, length=size.length), replace(base.training, batch=size.batch)
    optimizer = replace(base.optimizer, rate=size.rate)
    return replace(recipe, base=replace(base, data=data, model=model, optimizer=optimizer, training=settings))


def single(recipe: Recipe) -> RunConfig:
    """The arm `single` (Single-Attn): one pass."""
    return replace(recipe.base, shift=ShiftConfig(stages=(1,)))


def looped(recipe: Recipe) -> RunConfig:
    """The arm `looped` (Looped-Attn): T passes from the first update on."""
    return replace(recipe.base, shift=ShiftConfig(stages=(recipe.loops,)))


def shift(recipe: Recipe) -> RunConfig:
    """The arm `shift`: one pass, then T passes when SCP fires, brought in by a ramp (ours, not the paper's)."""
    return replace(recipe.base, shift=ShiftConfig((1, recipe.loops), recipe.criterion, recipe.ramp))


def shift_hard(recipe: Recipe) -> RunConfig:
    """The arm `shift-hard`, SHIFT as in the paper: SCP and a hard onset."""
    return replace(recipe.base, shift=ShiftConfig((1, recipe.loops), recipe.criterion, Hard()))


def _single_rescaled(recipe: Recipe) -> RunConfig:
    """Control: Single whose W_V is T times as large and whose step on W_V is scaled to match.

    To first order, Looped with step eta is Single at (T W_V, ...) with step T^2 eta on W_V under gradient descent. The steps of
    Adam and Muon do not grow with the gradient, so that there the factor is T.
    """
    run = single(recipe)
    factor = recipe.loops**2 if run.optimizer.name == "sgd" else recipe.loops
    model = replace(run.model, value_scale=run.model.value_scale * recipe.loops)
    return replace(run, model=model, optimizer=replace(run.optimizer, value_rate=run.optimizer.value_rate * factor))


def _single_flops(recipe: Recipe) -> RunConfig:
    """Control: Single for as many updates as Looped's counted operations pay for."""
    run = single(recipe)
    length = run.data.length - 1
    looped_cost, single_cost = (cost(run.model, 1, length, loops).training_step for loops in (recipe.loops, 1))
    settings, ratio = run.training, looped_cost / single_cost
    extended = replace(settings, steps=round(settings.steps * ratio), evaluate_every=round(settings.evaluate_every * ratio))
    return replace(run, training=extended)


ARMS: dict[str, Callable[[Recipe], RunConfig]] = {
    "single": single,
    "looped": looped,
    "shift": shift,
    "shift-hard": shift_hard,
    "single-rescaled": _single_rescaled,
    "single-flops": _single_flops,
}


@dataclass(frozen=True)
class Preset:
    """The size of a study."""

    seeds: int
    """Runs of every arm, with seeds 0, 1, ..."""
    arms: tuple[str, ...]
    steps: dict[str, int]
    """Updates of a run, by task."""
    landscapes: dict[str, tuple[LandscapePlan, LandscapePlan | None]] = field(default_factory=dict)
    """Task -> what is measured along Single and Looped, and along every other arm (None for nothing)."""


_COARSE = LandscapePlan(
    checkpoints=12, exact_seconds=0, top=4, lanczos=40, probes=2, replays=1, window=60, lengths=(1, 4), sequences=64
)
"""Matrix-free; takes seconds a run."""
_FINE = LandscapePlan(checkpoints=40)
"""Exact spectra at as many checkpoints as phases need."""
_FREE = LandscapePlan(
    checkpoints=40, sequences=8, exact_seconds=0, top=3, lanczos=16, probes=2, replays=1, window=40, lengths=(1, 2, 4)
)
"""Matrix-free, for models of tens of thousands of parameters."""
_LARGE = replace(_FREE, checkpoints=12, top=2, window=30, slices=False)
"""Matrix-free, for a million parameters: phases need 40 points, which take hours on two cores."""
_GPU = replace(_FREE, top=2, window=20, slices=False)
"""Matrix-free at 40 points, for ten million parameters on a GPU; `benchmarks/on_a_gpu/landscape.py` counts its operations."""


def fewer(plan: LandscapePlan) -> LandscapePlan:
    """A smaller plan for the controls: 12 checkpoints and one replayed window."""
    return replace(plan, checkpoints=12, replays=1)


PRESETS = {
    "quick": Preset(
        3,
        ("single", "looped", "shift", "shift-hard"),
        {"markov": 2400, "text": 400},
        {"markov": (_COARSE, None), "text": (replace(_FREE, checkpoints=8), None)},
    ),
    "paper": Preset(
        5,
        tuple(ARMS),
        {"markov": 6000, "text": 2000},
        {"markov": (_FINE, fewer(_FINE)), "text": (_FREE, fewer(_FREE))},
    ),
    "large": Preset(5, ("single", "looped"), {"text": 400}, {"text": (_LARGE, _LARGE)}),
    "gpu": Preset(5, ("single", "looped"), {"text": 1000}, {"text": (_GPU, _GPU)}),
}
TASKS = ("markov", "text")
"""Beside these, `thalweg study tasks` has recipes of its own, see `thalweg.experiments.tasks.recipes`."""


@dataclass(frozen=True)
class StudyConfig:
    """The plan of a study, stored in its folder; everything else follows from it."""

    task: Literal["markov", "text"]
    preset: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    text: str = ""
    """File or folder of the text task."""
    device: str = "auto"
    compile: bool = False
    landscape: bool = True
    """Whether the landscape of every run is measured after it."""

    def __post_init__(self) -> None:
        require_known("preset", [self.preset], PRESETS)
        require_known("arm", self.arms, ARMS)
        steps = PRESETS[self.preset].steps
        having = ", ".join(name for name, preset in PRESETS.items() if self.task in preset.steps)
        require(self.task in steps, "--preset", self.preset, f"one that {self.task} has: {having}")


def plan(
    task: str,
    preset: str,
    arms: tuple[str, ...] = (),
    seeds: int = 0,
    text: str = "",
    device: str = "auto",
    compile: bool = False,
    landscape: bool = True,
) -> StudyConfig:
    """The plan of a study from command-line options.

    Args:
        task: name in `TASKS`.
        preset: name in `PRESETS`.
        arms: names in `ARMS`; empty takes the preset's.
        seeds: number of seeds; 0 takes the preset's.
        text: file or folder of the corpus, for the task `text` only; empty takes the files of Python's standard library.
        device: "auto", "cpu" or a CUDA device.
        compile: whether the model is compiled.
        landscape: whether the landscape of every run is measured after it.
    Raises:
        BadInputError: an unknown task, preset or arm (the message suggests the closest name), or options that exclude each other.
    """
    require_known("study", [task], TASKS)
    require_known("preset", [preset], PRESETS)
    require(not (text and task != "text"), "--text", text, "to go with the study `text`")
    chosen = tuple(dict.fromkeys(arms)) or PRESETS[preset].arms
    numbers = seed_numbers(seeds, PRESETS[preset].seeds)
    return StudyConfig(task, preset, chosen, numbers, text, device, compile, landscape)  # type: ignore[arg-type]


def recipe_of(study: StudyConfig) -> Recipe:
    """The recipe of a study's task with its preset's number of updates."""
    steps = PRESETS[study.preset].steps[study.task]
    if study.task == "markov":
        return markov(steps)
    size = TEXT_SIZES.get(study.preset)
    return _sized_text(size, steps, study.text) if size else text(steps, study.text)


def landscape_of(study: StudyConfig, arm: str) -> LandscapePlan | None:
    """What is measured along the runs of an arm; None where nothing is."""
    plans = PRESETS[study.preset].landscapes.get(study.task)
    if plans is None or not study.landscape:
        return None
    chosen = plans[0] if arm in ("single", "looped") else plans[1]
    return replace(chosen, loops=recipe_of(study).loops) if chosen else None


def runs_of(study: StudyConfig) -> dict[str, RunConfig]:
    """Name of the run -> its config, for every arm and seed of a study."""
    recipe, runs = recipe_of(study), {}
    for seed in study.seeds:
        for arm in study.arms:
            config = replace(ARMS[arm](recipe), arm=arm, seed=seed)
            measured = landscape_of(study, arm)
            settings = replace(config.training, device=study.device, compile=study.compile)
            settings = replace(settings, snapshots=measured.checkpoints if measured else 0)
            runs[f"{arm}-seed{seed}"] = replace(config, training=settings)
    return runs
