"""The study of algorithmic tasks: its runs, and outcomes, answers, figures and page from their records."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path

from thalweg.data.find_task import own
from thalweg.errors import BadInputError, FolderError, require
from thalweg.experiments.compared import SWITCHING, Compared, ComparedArm, Numbers, by_seed, stored
from thalweg.experiments.experiment import Experiment, Table
from thalweg.experiments.folder import slug
from thalweg.experiments.metrics import Pairs, final
from thalweg.experiments.queue import Job, failed_for_good, unplanned
from thalweg.experiments.tasks.answers import task_verdicts
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
from thalweg.experiments.words import command_words, in_words, model_words
from thalweg.records.experiment import TaskOutcome, TaskStudySummary
from thalweg.records.run import Cell, RunRecord, read_lengths
from thalweg.report.switching.page import share_in_words
from thalweg.report.tasks.page import write_task_report
from thalweg.serialization import to_dict
from thalweg.storage import write_json
from thalweg.train.config import read_config

PLAN = "tasks.json"

_Key = tuple[str, str, int]
"""Task, arm, seed."""


class TaskStudy(Experiment[TaskStudySummary]):
    """Algorithmic tasks: length generalisation, and SHIFT along the lengths."""

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
        rows = tuple((one.task, one.arm, *_cells(one, summary)) for one in summary.outcomes)
        return Table(title, (*scores, "drop (points)", "share of time", "of operations", "seconds"), rows)

    def lines(self, summary: TaskStudySummary) -> list[str]:
        return [f"{one.claim} {one.verdict}" for one in summary.verdicts]


def task_jobs(study: TaskStudyConfig, folder: Path, facts: Mapping[str, TaskFacts] | None = None) -> dict[_Key, Job]:
    """(task, arm, seed) -> its run in the queue; a task without ``facts`` is asked for them."""
    jobs = {
        key: Job(name, config, folder / "runs" / name)
        for key, config in task_runs(study, facts).items()
        for name in (_run_name(*key),)
    }
    apart = len({job.name for job in jobs.values()}) == len(jobs)
    require(
        apart, "--task", ",".join(study.tasks), "names that differ in more than case and punctuation, as folders are named by them"
    )
    return jobs


def _run_name(task: str, arm: str, seed: int) -> str:
    """Of a run and its folder."""
    return f"{slug(task)}-{arm}-seed{seed}"


def facts_in(study: TaskStudyConfig, folder: Path) -> dict[str, TaskFacts]:
    """What the runs in a folder say of the user's own tasks, so that a report imports none of them."""
    found = {}
    for task in filter(own, study.tasks):
        configs = {}
        for arm, seed in itertools.product(study.arms, study.seeds):
            path = folder / "runs" / _run_name(task, arm, seed) / "config.toml"
            with contextlib.suppress(BadInputError):  # not there, or of another version
                configs.setdefault(arm, read_config(path))
        if configs:
            found[task] = remembered(configs)
    return found


def summary_of(study: TaskStudyConfig, folder: Path, jobs: dict[_Key, Job], records: dict[_Key, RunRecord]) -> TaskStudySummary:
    """The same from jobs and records that are there."""
    some = next(iter(records.values()), None)
    if some is None or some.summary is None:
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
        provenance=some.summary.provenance,
    )
    write_json(folder / "summary.json", to_dict(summary))
    return summary


def complete_runs(jobs: dict[_Key, Job]) -> dict[_Key, RunRecord]:
    """The records of the complete runs, read once."""
    found = {key: job.record for key, job in jobs.items()}
    return {key: record for key, record in found.items() if record is not None}


def _of_arm(records: dict[_Key, RunRecord], task: str, arm: str) -> Pairs:
    """Seed -> complete run."""
    return {seed: run for (t, a, seed), run in records.items() if (t, a) == (task, arm)}


def _outcome_of(jobs: dict[_Key, Job], task: str, arm: str, arms: dict[str, Pairs]) -> TaskOutcome:
    """One arm on one task, given the complete runs of all its arms."""
    runs = arms[arm]
    lengths: Lengths = {seed: read_lengths(jobs[task, arm, seed].folder) for seed in runs}
    others = (job for (t, a, seed), job in jobs.items() if (t, a) == (task, arm) and seed not in runs)
    failed = sum(failed_for_good(job.folder) for job in others)
    return task_outcome(task, arm, runs, lengths, arms.get("looped", {}), failed)


def _cells(one: TaskOutcome, summary: TaskStudySummary) -> list[str]:
    """One row of the table."""
    seeds = len(summary.seeds)
    edge, end = _at_length(one, summary.longest[one.task]), _at_length(one, max(one.lengths, default=0))
    time, operations = (" ".join(share_in_words(share)) for share in (one.share_seconds, one.share_flops))
    return [in_words(one.trained, seeds), edge, end, in_words(one.drop, one.drop.n), time, operations, in_words(one.seconds, seeds)]


def _at_length(one: TaskOutcome, length: int) -> str:
    """Exact match at a tested length, every seed."""
    if length not in one.lengths:
        return "-"
    return f"n={length}: " + " ".join(f"{value:.2f}" for value in one.accuracy[one.lengths.index(length)])


def _plainest(study: TaskStudyConfig) -> str:
    """The first task that has no amounts of its own, whose numbers stand for all; else the first one."""
    own = PRESETS[study.preset].own
    return next((task for task in study.tasks if task not in own), study.tasks[0])


def _differing(study: TaskStudyConfig) -> str:
    """Tasks whose amounts are not those of the plainest one, in words."""
    preset = PRESETS[study.preset]
    first = preset.of(_plainest(study))
    told = [
        f"; {task}: width {one.width}, at most {one.deepest} layers, {one.steps} updates of {one.batch} at rate {one.rate:g}, "
        "the lengths growing in proportion"
        for task in study.tasks
        for one in (preset.of(task),)
        if one != first
    ]
    return "".join(told)


def task_setup(study: TaskStudyConfig, recipes: dict[str, TaskRecipe]) -> dict[str, str]:
    """Everything that is needed to repeat the study, by topic."""
    recipe = recipes[_plainest(study)]
    settings, optimizer, rule, ramp = recipe.base.training, recipe.base.optimizer, recipe.criterion, recipe.ramp
    learned = recipe.learned
    models = {task: one.base.model for task, one in recipes.items()}
    layers = ", ".join(f"{task} {one.layers} layer(s) of width {one.width}" for task, one in models.items())
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
        "Arms": (
            "single = 1 pass; looped = T(n) passes, a number that the task sets for each length; shift = stages of one more length "
            f"each, the next when the mean loss of {learned.window} updates is below {learned.loss:g} nats or after "
            f"{learned.most} updates in it, so that no sample has fewer than T(n) passes, the rate falling to 0.4; "
            f"looped-fast = looped whose lengths grow over {recipe.fast} updates; shift-short and looped-short = shift, and looped "
            f"with lengths that grow faster by as much, over {SHORT:.0%} of the updates; shift-scp = all lengths, the stage caps "
            "T(n), 1 at first, without a cap when SCP fires "
            f"(delta_loss {rule.delta_loss:g}, delta_grad {rule.delta_grad:g}, patience {rule.patience} checks of {rule.window} "
            f"updates), a ramp of {ramp.steps} updates, passes {ramp.order}; shift-hard = shift-scp without the ramp; next-token = "
            "1 pass, one token after the other; fixed = the longest training length's T at every length; random = T(n) to 1.5 T(n) "
            "in training"
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


def _shrunk(study: TaskStudyConfig) -> dict[str, str]:
    """What is smaller than in the source, in words, by topic."""
    mine, source = PRESETS[study.preset].of(_plainest(study)), PRESETS["source"]
    told = {
        f"width {mine.width} instead of {source.width}": mine.width < source.width,
        f"batches of {mine.batch} instead of {source.batch}": mine.batch < source.batch,
        f"at most {mine.deepest} layers instead of {source.deepest}": mine.deepest < source.deepest,
        f"{mine.steps} updates at rate {mine.rate:g} instead of {source.steps} at {source.rate:g}": mine.steps < source.steps,
        f"trained to length {mine.longest} instead of {source.longest}": mine.longest < source.longest,
        f"{mine.seeds} seeds instead of {source.seeds}": mine.seeds < source.seeds,
    }
    smaller = [words for words, is_so in told.items() if is_so]
    long = "where T(n) is above n, trained to shorter lengths with about as many passes"
    return {"Shrunk against the source": f"{', '.join([*smaller, long])}{_differing(study)}"} if smaller else {}


def compared(study: TaskStudyConfig, folder: Path) -> Compared:
    """The outcome of each arm on each task, run by run."""
    jobs = task_jobs(study, folder, facts_in(study, folder))
    runs = complete_runs(jobs)
    summary = summary_of(study, folder, jobs, runs)
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
        arms[name] = ComparedArm(mine, by_seed(mine, functools.partial(numbers, task, arm)), config)
        rows[name] = task, arm
    return Compared(summary, "nats", arms, rows)
