"""Records of runs and studies: frozen dataclasses, and the functions that read them from a run's folder.

Steps count updates made. Seconds are training time without evaluations and checkpoints; flops are counted training operations.
"""

from __future__ import annotations

import functools
import platform
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from thalweg.bounds import named_arguments
from thalweg.errors import BadInputError, DamagedFileError, shown
from thalweg.serialization import from_dict
from thalweg.storage import read_journal, read_json, there

T = TypeVar("T")


@dataclass(frozen=True)
class Provenance:
    """The software and the machine that made a result."""

    version: str
    commit: str
    torch: str
    python: str
    machine: str
    device: str
    dtype: str
    threads: int
    ranks: int = 1
    """Number of processes that shared the work when it ended."""


def provenance(device: str, dtype: str, threads: int, torch: str, ranks: int = 1) -> Provenance:
    """The provenance of results made by this installation on this machine; ``torch`` is the version of torch."""
    return Provenance(
        version=metadata.version("thalweg"),
        commit=commit(),
        torch=torch,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        device=device,
        dtype=dtype,
        threads=threads,
        ranks=ranks,
    )


@functools.cache
def commit() -> str:
    """Commit of the source tree, followed by "+" when the tree has changes; empty for an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@dataclass(frozen=True)
class Score:
    """Mean over the scored positions of a stratum."""

    accuracy: float
    """Share of top-1 hits; of a task the exact match, the share of whole answers that are right."""
    loss: float
    """Nats per token."""


Scores = dict[str, dict[str, Score]]
"""Evaluation set -> stratum -> score."""


@dataclass(frozen=True)
class EvaluationRecord:
    """The scores at one evaluation during training."""

    step: int
    seconds: float
    """Training time so far."""
    flops: float
    """Counted operations so far."""
    loops: int
    """Passes of the stage."""
    scores: Scores


@dataclass(frozen=True)
class SwitchRecord:
    """One switch to the next stage; ``step`` updates had been made when it was decided."""

    step: int
    seconds: float
    flops: float
    loops_before: int
    loops_after: int
    reason: str
    """What the criterion states as its reason."""
    scores_before: Scores
    """With the passes of the stage that ends."""
    scores_after: Scores
    """With the passes and gains of the stage that begins, before any update in it."""
    onset: int = 0
    """Updates until the new passes have full weight."""


@dataclass(frozen=True)
class RetreatRecord:
    """One switch that the safety net took back; its cost stays in the run's seconds and operations."""

    step: int
    """Updates made when the failure was noticed."""
    back_to: int
    """Updates made at the switch, to which the run returned."""
    reason: str
    seconds: float
    flops: float


@dataclass(frozen=True)
class FailureRecord:
    """Why a run, or the measuring of its landscape, failed."""

    error: str
    """Class of the error, or "killed"."""
    message: str
    """The reason in one line."""


@dataclass(frozen=True)
class Surroundings:
    """What else the machine did while a run trained."""

    waiting: float
    """Share of the time in which the training thread was ready to go on and no core was free."""
    steal: float
    """Share of the time of all cores that the hypervisor gave to other machines."""
    load: float
    """Processes that ran or waited for a core, mean over the last minute before the last checkpoint."""
    cores: int
    """Cores that the run may use."""


@dataclass(frozen=True)
class RunSummary:
    """The summary of a complete run: its identity, its cost and its final scores."""

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
    surroundings: Surroundings | None = None
    """None where the system does not tell, and in records of earlier versions."""


@dataclass(frozen=True)
class TaskLength:
    """Exact match of a trained model on samples of one length of its task, see `thalweg.data.task_data.TaskData.at`."""

    length: int
    loops: int
    """The T(n) passes of the length, or fewer where the model was trained with fewer."""
    samples: int
    accuracy: float
    """Share of whole answers that are right after ``loops`` passes."""
    confident: float
    """The same where each sample halts at its most confident pass."""
    confident_loops: float
    """Passes until that pass, mean over samples."""
    confident_batch: float
    """The same where all samples halt together at the most confident pass."""
    by_loops: tuple[float, ...]
    """Exact match after 1, 2, ... passes."""
    dip: float | None = None
    """The same where all samples halt together at the sharpest dip of their mean doubt; None in records of earlier versions."""


@dataclass(frozen=True)
class RunRecord:
    """The records in a run's folder; ``summary`` is None while the run is not complete."""

    name: str
    evaluations: tuple[EvaluationRecord, ...]
    switches: tuple[SwitchRecord, ...]
    summary: RunSummary | None
    retreats: tuple[RetreatRecord, ...] = ()
    """Switches that were taken back; what was recorded between them and the return is left out above."""


def read_run(folder: Path) -> RunRecord:
    """Read the records of a run, complete or in progress.

    Raises:
        DamagedFileError: a record cannot be read; the message names the file.
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
            # The run went back to the switch: what it recorded from there on belongs to the attempt that failed.
            evaluations = [evaluation for evaluation in evaluations if evaluation.step < retreats[-1].back_to]
            switches = [switch for switch in switches if switch.step < retreats[-1].back_to]
    end = recorded(RunSummary, read_json(summary), summary) if summary.exists() else None
    return RunRecord(folder.name, tuple(evaluations), tuple(switches), end, tuple(retreats))


def read_lengths(folder: Path) -> tuple[TaskLength, ...]:
    """Read the scores of a complete run on a task, one for each tested length; empty for other runs.

    Raises:
        DamagedFileError: the record cannot be read.
    """
    path = folder / "lengths.json"
    if not there(path):
        return ()
    records = read_json(path)
    if not isinstance(records, list):
        raise DamagedFileError(f"damaged record {path}: given {shown(records)}, expected a list; run the same command again")
    return tuple(recorded(TaskLength, record, path) for record in records)


def recorded(cls: type[T], values: Any, path: Path) -> T:
    """Build a record from the values in a file that thalweg wrote.

    Args:
        cls: class of the record.
        values: as read from JSON.
        path: of the file, for the message.
    Raises:
        DamagedFileError: the values do not fit the class; a file of thalweg's own that does not is damaged.
    """
    try:
        return from_dict(cls, values)
    except BadInputError as error:
        raise DamagedFileError(f"damaged record {path}: {error}; remove it and run the same command again") from None


@dataclass(frozen=True)
class Cell:
    """A mean over seeds with its 95 % t-interval; a single seed gives no ends, and no seed with a value gives no mean."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    """Number of seeds with a value."""
    ceiling: float | None = None
    """The best possible value, mean over the same seeds."""


DECISIONS = ("supported", "contradicted", "undecided", "not measured")
"""What can be said of a claim."""


@named_arguments
@dataclass(frozen=True)
class Verdict:
    """The judgement of an experiment on one claim, or its answer to one question, with the numbers that it rests on."""

    claim: str
    """The claim that is judged, or the question that is asked."""
    verdict: str
    """For a claim "supported", "contradicted", "undecided" or "not measured"; for a question the answer as text."""
    test: str = ""
    """How the claim was decided."""
    numbers: dict[str, Cell] = field(default_factory=dict)
    """Name of the number, with its unit -> value."""
    topic: str = ""
    """Section of the page that it belongs to."""
    seeds_needed: int = 0
    """Seeds that would decide an undecided claim at the spread seen (see `thalweg.intervals.seeds_to_decide`); 0 if not known,
    `thalweg.intervals.NO_SEEDS` if no number would."""
    source: str = ""
    """Who makes the claim: "paper", "ours" or "control"; empty for a question."""


@dataclass(frozen=True)
class PhaseRecord:
    """One phase of the matrix entropy along one run; steps count updates, ``end`` is where the next phase begins."""

    arm: str
    seed: int
    begin: int
    end: int
    label: str
    """collapse, diversification, stable or undecided."""


@dataclass(frozen=True)
class StudySummary:
    """The summary of a study: everything that its page and table show, apart from the records of its runs."""

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
    """Column -> heading with unit, in the order of the table."""
    verdicts: tuple[Verdict, ...]
    setup: dict[str, str]
    """Topic -> sentence that describes the set-up."""
    target: str
    """A phrase that describes the target of the columns "time to target"."""
    provenance: Provenance
    phases: tuple[PhaseRecord, ...] = ()
    """Phases of the runs with enough checkpoints."""
    arm_words: dict[str, str] = field(default_factory=dict)
    """Arm -> its definition."""
    disturbed: str = ""
    """What other work the seconds met, see `thalweg.experiments.disturbance.disturbance`; empty for none that is known."""
    command: str = ""
    """The command that repeats it."""
