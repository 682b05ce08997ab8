"""Real text as bytes, memory-mapped, split by file.

Shape letters: B batch, N windows, L bytes of a window.

The files are joined once into two flat files, train and held-out, in a cache folder named by the hash of their content, and
are memory-mapped from there: a corpus larger than the memory works, and all runs of a study share the pages.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, NoReturn

import numpy as np

from thalweg.bounds import Number, Whole, check
from thalweg.data.batches import EvaluationSet, Longer, Tokens
from thalweg.errors import BadInputError, InsufficientDataError, require
from thalweg.storage import atomic_stream
from thalweg.streams import stream

SEPARATOR = b"\0"
"""Stands between two files; a byte that text does not hold."""
SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


@dataclass(frozen=True)
class TextConfig:
    """Bytes of a file or folder."""

    kind: ClassVar[str] = "text"
    path: str = ""
    """A file or folder; empty means the ``.py`` files of Python's own standard library, without its tests."""
    length: Annotated[int, Whole(2, 10**7, "at least 2 bytes: one to see and one to predict")] = 65
    """Bytes of a window, targets included."""
    held_out_share: Annotated[float, Number(0, 1, "a share between 0 and 1", open_below=True, open_above=True)] = 0.1
    """Share of the bytes, in whole files, that is held out (of a single file: its end)."""
    windows: Annotated[int, Whole(1, 10**7, "at least 1")] = 256
    """Windows, evenly spaced, of each evaluation set."""

    def __post_init__(self) -> None:
        check(self, "data")


class TextData:
    """Byte windows at random places of the training files; vocabulary 256."""

    vocabulary = 256

    def __init__(self, config: TextConfig, seed: int) -> None:
        self.config, self.seed, self.length = config, seed, config.length
        self.corpus = corpus(config.path, config.held_out_share)
        for name, part in (("train", self.corpus.train), ("held-out", self.corpus.held_out)):
            if len(part) < config.length:
                raise BadInputError(
                    f"text {self.corpus.name}: its {name} part has {len(part)} bytes, expected at least {config.length} "
                    "(data.length); give more text or a shorter length"
                )
        self.evaluation = (self.scored("train", self.corpus.train), self.scored("held-out", self.corpus.held_out))

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> Tokens:
        rng = stream(self.seed, "windows", step, rank)
        return windows(self.corpus.train, rng.integers(len(self.corpus.train) - self.length + 1, size=size), self.length)

    def length_at(self, multiple: int) -> int:
        return multiple * (self.length - 1) + 1

    def longer(self, multiple: int, count: int = 1000) -> Longer:
        """Held-out windows with ``multiple`` times the targets of a training window; fewer than ``count`` if no more fit.

        Raises:
            BadInputError: a multiple or a count below 1.
            InsufficientDataError: the held-out part is shorter than one such window.
        """
        require(multiple >= 1, "multiple", multiple, "a whole number of at least 1")
        require(count >= 1, "count", count, "at least 1")
        part, length = self.corpus.held_out, self.length_at(multiple)
        if len(part) < length:
            raise InsufficientDataError(
                f"text {self.corpus.name}: its held-out part has {len(part)} bytes, expected at least {length} "
                f"({multiple} * (data.length - 1) + 1); give more text or a smaller multiple"
            )
        return Longer(self.scored(f"{multiple}x", part, length, count))

    def scored(self, name: str, part: np.ndarray, length: int = 0, count: int = 0) -> EvaluationSet:
        """Evenly spaced windows of one part; 0 takes length and number from the config."""
        length, count = length or self.length, count or self.config.windows
        count = min(count, len(part) // length)
        places = np.linspace(0, len(part) - length, count).astype(np.int64)
        return EvaluationSet(name, windows(part, places, length), 1, {"all": np.ones(count, dtype=bool)})

    def facts(self) -> dict:
        return {
            "kind": "text",
            "name": self.corpus.name,
            "sha256": self.corpus.sha256,
            "files": self.corpus.files,
            "held_out_files": self.corpus.held_out_files,
            "train_bytes": len(self.corpus.train),
            "held_out_bytes": len(self.corpus.held_out),
        }


@dataclass(frozen=True)
class Corpus:
    """Two memory-mapped byte strings and what they are."""

    name: str
    sha256: str
    """Of names, sizes and content of all files."""
    files: int
    held_out_files: int
    train: np.ndarray
    held_out: np.ndarray


def windows(part: np.ndarray, places: np.ndarray, length: int) -> Tokens:
    """Bytes ``(N, L)`` from each place on, as token numbers."""
    return part[places[:, None] + np.arange(length)].astype(np.int64)


def corpus(path: str, held_out_share: float) -> Corpus:
    """Read, split and map a file or folder.

    Raises:
        BadInputError: the path is missing, unreadable, empty, or has no text.
    """
    name, root, files = find_files(path)
    digest = hashlib.sha256(repr(held_out_share).encode())
    sizes: dict[Path, int] = {}
    for file in files:
        relative = file.relative_to(root).as_posix()
        content = read(file)
        sizes[file] = len(content)
        digest.update(f"{relative}\0{len(content)}\0".encode())
        digest.update(content)
    if not sum(sizes.values()):
        raise BadInputError(f"text {name}: given {len(files)} empty files, expected text; choose another path")
    key = digest.hexdigest()
    folder = cache_folder() / "text" / key[:32]
    train, held_out = split(files, sizes, root, held_out_share)
    for target, parts in (("train.bin", train), ("held-out.bin", held_out)):
        if not (folder / target).exists():
            atomic_stream(folder / target, joined(parts))
    return Corpus(
        name, key, len(files), len({p.file for p in held_out}), mapped(folder / "train.bin"), mapped(folder / "held-out.bin")
    )


def mapped(file: Path) -> np.ndarray:
    """The bytes of a file, read from the disk when they are used; an empty file cannot be mapped."""
    return np.memmap(file, dtype=np.uint8, mode="r") if file.stat().st_size else np.empty(0, dtype=np.uint8)


def find_files(path: str) -> tuple[str, Path, list[Path]]:
    """Name, root and the sorted text files of a path."""
    if not path:
        root = Path(sysconfig.get_paths()["stdlib"])
        return "Python standard library", root, [f for f in walk(root) if f.suffix == ".py"]
    given = Path(path).expanduser()
    if given.is_file():
        return given.name, given.parent, [given]
    if not given.is_dir():
        raise BadInputError(f"text: given {path!r}, which does not exist; expected a file or a folder with text")
    files = [f for f in walk(given) if is_text(f)]
    if not files:
        raise BadInputError(f"text: given {path!r}, a folder without text files; expected at least one")
    return given.name or str(given), given, files


def walk(root: Path) -> Iterator[Path]:
    """Files below a folder in the order of their names; hidden ones, tests and installed packages left out."""
    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(f for f in folders if f not in SKIPPED and not f.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def is_text(file: Path) -> bool:
    """Whether the first block of a file holds no zero byte."""
    return SEPARATOR not in read(file, 4096)


def read(file: Path, limit: int = -1) -> bytes:
    """The first ``limit`` bytes of a file, or all."""
    try:
        with file.open("rb") as handle:
            return handle.read(limit)
    except OSError as error:
        unreadable(error)


def unreadable(error: OSError) -> NoReturn:
    """One clear line for a file or folder that cannot be opened."""
    raise BadInputError(
        f"text: cannot read {error.filename} ({error.strerror}); expected readable files; leave it out or fix its rights"
    )


@dataclass(frozen=True)
class Part:
    """A stretch of one file."""

    file: Path
    first: int
    last: int


def split(files: Sequence[Path], sizes: dict[Path, int], root: Path, share: float) -> tuple[list[Part], list[Part]]:
    """Train and held-out parts: whole files, chosen by the hash of their name, until the share is reached.

    A single file is cut once: its end is held out.
    """
    if len(files) == 1:
        cut = round(sizes[files[0]] * (1 - share))
        return [Part(files[0], 0, cut)], [Part(files[0], cut, sizes[files[0]])]
    shuffled = sorted(files, key=lambda f: hashlib.sha256(f.relative_to(root).as_posix().encode()).digest())
    wanted, held_out = share * sum(sizes.values()), []
    while sum(sizes[f] for f in held_out) < wanted and len(shuffled) > 1:
        held_out.append(shuffled.pop(0))
    return [Part(f, 0, sizes[f]) for f in sorted(shuffled)], [Part(f, 0, sizes[f]) for f in sorted(held_out)]


def joined(parts: Sequence[Part]) -> Iterator[bytes]:
    """The bytes of the parts, a separator after each but the last."""
    for number, part in enumerate(parts):
        yield (SEPARATOR if number else b"") + read(part.file)[part.first : part.last]


def cache_folder() -> Path:
    """Where joined corpora are kept: ``$THALWEG_CACHE``, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "thalweg"
    return Path(os.environ.get("THALWEG_CACHE", default))
