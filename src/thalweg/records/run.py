"""Results as frozen dataclasses: what runs and studies leave behind."""

from __future__ import annotations

import functools
import platform
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from thalweg.errors import BadInputError, DamagedFileError, shown
from thalweg.serialization import from_dict
from thalweg.storage import read_journal, read_json, there

T = TypeVar("T")


@dataclass(frozen=True)
class Provenance:
    """Where numbers come from."""

    version: str
    commit: str
    torch: str
    python: str
    machine: str
    device: str
    dtype: str
    threads: int


def provenance(device: str, dtype: str, threads: int, torch: str) -> Provenance:
    """This installation and machine."""
    return Provenance(
        version=metadata.version("thalweg"),
        commit=commit(),
        torch=torch,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        device=device,
        dtype=dtype,
        threads=threads,
    )


@functools.cache
def commit() -> str:
    """Commit of the source tree, with "+" when it has changes; empty for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@dataclass(frozen=True)
class Score:
    """Mean over the scored positions of a stratum: ``accuracy`` (share of top-1 hits) and ``loss`` (nats per token)."""

    accuracy: float
    loss: float


Scores = dict[str, dict[str, Score]]
"""Evaluation set -> stratum -> score."""


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation during training."""

    step: int
    seconds: float
    """Training time so far, evaluation and checkpoints not counted."""
    flops: float
    """Counted training operations so far."""
    loops: int
    scores: Scores


@dataclass(frozen=True)
class SwitchRecord:
    """One change of stage: ``step`` updates had been made when it was decided."""

    step: int
    seconds: float
    flops: float
    loops_before: int
    loops_after: int
    reason: str
    scores_before: Scores
    """With the passes of the stage that ends."""
    scores_after: Scores
    """With the passes and gains of the stage that begins, before any update in it."""
    onset: int = 0
    """Updates until the new passes count in full."""


@dataclass(frozen=True)
class RetreatRecord:
    """One switch that the safety net took back; what the try had cost stays in the run's seconds and operations."""

    step: int
    """Updates made when it was noticed."""
    back_to: int
    """Updates made at the switch."""
    reason: str
    seconds: float
    flops: float


@dataclass(frozen=True)
class FailureRecord:
    """Why a run, or the measuring of its landscape, failed."""

    error: str
    """Class of the error, or "killed"."""
    message: str
    """In one line."""


@dataclass(frozen=True)
class RunSummary:
    """The end of a run; what it holds is enough to find it again and to tell its cost."""

    arm: str
    seed: int
    config_hash: str
    steps: int
    seconds: float
    evaluation_seconds: float
    flops: float
    parameters: int
    weights_sha256: str
    evaluations: int
    switches: tuple[SwitchRecord, ...]
    final: Scores
    ceilings: Scores
    data: dict[str, Any]
    provenance: Provenance
    retreats: tuple[RetreatRecord, ...] = ()


@dataclass(frozen=True)
class TaskLength:
    """Exact match of a trained model on samples of one length of its task, see `thalweg.data.task_data.TaskData.at`."""

    length: int
    loops: int
    """Passes that the length asks for, or the fewer ones that the model was trained with."""
    samples: int
    accuracy: float
    """Share of whole answers that are right after ``loops`` passes."""
    confident: float
    """The same where each sample halts when the model is surest of its own answer."""
    confident_loops: float
    """Passes of that, mean over samples."""
    confident_batch: float
    """The same where all samples halt together."""
    by_loops: tuple[float, ...]
    """Exact match after 1, 2, ... passes."""
    dip: float | None = None
    """The same where all samples halt together at the pass at which their mean doubt dips most sharply below its neighbours."""


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run's folder tells, complete or not."""

    name: str
    evaluations: tuple[EvaluationRecord, ...]
    switches: tuple[SwitchRecord, ...]
    summary: RunSummary | None
    retreats: tuple[RetreatRecord, ...] = ()
    """Switches that were taken back; what was recorded of the tries themselves is left out."""


def read_run(folder: Path) -> RunRecord:
    """The records of a run, also of one that is still going on.

    Raises:
        DamagedFileError: a record cannot be read; names the file.
    """
    journal, summary = folder / "metrics.jsonl", folder / "summary.json"
    evaluations: list[EvaluationRecord] = []
    switches: list[SwitchRecord] = []
    retreats: list[RetreatRecord] = []
    for record in read_journal(journal) if journal.exists() else []:
        kind = record.pop("type")
        if kind == "evaluation":
            evaluations.append(recorded(EvaluationRecord, record, journal))
        elif kind == "switch":
            switches.append(recorded(SwitchRecord, record, journal))
        elif kind == "retreat":
            retreats.append(recorded(RetreatRecord, record, journal))
            evaluations = [one for one in evaluations if one.step < retreats[-1].back_to]
            switches = [one for one in switches if one.step < retreats[-1].back_to]
    done = recorded(RunSummary, read_json(summary), summary) if summary.exists() else None
    return RunRecord(folder.name, tuple(evaluations), tuple(switches), done, tuple(retreats))


def read_lengths(folder: Path) -> tuple[TaskLength, ...]:
    """What a complete run on a task answered at each length; none for other runs.

    Raises:
        DamagedFileError: the record cannot be read.
    """
    path = folder / "lengths.json"
    if not there(path):
        return ()
    found = read_json(path)
    if not isinstance(found, list):
        raise DamagedFileError(f"damaged record {path}: given {shown(found)}, expected a list; run the same command again")
    return tuple(recorded(TaskLength, one, path) for one in found)


def recorded(cls: type[T], values: Any, path: Path) -> T:
    """A record from a file that thalweg wrote; anything unexpected in it is damage."""
    try:
        return from_dict(cls, values)
    except BadInputError as error:
        raise DamagedFileError(f"damaged record {path}: {error}; remove it and run the same command again") from None


@dataclass(frozen=True)
class Cell:
    """A mean over seeds with its 95 % interval; no ends for a single seed, no mean when no seed has a value."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    """Seeds with a value."""
    ceiling: float | None = None
    """The best possible value, mean over the same seeds."""


@dataclass(frozen=True)
class Verdict:
    """What an experiment says of one claim or question, with the numbers that it rests on."""

    claim: str
    """The claim that is judged, or the question that is asked."""
    verdict: str
    """Of a claim "supported", "contradicted", "undecided" or "not measured"; of a question the answer in words."""
    test: str = ""
    """How it was decided."""
    numbers: dict[str, Cell] = field(default_factory=dict)
    topic: str = ""
    """Section of the page that it belongs to."""


@dataclass(frozen=True)
class PhaseRecord:
    """One phase of the matrix entropy along one run; steps count updates, ``end`` is where the next phase begins."""

    arm: str
    seed: int
    begin: int
    end: int
    label: str
    """collapse, diversification or stable."""


@dataclass(frozen=True)
class StudySummary:
    """Everything that the page and the table of a study show, beside the runs' own records."""

    name: str
    preset: str
    task: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    complete: bool
    missing: tuple[str, ...]
    table: dict[str, dict[str, Cell]]
    """Arm -> column -> cell."""
    columns: dict[str, str]
    """Column -> its heading with unit, in order."""
    verdicts: tuple[Verdict, ...]
    setup: dict[str, str]
    """The set-up in words, by topic."""
    target: str
    """What "time to target" aims at, in words."""
    provenance: Provenance
    phases: tuple[PhaseRecord, ...] = ()
    """Of the runs that have enough checkpoints."""
    command: str = ""
    """What makes it again."""
