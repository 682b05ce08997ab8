"""Two studies of one kind side by side: what differs in their configs, and what in their numbers and verdicts."""

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
"""Differences on standard output."""


def compare(first: Path, second: Path, out: Path | None = None, as_json: bool = False) -> Path:
    """Write page, figure and record of what differs between two studies; returns the page.

    Each one's ``summary.json`` is brought up to date, as `thalweg report` does.

    Args:
        first: A, the folder of a study, a sweep or a study of tasks, complete or not.
        second: B, of the same kind.
        out: folder of the comparison; compare-A-B here when not given.
        as_json: print the record instead of a table.
    Raises:
        FolderError: a folder is no study or has no complete run, or ``out`` holds something else.
        BadInputError: the two are of different kinds.
    """
    experiments = [experiment_in(folder) for folder in (first, second)]
    kinds = [one.described for one in experiments]
    if kinds[0] != kinds[1]:
        raise BadInputError(f"cannot compare: {first} is {kinds[0]}, {second} is {kinds[1]}; expected two of the same kind")
    labels = told_apart(first.resolve(), second.resolve())
    folder = out or Path("compare-" + "-".join(label.strip("/").replace("/", "-") for label in labels))
    claim_comparison(folder, first, second)
    sides = [one.compared(path) for one, path in zip(experiments, (first, second), strict=True)]
    found, curves = _side_by_side(kinds[0], [one.plan for one in experiments], sides, (first, second))
    page = write_comparison(found, curves, folder)
    say_json(to_dict(found)) if as_json else _show_comparison(found, page)
    return page


def _side_by_side(kind: str, plans: Sequence[Any], sides: Sequence[Compared], paths: Sequence[Path]) -> tuple[Comparison, Curves]:
    """The record of what differs, and what its figure draws."""
    a, b = sides
    both = [arm for arm in a.arms if arm in b.arms]
    curves: Curves = {}
    for arm in both:
        if a.arms[arm].runs and b.arms[arm].runs and arm in a.rows:
            row, colour = a.rows[arm]
            curves.setdefault(row, {})[colour] = list(a.arms[arm].runs.values()), list(b.arms[arm].runs.values())
    seeds = {arm: [set(one.arms[arm].runs) for one in sides] for arm in both}
    alone = {arm: changes({"seeds": sorted(x - y)}, {"seeds": sorted(y - x)}) for arm, (x, y) in seeds.items()}
    configs = {arm: (a.arms[arm].config, b.arms[arm].config) for arm in both}
    made = {arm: pair for arm, pair in configs.items() if all(pair)}
    labels = told_apart(*(path.resolve() for path in paths))
    ones = [
        One(
            label=label,
            path=str(path.resolve()),
            complete=one.summary.complete,
            missing=one.summary.missing,
            arms_alone=tuple(arm for arm in one.arms if arm not in other.arms),
            setup=_OTHER_VERSION if MADE_OTHERWISE in one.summary.setup else setup(one.summary),
        )
        for label, path, one, other in zip(labels, paths, sides, reversed(sides), strict=True)
    ]
    found = Comparison(
        kind=kind,
        unit=a.unit,
        first=ones[0],
        second=ones[1],
        arms=tuple(both),
        plan=changes(*(flat(to_dict(plan)) for plan in plans)),
        software=changes(*(to_dict(one.summary.provenance) for one in sides)),
        configs=together({arm: changes(*configs) for arm, configs in made.items()}),
        seeds=together(alone),
        numbers=tuple(one for arm in both for one in differences(arm, a.arms[arm], b.arms[arm])),
        answers=answers(a.summary.verdicts, b.summary.verdicts),
    )
    return found, curves


def differences(arm: str, a: ComparedArm, b: ComparedArm) -> list[Difference]:
    """Every number of an arm that both tell and at least one has."""
    same, common = _same_data(a, b), [heading for heading in a.values if heading in b.values]
    found = [difference(arm, name, a.values[name], b.values[name], same, name.startswith(RATIO)) for name in common]
    return [one for one in found if one.first.n or one.second.n or any(one.never)]


def _same_data(a: ComparedArm, b: ComparedArm) -> bool:
    """Whether runs of the same seed learn the same data: the same section of the config, and of text the same files."""
    data = [{key: value for key, value in one.config.items() if key.startswith("data.") and key != "data.path"} for one in (a, b)]
    files = [{run.summary.data.get("sha256") for run in one.runs.values() if run.summary} for one in (a, b)]
    return data[0] == data[1] and len(files[0] | files[1]) == 1


def answers(first: Sequence[Verdict], second: Sequence[Verdict]) -> tuple[VerdictPair, ...]:
    """What both studies say of each claim or question: first what changed, then what only one says."""
    of_first, of_second = ({one.claim: one for one in verdicts} for verdicts in (first, second))
    found = []
    for claim in of_first | of_second:
        one, other = of_first.get(claim), of_second.get(claim)
        changed = is_given(one) and is_given(other) and _wording(one) != _wording(other)
        found.append(VerdictPair(claim, one, other, changed))
    return tuple(sorted(found, key=lambda one: (not one.changed, is_given(one.first) == is_given(one.second))))


def _wording(told: Verdict | None) -> str:
    """An answer without the numbers in it."""
    return re.sub(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", "#", told.verdict if told else "")


def _show_comparison(found: Comparison, page: Path) -> None:
    """The main differences on standard output."""
    console = Screen(wide=200)
    say = console.say

    for side, one in (("A", found.first), ("B", found.second)):
        say(f"{side}: {one.label}, {one.path}" + ("" if one.complete else f"; missing: {', '.join(one.missing)}"))
    say(f"{in_short(found)}.")
    for one in (*found.configs, *found.plan)[:_SHOWN]:
        say(f"  {one.key}: {as_text(one.first)} | {as_text(one.second)}" + (f" ({arms_in_words(one.arms)})" if one.arms else ""))
    if found.differing:
        table = Table(title="Numbers that differ, mean and 95 % interval", title_justify="left")
        for heading in ("arm", "number", "A", "B", "B - A"):
            table.add_column(heading)
        for one in found.differing[:_SHOWN]:
            told = " ".join([*apart_in_words(one), "paired" if one.paired else "unpaired"])
            table.add_row(one.arm, one.number, show(one.first), show(one.second), told)
        console.print(table)
    if len(found.differing) > _SHOWN:
        say(f"{len(found.differing) - _SHOWN} more are on the page")
    for one in found.changed:
        say(f"changed: {one.claim}: {one.first.verdict if one.first else ''} | {one.second.verdict if one.second else ''}")
    say(f"page: {page}")
