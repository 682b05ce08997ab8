"""The numbers of a page's charts, against the records that they come from."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_landscapes import DIM, STEPS, make_landscape, spectrum, write_plane
from scipy.interpolate import RegularGridInterpolator

from thalweg.records.landscape import RunLandscape, read_arrays
from thalweg.records.run import RunRecord, StudySummary
from thalweg.report.curves import by_arm
from thalweg.report.landscape.slices import evenly, losses_along
from thalweg.report.paper.charts import COSTS, SIDE, curves_chart, places_of, planes_chart, rounded, spectra_chart

T_2 = 4.302652729911275
"""Student's t, 2 degrees of freedom, 0.975: from a table."""


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> RunLandscape:
    return make_landscape(tmp_path_factory.mktemp("runs") / "looped-seed0", exact=len(STEPS))


def test_numbers_have_five_digits_and_none_stands_for_what_is_not_finite() -> None:
    assert rounded(np.array([[1.234567, -0.000123456], [np.nan, np.inf]])) == [[1.2346, -0.00012346], [None, None]]


def test_a_curve_is_the_mean_and_interval_over_seeds(summary: StudySummary, runs: dict[str, RunRecord]) -> None:
    chart = curves_chart(summary, by_arm(runs, summary.arms), {})
    view = next(v for v in chart["views"] if (v["label"], v["axis"]) == ("accuracy, held-out, high information", "updates"))
    curve = view["arms"]["looped"]
    last = [run.evaluations[-1] for run in runs.values() if run.summary is not None and run.summary.arm == "looped"]
    values = np.array([one.scores["held-out"]["high"].accuracy for one in last])
    half = T_2 * values.std(ddof=1) / math.sqrt(3)
    assert curve["x"][-1] == last[0].step
    assert [curve[name][-1] for name in ("mean", "low", "high")] == pytest.approx(
        [values.mean(), values.mean() - half, values.mean() + half], rel=2e-5
    )
    assert {v["axis"] for v in chart["views"] if v["label"] == view["label"]} == set(COSTS)
    assert chart["styles"]["looped"] == {"colour": "#D55E00", "dash": "solid"}
    json.dumps(chart, allow_nan=False)


def test_numbers_of_the_landscape_are_over_updates(
    summary: StudySummary, runs: dict[str, RunRecord], landscape: RunLandscape
) -> None:
    chart = curves_chart(summary, by_arm(runs, summary.arms), {"looped": [landscape]})
    (view,) = (v for v in chart["views"] if v["label"] == "matrix entropy S1 (nats)")
    assert (view["axis"], view["arms"]["looped"]["x"]) == ("updates", [float(step) for step in STEPS])
    assert view["arms"]["looped"]["mean"] == rounded(np.array([point.entropy.value for point in landscape.points]))
    assert [v["log"] for v in chart["views"] if v["label"] == "largest eigenvalue"] == [True]


def test_spectra_hold_every_eigenvalue_once_in_its_bin(landscape: RunLandscape) -> None:
    chart = spectra_chart({"looped": landscape})
    assert chart is not None
    one = chart["arms"]["looped"]
    assert (one["run"], one["steps"]) == ("looped-seed0", list(STEPS))
    bounds = np.array(chart["bounds"])
    for step, shares in zip(STEPS, one["shares"], strict=True):
        values = spectrum(step, 0, 0.5)
        expected = [np.sum((low <= values) & (values < high)) / DIM for low, high in itertools.pairwise(bounds)]
        np.testing.assert_allclose(shares, expected, rtol=5e-5)
        assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert (len(chart["places"]), chart["places"] == sorted(chart["places"])) == (len(bounds), True)


def test_places_are_even_in_the_logarithm_on_both_sides_of_zero() -> None:
    values = np.array([-10.0, -1.0, -0.1, -0.05, 0.0, 0.05, 0.1, 1.0, 10.0])
    np.testing.assert_allclose(places_of(values, 0.1), [-2.5, -1.5, -0.5, -0.25, 0, 0.25, 0.5, 1.5, 2.5])


def test_ticks_stand_where_their_eigenvalues_are(landscape: RunLandscape) -> None:
    chart = spectra_chart({"looped": landscape})
    assert chart is not None
    bounds, places = np.array(chart["bounds"]), np.array(chart["places"])
    assert len(chart["ticks"]) >= 5
    for place, words in chart["ticks"]:
        sign, power = -1 if words.startswith("-") else 1, words.partition("<sup>")[2].removesuffix("</sup>")
        value = sign * 10.0 ** int(power) if power else 0.0
        assert place == pytest.approx(np.interp(value, bounds, places) if value else 0.0, abs=1e-3)


def test_no_spectra_no_chart(tmp_path: Path) -> None:
    assert spectra_chart({}) is None
    bare = make_landscape(tmp_path / "run", steps=(0,), planes=False)
    bare.spectrum_path(0).unlink()
    assert spectra_chart({"looped": bare}) is None
    assert planes_chart({"looped": [bare]}) == []


def test_a_plane_has_the_second_direction_along_its_rows_and_its_path_on_the_ground(landscape: RunLandscape) -> None:
    random, path = planes_chart({"looped": [landscape]})
    assert (random["arm"], random["run"], random["name"], random["path"]) == ("looped", "looped-seed0", "random", [])
    saved = read_arrays(landscape.slice_path("path"))
    assert path["axes"] == ["PC 1", "PC 2"]
    assert path["losses"][3][7] == pytest.approx(saved["losses"][7, 3], rel=2e-5)
    assert path["low"] == saved["losses"].min()
    ground = RegularGridInterpolator((saved["first"], saved["second"]), saved["losses"], bounds_error=False)(saved["path"])
    told = [math.nan if z is None else z for _, _, z in path["path"]]
    np.testing.assert_allclose(told, ground, rtol=1e-4)
    assert np.isfinite(told).any()


def test_heights_are_bilinear_and_there_are_none_outside() -> None:
    plane = {"first": np.array([0.0, 1.0, 3.0]), "second": np.array([-1.0, 1.0]), "losses": np.array([[0.0, 2.0], [1, 3], [5, 7]])}
    found = losses_along(plane, np.array([[0.0, -1.0], [3.0, 1.0], [2.0, 0.0], [3.1, 0.0], [0.0, -1.1]]))
    np.testing.assert_allclose(found, [0, 7, 4, math.nan, math.nan])


def test_a_fine_plane_is_thinned_to_its_ends(tmp_path: Path) -> None:
    assert evenly(3, SIDE) == [0, 1, 2]
    assert (len(evenly(101, SIDE)), evenly(101, SIDE)[0], evenly(101, SIDE)[-1]) == (SIDE, 0, 100)


def test_a_plane_with_holes_says_none_there(tmp_path: Path) -> None:
    landscape = make_landscape(tmp_path / "run", steps=(0,))
    write_plane(landscape, "random", None, hole=True)
    chart = planes_chart({"a": [landscape]})[0]
    assert any(value is None for row in chart["losses"] for value in row)
    json.dumps(chart, allow_nan=False)


def test_the_loss_of_text_is_in_bits(summary: StudySummary, runs: dict[str, RunRecord]) -> None:
    grouped = by_arm(runs, summary.arms)
    nats, bits = (
        next(v for v in curves_chart(replace(summary, task=task), grouped, {})["views"] if v["label"] == f"loss, held-out ({unit})")
        for task, unit in (("markov", "nats per token"), ("text", "bits per byte"))
    )
    np.testing.assert_allclose(np.array(bits["arms"]["looped"]["mean"]) * math.log(2), nats["arms"]["looped"]["mean"], rtol=1.1e-4)
