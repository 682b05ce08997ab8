"""Callbacks: how code outside the trainer follows a run, and the progress bar as one of them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from thalweg.errors import plural
from thalweg.records.run import EvaluationRecord, RetreatRecord, SwitchRecord
from thalweg.screen import Screen, duration, progress_bar


@dataclass(frozen=True)
class StepFacts:
    """Facts about one update."""

    step: int
    """Number of updates made so far, this one included."""
    steps: int
    """Number of updates of the whole run."""
    loss: float
    """Mean loss of the batch in nats per token, before the update."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    rate: float
    """Learning rate of the update."""
    loops: int
    """Number of passes."""
    gain: float
    """Gain of the last pass."""
    seconds: float
    """Training time so far, without evaluation."""
    flops: float
    """Counted floating-point operations of the training so far."""


class Callback:
    """Base class whose methods the trainer calls; override those you need. An exception in one of them stops the run."""

    def on_begin(self, step: int, steps: int) -> None:
        """Called before the first update of this process; ``step`` is above 0 if the run is resumed."""

    def on_step(self, facts: StepFacts) -> None:
        """Called after every update."""

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Called after every evaluation."""

    def on_switch(self, record: SwitchRecord) -> None:
        """Called after every change of stage."""

    def on_retreat(self, record: RetreatRecord) -> None:
        """Called after a switch was taken back; the next update starts from the weights before the switch."""

    def on_snapshot(self, path: Path) -> None:
        """Called after every snapshot, when its file is complete."""

    def on_lengths(self, done: int, count: int, samples: int) -> None:
        """Called while the trained model is tested at ``count`` lengths of its task, on so many samples of each.

        Args:
            done: lengths that this rank has tested, from 0 to ``count``.
            count: lengths that this rank tests.
            samples: of each length.
        """

    def on_end(self) -> None:
        """Called when the run stops, also when it fails."""


class Tenths:
    """Prints a line with the time that is left after every tenth of the work, where there is no terminal for a progress bar."""

    def __init__(self, console: Screen, first: int = 0) -> None:
        self.console, self.next = console, first
        self.began: tuple[float, float] | None = None
        """Time and share at the first call."""

    def __call__(self, share: float, text: str, steady: bool = True, rest: float | None = None) -> None:
        """Print the text if another tenth has been reached.

        Args:
            share: part of the work that is done.
            text: what is printed, with the time since the first call.
            steady: whether the rest goes on at the same speed, so that the time left can be told.
            rest: number of pieces of work that are left, over those that were done since the first call. A piece also takes time
                that its work does not count, and the largest come first: the time left is between that by work and that by
                pieces, and the geometric mean of both is told.
        """
        started, before = self.began = self.began or (time.monotonic(), share)
        if not self.console.is_terminal and int(share * 10) >= self.next:
            self.next = int(share * 10) + 1
            passed = time.monotonic() - started
            left = ""
            if steady and before < share < 1:
                by_work = (1 - share) / (share - before)
                left = f", about {duration(passed * (by_work if rest is None else math.sqrt(by_work * rest)))} left"
            self.console.say(f"{text}; {duration(passed)} so far{left}")


class ProgressBar(Callback):
    """Shows a progress bar on a terminal and prints plain lines elsewhere, on standard error."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.console = Screen(stderr=True)
        self.bar = progress_bar(self.console)
        self.tenths, self.tests = Tenths(self.console), Tenths(self.console)

    def measuring(self, done: int, total: int, part: str) -> None:
        """Show which part of the landscape is being measured; a `thalweg.survey.survey.Progress`."""
        self.bar.update(self.task, note=part)
        self.tenths(done / total, f"{self.label}: landscape, {done} of {total} parts, {part}", steady=False)

    def on_begin(self, step: int, steps: int) -> None:
        self.console.say(f"{self.label}: {f'going on from update {step}' if step else 'begins'}, {steps:,} updates in all")
        self.bar.start()
        self.task = self.bar.add_task(self.label, total=steps, completed=step, note="")

    def on_step(self, facts: StepFacts) -> None:
        if facts.step % 10 == 0 or facts.step == facts.steps:
            self.bar.update(self.task, completed=facts.step, note=f"loss {facts.loss:.3f}, loops {facts.loops}")

    def on_evaluation(self, record: EvaluationRecord) -> None:
        losses = ", ".join(f"{name} {strata['all'].loss:.4f}" for name, strata in record.scores.items())
        if not self.console.is_terminal:
            self.console.say(f"{self.label}: step {record.step}, loss {losses}")

    def on_switch(self, record: SwitchRecord) -> None:
        change = f"{record.loops_before} -> {record.loops_after} loops"
        self.console.say(f"{self.label}: step {record.step}, {change}: {record.reason}")

    def on_retreat(self, record: RetreatRecord) -> None:
        change = f"back to step {record.back_to} with a softer onset"
        self.console.say(f"{self.label}: step {record.step}, {change}: {record.reason}")

    def on_lengths(self, done: int, count: int, samples: int) -> None:
        self.bar.update(self.task, note=f"{done} of {plural(count, 'length')} tested")
        self.tests(done / count, f"{self.label}: {done} of {plural(count, 'length')} tested, {samples:,} samples each (data.tests)")

    def on_end(self) -> None:
        self.bar.stop()
