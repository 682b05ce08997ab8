"""Two studies side by side, A and B: what a comparison holds, its figure, and its self-contained page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thalweg.errors import FolderError
from thalweg.records.run import RunRecord, Verdict
from thalweg.report.compare.differences import Difference
from thalweg.report.curves import band
from thalweg.report.figures import COLOURS, STYLE, Drawn, Measure, drawn, save_all, score
from thalweg.report.landscape.slices import plain
from thalweg.report.page import PAGES, data_address, number, show
from thalweg.report.tasks.panels import title_of
from thalweg.serialization import to_dict
from thalweg.storage import explained, read_json, write_json, write_text

_RECORD, PAGE = "compare.json", "compare.html"
_WIDTHS, _ROOM = (8.4, 1.7), 1.1
"""Inches: of the figure and of a row's height; what the legend and the horizontal axis need."""
_SIDES: tuple[dict[str, Any], ...] = ({"linewidth": 3.0, "alpha": 0.45}, {"linewidth": 1.4, "dashes": (3, 1.5)})
"""How A and B are drawn: A solid and wider, so that it can be seen below B."""

Curves = dict[str, dict[str, tuple[list[RunRecord], list[RunRecord]]]]
"""Row of the figure -> arm -> complete runs of A and of B, losses in the unit of the figure."""


@dataclass(frozen=True)
class One:
    """One of the two studies."""

    label: str
    """As much of its path as tells it from the other."""
    path: str
    complete: bool
    missing: tuple[str, ...]
    arms_alone: tuple[str, ...]
    """Arms that the other one does not have."""
    setup: str
    """For captions: what is needed to repeat it."""


@dataclass(frozen=True)
class Change:
    """A key whose values differ; None where a side has no such key."""

    key: str
    """Flattened, such as model.width."""
    first: Any
    second: Any
    arms: tuple[str, ...] = ()
    """That differ in this way; empty for all that both studies have."""


@dataclass(frozen=True)
class VerdictPair:
    """A claim or question and what both studies say of it."""

    claim: str
    first: Verdict | None
    second: Verdict | None
    changed: bool
    """Both answer, and not in the same words; numbers in the words do not count."""


@dataclass(frozen=True)
class Comparison:
    """Everything that the page shows, beside the curves."""

    kind: str
    """What both are, in words."""
    unit: str
    """Of the losses that are drawn."""
    first: One
    second: One
    arms: tuple[str, ...]
    """That both studies have."""
    plan: tuple[Change, ...]
    software: tuple[Change, ...]
    configs: tuple[Change, ...]
    seeds: tuple[Change, ...]
    """Complete in one study only."""
    numbers: tuple[Difference, ...]
    answers: tuple[VerdictPair, ...]
    """Those that changed first, then those that only one study gives."""

    @property
    def differing(self) -> tuple[Difference, ...]:
        """The numbers that differ."""
        return tuple(one for one in self.numbers if one.differs)

    @property
    def changed(self) -> tuple[VerdictPair, ...]:
        """The answers that changed."""
        return tuple(one for one in self.answers if one.changed)

    @property
    def tested(self) -> int:
        """Numbers whose difference has an interval."""
        return sum(one.apart.low is not None for one in self.numbers)


def told_apart(first: Path, second: Path) -> tuple[str, str]:
    """The shortest ends of two paths that differ; the names where the paths are the same.

    Example:
        >>> told_apart(Path("/a/old/markov"), Path("/a/new/markov"))
        ('old/markov', 'new/markov')
    """
    for length in range(1, max(len(first.parts), len(second.parts)) + 1):
        ends = first.parts[-length:], second.parts[-length:]
        if ends[0] != ends[1]:
            return str(Path(*ends[0])), str(Path(*ends[1]))
    return first.name, second.name


def claim_comparison(folder: Path, first: Path, second: Path) -> None:
    """Refuse a folder that holds something else than this very comparison."""
    with explained(folder):
        held = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    if not held:
        return
    kept = read_json(folder / _RECORD) if _RECORD in held else {}
    sides = [kept.get(side) for side in ("first", "second")] if isinstance(kept, dict) else []
    paths = [side.get("path") for side in sides if isinstance(side, dict)]
    if paths != [str(path.resolve()) for path in (first, second)]:
        what = "another comparison" if len(paths) == 2 else repr(held[0])
        raise FolderError(f"comparison {folder}: the folder holds {what}; choose an empty or new --out")


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested dicts as one, with keys such as model.width."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: as_json(value)}
    return found


def as_json(value: Any) -> Any:
    """A value that JSON can hold; dates and numbers that are not finite as their text."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value


def changes(first: dict[str, Any], second: dict[str, Any]) -> tuple[Change, ...]:
    """The keys of two flattened dicts whose values differ; a section of another kind as one key, as its keys are others too."""
    keys = [key for key in first | second if first.get(key) != second.get(key)]
    found = {key: (first.get(key), second.get(key)) for key in keys}
    for section in [key.removesuffix("kind") for key in keys if key.endswith(".kind") and key in first and key in second]:
        sides = [{k.removeprefix(section): v for k, v in side.items() if k.startswith(section)} for side in (first, second)]
        found = {k: v for k, v in found.items() if not k.startswith(section)} | {section.rstrip("."): (sides[0], sides[1])}
    return tuple(Change(key, *values) for key, values in found.items())


def together(by_arm: Mapping[str, Sequence[Change]]) -> tuple[Change, ...]:
    """The same change of several arms as one; that of all arms without their names."""
    grouped: dict[str, list[str]] = {}
    found: dict[str, Change] = {}
    for arm, one in ((arm, one) for arm, some in by_arm.items() for one in some):
        grouped.setdefault(json.dumps(to_dict(one)), []).append(arm)
        found.setdefault(json.dumps(to_dict(one)), one)
    return tuple(replace(found[key], arms=tuple(arms) if len(arms) < len(by_arm) else ()) for key, arms in grouped.items())


def write_comparison(found: Comparison, curves: Curves, folder: Path) -> Path:
    """The record, then the figure (SVG and PNG) and the page; returns the page."""
    write_json(folder / _RECORD, to_dict(found))
    figures = [figure for figure in (losses_drawn(found, curves),) if figure is not None]
    save_all(figures, folder / "figures")
    write_text(folder / PAGE, _render_comparison(found, figures, folder))
    return folder / PAGE


def _render_comparison(found: Comparison, figures: Sequence[Drawn], folder: Path) -> str:
    """The page as HTML; everything that a user named is escaped."""
    return PAGES.get_template("compare.html").render(
        found=found,
        sides=(("A", found.first), ("B", found.second)),
        figures=[(figure, data_address(figure)) for figure in figures],
        by_arm={arm: [one for one in found.numbers if one.arm == arm] for arm in dict.fromkeys(n.arm for n in found.numbers)},
        again=shlex.join(["thalweg", "report", found.first.path, found.second.path, "--out", str(folder)]),
        summary=in_short(found),
        show=show,
        number=number,
        apart_in_words=apart_in_words,
        as_text=as_text,
        arms_in_words=arms_in_words,
    )


def in_short(found: Comparison) -> str:
    """The page in two sentences."""
    keys = len({one.key for one in found.plan}) + len({one.key for one in found.configs})
    both = sum(is_given(one.first) and is_given(one.second) for one in found.answers)
    return (
        f"{counted(keys, 'key')} of plan and configs {'differs' if keys == 1 else 'differ'}. Of {counted(found.tested, 'number')} "
        f"with an interval {len(found.differing)} {'differs' if len(found.differing) == 1 else 'differ'}, and of "
        f"{counted(both, 'answer')} that both give {len(found.changed)} changed"
    )


def is_given(told: Verdict | None) -> bool:
    """Whether a study has an answer."""
    return told is not None and told.verdict != "not measured"


def counted(many: int, what: str) -> str:
    """A count with its noun."""
    return f"{many} {what}{'' if many == 1 else 's'}"


def apart_in_words(one: Difference) -> list[str]:
    """A difference with its sign, or how many times as large B is; then the interval, where there is one."""

    def words(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}" if one.ratio or not value else f"{value:+.4g}"

    mean, low, high = (words(value) for value in (one.apart.mean, one.apart.low, one.apart.high))
    return [mean + (" times" if one.ratio and mean != "-" else ""), *([f"[{low}, {high}]"] if one.apart.low is not None else [])]


def as_text(value: Any) -> str:
    """A value of a config as it is written in JSON; a dash where there is none."""
    return "-" if value is None else value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def arms_in_words(arms: Sequence[str]) -> str:
    """Of which arms something is so."""
    return "; ".join(arms) or "all"


@matplotlib.rc_context(STYLE)
def losses_drawn(found: Comparison, curves: Curves) -> Drawn | None:
    """Held-out loss over updates and over counted operations, A solid and B dashed; None where no arm has runs in both."""
    if not curves:
        return None
    figure = Figure(figsize=(_WIDTHS[0], _WIDTHS[1] * len(curves) + _ROOM), layout="constrained")
    grid = figure.subplots(len(curves), 2, sharey="row", squeeze=False)
    several = any(len(arms) > 1 for arms in curves.values())
    for (left, right), (row, arms) in zip(grid, curves.items(), strict=True):
        for arm, sides in arms.items():
            for runs, style in zip(sides, _SIDES, strict=True):
                _draw_side(left, arm, runs, lambda e: e.step, style)
                _draw_side(right, arm, runs, lambda e: e.flops / 1e12, style)
        left.set_title(title_of(row), fontsize=9, loc="left", parse_math=False)
        left.set_ylim(*limits([run for sides in arms.values() for runs in sides for run in runs]))
    grid[-1][0].set_xlabel("updates")
    grid[-1][1].set_xlabel("counted operations (TFLOP)")
    figure.supylabel(f"held-out loss ({found.unit})", fontsize=9)
    arms = list(dict.fromkeys(arm for row in curves.values() for arm in row)) if several else []
    handles = [Line2D([], [], color=COLOURS.get(arm, "black"), label=plain(title_of(arm))) for arm in arms]
    names = zip("AB", (found.first, found.second), _SIDES, strict=True)
    handles += [Line2D([], [], color="#333333", label=plain(f"{side}: {title_of(one.label)}"), **how) for side, one, how in names]
    figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=min(6, len(handles)))
    caption = (
        f"Held-out loss over updates (left) and counted operations (right). Solid: A, {found.first.label}; dashed: B, "
        f"{found.second.label}. Lines: mean over seeds on the stretch that all seeds cover; bands: 95 % t-interval. Each row has "
        f"its own vertical axis, the first fall is cut off. {_setups(found)}"
    )
    told = "; ".join(
        f"{row if not several else f'{row}, {arm}'} {_end_of(sides[0]):.4g} in A and {_end_of(sides[1]):.4g} in B"
        for row, arms in curves.items()
        for arm, sides in arms.items()
    )
    alt = f"Curves of held-out loss in {found.unit}, two panels a row. Means over seeds at the last evaluation: {told}."
    return drawn(figure, "loss-side-by-side", "Held-out loss, A beside B", caption, alt)


def _draw_side(axes: Axes, arm: str, runs: list[RunRecord], x: Measure, style: dict[str, Any]) -> None:
    """Mean and band of one arm in one study."""
    curve, colour = band(runs, x, score("held-out", "all", "loss")), COLOURS.get(arm, "black")
    axes.plot(curve.x, curve.mean, color=colour, **style)
    axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.13, linewidth=0)


def limits(runs: Sequence[RunRecord]) -> tuple[float, float]:
    """From the lowest loss to the highest one after a sixth of the evaluations, with some room."""
    losses = [[e.scores["held-out"]["all"].loss for e in run.evaluations] for run in runs]
    low, high = min(map(min, losses)), max(max(one[len(one) // 6 :]) for one in losses)
    room = 0.08 * (high - low) or 0.01 * abs(high) or 1.0
    return low - room, high + room


def _end_of(runs: Sequence[RunRecord]) -> float:
    """Mean held-out loss at the last evaluation."""
    return float(np.mean([run.evaluations[-1].scores["held-out"]["all"].loss for run in runs]))


def _setups(found: Comparison) -> str:
    """The set-up of both studies; once where it is the same."""
    if found.first.setup == found.second.setup:
        return f"A and B: {found.first.setup}"
    return f"A: {found.first.setup} B: {found.second.setup}"
