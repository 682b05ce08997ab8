import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest

from thalweg.data.markov_data import MarkovConfig
from thalweg.data.text import TextConfig
from thalweg.interruption import raise_at_sigterm
from thalweg.models.config import ModelConfig
from thalweg.shift.criterion import AtStep
from thalweg.shift.onset import Ramp
from thalweg.train.config import RunConfig, ShiftConfig, TrainingConfig

# How long inputs take to make is a fact about the machine and what else it does, not about the code.
hypothesis.settings.register_profile("any machine", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture
def tiny() -> RunConfig:
    """A run of 40 updates in well under a second, with a switch and a ramp in it."""
    return RunConfig(
        data=MarkovConfig(sequences=96, held_out=64),
        model=ModelConfig(length=11, width=8),
        shift=ShiftConfig((1, 3), AtStep(12), Ramp(10)),
        training=TrainingConfig(steps=40, batch=16, evaluate_every=10, checkpoint_every=7, log_every=5, device="cpu", threads=1),
    )


@pytest.fixture
def tiny_text(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The same on bytes of three small files, with the GPT-2-style block."""
    monkeypatch.setenv("THALWEG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"the river number {number} runs down the valley\n" * 30)
    model = ModelConfig(vocabulary=256, length=16, width=8, heads=2, block="gpt")
    return replace(tiny, data=TextConfig(path=str(folder), length=17, windows=8), model=model)


@pytest.fixture
def python() -> str:
    return sys.executable


@pytest.fixture
def signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise, as in a command of thalweg, whatever started the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise_at_sigterm()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
