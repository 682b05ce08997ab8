"""A training callback that measures the landscape of a run while it is trained."""

from __future__ import annotations

from pathlib import Path

import torch

from thalweg import ranks
from thalweg.errors import require
from thalweg.records.landscape import LandscapePlan
from thalweg.survey.files import plan_of, refuse_tasks
from thalweg.survey.survey import Progress, Survey
from thalweg.train.callbacks import Callback
from thalweg.train.config import RunConfig


class LandscapeCallback(Callback):
    """Measure the landscape of a run at each of its snapshots, as soon as the snapshot is written.

    Where a safety net may take updates back, snapshots are replaced by those of the next try, so all are measured at the end.

    On several ranks every rank has one; all of them must see the folder of the run.

    Args:
        run: folder of the run; its config must ask for ``training.snapshots``.
        plan: what is measured.
        progress: see `thalweg.survey.survey.Progress`.
        late: whether all snapshots are measured at the end.
    """

    def __init__(self, run: Path, plan: LandscapePlan, progress: Progress | None = None, late: bool = False) -> None:
        self.run, self.plan, self.progress, self.late = run, plan, progress, late
        self.survey: Survey | None = None

    def on_snapshot(self, path: Path) -> None:
        if self.late:
            return
        with torch.random.fork_rng():  # so that measuring does not change the training
            if self.survey is None:
                self.survey = Survey(self.run, self.plan, self.progress)
                # Snapshots that a process before this one left unmeasured come first.
                self.survey.measure_snapshots([earlier for earlier in self.survey.selected_states() if earlier != path])
            if path in self.survey.selected_states():
                self.survey.measure_snapshots([path])

    def on_end(self) -> None:
        if self.late and (self.run / "summary.json").exists():
            with torch.random.fork_rng():
                self.survey = Survey(self.run, self.plan, self.progress)
                self.survey.measure_snapshots(self.survey.selected_states())
        if self.survey is not None:
            try:
                if (self.run / "summary.json").exists():
                    self.survey.finish()
            finally:
                self.survey.close()


def along(run: Path, config: RunConfig, progress: Progress | None = None) -> LandscapeCallback:
    """The landscape callback for a run, with the plan that its folder holds or the default one.

    Raises:
        BadInputError: the run keeps no snapshots, or learns an algorithmic task.
    """
    refuse_tasks(config)
    require(config.training.snapshots > 0, "training.snapshots", 0, "at least 2 for a landscape along the run, such as 40")
    with ranks.together():
        plan = plan_of(run, config) if ranks.rank() == 0 else None
    plan = ranks.same(plan)
    assert plan is not None
    return LandscapeCallback(run, plan, progress, late=config.shift.net.tries > 0)
