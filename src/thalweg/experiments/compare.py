"""`thalweg compare`: what differs between two studies of the same kind, in configs, numbers and verdicts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from thalweg.errors import BadInputError
from thalweg.experiments.compared import RATIO, Compared, ComparedArm
from thalweg.experiments.queue import MADE_OTHERWISE
from thalweg.experiments.registry import experiment_in
from thalweg.records.run import Verdict
from thalweg.report.compare.differences import Difference, difference
from thalweg.report.compare.page import (
    Comparison,
    Curves,
    One,
    VerdictPair,
    apart_in_words,
    arms_in_words,
    as_text,
    changes,
    claim_comparison,
    flat,
    in_short,
    is_given,
    together,
    told_apart,
    write_comparison,
)
from thalweg.report.figures import setup
from thalweg.report.page import show
from thalweg.screen import Screen, say_json
from thalweg.serialization import to_dict

_OTHER_VERSION = "Made with other configs than this version of thalweg plans; they lie in the folders of its runs."
_SHOWN = 20
"""Most differences that are listed on standard output."""


def compare(first: Path, second: Path, out: Path | None = None, as_json: bool = False) -> Path:
    """Compare two studies: write a page, a figure and a record of what differs, and print the main differences.

    The ``summary.json`` of both studies is brought up to date, as `thalweg report` does.

    Args:
        first: folder of study A: a study, a sweep or a study of tasks, complete or not.
        second: folder of study B, of the same kind.
        out: folder of the comparison; None takes ``compare-A-B`` in the working directory.
        as_json: print the record instead of a table.
    Returns:
        Path of the page.
    Raises:
        FolderError: a folder is no study or has no complete run, or ``out`` holds something else.
        BadInputError: the two are of different kinds.
    """
    experiments = [experiment_in(folder) for folder in (first, second)]
    kinds = [experiment.described for experiment in experiments]
    if kinds[0] != kinds[1]:
        raise BadInputError(f"cannot compare: {first} is {kinds[0]}, {second} is {kinds[1]}; expected two of the same kind")
    labels = told_apart(first.resolve(), second.resolve())
    folder = out or Path("compare-" + "-".join(label.strip("/").replace("/", "-") for label in labels))
    claim_comparison(folder, first, second)
    sides = [experiment.compared(path) for experiment, path in zip(experiments, (first, second), strict=True)]
    plans = [experiment.plan for experiment in experiments]
    comparison, curves = _side_by_side(kinds[0], plans, sides, (first, second))
    page = write_comparison(comparison, curves, folder)
    say_json(to_dict(comparison)) if as_json else _show_comparison(comparison, page)
    return page


def _side_by_side(kind: str, plans: Sequence[Any], sides: Sequence[Compared], paths: Sequence[Path]) -> tuple[Comparison, Curves]:
    """The record of what differs between two studies, and the curves that its figure draws."""
    a, b = sides
    common = [arm for arm in a.arms if arm in b.arms]
    curves: Curves = {}
    for arm in common:
        if a.arms[arm].runs and b.arms[arm].runs and arm in a.rows:
            row, colour = a.rows[arm]
            curves.setdefault(row, {})[colour] = list(a.arms[arm].runs.values()), list(b.arms[arm].runs.values())
    seeds = {arm: [set(side.arms[arm].runs) for side in sides] for arm in common}
    unshared_seeds = {
        arm: changes({"seeds": sorted(in_a - in_b)}, {"seeds": sorted(in_b - in_a)}) for arm, (in_a, in_b) in seeds.items()
    }
    configs = {arm: (a.arms[arm].config, b.arms[arm].config) for arm in common}
    labels = told_apart(*(path.resolve() for path in paths))
    studies = [
        One(
            label=label,
            path=str(path.resolve()),
            complete=side.summary.complete,
            missing=side.summary.missing,
            arms_alone=tuple(arm for arm in side.arms if arm not in other.arms),
            setup=_OTHER_VERSION if MADE_OTHERWISE in side.summary.setup else setup(side.summary),
        )
        for label, path, side, other in zip(labels, paths, sides, reversed(sides), strict=True)
    ]
    comparison = Comparison(
        kind=kind,
        unit=a.unit,
        first=studies[0],
        second=studies[1],
        arms=tuple(common),
        plan=changes(*(flat(to_dict(plan)) for plan in plans)),
        software=changes(*(to_dict(side.summary.provenance) for side in sides)),
        configs=together({arm: changes(*pair) for arm, pair in configs.items() if all(pair)}),  # no config: no run was begun
        seeds=together(unshared_seeds),
        numbers=tuple(number for arm in common for number in differences(arm, a.arms[arm], b.arms[arm])),
        answers=answers(a.summary.verdicts, b.summary.verdicts),
    )
    return comparison, curves


def _is_ratio(name: str, a: ComparedArm, b: ComparedArm) -> bool:
    """Whether a number is a share that is compared by its logarithm; a heading of the user's own may hold zeros."""
    values = [value for side in (a, b) for value in side.values[name].values() if value is not None]
    return name.startswith(RATIO) and all(value > 0 for value in values)


def differences(arm: str, a: ComparedArm, b: ComparedArm) -> list[Difference]:
    """The difference of every number of one arm that both studies measure, B minus A.

    Numbers are paired by seed where the runs of both studies learn the same data, and compared as ratios where they are shares.

    Args:
        arm: name of the arm.
        a: the arm in study A.
        b: the arm in study B.
    Returns:
        One for each heading of both, without those for which neither study has a value.
    """
    paired = _same_data(a, b)
    headings = [heading for heading in a.values if heading in b.values]
    by_heading = [difference(arm, name, a.values[name], b.values[name], paired, _is_ratio(name, a, b)) for name in headings]
    return [number for number in by_heading if number.first.n or number.second.n or any(number.never)]


def _same_data(a: ComparedArm, b: ComparedArm) -> bool:
    """Whether runs of the same seed learn the same data: their configs agree on the data and, for text, so do the file hashes."""
    data = [{key: value for key, value in arm.config.items() if key.startswith("data.") and key != "data.path"} for arm in (a, b)]
    files = [{run.summary.data.get("sha256") for run in arm.runs.values() if run.summary} for arm in (a, b)]
    return data[0] == data[1] and len(files[0] | files[1]) == 1


def answers(first: Sequence[Verdict], second: Sequence[Verdict]) -> tuple[VerdictPair, ...]:
    """Pair the verdicts of two studies by claim or question.

    Returns:
        First the pairs whose answer changed, then those that only one study answers, then the rest. An answer counts as changed
        where its wording does; numbers in it are ignored.
    """
    in_first, in_second = ({verdict.claim: verdict for verdict in verdicts} for verdicts in (first, second))
    pairs = []
    for claim in in_first | in_second:
        before, after = in_first.get(claim), in_second.get(claim)
        changed = is_given(before) and is_given(after) and _wording(before) != _wording(after)
        pairs.append(VerdictPair(claim, before, after, changed))
    return tuple(sorted(pairs, key=lambda pair: (not pair.changed, is_given(pair.first) == is_given(pair.second))))


def _wording(verdict: Verdict | None) -> str:
    """The text of an answer with every number replaced by "#"."""
    return re.sub(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", "#", verdict.verdict if verdict else "")


def _show_comparison(comparison: Comparison, page: Path) -> None:
    """Print the main differences on standard output."""
    console = Screen(wide=200)
    say = console.say

    for side, study in (("A", comparison.first), ("B", comparison.second)):
        missing = "" if study.complete else f"; missing: {', '.join(study.missing)}"
        say(f"{side}: {study.label}, {study.path}{missing}")
    say(f"{in_short(comparison)}.")
    for change in (*comparison.configs, *comparison.plan)[:_SHOWN]:
        arms = f" ({arms_in_words(change.arms)})" if change.arms else ""
        say(f"  {change.key}: {as_text(change.first)} | {as_text(change.second)}{arms}")
    if comparison.differing:
        table = Table(title="Numbers that differ, mean and 95 % interval", title_justify="left")
        for heading in ("arm", "number", "A", "B", "B - A"):
            table.add_column(heading)
        for number in comparison.differing[:_SHOWN]:
            gap = " ".join([*apart_in_words(number), "paired" if number.paired else "unpaired"])
            table.add_row(number.arm, number.number, show(number.first), show(number.second), gap)
        console.print(table)
    if len(comparison.differing) > _SHOWN:
        say(f"{len(comparison.differing) - _SHOWN} more are on the page")
    for pair in comparison.changed:
        before, after = (verdict.verdict if verdict else "" for verdict in (pair.first, pair.second))
        say(f"changed: {pair.claim}: {before} | {after}")
    say(f"page: {page}")
