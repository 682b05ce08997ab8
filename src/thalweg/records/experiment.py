"""Records of experiments over seeds: shares of Looped's cost, outcomes of sweeps and of studies of tasks, summaries.

A share is the cost until Looped's final quality is reached at the same seed, over what Looped spent to reach it. Accuracies of
tasks are exact matches: a sample counts when its whole answer is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from thalweg.records.run import Cell, Provenance, Verdict

GOAL, GOAL_DROP, MARGIN = 0.7, 1.0, 0.02
"""Goals of the study of tasks.

The share of Looped's cost that SHIFT may need; the largest drop at a switch in percentage points; and the largest difference in
exact match at which one way counts as as good as another: an arm as Looped, a halting rule as halting after T(n) passes.
"""

ALONG = ("shift", "shift-short")
"""Arms of SHIFT whose stages follow the training lengths."""
SWITCHING = (*ALONG, "shift-scp", "shift-hard")
"""Arms of more than one stage."""
CONTROLS = ("looped-fast", "looped-short")
"""Controls for the arms in `ALONG`: Looped without stages, with lengths that grow as fast or over as few updates."""

Table = tuple[tuple[float, ...], ...]
"""A row for each tested length, a column for each seed."""


@dataclass(frozen=True)
class Share:
    """Cost until Looped's final quality is reached as a share of Looped's cost, over seeds.

    A run that never reaches it is censored: only a lower bound of its share is known, from all that it spent.
    """

    value: float | None
    """Geometric mean; with censored runs the median, None where the median itself is not known."""
    low: float | None
    """Lower end of the 95 % t-interval of the logarithms; with censored runs the smallest share that was reached."""
    high: float | None
    """Upper end of that interval; None with censored runs."""
    n: int
    """Number of runs."""
    censored: int
    """Number of runs that never reached Looped's final quality."""


@dataclass(frozen=True)
class FirstScreen:
    """What a page says before anything else, in plain sentences."""

    asked: str
    """The question, and who raised it, with a link."""
    found: tuple[str, ...]
    """The findings, one sentence or two each."""
    sure: str
    """What the numbers rest on, and what they leave open."""
    advice: str
    """What a reader can do with it."""


@dataclass(frozen=True)
class Outcome:
    """One variant of a sweep over seeds. Losses are held-out, in the unit of the sweep; accuracies are shares of top-1 hits."""

    name: str
    group: str
    """"reference", "scp", "share", "onset", "optimizer", "stages", "safety" or "model"."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the variant changes, by name."""
    switch_step: Cell = field(default_factory=lambda: Cell(None))
    """Updates before the first switch, over the seeds that switched."""
    switched: int = 0
    """Number of seeds that switched."""
    drop: Cell = field(default_factory=lambda: Cell(None))
    """Accuracy lost at the worst switch, in percentage points: largest fall below the best so far, in and after the onset."""
    jump: Cell = field(default_factory=lambda: Cell(None))
    """Rise of the loss at the worst switch, after minus before it with the same weights."""
    final_loss: Cell = field(default_factory=lambda: Cell(None))
    final_accuracy: Cell = field(default_factory=lambda: Cell(None))
    difference: Cell = field(default_factory=lambda: Cell(None))
    """Final loss minus Looped's at the same seed."""
    share_seconds: Share | None = None
    """Share of Looped's training time."""
    share_flops: Share | None = None
    """Share of Looped's counted operations."""
    ideal_flops: Cell = field(default_factory=lambda: Cell(None))
    """Share of Looped's operations if every update were as good as one of Looped's; it follows from the cost of updates alone."""
    seconds: Cell = field(default_factory=lambda: Cell(None))
    """All training seconds."""
    teraflops: Cell = field(default_factory=lambda: Cell(None))
    """All counted operations."""
    retreats: int = 0
    """Number of switches that the safety net took back, over all seeds."""
    failed: int = 0
    """Runs that diverged or failed."""


@dataclass(frozen=True)
class SweepSummary:
    """The summary of a sweep: everything that its page shows."""

    name: str
    task: str
    preset: str
    loops: int
    seeds: tuple[int, ...]
    complete: bool
    missing: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    axes: dict[str, tuple[float, ...]]
    """Axis of SCP's grid ("delta_loss", "delta_grad", "patience") -> its values."""
    defaults: dict[str, float]
    """Axis -> value of the recipe's own setting."""
    verdicts: tuple[Verdict, ...]
    setup: dict[str, str]
    provenance: Provenance
    curves: dict[str, str] = field(default_factory=dict)
    """Name of an outcome -> arm whose runs are drawn as curves."""
    arm_words: dict[str, str] = field(default_factory=dict)
    """Baseline -> its definition; what a variant changes stands in its settings."""
    disturbed: str = ""
    """What other work the seconds met; empty for none that is known."""
    unit: Literal["nats", "bits"] = "nats"
    """Unit of every loss, for each token; a token of text is a byte."""
    command: str = ""
    """The command that repeats it."""
    first: FirstScreen | None = None
    """The first screen of the page; None in records of earlier versions."""

    @property
    def per_token(self) -> str:
        """The unit of losses as text: "bits per byte" or "nats per token"."""
        return "bits per byte" if self.unit == "bits" else "nats per token"


@dataclass(frozen=True)
class TaskOutcome:
    """One arm on one task over seeds."""

    task: str
    arm: str
    seeds: tuple[int, ...]
    """Seeds with a complete run, rising; the columns of the tables."""
    trained: Cell
    """Exact match on held-out samples of all trained lengths, mean of the last evaluations."""
    lengths: tuple[int, ...]
    """Lengths tested after training, within and beyond the training lengths."""
    loops: tuple[int, ...]
    """Passes at each tested length; the most over seeds, as a seed that ended in an earlier stage has fewer."""
    samples: int
    """Number of samples tested at each length."""
    accuracy: Table
    """Exact match after the T(n) passes of the length."""
    confident: Table
    """Exact match where each sample halts at its most confident pass."""
    confident_batch: Table
    """Exact match where all samples of a length halt together at the most confident pass."""
    by_loops: dict[str, Table] = field(default_factory=dict)
    """Length -> one row for each number of passes from 1 on, one number for each seed that ended with as many passes as any."""
    switch_step: Cell = field(default_factory=lambda: Cell(None))
    """Updates before the first switch, over the seeds that switched."""
    drop: Cell = field(default_factory=lambda: Cell(None))
    """Largest fall of the held-out exact match below its best so far, in and after the onset, in percentage points."""
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
        """Whether the halting rules knew something about T(n): earlier versions tried up to 1.5 T(n) passes at each length."""
        return len({len(rows) for rows in self.by_loops.values()}) > 1


@dataclass(frozen=True)
class TaskStudySummary:
    """The summary of a study of tasks: everything that its page shows."""

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
    """The command that repeats it."""
    arm_words: dict[str, str] = field(default_factory=dict)
    """Arm -> its definition."""
    disturbed: str = ""
    """What other work the seconds met; empty for none that is known."""
    first: FirstScreen | None = None
    """The first screen of the page; None in records of earlier versions."""


@dataclass(frozen=True)
class FigureRecord:
    """One figure of a user-defined experiment; its files are in ``figures/`` and begin with its name."""

    name: str
    heading: str
    caption: str
    alt: str = ""
    """What it shows, for readers who do not see it; empty in records of earlier versions."""


@dataclass(frozen=True)
class ExperimentSummary:
    """The summary of a user-defined experiment: everything that its page shows."""

    name: str
    """Name of the folder."""
    title: str
    """The question, in one line."""
    experiment: str
    """``module:Class``."""
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    complete: bool
    missing: tuple[str, ...]
    columns: tuple[str, ...]
    """Headings with units, in order."""
    table: dict[str, dict[str, Cell]]
    """Arm -> heading -> mean and interval over seeds."""
    verdicts: tuple[Verdict, ...]
    setup: dict[str, str]
    provenance: Provenance
    figures: tuple[FigureRecord, ...] = ()
    command: str = ""
    """The command that repeats it."""
    first: FirstScreen | None = None
    """The first screen of the page; None where the experiment makes none."""
    arm_words: dict[str, str] = field(default_factory=dict)
    """Arm -> its definition."""
