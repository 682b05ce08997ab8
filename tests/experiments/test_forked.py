"""Runs that are forked from a process that has imported everything: the same weights, statuses and endings."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thalweg.data.markov_data import MarkovConfig
from thalweg.experiments.executors import LocalProcesses
from thalweg.experiments.forked import ForkedProcess, can_fork
from thalweg.models.config import ModelConfig
from thalweg.storage import read_json
from thalweg.train.config import RunConfig, TrainingConfig, config_text
from thalweg.train.trainer import train

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not can_fork(), reason="processes are not forked here")]

PARENT = """
import os, sys, time
from pathlib import Path
from thalweg.experiments.forked import ForkedProcess
print("started", flush=True)
child = ForkedProcess(["train", "run.toml", "--out", "made"], Path("log"), dict(os.environ), False)
print(child.pid, flush=True)
time.sleep(600)
"""


def write_config(folder: Path, steps: int) -> RunConfig:
    config = RunConfig(
        data=MarkovConfig(sequences=64, held_out=16),
        model=ModelConfig(length=11, width=8),
        training=TrainingConfig(steps=steps, batch=8, evaluate_every=max(2, steps // 2), threads=1, device="cpu"),
    )
    (folder / "run.toml").write_text(config_text(config))
    return config


def ends(pid: int) -> bool:
    """Whether a process is gone or a zombie within 30 s."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_forked_run_has_the_weights_of_one_that_is_trained_here(tmp_path: Path) -> None:
    config = write_config(tmp_path, 4)
    process = LocalProcesses().start(
        ["train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "made")], tmp_path / "log", 2, False
    )
    assert isinstance(process, ForkedProcess)
    assert process.wait() == 0
    assert read_json(tmp_path / "made" / "summary.json")["weights_sha256"] == train(config, tmp_path / "here").weights_sha256
    assert "step 4, loss" in (tmp_path / "log").read_text()


def test_status_log_folder_and_variables_are_those_of_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    log.write_text("before\n")
    bad = ForkedProcess(["train", "none.toml"], log, os.environ | {"WORLD_SIZE": "some"}, True)
    assert (bad.wait(), bad.poll(), bad.returncode) == (2, 2, 2)
    assert log.read_text().startswith("before\nthalweg: WORLD_SIZE: given 'some', expected a whole number")
    assert ForkedProcess(["recipe", "markov"], log, dict(os.environ), False).wait() == 0
    assert log.read_text() == ""
    assert capfd.readouterr() == ("", "")


def test_a_process_that_is_asked_to_end_tells_the_signal(tmp_path: Path) -> None:
    write_config(tmp_path, 10**6)
    arguments = ["train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "made")]
    process = ForkedProcess(arguments, tmp_path / "log", dict(os.environ), append=False)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_it_ends_with_its_parent_and_does_not_run_the_parents_script_again(tmp_path: Path) -> None:
    write_config(tmp_path, 10**6)
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        child = int(parent.stdout.readline())
        while not (tmp_path / "made" / "metrics.jsonl").exists():
            assert parent.poll() is None
            time.sleep(0.05)
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.stdout.read() == ""
    assert ends(child)
