"""What the frontier is measured on, and its arms: constant depths, staged training, the paper's two stages.

An arm is a function of a budget: it returns a run with a complete schedule of its own (warm-up, constant, decay to zero) whose
operations are the budget's. The learning rate of an arm, and on the tree source how fast the depth of the trees grows, are chosen
on seeds that are used for nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from thalweg.data.markov_data import MarkovConfig
from thalweg.data.pointers import PointersConfig
from thalweg.data.tasks import TASKS
from thalweg.data.text import TextConfig
from thalweg.errors import BadInputError, require, require_known
from thalweg.experiments.frontier.task_runs import is_task, passes_of, task_run
from thalweg.models.config import ModelConfig
from thalweg.models.cost import cost
from thalweg.shift.criterion import AtStep, Plateau
from thalweg.shift.onset import Hard, Onset, Ramp, Refine
from thalweg.shift.plan import plan_stages, recommended
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig, TrainingConfig

GIGA = 1e9
"""Operations in the unit of budgets, GFLOP."""
_DECAY = 0.4
"""Last share of the updates in which the rate falls to zero."""
_FIRST_SEED, _FIRST_TUNING_SEED = 300, 900
"""Schedules were chosen on seeds below 300; what is reported rests on none of them."""
SOURCES = ("markov", "pointers", "ancestors", "text", *TASKS)


@dataclass(frozen=True)
class Setting:
    """What is tuned for every arm."""

    rate: float
    """Peak learning rate."""
    curriculum: tuple[float, float] = (0.0, 0.0)
    """Shares of the updates at the first level, and over which the level then grows; of a source without levels both 0. The levels
    of a task are its lengths, which grow from the first update on."""


@dataclass(frozen=True)
class FrontierConfig:
    """The plan of a frontier."""

    source: str
    """One of `SOURCES`."""
    preset: str
    loops: int
    """T, the passes of Looped and of the last stage."""
    arms: tuple[str, ...]
    budgets: tuple[float, ...]
    """GFLOP of a run, rising."""
    rates: tuple[float, ...]
    """Peak learning rates that are tried for every arm."""
    curricula: tuple[tuple[float, float], ...]
    """See `Setting.curriculum`; tried with every rate."""
    tuning_seeds: tuple[int, ...]
    """Seeds on which rate and curriculum are chosen, at the middle budget."""
    seeds: tuple[int, ...]
    device: str = "auto"
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Of every arm."""
    text: str = ""
    """File or folder of source "text"; empty for Python's standard library."""

    def __post_init__(self) -> None:
        require_known("source", [self.source], SOURCES)
        require(self.loops >= 2, "--loops", self.loops, "at least 2 passes")
        require_known("preset", [self.preset], presets_of(self.source))
        require_known("arm", self.arms, arms_of(self.source, self.loops))

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Everything that is tried for an arm."""
        return tuple(Setting(rate, curriculum) for rate in self.rates for curriculum in self.curricula)

    @property
    def tuning_budget(self) -> float:
        """GFLOP of a run that is made to choose a setting."""
        return self.budgets[len(self.budgets) // 2]


@dataclass(frozen=True)
class Preset:
    """How much."""

    loops: int
    budgets: tuple[float, ...]
    rates: tuple[float, ...]
    curricula: tuple[tuple[float, float], ...]
    tuning_seeds: int
    seeds: int
    depths: tuple[int, ...] = ()
    """Constant depths that are trained when no arms are named, with staged training alone; empty for every arm."""
    scores: int = 20
    """Evaluations of a run, about, without those at its beginning and at its switches; the last update is always scored."""


_NONE = ((0.0, 0.0),)
PRESETS: dict[tuple[str, str], Preset] = {
    ("markov", "quick"): Preset(6, (53, 105, 211), (5e-3,), _NONE, 1, 3, depths=(1, 2, 6), scores=1),
    ("markov", "paper"): Preset(6, (105, 211, 422), (2.5e-3, 5e-3, 1e-2), _NONE, 2, 5),
    ("markov", "deep"): Preset(12, (105, 211, 422), (2.5e-3, 5e-3, 1e-2), _NONE, 2, 5),
    ("ancestors", "quick"): Preset(5, (125, 250, 500), (3e-3, 5e-3), ((0.2, 0.5),), 1, 3),
    ("ancestors", "paper"): Preset(5, (250, 500, 1000), (3e-3, 5e-3), ((0.1, 0.4), (0.2, 0.5)), 2, 5),
    ("text", "quick"): Preset(4, (100, 200, 400), (3e-3,), _NONE, 1, 3),
    ("text", "paper"): Preset(4, (5000, 10_000, 20_000), (2e-3, 4e-3), _NONE, 1, 3),
    ("text", "gpu"): Preset(6, (1_000_000, 2_000_000), (1e-3,), _NONE, 1, 2),
    ("pointers", "quick"): Preset(5, (60, 125, 250), (3e-3, 6e-3), ((0.2, 0.5),), 1, 3),
    ("pointers", "paper"): Preset(5, (125, 250, 500), (3e-3, 5e-3, 8e-3), ((0.1, 0.4), (0.2, 0.5)), 2, 5),
}
_OF_A_TASK = {"parity": 160, "copy": 600, "addition": 1300, "binary-sum": 440, "multiplication": 600, "unique-set": 600}
"""GFLOP of the largest budget: those of Looped in the study of tasks, preset `quick`. T is that of the longest length."""
_GROWTHS = ((0.0, 0.25), (0.0, 0.5))
PRESETS |= {
    (task, "quick"): Preset(0, (most / 4, most / 2, most), (2e-3, 4e-3), _GROWTHS, 1, 3) for task, most in _OF_A_TASK.items()
}


@dataclass(frozen=True)
class TextSize:
    """Model and batches of a preset of source "text"."""

    width: int
    heads: int
    layers: int
    """Blocks of a pass."""
    ends: int
    """Blocks of the prelude, and as many of the coda."""
    length: int
    """Bytes of a window, the last target included."""
    batch: int


TEXT_SIZES = {
    "quick": TextSize(32, 1, 1, 1, 65, 16),
    "paper": TextSize(144, 4, 2, 1, 65, 16),
    "gpu": TextSize(512, 4, 4, 2, 257, 16),
}
"""Parameters: 0.06, 1.0 and 25 million."""


def constant(depth: int) -> str:
    """Name of the arm that has the same number of passes throughout."""
    return f"depth-{depth}"


STAGED, UNSCALED, TWO_STAGES, PLAIN = "staged", "staged-unscaled", "shift", "plain-looped"
STABILISERS: dict[str, dict[str, float | bool]] = {
    "looped-own-gains": {"shared_gain": False},
    "looped-norm": {"learned_gains": 0, "residual_loops": 1},
    "looped-by-t": {"learned_gains": 0, "residual_power": 1.0},
    "looped-deepnorm": {"learned_gains": 0, "residual_power": 0.25},
}
"""Other ways to keep T passes trainable, as changes of `ModelConfig.for_loops`; `arm_words` says them in words, with their
sources."""
STABILISED = "residual branches times 1 / sqrt(T), a norm after every pass, injection, and one learned gain that all passes share"
"""What keeps the passes of a constant depth of 2 or more, and of staged training, trainable."""
_WORDS: dict[str, tuple[str, str]] = {
    STAGED: (
        "staged: {stages} passes",
        "training in stages of {stages} passes, stabilised; the shared gain is multiplied by (T - 1) / (k - 1) while k of the T "
        "passes run",
    ),
    UNSCALED: ("staged, gain not scaled", "the same stages without that factor on the gain"),
    TWO_STAGES: (
        "the paper's SHIFT, with a ramp",
        "the paper's SHIFT: 1 pass until its criterion SCP fires, then {loops} passes, which come in with a ramp; injection alone",
    ),
    PLAIN: ("{loops} passes, plain", "{loops} passes throughout, with injection alone: not stabilised (the paper's Looped)"),
    "looped-own-gains": ("{loops} passes, own gains", "{loops} passes throughout, stabilised, with a learned gain for each pass"),
    "looped-norm": ("{loops} passes, norm alone", "{loops} passes throughout, with norm and injection alone (arXiv 2502.05171)"),
    "looped-by-t": (
        "{loops} passes, branches by 1 / T",
        "{loops} passes throughout, with norm, injection and residual branches times 1 / T (arXiv 2606.18524)",
    ),
    "looped-deepnorm": (
        "{loops} passes, as DeepNorm",
        "{loops} passes throughout, with norm, injection and residual branches times (2 T) ** -0.25, which after a norm is the "
        "larger residual of DeepNorm (arXiv 2203.00555; for loops arXiv 2607.13491)",
    ),
}
"""Arm -> its name in a legend, and its definition."""
_WORDS_OF_TASKS: dict[str, tuple[str, str]] = {
    STAGED: (
        "staged along the lengths",
        "SHIFT along the lengths: the passes that a sample's length needs, as in the arm before; the next length comes in when the "
        "loss on the present ones is below 0.02 nats, or at the latest after the tuned share of the updates; the rate falls to "
        "0.4 of its value over the stages",
    ),
    "looped": (
        "{loops} passes at most",
        "the passes that a sample's length needs, at most {loops}, on lengths that grow over a tuned share of the updates",
    ),
    "single": ("1 pass", "1 pass at every length, on lengths that grow over a tuned share of the updates (the paper's Single)"),
}
"""The same for algorithmic tasks."""


def arm_words(arm: str, source: str, loops: int) -> tuple[str, str]:
    """The name of an arm in a legend, and its definition in a sentence.

    Example:
        >>> arm_words("depth-5", "markov", 6)[0], arm_words("staged", "markov", 6)[0]
        ('5 passes', 'staged: 2, 3, then 6 passes')
    """
    if is_task(source):
        key = arm if arm == STAGED else "single" if arm == constant(1) else "looped"
        name, definition = _WORDS_OF_TASKS[key]
        return name.format(loops=loops), definition.format(loops=loops)
    if arm.startswith("depth-"):
        depth = int(arm.removeprefix("depth-"))
        if depth == 1:
            return "1 pass", "1 pass throughout: a transformer without a loop (the paper's Single)"
        return f"{depth} passes", f"{depth} passes throughout, stabilised"
    stages = in_turn(staged(source, loops)[0])
    name, definition = _WORDS[arm]
    return name.format(loops=loops, stages=stages), definition.format(loops=loops, stages=stages)


def in_turn(stages: Sequence[int]) -> str:
    """The passes of stages, in words.

    Example:
        >>> in_turn((2, 3, 6)), in_turn((2,))
        ('2, 3, then 6', '2')
    """
    return ", then ".join(filter(None, (", ".join(map(str, stages[:-1])), str(stages[-1]))))


def presets_of(source: str) -> list[str]:
    """Names of the presets of a source."""
    return [name for kind, name in PRESETS if kind == source]


def arms_of(source: str, loops: int) -> tuple[str, ...]:
    """Every arm of a source for T passes. Of a task, whose T passes are those of its longest length: Single, Looped and SHIFT."""
    if is_task(source):
        return (constant(1), constant(loops), STAGED)
    return (*(constant(depth) for depth in range(1, loops + 1)), *STABILISERS, PLAIN, TWO_STAGES, UNSCALED, STAGED)


def plan_frontier(
    source: str,
    preset: str,
    arms: Sequence[str] = (),
    seeds: int = 0,
    loops: int = 0,
    device: str = "auto",
    optimizer: str = "adamw",
    text: str = "",
) -> FrontierConfig:
    """The plan of a frontier.

    Args:
        source: "markov", "pointers", "ancestors", "text", or a built-in task.
        preset: "quick" or "paper"; of markov "deep", of text "gpu" too.
        arms: some of them; when empty those of the preset, or all but those of `STABILISERS`. Looped at T passes is always
            there, as everything is compared with it.
        seeds: how many; 0 for the preset's.
        loops: T; 0 for the preset's. That of a task follows from its lengths.
        device: where it is trained.
        optimizer: "adamw" or "muon", for every arm.
        text: file or folder of source "text"; empty for Python's standard library.
    Raises:
        BadInputError: a source, preset, arm or optimizer that does not exist, or a text for another source.
    """
    require(not text or source == "text", "--text", text, f"nothing: source {source!r} reads no text")
    require_known("optimizer", [optimizer], ("adamw", "muon"))
    require_known("source", [source], SOURCES)
    require_known("preset", [preset], presets_of(source))
    chosen = PRESETS[source, preset]
    usual = passes_of(source)[-1] if is_task(source) else chosen.loops
    deepest = loops or usual
    expected = f"{usual}, the passes that the longest length of {source!r} needs"
    require(not is_task(source) or deepest == usual, "--loops", loops, expected)
    known = arms_of(source, deepest)
    require_known("arm", arms, known)
    few = (
        {*(constant(depth) for depth in chosen.depths if depth <= deepest), STAGED} if chosen.depths else {*known} - {*STABILISERS}
    )
    needed = {*(arms or few), constant(deepest)}
    count = seeds or chosen.seeds
    return FrontierConfig(
        source=source,  # type: ignore[arg-type]
        preset=preset,
        loops=deepest,
        arms=tuple(arm for arm in known if arm in needed),
        budgets=tuple(float(budget) for budget in chosen.budgets),
        rates=chosen.rates,
        curricula=chosen.curricula,
        tuning_seeds=tuple(range(_FIRST_TUNING_SEED, _FIRST_TUNING_SEED + chosen.tuning_seeds)),
        seeds=tuple(range(_FIRST_SEED, _FIRST_SEED + count)),
        device=device,
        optimizer=optimizer,  # type: ignore[arg-type]
        text=text,
    )


@dataclass(frozen=True)
class Schedule:
    """Stages of an arm, and when each ends, in shares of the operations."""

    stages: tuple[int, ...]
    shares: tuple[float, ...]
    onset: Onset


def staged(source: str, loops: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Coarse to fine: stages and shares of the operations after which they end, as recommended for the source.

    A stage of a task ends when its lengths are learned, so there are no shares.
    """
    if is_task(source):
        return passes_of(source), ()
    return recommended(loops, depth_pays=source in ("pointers", "ancestors"))


def schedule_of(source: str, arm: str, loops: int) -> Schedule:
    """The stages of an arm but the paper's, whose switch follows from the run itself."""
    if arm == STAGED:
        return Schedule(*staged(source, loops), Refine())
    if arm == UNSCALED:
        return Schedule(*staged(source, loops), Hard())
    depth = loops if arm == PLAIN or arm in STABILISERS else int(arm.removeprefix("depth-"))
    return Schedule((depth,), (), Hard())


def run_of(plan: FrontierConfig, arm: str, budget: float, setting: Setting, seed: int) -> RunConfig:
    """One run: an arm at a budget, with a setting.

    Raises:
        BadInputError: the budget does not pay for a warm-up, or not for every stage.
    """
    if is_task(plan.source):
        return _task_run_of(plan, arm, budget, setting, seed)
    model, batch = _model_of(plan, arm), TEXT_SIZES[plan.preset].batch if plan.source == "text" else 32

    def price(loops: int) -> float:
        return cost(model, batch, model.length, loops).training_step

    if arm == TWO_STAGES:
        steps, shift = _two_stages(plan, budget, price)
    else:
        schedule = schedule_of(plan.source, arm, plan.loops)
        stages = plan_stages(budget * GIGA, schedule.stages, schedule.shares, price)
        criteria = tuple(AtStep(step) for step in stages.switches)
        steps, shift = stages.steps, ShiftConfig(schedule.stages, criteria=criteria, onset=schedule.onset)  # type: ignore[arg-type]
    warmup = max(20, round(0.05 * steps)) if plan.source in ("markov", "text") else 50
    if steps < 2 * warmup:
        raise BadInputError(
            f"budget: given {budget:g} GFLOP, which pay for {steps} updates of arm {arm!r}; expected at least {2 * warmup}, "
            "twice the warm-up"
        )
    return RunConfig(
        arm=arm,
        seed=seed,
        data=_data_of(plan, steps, setting),
        model=model,
        optimizer=OptimizerConfig(plan.optimizer, rate=setting.rate, schedule="wsd", warmup=warmup, decay_share=_DECAY, beta2=0.99),
        shift=shift,
        training=TrainingConfig(
            steps=steps,
            batch=batch,
            evaluate_every=max(1, steps // PRESETS[plan.source, plan.preset].scores),
            checkpoint_every=steps,
            log_every=max(1, steps // 50),
            threads=1,
            device=plan.device,
        ),
    )


def _task_run_of(plan: FrontierConfig, arm: str, budget: float, setting: Setting, seed: int) -> RunConfig:
    """A run of a task; its budget pays for a warm-up at every preset."""
    kind = "shift" if arm == STAGED else "single" if arm == constant(1) else "looped"
    run = task_run(plan.source, kind, budget * GIGA, setting.rate, setting.curriculum[1], plan.device)
    return replace(run, arm=arm, seed=seed, optimizer=replace(run.optimizer, name=plan.optimizer, decay_share=_DECAY))


def _two_stages(plan: FrontierConfig, budget: float, price: Callable[[int], float]) -> tuple[int, ShiftConfig]:
    """The paper's schedule: Single until SCP fires, then Looped, with the library's default ramp.

    When it switches is not known beforehand. As many updates are planned as the budget pays when a third of them have one pass;
    what the run really cost is counted, and that is what it is drawn at.
    """
    mean = (price(1) + 2 * price(plan.loops)) / 3
    steps = max(1, round(budget * GIGA / mean))
    rule = Plateau(delta_loss=0.02, patience=2, window=max(1, steps // 60))
    shift = ShiftConfig((1, plan.loops), criterion=rule, onset=Ramp(max(1, steps // 10)))
    return steps, shift


def _model_of(plan: FrontierConfig, arm: str) -> ModelConfig:
    """The model of an arm: stabilised but for Single, the plain loop and the paper's schedule."""
    if plan.source == "markov":
        base, start = ModelConfig(vocabulary=16, length=11, width=64), 0.0
    elif plan.source == "text":
        base, start = _text_model(TEXT_SIZES[plan.preset]), 0.5
    else:
        data, deviation = PointersConfig(marks=plan.source == "ancestors"), 0.02 * math.sqrt(768 / 32)
        base = ModelConfig(vocabulary=data.vocabulary, length=data.length - 1, width=32, block="gpt", deviation=deviation)
        start = 0.5
    if arm in (PLAIN, TWO_STAGES):
        return replace(base, injection=True)
    depth = schedule_of(plan.source, arm, plan.loops).stages[-1]
    if depth == 1:
        return base
    model = base.for_loops(depth, shared_gain=True, gain_start=start)
    if arm not in STABILISERS:
        return model
    changes = dict(STABILISERS[arm])
    if not changes.get("learned_gains", True):
        changes |= {"shared_gain": False, "gain_start": 0.0}
    if arm == "looped-deepnorm":
        changes["residual_loops"] = 2 * depth
    return replace(model, **changes)  # type: ignore[arg-type]


def _text_model(size: TextSize) -> ModelConfig:
    """A GPT-2-style model of bytes: blocks before, in and after the passes."""
    shape = ModelConfig(vocabulary=256, length=size.length - 1, width=size.width, heads=size.heads, block="gpt")
    return replace(shape, layers=size.layers, prelude=size.ends, coda=size.ends, positions="rotary")


def _data_of(plan: FrontierConfig, steps: int, setting: Setting) -> MarkovConfig | PointersConfig | TextConfig:
    """Fresh sequences for every update, and held-out ones."""
    if plan.source == "text":
        return TextConfig(plan.text, TEXT_SIZES[plan.preset].length)
    if plan.source == "markov":
        return MarkovConfig(sequences=400_000, held_out=8000, scored=1000)
    hold, grow = (round(share * steps) for share in setting.curriculum)
    return PointersConfig(hold=hold, grow=grow, marks=plan.source == "ancestors")
