"""Sources of tokens whose passes do not depend on a sample: the Markov language, trees, bytes of a text.

An arm is a function of a budget: it returns a run with a complete schedule of its own (warm-up, constant, decay to zero) whose
operations are the budget's. The learning rate of an arm, and on the tree source how fast the depth of the trees grows, are chosen
on seeds that are used for nothing else.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from thalweg.data.markov_data import MarkovConfig
from thalweg.data.pointers import PointersConfig
from thalweg.data.text import TextConfig
from thalweg.experiments.frontier.arms import (
    BY_PLATEAU,
    PLAIN,
    PLANS,
    STABILISED,
    STABILISERS,
    STAGED,
    TWO_STAGES,
    UNSCALED,
    constant,
    depth_of,
    words_of_arm,
)
from thalweg.experiments.frontier.source import (
    DECAY,
    GIGA,
    NO_LEVELS,
    FrontierConfig,
    Preset,
    Setting,
    Source,
    require_paid,
)
from thalweg.experiments.words import model_words
from thalweg.models.config import ModelConfig
from thalweg.models.cost import cost
from thalweg.shift.criterion import AtStep, Plateau
from thalweg.shift.onset import Hard, Onset, Ramp, Refine
from thalweg.shift.plan import plan_stages, recommended, stages_ending
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig, TrainingConfig


class _Tokens(Source):
    """What the sources of tokens share: the arms, their models and their schedules."""

    gain_start: float
    """Where the shared gain begins."""
    depth_pays: bool = False
    """Whether many passes are known to help."""
    batch: int = 32
    data_words: str

    @abstractmethod
    def model(self, preset: str) -> ModelConfig:
        """The model with one pass and nothing that keeps passes trainable."""

    @abstractmethod
    def data(self, plan: FrontierConfig, steps: int, setting: Setting) -> MarkovConfig | PointersConfig | TextConfig:
        """Fresh sequences for every update, and held-out ones."""

    def warmup(self, steps: int) -> int:
        """Updates in which the rate rises."""
        return max(20, round(0.05 * steps))

    def arms(self, loops: int) -> tuple[str, ...]:
        plans = (arm for arm in PLANS if stages_ending(PLANS[arm], loops) != self.stages(loops))
        constants = (constant(depth) for depth in range(1, loops + 1))
        return (*constants, *STABILISERS, PLAIN, TWO_STAGES, *plans, UNSCALED, STAGED)

    def arm_words(self, arm: str, loops: int) -> tuple[str, str]:
        return words_of_arm(arm, self.stages(loops)[0])

    def stages(self, loops: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Coarse to fine, as recommended for the source."""
        return recommended(loops, self.depth_pays)

    def run(self, plan: FrontierConfig, arm: str, budget: float, setting: Setting, seed: int) -> RunConfig:
        model = self._model_of(plan, arm)

        def price(loops: int) -> float:
            return cost(model, self.batch, model.length, loops).training_step

        if arm == TWO_STAGES:
            steps, shift = _two_stages(plan, budget, price)
        else:
            schedule = self._schedule_of(arm, plan.loops)
            stages = plan_stages(budget * GIGA, schedule.stages, schedule.shares, price)
            criteria = tuple(_scp(stages.steps) if arm == BY_PLATEAU else AtStep(step) for step in stages.switches)
            steps, shift = stages.steps, ShiftConfig(schedule.stages, criteria=criteria, onset=schedule.onset)  # type: ignore[arg-type]
        warmup = self.warmup(steps)
        require_paid(budget, steps, warmup, arm)
        return RunConfig(
            arm=arm,
            seed=seed,
            data=self.data(plan, steps, setting),
            model=model,
            optimizer=OptimizerConfig(
                plan.optimizer, rate=setting.rate, schedule="wsd", warmup=warmup, decay_share=DECAY, beta2=0.99
            ),
            shift=shift,
            training=TrainingConfig(
                steps=steps,
                batch=self.batch,
                evaluate_every=max(1, steps // self.presets[plan.preset].scores),
                checkpoint_every=steps,
                log_every=max(1, steps // 50),
                threads=1,
                device=plan.device,
                precision=self.presets[plan.preset].precision,
            ),
        )

    def facts(self, model: ModelConfig) -> dict[str, str]:
        plain = replace(model, injection=False)  # which only some arms have, as the words of each say
        return {
            "Data": self.data_words,
            "Model": model_words(plain),
            "Stabilised": f"{STABILISED}, which begins at {model.gain_start:g}",
        }

    def _schedule_of(self, arm: str, loops: int) -> _Schedule:
        """The stages of an arm but the paper's, whose switch follows from the run itself."""
        if arm == STAGED:
            return _Schedule(*self.stages(loops), Refine())
        if arm in PLANS:
            return _Schedule(*stages_ending(PLANS[arm], loops), Refine())
        if arm == UNSCALED:
            return _Schedule(*self.stages(loops), Hard())
        return _Schedule((depth_of(arm) or loops,), (), Hard())

    def _model_of(self, plan: FrontierConfig, arm: str) -> ModelConfig:
        """The model of an arm: stabilised but for Single, the plain loop and the paper's schedule."""
        base = self.model(plan.preset)
        if arm in (PLAIN, TWO_STAGES):
            return replace(base, injection=True)
        depth = self._schedule_of(arm, plan.loops).stages[-1]
        if depth == 1:
            return base
        model = base.for_loops(depth, shared_gain=True, gain_start=self.gain_start)
        if arm not in STABILISERS:
            return model
        changes = dict(STABILISERS[arm])
        if not changes.get("learned_gains", True):
            changes |= {"shared_gain": False, "gain_start": 0.0}
        if arm == "looped-deepnorm":
            changes["residual_loops"] = 2 * depth
        return replace(model, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Schedule:
    """Stages of an arm, and when each ends, in shares of the operations."""

    stages: tuple[int, ...]
    shares: tuple[float, ...]
    onset: Onset


def _two_stages(plan: FrontierConfig, budget: float, price: Callable[[int], float]) -> tuple[int, ShiftConfig]:
    """The paper's schedule: Single until SCP fires, then Looped, with the library's default ramp.

    When it switches is not known beforehand. As many updates are planned as the budget pays when a third of them have one pass;
    what the run really cost is counted, and that is what it is drawn at.
    """
    mean = (price(1) + 2 * price(plan.loops)) / 3
    steps = max(1, round(budget * GIGA / mean))
    shift = ShiftConfig((1, plan.loops), criterion=_scp(steps), onset=Ramp(max(1, steps // 10)))
    return steps, shift


def _scp(steps: int) -> Plateau:
    """The paper's criterion, for a run with so many updates."""
    return Plateau(delta_loss=0.02, patience=2, window=max(1, steps // 60))


class Markov(_Tokens):
    """The Markov language, where depth hardly pays."""

    name, words, gain_start = "markov", "a synthetic Markov language", 0.0
    data_words = "the Markov language: vocabulary 16, order 2, 12 tokens, 400,000 training and 8,000 held-out sequences"
    presets: Mapping[str, Preset] = {
        "quick": Preset(6, (40, 80, 160), (5e-3,), NO_LEVELS, 1, 3, depths=(1, 2, 6), scores=1),
        "paper": Preset(6, (105, 211, 422), (2.5e-3, 5e-3, 1e-2), NO_LEVELS, 2, 5),
        "deep": Preset(12, (105, 211, 422), (2.5e-3, 5e-3, 1e-2), NO_LEVELS, 2, 5),
    }

    def model(self, preset: str) -> ModelConfig:
        return ModelConfig(vocabulary=16, length=11, width=64)

    def data(self, plan: FrontierConfig, steps: int, setting: Setting) -> MarkovConfig:
        return MarkovConfig(sequences=400_000, held_out=8000, scored=1000)


class _Trees(_Tokens):
    """Trees of pointers, where depth pays."""

    gain_start, depth_pays = 0.5, True
    marks: bool

    def model(self, preset: str) -> ModelConfig:
        data = PointersConfig(marks=self.marks)
        deviation = 0.02 * math.sqrt(768 / 32)
        return ModelConfig(vocabulary=data.vocabulary, length=data.length - 1, width=32, block="gpt", deviation=deviation)

    def data(self, plan: FrontierConfig, steps: int, setting: Setting) -> PointersConfig:
        hold, grow = (round(share * steps) for share in setting.curriculum)
        return PointersConfig(hold=hold, grow=grow, marks=self.marks)

    def warmup(self, steps: int) -> int:
        return 50


class Pointers(_Trees):
    """The root of a node."""

    name, words, marks = "pointers", "roots of trees", False
    data_words = (
        "roots of trees: 14 nodes in two trees, each pointing to its parent, 6 queries at depths 1 to 6, "
        "drawn afresh for every update; scored on 2,000 held-out samples whose queries have depths 1 to 6"
    )
    presets: Mapping[str, Preset] = {
        "quick": Preset(5, (60, 125, 250), (3e-3, 6e-3), ((0.2, 0.5),), 1, 3),
        "paper": Preset(5, (125, 250, 500), (3e-3, 5e-3, 8e-3), ((0.1, 0.4), (0.2, 0.5)), 2, 5),
    }


class Ancestors(_Trees):
    """The topmost marked ancestor of a node."""

    name, words, marks = "ancestors", "topmost marked ancestors in trees", True
    data_words = (
        "topmost marked ancestors in trees: 14 nodes in two trees, each pointing to its parent, half of them marked, 6 "
        "queries at depths 1 to 6, drawn afresh for every update; scored on 2,000 held-out samples"
    )
    presets: Mapping[str, Preset] = {
        "quick": Preset(5, (125, 250, 500), (3e-3, 5e-3), ((0.2, 0.5),), 1, 3),
        "paper": Preset(5, (250, 500, 1000), (3e-3, 5e-3), ((0.1, 0.4), (0.2, 0.5)), 2, 5),
    }


@dataclass(frozen=True)
class TextShape:
    """Model of a preset of source "text", with as many blocks in the coda as in the prelude."""

    width: int
    heads: int
    layers: int
    """Blocks of a pass."""
    ends: int
    """Blocks of the prelude, and as many of the coda."""
    length: int
    """Bytes of a window, the last target included."""


TEXT_SHAPES = {
    "quick": TextShape(32, 1, 1, 1, 65),
    "paper": TextShape(144, 4, 2, 1, 65),
    "gpu": TextShape(512, 4, 4, 2, 257),
}
"""Parameters: 0.06, 1.0 and 25 million."""


class Text(_Tokens):
    """Bytes of real text."""

    name, words, gain_start, batch = "text", "bytes of a text", 0.5, 16
    reads_text, best_known = True, False
    data_words = (
        "bytes of a text, of Python's standard library if none is given; whole files are held out; the best possible loss is "
        "not known, so that the loss itself is compared"
    )
    presets: Mapping[str, Preset] = {
        "quick": Preset(4, (100, 200, 400), (3e-3,), NO_LEVELS, 1, 3),
        "paper": Preset(4, (5000, 10_000, 20_000), (2e-3, 4e-3), NO_LEVELS, 1, 3, scores=2),
        "gpu": Preset(6, (1_000_000, 2_000_000), (1e-3,), NO_LEVELS, 1, 2, precision="bfloat16"),
    }

    def model(self, preset: str) -> ModelConfig:
        """A GPT-2-style model of bytes: blocks before, in and after the passes."""
        size = TEXT_SHAPES[preset]
        shape = ModelConfig(vocabulary=256, length=size.length - 1, width=size.width, heads=size.heads, block="gpt")
        return replace(shape, layers=size.layers, prelude=size.ends, coda=size.ends, positions="rotary")

    def data(self, plan: FrontierConfig, steps: int, setting: Setting) -> TextConfig:
        return TextConfig(plan.text, TEXT_SHAPES[plan.preset].length)
