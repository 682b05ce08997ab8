"""Saving a looped model and loading it with its loops: safetensors and JSON only.

A folder holds what plain transformers saves, plus ``thalweg.json`` (span, options, passes and gains) and, where something is
learned, ``thalweg.safetensors``. Plain transformers ignores both files and loads the model without loops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from thalweg.errors import BadInputError, DamagedFileError, require
from thalweg.integrations.find_layers import base_of
from thalweg.integrations.huggingface import loop, looped_layers_of
from thalweg.integrations.looped_layers import NAME, LoopedLayers
from thalweg.serialization import from_dict
from thalweg.storage import atomic_stream, explained, read_bytes, read_json, there, write_json

_SETTINGS, _WEIGHTS = "thalweg.json", "thalweg.safetensors"


@dataclasses.dataclass(frozen=True)
class _Saved:
    """Content of ``thalweg.json``: the arguments of `loop`."""

    first: int
    last: int
    loops: int
    gains: tuple[float, ...]
    injection: bool
    norm: bool
    learned_gains: Literal["each", "shared"] | None
    gain_start: float
    most_loops: int | None
    backprop: int | None


def save(model: Any, folder: str | Path) -> None:
    """Write a looped model to a new folder; the folder is there whole or not at all.

    Args:
        model: a looped model without wrappers.
        folder: must not exist, or be empty.
    Raises:
        BadInputError: the model is not looped or has an adapter, or the folder holds something.
    """
    target, looped = Path(folder), looped_layers_of(model)
    expected = "the model itself; merge the adapter first with merge_and_unload()"
    require(base_of(model) is model, "save", type(model), expected)
    free = not there(target) or (target.is_dir() and not any(target.iterdir()))
    require(free, "save folder", str(target), "a folder that does not exist or is empty; choose another name")
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            weights = {key: value for key, value in model.state_dict().items() if not key.startswith(f"{NAME}.")}
            model.save_pretrained(partial, state_dict=weights)
            save_loops(looped, partial)
            partial.chmod(0o755)
            if target.is_dir():
                target.rmdir()
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def save_loops(looped: LoopedLayers, folder: Path) -> None:
    """Write the settings and learned weights of looped layers into a folder that holds their model."""
    if weights := {name: value.detach().contiguous() for name, value in looped.state_dict().items()}:
        atomic_stream(folder / _WEIGHTS, [save_tensors(weights)])
    write_json(folder / _SETTINGS, dataclasses.asdict(_settings_of(looped)))


def _settings_of(looped: LoopedLayers) -> _Saved:
    span, passes = looped.span, {"loops": looped.loops, "gains": looped.gains}
    return _Saved(first=span.first, last=span.last, **passes, **dataclasses.asdict(looped.options))


def passes_in(folder: Path) -> tuple[int, tuple[float, ...]] | None:
    """Passes and gains that `save_loops` wrote into a folder; None where it wrote nothing.

    Raises:
        DamagedFileError: the file cannot be read.
    """
    saved = _settings_in(folder / _SETTINGS) if there(folder / _SETTINGS) else None
    return None if saved is None else (saved.loops, saved.gains)


def _settings_in(path: Path) -> _Saved:
    """The content of a ``thalweg.json``."""
    try:
        return from_dict(_Saved, read_json(path), "thalweg.json")
    except BadInputError as error:
        raise DamagedFileError(f"damaged record {path}: {error}; save the model again") from None


def load(folder: str | Path, from_pretrained: Callable[..., Any] | None = None, **options: Any) -> tuple[Any, LoopedLayers]:
    """Load a model that `save` or a Trainer with `attach` wrote, with its loops.

    Args:
        folder: that was written.
        from_pretrained: loads the model; None takes ``AutoModelForCausalLM.from_pretrained``.
        options: of ``from_pretrained``, such as ``dtype``.
    Returns:
        Model and handle; passes and gains are those that were saved.
    Raises:
        BadInputError: the folder has no ``thalweg.json``.
        DamagedFileError: a file cannot be read.
    """
    from transformers import AutoModelForCausalLM

    source = Path(folder)
    expected = f"a folder with {_SETTINGS}, which save() and a Trainer with attach() write; else from_pretrained, then loop()"
    require(there(source / _SETTINGS), "load folder", str(source), expected)
    saved = _settings_in(source / _SETTINGS)
    with _our_keys_are_expected():
        model = (from_pretrained or AutoModelForCausalLM.from_pretrained)(source, **options)
    looped = loop(model, **{field.name: getattr(saved, field.name) for field in dataclasses.fields(saved)})
    if expected_names := set(looped.state_dict()):
        _load_weights(looped, source / _WEIGHTS, expected_names)
    return model, looped


@contextlib.contextmanager
def _our_keys_are_expected() -> Iterator[None]:
    """Inside, transformers does not report our keys as unexpected; a Trainer's checkpoint holds them among the model's weights.

    The patterns that a model ignores are collected from its class and its parts when it is made, and read after its weights were
    loaded. Ours is added in between. Keys of others are reported as before.
    """
    from transformers import PreTrainedModel

    adjust: Any = vars(PreTrainedModel).get("_adjust_missing_and_unexpected_keys")
    if adjust is None:  # a version that does it elsewhere: its report is only longer
        yield
        return

    def adjust_without_ours(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._keys_to_ignore_on_load_unexpected = {*(self._keys_to_ignore_on_load_unexpected or ()), rf"^{NAME}\."}
        return adjust(self, *args, **kwargs)

    PreTrainedModel._adjust_missing_and_unexpected_keys = adjust_without_ours
    try:
        yield
    finally:
        PreTrainedModel._adjust_missing_and_unexpected_keys = adjust


def _load_weights(looped: LoopedLayers, path: Path, names: set[str]) -> None:
    """Load learned gains and norm from a file."""
    advice = "save the model again"
    try:
        weights = load_tensors(read_bytes(path, 1 << 30))
    except (SafetensorError, FileNotFoundError, ValueError) as error:
        raise DamagedFileError(f"damaged arrays {path}: {error}; {advice}") from None
    shapes = {name: tuple(value.shape) for name, value in looped.state_dict().items()}
    if set(weights) != names or any(tuple(weights[name].shape) != shapes[name] for name in names):
        raise DamagedFileError(f"damaged arrays {path}: expected {', '.join(sorted(names))} of {shapes}; {advice}")
    with torch.no_grad():
        looped.load_state_dict(weights)
