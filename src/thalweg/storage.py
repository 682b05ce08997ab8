"""Writing so that nothing is lost: temporary name, sync, rename; one line a record; one writer a folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from thalweg.errors import BadInputError, DamagedFileError, DiskFullError, FolderError, ThalwegError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating-system error on ``path`` into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(
                f"no space left to write {path} ({error.strerror}); what was there before is untouched; "
                "free some space and run the same command again"
            ) from None
        if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | FileExistsError | IsADirectoryError):
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
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
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


def read_json(path: Path) -> Any:
    """Read a JSON file that thalweg wrote.

    Raises:
        DamagedFileError: it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"damaged record {path}: {error}; remove it and run the same command again") from None


class Journal:
    """A file of one JSON record a line, appended and flushed at once.

    A kill can tear the last line only; `read_journal` drops it. ``offset`` goes into the checkpoint, and a resumed run cuts
    the file back to it, so that no record comes twice.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        with explained(path):
            self._handle = path.open("ab")
            self._handle.truncate(offset)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._handle.seek(0, os.SEEK_END)

    def append(self, record: dict[str, Any]) -> None:
        """Add one record."""
        with explained(self.path):
            self._handle.write((json.dumps(record, allow_nan=False) + "\n").encode())
            self._handle.flush()

    def sync(self) -> None:
        """Bring everything to the disk."""
        with explained(self.path):
            os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        with explained(self.path):
            self._handle.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole records of a journal; a torn last line is left out.

    Raises:
        DamagedFileError: a line before the last is not a record; names file and line.
    """
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise DamagedFileError(
                f"damaged record {path}, line {number}: expected one JSON object; remove the run's folder and run again"
            )
        records.append(record)
    return records


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for this process alone; the lock goes with the process, also when it is killed.

    Raises:
        FolderError: another process holds it.
    """
    with explained(folder):
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
    finally:
        lock.release()
