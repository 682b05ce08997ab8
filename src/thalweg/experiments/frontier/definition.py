"""The frontier as an experiment: settings are chosen first, then every arm is trained at every budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thalweg.errors import FolderError
from thalweg.experiments.compared import Compared, ComparedArm, stored
from thalweg.experiments.experiment import Experiment, Table
from thalweg.experiments.folder import slug
from thalweg.experiments.frontier.answers import Curves, answers, best_constant
from thalweg.experiments.frontier.recipes import (
    STAGED,
    FrontierConfig,
    Setting,
    constant,
    run_of,
    staged,
)
from thalweg.experiments.metrics import cell
from thalweg.experiments.queue import Job, failed_for_good, refuse_misfits, unplanned
from thalweg.experiments.words import command_words, cell_text, model_words
from thalweg.records.experiment import ExperimentSummary, FigureRecord
from thalweg.records.run import Cell, RunRecord
from thalweg.report.frontier.figures import frontier_figure
from thalweg.report.user_experiment import Picture, write_own_report
from thalweg.serialization import to_dict
from thalweg.storage import write_json

PLAN = "frontier.json"
_QUESTION = "For the operations that can be paid, which schedule of passes ends with the lowest held-out loss?"


class FrontierStudy(Experiment[ExperimentSummary]):
    """Loss over operations of every constant depth, of the paper's two stages and of coarse-to-fine training."""

    kind, plan_file, grows = "frontier", PLAN, ("seeds", "arms")

    def __init__(self, plan: FrontierConfig) -> None:
        self.plan: FrontierConfig = plan

    @property
    def described(self) -> str:
        return f"a frontier of {self.plan.source}"

    @property
    def command(self) -> str:
        plan = self.plan
        return command_words(
            "frontier",
            plan.source,
            preset=plan.preset,
            arms=",".join(plan.arms),
            loops=plan.loops,
            seeds=len(plan.seeds),
            device="" if plan.device == "auto" else plan.device,
        )

    def check(self) -> None:
        """Refuse budgets that do not pay for an arm's stages, and a device that is not there."""
        plan, setting = self.plan, self.plan.settings[0]
        refuse_misfits(run_of(plan, arm, budget, setting, 0) for arm in plan.arms for budget in plan.budgets)

    def jobs(self, folder: Path) -> list[Job]:
        """First the runs that choose settings; those of an arm follow when all of its own are made."""
        trials = self.trials(folder)
        made = [job for by_setting in trials.values() for jobs in by_setting.values() for job in jobs]
        for arm in self.plan.arms:
            setting = self.chosen(trials[arm])
            if setting is not None:
                made += [job for jobs in self.runs_of(folder, arm, setting).values() for job in jobs.values()]
        return made

    def trials(self, folder: Path) -> dict[str, dict[Setting, list[Job]]]:
        """Arm -> setting -> runs at the middle budget on the seeds for choosing; none where there is only one setting."""
        plan, budget = self.plan, self.plan.tuning_budget
        if len(plan.settings) == 1:
            return {arm: {} for arm in plan.arms}
        return {
            arm: {
                setting: [
                    _job(folder, f"tuning-{slug(arm)}-{index}-seed{seed}", run_of(plan, arm, budget, setting, seed))
                    for seed in plan.tuning_seeds
                ]
                for index, setting in enumerate(plan.settings)
            }
            for arm in plan.arms
        }

    def chosen(self, trials: dict[Setting, list[Job]]) -> Setting | None:
        """The setting with the lowest mean held-out loss; None while runs are missing. One that diverged is not chosen."""
        if not trials:
            return self.plan.settings[0]
        means: dict[Setting, float] = {}
        for setting, jobs in trials.items():
            if any(not job.complete and not failed_for_good(job.folder) for job in jobs):
                return None
            records = [record for job in jobs if (record := job.record) is not None]
            if len(records) == len(jobs):
                means[setting] = sum(map(final_loss, records)) / len(records)
        return min(means, key=means.__getitem__) if means else None

    def runs_of(self, folder: Path, arm: str, setting: Setting) -> dict[float, dict[int, Job]]:
        """Budget -> seed -> run."""
        return {
            budget: {
                seed: _job(folder, f"{slug(arm)}-{budget:g}gf-seed{seed}", run_of(self.plan, arm, budget, setting, seed))
                for seed in self.plan.seeds
            }
            for budget in self.plan.budgets
        }

    def records(self, folder: Path) -> dict[str, dict[float, dict[int, RunRecord]]]:
        """Arm -> budget -> seed -> complete run."""
        trials, found = self.trials(folder), {}
        for arm in self.plan.arms:
            setting = self.chosen(trials[arm])
            runs = {} if setting is None else self.runs_of(folder, arm, setting)
            found[arm] = {
                budget: {seed: record for seed, job in jobs.items() if (record := job.record) is not None}
                for budget, jobs in runs.items()
            }
        return found

    def report(self, folder: Path) -> ExperimentSummary:
        records, jobs, plan = self.records(folder), self.jobs(folder), self.plan
        some = next((run for by_budget in records.values() for runs in by_budget.values() for run in runs.values()), None)
        if some is None or some.summary is None:
            raise FolderError(f"frontier {folder}: no arm has a complete run; run the same command again")
        curves = curves_of(records)
        missing = tuple(job.status for job in jobs if job.record is None)
        headings = tuple(f"loss at {budget:g} GFLOP (nats)" for budget in plan.budgets)
        table = {
            arm: {heading: cell(_losses(by_budget.get(budget, {}))) for heading, budget in zip(headings, plan.budgets, strict=True)}
            for arm, by_budget in records.items()
            if any(by_budget.values())
        }
        best = best_constant(curves, plan)
        caption = "Held-out loss above the best possible over counted operations"
        picture = Picture("frontier", "The frontier", frontier_figure(curves, plan.loops, STAGED, constant(best) if best else ""))
        summary = ExperimentSummary(
            name=folder.resolve().name,
            command=self.command,
            title=_QUESTION,
            experiment=f"frontier {plan.source}",
            arms=plan.arms,
            seeds=plan.seeds,
            complete=not missing,
            missing=missing,
            columns=headings,
            table=table,
            verdicts=tuple(answers(curves, plan)),
            setup=self.setup(folder, some) | unplanned(jobs),
            provenance=some.summary.provenance,
            figures=(FigureRecord(picture.name, picture.heading, caption),),
        )
        write_json(folder / "summary.json", to_dict(summary))
        write_own_report(summary, [picture], folder)
        return summary

    def compared(self, folder: Path) -> Compared:
        summary, arms = self.report(folder), {}
        for arm, by_budget in self.records(folder).items():
            for budget, runs in by_budget.items():
                heading = "held-out loss above the best possible (nats)"
                values: dict[str, dict[int, float | None]] = {heading: {seed: excess(run) for seed, run in runs.items()}}
                folders = [folder / "runs" / f"{slug(arm)}-{budget:g}gf-seed{seed}" for seed in runs]
                arms[f"{arm}, {budget:g} GFLOP"] = ComparedArm(runs, values, stored(folders))
        return Compared(summary, "nats per token", arms, {})

    def table(self, summary: ExperimentSummary) -> Table:
        seeds = len(summary.seeds)
        rows = [
            (arm, *(cell_text(row.get(heading, Cell(None)), seeds) for heading in summary.columns))
            for arm, row in summary.table.items()
        ]
        title = f"{summary.name}: held-out loss above the best possible, {seeds} seeds, mean and 95 % interval"
        return Table(title, ("arm", *summary.columns), tuple(rows))

    def lines(self, summary: ExperimentSummary) -> list[str]:
        return [f"{one.claim} {one.verdict}" for one in summary.verdicts]

    def setup(self, folder: Path, some: RunRecord) -> dict[str, str]:
        """Everything that is needed to repeat the experiment, by topic."""
        plan, trials = self.plan, self.trials(folder)
        settings = {arm: self.chosen(trials[arm]) for arm in plan.arms}
        rates = "; ".join(
            f"{arm} {setting.rate:g}" + (f", levels {setting.curriculum}" if any(setting.curriculum) else "")
            for arm, setting in settings.items()
            if setting is not None
        )
        stages, shares = staged(plan.source, plan.loops)
        base = run_of(plan, constant(plan.loops), plan.budgets[0], plan.settings[0], 0)
        ends = ", ".join(f"{share:.0%}" for share in shares)
        budgets = ", ".join(f"{budget:g}" for budget in plan.budgets)
        tuning, passes = ", ".join(map(str, plan.tuning_seeds)), ", ".join(map(str, stages))
        return {
            "Data": _DATA[plan.source],
            "Model": (
                f"{model_words(base.model)}; depth-2 and more and staged: branches by 1 / sqrt(T), a norm after every pass, "
                f"injection, one shared learned gain that begins at {base.model.gain_start:g}; depth-1: none of it; plain-looped "
                "and shift: injection alone"
            ),
            "Training": (
                f"budgets {budgets} GFLOP, each with a complete schedule: warm-up, constant, linear to zero over the last 40 % of "
                f"the updates; batch 32, AdamW, clip 1, float32, {plan.device}"
            ),
            "Arms": (
                f"depth-k: k passes throughout; staged: {passes} passes, until {ends} of the operations, the shared gain times "
                "(T - 1) / (k - 1) at k passes; staged-unscaled: the same without that factor; shift: the paper's, 1 pass until "
                f"SCP fires, then {plan.loops}, with a ramp"
            ),
            "Settings": (
                f"chosen for each arm at {plan.tuning_budget:g} GFLOP on seeds {tuning} among {len(plan.settings)}: {rates}"
            ),
            "Seeds": f"{len(plan.seeds)} ({', '.join(map(str, plan.seeds))}), paired over arms",
            "Figures of merit": (
                "operations: matrix products, backward = 2 x forward; at equal loss: log-linear between an arm's own budgets, "
                "never outside of them; intervals: two-sided 95 % t-intervals of logarithms over seeds"
            ),
        }


_DATA = {
    "markov": "the Markov language: vocabulary 16, order 2, 12 tokens, 400,000 training and 8,000 held-out sequences",
    "pointers": (
        "roots of trees of pointers: 14 nodes in two trees, 6 queries at depths 1 to 6, drawn afresh for every update; scored on "
        "2,000 held-out samples whose queries have depths 1 to 6"
    ),
}


def _job(folder: Path, name: str, config) -> Job:
    """One run in the queue."""
    return Job(name, config, folder / "runs" / name)


def final_loss(run: RunRecord) -> float:
    """Held-out loss of the last evaluation, in nats."""
    return run.evaluations[-1].scores["held-out"]["all"].loss


def excess(run: RunRecord) -> float:
    """Held-out loss above the best possible one where that is known, else above zero."""
    assert run.summary is not None
    ceilings = run.summary.ceilings.get("held-out", {})
    return final_loss(run) - (ceilings["all"].loss if "all" in ceilings else 0.0)


def _losses(runs: dict[int, RunRecord]) -> Sequence[float]:
    """Losses above the best possible of some runs."""
    return [excess(run) for run in runs.values()]


def curves_of(records: dict[str, dict[float, dict[int, RunRecord]]]) -> Curves:
    """Arm -> seed -> points by budget; only seeds at which every budget of the arm is complete and above the best possible loss."""
    curves: Curves = {}
    for arm, by_budget in records.items():
        seeds = set.intersection(*(set(runs) for runs in by_budget.values())) if by_budget else set()
        curves[arm] = {}
        for seed in sorted(seeds):
            points = [(runs[seed].evaluations[-1].flops, excess(runs[seed])) for runs in by_budget.values()]
            if all(loss > 0 for _, loss in points):
                curves[arm][seed] = points
    return curves
