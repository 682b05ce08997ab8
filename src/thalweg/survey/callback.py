"""The landscape of a run measured while it goes on."""

from __future__ import annotations

from pathlib import Path

import torch

from thalweg.errors import require
from thalweg.records.landscape import LandscapePlan
from thalweg.survey.survey import Survey, Tell, plan_of, refuse_tasks
from thalweg.train.callbacks import Callback
from thalweg.train.config import RunConfig


class LandscapeCallback(Callback):
    """A landscape measured while the run goes on, at each of its snapshots.

    Args:
        run: folder of the run; its config must ask for ``training.snapshots``.
        plan: what is measured.
        tell: see `thalweg.survey.survey.Tell`.
    """

    def __init__(self, run: Path, plan: LandscapePlan, tell: Tell | None = None) -> None:
        self.run, self.plan, self.tell = run, plan, tell
        self.survey: Survey | None = None

    def on_snapshot(self, path: Path) -> None:
        with torch.random.fork_rng():  # measuring leaves no trace in training
            if self.survey is None:
                self.survey = Survey(self.run, self.plan, self.tell)
                for earlier in self.survey.chosen():
                    if earlier != path:
                        self.survey.look(earlier)
            if path in self.survey.chosen():
                self.survey.look(path)

    def on_end(self) -> None:
        if self.survey is not None:
            try:
                if (self.run / "summary.json").exists():
                    self.survey.finish()
            finally:
                self.survey.close()


def along(run: Path, config: RunConfig, tell: Tell | None = None) -> LandscapeCallback:
    """The callback for a run that keeps snapshots.

    Raises:
        BadInputError: it keeps none, or learns a task.
    """
    refuse_tasks(config)
    require(config.training.snapshots > 0, "training.snapshots", 0, "at least 2 for a landscape along the run, such as 40")
    return LandscapeCallback(run, plan_of(run, config), tell)
