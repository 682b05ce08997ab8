"""Slurm with a stand-in for ``squeue``, and, where they are installed and running, a real Slurm and a real local Ray."""

import pickle
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import thalweg as tw
from thalweg.data.markov_data import MarkovConfig
from thalweg.experiments.choose_executor import executor_of
from thalweg.experiments.engine import make
from thalweg.experiments.executors import LocalProcesses
from thalweg.experiments.remote_command import RemoteCommand
from thalweg.experiments.slurm import SlurmJob
from thalweg.interruption import TERMINATED
from thalweg.models.config import ModelConfig
from thalweg.storage import read_json
from thalweg.train.config import RunConfig, TrainingConfig


class Submitted:
    """Stands in for submitit's job."""

    job_id = "7"

    def __init__(self, folder: Path) -> None:
        self.paths = SimpleNamespace(result_pickle=folder / "result.pkl")

    def _get_outcome_and_result(self):
        return pickle.loads(self.paths.result_pickle.read_bytes())


def answering(monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, str, str]) -> None:
    """Have ``squeue`` give these answers: exit status, standard output and standard error; the last one again and again."""
    left = list(answers)

    def ask(command, **_):
        code, out, err = left.pop(0) if len(left) > 1 else left[0]
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(subprocess, "run", ask)
    monkeypatch.setattr("thalweg.experiments.slurm._ASK_SECONDS", 0.0)


@pytest.mark.parametrize("answer", [(0, "RUNNING\n", ""), (0, "PENDING\n", ""), (1, "", "Unable to contact slurm controller")])
def test_a_job_that_waits_runs_or_cannot_be_asked_for_has_not_ended(tmp_path: Path, monkeypatch, answer) -> None:
    answering(monkeypatch, answer)
    assert SlurmJob(Submitted(tmp_path)).poll() is None


@pytest.mark.parametrize(("outcome", "code"), [(("success", 0), 0), (("success", 2), 2), (("error", "Traceback"), 1)])
def test_the_exit_status_is_that_of_the_command(tmp_path: Path, monkeypatch, outcome, code: int) -> None:
    answering(monkeypatch, (1, "", "Invalid job id specified"))
    (tmp_path / "result.pkl").write_bytes(pickle.dumps(outcome))
    assert SlurmJob(Submitted(tmp_path)).poll() == code


def test_a_cancelled_job_has_failed_and_a_requeued_one_has_not(tmp_path: Path, monkeypatch) -> None:
    answering(monkeypatch, (0, "PENDING\n", ""), (0, "CANCELLED\n", ""))
    job = SlurmJob(Submitted(tmp_path))
    assert (job.poll(), job.poll()) == (None, 1)


def test_a_result_that_a_shared_folder_shows_late_is_waited_for(tmp_path: Path, monkeypatch) -> None:
    answering(monkeypatch, (0, "COMPLETED\n", ""))
    job = SlurmJob(Submitted(tmp_path))
    assert job.poll() is None
    monkeypatch.setattr("thalweg.experiments.slurm._WRITE_SECONDS", -1.0)
    assert job.poll() == 1


@pytest.mark.parametrize("code", [-signal.SIGTERM, TERMINATED])
def test_a_command_ended_by_its_cluster_leaves_no_result_before_the_job_ends(tmp_path: Path, monkeypatch, code: int) -> None:
    slept: list[float] = []
    monkeypatch.setattr("thalweg.experiments.remote_command.time.sleep", slept.append)
    ended = SimpleNamespace(wait=lambda: code)
    monkeypatch.setattr("thalweg.experiments.remote_command.LocalProcess", lambda *_: ended)
    assert RemoteCommand([], str(tmp_path / "log"), 1, False)() == code
    assert slept == [60.0]


DATA = MarkovConfig(sequences=96, held_out=64)


class Small(tw.Experiment):
    """Two seeds of one small arm."""

    seeds = 2

    def arms(self) -> dict[str, RunConfig]:
        training = TrainingConfig(steps=40, batch=16, evaluate_every=20, device="cpu", threads=1)
        return {"small": RunConfig(data=DATA, model=ModelConfig(length=11, width=8), training=training)}


def made_on(executor: str, folder: Path) -> None:
    """The same study by local processes and by an executor has the same weights and the same summary, which holds no times."""
    studies = [folder / "here" / "study", folder / "cluster" / "study"]
    for study, starts in zip(studies, (LocalProcesses(), executor_of(executor)), strict=True):
        make(Small(), study, 2, True, starts)
    hashes = [[read_json(path)["weights_sha256"] for path in sorted(study.glob("runs/*/summary.json"))] for study in studies]
    assert [len(set(of_seeds)) for of_seeds in hashes] == [2, 2]
    assert hashes[0] == hashes[1]
    here, there = (read_json(study / "summary.json") for study in studies)
    assert here["table"]["small"]["held-out loss (nats)"]["n"] == 2
    assert here == there


@pytest.mark.slow
def test_a_real_slurm_makes_the_same_study(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    if not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm answers here")
    made_on("slurm:minutes=5", tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_local_ray_makes_the_same_study(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    try:
        made_on("ray", tmp_path)
    finally:
        ray.shutdown()


def test_a_job_that_was_preempted_and_runs_again_is_not_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = [1000.0]
    monkeypatch.setattr("thalweg.experiments.slurm.time.monotonic", lambda: clock[0])
    job = SlurmJob(Submitted(tmp_path))
    for over in (True, False, False, True):
        monkeypatch.setattr(job, "_is_over", lambda over=over: over)
        monkeypatch.setattr(job, "_state", lambda: "")
        clock[0] += 1800
        assert job.poll() is None
