"""A frontier small enough for seconds: settings are chosen, arms trained, the page written; extended, compared and made again."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from thalweg import cli
from thalweg.experiments.engine import make
from thalweg.experiments.frontier import definition
from thalweg.experiments.frontier.definition import FrontierStudy
from thalweg.experiments.frontier.plan import plan_frontier


def small(seeds: int = 1):
    plan = plan_frontier("markov", "quick", ("staged",), seeds=seeds, loops=3)
    return replace(plan, budgets=(6.0, 8.0), rates=(1e-3, 3e-3))


@pytest.mark.slow
def test_a_small_frontier_is_made_and_reported_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(FrontierStudy(small()), tmp_path / "made", 2, as_json=True)
    told = capsys.readouterr()
    summary = json.loads(told.out)
    first, *others = told.err.splitlines()
    assert first == f"frontier: `thalweg report {tmp_path / 'made'}` in another terminal shows what is complete so far"
    assert others[0] == "frontier: 4 runs, 0 complete already, 2 at a time; the others follow from these"
    tenths = [line for line in others if "of the work" in line]
    assert re.fullmatch(
        r"frontier: 100 % of the work of this part is done, 4 of 4 runs complete; .+ so far",
        [line for line in tenths if "this part" in line][-1],
    )
    assert "frontier: 4 runs, 0 complete already, 2 at a time" in others
    assert re.fullmatch(r"frontier: 100 % of the work is done, 4 of 4 runs complete; .+ so far", tenths[-1])
    assert summary["complete"]
    assert set(summary["table"]) == {"depth-3", "staged"}
    assert summary["verdicts"][1]["verdict"] == "undecided"
    assert "At least 3 seeds are needed for any answer." in summary["first"]["sure"]
    assert set(summary["arm_words"]) == set(summary["table"])
    assert (tmp_path / "made" / "figures" / "frontier.svg").exists()
    page = (tmp_path / "made" / "report.html").read_bytes()
    assert b"which schedule of passes ends with the lowest held-out loss" in page
    assert b'href="https://arxiv.org/abs/2510.10089"' in page
    runs = {path.parent.name for path in (tmp_path / "made" / "runs").glob("*/summary.json")}
    assert len([name for name in runs if name.startswith("tuning-")]) == 2 * 2
    assert cli.call(["report", str(tmp_path / "made")]) == 0
    assert (tmp_path / "made" / "report.html").read_bytes() == page
    assert cli.call(["report", str(tmp_path / "made"), str(tmp_path / "made"), "--out", str(tmp_path / "compared")]) == 0


def test_an_incomplete_frontier_compares_the_budgets_at_which_nothing_is_missing() -> None:
    study = FrontierStudy(small(seeds=3))
    (low, high), seeds = study.plan.budgets, study.plan.seeds
    runs = {seed: object() for seed in seeds}

    def kept(records: dict, *missing: str) -> tuple[tuple[float, ...], dict]:
        plan, left = study._comparable(records, missing)
        return plan.budgets, left

    some = {"staged": {low: {}, high: runs}, "depth-3": {low: {}, high: runs}, "shift": {}}
    late = f"staged-{low:g}gf-seed{seeds[0]}"
    assert kept(some, late) == ((high,), {"staged": {high: runs}, "depth-3": {high: runs}, "shift": {}})
    assert kept(some) == (study.plan.budgets, some)  # what is missing failed: nothing more will come
    assert kept(some, f"shift-{low:g}gf-seed{seeds[0]}")[0] == study.plan.budgets  # an arm that has not begun
    first = f"depth-3-{high:g}gf-seed{seeds[1]}"
    few = {"staged": {low: {}, high: runs}, "depth-3": {low: runs, high: {seeds[0]: runs[seeds[0]]}}}
    assert kept(few, late, first)[0] == (high,)
    none = {"staged": {low: runs, high: {}}, "depth-3": {low: {}, high: runs}}
    assert kept(none, late, f"staged-{high:g}gf-seed{seeds[0]}") == (study.plan.budgets, none)


def test_the_setting_with_the_lowest_mean_loss_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = FrontierStudy(small())

    class Done:
        complete = True

        def __init__(self, record: float | None) -> None:
            self.record = record
            self.folder = tmp_path

    monkeypatch.setattr(definition, "final_loss", lambda record: record)
    low, high = study.plan.settings
    assert study._best_setting({low: [Done(0.3), Done(0.5)], high: [Done(0.1), Done(0.9)]}) == low  # type: ignore[list-item, dict-item]
    assert study._best_setting({low: [Done(None)], high: [Done(0.9)]}) == high  # type: ignore[list-item, dict-item]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mars"], "unknown source 'mars'"),
        (["markov", "--preset", "huge"], "unknown preset 'huge'"),
        (["markov", "--arms", "depth-99"], "unknown arm 'depth-99'"),
        (["markov", "--loops", "1"], "at least 2"),
        (["markov", "--device", "cuda:77"], "device"),
        (["markov", "--budgets", "105,ten"], "--budgets: given '105,ten', expected numbers with commas between them"),
        (["markov", "--budgets", "105,inf"], "--budgets: given '105,inf'"),
        (["markov", "--budgets", "105,53"], "--budgets: given '105, 53', expected numbers of GFLOP above 0 that rise"),
        (["markov", "--budgets", "0,53"], "--budgets: given '0, 53'"),
        (["markov", "--budgets", "1"], "expected at least 40, twice the warm-up"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["frontier", *options, "--out", str(tmp_path / "made")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "made").exists()
