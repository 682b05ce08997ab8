"""The landscape of one run: every part that its plan asks for, at the run's snapshots, resumable at every record.

After the fact from the folder (`survey`), or while the run goes on (`thalweg.survey.callback`).
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from thalweg.data.batches import Data
from thalweg.data.markov_data import MarkovConfig
from thalweg.data.pointers import PointersConfig, PointersData
from thalweg.data.task_data import TaskConfig, TaskData
from thalweg.data.text import TextConfig
from thalweg.errors import (
    BadInputError,
    DamagedFileError,
    DamagedRecordWarning,
    FolderError,
    InsufficientDataError,
    ThalwegError,
    require,
)
from thalweg.landscape.probe import LandscapeProbe
from thalweg.records.landscape import (
    KINDS,
    LandscapePlan,
    LandscapeSummary,
    NoteRecord,
    ReplayRecord,
    RunLandscape,
    SplitRecord,
    arrays_bytes,
    broken_arrays,
    plan_in,
    read_landscape,
    spectrum_path,
)
from thalweg.records.run import RunSummary, provenance, recorded
from thalweg.serialization import to_dict
from thalweg.storage import (
    Journal,
    atomic_stream,
    journal_lines,
    lines_of,
    locked,
    read_journal,
    read_json,
    set_aside,
    there,
    write_json,
)
from thalweg.survey.length_scores import score_lengths
from thalweg.survey.measurements import align, planes, replayed, theorems
from thalweg.survey.replay import replay
from thalweg.survey.snapshot import Snapshot, gauge_pairs, place_of
from thalweg.train.assemble import choose_device, make_data, make_model
from thalweg.train.checkpoint import checkpoints, read_checkpoint, step_of
from thalweg.train.config import RunConfig
from thalweg.train.failures import recording_failure
from thalweg.train.run_folder import config_in

Tell = Callable[[int, int, str], None]
"""Called with (parts done, parts in all, what is measured now)."""


class Survey:
    """Measures, writes down, and knows what is there already.

    Args:
        run: folder of the run.
        plan: what is measured.
        tell: see `Tell`.
    Raises:
        FolderError: no run, a landscape with another plan, or another process measures it.
    """

    def __init__(self, run: Path, plan: LandscapePlan, tell: Tell | None = None) -> None:
        self.run, self.plan, self.tell = run, plan, tell
        self.config = config_of(run)
        self.folder = run / "landscape"
        with ExitStack() as opened:
            opened.enter_context(locked(self.folder, "landscape"))
            path = self.folder / "journal.jsonl"
            lines = mended(path)
            begun = claim(self.folder, plan, lines)
            self.prepare(lines)  # refuses what cannot be measured before anything is written
            if not begun:
                write_json(self.folder / "plan.json", to_dict(plan))
            self.journal = Journal(path, _whole_bytes(path))
            opened.callback(self.journal.close)
            if not lines:
                self.journal.append({"type": "plan", "plan": to_dict(plan)})
            self.forget_broken()
            self.opened = opened.pop_all()

    def forget_broken(self) -> None:
        """Measure a part again whose arrays are damaged or missing."""
        found = read_landscape(self.run)
        for path, part in broken_arrays(found).items() if found else ():
            if part in self.done:
                warnings.warn(
                    f"damaged arrays {path}: {part[0]} at step {part[1]} are measured again", DamagedRecordWarning, stacklevel=2
                )
            self.done.discard(part)
            if there(path) and not path.is_file():
                set_aside(path)

    def prepare(self, lines: list[dict[str, Any]]) -> None:
        """Everything that measures, given the journal so far."""
        plan = self.plan
        self.done = {(line["part"], line["step"]) for line in lines if line["type"] == "cost"}
        self.written = {identity(line) for line in lines if line["type"] != "plan"}
        self.counted = 0
        self.device = choose_device(self.config.training.device)
        data = make_data(self.config)
        assert not isinstance(data, TaskData | PointersData)  # `config_of` refuses them
        self.data: Data = data
        self.model = make_model(self.config).to(self.device)
        tokens = self.data.evaluation[0].tokens
        most = f"at most the {len(tokens)} training sequences that the run scores"
        require(plan.sequences <= len(tokens), "sequences", plan.sequences, most)
        self.batch = torch.from_numpy(tokens[: plan.sequences]).to(self.device)
        self.unreadable: dict[Path, bool] = {}
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

    def place(self, path: Path) -> Snapshot:
        """The model with a snapshot's weights, passes and gains."""
        return place_of(path, self.config, self.model, self.batch)

    def look(self, path: Path) -> None:
        """Spectrum and alignment at one snapshot, unless they are there."""
        step = step_of(path)
        before, self.last = self.last, path
        if ("spectra", step) not in self.done:
            if before is not None and self.seen != before:  # measured by an earlier process
                earlier = self.place(before)
                self.probe.remember(earlier.loss, earlier.model, [earlier.batch], step=earlier.step)
            with self.part("spectra", step):
                self.write_point(self.place(path))
            self.seen = path
        if self.plan.alignment and self.loops > 1 and ("alignment", step) not in self.done:
            with self.part("alignment", step):
                self.record("alignment", align(self.place(path), self.loops))

    def write_point(self, place: Snapshot) -> None:
        """The record of one point, after its spectrum is on the disk."""
        found = self.probe.measure(place.loss, place.model, [place.batch], step=place.step)
        spectrum = self.probe.spectrum
        assert spectrum is not None
        tensors = {name: values.cpu().numpy() for name, values in spectrum.tensors().items()}
        atomic_stream(spectrum_path(self.folder, place.step), [arrays_bytes(tensors)])
        self.record("point", replace(found, loops=place.passes.loops))

    def record(self, kind: str, found: Any) -> None:
        """One line of the journal, unless it is there: a part may have been cut before it was known to be done."""
        line = {"type": kind} | to_dict(found)
        if identity(line) not in self.written:
            self.journal.append(line)

    @contextmanager
    def part(self, part: str, step: int) -> Iterator[None]:
        """Time a part; what the input cannot give becomes a note, so that one point never costs a run its landscape."""
        started = time.perf_counter()
        self.say(f"{part} at step {step}")
        try:
            yield
        except ThalwegError as error:
            if error.exit_code != 2 or isinstance(error, FolderError):
                raise
            self.record("note", NoteRecord(step, part, " ".join(str(error).split())))
        self.journal.append({"type": "cost", "part": part, "step": step, "seconds": time.perf_counter() - started})
        self.done.add((part, step))
        self.counted += 1

    def say(self, words: str) -> None:
        """Tell how far it is."""
        if self.tell is not None:
            total = self.total
            self.tell(min(self.counted, total), total, words)

    @property
    def total(self) -> int:
        """Parts in all, as far as is known."""
        points = len(self.wanted())
        each = 2 if self.plan.alignment and self.loops > 1 else 1
        return points * each + 2 * self.plan.replays + (1 if self.plan.lengths else 0) + (1 if self.plan.slices else 0)

    def wanted(self) -> list[int]:
        """Steps that are looked at, evenly spread over the snapshots that the run keeps; also while some are still to come."""
        kept, there = checkpoints(self.run / "snapshots"), [step_of(path) for path in states(self.run)]
        steps = list(self.config.training.snapshot_steps) if kept else there
        count = self.plan.checkpoints
        if not count or len(steps) <= count:
            return steps
        return [steps[place] for place in sorted({round(index * (len(steps) - 1) / (count - 1)) for index in range(count)})]

    def chosen(self) -> list[Path]:
        """The states that are there and wanted, oldest first."""
        wanted = set(self.wanted())
        return [path for path in states(self.run) if step_of(path) in wanted and self.readable(path)]

    def readable(self, path: Path) -> bool:
        """Whether a state can be read; one that cannot is named once, and left out."""
        if path not in self.unreadable:
            try:
                read_checkpoint(path)
                self.unreadable[path] = False
            except DamagedFileError as error:
                warnings.warn(f"{error}; it is left out of the landscape", DamagedRecordWarning, stacklevel=2)
                self.unreadable[path] = True
        return not self.unreadable[path]

    def finish(self) -> LandscapeSummary:
        """Replays, theorems, lengths and slices, then the summary; the run must be complete.

        Raises:
            FolderError: it is not.
        """
        path = self.run / "summary.json"
        if not path.exists():
            raise FolderError(f"run {self.run}: not complete; its end is measured when it is: train it first, then ask again")
        chosen = self.chosen()
        if not chosen:
            raise DamagedFileError(f"run {self.run}: none of its snapshots and checkpoints can be read; train it again")
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
        self.journal.check()
        write_json(self.folder / "summary.json", to_dict(summary))
        return summary

    def replays(self, chosen: list[Path]) -> None:
        """Windows of training gone over again, and the theorems beside gradient descent from the same places."""
        found = read_landscape(self.run)
        points = {point.step: point for point in found.points} if found else {}
        first = points[min(points)].gradient_norm if points else 1.0
        for path in replayed(chosen, self.plan.replays, self.plan.window, self.config.training.steps):
            step, earlier = step_of(path), chosen[chosen.index(path) - 1]
            point = points.get(step)
            if ("replays", step) not in self.done:
                with self.part("replays", step):
                    self.record("replay", self.replay(self.place(path), first, point.split if point else None))
            exact = point is not None and point.how == "exact"
            if ("theorems", step) not in self.done and exact and earlier != path:
                with self.part("theorems", step):
                    self.record("theorems", theorems(self.place, earlier, path, self.plan))

    def ends(self, chosen: list[Path]) -> None:
        """What is asked of the run's end: other lengths, and planes of the loss."""
        last = chosen[-1]
        if self.plan.lengths and ("lengths", step_of(last)) not in self.done:
            with self.part("lengths", step_of(last)):
                here = self.place(last)
                loops, gains, multiples = here.passes.loops, here.passes.gains, self.plan.lengths
                for found in score_lengths(here.model, self.config, self.data, loops, here.step, multiples, gains=gains):
                    self.record("length", found)
        if self.plan.slices and ("slices", step_of(last)) not in self.done:
            with self.part("slices", step_of(last)):
                for found in planes(self.place, chosen, self.folder):
                    self.record("slice", found)

    def replay(self, place: Snapshot, first: float, split: SplitRecord | None) -> ReplayRecord:
        """One window, judged with the class of the valley that was found where it begins."""
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
        """Give journal and folder back."""
        self.opened.close()


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
    there = states(run)
    if not there:
        advice = f"expected snapshots; train it with --set training.snapshots=40 (it was {config.training.snapshots})"
        raise FolderError(f"run {run}: no snapshots and no checkpoints in it; {advice}")
    if plan.checkpoints > len(there):
        raise InsufficientDataError(
            f"run {run}: asked for {plan.checkpoints} checkpoints, it has {len(there)}; ask for fewer, or train with "
            f"--set training.snapshots={plan.checkpoints}"
        )
    if whole(run):
        claim(run / "landscape", plan, read_journal(run / "landscape" / "journal.jsonl"))
    else:
        with recording_failure(run / "landscape"):
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


def claim(folder: Path, plan: LandscapePlan, lines: Sequence[dict[str, Any]] = ()) -> bool:
    """Whether the landscape in a folder was begun with this plan; False for one that was not begun.

    Args:
        folder: of the landscape.
        plan: what is to be measured.
        lines: of its journal, which tells the plan where plan.json does not.
    Raises:
        FolderError: it was begun with another plan.
        DamagedFileError: something was measured, and nothing tells with which plan.
    """
    path = folder / "plan.json"
    if not there(path) and not lines:
        return False
    if not lines and not _readable_plan(path):  # nothing was measured with it
        set_aside(path)
        return False
    if plan_in(folder, lines) != plan:
        raise FolderError(
            f"landscape {folder}: begun with another plan (plan.json); give the same options, or move the folder away"
        )
    if not _readable_plan(path):
        if there(path):
            set_aside(path)
        write_json(path, to_dict(plan))
    return True


def _readable_plan(path: Path) -> bool:
    """Whether plan.json is there and tells a plan."""
    try:
        recorded(LandscapePlan, read_json(path), path)
    except DamagedFileError:
        return False
    return True


def whole(run: Path) -> bool:
    """Whether a landscape is complete and every file of it is as it was written.

    A summary of one that is not is put aside: what is missing is measured, and then it is written again.
    """
    path = run / "landscape" / "summary.json"
    if not there(path):
        return False
    try:
        found = read_landscape(run)
        why = "not all that it counts is there" if not found or found.summary is None or _is_short(found) else ""
    except DamagedFileError as error:
        why = str(error).partition(";")[0]
    if why:
        warnings.warn(f"landscape {path.parent}: {why}; what is missing is measured again", DamagedRecordWarning, stacklevel=2)
        set_aside(path)
    return not why


def _is_short(found: RunLandscape) -> bool:
    """Whether a landscape with a summary has fewer points than that says, or arrays that cannot be read."""
    return found.summary is None or len(found.points) != found.summary.points or bool(broken_arrays(found))


def mended(path: Path) -> list[dict[str, Any]]:
    """The intact records of a landscape's journal; a damaged file is kept beside the one that is written anew.

    The part that a damaged line may belong to is measured again: the next line that says that a part is done is left out.
    """
    kept, why = intact(path)
    if why:
        aside = set_aside(path)
        atomic_stream(path, [(json.dumps(record) + "\n").encode() for record in kept])
        words = f"damaged record {path}: {why}; {len(kept)} records are kept, the rest is measured again"
        warnings.warn(f"{words}; what was there is kept as {aside.name}", DamagedRecordWarning, stacklevel=2)
    return kept


def intact(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The intact records of a landscape's journal, and what is wrong with the others, in words or nothing."""
    if not there(path):
        return [], ""
    kept: list[dict[str, Any]] = []
    bad, doubtful = 0, False
    try:
        for _, record in journal_lines(path):
            if record is None or not _is_record(record, path):
                bad, doubtful = bad + 1, True
            elif doubtful and record["type"] == "cost":
                doubtful = False
            else:
                kept.append(record)
    except DamagedFileError as error:
        return kept, str(error).partition(";")[0]
    return kept, f"{bad} of its lines are damaged" if bad else ""


def _is_record(line: dict[str, Any], path: Path) -> bool:
    """Whether a line is one that a landscape's journal has."""
    kind, values = line.get("type"), {key: value for key, value in line.items() if key != "type"}
    if kind == "cost":
        return isinstance(line.get("part"), str) and isinstance(line.get("step"), int) and isinstance(line.get("seconds"), float)
    try:
        recorded(*((LandscapePlan, line.get("plan")) if kind == "plan" else (KINDS[str(kind)][1], values)), path)
    except (DamagedFileError, KeyError):
        return False
    return True


def _whole_bytes(path: Path) -> int:
    """Bytes of a journal up to the end of its last whole line."""
    if not there(path):
        return 0
    return sum(len(line) for line in lines_of(path, path.stat().st_size) if line.endswith(b"\n"))


def states(run: Path) -> list[Path]:
    """The full states that a run has kept, oldest first: snapshots, or checkpoints where there are none."""
    return checkpoints(run / "snapshots") or checkpoints(run / "checkpoints")


def plan_of(run: Path, config: RunConfig | None = None) -> LandscapePlan:
    """The plan of a landscape that was begun, or the default one for a run of this config (None reads it)."""
    folder = run / "landscape"
    lines, _ = intact(folder / "journal.jsonl")
    if lines or _readable_plan(folder / "plan.json"):
        return plan_in(folder, lines)
    data = (config or config_of(run)).data
    scored = LandscapePlan.sequences
    if isinstance(data, TextConfig | MarkovConfig):
        scored = data.windows if isinstance(data, TextConfig) else data.scored or data.sequences
    return LandscapePlan(sequences=min(LandscapePlan.sequences, max(scored, 2)))


def config_of(run: Path) -> RunConfig:
    """The config of a run's folder.

    Raises:
        FolderError: there is none.
        BadInputError: it learns a task, whose landscape is not measured.
    """
    config = config_in(run)
    refuse_tasks(config)
    return config


def refuse_tasks(config: RunConfig) -> None:
    """The landscape of a task is not measured: its samples have loops of their own."""
    if isinstance(config.data, TaskConfig | PointersConfig):
        raise BadInputError("landscape: given a run on a task, expected one on the Markov language or on text")


def identity(line: dict[str, Any]) -> tuple[Any, ...]:
    """What no two records of a landscape share."""
    return line["type"], line.get("step"), line.get("multiple"), line.get("name"), line.get("part")
