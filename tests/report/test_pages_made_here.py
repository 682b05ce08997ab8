"""The pages of studies that were made in this checkout, such as that of `make demo`, in a real browser."""

from pathlib import Path

import pytest
from pages import CHROMIUM, laid_out, opened, slid, turned

RESULTS = Path(__file__).parents[2] / "results"
PAGES = sorted(RESULTS.glob("*/report.html"))
COLOURS = """async image => {
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: 200, height: 150 });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, 200, 150);
  return new Set(new Uint32Array(pen.getImageData(0, 0, 200, 150).data.buffer)).size;
}"""
"""How many colours a figure has."""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.skipif(not PAGES, reason="no study was made here: run `make demo` first")
@pytest.mark.parametrize("path", PAGES or [None], ids=lambda path: path and path.parent.name)
def test_every_figure_is_there_and_every_chart_can_be_handled(path: Path) -> None:
    with opened(path) as (page, wrong):
        sizes, overflow, _ = laid_out(page)
        drawn = {figure.stem for figure in (path.parent / "figures").iterdir()}
        assert len(sizes) >= len(drawn) >= 1
        assert all(natural > 0 for natural, _ in sizes)
        assert overflow <= 0
        assert min(image.evaluate(COLOURS) for image in page.locator("figure img").all()) > 5
        charts = {place.get_attribute("data-chart") for place in page.locator("[data-chart]").all()}
        if "spectra" in charts:
            before, after, _ = slid(page)
            assert after != before
        if "planes" in charts:
            before, after = turned(page)
            assert after != before
        assert wrong == []
