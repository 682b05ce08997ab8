import io
import math
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from made_up_records import run as study_run
from made_up_sweeps import AXES, cell, make_runs, make_sweep
from matplotlib.figure import Figure

from thalweg.records.experiment import Outcome, Share
from thalweg.records.run import Cell, Score
from thalweg.report.figures import COLOURS
from thalweg.report.switching import figures as sweep_figures
from thalweg.report.switching.by_step import figure_by_step
from thalweg.report.switching.dot_plots import COLUMNS, dots_drawn, dotted_groups, draw_dot, figure_dots, share_dot
from thalweg.report.switching.figures import around, curves_drawn, curves_of, draw_sweep, mean_of, switch_drawn
from thalweg.report.switching.heat_maps import QUANTITIES, figure_map, maps_drawn, place_of, share_tile, signed, whole_cost

FULL = ["loss-over-time", "switch-enlarged", "scp-drop", "scp-difference", "scp-share", "outcome-by-step", "other-ways"]
NEVER = Share(None, 0.5, None, 3, 2)


@pytest.fixture(scope="module")
def sweep():
    return make_sweep(seeds=3)


@pytest.fixture(scope="module")
def few():
    return make_sweep(seeds=3, few=True)


@pytest.fixture(scope="module")
def runs():
    return make_runs(seeds=3)


@pytest.fixture(scope="module")
def figures(sweep, runs):
    return draw_sweep(sweep, runs)


@pytest.fixture
def axes():
    return Figure().subplots()


def with_outcome(sweep, which: str, **changes):
    return replace(sweep, outcomes=tuple(replace(o, **changes) if o.name == which else o for o in sweep.outcomes))


def texts(panel) -> dict:
    """Place of a cell -> its lines."""
    found: dict = {}
    for one in panel.texts:
        x, y = one.get_position()
        found.setdefault((round(x), round(y)), []).append(one.get_text())
    return found


def map_of(sweep, name: str) -> Figure:
    return figure_map(sweep, next(q for q in QUANTITIES if q.name == name))


def test_a_full_sweep_has_every_figure(figures) -> None:
    assert [f.name for f in figures] == FULL


def test_the_same_records_give_the_same_bytes(few, runs) -> None:
    first, second = draw_sweep(few, runs), draw_sweep(few, runs)
    assert [(f.svg, f.png) for f in first] == [(f.svg, f.png) for f in second]


def test_no_figure_is_empty(figures) -> None:
    for figure in figures:
        pixels = matplotlib.image.imread(io.BytesIO(figure.png))
        assert (pixels[..., :3].min(axis=-1) < 0.9).mean() > 0.01, figure.name


def test_every_caption_ends_with_the_set_up(figures) -> None:
    assert all("attention-only, width 24" in f.caption and f.caption.endswith("commit abc.") for f in figures)


def test_a_sweep_without_a_grid_has_no_maps(runs) -> None:
    names = [f.name for f in draw_sweep(make_sweep(3, scp=False, few=True), runs)]
    assert names == [name for name in FULL if not name.startswith("scp")]


def test_a_sweep_without_other_groups_has_no_dots(runs) -> None:
    assert [f.name for f in draw_sweep(make_sweep(3, others=False, few=True), runs)] == FULL[:-1]


def test_nothing_at_all_gives_no_figures() -> None:
    assert draw_sweep(replace(make_sweep(3), outcomes=(), axes={}, defaults={}), {}) == []


def test_each_cell_of_the_maps_prints_its_own_number(sweep) -> None:
    panels = map_of(sweep, "scp-difference").axes
    shown = {
        tuple(AXES[key][i] for key, i in zip(AXES, (*place, k), strict=True)): lines
        for k in range(3)
        for place, lines in texts(panels[k]).items()
    }
    grid = {tuple(o.settings.values()): o.difference.mean for o in sweep.outcomes if o.group == "scp"}
    assert len(shown) == 48
    assert shown == {place: [signed(value)] for place, value in grid.items()}


def test_only_the_cell_of_the_default_is_framed(sweep) -> None:
    framed = [
        (k, *np.add(p.get_xy(), 0.46))
        for k, panel in enumerate(map_of(sweep, "scp-drop").axes[:3])
        for p in panel.patches
        if not p.get_fill() and p.get_linewidth() == 2
    ]
    assert framed == [(1, pytest.approx(2), pytest.approx(2))]  # patience 3, delta_loss 0.02, delta_grad 0.1


def test_a_default_off_the_grid_is_said_in_the_caption(few) -> None:
    off = replace(few, defaults=few.defaults | {"patience": 4.0})
    assert place_of(off, off.defaults) is None
    assert "own point (delta_loss 0.02, delta_grad 0.1, patience 4) is not shown" in maps_drawn(off)[0].caption


def test_censored_cells_are_hatched_and_labelled(sweep) -> None:
    panel = map_of(with_outcome(sweep, "scp-0.02-0.1-3", share_flops=NEVER), "scp-share").axes[1]
    cost = whole_cost(sweep, next(o for o in sweep.outcomes if o.name == "scp-0.02-0.1-3"))
    assert texts(panel)[2, 2] == [f">{cost:.2f}", "1 of 3"]
    corners = [tuple(np.add(p.get_xy(), 0.5)) for p in panel.patches if p.get_hatch()]
    assert (2.0, 2.0) in corners
    assert (3.0, 2.0) not in corners


def test_a_median_beside_censored_runs_is_a_number_and_not_a_bound(sweep) -> None:
    tile = share_tile(sweep, replace(sweep.outcomes[0], share_flops=Share(0.7, 0.6, None, 5, 2)))
    assert (tile.text, tile.note, tile.hatched) == ("0.70", "3 of 5", True)


def test_cells_that_were_not_run_stay_empty(sweep) -> None:
    some = replace(sweep, outcomes=tuple(o for o in sweep.outcomes if o.name != "scp-0.005-0.02-1"))
    panel = map_of(some, "scp-difference").axes[0]
    assert (0, 0) not in texts(panel)
    assert len(texts(panel)) == 15


def test_a_cell_whose_runs_never_switched_says_so(sweep) -> None:
    panel = map_of(with_outcome(sweep, "scp-0.005-0.02-1", switched=0, drop=Cell(None)), "scp-drop").axes[0]
    assert texts(panel)[0, 0] == ["no\nswitch"]


def test_zero_has_no_sign() -> None:
    assert [signed(x) for x in (-0.0001, 0.0, 0.0123, -0.0123)] == ["0.000", "0.000", "+0.012", "-0.012"]


def test_the_colours_of_differences_lie_evenly_around_zero(sweep) -> None:
    bar = map_of(sweep, "scp-difference").axes[-1]
    low, high = bar.get_ylim()
    assert low == -high


def test_alt_text_of_a_map_names_default_and_ends(figures, sweep) -> None:
    alt = next(f.alt for f in figures if f.name == "scp-drop")
    drops = {o.name: o.drop.mean for o in sweep.outcomes if o.group == "scp" and o.drop.mean is not None}
    assert f"default {drops['scp-0.02-0.1-3']:.1f}; lowest {min(drops.values()):.1f} at" in alt
    assert f"highest {max(drops.values()):.1f} at" in alt


def test_whole_cost_is_a_share_of_looped(sweep) -> None:
    counted = {o.name: o.teraflops.mean for o in sweep.outcomes}
    assert whole_cost(sweep, sweep.outcomes[0]) == counted["single"] / counted["looped"]
    assert whole_cost(replace(sweep, outcomes=sweep.outcomes[:1]), sweep.outcomes[0]) is None


def test_around_a_switch_time_is_the_runs_own_and_both_scores_stand_at_zero(runs) -> None:
    run = runs["shift-hard-seed1"]
    (before, low), (after, high) = around(run)
    switch = run.switches[0]
    assert (before[0], before[-1], after[0], after[-1]) == (-400, 0, 0, 400)
    assert low[-1] == 100 * switch.scores_before["held-out"]["all"].accuracy
    assert high[0] == 100 * switch.scores_after["held-out"]["all"].accuracy
    evaluation = next(e for e in run.evaluations if e.step > switch.step)
    at = list(after).index(evaluation.step - switch.step)
    assert high[at] == 100 * evaluation.scores["held-out"]["all"].accuracy


def test_a_switch_near_the_end_of_a_run_is_drawn_as_far_as_it_goes(runs) -> None:
    run = runs["shift-scp-seed0"]
    (before, _), (after, _) = around(replace(run, evaluations=run.evaluations[:3]))
    assert (before[0], list(after)) == (-400, [0.0])


def test_an_evaluation_at_the_switch_itself_does_not_count(runs) -> None:
    run = runs["shift-scp-seed0"]
    switch = replace(run.switches[0], step=720)
    wrong = tuple(replace(e, scores={"held-out": {"all": Score(9.0, 9.0)}}) if e.step == 720 else e for e in run.evaluations)
    (_, low), (_, high) = around(replace(run, switches=(switch,), evaluations=wrong))
    assert max(*low, *high) < 100


def test_the_mean_of_curves_is_over_the_stretch_that_all_cover() -> None:
    a = np.array([0.0, 10.0]), np.array([0.0, 10.0])
    b = np.array([0.0, 4.0, 8.0]), np.array([2.0, 2.0, 2.0])
    x, y = mean_of([a, b])
    np.testing.assert_array_equal(x, [0, 4, 8])
    np.testing.assert_allclose(y, [1, 3, 5])


def test_curves_take_the_arms_that_the_sweep_names(sweep, runs) -> None:
    renamed = {key.replace("shift-seed", "at-00700-seed"): run for key, run in runs.items()}
    found = curves_of(replace(sweep, curves={"shift": "at-00700"}), renamed)
    assert [r.name for r in found["shift"]] == ["shift-seed0", "shift-seed1", "shift-seed2"]
    assert "shift" not in curves_of(sweep, renamed)


def test_incomplete_runs_are_no_curves(sweep, runs) -> None:
    half = {key: replace(run, summary=None) if key.startswith("single") else run for key, run in runs.items()}
    assert list(curves_of(sweep, half)) == ["looped", "shift", "shift-scp", "shift-hard"]


def test_runs_that_never_switched_have_no_enlarged_switch(sweep, runs) -> None:
    still = {key: run for key, run in runs.items() if not key.startswith("shift")}
    assert switch_drawn(sweep, curves_of(sweep, still)) == []


def test_the_curves_show_every_arm_and_loopeds_final_loss(figures, sweep) -> None:
    figure = figures[0]
    assert all(COLOURS[arm].lower() in figure.svg.decode().lower() for arm in ("single", "looped", "shift", "shift-hard"))
    looped = next(o for o in sweep.outcomes if o.name == "looped")
    assert f"Looped's final loss: {looped.final_loss.mean:.3f}." in figure.alt


def test_loss_and_accuracy_are_drawn_over_time_and_over_operations(sweep, runs, monkeypatch) -> None:
    kept = []
    monkeypatch.setattr(sweep_figures, "drawn", lambda figure, *words: kept.append(figure) or words)
    grouped = curves_of(sweep, runs)
    curves_drawn(sweep, grouped)
    loss_time, loss_flops, accuracy_time, accuracy_flops = kept[0].axes
    one = grouped["looped"]
    ends = [run.evaluations[-1] for run in one]
    for axes, what, factor in ((loss_flops, "loss", 1.0), (accuracy_flops, "accuracy", 100.0)):
        line = next(line for line in axes.get_lines() if line.get_label() == "looped")
        mean = factor * np.mean([getattr(end.scores["held-out"]["all"], what) for end in ends])
        np.testing.assert_allclose(line.get_xydata()[-1], (ends[0].flops / 1e12, mean))
    last = next(line for line in accuracy_time.get_lines() if line.get_label() == "looped").get_xydata()[-1]
    assert last[0] == pytest.approx(min(end.seconds for end in ends))
    assert (loss_time.get_ylabel(), accuracy_time.get_ylabel()) == ("held-out loss (nats per token)", "held-out accuracy (%)")


def test_the_defaults_onset_is_shaded_beside_the_arms_that_do_not_switch(sweep, runs, monkeypatch) -> None:
    kept = []
    monkeypatch.setattr(sweep_figures, "drawn", lambda figure, *words: kept.append(figure) or words)
    grouped = curves_of(sweep, runs)
    ramped = [replace(run, switches=(replace(run.switches[0], onset=300),)) for run in grouped["shift"]]
    switch_drawn(sweep, grouped | {"shift": ramped})
    axes = kept[0].axes[-1]
    assert {line.get_label() for line in axes.get_lines()} >= {"looped", "single", "shift"}
    (shade,) = [patch for patch in axes.patches if patch.get_width() == 300]
    assert (shade.get_x(), axes.get_xlim()) == (1, (0, 602))
    late = {name: group for name, group in grouped.items() if name != "shift"}
    switch_drawn(sweep, late)
    assert len(kept[1].axes) == 1


def test_a_single_seed_is_enough() -> None:
    one = {name: study_run(name.removesuffix("-seed0"), 0, 0.8) for name in ("looped-seed0", "shift-scp-seed0")}
    assert [f.name for f in draw_sweep(make_sweep(1, few=True), one)] == FULL


def test_dots_stand_in_the_order_of_the_groups(sweep) -> None:
    mixed = replace(sweep, outcomes=(*reversed(sweep.outcomes), Outcome("new", "more")))
    assert list(dotted_groups(mixed)) == ["onset", "optimizer", "stages", "share", "safety", "more"]
    labels = [t.get_text() for t in figure_dots(sweep).axes[0].get_yticklabels()]
    assert {"hard", "net-hard-1", "at-00140", "safety net"} <= set(labels)
    assert not {"shift-hard", "scp-0.005-0.02-1"} & set(labels)


def test_a_dot_and_its_line_are_the_mean_and_its_interval(sweep, axes) -> None:
    one = next(o for o in sweep.outcomes if o.name == "hard")
    for column, wanted in zip(COLUMNS, (one.share_flops, one.difference, one.drop), strict=True):
        dot = column.dot(sweep, one)
        value = wanted.value if isinstance(wanted, Share) else wanted.mean
        assert (dot.value, dot.low, dot.high, dot.censored) == (value, wanted.low, wanted.high, False)
    draw_dot(axes, 4, share_dot(sweep, one), "black")
    line, point = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [(one.share_flops.low, 4), (one.share_flops.high, 4)])
    np.testing.assert_array_equal(point.get_xydata(), [(one.share_flops.value, 4)])


def test_censored_shares_end_in_an_arrow_at_their_whole_time(sweep, axes) -> None:
    one = replace(next(o for o in sweep.outcomes if o.name == "hard"), share_flops=NEVER)
    draw_dot(axes, 0, share_dot(sweep, one), "black")
    line, arrow = axes.lines
    cost = whole_cost(sweep, one)
    np.testing.assert_array_equal(line.get_xdata(), [0.5, cost])
    assert (arrow.get_marker(), list(arrow.get_xdata())) == (">", [cost])


def test_the_arrow_of_an_unknown_time_stands_at_the_edge(sweep, axes) -> None:
    one = Outcome("a", "onset", share_flops=Share(None, None, None, 2, 2))
    draw_dot(axes, 0, share_dot(sweep, one), "black")
    assert axes.lines[0].get_transform() == axes.get_yaxis_transform()


def test_names_are_drawn_as_they_are(few) -> None:
    named = with_outcome(few, "hard", name="$\\frac{", failed=2)
    labels = figure_dots(named).axes[0].get_yticklabels()
    label = next(t for t in labels if t.get_text() == "$\\frac{ (2 failed)")
    assert not label.get_parse_math()
    assert "$\\frac{ 0.6" in dots_drawn(named)[0].alt


def test_the_scatter_shows_every_setting_that_switched_at_its_step(sweep) -> None:
    share, loss = figure_by_step(sweep).axes
    shown = [o for o in sweep.outcomes if o.group in ("scp", "share") and o.switch_step.mean is not None]
    points = {tuple(line.get_xydata()[0]) for line in loss.lines if line.get_marker() in "os^" and len(line.get_xdata()) == 1}
    assert points == {(o.switch_step.mean, o.difference.mean) for o in shown}
    heights = {o.share_flops.value or whole_cost(sweep, o) for o in shown}
    assert {line.get_ydata()[0] for line in share.lines if line.get_marker() in "os^" and len(line.get_xdata()) == 1} == heights
    assert sum(line.get_markersize() == 11 for line in share.lines) == 1


def test_the_scatter_marks_bounds_by_triangles(sweep) -> None:
    bounds = [o for o in sweep.outcomes if o.group in ("scp", "share") and o.switched and o.share_flops.value is None]
    triangles = [line for line in figure_by_step(sweep).axes[0].lines if line.get_marker() == "^"]
    assert len(triangles) == len(bounds) > 0


def test_settings_without_a_switch_are_counted(figures, sweep) -> None:
    absent = sum(o.group in ("scp", "share") and not o.switched for o in sweep.outcomes)
    assert absent > 0
    assert f"{absent} settings without a switch are left out." in next(f for f in figures if f.name == "outcome-by-step").caption


def test_made_up_shares_are_geometric_means() -> None:
    assert cell(np.array([1.0, 3.0])).mean == 2.0
    shares = [o.share_flops for o in make_sweep(2).outcomes if not o.share_flops.censored]
    assert all(math.isclose(s.value, math.sqrt(s.low * s.high)) for s in shares)
