"""Run folders as a queue, worked off by subprocesses: one ``python -m thalweg train`` for each run.

A run that is complete is skipped, one that was stopped goes on, one that fails leaves the others alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thalweg.errors import FolderError
from thalweg.models.cost import cost
from thalweg.storage import write_text
from thalweg.train.config import RunConfig, config_text, read_config

POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Job:
    """One run in the queue."""

    name: str
    config: RunConfig
    folder: Path

    @property
    def work(self) -> float:
        """Expected operations: the whole run at its last stage's loops."""
        settings, length = self.config.training, self.config.data.length - 1
        return settings.steps * cost(self.config.model, settings.batch, length, self.config.shift.stages[-1]).training_step

    @property
    def complete(self) -> bool:
        """Whether the run has its summary."""
        return (self.folder / "summary.json").exists()

    def share_done(self) -> float:
        """Part of the updates made so far, from the last line of the journal."""
        if self.complete:
            return 1.0
        try:
            with (self.folder / "metrics.jsonl").open("rb") as handle:
                handle.seek(max(0, handle.seek(0, os.SEEK_END) - 4096))
                steps = [line.split(b'"step": ')[1] for line in handle.read().split(b"\n") if b'"step": ' in line]
        except OSError:
            return 0.0
        return int(steps[-1].split(b",")[0]) / self.config.training.steps if steps else 0.0


def prepare(jobs: list[Job]) -> None:
    """Give every run its folder and config; refuse a folder that holds another run."""
    for job in jobs:
        path = job.folder / "config.toml"
        if not path.exists():
            write_text(path, config_text(job.config))
        elif read_config(path) != job.config:
            raise FolderError(f"run {job.folder}: the folder belongs to a run with another config; choose another --out")


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
    waiting = sorted((job for job in jobs if not job.complete), key=lambda job: -job.work)
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
            on_progress(sum(job.work * job.share_done() for job in jobs) / total, [j.name for j in running.values()])
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return failed


def start(job: Job, workers: int) -> subprocess.Popen:
    """Begin one run as a subprocess; what it says goes to ``stderr.log`` in its folder."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "thalweg", "train", str(job.folder / "config.toml"), "--out", str(job.folder)]
    with (job.folder / "stderr.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=environment)


def last_line(log: Path) -> str:
    """The last line of a run's log that says something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
