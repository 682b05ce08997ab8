"""Ways to switch, as a plan: which runs a sweep is made of, and which run answers for which setting.

Every way starts from the same recipe, so that data, initial weights and batches are paired by seed. While the first stage lasts
every criterion sees the same run of Single; so a setting of SCP is not trained but replayed over Single's journal, and each update
at which any setting fires is trained once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from thalweg.data.markov_data import MarkovConfig
from thalweg.errors import require, unknown
from thalweg.experiments.paper.recipes import Recipe, looped, shift, shift_hard, single, text
from thalweg.models.config import ModelConfig
from thalweg.shift.criterion import AtStep, LookAhead, Plateau
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
    """How much of a sweep is made."""

    seeds: int
    steps: dict[str, int]
    """Updates of a run, by task."""
    delta_loss: tuple[float, ...]
    delta_grad: tuple[float, ...]
    patience: tuple[int, ...]


PRESETS = {
    "quick": SweepPreset(3, {"markov": 600, "text": 300}, (0.02, 0.1), (0.1, 0.5), (1, 2)),
    "paper": SweepPreset(5, {"markov": 2400, "text": 1000}, (0.02, 0.05, 0.1, 0.2), (0.1, 0.5, 1.0), (1, 2, 3)),
}
LOOPS = {"markov": 6, "text": 4}


@dataclass(frozen=True)
class SweepConfig:
    """What a sweep's folder belongs to; everything else follows from it."""

    task: Literal["markov", "text"]
    preset: str
    loops: int
    groups: tuple[str, ...]
    seeds: tuple[int, ...]
    text: str = ""
    """File or folder of the text task."""
    device: str = "auto"

    @property
    def grid(self) -> SweepPreset:
        """Its preset."""
        return PRESETS[self.preset]


def sweep_of(
    task: str, preset: str, loops: int = 0, groups: tuple[str, ...] = GROUPS, seeds: int = 0, text: str = "", device: str = "auto"
) -> SweepConfig:
    """A sweep from what a user asks for; zero takes the preset's own.

    Raises:
        BadInputError: an unknown task, preset or group (with the likely meaning), or values that do not go together.
    """
    if task not in LOOPS:
        raise unknown("sweep", task, LOOPS)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    for group in groups:
        if group not in GROUPS:
            raise unknown("group", group, GROUPS)
    require(not (text and task != "text"), "--text", text, "to go with the sweep of `text`")
    require(seeds >= 0, "--seeds", seeds, "a whole number of at least 1")
    require(loops == 0 or loops >= 2, "--loops", loops, "at least 2 passes, as there is nothing to switch to otherwise")
    numbers = tuple(range(seeds or PRESETS[preset].seeds))
    chosen = tuple(group for group in GROUPS if group in groups)
    return SweepConfig(task, preset, loops or LOOPS[task], chosen, numbers, text, device)  # type: ignore[arg-type]


def recipe_of(sweep: SweepConfig) -> Recipe:
    """What all ways to switch start from; from `_DEEP` loops on the model is one that stays stable."""
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
"""SCP of every sweep's ways that wait for it."""
_DEEP = 8
"""Loops from which plain pre-norm does not train."""


@dataclass(frozen=True)
class Variant:
    """One way to train: how it is called, what was varied, and its config but for the seed."""

    name: str
    group: str
    settings: dict[str, Any]
    config: RunConfig | None = None
    criterion: Plateau | None = None
    """Replayed over Single's journal in place of a run of its own."""


def early(recipe: Recipe) -> RunConfig:
    """SHIFT as it is by default: the passes come in one after the other from the first update on."""
    return switching(recipe, AtStep(1))


def switching(recipe: Recipe, criterion: AtStep | LookAhead, onset: Onset | None = None) -> RunConfig:
    """SHIFT in two stages with another rule than SCP, or another onset."""
    return replace(recipe.base, shift=ShiftConfig((1, recipe.loops), criterion, onset or recipe.ramp))


def references(recipe: Recipe) -> list[Variant]:
    """What every way is measured against; the paper's SHIFT is `shift-hard`."""
    made = {
        "single": single(recipe),
        "looped": looped(recipe),
        "shift": early(recipe),
        "shift-scp": shift(recipe),
        "shift-hard": shift_hard(recipe),
    }
    variants = [Variant(name, "reference", {}, config) for name, config in made.items()]
    less = _shorter(recipe, SHORT)
    return [*variants, Variant("shift-short", "reference", {"updates": less.base.training.steps}, early(less))]


def _shorter(recipe: Recipe, share: float) -> Recipe:
    """The same over fewer updates: rate schedule, ramp and evaluations shrink with them."""
    settings = recipe.base.training
    fewer = replace(settings, steps=round(share * settings.steps), evaluate_every=max(1, round(share * settings.evaluate_every)))
    ramp = replace(recipe.ramp, steps=max(1, round(share * recipe.ramp.steps)))
    return replace(recipe, base=replace(recipe.base, training=fewer), ramp=ramp)


def thresholds(recipe: Recipe, grid: SweepPreset) -> list[Variant]:
    """SCP on a grid of its three settings, for the first switch; later ones have the default's."""
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
    """Switches after fixed shares of all updates, and the look ahead."""
    steps = recipe.base.training.steps
    fixed = {f"share {share:g}": round(share * steps) for share in _SHARES}
    variants = [Variant(name, "share", {"step": step}, switching(recipe, AtStep(step))) for name, step in fixed.items()]
    every = max(4, steps // 15)
    looking = LookAhead(every=every, updates=max(4, every // 5))
    return [
        *variants,
        Variant("look ahead", "share", {"every": looking.every, "updates": looking.updates}, switching(recipe, looking)),
    ]


def onsets(recipe: Recipe) -> list[Variant]:
    """Ramps of three lengths in two orders and another shape, all from the first update on."""
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
    """What becomes of the optimizer at the switch, when SCP fires."""
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
    """More stages, each with a ramp of its own and SCP between them; and random depth."""
    base, loops = early(recipe), recipe.loops
    tried = [stages for stages in ((1, max(2, loops // 2), loops), doubling(loops)) if len(stages) > 2 and stages[-2] < loops]
    variants = []
    for stages in dict.fromkeys(tried):
        rules = (AtStep(1), *(recipe.criterion,) * (len(stages) - 2))
        config = replace(base, shift=replace(base.shift, stages=stages, criteria=rules))
        variants.append(Variant(f"ladder {'-'.join(map(str, stages))}", "stages", {"stages": len(stages)}, config))
    most = base.model.learned_gains + loops // 2 if base.model.learned_gains else 0
    drawn = replace(base, model=replace(base.model, learned_gains=most), shift=replace(base.shift, spread=0.5))
    return [*variants, Variant("random depth", "stages", {"spread": 0.5}, drawn)]


def models(recipe: Recipe) -> list[Variant]:
    """Controls: do passes whose gains are learned from zero, or all that keeps loops stable, make SHIFT needless?"""
    plain, loops = recipe.base.model, recipe.loops
    kinds = {"learned gains": replace(plain, learned_gains=loops), "stable": plain.for_loops(loops)}
    return [
        Variant(f"{arm}, {name}", "model", {"model": name}, replace(made, model=kind))
        for name, kind in kinds.items()
        if kind != plain
        for arm, made in (("looped", looped(recipe)), ("shift", early(recipe)))
    ]


def _nets(recipe: Recipe) -> list[Variant]:
    """Hard switches, early and late, with and without the safety net."""
    net, soon = SafetyNet(tries=2), shift_hard(recipe)
    late = replace(soon, shift=replace(soon.shift, criterion=AtStep(recipe.base.training.steps // 2)))
    caught = [replace(config, shift=replace(config.shift, net=net)) for config in (soon, late)]
    return [
        Variant("hard, net", "safety", {"net": "yes"}, caught[0]),
        Variant("hard half way", "safety", {"net": "no"}, late),
        Variant("hard half way, net", "safety", {"net": "yes"}, caught[1]),
    ]


_BUILT: dict[str, Callable[[Recipe], list[Variant]]] = {
    "share": shares,
    "onset": onsets,
    "optimizer": _optimizers,
    "stages": ladders,
    "safety": _nets,
    "model": models,
}


def variants_of(sweep: SweepConfig) -> list[Variant]:
    """All ways of a sweep, references first."""
    recipe = recipe_of(sweep)
    grid = thresholds(recipe, sweep.grid) if "scp" in sweep.groups else []
    return references(recipe) + grid + [variant for group in sweep.groups if group in _BUILT for variant in _BUILT[group](recipe)]


def at_step(sweep: SweepConfig, step: int) -> RunConfig:
    """The run of every setting that fires after ``step`` updates."""
    return switching(recipe_of(sweep), AtStep(step))


def fires_at(criterion: Plateau, told: list[tuple[int, float, float]]) -> int | None:
    """The update at which a criterion fires over recorded ``(step, loss, gradient norm)``; None for never."""
    state = criterion.begin()
    for step, loss, norm in told:
        state, reason = criterion.observe(state, step, loss, norm)
        if reason is not None:
            return step
    return None
