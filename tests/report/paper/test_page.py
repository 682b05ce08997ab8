"""The page of a study: what is in it, what it asks for, and what it does in a real browser."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_landscapes import make_landscape
from made_up_records import make_runs, make_summary, run
from pages import CHROMIUM, HOSTILE, Tags, chart, laid_out, leaving, opened, slid, turned, unexplained

from thalweg.records.run import Cell, StudySummary, Verdict
from thalweg.report.paper.page import render, write_report

NAMES = {"accuracy-by-stratum", "loss-against-cost", "switches", "long-tail"} | {
    "verdicts",
    "accuracy-against-cost",
    "step-time",
    "lead",
}
"""Figures of a study without landscapes, and without what its source is."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study without landscapes."""
    runs = make_runs()
    return write_report(make_summary(runs), runs, tmp_path_factory.mktemp("made"))


def test_page_has_every_figure_inside_with_words_for_the_blind(made: Path) -> None:
    tags = Tags(made.read_text()).found
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == len(NAMES)
    assert all(i["src"].startswith("data:image/") and len(i["alt"]) > 20 for i in images)


def test_page_asks_the_network_for_nothing(made: Path) -> None:
    page = made.read_text()
    assert leaving(page) == []
    assert unexplained(page) == set()
    kinds = [attributes.get("type", "run") for tag, attributes in Tags(page).found if tag == "script"]
    assert kinds == ["application/json", "text/plain", "run"]
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket", page.rpartition("<script>")[2])


def test_names_of_users_are_inert(summary: StudySummary) -> None:
    hostile = replace(summary, name=HOSTILE, setup=summary.setup | {HOSTILE: HOSTILE}, missing=(HOSTILE,), complete=False)
    page = render(hostile, [], Path(), {})
    assert "<img src=x" not in page
    assert "{{ 7*7 }}" in page  # shown as it is, not evaluated


def test_what_is_missing_is_named(summary: StudySummary) -> None:
    page = render(replace(summary, complete=False, missing=("looped-seed2",)), [], Path(), {})
    assert "This study is not complete: 1 run is missing, " in page
    assert "looped-seed2" in page


def test_an_undecided_claim_tells_its_seeds_and_whose_it_is(summary: StudySummary) -> None:
    claims = (
        Verdict("x is y", "undecided", numbers={"difference": Cell(0.1, -0.1, 0.3, 3)}, seeds_needed=17, source="ours"),
        Verdict("y is z", "supported", seeds_needed=0, source="control"),
    )
    page = render(replace(summary, verdicts=claims), [], Path(), {})
    assert page.count("about 17 seeds would decide it at the spread seen") == 1
    assert "(our claim)" in page
    assert "(a control)" in page


def test_the_first_screen_says_who_asked_and_what_was_found(summary: StudySummary) -> None:
    claim = "looped ends with a lower held-out loss than single"
    found = Verdict(claim, "supported", numbers={"difference": Cell(0.1, 0.05, 0.15, 3)}, source="paper")
    page = render(replace(summary, verdicts=(found,)), [], Path(), {})
    assert 'href="https://arxiv.org/abs/2510.10089"' in page
    assert f"The paper&#39;s claim that {claim} is supported (difference 0.1 [0.05, 0.15])." in page
    assert page.index("What was found") < page.index("<table")


def test_other_work_on_the_machine_is_told(summary: StudySummary) -> None:
    page = render(replace(summary, disturbed="Other work ran beside 2 of 3 runs."), [], Path(), {})
    assert page.index("Other work ran beside 2 of 3 runs.") < page.index("What was found")


def test_nothing_of_a_page_waits_to_be_scrolled_to_but_charts(made: Path) -> None:
    tags = Tags(made.read_text()).found
    assert all("loading" not in attributes for tag, attributes in tags if tag == "img")


def test_figures_are_kept_as_files_too(made: Path) -> None:
    assert {path.stem for path in (made.parent / "figures").iterdir()} == NAMES


@pytest.fixture(scope="module")
def handled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two arms with landscapes, one arm with a name that would do harm."""
    folder = tmp_path_factory.mktemp("study")
    runs = {f"{arm}-seed{seed}": run(arm, seed, 0.7) for arm in ("single", HOSTILE) for seed in range(3)}
    landscapes = {
        arm: {0: make_landscape(folder / "runs" / name, speed=speed)}
        for arm, name, speed in (("single", "one", 0.3), (HOSTILE, "two", 0.8))
    }
    made = make_summary(runs, name=HOSTILE)
    return write_report(replace(made, arms=("single", HOSTILE)), runs, folder, landscapes)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_charts_are_drawn_when_scrolled_to_and_can_be_handled(handled: Path) -> None:
    with opened(handled) as (page, wrong):
        assert page.evaluate("typeof window.Plotly") == "undefined"
        curves = chart(page, "curves")
        arms = "[...new Set(document.querySelector('[data-chart=curves] .plot').data.map(t => t.meta))]"
        assert page.evaluate(arms) == ["single", HOSTILE]
        page.locator("#arms input").nth(1).uncheck()
        assert page.evaluate(arms) == ["single"]
        page.locator("#arms input").nth(1).check()
        curves.locator("select").nth(1).select_option("training time (s)")
        assert page.evaluate("document.querySelector('[data-chart=curves] .plot').layout.xaxis.title.text") == "training time (s)"
        before, after, step = slid(page)
        assert (after != before, step) == (True, "0")
        before, after = turned(page)
        assert after != before
        assert page.locator("img[src=x]").count() == 0
        assert wrong == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_colours_can_be_chosen_and_charts_are_not_printed(handled: Path) -> None:
    with opened(handled) as (page, wrong):
        background = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(background)
        page.locator("#theme").select_option("dark")
        assert page.evaluate(background) != light
        page.emulate_media(media="print")
        assert not page.locator("[data-chart=curves]").is_visible()
        assert page.locator("figure img").first.is_visible()
        assert wrong == []


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with names that would do harm."""
    runs = make_runs()
    return write_report(make_summary(runs, name=HOSTILE), runs, tmp_path_factory.mktemp("hostile"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_page_in_a_real_browser(hostile_page: Path, width: int) -> None:
    with opened(hostile_page, width) as (page, wrong):
        sizes, overflow, title = laid_out(page)
    assert wrong == []
    assert len(sizes) == len(NAMES)
    assert all(natural > 0 and shown > 0.8 * min(width, 1088) - 40 for natural, shown in sizes[1:])
    assert overflow <= 0
    assert HOSTILE in title


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_that_cannot_unpack_the_script_says_so(handled: Path, tmp_path: Path) -> None:
    old = tmp_path / "report.html"
    old.write_text(handled.read_text().replace('"use strict";', '"use strict"; delete window.DecompressionStream;', 1))
    with opened(old) as (page, wrong):
        page.locator('[data-chart="curves"]').scroll_into_view_if_needed()
        page.wait_for_function("document.querySelector('[data-chart=curves] .plot').textContent.startsWith('This browser cannot')")
        assert wrong == []
