"""Phases of the entropy as a figure: every run's curve, and a bar for each of its phases."""

from pathlib import Path

import numpy as np
import pytest
from made_up_landscapes import STEPS, make_landscape
from matplotlib.colors import to_hex

from thalweg.records.run import PhaseRecord
from thalweg.report.landscape import phases as phase_figures
from thalweg.report.landscape.curves import Arms
from thalweg.report.landscape.phases import LABELS, phases_drawn, sequences

PHASES = (
    PhaseRecord("looped", 0, 0, 20, "collapse"),
    PhaseRecord("looped", 0, 20, 500, "diversification"),
    PhaseRecord("looped", 0, 500, 1600, "stable"),
    PhaseRecord("looped", 1, 0, 1600, "stable"),
    PhaseRecord("single", 1, 0, 50, "stable"),
    PhaseRecord("single", 1, 50, 1600, "stable"),
)


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Arms:
    folder = tmp_path_factory.mktemp("runs")
    return {arm: [make_landscape(folder / f"{arm}-{seed}", seed) for seed in range(2)] for arm in ("single", "looped", "shift")}


@pytest.fixture
def figure(arms: Arms, monkeypatch: pytest.MonkeyPatch):
    kept = []
    monkeypatch.setattr(phase_figures, "drawn", lambda figure, *words: kept.append(figure) or words)
    phases_drawn(PHASES, arms, "")
    return kept[0]


def test_every_phase_is_a_bar_of_its_seed_from_its_begin_to_its_end(figure) -> None:
    looped = next(axes for axes in figure.axes if axes.get_title() == "looped")
    bars = figure.axes[figure.axes.index(looped) + 2].patches  # two panels a row: entropies first, then bars
    found = [(bar.get_x(), bar.get_x() + bar.get_width(), round(bar.get_y() + bar.get_height() / 2)) for bar in bars]
    assert found == [(0, 20, 0), (20, 500, 0), (500, 1600, 0), (0, 1600, 1)]
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars[:3]] == [LABELS[one.label][0] for one in PHASES[:3]]
    assert [bar.get_hatch() or "" for bar in bars[:3]] == [LABELS[one.label][1] for one in PHASES[:3]]


def test_every_run_has_its_entropies(figure, arms: Arms) -> None:
    looped = next(axes for axes in figure.axes if axes.get_title() == "looped")
    assert len(looped.lines) == 2
    for line, run in zip(looped.lines, arms["looped"], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), STEPS)
        np.testing.assert_array_equal(line.get_ydata(), [point.entropy.value for point in run.points])


def test_arms_without_phases_are_left_out_and_words_count_the_runs(arms: Arms) -> None:
    made = phases_drawn(PHASES, arms, "Set-up.")
    assert made is not None
    assert "looped: 1 x (collapse, diversification, stable), and 1 x (stable)" in made.alt
    assert ("shift" in made.alt, made.caption.endswith("Set-up.")) == (False, True)
    assert sequences(PHASES, "single") == "1 x (stable)"


def test_no_phases_no_figure(arms: Arms) -> None:
    assert phases_drawn((), arms, "") is None


@pytest.mark.parametrize("many", [4, 5])
def test_more_arms_than_a_row_holds_leave_no_empty_frame(tmp_path: Path, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(phase_figures, "drawn", lambda figure, *words: kept.append(figure) or words)
    runs = {f"arm {k}": [make_landscape(tmp_path / f"{k}", k, planes=False)] for k in range(many)}
    phases_drawn([PhaseRecord(arm, 0, 0, 1600, "stable") for arm in runs], runs, "")
    assert sum(axes.axison for axes in kept[0].axes) == 2 * many
