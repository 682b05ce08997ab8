from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import thalweg as tw
from thalweg.errors import BadInputError
from thalweg.records.landscape import CLASSES, LandscapeRecord, Measure


def loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().mean() + 0.1 * sum(p.pow(4).sum() for p in model.parameters())


@pytest.fixture(scope="module")
def points() -> list[LandscapeRecord]:
    torch.manual_seed(0)
    probe, model = tw.LandscapeProbe(top=1, forms=0), torch.nn.Linear(3, 2)
    found = []
    for step in range(3):
        found.append(probe.measure(loss, model, [torch.eye(3)], step=step))
        with torch.no_grad():
            model.weight.mul_(0.7)
    return found


def test_lines_show_the_records(points: list[LandscapeRecord]) -> None:
    figure = tw.plot(points)
    lines = {axes.get_ylabel(): axes.lines[0].get_ydata() for axes in figure.axes}
    assert list(lines["largest eigenvalue"]) == [point.largest[0] for point in points]
    assert list(lines["matrix entropy $S_1$ (nats)"]) == [point.entropy.value for point in points]


def test_one_run_without_a_name_has_no_legend(points: list[LandscapeRecord]) -> None:
    assert (tw.plot(points).legends, len(tw.plot({"mine": points}).legends)) == ([], 1)


def test_an_axis_says_that_it_is_logarithmic_and_is_so_where_points_span_more_than_30_times(points: list[LandscapeRecord]) -> None:
    for last, label, scale in ((60, "updates", "linear"), (62, "updates (log scale)", "symlog")):
        spread = [replace(points[0], step=0), replace(points[1], step=2), replace(points[2], step=last)]
        axes = tw.plot(spread).axes[0]
        assert (axes.get_xlabel(), axes.get_xscale()) == (label, scale)


def test_points_at_one_step_are_refused(points: list[LandscapeRecord]) -> None:
    with pytest.raises(BadInputError, match="given several at step 1, expected one at each step; give measure\\(\\) its step="):
        tw.plot([points[0], points[1], points[1]])


def test_counts_have_whole_ticks_and_few_points_are_marked(points: list[LandscapeRecord]) -> None:
    panels = {axes.get_ylabel(): axes for axes in tw.plot(points).axes}
    counts = panels["eigenvalues above 1 (count)"]
    low, high = counts.get_ylim()
    assert all(float(tick).is_integer() for tick in counts.get_yticks() if low <= tick <= high)
    assert counts.lines[0].get_marker() == "o"


def test_a_record_prints_as_one_line(points: list[LandscapeRecord]) -> None:
    split = points[0].split
    assert split is not None
    assert str(points[0]).startswith(f"step 0: loss {points[0].loss:.4g}, largest eigenvalue ")
    assert f"{split.valley} in the valley" in str(points[0])
    assert "\n" not in str(points[0])
    free = replace(points[0], split=None, how="matrix-free", trace=Measure(4.5, 0.25))
    assert ", trace 4.5 ± 0.25, entropy " in str(free)
    assert str(free).endswith(" (standard errors over probes); matrix-free, so there is no class")


def test_several_runs_are_drawn_together(points: list[LandscapeRecord]) -> None:
    figure = tw.plot({"a": points, "b": points[::-1]}, "split")
    assert all(len(axes.lines) >= 2 for axes in figure.axes)


def test_counts_are_hollow_where_no_threshold_is_clear(points: list[LandscapeRecord]) -> None:
    """Widths of the gap on either side of the bound; the loss, the first panel, does not depend on the threshold."""
    splits = [replace(point.split, plateau=width) for point, width in zip(points, (0.1, 0.3, 0.4), strict=False) if point.split]
    given = [replace(point, split=split) for point, split in zip(points, splits, strict=False)]
    loss, *counts, _ = tw.plot(given, "split").axes
    assert len(loss.lines) == 1
    hollow = [line for axes in counts for line in axes.lines if line.get_markerfacecolor() == axes.get_facecolor()]
    assert [list(np.asarray(line.get_xdata())) for line in hollow] == [[given[0].step]] * 3


def test_the_class_of_every_spectrum_has_its_row(points: list[LandscapeRecord]) -> None:
    last = tw.plot(points, "split").axes[-1]
    rows = [label.get_text() for label in last.get_yticklabels()]
    drawn = [rows[round(float(y))] for y in np.asarray(last.lines[0].get_ydata())]
    assert drawn == [point.split.name for point in points if point.split]
    assert set(rows) == set(CLASSES)


@pytest.mark.parametrize("given", [[], 3, {}, [1, 2], "no such folder", {"a": []}])
def test_what_is_no_landscape_is_refused(given: Any) -> None:
    with pytest.raises(BadInputError, match="records"):
        tw.plot(given)


def test_what_is_no_record_in_a_list_of_them_is_told(points: list[LandscapeRecord]) -> None:
    with pytest.raises(BadInputError, match=r"^records: given int in a list of LandscapeRecord, expected"):
        tw.plot([points[0], 3])
    with pytest.raises(BadInputError, match=r"^records: given NoneType in a list"):
        tw.plot([points[0], None])


def test_equal_curves_are_both_seen(points: list[LandscapeRecord]) -> None:
    first, second = tw.plot({"a": points, "b": points}).axes[0].lines[:2]
    assert first.is_dashed() != second.is_dashed()


def test_the_name_without_records_is_told(points: list[LandscapeRecord]) -> None:
    with pytest.raises(BadInputError, match=r"^records of b: given nothing, expected"):
        tw.plot({"a": points, "b": []})


@pytest.mark.parametrize("kind", ["spectra", "slices"])
def test_what_was_not_measured_is_refused(points: list[LandscapeRecord], kind: Any) -> None:
    with pytest.raises(BadInputError, match=f"no {kind} in them; .* expected what these records allow: numbers, split$"):
        tw.plot(points, kind)


def test_unknown_kinds_are_refused(points: list[LandscapeRecord], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="did you mean 'spectra'"):
        tw.plot(points, "spectrum")  # type: ignore[arg-type]
