"""Run folders as a queue, worked off by subprocesses: ``python -m thalweg train`` for each run, then ``landscape``.

What is complete is skipped, what was stopped goes on, a run that fails leaves the others alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from thalweg.errors import BadInputError, FolderError
from thalweg.landscapes import LandscapePlan
from thalweg.models.cost import cost
from thalweg.storage import write_text
from thalweg.train.assemble import check_fits, choose_device
from thalweg.train.config import RunConfig, config_text, read_config
from thalweg.train.survey import claim

POLL_SECONDS = 0.3
MADE_OTHERWISE = "Made otherwise"
"""Topic of a set-up that speaks of runs whose configs this version plans otherwise."""

PRODUCTS = {"exact": 4000, "matrix-free": 400}
"""Hessian-vector products of one point, roughly, for the share of the work that is done."""


@dataclass(frozen=True)
class Job:
    """One run in the queue."""

    name: str
    config: RunConfig
    folder: Path
    plan: LandscapePlan | None = None
    """Of the landscape that is measured when the run is complete."""

    @property
    def training_work(self) -> float:
        """Expected operations: the whole run at its last stage's loops."""
        return self.config.training.steps * self.step_cost(self.config.training.batch)

    @property
    def landscape_work(self) -> float:
        """Expected operations: products of all points, two steps' worth each."""
        if self.plan is None:
            return 0.0
        products = PRODUCTS["exact" if self.plan.exact_seconds else "matrix-free"]
        return 2 * self.plan.checkpoints * products * self.step_cost(self.plan.sequences)

    def step_cost(self, sequences: int) -> float:
        """Operations of one update."""
        return cost(self.config.model, sequences, self.config.data.length - 1, self.config.shift.stages[-1]).training_step

    @property
    def work(self) -> float:
        """All expected operations."""
        return self.training_work + self.landscape_work

    @property
    def complete(self) -> bool:
        """Whether the run has its summary."""
        return (self.folder / "summary.json").exists()

    @property
    def measured(self) -> bool:
        """Whether nothing is left to measure."""
        return self.plan is None or (self.folder / "landscape" / "summary.json").exists()

    @property
    def told(self) -> str:
        """Name of a run that is not complete, and how far it is."""
        if failed_for_good(self.folder):
            return f"{self.name} (failed)"
        step = last_step(self.folder / "metrics.jsonl")
        return f"{self.name} ({step:,} of {self.config.training.steps:,} updates)" if step else self.name

    @property
    def landscape_told(self) -> str:
        """The same of a landscape that is not."""
        share = self.share_measured()
        return f"landscape of {self.name}" + (f" ({share:.0%})" if share else "")

    def work_done(self) -> float:
        """Operations made so far, from the journals."""
        trained = 1.0 if self.complete else last_step(self.folder / "metrics.jsonl") / self.config.training.steps
        return self.training_work * trained + self.landscape_work * self.share_measured()

    def share_measured(self) -> float:
        """Part of the points that are there; the rest of a landscape is small beside them."""
        if self.plan is None or self.measured:
            return 1.0
        try:
            lines = (self.folder / "landscape" / "journal.jsonl").read_bytes().count(b'"type": "point"')
        except OSError:
            return 0.0
        return min(1.0, lines / (self.plan.checkpoints + 1))


def last_step(journal: Path) -> int:
    """The step that the last line of a journal speaks of."""
    try:
        with journal.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - 4096))
            whole = handle.read().rpartition(b"\n")[0]  # a line that is being written has no end yet
            steps = [line.split(b'"step": ')[1] for line in whole.split(b"\n") if b'"step": ' in line]
    except OSError:
        return 0
    return int(steps[-1].split(b",")[0]) if steps else 0


def refuse_misfits(configs: Iterable[RunConfig]) -> None:
    """Refuse runs that this machine cannot make, before anything is written: no such device, or more memory than there is."""
    devices: dict[str, torch.device] = {}
    for config in configs:
        name = config.training.device
        devices[name] = devices.get(name) or choose_device(name)
        check_fits(config, devices[name])


def prepare(jobs: list[Job]) -> None:
    """Give every run its folder and config; refuse a folder that holds another run."""
    for job in jobs:
        path = job.folder / "config.toml"
        if not path.exists():
            write_text(path, config_text(job.config))
        elif read_config(path) != job.config:
            raise FolderError(f"run {job.folder}: the folder belongs to a run with another config; choose another --out")
        if job.plan is not None:
            claim(job.folder / "landscape", job.plan)


def unplanned(jobs: Iterable[Job]) -> dict[str, str]:
    """A line for the set-up of a page, by topic, where complete runs have configs that this version plans otherwise."""
    complete = [job for job in jobs if job.complete]
    other = sum(not as_planned(job) for job in complete)
    advice = "the set-up in words is that of the plan, theirs stands in the config.toml of each run"
    words = f"{other} of {len(complete)} complete runs have another config than this version plans for them; {advice}"
    return {MADE_OTHERWISE: words} if other else {}


def as_planned(job: Job) -> bool:
    """Whether the run in the folder has the config of the plan."""
    try:
        return read_config(job.folder / "config.toml") == job.config
    except BadInputError:  # a key that this version does not know
        return False


def work_off(jobs: list[Job], workers: int, on_progress: Callable[[float, list[str]], None]) -> dict[str, str]:
    """Make all runs, ``workers`` at a time, the longest first.

    Args:
        jobs: the runs, prepared.
        workers: subprocesses at a time.
        on_progress: called with the share of all work done, 0 to 1, and the names of the runs under way.
    Returns:
        Name of each run that failed -> the last line it said.
    """
    total = sum(job.work for job in jobs)
    waiting = sorted((job for job in jobs if not (job.complete and job.measured)), key=lambda job: -job.work)
    running: dict[subprocess.Popen, Job] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[start(job, workers)] = job
            time.sleep(POLL_SECONDS)
            for process in [p for p in running if p.poll() is not None]:
                job = running.pop(process)
                if process.returncode != 0:
                    failed[job.name] = last_line(job.folder / "stderr.log")
                elif not job.measured:
                    waiting.insert(0, job)
            on_progress(sum(job.work_done() for job in jobs) / total, [j.name for j in running.values()])
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return failed


def start(job: Job, workers: int) -> subprocess.Popen:
    """Begin what is next for a run as a subprocess; what it says goes to ``stderr.log`` in its folder."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    training = ["train", str(job.folder / "config.toml"), "--out", str(job.folder)]
    command = [sys.executable, "-m", "thalweg", *(["landscape", str(job.folder)] if job.complete else training)]
    with (job.folder / "stderr.log").open("ab" if job.complete else "wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=environment)


def failed_for_good(folder: Path) -> bool:
    """Whether a run that is not complete has ended with an error; an interruption is none."""
    log = folder / "stderr.log"
    said = last_line(log) if log.exists() else ""
    return said.startswith("thalweg: ") and "interrupted" not in said


def last_line(log: Path) -> str:
    """The last line of a run's log that says something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
