import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from thalweg import cli
from thalweg.experiments.frontier.definition import FrontierStudy
from thalweg.experiments.frontier.plan import plan_frontier
from thalweg.train.config import RunConfig, config_text, read_config


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
        (["study", "tasks", "--task", ""], "--task: given '', expected a value; leave --task out for the default"),
        (["study", "markov", "--arms="], "--arms: given '', expected a value"),
        (["frontier", "markov", "--out="], "--out: given '', expected a value"),
        (["train", "run.toml", "--set", ""], "--set: given '', expected a value"),
        (["frontier", "markov", "--arms", ","], "--arms: given ',', expected a value"),
        (["report", ""], "the argument after report: given '', expected a value"),
        ([""], "command: given '', expected a value"),
        (["--versoin"], "unknown option '--versoin'; did you mean '--version'?"),
        (["help"], "unknown command 'help'; did you mean '--help'?"),
        (["report", "a", "b", "c"], "given 'c' besides, expected nothing more; `thalweg report --help` has an example"),
        (["study", "markow"], "unknown study 'markow'; did you mean 'markov'"),
        (["study", "markov", "--preset", "papper"], "unknown preset 'papper'; did you mean 'paper'"),
        (["study", "markov", "--arms", "single,lopped"], "unknown arm 'lopped'; did you mean 'looped'"),
        (["study", "markov", "--seeds", "many"], "many"),
        (["study", "markov", "--jobs", "-3", "--out", "/nonexistent/x"], "--jobs: given -3"),
        (["study"], "SOURCE"),
        (["stdy"], "stdy"),
        (["study", "markov", "--prset", "quick"], "--prset"),
        (["study", "text", "--text", "/no/such/place", "--out", "OUT"], "/no/such/place"),
        (["train", "none.toml"], "config none.toml: there is no such file"),
        (["train", "none.toml", "--lr", "0.1"], "option of `thalweg train` '--lr'; did you mean '--set optimizer.rate=VALUE'?"),
        (["plan", "none.toml", "--lr", "8"], "did you mean '--set optimizer.rate=VALUE' or '--rate'?"),
        (["train", "none.toml", "--step", "8"], "did you mean '--set training.steps=VALUE'?"),
        (
            ["plan", "none.toml", "--batch-size", "8"],
            "option of `thalweg plan` '--batch-size'; did you mean '--set training.batch=VALUE'?",
        ),
        (["train", "none.toml", "--nonsense", "8"], "unknown option of `thalweg train` '--nonsense'; known: --json, "),
        (["frontier", "markov", "--arms", "single"], "unknown arm 'single'; did you mean 'depth-1'"),
        (["recipe", "markov", "--arm", "staged"], "unknown arm 'staged'; did you mean 'shift'"),
        (["landscape", "/no/such/run"], "there is no config.toml in it"),
        (["study", "markov", "--preset", "large"], "--preset: given 'large', expected one that markov has"),
        (["report", "/no/such/study"], "there is no study.json, sweep.json, tasks.json, frontier.json or experiment.json in it"),
        (["shift-sweep", "markov", "--groups", "scp,onsets"], "unknown group 'onsets'; did you mean 'onset'"),
        (["shift-sweep", "markov", "--loops", "1"], "--loops: given 1, expected at least 2 passes"),
        (["shift-sweep", "text", "--text", "/no/such/place", "--out", "OUT"], "/no/such/place"),
        (["frontier", "text", "--text", "/no/such/place", "--out", "OUT"], "/no/such/place"),
        (["recipe", "markov", "--arm", "shfit"], "unknown arm 'shfit'; did you mean 'shift'"),
        (["recipe", "pointers", "--arm", "depth-6"], "unknown arm 'depth-6'; did you mean 'depth-5'"),
        (["recipe", "pointer"], "unknown recipe 'pointer'; did you mean 'pointers'"),
        (["study", "parity"], "unknown study 'parity'; give `thalweg study tasks --task parity`. Known: markov, text, tasks"),
        (["study", "pointers"], "unknown study 'pointers'; give `thalweg frontier pointers`. Known"),
        (["study", "thalweg.data.tasks.copy:Copy"], "it is a task: give `thalweg study tasks --task thalweg.data.tasks.copy:Copy`"),
        (
            ["recipe", "tests.test_reprs:Widths"],
            "it is an experiment: give `thalweg study tests.test_reprs:Widths`",
        ),
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


@pytest.mark.parametrize(("source", "arm", "stages"), [("pointers", "", (5,)), ("ancestors", "staged", (2, 3, 5))])
def test_a_recipe_of_a_source_that_only_a_frontier_has_is_one_of_its_runs(
    source: str, arm: str, stages: tuple[int, ...], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    code, out, _ = said(capsys, "recipe", source, *(["--arm", arm] if arm else []), "--seed", "4")
    assert code == 0
    (tmp_path / "run.toml").write_text(out)
    config = read_config(tmp_path / "run.toml")
    assert (config.arm, config.seed, config.shift.stages) == (arm or "depth-5", 4, stages)
    plan = plan_frontier(source, "quick", (arm,) if arm else (), seeds=1)
    jobs = FrontierStudy(plan).runs_of(tmp_path, config.arm, plan.settings[1])
    assert replace(config, seed=plan.seeds[0]) == jobs[plan.budgets[-1]][plan.seeds[0]].config


def test_a_run_from_the_command_line_is_the_run_from_python(capsys: pytest.CaptureFixture, tmp_path: Path, tiny: RunConfig) -> None:
    from thalweg.train.trainer import train

    (tmp_path / "run.toml").write_text(config_text(tiny))
    code, out, _ = said(capsys, "train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "a"), "--json")
    assert code == 0
    assert json.loads(out)["weights_sha256"] == train(tiny, tmp_path / "b").weights_sha256


def test_several_ranks_without_an_address_are_refused(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = said(capsys, "train", str(tmp_path / "x.toml"))
    assert code == 2
    assert "WORLD_SIZE is 2, expected RANK, MASTER_ADDR, MASTER_PORT to be set too; start the command with torchrun" in err


def test_an_interrupt_exits_with_130(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupt)
    code, _, err = said(capsys, "anything")
    assert (code, err) == (130, "thalweg: interrupted; give the same command again to go on\n")


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture) -> None:
    from importlib.metadata import version

    assert said(capsys, "--version")[1].strip() == version("thalweg")


def test_a_recipe_s_run_has_curves_in_its_landscape_and_one_without_snapshots_says_what_to_set(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(said(capsys, "recipe", "markov", "--arm", "shift")[1])
    small = ["--set", "training.steps=8", "--set", "data.sequences=32", "--set", "data.held_out=16", "--set", "model.width=4"]
    fast = ["--exact-seconds", "0", "--replays", "0", "--no-slices", "--empty-lengths", "--sequences", "4"]
    told = {}
    for name, more in (("with", []), ("without", ["--set", "training.snapshots=0"])):
        made = said(capsys, "train", str(tmp_path / "run.toml"), "--out", str(tmp_path / name), *small, *more)
        seen = said(capsys, "landscape", str(tmp_path / name), *fast)
        assert (made[0], seen[0]) == (0, 0), (made, seen)
        told[name] = seen[2]
    assert "figures need at least 3" not in told["with"]
    assert "1 point, its figures need at least 3 to be curves; train it with --set training.snapshots=12" in told["without"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "markov", "--jobs", "0.5"], "--jobs: given '0.5', expected a whole number"),
        (["study", "markov", "--seeds", "2.7"], "--seeds: given '2.7', expected a whole number"),
        (
            ["study", "markov", "--seeds", "9" * 20],
            "--seeds: given 99999999999999999999, expected a whole number of at most 10,000",
        ),
        (["landscape", "x", "--threads", "-1"], "--threads: given -1, expected a whole number of at least 0"),
        (["landscape", "x", "--lengths", "1.5"], "--lengths: given '1.5', expected a whole number"),
        (["train", "\x1b[2J[bold]\u202e\udcff.toml"], r"config \x1b[2J[bold]\u202e\udcff.toml: there is no such file"),
        (["report", "\u202e\x1b[1m"], r"study \u202e\x1b[1m: there is no study.json"),
    ],
    ids=repr,
)
def test_options_and_names_that_nobody_should_give_get_one_inert_line(
    capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    code, out, err = said(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_the_report_of_a_run_leads_to_its_landscape(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(config_text(RunConfig()))
    code, _, err = said(capsys, "report", str(tmp_path))
    assert (code, err.count("\n")) == (2, 1)
    assert f"it is a run, expected a study; for a run give `thalweg landscape {tmp_path}`" in err
    (tmp_path / "lengths.json").write_text("[]")
    assert f"for a run its exact matches are in {tmp_path / 'lengths.json'}" in said(capsys, "report", str(tmp_path))[2]


def test_a_run_that_cannot_fit_is_told_what_it_needs_and_leaves_nothing(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    data = "kind = 'markov'\nlength = 1000000\nsequences = 1000000000"
    (tmp_path / "run.toml").write_text(f"arm = 'big'\n[data]\n{data}\n[model]\nlength = 999999\n")
    code, _, err = said(capsys, "train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "a" / "b"))
    assert code == 2
    assert "run big, data: needs 7450595.5 GiB, the limit is" in err
    assert not (tmp_path / "a").exists()


def test_an_unknown_command_leads_to_all(capsys: pytest.CaptureFixture) -> None:
    assert cli.call(["landscpe", "run"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("thalweg: unknown command 'landscpe'; did you mean 'landscape'? Known: --help, doctor, ")
    assert told.endswith(", verify\n")


def test_a_study_of_chosen_tasks_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("thalweg.experiments.engine.make", lambda _experiment, folder, *_: made.append(folder.name))
    for chosen in ([], ["--task", "parity,copy"]):
        assert cli.call(["study", "tasks", "--preset", "small", *chosen]) == 0
    assert made == ["tasks-small", "tasks-parity-copy-small"]
