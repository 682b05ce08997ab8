"""River and valley over training, under other thresholds, and the valley's condition numbers."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_landscapes import DIM, STEPS, make_landscape, spectrum, write_spectrum
from matplotlib.colors import to_hex

from thalweg.records.landscape import LandscapePlan, RunLandscape
from thalweg.report.figures import COLOURS, Drawn
from thalweg.report.landscape import valley as landscape_valley
from thalweg.report.landscape.curves import Arms
from thalweg.report.landscape.valley import condition_drawn, split_drawn, threshold_drawn

T_2 = 4.302652729911275
"""Student's t, 2 degrees of freedom, 0.975: from a table."""
SPEEDS = {"single": 0.5, "looped": 1.0}
SMALL = 1e-4
"""Epsilon of the baseline here, below that of the record."""
ENOUGH = 10
"""Valley directions from which quantiles count."""


def caught(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], Drawn | None]) -> tuple[Any, Drawn]:
    """The figure that the module hands to `drawn`, and its words; nothing is rendered."""
    figures: list[Any] = []

    def keep(figure: Any, name: str, heading: str, caption: str, alt: str) -> Drawn:
        figures.append(figure)
        return Drawn(name, heading, caption, alt, b"", b"")

    monkeypatch.setattr(landscape_valley, "drawn", keep)
    made = draw()
    assert made is not None
    return figures[0], made


def with_rules(run: RunLandscape, **more: float) -> RunLandscape:
    """The run, whose records tell of more rules."""
    points = (replace(p, split=replace(p.split, rules=p.split.rules | more)) if p.split else p for p in run.points)
    return replace(run, points=tuple(points))


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Arms:
    """Three seeds of two arms; the last point is matrix-free."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        arm: [
            with_rules(
                make_landscape(folder / f"{arm}-seed{seed}", seed, speed, exact=len(STEPS) - 1, planes=False), relative=SMALL
            )
            for seed in range(3)
        ]
        for arm, speed in SPEEDS.items()
    }


def line(axes: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return np.array(found.get_xdata(), dtype=float), np.array(found.get_ydata(), dtype=float)


def band_of(axes: Any, number: int) -> dict[float, tuple[float, float]]:
    """x -> low and high of one band."""
    found: dict[float, list[float]] = {}
    for x, y in axes.collections[number].get_paths()[0].vertices:
        found.setdefault(float(x), []).append(float(y))
    return {x: (min(ys), max(ys)) for x, ys in found.items()}


def part(values: np.ndarray, name: str, epsilon: float) -> float:
    """Share of a spectrum that belongs to a part, counted anew."""
    valley, ridge = np.mean(values > epsilon), np.mean(values < -epsilon)
    return float({"valley": valley, "ridge": ridge, "river": 1 - valley - ridge}[name])


@pytest.mark.parametrize("name", ["valley", "river", "ridge"])
@pytest.mark.parametrize(("row", "epsilon"), [(0, 3e-3), (1, SMALL)])
def test_lines_of_the_split_are_mean_shares_over_seeds(
    monkeypatch: pytest.MonkeyPatch, arms: Arms, name: str, row: int, epsilon: float
) -> None:
    figure, _ = caught(monkeypatch, lambda: split_drawn(arms, ""))
    axes = [axes for axes in figure.axes if axes.get_ylabel().startswith(name)][row]
    for arm, speed in SPEEDS.items():
        x, y = line(axes, arm)
        np.testing.assert_array_equal(x, STEPS[:-1])
        shares = [[part(spectrum(step, seed, speed), name, epsilon) for seed in range(3)] for step in STEPS[:-1]]
        np.testing.assert_allclose(y, np.mean(shares, axis=1), rtol=1e-12, atol=1e-15)


def test_bands_of_the_split_are_t_intervals_over_seeds(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, _ = caught(monkeypatch, lambda: split_drawn(arms, ""))
    shares = [part(spectrum(1000, seed, 0.5), "valley", SMALL) for seed in range(3)]
    assert np.std(shares) > 0
    low, high = band_of(figure.axes[3], 0)[1000.0]
    half = T_2 * np.std(shares, ddof=1) / np.sqrt(3)
    assert low == pytest.approx(np.mean(shares) - half)
    assert high == pytest.approx(np.mean(shares) + half)


def test_the_caption_of_the_split_tells_how_epsilon_was_found(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    _, made = caught(monkeypatch, lambda: split_drawn(arms, "the set-up"))
    assert made.name == "split"
    assert made.caption.endswith("Runs: single 3, looped 3. the set-up")
    assert "widest gap of log |eigenvalue| at 66 of 66 points" in made.caption
    share = np.mean([part(spectrum(1000, seed, 1.0), "valley", 3e-3) for seed in range(3)])
    assert f"looped {share:.3g} at update 1000" in made.alt


def test_there_is_one_row_where_no_spectrum_is_on_the_disk(monkeypatch: pytest.MonkeyPatch, arms: Arms, tmp_path: Path) -> None:
    moved = {arm: [replace(run, folder=tmp_path / "nothing") for run in runs] for arm, runs in arms.items()}
    assert len(caught(monkeypatch, lambda: split_drawn(moved, ""))[0].axes) == 3
    assert len(caught(monkeypatch, lambda: condition_drawn(moved, ""))[0].axes) == 3
    assert threshold_drawn(moved, "") is None


@pytest.mark.parametrize("draw", [split_drawn, threshold_drawn, condition_drawn])
def test_nothing_is_drawn_without_exact_spectra(draw: Callable[[Arms, str], Drawn | None], tmp_path: Path) -> None:
    rough = make_landscape(tmp_path / "looped-seed0", exact=0, planes=False)
    assert draw({"looped": [rough]}, "") is None
    assert draw({"looped": [RunLandscape(tmp_path, LandscapePlan())]}, "") is None
    assert draw({}, "") is None


def last(speed: float) -> list[np.ndarray]:
    """The last exact spectrum of every seed."""
    return [spectrum(STEPS[-2], seed, speed) for seed in range(3)]


def test_the_valley_at_every_threshold_is_counted_at_the_last_exact_checkpoint(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, made = caught(monkeypatch, lambda: threshold_drawn(arms, ""))
    for arm, speed in SPEEDS.items():
        x, y = line(figure.axes[0], arm)
        assert x[0] == pytest.approx(1e-12)
        assert x[-1] == pytest.approx(max(np.abs(values).max() for speed in SPEEDS.values() for values in last(speed)))
        np.testing.assert_allclose(y, [np.mean([np.mean(values > e) for values in last(speed)]) for e in x], atol=1e-12)
        assert f"{arm} at update {STEPS[-2]}" in made.alt
        np.testing.assert_allclose(np.diff(np.log(x)), np.log(x[1] / x[0]), rtol=1e-6)


def test_condition_numbers_are_geometric_means_where_all_seeds_have_a_valley(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, _ = caught(monkeypatch, lambda: threshold_drawn(arms, ""))
    for arm, speed in SPEEDS.items():
        x, y = line(figure.axes[1], arm)
        smallest = min(values.max() for values in last(speed))
        grid, _ = line(figure.axes[0], arm)
        np.testing.assert_allclose(x, grid[grid < smallest])
        logs = [np.mean([np.log(values.max() / values[values > e].min()) for values in last(speed)]) for e in x]
        np.testing.assert_allclose(np.log(y), logs, rtol=1e-9, atol=1e-12)


def test_the_band_of_condition_numbers_is_a_t_interval_of_logarithms(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, _ = caught(monkeypatch, lambda: threshold_drawn(arms, ""))
    band = band_of(figure.axes[1], 1)
    epsilon = min(band, key=lambda x: abs(np.log(x / 0.1)))
    logs = [np.log(values.max() / values[values > epsilon].min()) for values in last(1.0)]
    half = T_2 * np.std(logs, ddof=1) / np.sqrt(3)
    expected = np.exp([np.mean(logs) - half, np.mean(logs) + half])
    np.testing.assert_allclose(band[epsilon], np.maximum(expected, 1), rtol=1e-9)


@pytest.mark.parametrize(("marker", "epsilon"), [("o", 1e-12), ("s", SMALL), ("D", 3e-3)])
def test_markers_lie_at_the_epsilon_of_their_rule_on_their_seed(
    monkeypatch: pytest.MonkeyPatch, arms: Arms, marker: str, epsilon: float
) -> None:
    figure, made = caught(monkeypatch, lambda: threshold_drawn(arms, ""))
    for column, number in (
        (0, lambda values: np.mean(values > epsilon)),
        (1, lambda values: values.max() / values[values > epsilon].min()),
    ):
        for arm, speed in SPEEDS.items():
            (found,) = [one for one in figure.axes[column].lines if one.get_marker() == marker and one.get_color() == COLOURS[arm]]
            np.testing.assert_allclose(found.get_xdata(), [epsilon] * 3)
            np.testing.assert_allclose(found.get_ydata(), [number(values) for values in last(speed)])
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert "noise floor" not in [text.get_text() for text in legend.get_texts()]
    assert "machine floor" in made.alt


def test_a_rule_above_all_eigenvalues_leaves_no_valley_and_is_told(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    bare = {"looped": [with_rules(run, log_gap=1e3) for run in arms["looped"]]}
    figure, made = caught(monkeypatch, lambda: threshold_drawn(bare, ""))
    (found,) = [one for one in figure.axes[0].lines if one.get_marker() == "D"]
    np.testing.assert_array_equal(found.get_ydata(), 0)
    assert "widest gap of log |eigenvalue| 1e+03: no valley" in made.alt


def numbers(values: np.ndarray, epsilon: float) -> tuple[float, float, float]:
    """kappa, kappa_q and spread of the valley, computed anew."""
    valley = np.sort(values[values > epsilon])
    kappa = valley[-1] / valley[0]
    at = (len(valley) - 1) * np.array([0.1, 0.9])
    low, high = np.interp(at, np.arange(len(valley)), valley)
    return (
        kappa,
        high / low if len(valley) >= ENOUGH else kappa,
        float(np.sqrt(np.mean((np.log(valley) - np.log(valley).mean()) ** 2))),
    )


def test_condition_numbers_of_the_baseline_are_those_of_the_spectra(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, _ = caught(monkeypatch, lambda: condition_drawn(arms, ""))
    assert len(figure.axes) == 6
    for arm, speed in SPEEDS.items():
        table = np.array([[numbers(spectrum(step, seed, speed), SMALL) for seed in range(3)] for step in STEPS[:-1]])
        expected = np.stack([*np.exp(np.log(table[:, :, :2]).mean(1)).T, table[:, :, 2].mean(1)])
        for axes, curve in zip(figure.axes[3:], expected, strict=True):
            x, y = line(axes, arm)
            np.testing.assert_array_equal(x, STEPS[:-1])
            np.testing.assert_allclose(y, curve, rtol=1e-9)


def test_condition_numbers_of_the_record_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, made = caught(monkeypatch, lambda: condition_drawn(arms, "the set-up"))
    for axes, expected in zip(figure.axes[:3], (30.0, 15.0, 1.0), strict=True):
        np.testing.assert_allclose(line(axes, "looped")[1], expected)
    assert made.name == "condition-numbers"
    assert made.caption.endswith("the set-up")
    assert re.search(r"kappa, epsilon by the rule of the run: single 30 at update 1000, looped 30 at update 1000;", made.alt)


def test_seeds_are_points_and_a_mean_needs_a_valley_in_all_of_them(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    first = arms["looped"][0]
    points = [replace(p, split=replace(p.split, kappa=None)) if p.step == 10 and p.split else p for p in first.points]
    some = {"looped": [replace(first, points=tuple(points)), *arms["looped"][1:]]}
    axes = caught(monkeypatch, lambda: condition_drawn(some, ""))[0].axes[0]
    assert 10 not in line(axes, "looped")[0]
    (dots,) = [one for one in axes.lines if one.get_marker() == "."]
    assert list(dots.get_xdata()).count(10) == 2
    assert list(dots.get_xdata()).count(20) == 3


def test_arms_without_a_valley_have_no_line_of_condition_numbers(
    monkeypatch: pytest.MonkeyPatch, arms: Arms, tmp_path: Path
) -> None:
    rough = make_landscape(tmp_path / "shift-seed0", exact=0, planes=False)
    figure, _ = caught(monkeypatch, lambda: condition_drawn(arms | {"shift": [rough]}, ""))
    assert "shift" not in [one.get_label() for one in figure.axes[0].lines]


def test_an_arm_keeps_its_colour_whichever_arms_have_numbers(monkeypatch: pytest.MonkeyPatch, arms: Arms, tmp_path: Path) -> None:
    rough = make_landscape(tmp_path / "mine-seed0", exact=0, planes=False)
    some = {"mine": [rough], "other": arms["looped"]}
    colours = set()
    for draw in (split_drawn, threshold_drawn, condition_drawn):
        figure, _ = caught(monkeypatch, lambda draw=draw: draw(some, ""))
        colours |= {to_hex(one.get_color()) for one in figure.axes[0].lines if one.get_label() == "other"}
    assert len(colours) == 1


@pytest.mark.parametrize("draw", [split_drawn, threshold_drawn, condition_drawn])
def test_hostile_names_and_single_seeds_are_drawn(draw: Callable[[Arms, str], Drawn | None], arms: Arms) -> None:
    made = draw({"_$\\frac{$": arms["looped"][:1]}, "")
    assert made is not None
    assert made.svg.startswith(b"<?xml")
    assert len(made.svg) < 300_000


def test_a_spectrum_without_positive_eigenvalues_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = make_landscape(tmp_path / "looped-seed0", exact=1, steps=(0,), planes=False)
    write_spectrum(run, 0, -np.geomspace(1e-3, 1, DIM), exact=True)
    figure, made = caught(monkeypatch, lambda: threshold_drawn({"looped": [run]}, ""))
    np.testing.assert_array_equal(line(figure.axes[0], "looped")[1], 0)
    assert len(line(figure.axes[1], "looped")[0]) == 0
    assert "no valley" in made.alt
