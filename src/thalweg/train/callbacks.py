"""Being told what happens in a run: one base class, facts in one object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thalweg.records.run import EvaluationRecord, RetreatRecord, SwitchRecord
from thalweg.screen import Screen, progress_bar


@dataclass(frozen=True)
class StepFacts:
    """One update: ``step`` counts those made so far, this one included."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    rate: float
    loops: int
    gain: float
    """Of the newest pass."""
    seconds: float
    flops: float


class Callback:
    """Override what you need; an exception stops the run."""

    def on_begin(self, step: int, steps: int) -> None:
        """Before the first update of this process; ``step`` is above 0 when a run is resumed."""

    def on_step(self, facts: StepFacts) -> None:
        """After every update."""

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """After every evaluation."""

    def on_switch(self, record: SwitchRecord) -> None:
        """After every change of stage."""

    def on_retreat(self, record: RetreatRecord) -> None:
        """After a switch was taken back; the next update is made from the weights before it."""

    def on_snapshot(self, path: Path) -> None:
        """After every snapshot; the file is complete."""

    def on_end(self) -> None:
        """When the run stops, also when it fails."""


class Tenths:
    """Plain lines in place of a bar where there is no terminal: one whenever another tenth is done."""

    def __init__(self, console: Screen, first: int = 0) -> None:
        self.console, self.next = console, first

    def __call__(self, share: float, words: str) -> None:
        if not self.console.is_terminal and int(share * 10) >= self.next:
            self.next = int(share * 10) + 1
            self.console.say(words)


class ProgressBar(Callback):
    """A bar on a terminal, plain lines elsewhere; always on standard error."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.console = Screen(stderr=True)
        self.bar = progress_bar(self.console)
        self.tenths = Tenths(self.console)

    def measuring(self, done: int, total: int, words: str) -> None:
        """Say what is measured along the run; a `thalweg.survey.survey.Progress`."""
        self.bar.update(self.task, note=words)
        self.tenths(done / total, f"{self.label}: landscape, {done} of {total} parts, {words}")

    def on_begin(self, step: int, steps: int) -> None:
        self.bar.start()
        self.task = self.bar.add_task(self.label, total=steps, completed=step, note="")

    def on_step(self, facts: StepFacts) -> None:
        if facts.step % 10 == 0 or facts.step == facts.steps:
            self.bar.update(self.task, completed=facts.step, note=f"loss {facts.loss:.3f}, loops {facts.loops}")

    def on_evaluation(self, record: EvaluationRecord) -> None:
        words = ", ".join(f"{name} {strata['all'].loss:.4f}" for name, strata in record.scores.items())
        if not self.console.is_terminal:
            self.console.say(f"{self.label}: step {record.step}, loss {words}")

    def on_switch(self, record: SwitchRecord) -> None:
        change = f"{record.loops_before} -> {record.loops_after} loops"
        self.console.say(f"{self.label}: step {record.step}, {change}: {record.reason}")

    def on_retreat(self, record: RetreatRecord) -> None:
        words = f"step {record.step}, back to {record.back_to} and a softer onset: {record.reason}"
        self.console.say(f"{self.label}: {words}")

    def on_end(self) -> None:
        self.bar.stop()
