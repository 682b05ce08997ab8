"""The landscape of one run: every part that its plan asks for, at the run's snapshots, resumable at every record.

Along a run as a callback (`LandscapeCallback`), or after the fact from the folder (`survey`).

"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from thalweg.errors import FolderError, InsufficientDataError, ThalwegError, require
from thalweg.landscape.probe import LandscapeProbe
from thalweg.landscapes import (
    LandscapePlan,
    LandscapeRecord,
    LandscapeSummary,
    NoteRecord,
    ReplayRecord,
    RunLandscape,
    read_landscape,
    spectrum_path,
)
from thalweg.plain import to_dict
from thalweg.records import RunSummary, provenance, recorded
from thalweg.storage import Journal, atomic_stream, locked, read_journal, read_json, write_json
from thalweg.train.assemble import choose_device, make_data, make_model
from thalweg.train.callbacks import Callback
from thalweg.train.checkpoint import checkpoints
from thalweg.train.config import RunConfig, read_config
from thalweg.train.lengths import score_lengths
from thalweg.train.parts import align, planes, replayed, theorems
from thalweg.train.place import Place, gauge_pairs, place_of, step_of
from thalweg.train.replay import replay

Tell = Callable[[int, int, str], None]
"""Called with (parts done, parts in all, what is measured now)."""


class Survey:
    """Measures, writes down, and knows what is there already.

    Args:
        run: folder of the run.
        plan: what is measured.
        tell: see `Tell`.
    Raises:
        FolderError: no run, or a landscape with another plan.
    """

    def __init__(self, run: Path, plan: LandscapePlan, tell: Tell | None = None) -> None:
        self.run, self.plan, self.tell = run, plan, tell
        self.config = config_of(run)
        self.folder = run / "landscape"
        claim(self.folder, plan)
        path = self.folder / "journal.jsonl"
        whole = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
        lines = read_journal(path) if path.exists() else []
        self.journal = Journal(path, whole)
        self.done = {key(line) for line in lines} | {(line["part"], line["step"]) for line in lines if line["type"] == "cost"}
        self.written = {identity(line) for line in lines}
        self.counted = 0
        self.device = choose_device(self.config.training.device)
        self.data = make_data(self.config)
        self.model = make_model(self.config).to(self.device)
        self.batch = torch.from_numpy(self.data.evaluation[0].tokens[: plan.sequences]).to(self.device)
        names = [name for name, _ in self.model.named_parameters()]
        self.probe = LandscapeProbe(
            top=plan.top,
            lanczos=plan.lanczos,
            probes=plan.probes,
            exact_seconds=plan.exact_seconds,
            dtype=getattr(torch, plan.dtype),
            method=next((line["how"] for line in lines if line["type"] == "point"), "auto"),
            pairs=gauge_pairs(names),
            heads=self.config.model.heads,
            rotary=self.config.model.positions == "rotary",
            matrices=plan.checkpoints or max(1, self.config.training.snapshots),
        )
        self.last: Path | None = None
        self.seen: Path | None = None

    @property
    def loops(self) -> int:
        """T of Looped, for the alignment."""
        return self.plan.loops or self.config.shift.stages[-1]

    def place(self, path: Path) -> Place:
        """The model with a snapshot's weights, passes and gains."""
        return place_of(path, self.config, self.model, self.batch)

    def look(self, path: Path) -> None:
        """Spectrum and alignment at one snapshot, unless they are there."""
        step = step_of(path)
        before, self.last = self.last, path
        if ("point", step) not in self.done:
            if before is not None and self.seen != before:  # measured by an earlier process
                earlier = self.place(before)
                self.probe.remember(earlier.loss, earlier.model, [earlier.batch], step=earlier.step)
            with self.part("spectra", "point", step):
                self.write_point(self.place(path))
            self.seen = path
        if self.plan.alignment and self.loops > 1 and ("alignment", step) not in self.done:
            with self.part("alignment", "alignment", step):
                self.record("alignment", align(self.place(path), self.loops))

    def write_point(self, place: Place) -> None:
        """The record of one point, after its spectrum is on the disk."""
        found: LandscapeRecord = self.probe.measure(place.loss, place.model, [place.batch], step=place.step)
        values, spectrum = to_dict(found) | {"loops": place.loops}, self.probe.spectrum
        assert spectrum is not None
        atomic_stream(spectrum_path(self.folder, place.step), [save(spectrum.tensors())])
        self.journal.append({"type": "point"} | values)

    def record(self, kind: str, found: Any) -> None:
        """One line of the journal."""
        line = {"type": kind} | to_dict(found)
        if identity(line) not in self.written:  # a part of several records may have been cut in the middle
            self.journal.append(line)

    def note(self, step: int, part: str, words: str) -> None:
        """Write down what could not be measured."""
        self.record("note", NoteRecord(step, part, " ".join(words.split())))

    @contextmanager
    def part(self, part: str, kind: str, step: int) -> Iterator[None]:
        """Time a part; what the input cannot give becomes a note, so that one point never costs a run its landscape."""
        started = time.perf_counter()
        self.say(f"{part} at step {step}")
        try:
            yield
        except ThalwegError as error:
            if error.exit_code != 2 or isinstance(error, FolderError):
                raise
            self.note(step, kind, str(error))
        self.journal.append({"type": "cost", "part": part, "step": step, "seconds": time.perf_counter() - started})
        self.done.add((kind, step))
        self.counted += 1

    def say(self, words: str) -> None:
        """Tell how far it is."""
        if self.tell is not None:
            self.tell(min(self.counted, self.total), self.total, words)

    @property
    def total(self) -> int:
        """Parts in all, as far as is known."""
        points = len(self.chosen())
        each = 2 if self.plan.alignment and self.loops > 1 else 1
        return points * each + 2 * self.plan.replays + (1 if self.plan.lengths else 0) + (1 if self.plan.slices else 0)

    def chosen(self) -> list[Path]:
        """The snapshots that are there and wanted, oldest first."""
        there = checkpoints(self.run / "snapshots") or checkpoints(self.run / "checkpoints")
        wanted = self.plan.checkpoints
        if not wanted or len(there) <= wanted:
            return there
        places = {round(index * (len(there) - 1) / (wanted - 1)) for index in range(wanted)}
        return [path for number, path in enumerate(there) if number in places]

    def finish(self) -> LandscapeSummary:
        """Replays, theorems, lengths and slices, then the summary; the run must be complete.

        Raises:
            FolderError: it is not.
        """
        path = self.run / "summary.json"
        if not path.exists():
            raise FolderError(f"run {self.run}: not complete; its end is measured when it is: train it first, then ask again")
        chosen = self.chosen()
        self.replays(chosen)
        self.ends(chosen)
        ended = recorded(RunSummary, read_json(path), path)
        lines = read_journal(self.folder / "journal.jsonl")
        parts: dict[str, float] = {}
        for line in lines:
            if line["type"] == "cost":
                parts[line["part"]] = parts.get(line["part"], 0.0) + line["seconds"]
        points = [line for line in lines if line["type"] == "point"]
        summary = LandscapeSummary(
            points=len(points),
            exact=sum(line["how"] == "exact" for line in points),
            products=sum(line["products"] for line in points),
            seconds=sum(parts.values()),
            training_seconds=ended.seconds,
            provenance=provenance(str(self.device), self.plan.dtype, torch.get_num_threads(), torch.__version__),
            parts=parts,
        )
        write_json(self.folder / "summary.json", to_dict(summary))
        return summary

    def replays(self, chosen: list[Path]) -> None:
        """Windows of training gone over again, and the theorems beside gradient descent from the same places."""
        steps = self.config.training.steps
        first = float(self.points[0].gradient_norm) if self.points else 1.0
        for path in replayed(chosen, self.plan.replays, self.plan.window, steps):
            step = step_of(path)
            if ("replay", step) not in self.done:
                with self.part("replays", "replay", step):
                    self.record("replay", self.replay(self.place(path), first))
            earlier = chosen[chosen.index(path) - 1]
            if ("theorems", step) not in self.done and self.exact(step) and earlier != path:
                with self.part("theorems", "theorems", step):
                    self.record("theorems", theorems(self.place, earlier, path, self.plan))

    def ends(self, chosen: list[Path]) -> None:
        """What is asked of the run's end: other lengths, and planes of the loss."""
        last = chosen[-1]
        if self.plan.lengths and ("lengths", step_of(last)) not in self.done:
            with self.part("lengths", "length", step_of(last)):
                here = self.place(last)
                multiples = self.plan.lengths
                for found in score_lengths(here.model, self.config, self.data, here.loops, here.step, multiples, gains=here.gains):
                    self.record("length", found)
        if self.plan.slices and ("slices", step_of(last)) not in self.done:
            with self.part("slices", "slice", step_of(last)):
                for found in planes(self.place, chosen, self.folder / "slices"):
                    self.record("slice", found)

    @property
    def points(self) -> tuple[LandscapeRecord, ...]:
        """The points on the disk."""
        found = read_landscape(self.run)
        return found.points if found else ()

    def exact(self, step: int) -> bool:
        """Whether the spectrum at a step is exact."""
        return any(point.step == step and point.how == "exact" for point in self.points)

    def replay(self, place: Place, first: float) -> ReplayRecord:
        """One window, judged with the class of the valley that was found where it begins."""
        split = next((point.split for point in self.points if point.step == place.step), None)
        return replay(
            self.config,
            place.checkpoint,
            place.batch,
            data=self.data,
            window=self.plan.window,
            top=self.plan.top,
            first_gradient=first,
            valley_class=split.name if split else "indeterminate",
            epsilon=split.epsilon if split else None,
        )

    def close(self) -> None:
        """Give the journal back."""
        self.journal.close()


class LandscapeCallback(Callback):
    """A landscape measured while the run goes on, at each of its snapshots.

    Args:
        run: folder of the run; its config must ask for ``training.snapshots``.
        plan: what is measured.
    """

    def __init__(self, run: Path, plan: LandscapePlan) -> None:
        self.run, self.plan = run, plan
        self.survey: Survey | None = None

    def on_snapshot(self, path: Path) -> None:
        with torch.random.fork_rng():  # measuring leaves no trace in training
            if self.survey is None:
                self.survey = Survey(self.run, self.plan)
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


def along(run: Path, config: RunConfig) -> LandscapeCallback:
    """The callback for a run that keeps snapshots.

    Raises:
        BadInputError: it keeps none.
    """
    require(config.training.snapshots > 0, "training.snapshots", 0, "at least 2 for a landscape along the run, such as 40")
    begun = read_landscape(run)
    return LandscapeCallback(run, begun.plan if begun else LandscapePlan())


def survey(run: Path, plan: LandscapePlan, tell: Tell | None = None) -> RunLandscape:
    """Measure the landscape of a run from its folder, or go on with it.

    Args:
        run: folder of a complete run with ``snapshots/`` (or at least ``checkpoints/``).
        plan: what is measured; the same as before when it was begun before.
        tell: see `Tell`.
    Raises:
        FolderError: no run, no snapshots, another plan, or another process measures it.
        InsufficientDataError: fewer snapshots than the plan asks for.
    """
    config = config_of(run)
    there = checkpoints(run / "snapshots") or checkpoints(run / "checkpoints")
    if not there:
        advice = f"expected snapshots; train it with --set training.snapshots=40 (it was {config.training.snapshots})"
        raise FolderError(f"run {run}: no snapshots and no checkpoints in it; {advice}")
    if plan.checkpoints > len(there):
        raise InsufficientDataError(
            f"run {run}: asked for {plan.checkpoints} checkpoints, it has {len(there)}; ask for fewer, or train with "
            f"--set training.snapshots={plan.checkpoints}"
        )
    with locked(run / "landscape", "landscape"):
        if (run / "landscape" / "summary.json").exists():
            claim(run / "landscape", plan)
        else:
            measure(Survey(run, plan, tell))
    found = read_landscape(run)
    assert found is not None
    return found


def measure(here: Survey) -> None:
    """All points in order, then the rest."""
    try:
        for path in here.chosen():
            here.look(path)
        here.finish()
    finally:
        here.close()


def claim(folder: Path, plan: LandscapePlan) -> None:
    """Write the plan into a new folder, or check that it is the same."""
    path = folder / "plan.json"
    if not path.exists():
        write_json(path, to_dict(plan))
    elif recorded(LandscapePlan, read_json(path), path) != plan:
        raise FolderError(
            f"landscape {folder}: begun with another plan (plan.json); give the same options, or move the folder away"
        )


def config_of(run: Path) -> RunConfig:
    """The config of a run's folder.

    Raises:
        FolderError: there is none.
    """
    if not (run / "config.toml").exists():
        raise FolderError(f"run {run}: there is no config.toml in it; expected the --out folder of `thalweg train`")
    return read_config(run / "config.toml")


def identity(line: dict[str, Any]) -> tuple[Any, ...]:
    """What no two records of a landscape share."""
    return line["type"], line.get("step"), line.get("multiple"), line.get("name"), line.get("part")


def key(line: dict[str, Any]) -> tuple[str, int]:
    """What a line of the journal says is done."""
    kind = line["part"] if line["type"] == "note" else line["type"]
    return kind, int(line.get("step", -1))
