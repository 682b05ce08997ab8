"""The files of a landscape: plan, journal, the snapshots that it is measured at, and what is done where they are damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thalweg.data.markov_data import MarkovConfig
from thalweg.data.pointers import PointersConfig
from thalweg.data.task_data import TaskConfig
from thalweg.data.text import TextConfig
from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning, FolderError, shown, warn
from thalweg.records.landscape import KINDS, LandscapePlan, broken_arrays, plan_in, read_landscape
from thalweg.records.run import recorded
from thalweg.serialization import to_dict
from thalweg.storage import atomic_stream, journal_line, journal_lines, lines_of, read_json, set_aside, there, write_json
from thalweg.train.checkpoint import checkpoints
from thalweg.train.config import RunConfig
from thalweg.train.run_folder import config_in


def claim(folder: Path, plan: LandscapePlan, lines: Sequence[dict[str, Any]] = ()) -> bool:
    """Check that the landscape in a folder, if there is one, was begun with this plan.

    A damaged or missing plan.json is restored from the journal, which holds the plan too.

    Args:
        folder: folder of the landscape.
        plan: what is to be measured.
        lines: records of its journal.
    Returns:
        Whether a landscape was begun.
    Raises:
        FolderError: it was begun with another plan.
        DamagedFileError: something was measured, and neither plan.json nor the journal holds its plan.
    """
    path = folder / "plan.json"
    if not there(path) and not lines:
        return False
    if not lines and not _readable_plan(path):  # nothing was measured with it
        set_aside(path)
        return False
    begun = plan_in(folder, lines)
    if begun != plan:
        there_is, given = to_dict(begun), to_dict(plan)
        key = next(key for key in given if there_is.get(key) != given[key])
        difference = f"{key} is {shown(there_is.get(key))} there, given {shown(given[key])}"
        raise FolderError(
            f"landscape {folder}: begun with other options ({difference}); give the same, or move the folder away to measure anew"
        )
    if not _readable_plan(path):
        if there(path):
            set_aside(path)
        write_json(path, to_dict(plan))
    return True


def _readable_plan(path: Path) -> bool:
    """Whether plan.json exists and holds a plan."""
    try:
        recorded(LandscapePlan, read_json(path), path)
    except DamagedFileError:
        return False
    return True


def whole(run: Path) -> bool:
    """Whether the landscape of a run is complete and all of its files are intact.

    If it has a summary but is not intact, the summary is set aside with a warning, so that the missing parts are measured again.
    """
    path = run / "landscape" / "summary.json"
    if not there(path):
        return False
    try:
        landscape = read_landscape(run)
        summary = landscape.summary if landscape else None
        complete = landscape and summary and len(landscape.points) == summary.points and not broken_arrays(landscape)
        damage = "" if complete else "not all that it counts is there"
    except DamagedFileError as error:
        damage = str(error).partition(";")[0]
    if damage:
        warn(f"landscape {path.parent}: {damage}; what is missing is measured again", DamagedRecordWarning)
        set_aside(path)
    return not damage


def repaired_journal(path: Path) -> list[dict[str, Any]]:
    """The intact records of a landscape's journal; a damaged journal is set aside and replaced by one with those records."""
    records, damage = intact(path)
    if damage:
        aside = set_aside(path)
        atomic_stream(path, map(journal_line, records))
        warn(
            f"damaged record {path}: {damage}; {len(records)} records are kept, the rest is measured again; "
            f"what was there is kept as {aside.name}",
            DamagedRecordWarning,
        )
    return records


def intact(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The intact records of a landscape's journal, and a phrase that says what is damaged, empty if nothing is.

    A damaged line may have been a record of the part whose "cost" line comes next. That line is left out, so that the part counts
    as not done and is measured again.
    """
    if not there(path):
        return [], ""
    kept: list[dict[str, Any]] = []
    bad, doubtful = 0, False
    try:
        for _, record in journal_lines(path):
            if record is None or not _is_record(record, path):
                bad, doubtful = bad + 1, True
            elif doubtful and record["type"] == "cost":
                doubtful = False
            else:
                kept.append(record)
    except DamagedFileError as error:
        return kept, str(error).partition(";")[0]
    return kept, f"{bad} of its lines are damaged" if bad else ""


def _is_record(line: dict[str, Any], path: Path) -> bool:
    """Whether a line of a journal is a plan, a cost, or a record that can be read."""
    kind = line.get("type")
    if kind == "cost":
        return isinstance(line.get("part"), str) and isinstance(line.get("step"), int) and isinstance(line.get("seconds"), float)
    try:
        if kind == "plan":
            recorded(LandscapePlan, line.get("plan"), path)
        else:
            recorded(KINDS[str(kind)][1], {key: value for key, value in line.items() if key != "type"}, path)
    except (DamagedFileError, KeyError):
        return False
    return True


def whole_bytes(path: Path) -> int:
    """Number of bytes of a journal up to the end of its last complete line."""
    if not there(path):
        return 0
    return sum(len(line) for line in lines_of(path, path.stat().st_size) if line.endswith(b"\n"))


def states(run: Path) -> list[Path]:
    """The snapshots of a run, or its checkpoints if it has no snapshots, oldest first."""
    return checkpoints(run / "snapshots") or checkpoints(run / "checkpoints")


def plan_of(run: Path, config: RunConfig | None = None) -> LandscapePlan:
    """The plan of a landscape that was begun; else the default plan, with no more sequences than the run scores.

    Args:
        run: folder of the run.
        config: its config; None reads it from the folder if it is needed.
    """
    folder = run / "landscape"
    lines, _ = intact(folder / "journal.jsonl")
    if lines or _readable_plan(folder / "plan.json"):
        return plan_in(folder, lines)
    data = (config or config_of(run)).data
    scored = LandscapePlan.sequences
    if isinstance(data, TextConfig | MarkovConfig):
        scored = data.windows if isinstance(data, TextConfig) else data.scored or data.sequences
    return LandscapePlan(sequences=min(LandscapePlan.sequences, max(scored, 2)))


def config_of(run: Path) -> RunConfig:
    """Read the config of a run whose landscape can be measured.

    Raises:
        FolderError: the folder holds no run.
        BadInputError: the run learns an algorithmic task.
    """
    config = config_in(run)
    refuse_tasks(config)
    return config


def refuse_tasks(config: RunConfig) -> None:
    """Refuse a run on an algorithmic task: its samples differ in their number of loops, so that there is no single loss."""
    if isinstance(config.data, TaskConfig | PointersConfig):
        raise BadInputError(
            "landscape: given a run on a task, expected one on the Markov language or on text, whose loss is that of every next "
            "token; measure a loss of your own with thalweg.LandscapeProbe, see docs/tasks.md"
        )


def identity(line: dict[str, Any]) -> tuple[Any, ...]:
    """Key by which two lines of a landscape's journal count as the same record."""
    return line["type"], line.get("step"), line.get("multiple"), line.get("name"), line.get("part")
