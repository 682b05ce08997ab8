"""Checkpoints: one safetensors file holds everything, is there whole or not at all, and is checked when it is read.

Tensors: ``model.<name>``, ``optimizer.<index>.<key>``, ``random.cpu``. The header holds one JSON text with step, schedule,
clock, offset of the journal, hash of the config, and a hash of all tensors. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from thalweg.errors import DamagedFileError, shown
from thalweg.storage import atomic_stream, make_way, parse_json, refuse_special

_FORMAT = 1
MOST = 1 << 42
"""Bytes of a checkpoint."""


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint could not be read and the one before it is used."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read from one file."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The trainable tensors by name; a tied weight once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def gather(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor that the next update depends on."""
    tensors = {f"model.{name}": tensor for name, tensor in weights(model).items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items() if value is not None}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    return tensors


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Put the weights alone back into a model."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_tensor_of(checkpoint, f"model.{name}", parameter))


def _tensor_of(checkpoint: Checkpoint, name: str, like: Tensor) -> Tensor:
    """A tensor of a checkpoint that has the shape of another one.

    Raises:
        DamagedFileError: it is not there, or has another shape.
    """
    found = checkpoint.tensors.get(name)
    if found is None or found.shape != like.shape:
        given = "nothing" if found is None else tuple(found.shape)
        raise DamagedFileError(f"checkpoint {checkpoint.path}, {name}: given {given}, expected the shape {tuple(like.shape)}")
    return found


def scatter(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put everything back where `gather` took it from, as copies: an optimizer goes on in the very tensors that it is given."""
    load_weights(checkpoint, model)
    state: dict[int, dict[str, Tensor]] = {}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            like = tensor if not tensor.dim() else weights[int(index)]
            state.setdefault(int(index), {})[key] = _tensor_of(checkpoint, name, like).clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(checkpoint.tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in checkpoint.tensors:
        torch.cuda.set_rng_state(checkpoint.tensors["random.cuda"])


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int = 0) -> Path:
    """Write ``step-<number>.safetensors`` and remove all but the newest ``keep``; 0 keeps every one."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    told = json.dumps(facts | {"format": _FORMAT, "step": step, "sha256": digest(tensors)}, allow_nan=False)
    header = {"thalweg": told, "sha256": hashlib.sha256(told.encode()).hexdigest()}
    path = folder / f"step-{step:09d}.safetensors"
    make_way(path)
    atomic_stream(path, [save(tensors, metadata=header)])
    for old in checkpoints(folder)[:-keep] if keep else ():
        if old.is_file() or old.is_symlink():
            old.unlink(missing_ok=True)
    return path


def step_of(path: Path) -> int:
    """Updates made, from the name of a checkpoint or snapshot."""
    return int(path.stem.removeprefix("step-"))


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoint files of a run, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one file and check it.

    Raises:
        DamagedFileError: it is cut short, not safetensors, of another format, or its bytes do not match its hash.
    """
    facts = read_facts(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        matches = digest(tensors) == facts.get("sha256")
    except (SafetensorError, ValueError, TypeError, OSError, RuntimeError) as error:
        raise DamagedFileError(f"damaged checkpoint {path}: {error}") from None
    if not matches:
        raise DamagedFileError(f"damaged checkpoint {path}: its bytes do not match the hash that was stored with them")
    return Checkpoint(path, tensors, facts)


def read_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside tensors, from its header alone.

    Raises:
        DamagedFileError: it is cut short, not safetensors, of another format, or its header is not as it was written.
    """
    try:
        refuse_special(path, MOST)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        told = header["thalweg"]
        facts = parse_json(told)
    except KeyError:
        raise DamagedFileError(f"damaged checkpoint {path}: no checkpoint of thalweg") from None
    except (SafetensorError, ValueError, TypeError, OSError, RuntimeError) as error:
        raise DamagedFileError(f"damaged checkpoint {path}: {error}") from None
    stored = header.get("sha256")  # checkpoints of earlier versions have none
    if not isinstance(facts, dict) or (stored is not None and hashlib.sha256(told.encode()).hexdigest() != stored):
        raise DamagedFileError(f"damaged checkpoint {path}: its header does not match the hash that was stored with it")
    if facts.get("format") != _FORMAT:
        raise DamagedFileError(f"checkpoint {path}: format {shown(facts.get('format'))}, expected {_FORMAT}")
    if not isinstance(facts.get("step"), int) or path.stem != f"step-{facts['step']:09d}":
        raise DamagedFileError(f"damaged checkpoint {path}: holds step {shown(facts.get('step'))}, expected that of its name")
    return facts


def newest_checkpoint(folder: Path, take: Callable[[Checkpoint], None] | None = None) -> Checkpoint | None:
    """The newest checkpoint that can be read; None for a run without any.

    A damaged one is named in a warning and the one before it is taken; where none is left, the newest snapshot of the same run,
    which holds as much.

    Args:
        folder: of the run's checkpoints.
        take: what is done with it; a checkpoint that it refuses with `DamagedFileError` counts as damaged.
    Raises:
        DamagedFileError: there are checkpoints, but not one can be read.
    """
    last: DamagedFileError | None = None
    for path in candidates(folder):
        try:
            found = read_checkpoint(path)
            if take is not None:
                take(found)
        except DamagedFileError as error:
            warnings.warn(f"{error}; going back to the one before", DamagedCheckpointWarning, stacklevel=2)
            last = error
        else:
            return found
    if last is not None:
        raise DamagedFileError(f"{last}; no older one can be read; remove {folder.parent} to begin this run again")
    return None


def candidates(folder: Path) -> list[Path]:
    """What a run can go on from, best first: its checkpoints, the newest first, then its snapshots."""
    snapshots = [path for path in checkpoints(folder.parent / "snapshots") if path.stem != f"step-{0:09d}"]
    return [*reversed(checkpoints(folder)), *reversed(snapshots)]
