"""Reading and writing of files such that nothing is lost when a process is killed or the disk is full.

A file is written under a temporary name, synced and renamed, so that it is there whole or not at all. A journal holds one JSON
record a line, flushed at once. A lock makes sure that only one process writes to a folder.
"""

from __future__ import annotations

import array
import base64
import contextlib
import errno
import json
import os
import re
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
"""Largest size in bytes of a file with one record, and of a line of a journal."""
MOST_JOURNAL = 2 << 30
"""Largest size of a journal in bytes."""
DEEPEST = 64
"""Deepest nesting of lists and objects in a file that is read."""


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn operating-system errors in the ``with`` block into errors of thalweg with a message of one line.

    Args:
        path: the file or folder that the block works on, for the message.
    Raises:
        DiskFullError: no space is left.
        BadInputError: the path cannot be used.
        ThalwegError: any other error of the operating system.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"no space left to write {path} ({error.strerror}); what was there before is untouched; "
                "free some space and run the same command again"
            ) from None
        bad_path = FileNotFoundError | PermissionError | NotADirectoryError | FileExistsError | IsADirectoryError
        if isinstance(error, bad_path) or error.errno in _BAD_PATH:
            raise BadInputError(f"cannot use {path}: {error.strerror}; choose another path or fix its rights") from None
        raise ThalwegError(f"cannot write {path}: {error.strerror}") from None


def atomic_stream(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file atomically: it is there whole or not at all, even if the power fails.

    Args:
        path: the file; its folder is created if it does not exist.
        chunks: its bytes.
    Raises:
        DiskFullError, BadInputError, ThalwegError: see `explained`.
    """
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
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what `atomic_stream` left in a folder where its process was killed; only for the one that holds the folder's lock."""
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure; not every platform can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically; surrogates, from file names in another encoding, are written as escapes."""
    atomic_stream(path, [text.encode(errors="backslashreplace")])


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically; ValueError for numbers that are not finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read all bytes of a regular file.

    Args:
        path: the file.
        most: largest size in bytes.
    Raises:
        OSError: the file does not exist or cannot be opened.
        BadInputError: it is a folder, a pipe or a device, which may never end, or larger than ``most``.
    """
    refuse_special(path, most)
    return path.read_bytes()


def refuse_special(path: Path, most: int = MOST_BYTES) -> None:
    """Raise `BadInputError` if a path is not a regular file or larger than ``most`` bytes, without opening it."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadInputError(f"{path} is a {file_type(status.st_mode)}, expected a file; choose another path or move it away")
    if status.st_size > most:
        raise BadInputError(f"{path} has {status.st_size:,} bytes, expected at most {most:,}; choose another path or move it away")


def file_type(mode: int) -> str:
    """The name of the type of what is not a regular file: "folder", "named pipe", "socket" or "device".

    Args:
        mode: ``st_mode`` of its status.
    """
    types = {"folder": stat.S_ISDIR, "named pipe": stat.S_ISFIFO, "socket": stat.S_ISSOCK}
    return next((name for name, matches in types.items() if matches(mode)), "device")


def too_deep(value: Any, deepest: int = DEEPEST) -> bool:
    """Whether lists and dicts are nested more than ``deepest`` levels deep; computed level by level, without recursion.

    Example:
        >>> too_deep([[1], {"a": [2]}], deepest=2), too_deep([[1], {"a": [2]}], deepest=3)
        (True, False)
    """
    level = [value]
    for _ in range(deepest):
        members = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        level = [item for items in members for item in items if isinstance(item, dict | list)]
    return bool(level)


def _not_a_number(word: str) -> NoReturn:
    """Refuse NaN and infinity, which Python's `json` accepts although JSON does not have them."""
    raise ValueError(f"{word} is no number that a record holds")


_DECODER = json.JSONDecoder(parse_constant=_not_a_number)


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text that thalweg wrote.

    Raises:
        ValueError: it is not JSON, holds NaN or infinity, or is nested too deeply.
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
        DamagedFileError: it is not JSON, too large, nested too deeply, not a regular file, or cannot be opened.
    """
    try:
        return parse_json(read_bytes(path))
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DamagedFileError(f"damaged record {path}: {reason}; remove it and run the same command again") from None


def there(path: Path) -> bool:
    """Whether a path exists; a dead link exists too, other than for `Path.exists`."""
    return os.path.lexists(path)


def make_way(path: Path) -> None:
    """Set a folder aside that is in the place of a file to be written; a file needs no room, as writing replaces it."""
    if path.is_dir() and not path.is_symlink():
        set_aside(path)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to the first free ``NAME.damaged``, so that nothing is lost; returns the new path."""
    number, target = 1, path.with_name(f"{path.name}.damaged")
    while there(target):
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    with explained(path):
        path.rename(target)
    return target


def journal_line(record: dict[str, Any]) -> bytes:
    """A record as a line of a journal."""
    return (json.dumps(record, allow_nan=False) + "\n").encode()


class Journal:
    """A file with one JSON record a line, to which records are appended and flushed at once.

    If the process is killed, at most the last line is incomplete; `read_journal` drops it. A checkpoint stores ``offset`` and
    ``sums``. A resumed run cuts the file back to the offset, so that no record comes twice, and finds changed lines by their
    checksums.

    Args:
        path: the file; created if it does not exist.
        offset: number of bytes to keep.
    Raises:
        DiskFullError, BadInputError, ThalwegError: see `explained`.
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
        """Size of the journal in bytes."""
        return self._handle.seek(0, os.SEEK_END)

    @property
    def sums(self) -> str:
        """The CRC-32 checksum of every line, encoded as text; `sums_in` decodes it."""
        return base64.b64encode(_little_endian(self._sums).tobytes()).decode()

    def append(self, record: dict[str, Any]) -> None:
        """Append one record and flush it.

        Raises:
            ThalwegError: the file was removed or replaced since it was opened.
        """
        line = journal_line(record)
        self.check()
        with explained(self.path):
            self._handle.write(line)
            self._handle.flush()
        self._sums.append(zlib.crc32(line))

    def check(self) -> None:
        """Raise `ThalwegError` if the path no longer leads to the open file, as records written to it could not be found."""
        opened = os.fstat(self._handle.fileno())
        try:
            current = self.path.stat()
        except OSError:
            current = None
        if current is None or (current.st_dev, current.st_ino) != (opened.st_dev, opened.st_ino):
            raise ThalwegError(
                f"{self.path} was removed or replaced while it was written to; nothing more is written; run the same command again"
            )

    def sync(self) -> None:
        """Sync the file to the disk."""
        with explained(self.path):
            os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file; closing it twice has no effect."""
        with explained(self.path):
            self._handle.close()


def _little_endian(sums: array.array) -> array.array:
    """A copy of an array with its bytes in little-endian order on every machine."""
    swapped = array.array("I", sums)
    if sys.byteorder == "big":
        swapped.byteswap()
    return swapped


def sums_in(text: str) -> list[int]:
    """Decode the checksums of a journal's lines from the text of `Journal.sums`.

    Raises:
        ValueError: the text is not such an encoding.
    """
    sums = array.array("I")
    sums.frombytes(base64.b64decode(text, validate=True))
    return _little_endian(sums).tolist()


def lines_of(path: Path, size: int) -> Iterator[bytes]:
    """The lines in the first ``size`` bytes of a file, with their line ends; a line longer than any record comes in pieces."""
    with path.open("rb") as handle:
        while size > 0 and (line := handle.readline(min(size, MOST_BYTES))):
            size -= len(line)
            yield line


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read all complete records of a journal; an incomplete last line is left out.

    Raises:
        DamagedFileError: a line is not a record, or the file cannot be opened; the message names file and line.
    """
    records = []
    for number, record in journal_lines(path):
        if record is None:
            advice = "move the file away and run the same command again"
            raise DamagedFileError(f"damaged record {path}, line {number}: expected one JSON object; {advice}")
        records.append(record)
    return records


def journal_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield number and record of every complete line of a journal; None in place of a record that cannot be parsed.

    Raises:
        DamagedFileError: the file cannot be opened, is not a regular file, or too large.
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
        reason = error.strerror if isinstance(error, OSError) else error
        raise DamagedFileError(f"damaged record {path}: {reason}; move it away and run the same command again") from None


def record_in(line: bytes) -> dict[str, Any] | None:
    """Parse a line of a journal; None if it is not a JSON object."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Lock a folder for this process during the ``with`` block; the lock ends with the process, even if it is killed.

    If the folder was created for the lock and is empty at the end, it is removed again. A new lock file is removed after bad input.

    Args:
        folder: the folder; created if it does not exist.
        what: what the folder is, such as "run", for messages.
    Raises:
        FolderError: another process holds the lock.
    """
    with explained(folder):
        created, had_lock = _missing_folders(folder), there(folder / ".lock")
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
        if error.exit_code == BadInputError.exit_code and not had_lock:
            with contextlib.suppress(OSError):
                (folder / ".lock").unlink()
        raise
    finally:
        if created:
            _remove_empty(folder, created)
        lock.release()


def wait_until_free(folder: Path, seconds: float) -> None:
    """Wait until no process holds the lock of a folder.

    Args:
        folder: the folder.
        seconds: longest time to wait.
    Raises:
        FolderError: the lock is held for longer.
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
    """Those of a folder and its parents that do not exist, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folder: Path, created: Iterable[Path]) -> None:
    """Remove a folder that holds nothing but its lock, and the parents that were created with it."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] in ([".lock"], []):
            (folder / ".lock").unlink(missing_ok=True)
            for path in created:
                path.rmdir()
