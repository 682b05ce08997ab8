import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from made_up_landscapes import DIM, GROUPS, STEPS, make_landscape, spectrum, trajectory, write_plane
from made_up_records import make_summary, run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from thalweg.errors import DamagedFileError, InsufficientDataError
from thalweg.landscapes import LandscapePlan, RunLandscape, SliceRecord
from thalweg.records import Verdict
from thalweg.report import page
from thalweg.report.landscape_curves import figure_alignment, figure_landscape
from thalweg.report.landscape_figures import run_figures, study_figures
from thalweg.report.landscape_slices import edges_of, figure_plane, figure_spectra, levels_of
from thalweg.report.page import write_report

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


def panel(figure: Figure, words: str) -> Axes:
    return next(axes for axes in figure.axes if words in axes.get_ylabel())


def band_of(axes: Axes) -> dict[float, tuple[float, float]]:
    """x -> low and high of the first band."""
    found: dict[float, list[float]] = {}
    for x, y in axes.collections[0].get_paths()[0].vertices:
        found.setdefault(float(x), []).append(float(y))
    return {x: (min(ys), max(ys)) for x, ys in found.items()}


def heat(figure: Figure) -> np.ndarray:
    return np.ma.filled(figure.axes[0].collections[0].get_array(), 0.0)


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
    assert [tick.get_text() for tick in axes.get_xticklabels()][0] == "0"


@pytest.mark.parametrize("steps", [(0,), (700,), (0, 3), (0, 500, 1000, 1500, 2000)])
def test_few_checkpoints_are_enough(tmp_path: Path, steps: tuple[int, ...]) -> None:
    figure = figure_landscape({"looped": [make_landscape(tmp_path, steps=steps)]})
    np.testing.assert_array_equal(panel(figure, "entropy").lines[0].get_xdata(), steps)


def test_cosines_and_opposed_shares_are_those_of_the_records(seeds: list[RunLandscape]) -> None:
    figure = figure_alignment({"looped": seeds})
    cosine = next(axes for axes in figure.axes if axes.get_title() == "value")
    opposed = figure.axes[figure.axes.index(cosine) + 1]
    for axes, what in ((cosine, "cosine"), (opposed, "opposed")):
        kept = [step for step in STEPS if what == "opposed" or step != 5]  # no cosine there
        expected = np.mean([[getattr(a.groups["value"], what) for a in s.alignments if a.step in kept] for s in seeds], axis=0)
        x, y = axes.lines[0].get_data()
        np.testing.assert_array_equal(x, kept)
        np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_every_matrix_has_its_panels(one: RunLandscape) -> None:
    figure = figure_alignment({"looped": [one]})
    assert [axes.get_title() for axes in figure.axes[::2]] == list(GROUPS)


def test_every_column_of_the_heat_map_sums_to_one(one: RunLandscape) -> None:
    shares = heat(figure_spectra(one))
    assert shares.shape[1] == len(STEPS)
    np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-12)


def test_heat_map_counts_the_eigenvalues(one: RunLandscape) -> None:
    figure = figure_spectra(one)
    edges = figure.axes[0].collections[0].get_coordinates()[:, 0, 1]
    values, column = spectrum(STEPS[3], 0, 0.5), heat(figure)[:, 3]
    for low, high, share in zip(edges, edges[1:], column, strict=False):
        assert share == pytest.approx(((values >= low) & (values < high)).mean(), abs=1e-12)


def test_heat_map_of_a_density_takes_its_weights(tmp_path: Path) -> None:
    landscape = make_landscape(tmp_path, exact=0)
    nodes, weights = np.array([[-1.0, 0.5, 2.0], [-0.3, 0.7, 3.0]]), np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.3]])
    save_file({"nodes": nodes, "weights": weights}, landscape.spectrum_path(0))
    figure = figure_spectra(landscape)
    edges = figure.axes[0].collections[0].get_coordinates()[:, 0, 1]
    column = heat(figure)[:, 0]
    assert column[edges[:-1] >= 0.1].sum() == pytest.approx(0.85)
    assert column[edges[:-1] >= 1.5].sum() == pytest.approx(0.3)
    assert column[edges[1:] <= -0.1].sum() == pytest.approx(0.15)


@pytest.mark.parametrize(("floor", "largest"), [(1e-6, 3.0), (1e-3, 1e-3), (0.1, 1.0), (1e-2, 1000.0)])
def test_bins_are_even_on_both_sides_and_hold_everything(floor: float, largest: float) -> None:
    edges = edges_of(floor, largest)
    np.testing.assert_allclose(edges, -edges[::-1])
    assert edges[-1] >= largest
    positive = edges[edges > 0]
    assert positive[0] == floor
    np.testing.assert_allclose(positive[1:] / positive[:-1], 10**0.25)


def test_epsilon_is_drawn_where_there_is_a_split(one: RunLandscape) -> None:
    above, below = figure_spectra(one).axes[0].lines
    np.testing.assert_array_equal(above.get_ydata(), [3e-3] * EXACT + [np.nan] * (len(STEPS) - EXACT))
    np.testing.assert_array_equal(below.get_ydata(), -np.asarray(above.get_ydata()))


def test_eigenvalues_that_are_all_zero_can_be_drawn(tmp_path: Path) -> None:
    landscape = make_landscape(tmp_path, steps=(0, 1), exact=2)
    landscape = replace(landscape, points=tuple(replace(p, split=None) for p in landscape.points))
    for step in (0, 1):
        save_file({"values": np.zeros(DIM)}, landscape.spectrum_path(step))
    np.testing.assert_allclose(heat(figure_spectra(landscape)).max(0), 1)


def test_path_in_the_plane_is_the_given_one_with_its_ends(one: RunLandscape) -> None:
    record = next(record for record in one.slices if record.name == "path")
    axes = figure_plane(one, record).axes[0]
    path = trajectory()
    for line, points in zip(axes.lines, (path, path[:1], path[-1:]), strict=True):
        np.testing.assert_allclose(np.stack(line.get_data(), 1), points)
    assert [line.get_label() for line in axes.lines] == ["path of training", "begin", "end"]


def test_plane_names_its_axes_and_the_share_it_holds(one: RunLandscape) -> None:
    axes = figure_plane(one, next(record for record in one.slices if record.name == "path")).axes[0]
    assert "PC 1" in axes.get_xlabel()
    assert "PC 2" in axes.get_ylabel()
    assert "93%" in axes.get_title()


def test_plane_without_a_path_has_none(one: RunLandscape) -> None:
    axes = figure_plane(one, next(record for record in one.slices if record.name == "random")).axes[0]
    assert len(axes.lines) == 0
    assert axes.get_title() == ""


def test_losses_lie_where_they_were_measured(tmp_path: Path) -> None:
    record = SliceRecord("corner", 0, ("a", "b"), None, 3)
    (tmp_path / "slices").mkdir()
    losses = np.ones((3, 4))
    losses[2, 0] = 9.0  # first = 2, second = 0
    made = {"first": np.arange(3.0), "second": np.arange(4.0), "losses": losses}
    save_file(made, tmp_path / "slices" / "corner.safetensors")
    filled = figure_plane(bare(tmp_path), record).axes[0].collections[0]
    highest = filled.get_paths()[-1].vertices
    assert highest[:, 0].max() == 2
    assert highest[:, 1].max() < 1


def test_contours_rise_logarithmically_from_the_lowest_loss() -> None:
    levels = levels_of(np.array([[2.0, 3.0], [4.0, 12.0]]))
    assert (levels[0], levels[-1]) == (2.0, pytest.approx(12.0))
    above = levels[1:] - 2
    np.testing.assert_allclose(above[1:] / above[:-1], above[1] / above[0])
    assert above[0] == pytest.approx(0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_losses_that_are_not_finite_leave_a_hole(tmp_path: Path, bad: float) -> None:
    made = write_plane(bare(tmp_path), "holes", None)
    made["losses"][0, 0] = bad
    save_file(made, tmp_path / "slices" / "holes.safetensors")
    figure = figure_plane(bare(tmp_path), SliceRecord("holes", 0, ("a", "b"), None, 25))
    figure.savefig(io.BytesIO(), format="png")
    assert np.isfinite(figure.axes[0].collections[0].levels).all()


def test_a_flat_plane_can_be_drawn(tmp_path: Path) -> None:
    made = write_plane(bare(tmp_path), "flat", None) | {"losses": np.full((25, 19), 2.0)}
    save_file(made, tmp_path / "slices" / "flat.safetensors")
    figure_plane(bare(tmp_path), SliceRecord("flat", 0, ("a", "b"), None, 25)).savefig(io.BytesIO(), format="png")


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
    assert study_figures({"looped": [bare(tmp_path)]}, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("draw", [figure_landscape, figure_alignment])
def test_figures_of_nothing_are_refused(tmp_path: Path, draw) -> None:
    with pytest.raises(InsufficientDataError, match="measure"):
        draw({"looped": [bare(tmp_path)]})


def test_pictures_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InsufficientDataError, match="spectra: given no file"):
        figure_spectra(bare(tmp_path))
    with pytest.raises(InsufficientDataError, match="plane gone: given no finite loss"):
        figure_plane(bare(tmp_path), SliceRecord("gone", 0, ("a", "b"), None, 3))


@pytest.mark.parametrize(("content", "said"), [(b"no tensors", "damaged arrays"), (None, "expected values")])
def test_damaged_spectra_are_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    landscape = make_landscape(tmp_path, steps=(0,))
    path = landscape.spectrum_path(0)
    path.write_bytes(content) if content else save_file({"other": np.ones(2)}, path)
    with pytest.raises(DamagedFileError, match=f"(?s){re.escape(path.name)}.*" if content else said):
        figure_spectra(landscape)


def test_the_same_landscapes_give_the_same_bytes(one: RunLandscape, tmp_path: Path) -> None:
    first, second = (study_figures({"looped": [one]}, tmp_path) for _ in range(2))
    assert [(f.svg, f.png) for f in first.values()] == [(f.svg, f.png) for f in second.values()]


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
    shown = [attributes["id"] for tag, attributes in tags.found if tag == "figure"]
    assert shown[-4:] == ["landscape", "alignment", "spectra", "planes"]
    assert "<h2>Landscape</h2>" in text
    last = list(tags.images())[-4:]
    assert all((i["src"] or "").startswith("data:image/") and len(i["alt"] or "") > 40 for i in last)
    assert len(text) < 8_000_000


def test_hostile_arm_is_inert_on_the_page(study: Path) -> None:
    text = (study / "report.html").read_text()
    tags = Tags(text)
    assert "<img src=x" not in text
    assert "{{ 7*7 }}" in text  # shown as it is, not evaluated
    assert all((i["src"] or "").startswith("data:") and "onerror" not in i for i in tags.images())
    assert not re.search(r"(src|href)=[\"'](?!data:)", text.replace("src=x", ""))


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
    assert '<td class="not-measured">not measured</td>' in text
    assert re.search(r"\.not-measured \{[^}]*italic", text)
    assert "1 claims supported, 0 contradicted, 0 undecided, 1 not measured" in text


def test_a_heavy_drawing_is_shown_as_pixels(one: RunLandscape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = study_figures({"looped": [one]}, tmp_path)["alignment"]
    assert page.data_address(figure).startswith("data:image/svg+xml;base64,")
    monkeypatch.setattr(page, "HEAVY", 1000)
    assert page.data_address(figure).startswith("data:image/png;base64,iVBORw0KGgo")


def test_figures_of_other_parts_join_the_section(one: RunLandscape, tmp_path: Path) -> None:
    some = study_figures({"looped": [replace(one, slices=(), points=())]}, tmp_path)
    other = replace(some["alignment"], name="lengths", heading="How far does it reach?")
    assert list(study_figures({}, tmp_path, extra=(other,))) == ["lengths"]
    assert (tmp_path / "figures" / "lengths.svg").read_bytes() == other.svg
    runs = {"looped-seed0": run("looped", 0, 0.8)}
    text = write_report(make_summary(runs), runs, tmp_path, extra=(other,)).read_text()
    assert "<h2>Landscape</h2>" in text
    assert "<h3>How far does it reach?</h3>" in text


def test_page_without_landscapes_has_no_such_section(tmp_path: Path) -> None:
    runs = {"looped-seed0": run("looped", 0, 0.8)}
    assert "Landscape" not in write_report(make_summary(runs), runs, tmp_path).read_text()
