"""The queue of an experiment's runs, worked off by an executor: ``thalweg train`` for each run, then ``thalweg landscape``.

Complete runs are skipped, interrupted runs are resumed, and a run that fails does not stop the others.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from thalweg.data.text import TextConfig
from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning, ThalwegError, warn
from thalweg.experiments.executors import Executor, Handle
from thalweg.interruption import INTERRUPTED, TERMINATED
from thalweg.models.cost import cost
from thalweg.processes import ENDING_SECONDS
from thalweg.records.landscape import LandscapePlan, RunLandscape, broken_arrays, read_landscape
from thalweg.records.run import RunRecord
from thalweg.serialization import to_dict
from thalweg.storage import explained, set_aside, there, wait_until_free, write_json
from thalweg.survey.files import claim, intact, whole
from thalweg.train.assemble import check_fits, choose_device, make_data
from thalweg.train.config import RunConfig, read_config, write_config
from thalweg.train.failures import failure_of, record_failure
from thalweg.train.repair import read_whole
from thalweg.train.run_folder import claim as claim_run
from thalweg.train.run_folder import stored_config
from thalweg.train.trainer import ended

_POLL_SECONDS = 0.3
"""Time between two looks at the running processes."""
_LOG_BYTES = 1 << 16
"""Bytes at the end of a log that are read."""
MADE_OTHERWISE = "Made otherwise"
"""Topic of the set-up under which a page states that runs have other configs than this version would plan."""

_PRODUCTS = {"exact": 4000, "matrix-free": 400}
"""Rough number of Hessian-vector products for one checkpoint; it only serves to estimate the progress."""


@dataclass(frozen=True)
class Job:
    """One run in the queue, with the landscape that is measured after it."""

    name: str
    config: RunConfig
    folder: Path
    """Folder of the run."""
    plan: LandscapePlan | None = None
    """Plan of the landscape that is measured when the run is complete; None for no landscape."""

    @property
    def training_work(self) -> float:
        """Expected operations of training: all updates at the cost of the last stage."""
        return self.config.training.steps * self.step_cost(self.config.training.batch)

    @property
    def landscape_work(self) -> float:
        """Expected operations of the landscape: Hessian-vector products at all checkpoints, each at the cost of two updates."""
        if self.plan is None:
            return 0.0
        products = _PRODUCTS["exact" if self.plan.exact_seconds else "matrix-free"]
        return 2 * self.plan.checkpoints * products * self.step_cost(self.plan.sequences)

    def step_cost(self, sequences: int) -> float:
        """Operations of one update of the last stage on this many sequences."""
        return cost(self.config.model, sequences, self.config.data.length - 1, self.config.shift.stages[-1]).training_step

    @property
    def work(self) -> float:
        """Expected operations of the run and its landscape."""
        return self.training_work + self.landscape_work

    @property
    def complete(self) -> bool:
        """Whether the run has its summary, which is written last."""
        return (self.folder / "summary.json").is_file()

    @property
    def record(self) -> RunRecord | None:
        """The records of a complete run; None for one that is not complete, or whose records are damaged (see `status`)."""
        try:
            return self.read() if self.complete else None
        except DamagedFileError:
            return None

    @property
    def measured(self) -> bool:
        """Whether the landscape is complete, or there is none to measure."""
        return self.plan is None or (self.folder / "landscape" / "summary.json").exists()

    @property
    def ended(self) -> bool:
        """Whether the run is complete, with its landscape."""
        return self.complete and self.measured

    def read(self) -> RunRecord:
        """The records of the complete run.

        Where the stored config is the planned one, the tested lengths of a task are checked against it.

        Raises:
            DamagedFileError: a record is missing or is not what was written.
        """
        return read_whole(self.folder, self.config if _as_planned(self) else None)

    @property
    def status(self) -> str:
        """Name and state of a run without a readable record: how far it is, that it failed, or what is damaged."""
        if self.complete:
            return f"{self.name} ({damage(lambda _: self.read(), self.folder)})"
        if failed_for_good(self.folder):
            return f"{self.name} (failed)"
        step = _last_step(self.folder / "metrics.jsonl")
        return f"{self.name} ({step:,} of {self.config.training.steps:,} updates)" if step else self.name

    @property
    def landscape_status(self) -> str:
        """Name and state of a landscape that is not complete or is damaged."""
        if (self.folder / "landscape" / "summary.json").is_file():
            return f"landscape of {self.name} ({damage(read_measured, self.folder)})"
        share = self.share_measured()
        return f"landscape of {self.name}" + (f" ({100 * share:.0f} %)" if share else "")

    def work_done(self) -> float:
        """Operations spent so far on run and landscape, estimated from their journals."""
        trained = 1.0 if self.complete else _last_step(self.folder / "metrics.jsonl") / self.config.training.steps
        return self.training_work * trained + self.landscape_work * self.share_measured()

    def share_measured(self) -> float:
        """Share of the landscape's checkpoints that are measured, 0 to 1; the other measurements take little time in comparison."""
        if self.plan is None or self.measured:
            return 1.0
        try:
            lines = (self.folder / "landscape" / "journal.jsonl").read_bytes().count(b'"type": "point"')
        except OSError:
            return 0.0
        return min(1.0, lines / (self.plan.checkpoints + 1))


def damage(read: Callable[[Path], object], folder: Path) -> str:
    """The reason why ``read(folder)`` fails, as a short phrase without the path; "damaged" where it does not fail."""
    try:
        read(folder)
    except DamagedFileError as error:
        return " ".join(str(error).partition("; ")[0].replace(f"{folder}/", "").split())
    return "damaged"


def read_measured(run: Path) -> RunLandscape | None:
    """The landscape of a run; None where none was begun. Of a complete one every file is read and checked.

    Raises:
        DamagedFileError: a record or an array is damaged or missing.
    """
    landscape = read_landscape(run)
    if landscape is not None and landscape.summary is not None:
        broken = broken_arrays(landscape)
        if broken:
            raise DamagedFileError(f"damaged arrays {next(iter(broken))}; run `thalweg landscape {run}` again")
        if len(landscape.points) != landscape.summary.points:
            raise DamagedFileError(f"damaged record {landscape.folder / 'journal.jsonl'}; run `thalweg landscape {run}` again")
    return landscape


def _last_step(journal: Path) -> int:
    """The step of the last whole line of a journal that has one; 0 where there is none."""
    try:
        with journal.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - 4096))
            lines = handle.read().rpartition(b"\n")[0]  # a line that is being written has no end yet
            steps = [line.split(b'"step": ')[1] for line in lines.split(b"\n") if b'"step": ' in line]
        return int(steps[-1].split(b",")[0].strip(b" }")) if steps else 0
    except (OSError, ValueError):
        return 0


def refuse_misfits(configs: Iterable[RunConfig]) -> None:
    """Refuse runs that this machine cannot make, before anything is written.

    Raises:
        BadInputError: a device or a text does not exist, a text is too short, or a run needs more memory than there is.
    """
    devices: dict[str, torch.device] = {}
    texts: set[TextConfig] = set()
    for config in configs:
        if isinstance(config.data, TextConfig) and config.data not in texts:
            make_data(config)
            texts.add(config.data)
        name = config.training.device
        devices[name] = devices.get(name) or choose_device(name)
        check_fits(config, devices[name])


def prepare(jobs: list[Job]) -> None:
    """Create the folder of every run, write its config and its landscape's plan; a damaged summary is set aside.

    Raises:
        FolderError: a folder holds another run.
    """
    for job in jobs:
        with explained(job.folder):
            job.folder.mkdir(parents=True, exist_ok=True)
        if claim_run(job.config, job.folder, ours=True):
            write_config(job.folder / "config.toml", job.config)
        if there(job.folder / "summary.json"):
            ended(job.config, job.folder)  # sets a damaged summary aside, so that the run is made again
        if job.plan is not None:
            _prepare_landscape(job.folder, job.plan)


def _prepare_landscape(run: Path, plan: LandscapePlan) -> None:
    """Write the plan of a landscape, or check that the stored one is the same; a damaged landscape is set aside."""
    folder = run / "landscape"
    whole(run)
    try:
        begun = claim(folder, plan, intact(folder / "journal.jsonl")[0])
    except DamagedFileError as error:
        warn(f"{error}; measured again", DamagedRecordWarning)
        set_aside(folder)
        begun = False
    if not begun:
        write_json(folder / "plan.json", to_dict(plan))


def unplanned(jobs: Iterable[Job]) -> dict[str, str]:
    """Topic -> sentence for the set-up of a page if complete runs have other configs than this version plans; else empty."""
    complete = [job for job in jobs if job.complete]
    other = sum(not _as_planned(job) for job in complete)
    advice = "the set-up described here is that of the plan; theirs is in the config.toml of each run"
    sentence = f"{other} of {len(complete)} complete runs have another config than this version plans for them; {advice}"
    return {MADE_OTHERWISE: sentence} if other else {}


def _as_planned(job: Job) -> bool:
    """Whether the run in the folder of a job has the config that is planned for it."""
    try:
        return read_config(job.folder / "config.toml") == job.config
    except BadInputError:  # damaged, or a key that this version does not know
        return stored_config(job.folder) == job.config


def work_off(
    jobs: list[Job], workers: int, on_progress: Callable[[float, int, list[str]], None], executor: Executor
) -> dict[str, str]:
    """Make all runs and their landscapes, ``workers`` at a time, the longest first.

    Args:
        jobs: the runs, after `prepare`.
        workers: number of runs at a time.
        on_progress: called with the share of all work that is done, 0 to 1, the number of runs that are complete with their
            landscapes, and the names of the runs in progress.
        executor: starts the processes.
    Returns:
        Name of each run that failed -> reason.
    """
    total = sum(job.work for job in jobs)
    waiting = sorted((job for job in jobs if not job.ended), key=lambda job: -job.work)
    running: dict[str, tuple[Job, Handle]] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                try:
                    running[job.name] = job, start(job, workers, executor)
                except ThalwegError as error:
                    failed[job.name] = str(error)
            time.sleep(_POLL_SECONDS)
            for job, handle in list(running.values()):
                code = handle.poll()
                if code is None:
                    continue
                del running[job.name]
                if code != 0:
                    failed[job.name] = why_it_ended(job, code)
                elif not job.measured:  # the training ended well: its landscape is next
                    waiting.insert(0, job)
            done = len(jobs) - len(waiting) - len(running) - len(failed)
            on_progress(sum(job.work_done() for job in jobs) / total, done, list(running))
    finally:
        for _, handle in running.values():
            handle.terminate()
        for _, handle in running.values():
            handle.wait()
    return failed


def start(job: Job, workers: int, executor: Executor) -> Handle:
    """Start the next process of a run: its training, or after that its landscape.

    Args:
        job: the run.
        workers: number of runs at a time, which share the machine.
        executor: starts the process.
    """
    measuring = job.complete
    # A process left over from an interrupted study saves what it has made and ends; until then it holds the lock of the run.
    wait_until_free(job.folder / "landscape" if measuring else job.folder, ENDING_SECONDS + 10)
    training = ["train", str(job.folder / "config.toml"), "--out", str(job.folder)]
    arguments = ["landscape", str(job.folder)] if measuring else training
    return executor.start(arguments, job.folder / "stderr.log", workers, append=measuring)


def why_it_ended(job: Job, code: int) -> str:
    """The reason why the process of a run ended; a reason that the process could not record itself is recorded here.

    Args:
        job: the run.
        code: exit status; a negative one is minus the number of the signal that ended the process.
    """
    folder = job.folder / "landscape" if job.complete else job.folder
    failure = failure_of(folder)
    if failure is not None:
        return failure.message
    logged = last_line(job.folder / "stderr.log")
    if code in (INTERRUPTED, TERMINATED):  # asked to end: not a failure of the run, so nothing is recorded
        return logged.removeprefix("thalweg: ")
    name = signal.Signals(-code).name if code < 0 else ""
    usual = "; it was killed, most often because memory ran out: make fewer runs at a time with --jobs" if name == "SIGKILL" else ""
    message = f"ended by signal {-code} ({name}){usual}" if code < 0 else logged.removeprefix("thalweg: ")
    record_failure(folder, "killed" if code < 0 else "ended", message)
    return message


def failed_for_good(folder: Path) -> bool:
    """Whether an incomplete run has ended with an error; an interruption does not count as one."""
    return failure_of(folder) is not None


def last_line(log: Path) -> str:
    """The last line of a run's log that is neither blank nor a warning; a sentence in its place where there is none."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - _LOG_BYTES))
            text = handle.read().decode(errors="replace")
    except OSError as error:
        return f"its log cannot be read ({error.strerror})"
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("thalweg: warning: ")]
    return lines[-1] if lines else "its log holds no message"
