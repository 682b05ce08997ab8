import importlib.util
from pathlib import Path

import pytest

from thalweg.errors import BadInputError, MissingExtraError
from thalweg.experiments import executors
from thalweg.experiments.choose_executor import executor_of
from thalweg.experiments.executors import Allocation, LocalProcesses
from thalweg.experiments.remote_command import RemoteCommand


def test_local_is_processes_of_this_machine() -> None:
    assert isinstance(executor_of("local"), LocalProcesses)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slrum", "unknown executor 'slrum'; did you mean 'slurm'"),
        ("local:cpus=2", "`local` or `local:runs_per_gpu=N`"),
        ("slurm:runs_per_gpu=2", "no runs_per_gpu for slurm"),
        ("ray:gpus=2,runs_per_gpu=2", "gpus=1 with runs_per_gpu"),
        ("slurm:cpu=2", "did you mean 'cpus'"),
        ("slurm:cpus", "fields such as slurm:cpus=4"),
        ("slurm:cpus=0", "cpus: given 0"),
        ("ray:partition=main", "no partition for ray"),
    ],
)
def test_a_wrong_executor_is_one_line(text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        executor_of(text)


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_names_its_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == package else find(module))
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed; run: pip install 'thalweg\[{name}\]'"):
        executor_of(name)


def test_runs_are_placed_on_the_gpu_with_the_fewest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed, ended = [], []

    class Started:
        def __init__(self, command: list[str], log: Path, environment: dict[str, str], append: bool) -> None:
            self.number = len(placed)
            placed.append(environment.get("CUDA_VISIBLE_DEVICES"))

        def poll(self) -> int | None:
            return 0 if self.number in ended else None

    monkeypatch.setattr(executors, "ForkedProcess", Started)
    monkeypatch.setattr(executors, "LocalProcess", Started)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    executor = executor_of("local:runs_per_gpu=2")
    assert executor.most_at_once == 4
    for number in range(6):
        if number == 4:
            ended += [1, 3]  # both on GPU 7
        executor.start(["train"], tmp_path / "log", 4, append=False)
    assert placed == ["4", "7", "4", "7", "7", "7"]


def test_runs_per_gpu_without_a_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BadInputError, match="runs_per_gpu: given 2, expected a machine with a GPU; leave it out here"):
        executor_of("local:runs_per_gpu=2")


def test_an_allocation_is_one_core_for_an_hour() -> None:
    assert Allocation() == Allocation(cpus=1, gpus=0, minutes=60, partition="")


def test_a_remote_command_returns_the_exit_status_and_writes_the_log(tmp_path: Path) -> None:
    log = tmp_path / "stderr.log"
    assert RemoteCommand(["train", str(tmp_path / "nothing.toml")], str(log), threads=1, append=False)() == 2
    assert "there is no such file" in log.read_text()
