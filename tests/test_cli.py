import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thalweg import cli
from thalweg.train.config import RunConfig, config_text


def said(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    code = cli.call(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("command", [[], ["study"], ["train"], ["report"], ["recipe"], ["landscape"], ["shift-sweep"]])
def test_help_has_an_example_and_exits_with_0(command: list[str]) -> None:
    found = subprocess.run([sys.executable, "-m", "thalweg", *command, "--help"], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert "Example: thalweg" in re.sub(r"\s+", " ", found.stdout)


def test_help_does_not_import_torch() -> None:
    code = "import sys; from thalweg import cli; cli.call(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_importing_thalweg_does_not_import_torch() -> None:
    subprocess.run([sys.executable, "-c", "import sys, thalweg; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "markow"], "unknown study 'markow'; did you mean 'markov'"),
        (["study", "markov", "--preset", "papper"], "unknown preset 'papper'; did you mean 'paper'"),
        (["study", "markov", "--arms", "single,lopped"], "unknown arm 'lopped'; did you mean 'looped'"),
        (["study", "markov", "--seeds", "many"], "many"),
        (["study", "markov", "--jobs", "-3", "--out", "/nonexistent/x"], "--jobs: given -3"),
        (["study"], "TASK"),
        (["stdy"], "stdy"),
        (["study", "markov", "--prset", "quick"], "--prset"),
        (["study", "text", "--text", "/no/such/place", "--out", "OUT"], "/no/such/place"),
        (["train", "none.toml"], "config none.toml: there is no such file"),
        (["landscape", "/no/such/run"], "there is no config.toml in it"),
        (["study", "markov", "--preset", "large"], "--preset: given 'large', expected one that markov has"),
        (["report", "/no/such/study"], "there is no study.json in it"),
        (["shift-sweep", "markov", "--groups", "scp,onsets"], "unknown group 'onsets'; did you mean 'onset'"),
        (["shift-sweep", "markov", "--loops", "1"], "--loops: given 1, expected at least 2 passes"),
        (["shift-sweep", "text", "--text", "/no/such/place", "--out", "OUT"], "/no/such/place"),
        (["recipe", "markov", "--arm", "shfit"], "unknown arm 'shfit'; did you mean 'shift'"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in arguments]
    code, _, err = said(capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.startswith("thalweg: ")
    assert err.count("\n") == 1


def test_recipe_prints_a_config_that_train_accepts(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    code, out, _ = said(capsys, "recipe", "markov", "--arm", "shift", "--seed", "4")
    assert code == 0
    (tmp_path / "run.toml").write_text(out)
    small = ["--set", "training.steps=6", "--set", "data.sequences=32", "--set", "data.held_out=16"]
    code, out, _ = said(capsys, "train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run"), *small, "--json")
    assert code == 0
    assert (json.loads(out)["seed"], json.loads(out)["steps"]) == (4, 6)


def test_a_run_from_the_command_line_is_the_run_from_python(capsys: pytest.CaptureFixture, tmp_path: Path, tiny: RunConfig) -> None:
    from thalweg.train.trainer import train

    (tmp_path / "run.toml").write_text(config_text(tiny))
    code, out, _ = said(capsys, "train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "a"), "--json")
    assert code == 0
    assert json.loads(out)["weights_sha256"] == train(tiny, tmp_path / "b").weights_sha256


def test_several_ranks_are_refused_rather_than_wrong(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = said(capsys, "train", str(tmp_path / "x.toml"))
    assert code == 1
    assert "started on several ranks, expected one process" in err


def test_an_interrupt_exits_with_130(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupt)
    code, _, err = said(capsys, "anything")
    assert (code, err) == (130, "thalweg: interrupted; give the same command again to go on\n")


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture) -> None:
    from importlib.metadata import version

    assert said(capsys, "--version")[1].strip() == version("thalweg")
