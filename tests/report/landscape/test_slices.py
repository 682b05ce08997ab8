import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_landscapes import DIM, STEPS, make_landscape, spectrum, trajectory, write_plane
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from thalweg.errors import DamagedFileError, InsufficientDataError
from thalweg.records.landscape import LandscapePlan, RunLandscape, SliceRecord
from thalweg.report.landscape.slices import edges_of, figure_plane, figure_spectra, levels_of

EXACT = 9
"""Points with an exact spectrum."""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> RunLandscape:
    return make_landscape(tmp_path_factory.mktemp("runs") / "looped-seed0", exact=EXACT)


def bare(folder: Path) -> RunLandscape:
    return RunLandscape(folder, LandscapePlan())


def named(landscape: RunLandscape, name: str) -> SliceRecord:
    return next(record for record in landscape.slices if record.name == name)


def first_axes(figure: Figure) -> Any:
    return figure.axes[0]


def heat(figure: Figure) -> np.ndarray:
    """Shares, ``(bins, checkpoints)``."""
    return np.ma.filled(first_axes(figure).collections[0].get_array(), 0.0)


def bins(figure: Figure) -> np.ndarray:
    """Edges of the bins as drawn."""
    return first_axes(figure).collections[0].get_coordinates()[:, 0, 1]


def test_every_column_of_the_heat_map_sums_to_one(one: RunLandscape) -> None:
    shares = heat(figure_spectra(one))
    assert shares.shape[1] == len(STEPS)
    np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-12)


def test_heat_map_counts_the_eigenvalues(one: RunLandscape) -> None:
    figure = figure_spectra(one)
    edges = bins(figure)
    values, column = spectrum(STEPS[3], 0, 0.5), heat(figure)[:, 3]
    for low, high, share in zip(edges, edges[1:], column, strict=False):
        assert share == pytest.approx(((values >= low) & (values < high)).mean(), abs=1e-12)


def test_heat_map_of_a_density_takes_its_weights(tmp_path: Path) -> None:
    landscape = make_landscape(tmp_path, exact=0)
    nodes, weights = np.array([[-1.0, 0.5, 2.0], [-0.3, 0.7, 3.0]]), np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.3]])
    save_file({"nodes": nodes, "weights": weights}, landscape.spectrum_path(0))
    figure = figure_spectra(landscape)
    edges = bins(figure)
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
    above, below = first_axes(figure_spectra(one)).lines[:2]
    np.testing.assert_array_equal(above.get_ydata(), [3e-3] * EXACT + [np.nan] * (len(STEPS) - EXACT))
    np.testing.assert_array_equal(below.get_ydata(), -np.asarray(above.get_ydata()))


def test_resolution_is_drawn_where_the_spectrum_is_a_density(one: RunLandscape) -> None:
    above, below = first_axes(figure_spectra(one)).lines[2:]
    np.testing.assert_array_equal(above.get_ydata(), [np.nan] * EXACT + [0.02] * (len(STEPS) - EXACT))
    np.testing.assert_array_equal(below.get_ydata(), -np.asarray(above.get_ydata()))


def test_bulk_far_below_epsilon_is_seen(tmp_path: Path) -> None:
    landscape = make_landscape(tmp_path, steps=(0,))
    values = np.concatenate([10.0 ** np.linspace(-4, -2, DIM - 2), [3.0, 9.0]])
    save_file({"values": values}, landscape.spectrum_path(0))
    point = landscape.points[0]
    assert point.split is not None
    landscape = replace(landscape, points=(replace(point, split=replace(point.split, epsilon=5.0)),))
    figure = figure_spectra(landscape)
    assert heat(figure)[bins(figure)[:-1] > 0].sum() == pytest.approx(1)  # nothing is lumped together at zero


def test_several_runs_share_their_scales(one: RunLandscape, tmp_path: Path) -> None:
    steeper = make_landscape(tmp_path, speed=1.0, exact=len(STEPS))
    figure = figure_spectra({"one": one, "steeper": steeper})
    left, right = figure.axes[:2]
    assert (left.get_title(), right.get_title()) == ("one", "steeper")
    assert left.get_ylim() == right.get_ylim()
    assert left.collections[0].norm is right.collections[0].norm


def test_eigenvalues_that_are_all_zero_can_be_drawn(tmp_path: Path) -> None:
    landscape = make_landscape(tmp_path, steps=(0, 1), exact=2)
    landscape = replace(landscape, points=tuple(replace(p, split=None) for p in landscape.points))
    for step in (0, 1):
        save_file({"values": np.zeros(DIM)}, landscape.spectrum_path(step))
    np.testing.assert_allclose(heat(figure_spectra(landscape)).max(0), 1)


def test_path_in_the_plane_is_the_given_one_with_its_ends(one: RunLandscape) -> None:
    record = named(one, "path")
    axes = first_axes(figure_plane(one, record))
    path = trajectory()
    for line, points in zip(axes.lines, (path, path[:1], path[-1:]), strict=True):
        np.testing.assert_allclose(np.stack(line.get_data(), 1), points)
    assert [line.get_label() for line in axes.lines] == ["path of training", "begin", "end"]


def test_plane_names_its_axes_and_the_share_it_holds(one: RunLandscape) -> None:
    axes = first_axes(figure_plane(one, named(one, "path")))
    assert "PC 1" in axes.get_xlabel()
    assert "PC 2" in axes.get_ylabel()
    assert "93 %" in axes.get_title()


def test_plane_without_a_path_has_none(one: RunLandscape) -> None:
    axes = first_axes(figure_plane(one, named(one, "random")))
    assert len(axes.lines) == 0
    assert axes.get_title() == ""


def test_a_path_that_begins_far_away_is_cut_and_said_so(tmp_path: Path) -> None:
    far = np.array([[900.0, 0.0], [0.5, 0.2], [0.0, 0.0]])
    write_plane(bare(tmp_path), "cut", far)
    axes = first_axes(figure_plane(bare(tmp_path), SliceRecord("cut", 0, ("a", "b"), 0.004, 25)))
    assert axes.get_xlim() == (-4, 2 + 3)  # half a side
    assert axes.get_ylim() == (-2, 1)
    assert axes.get_title().splitlines() == ["holds 0.4 % of the path's squared motion", "the path begins outside"]


def test_losses_lie_where_they_were_measured(tmp_path: Path) -> None:
    record = SliceRecord("corner", 0, ("a", "b"), None, 3)
    (tmp_path / "slices").mkdir()
    losses = np.ones((3, 4))
    losses[2, 0] = 9.0  # first = 2, second = 0
    made = {"first": np.arange(3.0), "second": np.arange(4.0), "losses": losses}
    save_file(made, tmp_path / "slices" / "corner.safetensors")
    filled = first_axes(figure_plane(bare(tmp_path), record)).collections[0]
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
    assert np.isfinite(first_axes(figure).collections[0].levels).all()


def test_a_flat_plane_can_be_drawn(tmp_path: Path) -> None:
    made = write_plane(bare(tmp_path), "flat", None) | {"losses": np.full((25, 19), 2.0)}
    save_file(made, tmp_path / "slices" / "flat.safetensors")
    figure_plane(bare(tmp_path), SliceRecord("flat", 0, ("a", "b"), None, 25)).savefig(io.BytesIO(), format="png")


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
