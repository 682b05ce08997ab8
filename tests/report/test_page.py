import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_records import make_summary
from pages import CHROMIUM, HOSTILE, Tags

from thalweg.records import RunRecord, StudySummary
from thalweg.report.page import write_report


def test_page_has_every_figure_inside_with_words_for_the_blind(
    summary: StudySummary, runs: dict[str, RunRecord], tmp_path: Path
) -> None:
    tags = Tags(write_report(summary, runs, tmp_path).read_text()).found
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 4
    assert all(i["src"].startswith("data:image/svg+xml;base64,") and len(i["alt"]) > 20 for i in images)


def test_page_asks_the_network_for_nothing(summary: StudySummary, runs: dict[str, RunRecord], tmp_path: Path) -> None:
    page = write_report(summary, runs, tmp_path).read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert "<script" not in page


def test_names_of_users_are_inert(summary: StudySummary, runs: dict[str, RunRecord], tmp_path: Path) -> None:
    hostile = replace(summary, name=HOSTILE, setup=summary.setup | {HOSTILE: HOSTILE}, missing=(HOSTILE,), complete=False)
    page = write_report(hostile, runs, tmp_path).read_text()
    assert "<img src=x" not in page
    assert "{{ 7*7 }}" in page  # shown as it is, not evaluated


def test_what_is_missing_is_named(summary: StudySummary, runs: dict[str, RunRecord], tmp_path: Path) -> None:
    page = write_report(replace(summary, complete=False, missing=("looped-seed2",)), runs, tmp_path).read_text()
    assert "Missing runs: looped-seed2." in page


def test_figures_are_kept_as_files_too(summary: StudySummary, runs: dict[str, RunRecord], tmp_path: Path) -> None:
    write_report(summary, runs, tmp_path)
    names = {"accuracy-by-stratum", "loss-against-cost", "switches", "long-tail"}
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == names


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_page_in_a_real_browser(runs: dict[str, RunRecord], tmp_path: Path, width: int) -> None:
    from playwright.sync_api import sync_playwright

    page_file = write_report(make_summary(runs, name=HOSTILE), runs, tmp_path)
    errors, requests = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(offline=True, viewport={"width": width, "height": 900}).new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        sizes = page.eval_on_selector_all("img", "all => all.map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        title = page.title()
        browser.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert len(sizes) == 4
    assert all(natural > 0 and shown > 0.8 * min(width, 1088) - 40 for natural, shown in sizes)
    assert overflow <= 0
    assert HOSTILE in title
