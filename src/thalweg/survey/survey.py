"""The landscape of one run: every measurement of its plan, at the run's snapshots.

Measured afterwards from the run's folder (`survey`), or during training (`thalweg.survey.callback`). Every record goes into a
journal at once, so that an interrupted measurement resumes after its last record.

The unit of work is a *part* at a step, such as ("spectra", 100). A part is done when its "cost" line stands in the journal; the
records before that line are its results.

Under a process group all ranks make the same calls. Spectra are measured by all ranks together, with the batch shared out. Every
other part is measured by one rank alone, and the ranks take these parts in turn. All ranks read the folder; rank 0 alone locks it
and writes the journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from thalweg import ranks
from thalweg.data.batches import Data
from thalweg.data.pointers import PointersData
from thalweg.data.task_data import TaskData
from thalweg.errors import (
    DamagedFileError,
    DamagedRecordWarning,
    ElsewhereError,
    FolderError,
    InsufficientDataError,
    ThalwegError,
    require,
    warn,
)
from thalweg.landscape.probe import LandscapeProbe
from thalweg.records.landscape import (
    LandscapePlan,
    LandscapeSummary,
    LengthRecord,
    NoteRecord,
    ReplayRecord,
    RunLandscape,
    SplitRecord,
    arrays_bytes,
    broken_arrays,
    read_landscape,
    spectrum_path,
)
from thalweg.records.run import RunSummary, provenance, recorded
from thalweg.serialization import to_dict
from thalweg.storage import (
    Journal,
    atomic_stream,
    locked,
    read_journal,
    read_json,
    set_aside,
    there,
    write_json,
)
from thalweg.survey.files import claim, config_of, identity, repaired_journal, states, whole, whole_bytes
from thalweg.survey.length_scores import score_lengths
from thalweg.survey.measurements import align, planes, replay_starts, theorems
from thalweg.survey.replay import replay
from thalweg.survey.snapshot import Snapshot, gauge_pairs, read_snapshot
from thalweg.train.assemble import choose_device, make_data, make_model
from thalweg.train.checkpoint import checkpoints, read_checkpoint, step_of
from thalweg.train.failures import forget_failure, recording_failure

Progress = Callable[[int, int, str], None]
"""Called with (number of parts done, number of all parts, name of the part that is being measured)."""
_Measure = Callable[[], list[tuple[str, Any]]]
"""Measures a part and returns its records, each with its kind."""


class Survey:
    """Measures the landscape of a run part by part, and records which parts are done.

    Opening it locks the landscape's folder, repairs the journal and loads data and model; `close` releases the folder.

    Args:
        run: folder of the run.
        plan: what is measured.
        progress: see `Progress`.
    Raises:
        FolderError: the folder holds no run or a landscape with another plan, or another process is measuring it.
    """

    def __init__(self, run: Path, plan: LandscapePlan, progress: Progress | None = None) -> None:
        self.run, self.plan = run, plan
        self.first = ranks.rank() == 0
        self.progress = progress if self.first else None
        self.config = config_of(run)
        self.folder = run / "landscape"
        self.journal: Journal | None = None
        path = self.folder / "journal.jsonl"
        with ExitStack() as opened:
            lines, begun = [], False
            with ranks.together():
                if self.first:
                    opened.enter_context(locked(self.folder, "landscape"))
                    lines = repaired_journal(path)
                    begun = claim(self.folder, plan, lines)
            lines = ranks.same(lines)
            with ranks.together():
                self.prepare(lines)  # refuses what cannot be measured, before anything is written
            with ranks.together():
                if self.first:
                    if not begun:
                        write_json(self.folder / "plan.json", to_dict(plan))
                    self.journal = Journal(path, whole_bytes(path))
                    opened.callback(self.journal.close)
                    if not lines:
                        self.journal.append({"type": "plan", "plan": to_dict(plan)})
                    self.forget_damaged_parts()
            self.done = ranks.same(self.done)
            self.opened = opened.pop_all()

    def forget_damaged_parts(self) -> None:
        """Mark parts as not done whose array files are damaged or missing, so that they are measured again."""
        landscape = read_landscape(self.run)
        for path, part in broken_arrays(landscape).items() if landscape else ():
            if part in self.done:
                warn(f"damaged arrays {path}: {part[0]} at step {part[1]} are measured again", DamagedRecordWarning)
            self.done.discard(part)
            if there(path) and not path.is_file():
                set_aside(path)

    def prepare(self, lines: list[dict[str, Any]]) -> None:
        """Load data, model, fixed batch and probe; ``lines`` is the journal so far."""
        plan = self.plan
        self.done = {(line["part"], line["step"]) for line in lines if line["type"] == "cost"}
        self.written = {identity(line) for line in lines if line["type"] != "plan"}
        self.parts_done = 0
        self.device = choose_device(self.config.training.device)
        data = make_data(self.config)
        assert not isinstance(data, TaskData | PointersData)  # `config_of` refuses them
        self.data: Data = data
        self.model = make_model(self.config).to(self.device)
        tokens = self.data.evaluation[0].tokens
        most = f"at most the {len(tokens)} training sequences that the run scores"
        require(plan.sequences <= len(tokens), "sequences", plan.sequences, most)
        enough = f"at least one sequence for each of the {ranks.world()} ranks"
        require(plan.sequences >= ranks.world(), "sequences", plan.sequences, enough)
        self.batch = torch.from_numpy(tokens[: plan.sequences]).to(self.device)
        self.unreadable: dict[Path, bool] = {}
        names = [name for name, _ in self.model.named_parameters()]
        self.probe = LandscapeProbe(
            top=plan.top,
            lanczos=plan.lanczos,
            probes=plan.probes,
            exact_seconds=plan.exact_seconds,
            dtype=getattr(torch, plan.dtype),
            # A resumed landscape keeps the method of its first point, so that all of its spectra are comparable.
            method=next((line["how"] for line in lines if line["type"] == "point"), "auto"),
            pairs=gauge_pairs(names),
            heads=self.config.model.heads,
            rotary=self.config.model.positions == "rotary",
            matrices=plan.checkpoints or max(1, self.config.training.snapshots),
        )
        self.last: Path | None = None
        """Snapshot of the last call of `measure_snapshot`."""
        self.in_probe: Path | None = None
        """Snapshot that the probe remembers, for the change of the spectrum from it to the next one."""

    @property
    def loops(self) -> int:
        """Number of passes whose gradient is compared with that of one pass."""
        return self.plan.loops or self.config.shift.stages[-1]

    def snapshot(self, path: Path) -> Snapshot:
        """The model with the weights, passes and gains of a snapshot."""
        return read_snapshot(path, self.config, self.model, self.batch)

    def measure_snapshots(self, paths: Sequence[Path]) -> None:
        """Measure spectrum and alignment at snapshots, unless they are done; as many snapshots at a time as there are ranks."""
        for first in range(0, len(paths), ranks.world()):
            group = paths[first : first + ranks.world()]
            for path in group:
                self.measure_spectrum(path)
            if self.plan.alignment and self.loops > 1:
                self.measure_in_turn([("alignment", step_of(path), self.alignment_at(path)) for path in group])

    def measure_spectrum(self, path: Path) -> None:
        """Measure the spectrum at one snapshot, unless it is done; all ranks share the batch."""
        step = step_of(path)
        previous, self.last = self.last, path
        if ("spectra", step) in self.done:
            return
        if previous is not None and self.in_probe != previous:  # an earlier process measured it
            earlier = self.snapshot(previous)
            loss, rows = earlier.shared_out
            self.probe.remember(loss, earlier.model, [rows], step=earlier.step)
        with self.timed_part("spectra", step):
            self.record_point(self.snapshot(path))
        self.in_probe = path

    def alignment_at(self, path: Path) -> _Measure:
        """The measurement of the alignment at one snapshot."""
        return lambda: [("alignment", align(self.snapshot(path), self.loops))]

    def record_point(self, snapshot: Snapshot) -> None:
        """Measure the spectrum at a snapshot; write the arrays first, then the record that refers to them."""
        loss, rows = snapshot.shared_out
        point = self.probe.measure(loss, snapshot.model, [rows], step=snapshot.step)
        spectrum = self.probe.spectrum
        assert spectrum is not None
        if self.first:
            tensors = {name: values.cpu().numpy() for name, values in spectrum.tensors().items()}
            atomic_stream(spectrum_path(self.folder, snapshot.step), [arrays_bytes(tensors)])
        self.record("point", replace(point, loops=snapshot.passes.loops))

    def measure_in_turn(self, parts: Sequence[tuple[str, int, _Measure]]) -> None:
        """Measure the parts that are not done, each on one rank alone; rank r of W takes the parts r, r + W, ... of them.

        Args:
            parts: name of a part, step, and function that returns its records as pairs of kind and record.
        """
        left = [part for part in parts if part[:2] not in self.done]
        for first in range(0, len(left), ranks.world()):
            group = left[first : first + ranks.world()]
            self.report_progress(f"{group[0][0]} at step {group[0][1]}")
            own = group[ranks.rank()] if ranks.rank() < len(group) else None
            with ranks.together():
                measured = self.measured_alone(*own) if own else ([], 0.0)
            for (part, step, _), (records, seconds) in zip(group, ranks.gathered(measured), strict=False):
                for kind, result in records:
                    self.record(kind, result)
                self.mark_done(part, step, seconds)

    def measured_alone(self, part: str, step: int, measure: _Measure) -> tuple[list[tuple[str, Any]], float]:
        """The records of a part and its time, measured by this process without the others; a note in place of bad input."""
        started = time.perf_counter()
        try:
            with ranks.alone():
                records = measure()
        except ThalwegError as error:
            records = [("note", _note(error, part, step))]
        return records, time.perf_counter() - started

    def record(self, kind: str, result: Any) -> None:
        """Append a record to the journal, unless it is there: a process may have been killed between record and "cost" line."""
        line = {"type": kind} | to_dict(result)
        if self.journal is not None and identity(line) not in self.written:
            self.journal.append(line)

    @contextmanager
    def timed_part(self, part: str, step: int) -> Iterator[None]:
        """Time a part that all ranks measure together and mark it as done; bad input becomes a note, see `_note`."""
        started = time.perf_counter()
        self.report_progress(f"{part} at step {step}")
        try:
            yield
        except ThalwegError as error:
            note = _note(error, part, step)
            told = ranks.gathered(None if isinstance(error, ElsewhereError) else note)  # another rank may have the reason
            self.record("note", next((other for other in told if other is not None), note))
        self.mark_done(part, step, time.perf_counter() - started)

    def mark_done(self, part: str, step: int, seconds: float) -> None:
        """Append the "cost" line of a part."""
        if self.journal is not None:
            self.journal.append({"type": "cost", "part": part, "step": step, "seconds": seconds})
        self.done.add((part, step))
        self.parts_done += 1

    def report_progress(self, part: str) -> None:
        """Call ``progress`` with the name of the part that begins."""
        if self.progress is not None:
            total = self.total_parts
            self.progress(min(self.parts_done, total), total, part)

    @property
    def total_parts(self) -> int:
        """Number of all parts, as far as it is known; parts that cannot be measured are counted too."""
        per_point = 2 if self.plan.alignment and self.loops > 1 else 1
        ends = (1 if self.plan.lengths else 0) + (1 if self.plan.slices else 0)
        return len(self.selected_steps()) * per_point + 2 * self.plan.replays + ends

    def selected_steps(self) -> list[int]:
        """Steps to measure at: as many as the plan asks for, evenly spread over the snapshots, including those still to come."""
        has_snapshots = bool(checkpoints(self.run / "snapshots"))
        steps = list(self.config.training.snapshot_steps) if has_snapshots else [step_of(path) for path in states(self.run)]
        count = self.plan.checkpoints
        if not count or len(steps) <= count:
            return steps
        return [steps[index] for index in sorted({round(k * (len(steps) - 1) / (count - 1)) for k in range(count)})]

    def selected_states(self) -> list[Path]:
        """The files of the selected steps that exist and that rank 0 can read, oldest first."""
        selected: list[Path] = []
        with ranks.together():
            if self.first:
                steps = set(self.selected_steps())
                selected = [path for path in states(self.run) if step_of(path) in steps and self.is_readable(path)]
        return ranks.same(selected)

    def is_readable(self, path: Path) -> bool:
        """Whether a checkpoint can be read; the first time that one cannot, a warning names it."""
        if path not in self.unreadable:
            try:
                read_checkpoint(path)
                self.unreadable[path] = False
            except DamagedFileError as error:
                warn(f"{error}; it is left out of the landscape", DamagedRecordWarning)
                self.unreadable[path] = True
        return not self.unreadable[path]

    def finish(self) -> LandscapeSummary:
        """Measure replays, theorems, lengths and slices, then write the summary; the run must be complete.

        Raises:
            FolderError: the run is not complete.
            DamagedFileError: none of its snapshots and checkpoints can be read.
        """
        path = self.run / "summary.json"
        if not path.exists():
            raise FolderError(f"run {self.run}: training is not complete; finish it, then give the same command again")
        selected = self.selected_states()
        if not selected:
            raise DamagedFileError(f"run {self.run}: none of its snapshots and checkpoints can be read; train it again")
        self.measure_replays(selected)
        self.measure_end(selected)
        with ranks.together():
            summary = self.write_summary(recorded(RunSummary, read_json(path), path)) if self.first else None
        summary = ranks.same(summary)
        assert summary is not None
        return summary

    def write_summary(self, run_summary: RunSummary) -> LandscapeSummary:
        """Write the summary of the landscape and return it."""
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
            training_seconds=run_summary.seconds,
            provenance=provenance(str(self.device), self.plan.dtype, torch.get_num_threads(), torch.__version__, ranks.world()),
            parts=parts,
        )
        assert self.journal is not None
        self.journal.check()
        write_json(self.folder / "summary.json", to_dict(summary))
        return summary

    def measure_replays(self, selected: list[Path]) -> None:
        """Replay windows of training, and test theorems 1 and 2 by gradient descent from the same snapshots."""
        with ranks.together():
            landscape = read_landscape(self.run) if self.first else None
        landscape = ranks.same(landscape)
        points = {point.step: point for point in landscape.points} if landscape else {}
        first_gradient = points[min(points)].gradient_norm if points else 1.0
        parts: list[tuple[str, int, _Measure]] = []
        for path in replay_starts(selected, self.plan.replays, self.plan.window, self.config.training.steps):
            step, earlier = step_of(path), selected[selected.index(path) - 1]
            point = points.get(step)
            parts.append(("replays", step, self.replay_from(path, first_gradient, point.split if point else None)))
            # The theorems need the dense Hessian, and the split of an earlier snapshot.
            if point is not None and point.how == "exact" and earlier != path:
                parts.append(("theorems", step, self.theorems_at(earlier, path)))
        self.measure_in_turn(parts)

    def replay_from(self, path: Path, first_gradient: float, split: SplitRecord | None) -> _Measure:
        """The measurement of a replay that starts at a snapshot."""
        return lambda: [("replay", self.replay(self.snapshot(path), first_gradient, split))]

    def theorems_at(self, earlier: Path, path: Path) -> _Measure:
        """The measurement of theorems 1 and 2 at a snapshot, with the split of an earlier one."""
        return lambda: [("theorems", theorems(self.snapshot, earlier, path, self.plan))]

    def measure_end(self, selected: list[Path]) -> None:
        """Measure what concerns the final weights: scores at other lengths, and planes of the loss."""
        last, parts = selected[-1], list[tuple[str, int, _Measure]]()
        if self.plan.lengths:
            parts.append(("lengths", step_of(last), lambda: [("length", scores) for scores in self.length_scores(last)]))
        if self.plan.slices:
            parts.append(("slices", step_of(last), lambda: [("slice", p) for p in planes(self.snapshot, selected, self.folder)]))
        self.measure_in_turn(parts)

    def length_scores(self, last: Path) -> list[LengthRecord]:
        """Scores at the lengths of the plan with the weights of a snapshot."""
        end = self.snapshot(last)
        loops, gains, multiples = end.passes.loops, end.passes.gains, self.plan.lengths
        return score_lengths(end.model, self.config, self.data, loops, end.step, multiples, gains=gains)

    def replay(self, snapshot: Snapshot, first_gradient: float, split: SplitRecord | None) -> ReplayRecord:
        """Replay one window and classify it, given the split into river and valley at its start."""
        return replay(
            self.config,
            snapshot.checkpoint,
            snapshot.batch,
            data=self.data,
            window=self.plan.window,
            top=self.plan.top,
            first_gradient=first_gradient,
            valley_class=split.name if split else "indeterminate",
            epsilon=split.epsilon if split else None,
        )

    def close(self) -> None:
        """Close the journal and release the folder."""
        self.opened.close()


def survey(run: Path, plan: LandscapePlan, progress: Progress | None = None) -> RunLandscape:
    """Measure the landscape of a complete run from its folder, or resume the measurement.

    Args:
        run: folder of the run, with ``snapshots/`` or at least ``checkpoints/``.
        plan: what is measured; it must be the plan that an earlier measurement was begun with.
        progress: see `Progress`.
    Returns:
        All records of the landscape.
    Raises:
        FolderError: no run, no snapshots, another plan, or another process is measuring it.
        InsufficientDataError: fewer snapshots than the plan asks for.
    """
    complete = False
    with ranks.together():
        config = config_of(run)
        available = states(run)
        if not available:
            advice = f"expected snapshots; train it with --set training.snapshots=40 (it was {config.training.snapshots})"
            raise FolderError(f"run {run}: no snapshots and no checkpoints in it; {advice}")
        if plan.checkpoints > len(available):
            raise InsufficientDataError(
                f"run {run}: asked for {plan.checkpoints} checkpoints, it has {len(available)}; ask for fewer, or train with "
                f"--set training.snapshots={plan.checkpoints}"
            )
        if ranks.rank() == 0 and whole(run):
            claim(run / "landscape", plan, read_journal(run / "landscape" / "journal.jsonl"))
            complete = True
    if not ranks.same(complete):
        if ranks.rank() == 0:
            forget_failure(run / "landscape")
        with recording_failure(run / "landscape") if ranks.rank() == 0 else nullcontext():
            _measure_all(Survey(run, plan, progress))
    landscape = read_landscape(run)
    assert landscape is not None
    return landscape


def _note(error: ThalwegError, part: str, step: int) -> NoteRecord:
    """The note of a part that could not be measured because of bad input; any other error is raised again.

    Bad input (exit code 2) is, for instance, a loss that is not finite at one snapshot: one point must not cost the run its whole
    landscape.
    """
    if error.exit_code != 2 or isinstance(error, FolderError):
        raise error
    return NoteRecord(step, part, " ".join(str(error).split()))


def _measure_all(survey: Survey) -> None:
    """Measure all snapshots in order, then what concerns the whole run."""
    try:
        survey.measure_snapshots(survey.selected_states())
        survey.finish()
    finally:
        survey.close()
