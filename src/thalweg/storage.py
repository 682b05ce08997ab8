"""Writing so that nothing is lost: temporary name, sync, rename; one line a record; one writer a folder."""

from __future__ import annotations

import array
import base64
import contextlib
import errno
import json
import os
import stat
import sys
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from thalweg.errors import BadInputError, DamagedFileError, DiskFullError, FolderError, ThalwegError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BAD_PATH = {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EROFS, errno.ENXIO, errno.ENOTEMPTY, errno.EBUSY}
MOST_BYTES = 64 << 20
"""Of a record or a config; a journal may have `MOST_JOURNAL`, of which a line may have as many as a record."""
MOST_JOURNAL = 2 << 30
DEEPEST = 64
"""Lists and objects within each other in a file that is read."""


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating-system error on ``path`` into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"no space left to write {path} ({error.strerror}); what was there before is untouched; "
                "free some space and run the same command again"
            ) from None
        known = FileNotFoundError | PermissionError | NotADirectoryError | FileExistsError | IsADirectoryError
        if isinstance(error, known) or error.errno in _BAD_PATH:
            raise BadInputError(f"cannot use {path}: {error.strerror}; choose another path or fix its rights") from None
        raise ThalwegError(f"cannot write {path}: {error.strerror}") from None


def atomic_stream(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file that is there whole or not at all, even if the power fails."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as handle:
                for chunk in chunks:
                    handle.write(chunk)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure; not every platform can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically; what is no Unicode, from a file name in another encoding, is written as an escape."""
    atomic_stream(path, [text.encode(errors="backslashreplace")])


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; numbers that are not finite are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """All bytes of a plain file.

    Raises:
        OSError: there is none, or it cannot be opened.
        BadInputError: it is a folder, a pipe or a device, which may never end, or larger than ``most``.
    """
    refuse_special(path, most)
    return path.read_bytes()


def refuse_special(path: Path, most: int = MOST_BYTES) -> None:
    """Refuse what is no plain file, or a larger one than any that thalweg writes, before it is opened."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise BadInputError(f"{path} is {kind_of(found.st_mode)}, expected a file; choose another path or move it away")
    if found.st_size > most:
        raise BadInputError(f"{path} has {found.st_size:,} bytes, expected at most {most:,}; choose another path or move it away")


def kind_of(mode: int) -> str:
    """What a path is that is no plain file, in words."""
    kinds = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK, "a device": stat.S_ISCHR}
    return next((words for words, is_one in kinds.items() if is_one(mode)), "no file")


def too_deep(value: Any, deepest: int = DEEPEST) -> bool:
    """Whether lists and dicts lie within each other more than ``deepest`` times; without recursion.

    Example:
        >>> too_deep([[1], {"a": [2]}], deepest=2), too_deep([[1], {"a": [2]}], deepest=3)
        (True, False)
    """
    level = [value]
    for _ in range(deepest):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for members in inner for one in members if isinstance(one, dict | list)]
    return bool(level)


def _not_a_number(word: str) -> NoReturn:
    """Refuse NaN and infinity, which `json` reads and JSON does not have."""
    raise ValueError(f"{word} is no number that a record holds")


_DECODER = json.JSONDecoder(parse_constant=_not_a_number)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text that thalweg wrote: finite numbers, few levels.

    Raises:
        ValueError: it is none; says why.
    """
    try:
        value = _DECODER.decode(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} lists or objects within each other") from None
    if too_deep(value):
        raise ValueError(f"more than {DEEPEST} lists or objects within each other")
    return value


def read_json(path: Path) -> Any:
    """Read a JSON file that thalweg wrote.

    Raises:
        DamagedFileError: it is not JSON, too large, too deep, no plain file, or cannot be opened.
    """
    try:
        return parse_json(read_bytes(path))
    except (ValueError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DamagedFileError(f"damaged record {path}: {why}; remove it and run the same command again") from None


def there(path: Path) -> bool:
    """Whether something has this name, be it a link to nowhere, which `Path.exists` calls missing."""
    return os.path.lexists(path)


def make_way(path: Path) -> None:
    """Put a folder aside that stands where a file is to be written; a file is replaced by writing it."""
    if path.is_dir() and not path.is_symlink():
        set_aside(path)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to the first free ``NAME.damaged``, so that nothing of it is lost; returns the new name."""
    number, target = 1, path.with_name(f"{path.name}.damaged")
    while there(target):
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    with explained(path):
        path.rename(target)
    return target


class Journal:
    """A file of one JSON record a line, appended and flushed at once.

    A kill can tear the last line only; `read_journal` drops it. ``offset`` goes into the checkpoint, and a resumed run cuts
    the file back to it, so that no record comes twice; ``sums`` goes with it, so that a changed line is found.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self._sums = path, array.array("I")
        with explained(path):
            if offset:
                refuse_special(path, MOST_JOURNAL)
                self._sums.extend(zlib.crc32(line) for line in lines_of(path, offset))
            self._handle = path.open("ab")
            self._handle.truncate(offset)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._handle.seek(0, os.SEEK_END)

    @property
    def sums(self) -> str:
        """A checksum of every line written so far, as text; see `sums_in`."""
        return base64.b64encode(little(self._sums).tobytes()).decode()

    def append(self, record: dict[str, Any]) -> None:
        """Add one record.

        Raises:
            ThalwegError: the file was removed or replaced while it was written to.
        """
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        self.check()
        with explained(self.path):
            self._handle.write(line)
            self._handle.flush()
        self._sums.append(zlib.crc32(line))

    def check(self) -> None:
        """Refuse to go on where the name no longer leads to the file that is written to: nobody would find what is written."""
        mine = os.fstat(self._handle.fileno())
        try:
            now = self.path.stat()
        except OSError:
            now = None
        if now is None or (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino):
            raise ThalwegError(
                f"{self.path} was removed or replaced while it was written to; nothing more is written; run the same command again"
            )

    def sync(self) -> None:
        """Bring everything to the disk."""
        with explained(self.path):
            os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        with explained(self.path):
            self._handle.close()


def little(sums: array.array) -> array.array:
    """Numbers of four bytes, the lowest first on every machine."""
    found = array.array("I", sums)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def sums_in(text: str) -> list[int]:
    """The checksums of a journal's lines, from `Journal.sums`.

    Raises:
        ValueError: it is no such text.
    """
    found = array.array("I")
    found.frombytes(base64.b64decode(text, validate=True))
    return little(found).tolist()


def lines_of(path: Path, size: int) -> Iterator[bytes]:
    """The lines in the first ``size`` bytes of a file, with their ends; one that is longer than any record in pieces."""
    with path.open("rb") as handle:
        while size > 0 and (line := handle.readline(min(size, MOST_BYTES))):
            size -= len(line)
            yield line


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole records of a journal; a torn last line is left out.

    Raises:
        DamagedFileError: a line before the last is not a record, or the file cannot be opened; names file and line.
    """
    records = []
    for number, record in journal_lines(path):
        if record is None:
            advice = "move the file away and run the same command again"
            raise DamagedFileError(f"damaged record {path}, line {number}: expected one JSON object; {advice}")
        records.append(record)
    return records


def journal_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Number and record of every whole line of a journal, None where it is no record.

    Raises:
        DamagedFileError: the file cannot be opened, is no plain file, or too large.
    """
    try:
        refuse_special(path, MOST_JOURNAL)
        with path.open("rb") as handle:
            number = 0
            while line := handle.readline(MOST_BYTES):
                number += 1
                if line.endswith(b"\n"):
                    yield number, record_in(line)
                elif len(line) == MOST_BYTES:
                    yield number, None
    except (OSError, BadInputError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DamagedFileError(f"damaged record {path}: {why}; move it away and run the same command again") from None


def record_in(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None where it is none."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for this process alone; the lock goes with the process, also when it is killed.

    A folder that was made for it and in which nothing else lies at the end is removed again: nothing was done in it. So is, after
    bad input, a lock that was not there before.

    Raises:
        FolderError: another process holds it.
    """
    with explained(folder):
        made, known = _missing_folders(folder), there(folder / ".lock")
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FolderError(
                f"{what} {folder} is in use by another process; wait for it to end, or choose another --out"
            ) from None
    try:
        yield
    except BadInputError as error:
        if error.exit_code == BadInputError.exit_code and not known:
            with contextlib.suppress(OSError):
                (folder / ".lock").unlink()
        raise
    finally:
        if made:
            _remove_empty(folder, made)
        lock.release()


def wait_until_free(folder: Path, seconds: float = 10.0) -> None:
    """Wait for a process that is about to end and still holds a folder.

    Raises:
        FolderError: it is held for longer.
    """
    if not (folder / ".lock").exists():
        return
    lock = FileLock(folder / ".lock")
    with explained(folder):
        try:
            lock.acquire(timeout=seconds, poll_interval=0.1)
        except Timeout:
            raise FolderError(f"{folder} is in use by another process; wait for it to end") from None
        lock.release()


def _missing_folders(folder: Path) -> list[Path]:
    """The folders that have to be made for this one, the innermost first."""
    return [one for one in (folder, *folder.parents) if not one.exists()]


def _remove_empty(folder: Path, made: Iterable[Path]) -> None:
    """Remove a folder in which nothing but its lock lies, and those that were made on the way to it."""
    with contextlib.suppress(OSError):
        if [one.name for one in folder.iterdir()] in ([".lock"], []):
            (folder / ".lock").unlink(missing_ok=True)
            for one in made:
                one.rmdir()
