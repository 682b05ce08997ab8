"""Everything that is needed to repeat a run, and its way to and from TOML."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomlkit

from thalweg.bounds import Number, Rate, Seed, Threads, Updates, Whole
from thalweg.data.markov_data import MarkovConfig
from thalweg.data.pointers import PointersConfig
from thalweg.data.task_data import TaskConfig
from thalweg.data.text import TextConfig
from thalweg.errors import BadInputError, require
from thalweg.models.config import ModelConfig
from thalweg.serialization import checked, from_dict, to_dict
from thalweg.shift.criterion import AtFraction, AtStep, LookAhead, LossBelow, Plateau
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Handover, Hard, Ramp, Refine
from thalweg.shift.schedule import Shift
from thalweg.storage import DEEPEST, atomic_stream, read_bytes, too_deep

_Decay = Annotated[float, Number(0, 1, open_above=True)]
"""Of a running mean, at each update."""
_MOST_TOML = 1 << 20
"""Bytes of a config."""
SNAPSHOTS_FOR_CURVES = 6
"""Of a run whose recipe asks for none: enough for a landscape's curves, few enough for a run of five updates."""
_SNAPSHOTS = "0, or from 2 to one more than training.steps"


@dataclass(frozen=True)
class OptimizerConfig:
    """How a gradient becomes an update."""

    name: Literal["adamw", "sgd"] = "adamw"
    """AdamW (decoupled weight decay), or SGD with momentum."""
    rate: Rate = 3e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    """Rate over the run after the warm-up: constant; cosine to zero; or stable, then linear to zero ("wsd")."""
    warmup: Annotated[int, Whole(0, 10**9)] = 0
    """Updates of linear warm-up from zero."""
    decay_share: Annotated[float, Number(0, 1, "a share above 0, at most 1", open_below=True)] = 0.2
    """Last share of the run in which "wsd" decays."""
    momentum: _Decay = 0.9
    """Of SGD."""
    beta1: _Decay = 0.9
    """AdamW's decay of the mean."""
    beta2: _Decay = 0.999
    """AdamW's decay of the mean square."""
    weight_decay: Annotated[float, Number(0, 1e6)] = 0.0
    """Decoupled decay of the matrices; vectors are never decayed. In SGD it is added to the gradient."""
    clip: Annotated[float, Number(0, 1e12)] = 1.0
    """Largest norm of the whole gradient; 0 for no clipping."""
    value_rate: Rate = 1.0
    """Factor on the rate of the value weights W_V (for the rescaled-Single control)."""

    def __post_init__(self) -> None:
        checked(self, "optimizer.")


@dataclass(frozen=True)
class ShiftConfig:
    """The stages of a run; one stage is plain training."""

    stages: tuple[Annotated[int, Whole(1, 10**5, "loop counts of at least 1 that rise")], ...] = (1,)
    """Loop counts, rising: [1] is Single, [T] is Looped, [1, T] is SHIFT."""
    criterion: Plateau | AtStep | AtFraction | LossBelow | LookAhead = field(default_factory=Plateau)
    """When the next stage begins."""
    onset: Hard | Ramp | Refine = field(default_factory=Ramp)
    """How it begins."""
    handover: Handover = field(default_factory=Handover)
    """What becomes of the optimizer at a switch."""
    net: SafetyNet = field(default_factory=SafetyNet)
    """When a switch is taken back."""
    spread: Annotated[float, Number(0, 1, open_above=True)] = 0.0
    """Within a stage the loops of every update are drawn from (1 - spread) to (1 + spread) of the stage's; 0 for no draw."""
    criteria: tuple[Plateau | AtStep | AtFraction | LossBelow | LookAhead, ...] = ()
    """One for each change of stage, in place of the one criterion."""

    def __post_init__(self) -> None:
        checked(self, "shift.")
        self.schedule()

    def schedule(self, seed: int = 0) -> Shift:
        """A fresh schedule of these stages; ``seed`` draws the loops where they are random."""
        return Shift(
            stages=self.stages,
            criterion=self.criteria or self.criterion,
            onset=self.onset,
            handover=self.handover,
            net=self.net,
            spread=self.spread,
            seed=seed,
        )


@dataclass(frozen=True)
class TrainingConfig:
    """Length, rhythm and place of a run."""

    steps: Updates = 3750
    """Updates."""
    batch: Annotated[int, Whole(1, 10**7)] = 128
    """Sequences of an update."""
    evaluate_every: Updates = 125
    """Updates between evaluations; the first is before any update, the last after all."""
    checkpoint_every: Updates = 500
    """Updates between checkpoints; the last is after all."""
    keep: Annotated[int, Whole(1, 10**6)] = 2
    """Checkpoints kept, the newest ones."""
    snapshots: Annotated[int, Whole(0, 10**6, _SNAPSHOTS)] = 0
    """Checkpoints kept for good, from before the first update to after the last, see `log_spaced`; 0 for none."""
    log_every: Updates = 25
    """Updates between lines with loss, rate and gradient norm."""
    device: str = "auto"
    """"auto" takes a GPU when there is one; or a name that PyTorch knows."""
    threads: Threads = 0
    """CPU threads; 0 leaves PyTorch's own choice. Bit equality holds for equal numbers."""
    compile: bool = False
    """Compile the model; every stage's graph is built before the clock starts."""
    graphs: bool = True
    """On a GPU, record forward and backward of an update as a CUDA graph for each shape and number of passes, before the clock goes
    on, and replay it: three to four times as fast at width 64. Without a GPU, or compiled, nothing changes."""

    def __post_init__(self) -> None:
        checked(self, "training.")
        fits = self.snapshots == 0 or 2 <= self.snapshots <= self.steps + 1
        require(fits, "training.snapshots", self.snapshots, _SNAPSHOTS)

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """After how many updates a snapshot is kept: whole numbers, as nearly equispaced in log(1 + step) as they can be."""
        return log_spaced(self.steps, self.snapshots) if self.snapshots else ()


def log_spaced(last: int, count: int) -> tuple[int, ...]:
    """``count`` different whole numbers from 0 to ``last``, equispaced in log(1 + 100 number / last).

    A hundredth of the way is seen as finely as the whole, and what comes before it evenly.

    Each is the ideal number, or the one after its predecessor where that is larger.

    Example:
        >>> log_spaced(1000, 6)
        (0, 15, 53, 149, 391, 1000)
    """
    found = [0]
    for index in range(1, count):
        ideal = round(math.expm1(math.log1p(100) * index / (count - 1)) * last / 100)
        found.append(min(max(ideal, found[-1] + 1), last - (count - 1 - index)))
    return tuple(found)


@dataclass(frozen=True)
class RunConfig:
    """One run."""

    arm: str = "run"
    """Name of the arm in a study, or any label."""
    seed: Seed = 0
    """Root of every random stream of the run."""
    data: MarkovConfig | TextConfig | TaskConfig | PointersConfig = field(default_factory=MarkovConfig)
    """What is learned."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What learns."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How it learns."""
    shift: ShiftConfig = field(default_factory=ShiftConfig)
    """In which stages."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """For how long and where."""

    def __post_init__(self) -> None:
        checked(self, "")
        if isinstance(self.data, TaskConfig):
            require(not self.training.compile, "training.compile", True, "false for a task, whose batches have shapes of their own")
        if not (isinstance(self.data, TaskConfig) and self.data.own):
            self.check_data()
        deepest = max(high for _, high in map(self.shift.schedule().range_of, self.shift.stages))
        fits = self.model.learned_gains == 0 or self.model.learned_gains >= deepest
        require(fits, "model.learned_gains", self.model.learned_gains, f"0, or at least the {deepest} passes that the run uses")
        for rule in self.shift.criteria or (self.shift.criterion,):
            fits = not isinstance(rule, AtFraction) or rule.total_steps == self.training.steps
            total = f"training.steps, {self.training.steps}"
            require(fits, "shift.criterion.total_steps", getattr(rule, "total_steps", 0), total)

    def check_data(self) -> None:
        """Refuse a model that does not fit the data: their tokens, their lengths, the passes that they ask for.

        A task of the user's own is imported for it, so there it is not asked when the config is made, but when its data are.

        Raises:
            BadInputError: names what does not fit.
        """
        tokens = 256 if isinstance(self.data, TextConfig) else self.data.vocabulary
        require(self.model.vocabulary == tokens, "model.vocabulary", self.model.vocabulary, f"the data's {tokens} tokens")
        if isinstance(self.data, TaskConfig):
            self.check_task(self.data)
        need = self.data.length - 1
        fits = self.model.positions != "learned" or self.model.length >= need
        require(fits, "model.length", self.model.length, f"at least {need}, one less than data.length")

    def check_task(self, data: TaskConfig) -> None:
        """Refuse lengths that are tested and that the model cannot be asked, and fewer gains than passes that are tried."""
        longest = max(data.tested_lengths)
        fits = self.model.positions != "learned" or self.model.length >= data.positions(longest)
        wanted = f"lengths of at most {self.model.length} positions (model.length), or model.positions other than learned"
        require(fits, "data.tested", longest, wanted)
        need = data.horizon
        wanted = f"0, or at least the {need} passes that are tried at the lengths tested"
        require(not 0 < self.model.learned_gains < need, "model.learned_gains", self.model.learned_gains, wanted)


def read_config(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """A run's config from a TOML file, with ``section.key=value`` changes on top.

    Raises:
        BadInputError: the file is missing or not TOML, or a key or value is not right.
    """
    values = read_toml(path)
    for change in changes:
        _apply_change(values, change)
    try:
        return from_dict(RunConfig, values)
    except BadInputError as error:
        raise BadInputError(f"config {path}: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file. Only the path of a text may hold bytes that are no UTF-8, as file names do.

    Raises:
        BadInputError: the file is missing, no plain file, too large, empty, or not TOML.
    """
    advice = "`thalweg recipe markov` prints one to start from"
    try:
        text = read_bytes(path, _MOST_TOML).removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        raise BadInputError(f"config {path}: there is no such file; expected a TOML file; {advice}") from None
    except OSError as error:
        raise BadInputError(f"config {path}: {error.strerror}; expected a readable TOML file") from None
    except BadInputError as error:
        raise BadInputError(f"config {error}; expected a TOML file; {advice}") from None
    if not text.strip():
        raise BadInputError(f"config {path}: an empty file; expected a TOML file; {advice}")
    try:
        values = _parse_toml(text)
        _decoded(values)
    except ValueError as error:  # UnicodeError is one
        raise BadInputError(f"config {path}: not TOML ({error})") from None
    return values


def _decoded(values: Any, place: str = "") -> None:
    """Refuse bytes that are no UTF-8 anywhere but in ``data.path``."""
    if isinstance(values, str) and place != "data.path":
        values.encode()
    if isinstance(values, list):
        for item in values:
            _decoded(item, place)
    if isinstance(values, dict):
        for key, item in values.items():
            _decoded(key)
            _decoded(item, f"{place}.{key}" if place else key)


def _parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML text of few levels.

    Raises:
        ValueError: it is none; says why.
    """
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} lists or sections within each other") from None
    if too_deep(values):
        raise ValueError(f"more than {DEEPEST} lists or sections within each other")
    return values


def write_config(path: Path, config: RunConfig) -> None:
    """Write a config as TOML, atomically; a path of a text as the bytes that it has."""
    atomic_stream(path, [config_text(config).encode(errors="surrogateescape")])


def _apply_change(values: dict[str, Any], change: str) -> None:
    """Set one value in nested dicts, as ``--set training.steps=100`` asks; the value is read as TOML, else as text.

    A new ``kind`` empties its section first: the keys of the old kind mean nothing to the new one.
    """
    key, separator, text = change.partition("=")
    require(bool(separator and key), "--set", change, "section.key=value, such as training.steps=100")
    try:
        value = _parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        require(isinstance(values, dict), "--set", change, f"{section} to be a section")
    if last == "kind" and values.get("kind") != value:
        values.clear()
    values[last] = value


def config_text(config: RunConfig) -> str:
    """The config as TOML."""
    return tomlkit.dumps(to_dict(config))
