"""Whose folder it is: the config of a run as its folder tells it, even where config.toml is damaged or gone.

Every checkpoint and snapshot holds the config that it was made with. A config.toml that cannot be read, or that is not the one of
the states beside it, is put right from them.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning, FolderError
from thalweg.serialization import fingerprint, from_dict
from thalweg.storage import set_aside, there
from thalweg.train.checkpoint import candidates, checkpoints, read_facts
from thalweg.train.config import RunConfig, read_config, write_config

NAME = "config.toml"


def claim(config: RunConfig, folder: Path, ours: bool = False) -> bool:
    """Whether the folder is new to this run; otherwise it must be this run's.

    Args:
        config: of the run.
        folder: of the run, or of what may become it; it is there.
        ours: the folder is known to be made by thalweg, so that a damaged config.toml without any state beside it is replaced.
    Raises:
        FolderError: it holds another run, or something else.
    """
    path = folder / NAME
    if there(path):
        return _claim_known(config, folder, ours)
    others = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    if others and _made_with(folder, config):
        mend(config, path, "it is missing")
        return False
    if others and not ours:
        raise FolderError(f"run {folder}: the folder holds {others[0]!r} and is no run; choose an empty or new --out")
    return True


def _claim_known(config: RunConfig, folder: Path, ours: bool) -> bool:
    """The same where there is a config.toml."""
    path, why = folder / NAME, "it is that of another run"
    try:
        if read_config(path) == config:
            return False
    except BadInputError as error:
        why = str(error)
    else:
        ours = False
    if _made_with(folder, config):
        mend(config, path, why)
        return False
    if ours and not candidates(folder / "checkpoints") and not there(folder / "summary.json"):
        mend(config, path, why)
        return False
    if why.startswith("config "):
        raise FolderError(f"run {folder}: {why}, and no checkpoint tells whose folder it is; choose another --out")
    raise FolderError(f"run {folder}: the folder belongs to a run with another config; choose another --out")


def mend(config: RunConfig, path: Path, why: str) -> None:
    """Write the config anew; what stood there is kept beside it."""
    kept = f", what was there is kept as {set_aside(path).name}" if there(path) else ""
    write_config(path, config)
    warnings.warn(f"damaged record {path} ({why}); it was written anew{kept}", DamagedRecordWarning, stacklevel=2)


def config_in(folder: Path) -> RunConfig:
    """The config of a run that is there.

    Raises:
        FolderError: the folder is no run's.
        BadInputError: config.toml cannot be read and no state tells what stood in it.
    """
    path, stored = folder / NAME, stored_config(folder)
    if not there(path) and stored is None:
        raise FolderError(f"run {folder}: there is no {NAME} in it; expected the --out folder of `thalweg train`")
    try:
        found = read_config(path)
    except BadInputError as error:
        if stored is None:
            raise
        warnings.warn(f"{error}; the config is taken from the checkpoints", DamagedRecordWarning, stacklevel=2)
        return stored
    if stored not in (None, found):
        words = f"damaged record {path}: not what the checkpoints were made with; the config is taken from them"
        warnings.warn(words, DamagedRecordWarning, stacklevel=2)
        return stored
    return found


def _made_with(folder: Path, config: RunConfig) -> bool:
    """Whether the newest state in a folder that can be read is one of this config."""
    facts = _newest_facts(folder)
    if facts is None:
        return False
    stored = config_of_facts(facts)
    return stored == config if stored else facts.get("config_hash") == fingerprint(config)


def stored_config(folder: Path) -> RunConfig | None:
    """The config that the newest state in a folder was made with; None where none can be read, or tells it."""
    facts = _newest_facts(folder)
    return None if facts is None else config_of_facts(facts)


def _newest_facts(folder: Path) -> dict | None:
    """What the newest state that can be read holds beside tensors."""
    for path in [*candidates(folder / "checkpoints"), *checkpoints(folder / "snapshots")[:1]]:
        try:
            return read_facts(path)
        except DamagedFileError:
            continue
    return None


def config_of_facts(facts: dict) -> RunConfig | None:
    """The config in a checkpoint; None in one of another version that has none, or other keys."""
    try:
        return from_dict(RunConfig, facts["config"])
    except (KeyError, BadInputError):
        return None
