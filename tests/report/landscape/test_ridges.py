"""Ridges of spectra, the split at another epsilon, and two arms place by place."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_landscapes import DIM, STEPS, make_landscape, spectrum, write_spectrum

from thalweg.records.landscape import LandscapePlan, RunLandscape
from thalweg.report.figures import Drawn
from thalweg.report.landscape import ridges as landscape_ridges
from thalweg.report.landscape.curves import Arms
from thalweg.report.landscape.ridges import MOST, at_baseline, exact_spectra, order_of, ridges_drawn, split_at
from thalweg.report.landscape.slices import evenly, figure_spectra

MANY = tuple(range(0, 3000, 100))


def caught(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], Drawn | None]) -> tuple[Any, Drawn]:
    """The figure that the module hands to `drawn`, and its words; nothing is rendered."""
    figures: list[Any] = []

    def keep(figure: Any, name: str, heading: str, caption: str, alt: str) -> Drawn:
        figures.append(figure)
        return Drawn(name, heading, caption, alt, b"", b"")

    monkeypatch.setattr(landscape_ridges, "drawn", keep)
    made = draw()
    assert made is not None
    return figures[0], made


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Arms:
    folder = tmp_path_factory.mktemp("runs")
    return {
        arm: [make_landscape(folder / f"{arm}-seed{seed}", seed, speed, exact=12) for seed in range(3)]
        for arm, speed in (("single", 0.5), ("looped", 1.0))
    }


def steps_of(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_one_column_an_arm_and_one_ridge_a_checkpoint(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, made = caught(monkeypatch, lambda: ridges_drawn(arms, "the set-up"))
    assert [axes.get_title() for axes in figure.axes] == ["single", "looped"]
    assert all(steps_of(axes) == [str(step) for step in STEPS] and len(axes.patches) == len(STEPS) for axes in figure.axes)
    assert made.name == "ridges"
    assert made.caption.endswith("the set-up")
    assert "single-seed0, looped-seed0" in made.caption


def test_a_bin_is_as_high_as_its_share_has_decades_above_half_an_eigenvalue(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, _ = caught(monkeypatch, lambda: ridges_drawn(arms, ""))
    heights, shares = [], []
    for arm, axes in zip(arms, figure.axes, strict=True):
        for place, patch in enumerate(axes.patches):
            values = spectrum(STEPS[place], 0, 0.5 if arm == "single" else 1.0)
            data = patch.get_data()
            heights += list(data.values - (len(STEPS) - 1 - place))
            shares += list(np.histogram(values, data.edges)[0] / DIM)
    held = np.array(shares) > 0
    decades = np.log10(2 * DIM * np.array(shares)[held])
    assert held.sum() > 100
    np.testing.assert_allclose(np.array(heights)[held] / np.max(heights), decades / decades.max(), rtol=1e-10)
    np.testing.assert_array_equal(np.array(heights)[~held], 0)


def test_no_eigenvalue_is_left_out(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, _ = caught(monkeypatch, lambda: ridges_drawn(arms, ""))
    for place, patch in enumerate(figure.axes[1].patches):
        values, edges = spectrum(STEPS[place], 0, 1.0), patch.get_data().edges
        assert edges[0] <= values.min()
        assert values.max() <= edges[-1]
        assert figure.axes[1].get_xlim()[0] < values.min()
        assert values.max() < figure.axes[1].get_xlim()[1]


def test_dots_are_the_smallest_and_the_largest_eigenvalue(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, made = caught(monkeypatch, lambda: ridges_drawn(arms, ""))
    dots = [line for line in figure.axes[1].lines if line.get_marker() == "."]
    for step, line in zip(STEPS, dots, strict=True):
        values = spectrum(step, 0, 1.0)
        np.testing.assert_allclose(line.get_xdata(), [values.min(), values.max()])
    last = spectrum(STEPS[-1], 0, 1.0)
    assert f"from {last.min():.3g} to {last.max():.3g} at update {STEPS[-1]}" in made.alt


def test_later_checkpoints_lie_lower_and_in_front(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, _ = caught(monkeypatch, lambda: ridges_drawn(arms, ""))
    patches = figure.axes[0].patches
    orders = [patch.get_zorder() for patch in patches]
    levels = [patch.get_data().baseline for patch in patches]
    assert orders == sorted(orders)
    assert len(set(orders)) == len(orders)
    assert levels == sorted(levels, reverse=True)
    assert len({patch.get_facecolor() for patch in patches}) == len(patches)


def test_the_scale_is_that_of_the_heat_map_of_spectra(monkeypatch: pytest.MonkeyPatch, arms: Arms) -> None:
    figure, _ = caught(monkeypatch, lambda: ridges_drawn(arms, ""))
    twin = figure_spectra({arm: runs[0] for arm, runs in arms.items()}).axes[0]
    axes = figure.axes[0]
    assert axes.get_xscale() == "symlog"
    np.testing.assert_allclose(axes.get_xticks(), twin.get_yticks())
    assert [label.get_text() for label in axes.get_xticklabels()] == [label.get_text() for label in twin.get_yticklabels()]
    places = np.array([-1.0, -1e-3, 0.0, 1e-4, 1e-2, 1.0])
    np.testing.assert_allclose(axes.xaxis.get_transform().transform(places), twin.yaxis.get_transform().transform(places))


def test_many_checkpoints_are_thinned_to_twelve_with_both_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = make_landscape(tmp_path / "looped-seed0", steps=MANY, exact=len(MANY), planes=False)
    figure, _ = caught(monkeypatch, lambda: ridges_drawn({"looped": [run]}, ""))
    shown = [int(word) for word in steps_of(figure.axes[0])]
    assert len(shown) == 12
    assert shown[0] == MANY[0]
    assert shown[-1] == MANY[-1]
    gaps = np.diff(shown)
    assert gaps.max() - gaps.min() <= 100


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 1]), (5, [0, 1, 2, 3, 4])])
def test_few_checkpoints_are_all_shown(count: int, expected: list[int]) -> None:
    assert evenly(count, MOST) == expected


def test_the_first_run_that_left_spectra_is_shown(monkeypatch: pytest.MonkeyPatch, arms: Arms, tmp_path: Path) -> None:
    bare = RunLandscape(tmp_path / "looped-seed9" / "landscape", LandscapePlan(), points=arms["looped"][0].points)
    figure, made = caught(monkeypatch, lambda: ridges_drawn({"single": [bare], "looped": [bare, *arms["looped"][1:]]}, ""))
    assert [axes.get_title() for axes in figure.axes] == ["looped"]
    assert "looped-seed1" in made.caption


def test_matrix_free_densities_are_drawn_by_their_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = make_landscape(tmp_path / "looped-seed0", exact=0, steps=(0, 10), planes=False)
    figure, _ = caught(monkeypatch, lambda: ridges_drawn({"looped": [run]}, ""))
    assert len(figure.axes[0].patches) == 2


def test_an_arm_with_a_hostile_name_is_drawn_as_it_is(arms: Arms) -> None:
    assert ridges_drawn({"_$\\frac{$": arms["looped"]}, "") is not None


def test_nothing_is_drawn_without_spectra(tmp_path: Path) -> None:
    assert ridges_drawn({}, "") is None
    assert ridges_drawn({"looped": [RunLandscape(tmp_path / "looped-seed0" / "landscape", LandscapePlan())]}, "") is None


def test_the_same_records_give_the_same_bytes(arms: Arms) -> None:
    one, other = ridges_drawn(arms, ""), ridges_drawn(arms, "")
    assert one is not None
    assert other is not None
    assert one.svg == other.svg
    assert len(one.svg) < 300_000


def test_a_split_at_another_epsilon_counts_and_compares_what_lies_above(arms: Arms) -> None:
    split = arms["looped"][0].points[0].split
    assert split is not None
    found = split_at(np.array([-5.0, -0.5, 0.1, 2.0, 4.0, 8.0]), 1.0, split)
    assert (found.valley, found.river, found.ridge, found.kappa, found.kappa_q) == (3, 2, 1, 4.0, 4.0)
    assert found.spread == pytest.approx(np.log(2) * np.sqrt(2 / 3))


def test_from_ten_valley_directions_on_quantiles_replace_the_ends(arms: Arms) -> None:
    split = arms["looped"][0].points[0].split
    assert split is not None
    found = split_at(np.arange(1.0, 12.0), 0.5, split)
    assert found.kappa == 11
    assert found.kappa_q == pytest.approx(10 / 2)


def test_a_split_without_valley_has_no_condition_number(arms: Arms) -> None:
    split = arms["looped"][0].points[0].split
    assert split is not None
    found = split_at(np.array([-5.0, 0.1]), 1.0, split)
    assert (found.valley, found.kappa, found.kappa_q, found.spread) == (0, None, None, None)


def test_the_baseline_splits_where_its_rule_says_and_only_exact_spectra_on_the_disk(tmp_path: Path) -> None:
    run = make_landscape(tmp_path / "looped-seed0", exact=3, steps=(0, 10, 100, 1000), planes=False)
    points = [replace(p, split=replace(p.split, rules={"relative": 1e-5})) if p.split else p for p in run.points]
    run.spectrum_path(10).unlink()
    (found,) = at_baseline({"looped": [replace(run, points=tuple(points))]})["looped"]
    splits = [point.split for point in found.points]
    assert [split is None for split in splits] == [False, True, False, True]
    assert splits[0] is not None
    assert splits[0].valley == (spectrum(0, 0, 0.5) > 1e-5).sum()


def test_thresholds_at_an_eigenvalue_leave_it_out(arms: Arms) -> None:
    one = next(exact_spectra(arms["looped"][0]))
    one = replace(one, values=np.array([-3.0, 1.0, 2.0, 8.0]))
    share, kappa = one.above([0.5, 1.0, 7.0, 8.0])
    np.testing.assert_allclose(share, [0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(kappa, [8, 4, 1, np.nan])


def test_spectra_come_the_last_first(arms: Arms) -> None:
    assert [one.step for one in exact_spectra(arms["looped"][0])] == sorted(STEPS, reverse=True)


def doubled(tmp_path: Path, factor: float, seeds: int = 3) -> Arms:
    """Looped's eigenvalues are Single's times a factor, which differs a little over seeds."""
    made: Arms = {}
    for arm in ("single", "looped"):
        made[arm] = []
        for seed in range(seeds):
            run = make_landscape(tmp_path / f"{arm}-seed{seed}", seed, exact=2, steps=(0, 100), planes=False)
            for step in (0, 100):
                values = spectrum(step, seed, 0.5) * (factor * np.exp(0.01 * (seed - 1)) if arm == "looped" else 1)
                write_spectrum(run, step, values, exact=True)
            made[arm].append(run)
    return made


def test_places_are_paired_by_seed_at_the_last_common_step(tmp_path: Path) -> None:
    arms = doubled(tmp_path, 2.0)
    order = order_of({"looped": arms["looped"][::-1], "single": arms["single"]})
    assert order is not None
    assert order.step == 100
    expected = np.log(2) + 0.01 * np.array([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(order.logs, np.tile(expected[:, None], (1, order.logs.shape[1])), rtol=1e-10)


def test_places_go_down_to_the_machine_floor_of_all_spectra(tmp_path: Path) -> None:
    arms = doubled(tmp_path, 2.0)
    order = order_of(arms)
    assert order is not None
    every = [spectrum(100, seed, 0.5) for seed in range(3)]
    assert order.logs.shape == (3, min((values > 1e-12).sum() for values in every))
    assert order.counts == {"machine_floor": order.logs.shape[1], "log_gap": min((values > 3e-3).sum() for values in every)}


def test_the_largest_epsilon_of_all_spectra_ends_the_valley(tmp_path: Path) -> None:
    arms = doubled(tmp_path, 2.0)
    run = arms["single"][2]
    points = [replace(p, split=replace(p.split, rules=p.split.rules | {"log_gap": 0.1})) if p.split else p for p in run.points]
    arms["single"][2] = replace(run, points=tuple(points))
    order = order_of(arms)
    assert order is not None
    assert order.counts["log_gap"] == min((spectrum(100, seed, 0.5) > 0.1).sum() for seed in range(3))


def test_the_step_that_most_seeds_share_counts_before_a_later_one(tmp_path: Path) -> None:
    arms = doubled(tmp_path, 2.0)
    arms["single"][1].spectrum_path(100).unlink()
    order = order_of(arms)
    assert order is not None
    assert order.step == 0
    assert len(order.logs) == 3


@pytest.mark.parametrize("arm", ["single", "looped"])
def test_two_arms_are_not_compared_where_one_is_not_there(tmp_path: Path, arm: str) -> None:
    assert order_of({arm: doubled(tmp_path, 2.0)[arm]}) is None


def test_models_of_different_sizes_are_not_compared(tmp_path: Path) -> None:
    arms = doubled(tmp_path, 2.0)
    for run in arms["looped"]:
        write_spectrum(run, 100, np.linspace(-1, 1, DIM + 1), exact=True)
    assert order_of(arms) is None
