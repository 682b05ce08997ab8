import base64
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from made_up_landscapes import GROUPS, STEPS, make_landscape, write_plane
from made_up_records import make_summary, run
from matplotlib.figure import Figure
from pages import leaving
from PIL import Image

from thalweg.errors import InsufficientDataError
from thalweg.records.landscape import LandscapePlan, LengthRecord, RunLandscape, SliceRecord
from thalweg.records.run import Score, Verdict
from thalweg.report import page
from thalweg.report.landscape.curves import figure_alignment, figure_landscape
from thalweg.report.landscape.figures import run_figures, study_figures
from thalweg.report.paper.page import write_report

HOSTILE = "</figcaption><img src=x onerror=alert(1)>\"'&{{ 7*7 }} $\\frac{$/.."
T_2 = 4.302652729911275
"""Student's t, 2 degrees of freedom, 0.975: from a table."""
EXACT = 9
"""Points with an exact spectrum."""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[RunLandscape]:
    folder = tmp_path_factory.mktemp("runs")
    return [make_landscape(folder / f"looped-seed{seed}", seed, exact=EXACT) for seed in range(3)]


@pytest.fixture(scope="module")
def one(seeds: list[RunLandscape]) -> RunLandscape:
    return seeds[0]


@pytest.fixture(scope="module")
def study(seeds: list[RunLandscape], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a hostile arm beside a good one."""
    folder = tmp_path_factory.mktemp("study")
    runs = {f"looped-seed{seed}": run("looped", seed, 0.8) for seed in range(3)}
    summary = make_summary(runs)
    verdicts = (*summary.verdicts, Verdict("another claim", "not measured", "a test"))
    write_report(replace(summary, verdicts=verdicts), runs, folder, {"looped": dict(enumerate(seeds)), HOSTILE: {0: seeds[0]}})
    return folder


def bare(folder: Path) -> RunLandscape:
    return RunLandscape(folder, LandscapePlan())


def panel(figure: Figure, words: str) -> Any:
    return next(axes for axes in figure.axes if words in axes.get_ylabel())


def band_of(axes: Any) -> dict[float, tuple[float, float]]:
    """x -> low and high of the first band."""
    found: dict[float, list[float]] = {}
    for x, y in axes.collections[0].get_paths()[0].vertices:
        found.setdefault(float(x), []).append(float(y))
    return {x: (min(ys), max(ys)) for x, ys in found.items()}


@pytest.mark.parametrize(
    ("words", "take"),
    [
        ("entropy", lambda p: p.entropy.value),
        ("largest", lambda p: p.largest[0]),
        ("most negative", lambda p: p.smallest),
        ("above 1", lambda p: p.above_one.value),
    ],
)
def test_lines_are_means_over_seeds_and_bands_are_t_intervals(seeds: list[RunLandscape], words: str, take) -> None:
    axes = panel(figure_landscape({"looped": seeds}), words)
    values = np.array([[take(p) for p in landscape.points] for landscape in seeds])
    x, y = axes.lines[0].get_data()
    np.testing.assert_array_equal(x, STEPS)
    np.testing.assert_allclose(y, values.mean(0), rtol=1e-12)
    half = T_2 * values.std(0, ddof=1) / np.sqrt(3)
    band = band_of(axes)
    np.testing.assert_allclose([band[step] for step in STEPS], np.stack([y - half, y + half], 1), rtol=1e-9, atol=1e-12)


def test_error_bars_stand_where_the_spectrum_is_matrix_free(one: RunLandscape) -> None:
    axes = panel(figure_landscape({"looped": [one]}), "entropy")
    bars = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_array_equal([bar[0, 0] for bar in bars], STEPS[EXACT:])
    np.testing.assert_allclose([bar[1, 1] - bar[0, 1] for bar in bars], 2 * 0.1)


def test_probe_errors_of_seeds_add_in_squares(seeds: list[RunLandscape]) -> None:
    axes = panel(figure_landscape({"looped": seeds}), "entropy")
    bars = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[1, 1] - bar[0, 1] for bar in bars], 2 * 0.1 / np.sqrt(3))


def test_infinite_information_and_the_first_point_are_left_out(seeds: list[RunLandscape]) -> None:
    x = panel(figure_landscape({"looped": seeds}), "information").lines[0].get_xdata()
    np.testing.assert_array_equal(x, [step for step in STEPS if step not in (0, 5)])


def test_seeds_are_compared_where_all_were_measured(seeds: list[RunLandscape]) -> None:
    shorter = replace(seeds[1], points=seeds[1].points[:5])
    x = panel(figure_landscape({"looped": [seeds[0], shorter]}), "entropy").lines[0].get_xdata()
    np.testing.assert_array_equal(x, STEPS[:5])


def test_more_passes_are_marked_where_they_are_first_seen(tmp_path: Path) -> None:
    axes = panel(figure_landscape({"shift": [make_landscape(tmp_path, speed=0.8)]}), "entropy")
    np.testing.assert_array_equal(axes.lines[-1].get_xdata(), [100, 100])


def test_update_zero_is_on_the_axis(one: RunLandscape) -> None:
    axes = panel(figure_landscape({"looped": [one]}), "entropy")
    assert axes.get_xlim()[0] < 0 < 1600 < axes.get_xlim()[1]
    assert axes.get_xticklabels()[0].get_text() == "0"


def test_wide_bands_do_not_stretch_the_axis(seeds: list[RunLandscape]) -> None:
    wild = replace(seeds[1], points=tuple(replace(p, largest=(100 * p.largest[0],)) for p in seeds[1].points))
    axes = panel(figure_landscape({"looped": [seeds[0], wild]}), "largest")
    means, (low, high) = axes.lines[0].get_ydata(), axes.get_ylim()
    assert low < means.min() < means.max() < high < 10 * means.max()
    assert low > means.min() - means.max()


def test_panels_keep_to_what_values_can_be(seeds: list[RunLandscape]) -> None:
    first, points = seeds[0].points[0], seeds[0].points[1:3]
    runs = []
    for overlaps in ((0.0, 0.8), (0.4, 1.0)):
        changes = [replace(p.change, overlap=o) for p, o in zip(points, overlaps, strict=True) if p.change]
        runs.append(replace(seeds[0], points=(first, *(replace(p, change=c) for p, c in zip(points, changes, strict=True)))))
    low, high = panel(figure_landscape({"looped": runs}), "overlap").get_ylim()
    assert -0.1 < low <= 0 < 1 <= high < 1.1


@pytest.mark.parametrize("value", [0.0, 1e-7, -3.0, 5e4])
def test_any_size_of_eigenvalue_has_ticks_within_its_axis(seeds: list[RunLandscape], value: float) -> None:
    points = tuple(replace(p, largest=(value,), smallest=-value) for p in seeds[0].points)
    figure = figure_landscape({"looped": [replace(seeds[0], points=points)]})
    for axes in (panel(figure, "largest"), panel(figure, "most negative")):
        low, high = axes.get_ylim()
        assert low < axes.lines[0].get_ydata()[0] < high
        assert any(low <= tick <= high for tick in axes.get_yticks())


@pytest.mark.parametrize("steps", [(0,), (700,), (0, 3), (0, 500, 1000, 1500, 2000)])
def test_few_checkpoints_are_enough(tmp_path: Path, steps: tuple[int, ...]) -> None:
    figure = figure_landscape({"looped": [make_landscape(tmp_path, steps=steps)]})
    np.testing.assert_array_equal(panel(figure, "entropy").lines[0].get_xdata(), steps)


def test_cosines_and_opposed_shares_are_those_of_the_records(seeds: list[RunLandscape]) -> None:
    figure = figure_alignment({"looped": seeds})
    panels: list[Any] = list(figure.axes)
    number = [axes.get_title() for axes in panels].index("value")
    for axes, what in zip(panels[number : number + 2], ("cosine", "opposed"), strict=True):
        kept = [step for step in STEPS if what == "opposed" or step != 5]  # no cosine there
        expected = np.mean([[getattr(a.groups["value"], what) for a in s.alignments if a.step in kept] for s in seeds], axis=0)
        x, y = axes.lines[0].get_data()
        np.testing.assert_array_equal(x, kept)
        np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_every_matrix_has_its_panels(one: RunLandscape) -> None:
    figure = figure_alignment({"looped": [one]})
    assert [axes.get_title() for axes in figure.axes[::2]] == list(GROUPS)


def test_a_run_writes_what_was_measured_with_captions(one: RunLandscape) -> None:
    paths = run_figures(one, "Set-up in words.")
    names = ["landscape", "alignment", "spectra", "plane-random", "plane-path"]
    assert [p.name for p in paths] == [f"{n}.{kind}" for n in names for kind in ("svg", "png")] + ["captions.json"]
    assert all(p.parent == one.folder / "figures" and p.stat().st_size > 100 for p in paths)
    captions = json.loads(paths[-1].read_text())
    assert list(captions) == names
    assert all("Set-up in words." in told["caption"] and len(told["alt"]) > 20 for told in captions.values())
    for path in paths[1:-1:2]:
        assert (matplotlib.image.imread(path)[..., :3].min(axis=-1) < 0.9).mean() > 0.01


def test_what_was_not_measured_is_skipped(tmp_path: Path) -> None:
    landscape = replace(make_landscape(tmp_path, steps=(0, 10)), alignments=())
    for path in [*(landscape.folder / "spectra").iterdir(), *(landscape.folder / "slices").iterdir()]:
        path.unlink()
    assert [p.name for p in run_figures(landscape, "")] == ["landscape.svg", "landscape.png", "captions.json"]


def test_nothing_measured_writes_nothing(tmp_path: Path) -> None:
    assert run_figures(bare(tmp_path), "") == []
    assert study_figures({"looped": [bare(tmp_path)]}) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("draw", [figure_landscape, figure_alignment])
def test_figures_of_nothing_are_refused(tmp_path: Path, draw) -> None:
    with pytest.raises(InsufficientDataError, match="measure"):
        draw({"looped": [bare(tmp_path)]})


def test_the_same_landscapes_give_the_same_bytes(one: RunLandscape, tmp_path: Path) -> None:
    first, second = (study_figures({"looped": [one]}) for _ in range(2))
    assert [(f.svg, f.png) for f in first] == [(f.svg, f.png) for f in second]


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def images(self) -> Iterator[dict[str, str | None]]:
        return (attributes for tag, attributes in self.found if tag == "img")


def test_page_shows_the_landscape_with_words_for_the_blind(study: Path) -> None:
    text = (study / "report.html").read_text()
    tags = Tags(text)
    shown = [attributes["id"] for tag, attributes in tags.found if tag == "figure" and "id" in attributes]
    assert [name for name in shown if name in ("landscape", "spectra", "planes", "alignment")] == [
        "landscape",
        "spectra",
        "planes",
        "alignment",
    ]
    last = list(tags.images())[-4:]
    assert all((i["src"] or "").startswith("data:image/") and len(i["alt"] or "") > 40 for i in last)
    assert len(text) < 8_000_000


def test_hostile_arm_is_inert_on_the_page(study: Path) -> None:
    text = (study / "report.html").read_text()
    tags = Tags(text)
    assert "<img src=x" not in text
    assert "{{ 7*7 }}" in text  # shown as it is, not evaluated
    assert all((i["src"] or "").startswith("data:") and "onerror" not in i for i in tags.images())
    assert leaving(text) == []


def test_hostile_arm_writes_into_the_figures_folder_only(study: Path) -> None:
    assert {p.name for p in study.iterdir()} == {"report.html", "figures"}
    names = {p.stem for p in (study / "figures").iterdir()}
    assert {"landscape", "alignment", "spectra", "planes"} <= names


def test_hostile_slice_writes_into_the_figures_folder_only(tmp_path: Path) -> None:
    landscape = replace(
        make_landscape(tmp_path, steps=(0,), planes=False), slices=(SliceRecord("../up", 0, ("$a", "_b"), 0.5, 25),)
    )
    write_plane(landscape, "../up", None)
    names = [p.name for p in run_figures(landscape, "") if p.suffix == ".png"]
    assert names[-1] == "plane-..%2Fup.png"


def test_not_measured_has_a_style_of_its_own(study: Path) -> None:
    text = (study / "report.html").read_text()
    assert '<td><span class="not-measured">not measured</span></td>' in text
    assert re.search(r"\.not-measured \{[^}]*italic", text)
    assert "Of 2 claims, 1 supported, 0 contradicted, 0 undecided, 1 not measured." in text


def test_a_heavy_drawing_is_shown_as_pixels(one: RunLandscape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = next(f for f in study_figures({"looped": [one]}) if f.name == "alignment")
    monkeypatch.setattr(page, "HEAVY", len(figure.svg))
    assert page.data_address(figure).startswith("data:image/svg+xml;base64,")
    monkeypatch.setattr(page, "HEAVY", 1000)
    address = page.data_address(figure)
    assert address.startswith("data:image/webp;base64,")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(figure.png)).convert("RGB")))


def test_page_shows_the_lengths(tmp_path: Path) -> None:
    score = {"all": Score(0.5, 1.0)}
    lengths = tuple(LengthRecord(9, 1, m, 12 * m, 8, score, {}, None, None, {}) for m in (1, 2))
    runs = {"looped-seed0": run("looped", 0, 0.8)}
    landscapes = {"looped": {0: replace(bare(tmp_path), lengths=lengths)}, "single": {}}
    tags = Tags(write_report(make_summary(runs), runs, tmp_path, landscapes).read_text())
    assert [attributes["id"] for tag, attributes in tags.found if tag == "figure" and "id" in attributes][-1] == "lengths"


def test_page_without_landscapes_has_no_such_section(tmp_path: Path) -> None:
    runs = {"looped-seed0": run("looped", 0, 0.8)}
    assert "Landscape" not in write_report(make_summary(runs), runs, tmp_path).read_text()
