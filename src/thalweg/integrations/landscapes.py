"""The loss landscape along a training with another library: when it is measured, and where the records lie.

`LandscapeSeries` knows no trainer. The callbacks for the Trainer of Hugging Face and for Lightning hand it model and step. Its
folder has the layout of `thalweg.records.landscape`, so that ``thalweg report FOLDER`` and `thalweg.plot` draw it.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import ranks
from thalweg.bounds import Whole, of_their_kind
from thalweg.curvature.containers import tensors_in
from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.errors import require
from thalweg.landscape.directions import eigendirection
from thalweg.landscape.probe import LandscapeProbe
from thalweg.landscape.slices import Slices
from thalweg.records.landscape import (
    LandscapePlan,
    LandscapeRecord,
    LandscapeSummary,
    SliceRecord,
    arrays_bytes,
    slice_path,
    spectrum_path,
)
from thalweg.records.run import provenance, recorded
from thalweg.reprs import describe
from thalweg.serialization import to_dict
from thalweg.storage import atomic_stream, journal_line, read_journal, there, write_json

LossFunction = Callable[[Any, Any], Tensor]
_GRID, _RISE = 21, 1.0
"""Points along each side of a plane, and how far the loss rises to its edge along each eigenvector in the quadratic model."""


def hugging_face_loss(model: Any, batch: Any) -> Tensor:
    """The loss that a Hugging Face model returns for a batch with labels, without a cache."""
    return model(**batch, use_cache=False).loss


class LandscapeSeries:
    """Measures the curvature of a model at chosen updates of a training and writes the records.

    Training is not changed: the weights, gradients and random numbers are the same with and without it. The time it takes is on
    its own clock, `seconds`.

    Args:
        folder: of the run; the records lie in ``FOLDER/landscape``.
        batches: fixed batches on which every point is measured; the mean loss over them is the landscape. Where several ranks are
            given the same batches, they share them out, if there is one for each rank; else each rank's own enter the mean.
        every: number of updates between two points; None measures after 0, 1, 2, 4, 8, ... updates. The end is always measured.
        loss_of: (model, batch) -> mean loss; None takes the loss that a Hugging Face model returns.
        probe: how a point is measured; None takes `thalweg.LandscapeProbe` with its defaults.
        slices: whether the loss is computed in the plane of the two steepest eigenvectors at the end.
        params: which parameters the landscape has, as for `thalweg.Hessian`; None for all.
    Raises:
        BadInputError: no batches, or a number out of its range.
    """

    @of_their_kind
    def __init__(
        self,
        folder: str | Path,
        batches: Sequence[Any],
        every: int | None = None,
        loss_of: LossFunction | None = None,
        probe: LandscapeProbe | None = None,
        slices: bool = False,
        params: Any = None,
    ) -> None:
        require(isinstance(batches, list | tuple) and len(batches) > 0, "batches", batches, "a list of at least one fixed batch")
        if every is not None:
            Whole(1, 10**9).refuse(every, "every", every)
        self.folder, self.batches, self.every = Path(folder) / "landscape", list(batches), every
        self.loss_of, self.probe, self.slices, self.params = loss_of or hugging_face_loss, probe or LandscapeProbe(), slices, params
        self.seconds = 0.0
        """Time spent on measuring."""
        self.records: list[LandscapeRecord] = []
        self._started: float | None = None
        self._before = 0.0  # seconds of earlier sessions
        self._own: list[Any] | None = None

    def __repr__(self) -> str:
        every = "after 0, 1, 2, 4, ... updates" if self.every is None else f"every {self.every} updates"
        return describe(self, repr(str(self.folder.parent)), f"{len(self.batches)} batches", every, f"{len(self.records)} points")

    @property
    def own_batches(self) -> list[Any]:
        """The batches that this rank computes; in a process group every rank must ask for them."""
        if self._own is None:
            self._own = shared_out(self.batches)
        return self._own

    @of_their_kind
    def begin(self, step: int) -> None:
        """Begin or resume after ``step`` updates: records of later updates are dropped, as these updates are made again.

        A series that begins at update 0 begins anew; records of an earlier training in the folder are kept as
        ``journal.jsonl.old``.
        """
        self.records, self._started, self._before = [], time.perf_counter(), 0.0
        journal = self.folder / "journal.jsonl"
        if step == 0:
            self.seconds = 0.0
            if ranks.rank() == 0 and there(journal):
                journal.replace(self.folder / "journal.jsonl.old")
                for name in ("summary.json", "plan.json"):
                    (self.folder / name).unlink(missing_ok=True)
            return
        lines = read_journal(journal) if there(journal) else []
        points = [{key: value for key, value in line.items() if key != "type"} for line in lines if line.get("type") == "point"]
        self.records = [record for line in points if (record := recorded(LandscapeRecord, line, journal)).step <= step]
        if self.records:
            self.probe.method = self.records[0].how  # a series is not mixed
        self.seconds = self._before = sum(record.seconds for record in self.records)

    @of_their_kind
    def due(self, step: int) -> bool:
        """Whether a point is measured after ``step`` updates."""
        if any(record.step == step for record in self.records):
            return False
        return step & (step - 1) == 0 if self.every is None else step % self.every == 0

    @of_their_kind
    def measure(self, model: nn.Module, step: int) -> LandscapeRecord:
        """Measure a point and write its record; in a process group every rank must call it.

        Args:
            model: with its present weights, and passes if it is looped.
            step: number of updates made.
        """
        began = time.perf_counter()
        with torch.random.fork_rng(), torch.enable_grad():
            record = replace(self.probe.measure(self.loss_of, model, self.own_batches, step, self.params), loops=_passes_of(model))
        self.records.append(record)
        if ranks.rank() == 0 and self.probe.spectrum is not None:
            arrays = {name: values.numpy() for name, values in self.probe.spectrum.tensors().items()}
            atomic_stream(spectrum_path(self.folder, step), [arrays_bytes(arrays)])
            self._write()
        self.seconds += time.perf_counter() - began
        return record

    @of_their_kind
    def finish(self, model: nn.Module, step: int) -> None:
        """Measure the end of the training, the plane if one is wanted, and write the summary."""
        if not any(record.step == step for record in self.records):
            self.measure(model, step)
        began = time.perf_counter()
        plane = self._plane(model, step) if self.slices else None
        self.seconds += time.perf_counter() - began
        if ranks.rank() == 0:
            self._write(plane)
            write_json(self.folder / "summary.json", to_dict(self._summary(model)))

    def _plane(self, model: nn.Module, step: int) -> SliceRecord:
        """Compute the loss in the plane of the two steepest eigenvectors."""
        with torch.random.fork_rng(), torch.enable_grad():
            operator = Hessian(self.loss_of, model, self.own_batches, self.params, check=False)
            pairs = eigenpairs(operator, k=2, strict=False)
            ends = [math.sqrt(2 * _RISE / max(abs(float(value)), 1e-12)) for value in pairs.values]
            ticks = [torch.linspace(-end, end, _GRID, dtype=torch.float64) for end in ends]
            axes = (eigendirection(pairs, 0), eigendirection(pairs, 1))
            plane = Slices(self.loss_of, model, self.own_batches, self.params).plane(axes, ticks[0], ticks[1])
        arrays = {"first": plane.first, "second": plane.second, "losses": plane.losses}
        if ranks.rank() == 0:
            content = arrays_bytes({name: values.cpu().numpy() for name, values in arrays.items()})
            atomic_stream(slice_path(self.folder, "eigenvectors"), [content])
        return SliceRecord("eigenvectors", step, plane.names, None, _GRID)

    def _write(self, plane: SliceRecord | None = None) -> None:
        """Write plan and journal."""
        plan = self._plan()
        if not there(self.folder / "plan.json"):
            write_json(self.folder / "plan.json", to_dict(plan))
        lines = [{"type": "plan", "plan": to_dict(plan)}, *({"type": "point"} | to_dict(record) for record in self.records)]
        if plane is not None:
            lines.append({"type": "slice"} | to_dict(plane))
        atomic_stream(self.folder / "journal.jsonl", [journal_line(line) for line in lines])

    def _plan(self) -> LandscapePlan:
        """The plan as records know it."""
        probe, sequences = self.probe, sum(_count(batch) for batch in self.batches)
        return LandscapePlan(
            sequences=max(2, sequences),
            dtype="float64" if probe.dtype == torch.float64 else "float32",
            exact_seconds=probe.exact_seconds,
            top=probe.top,
            lanczos=probe.lanczos,
            probes=probe.probes,
            alignment=False,
            replays=0,
            slices=self.slices,
        )

    def _summary(self, model: nn.Module) -> LandscapeSummary:
        """The summary of the finished series."""
        spent = None if self._started is None else max(0.0, time.perf_counter() - self._started - (self.seconds - self._before))
        device = str(next(model.parameters()).device)
        return LandscapeSummary(
            points=len(self.records),
            exact=sum(record.how == "exact" for record in self.records),
            products=sum(record.products for record in self.records),
            seconds=self.seconds,
            training_seconds=spent,
            provenance=provenance(device, self._plan().dtype, torch.get_num_threads(), torch.__version__, ranks.world()),
            parts={"spectra": self.seconds},
        )


def shared_out(batches: list[Any]) -> list[Any]:
    """This rank's share of batches that all ranks were given alike: number r, r + W, r + 2 W, ... for rank r of W.

    All of them where the ranks were given different ones, or fewer batches than there are ranks. The mean loss over what all ranks
    have is then the same as without sharing.
    """
    if ranks.world() == 1:
        return batches
    ranks.meet("a point of the landscape")
    total = hashlib.sha256()
    for tensor in tensors_in(batches):
        plain = tensor.detach().cpu().contiguous()
        total.update(f"{tuple(plain.shape)} {plain.dtype}".encode() + plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    alike = len(set(ranks.gathered(total.hexdigest()))) == 1
    return batches[ranks.rank() :: ranks.world()] if alike and len(batches) >= ranks.world() else batches


def _count(batch: Any) -> int:
    """Number of samples in a batch: the length of its first tensor; 1 where there is none."""
    values = [batch] if isinstance(batch, Tensor) else batch.values() if hasattr(batch, "values") else batch
    values = values if isinstance(values, Iterable) else ()
    return next((len(value) for value in values if isinstance(value, Tensor) and value.dim()), 1)


def _passes_of(model: nn.Module) -> int:
    """Number of passes of a looped model; 1 for any other model."""
    if "transformers" not in sys.modules:  # layers are looped with transformers only, which a model of another kind does not need
        return 1
    from thalweg.integrations.looped_layers import looped_layers_in

    looped = looped_layers_in(model)
    return 1 if looped is None else looped.loops
