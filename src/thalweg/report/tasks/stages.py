"""SHIFT through many stages on each task: the exact match along a run, and where its stages begin."""

from __future__ import annotations

from matplotlib.axes import Axes

from thalweg.records.experiment import SWITCHING, TaskStudySummary
from thalweg.records.run import RunRecord
from thalweg.report.figures import COLOURS, DASHES, Drawn, Grouped, draw_band, drawn, score, setup
from thalweg.report.tasks.panels import chosen, legend_below, panels_of, whole_ticks

_FIRST_ROW, _ROW = -5.0, 3.5
"""Where the first seed's marks stand below the axis of the exact match, and how far apart the rows are, in per cent."""


def stages_drawn(summary: TaskStudySummary, grouped: dict[str, Grouped]) -> Drawn | None:
    """Held-out exact match over updates beside the switches of every seed; None where no run has more than one."""
    found = chosen(grouped, SWITCHING, lambda run: len(run.switches) > 1)
    if not found:
        return None
    figure, panels = panels_of(list(found), "updates", "held-out exact match (%)")
    for task, arms in found.items():
        axes, rows = panels[task], 0
        if looped := grouped[task].get("looped"):
            draw_band(axes, "looped", looped, lambda e: e.step, score("held-out", "all", "accuracy", 100))
        for arm, runs in arms.items():
            for run in runs:
                draw_run(axes, arm, run, _FIRST_ROW - _ROW * rows, label=arm if run is runs[0] else "")
                rows += 1
        axes.axhspan(_FIRST_ROW - _ROW * rows, _FIRST_ROW + _ROW / 2, color="white", linewidth=0, zorder=2.2)  # over the band
        axes.set_ylim(_FIRST_ROW - _ROW * rows, 104)
        axes.set_yticks(range(0, 101, 25))
        axes.set_xlim(left=0)
        whole_ticks(axes)
    legend_below(figure)
    caption = (
        "Held-out exact match on all trained lengths over updates, of runs with many stages: one line a seed, and below them one "
        "row of marks a seed where its stages begin. Looped, whose lengths grow by the clock: mean over seeds and "
        f"95 % t-interval, cut at the axis. {setup(summary)}"
    )
    told = "; ".join(f"{task}, {arm}: {_stages_in_words(runs)}" for task, arms in found.items() for arm, runs in arms.items())
    alt = f"Curves of held-out exact match over updates with marks where stages begin, a panel for each task. {told}."
    return drawn(figure, "stages-by-task", "How fast are the stages gone through?", caption, alt)


def draw_run(axes: Axes, arm: str, run: RunRecord, row: float, label: str) -> None:
    """One line, and a mark for each switch."""
    line = {"color": COLOURS[arm], "linewidth": 1.0, "alpha": 0.75, "dashes": DASHES.get(arm, (None, None)), "label": label}
    values = score("held-out", "all", "accuracy", 100)
    axes.plot([e.step for e in run.evaluations], [values(e) for e in run.evaluations], **line)  # type: ignore[arg-type]
    axes.plot([s.step for s in run.switches], [row] * len(run.switches), "|", color=COLOURS[arm], ms=4, mew=0.9, zorder=3)


def _stages_in_words(runs: list[RunRecord]) -> str:
    """Last switches of all seeds."""
    lasts = [(run.switches[-1].step, run.switches[-1].loops_after) for run in runs]
    return "stages up to " + ", ".join(f"{loops} passes at update {step}" for step, loops in lasts)
