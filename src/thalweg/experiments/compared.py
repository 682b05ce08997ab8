"""What `thalweg compare` reads of one experiment: the numbers of its runs by arm and seed, and their configs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.errors import BadInputError, DamagedFileError
from thalweg.records.experiment import Share
from thalweg.records.run import Cell, RunRecord
from thalweg.report.compare.page import flat
from thalweg.serialization import to_dict
from thalweg.train.config import RunConfig, read_toml
from thalweg.train.run_folder import config_in

_Values = dict[str, dict[int, float | None]]
"""Heading -> seed -> number. None where the run never reached what is measured; no entry where it has no such number."""
Numbers = dict[str, Cell | Share | None]
"""Heading -> number of one run; None where it has no such number."""
NEVER = Share(None, None, None, 1, 1)
"""The number of a run that never reached what is measured."""
RATIO = "share of"
"""First words of the headings whose numbers are compared as ratios."""
SWITCHING = {
    "switch_step": "first switch at (updates)",
    "drop": "largest drop at a switch (points)",
    "jump": "largest jump of the loss at a switch ({unit})",
    "share_seconds": f"{RATIO} Looped's time",
    "share_flops": f"{RATIO} Looped's operations",
    "seconds": "training (s)",
    "teraflops": "counted TFLOP",
}
"""Field of an outcome -> heading, for the numbers that sweeps and studies of tasks have in common."""


@dataclass(frozen=True)
class ComparedArm:
    """One arm of an experiment."""

    runs: dict[int, RunRecord]
    """Seed -> complete run."""
    values: _Values
    config: dict[str, Any]
    """Flattened config of its runs, without arm and seed; empty where no run was begun."""


@dataclass(frozen=True)
class Compared:
    """One experiment, as the comparison needs it."""

    summary: Any
    """Its summary record."""
    unit: str
    """Unit of the losses that are drawn."""
    arms: dict[str, ComparedArm]
    rows: dict[str, tuple[str, str]]
    """Arm that is drawn -> row of the figure, and the arm whose colour it has there."""


def by_seed(seeds: Iterable[int], numbers: Callable[[int], Numbers]) -> _Values:
    """Collect the numbers of single runs into a table by heading and seed.

    Args:
        seeds: of the complete runs.
        numbers: seed -> numbers of that run, as `Numbers`.
    Returns:
        Heading -> seed -> value of a `Share`, or mean of a `Cell`. A `Share` without value gives None.
    """
    values: _Values = {}
    for seed in sorted(seeds):
        for heading, number in numbers(seed).items():
            row = values.setdefault(heading, {})
            if isinstance(number, Share):
                row[seed] = number.value
            elif number is not None and number.mean is not None:
                row[seed] = number.mean
    return values


def stored(folders: Sequence[Path]) -> dict[str, Any]:
    """The flattened config of the first run folder that has one, without arm and seed; empty where none has.

    A config that this version of thalweg cannot read as its own is returned with the keys that it has.

    Raises:
        DamagedFileError: the file is no TOML.
    """
    path = next((folder / "config.toml" for folder in folders if (folder / "config.toml").exists()), None)
    if path is None:
        return {}
    try:
        return _nameless(config_in(path.parent))
    except BadInputError:
        try:
            return _nameless(read_toml(path))
        except BadInputError as error:
            raise DamagedFileError(f"damaged record {path}: {error}") from None


def _nameless(config: RunConfig | dict[str, Any]) -> dict[str, Any]:
    """A flattened config without arm and seed."""
    return {key: value for key, value in flat(to_dict(config)).items() if key not in ("arm", "seed")}
