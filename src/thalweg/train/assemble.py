"""From a config to the things that a run is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from thalweg.curvature import memory
from thalweg.data.batches import Data
from thalweg.data.markov_data import MarkovConfig, MarkovData
from thalweg.data.pointers import PointersConfig, PointersData
from thalweg.data.task_data import TaskConfig, TaskData
from thalweg.data.text import TextData
from thalweg.errors import BadInputError
from thalweg.models.looped import LoopedTransformer
from thalweg.streams import stream
from thalweg.train.config import RunConfig

AnyData = Data | TaskData | PointersData
"""Whatever a run can learn from."""


def choose_device(name: str) -> torch.device:
    """The device that a config names.

    Raises:
        BadInputError: PyTorch does not know it, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise BadInputError(f"training.device: given {name!r}, expected a device of this machine ({reason})") from None
    return device


@dataclass(frozen=True)
class Needs:
    """Bytes that a run cannot do without: a lower bound, what the parts share or free again left out."""

    data: int
    """Sequences that are kept."""
    model: int
    """Weights, gradient and the optimizer's means."""
    batch: int
    """What one update keeps for its backward pass: the state before every block of every pass, and the logits."""


def needs(config: RunConfig) -> Needs:
    """The bytes of a run, from its config alone."""
    model, data, size = config.model, config.data, config.training.batch
    per_block = 2 * model.width**2 + (2 * model.expansion * model.width**2 if model.block == "gpt" else 0)
    weights = model.vocabulary * model.width + model.layers * per_block
    if model.positions == "learned":
        weights += model.length * model.width
    kept = 2 + (2 if config.optimizer.name == "adamw" else bool(config.optimizer.momentum))
    length, passes = data.length - 1, max(config.shift.stages)
    sequences, share = 0, 1.0
    if isinstance(data, MarkovConfig):
        sequences = (data.sequences + data.held_out) * data.length
    elif isinstance(data, TaskConfig):
        sequences = data.samples * data.longest * (data.longest + 1) // 2
        passes, share = min(passes, data.deepest), 0.25  # short samples are in every batch, and have fewer passes
    states = share * size * length * (model.width * model.layers * passes + model.vocabulary)
    return Needs(8 * sequences, 4 * kept * weights, int(4 * states))


def check_fits(config: RunConfig, device: torch.device) -> None:
    """Refuse a run that cannot fit, before anything is made.

    Raises:
        MemoryLimitError: says what is needed at least, and of what there is.
    """
    need, host, there = needs(config), memory.total(), memory.total(device)
    on_device = {"model": need.model, f"batch of {config.training.batch:,}": need.batch}
    parts = {"data": (need.data, host)} | {name: (size, there) for name, size in on_device.items()}
    parts["model and batch"] = (need.model + need.batch, there)
    instead = "that is all there is; choose a smaller model, batch, number of loops or data set"
    for name, (size, most) in parts.items():
        memory.ensure(size, most, f"run {config.arm}, {name}", instead)


def make_data(config: RunConfig) -> AnyData:
    """The data that a config describes, under its seed.

    Raises:
        BadInputError: there is no such text, or a task of the user's own cannot be imported, contradicts itself or does not fit the
            model.
    """
    if isinstance(config.data, MarkovConfig):
        return MarkovData(config.data, config.seed)
    if isinstance(config.data, PointersConfig):
        return PointersData(config.data, config.seed)
    if isinstance(config.data, TaskConfig):
        made = TaskData(config.data, config.seed)
        if config.data.own:
            config.check_data()
        return made
    return TextData(config.data, config.seed)


def make_model(config: RunConfig) -> LoopedTransformer:
    """The model of a config with the initial weights of its seed."""
    seed = int(stream(config.seed, "init").integers(2**63))
    return LoopedTransformer(config.model, torch.Generator().manual_seed(seed))
