"""What a frontier needs to know of a source of data: presets, arms, their runs and the words of its page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from thalweg.errors import BadInputError, require_known
from thalweg.models.config import ModelConfig
from thalweg.train.config import RunConfig

GIGA = 1e9
"""Operations in the unit of budgets, GFLOP."""
DECAY = 0.4
"""Last share of the updates in which the rate falls to zero."""


@dataclass(frozen=True)
class Setting:
    """What is tuned for every arm."""

    rate: float
    """Peak learning rate."""
    curriculum: tuple[float, float] = (0.0, 0.0)
    """Shares of the updates at the first level, and over which the level then grows; of a source without levels both 0. The levels
    of a task are its lengths, which grow from the first update on."""


@dataclass(frozen=True)
class Preset:
    """How much."""

    loops: int
    """T when none is given; of a task that of its longest length."""
    budgets: tuple[float, ...]
    rates: tuple[float, ...]
    curricula: tuple[tuple[float, float], ...]
    tuning_seeds: int
    seeds: int
    depths: tuple[int, ...] = ()
    """Constant depths that are trained when no arms are named, with staged training alone; empty for every arm."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products of the updates."""
    scores: int = 20
    """Evaluations of a run, about, without those at its beginning and at its switches; the last update is always scored."""


NO_LEVELS = ((0.0, 0.0),)
"""Curricula of a source without levels."""


@dataclass(frozen=True)
class FrontierConfig:
    """The plan of a frontier, as sources read it; `thalweg.experiments.frontier.plan` checks its names."""

    source: str
    """Name of a source."""
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

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Everything that is tried for an arm."""
        return tuple(Setting(rate, curriculum) for rate in self.rates for curriculum in self.curricula)

    @property
    def tuning_budget(self) -> float:
        """GFLOP of a run that is made to choose a setting."""
        return self.budgets[len(self.budgets) // 2]


def require_paid(budget: float, steps: int, warmup: int, arm: str) -> None:
    """Refuse a budget (GFLOP) that does not pay for twice as many updates as the warm-up has.

    Raises:
        BadInputError: it does not.
    """
    if steps < 2 * warmup:
        raise BadInputError(
            f"budget: given {budget:g} GFLOP, which pay for {steps} updates of arm {arm!r}; expected at least {2 * warmup}, "
            "twice the warm-up"
        )


class Source(ABC):
    """A source of data, and how every arm learns from it."""

    name: str
    """As on the command line."""
    words: str
    """What is learned, in a few words."""
    presets: Mapping[str, Preset]
    reads_text: bool = False
    """Whether it learns a text of the user."""
    best_known: bool = True
    """Whether the best possible loss is known, so that the loss above it is compared."""
    along_lengths: bool = False
    """Whether passes follow from the length of a sample, so that stages end when lengths are learned, and exact matches count."""

    def preset(self, name: str) -> Preset:
        """A preset by its name.

        Raises:
            BadInputError: there is none.
        """
        require_known("preset", [name], tuple(self.presets))
        return self.presets[name]

    def passes(self, preset: str, asked: int) -> int:
        """T: as asked for, or the preset's where 0 was asked."""
        return asked or self.presets[preset].loops

    @abstractmethod
    def arms(self, loops: int) -> tuple[str, ...]:
        """Every arm for T passes."""

    def check(self) -> None:  # noqa: B027
        """Refuse data that contradict themselves, before anything is trained."""

    @abstractmethod
    def arm_words(self, arm: str, loops: int) -> tuple[str, str]:
        """The name of an arm in a legend, and its definition in a sentence."""

    @abstractmethod
    def stages(self, loops: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Passes of the stages of staged training, and shares of the operations after which they end, where these are planned."""

    @abstractmethod
    def run(self, plan: FrontierConfig, arm: str, budget: float, setting: Setting, seed: int) -> RunConfig:
        """One run: an arm at a budget (GFLOP), with a setting and a complete schedule.

        Raises:
            BadInputError: the budget does not pay for a warm-up, or not for every stage.
        """

    @abstractmethod
    def facts(self, model: ModelConfig) -> dict[str, str]:
        """What the page says of data and of the stabilised model at T passes, by topic."""
