"""What the command `landscape` does: a survey behind a progress bar, then figures, and a table on standard output."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.table import Table

from thalweg.records.landscape import LandscapePlan, LandscapeRecord, RunLandscape
from thalweg.report.landscape.figures import run_figures
from thalweg.screen import Screen, complain, progress_bar, say, say_json
from thalweg.serialization import to_dict
from thalweg.survey.survey import config_of, plan_of, survey
from thalweg.train.callbacks import Tenths

FEW = 3
"""Points below which a run has no curves: a line has two, and the plane of the trajectory three."""
_ROWS = 12
"""Points shown in the table; the journal has them all."""


def measure_landscape(run: Path, plan: LandscapePlan | None, threads: int, as_json: bool) -> None:
    """Measure a run's landscape, draw it, and say what was found.

    Args:
        run: folder of a complete run.
        plan: what is measured; None goes on with the plan that is there, or takes the default.
        threads: CPU threads; 0 leaves PyTorch's own choice.
        as_json: the whole landscape as JSON instead of a table.
    """
    if threads:
        torch.set_num_threads(threads)
    found = _surveyed(run, plan or plan_of(run))
    pictures = run_figures(found, caption(found))
    if as_json:
        say_json(to_dict(found) | {"folder": str(found.folder)})
        return
    show(found)
    if len(found.points) < FEW:
        advice = "train it with --set training.snapshots=12 or more (phases of learning need 40)"
        points = f"{len(found.points)} point{'' if len(found.points) == 1 else 's'}"
        complain(f"landscape of {run}: {points}, its figures need at least {FEW} to be curves; {advice}")
    names = sorted(path.stem for path in pictures if path.suffix == ".png")
    say(f"figures: {', '.join(names)} in {found.folder / 'figures'}")


def _surveyed(run: Path, plan: LandscapePlan) -> RunLandscape:
    """The survey with a bar on a terminal, plain lines elsewhere."""
    console = Screen(stderr=True)
    tenths = Tenths(console)
    with progress_bar(console) as bar:
        task = bar.add_task("landscape", total=None, note="")

        def tell(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total, note=words)
            tenths(done / total, f"landscape: {done} of {total} parts, {words}")

        return survey(run, plan, tell)


def caption(found: RunLandscape) -> str:
    """The set-up in a sentence."""
    config = config_of(found.folder.parent)
    model, plan = config.model, found.plan
    made = f"{found.summary.provenance.version} ({found.summary.provenance.commit})" if found.summary else ""
    ways = sorted({point.how for point in found.points})
    return (
        f"{config.arm}, seed {config.seed}: {model.block} block, width {model.width}, {model.attention} attention, "
        f"{model.positions} positions, {config.shift.stages[-1]} passes; {config.training.steps} updates at rate "
        f"{config.optimizer.rate:g}; curvature on {plan.sequences} training sequences, {' and '.join(ways)}, {plan.dtype}; "
        f"thalweg {made}"
    )


def show(found: RunLandscape) -> None:
    """A table of the points, decisions of the replays, and what was not measured."""
    console = Screen(wide=160)
    table = Table(title=f"landscape of {found.folder.parent.name}", title_justify="left")
    for heading in ("step", "how", "loss", "largest", "smallest", "entropy", "epsilon", "river", "valley", "ridge", "class"):
        table.add_column(heading, justify="left" if heading in ("how", "class") else "right")
    points = found.points
    kept = sorted({round(index * (len(points) - 1) / (_ROWS - 1)) for index in range(_ROWS)}) if len(points) > _ROWS else None
    for point in points if kept is None else [points[index] for index in kept]:
        table.add_row(*row(point))
    console.print(table)
    for window in found.replays:
        words = ("hops" if window.hops else "does not hop", "flows" if window.flows else "does not flow")
        state = ", ".join((*words, "trapped" if window.trapped else "not trapped"))
        console.say(f"window from step {window.step}: {state}; hopping drives the river: {window.ablation}")
    for note in found.notes:
        console.say(f"not measured, {note.part} at step {note.step}: {note.words}")
    if found.summary:
        spent, training = found.summary.seconds, found.summary.training_seconds
        console.say(f"{spent:.1f} s for the landscape" + (f", {training:.1f} s for training" if training else ""))


def row(point: LandscapeRecord) -> tuple[str, ...]:
    """One point in words."""
    entropy = f"{point.entropy.value:.3f}" + (f" +- {point.entropy.error:.3f}" if point.entropy.error else "")
    known = (str(point.step), point.how, f"{point.loss:.4f}", f"{point.largest[0]:.4g}", f"{point.smallest:.4g}", entropy)
    split = point.split
    if split is None:
        return (*known, "-", "-", "-", "-", "-")
    return (*known, f"{split.epsilon:.3g}", str(split.river), str(split.valley), str(split.ridge), split.name)
