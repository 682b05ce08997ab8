from pathlib import Path
from typing import Any

import pytest

import thalweg as tw
from thalweg.errors import BadInputError
from thalweg.integrations.extras import require_extra
from thalweg.integrations.metrics import CsvWriter, RunMetrics, RunWriter, TensorBoardWriter
from thalweg.train.config import RunConfig


class Run:
    """Shaped like the run of wandb and trackio."""

    def __init__(self) -> None:
        self.lines: list[tuple[dict[str, float], int]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.lines.append((values, step))


def test_own_trainer_writes_every_update_and_evaluation(tiny: RunConfig, tmp_path: Path) -> None:
    run = Run()
    tw.train_run(tiny, tmp_path / "run", callbacks=[RunMetrics([RunWriter(run), CsvWriter(tmp_path / "all.csv")], every=8)])
    losses = [step for values, step in run.lines if "grad_norm" in values]
    assert losses == [8, 16, 24, 32, 40]
    assert [values["stage loops"] for values, _ in run.lines if "stage loops" in values] == [3]
    assert [step for values, step in run.lines if "held-out loss" in values] == [0, 10, 20, 30, 40]
    rows = [line.split(",") for line in (tmp_path / "all.csv").read_text().splitlines()]
    assert rows[0] == ["step", "name", "value"]
    assert len(rows) - 1 == sum(len(values) for values, _ in run.lines)


def test_resumed_csv_has_no_update_twice(tmp_path: Path) -> None:
    for first in (1, 3):
        writer = CsvWriter(tmp_path / "numbers.csv")
        for step in range(first, 6):
            writer.log({"loss": step + first / 10}, step)
    assert (tmp_path / "numbers.csv").read_text().splitlines()[1:] == [
        "1,loss,1.1",
        "2,loss,2.1",
        "3,loss,3.3",
        "4,loss,4.3",
        "5,loss,5.3",
    ]


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    from thalweg.integrations.metrics import write

    run = Run()
    write([RunWriter(run)], {"loss": float("nan"), "loops": 2}, 1)
    assert run.lines == [({"loops": 2.0}, 1)]


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_the_numbers_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardWriter(tmp_path)
    writer.log({"loss": 2.5}, 7)
    writer.close()
    events: Any = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(7, 2.5)]


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(BadInputError, match=r"^no_such is not installed; run: pip install 'thalweg\[tensorboard\]'$"):
        require_extra("tensorboard", "no_such")


def test_rows_are_appended_to_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.touch()
    CsvWriter(path).log({"loss": 1.5}, 3)
    assert path.read_text().splitlines() == ["step,name,value", "3,loss,1.5"]
