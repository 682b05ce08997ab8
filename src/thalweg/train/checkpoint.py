"""Checkpoints: one safetensors file with the whole state of a run, written atomically and verified when it is read.

Tensors: ``model.<name>`` and ``optimizer.<index>.<key>``. Training draws its random numbers from the seed and the number of the
update, so that no generator is stored. The header holds the *facts*, one JSON text with step, schedule, clock, offset of the
journal, config and a hash of all tensors, and a hash of that text. No pickle is written or read.

A run whose weights are sharded writes folders instead, see `thalweg.train.sharded_checkpoint`, and one file of this kind at its
end. Everything here reads both.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from thalweg.curvature.sharded import whole
from thalweg.errors import DamagedFileError, shown, warn
from thalweg.storage import atomic_stream, make_way, parse_json, refuse_special
from thalweg.train.sharded_checkpoint import SUFFIX, read_parts, read_whole, refuse_damaged, sharded_header, write_sharded

_FORMAT = 1
MOST = 1 << 42
"""Largest size of a checkpoint in bytes."""


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint cannot be read, and an older one is used instead."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of one checkpoint file."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    """Everything else: step, schedule, clock, config and so on, as JSON values."""


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 hash of names, shapes, types and bytes of tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model by name; a tied weight appears once, and of a sharded one this rank has its part."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def whole_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by name, on the CPU; sharded ones are gathered one after another, which every rank has to ask for."""
    return {name: whole(tensor).cpu() for name, tensor in tensors.items()}


def gather(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor that the next update depends on: weights and optimizer state, by name."""
    tensors = {f"model.{name}": tensor for name, tensor in weights(model).items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items() if value is not None}
    return tensors


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Copy the weights of a checkpoint into a model, in place.

    Raises:
        DamagedFileError: a weight is missing or has another shape.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fill(parameter, _tensor_of(checkpoint, f"model.{name}", parameter))


def fill(target: Tensor, given: Tensor) -> None:
    """Copy a tensor into another of its shape, in place; into a sharded one this rank's part, without waiting for other ranks."""
    if not hasattr(target, "to_local"):
        target.copy_(given)
        return
    own = target.to_local()  # type: ignore[attr-defined]
    if hasattr(given, "to_local"):
        own.copy_(given.to_local())  # type: ignore[attr-defined]
    elif own.numel():  # rows in as many parts as there are ranks, the last ones smaller or empty
        mesh = target.device_mesh  # type: ignore[attr-defined]
        own.copy_(given.chunk(mesh.size())[mesh.get_local_rank()])


def _tensor_of(checkpoint: Checkpoint, name: str, like: Tensor) -> Tensor:
    """A tensor of a checkpoint, which must have the shape of another one.

    Raises:
        DamagedFileError: it is missing or has another shape.
    """
    tensor = checkpoint.tensors.get(name)
    if tensor is None or tensor.shape != like.shape:
        given = "nothing" if tensor is None else tuple(tensor.shape)
        raise DamagedFileError(f"checkpoint {checkpoint.path}, {name}: given {given}, expected the shape {tuple(like.shape)}")
    return tensor


def scatter(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore what `gather` collected: weights and optimizer state.

    The tensors are copied, as the optimizer continues to change those that it is given.

    Raises:
        DamagedFileError: a tensor is missing or has another shape.
    """
    load_weights(checkpoint, model)
    state: dict[int, dict[str, Tensor]] = {}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            like = tensor if not tensor.dim() else weights[int(index)]
            stored = _tensor_of(checkpoint, name, like)
            kept = torch.empty_like(like, dtype=stored.dtype) if tensor.dim() else stored.clone()
            if tensor.dim():
                fill(kept, stored)
            state.setdefault(int(index), {})[key] = kept
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int = 0) -> Path:
    """Write ``step-<number>.safetensors`` into a folder.

    Args:
        folder: folder of the checkpoints.
        step: number of updates made.
        tensors: from `gather`.
        facts: everything else, as JSON values.
        keep: number of newest checkpoints to keep; older ones are removed. 0 keeps all.
    Returns:
        Path of the file.
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts | {"format": _FORMAT, "step": step, "sha256": digest(tensors)}, allow_nan=False)
    header = {"thalweg": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    path = path_of(folder, step)
    make_way(path)
    atomic_stream(path, [save(tensors, metadata=header)])
    remove_oldest(folder, keep)
    return path


def save_sharded(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any] | None, keep: int = 0) -> Path:
    """Write ``step-<number>.dcp`` into a folder, every rank its own parts; arguments as for `save_checkpoint`, on every rank.

    Args:
        facts: on rank 0; None on the others.
    """
    path = folder / f"step-{step:09d}{SUFFIX}"
    write_sharded(path, tensors, None if facts is None else facts | {"format": _FORMAT, "step": step})
    if facts is not None:
        remove_oldest(folder, keep)
    return path


def remove_oldest(folder: Path, keep: int) -> None:
    """Remove all checkpoints of a folder but the ``keep`` newest; 0 keeps all."""
    for old in checkpoints(folder)[:-keep] if keep else ():
        remove(old)


def remove(path: Path) -> None:
    """Remove a checkpoint, a file or a folder."""
    if path.suffix == SUFFIX and path.is_dir() and not path.is_symlink():
        gone = path.with_name(f".{path.name}.old")  # in one step, so that no half of it can be taken for a checkpoint
        path.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)
    elif path.is_file() or path.is_symlink():
        path.unlink(missing_ok=True)


def path_of(folder: Path, step: int) -> Path:
    """Path of the checkpoint file after a number of updates."""
    return folder / f"step-{step:09d}.safetensors"


def step_of(path: Path) -> int:
    """Number of updates made, from the file name of a checkpoint or snapshot."""
    return int(path.stem.removeprefix("step-"))


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; of the same update, the file comes after the folder of a sharded run."""
    return sorted([*folder.glob("step-*.safetensors"), *folder.glob(f"step-*{SUFFIX}")], key=lambda path: (path.stem, path.suffix))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file and verify its hashes.

    Raises:
        DamagedFileError: the file is cut short, not safetensors, of another format, or its bytes do not match its hash.
    """
    facts = read_facts(path)
    if path.suffix == SUFFIX:
        refuse_damaged(path, facts)
        return Checkpoint(path, read_whole(path), facts)
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
    """Read the facts of a checkpoint from its header, without its tensors.

    Raises:
        DamagedFileError: the file is cut short, not safetensors, of another format, or its header does not match its hash.
    """
    try:
        if path.suffix == SUFFIX:
            header = sharded_header(path)
        else:
            refuse_special(path, MOST)
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
        text = header["thalweg"]
        facts = parse_json(text)
    except KeyError:
        raise DamagedFileError(f"damaged checkpoint {path}: not a checkpoint of thalweg") from None
    except (SafetensorError, ValueError, TypeError, OSError, RuntimeError) as error:
        raise DamagedFileError(f"damaged checkpoint {path}: {error}") from None
    stored = header.get("sha256")  # checkpoints of earlier versions have none
    if not isinstance(facts, dict) or (stored is not None and hashlib.sha256(text.encode()).hexdigest() != stored):
        raise DamagedFileError(f"damaged checkpoint {path}: its header does not match the hash that was stored with it")
    if facts.get("format") != _FORMAT:
        raise DamagedFileError(f"checkpoint {path}: format {shown(facts.get('format'))}, expected {_FORMAT}")
    if not isinstance(facts.get("step"), int) or path.stem != f"step-{facts['step']:09d}":
        raise DamagedFileError(f"damaged checkpoint {path}: holds step {shown(facts.get('step'))}, expected that of its name")
    return facts


def verified(path: Path) -> Checkpoint:
    """A checkpoint for a sharded run: of a folder only the facts, after a check of its files, as each rank reads its own parts."""
    if path.suffix != SUFFIX:
        return read_checkpoint(path)
    facts = read_facts(path)
    refuse_damaged(path, facts)
    return Checkpoint(path, {}, facts)


def own_parts(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """The checkpoint with this rank's parts of its tensors, if `verified` left them out; every rank has to call it."""
    if checkpoint.tensors:
        return checkpoint
    named = {f"model.{name}": weight for name, weight in model.named_parameters()}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def like(name: str) -> Tensor | None:
        return weights[int(name.split(".")[1])] if name.startswith("optimizer.") else named.get(name)

    return replace(checkpoint, tensors=read_parts(checkpoint.path, like))


def newest_checkpoint(
    folder: Path,
    take: Callable[[Checkpoint], None] | None = None,
    read: Callable[[Path], Checkpoint] | None = None,
) -> Checkpoint | None:
    """Read the newest checkpoint that is intact; None for a run without any.

    A damaged checkpoint gives a warning, and the next older one is tried; after all checkpoints the snapshots of the run, which
    hold the same.

    Args:
        folder: folder of the run's checkpoints.
        take: called with the checkpoint; if it raises `DamagedFileError`, the checkpoint counts as damaged.
        read: reads and checks a checkpoint; None takes `read_checkpoint`.
    Raises:
        DamagedFileError: there are checkpoints, but none can be read.
    Warns:
        DamagedCheckpointWarning: a checkpoint cannot be read.
    """
    last: DamagedFileError | None = None
    for path in candidates(folder):
        try:
            checkpoint = (read or read_checkpoint)(path)
            if take is not None:
                take(checkpoint)
        except DamagedFileError as error:
            warn(f"{error}; an older one is tried", DamagedCheckpointWarning)
            last = error
        else:
            return checkpoint
    if last is not None:
        raise DamagedFileError(f"{last}; no older one can be read; remove {folder.parent} to begin this run again")
    return None


def candidates(folder: Path) -> list[Path]:
    """Files from which a run can resume, best first: its checkpoints, newest first, then its snapshots after the first update."""
    snapshots = [path for path in checkpoints(folder.parent / "snapshots") if path.stem != f"step-{0:09d}"]
    return [*reversed(checkpoints(folder)), *reversed(snapshots)]
