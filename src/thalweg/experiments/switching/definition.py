"""A sweep over switching variants: its queue of runs, and its outcomes, verdicts and page from their records.

The reference runs come first, because the variants that are settings of SCP are not trained: the criterion is replayed over the
journal of Single, and the run that switches at the update where it fires stands for the setting. Each such update is trained once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from thalweg.errors import DamagedFileError, FolderError
from thalweg.experiments.compared import SWITCHING, Compared, ComparedArm, Numbers, by_seed, stored
from thalweg.experiments.disturbance import disturbance
from thalweg.experiments.experiment import Experiment, Table
from thalweg.experiments.folder import slug
from thalweg.experiments.metrics import Pairs, in_bits
from thalweg.experiments.outcomes import outcome_of
from thalweg.experiments.queue import Job, failed_for_good, refuse_misfits, unplanned
from thalweg.experiments.switching.answers import verdicts_of
from thalweg.experiments.switching.findings import first_screen
from thalweg.experiments.switching.variants import (
    SHORT,
    SweepConfig,
    Variant,
    at_step,
    fires_at,
    recipe_of,
    references,
    variants_of,
)
from thalweg.experiments.words import cell_text, command_words, markov_words, model_words, text_words, threads_words
from thalweg.records.experiment import Outcome, SweepSummary
from thalweg.records.run import Cell, RunRecord
from thalweg.report.compare.page import flat
from thalweg.report.switching.page import share_in_a_line, write_sweep_report
from thalweg.serialization import to_dict
from thalweg.storage import read_journal, write_json
from thalweg.train.config import RunConfig
from thalweg.train.repair import read_whole

PLAN = "sweep.json"


class SwitchingSweep(Experiment[SweepSummary]):
    """A sweep over variants of the switch from one pass to many, compared with Single and Looped."""

    kind, plan_file, grows = "sweep", PLAN, ("seeds", "groups")

    def __init__(self, plan: SweepConfig) -> None:
        self.plan: SweepConfig = plan

    def jobs(self, folder: Path) -> list[Job]:
        """The reference runs; with any of them complete, all runs that can be planned (SCP's grid needs Single's journal)."""
        references = reference_jobs(self.plan, folder)
        return jobs_of(self.plan, folder) if any(job.complete for job in references) else references

    def more_follow(self, folder: Path) -> bool:
        return not all(job.complete for job in reference_jobs(self.plan, folder))

    def check(self) -> None:
        refuse_misfits(variant.config for variant in variants_of(self.plan) if variant.config is not None)

    @property
    def command(self) -> str:
        plan = self.plan
        return command_words(
            "shift-sweep",
            plan.task,
            preset=plan.preset,
            loops=plan.loops,
            groups=",".join(plan.groups) or "none",
            seeds=len(plan.seeds),
            text=plan.text,
            device="" if plan.device == "auto" else plan.device,
        )

    def report(self, folder: Path) -> SweepSummary:
        summary = summarise(self.plan, folder)
        runs = {job.name: _read_in_unit(self.plan, job.folder) for job in reference_jobs(self.plan, folder)}
        write_sweep_report(summary, {name: run for name, run in runs.items() if run is not None}, folder)
        return summary

    def compared(self, folder: Path) -> Compared:
        return compared(self.plan, folder)

    def table(self, summary: SweepSummary) -> Table:
        what = f"variants of the switch 1 -> {summary.loops}, {summary.task}, {len(summary.seeds)} seeds"
        headings = (
            "variant",
            "switch at",
            "drop (points)",
            f"jump ({summary.unit})",
            f"held-out loss ({summary.unit})",
            "minus Looped's",
            "share of time",
            "ideal",
        )
        shown = [outcome for outcome in summary.outcomes if outcome.group != "scp"]
        rows = tuple((outcome.name, *_cells(outcome, len(summary.seeds))) for outcome in shown)
        return Table(f"{summary.name}: {what}, mean and 95 % interval", headings, rows)

    def lines(self, summary: SweepSummary) -> list[str]:
        settings = sum(outcome.group == "scp" for outcome in summary.outcomes)
        hidden = [f"{settings} settings of SCP are on the page"] if settings else []
        return hidden + super().lines(summary)


def job_of(folder: Path, arm: str, config: RunConfig, seed: int) -> Job:
    """The job of one arm at one seed, in ``runs/ARM-seedSEED`` of the sweep's folder."""
    name = f"{arm}-seed{seed}"
    return Job(name, replace(config, arm=arm, seed=seed), folder / "runs" / name)


def reference_jobs(sweep: SweepConfig, folder: Path) -> list[Job]:
    """The jobs of the reference variants (Single, Looped and SHIFT), which all others are compared with, for every seed."""
    variants = references(recipe_of(sweep))
    return [
        job_of(folder, variant.name, variant.config, seed)
        for variant in variants
        for seed in sweep.seeds
        if variant.config is not None
    ]


def places(sweep: SweepConfig, folder: Path, variant: Variant) -> dict[int, tuple[str, RunConfig]]:
    """Seed -> arm and config of the run that stands for a variant.

    A setting of SCP is left out at the seeds whose run of Single is not complete yet: there the update at which it fires is not
    known.
    """
    arms = {}
    for seed in sweep.seeds:
        if variant.criterion is not None:
            step = _fired(folder, variant, seed)
            if step is not None:
                arms[seed] = fixed(sweep, step) if step else ("single", references(recipe_of(sweep))[0].config)
        elif "step" in variant.settings:
            arms[seed] = fixed(sweep, int(variant.settings["step"]))
        else:
            arms[seed] = slug(variant.name), variant.config
    return arms


def fixed(sweep: SweepConfig, step: int) -> tuple[str, RunConfig]:
    """Arm and config of the run that switches after ``step`` updates."""
    return f"at-{step:05d}", at_step(sweep, step)


def _fired(folder: Path, variant: Variant, seed: int) -> int | None:
    """The update at which a setting of SCP fires over Single's journal; 0 for never, None while Single is not complete.

    A setting that fires after the last update has nothing left to train, and counts as one that never does.
    """
    single = folder / "runs" / f"single-seed{seed}"
    if read_run(single) is None:
        return None
    journal = single / "metrics.jsonl"
    updates = _updates_in(journal, journal.stat().st_mtime_ns)
    assert variant.criterion is not None
    step = fires_at(variant.criterion, updates)
    return step if step is not None and step < updates[-1][0] else 0


@functools.lru_cache(maxsize=32)
def _updates_in(journal: Path, changed: int) -> list[tuple[int, float, float]]:
    """``(step, loss, gradient norm)`` of every update in a journal.

    The result is cached, because many settings are replayed over one journal; ``changed`` (its modification time) makes a journal
    that was written since be read anew.
    """
    return [(line["step"], line["loss"], line["grad_norm"]) for line in read_journal(journal) if line["type"] == "step"]


def jobs_of(sweep: SweepConfig, folder: Path) -> list[Job]:
    """Every run of the sweep as a job, each once although several variants may share it.

    Runs for SCP's grid are planned at the seeds at which Single is complete.
    """
    jobs = {job.name: job for job in reference_jobs(sweep, folder)}
    for variant in variants_of(sweep):
        for seed, (arm, config) in places(sweep, folder, variant).items():
            jobs.setdefault(f"{arm}-seed{seed}", job_of(folder, arm, config, seed))
    return list(jobs.values())


def runs_of(sweep: SweepConfig, folder: Path, variant: Variant) -> dict[int, RunRecord]:
    """Seed -> complete run that stands for a variant, its losses in the sweep's unit."""
    return _complete_in(sweep, _run_folders(sweep, folder, variant))


def _complete_in(sweep: SweepConfig, folders: dict[int, Path]) -> dict[int, RunRecord]:
    """Seed -> complete run, of run folders by seed."""
    records = {seed: _read_in_unit(sweep, path) for seed, path in folders.items()}
    return {seed: run for seed, run in records.items() if run is not None}


def _run_folders(sweep: SweepConfig, folder: Path, variant: Variant) -> dict[int, Path]:
    """Seed -> folder of the run that stands for a variant."""
    return {seed: folder / "runs" / f"{arm}-seed{seed}" for seed, (arm, _) in places(sweep, folder, variant).items()}


def _read_in_unit(sweep: SweepConfig, path: Path) -> RunRecord | None:
    """A complete run whose losses are in the sweep's unit: bits per byte of text, else nats per token; None as `read_run`."""
    run = read_run(path)
    return in_bits(run) if run is not None and sweep.task == "text" else run


def read_run(path: Path) -> RunRecord | None:
    """The records of a complete run; None for a run that is not complete or is damaged.

    They are read once as long as the modification times of its summary and its journal stay the same.
    """
    try:
        changed = tuple((path / name).stat().st_mtime_ns for name in ("summary.json", "metrics.jsonl"))
        return _read_once(path, changed)
    except (DamagedFileError, OSError):
        return None


@functools.lru_cache(maxsize=1024)
def _read_once(path: Path, changed: tuple[int, ...]) -> RunRecord:
    """The cached part of `read_run`; ``changed`` holds the modification times."""
    return read_whole(path)


def _failures_of(sweep: SweepConfig, folder: Path, variant: Variant) -> int:
    """Number of seeds at which the run that stands for a variant ended with an error; an interrupted run does not count."""
    unfinished = [path for path in _run_folders(sweep, folder, variant).values() if not (path / "summary.json").exists()]
    return sum(map(failed_for_good, unfinished))


def summarise(sweep: SweepConfig, folder: Path) -> SweepSummary:
    """Compute outcomes and verdicts from the records of the complete runs, and write them to ``summary.json``.

    Raises:
        FolderError: nothing is complete yet.
    """
    jobs, variants, recipe = jobs_of(sweep, folder), variants_of(sweep), recipe_of(sweep)
    runs: dict[str, Pairs] = {variant.name: runs_of(sweep, folder, variant) for variant in variants}
    first = next((run for seeds in runs.values() for run in seeds.values()), None)
    if first is None or first.summary is None:
        raise FolderError(f"sweep {folder}: none of its {len(jobs)} runs is complete; run `thalweg shift-sweep` again")
    missing = tuple(job.status for job in jobs if _read_in_unit(sweep, job.folder) is None)
    failed = {variant.name: _failures_of(sweep, folder, variant) for variant in variants}
    outcomes = tuple(
        outcome_of(
            variant.name, variant.group, variant.settings, runs[variant.name], runs["single"], runs["looped"], failed[variant.name]
        )
        for variant in variants
        if runs[variant.name] or failed[variant.name]
    )
    grid, verdicts = sweep.grid, tuple(verdicts_of(variants, runs, recipe.criterion))
    summary = SweepSummary(
        name=folder.resolve().name,
        command=SwitchingSweep(sweep).command,
        task=sweep.task,
        preset=sweep.preset,
        loops=sweep.loops,
        seeds=sweep.seeds,
        complete=not missing,
        missing=missing,
        outcomes=outcomes,
        axes={"delta_loss": grid.delta_loss, "delta_grad": grid.delta_grad, "patience": tuple(map(float, grid.patience))},
        defaults={name: float(getattr(recipe.criterion, name)) for name in ("delta_loss", "delta_grad", "patience")},
        verdicts=verdicts,
        first=first_screen(verdicts, sweep.task, len(sweep.seeds)),
        setup=_setup_by_topic(sweep, first.summary.data) | unplanned(jobs),
        provenance=first.summary.provenance,
        unit="bits" if sweep.task == "text" else "nats",
        arm_words=_arms_in_words(sweep),
        disturbed=disturbance(run for seeds in runs.values() for run in seeds.values()),
    )
    write_json(folder / "summary.json", to_dict(summary))
    return summary


def _setup_by_topic(sweep: SweepConfig, data: dict) -> dict[str, str]:
    """Topic -> sentence: everything that is needed to repeat the sweep; ``data`` is what a run recorded of its data."""
    base = recipe_of(sweep).base
    settings, optimizer = base.training, base.optimizer
    describe: Callable[[RunConfig, dict], str] = markov_words if sweep.task == "markov" else text_words
    return {
        "Data": describe(base, data),
        "Model": model_words(base.model),
        "Training": (
            f"{settings.steps} updates of {settings.batch} sequences, {optimizer.name} at rate {optimizer.rate:g} "
            f"({optimizer.schedule}, warm-up {optimizer.warmup}), weight decay {optimizer.weight_decay:g}, clip "
            f"{optimizer.clip:g}, float32; scored every {settings.evaluate_every} updates, {threads_words(settings.threads)}"
        ),
        "SCP's grid": (
            "a setting is replayed over Single's journal, and each update at which any setting fires is trained once: until the "
            "switch the runs are the same, bit for bit"
        ),
        "Seeds": f"{len(sweep.seeds)} ({', '.join(map(str, sweep.seeds))}), paired: same data, weights and batches",
        "Figures of merit": (
            "share = training seconds (or counted operations) until Looped's final held-out loss at the same seed is reached, over "
            "what Looped spent to reach it, curves smoothed over 3 evaluations; geometric mean "
            "with a 95 % t-interval, or where runs never got "
            "there the median and no upper end; drop = the largest fall of the held-out accuracy below its best so far, from the 3 "
            "evaluations before the switch until 400 updates after its onset; ideal = the share of Looped's operations if every "
            "update were as good as Looped's"
        ),
    }


def _arms_in_words(sweep: SweepConfig) -> dict[str, str]:
    """Baseline of the sweep -> its definition."""
    recipe = recipe_of(sweep)
    rule, ramp, many = recipe.criterion, recipe.ramp, recipe.loops
    return {
        "single": "1 pass throughout (Single)",
        "looped": f"{many} passes throughout (Looped)",
        "shift": (
            f"1 pass, then {many} from the first update on, with a {ramp.shape} ramp of {ramp.steps} updates, passes {ramp.order}"
        ),
        "shift-scp": (
            f"the same ramp when the criterion SCP fires (delta_loss {rule.delta_loss:g}, delta_grad {rule.delta_grad:g}, patience "
            f"{rule.patience} checks of {rule.window} updates)"
        ),
        "shift-hard": "the paper's SHIFT: the same criterion, all passes at once",
        "shift-short": f"shift with {100 * SHORT:.0f} % of the updates, ramp and rate schedule fitted into them",
    }


def _cells(outcome: Outcome, seeds: int) -> list[str]:
    """One row of the table, without its name."""

    def over_switched(value: Cell) -> str:
        # A number that only switched runs have counts its seeds against those.
        return cell_text(value, seeds if value.n == seeds else outcome.switched)

    share = share_in_a_line(outcome.share_seconds)
    return [
        over_switched(outcome.switch_step),
        over_switched(outcome.drop),
        over_switched(outcome.jump),
        cell_text(outcome.final_loss, seeds),
        cell_text(outcome.difference, seeds),
        share,
        over_switched(outcome.ideal_flops),
    ]


_SWEPT = {
    "final_loss": "held-out loss ({unit})",
    "final_accuracy": "held-out accuracy",
    "difference": "held-out loss minus Looped's ({unit})",
    "ideal_flops": "ideal share of Looped's operations",
}
"""Field of an outcome -> heading, for the numbers that only a sweep compares."""


def compared(sweep: SweepConfig, folder: Path) -> Compared:
    """The numbers and the config of every variant, run by run, for `thalweg compare`.

    A setting of SCP has the config of Single, over which it is replayed, with the setting itself as its criterion.
    """
    summary, variants = summarise(sweep, folder), variants_of(sweep)
    headings = {name: heading.format(unit=summary.unit) for name, heading in (_SWEPT | SWITCHING).items()}
    folders = {variant.name: _run_folders(sweep, folder, variant) for variant in variants}
    runs = {name: _complete_in(sweep, paths) for name, paths in folders.items()}

    def numbers(name: str, seed: int) -> Numbers:
        run, single, looped = ({seed: runs[key][seed]} if seed in runs[key] else {} for key in (name, "single", "looped"))
        outcome = outcome_of("", "", {}, run, single, looped)
        return {heading: getattr(outcome, field) for field, heading in headings.items()}

    arms = {}
    for variant in variants:
        config = stored(list(folders[variant.name].values()))
        if variant.criterion is not None:
            config = {key: value for key, value in arms["single"].config.items() if not key.startswith("shift.")}
            config |= flat({"shift": {"criterion": to_dict(variant.criterion)}})
        values = by_seed(runs[variant.name], functools.partial(numbers, variant.name))
        arms[variant.name] = ComparedArm(runs[variant.name], values, config)
    drawn = {variant.name: (variant.name, variant.name) for variant in variants if variant.group == "reference"}
    return Compared(summary, summary.per_token, arms, drawn)
