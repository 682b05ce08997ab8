"""The frontier as an experiment: settings are chosen first, then every arm is trained at every budget."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from thalweg.errors import DivergedError, FolderError
from thalweg.experiments.compared import Compared, ComparedArm, stored
from thalweg.experiments.experiment import Experiment, Table
from thalweg.experiments.folder import slug
from thalweg.experiments.frontier.answers import Curves, answers, best_constant, curves_of, excess, fall_at_switches
from thalweg.experiments.frontier.arms import STAGED, constant
from thalweg.experiments.frontier.findings import first_screen
from thalweg.experiments.frontier.plan import FrontierPlan
from thalweg.experiments.frontier.source import Setting, Source
from thalweg.experiments.frontier.sources import source_of
from thalweg.experiments.frontier.task_answers import error_curves, exact_match_answers, match_beyond
from thalweg.experiments.frontier.task_source import TaskSource
from thalweg.experiments.metrics import cell, final_loss
from thalweg.experiments.queue import Job, failed_for_good, refuse_misfits, unplanned
from thalweg.experiments.words import command_words, listed, summary_table
from thalweg.records.experiment import ExperimentSummary, FigureRecord
from thalweg.records.run import RunRecord, Verdict, read_lengths
from thalweg.report.frontier.figures import frontier_alt, frontier_figure
from thalweg.report.page import amount
from thalweg.report.user_experiment import Picture, write_own_report
from thalweg.serialization import to_dict
from thalweg.storage import write_json
from thalweg.train.config import RunConfig
from thalweg.train.failures import failure_of

PLAN = "frontier.json"
_Trials = dict[str, dict[Setting, list[Job]]]
"""Arm -> setting -> runs that choose it."""
_Settings = dict[str, Setting]
"""Arm -> the setting that was chosen for it."""
_Records = dict[str, dict[float, dict[int, RunRecord]]]
"""Arm -> budget -> seed -> complete run."""
_ENOUGH_SCORES = 20
"""Evaluations of a run below which a fall after a switch could be missed."""
_QUESTION = "For a given number of operations, which schedule of passes ends with the lowest held-out loss?"


class FrontierStudy(Experiment[ExperimentSummary]):
    """Loss over operations of every constant depth, of the paper's two stages and of coarse-to-fine training."""

    kind, plan_file, grows = "frontier", PLAN, ("seeds", "arms")

    def __init__(self, plan: FrontierPlan) -> None:
        self.plan: FrontierPlan = plan
        self.source: Source = source_of(plan.source)

    @property
    def described(self) -> str:
        return f"a frontier of {self.plan.source}"

    @property
    def loss(self) -> str:
        """What is compared, in words."""
        return "held-out loss above the best possible" if self.source.best_known else "held-out loss"

    @property
    def command(self) -> str:
        plan, usual = self.plan, self.source.presets[self.plan.preset].budgets
        return command_words(
            "frontier",
            plan.source,
            preset=plan.preset,
            arms=",".join(plan.arms),
            loops=plan.loops,
            seeds=len(plan.seeds),
            device="" if plan.device == "auto" else plan.device,
            optimizer="" if plan.optimizer == "adamw" else plan.optimizer,
            text=plan.text,
            budgets=",".join(f"{one:g}" for one in plan.budgets) if plan.budgets != usual else "",
        )

    def check(self) -> None:
        """Refuse data that contradict themselves, budgets that do not pay for an arm's stages, and a device that is not there."""
        self.source.check()
        plan, setting = self.plan, self.plan.settings[0]
        refuse_misfits(self.source.run(plan, arm, budget, setting, 0) for arm in plan.arms for budget in plan.budgets)

    def jobs(self, folder: Path) -> list[Job]:
        """First the runs that choose settings; those of an arm follow when all of its own are made."""
        trials = self.trials(folder)
        return self._jobs_of(folder, trials, self.chosen(trials))

    def more_follow(self, folder: Path) -> bool:
        return len(self.chosen(self.trials(folder))) < len(self.plan.arms)

    def _jobs_of(self, folder: Path, trials: _Trials, settings: _Settings) -> list[Job]:
        """The jobs of all trials, and of the arms whose setting is known."""
        jobs = [job for by_setting in trials.values() for some in by_setting.values() for job in some]
        for arm, setting in settings.items():
            jobs += [job for by_seed in self.runs_of(folder, arm, setting).values() for job in by_seed.values()]
        return jobs

    def trials(self, folder: Path) -> _Trials:
        """Arm -> setting -> runs at the middle budget on the seeds for choosing; none where there is only one setting."""
        plan, budget = self.plan, self.plan.tuning_budget
        if len(plan.settings) == 1:
            return {arm: {} for arm in plan.arms}
        return {
            arm: {
                setting: [
                    _job(folder, f"tuning-{slug(arm)}-{index}-seed{seed}", self.source.run(plan, arm, budget, setting, seed))
                    for seed in plan.tuning_seeds
                ]
                for index, setting in enumerate(plan.settings)
            }
            for arm in plan.arms
        }

    def chosen(self, trials: _Trials) -> _Settings:
        """The setting of each arm with the lowest mean held-out loss; an arm whose trials are not all made is left out."""
        settings = {arm: self._best_setting(trials[arm]) for arm in self.plan.arms}
        return {arm: setting for arm, setting in settings.items() if setting is not None}

    def _best_setting(self, trials: dict[Setting, list[Job]]) -> Setting | None:
        """The setting of one arm; None while runs are missing. One that diverged is not chosen; other failures are tried again."""
        if not trials:
            return self.plan.settings[0]
        means: dict[Setting, float] = {}
        for setting, jobs in trials.items():
            if any(not job.complete and not _diverged(job) for job in jobs):
                return None
            records = [record for job in jobs if (record := job.record) is not None]
            if len(records) == len(jobs):
                means[setting] = sum(map(final_loss, records)) / len(records)
        return min(means, key=means.__getitem__) if means else None

    def runs_of(self, folder: Path, arm: str, setting: Setting) -> dict[float, dict[int, Job]]:
        """Budget -> seed -> run."""
        return {
            budget: {
                seed: _job(folder, _run_name(arm, budget, seed), self.source.run(self.plan, arm, budget, setting, seed))
                for seed in self.plan.seeds
            }
            for budget in self.plan.budgets
        }

    def _records(self, folder: Path, settings: _Settings) -> _Records:
        """Arm -> budget -> seed -> complete run; an arm without a setting has none."""
        jobs = {arm: self.runs_of(folder, arm, settings[arm]) if arm in settings else {} for arm in self.plan.arms}
        return {
            arm: {
                budget: {seed: record for seed, job in by_seed.items() if (record := job.record) is not None}
                for budget, by_seed in by_budget.items()
            }
            for arm, by_budget in jobs.items()
        }

    def report(self, folder: Path) -> ExperimentSummary:
        trials = self.trials(folder)
        settings = self.chosen(trials)
        return self._report(folder, self._jobs_of(folder, trials, settings), settings, self._records(folder, settings))

    def _report(self, folder: Path, jobs: list[Job], settings: _Settings, records: _Records) -> ExperimentSummary:
        """The same from jobs and records that were read once."""
        plan = self.plan
        some = next((run for by_budget in records.values() for runs in by_budget.values() for run in runs.values()), None)
        if some is None or some.summary is None:
            advice = "wait for one while its command goes on, else give it again"
            raise FolderError(f"frontier {folder}: no arm has a complete run yet; {advice}")
        missing = tuple(job.status for job in jobs if job.record is None)
        headings = tuple(f"loss at {amount(budget)} GFLOP (nats)" for budget in plan.budgets)
        table = {
            arm: {
                heading: cell([excess(run) for run in by_budget.get(budget, {}).values()])
                for heading, budget in zip(headings, plan.budgets, strict=True)
            }
            for arm, by_budget in records.items()
            if any(by_budget.values())
        }
        # What follows compares arms, at the budgets at which that is possible so far.
        awaited = {job.name for job in jobs if not job.complete and not failed_for_good(job.folder)}
        so_far, records = self._comparable(records, awaited)
        curves = curves_of(records)
        words = {arm: self.source.arm_words(arm, plan.loops) for arm in plan.arms}
        pictures = self._pictures(curves, so_far, {arm: name for arm, (name, _) in words.items()})
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
            verdicts=(*answers(curves, so_far), *self._exact_matches(folder, so_far, records), *self._falls(records)),
            setup=self._setup(settings) | unplanned(jobs),
            provenance=some.summary.provenance,
            figures=tuple(FigureRecord(picture.name, picture.heading, picture.caption, picture.alt) for picture in pictures),
            first=first_screen(curves, so_far, some.summary.parameters, plan.budgets),
            arm_words={arm: words[arm][1] for arm in table},
        )
        write_json(folder / "summary.json", to_dict(summary))
        write_own_report(summary, pictures, folder)
        return summary

    def _pictures(self, curves: Curves, plan: FrontierPlan, names: dict[str, str]) -> list[Picture]:
        """The figure of the frontier; none while there is a single budget, or no curve.

        Args:
            curves: arm -> seed -> points.
            plan: with the budgets of the curves.
            names: arm -> its name in the figure.
        """
        if len(plan.budgets) < 2 or not any(curves.values()):
            return []
        best, loss = best_constant(curves, plan), self.loss.capitalize()
        rival = ""
        if best is not None:
            rival = (
                f"Bars, drawn beside each other: the 95 % interval of the arm's loss over that of {names[constant(best)]}, seed by "
                "seed; a bar that reaches that line leaves open which of the two is lower. "
            )
        caption = (
            f"{loss} (vertical) against counted operations (horizontal), both on logarithmic axes: lower and further left is "
            f"better. Points: geometric mean over seeds. {rival}Grey: the lowest of all arms."
        )
        figure = frontier_figure(curves, names, STAGED, constant(best) if best else "", self.loss)
        return [Picture("frontier", "Loss over operations", figure, caption, frontier_alt(curves, names, loss.lower()))]

    def _comparable(self, records: _Records, awaited: Collection[str]) -> tuple[FrontierPlan, _Records]:
        """The plan and the records of the budgets at which all arms can be compared so far; those of all where there is none.

        A budget counts if no arm that has begun waits for a run there; where there is none, if every such arm has some run there.
        Runs that failed are not waited for.

        Args:
            records: of complete runs.
            awaited: names of runs that are still to be made.
        """
        begun = {arm: by_budget for arm, by_budget in records.items() if any(by_budget.values())}
        waiting = {
            budget: any(_run_name(arm, budget, seed) in awaited for arm in begun for seed in self.plan.seeds)
            for budget in self.plan.budgets
        }
        budgets = [budget for budget, waits in waiting.items() if not waits]
        budgets = budgets or [budget for budget in waiting if all(by_budget.get(budget) for by_budget in begun.values())]
        if not budgets or len(budgets) == len(self.plan.budgets):
            return self.plan, records
        return replace(self.plan, budgets=tuple(budgets)), {
            arm: {budget: by_budget[budget] for budget in budgets if budget in by_budget} for arm, by_budget in records.items()
        }

    def _exact_matches(self, folder: Path, plan: FrontierPlan, records: _Records) -> list[Verdict]:
        """The answers about exact matches, of a task."""
        if not isinstance(self.source, TaskSource):
            return []
        data = self.source.recipe.data
        beyond: dict[str, dict[int, float]] = {}
        for arm in (STAGED, constant(plan.loops)):
            runs = records.get(arm, {}).get(plan.budgets[-1], {})
            tested = {seed: read_lengths(folder / "runs" / _run_name(arm, plan.budgets[-1], seed)) for seed in runs}
            matches = {seed: match_beyond(lengths, data.longest) for seed, lengths in tested.items()}
            beyond[arm] = {seed: match for seed, match in matches.items() if match is not None}
        return exact_match_answers(error_curves(records, data.samples * data.longest), beyond, plan)

    def _falls(self, records: _Records) -> list[Verdict]:
        """The answer about falls at switches, where staged training was trained and scored often enough to see them."""
        often = self.source.presets[self.plan.preset].scores >= _ENOUGH_SCORES
        staged_runs = records.get(STAGED, {}) if often else {}
        return [fall_at_switches(staged_runs, records[constant(self.plan.loops)])] if any(staged_runs.values()) else []

    def compared(self, folder: Path) -> Compared:
        trials = self.trials(folder)
        settings = self.chosen(trials)
        records = self._records(folder, settings)
        summary = self._report(folder, self._jobs_of(folder, trials, settings), settings, records)
        arms = {}
        for arm, by_budget in records.items():
            for budget, runs in by_budget.items():
                losses: dict[int, float | None] = {seed: excess(run) for seed, run in runs.items()}
                folders = [folder / "runs" / _run_name(arm, budget, seed) for seed in runs]
                arms[f"{arm}, {amount(budget)} GFLOP"] = ComparedArm(runs, {f"{self.loss} (nats)": losses}, stored(folders))
        return Compared(summary, "nats per token", arms, {})

    def table(self, summary: ExperimentSummary) -> Table:
        return summary_table(summary, f"{self.loss}, ")

    def lines(self, summary: ExperimentSummary) -> list[str]:
        """What was found, then the claims with their verdicts."""
        found = list(summary.first.found) if summary.first else []
        return [*found, *super().lines(summary)]

    def _setup(self, settings: _Settings) -> dict[str, str]:
        """Everything that is needed to repeat the experiment, by topic."""
        plan = self.plan
        stages, shares = self.source.stages(plan.loops)
        base = self.source.run(plan, constant(plan.loops), plan.budgets[0], plan.settings[0], 0)
        until = ", ".join(
            f"{passes} passes until {100 * share:.0f} % of the operations" for passes, share in zip(stages, shares, strict=False)
        )
        budgets = listed([amount(budget) for budget in plan.budgets])
        return {
            **self.source.facts(base.model),
            "Training": (
                f"budgets {budgets} GFLOP, each with a complete schedule: warm-up, constant, linear to zero over the last 40 % of "
                f"the updates; batch {base.training.batch}, {_OPTIMIZER[plan.optimizer]}, clip 1, "
                f"{base.training.precision}, device {plan.device}"
                + (f"; staged training: {until}, then {stages[-1]}" if until else "")
            ),
            "Settings": self._settings_in_words(settings),
            "Seeds": f"{len(plan.seeds)} ({', '.join(map(str, plan.seeds))}), paired over arms",
            "Figures of merit": (
                "operations: matrix products, backward = 2 x forward; at equal loss: log-linear between an arm's own budgets, "
                "never outside of them; intervals: two-sided 95 % t-intervals of logarithms over seeds"
            ),
        }

    def _settings_in_words(self, settings: _Settings) -> str:
        """How the rate of each arm was chosen, and on the tree sources how fast the trees grow."""
        plan = self.plan
        if len(plan.settings) == 1:
            return f"{_in_words(plan.settings[0])} for every arm, not tuned{_TUNED_BEFORE.get(plan.source, '')}"
        chosen = "; ".join(f"{arm} {_in_words(setting)}" for arm, setting in settings.items())
        seeds = listed([str(seed) for seed in plan.tuning_seeds])
        return f"chosen for each arm at {amount(plan.tuning_budget)} GFLOP on seeds {seeds} among {len(plan.settings)}: {chosen}"


def _diverged(job: Job) -> bool:
    """Whether a run ended because its loss was not finite any more, as the same run would again."""
    failure = failure_of(job.folder)
    return failure is not None and failure.error == DivergedError.__name__


def _in_words(setting: Setting) -> str:
    """A setting as text."""
    hold, grow = setting.curriculum
    if grow and not hold:
        return f"rate {setting.rate:g}, lengths growing over {100 * grow:.0f} % of the updates"
    levels = (
        f", trees at the first level for {100 * hold:.0f} % of the updates and growing over {100 * grow:.0f} %"
        if hold or grow
        else ""
    )
    return f"rate {setting.rate:g}{levels}"


_TUNED_BEFORE = {"markov": "; the preset paper chooses it for each arm among three rates"}
_OPTIMIZER = {"adamw": "AdamW", "muon": "Muon for the matrices of the blocks and AdamW for the rest"}


def _run_name(arm: str, budget: float, seed: int) -> str:
    """Name of a run that is reported, and of its folder."""
    return f"{slug(arm)}-{budget:g}gf-seed{seed}"


def _job(folder: Path, name: str, config: RunConfig) -> Job:
    """One run in the queue."""
    return Job(name, config, folder / "runs" / name)
