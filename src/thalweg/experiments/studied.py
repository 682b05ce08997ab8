"""One study as a comparison reads it: its arms with their numbers by seed, their configs, and what it answered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.errors import BadInputError, DamagedFileError
from thalweg.experiments.metrics import Pairs, final, in_bits
from thalweg.experiments.outcomes import outcome_of
from thalweg.experiments.paper.definition import complete_runs, jobs_of, landscapes_of, markov_table, summary_of, text_table
from thalweg.experiments.paper.recipes import StudyConfig
from thalweg.experiments.switching.definition import places, read_in_unit
from thalweg.experiments.switching.definition import summarise as summarise_sweep
from thalweg.experiments.switching.variants import SweepConfig, ways_of
from thalweg.experiments.tasks.definition import complete_runs as complete_tasks
from thalweg.experiments.tasks.definition import facts_in, task_jobs
from thalweg.experiments.tasks.definition import summary_of as task_summary
from thalweg.experiments.tasks.outcomes import task_outcome
from thalweg.experiments.tasks.recipes import TaskStudyConfig
from thalweg.records.experiment import Share, SweepSummary
from thalweg.records.run import Cell, StudySummary, read_lengths
from thalweg.records.task_study import TaskStudySummary
from thalweg.report.compare.page import flat
from thalweg.serialization import to_dict
from thalweg.train.config import RunConfig, read_toml
from thalweg.train.run_folder import config_in

Values = dict[str, dict[int, float | None]]
"""Heading -> seed -> number of that run; None where the run never reached what is asked, left out where nothing is asked."""
Numbers = dict[str, Cell | Share | None]
"""Heading -> of one run; None where nothing is asked."""
NEVER = Share(None, None, None, 1, 1)
RATIO = "share of"
"""How headings of numbers begin that are compared as ratios."""
SWITCHING = {
    "switch_step": "first switch at (updates)",
    "drop": "largest drop at a switch (points)",
    "jump": "largest jump of the loss at a switch ({unit})",
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
    rows: dict[str, tuple[str, str]]
    """Arm that is drawn -> row of the figure, and whose colour it has there."""


def read(plan: StudyConfig | SweepConfig | TaskStudyConfig, folder: Path) -> Studied:
    """Summary, runs and numbers of a study of any kind."""
    if isinstance(plan, StudyConfig):
        return of_study(plan, folder)
    return of_sweep(plan, folder) if isinstance(plan, SweepConfig) else of_tasks(plan, folder)


def of_study(study: StudyConfig, folder: Path) -> Studied:
    """Of a study of markov or text: the columns of its table, run by run."""
    jobs, text = jobs_of(study, folder), study.task == "text"
    runs = complete_runs(study, jobs)
    summary = summary_of(study, folder, jobs, runs, landscapes_of(jobs))
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
    return Studied(summary, "bits per byte" if text else "nats per token", arms, {arm: (arm, arm) for arm in arms})


def of_sweep(sweep: SweepConfig, folder: Path) -> Studied:
    """Of a sweep: the outcome of each way, run by run. A setting of SCP has Single's config, which it is replayed over."""
    summary, ways = summarise_sweep(sweep, folder), ways_of(sweep)
    one_run = functools.cache(functools.partial(read_in_unit, sweep))
    headings = {name: words.format(unit=summary.unit) for name, words in (SWEPT | SWITCHING).items()}
    found = {way.name: places(sweep, folder, way) for way in ways}
    folders = {name: {seed: folder / "runs" / f"{arm}-seed{seed}" for seed, (arm, _) in at.items()} for name, at in found.items()}
    known = {name: {seed: one_run(path) for seed, path in at.items()} for name, at in folders.items()}
    runs = {name: {seed: run for seed, run in at.items() if run is not None} for name, at in known.items()}

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
    return Studied(summary, summary.per_token, arms, drawn)


def of_tasks(study: TaskStudyConfig, folder: Path) -> Studied:
    """Of a study of tasks: the outcome of each arm on each task, run by run."""
    jobs = task_jobs(study, folder, facts_in(study, folder))
    runs = complete_tasks(jobs)
    summary = task_summary(study, folder, jobs, runs)
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
    return Studied(summary, "nats", arms, rows)


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
        return nameless(config_in(path.parent))
    except BadInputError:
        try:
            return nameless(read_toml(path))
        except BadInputError as error:
            raise DamagedFileError(f"damaged record {path}: {error}") from None


def nameless(config: RunConfig | dict[str, Any]) -> dict[str, Any]:
    """A config without arm and seed, flattened."""
    return {key: value for key, value in flat(to_dict(config)).items() if key not in ("arm", "seed")}
