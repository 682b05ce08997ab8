"""Which run a folder belongs to, even if its config.toml is damaged or missing.

Every checkpoint and snapshot stores the config of its run. A config.toml that cannot be read, or that contradicts the checkpoints,
is restored from them.
"""

from __future__ import annotations

from pathlib import Path

from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning, FolderError, shown, warn
from thalweg.serialization import fingerprint, from_dict, to_dict
from thalweg.storage import set_aside, there
from thalweg.train.checkpoint import candidates, checkpoints, read_facts
from thalweg.train.config import RunConfig, read_config, write_config
from thalweg.train.group import flat

NAME = "config.toml"


def claim(config: RunConfig, folder: Path, ours: bool = False) -> bool:
    """Check that a folder is free for a run or belongs to it already, and repair its config.toml.

    Args:
        config: config of the run.
        folder: an existing folder.
        ours: whether thalweg is known to have created the folder; a damaged config.toml without checkpoints is then replaced.
    Returns:
        True if the folder is free, so that the run is new.
    Raises:
        FolderError: it holds another run, or something else.
    """
    path = folder / NAME
    if there(path):
        return _claim_known(config, folder, ours)
    others = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    if others and _made_with(folder, config):
        _restore_config(config, path, "it is missing")
        return False
    if others and not ours:
        raise FolderError(f"run {folder}: the folder holds {others[0]!r} and is no run; choose an empty or new --out")
    return True


def _claim_known(config: RunConfig, folder: Path, ours: bool) -> bool:
    """`claim` for a folder with a config.toml; never a free one."""
    path, damage, difference = folder / NAME, "it is that of another run", ""
    try:
        known = read_config(path)
        if known == config:
            return False
        difference = _difference(known, config)
    except BadInputError as error:
        damage = str(error)
    else:
        ours = False
    if _made_with(folder, config):
        _restore_config(config, path, damage)
        return False
    if ours and not candidates(folder / "checkpoints") and not there(folder / "summary.json"):
        _restore_config(config, path, damage)
        return False
    if damage.startswith("config "):
        raise FolderError(f"run {folder}: {damage}, and no checkpoint tells whose folder it is; choose another --out")
    raise FolderError(f"run {folder}: the folder belongs to a run with another config ({difference}); choose another --out")


def _difference(known: RunConfig, given: RunConfig) -> str:
    """The first key whose value differs between two configs, with both values, and how many more there are."""
    old, new = flat(to_dict(known)), flat(to_dict(given))
    missing = "not there"
    keys = [key for key in {**old, **new} if old.get(key, missing) != new.get(key, missing)]
    more = f", and {len(keys) - 1} more" if len(keys) > 1 else ""
    more += "; the schedule depends on it, so that a run is not extended" if keys[0] == "training.steps" else ""
    return f"{keys[0]} is {shown(old.get(keys[0], missing))} there, given {shown(new.get(keys[0], missing))}{more}"


def _restore_config(config: RunConfig, path: Path, damage: str) -> None:
    """Write config.toml again with a warning; a damaged file is set aside."""
    kept = f", what was there is kept as {set_aside(path).name}" if there(path) else ""
    write_config(path, config)
    warn(f"damaged record {path} ({damage}); it was written anew{kept}", DamagedRecordWarning)


def config_in(folder: Path) -> RunConfig:
    """Read the config of a run from its folder; if config.toml and the checkpoints differ, the checkpoints count.

    Raises:
        FolderError: the folder holds no run.
        BadInputError: config.toml cannot be read and no checkpoint holds the config.
    Warns:
        DamagedRecordWarning: the config is taken from a checkpoint.
    """
    path, stored = folder / NAME, stored_config(folder)
    if not there(path) and stored is None:
        raise FolderError(f"run {folder}: there is no {NAME} in it; expected the --out folder of `thalweg train`")
    try:
        config = read_config(path)
    except BadInputError as error:
        if stored is None:
            raise
        warn(f"{error}; the config is taken from the checkpoints", DamagedRecordWarning)
        return stored
    if stored is not None and stored != config:
        message = f"damaged record {path}: not the config of the checkpoints; the config is taken from them"
        warn(message, DamagedRecordWarning)
        return stored
    return config


def _made_with(folder: Path, config: RunConfig) -> bool:
    """Whether the newest readable checkpoint or snapshot in a folder was made with this config."""
    facts = _newest_facts(folder)
    if facts is None:
        return False
    stored = config_of_facts(facts)
    return stored == config if stored else facts.get("config_hash") == fingerprint(config)


def stored_config(folder: Path) -> RunConfig | None:
    """The config stored in the newest readable checkpoint or snapshot of a folder; None if there is none."""
    facts = _newest_facts(folder)
    return None if facts is None else config_of_facts(facts)


def _newest_facts(folder: Path) -> dict | None:
    """The facts of the newest readable checkpoint or snapshot; None if there is none."""
    for path in [*candidates(folder / "checkpoints"), *checkpoints(folder / "snapshots")[:1]]:
        try:
            return read_facts(path)
        except DamagedFileError:
            continue
    return None


def config_of_facts(facts: dict) -> RunConfig | None:
    """The config in the facts of a checkpoint; None if another version wrote it without a config or with other keys."""
    try:
        return from_dict(RunConfig, facts["config"])
    except (KeyError, BadInputError):
        return None
