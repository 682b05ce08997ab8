"""Two studies of one kind side by side: what differs in their configs, and what in their numbers and verdicts."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from thalweg.errors import BadInputError, DamagedFileError, FolderError
from thalweg.plain import to_dict
from thalweg.records import Cell, StudySummary, read_lengths, read_run
from thalweg.report.compare import (
    Answer,
    Comparison,
    Curves,
    Difference,
    One,
    Told,
    apart_in_words,
    arms_in_words,
    as_text,
    changes,
    claim_comparison,
    difference,
    flat,
    in_short,
    is_given,
    together,
    told_apart,
    write_comparison,
)
from thalweg.report.figures import setup
from thalweg.report.page import show
from thalweg.study.measures import Pairs, final, in_bits
from thalweg.study.outcomes import outcome_of
from thalweg.study.recipes import StudyConfig
from thalweg.study.study import jobs_of, markov_table, read_study, summarise, text_table
from thalweg.study.sweep import PLAN as SWEEP
from thalweg.study.sweep import places, read_in_unit, read_sweep
from thalweg.study.sweep import summarise as summarise_sweep
from thalweg.study.switching import SweepConfig, ways_of
from thalweg.study.task_outcomes import task_outcome
from thalweg.study.task_recipes import TaskStudyConfig
from thalweg.study.task_study import PLAN as TASKS
from thalweg.study.task_study import read_task_study, summarise_tasks, task_jobs
from thalweg.sweeps import Share, SweepSummary
from thalweg.task_studies import TaskStudySummary
from thalweg.train.config import RunConfig, read_config

Values = dict[str, dict[int, float | None]]
"""Heading -> seed -> number of that run; None where the run never reached what is asked, left out where nothing is asked."""
Numbers = dict[str, Cell | Share | None]
"""Heading -> of one run; None where nothing is asked."""
NEVER = Share(None, None, None, 1, 1)
RATIO = "share of"
"""How headings of numbers begin that are compared as ratios."""
OTHER_VERSION = "Made with other configs than this version of thalweg plans; they lie in the folders of its runs."
SHOWN = 20
"""Differences on standard output."""
SWITCHING = {
    "switch_step": "switch at (updates)",
    "drop": "drop (points)",
    "jump": "jump of the loss at the switch ({unit})",
    "share_seconds": f"{RATIO} Looped's time",
    "share_flops": f"{RATIO} Looped's operations",
    "seconds": "training (s)",
    "teraflops": "counted TFLOP",
}
"""Field of an outcome -> heading."""
SWEPT = {
    "final_loss": "held-out loss ({unit})",
    "final_accuracy": "held-out accuracy",
    "difference": "held-out loss minus Looped's ({unit})",
    "ideal_flops": "ideal share of Looped's operations",
}


@dataclass(frozen=True)
class Arm:
    """One arm: its complete runs, their numbers, and its config but for name and seed, flattened."""

    runs: Pairs
    values: Values
    config: dict[str, Any]


@dataclass(frozen=True)
class Studied:
    """One study as the comparison needs it."""

    summary: StudySummary | SweepSummary | TaskStudySummary
    unit: str
    arms: dict[str, Arm]
    as_planned: bool
    """Whether the runs have the configs that this version plans, so that the set-up in words is theirs."""
    rows: dict[str, tuple[str, str]]
    """Arm that is drawn -> row of the figure, and whose colour it has there."""


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
    plans = [read_plan(folder) for folder in (first, second)]
    kinds = [kind_of(plan) for plan in plans]
    if kinds[0] != kinds[1]:
        raise BadInputError(f"cannot compare: {first} is {kinds[0]}, {second} is {kinds[1]}; expected two of the same kind")
    labels = told_apart(first.resolve(), second.resolve())
    folder = out or Path("compare-" + "-".join(label.strip("/").replace("/", "-") for label in labels))
    claim_comparison(folder, first, second)
    sides = [read(plan, path) for plan, path in zip(plans, (first, second), strict=True)]
    found, curves = side_by_side(kinds[0], plans, sides, (first, second))
    page = write_comparison(found, curves, folder)
    print(json.dumps(to_dict(found))) if as_json else show_comparison(found, page)
    return page


def read_plan(folder: Path) -> StudyConfig | SweepConfig | TaskStudyConfig:
    """The plan that a folder belongs to, of whichever kind."""
    readers: dict[str, Callable[[Path], Any]] = {"study.json": read_study, SWEEP: read_sweep, TASKS: read_task_study}
    for name, reader in readers.items():
        if (folder / name).exists():
            return reader(folder)
    command = "`thalweg study` or `thalweg shift-sweep`"
    raise FolderError(f"study {folder}: there is no study.json, {SWEEP} or {TASKS} in it; expected the --out folder of {command}")


def kind_of(plan: StudyConfig | SweepConfig | TaskStudyConfig) -> str:
    """What it is, in words; the numbers of two kinds have different meanings or units."""
    if isinstance(plan, TaskStudyConfig):
        return "a study of algorithmic tasks"
    return f"a {'sweep' if isinstance(plan, SweepConfig) else 'study'} of {plan.task}"


def read(plan: StudyConfig | SweepConfig | TaskStudyConfig, folder: Path) -> Studied:
    """Summary, runs and numbers of a study of any kind."""
    if isinstance(plan, StudyConfig):
        return of_study(plan, folder)
    return of_sweep(plan, folder) if isinstance(plan, SweepConfig) else of_tasks(plan, folder)


def of_study(study: StudyConfig, folder: Path) -> Studied:
    """Of a study of markov or text: the columns of its table, run by run."""
    summary, jobs, text = summarise(study, folder), jobs_of(study, folder), study.task == "text"
    runs: dict[str, Pairs] = {arm: {} for arm in study.arms}
    for job in jobs:
        if job.complete:
            runs[job.config.arm][job.config.seed] = read_run(job.folder)
    looped = runs.get("looped", {})

    def numbers(arm: str, seed: int) -> Numbers:
        alone = {name: {seed: pairs[seed]} for name, pairs in ((arm, runs[arm]), ("looped", looped)) if seed in pairs}
        row = (text_table if text else markov_table)(alone)[1][arm]
        asked = NEVER if seed in looped else None
        return {heading: asked if row[name].mean is None else row[name] for name, heading in summary.columns.items()}

    arms = {}
    for arm, pairs in runs.items():
        config = stored([job.folder for job in jobs if job.config.arm == arm])
        values = by_seed(pairs, functools.partial(numbers, arm))
        arms[arm] = Arm({seed: in_bits(run) if text else run for seed, run in pairs.items()}, values, config)
    planned = all(arms[job.config.arm].config in ({}, nameless(job.config)) for job in jobs)
    return Studied(summary, "bits per byte" if text else "nats per token", arms, planned, {arm: (arm, arm) for arm in arms})


def of_sweep(sweep: SweepConfig, folder: Path) -> Studied:
    """Of a sweep: the outcome of each way, run by run. A setting of SCP has Single's config, which it is replayed over."""
    summary, ways = summarise_sweep(sweep, folder), ways_of(sweep)
    one_run = functools.cache(functools.partial(read_in_unit, sweep))
    headings = {name: words.format(unit=summary.unit) for name, words in (SWEPT | SWITCHING).items()}
    found = {way.name: places(sweep, folder, way) for way in ways}
    folders = {name: {seed: folder / "runs" / f"{arm}-seed{seed}" for seed, (arm, _) in at.items()} for name, at in found.items()}
    runs = {name: {seed: one_run(path) for seed, path in at.items() if complete(path)} for name, at in folders.items()}

    def numbers(name: str, seed: int) -> Numbers:
        mine, single, looped = ({seed: runs[one][seed]} if seed in runs[one] else {} for one in (name, "single", "looped"))
        outcome = outcome_of("", "", {}, mine, single, looped)
        return {heading: getattr(outcome, field) for field, heading in headings.items()}

    arms = {}
    for way in ways:
        config = stored(list(folders[way.name].values()))
        if way.criterion is not None:
            config = {key: value for key, value in arms["single"].config.items() if not key.startswith("shift.")}
            config |= flat({"shift": {"criterion": to_dict(way.criterion)}})
        arms[way.name] = Arm(runs[way.name], by_seed(runs[way.name], functools.partial(numbers, way.name)), config)
    drawn = {way.name: (way.name, way.name) for way in ways if way.group == "reference"}
    planned = all(way.config is None or arms[way.name].config in ({}, nameless(way.config)) for way in ways)
    return Studied(summary, summary.per_token, arms, planned, drawn)


def complete(folder: Path) -> bool:
    """Whether a run has its summary."""
    return (folder / "summary.json").exists()


def of_tasks(study: TaskStudyConfig, folder: Path) -> Studied:
    """Of a study of tasks: the outcome of each arm on each task, run by run."""
    summary, jobs = summarise_tasks(study, folder), task_jobs(study, folder)
    runs = {key: read_run(job.folder) for key, job in jobs.items() if job.complete}
    headings = {"trained": "exact match, trained lengths"} | {name: words.format(unit="nats") for name, words in SWITCHING.items()}

    def numbers(task: str, arm: str, seed: int) -> Numbers:
        looped = {seed: runs[task, "looped", seed]} if (task, "looped", seed) in runs else {}
        lengths = {seed: read_lengths(jobs[task, arm, seed].folder)}
        found = task_outcome(task, arm, {seed: runs[task, arm, seed]}, lengths, looped)
        at = {f"exact match at n = {n}": Cell(row[0]) for n, row in zip(found.lengths, found.accuracy, strict=True)}
        made = {heading: getattr(found, name) for name, heading in headings.items()}
        loss = Cell(final(runs[task, arm, seed], "held-out", "all", "loss"))
        return {"held-out loss (nats)": loss, headings["trained"]: made.pop(headings["trained"])} | at | made

    arms, rows = {}, {}
    for task, arm in dict.fromkeys((task, arm) for task, arm, _ in jobs):
        mine = {seed: runs[task, arm, seed] for seed in study.seeds if (task, arm, seed) in runs}
        config = stored([jobs[task, arm, seed].folder for seed in study.seeds])
        name = f"{task}, {arm}"
        arms[name] = Arm(mine, by_seed(mine, functools.partial(numbers, task, arm)), config)
        rows[name] = task, arm
    planned = all(arms[f"{task}, {arm}"].config in ({}, nameless(job.config)) for (task, arm, _), job in jobs.items())
    return Studied(summary, "nats", arms, planned, rows)


def by_seed(seeds: Iterable[int], numbers: Callable[[int], Numbers]) -> Values:
    """Every number of every run that it is asked of."""
    found: Values = {}
    for seed in sorted(seeds):
        for heading, one in numbers(seed).items():
            row = found.setdefault(heading, {})
            if isinstance(one, Share):
                row[seed] = one.value
            elif one is not None and one.mean is not None:
                row[seed] = one.mean
    return found


def stored(folders: Sequence[Path]) -> dict[str, Any]:
    """The config of the first of some runs that has one, but for arm and seed; one of another version as it lies there."""
    path = next((folder / "config.toml" for folder in folders if (folder / "config.toml").exists()), None)
    if path is None:
        return {}
    try:
        return nameless(read_config(path))
    except BadInputError:
        try:
            return nameless(tomllib.loads(path.read_text()))
        except ValueError as error:
            raise DamagedFileError(f"damaged record {path}: {error}") from None


def nameless(config: RunConfig | dict[str, Any]) -> dict[str, Any]:
    """A config without arm and seed, flattened."""
    return {key: value for key, value in flat(to_dict(config)).items() if key not in ("arm", "seed")}


def side_by_side(kind: str, plans: Sequence[Any], sides: Sequence[Studied], paths: Sequence[Path]) -> tuple[Comparison, Curves]:
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
            setup=setup(one.summary) if one.as_planned else OTHER_VERSION,
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
        answers=answers(told_by(a.summary), told_by(b.summary)),
    )
    return found, curves


def differences(arm: str, a: Arm, b: Arm) -> list[Difference]:
    """Every number of an arm that both tell and at least one has."""
    same, common = same_data(a, b), [heading for heading in a.values if heading in b.values]
    found = [difference(arm, name, a.values[name], b.values[name], same, name.startswith(RATIO)) for name in common]
    return [one for one in found if one.first.n or one.second.n or any(one.never)]


def same_data(a: Arm, b: Arm) -> bool:
    """Whether runs of the same seed learn the same data: the same section of the config, and of text the same files."""
    data = [{key: value for key, value in one.config.items() if key.startswith("data.") and key != "data.path"} for one in (a, b)]
    files = [{run.summary.data.get("sha256") for run in one.runs.values() if run.summary} for one in (a, b)]
    return data[0] == data[1] and len(files[0] | files[1]) == 1


def answers(first: dict[str, Told], second: dict[str, Told]) -> tuple[Answer, ...]:
    """What both studies say of each claim or question: first what changed, then what only one says."""
    found = []
    for question in first | second:
        one, other = first.get(question), second.get(question)
        changed = is_given(one) and is_given(other) and wording(one) != wording(other)
        found.append(Answer(question, one, other, changed))
    return tuple(sorted(found, key=lambda one: (not one.changed, is_given(one.first) == is_given(one.second))))


def wording(told: Told | None) -> str:
    """An answer without the numbers in it."""
    return re.sub(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", "#", told.words if told else "")


def told_by(summary: StudySummary | SweepSummary | TaskStudySummary) -> dict[str, Told]:
    """Claim or question -> what a study says of it."""
    if isinstance(summary, StudySummary):
        return {one.claim: Told(one.verdict, one.numbers) for one in summary.verdicts}
    return {one.question: Told(one.answer, one.numbers) for one in summary.verdicts}


def show_comparison(found: Comparison, page: Path) -> None:
    """The main differences on standard output."""
    console = Console(width=None if Console().is_terminal else 200)

    def say(words: str) -> None:
        console.print(words, highlight=False, markup=False, soft_wrap=True)

    for side, one in (("A", found.first), ("B", found.second)):
        say(f"{side}: {one.label}, {one.path}" + ("" if one.complete else f"; missing: {', '.join(one.missing)}"))
    say(f"{in_short(found)}.")
    for one in (*found.configs, *found.plan)[:SHOWN]:
        say(f"  {one.key}: {as_text(one.first)} | {as_text(one.second)}" + (f" ({arms_in_words(one.arms)})" if one.arms else ""))
    if found.differing:
        table = Table(title="Numbers that differ, mean and 95 % interval", title_justify="left")
        for heading in ("arm", "number", "A", "B", "B - A"):
            table.add_column(heading)
        for one in found.differing[:SHOWN]:
            told = " ".join([*apart_in_words(one), "paired" if one.paired else "unpaired"])
            table.add_row(*map(escape, (one.arm, one.number, show(one.first), show(one.second), told)))
        console.print(table)
    if len(found.differing) > SHOWN:
        say(f"{len(found.differing) - SHOWN} more are on the page")
    for one in found.changed:
        say(f"changed: {one.question}: {one.first.words if one.first else ''} | {one.second.words if one.second else ''}")
    say(f"page: {page}")
