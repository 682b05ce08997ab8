import io
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from made_up_tasks import ARMS, LENGTHS, TASKS, make_task_runs, make_tasks
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from thalweg.records.experiment import Share, TaskOutcome
from thalweg.records.run import Cell
from thalweg.report.figures import COLOURS
from thalweg.report.panels import DASHES
from thalweg.report.tasks.figures import (
    draw_gaps,
    draw_lengths,
    draw_loops,
    draw_tasks,
    halting_drawn,
    loops_drawn,
    shade_trained,
    shown_lengths,
    switches_drawn,
    three_lengths,
    times_drawn,
)
from thalweg.report.tasks.panels import outcomes_of, panels_of, runs_of
from thalweg.report.tasks.savings import figure_saved, saved_drawn, saved_rows
from thalweg.report.tasks.stages import draw_run, stages_drawn

FULL = ["accuracy-over-length", "accuracy-over-loops", "switch-by-task", "accuracy-over-time", "halting", "cost-saved"]
HOSTILE = "$\\frac{ <b>"


@pytest.fixture(scope="module")
def study():
    return make_tasks(seeds=2)


@pytest.fixture(scope="module")
def runs():
    return make_task_runs(seeds=2)


@pytest.fixture(scope="module")
def figures(study, runs):
    return {figure.name: figure for figure in draw_tasks(study, runs)}


@pytest.fixture
def axes():
    return Figure().subplots()


def one_of(study, task: str, arm: str) -> TaskOutcome:
    return next(one for one in study.outcomes if (one.task, one.arm) == (task, arm))


def changed(study, task: str, arm: str, **changes):
    return replace(study, outcomes=tuple(replace(o, **changes) if (o.task, o.arm) == (task, arm) else o for o in study.outcomes))


def test_a_full_study_has_every_figure(figures) -> None:
    assert list(figures) == FULL


def test_no_figure_is_empty(figures) -> None:
    for figure in figures.values():
        pixels = matplotlib.image.imread(io.BytesIO(figure.png))
        assert (pixels[..., :3].min(axis=-1) < 0.9).mean() > 0.01, figure.name


def test_the_same_records_give_the_same_bytes() -> None:
    study, runs = make_tasks(TASKS[:1], seeds=1), make_task_runs(TASKS[:1], seeds=1)
    first, second = draw_tasks(study, runs), draw_tasks(study, runs)
    assert [(f.svg, f.png) for f in first] == [(f.svg, f.png) for f in second]


def test_every_caption_ends_with_the_set_up(figures) -> None:
    assert all("width 64" in f.caption and f.caption.endswith("commit abc.") for f in figures.values())


def test_nothing_at_all_gives_no_figures(study) -> None:
    assert draw_tasks(replace(study, outcomes=()), {}) == []


def test_one_seed_and_one_task_are_enough() -> None:
    assert [f.name for f in draw_tasks(make_tasks(("copy",), seeds=1), make_task_runs(("copy",), seeds=1))] == FULL


def test_arms_without_loops_have_no_figures_of_loops() -> None:
    arms = ("single", "next-token")
    found = draw_tasks(make_tasks(TASKS[:2], arms, 1), make_task_runs(TASKS[:2], arms, 1))
    assert [f.name for f in found] == ["accuracy-over-length", "accuracy-over-time"]


def test_runs_that_failed_leave_no_trace_in_figures(study, runs) -> None:
    bad = tuple(TaskOutcome(one.task, one.arm, (), Cell(None), (), (), 0, (), (), (), failed=2) for one in study.outcomes)
    assert draw_tasks(replace(study, outcomes=bad), {}) == []


def test_runs_without_outcomes_still_have_curves(study, runs) -> None:
    assert [f.name for f in draw_tasks(replace(study, outcomes=()), runs)] == ["switch-by-task", "accuracy-over-time"]


def test_names_are_taken_apart_by_tasks_and_arms(study) -> None:
    tasks, arms = ("copy", "copy-shift"), ("hard", "shift-hard", "shift")
    runs = {f"{task}-{arm}-seed{seed}": (task, arm) for task in tasks for arm in ("shift-hard", "shift") for seed in (0, 1)}
    made = make_task_runs(("copy",), ("shift",), 1)["copy-shift-seed0"]
    found = runs_of(replace(study, tasks=tasks, arms=arms), {name: replace(made, name=name) for name in runs})
    assert [run.name for run in found["copy"]["shift"]] == ["copy-shift-seed0", "copy-shift-seed1"]
    assert [run.name for run in found["copy-shift"]["shift-hard"]] == ["copy-shift-shift-hard-seed0", "copy-shift-shift-hard-seed1"]
    assert "hard" not in found["copy-shift"] or found["copy-shift"]["hard"][0].name == "copy-shift-hard-seed0"


def test_incomplete_runs_are_no_curves(study, runs) -> None:
    half = {name: replace(run, summary=None) if "-looped-" in name else run for name, run in runs.items()}
    assert all("looped" not in arms and "shift" in arms for arms in runs_of(study, half).values())


def test_the_colours_of_arms_are_apart_or_dashed_apart() -> None:
    looks = {(to_hex(COLOURS[arm]), DASHES.get(arm)) for arm in ARMS}
    assert len(looks) == len({colour for colour, _ in looks}) == len(ARMS)
    solid = [arm for arm in ARMS if arm not in DASHES]
    assert solid == ["single", "looped", "shift"]


def test_over_length_the_line_is_the_mean_and_every_seed_a_point(study, axes) -> None:
    one = one_of(study, "parity", "looped")
    draw_lengths(axes, one, 0, 1)
    line, points = axes.lines
    np.testing.assert_allclose(line.get_xydata(), [(n, 50 * sum(row)) for n, row in zip(LENGTHS, one.accuracy, strict=True)])
    seeds = sorted((n, 100 * value) for n, row in zip(LENGTHS, one.accuracy, strict=True) for value in row)
    np.testing.assert_allclose(sorted(map(tuple, points.get_xydata())), seeds)
    assert points.get_linestyle() == "None"


def test_points_of_an_arm_stand_a_little_aside(study, axes) -> None:
    draw_lengths(axes, one_of(study, "parity", "looped"), 6, 7)
    assert list(axes.lines[1].get_xdata()[::2]) == pytest.approx([n + 0.03 * 35 for n in LENGTHS])


def test_the_trained_lengths_are_shaded_up_to_the_longest(axes) -> None:
    axes.plot([5, 40], [0, 1])
    low, high = axes.get_xlim()
    shade_trained(axes, 20)
    (shade,) = axes.patches
    assert shade.get_x() == low
    assert shade.get_x() + shade.get_width() == 20
    assert axes.get_xlim() == (low, high)


def test_a_trained_range_below_the_tested_lengths_is_not_shaded(axes) -> None:
    axes.plot([30, 40], [0, 1])
    shade_trained(axes, 20)
    assert not axes.patches


def test_alt_text_of_lengths_tells_the_edge_and_the_end(figures, study) -> None:
    row = dict(zip(LENGTHS, one_of(study, "copy", "shift").accuracy, strict=True))
    wanted = f"shift {50 * sum(row[20]):.1f} % at 20, {50 * sum(row[40]):.1f} % at 40"
    alt = figures["accuracy-over-length"].alt
    assert wanted in alt[alt.index("copy: ") : alt.index("addition: ")]


def test_shown_lengths() -> None:
    assert shown_lengths(LENGTHS, 20) == [20, 40]
    assert shown_lengths((5, 10), 20) == [10]
    assert shown_lengths((30, 40), 20) == [40]
    assert shown_lengths((), 20) == []


def test_three_lengths_lie_in_at_the_edge_of_and_beyond_the_trained_range() -> None:
    assert list(three_lengths(LENGTHS, 20).values()) == [10, 20, 30]
    assert three_lengths((4, 18, 50), 20) == {"in the trained range": 4, "at its edge": 18, "beyond it": 50}
    assert three_lengths((20,), 20) == {"at its edge": 20}
    assert three_lengths((30,), 20) == {"beyond it": 30}
    assert three_lengths((), 20) == {}


def test_over_loops_the_mark_stands_at_the_passes_of_the_length(study, axes) -> None:
    one = one_of(study, "multiplication", "shift")
    draw_loops(axes, one, 10, "in the trained range")
    line, seeds, mark = axes.lines
    table = 100 * np.array(one.by_loops["10"])
    np.testing.assert_allclose(line.get_xydata(), list(enumerate(table.mean(1), 1)))
    np.testing.assert_allclose(mark.get_xydata(), [(20, table[19].mean())])  # T(10) = 20
    np.testing.assert_allclose(seeds.get_xydata(), [(20, value) for value in table[19]])


def test_alt_text_of_loops_tells_the_exact_match_at_and_after_the_passes_asked_for(figures, study) -> None:
    table = one_of(study, "parity", "looped").by_loops["30"]
    wanted = f"n = 30: {50 * sum(table[29]):.1f} % after T(n) = 30 passes, {50 * sum(table[44]):.1f} % after 45"
    assert f"parity, looped: {wanted}" in figures["accuracy-over-loops"].alt


def test_lengths_whose_passes_were_not_varied_are_left_out(study) -> None:
    some = {key: table for key, table in one_of(study, "copy", "looped").by_loops.items() if key != "30"}
    alone = replace(study, outcomes=(replace(one_of(study, "copy", "looped"), by_loops=some),))
    alt = loops_drawn(alone).alt
    assert ("n = 20" in alt, "n = 30" in alt) == (True, False)
    assert loops_drawn(changed(alone, "copy", "looped", by_loops={})) is None


def test_the_switch_tells_both_sides_at_the_same_weights(figures, runs) -> None:
    ends = [
        np.mean([100 * getattr(runs[f"copy-shift-hard-seed{k}"].switches[0], side)["held-out"]["all"].accuracy for k in (0, 1)])
        for side in ("scores_before", "scores_after")
    ]
    assert ends[0] > ends[1] + 5
    assert f"copy, shift-hard from {ends[0]:.1f} % to {ends[1]:.1f} %" in figures["switch-by-task"].alt


def test_runs_that_never_switched_have_no_switch_figure(study, runs) -> None:
    still = {name: replace(run, switches=()) for name, run in runs.items()}
    assert switches_drawn(study, runs_of(study, still)) is None


def test_runs_with_many_stages_are_drawn_along_their_run_and_not_around_one_switch(study, runs) -> None:
    many = {
        name: replace(run, switches=(run.switches[0], replace(run.switches[0], step=run.switches[0].step + 40, loops_after=7)))
        for name, run in runs.items()
        if name.startswith("copy-shift-seed")
    }
    grouped = runs_of(study, runs | many)
    stages = stages_drawn(study, grouped)
    assert "copy, shift: stages up to 7 passes at update 1540, 7 passes at update 1610." in stages.alt
    assert "parity" not in stages.alt
    assert "copy, shift from" not in switches_drawn(study, grouped).alt
    assert stages_drawn(study, runs_of(study, runs)) is None


def test_each_seed_has_a_row_of_marks_of_its_own(runs) -> None:
    axes = Figure().subplots()
    for row, seed in enumerate((0, 1)):
        draw_run(axes, "shift", runs[f"copy-shift-seed{seed}"], -row, "")
    marks = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "|"]
    assert marks == [[[1500, 0]], [[1570, -1]]]


def test_over_time_the_ends_are_told_for_the_four_arms(figures, runs) -> None:
    ends = [runs[f"addition-single-seed{k}"].evaluations[-1] for k in (0, 1)]
    accuracy = np.mean([end.scores["held-out"]["all"].accuracy for end in ends])
    seconds = np.mean([end.seconds for end in ends])
    alt = figures["accuracy-over-time"].alt
    assert f"addition, single {100 * accuracy:.1f} % after {seconds:.3g} s" in alt
    assert alt.count("addition, ") == 4
    assert times_drawn(make_tasks(seeds=1), {}) is None


def test_disturbed_times_are_drawn_over_operations(study, runs) -> None:
    found = next(one for one in draw_tasks(replace(study, disturbed="Other work ran."), runs) if one.name == "accuracy-over-time")
    ends = [runs[f"addition-single-seed{k}"].evaluations[-1] for k in (0, 1)]
    assert f" % after {np.mean([end.flops for end in ends]) / 1e12:.3g} TFLOP" in found.alt
    assert "over counted operations" in found.caption


def test_halting_shows_differences_in_points(study, axes) -> None:
    draw_gaps(axes, (5, 10), np.array([[1.0, 3.0], [-2.0, 0.0]]), "most confident, per batch")
    line, points = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [(5, 2), (10, -1)])
    np.testing.assert_array_equal(points.get_xydata(), [(5, 1), (5, 3), (10, -2), (10, 0)])


def test_halting_compares_with_the_passes_of_the_length_and_takes_looped_alone(study) -> None:
    shape = np.array(one_of(study, "copy", "looped").accuracy).shape
    tables = {name: tuple(map(tuple, np.full(shape, value))) for name, value in (("a", 0.5), ("b", 0.53), ("c", 0.4), ("d", 0.45))}
    alone = changed(
        study, "copy", "looped", accuracy=tables["a"], confident=tables["b"], confident_batch=tables["c"], dip=tables["d"]
    )
    alt = halting_drawn(alone).alt
    assert (
        "copy, most confident, per sample +3.0 to +3.0; copy, most confident, per batch -10.0 to -10.0; "
        "copy, sharpest dip, per batch -5.0 to -5.0" in alt
    )
    assert halting_drawn(replace(study, outcomes=(one_of(study, "copy", "shift"),))) is None


def test_cost_saved_has_a_row_for_each_task_and_arm(study) -> None:
    rows = saved_rows(study)
    assert [(one.task, one.arm) for one in rows.values()] == [(task, arm) for task in TASKS for arm in ("shift", "shift-hard")]
    assert list(rows)[:5] == [0, 1, 3, 4, 6]
    labels = figure_saved(rows).axes[0].get_yticklabels()
    assert [(label.get_position()[1], label.get_text()) for label in labels[:2]] == [(0.5, "parity"), (3.5, "copy")]


def test_tasks_without_shift_have_no_row(study) -> None:
    some = replace(study, outcomes=tuple(o for o in study.outcomes if o.task != "parity" or o.arm not in ("shift", "shift-hard")))
    assert {one.task for one in saved_rows(some).values()} == set(TASKS[1:])
    assert saved_drawn(replace(study, outcomes=(one_of(study, "copy", "looped"),))) is None


def test_disturbed_seconds_have_no_column(study) -> None:
    """All arms with a share of operations keep their row, also those that never switch."""
    outcomes = tuple(replace(one, share_seconds=None) for one in study.outcomes)
    control = replace(one_of(study, "parity", "shift"), arm="looped-fast", share_seconds=None, drop=Cell(None))
    disturbed = replace(study, outcomes=(*outcomes, control), disturbed="Other work ran.")
    rows = saved_rows(disturbed)
    figure = figure_saved(rows, ["operations"])
    assert [axes.get_xlabel() for axes in figure.axes] == ["share of Looped's operations", "largest drop at a switch (points)"]
    (label, *_) = figure.axes[0].get_yticklabels()
    assert (label.get_fontsize(), label.get_parse_math()) == (8.5, False)
    assert "looped-fast" in [one.arm for one in rows.values()]
    assert "disturbed the seconds" not in saved_drawn(replace(disturbed, disturbed="")).caption
    found = saved_drawn(disturbed)
    assert "There is no share of its training time" in found.caption
    assert "time" not in found.alt


def test_shares_are_dots_with_intervals_on_a_logarithmic_axis(study) -> None:
    one = replace(one_of(study, "parity", "shift"), share_flops=Share(0.4, 0.3, 0.5, 2, 0))
    share, operations, drop = figure_saved({0: one, 1: one_of(study, "copy", "shift")}).axes
    assert [axes.get_xscale() for axes in (share, operations, drop)] == ["log", "log", "linear"]
    lines = [tuple(map(tuple, line.get_xydata())) for line in share.lines]
    assert ((one.share_seconds.low, 0.0), (one.share_seconds.high, 0.0)) in lines
    assert ((one.share_seconds.value, 0.0),) in lines
    counted = [tuple(map(tuple, line.get_xydata())) for line in operations.lines]
    assert {((0.3, 0.0), (0.5, 0.0)), ((0.4, 0.0),)} <= set(counted)
    assert ((one.drop.mean, 0.0),) in [tuple(map(tuple, line.get_xydata())) for line in drop.lines]


def test_an_axis_without_numbers_has_no_ticks(study) -> None:
    drop = figure_saved({0: replace(one_of(study, "copy", "shift"), drop=Cell(None))}).axes[2]
    assert list(drop.get_xticks()) == []
    assert [text.get_text() for text in drop.texts] == ["-"]


def test_runs_that_never_got_there_end_in_arrows_at_the_edge(study) -> None:
    some = changed(study, "copy", "shift", share_seconds=Share(0.8, 0.6, None, 3, 1))
    figure = figure_saved(saved_rows(some))
    axes = figure.axes[0]
    arrows = {line.get_ydata()[0]: line for line in axes.lines if line.get_marker() == ">"}
    never = next(row for row, one in saved_rows(some).items() if (one.task, one.arm) == ("unique-set", "shift-hard"))
    assert {3, never} <= arrows.keys()
    assert 0.9 * axes.get_xlim()[1] < arrows[3].get_xdata()[0] < axes.get_xlim()[1]
    assert arrows[never].get_transform() == axes.get_yaxis_transform()
    (whole,) = [line for line in axes.lines if list(line.get_ydata()) == [3, 3]]
    assert list(whole.get_xdata()) == [0.6, arrows[3].get_xdata()[0]]
    assert "copy, shift: share of time 0.80 (not reached in 1 of 3 runs), share of operations " in saved_drawn(some).alt


def test_panels_are_filled_row_by_row_and_labelled_at_the_rim() -> None:
    for count, columns in ((1, 1), (3, 3), (4, 2), (5, 3), (6, 3)):
        figure, panels = panels_of(TASKS[:count], "x (s)", "y (%)")
        assert len(figure.axes) == len(panels) == count
        labelled = [bool(axes.get_ylabel()) for axes in panels.values()]
        assert labelled == [place % columns == 0 for place in range(count)]
        assert sum(bool(axes.get_xlabel()) for axes in panels.values()) == min(count, columns)


def test_outcomes_are_shown_in_the_order_of_tasks_and_arms(study) -> None:
    found = outcomes_of(replace(study, outcomes=tuple(reversed(study.outcomes))), ARMS)
    assert (tuple(found), tuple(found["copy"])) == (TASKS, ARMS)


def test_names_of_tasks_are_drawn_as_they_are() -> None:
    tasks = (HOSTILE, "a_long_package.with_modules:AnAttributeOfMine")
    study, runs = make_tasks(tasks, ARMS[:4], 1), make_task_runs(tasks, ARMS[:4], 1)
    assert all(HOSTILE in figure.alt for figure in draw_tasks(study, runs))
    _, panels = panels_of(tasks, "x", "y")
    assert not panels[HOSTILE].title.get_parse_math()
    assert panels[tasks[1]].get_title() == "a_long_package.with_modules:A…"
