"""What experiments leave behind over seeds: shares of Looped's cost, outcomes of a sweep and of a study of tasks, summaries.

A share is the cost until Looped's final quality is reached at the same seed, over what Looped spent to reach it. Accuracies of
tasks are exact matches: a sample counts when its whole answer is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from thalweg.records.run import Cell, Provenance, Verdict

GOAL, GOAL_DROP, HALTING = 0.7, 1.0, 0.02
"""Share of Looped's time that SHIFT is to need; percentage points; exact match within which halting is as good as T(n)."""

ALONG = ("shift", "shift-short")
"""Arms of SHIFT whose stages follow the lengths."""
SWITCHING = (*ALONG, "shift-scp", "shift-hard")
"""Arms of more than one stage."""
CONTROLS = ("looped-fast", "looped-short")
"""Looped without stages, against which their speed is held."""

Table = tuple[tuple[float, ...], ...]
"""One row for each length, one number for each seed."""


@dataclass(frozen=True)
class Share:
    """Cost to Looped's final loss as a share of Looped's cost, over seeds; a run that never got there is censored at its end."""

    value: float | None
    """Geometric mean; the median where runs are censored (None when the median is)."""
    low: float | None
    high: float | None
    """95 % t-interval of the logarithms; with censored runs the smallest share and None."""
    n: int
    """Runs."""
    censored: int
    """Runs that never reached it."""


@dataclass(frozen=True)
class Outcome:
    """One way to train, over seeds. Losses are held-out, in the unit of the sweep; accuracies are shares of top-1 hits."""

    name: str
    group: str
    """"reference", "scp", "share", "onset", "optimizer", "stages", "safety" or "model"."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What was varied."""
    switch_step: Cell = field(default_factory=lambda: Cell(None))
    """Updates before the first switch, over the seeds that switched."""
    switched: int = 0
    """Seeds that switched."""
    drop: Cell = field(default_factory=lambda: Cell(None))
    """Accuracy lost: largest fall below the best so far, in and after the onset, in percentage points; of the worst switch."""
    jump: Cell = field(default_factory=lambda: Cell(None))
    """Rise of the loss with the same weights, after minus before the switch; of the worst switch."""
    final_loss: Cell = field(default_factory=lambda: Cell(None))
    final_accuracy: Cell = field(default_factory=lambda: Cell(None))
    difference: Cell = field(default_factory=lambda: Cell(None))
    """Final loss minus Looped's at the same seed."""
    share_seconds: Share | None = None
    share_flops: Share | None = None
    ideal_flops: Cell = field(default_factory=lambda: Cell(None))
    """Share of Looped's operations if every update were as good as Looped's: from the cost of an update alone."""
    seconds: Cell = field(default_factory=lambda: Cell(None))
    """All training seconds."""
    teraflops: Cell = field(default_factory=lambda: Cell(None))
    """All counted operations."""
    retreats: int = 0
    """Switches that the safety net took back, all seeds."""
    failed: int = 0
    """Runs that diverged or failed."""


@dataclass(frozen=True)
class SweepSummary:
    """Everything that the page of a sweep shows."""

    name: str
    task: str
    preset: str
    loops: int
    seeds: tuple[int, ...]
    complete: bool
    missing: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    axes: dict[str, tuple[float, ...]]
    """Of the SCP grid: "delta_loss", "delta_grad", "patience"."""
    defaults: dict[str, float]
    """The recipe's own point of the grid."""
    verdicts: tuple[Verdict, ...]
    setup: dict[str, str]
    provenance: Provenance
    curves: dict[str, str] = field(default_factory=dict)
    """Name of an outcome -> arm whose runs are drawn as curves."""
    unit: Literal["nats", "bits"] = "nats"
    """Of every loss; a token each, which in text is a byte."""
    command: str = ""
    """What makes it again."""

    @property
    def per_token(self) -> str:
        """The unit in words."""
        return "bits per byte" if self.unit == "bits" else "nats per token"


@dataclass(frozen=True)
class TaskOutcome:
    """One arm on one task, over seeds."""

    task: str
    arm: str
    seeds: tuple[int, ...]
    """Complete runs."""
    trained: Cell
    """Exact match on held-out samples of all trained lengths, mean of the last evaluations."""
    lengths: tuple[int, ...]
    """Tested after training, in and out of the trained range."""
    loops: tuple[int, ...]
    """Passes at each of them; of seeds that differ, because one ended in an earlier stage, the most."""
    samples: int
    """Tested of each length."""
    accuracy: Table
    """After the passes that the length asks for."""
    confident: Table
    """Where each sample halts when the model is surest of its own answer."""
    confident_batch: Table
    """Where all samples of a length halt together when it is surest."""
    by_loops: dict[str, Table] = field(default_factory=dict)
    """Length -> one row for each number of passes from 1 on, one number for each seed that ended with as many passes as any."""
    switch_step: Cell = field(default_factory=lambda: Cell(None))
    drop: Cell = field(default_factory=lambda: Cell(None))
    """Largest fall of the held-out exact match below its best so far in and after the onset, percentage points."""
    jump: Cell = field(default_factory=lambda: Cell(None))
    """Rise of the held-out loss at the switch with the same weights, nats."""
    share_seconds: Share | None = None
    """Time to Looped's final exact match on trained lengths less one point, over Looped's own time to it."""
    share_flops: Share | None = None
    seconds: Cell = field(default_factory=lambda: Cell(None))
    """All training seconds."""
    teraflops: Cell = field(default_factory=lambda: Cell(None))
    failed: int = 0
    """Runs that diverged or failed."""
    dip: Table = ()
    """Exact match where the samples of a length halt together at the sharpest dip of their mean doubt; empty if not recorded."""

    @property
    def told_passes(self) -> bool:
        """Whether halting was told something of T(n): runs of earlier versions tried up to 1.5 T(n) passes at each length."""
        return len({len(rows) for rows in self.by_loops.values()}) > 1


@dataclass(frozen=True)
class TaskStudySummary:
    """Everything that the page of a study of tasks shows."""

    name: str
    preset: str
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    complete: bool
    missing: tuple[str, ...]
    longest: dict[str, int]
    """Task -> longest length in training."""
    outcomes: tuple[TaskOutcome, ...]
    verdicts: tuple[Verdict, ...]
    setup: dict[str, str]
    provenance: Provenance
    command: str = ""
    """What makes it again."""


@dataclass(frozen=True)
class FigureRecord:
    """One figure of an experiment of a user's own, whose files lie in ``figures/``."""

    name: str
    heading: str
    caption: str


@dataclass(frozen=True)
class ExperimentSummary:
    """What an experiment of a user's own leaves behind: all that its page shows."""

    name: str
    """Of the folder."""
    title: str
    """The question, in a line."""
    experiment: str
    """``module:Class``."""
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    complete: bool
    missing: tuple[str, ...]
    columns: tuple[str, ...]
    """Headings with units, in order."""
    table: dict[str, dict[str, Cell]]
    """Arm -> heading -> over seeds."""
    verdicts: tuple[Verdict, ...]
    setup: dict[str, str]
    provenance: Provenance
    figures: tuple[FigureRecord, ...] = ()
    command: str = ""
    """What makes it again."""
