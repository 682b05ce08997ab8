"""What a study of algorithmic tasks leaves behind: one outcome for each task and arm, every seed kept.

Accuracies are exact matches: a sample counts when its whole answer is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from thalweg.records.experiment import Share
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
