"""The record of a failed run: why it failed, kept in its folder until it is resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from thalweg.errors import BadInputError, DamagedFileError
from thalweg.records.run import FailureRecord, recorded
from thalweg.serialization import to_dict
from thalweg.storage import read_json, there, write_json

_NAME = "failure.json"


@contextlib.contextmanager
def recording_failure(folder: Path) -> Iterator[None]:
    """Record an error that ends the ``with`` block in the folder.

    Interruptions are not recorded, and neither is bad input that changed nothing (`BadInputError` with exit code 2).
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, BadInputError) or error.exit_code != BadInputError.exit_code:
            record_failure(folder, type(error).__name__, " ".join(str(error).split()))
        raise


def forget_failure(folder: Path) -> None:
    """Remove the record of an earlier failure, as the run goes on."""
    with contextlib.suppress(OSError):
        (folder / _NAME).unlink()


def record_failure(folder: Path, error: str, message: str) -> None:
    """Write why a run failed, if its folder still exists.

    Args:
        folder: folder of the run.
        error: name of the exception's class.
        message: its message, in one line.
    """
    if folder.is_dir():
        with contextlib.suppress(OSError, BadInputError):
            write_json(folder / _NAME, to_dict(FailureRecord(error, message)))


def failure_of(folder: Path) -> FailureRecord | None:
    """The record of the failure in a folder; None if there is none."""
    path = folder / _NAME
    try:
        return recorded(FailureRecord, read_json(path), path) if there(path) else None
    except DamagedFileError:
        return FailureRecord("damaged", f"{path} cannot be read")
