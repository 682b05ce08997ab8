"""Checkpoints of sharded runs: a folder that PyTorch's distributed checkpoint (DCP) writes, every rank its own parts.

The folder appears whole or not at all: the ranks write a temporary folder, and rank 0 renames it after all of them have synced
their files. ``facts.json`` holds the facts of the run, as in a checkpoint of one file, and a hash of every other file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg import ranks
from thalweg.errors import DamagedFileError
from thalweg.storage import explained, read_json, sync_folder, write_json

SUFFIX = ".dcp"
"""Ending of the folder's name."""
_FACTS, _HASHES = "facts.json", "files"


def write_sharded(path: Path, tensors: Mapping[str, Tensor], facts: dict[str, Any] | None) -> None:
    """Write a checkpoint folder; every rank has to call it, and all of them must see the folder.

    Args:
        path: the folder, ``step-<number>.dcp``; one that is there is replaced.
        tensors: name -> this rank's part of a sharded tensor, or a tensor that all ranks have.
        facts: JSON values on rank 0; None on the others.
    Raises:
        LostRankError: another rank cannot be reached.
        DiskFullError, BadInputError, ThalwegError: see `thalweg.storage.explained`.
    """
    from torch.distributed import checkpoint as dcp

    part, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    with ranks.together(), explained(path):
        if ranks.rank() == 0:
            for leftover in (part, old):
                shutil.rmtree(leftover, ignore_errors=True)
            part.mkdir(parents=True)
    with ranks.reaching(), explained(path):
        dcp.save(dict(tensors), storage_writer=dcp.FileSystemWriter(part, sync_files=True))
    own = f"__{ranks.rank()}_"
    with ranks.together(), explained(path):
        mine = [file for file in part.iterdir() if file.name.startswith(own) or (ranks.rank() == 0 and file.name == ".metadata")]
        hashes = {file.name: _hash(file) for file in mine}
    everyone = ranks.gathered(hashes)
    with ranks.together(), explained(path):
        if facts is not None:
            text = json.dumps(facts | {_HASHES: {name: value for one in everyone for name, value in one.items()}}, allow_nan=False)
            write_json(part / _FACTS, {"thalweg": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
            if path.exists():
                path.replace(old)
            part.replace(path)
            sync_folder(path.parent)
            shutil.rmtree(old, ignore_errors=True)


def sharded_header(path: Path) -> dict[str, Any]:
    """What `write_sharded` stored besides tensors: the text of the facts and its hash.

    Raises:
        DamagedFileError: it cannot be read.
    """
    header = read_json(path / _FACTS)
    if not isinstance(header, dict) or not isinstance(header.get("thalweg"), str):
        raise DamagedFileError(f"damaged checkpoint {path}: {_FACTS} is not that of a checkpoint")
    return header


def refuse_damaged(path: Path, facts: dict[str, Any]) -> None:
    """Compare all files of a checkpoint folder with their hashes.

    Raises:
        DamagedFileError: a file is missing or changed; the message names it.
    """
    for name, value in facts.get(_HASHES, {"": ""}).items():
        try:
            intact = _hash(path / name) == value
        except OSError:
            intact = False
        if not intact:
            raise DamagedFileError(f"damaged checkpoint {path}: {name or _FACTS} does not match the hash that was stored with it")


def read_whole(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, whole, on the CPU; read by this process alone."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    stored = FileSystemReader(path).read_metadata().state_dict_metadata
    described = {name: about for name, about in stored.items() if isinstance(about, TensorStorageMetadata)}
    tensors = {name: torch.empty(about.size, dtype=about.properties.dtype) for name, about in described.items()}
    _load(path, tensors, alone=True)
    return tensors


def read_parts(path: Path, like: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
    """This rank's parts of the tensors of a checkpoint folder, whatever the number of ranks that wrote it; every rank calls it.

    Args:
        path: the folder.
        like: name -> the weight whose parts a tensor of its shape is laid out as; all other tensors are read whole.
    """
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    tensors: dict[str, Tensor] = {}
    for name, about in FileSystemReader(path).read_metadata().state_dict_metadata.items():
        if isinstance(about, TensorStorageMetadata):
            kind = about.properties.dtype
            weight = like(name)
            same = weight is not None and weight.shape == about.size
            tensors[name] = torch.empty_like(weight, dtype=kind) if same else torch.empty(about.size, dtype=kind)  # type: ignore[arg-type]
    _load(path, tensors, alone=False)
    return tensors


def _load(path: Path, tensors: dict[str, Tensor], alone: bool) -> None:
    """Fill tensors in place from a checkpoint folder.

    Raises:
        DamagedFileError: the folder does not hold them.
    """
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    try:
        with warnings.catch_warnings(), ranks.reaching() if not alone else warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _load_state_dict(tensors, FileSystemReader(path), no_dist=alone)
    except (CheckpointException, OSError, RuntimeError, KeyError, ValueError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DamagedFileError(f"damaged checkpoint {path}: {line}") from None


def _hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
