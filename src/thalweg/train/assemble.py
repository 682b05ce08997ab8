"""From a config to the things that a run is made of."""

from __future__ import annotations

import torch

from thalweg.data.batches import Data
from thalweg.data.markov_data import MarkovConfig, MarkovData
from thalweg.data.task_data import TaskConfig, TaskData
from thalweg.data.text import TextData
from thalweg.errors import BadInputError
from thalweg.models.looped import LoopedTransformer
from thalweg.streams import stream
from thalweg.train.config import RunConfig


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
        reason = str(error).splitlines()[0]
        raise BadInputError(f"training.device: given {name!r}, expected a device of this machine ({reason})") from None
    return device


def make_data(config: RunConfig) -> Data | TaskData:
    """The data that a config describes, under its seed.

    Raises:
        BadInputError: there is no such text, or a task of the user's own cannot be imported, contradicts itself or does not fit the
            model.
    """
    if isinstance(config.data, MarkovConfig):
        return MarkovData(config.data, config.seed)
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
