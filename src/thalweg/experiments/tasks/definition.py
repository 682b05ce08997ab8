"""The study of algorithmic tasks: its queue of runs, and outcomes, verdicts and page from their records."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path

from thalweg.data.find_task import own
from thalweg.errors import BadInputError, FolderError, plural, require
from thalweg.experiments.compared import SWITCHING, Compared, ComparedArm, Numbers, by_seed, stored
from thalweg.experiments.disturbance import disturbance
from thalweg.experiments.experiment import Experiment, Table
from thalweg.experiments.folder import slug
from thalweg.experiments.metrics import Pairs, final
from thalweg.experiments.queue import Job, failed_for_good, unplanned
from thalweg.experiments.tasks.answers import task_verdicts
from thalweg.experiments.tasks.findings import first_screen
from thalweg.experiments.tasks.outcomes import Lengths, task_outcome
from thalweg.experiments.tasks.recipes import (
    PRESETS,
    SHORT,
    TaskFacts,
    TaskRecipe,
    TaskStudyConfig,
    remembered,
    task_recipe,
    task_runs,
)
from thalweg.experiments.words import cell_text, command_words, model_words
from thalweg.records.experiment import TaskOutcome, TaskStudySummary
from thalweg.records.run import Cell, RunRecord, read_lengths
from thalweg.report.switching.page import share_in_a_line
from thalweg.report.tasks.page import write_task_report
from thalweg.serialization import to_dict
from thalweg.storage import write_json
from thalweg.train.config import read_config

PLAN = "tasks.json"

_Key = tuple[str, str, int]
"""``(task, arm, seed)`` of a run."""


class TaskStudy(Experiment[TaskStudySummary]):
    """A study of algorithmic tasks: length generalisation, and SHIFT whose stages follow the training lengths."""

    kind, plan_file, grows = "study", PLAN, ("seeds", "arms", "tasks")

    def __init__(self, plan: TaskStudyConfig) -> None:
        self.plan: TaskStudyConfig = plan

    def jobs(self, folder: Path) -> list[Job]:
        return list(task_jobs(self.plan, folder).values())

    @property
    def described(self) -> str:
        return "a study of algorithmic tasks"

    @property
    def command(self) -> str:
        plan = self.plan
        return command_words(
            "study",
            "tasks",
            preset=plan.preset,
            task=",".join(plan.tasks),
            arms=",".join(plan.arms),
            seeds=len(plan.seeds),
            device="" if plan.device == "auto" else plan.device,
        )

    def report(self, folder: Path) -> TaskStudySummary:
        jobs = task_jobs(self.plan, folder, facts_in(self.plan, folder))
        records = complete_runs(jobs)
        summary = summary_of(self.plan, folder, jobs, records)
        write_task_report(summary, {f"{task}-{arm}-seed{seed}": run for (task, arm, seed), run in records.items()}, folder)
        return summary

    def compared(self, folder: Path) -> Compared:
        return compared(self.plan, folder)

    def table(self, summary: TaskStudySummary) -> Table:
        title = f"{summary.name}: exact match, {len(summary.seeds)} seeds, mean and 95 % interval; every seed is on the page"
        scores = ("task", "arm", "trained lengths", "at the longest", "beyond")
        rows = tuple((outcome.task, outcome.arm, *_cells(outcome, summary)) for outcome in summary.outcomes)
        return Table(title, (*scores, "drop (points)", "share of time", "of operations", "seconds"), rows)


def task_jobs(study: TaskStudyConfig, folder: Path, facts: Mapping[str, TaskFacts] | None = None) -> dict[_Key, Job]:
    """``(task, arm, seed)`` -> the run's job.

    Args:
        study: plan of the study.
        folder: of the study; runs lie in ``runs/``.
        facts: task -> what recipes need to know of it; a task that is missing here is imported.
    Raises:
        BadInputError: the names of two tasks would give the same folder.
    """
    jobs = {
        key: Job(name, config, folder / "runs" / name)
        for key, config in task_runs(study, facts).items()
        for name in (_run_name(*key),)
    }
    distinct = len({job.name for job in jobs.values()}) == len(jobs)
    expected = "names that differ in more than case and punctuation, as folders are named by them"
    require(distinct, "--task", ",".join(study.tasks), expected)
    return jobs


def _run_name(task: str, arm: str, seed: int) -> str:
    """Name of a run and of its folder."""
    return f"{slug(task)}-{arm}-seed{seed}"


def facts_in(study: TaskStudyConfig, folder: Path) -> dict[str, TaskFacts]:
    """Task -> facts about the user's own tasks, read from the configs of the runs in a folder.

    With these a report can be made without importing the user's modules.
    """
    facts = {}
    for task in filter(own, study.tasks):
        configs = {}
        for arm, seed in itertools.product(study.arms, study.seeds):
            path = folder / "runs" / _run_name(task, arm, seed) / "config.toml"
            with contextlib.suppress(BadInputError):  # missing, or written by another version
                configs.setdefault(arm, read_config(path))
        if configs:
            facts[task] = remembered(configs)
    return facts


def summary_of(study: TaskStudyConfig, folder: Path, jobs: dict[_Key, Job], records: dict[_Key, RunRecord]) -> TaskStudySummary:
    """Compute outcomes and verdicts from the records of complete runs, and write them to ``summary.json``.

    Raises:
        FolderError: no run is complete.
    """
    first = next(iter(records.values()), None)
    if first is None or first.summary is None:
        raise FolderError(f"study {folder}: none of its {len(jobs)} runs is complete; run `thalweg study tasks` again")
    facts = facts_in(study, folder)
    recipes = {task: task_recipe(task, PRESETS[study.preset], study.device, facts.get(task)) for task in study.tasks}
    longest = {task: recipe.data.longest for task, recipe in recipes.items()}
    runs = {task: {arm: _of_arm(records, task, arm) for arm in study.arms} for task in study.tasks}
    outcomes = [_outcome_of(jobs, task, arm, runs[task]) for task in study.tasks for arm in study.arms]
    summary = TaskStudySummary(
        name=folder.resolve().name,
        command=TaskStudy(study).command,
        preset=study.preset,
        tasks=study.tasks,
        arms=study.arms,
        seeds=study.seeds,
        complete=len(records) == len(jobs),
        missing=tuple(job.status for key, job in jobs.items() if key not in records),
        longest=longest,
        outcomes=tuple(outcome for outcome in outcomes if outcome.seeds or outcome.failed),
        verdicts=tuple(task_verdicts(outcomes, runs, longest)),
        setup=task_setup(study, recipes) | unplanned(jobs.values()),
        arm_words=_arms_in_words(study, recipes[_plainest(study)]),
        disturbed=disturbance(records.values()),
        first=first_screen(outcomes, runs, longest, len(jobs) - len(records)),
        provenance=first.summary.provenance,
    )
    write_json(folder / "summary.json", to_dict(summary))
    return summary


def complete_runs(jobs: dict[_Key, Job]) -> dict[_Key, RunRecord]:
    """``(task, arm, seed)`` -> record, for the runs that are complete and not damaged."""
    records = {key: job.record for key, job in jobs.items()}
    return {key: record for key, record in records.items() if record is not None}


def _of_arm(records: dict[_Key, RunRecord], task: str, arm: str) -> Pairs:
    """Seed -> complete run of one arm on one task."""
    return {seed: run for (t, a, seed), run in records.items() if (t, a) == (task, arm)}


def _outcome_of(jobs: dict[_Key, Job], task: str, arm: str, arms: dict[str, Pairs]) -> TaskOutcome:
    """The outcome of one arm on one task; ``arms`` holds the complete runs of all arms on it."""
    runs = arms[arm]
    lengths: Lengths = {seed: read_lengths(jobs[task, arm, seed].folder) for seed in runs}
    others = (job for (t, a, seed), job in jobs.items() if (t, a) == (task, arm) and seed not in runs)
    failed = sum(failed_for_good(job.folder) for job in others)
    return task_outcome(task, arm, runs, lengths, arms.get("looped", {}), failed)


def _cells(outcome: TaskOutcome, summary: TaskStudySummary) -> list[str]:
    """One row of the table, without task and arm."""
    seeds = len(summary.seeds)
    return [
        cell_text(outcome.trained, seeds),
        _at_length(outcome, summary.longest[outcome.task]),
        _at_length(outcome, max(outcome.lengths, default=0)),
        cell_text(outcome.drop, outcome.drop.n),
        share_in_a_line(outcome.share_seconds),
        share_in_a_line(outcome.share_flops),
        cell_text(outcome.seconds, seeds),
    ]


def _at_length(outcome: TaskOutcome, length: int) -> str:
    """Exact match of every seed at a tested length; "-" where the length was not tested."""
    if length not in outcome.lengths:
        return "-"
    return f"n={length}: " + " ".join(f"{value:.2f}" for value in outcome.accuracy[outcome.lengths.index(length)])


def _plainest(study: TaskStudyConfig) -> str:
    """The task whose settings the set-up states for all: the first one without settings of its own, else the first one."""
    own = PRESETS[study.preset].own
    return next((task for task in study.tasks if task not in own), study.tasks[0])


def _differing(study: TaskStudyConfig) -> str:
    """A phrase for each task whose settings differ from those of the plainest one."""
    preset = PRESETS[study.preset]
    common = preset.of(_plainest(study))
    settings = {task: preset.of(task) for task in study.tasks}
    phrases = [
        f"; {task}: width {own.width}, at most {own.deepest} layers, {own.steps} updates of {own.batch} at rate {own.rate:g}, "
        "the lengths growing in proportion"
        for task, own in settings.items()
        if own != common
    ]
    return "".join(phrases)


def task_setup(study: TaskStudyConfig, recipes: dict[str, TaskRecipe]) -> dict[str, str]:
    """Topic -> sentence: everything that is needed to repeat the study; ``recipes`` holds one recipe for each task."""
    recipe = recipes[_plainest(study)]
    settings, optimizer = recipe.base.training, recipe.base.optimizer
    models = {task: recipes[task].base.model for task in recipes}
    layers = ", ".join(f"{task} {plural(model.layers, 'layer')} of width {model.width}" for task, model in models.items())
    return {
        "Data": (
            f"drawn afresh for every update: length uniform from 1 to a maximum that grows from {recipe.data.start} to "
            f"{recipe.data.longest} over {recipe.data.grow} updates; the whole answer is predicted at once after the last loop "
            "(next-token: one token after the other); loss on the answer alone"
        ),
        "Model": f"{model_words(recipe.base.model)}; by task: {layers}",
        "Training": (
            f"{settings.steps} updates of {settings.batch} samples, {optimizer.name} at rate {optimizer.rate:g} "
            f"({optimizer.schedule}, warm-up {optimizer.warmup}), clip {optimizer.clip:g}, float32; scored every "
            f"{settings.evaluate_every} updates on {recipe.data.samples} held-out samples of each trained length{_differing(study)}"
        ),
        "Seeds": f"{len(study.seeds)} ({', '.join(map(str, study.seeds))}), paired: same data, weights and batches",
        "Figures of merit": (
            f"exact match = the whole answer is right; tested on {recipe.data.tests} samples a length, drawn apart from those of "
            "training, where short ones, of which there are few, occur all the same; share = training time "
            "(or counted operations) to Looped's final exact match on trained lengths less one point, over Looped's own, smoothed "
            "over 3 evaluations; drop = the largest fall of the held-out exact match below its best so far, from a switch until "
            "400 updates after its onset, of several switches the largest"
        ),
    } | _shrunk(study)


def _arms_in_words(study: TaskStudyConfig, recipe: TaskRecipe) -> dict[str, str]:
    """Arm of the study -> its definition."""
    learned, rule, ramp = recipe.learned, recipe.criterion, recipe.ramp
    stages = (
        f"stages of one more length each; the next begins when the mean loss of {learned.window} updates is below {learned.loss:g} "
        f"nats, or after {learned.most} updates in the stage, so that no sample has fewer than T(n) passes; the rate falls with "
        "the stages to 0.4 of its value"
    )
    capped = (
        "all lengths; the stage caps T(n), at 1 first, and the cap is lifted when the criterion SCP fires (delta_loss "
        f"{rule.delta_loss:g}, delta_grad {rule.delta_grad:g}, patience {rule.patience} checks of {rule.window} updates)"
    )
    words = {
        "single": "1 pass",
        "looped": "T(n) passes, a number that the task sets for each length n",
        "shift": stages,
        "shift-short": f"{stages}; all of it over {100 * SHORT:.0f} % of the updates",
        "shift-scp": f"{capped}, with a ramp of {ramp.steps} updates, passes {ramp.order}",
        "shift-hard": f"{capped}, without a ramp",
        "looped-fast": f"control: T(n) passes, lengths that grow over {recipe.fast} updates",
        "looped-short": f"control: T(n) passes, lengths that grow as much faster, over {100 * SHORT:.0f} % of the updates",
        "next-token": "1 pass, one token of the answer after the other",
        "fixed": "the longest training length's T at every length",
        "random": "T(n) to 1.5 T(n) passes in training",
    }
    return {arm: words[arm] for arm in study.arms if arm in words}


def _shrunk(study: TaskStudyConfig) -> dict[str, str]:
    """Topic -> sentence: what is smaller here than in the source (the preset ``source``); empty where nothing is."""
    own, source = PRESETS[study.preset].of(_plainest(study)), PRESETS["source"]
    reductions = {
        f"width {own.width} instead of {source.width}": own.width < source.width,
        f"batches of {own.batch} instead of {source.batch}": own.batch < source.batch,
        f"at most {own.deepest} layers instead of {source.deepest}": own.deepest < source.deepest,
        f"{own.steps} updates at rate {own.rate:g} instead of {source.steps} at {source.rate:g}": own.steps < source.steps,
        f"trained to length {own.longest} instead of {source.longest}": own.longest < source.longest,
        f"{own.seeds} seeds instead of {source.seeds}": own.seeds < source.seeds,
    }
    smaller = [phrase for phrase, holds in reductions.items() if holds]
    long = "tasks that need more than n passes at length n trained to shorter lengths, for about as many passes"
    return {"Shrunk against the source": f"{', '.join([*smaller, long])}{_differing(study)}"} if smaller else {}


def compared(study: TaskStudyConfig, folder: Path) -> Compared:
    """The numbers and the config of every arm on every task, run by run, for `thalweg compare`."""
    jobs = task_jobs(study, folder, facts_in(study, folder))
    records = complete_runs(jobs)
    summary = summary_of(study, folder, jobs, records)
    headings = {name: heading.format(unit="nats") for name, heading in SWITCHING.items()}

    def numbers(task: str, arm: str, seed: int) -> Numbers:
        run = records[task, arm, seed]
        looped = {seed: records[task, "looped", seed]} if (task, "looped", seed) in records else {}
        outcome = task_outcome(task, arm, {seed: run}, {seed: read_lengths(jobs[task, arm, seed].folder)}, looped)
        scores = {
            "held-out loss (nats)": Cell(final(run, "held-out", "all", "loss")),
            "exact match, trained lengths": outcome.trained,
        }
        at_lengths = {f"exact match at n = {n}": Cell(row[0]) for n, row in zip(outcome.lengths, outcome.accuracy, strict=True)}
        return scores | at_lengths | {heading: getattr(outcome, name) for name, heading in headings.items()}

    arms, rows = {}, {}
    for task, arm in dict.fromkeys((task, arm) for task, arm, _ in jobs):
        runs = {seed: records[task, arm, seed] for seed in study.seeds if (task, arm, seed) in records}
        config = stored([jobs[task, arm, seed].folder for seed in study.seeds])
        name = f"{task}, {arm}"
        arms[name] = ComparedArm(runs, by_seed(runs, functools.partial(numbers, task, arm)), config)
        rows[name] = task, arm
    return Compared(summary, "nats", arms, rows)
