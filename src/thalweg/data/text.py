"""Real text as bytes, memory-mapped, split by file.

Shape letters: B batch, N windows, L bytes of a window.

The files are joined once into two flat files, train and held-out, in a cache folder named by the hash of their content, and
are memory-mapped from there: a corpus larger than the memory works, and all runs of a study share the pages.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, NoReturn

import numpy as np

from thalweg.bounds import Number, Whole
from thalweg.data.batches import EvaluationSet, Longer, Tokens
from thalweg.errors import BadInputError, InsufficientDataError, SkippedFilesWarning, escape_hidden, require
from thalweg.serialization import checked
from thalweg.storage import atomic_stream
from thalweg.streams import stream

SEPARATOR = b"\0"
"""Stands between two files; a byte that text does not hold."""
CLOSE = 0.05
"""Relative difference from the share that was asked for up to which files are left whole."""
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


@dataclass(frozen=True)
class TextConfig:
    """Bytes of a file or folder."""

    kind: ClassVar[str] = "text"
    path: Annotated[str, "a file name, of any bytes"] = ""
    """A file or folder, links to folders not followed; empty: the ``.py`` files of Python's standard library, without its tests."""
    length: Annotated[int, Whole(2, 10**7, "at least 2 bytes: one to see and one to predict")] = 65
    """Bytes of a window, targets included."""
    held_out_share: Annotated[float, Number(0, 1, "a share between 0 and 1", open_below=True, open_above=True)] = 0.1
    """Share of the bytes that is held out, in whole files where they come close; else one file is cut and its end is held out."""
    windows: Annotated[int, Whole(1, 10**7, "at least 1")] = 256
    """Windows, evenly spaced, of each evaluation set."""

    def __post_init__(self) -> None:
        if isinstance(self.path, os.PathLike):
            object.__setattr__(self, "path", os.fsdecode(self.path))
        checked(self, "data.")


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
        BadInputError: the path is missing, no file or folder (a named pipe, a socket, a device), or has no text that can be read.
    Warns:
        SkippedFilesWarning: something in the folder is no file or cannot be read, and is left out.
    """
    found = _find_files(path)
    digest = hashlib.sha256(repr(held_out_share).encode())
    sizes: dict[Path, int] = {}
    for file in found.files:
        content = found.read(file)
        if content is None:
            continue
        sizes[file] = len(content)
        digest.update(_name_in(file, found.root) + b"\0" + f"{len(content)}\0".encode())
        digest.update(content)
    found.tell(len(sizes))
    if not sum(sizes.values()):
        raise BadInputError(f"text {found.name}: given {len(sizes)} empty files, expected text; choose another path")
    train, held_out = split(list(sizes), sizes, found.root, held_out_share)
    for part in held_out:
        if part.first and len(sizes) > 1:  # a file of several that is cut: another split than the one by whole files
            digest.update(b"cut\0" + _name_in(part.file, found.root) + f"\0{part.first}".encode())
    key = digest.hexdigest()
    folder = cache_folder() / "text" / key[:32]
    for target, parts in (("train.bin", train), ("held-out.bin", held_out)):
        if not (folder / target).exists():
            atomic_stream(folder / target, joined(parts, sizes))
    return Corpus(
        found.name, key, len(sizes), len({p.file for p in held_out}), mapped(folder / "train.bin"), mapped(folder / "held-out.bin")
    )


def mapped(file: Path) -> np.ndarray:
    """The bytes of a file, read from the disk when they are used; an empty file cannot be mapped."""
    return np.memmap(file, dtype=np.uint8, mode="r") if file.stat().st_size else np.empty(0, dtype=np.uint8)


@dataclass
class Found:
    """The text files of a path, and what is there beside them."""

    name: str
    """Of the path, safe to print."""
    root: Path
    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """What is no file or cannot be read -> how often."""
    first_error: OSError | None = None

    def read(self, file: Path, limit: int = -1) -> bytes | None:
        """The first ``limit`` bytes of a file, or all; None where it cannot be read, which is counted."""
        try:
            return read(file, limit)
        except OSError as error:
            self.unreadable(error, "file")
            return None

    def unreadable(self, error: OSError, kind: str) -> None:
        """Count what cannot be opened."""
        self.left_out[f"unreadable {kind}"] += 1
        self.first_error = self.first_error or error

    def tell(self, count: int) -> None:
        """One line on what was left out beside ``count`` files, or a refusal where no file is left."""
        parts = ", ".join(f"{number} {kind}{'s' if number > 1 else ''}" for kind, number in sorted(self.left_out.items()))
        if not count:
            if self.first_error is not None:
                _refuse_unreadable(self.first_error)
            beside = f" ({parts})" if parts else ""
            raise BadInputError(f"text: given {self.shown}, a folder without text files{beside}; expected at least one")
        if parts:
            words = f"text {self.name}: left out {parts}; {count} files are used"
            warnings.warn(words, SkippedFilesWarning, stacklevel=4)

    @property
    def shown(self) -> str:
        """The path in a message."""
        return f"'{escape_hidden(os.fspath(self.root))}'"


def _find_files(path: str) -> Found:
    """Name, root and the sorted text files of a path."""
    if not path:
        found = Found("Python standard library", Path(sysconfig.get_paths()["stdlib"]))
        found.files = [file for file in walk(found) if file.suffix == ".py"]
        return found
    shown = f"'{escape_hidden(path)}'"
    try:
        given = Path(path).expanduser()
        mode = os.stat(given).st_mode
    except (OSError, ValueError, RuntimeError) as error:
        what = "a dead link" if os.path.islink(os.path.expanduser(path)) else "which does not exist"
        if isinstance(error, PermissionError):
            _refuse_unreadable(error)
        raise BadInputError(f"text: given {shown}, {what}; expected a file or a folder with text") from None
    if stat.S_ISREG(mode):
        found = Found(escape_hidden(given.name), given.parent, [given])
        if found.read(given, 1) is None and found.first_error is not None:
            _refuse_unreadable(found.first_error)
        return found
    if not stat.S_ISDIR(mode):
        raise BadInputError(f"text: given {shown}, a {kind_of(mode)}; expected a file or a folder with text")
    found = Found(escape_hidden(given.name or str(given)), given)
    for file in walk(found):
        start = found.read(file, 4096)
        if start is not None and SEPARATOR not in start:
            found.files.append(file)
    if not found.files:
        found.tell(0)
    return found


def walk(found: Found) -> Iterator[Path]:
    """Files below the root in the order of their names; hidden ones, tests and installed packages left out.

    A file that is there under several names, by links, comes once. What is no file is counted and never opened: opening a named
    pipe would wait for its other end.
    """
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(found.root, onerror=lambda error: found.unreadable(error, "folder")):
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            file = Path(folder, name)
            try:
                facts = os.stat(file)
            except PermissionError as error:
                found.unreadable(error, "file")
                continue
            except OSError:  # nothing at its end, or a loop of links
                found.left_out["dead link"] += 1
                continue
            if not stat.S_ISREG(facts.st_mode):
                found.left_out[kind_of(facts.st_mode)] += 1
            elif (facts.st_dev, facts.st_ino) not in seen:
                seen.add((facts.st_dev, facts.st_ino))
                yield file


def kind_of(mode: int) -> str:
    """What is neither a file nor a folder, in words."""
    kinds = ((stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket"))
    return next((words for asks, words in kinds if asks(mode)), "device")


def _name_in(file: Path, root: Path) -> bytes:
    """Name below the root, as the bytes that the file system has."""
    return os.fsencode(file.relative_to(root).as_posix())


def read(file: Path, limit: int = -1) -> bytes:
    """The first ``limit`` bytes of a file, or all."""
    with file.open("rb") as handle:
        return handle.read(limit)


def _refuse_unreadable(error: OSError) -> NoReturn:
    """One clear line for a file or folder that cannot be opened."""
    where = escape_hidden(os.fsdecode(error.filename or ""))
    raise BadInputError(
        f"text: cannot read {where} ({error.strerror}); expected readable files; leave it out or fix its rights"
    ) from None


@dataclass(frozen=True)
class Part:
    """A stretch of one file."""

    file: Path
    first: int
    last: int


def split(files: Sequence[Path], sizes: dict[Path, int], root: Path, share: float) -> tuple[list[Part], list[Part]]:
    """Train and held-out parts: whole files, in the order of the hash of their name, until the share is reached.

    Where whole files miss the share of the bytes by more than `CLOSE` of it, because one of them is large, the last one is cut: its
    end is held out, as much as is missing, and the rest of it is trained on. A single file is always cut.
    """
    shuffled = sorted(files, key=lambda f: hashlib.sha256(_name_in(f, root)).digest())
    total, held, count = sum(sizes.values()), 0, 0
    while held < share * total and count < len(shuffled) - 1:
        held, count = held + sizes[shuffled[count]], count + 1
    train, held_out = shuffled[count:], shuffled[:count]
    whole = [Part(f, 0, sizes[f]) for f in sorted(train)], [Part(f, 0, sizes[f]) for f in sorted(held_out)]
    if abs(held - share * total) <= CLOSE * share * total:
        return whole
    cut = held_out.pop() if held > share * total else train.pop()  # the one that brought too much, or the only one that is left
    missing = total - round(total * (1 - share)) - sum(sizes[f] for f in held_out)
    first = min(sizes[cut], max(0, sizes[cut] - missing))
    parts = [Part(f, 0, sizes[f]) for f in train] + [Part(cut, 0, first)]
    ends = [Part(f, 0, sizes[f]) for f in held_out] + [Part(cut, first, sizes[cut])]
    return filled(parts), filled(ends)


def filled(parts: Iterable[Part]) -> list[Part]:
    """The parts that are not empty, in the order of their files."""
    return sorted((part for part in parts if part.last > part.first), key=lambda part: part.file)


def joined(parts: Sequence[Part], sizes: dict[Path, int]) -> Iterator[bytes]:
    """The bytes of the parts, a separator after each but the last."""
    for number, part in enumerate(parts):
        content = read(part.file)
        same = len(content) == sizes[part.file]
        require(
            same,
            f"text: {escape_hidden(str(part.file))}",
            f"{len(content)} bytes",
            f"{sizes[part.file]}, as before: it has changed",
        )
        yield (SEPARATOR if number else b"") + content[part.first : part.last]


def cache_folder() -> Path:
    """Where joined corpora are kept: ``$THALWEG_CACHE``, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "thalweg"
    return Path(os.environ.get("THALWEG_CACHE", default))
