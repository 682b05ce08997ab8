"""Whether a run failed, and why: a record that lies in its folder from its failure until it goes on."""

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
    """Write down an error that ends what is done inside, and forget an earlier one when this goes on.

    An interruption is no failure. Bad input that leaves nothing behind (`BadInputError` with exit code 2) is none either.
    """
    with contextlib.suppress(OSError):
        (folder / _NAME).unlink()
    try:
        yield
    except Exception as error:
        if not isinstance(error, BadInputError) or error.exit_code != BadInputError.exit_code:
            record_failure(folder, type(error).__name__, " ".join(str(error).split()))
        raise


def record_failure(folder: Path, error: str, message: str) -> None:
    """Write why a run failed, where its folder is still there."""
    if folder.is_dir():
        with contextlib.suppress(OSError, BadInputError):
            write_json(folder / _NAME, to_dict(FailureRecord(error, message)))


def failure_of(folder: Path) -> FailureRecord | None:
    """Why what lies in a folder failed; None where it did not, or goes on."""
    path = folder / _NAME
    try:
        return recorded(FailureRecord, read_json(path), path) if there(path) else None
    except DamagedFileError:
        return FailureRecord("damaged", f"{path} cannot be read")
