"""A run's metrics.jsonl that is damaged, short or missing beside intact checkpoints: the run goes on from what is intact.

A checkpoint knows a checksum of every line that had been written. What is lost is said in one line before any update is made; the
changes of stage, which the checkpoint knows, are written again.
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
class Kept:
    """What is intact of a journal."""

    lines: tuple[bytes, ...]
    records: tuple[dict[str, Any], ...]
    expected: int | None
    """Lines that there should be; None where the checkpoint does not know."""
    why: str
    """What is wrong, in words; empty where nothing is."""

    def steps(self, kind: str) -> list[int]:
        """Steps of all records of a kind."""
        return [one["step"] for one in self.records if one.get("type") == kind and isinstance(one.get("step"), int)]


def kept(path: Path, facts: dict[str, Any]) -> Kept:
    """What is intact of the lines that a checkpoint's journal had, in their order."""
    if not there(path):
        return Kept((), (), len(_known_sums(facts) or ()) or None, "it is missing" if facts["journal"] else "")
    try:
        refuse_special(path, MOST_JOURNAL)
        size = path.stat().st_size
        lines = list(lines_of(path, size if size < facts["journal"] else facts["journal"]))
        rest = lines if intact(lines, facts) else list(lines_of(path, min(size, 2 * facts["journal"] + MOST_BYTES)))
    except (OSError, DamagedFileError, ValueError) as error:
        return Kept((), (), None, error.strerror or "" if isinstance(error, OSError) else str(error))
    records = [record_in(line) for line in rest]
    if rest is lines:
        return Kept(tuple(lines), tuple(one or {} for one in records), None, "")
    sums, short = _known_sums(facts), size < facts["journal"]
    good = [at for at, one in enumerate(records) if one is not None and rest[at].endswith(b"\n")]
    good = _matching([zlib.crc32(line) for line in rest], sums, good) if sums is not None else good
    if sums is None:
        good = [at for at in good if not (records[at] or {}).get("step", 0) > facts["step"]]
    why = f"it has {size:,} bytes, {facts['journal']:,} were written" if short else "lines of it are not as they were written"
    found = [records[at] or {} for at in good]
    return Kept(tuple(rest[at] for at in good), tuple(found), len(sums) if sums is not None else None, why)


def _known_sums(facts: dict[str, Any]) -> list[int] | None:
    """The checksums that a checkpoint knows; None in one of an earlier version."""
    try:
        return sums_in(facts["journal_sums"])
    except (KeyError, ValueError, TypeError):
        return None


def intact(lines: list[bytes], facts: dict[str, Any]) -> bool:
    """Whether these are the lines that the checkpoint's journal had."""
    if sum(map(len, lines)) != facts["journal"] or (lines and not lines[-1].endswith(b"\n")):
        return False
    sums = _known_sums(facts)
    return all(map(record_in, lines)) if sums is None else [zlib.crc32(line) for line in lines] == sums


def _matching(found: list[int], wanted: list[int], allowed: list[int]) -> list[int]:
    """Places of lines whose checksums stand in the wanted ones, in the same order."""
    places: dict[int, list[int]] = {}
    for index, number in enumerate(wanted):
        places.setdefault(number, []).append(index)
    good, last = [], -1
    for at in allowed:
        after = next((index for index in places.get(found[at], ()) if index > last), None)
        if after is not None:
            good.append(at)
            last = after
    return good


def reopen(path: Path, facts: dict[str, Any]) -> tuple[Journal, str]:
    """The journal as the checkpoint with these facts left it, as far as it is intact; what was lost, in words, or nothing.

    A damaged file is kept beside the new one.
    """
    found = kept(path, facts)
    if not found.why:
        return Journal(path, facts["journal"]), ""
    lines = _with_changes(found, facts)
    aside = f"; what was there is kept as {set_aside(path).name}" if there(path) else ""
    atomic_stream(path, lines)
    evaluations = int(facts["clock"].get("evaluations", 0))
    lost = max(0, evaluations - len(found.steps("evaluation")))
    of = "" if found.expected is None else f" of {found.expected}"
    words = f"damaged record {path} ({found.why}): {len(found.lines)}{of} records are intact, {lost} of {evaluations} evaluations"
    return Journal(path, sum(map(len, lines))), f"{words} are lost{aside}; the run goes on after update {facts['step']}"


def _with_changes(found: Kept, facts: dict[str, Any]) -> list[bytes]:
    """The intact lines, and those of switches and retreats that the checkpoint knows and they lack.

    A retreat that is lost comes first, and what may have been scored in its try is left out: it no longer counts.
    """
    retreats = [one for one in facts.get("retreats", []) if {"type": "retreat"} | one not in found.records]
    tries = [(one["back_to"], one["step"]) for one in retreats]
    pairs = [
        (line, record)
        for line, record in zip(found.lines, found.records, strict=True)
        if record.get("type") not in ("evaluation", "switch")
        or not any(low <= record.get("step", -1) <= high for low, high in tries)
    ]
    there_already = [record for _, record in pairs]
    switches = [one for one in facts["switches"] if {"type": "switch"} | one not in there_already]
    first = [_as_line({"type": "retreat"} | one) for one in retreats]
    for one in switches:
        place = max((at + 1 for at, record in enumerate(there_already) if record.get("step", -1) <= one["step"]), default=0)
        pairs.insert(place, (_as_line({"type": "switch"} | one), one))
        there_already.insert(place, one)
    return [*first, *(line for line, _ in pairs)]


def _as_line(record: dict[str, Any]) -> bytes:
    """A record as `Journal.append` writes it."""
    return (json.dumps(record, allow_nan=False) + "\n").encode()


def _last_facts(folder: Path) -> dict[str, Any] | None:
    """What the newest state of a run that can be read knows; None where there is none, or only one of an earlier version."""
    for path in candidates(folder / "checkpoints"):
        try:
            facts = read_facts(path)
        except DamagedFileError:
            continue
        return facts if _known_sums(facts) is not None and isinstance(facts.get("clock"), dict) else None
    return None


def refuse_changed_summary(folder: Path, summary: RunSummary) -> None:
    """Refuse a run's summary that is not what its last checkpoint knows; nothing where that cannot be asked.

    Raises:
        DamagedFileError: names file and field.
    """
    facts = _last_facts(folder)
    if facts is None or facts["step"] != summary.steps:
        return
    told, clock = to_dict(summary), facts["clock"]
    known = {name: clock.get(name) for name in ("seconds", "flops", "evaluations")}
    known |= {name: facts.get(name) for name in ("switches", "retreats", "data", "ceilings")}
    for name, value in known.items():
        if value is not None and told[name] != value:
            advice = f"run `thalweg train {folder / 'config.toml'} --out {folder}` again"
            raise DamagedFileError(
                f"damaged record {folder / 'summary.json'}: {name} is not what the last checkpoint knows; {advice}"
            )


def refuse_changed(folder: Path, steps: int) -> None:
    """Refuse a complete run of ``steps`` updates whose metrics.jsonl is not what its last checkpoint knows of it.

    Nothing is refused where no checkpoint can be asked.

    Raises:
        DamagedFileError: names the file and what is wrong.
    """
    facts, path = _last_facts(folder), folder / "metrics.jsonl"
    if facts is None:
        return
    found, evaluations = kept(path, facts), facts["clock"].get("evaluations", 0)
    longer = not found.why and facts["step"] == steps and facts["journal"] and path.stat().st_size > facts["journal"]
    lost = evaluations - len(found.steps("evaluation"))
    why = found.why or ("it is longer than what was written" if longer else "")
    if why or lost > 0:
        told = why or f"{lost} of {evaluations} evaluations are lost"
        raise DamagedFileError(f"damaged record {path}: {told}; remove {folder} to make the run again")


def refuse_changed_lengths(folder: Path, config: RunConfig) -> None:
    """Refuse a complete run on a task whose lengths.json does not hold every tested length; see `refuse_changed`.

    Raises:
        DamagedFileError: names the file and what is wrong.
    """
    if not isinstance(config.data, TaskConfig):
        return
    found = [one.length for one in read_lengths(folder)]
    wanted = list(config.data.tested_lengths)
    if found != wanted and _last_facts(folder) is not None:
        words = f"damaged record {folder / 'lengths.json'}: holds the lengths {shown(found)}, expected {shown(wanted)}"
        raise DamagedFileError(f"{words}; run `thalweg train {folder / 'config.toml'} --out {folder}` again")


def read_whole(folder: Path, config: RunConfig | None = None) -> RunRecord:
    """The records of a complete run, of which every number that can be checked is what was written.

    Args:
        folder: of the run.
        config: of it, where its lengths are to be checked too.
    Raises:
        DamagedFileError: one is not, or cannot be read; names the file.
    """
    path = folder / "summary.json"
    summary = recorded(RunSummary, read_json(path), path)
    refuse_changed_summary(folder, summary)
    refuse_changed(folder, summary.steps)
    if config is not None:
        refuse_changed_lengths(folder, config)
    found = read_run(folder)
    if not found.evaluations or found.evaluations[-1].scores != summary.final:
        raise DamagedFileError(
            f"damaged record {path}: its scores are not the last of metrics.jsonl; remove {folder} to make the run again"
        )
    return found


def begun_before(path: Path, every: int) -> int:
    """The last update that a journal speaks of where a checkpoint must have been written since; else 0."""
    try:
        steps = [one["step"] for _, one in journal_lines(path) if one and isinstance(one.get("step"), int)]
    except DamagedFileError:
        return 0
    return max(steps, default=0) if max(steps, default=0) >= every else 0
