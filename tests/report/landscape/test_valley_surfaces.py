"""Landscapes of measured planes and of the valleys of theory: heights, paths and scales against independent numbers."""

import io
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from made_up_landscapes import trajectory, write_plane
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from thalweg.records.landscape import LandscapePlan, RunLandscape, SliceRecord
from thalweg.report.landscape import valley_surfaces as valley_pictures
from thalweg.report.landscape.slices import losses_along
from thalweg.report.landscape.valley_surfaces import (
    FLOOR,
    RATE,
    START,
    STEPS,
    SWITCH,
    Valley,
    descend,
    ground,
    raised,
    stages_of,
    u_valley,
    v_valley,
    valleys_drawn,
)

Planes = dict[str, tuple[RunLandscape, SliceRecord]]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is drawn, before it becomes bytes."""
    figures: list[Figure] = []
    whole = valley_pictures.drawn
    monkeypatch.setattr(valley_pictures, "drawn", lambda figure, *words: figures.append(figure) or whole(figure, *words))
    return figures


@pytest.fixture
def planes(tmp_path: Path) -> Planes:
    """A plane of each arm, that of looped twice as high, and one of an arm that has no picture."""
    found: Planes = {}
    for arm in ("shift-hard", "shift", "looped", "single"):
        run = RunLandscape(tmp_path / f"{arm}-seed0" / "landscape", LandscapePlan())
        made = write_plane(run, "path", trajectory())
        save_file(made | {"losses": made["losses"] * (2 if arm == "looped" else 1)}, run.slice_path("path"))
        found[arm] = (run, SliceRecord("path", 700, (f"PC 1 of {arm}", "cost in $"), 0.93, 25))
    return found


def arrays(planes: Planes, arm: str) -> dict[str, np.ndarray]:
    return valley_pictures.plane_of(*planes[arm])


def path_of(axes: Any) -> np.ndarray:
    """The line of a path as drawn, ``(3, K)``."""
    return np.array(axes.lines[0].get_data_3d())


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


@pytest.mark.parametrize(("above", "height"), [(0.0, 0.0), (9 * FLOOR, 1.0), (99 * FLOOR, 2.0), (-1e-9, 0.0)])
def test_height_is_logarithmic_above_the_floor(above: float, height: float) -> None:
    assert float(raised(np.array(above))) == pytest.approx(height)


def test_interpolation_is_exact_for_a_bilinear_loss_and_nothing_outside() -> None:
    first, second = np.array([0.0, 1.0, 3.0]), np.array([-1.0, 0.0, 2.0, 3.0])
    a, b = np.meshgrid(first, second, indexing="ij")
    plane = {"first": first, "second": second, "losses": 2 + a - 3 * b + 0.5 * a * b}
    path = np.array([[0.0, -1.0], [0.5, 1.3], [2.9, 2.5], [3.0, 3.0], [3.1, 0.0], [1.0, -1.2]])
    x, y = path.T
    expected = 2 + x - 3 * y + 0.5 * x * y
    np.testing.assert_allclose(losses_along(plane, path), [*expected[:4], np.nan, np.nan])


@pytest.mark.parametrize("valley", [u_valley(), v_valley()])
def test_pull_is_the_derivative_of_the_wall(valley: Valley) -> None:
    step = 1e-6
    for x in (-2.3, -0.7, -0.04, 0.02, 0.9, 1.7):
        rise = (valley.wall(np.array(x + step)) - valley.wall(np.array(x - step))) / (2 * step)
        assert valley.pull(x) == pytest.approx(float(rise), abs=1e-6)


@pytest.mark.parametrize("arm", ["single", "looped", "shift"])
def test_paths_are_gradient_descent_on_the_ground_below_them(arm: str) -> None:
    stages, step = stages_of(arm), 1e-6
    path = descend(stages)
    assert (len(path), tuple(path[0])) == (STEPS + 1, START)
    here = path[:-1] + np.array([0.0, 1e-4])  # on the side of the stage that begins
    slopes = []
    for side in np.eye(2):
        ends = [ground(stages, path, *(here + sign * step * side).T) for sign in (1, -1)]
        slopes.append((ends[0] - ends[1]) / (2 * step))
    np.testing.assert_allclose(np.diff(path, axis=0), -RATE * np.stack(slopes, 1), atol=1e-6)


def test_single_is_trapped_and_looped_hops_in_theory() -> None:
    trapped, hops = descend(stages_of("single")), descend(stages_of("looped"))
    assert trapped[-1, 0] == pytest.approx(1, abs=1e-6)  # the edge of the floor
    assert (np.diff(np.sign(hops[8:, 0])) != 0).all()
    assert hops[-1, 1] > 5 * trapped[-1, 1]


def test_shift_follows_single_then_hops() -> None:
    path = descend(stages_of("shift"))
    np.testing.assert_array_equal(path[: SWITCH + 1], descend(stages_of("single"))[: SWITCH + 1])
    assert (np.diff(np.sign(path[SWITCH + 6 :, 0])) != 0).all()


def test_the_river_goes_on_at_its_height_where_a_stage_begins() -> None:
    stages = stages_of("shift")
    path = descend(stages)
    y = path[SWITCH, 1]
    before, after = ground(stages, path, np.zeros(2), np.array([y, y + 1e-9]))
    assert after == pytest.approx(before, abs=1e-8)
    assert before == pytest.approx(-stages[0][0].slope * y)


def test_each_arm_has_its_plane_above_its_valley(planes: Planes, kept: list[Figure]) -> None:
    figure = valleys_drawn(planes, "END.")
    assert figure is not None
    assert (figure.name, figure.heading) == ("valleys", "Which valley does each arm train in?")
    above = ["measured: single", "measured: looped", "measured: shift"]
    below = ["theory: U-valley", "theory: V-valley", "theory: U-valley, then V-valley"]
    assert sorted(titles(kept[0])) == sorted([*above, *below])
    for one, other in zip(above, below, strict=True):
        upper, lower = (next(a for a in kept[0].axes if a.get_title() == title).get_position() for title in (one, other))
        assert upper.x0 == pytest.approx(lower.x0)
        assert upper.y0 > lower.y0
    assert figure.caption.endswith("END.")


def test_training_paths_lie_on_the_measured_ground(planes: Planes, kept: list[Figure]) -> None:
    valleys_drawn(planes, "")
    plane = arrays(planes, "looped")
    axes = next(a for a in kept[0].axes if a.get_title() == "measured: looped")
    drawn = path_of(axes)
    over = np.isfinite(losses_along(plane, plane["path"]))
    np.testing.assert_allclose(drawn[:2].T, plane["path"][over])
    a, b = drawn[:2]
    above = 2 * (1 + 0.02 * a**2 + (b - 0.1 * a**2 + 0.3 * a) ** 2) - plane["losses"].min()
    np.testing.assert_allclose(FLOOR * (10 ** drawn[2] - 1), above, atol=0.04)  # the grid is coarse


def test_paths_of_theory_lie_on_their_ground(planes: Planes, kept: list[Figure]) -> None:
    valleys_drawn(planes, "")
    axes = next(a for a in kept[0].axes if a.get_title() == "theory: V-valley")
    x, y, z = path_of(axes)
    np.testing.assert_array_equal(np.stack([x, y], 1), descend(stages_of("looped")))
    np.testing.assert_allclose(z, 1.2 * (np.hypot(x, 0.1) - 0.1) - 0.3 * y)


def test_all_measured_landscapes_share_one_scale(planes: Planes, kept: list[Figure]) -> None:
    valleys_drawn(planes, "")
    upper: list[Any] = [axes for axes in kept[0].axes if axes.get_title().startswith("measured")]
    losses = arrays(planes, "looped")["losses"]
    for axes in upper:
        assert axes.get_zlim() == pytest.approx((0, float(raised(losses.max() - losses.min()))))
        surface = axes.collections[0]
        assert (surface.norm.vmin, surface.norm.vmax) == pytest.approx(axes.get_zlim())


def test_surfaces_hold_the_measured_losses(planes: Planes, kept: list[Figure]) -> None:
    valleys_drawn(planes, "")
    axes: Any = next(a for a in kept[0].axes if a.get_title() == "measured: single")
    losses = arrays(planes, "single")["losses"]
    corners = np.asarray(axes.collections[0]._faces).reshape(-1, 3)
    assert corners[:, 2].min() == pytest.approx(0)
    assert corners[:, 2].max() == pytest.approx(float(raised(losses.max() - losses.min())))
    highest = corners[corners[:, 2].argmax(), :2]
    i, j = np.unravel_index(losses.argmax(), losses.shape)
    np.testing.assert_allclose(highest, [arrays(planes, "single")["first"][i], arrays(planes, "single")["second"][j]])


def test_directions_are_each_arms_own_in_axes_and_caption(planes: Planes, kept: list[Figure]) -> None:
    figure = valleys_drawn(planes, "")
    assert figure is not None
    axes = next(a for a in kept[0].axes if a.get_title() == "measured: shift")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("PC 1 of shift", r"cost in \$")
    for arm in ("single", "looped", "shift"):
        held = f"{arm}: {arm}-seed0, PC 1 of {arm} and cost in $ around update 700 (93 % of the path's squared motion)"
        assert held in figure.caption
    assert "shift-hard" not in figure.caption
    assert (
        "U: wall(x) = 1 max(|x| - 1, 0)^2 / 2, slope 0.03; V: wall(x) = 1.2 (sqrt(x^2 + 0.1^2) - 0.1), slope 0.3" in figure.caption
    )


def test_alt_text_has_numbers(planes: Planes) -> None:
    figure = valleys_drawn(planes, "")
    assert figure is not None
    losses = arrays(planes, "looped")["losses"]
    assert f"looped, losses {losses.min():.3g} to {losses.max():.3g} nats" in figure.alt
    assert "U-valley: 0 changes of side, 0.6 down the river" in figure.alt


def test_fewer_arms_are_enough_and_none_gives_none(planes: Planes, kept: list[Figure]) -> None:
    assert valleys_drawn({"looped": planes["looped"]}, "") is not None
    assert titles(kept[0]) == ["measured: looped", "theory: V-valley"]
    assert valleys_drawn({}, "") is None
    assert valleys_drawn({"shift-hard": planes["shift-hard"]}, "") is None


def test_holes_flat_ground_and_missing_paths_can_be_drawn(planes: Planes, kept: list[Figure]) -> None:
    made = arrays(planes, "single")
    losses = made["losses"].copy()
    losses[0, 0], losses[3, 3] = np.inf, np.nan
    save_file(made | {"losses": losses}, planes["single"][0].slice_path("path"))
    save_file(
        {k: v for k, v in made.items() if k != "path"} | {"losses": np.ones((25, 19))}, planes["looped"][0].slice_path("path")
    )
    figure = valleys_drawn({arm: planes[arm] for arm in ("single", "looped")}, "")
    assert figure is not None
    axes: Any = next(a for a in kept[0].axes if a.get_title() == "measured: looped")
    assert len(axes.lines) == 0
    assert np.isfinite(axes.get_zlim()).all()


def test_the_drawing_is_light_full_and_the_same_each_time(planes: Planes) -> None:
    figure = valleys_drawn(planes, "")
    assert figure is not None
    assert len(figure.svg) < 300_000
    assert figure == valleys_drawn(planes, "")
    pixels = matplotlib.image.imread(io.BytesIO(figure.png))
    assert (pixels[..., :3].min(axis=-1) < 0.9).mean() > 0.1
