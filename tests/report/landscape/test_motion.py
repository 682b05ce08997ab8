"""Forces beside theory, hopping windows, one arm's spectrum against another's, and all figures of river and valley together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_landscapes import make_landscape, spectrum, write_spectrum

from thalweg.records.landscape import ConditionRecord, LandscapePlan, ReplayRecord, RunLandscape, TheoremsRecord
from thalweg.report.figures import COLOURS, Drawn
from thalweg.report.landscape import motion as landscape_motion
from thalweg.report.landscape.curves import Arms
from thalweg.report.landscape.motion import dominance_drawn, forces_drawn, hopping_drawn, valley_figures

T_2 = 4.302652729911275
"""Student's t, 2 degrees of freedom, 0.975: from a table."""
FACTORS = {"single": 1.0, "looped": 3.0}
SEEDS, STEPS = 3, (100, 900)


def theorems(step: int, size: float) -> TheoremsRecord:
    """A force of this size, predicted 1.25 times too large."""
    return TheoremsRecord(
        step=step,
        split_step=step - 50,
        rate=1e-3,
        steps=20,
        sharpness=0.01,
        valley=3,
        river=57,
        coupling=0.1,
        force_predicted=1.25 * size,
        force_measured=size,
        force_cosine=0.9,
        relative_predicted=1.0,
        relative_measured=1.0,
        upper_paper=40 * size,
        upper_best=2 * size,
        lower_best=0.5 * size,
        decrease_predicted=0.011 * size,
        decrease=0.01 * size,
        error=1e-3,
        error_bound=1e-2,
        loss_error=1e-3,
        loss_error_bound=1e-2,
    )


def replay(step: int, size: float, **more: Any) -> ReplayRecord:
    """A window whose numbers all follow one size."""
    made = ReplayRecord(
        step=step,
        window=100,
        loops=3,
        directions=2,
        degrees=10.0,
        loss_first=1.0,
        loss_last=0.9,
        flips=(0.01 * size, 0.2 * size, 0.1 * size),
        flips_low=(0.0, 0.1, 0.0),
        flips_threshold=0.55,
        tortuosity_valley=20 * size,
        tortuosity_river=1 + size,
        hop_ratio=0.3 * size,
        edge=0.7 * size,
        edge_inside=0.0,
        batch_sharpness=None,
        cubic_drift=5 * (size - 1.5),
        valley_class="V",
        hops=False,
        flows=False,
        trapped=False,
        conditions={
            "hopping": (ConditionRecord("flips", None, 0.5),),
            "river": (ConditionRecord("displacement > 0 (95 %)", False, -0.1),),  # of an earlier version: either
            "trapped": (ConditionRecord("class U", False, None),),
        },
        ablation="",
        progress={},
    )
    return replace(made, **more)


def size_of(arm: str, seed: int, step: int) -> float:
    """Of every number of a seed."""
    return FACTORS[arm] * (1 + 0.2 * seed) * step / 1000


def bare(arm: str, seed: int, folder: Path = Path("nowhere")) -> RunLandscape:
    """A landscape of records alone."""
    sizes = {step: size_of(arm, seed, step) for step in STEPS}
    hops = arm == "looped" and seed == 1
    return RunLandscape(
        folder / f"{arm}-seed{seed}" / "landscape",
        LandscapePlan(),
        theorems=tuple(theorems(step, size) for step, size in sizes.items()),
        replays=tuple(replay(step, size, hops=hops and step == STEPS[1], flows=arm == "single") for step, size in sizes.items()),
    )


ARMS: Arms = {arm: [bare(arm, seed) for seed in range(SEEDS)] for arm in FACTORS}


def caught(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], Drawn | None]) -> tuple[Any, Drawn]:
    """The figure that the module hands to `drawn`, and its words; nothing is rendered."""
    figures: list[Any] = []

    def keep(figure: Any, name: str, heading: str, caption: str, alt: str) -> Drawn:
        figures.append(figure)
        return Drawn(name, heading, caption, alt, b"", b"")

    monkeypatch.setattr(landscape_motion, "drawn", keep)
    made = draw()
    assert made is not None
    return figures[0], made


def panel(figure: Any, words: str) -> Any:
    (found,) = [axes for axes in figure.axes if words in axes.get_ylabel()]
    return found


def dots(axes: Any, marker: str, colour: str) -> list[tuple[float, float]]:
    """Points of one marker and colour, sorted."""
    lines = [line for line in axes.lines if line.get_marker() == marker and line.get_color() == colour]
    return sorted((float(x), float(y)) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))


@pytest.mark.parametrize(("words", "measured", "predicted"), [("force on", 1.0, 1.25), ("fall of the loss", 0.01, 0.011)])
def test_predictions_stand_over_what_was_measured_seed_by_seed(
    monkeypatch: pytest.MonkeyPatch, words: str, measured: float, predicted: float
) -> None:
    axes = panel(caught(monkeypatch, lambda: forces_drawn(ARMS, ""))[0], words)
    for arm in FACTORS:
        for marker, step in zip("os", STEPS, strict=True):
            sizes = np.array(sorted(size_of(arm, seed, step) for seed in range(SEEDS)))
            np.testing.assert_allclose(dots(axes, marker, COLOURS[arm]), np.stack([measured * sizes, predicted * sizes], axis=1))


def test_the_dashed_line_holds_equal_numbers_on_equal_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = panel(caught(monkeypatch, lambda: forces_drawn(ARMS, ""))[0], "force on")
    (line,) = [line for line in axes.lines if line.get_color() == "black"]
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    assert axes.get_xlim() == axes.get_ylim() == tuple(line.get_xdata())
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_a_loss_that_rises_is_drawn_on_linear_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ARMS["single"][0]
    rising = replace(run, theorems=(replace(run.theorems[0], decrease=-0.5), run.theorems[1]))
    axes = panel(caught(monkeypatch, lambda: forces_drawn({"single": [rising]}, ""))[0], "fall of the loss")
    assert axes.get_xscale() == axes.get_yscale() == "linear"
    assert axes.get_xlim()[0] < -0.5


@pytest.mark.parametrize(("marker", "ratio"), [("_", 40.0), ("v", 2.0), (".", 1.25), ("^", 0.5)])
def test_bounds_stand_over_the_measured_force_by_arm_and_checkpoint(
    monkeypatch: pytest.MonkeyPatch, marker: str, ratio: float
) -> None:
    axes = panel(caught(monkeypatch, lambda: forces_drawn(ARMS, ""))[0], "bounds")
    for place, arm in enumerate(FACTORS):
        found = dots(axes, marker, COLOURS[arm])
        np.testing.assert_allclose([y for _, y in found], [ratio] * SEEDS * len(STEPS))
        assert [round(x) for x, _ in found] == [2 * place] * SEEDS + [2 * place + 1] * SEEDS
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "900", "100", "900"]


def test_what_is_zero_or_was_not_measured_is_left_out_of_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ARMS["single"][0]
    some = replace(run, theorems=(replace(run.theorems[0], lower_best=0.0), replace(run.theorems[1], force_measured=0.0)))
    axes = panel(caught(monkeypatch, lambda: forces_drawn({"single": [some]}, ""))[0], "bounds")
    assert dots(axes, "^", COLOURS["single"]) == []
    assert [y for _, y in dots(axes, "v", COLOURS["single"])] == [pytest.approx(2.0)]


def test_words_of_the_forces_tell_medians_and_the_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    _, made = caught(monkeypatch, lambda: forces_drawn(ARMS, "the set-up"))
    assert made.name == "forces"
    assert "20 steps of rate 0.001" in made.caption
    assert made.caption.endswith("Runs: single 3, looped 3. the set-up")
    assert "looped: force 1.25, paper's bound 40, fall of the loss 1.1" in made.alt


NUMBERS = {
    "sign flips": lambda size: 0.2 * size,
    "valley part": lambda size: 20 * size,
    "river part": lambda size: 1 + size,
    "hop ratio": lambda size: 0.3 * size,
    "edge ratio": lambda size: 0.7 * size,
    "cubic drift": lambda size: 5 * (size - 1.5),
}
LOGARITHMIC = ("valley part", "river part", "hop ratio", "edge ratio")


@pytest.mark.parametrize("words", NUMBERS)
def test_windows_show_every_seed(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    axes = panel(caught(monkeypatch, lambda: hopping_drawn(ARMS, ""))[0], words)
    for arm in FACTORS:
        found = dots(axes, "o", COLOURS[arm])
        expected = sorted((step, NUMBERS[words](size_of(arm, seed, step))) for step in STEPS for seed in range(SEEDS))
        np.testing.assert_allclose([y for _, y in found], [y for _, y in expected])
        np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], atol=0.01 * STEPS[-1])


@pytest.mark.parametrize("words", NUMBERS)
def test_lines_of_windows_are_means_over_seeds(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    axes = panel(caught(monkeypatch, lambda: hopping_drawn(ARMS, ""))[0], words)
    for arm in FACTORS:
        (line,) = [line for line in axes.lines if line.get_label() == arm]
        table = np.array([[NUMBERS[words](size_of(arm, seed, step)) for seed in range(SEEDS)] for step in STEPS])
        expected = np.exp(np.log(table).mean(1)) if words in LOGARITHMIC else table.mean(1)
        np.testing.assert_allclose(line.get_ydata(), expected)


@pytest.mark.parametrize(
    ("words", "level"), [("sign flips", 0.55), ("valley part", 2.0), ("river part", 1.5), ("edge ratio", 1.0), ("cubic drift", 0.0)]
)
def test_a_dashed_line_stands_where_the_condition_begins(monkeypatch: pytest.MonkeyPatch, words: str, level: float) -> None:
    axes = panel(caught(monkeypatch, lambda: hopping_drawn(ARMS, ""))[0], words)
    (line,) = [line for line in axes.lines if line.get_color() == "black"]
    assert list(line.get_ydata()) == [level, level]


def filled(axes: Any) -> list[tuple[float, int]]:
    return marked(axes, "full")


def marked(axes: Any, style: str) -> list[tuple[float, int]]:
    """Step and row of the windows whose circle is filled in one way."""
    lines = [line for line in axes.lines if line.get_fillstyle() == style]
    return sorted((float(x), round(float(y))) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_windows_that_hop_flow_or_are_trapped_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    figure, made = caught(monkeypatch, lambda: hopping_drawn(ARMS, ""))
    hops, flows, trapped = figure.axes[-3:]
    assert [axes.get_title() for axes in (hops, flows, trapped)] == ["hops", "river flows", "trapped"]
    assert filled(hops) == [(900, 1)]
    assert filled(flows) == [(100, 0)] * SEEDS + [(900, 0)] * SEEDS
    assert filled(trapped) == []
    assert marked(trapped, "none") == [(step, row) for step in STEPS for row in (0, 1) for _ in range(SEEDS)]
    assert len(marked(hops, "bottom")) == 2 * SEEDS * len(STEPS) - 1
    assert len(marked(flows, "bottom")) == len(marked(flows, "full")) == SEEDS * len(STEPS)
    assert sum(len(line.get_xdata()) for line in hops.lines) == 2 * SEEDS * len(STEPS)
    assert "looped: of 6 1 hops, 0 river flows, 0 trapped" in made.alt
    assert "Windows of 100 updates" in made.caption


def test_a_window_without_valley_directions_has_no_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunLandscape(Path("nowhere"), LandscapePlan(), replays=(replay(100, 1.0, flips=()),))
    axes = panel(caught(monkeypatch, lambda: hopping_drawn({"looped": [run]}, ""))[0], "sign flips")
    assert dots(axes, "o", COLOURS["looped"]) == []


def test_numbers_that_are_not_positive_are_drawn_on_a_linear_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunLandscape(Path("nowhere"), LandscapePlan(), replays=(replay(100, 1.0, hop_ratio=0.0), replay(200, 1.0)))
    axes = panel(caught(monkeypatch, lambda: hopping_drawn({"looped": [run]}, ""))[0], "hop ratio")
    assert axes.get_yscale() == "linear"
    assert [y for _, y in dots(axes, "o", COLOURS["looped"])] == [0.0, 0.3]


@pytest.fixture
def paired(tmp_path: Path) -> Arms:
    """Looped's eigenvalues are smaller below rank 5 and larger from there on up; seeds differ a little."""
    made: Arms = {}
    for arm in FACTORS:
        made[arm] = []
        for seed in range(SEEDS):
            run = make_landscape(tmp_path / f"{arm}-seed{seed}", seed, exact=2, steps=(0, 100), planes=False)
            values = spectrum(100, seed, 0.5)
            if arm == "looped":
                values = values * np.exp(0.01 * (seed - 1))
                values[-5:] *= 2
                values[:-5] /= 2
            write_spectrum(run, 100, values, exact=True)
            made[arm].append(run)
    return made


def test_logs_of_ratios_rank_by_rank_with_their_intervals(monkeypatch: pytest.MonkeyPatch, paired: Arms) -> None:
    figure, made = caught(monkeypatch, lambda: dominance_drawn(paired, "the set-up"))
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_label() == "mean over seeds"]
    count = min((spectrum(100, seed, 0.5) > 2e-12).sum() for seed in range(SEEDS))
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, count + 1))
    expected = np.where(np.arange(count) < 5, np.log(2), -np.log(2))
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-9)
    ends = {}
    for x, y in axes.collections[0].get_paths()[0].vertices:
        ends.setdefault(round(float(x)), set()).add(round(float(y), 9))
    half = T_2 * 0.01 / np.sqrt(3)
    assert ends[2] == {round(np.log(2) - half, 9), round(np.log(2) + half, 9)}
    assert f"smaller at {count - 5}, larger at 5 of {count} ranks" in made.alt
    assert made.name == "dominance"
    assert made.caption.endswith("the set-up")


def test_ranks_are_coloured_where_the_interval_leaves_zero_out(monkeypatch: pytest.MonkeyPatch, paired: Arms) -> None:
    (axes,) = caught(monkeypatch, lambda: dominance_drawn(paired, ""))[0].axes
    found = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert found["looped larger: interval without 0"] == [1, 2, 3, 4, 5]
    assert min(found["looped smaller: interval without 0"]) == 6


def test_ranks_whose_interval_holds_zero_are_not_coloured(monkeypatch: pytest.MonkeyPatch, paired: Arms) -> None:
    for seed, run in enumerate(paired["looped"]):
        write_spectrum(run, 100, spectrum(100, seed, 0.5) * (1.1, 0.9, 1.0)[seed], exact=True)
    (axes,) = caught(monkeypatch, lambda: dominance_drawn(paired, ""))[0].axes
    assert all(not len(line.get_xdata()) for line in axes.lines if "without 0" in line.get_label())


def test_a_single_seed_has_no_interval_and_dominates_nothing(monkeypatch: pytest.MonkeyPatch, paired: Arms) -> None:
    one = {arm: runs[:1] for arm, runs in paired.items()}
    (axes,) = caught(monkeypatch, lambda: dominance_drawn(one, ""))[0].axes
    assert all(not len(line.get_xdata()) for line in axes.lines if "without 0" in line.get_label())


def test_a_dotted_line_marks_the_end_of_the_valley_of_each_rule(monkeypatch: pytest.MonkeyPatch, paired: Arms) -> None:
    (axes,) = caught(monkeypatch, lambda: dominance_drawn(paired, ""))[0].axes
    places = {line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]}
    looped = [spectrum(100, seed, 0.5) * np.exp(0.01 * (seed - 1)) / 2 for seed in range(SEEDS)]  # but for the largest five
    assert {min(int((values > epsilon).sum()) for values in looped) for epsilon in (1e-12, 3e-3)} == places
    assert [text.get_text() for text in axes.texts] == ["machine floor", "widest gap of log |eigenvalue|"]


@pytest.mark.parametrize("draw", [forces_drawn, hopping_drawn, dominance_drawn])
def test_nothing_is_drawn_without_records(draw: Callable[[Arms, str], Drawn | None]) -> None:
    nothing = {arm: [RunLandscape(Path("nowhere") / f"{arm}-seed0" / "landscape", LandscapePlan())] for arm in FACTORS}
    assert draw(nothing, "") is None
    assert draw({}, "") is None


@pytest.mark.parametrize("draw", [forces_drawn, hopping_drawn])
def test_hostile_names_are_drawn_as_they_are(draw: Callable[[Arms, str], Drawn | None]) -> None:
    made = draw({"_$\\frac{$": ARMS["looped"][:1], "single": ARMS["single"]}, "")
    assert made is not None
    assert len(made.svg) < 300_000


def test_all_figures_come_in_the_order_of_the_page(paired: Arms) -> None:
    whole = {
        arm: [replace(run, theorems=one.theorems, replays=one.replays) for run, one in zip(runs, ARMS[arm], strict=True)]
        for arm, runs in paired.items()
    }
    found = valley_figures(whole, "the set-up")
    assert [figure.name for figure in found] == [
        "ridges",
        "split",
        "threshold",
        "condition-numbers",
        "dominance",
        "hopping",
        "forces",
    ]
    assert all(figure.caption.endswith("the set-up") and figure.heading.endswith("?") for figure in found)
    assert all(len(figure.svg) < 300_000 for figure in found)


def test_figures_without_records_are_left_out() -> None:
    assert [figure.name for figure in valley_figures(ARMS)] == ["hopping", "forces"]
    assert valley_figures({}) == []


def test_one_replayed_window_and_one_comparison_make_no_figure():
    once = {arm: [replace(run, replays=run.replays[:1], theorems=run.theorems[:1]) for run in runs] for arm, runs in ARMS.items()}
    assert valley_figures(once) == []
