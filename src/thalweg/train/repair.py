"""Repair and check of a run's records: metrics.jsonl, summary.json and lengths.json, against its checkpoints.

A checkpoint stores a checksum of every line that metrics.jsonl had at that moment. When a run resumes and its journal is damaged,
short or missing, `reopen` keeps the intact lines, writes lost changes of stage again from the checkpoint, and says what is lost.
The functions ``refuse_changed...`` compare the records of a complete run with its last checkpoint.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.data.task_data import TaskConfig
from thalweg.errors import DamagedFileError, shown
from thalweg.records.run import RunRecord, RunSummary, read_lengths, read_run, recorded
from thalweg.serialization import to_dict
from thalweg.storage import (
    MOST_BYTES,
    MOST_JOURNAL,
    Journal,
    atomic_stream,
    journal_lines,
    lines_of,
    read_json,
    record_in,
    refuse_special,
    set_aside,
    sums_in,
    there,
)
from thalweg.train.checkpoint import candidates, read_facts
from thalweg.train.config import RunConfig


@dataclass(frozen=True)
class IntactLines:
    """The intact part of a journal."""

    lines: tuple[bytes, ...]
    records: tuple[dict[str, Any], ...]
    """The record of each line."""
    expected: int | None
    """Number of lines that the checkpoint knows of; None if it does not know."""
    damage: str
    """What is wrong with the journal, as a phrase; empty if nothing is."""

    def steps(self, kind: str) -> list[int]:
        """The steps of all records of a type, such as "evaluation"."""
        return [record["step"] for record in self.records if record.get("type") == kind and isinstance(record.get("step"), int)]


def intact_lines(path: Path, facts: dict[str, Any]) -> IntactLines:
    """Find the lines of a journal that are as they were written, in their order.

    Args:
        path: the journal.
        facts: of the checkpoint, with the size of the journal and the checksums of its lines.
    """
    sums = _line_checksums(facts)
    if not there(path):
        return IntactLines((), (), len(sums or ()) or None, "it is missing" if facts["journal"] else "")
    try:
        refuse_special(path, MOST_JOURNAL)
        size = path.stat().st_size
        lines = list(lines_of(path, min(size, facts["journal"])))
        if _as_written(lines, facts):
            return IntactLines(tuple(lines), tuple(record_in(line) or {} for line in lines), None, "")
        # Damaged: read further, as inserted bytes may have moved intact lines beyond the size that the checkpoint knows.
        lines = list(lines_of(path, min(size, 2 * facts["journal"] + MOST_BYTES)))
    except (OSError, DamagedFileError, ValueError) as error:
        return IntactLines((), (), None, error.strerror or "" if isinstance(error, OSError) else str(error))
    records = [record_in(line) for line in lines]
    good = [index for index, record in enumerate(records) if record is not None and lines[index].endswith(b"\n")]
    if sums is None:  # without checksums every record counts that is not from after the checkpoint
        good = [index for index in good if not (records[index] or {}).get("step", 0) > facts["step"]]
    else:
        good = _in_written_order([zlib.crc32(line) for line in lines], sums, good)
    short = f"it has {size:,} bytes, {facts['journal']:,} were written"
    damage = short if size < facts["journal"] else "lines of it are not as they were written"
    good_records = tuple(records[index] or {} for index in good)
    return IntactLines(tuple(lines[index] for index in good), good_records, None if sums is None else len(sums), damage)


def _line_checksums(facts: dict[str, Any]) -> list[int] | None:
    """The checksums of the journal's lines that a checkpoint stores; None for one of an earlier version."""
    try:
        return sums_in(facts["journal_sums"])
    except (KeyError, ValueError, TypeError):
        return None


def _as_written(lines: list[bytes], facts: dict[str, Any]) -> bool:
    """Whether these are exactly the lines that the journal had at the checkpoint."""
    if sum(map(len, lines)) != facts["journal"] or (lines and not lines[-1].endswith(b"\n")):
        return False
    sums = _line_checksums(facts)
    return all(map(record_in, lines)) if sums is None else [zlib.crc32(line) for line in lines] == sums


def _in_written_order(sums: list[int], written: list[int], candidates: list[int]) -> list[int]:
    """The candidate lines whose checksums were written, each after the one before it.

    Args:
        sums: checksum of every line.
        written: checksums of the lines that were written, in their order.
        candidates: indices of the lines that hold a record, ascending.
    """
    places: dict[int, list[int]] = {}
    for index, checksum in enumerate(written):
        places.setdefault(checksum, []).append(index)
    good, last = [], -1
    for line in candidates:
        place = next((index for index in places.get(sums[line], ()) if index > last), None)
        if place is not None:
            good.append(line)
            last = place
    return good


def reopen(path: Path, facts: dict[str, Any]) -> tuple[Journal, str]:
    """Open a run's journal as it was at a checkpoint, as far as it is intact; a damaged file is set aside.

    Args:
        path: the journal.
        facts: facts of the checkpoint.
    Returns:
        The journal, and a sentence that says what was lost, empty if nothing was.
    """
    intact = intact_lines(path, facts)
    if not intact.damage:
        return Journal(path, facts["journal"]), ""
    lines = _with_changes_of_stage(intact, facts)
    aside = f"; what was there is kept as {set_aside(path).name}" if there(path) else ""
    atomic_stream(path, lines)
    evaluations = int(facts["clock"].get("evaluations", 0))
    lost = max(0, evaluations - len(intact.steps("evaluation")))
    of = "" if intact.expected is None else f" of {intact.expected}"
    message = (
        f"damaged record {path} ({intact.damage}): {len(intact.lines)}{of} records are intact, "
        f"{lost} of {evaluations} evaluations are lost{aside}; the run goes on after update {facts['step']}"
    )
    return Journal(path, sum(map(len, lines))), message


def _with_changes_of_stage(intact: IntactLines, facts: dict[str, Any]) -> list[bytes]:
    """The intact lines, completed by lost lines of switches and retreats, which the checkpoint stores.

    Lost retreats come first. Their lost lines would have withdrawn the scores of the failed tries, so that evaluations and
    switches between a lost retreat and the update that it returned to are left out.
    """
    retreats = [retreat for retreat in facts.get("retreats", []) if {"type": "retreat"} | retreat not in intact.records]
    failed_tries = [(retreat["back_to"], retreat["step"]) for retreat in retreats]
    pairs = [
        (line, record)
        for line, record in zip(intact.lines, intact.records, strict=True)
        if record.get("type") not in ("evaluation", "switch")
        or not any(first <= record.get("step", -1) <= last for first, last in failed_tries)
    ]
    records = [record for _, record in pairs]
    # Insert each lost switch behind the last record that is not from after it.
    for switch in [switch for switch in facts["switches"] if {"type": "switch"} | switch not in records]:
        place = max((index + 1 for index, record in enumerate(records) if record.get("step", -1) <= switch["step"]), default=0)
        pairs.insert(place, (_to_line({"type": "switch"} | switch), switch))
        records.insert(place, switch)
    return [*(_to_line({"type": "retreat"} | retreat) for retreat in retreats), *(line for line, _ in pairs)]


def _to_line(record: dict[str, Any]) -> bytes:
    """A record as the line that `Journal.append` writes."""
    return (json.dumps(record, allow_nan=False) + "\n").encode()


def _last_facts(folder: Path) -> dict[str, Any] | None:
    """The facts of a run's newest readable checkpoint or snapshot; None if there is none or it is of an earlier version."""
    for path in candidates(folder / "checkpoints"):
        try:
            facts = read_facts(path)
        except DamagedFileError:
            continue
        return facts if _line_checksums(facts) is not None and isinstance(facts.get("clock"), dict) else None
    return None


def refuse_changed_summary(folder: Path, summary: RunSummary) -> None:
    """Refuse the summary of a run if a number in it differs from that of its last checkpoint.

    Nothing is refused if no checkpoint of the last update can be read.

    Raises:
        DamagedFileError: the message names the file and the field.
    """
    facts = _last_facts(folder)
    if facts is None or facts["step"] != summary.steps:
        return
    given, clock = to_dict(summary), facts["clock"]
    known = {name: clock.get(name) for name in ("seconds", "flops", "evaluations")}
    known |= {name: facts.get(name) for name in ("switches", "retreats", "data", "ceilings")}
    for name, value in known.items():
        if value is not None and given[name] != value:
            advice = f"run `thalweg train {folder / 'config.toml'} --out {folder}` again"
            raise DamagedFileError(
                f"damaged record {folder / 'summary.json'}: {name} differs from that of the last checkpoint; {advice}"
            )


def refuse_changed(folder: Path, steps: int) -> None:
    """Refuse a complete run of ``steps`` updates if its metrics.jsonl is not as it was at its last checkpoint.

    Nothing is refused if no checkpoint can be read.

    Raises:
        DamagedFileError: the message names the file and what is wrong.
    """
    facts, path = _last_facts(folder), folder / "metrics.jsonl"
    if facts is None:
        return
    intact, evaluations = intact_lines(path, facts), facts["clock"].get("evaluations", 0)
    lost = evaluations - len(intact.steps("evaluation"))
    damage = intact.damage
    if not damage and facts["step"] == steps and facts["journal"] and path.stat().st_size > facts["journal"]:
        damage = "it is longer than what was written"
    if not damage and lost > 0:
        damage = f"{lost} of {evaluations} evaluations are lost"
    if damage:
        raise DamagedFileError(f"damaged record {path}: {damage}; remove {folder} to make the run again")


def refuse_changed_lengths(folder: Path, config: RunConfig) -> None:
    """Refuse a complete run on an algorithmic task if its lengths.json does not hold every tested length.

    Nothing is refused if no checkpoint can be read.

    Raises:
        DamagedFileError: the message names the file, the lengths that it holds and those expected.
    """
    if not isinstance(config.data, TaskConfig):
        return
    lengths = [record.length for record in read_lengths(folder)]
    wanted = list(config.data.tested_lengths)
    if lengths != wanted and _last_facts(folder) is not None:
        raise DamagedFileError(
            f"damaged record {folder / 'lengths.json'}: holds the lengths {shown(lengths)}, expected {shown(wanted)}; "
            f"run `thalweg train {folder / 'config.toml'} --out {folder}` again"
        )


def read_whole(folder: Path, config: RunConfig | None = None) -> RunRecord:
    """Read the records of a complete run and check them against its last checkpoint.

    Args:
        folder: folder of the run.
        config: config of the run, to check the tested lengths of an algorithmic task too; None leaves that out.
    Raises:
        DamagedFileError: a record cannot be read or is not as it was written; the message names the file.
    """
    path = folder / "summary.json"
    summary = recorded(RunSummary, read_json(path), path)
    refuse_changed_summary(folder, summary)
    refuse_changed(folder, summary.steps)
    if config is not None:
        refuse_changed_lengths(folder, config)
    record = read_run(folder)
    if not record.evaluations or record.evaluations[-1].scores != summary.final:
        raise DamagedFileError(
            f"damaged record {path}: its scores are not the last of metrics.jsonl; remove {folder} to make the run again"
        )
    return record


def begun_before(path: Path, every: int) -> int:
    """The last update in a journal whose run must have written a checkpoint, as one is written every ``every`` updates; else 0."""
    try:
        steps = [record["step"] for _, record in journal_lines(path) if record and isinstance(record.get("step"), int)]
    except DamagedFileError:
        return 0
    last = max(steps, default=0)
    return last if last >= every else 0
