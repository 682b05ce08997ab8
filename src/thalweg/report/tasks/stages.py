"""SHIFT with many stages on each task: the exact match over training, and where the stages begin."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from thalweg.records.experiment import SWITCHING, TaskStudySummary
from thalweg.records.run import RunRecord
from thalweg.report.figures import Drawn, Grouped, draw_band, drawn, score, setup
from thalweg.report.panels import COLOURS, arm_line
from thalweg.report.tasks.panels import chosen, common_legend, panels_of, whole_ticks

_FIRST_ROW, _ROW = -5.0, 3.5
"""Height of the marks of the first seed, below the axis of the exact match, and the distance of the rows, per cent."""


def stages_drawn(summary: TaskStudySummary, grouped: dict[str, Grouped]) -> Drawn | None:
    """The figure of the held-out exact match over updates, with the switches of every seed; None where no run has several."""
    staged = chosen(grouped, SWITCHING, lambda run: len(run.switches) > 1)
    if not staged:
        return None
    figure, panels = panels_of(list(staged), "updates", "held-out exact match (%)")
    for task, arms in staged.items():
        axes, rows = panels[task], 0
        if looped := grouped[task].get("looped"):
            draw_band(axes, "looped", looped, lambda e: e.step, score("held-out", "all", "accuracy", 100))
        for arm, runs in arms.items():
            for run in runs:
                draw_run(axes, arm, run, _FIRST_ROW - _ROW * rows, label=arm if run is runs[0] else "")
                rows += 1
        axes.axhspan(
            _FIRST_ROW - _ROW * rows, _FIRST_ROW + _ROW / 2, color="white", linewidth=0, zorder=2.2
        )  # hides the band there
        axes.set_ylim(_FIRST_ROW - _ROW * rows, 104)
        axes.set_yticks(range(0, 101, 25))
        axes.set_xlim(left=0)
        whole_ticks(axes)
    common_legend(figure)
    caption = (
        "Held-out exact match on all trained lengths over updates, of runs with many stages. Thin lines: seeds; marks below: the "
        "updates at which stages begin, one row for each seed. Looped, whose lengths grow at fixed updates: mean over seeds and "
        f"95 % t-interval, cut at the axis. {setup(summary)}"
    )
    stages = "; ".join(f"{task}, {arm}: {_stages_in_words(runs)}" for task, arms in staged.items() for arm, runs in arms.items())
    alt = f"Curves of held-out exact match over updates with marks where stages begin, a panel for each task. {stages}."
    return drawn(figure, "stages-by-task", "How fast are the stages gone through?", caption, alt)


def draw_run(axes: Axes, arm: str, run: RunRecord, row: float, label: str) -> None:
    """Draw the exact match of one run as a line, and a mark for each of its switches.

    Args:
        axes: where it is drawn.
        arm: gives colour and dashes.
        run: with its evaluations and switches.
        row: height of the marks, per cent.
        label: in the legend; empty for none.
    """
    line: dict[str, Any] = arm_line(arm) | {"linewidth": 1.0, "alpha": 0.75, "label": label}
    exact_match = score("held-out", "all", "accuracy", 100)
    axes.plot([e.step for e in run.evaluations], [exact_match(e) for e in run.evaluations], **line)
    axes.plot([s.step for s in run.switches], [row] * len(run.switches), "|", color=COLOURS[arm], ms=4, mew=0.9, zorder=3)


def _stages_in_words(runs: list[RunRecord]) -> str:
    """Passes and update of the last switch of every seed, as text."""
    lasts = [(run.switches[-1].step, run.switches[-1].loops_after) for run in runs]
    return "stages up to " + ", ".join(f"{loops} passes at update {step}" for step, loops in lasts)
