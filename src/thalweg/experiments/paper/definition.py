"""The study of the paper: its queue of runs, and table, verdicts, figures and page from their records."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from thalweg.errors import DamagedFileError, FolderError
from thalweg.experiments.compared import NEVER, Compared, ComparedArm, Numbers, by_seed, stored
from thalweg.experiments.disturbance import disturbance
from thalweg.experiments.experiment import Experiment, Table
from thalweg.experiments.metrics import bits_per_byte, cell, cost_to_target, final, in_bits
from thalweg.experiments.paper.claims import landscape_verdicts
from thalweg.experiments.paper.evidence import Evidence, Landscapes, Spectra
from thalweg.experiments.paper.phase_records import phase_records
from thalweg.experiments.paper.recipes import Recipe, StudyConfig, landscape_of, recipe_of, runs_of
from thalweg.experiments.paper.verdicts import Runs, markov_verdicts, text_verdicts
from thalweg.experiments.queue import Job, read_measured, unplanned
from thalweg.experiments.words import cell_text, command_words, evidence, markov_words, model_words, text_words, threads_words
from thalweg.records.landscape import read_arrays, spectrum_path
from thalweg.records.run import Cell, PhaseRecord, RunRecord, Score, StudySummary
from thalweg.report.paper.page import write_report
from thalweg.serialization import to_dict
from thalweg.storage import write_json
from thalweg.train.config import RunConfig

PLAN = "study.json"
_TARGET = "the mean held-out loss of Looped's last 3 evaluations at the same seed; every curve is smoothed over 3 evaluations"


class PaperStudy(Experiment[StudySummary]):
    """Single, Looped and SHIFT on the Markov language or on text, with a verdict on each claim of the paper."""

    kind, plan_file = "study", PLAN

    def __init__(self, plan: StudyConfig) -> None:
        self.plan: StudyConfig = plan

    def jobs(self, folder: Path) -> list[Job]:
        return jobs_of(self.plan, folder)

    @property
    def command(self) -> str:
        plan = self.plan
        return command_words(
            "study",
            plan.task,
            preset=plan.preset,
            arms=",".join(plan.arms),
            seeds=len(plan.seeds),
            text=plan.text,
            device="" if plan.device == "auto" else plan.device,
            compile=plan.compile,
            no_landscape=not plan.landscape,
        )

    def report(self, folder: Path) -> StudySummary:
        jobs = self.jobs(folder)
        runs, landscapes = complete_runs(self.plan, jobs), landscapes_of(jobs)
        summary = summary_of(self.plan, folder, jobs, runs, landscapes)
        named = {job.name: runs[job.config.arm][job.config.seed] for job in jobs if job.config.seed in runs[job.config.arm]}
        write_report(summary, named, folder, landscapes)
        return summary

    def compared(self, folder: Path) -> Compared:
        return compared(self.plan, folder)

    def table(self, summary: StudySummary) -> Table:
        title = f"{summary.name}: {summary.task}, {len(summary.seeds)} seeds, mean and 95 % interval"
        rows = [
            (arm, *(cell_text(row[column], len(summary.seeds), column) for column in summary.columns))
            for arm, row in summary.table.items()
        ]
        return Table(title, ("arm", *summary.columns.values()), tuple(rows))

    def lines(self, summary: StudySummary) -> list[str]:
        return [f"{verdict.verdict:>12}: {verdict.claim} ({evidence(verdict)})" for verdict in summary.verdicts]


def jobs_of(study: StudyConfig, folder: Path) -> list[Job]:
    """The jobs of a study, one for each arm and seed, in ``runs/`` of its folder."""
    return [Job(name, config, folder / "runs" / name, landscape_of(study, config.arm)) for name, config in runs_of(study).items()]


def complete_runs(study: StudyConfig, jobs: list[Job]) -> Runs:
    """Arm -> seed -> record, for the runs that are complete and not damaged; every arm has an entry, which may be empty."""
    runs: Runs = {arm: {} for arm in study.arms}
    for job in jobs:
        record = job.record
        if record is not None:
            runs[job.config.arm][job.config.seed] = record
    return runs


def summary_of(study: StudyConfig, folder: Path, jobs: list[Job], runs: Runs, landscapes: Landscapes) -> StudySummary:
    """Compute table and verdicts from the records, and write them to ``summary.json`` and ``verdicts.json``.

    Args:
        study: plan of the study.
        folder: of the study.
        jobs: see `jobs_of`.
        runs: see `complete_runs`.
        landscapes: see `landscapes_of`.
    Raises:
        FolderError: no run is complete.
    """
    missing = tuple(job.status for job in jobs if job.config.seed not in runs[job.config.arm])
    unmeasured = tuple(job.landscape_status for job in jobs if job.complete and _is_unmeasured(job, landscapes))
    if len(missing) == len(jobs):
        raise FolderError(f"study {folder}: none of its {len(jobs)} runs is complete; run `thalweg study` again")
    columns, rows = (_markov_table if study.task == "markov" else _text_table)(runs)
    verdicts = (markov_verdicts if study.task == "markov" else text_verdicts)(runs)
    phases: tuple[PhaseRecord, ...] = ()
    if study.landscape:
        evidence = Evidence(runs, landscapes, _spectra_of(jobs))
        verdicts += landscape_verdicts(evidence)
        phases = phase_records(evidence)
    first = next(run for seeds in runs.values() for run in seeds.values()).summary
    assert first is not None
    summary = StudySummary(
        name=folder.resolve().name,
        command=PaperStudy(study).command,
        preset=study.preset,
        task=study.task,
        arms=study.arms,
        seeds=study.seeds,
        complete=not missing + unmeasured,
        missing=missing + unmeasured,
        table=rows,
        columns=columns,
        verdicts=tuple(verdicts),
        setup=_setup_by_topic(study, recipe_of(study), first.data) | unplanned(jobs),
        target=_TARGET,
        provenance=first.provenance,
        phases=phases,
        arm_words=_arms_in_words(study, recipe_of(study)),
        disturbed=disturbance(run for seeds in runs.values() for run in seeds.values()),
    )
    write_json(folder / "summary.json", to_dict(summary))
    write_json(folder / "verdicts.json", to_dict(summary.verdicts))
    return summary


def _is_unmeasured(job: Job, landscapes: Landscapes) -> bool:
    """Whether a run that should have a landscape lacks a complete and readable one."""
    return job.plan is not None and (not job.measured or job.config.seed not in landscapes.get(job.config.arm, {}))


def landscapes_of(jobs: list[Job]) -> Landscapes:
    """Arm -> seed -> landscape of a complete run, finished or not; damaged landscapes are left out."""
    landscapes: Landscapes = {}
    for job in jobs:
        try:
            measured = read_measured(job.folder) if job.complete else None
        except DamagedFileError:
            continue
        if measured is not None:
            landscapes.setdefault(job.config.arm, {})[job.config.seed] = measured
    return landscapes


def _spectra_of(jobs: list[Job]) -> Spectra:
    """A function ``(arm, seed, step)`` -> exact eigenvalues ``(P,)`` in float64, None where the point has none."""
    folders = {(job.config.arm, job.config.seed): job.folder / "landscape" for job in jobs}

    def spectrum(arm: str, seed: int, step: int) -> Tensor | None:
        values = read_arrays(spectrum_path(folders[arm, seed], step)).get("values")
        return None if values is None else torch.from_numpy(values).double()

    return spectrum


def _markov_table(runs: Runs) -> tuple[dict[str, str], dict[str, dict[str, Cell]]]:
    """Columns (key -> heading) and rows (arm -> key -> cell) of a study on the Markov language, with strata and ceilings."""
    scores = [
        ("train", "low", "accuracy", "train low acc."),
        ("train", "high", "accuracy", "train high acc."),
        ("held-out", "low", "accuracy", "held-out low acc."),
        ("held-out", "high", "accuracy", "held-out high acc."),
        ("held-out", "all", "loss", "held-out loss (nats)"),
    ]
    columns = {f"{where} {stratum} {what}": heading for where, stratum, what, heading in scores}
    rows: dict[str, dict[str, Cell]] = {}
    for arm, seeds in runs.items():
        if seeds:
            rows[arm] = {
                f"{where} {stratum} {what}": cell(
                    [final(run, where, stratum, what) for run in seeds.values()],
                    [getattr(_ceiling_of(run, where, stratum), what) for run in seeds.values()],
                )
                for where, stratum, what, _ in scores
            }
            rows[arm] |= _cost_cells(seeds, runs.get("looped", {}))
    return columns | _COST_COLUMNS, rows


def _text_table(runs: Runs) -> tuple[dict[str, str], dict[str, dict[str, Cell]]]:
    """Columns (key -> heading) and rows (arm -> key -> cell) of a study on text, with losses in bits per byte."""
    columns = {"train bits": "train bits per byte", "held-out bits": "held-out bits per byte", "accuracy": "held-out acc."}
    rows: dict[str, dict[str, Cell]] = {}
    for arm, seeds in runs.items():
        if seeds:
            rows[arm] = {
                "train bits": cell([bits_per_byte(final(run, "train", "all", "loss")) for run in seeds.values()]),
                "held-out bits": cell([bits_per_byte(final(run, "held-out", "all", "loss")) for run in seeds.values()]),
                "accuracy": cell([final(run, "held-out", "all", "accuracy") for run in seeds.values()]),
            }
            rows[arm] |= _cost_cells(seeds, runs.get("looped", {}))
    return columns | _COST_COLUMNS, rows


_COST_COLUMNS = {
    "seconds": "training (s)",
    "teraflops": "counted TFLOP",
    "target seconds": "time to Looped's quality (s)",
    "target teraflops": "TFLOP to Looped's quality",
}
"""Columns of the cost, in both tables."""


def _cost_cells(seeds: dict[int, RunRecord], looped: dict[int, RunRecord]) -> dict[str, Cell]:
    """The cells of `_COST_COLUMNS` for one arm: the whole cost, and the cost until Looped's final loss at the same seed."""
    ends = [run.evaluations[-1] for run in seeds.values()]
    targets = {seed: final(looped[seed], "held-out", "all", "loss") for seed in seeds.keys() & looped.keys()}
    return {
        "seconds": cell([end.seconds for end in ends]),
        "teraflops": cell([end.flops / 1e12 for end in ends]),
        "target seconds": cell([cost_to_target(seeds[s], t, lambda e: e.seconds) for s, t in targets.items()]),
        "target teraflops": cell([cost_to_target(seeds[s], t, lambda e: e.flops / 1e12) for s, t in targets.items()]),
    }


def _ceiling_of(run: RunRecord, where: str, stratum: str) -> Score:
    """The best possible score of a stratum in this run's data."""
    assert run.summary is not None
    return run.summary.ceilings[where][stratum]


def _setup_by_topic(study: StudyConfig, recipe: Recipe, data: dict) -> dict[str, str]:
    """Topic -> sentence: everything that is needed to repeat the study; ``data`` is what a run recorded of its data."""
    base = recipe.base
    model, settings, optimizer = base.model, base.training, base.optimizer
    describe: Callable[[RunConfig, dict], str] = markov_words if study.task == "markov" else text_words
    return {
        "Data": describe(base, data),
        "Model": model_words(model),
        "Training": (
            f"{settings.steps} updates of {settings.batch} sequences, {optimizer.name} at rate {optimizer.rate:g} "
            f"({optimizer.schedule}, warm-up {optimizer.warmup}), weight decay {optimizer.weight_decay:g}, clip "
            f"{optimizer.clip:g}, float32, next-token loss at all positions; scored every {settings.evaluate_every} updates, "
            f"{threads_words(settings.threads)} a run"
        ),
        "Seeds": f"{len(study.seeds)} ({', '.join(map(str, study.seeds))}), paired over arms: same data, weights and batches",
        "Figures of merit": (
            "final values are means of the last 3 evaluations; intervals are two-sided 95 % t-intervals over seeds; training "
            "seconds leave out evaluation and checkpoints; FLOPs count matrix products, backward = 2 x forward"
        ),
    }


def _arms_in_words(study: StudyConfig, recipe: Recipe) -> dict[str, str]:
    """Arm of the study -> its definition."""
    rule, many = recipe.criterion, recipe.loops
    scp = (
        f"the criterion SCP fires (delta_loss {rule.delta_loss:g}, delta_grad {rule.delta_grad:g}, patience {rule.patience} checks "
        f"of {rule.window} updates)"
    )
    words = {
        "single": "1 pass throughout (the paper's Single-Attn)",
        "looped": f"{many} passes throughout (the paper's Looped-Attn)",
        "shift": f"1 pass, then {many} when {scp}, with a ramp of {recipe.ramp.steps} updates, which is ours",
        "shift-hard": f"the paper's SHIFT: 1 pass, then {many} when {scp}, without a ramp",
        "single-rescaled": f"control: 1 pass with W_V and its rate times {many}",
        "single-flops": "control: 1 pass for as many updates as looped's operations pay for",
    }
    return {arm: words[arm] for arm in study.arms if arm in words}


def compared(study: StudyConfig, folder: Path) -> Compared:
    """The columns of the study's table, run by run, for `thalweg compare`."""
    jobs, text = jobs_of(study, folder), study.task == "text"
    runs = complete_runs(study, jobs)
    summary = summary_of(study, folder, jobs, runs, landscapes_of(jobs))
    looped = runs.get("looped", {})

    def numbers(arm: str, seed: int) -> Numbers:
        # The table of one seed: the arm's run, and Looped's, which sets the target of the costs.
        one_seed = {name: {seed: pairs[seed]} for name, pairs in ((arm, runs[arm]), ("looped", looped)) if seed in pairs}
        row = (_text_table if text else _markov_table)(one_seed)[1][arm]
        unreached = NEVER if seed in looped else None
        return {heading: unreached if row[name].mean is None else row[name] for name, heading in summary.columns.items()}

    arms = {}
    for arm, pairs in runs.items():
        config = stored([job.folder for job in jobs if job.config.arm == arm])
        values = by_seed(pairs, functools.partial(numbers, arm))
        arms[arm] = ComparedArm({seed: in_bits(run) if text else run for seed, run in pairs.items()}, values, config)
    return Compared(summary, "bits per byte" if text else "nats per token", arms, {arm: (arm, arm) for arm in arms})
