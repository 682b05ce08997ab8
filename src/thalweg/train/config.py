"""The config of a run: everything that is needed to repeat it, read from and written to TOML.

The docstring under a field is its documentation for users: `thalweg recipe` prints it above the key.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomlkit

from thalweg.bounds import Number, Rate, Seed, Threads, Updates, Whole, named_arguments
from thalweg.data.markov_data import MarkovConfig
from thalweg.data.pointers import PointersConfig
from thalweg.data.task_data import TaskConfig
from thalweg.data.text import TextConfig
from thalweg.errors import BadInputError, require
from thalweg.models.config import ModelConfig
from thalweg.serialization import checked, from_dict, to_dict
from thalweg.shift.criterion import AtFraction, AtStep, LossBelow, Plateau
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Handover, Hard, Ramp, Refine
from thalweg.shift.schedule import Shift
from thalweg.storage import DEEPEST, atomic_stream, read_bytes, too_deep

_Decay = Annotated[float, Number(0, 1, open_above=True)]
"""Decay factor of a running mean per update."""
_MOST_TOML = 1 << 20
"""Largest size of a config file in bytes."""
SNAPSHOTS_FOR_CURVES = 6
"""Number of snapshots if a recipe asks for none: enough for curves of the landscape, and possible in a run of five updates."""
_SNAPSHOTS = "0, or from 2 to one more than training.steps"


@named_arguments
@dataclass(frozen=True)
class OptimizerConfig:
    """How a gradient becomes an update."""

    name: Literal["adamw", "sgd", "muon"] = "adamw"
    """Optimizer: AdamW (decoupled weight decay), SGD with momentum, or Muon for the blocks' matrices and AdamW for the rest."""
    rate: Rate = 3e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    """Learning rate after the warm-up: constant; cosine to zero; or constant, then linear to zero ("wsd")."""
    warmup: Annotated[int, Whole(0, 10**9)] = 0
    """Number of updates of linear warm-up from zero."""
    decay_share: Annotated[float, Number(0, 1, "a share above 0, at most 1", open_below=True)] = 0.2
    """Share of the run, at its end, over which "wsd" lowers the rate to zero."""
    momentum: _Decay = 0.9
    """Momentum of SGD."""
    beta1: _Decay = 0.9
    """AdamW: decay factor of the running mean of the gradient."""
    beta2: _Decay = 0.999
    """AdamW: decay factor of the running mean of its square."""
    weight_decay: Annotated[float, Number(0, 1e6)] = 0.0
    """Weight decay of the matrices, vectors are never decayed; decoupled in AdamW, added to the gradient in SGD."""
    clip: Annotated[float, Number(0, 1e12)] = 1.0
    """Largest norm of the gradient over all parameters; larger ones are scaled down. 0 for no clipping."""
    value_rate: Rate = 1.0
    """Factor on the learning rate of the value weights W_V (for the rescaled-Single control)."""

    def __post_init__(self) -> None:
        checked(self, "optimizer.")


@named_arguments
@dataclass(frozen=True)
class ShiftConfig:
    """The stages of a run, each with a number of passes; a single stage is plain training."""

    stages: tuple[Annotated[int, Whole(1, 10**5, "loop counts of at least 1 that rise")], ...] = (1,)
    """Number of passes of each stage, rising: [1] is Single, [T] is Looped, [1, T] is SHIFT."""
    criterion: Plateau | AtStep | AtFraction | LossBelow = field(default_factory=Plateau)
    """When the next stage begins."""
    onset: Hard | Ramp | Refine = field(default_factory=Ramp)
    """How the passes of a new stage begin to count: at once (hard), or with gains that grow from 0 (ramp)."""
    handover: Handover = field(default_factory=Handover)
    """What happens to learning rate and optimizer state at a switch."""
    net: SafetyNet = field(default_factory=SafetyNet)
    """When a switch that raised the loss is taken back."""
    spread: Annotated[float, Number(0, 1, open_above=True)] = 0.0
    """Draw the passes of every update from (1 - spread) to (1 + spread) times those of its stage; 0 for no random passes."""
    criteria: tuple[Plateau | AtStep | AtFraction | LossBelow, ...] = ()
    """One criterion for each change of stage, in place of `criterion` for all."""

    def __post_init__(self) -> None:
        checked(self, "shift.")
        self.schedule()

    def schedule(self, seed: int = 0) -> Shift:
        """A new schedule of these stages; ``seed`` is used if the passes are drawn at random."""
        return Shift(
            stages=self.stages,
            criterion=self.criteria or self.criterion,
            onset=self.onset,
            handover=self.handover,
            net=self.net,
            spread=self.spread,
            seed=seed,
        )


@named_arguments
@dataclass(frozen=True)
class TrainingConfig:
    """Length of a run, how often it is evaluated and saved, and where it is computed."""

    steps: Updates = 3750
    """Number of updates."""
    batch: Annotated[int, Whole(1, 10**7)] = 128
    """Number of sequences in an update."""
    evaluate_every: Updates = 125
    """Number of updates between evaluations; also evaluated before the first update and after the last."""
    checkpoint_every: Updates = 500
    """Number of updates between checkpoints; one is also written after the last update."""
    keep: Annotated[int, Whole(1, 10**6)] = 2
    """Number of newest checkpoints that are kept."""
    snapshots: Annotated[int, Whole(0, 10**6, _SNAPSHOTS)] = 0
    """Number of checkpoints that are kept for good, equispaced in log(1 + 100 step / steps); 0 for none. `thalweg landscape` needs
    them."""
    log_every: Updates = 25
    """Number of updates between recorded losses, learning rates and gradient norms."""
    device: str = "auto"
    """Device: "auto" takes a GPU if there is one; or a name that PyTorch knows."""
    threads: Threads = 0
    """Number of CPU threads; 0 leaves PyTorch's own choice. Runs are equal to the last bit only with equal numbers of threads."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the matrix products of an update. "bfloat16" computes them under torch.autocast; weights, gradients, optimizer
    and evaluations stay in float32."""
    compile: bool = False
    """Compile the model with torch.compile, for every stage before the training time is measured."""
    graphs: bool = True
    """On a GPU, record forward and backward of an update as a CUDA graph for each shape and number of passes, outside of the
    training time, and replay it: three to four times as fast at width 64. No effect without a GPU, or if compiled."""

    def __post_init__(self) -> None:
        checked(self, "training.")
        fits = self.snapshots == 0 or 2 <= self.snapshots <= self.steps + 1
        require(fits, "training.snapshots", self.snapshots, _SNAPSHOTS)

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Numbers of updates after which a snapshot is kept, see `log_spaced`."""
        return log_spaced(self.steps, self.snapshots) if self.snapshots else ()


def log_spaced(last: int, count: int) -> tuple[int, ...]:
    """``count`` different integers from 0 to ``last``, equispaced in log(1 + 100 n / last) as nearly as integers can be.

    The spacing is about even below last / 100 and logarithmic above it. Where the ideal integer is taken already, the next one is
    used.

    Example:
        >>> log_spaced(1000, 6)
        (0, 15, 53, 149, 391, 1000)
    """
    numbers = [0]
    for index in range(1, count):
        ideal = round(math.expm1(math.log1p(100) * index / (count - 1)) * last / 100)
        numbers.append(min(max(ideal, numbers[-1] + 1), last - (count - 1 - index)))
    return tuple(numbers)


@named_arguments
@dataclass(frozen=True)
class RunConfig:
    """The complete config of one run."""

    arm: str = "run"
    """Name of the arm (variant) in a study, or any label."""
    seed: Seed = 0
    """Seed from which all random numbers of the run are derived."""
    data: MarkovConfig | TextConfig | TaskConfig | PointersConfig = field(default_factory=MarkovConfig)
    """What the model learns."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Architecture of the model."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How a gradient becomes an update."""
    shift: ShiftConfig = field(default_factory=ShiftConfig)
    """Stages of the training."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Length of the run, evaluation, checkpoints and device."""

    def __post_init__(self) -> None:
        checked(self, "")
        if isinstance(self.data, TaskConfig):
            require(not self.training.compile, "training.compile", True, "false for a task, whose batches vary in shape")
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
        """Refuse a model that does not fit the data in vocabulary, lengths or number of passes.

        For a task of the user's own this imports the user's module. It is therefore called when the data are built, not when the
        config is created.

        Raises:
            BadInputError: the message names what does not fit.
        """
        tokens = 256 if isinstance(self.data, TextConfig) else self.data.vocabulary
        require(self.model.vocabulary == tokens, "model.vocabulary", self.model.vocabulary, f"the data's {tokens} tokens")
        if isinstance(self.data, TaskConfig):
            self.check_task(self.data)
        need = self.data.length - 1
        fits = self.model.positions != "learned" or self.model.length >= need
        require(fits, "model.length", self.model.length, f"at least {need}, one less than data.length")

    def check_task(self, data: TaskConfig) -> None:
        """Refuse tested lengths beyond the model's positions, and fewer learned gains than passes that are tried."""
        longest = max(data.tested_lengths)
        fits = self.model.positions != "learned" or self.model.length >= data.positions(longest)
        wanted = f"lengths of at most {self.model.length} positions (model.length), or model.positions other than learned"
        require(fits, "data.tested", longest, wanted)
        need = data.horizon
        wanted = f"0, or at least the {need} passes that are tried at the tested lengths"
        require(not 0 < self.model.learned_gains < need, "model.learned_gains", self.model.learned_gains, wanted)


def read_config(path: str | Path, changes: Sequence[str] = ()) -> RunConfig:
    """Read the config of a run from a TOML file.

    Args:
        path: the file.
        changes: changes such as "training.steps=100", applied to the values of the file.
    Raises:
        BadInputError: the file is missing or not TOML, or a key or value is wrong.
    """
    path = Path(path)
    values = read_toml(path)
    for change in changes:
        _apply_change(values, change)
    try:
        return from_dict(RunConfig, values)
    except BadInputError as error:
        raise BadInputError(f"config {path}{_blamed(changes, str(error))}: {error}") from None


def _blamed(changes: Sequence[str], message: str) -> str:
    """The changes whose key a message is about, as ", --set KEY=VALUE"."""
    subject = message.partition(";")[0]
    keys = [change.partition("=")[0].strip().split(".") for change in changes]
    told = [key[-1] in re.findall(r"\w+", subject) or any(repr(part) in subject for part in key) for key in keys]
    return "".join(f", --set {change}" for change, ours in zip(changes, told, strict=True) if ours)


def read_toml(path: Path) -> dict[str, Any]:
    """Read the values of a TOML file.

    Only the key data.path may hold bytes that are not UTF-8, since file names may.

    Raises:
        BadInputError: the file is missing, not a regular file, too large, empty, or not TOML.
    """
    advice = "`thalweg recipe markov` prints one to start from"
    try:
        text = read_bytes(path, _MOST_TOML).removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        raise BadInputError(f"config {path}: there is no such file; expected a TOML file; {advice}") from None
    except OSError as error:
        raise BadInputError(f"config {path}: {error.strerror}; expected a readable TOML file") from None
    except BadInputError as error:
        if path.is_dir():
            raise BadInputError(f"config {path}: a folder; expected a TOML file, such as the config.toml of a run") from None
        raise BadInputError(f"config {error}; expected a TOML file; {advice}") from None
    if not text.strip():
        raise BadInputError(f"config {path}: an empty file; expected a TOML file; {advice}")
    try:
        values = _parse_toml(text)
        _require_utf8(values)
    except ValueError as error:  # includes UnicodeError
        raise BadInputError(f"config {path}: not TOML ({error})") from None
    return values


def _require_utf8(values: Any, place: str = "") -> None:
    """Raise UnicodeError for bytes that are not UTF-8 anywhere but in ``data.path``."""
    if isinstance(values, str) and place != "data.path":
        values.encode()
    if isinstance(values, list):
        for item in values:
            _require_utf8(item, place)
    if isinstance(values, dict):
        for key, item in values.items():
            _require_utf8(key)
            _require_utf8(item, f"{place}.{key}" if place else key)


def _parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML text.

    Raises:
        ValueError: it is not TOML, or nested too deeply.
    """
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} lists or sections within each other") from None
    if too_deep(values):
        raise ValueError(f"more than {DEEPEST} lists or sections within each other")
    return values


def write_config(path: Path, config: RunConfig) -> None:
    """Write a config as TOML, atomically; bytes of data.path that are not UTF-8 are written unchanged."""
    atomic_stream(path, [config_text(config).encode(errors="surrogateescape")])


def _apply_change(values: dict[str, Any], change: str) -> None:
    """Apply a change such as "training.steps=100" to nested dicts; the value is parsed as TOML, else taken as text.

    A changed ``kind`` empties its section first, as the keys of the old kind do not apply to the new one.
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
    """The config as TOML text, without comments; see `thalweg.train.config_comments` for explanations."""
    return tomlkit.dumps(to_dict(config))
