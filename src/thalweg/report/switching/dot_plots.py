"""Dots with intervals: cost, final loss and drop of every way to switch outside the grid of SCP's thresholds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from thalweg.records.experiment import Outcome, SweepSummary
from thalweg.records.run import Cell
from thalweg.report.figures import Drawn, drawn, setup
from thalweg.report.panels import COLOURS, WIDTH, shortened
from thalweg.report.switching.heat_maps import outcome_named, whole_cost

GROUPS = ("onset", "optimizer", "stages", "share", "safety", "model")
"""Groups in the order of the figure; all others come after them."""
TITLES = {
    "reference": "references",
    "scp": "SCP, thresholds",
    "onset": "onset",
    "optimizer": "optimizer at the switch",
    "stages": "stages",
    "share": "switch at a given update",
    "safety": "safety net",
    "model": "model",
}
"""Group -> its title."""
_DRAWN_ELSEWHERE = ("reference", "scp")
"""Groups that have figures of their own."""
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9")


@dataclass(frozen=True)
class Dot:
    """One number in one row of a dot plot."""

    value: float | None
    """Where the dot stands; None for no dot."""
    low: float | None
    """Lower end of the line."""
    high: float | None
    """Upper end of the line."""
    beyond: float | None = None
    """Where the arrow stands, for runs that did not reach the goal: the number is at least so large."""
    censored: bool = False
    """Whether some run did not reach the goal."""

    @property
    def known(self) -> list[float]:
        """Every number that must lie inside the axes."""
        return [x for x in (self.value, self.low, self.high, self.beyond) if x is not None]


@dataclass(frozen=True)
class Column:
    """One panel of the figure."""

    label: str
    """Of the axis; ``{unit}`` stands for that of losses, `SweepSummary.unit`."""
    looped: float | None
    """Looped's own value; None for no line."""
    dot: Callable[[SweepSummary, Outcome], Dot]
    logarithmic: bool = False


def share_dot(summary: SweepSummary, outcome: Outcome) -> Dot:
    """The share of Looped's operations, with an arrow at the cost of the whole run where runs did not reach Looped's loss."""
    share = outcome.share_flops
    if share is None:
        return Dot(None, None, None)
    if not share.censored:
        return Dot(share.value, share.low, share.high)
    bounds = [x for x in (whole_cost(summary, outcome), share.value) if x is not None]
    return Dot(share.value, share.low, None, max(bounds, default=None), True)


def cell_dot(cell: Cell) -> Dot:
    """A mean and its interval."""
    return Dot(cell.mean, cell.low, cell.high)


COLUMNS = (
    Column("share of Looped's operations\nto its final loss", 1.0, share_dot, logarithmic=True),
    Column("final held-out loss\nminus Looped's ({unit})", 0.0, lambda _, outcome: cell_dot(outcome.difference)),
    Column("drop at the switch\n(percentage points)", None, lambda _, outcome: cell_dot(outcome.drop)),
)


def dotted_groups(summary: SweepSummary) -> dict[str, list[Outcome]]:
    """Group -> its outcomes, in the order of the figure; without empty groups and those that have figures of their own."""
    present = dict.fromkeys(outcome.group for outcome in summary.outcomes if outcome.group not in _DRAWN_ELSEWHERE)
    order = [group for group in GROUPS if group in present] + [group for group in present if group not in GROUPS]
    return {group: [outcome for outcome in summary.outcomes if outcome.group == group] for group in order}


def _label_of(outcome: Outcome) -> str:
    """The name of an outcome, cut if it is long, and how many of its runs failed."""
    return shortened(outcome.name) + (f" ({outcome.failed} failed)" if outcome.failed else "")


def draw_dot(axes: Axes, row: int, dot: Dot, colour: str) -> None:
    """Draw one number of one row: line, dot and arrow, or a dash where there is no number."""
    end = dot.beyond if dot.censored else dot.high
    start = dot.low if dot.low is not None else dot.value
    if start is not None and end is not None:
        axes.plot([start, end], [row, row], color=colour, linewidth=1.3, alpha=0.7)
    if dot.value is not None:
        axes.plot([dot.value], [row], "o", color=colour, markersize=4.5)
    if dot.censored:
        # Without a bound the arrow stands at the right edge, in shares of the axis.
        x, transform = (0.98, axes.get_yaxis_transform()) if dot.beyond is None else (dot.beyond, axes.transData)
        axes.plot([x], [row], ">", color=colour, markersize=5, markerfacecolor="white", transform=transform)
    if dot.value is None and not dot.censored:
        axes.text(0.03, row, "-", transform=axes.get_yaxis_transform(), va="center", color="#777777")


def scale_of(axes: Axes, column: Column) -> None:
    """Set a few round ticks; shares get a logarithmic axis, on which twice is as far from 1 as half."""
    if not column.logarithmic:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2))
        return
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    wide = high > 20 * low
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def figure_dots(summary: SweepSummary) -> Figure:
    """Dot plots of all groups: one row for each outcome, one panel for each number."""
    groups = dotted_groups(summary)
    heads: list[int] = []  # rows of the groups' titles
    rows: list[tuple[int, Outcome, str]] = []
    row = 0
    for k, outcomes in enumerate(groups.values()):
        heads.append(row)
        rows += [(row + 1 + i, outcome, _PALETTE[k % len(_PALETTE)]) for i, outcome in enumerate(outcomes)]
        row += len(outcomes) + 1
    figure = Figure(figsize=(WIDTH, 0.19 * row + 1.0), layout="constrained")
    panels = figure.subplots(1, len(COLUMNS), sharey=True)
    shift = outcome_named(summary, "shift")
    for column, axes in zip(COLUMNS, panels, strict=True):
        if column.looped is not None:
            axes.axvline(column.looped, color=COLOURS["looped"], linewidth=1.0, dashes=(5, 3), label="Looped")
        default = column.dot(summary, shift).value if shift else None
        if default is not None:
            axes.axvline(default, color=COLOURS["shift"], linewidth=1.0, dashes=(1, 1.5), label="shift, the recipe's own")
        for y, outcome, colour in rows:
            draw_dot(axes, y, column.dot(summary, outcome), colour)
        for y in heads[1:]:
            axes.axhline(y - 0.1, color="#bbbbbb", linewidth=0.6)
        axes.set_xlabel(column.label.format(unit=summary.unit), fontsize=8.5)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8)
        scale_of(axes, column)
        axes.margins(x=0.06)
    ticks = {y: (_label_of(outcome), colour) for y, outcome, colour in rows}
    ticks |= {
        y: (TITLES.get(group, group), _PALETTE[k % len(_PALETTE)]) for k, (y, group) in enumerate(zip(heads, groups, strict=True))
    }
    panels[0].set_yticks(list(ticks), [text for text, _ in ticks.values()], fontsize=7.5, parse_math=False)
    for y, label in zip(ticks, panels[0].get_yticklabels(), strict=True):
        label.set_color(ticks[y][1] if y in heads else "black")
        label.set_fontweight("bold" if y in heads else "normal")
    panels[0].set_ylim(row - 0.3, -0.7)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=8)
    return figure


def dots_drawn(summary: SweepSummary) -> list[Drawn]:
    """The figure of all groups outside the grid of thresholds; empty where there are none."""
    groups = dotted_groups(summary)
    if not groups:
        return []
    caption = (
        "Cost, final loss and drop of every other way to switch, by group. Dots: means over seeds (of the "
        "share: geometric); lines: "
        "95 % intervals. Arrows: some runs did not reach Looped's final loss, and the arrow stands at the cost "
        "of their whole runs; "
        "the dot is then the median, the line begins at the smallest share, and there is no dot where the median run did not reach "
        "it. Points left of Looped's line need fewer operations, or end with less loss, than Looped. "
        f'"-": no number, for example because no seed switched. {setup(summary)}'
    )
    numbers = "; ".join(f"{outcome.name} {_row_in_words(outcome)}" for outcomes in groups.values() for outcome in outcomes)
    alt = (
        "A row for each variant with a dot in each of three columns, further left is better: share of Looped's operations, loss "
        f"difference in {summary.unit}, drop in points. {numbers}."
    )
    return [drawn(figure_dots(summary), "other-ways", "What else changes the outcome?", caption, alt)]


def _row_in_words(outcome: Outcome) -> str:
    """The three numbers of a row, as text."""
    share = outcome.share_flops
    value = None if share is None else share.value
    first = "not reached" if share and share.censored and value is None else digits(value, ".2f")
    return f"{first}, {digits(outcome.difference.mean, '+.3f')}, {digits(outcome.drop.mean, '.1f')}"


def digits(value: float | None, form: str) -> str:
    """A number in a format of Python's, or a dash where there is none."""
    return "-" if value is None else format(value, form)
