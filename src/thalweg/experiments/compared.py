"""One experiment as a comparison reads it: the numbers of its runs by arm and seed, and their configs."""

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
"""Heading -> seed -> number of that run; None where the run never reached what is measured, left out where it has none."""
Numbers = dict[str, Cell | Share | None]
"""Heading -> of one run; None where it has none."""
NEVER = Share(None, None, None, 1, 1)
RATIO = "share of"
"""How headings of numbers begin that are compared as ratios."""
SWITCHING = {
    "switch_step": "first switch at (updates)",
    "drop": "largest drop at a switch (points)",
    "jump": "largest jump of the loss at a switch ({unit})",
    "share_seconds": f"{RATIO} Looped's time",
    "share_flops": f"{RATIO} Looped's operations",
    "seconds": "training (s)",
    "teraflops": "counted TFLOP",
}
"""Field of an outcome -> heading."""


@dataclass(frozen=True)
class ComparedArm:
    """One arm: its complete runs by seed, their numbers, and its config but for name and seed, flattened."""

    runs: dict[int, RunRecord]
    values: _Values
    config: dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """One experiment as the comparison needs it."""

    summary: Any
    unit: str
    arms: dict[str, ComparedArm]
    rows: dict[str, tuple[str, str]]
    """Arm that is drawn -> row of the figure, and whose colour it has there."""


def by_seed(seeds: Iterable[int], numbers: Callable[[int], Numbers]) -> _Values:
    """Every number of every run that has it."""
    found: _Values = {}
    for seed in sorted(seeds):
        for heading, one in numbers(seed).items():
            row = found.setdefault(heading, {})
            if isinstance(one, Share):
                row[seed] = one.value
            elif one is not None and one.mean is not None:
                row[seed] = one.mean
    return found


def stored(folders: Sequence[Path]) -> dict[str, Any]:
    """The config of the first of some runs that has one, but for arm and seed; one of another version as it lies there."""
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
    """A config without arm and seed, flattened."""
    return {key: value for key, value in flat(to_dict(config)).items() if key not in ("arm", "seed")}
