"""The page of a study shows its first content before plotly is loaded: at most 8 MB, built in 30 s, first paint below 2 s.

Rival: the same page made in the usual way, with plotly's script inline, run before anything is shown, and all charts drawn at once.
Both are opened in Chromium without a network, in turn. Then thalweg's page is scrolled to its first chart, and the time until the
chart is drawn is measured.

The study is a folder that `thalweg study markov` has made; the figures in docs/log are those of `--preset paper` (5 seeds, 6 arms,
40 checkpoints).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from shutil import which

import timing  # before torch

from thalweg.experiments.paper.definition import complete_runs, jobs_of, landscapes_of, summary_of
from thalweg.experiments.registry import experiment_in
from thalweg.records.run import read_run
from thalweg.report.paper.page import packed_plotly, write_report

CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")
PAINT = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)[0]"
SOFTWARE = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


def main() -> None:
    parser = timing.arguments(__doc__, rounds=5)
    parser.add_argument("study", nargs="?", type=Path, default=Path("results/markov-quick"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        study = experiment_in(options.study).plan
        jobs = jobs_of(study, options.study)
        runs = {job.name: read_run(job.folder) for job in jobs if job.complete}
        summary = summary_of(study, options.study, jobs, complete_runs(study, jobs), landscapes_of(jobs))
        ours = write_report(summary, runs, Path(folder), landscapes_of(jobs))
        built = time.perf_counter() - started
        print(f"{options.study}: {len(runs)} runs; page {ours.stat().st_size / 1e6:.1f} MB, built in {built:.1f} s\n")
        if CHROMIUM is None:
            print("This machine has no Chromium, so no page was opened.")
            return
        rival = ours.with_name("rival.html")
        rival.write_text(eager(ours.read_text()))
        show(ours, rival, options.rounds)


def eager(page: str) -> str:
    """Make the rival page: plotly runs before the page is shown, and all charts are drawn at once."""
    from plotly.offline import get_plotlyjs

    page = page.replace(packed_plotly(), "").replace('rootMargin: "300px"', 'rootMargin: "1000000px"')
    page = page.replace("const plotly = () => library ??= (async", "const plotly = () => window.Plotly; const never = () => (async")
    return page.replace("<style>", f"<script>{get_plotlyjs()}</script><style>", 1)


def show(ours: Path, rival: Path, rounds: int) -> None:
    """Measure the first paint of both pages in turn, and the time from a scroll to the first chart."""
    from playwright.sync_api import sync_playwright

    paints: dict[Path, list[float]] = {ours: [], rival: []}
    charts = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(SOFTWARE))
        for _ in range(rounds):
            for path in paints:
                page = browser.new_context(offline=True, viewport={"width": 1200, "height": 900}).new_page()
                page.goto(path.as_uri())
                page.wait_for_function(f"{PAINT} > 0")
                paints[path].append(page.evaluate(PAINT))
                if path == ours:
                    started = time.perf_counter()
                    page.locator("[data-chart]").first.scroll_into_view_if_needed()
                    page.wait_for_selector("[data-chart][data-drawn]", timeout=60_000)
                    charts.append(time.perf_counter() - started)
                page.context.close()
        browser.close()
    our_paint, rival_paint = (statistics.median(paints[path]) / 1000 for path in (ours, rival))
    print(
        f"first paint, median of {rounds}: ours {our_paint:.2f} s, rival {rival_paint:.2f} s, ratio {our_paint / rival_paint:.2f}"
    )
    print(f"size: {ours.stat().st_size / 1e6:.1f} MB against {rival.stat().st_size / 1e6:.1f} MB")
    print(f"from the scroll to the first chart: {statistics.median(charts):.2f} s")


if __name__ == "__main__":
    main()
