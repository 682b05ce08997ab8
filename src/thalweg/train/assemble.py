"""Build device, data and model of a run from its config, after a check that they fit into the memory."""

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
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.streams import stream
from thalweg.train.config import OptimizerConfig, RunConfig

AnyData = Data | TaskData | PointersData
"""Everything that a run can learn from."""


def choose_device(name: str) -> torch.device:
    """The device that a config names; "auto" is a GPU if there is one.

    Raises:
        BadInputError: PyTorch does not know the name, or this machine does not have the device.
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
    """Lower bounds in bytes on the memory that a run needs."""

    data: int
    """Sequences that are kept in memory."""
    model: int
    """Weights, gradient and the optimizer's running means."""
    batch: int
    """Activations kept for the backward pass of an update: the state before every block of every pass, and the logits."""


def block_weights(model: ModelConfig) -> int:
    """Lower bound on the number of parameters of one block, from the config alone."""
    return 2 * model.width**2 + (2 * model.expansion * model.width**2 if model.block == "gpt" else 0)


def fewest_weights(model: ModelConfig) -> int:
    """Lower bound on the number of parameters of a model, from its config alone."""
    weights = model.vocabulary * model.width + (model.layers + model.prelude + model.coda) * block_weights(model)
    return weights + (model.length * model.width if model.positions == "learned" else 0)


def copies_of_weights(config: OptimizerConfig) -> int:
    """Number of copies of the weights in a run: themselves, their gradient, and the running means of the optimizer."""
    return 2 + {"adamw": 2, "muon": 1, "sgd": bool(config.momentum)}[config.name]


def needs(config: RunConfig) -> Needs:
    """Estimate the memory of a run from its config alone."""
    model, data, size = config.model, config.data, config.training.batch
    once, weights, copies = model.prelude + model.coda, fewest_weights(model), copies_of_weights(config.optimizer)
    length, passes = data.length - 1, max(config.shift.stages)
    tokens, share = 0, 1.0
    if isinstance(data, MarkovConfig):
        tokens = (data.sequences + data.held_out) * data.length
    elif isinstance(data, TaskConfig):
        tokens = data.samples * data.longest * (data.longest + 1) // 2
        passes, share = min(passes, data.deepest), 0.25  # most samples of a batch are shorter and have fewer passes
    states = share * size * length * (model.width * (model.layers * passes + once) + model.vocabulary)
    return Needs(8 * tokens, 4 * copies * weights, int(4 * states))


def check_fits(config: RunConfig, device: torch.device) -> None:
    """Refuse a run that cannot fit into the memory, before anything is allocated.

    Raises:
        MemoryLimitError: the message says how much is needed at least and how much there is.
    """
    need, host, available = needs(config), memory.total(), memory.total(device)
    on_device = {"model": need.model, f"batch of {config.training.batch:,}": need.batch}
    parts = {"data": (need.data, host)} | {name: (size, available) for name, size in on_device.items()}
    parts["model and batch"] = (need.model + need.batch, available)
    advice = "that is all there is; choose a smaller model, batch, number of loops or data set"
    for name, (size, most) in parts.items():
        memory.ensure(size, most, f"run {config.arm}, {name}", advice)


def make_data(config: RunConfig) -> AnyData:
    """Build the data that a config describes, with the run's seed.

    Raises:
        BadInputError: the text does not exist, or a task of the user's own cannot be imported, is inconsistent or does not fit
            the model.
    """
    if isinstance(config.data, MarkovConfig):
        return MarkovData(config.data, config.seed)
    if isinstance(config.data, PointersConfig):
        return PointersData(config.data, config.seed)
    if isinstance(config.data, TaskConfig):
        data = TaskData(config.data, config.seed)
        if config.data.own:  # not checked with the config, as this imports the user's module
            config.check_data()
        return data
    return TextData(config.data, config.seed)


def make_model(config: RunConfig) -> LoopedTransformer:
    """Build the model of a config on the CPU, with the initial weights of the run's seed."""
    seed = int(stream(config.seed, "init").integers(2**63))
    return LoopedTransformer(config.model, torch.Generator().manual_seed(seed))
