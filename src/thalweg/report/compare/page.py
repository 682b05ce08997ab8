"""The comparison of two studies, A and B: its record, its figure, and its page, which is one file without network."""

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

from thalweg.errors import FolderError, plural
from thalweg.records.run import RunRecord, Verdict
from thalweg.report.compare.differences import Difference
from thalweg.report.curves import band
from thalweg.report.figures import Drawn, Measure, drawn, save_all, score
from thalweg.report.page import PAGES, data_address
from thalweg.report.panels import COLOURS, STYLE, WIDTH, draw_mean_and_band, legend_below, plain, shortened
from thalweg.serialization import to_dict
from thalweg.storage import explained, read_json, write_json, write_text

_RECORD, PAGE = "compare.json", "compare.html"
_ROW, _ROOM = 1.7, 1.1
"""Height of a row of panels, and of the legend with the horizontal axis, inches."""
_SIDES: tuple[dict[str, Any], ...] = ({"linewidth": 3.0, "alpha": 0.45}, {"linewidth": 1.4, "dashes": (3, 1.5)})
"""Line styles of A and of B; A is wider, so that it is seen below B."""

Curves = dict[str, dict[str, tuple[list[RunRecord], list[RunRecord]]]]
"""Row of the figure -> arm -> complete runs of A and of B, with losses in the unit of the figure."""


@dataclass(frozen=True)
class One:
    """One of the two studies."""

    label: str
    """The end of its path, as long as is needed to tell it from the other."""
    path: str
    complete: bool
    missing: tuple[str, ...]
    arms_alone: tuple[str, ...]
    """Arms that the other study does not have."""
    setup: str
    """What is needed to repeat it, for captions."""


@dataclass(frozen=True)
class Change:
    """A key whose values differ between A and B; a value is None where a side has no such key."""

    key: str
    """Path of the key, such as model.width."""
    first: Any
    second: Any
    arms: tuple[str, ...] = ()
    """Arms that differ in this way; empty if all arms of both studies do."""


@dataclass(frozen=True)
class VerdictPair:
    """A claim or question, and the answers of both studies."""

    claim: str
    first: Verdict | None
    second: Verdict | None
    changed: bool
    """Whether both studies answer, with different words; numbers within the words do not count."""


@dataclass(frozen=True)
class Comparison:
    """Everything that the page shows, without the curves; it is written to ``compare.json``."""

    kind: str
    """What both are, such as "a study"."""
    unit: str
    """Unit of the losses that are drawn."""
    first: One
    second: One
    arms: tuple[str, ...]
    """Arms that both studies have."""
    plan: tuple[Change, ...]
    software: tuple[Change, ...]
    configs: tuple[Change, ...]
    seeds: tuple[Change, ...]
    """Seeds that are complete in one study only."""
    numbers: tuple[Difference, ...]
    answers: tuple[VerdictPair, ...]
    """Answers that changed come first, then those that only one study gives."""

    @property
    def differing(self) -> tuple[Difference, ...]:
        """The numbers that differ."""
        return tuple(difference for difference in self.numbers if difference.differs)

    @property
    def changed(self) -> tuple[VerdictPair, ...]:
        """The answers that changed."""
        return tuple(pair for pair in self.answers if pair.changed)

    @property
    def tested(self) -> int:
        """How many numbers have a difference with an interval."""
        return sum(difference.apart.low is not None for difference in self.numbers)


def told_apart(first: Path, second: Path) -> tuple[str, str]:
    """Labels of two folders: the shortest ends of their paths that differ, or their names where the paths are the same.

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
    """Check that a folder is free for a comparison: it must be absent, empty, or hold an earlier comparison of the same studies.

    Args:
        folder: of the comparison.
        first: folder of A.
        second: folder of B.
    Raises:
        FolderError: the folder holds something else.
    """
    with explained(folder):
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    if not names:
        return
    record = read_json(folder / _RECORD) if _RECORD in names else {}
    sides = [record.get(side) for side in ("first", "second")] if isinstance(record, dict) else []
    paths = [side.get("path") for side in sides if isinstance(side, dict)]
    if paths != [str(path.resolve()) for path in (first, second)]:
        content = "another comparison" if len(paths) == 2 else repr(names[0])
        raise FolderError(f"comparison {folder}: the folder holds {content}; choose an empty or new --out")


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Flatten nested dicts.

    Args:
        values: of a config or a plan.
        before: put before every key.
    Example:
        >>> flat({"model": {"width": 64}})
        {'model.width': 64}
    """
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        flattened |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: as_json(value)}
    return flattened


def as_json(value: Any) -> Any:
    """A value that JSON can hold; dates and numbers that are not finite become text."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value


def changes(first: dict[str, Any], second: dict[str, Any]) -> tuple[Change, ...]:
    """The keys of two flattened dicts whose values differ.

    A section whose kind differs is one change, because the keys of another kind have another meaning.

    Args:
        first: of A, as `flat` gives it.
        second: of B.
    """
    differing = [key for key in first | second if first.get(key) != second.get(key)]
    values = {key: (first.get(key), second.get(key)) for key in differing}
    for section in [key.removesuffix("kind") for key in differing if key.endswith(".kind") and key in first and key in second]:
        a, b = ({k.removeprefix(section): v for k, v in side.items() if k.startswith(section)} for side in (first, second))
        values = {k: v for k, v in values.items() if not k.startswith(section)} | {section.rstrip("."): (a, b)}
    return tuple(Change(key, *pair) for key, pair in values.items())


def together(by_arm: Mapping[str, Sequence[Change]]) -> tuple[Change, ...]:
    """Merge equal changes of several arms into one, which names these arms, or no arm if all of them have it.

    Args:
        by_arm: arm -> its changes.
    """
    arms_with: dict[str, list[str]] = {}
    merged: dict[str, Change] = {}
    for arm, change in ((arm, change) for arm, arm_changes in by_arm.items() for change in arm_changes):
        key = json.dumps(to_dict(change))
        arms_with.setdefault(key, []).append(arm)
        merged.setdefault(key, change)
    return tuple(replace(merged[key], arms=tuple(arms) if len(arms) < len(by_arm) else ()) for key, arms in arms_with.items())


def write_comparison(comparison: Comparison, curves: Curves, folder: Path) -> Path:
    """Write the record, the figure (SVG and PNG) and the page; returns the path of the page.

    Args:
        comparison: its record.
        curves: what its figure draws.
        folder: of the comparison.
    """
    write_json(folder / _RECORD, to_dict(comparison))
    figure = losses_drawn(comparison, curves)
    figures = [figure] if figure is not None else []
    save_all(figures, folder / "figures")
    write_text(folder / PAGE, _render_comparison(comparison, figures, folder))
    return folder / PAGE


def _render_comparison(comparison: Comparison, figures: Sequence[Drawn], folder: Path) -> str:
    """The page as HTML; every name that a user chose is escaped."""
    return PAGES.get_template("compare.html").render(
        comparison=comparison,
        sides=(("A", comparison.first), ("B", comparison.second)),
        figures=[(figure, data_address(figure)) for figure in figures],
        by_arm={arm: [n for n in comparison.numbers if n.arm == arm] for arm in dict.fromkeys(n.arm for n in comparison.numbers)},
        setup_text=_setups(comparison),
        again=shlex.join(["thalweg", "report", comparison.first.path, comparison.second.path, "--out", str(folder)]),
        summary=in_short(comparison),
        apart_in_words=apart_in_words,
        as_text=as_text,
        arms_in_words=arms_in_words,
    )


def in_short(comparison: Comparison) -> str:
    """How many keys, numbers and answers differ, in two sentences without the last full stop."""
    keys = len({change.key for change in comparison.plan}) + len({change.key for change in comparison.configs})
    both = sum(is_given(pair.first) and is_given(pair.second) for pair in comparison.answers)
    return (
        f"{plural(keys, 'key')} of plan and configs {'differs' if keys == 1 else 'differ'}. Of "
        f"{plural(comparison.tested, 'number')} "
        f"with an interval {len(comparison.differing)} {'differs' if len(comparison.differing) == 1 else 'differ'}, and of "
        f"{plural(both, 'answer')} that both give {len(comparison.changed)} changed"
    )


def is_given(verdict: Verdict | None) -> bool:
    """Whether a study has an answer that was measured."""
    return verdict is not None and verdict.verdict != "not measured"


def apart_in_words(difference: Difference) -> list[str]:
    """A difference as lines of text: B minus A with its sign, or how many times as large B is; then the interval, if any."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}" if difference.ratio or not value else f"{value:+.4g}"

    mean, low, high = (text(value) for value in (difference.apart.mean, difference.apart.low, difference.apart.high))
    first = mean + (" times" if difference.ratio and mean != "-" else "")
    return [first, f"[{low}, {high}]"] if difference.apart.low is not None else [first]


def as_text(value: Any) -> str:
    """A value of a config as text: strings as they are, other values in JSON, and a dash where there is none."""
    return "-" if value is None else value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def arms_in_words(arms: Sequence[str]) -> str:
    """The names of some arms as a list in a sentence; "all" where none is named."""
    return "; ".join(arms) or "all"


@matplotlib.rc_context(STYLE)
def losses_drawn(comparison: Comparison, curves: Curves) -> Drawn | None:
    """The figure of the held-out loss over updates and over counted operations, A solid and B dashed.

    Args:
        comparison: of the two studies.
        curves: row of the figure -> arm -> complete runs of both.
    Returns:
        None where no arm has runs in both studies.
    """
    if not curves:
        return None
    figure = Figure(figsize=(WIDTH, _ROW * len(curves) + _ROOM), layout="constrained")
    grid = figure.subplots(len(curves), 2, sharey="row", squeeze=False)
    several = any(len(arms) > 1 for arms in curves.values())
    for (left, right), (row, arms) in zip(grid, curves.items(), strict=True):
        for arm, sides in arms.items():
            for runs, style in zip(sides, _SIDES, strict=True):
                _draw_side(left, arm, runs, lambda e: e.step, style)
                _draw_side(right, arm, runs, lambda e: e.flops / 1e12, style)
        left.set_title(shortened(row), fontsize=9, loc="left", parse_math=False)
        left.set_ylim(*limits([run for sides in arms.values() for runs in sides for run in runs]))
    grid[-1][0].set_xlabel("updates")
    grid[-1][1].set_xlabel("counted operations (TFLOP)")
    figure.supylabel(f"held-out loss ({comparison.unit})", fontsize=9)
    arms = list(dict.fromkeys(arm for row in curves.values() for arm in row)) if several else []
    handles = [Line2D([], [], color=COLOURS.get(arm, "black"), label=plain(shortened(arm))) for arm in arms]
    for side, study, style in zip("AB", (comparison.first, comparison.second), _SIDES, strict=True):
        handles.append(Line2D([], [], color="#333333", label=plain(f"{side}: {shortened(study.label)}"), **style))
    legend_below(figure, handles)
    caption = (
        f"Held-out loss of both studies over updates (left) and over counted operations (right). Solid: A, "
        f"{comparison.first.label}; dashed: B, "
        f"{comparison.second.label}. Lines: mean over seeds on the stretch that all seeds cover; bands: 95 % "
        f"t-interval. Each row has "
        f"its own vertical axis, which leaves out the first steep fall. {_setups(comparison)}"
    )
    ends = "; ".join(
        f"{row if not several else f'{row}, {arm}'} {_end_of(sides[0]):.4g} in A and {_end_of(sides[1]):.4g} in B"
        for row, arms in curves.items()
        for arm, sides in arms.items()
    )
    alt = f"Curves of held-out loss in {comparison.unit}, two panels a row. Means over seeds at the last evaluation: {ends}."
    return drawn(figure, "loss-side-by-side", "Held-out loss, A beside B", caption, alt)


def _draw_side(axes: Axes, arm: str, runs: list[RunRecord], x: Measure, style: dict[str, Any]) -> None:
    """Draw the held-out loss of one arm in one study, mean and band over seeds."""
    curve = band(runs, x, score("held-out", "all", "loss"))
    draw_mean_and_band(axes, curve, 0.13, color=COLOURS.get(arm, "black"), **style)


def limits(runs: Sequence[RunRecord]) -> tuple[float, float]:
    """Limits of a vertical axis: from the lowest held-out loss to the highest one after a sixth of the evaluations."""
    curves = [[e.scores["held-out"]["all"].loss for e in run.evaluations] for run in runs]
    low, high = min(map(min, curves)), max(max(losses[len(losses) // 6 :]) for losses in curves)
    room = 0.08 * (high - low) or 0.01 * abs(high) or 1.0
    return low - room, high + room


def _end_of(runs: Sequence[RunRecord]) -> float:
    """Mean held-out loss of some runs at their last evaluation."""
    return float(np.mean([run.evaluations[-1].scores["held-out"]["all"].loss for run in runs]))


def _setups(comparison: Comparison) -> str:
    """The set-up of both studies; once where it is the same."""
    if comparison.first.setup == comparison.second.setup:
        return f"A and B: {comparison.first.setup}"
    return f"A: {comparison.first.setup} B: {comparison.second.setup}"
