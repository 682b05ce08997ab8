import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made import make_report, plan_in, run_sweep

from thalweg import cli
from thalweg.errors import FolderError
from thalweg.experiments.executors import LocalProcesses
from thalweg.experiments.switching import variants as switching
from thalweg.experiments.switching.definition import jobs_of, summarise
from thalweg.experiments.switching.variants import SweepPreset, sweep_of
from thalweg.records.run import read_run


@pytest.fixture(scope="module", autouse=True)
def small():
    """A sweep of seconds: two settings, a run of 60 updates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(switching.PRESETS, "quick", SweepPreset(1, {"markov": 60, "text": 60}, (1.0,), (9.0,), (1, 99)))
        rule = replace(switching.CRITERION, delta_loss=1.0, delta_grad=9.0, patience=1, window=10)
        patch.setattr(switching, "CRITERION", rule)
        yield


@pytest.fixture(scope="module")
def once(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once") / "sweep"
    run_sweep(sweep_of("markov", "quick", 3, ("scp",)), folder, 2, as_json=False)
    return folder


@pytest.fixture
def made(once: Path, tmp_path: Path) -> Path:
    """A complete sweep that a test may spoil."""
    return Path(shutil.copytree(once, tmp_path / "sweep"))


@pytest.mark.slow
def test_a_sweep_ends_with_table_answers_figures_and_page(made: Path, capsys: pytest.CaptureFixture) -> None:
    make_report(made, as_json=False)
    said = capsys.readouterr().out
    assert all(word in said for word in ("shift-hard", "variants of the switch 1 -> 3", "report.html", "Which settings of SCP"))
    assert "scp-drop.svg" in {path.name for path in (made / "figures").iterdir()}
    assert (made / "report.html").stat().st_size > 10_000
    make_report(made, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["outcomes"]) == 8


@pytest.mark.slow
def test_settings_share_runs_and_one_that_never_fires_is_single(made: Path) -> None:
    sweep = plan_in(made)
    assert len(jobs_of(sweep, made)) == 7  # six references, and one moment for two settings
    found = {outcome.name: outcome for outcome in summarise(sweep, made).outcomes}
    assert found["scp 1, 9, 99"].final_loss == found["single"].final_loss
    assert found["scp 1, 9, 99"].switched == 0
    at_20 = found["scp 1, 9, 1"]
    assert at_20.switch_step.mean == 20
    assert at_20.final_loss == found["shift-scp"].final_loss  # the default's own setting
    weights = [read_run(made / "runs" / name).summary.weights_sha256 for name in ("shift-scp-seed0", "at-00020-seed0")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was(made: Path, capsys: pytest.CaptureFixture) -> None:
    whole = summarise(plan_in(made), made)
    for path in (made / "runs").glob("at-*"):
        shutil.rmtree(path)
    assert not summarise(plan_in(made), made).complete
    run_sweep(plan_in(made), made, 1, as_json=False)
    again = summarise(plan_in(made), made)
    assert "7 runs, 6 complete already" in capsys.readouterr().err
    assert [one.final_loss for one in again.outcomes] == [one.final_loss for one in whole.outcomes]


@pytest.mark.slow
def test_a_sweep_that_is_still_going_on_says_what_is_missing(made: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.rmtree(made / "runs" / "looped-seed0")
    make_report(made, as_json=False)
    assert "missing: looped-seed0" in capsys.readouterr().out
    for path in (made / "runs").iterdir():
        (path / "summary.json").unlink(missing_ok=True)
    with pytest.raises(FolderError, match="none of its 6 runs is complete; run `thalweg shift-sweep` again"):
        summarise(plan_in(made), made)


@pytest.mark.slow
def test_a_folder_of_another_sweep_is_refused_and_left_alone(made: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in made.rglob("*"))
    with pytest.raises(
        FolderError,
        match=r"another sweep or other settings \(loops is 3 there, given 4, expected the same\); choose another --out",
    ):
        run_sweep(sweep_of("markov", "quick", 4, ("scp",)), made, 1, as_json=False)
    assert sorted(path.name for path in made.rglob("*")) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(FolderError, match=r"the folder holds 'thesis.txt' and is no sweep"):
        run_sweep(sweep_of("markov", "quick"), tmp_path / "mine", 1, as_json=False)


def test_the_command_hands_over_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("thalweg.experiments.engine.make", lambda found, *given: asked.append((found.plan, *given)))
    assert cli.call(["shift-sweep", "markov", "--groups", "share, scp", "--loops", "4", "--jobs", "3"]) == 0
    assert cli.call(["shift-sweep", "text", "--groups", "none", "--seeds", "1", "--out", "here", "--json"]) == 0
    first, second = asked
    assert first[0] == sweep_of("markov", "quick", 4, ("scp", "share"))
    assert (first[1], first[2], first[3]) == (Path("results/markov-shift-4-quick"), 3, False)
    assert second[:4] == (sweep_of("text", "quick", 4, (), 1), Path("here"), 0, True)
    assert isinstance(second[4], LocalProcesses)
