import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made import claim_study, make_report, plan_in, read_summary, run_study

from thalweg import cli
from thalweg.errors import DamagedRecordWarning, FolderError, ThalwegError
from thalweg.experiments.executors import LocalProcesses
from thalweg.experiments.paper import recipes
from thalweg.experiments.paper.recipes import Preset, plan
from thalweg.experiments.queue import Job, failed_for_good, last_line, prepare, why_it_ended, work_off
from thalweg.train.config import RunConfig, read_config
from thalweg.train.failures import record_failure

ARMS = ("single", "looped", "shift", "shift-hard")


@pytest.fixture(scope="module", autouse=True)
def small():
    """Presets of seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.PRESETS, "quick", Preset(2, ARMS, {"markov": 90, "text": 60}))
        yield


@pytest.fixture(scope="module")
def once(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once") / "study"
    run_study(plan("markov", "quick"), folder, 2, as_json=False)
    return folder


@pytest.fixture
def made(once: Path, tmp_path: Path) -> Path:
    """A complete study that a test may spoil."""
    return Path(shutil.copytree(once, tmp_path / "study"))


@pytest.mark.slow
def test_a_study_ends_with_table_verdicts_figures_and_page(made: Path, capsys: pytest.CaptureFixture) -> None:
    make_report(made, as_json=False)
    said = capsys.readouterr().out
    summary = read_summary(made)
    assert summary.complete
    assert all(word in said for word in ("looped", "shift-hard", "train high acc.", "report.html"))
    assert {p.suffix for p in (made / "figures").iterdir()} == {".svg", ".png"}
    assert json.loads((made / "verdicts.json").read_text())[0]["claim"]
    cells = summary.table["looped"]
    assert cells["train high accuracy"].ceiling == pytest.approx(0.695, abs=0.02)
    assert cells["target seconds"].n == 2


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_and_skips_what_is_done(made: Path) -> None:
    summary = made / "runs" / "single-seed0" / "summary.json"
    before = summary.stat().st_mtime_ns
    page = (made / "summary.json").read_text()
    for path in (made / "runs" / "looped-seed1").rglob("*"):
        if path.is_file() and path.name != "config.toml":
            path.unlink()
    weights = json.loads((made / "runs" / "looped-seed0" / "summary.json").read_text())["weights_sha256"]
    run_study(plan("markov", "quick"), made, 2, as_json=True)
    assert summary.stat().st_mtime_ns == before
    assert json.loads((made / "runs" / "looped-seed1" / "summary.json").read_text())["weights_sha256"] != weights
    assert (
        json.loads(page)["table"]["looped"]["train high accuracy"]
        == (json.loads((made / "summary.json").read_text())["table"]["looped"]["train high accuracy"])
    )


@pytest.mark.slow
def test_a_partial_study_is_reported_with_what_is_missing(made: Path) -> None:
    (made / "runs" / "shift-seed1" / "summary.json").unlink()
    make_report(made, as_json=True)
    steps = read_config(made / "runs" / "shift-seed1" / "config.toml").training.steps
    assert read_summary(made).missing == (f"shift-seed1 ({steps:,} of {steps:,} updates)",)
    page = (made / "report.html").read_text()
    assert "This study is not complete: 1 run is missing, " in page
    assert "shift-seed1 (" in page


@pytest.mark.slow
def test_a_damaged_record_is_left_out_and_named(made: Path) -> None:
    journal = made / "runs" / "single-seed1" / "metrics.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[2] = lines[2][:-5]
    journal.write_bytes(b"\n".join(lines))
    whole = read_summary(made).table
    make_report(made, as_json=True)
    found = read_summary(made)
    assert len(found.missing) == 1
    assert found.missing[0].startswith("single-seed1 (damaged record metrics.jsonl: ")
    assert found.table["looped"]["seconds"] == whole["looped"]["seconds"]
    assert found.table["single"]["seconds"].n == 1


@pytest.mark.slow
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("[" * 5000)])
def test_a_plan_that_is_damaged_is_written_anew_where_the_runs_are_those_of_the_command(made: Path, damage) -> None:
    damage(made / "study.json")
    with pytest.raises(ThalwegError, match=r"is no study|damaged record"):
        run_study(plan("markov", "quick", ("single",)), made, 1, as_json=True)
    with pytest.warns(DamagedRecordWarning, match=r"study\.json.*its runs are those of this study, so it was written anew"):
        run_study(plan("markov", "quick"), made, 1, as_json=True)
    assert plan_in(made) == plan("markov", "quick")


@pytest.mark.slow
def test_a_damaged_summary_of_a_run_is_made_again_by_the_study(made: Path) -> None:
    path = made / "runs" / "looped-seed0" / "summary.json"
    weights = json.loads(path.read_text())["weights_sha256"]
    path.write_text("[]")
    with pytest.warns(DamagedRecordWarning, match=r"looped-seed0/summary\.json.* made again from the last checkpoint"):
        run_study(plan("markov", "quick"), made, 1, as_json=True)
    assert read_summary(made).complete
    assert json.loads(path.read_text())["weights_sha256"] == weights


@pytest.mark.slow
def test_text_study_speaks_in_bits_per_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALWEG_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(20):
        (corpus / f"{number}.txt").write_text(f"{number}: the river runs down the valley, hopping\n" * 40)
    run_study(plan("text", "quick", arms=("looped",), seeds=1, text=str(corpus)), tmp_path / "study", 2, as_json=False)
    row = read_summary(tmp_path / "study").table["looped"]
    assert 0 < row["held-out bits"].mean < 8  # type: ignore[operator]


@pytest.mark.slow
def test_a_failed_run_leaves_the_others_and_is_named(tiny: RunConfig, tmp_path: Path) -> None:
    jobs = [Job("good", tiny, tmp_path / "good"), Job("bad", replace(tiny, seed=1), tmp_path / "bad")]
    prepare(jobs)
    (tmp_path / "bad" / "checkpoints").mkdir()
    (tmp_path / "bad" / "checkpoints" / "step-000000007.safetensors").write_bytes(b"junk")
    seen = []
    failed = work_off(jobs, 2, lambda share, done, names: seen.append((share, done)), LocalProcesses())
    assert list(failed) == ["bad"]
    assert "damaged checkpoint" in failed["bad"]
    assert jobs[0].complete
    shares, complete = zip(*seen, strict=True)
    assert list(shares) == sorted(shares)
    assert (min(complete), complete[-1]) == (0, 1)


@pytest.mark.parametrize("torn", ["", '{"type": "step", "step": ', '{"type": "step", "step": 1'])
def test_a_line_that_is_being_written_is_not_read(torn: str, tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"type": "step", "step": 25, "loss": 1.0}\n' + torn)
    assert Job("one", tiny, tmp_path).status == f"one (25 of {tiny.training.steps:,} updates)"


@pytest.mark.slow
def test_an_interrupted_study_stops_its_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "thalweg", "study", "markov", "--out", str(tmp_path / "s"), "--jobs", "2"]
    # A shell that starts tests in the background hands down an interrupt that is ignored; a terminal does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    signal.signal(signal.SIGINT, before)
    began = time.monotonic()
    while not list(tmp_path.glob("s/runs/*/metrics.jsonl")) and time.monotonic() - began < 90:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; give the same command again to go on" in said


def test_a_folder_of_another_study_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_study(plan("markov", "quick"), tmp_path)
    assert plan_in(tmp_path) == plan("markov", "quick")
    with pytest.raises(FolderError, match="belongs to another study or other settings"):
        claim_study(plan("text", "quick"), tmp_path)


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert cli.call(["study", "markov", "--out", str(tmp_path)]) == 2


def test_a_study_without_complete_runs_says_so(tmp_path: Path) -> None:
    claim_study(plan("markov", "quick"), tmp_path)
    with pytest.raises(FolderError, match="none of its 8 runs is complete"):
        make_report(tmp_path, as_json=False)


def test_the_last_line_of_an_empty_log_says_so(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n\n")
    assert last_line(tmp_path / "log") == "its log holds no message"


def test_a_run_has_failed_when_it_wrote_so_down_and_not_when_its_log_ends_in_a_warning(tmp_path: Path) -> None:
    (tmp_path / "stderr.log").write_text("thalweg: warning: text corpus: left out 1 named pipe; 9 files are used\n")
    assert not failed_for_good(tmp_path)
    record_failure(tmp_path, "DivergedError", "loss not finite")
    assert failed_for_good(tmp_path)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            -signal.SIGKILL,
            "ended by signal 9 (SIGKILL); it was killed, most often because memory ran out: make fewer runs at a time",
        ),
        (-signal.SIGSEGV, "ended by signal 11 (SIGSEGV)"),
        (1, "Traceback"),
    ],
)
def test_a_run_that_could_not_say_why_it_ended_has_it_written_down(code: int, told: str, tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "stderr.log").write_text("thalweg: warning: something\nTraceback of something\n")
    assert why_it_ended(Job("one", tiny, tmp_path), code).startswith(told)
    assert failed_for_good(tmp_path)
    assert Job("one", tiny, tmp_path).status == "one (failed)"


def test_an_interruption_is_no_failure(tiny: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "stderr.log").write_text("thalweg: interrupted; give the same command again to go on\n")
    assert "interrupted" in why_it_ended(Job("one", tiny, tmp_path), 130)
    assert not failed_for_good(tmp_path)
