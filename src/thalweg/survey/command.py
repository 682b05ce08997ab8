"""The command `landscape`: measures with a progress bar, draws the figures, and prints a table or JSON."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.table import Table

from thalweg import ranks
from thalweg.errors import plural
from thalweg.records.landscape import LandscapePlan, LandscapeRecord, RunLandscape, read_landscape
from thalweg.report.landscape.figures import run_figures
from thalweg.screen import Screen, complain, progress_bar, say, say_json
from thalweg.serialization import to_dict
from thalweg.storage import there
from thalweg.survey.files import config_of, plan_of
from thalweg.survey.survey import survey
from thalweg.train.callbacks import Tenths

FEW = 3
"""Smallest number of points for curves: the plane through the trajectory needs three."""
_ROWS = 12
"""Most points shown in the printed table."""


def measure_landscape(run: Path, plan: LandscapePlan | None, threads: int, as_json: bool) -> None:
    """Measure a run's landscape, write its figures, and print a table of the points; on several ranks, rank 0 draws and prints.

    Args:
        run: folder of a complete run.
        plan: what is measured; None takes the plan of a landscape that was begun, else the default plan.
        threads: CPU threads; 0 leaves PyTorch's own choice.
        as_json: print all records as JSON instead of the table.
    """
    if threads:
        torch.set_num_threads(threads)
    with ranks.together():
        chosen = plan or plan_of(run)
    landscape = _measure_with_progress(run, ranks.same(chosen))
    if ranks.rank() > 0:
        return
    figures = run_figures(landscape, caption(landscape))
    if as_json:
        say_json(to_dict(landscape) | {"folder": str(landscape.folder)})
        return
    show(landscape)
    count = len(landscape.points)
    if count < FEW:
        advice = "train it with --set training.snapshots=12 or more (phases of learning need 40)"
        complain(f"landscape of {run}: {plural(count, 'point')}, its figures need at least {FEW} to be curves; {advice}")
    names = sorted(path.stem for path in figures if path.suffix == ".png")
    say(f"figures: {', '.join(names)} in {landscape.folder / 'figures'}")


def _measure_with_progress(run: Path, plan: LandscapePlan) -> RunLandscape:
    """Measure with a progress bar on a terminal, and with plain lines elsewhere; the other ranks show nothing."""
    if ranks.rank() > 0:
        return survey(run, plan)
    console = Screen(stderr=True)
    tenths = Tenths(console)
    with progress_bar(console) as bar:
        task = bar.add_task("landscape", total=None, note="")

        def progress(done: int, total: int, part: str) -> None:
            bar.update(task, completed=done, total=total, note=part)
            tenths(done / total, f"landscape: {done} of {total} parts, {part}")

        return survey(run, plan, progress)


def caption(landscape: RunLandscape) -> str:
    """The set-up of a run and of its measurement in one sentence, for the figures."""
    config = config_of(landscape.folder.parent)
    model, plan = config.model, landscape.plan
    version = f"{landscape.summary.provenance.version} ({landscape.summary.provenance.commit})" if landscape.summary else ""
    methods = sorted({point.how for point in landscape.points})
    return (
        f"{config.arm}, seed {config.seed}: {model.block} block, width {model.width}, {model.attention} attention, "
        f"{model.positions} positions, {config.shift.stages[-1]} passes; {config.training.steps} updates at rate "
        f"{config.optimizer.rate:g}; curvature on {plan.sequences} training sequences, {' and '.join(methods)}, {plan.dtype}; "
        f"thalweg {version}"
    )


def show(landscape: RunLandscape) -> None:
    """Print a table of the points, the verdicts on the replays, and what could not be measured."""
    console = Screen(wide=160)
    table = Table(title=f"landscape of {landscape.folder.parent.name}", title_justify="left")
    for heading in ("step", "how", "loss", "largest", "smallest", "entropy", "epsilon", "river", "valley", "ridge", "class"):
        table.add_column(heading, justify="left" if heading in ("how", "class") else "right")
    points = landscape.points
    if len(points) > _ROWS:
        points = [points[index] for index in sorted({round(k * (len(points) - 1) / (_ROWS - 1)) for k in range(_ROWS)})]
    for point in points:
        table.add_row(*_table_row(point))
    console.print(table)
    for window in landscape.replays:
        verdicts = (
            _decided(window.hops, window.shown_not("hopping"), "hops between valley walls", "does not hop"),
            _decided(window.flows, window.shown_not("river"), "flows along the river", "does not flow"),
            _decided(window.trapped, window.shown_not("trapped"), "is trapped", "is not trapped"),
        )
        console.say(f"window from step {window.step}: {', '.join(verdicts)}; hopping drives the river: {window.ablation}")
    for note in landscape.notes:
        console.say(f"not measured, {note.part} at step {note.step}: {note.words}")
    if landscape.summary:
        spent, training = landscape.summary.seconds, landscape.summary.training_seconds
        console.say(f"{spent:.1f} s for the landscape" + (f", {training:.1f} s for training" if training else ""))


def _decided(yes: bool, no: bool, words: str, opposite: str) -> str:
    """A decision in words: that something holds, that it does not, or that neither is shown."""
    return words if yes else opposite if no else f"whether it {words} is undecided"


def _table_row(point: LandscapeRecord) -> tuple[str, ...]:
    """The cells of one point in the printed table."""
    entropy = f"{point.entropy.value:.3f}" + (f" +- {point.entropy.error:.3f}" if point.entropy.error else "")
    cells = (str(point.step), point.how, f"{point.loss:.4f}", f"{point.largest[0]:.4g}", f"{point.smallest:.4g}", entropy)
    split = point.split
    if split is None:
        return (*cells, "-", "-", "-", "-", "-")
    return (*cells, f"{split.epsilon:.3g}", str(split.river), str(split.valley), str(split.ridge), split.name)


def figures_of_series(folder: Path) -> bool:
    """Draw the landscape that was measured along a training with another library, and print it.

    Args:
        folder: of the training.
    Returns:
        False if the folder holds no such landscape: it has none, or a config of thalweg's own trainer.
    """
    if there(folder / "config.toml") or not there(folder / "landscape" / "plan.json"):
        return False
    landscape = read_landscape(folder)
    if landscape is None:
        return False
    show(landscape)
    for path in run_figures(landscape, f"Measured along the training in {folder.name}."):
        Screen(wide=160).say(str(path))
    return True
