"""Real text as a sequence of bytes: windows of a corpus that is split into train and held-out files.

Shape letters: B batch, N windows, L bytes of a window.

The files are joined once into two flat files, train and held-out, in a cache folder that is named by the hash of their content.
They are memory-mapped from there, so that a corpus larger than the memory can be used and all runs of a study share the pages.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, NoReturn

import numpy as np

from thalweg.bounds import Number, Whole, named_arguments
from thalweg.data.batches import EvaluationSet, Longer, Tokens
from thalweg.errors import BadInputError, InsufficientDataError, Phrase, SkippedFilesWarning, escape_hidden, require, warn
from thalweg.reprs import describe, short_repr
from thalweg.serialization import checked
from thalweg.storage import atomic_stream, file_type
from thalweg.streams import stream

SEPARATOR = b"\0"
"""Byte between two files; text does not contain it."""
CLOSE = 0.05
"""Relative deviation from the held-out share up to which only whole files are held out."""
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


@named_arguments
@dataclass(frozen=True)
class TextConfig:
    """Text as bytes, from a file or folder."""

    kind: ClassVar[str] = "text"
    path: Annotated[str, "a file name, of any bytes"] = ""
    """File or folder (links to folders are not followed); empty for the ``.py`` files of Python's standard library."""
    length: Annotated[int, Whole(2, 10**7, "at least 2 bytes: one to see and one to predict")] = 65
    """Number of bytes in a window, the last target included."""
    held_out_share: Annotated[float, Number(0, 1, "a share between 0 and 1", open_below=True, open_above=True)] = 0.1
    """Share of the bytes that is held out: whole files if they come close to the share, else also the end of one file."""
    windows: Annotated[int, Whole(1, 10**7, "at least 1")] = 256
    """Number of windows, evenly spaced, in each evaluation set."""

    def __post_init__(self) -> None:
        if isinstance(self.path, os.PathLike):
            object.__setattr__(self, "path", os.fsdecode(self.path))
        checked(self, "data.")


class TextData:
    """Windows of bytes at random places of the training files; the vocabulary is the 256 bytes.

    Args:
        config: which text, and how it is split.
        seed: seed of the random places.
    Raises:
        BadInputError: the text does not exist, or is shorter than a window.
    """

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

    def __repr__(self) -> str:
        return describe(self, repr(self.corpus), f"windows of {self.length} bytes", f"seed={self.seed}")

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> Tokens:
        rng = stream(self.seed, "windows", step, rank)
        return windows(self.corpus.train, rng.integers(len(self.corpus.train) - self.length + 1, size=size), self.length)

    def length_at(self, multiple: int) -> int:
        return multiple * (self.length - 1) + 1

    def longer(self, multiple: int, count: int = 1000) -> Longer:
        """Held-out windows with ``multiple`` times the targets of a training window.

        Args:
            multiple: at least 1.
            count: number of windows; fewer are returned if no more fit into the held-out part.
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
        """An evaluation set of evenly spaced windows; 0 takes length or number of windows from the config."""
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


@short_repr
@dataclass(frozen=True)
class Corpus:
    """A text, split into two memory-mapped byte arrays."""

    name: str
    sha256: str
    """Hash of names, sizes and content of all files, and of the split."""
    files: int
    held_out_files: int
    train: np.ndarray
    held_out: np.ndarray


def windows(part: np.ndarray, places: np.ndarray, length: int) -> Tokens:
    """The windows of ``length`` bytes that start at ``places`` ``(N,)``, as tokens ``(N, L)``."""
    return part[places[:, None] + np.arange(length)].astype(np.int64)


def corpus(path: str, held_out_share: float) -> Corpus:
    """Read a file or folder, split it into a train and a held-out part, and map both from the cache.

    Args:
        path: file or folder; empty for Python's standard library.
        held_out_share: share of the bytes that is held out.
    Raises:
        BadInputError: the path does not exist, is neither file nor folder, or holds no readable text.
    Warns:
        SkippedFilesWarning: something in the folder is no file or cannot be read, and is left out.
    """
    source = _find_files(path)
    # The cache folder is named by a hash over the share, and over name, size and content of every file.
    digest = hashlib.sha256(repr(held_out_share).encode())
    sizes: dict[Path, int] = {}
    for file in source.files:
        content = source.read(file)
        if content is None:
            continue
        sizes[file] = len(content)
        digest.update(_name_in(file, source.root) + b"\0" + f"{len(content)}\0".encode())
        digest.update(content)
    source.report_left_out(len(sizes))
    if not sum(sizes.values()):
        raise BadInputError(f"text {source.name}: given {len(sizes)} empty files, expected text; choose another path")
    train, held_out = split(list(sizes), sizes, source.root, held_out_share)
    for part in held_out:
        if part.first and len(sizes) > 1:  # one of several files is cut, which is another split than that by whole files
            digest.update(b"cut\0" + _name_in(part.file, source.root) + f"\0{part.first}".encode())
    key = digest.hexdigest()
    folder = cache_folder() / "text" / key[:32]
    for target, parts in (("train.bin", train), ("held-out.bin", held_out)):
        if not (folder / target).exists():
            atomic_stream(folder / target, joined(parts, sizes))
    held_out_files = len({part.file for part in held_out})
    maps = mapped(folder / "train.bin"), mapped(folder / "held-out.bin")
    return Corpus(source.name, key, len(sizes), held_out_files, *maps)


def mapped(file: Path) -> np.ndarray:
    """The bytes of a file, memory-mapped; an empty file, which cannot be mapped, gives an empty array."""
    return np.memmap(file, dtype=np.uint8, mode="r") if file.stat().st_size else np.empty(0, dtype=np.uint8)


@dataclass
class _Source:
    """The text files below a path, and counts of what is left out."""

    name: str
    """Name of the path, safe to print."""
    root: Path
    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Kind of what is no file or cannot be read -> how often it occurs."""
    first_error: OSError | None = None

    def read(self, file: Path, limit: int = -1) -> bytes | None:
        """The first ``limit`` bytes of a file, or all; None if it cannot be read, which is counted."""
        try:
            return read(file, limit)
        except OSError as error:
            self.count_unreadable(error, "file")
            return None

    def count_unreadable(self, error: OSError, kind: str) -> None:
        """Count a file or folder that cannot be opened."""
        self.left_out[f"unreadable {kind}"] += 1
        self.first_error = self.first_error or error

    def report_left_out(self, count: int) -> None:
        """Warn about what was left out beside ``count`` files.

        Raises:
            BadInputError: no file is left.
        """
        parts = ", ".join(f"{number} {kind}{'s' if number > 1 else ''}" for kind, number in sorted(self.left_out.items()))
        if not count:
            if self.first_error is not None:
                _refuse_unreadable(self.first_error)
            given = f"'{escape_hidden(os.fspath(self.root))}'"
            details = f" ({parts})" if parts else ""
            raise BadInputError(f"text: given {given}, a folder without text files{details}; expected at least one")
        if parts:
            message = f"text {self.name}: left out {parts}; {count} files are used"
            warn(message, SkippedFilesWarning)


def _find_files(path: str) -> _Source:
    """The sorted text files of a path: of a folder, all files below it whose first bytes hold no zero byte.

    Raises:
        BadInputError: the path does not exist, is neither file nor folder, or a folder without text files.
    """
    if not path:
        source = _Source("Python standard library", Path(sysconfig.get_paths()["stdlib"]))
        source.files = [file for file in walk(source) if file.suffix == ".py"]
        return source
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
        source = _Source(escape_hidden(given.name), given.parent, [given])
        if source.read(given, 1) is None and source.first_error is not None:
            _refuse_unreadable(source.first_error)
        return source
    if not stat.S_ISDIR(mode):
        raise BadInputError(f"text: given {shown}, a {file_type(mode)}; expected a file or a folder with text")
    source = _Source(escape_hidden(given.name or str(given)), given)
    for file in walk(source):
        start = source.read(file, 4096)
        if start is not None and SEPARATOR not in start:
            source.files.append(file)
    if not source.files:
        source.report_left_out(0)
    return source


def walk(source: _Source) -> Iterator[Path]:
    """The files below a source's root in the order of their names, without hidden ones, tests and installed packages.

    A file that has several names, by links, comes once. What is no regular file is counted and never opened, as opening a named
    pipe would wait for its other end.
    """
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(source.root, onerror=lambda error: source.count_unreadable(error, "folder")):
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            file = Path(folder, name)
            try:
                facts = os.stat(file)
            except PermissionError as error:
                source.count_unreadable(error, "file")
                continue
            except OSError:  # a link to nowhere, or a loop of links
                source.left_out["dead link"] += 1
                continue
            if not stat.S_ISREG(facts.st_mode):
                source.left_out[file_type(facts.st_mode)] += 1
            elif (facts.st_dev, facts.st_ino) not in seen:
                seen.add((facts.st_dev, facts.st_ino))
                yield file


def _name_in(file: Path, root: Path) -> bytes:
    """Path of a file relative to the root, as the bytes of the file system."""
    return os.fsencode(file.relative_to(root).as_posix())


def read(file: Path, limit: int = -1) -> bytes:
    """Read the first ``limit`` bytes of a file, or all of it.

    Raises:
        OSError: the file cannot be opened.
    """
    with file.open("rb") as handle:
        return handle.read(limit)


def _refuse_unreadable(error: OSError) -> NoReturn:
    """Raise the error for a file or folder that cannot be opened."""
    path = escape_hidden(os.fsdecode(error.filename or ""))
    raise BadInputError(
        f"text: cannot read {path} ({error.strerror}); expected readable files; leave it out or fix its rights"
    ) from None


@dataclass(frozen=True)
class Part:
    """The bytes of one file from ``first`` up to, not including, ``last``."""

    file: Path
    first: int
    last: int


def split(files: Sequence[Path], sizes: dict[Path, int], root: Path, share: float) -> tuple[list[Part], list[Part]]:
    """Split files into train and held-out parts.

    Whole files are held out, in the order of the hashes of their names, until the share is reached. If the result misses the share
    by more than `CLOSE` of it, because a file is large, the last file is cut: as much of its end as is missing is held out. A
    single file is always cut.

    Args:
        files: the files.
        sizes: file -> size in bytes.
        root: folder to which names are relative.
        share: share of the bytes to hold out.
    Returns:
        Train parts and held-out parts, each in the order of the files.
    """
    shuffled = sorted(files, key=lambda f: hashlib.sha256(_name_in(f, root)).digest())
    total, held, count = sum(sizes.values()), 0, 0
    while held < share * total and count < len(shuffled) - 1:
        held, count = held + sizes[shuffled[count]], count + 1
    train, held_out = shuffled[count:], shuffled[:count]
    whole = [Part(f, 0, sizes[f]) for f in sorted(train)], [Part(f, 0, sizes[f]) for f in sorted(held_out)]
    if abs(held - share * total) <= CLOSE * share * total:
        return whole
    # Cut the file that brought too much, or the only one that is left.
    cut = held_out.pop() if held > share * total else train.pop()
    missing = total - round(total * (1 - share)) - sum(sizes[f] for f in held_out)
    first = min(sizes[cut], max(0, sizes[cut] - missing))
    train_parts = [Part(f, 0, sizes[f]) for f in train] + [Part(cut, 0, first)]
    held_out_parts = [Part(f, 0, sizes[f]) for f in held_out] + [Part(cut, first, sizes[cut])]
    return _without_empty(train_parts), _without_empty(held_out_parts)


def _without_empty(parts: Iterable[Part]) -> list[Part]:
    """The parts that are not empty, in the order of their files."""
    return sorted((part for part in parts if part.last > part.first), key=lambda part: part.file)


def joined(parts: Sequence[Part], sizes: dict[Path, int]) -> Iterator[bytes]:
    """Yield the bytes of the parts, with a separator between them.

    Raises:
        BadInputError: a file has another size than before.
    """
    for number, part in enumerate(parts):
        content, size = read(part.file), sizes[part.file]
        place, given = f"text: {escape_hidden(str(part.file))}", Phrase(f"{len(content)} bytes")
        require(len(content) == size, place, given, f"{size}, as before: it has changed")
        yield (SEPARATOR if number else b"") + content[part.first : part.last]


def cache_folder() -> Path:
    """Folder for joined corpora: ``$THALWEG_CACHE``, else "thalweg" in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "thalweg"
    return Path(os.environ.get("THALWEG_CACHE", default))
