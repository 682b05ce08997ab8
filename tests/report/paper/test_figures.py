"""The table of verdicts, accuracy against cost and the time of an update: what is drawn against numbers made by hand."""

import io
from dataclasses import replace
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from made_up_records import make_summary
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from thalweg.intervals import interval
from thalweg.records.run import Cell, EvaluationRecord, RetreatRecord, RunRecord, Score, StudySummary, SwitchRecord, Verdict
from thalweg.report.curves import by_arm
from thalweg.report.figures import COLOURS
from thalweg.report.paper import figures as verdict_figures
from thalweg.report.paper.figures import MARKS, PAGE, accuracy_against_cost, step_time, stretches, update_costs, verdicts_drawn

VERDICTS = (
    Verdict("single stalls", "supported", "t", {"rise": Cell(0.0123456, -0.001, 0.02, 3), "other": Cell(9.0)}, "samples"),
    Verdict("it costs $5 or _more_", "contradicted", "t", {"a ratio": Cell(2.0, None, None, 1)}, "cost"),
    Verdict("looped rises", "undecided", "t", {"difference": Cell(None)}, "samples"),
    Verdict("nobody asked " * 12, "not measured", "t", {}, "cost"),
)
ORDER = [0, 2, 1, 3]
"""Of the verdicts, by topic."""


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is drawn, before it becomes bytes."""
    figures: list[Figure] = []
    whole = verdict_figures.drawn
    monkeypatch.setattr(verdict_figures, "drawn", lambda figure, *words: figures.append(figure) or whole(figure, *words))
    return figures


@pytest.fixture
def asked(summary: StudySummary) -> StudySummary:
    return replace(summary, verdicts=VERDICTS)


def marks_of(axes: Any) -> list[Any]:
    return [line for line in axes.lines if line.get_marker() not in ("None", "")]


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_no_figure_is_empty(asked: StudySummary, runs: dict[str, RunRecord]) -> None:
    grouped = by_arm(runs, asked.arms)
    for figure in (verdicts_drawn(asked, ""), accuracy_against_cost(asked, grouped, ""), step_time(runs, "")):
        assert figure is not None
        pixels = matplotlib.image.imread(io.BytesIO(figure.png))
        assert (pixels[..., :3].min(axis=-1) < 0.9).mean() > 0.005, figure.name


def test_names_headings_and_captions(asked: StudySummary, runs: dict[str, RunRecord]) -> None:
    found = (verdicts_drawn(asked, "END."), accuracy_against_cost(asked, by_arm(runs, asked.arms), "END."), step_time(runs, "END."))
    assert [one.name for one in found if one] == ["verdicts", "accuracy-against-cost", "step-time"]
    assert [one.heading for one in found if one][::2] == ["What does the study say?", "What does a loop cost?"]
    assert all(one and one.caption.endswith("END.") for one in found)


def test_same_records_give_the_same_bytes(asked: StudySummary, runs: dict[str, RunRecord]) -> None:
    assert verdicts_drawn(asked, "") == verdicts_drawn(asked, "")
    assert step_time(runs, "") == step_time(runs, "")


def test_a_study_without_claims_has_no_table(summary: StudySummary) -> None:
    assert verdicts_drawn(replace(summary, verdicts=()), "") is None


def test_each_verdict_has_its_mark_in_the_order_of_topics(asked: StudySummary, kept: list[Figure]) -> None:
    verdicts_drawn(asked, "")
    lines = marks_of(kept[0].axes[0])
    words = [VERDICTS[k].verdict for k in ORDER]
    assert [line.get_marker() for line in lines] == [MARKS[word]["marker"] for word in words]
    assert [to_hex(line.get_color()).upper() for line in lines] == [MARKS[word]["color"] for word in words]
    heights = [line.get_ydata()[0] for line in lines]
    assert heights == sorted(heights)
    assert kept[0].axes[0].yaxis_inverted()


def test_marks_differ_by_shape_and_by_colour() -> None:
    assert len({mark["marker"] for mark in MARKS.values()}) == len({mark["color"] for mark in MARKS.values()}) == 4


def test_claim_and_number_stand_beside_the_mark(asked: StudySummary, kept: list[Figure]) -> None:
    verdicts_drawn(asked, "")
    axes = kept[0].axes[0]
    marks = [line.get_ydata()[0] for line in marks_of(axes)]
    rows = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert rows["single stalls"] == rows["rise: 0.0123 [-0.001, 0.02], n = 3"] == marks[0]
    assert rows["looped rises"] == rows["difference: no value"] == marks[1]
    assert rows["it costs $5 or _more_"] == rows["a ratio: 2, n = 1"] == marks[2]


def test_questions_of_topics_are_headings_unless_there_is_but_one(asked: StudySummary, kept: list[Figure]) -> None:
    verdicts_drawn(asked, "")
    verdicts_drawn(replace(asked, verdicts=VERDICTS[:1]), "")
    assert "Who keeps learning the hard sequences?" in texts_of(kept[0])
    assert "Who keeps learning the hard sequences?" not in texts_of(kept[1])


def test_user_given_names_are_shown_as_they_are(asked: StudySummary, kept: list[Figure]) -> None:
    verdicts_drawn(asked, "")
    assert not any(text.get_parse_math() for text in kept[0].axes[0].texts)


@pytest.mark.parametrize("count", [3, 60])
def test_texts_do_not_overlap_and_fit_the_page(asked: StudySummary, kept: list[Figure], count: int) -> None:
    wide = Verdict(
        "Who claims so much about so many memorable things?" * 3,
        "contradicted",
        "t",
        {"quite a long name " * 5: Cell(1.23456, 1.1, 1.3, 5)},
    )
    verdicts_drawn(replace(asked, verdicts=(wide,) * count), "")
    figure = kept[0]
    assert figure.get_figheight() <= PAGE + 1e-9
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    for number, one in enumerate(boxes):
        assert one.x1 <= figure.bbox.x1
        assert not any(one.overlaps(other) for other in boxes[number + 1 :])


def test_height_grows_with_the_rows(asked: StudySummary, kept: list[Figure]) -> None:
    for count in (1, 2, 3):
        verdicts_drawn(replace(asked, verdicts=VERDICTS[:1] * count), "")
    first, second, third = (figure.get_figheight() for figure in kept)
    assert second > first
    assert third - second == pytest.approx(second - first)


def test_counts_are_told_in_the_legend_and_in_the_alt_text(asked: StudySummary, kept: list[Figure]) -> None:
    figure = verdicts_drawn(replace(asked, verdicts=(*VERDICTS, VERDICTS[0])), "")
    assert figure is not None
    legend = kept[0].axes[0].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["2 supported", "1 contradicted", "1 undecided", "1 not measured"]
    assert "5 claims: 2 supported, 1 contradicted, 1 undecided, 1 not measured" in figure.alt


def lines_by_arm(axes: Any) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_accuracy_is_the_mean_over_seeds_at_what_was_spent(
    summary: StudySummary, runs: dict[str, RunRecord], kept: list[Figure]
) -> None:
    accuracy_against_cost(summary, by_arm(runs, summary.arms), "")
    seconds, operations, below, _ = kept[0].axes
    mine = [run for name, run in runs.items() if name.startswith("looped")]
    curve = lines_by_arm(operations)["looped"]
    np.testing.assert_allclose(curve[:, 0], [e.flops / 1e12 for e in mine[0].evaluations])
    high = [[e.scores["held-out"]["high"].accuracy for e in run.evaluations] for run in mine]
    np.testing.assert_allclose(curve[:, 1], np.mean(high, axis=0))
    overall = [run.evaluations[-1].scores["held-out"]["all"].accuracy for run in mine]
    assert lines_by_arm(below)["looped"][-1, 1] == pytest.approx(np.mean([np.interp(10.0, *times(run)) for run in mine]))
    assert lines_by_arm(seconds)["looped"][-1, 0] == min(run.evaluations[-1].seconds for run in mine) == 10.0
    assert curve[-1, 1] != pytest.approx(np.mean(overall))


def times(run: RunRecord) -> tuple[list[float], list[float]]:
    return [e.seconds for e in run.evaluations], [e.scores["held-out"]["all"].accuracy for e in run.evaluations]


def test_every_arm_and_the_ceiling_are_drawn(summary: StudySummary, runs: dict[str, RunRecord], kept: list[Figure]) -> None:
    accuracy_against_cost(summary, by_arm(runs, summary.arms), "")
    for axes in kept[0].axes:
        found = lines_by_arm(axes)
        assert set(found) == {*summary.arms, "Bayes ceiling"}
        np.testing.assert_allclose(found["Bayes ceiling"][:, 1], 0.9)
        assert axes.get_ylim()[1] > 0.9


def test_text_studies_have_one_row_and_no_ceiling(runs: dict[str, RunRecord], kept: list[Figure]) -> None:
    plain = {name: as_text(run) for name, run in runs.items()}
    summary = make_summary(plain, task="text")
    found = accuracy_against_cost(summary, by_arm(plain, summary.arms), "")
    assert found is not None
    assert len(kept[0].axes) == 2
    assert "Bayes ceiling" not in lines_by_arm(kept[0].axes[0])
    last = np.mean(
        [run.evaluations[-1].scores["held-out"]["all"].accuracy for n, run in plain.items() if n.startswith("single-seed")]
    )
    assert f"single {last:.3f} after 11.0 s and 1 TFLOP" in found.alt


def as_text(run: RunRecord) -> RunRecord:
    assert run.summary is not None
    kept = [replace(e, scores={w: {"all": s["all"]} for w, s in e.scores.items()}) for e in run.evaluations]
    return replace(run, evaluations=tuple(kept), summary=replace(run.summary, ceilings={}))


def test_nothing_to_draw_gives_none(summary: StudySummary, runs: dict[str, RunRecord]) -> None:
    assert accuracy_against_cost(summary, {}, "") is None
    once = {name: replace(run, evaluations=run.evaluations[:1]) for name, run in runs.items()}
    assert accuracy_against_cost(summary, by_arm(once, summary.arms), "") is None
    assert step_time(once, "") is None
    assert step_time({name: replace(run, summary=None) for name, run in runs.items()}, "") is None


COST = {1: 0.002, 3: 0.005}
"""Loops -> seconds an update."""


def timed(run: RunRecord, switch: int | None, onset: int = 0, loops: int = 1, slow: float = 1.0) -> RunRecord:
    """A run of 1000 updates, scored every 50, whose updates cost what `COST` says, and ten times as much within the onset."""
    costs = []
    for update in range(1000):
        passes = loops if switch is None or update < switch else 3
        within = switch is not None and switch <= update < switch + onset
        costs.append(slow * COST[passes] * (10 if within else 1))
    spent = np.concatenate([[0.0], np.cumsum(costs)])
    scores = run.evaluations[0].scores
    evaluations = tuple(EvaluationRecord(s, float(spent[s]), 1e9 * float(spent[s]), loops, scores) for s in range(0, 1001, 50))
    none: dict[str, dict[str, Score]] = {}
    switches = () if switch is None else (SwitchRecord(switch, 0.0, 0.0, 1, 3, "x", none, none, onset),)
    return replace(run, evaluations=evaluations, switches=switches)


@pytest.mark.parametrize(("switch", "onset", "left_out"), [(300, 0, 0), (320, 0, 1), (300, 75, 2), (310, 0, 1), (340, 100, 3)])
def test_stretches_with_a_switch_or_its_onset_are_left_out(
    runs: dict[str, RunRecord], switch: int, onset: int, left_out: int
) -> None:
    run = timed(runs["shift-seed0"], switch, onset)
    found = list(stretches(run))
    assert len(found) == 20 - left_out
    for loops, before, after in found:
        assert (after.seconds - before.seconds) / 50 == pytest.approx(COST[loops])


def test_cost_of_an_update_is_taken_by_stage(runs: dict[str, RunRecord]) -> None:
    first, second = update_costs([timed(runs["shift-seed1"], 320, 100)])
    assert (first.arm, first.seed, first.loops, second.loops) == ("shift", 1, 1, 3)
    assert (first.seconds, second.seconds) == (pytest.approx(0.002), pytest.approx(0.005))
    assert (first.flops, second.flops) == (pytest.approx(2e6), pytest.approx(5e6))


def test_a_try_that_was_taken_back_is_left_out(runs: dict[str, RunRecord]) -> None:
    run = timed(runs["single-seed0"], None)
    late = [replace(e, seconds=e.seconds + (7.0 if e.step >= 400 else 0.0)) for e in run.evaluations]
    run = replace(run, evaluations=tuple(late), retreats=(RetreatRecord(470, 380, "x", 1.0, 1.0),))
    found = list(stretches(run))
    assert len(found) == 19
    assert (350, 400) not in [(before.step, after.step) for _, before, after in found]


def test_one_slow_stretch_does_not_move_the_median(runs: dict[str, RunRecord]) -> None:
    run = timed(runs["single-seed0"], None)
    late = [replace(e, seconds=e.seconds + (100.0 if e.step >= 700 else 0.0)) for e in run.evaluations]
    assert update_costs([replace(run, evaluations=tuple(late))])[0].seconds == pytest.approx(0.002)


def test_points_and_line_are_those_of_the_runs(runs: dict[str, RunRecord], kept: list[Figure]) -> None:
    speeds = {0: 1.0, 1: 1.1, 2: 1.3}
    some = {f"single-seed{s}": timed(runs[f"single-seed{s}"], None, slow=slow) for s, slow in speeds.items()}
    some |= {f"looped-seed{s}": timed(runs[f"looped-seed{s}"], None, loops=3, slow=slow) for s, slow in speeds.items()}
    found = step_time(some, "")
    assert found is not None
    left, right = kept[0].axes
    drawn = lines_by_arm(left)
    np.testing.assert_allclose(drawn["single"][:, 1], [2, 2.2, 2.6])
    np.testing.assert_allclose(drawn["looped"][:, 1], [5, 5.5, 6.5])
    assert np.abs(drawn["single"][:, 0] - 1).max() < 0.3
    assert np.abs(drawn["looped"][:, 0] - 3).max() < 0.3
    steep, height = np.polyfit([1, 1, 1, 3, 3, 3], [2, 2.2, 2.6, 5, 5.5, 6.5], 1)
    np.testing.assert_allclose(drawn["least squares"][:, 1], height + steep * drawn["least squares"][:, 0])
    ends = interval([1.5, 1.65, 1.95])
    assert f"{height:.3g} + {steep:.3g} T ms (slope over 3 seeds: {ends.low:.3g} to {ends.high:.3g})" in found.caption
    np.testing.assert_allclose(lines_by_arm(right)["single"][:, 1], [2e-3, 2.2e-3, 2.6e-3])
    assert "1: 2.2 ms, 0.0022 GFLOP; 3: 5.5 ms, 0.0055 GFLOP" in found.alt


def test_one_number_of_loops_has_no_line(runs: dict[str, RunRecord], kept: list[Figure]) -> None:
    found = step_time({"single-seed0": timed(runs["single-seed0"], None)}, "")
    assert found is not None
    assert list(lines_by_arm(kept[0].axes[0])) == ["single"]
    assert "Least-squares" not in found.caption


def test_arms_keep_their_colours_and_have_marks_of_their_own(runs: dict[str, RunRecord], kept: list[Figure]) -> None:
    step_time(runs, "")
    lines = [line for line in kept[0].axes[0].lines if line.get_label() != "least squares"]
    assert [line.get_color() for line in lines] == [COLOURS[str(line.get_label())] for line in lines]
    assert len({str(line.get_marker()) for line in lines}) == len(lines) == 6
