"""One study from plan to page: runs in a queue, then table, verdicts, figures and page from their records."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning, FolderError
from thalweg.experiments.metrics import bits_per_byte, cell, cost_to_target, final
from thalweg.experiments.paper.claims import landscape_verdicts
from thalweg.experiments.paper.evidence import Evidence, Landscapes, Spectra
from thalweg.experiments.paper.phase_records import phase_records
from thalweg.experiments.paper.recipes import Recipe, StudyConfig, landscape_of, recipe_of, runs_of
from thalweg.experiments.paper.verdicts import Runs, markov_verdicts, text_verdicts
from thalweg.experiments.queue import Job, prepare, read_measured, unplanned
from thalweg.models.config import ModelConfig
from thalweg.records.landscape import read_arrays, spectrum_path
from thalweg.records.run import Cell, PhaseRecord, RunRecord, Score, StudySummary, recorded
from thalweg.serialization import to_dict
from thalweg.storage import read_json, set_aside, there, write_json
from thalweg.train.config import RunConfig
from thalweg.train.run_folder import config_in

TARGET = "the mean held-out loss of Looped's last 3 evaluations at the same seed; every curve is smoothed over 3 evaluations"


def jobs_of(study: StudyConfig, folder: Path) -> list[Job]:
    """The runs of a study as jobs in ``runs/``."""
    return [Job(name, config, folder / "runs" / name, landscape_of(study, config.arm)) for name, config in runs_of(study).items()]


def claim_study(study: StudyConfig, folder: Path) -> None:
    """Write the plan into a new folder, or check that the folder is this study's; see `claim_folder`."""
    claim_folder(study, folder / "study.json", "study", jobs_of(study, folder))
    prepare(jobs_of(study, folder))


def claim_folder(plan: Any, path: Path, what: str, jobs: Sequence[Job]) -> None:
    """Write a plan to its file in a new folder, or check that the folder is this plan's.

    A plan that is damaged or missing is written anew where all runs in the folder are runs of this one.

    Raises:
        FolderError: the folder holds another plan, or something else.
    """
    folder = path.parent
    others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    try:
        if not others:
            write_json(path, to_dict(plan))
        elif recorded(type(plan), read_json(path), path) != plan:
            raise FolderError(f"{what} {folder}: the folder belongs to another {what} or other settings; choose another --out")
    except DamagedFileError as error:
        if not all_planned(folder / "runs", jobs):
            if there(path):
                raise
            raise FolderError(
                f"{what} {folder}: the folder holds {others[0]!r} and is no {what}; choose an empty or new --out"
            ) from None
        kept = f"; what was there is kept as {set_aside(path).name}" if there(path) else ""
        write_json(path, to_dict(plan))
        words = f"{str(error).partition('; ')[0]}; its runs are those of this {what}, so it was written anew{kept}"
        warnings.warn(words, DamagedRecordWarning, stacklevel=2)


def all_planned(runs: Path, jobs: Sequence[Job]) -> bool:
    """Whether a folder holds runs, and none but those of these jobs."""
    planned = {job.folder.name: job.config for job in jobs}
    found = [one for one in runs.iterdir() if not one.name.startswith(".")] if runs.is_dir() else []
    try:
        return bool(found) and all(planned.get(one.name) == config_in(one) for one in found)
    except BadInputError:
        return False


def read_study(folder: Path) -> StudyConfig:
    """The plan that a study's folder belongs to.

    Raises:
        FolderError: it is no study.
        DamagedFileError: its plan cannot be read.
    """
    path = folder / "study.json"
    if not there(path):
        raise FolderError(f"study {folder}: there is no study.json in it; expected the --out folder of `thalweg study`")
    return recorded(StudyConfig, read_json(path), path)


def summarise(study: StudyConfig, folder: Path) -> StudySummary:
    """Table and verdicts from the records of the complete runs; what is missing is named. Writes ``summary.json``."""
    jobs = jobs_of(study, folder)
    return summary_of(study, folder, jobs, complete_runs(study, jobs), landscapes_of(jobs))


def complete_runs(study: StudyConfig, jobs: list[Job]) -> Runs:
    """The records of the complete runs, without damaged ones; an arm that has none is there."""
    runs: Runs = {arm: {} for arm in study.arms}
    for job in jobs:
        record = job.record
        if record is not None:
            runs[job.config.arm][job.config.seed] = record
    return runs


def summary_of(study: StudyConfig, folder: Path, jobs: list[Job], runs: Runs, landscapes: Landscapes) -> StudySummary:
    """The same from jobs and records that are there."""
    missing = tuple(job.told for job in jobs if job.config.seed not in runs[job.config.arm])
    unmeasured = tuple(job.landscape_told for job in jobs if job.complete and is_unmeasured(job, landscapes))
    if len(missing) == len(jobs):
        raise FolderError(f"study {folder}: none of its {len(jobs)} runs is complete; run `thalweg study` again")
    columns, rows = (markov_table if study.task == "markov" else text_table)(runs)
    verdicts = (markov_verdicts if study.task == "markov" else text_verdicts)(runs)
    phases: tuple[PhaseRecord, ...] = ()
    if study.landscape:
        evidence = Evidence(runs, landscapes, spectra_of(jobs))
        verdicts += landscape_verdicts(evidence)
        phases = phase_records(evidence)
    some = next(run for seeds in runs.values() for run in seeds.values()).summary
    assert some is not None
    summary = StudySummary(
        name=folder.resolve().name,
        preset=study.preset,
        task=study.task,
        arms=study.arms,
        seeds=study.seeds,
        complete=not missing + unmeasured,
        missing=missing + unmeasured,
        table=rows,
        columns=columns,
        verdicts=tuple(verdicts),
        setup=setup_in_words(study, recipe_of(study), some.data) | unplanned(jobs),
        target=TARGET,
        provenance=some.provenance,
        phases=phases,
    )
    write_json(folder / "summary.json", to_dict(summary))
    write_json(folder / "verdicts.json", to_dict(summary.verdicts))
    return summary


def is_unmeasured(job: Job, landscapes: Landscapes) -> bool:
    """Whether the landscape that a run should have is not complete, or was left out as damaged."""
    return job.plan is not None and (not job.measured or job.config.seed not in landscapes.get(job.config.arm, {}))


def landscapes_of(jobs: list[Job]) -> Landscapes:
    """Arm -> seed -> what is known of its landscape, of complete runs; damaged ones are left out."""
    found: Landscapes = {}
    for job in jobs:
        try:
            measured = read_measured(job.folder) if job.complete else None
        except DamagedFileError:
            continue
        if measured is not None:
            found.setdefault(job.config.arm, {})[job.config.seed] = measured
    return found


def spectra_of(jobs: list[Job]) -> Spectra:
    """``(arm, seed, step)`` -> exact eigenvalues ``(P,)`` in float64, or None where there are none."""
    folders = {(job.config.arm, job.config.seed): job.folder / "landscape" for job in jobs}

    def spectrum(arm: str, seed: int, step: int) -> Tensor | None:
        values = read_arrays(spectrum_path(folders[arm, seed], step)).get("values")
        return None if values is None else torch.from_numpy(values).double()

    return spectrum


def read_summary(folder: Path) -> StudySummary:
    """The summary that `summarise` wrote."""
    path = folder / "summary.json"
    return recorded(StudySummary, read_json(path), path)


def markov_table(runs: Runs) -> tuple[dict[str, str], dict[str, dict[str, Cell]]]:
    """Columns and rows for a source with strata and ceilings."""
    wanted = [
        ("train", "low", "accuracy", "train low acc."),
        ("train", "high", "accuracy", "train high acc."),
        ("held-out", "low", "accuracy", "held-out low acc."),
        ("held-out", "high", "accuracy", "held-out high acc."),
        ("held-out", "all", "loss", "held-out loss (nats)"),
    ]
    columns = {f"{where} {stratum} {what}": heading for where, stratum, what, heading in wanted}
    rows: dict[str, dict[str, Cell]] = {}
    for arm, seeds in runs.items():
        if seeds:
            rows[arm] = {
                f"{where} {stratum} {what}": cell(
                    [final(run, where, stratum, what) for run in seeds.values()],
                    [getattr(ceiling_of(run, where, stratum), what) for run in seeds.values()],
                )
                for where, stratum, what, _ in wanted
            }
            rows[arm] |= cost_cells(seeds, runs.get("looped", {}))
    return columns | COST_COLUMNS, rows


def text_table(runs: Runs) -> tuple[dict[str, str], dict[str, dict[str, Cell]]]:
    """Columns and rows for real text, in bits per byte."""
    columns = {"train bits": "train bits per byte", "held-out bits": "held-out bits per byte", "accuracy": "held-out acc."}
    rows: dict[str, dict[str, Cell]] = {}
    for arm, seeds in runs.items():
        if seeds:
            rows[arm] = {
                "train bits": cell([bits_per_byte(final(run, "train", "all", "loss")) for run in seeds.values()]),
                "held-out bits": cell([bits_per_byte(final(run, "held-out", "all", "loss")) for run in seeds.values()]),
                "accuracy": cell([final(run, "held-out", "all", "accuracy") for run in seeds.values()]),
            }
            rows[arm] |= cost_cells(seeds, runs.get("looped", {}))
    return columns | COST_COLUMNS, rows


COST_COLUMNS = {
    "seconds": "training (s)",
    "teraflops": "counted TFLOP",
    "target seconds": "time to Looped's quality (s)",
    "target teraflops": "TFLOP to Looped's quality",
}


def cost_cells(seeds: dict[int, RunRecord], looped: dict[int, RunRecord]) -> dict[str, Cell]:
    """What an arm cost, and what it had cost when it reached Looped's final quality at the same seed."""
    ends = [run.evaluations[-1] for run in seeds.values()]
    targets = {seed: final(looped[seed], "held-out", "all", "loss") for seed in seeds.keys() & looped.keys()}
    return {
        "seconds": cell([end.seconds for end in ends]),
        "teraflops": cell([end.flops / 1e12 for end in ends]),
        "target seconds": cell([cost_to_target(seeds[s], t, lambda e: e.seconds) for s, t in targets.items()]),
        "target teraflops": cell([cost_to_target(seeds[s], t, lambda e: e.flops / 1e12) for s, t in targets.items()]),
    }


def ceiling_of(run: RunRecord, where: str, stratum: str) -> Score:
    """The best possible score of a stratum in this run's data."""
    assert run.summary is not None
    return run.summary.ceilings[where][stratum]


def setup_in_words(study: StudyConfig, recipe: Recipe, data: dict) -> dict[str, str]:
    """Everything that is needed to repeat the study, by topic."""
    base, rule = recipe.base, recipe.criterion
    model, settings, optimizer = base.model, base.training, base.optimizer
    describe: Callable[[RunConfig, dict], str] = markov_words if study.task == "markov" else text_words
    return {
        "Data": describe(base, data),
        "Model": model_words(model),
        "Training": (
            f"{settings.steps} updates of {settings.batch} sequences, {optimizer.name} at rate {optimizer.rate:g} "
            f"({optimizer.schedule}, warm-up {optimizer.warmup}), weight decay {optimizer.weight_decay:g}, clip "
            f"{optimizer.clip:g}, float32, next-token loss at all positions; scored every {settings.evaluate_every} updates, "
            f"{settings.threads or 'all'} thread(s) a run"
        ),
        "Arms": (
            f"single = 1 pass; looped = {recipe.loops} passes; shift = 1 then {recipe.loops}, when SCP fires (delta_loss "
            f"{rule.delta_loss:g}, delta_grad {rule.delta_grad:g}, patience {rule.patience} checks of {rule.window} updates), "
            f"with a ramp of {recipe.ramp.steps} updates; shift-hard = the same without a ramp; single-rescaled = 1 pass with "
            f"W_V and its rate times {recipe.loops}; single-flops = 1 pass for as many updates as looped's operations pay for"
        ),
        "Seeds": f"{len(study.seeds)} ({', '.join(map(str, study.seeds))}), paired over arms: same data, weights and batches",
        "Figures of merit": (
            "final values are means of the last 3 evaluations; intervals are two-sided 95 % t-intervals over seeds; training "
            "seconds leave out evaluation and checkpoints; FLOPs count matrix products, backward = 2 x forward"
        ),
    }


def markov_words(base: RunConfig, data: dict) -> str:
    """The Markov language in a sentence."""
    c, tail = base.data, data["long_tail"]
    return (
        f"Markov language: vocabulary {c.vocabulary}, order {c.order}, {c.simple:.0%} simple tokens (sure to "  # type: ignore[union-attr]
        f"{c.simple_sure:g}, complex {c.complex_sure:g}), language seed {c.source_seed}; {c.sequences} training and "  # type: ignore[union-attr]
        f"{c.held_out} held-out sequences of {c.length} tokens; low / high = bottom / top quarter by information content, cut on "  # type: ignore[union-attr]
        f"the training set (mean {tail['mean']:.2f} bits, skewness {tail['skewness']:.2f}, top quarter holds "
        f"{tail['top_quarter_share']:.0%} of the bits); scored from token {c.order + 1} on"  # type: ignore[union-attr]
    )


def text_words(base: RunConfig, data: dict) -> str:
    """The corpus in a sentence."""
    return (
        f"bytes of {data['name']} ({data['files']} files, sha256 {data['sha256'][:16]}): {data['train_bytes']} training bytes, "
        f"{data['held_out_bytes']} in {data['held_out_files']} held-out files; windows of {base.data.length} bytes"
    )


def model_words(model: ModelConfig) -> str:
    """The model in a sentence."""
    family = "attention-only" if model.block == "attention" else "GPT-2-style block (attention + MLP)"
    return (
        f"{family}, {model.layers} layer(s), width {model.width}, {model.heads} head(s), {model.attention} attention, "
        f"norm {model.norm}, {model.positions} positions, {'tied' if model.tied else 'untied'} head"
        f"{', input injection' if model.injection else ''}"
    )
