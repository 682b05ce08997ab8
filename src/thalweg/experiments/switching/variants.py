"""The variants of a shift-sweep: the config of every switching rule, onset, optimizer treatment, ladder and model compared.

All variants start from the same recipe, so data, initial weights and batches are paired by seed. Until the switch every criterion
sees the same run of Single. So a setting of SCP is not trained; the criterion is replayed over Single's journal, and the run that
switches at the update where it fires stands for the setting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from thalweg.bounds import seed_numbers
from thalweg.data.markov_data import MarkovConfig
from thalweg.errors import require, require_known
from thalweg.experiments.paper.recipes import Recipe, looped, shift, shift_hard, single, text
from thalweg.models.config import ModelConfig
from thalweg.shift.criterion import AtStep, Plateau
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Handover, Onset, Ramp
from thalweg.shift.schedule import doubling
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig, TrainingConfig

GROUPS = ("scp", "share", "onset", "optimizer", "stages", "safety", "model")
_SHARES = (0.2, 0.35, 0.5, 0.7)
SHORT = 0.45
"""Updates of the short run as a share of Looped's: the goal for its time, if every update cost as much as Looped's."""


@dataclass(frozen=True)
class SweepPreset:
    """The size of a sweep, with the grid of SCP's settings."""

    seeds: int
    """Runs of every variant, with seeds 0, 1, ..."""
    steps: dict[str, int]
    """Task -> updates of a run."""
    delta_loss: tuple[float, ...]
    """Loss plateau thresholds of the grid, relative fall per window."""
    delta_grad: tuple[float, ...]
    """Gradient thresholds of the grid, relative change per window."""
    patience: tuple[int, ...]
    """Patience values of the grid, in checks."""


PRESETS = {
    "quick": SweepPreset(3, {"markov": 600, "text": 300}, (0.02, 0.1), (0.1, 0.5), (1, 2)),
    "paper": SweepPreset(5, {"markov": 2400, "text": 1000}, (0.02, 0.05, 0.1, 0.2), (0.1, 0.5, 1.0), (1, 2, 3)),
}
LOOPS = {"markov": 6, "text": 4}
"""Task -> passes T that a sweep switches to by default."""


@dataclass(frozen=True)
class SweepConfig:
    """The plan of a sweep, stored in its folder; everything else follows from it."""

    task: Literal["markov", "text"]
    preset: str
    loops: int
    groups: tuple[str, ...]
    seeds: tuple[int, ...]
    text: str = ""
    """File or folder of the text task."""
    device: str = "auto"

    def __post_init__(self) -> None:
        require_known("preset", [self.preset], PRESETS)
        require_known("group", self.groups, GROUPS)
        require(self.loops >= 2, "--loops", self.loops, "at least 2 passes, as there is nothing to switch to otherwise")

    @property
    def grid(self) -> SweepPreset:
        """The preset of the sweep, which holds the grid of SCP's settings."""
        return PRESETS[self.preset]


def sweep_of(
    task: str, preset: str, loops: int = 0, groups: tuple[str, ...] = GROUPS, seeds: int = 0, text: str = "", device: str = "auto"
) -> SweepConfig:
    """The plan of a sweep from command-line options.

    Args:
        task: "markov" or "text".
        preset: name in `PRESETS`.
        loops: passes T after the switch, at least 2; 0 takes the task's default.
        groups: names in `GROUPS`.
        seeds: number of seeds; 0 takes the preset's.
        text: file or folder of the corpus, for the task `text` only.
        device: "auto", "cpu" or a CUDA device.
    Raises:
        BadInputError: an unknown task, preset or group (the message suggests the closest name), or options that exclude each other.
    """
    require_known("sweep", [task], LOOPS)
    require_known("preset", [preset], PRESETS)
    require_known("group", groups, GROUPS)
    require(not (text and task != "text"), "--text", text, "to go with the sweep of `text`")
    numbers = seed_numbers(seeds, PRESETS[preset].seeds)
    chosen = tuple(group for group in GROUPS if group in groups)
    return SweepConfig(task, preset, loops or LOOPS[task], chosen, numbers, text, device)  # type: ignore[arg-type]


def recipe_of(sweep: SweepConfig) -> Recipe:
    """The recipe that all variants start from; with `_DEEP` or more passes its model has the parts that keep loops stable."""
    steps = sweep.grid.steps[sweep.task]
    if sweep.task == "text":
        base = text(steps, sweep.text).base
        settings = replace(base.training, evaluate_every=max(1, steps // 50), log_every=1)
    else:
        model = ModelConfig(vocabulary=16, length=11, width=64)
        base = RunConfig(data=MarkovConfig(scored=2000), model=model, optimizer=OptimizerConfig(rate=3e-3))
        settings = TrainingConfig(steps=steps, batch=128, evaluate_every=max(1, steps // 48), threads=1, log_every=1)
    model = base.model.for_loops(sweep.loops) if sweep.loops >= _DEEP else base.model
    base = replace(base, model=model, training=replace(settings, device=sweep.device))
    return Recipe(base, sweep.loops, CRITERION, Ramp(max(1, steps // 5), order="in turn"))


CRITERION = Plateau(delta_loss=0.1, delta_grad=0.5, patience=2, window=20)
"""SCP of the variants that wait for it, in every sweep."""
_DEEP = 8
"""Number of passes from which a plain pre-norm model does not train."""


@dataclass(frozen=True)
class Variant:
    """One variant of a sweep: a run of its own, or a setting of SCP that is replayed over Single."""

    name: str
    group: str
    """"reference" or a name in `GROUPS`."""
    settings: dict[str, Any]
    """What it changes, by name."""
    config: RunConfig | None = None
    """Config without arm and seed; None for a setting of SCP."""
    criterion: Plateau | None = None
    """The setting of SCP, replayed over Single's journal; None for a variant with a run of its own."""


def early(recipe: Recipe) -> RunConfig:
    """The default SHIFT: the passes are brought in one after the other by a ramp that starts at the first update."""
    return switching(recipe, AtStep(1))


def switching(recipe: Recipe, criterion: AtStep, onset: Onset | None = None) -> RunConfig:
    """SHIFT in two stages with a criterion other than SCP, or another onset; None takes the recipe's ramp."""
    return replace(recipe.base, shift=ShiftConfig((1, recipe.loops), criterion, onset or recipe.ramp))


def references(recipe: Recipe) -> list[Variant]:
    """The variants that all others are compared with; the paper's SHIFT is `shift-hard`."""
    configs = {
        "single": single(recipe),
        "looped": looped(recipe),
        "shift": early(recipe),
        "shift-scp": shift(recipe),
        "shift-hard": shift_hard(recipe),
    }
    variants = [Variant(name, "reference", {}, config) for name, config in configs.items()]
    short = _shorter(recipe, SHORT)
    return [*variants, Variant("shift-short", "reference", {"updates": short.base.training.steps}, early(short))]


def _shorter(recipe: Recipe, share: float) -> Recipe:
    """The same recipe with a share of the updates; rate schedule, ramp and interval of evaluations shrink with them."""
    settings = recipe.base.training
    fewer = replace(settings, steps=round(share * settings.steps), evaluate_every=max(1, round(share * settings.evaluate_every)))
    ramp = replace(recipe.ramp, steps=max(1, round(share * recipe.ramp.steps)))
    return replace(recipe, base=replace(recipe.base, training=fewer), ramp=ramp)


def thresholds(recipe: Recipe, grid: SweepPreset) -> list[Variant]:
    """SCP on a grid of its three settings, one variant for each point; they are replayed, not trained."""
    return [
        Variant(
            f"scp {loss:g}, {grad:g}, {patience}",
            "scp",
            {"delta_loss": loss, "delta_grad": grad, "patience": patience},
            criterion=replace(recipe.criterion, delta_loss=loss, delta_grad=grad, patience=patience),
        )
        for loss in grid.delta_loss
        for grad in grid.delta_grad
        for patience in grid.patience
    ]


def shares(recipe: Recipe) -> list[Variant]:
    """Switches after fixed shares of all updates."""
    steps = recipe.base.training.steps
    fixed = {f"share {share:g}": round(share * steps) for share in _SHARES}
    return [Variant(name, "share", {"step": step}, switching(recipe, AtStep(step))) for name, step in fixed.items()]


def onsets(recipe: Recipe) -> list[Variant]:
    """Ramps of three lengths in two orders, and one of another shape, all from the first update on."""
    base = recipe.ramp.steps
    ramps = [Ramp(steps, order=order) for order in ("together", "in turn") for steps in (max(1, base // 4), base, 2 * base)]
    ramps += [replace(recipe.ramp, shape="cosine")]
    return [
        Variant(
            f"ramp {r.steps}, {r.shape}, {r.order}",
            "onset",
            {"steps": r.steps, "shape": r.shape, "order": r.order},
            switching(recipe, AtStep(1), r),
        )
        for r in ramps
        if r != recipe.ramp
    ]


def _optimizers(recipe: Recipe) -> list[Variant]:
    """Treatments of the optimizer at the switch (moments reset or scaled, lower rate, warm-up), when SCP fires."""
    kinds = {
        "moments reset": Handover(moments="reset"),
        "moments scaled": Handover(moments="scale"),
        "half the rate": Handover(rate=0.5),
        "warmed up again": Handover(rewarm=100),
    }
    base = shift(recipe)
    return [
        Variant(name, "optimizer", {"handover": name}, replace(base, shift=replace(base.shift, handover=kind)))
        for name, kind in kinds.items()
    ]


def ladders(recipe: Recipe) -> list[Variant]:
    """Ladders of more than two stages, each with its own ramp and SCP between them; and training with random depth."""
    base, loops = early(recipe), recipe.loops
    candidates = ((1, max(2, loops // 2), loops), doubling(loops))
    proper = [stages for stages in candidates if len(stages) > 2 and stages[-2] < loops]
    variants = []
    for stages in dict.fromkeys(proper):
        rules = (AtStep(1), *(recipe.criterion,) * (len(stages) - 2))
        config = replace(base, shift=replace(base.shift, stages=stages, criteria=rules))
        variants.append(Variant(f"ladder {'-'.join(map(str, stages))}", "stages", {"stages": len(stages)}, config))
    most = base.model.learned_gains + loops // 2 if base.model.learned_gains else 0
    drawn = replace(base, model=replace(base.model, learned_gains=most), shift=replace(base.shift, spread=0.5))
    return [*variants, Variant("random depth", "stages", {"spread": 0.5}, drawn)]


def models(recipe: Recipe) -> list[Variant]:
    """Controls: models that bring in their passes by themselves, looped and with SHIFT.

    `learned gains` has zero-initialised learned gains; `stable` has all parts that keep loops stable. They show whether SHIFT still
    saves something on such a model.
    """
    plain, loops = recipe.base.model, recipe.loops
    kinds = {"learned gains": replace(plain, learned_gains=loops), "stable": plain.for_loops(loops)}
    return [
        Variant(f"{arm}, {name}", "model", {"model": name}, replace(config, model=kind))
        for name, kind in kinds.items()
        if kind != plain
        for arm, config in (("looped", looped(recipe)), ("shift", early(recipe)))
    ]


def _nets(recipe: Recipe) -> list[Variant]:
    """Hard switches, when SCP fires and halfway through the run, with and without the safety net."""
    hard = shift_hard(recipe)
    late = replace(hard, shift=replace(hard.shift, criterion=AtStep(recipe.base.training.steps // 2)))
    netted = [replace(config, shift=replace(config.shift, net=SafetyNet(tries=2))) for config in (hard, late)]
    return [
        Variant("hard, net", "safety", {"net": "yes"}, netted[0]),
        Variant("hard half way", "safety", {"net": "no"}, late),
        Variant("hard half way, net", "safety", {"net": "yes"}, netted[1]),
    ]


_BUILT: dict[str, Callable[[Recipe], list[Variant]]] = {
    "share": shares,
    "onset": onsets,
    "optimizer": _optimizers,
    "stages": ladders,
    "safety": _nets,
    "model": models,
}
"""Group -> function that gives its variants; the group `scp` is built from the grid instead."""


def variants_of(sweep: SweepConfig) -> list[Variant]:
    """All variants of a sweep, the references first."""
    recipe = recipe_of(sweep)
    grid = thresholds(recipe, sweep.grid) if "scp" in sweep.groups else []
    return references(recipe) + grid + [variant for group in sweep.groups if group in _BUILT for variant in _BUILT[group](recipe)]


def at_step(sweep: SweepConfig, step: int) -> RunConfig:
    """The config of the run that switches after ``step`` updates; it stands for every setting of SCP that fires there."""
    return switching(recipe_of(sweep), AtStep(step))


def fires_at(criterion: Plateau, updates: list[tuple[int, float, float]]) -> int | None:
    """Replay a criterion over recorded updates: the step at which it fires, None where it never does.

    Args:
        criterion: the setting of SCP.
        updates: ``(step, loss, gradient norm)`` of every update of a run with one pass, in order.
    """
    state = criterion.begin()
    for step, loss, norm in updates:
        state, reason = criterion.observe(state, step, loss, norm)
        if reason is not None:
            return step
    return None
