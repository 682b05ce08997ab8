"""Where the numbers of a training go: CSV, TensorBoard, and loggers shaped like wandb's, such as trackio's.

`attach`, `ShiftCallback` and `RunMetrics` take these writers. Only the first rank writes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from thalweg import ranks
from thalweg.integrations.extras import require_extra
from thalweg.records.run import EvaluationRecord, SwitchRecord
from thalweg.reprs import describe
from thalweg.storage import atomic_stream
from thalweg.train.callbacks import Callback, StepFacts


class Writer(Protocol):
    """Takes the numbers of an update."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name; ``step`` is the number of updates made."""
        ...

    def close(self) -> None:
        """Write what is still in memory."""
        ...


class CsvWriter:
    """Writes a CSV file with the columns step, name and value.

    A run that is resumed replaces the rows from its first update on, so that no update stands there twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._begun = False

    def __repr__(self) -> str:
        return describe(self, repr(str(self.path)))

    def log(self, values: Mapping[str, float], step: int) -> None:
        if not self._begun:
            self._begin(step)
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([step, name, repr(float(value))] for name, value in values.items())

    def _begin(self, step: int) -> None:
        """Keep the header and the earlier rows of an existing file."""
        self._begun = True
        lines = (self.path.read_text().splitlines() if self.path.exists() else []) or ["step,name,value"]
        kept = [line for line in lines[1:] if line.count(",") == 2 and line.partition(",")[0].isdigit()]
        earlier = [line for line in kept if int(line.partition(",")[0]) < step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_stream(self.path, ["".join(f"{line}\n" for line in [lines[0], *earlier]).encode()])

    def close(self) -> None:
        """Every row is in the file already."""


class TensorBoardWriter:
    """Writes scalars for TensorBoard. Needs the extra ``tensorboard``.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: str | Path) -> None:
        require_extra("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def __repr__(self) -> str:
        return describe(self, repr(self._writer.log_dir))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class RunWriter:
    """Passes numbers on to a run that is shaped like wandb's: ``run.log(dict, step=...)``.

    Args:
        run: result of ``wandb.init()`` or ``trackio.init()``, or the module itself; the caller finishes it.
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def __repr__(self) -> str:
        return describe(self, type(self._run).__name__)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """The run stays open, as the caller made it."""


class RunMetrics(Callback):
    """A callback of thalweg's own trainer that passes losses, norms, passes, gains and held-out losses on to writers.

    Args:
        writers: where the numbers go.
        every: number of updates between two lines.
    """

    def __init__(self, writers: Sequence[Writer], every: int = 1) -> None:
        self.writers, self.every = tuple(writers), every

    def __repr__(self) -> str:
        return describe(self, repr(list(self.writers)), f"every={self.every}")

    def on_step(self, facts: StepFacts) -> None:
        if facts.step % self.every == 0 or facts.step == facts.steps:
            names = ("loss", "grad_norm", "rate", "loops", "gain", "seconds", "flops")
            write(self.writers, {name: getattr(facts, name) for name in names}, facts.step)

    def on_evaluation(self, record: EvaluationRecord) -> None:
        losses = {f"{where} loss": strata["all"].loss for where, strata in record.scores.items()}
        write(self.writers, losses, record.step)

    def on_switch(self, record: SwitchRecord) -> None:
        write(self.writers, {"stage loops": record.loops_after}, record.step)

    def on_end(self) -> None:
        for writer in self.writers:
            writer.close()


def write(writers: Sequence[Writer], values: Mapping[str, float], step: int) -> None:
    """Pass the finite numbers among some values on to writers, on the first rank."""
    if ranks.rank() == 0:
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        for writer in writers:
            writer.log(finite, step)
