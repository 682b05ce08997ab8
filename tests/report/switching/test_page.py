import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_sweeps import make_runs, make_sweep
from pages import CHROMIUM, HOSTILE, Tags, laid_out, leaving, opened, unexplained

from thalweg.records.experiment import FirstScreen, Outcome, Share
from thalweg.records.run import Cell, Verdict
from thalweg.report.switching.page import by_group, share_in_words, short, write_sweep_report


def hostile(sweep):
    """Everything that can be named has a hostile name."""
    verdict = Verdict(HOSTILE, HOSTILE, numbers={HOSTILE: Cell(1.0)})
    bad = Outcome(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, share_seconds=Share(0.5, None, None, 1, 0))
    return replace(
        sweep,
        name=HOSTILE,
        task=HOSTILE,
        preset=HOSTILE,
        complete=False,
        missing=(HOSTILE,),
        outcomes=(*sweep.outcomes, bad),
        verdicts=(verdict,),
        first=FirstScreen(HOSTILE, (HOSTILE,), HOSTILE, HOSTILE),
        setup=dict.fromkeys(("Model", "Training", HOSTILE), HOSTILE),
        provenance=replace(sweep.provenance, device=HOSTILE, commit=HOSTILE),
    )


@pytest.fixture(scope="module")
def sweep():
    return make_sweep(seeds=2, few=True)


@pytest.fixture(scope="module")
def runs():
    return make_runs(seeds=2)


@pytest.fixture(scope="module")
def folder(sweep, runs, tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("sweep")
    write_sweep_report(sweep, runs, where)
    return where


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder / "report.html").read_text()


def test_page_has_every_figure_inside_with_words_for_the_blind(page) -> None:
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    assert len(images) == 7
    assert all(i["src"].startswith("data:image/") and len(i["alt"]) > 20 for i in images)


def test_units_in_tables_are_explained_above_them(page) -> None:
    assert "nats" in page
    assert unexplained(page) == set()


def test_figures_are_kept_as_files_too(folder) -> None:
    files = {p.name for p in (folder / "figures").iterdir()}
    names = ("loss-over-time", "switch-enlarged", "scp-drop", "scp-difference", "scp-share", "outcome-by-step", "other-ways")
    assert files == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}


def test_page_asks_the_network_for_nothing(page) -> None:
    assert leaving(page) == []
    assert "<script" not in page


def test_what_was_found_comes_first_then_answers_and_the_command_last(page) -> None:
    parts = [
        "<li>Loops help.</li><li>Stages save.</li>",
        'id="loss-over-time"',
        "<h2>What to do with it</h2>\n<p>Loop on parity.</p>",
        "After a third of the updates.",
        '<section id="outcomes">',
        'id="switch-enlarged"',
        "<h2>Set-up</h2>",
        "thalweg shift-sweep",
    ]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_the_table_has_a_row_for_every_outcome_with_its_numbers(page, sweep) -> None:
    for outcome in sweep.outcomes:
        row = page[page.index(f'<th scope="row">{outcome.name}<') :]
        row = row[: row.index("</tr>")]
        assert f"<span>{outcome.final_loss.mean:.4g}<small>" in row
        assert f"<span>{outcome.difference.mean:+.4f}<small>" in row
        headings = re.findall(r'<th scope="col">([^<]*)', page[: page.index(row)].rpartition("<thead>")[2])
        assert re.findall(r'data-label="([^"]*)"', row) == headings[1:]


def test_missing_runs_and_empty_numbers_are_said(sweep, tmp_path) -> None:
    some = replace(
        sweep,
        complete=False,
        missing=("at-00140-seed1",),
        command="thalweg shift-sweep markov",
        outcomes=(Outcome("looped", "reference"),),
        verdicts=(),
    )
    write_sweep_report(some, {}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "This sweep is not complete: 1 run is missing, and everything below is from the others." in page
    assert "run <code>thalweg shift-sweep markov --out FOLDER</code>" in page
    assert "<summary>its name</summary>at-00140-seed1<" in page
    assert "<span>0 " not in page
    assert "0 of 2 seeds" in page
    assert 'id="answers"' not in page


def test_empty_groups_are_left_out(sweep) -> None:
    assert list(by_group(sweep)) == ["reference", "onset", "optimizer", "stages", "share", "safety", "scp"]
    assert list(by_group(make_sweep(2, scp=False, others=False))) == ["reference"]


def test_shares_in_words() -> None:
    assert share_in_words(None) == ["-"]
    assert share_in_words(Share(0.6, 0.5, 0.71, 5, 0)) == ["0.6", "[0.5, 0.71]"]
    assert share_in_words(Share(0.6, None, None, 1, 0)) == ["0.6"]
    assert share_in_words(Share(0.6, 0.5, None, 5, 2)) == ["median 0.6", "smallest 0.5", "not reached in 2 of 5 runs"]
    assert share_in_words(Share(None, None, None, 5, 5)) == ["not reached", "in any of 5 runs"]
    assert share_in_words(Share(None, 0.7, None, 5, 3)) == ["not reached", "in 3 of 5 runs", "smallest 0.7"]


def test_short_numbers() -> None:
    assert [short(x) for x in (None, 1025.4, 0.51234, 0.0)] == ["-", "1025", "0.512", "0"]


def test_names_of_users_are_inert(sweep, runs, tmp_path) -> None:
    write_sweep_report(hostile(sweep), runs, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in page
    assert page.count("{{ 7*7 }}") > 10  # shown as it is, not evaluated


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep with names that would do harm."""
    folder = tmp_path_factory.mktemp("hostile")
    write_sweep_report(hostile(make_sweep()), make_runs(), folder)
    return folder / "report.html"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_page_in_a_real_browser(hostile_page: Path, width: int) -> None:
    with opened(hostile_page, width) as (page, wrong):
        sizes, overflow, title = laid_out(page)
    assert wrong == []
    assert len(sizes) == 7
    assert all(natural > 0 and shown > 0.8 * min(width, 1088) - 40 for natural, shown in sizes[1:])
    natural, shown = sizes[0]  # beside what was found, where there is room for both
    assert natural > 0
    assert shown > 0.4 * min(width, 1088) - 40
    assert overflow <= 0
    assert HOSTILE in title
