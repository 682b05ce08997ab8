import io

import matplotlib.image
import numpy as np
import pytest
from made_up_records import make_summary

from thalweg.records.run import RunRecord, StudySummary
from thalweg.report.figures import COLOURS, draw_all


def test_the_same_records_give_the_same_bytes(summary: StudySummary, runs: dict[str, RunRecord]) -> None:
    assert [f.svg for f in draw_all(summary, runs)] == [f.svg for f in draw_all(summary, runs)]


def test_no_figure_is_empty(summary: StudySummary, runs: dict[str, RunRecord]) -> None:
    for figure in draw_all(summary, runs):
        pixels = matplotlib.image.imread(io.BytesIO(figure.png))
        assert (pixels[..., :3].min(axis=-1) < 0.9).mean() > 0.01, figure.name


def test_every_arm_is_drawn_in_its_colour(summary: StudySummary, runs: dict[str, RunRecord]) -> None:
    cost = next(f for f in draw_all(summary, runs) if f.name == "loss-against-cost")
    assert all(COLOURS[arm].lower() in cost.svg.decode().lower() for arm in summary.arms)


def test_captions_name_set_up_and_commit(summary: StudySummary, runs: dict[str, RunRecord]) -> None:
    for figure in draw_all(summary, runs)[:3]:
        assert "commit abc" in figure.caption
        assert "Seeds: words" in figure.caption


def test_alt_text_says_what_is_seen(summary: StudySummary, runs: dict[str, RunRecord]) -> None:
    first = draw_all(summary, runs)[0]
    final = np.mean([r.evaluations[-1].scores["train"]["high"].accuracy for n, r in runs.items() if n.startswith("looped")])
    assert f"looped {final:.3f}" in first.alt


@pytest.mark.parametrize("arms", [("single",), ("single-flops",), ("shift", "single")])
def test_some_arms_are_enough(runs: dict[str, RunRecord], arms: tuple[str, ...]) -> None:
    some = {name: run for name, run in runs.items() if name.rsplit("-seed", 1)[0] in arms}
    names = {figure.name for figure in draw_all(make_summary(some), some)}
    assert names == {"accuracy-by-stratum", "loss-against-cost", "long-tail"} | ({"switches"} if "shift" in arms else set())


def test_text_studies_have_their_own_figures(runs: dict[str, RunRecord]) -> None:
    names = [f.name for f in draw_all(make_summary(runs, task="text"), runs)]
    assert names == ["bits-over-training", "loss-against-cost", "switches"]
