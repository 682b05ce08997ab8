"""The state of a run: model, optimizer, schedule, journal and clock, and how they are saved and restored."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from thalweg import ranks
from thalweg.data.batches import EvaluationSet
from thalweg.data.task_data import TaskData
from thalweg.errors import DamagedFileError, DamagedRecordWarning, DivergedError, ThalwegError, require, warn
from thalweg.models.cost import cost
from thalweg.records.run import (
    EvaluationRecord,
    RetreatRecord,
    Score,
    Scores,
    Surroundings,
    SwitchRecord,
)
from thalweg.serialization import fingerprint, from_dict, to_dict
from thalweg.storage import Journal, read_journal, set_aside, there
from thalweg.train.assemble import AnyData, check_fits, choose_device, make_data, make_model
from thalweg.train.callbacks import Callback
from thalweg.train.checkpoint import (
    Checkpoint,
    gather,
    newest_checkpoint,
    own_parts,
    path_of,
    save_checkpoint,
    save_sharded,
    scatter,
    verified,
    whole_tensors,
)
from thalweg.train.config import RunConfig, TrainingConfig
from thalweg.train.evaluate import evaluate
from thalweg.train.graphs import Graphs
from thalweg.train.rates import rate_at
from thalweg.train.repair import begun_before, reopen
from thalweg.train.run_folder import config_of_facts
from thalweg.train.sharding import Parallel, forward_alone, shard
from thalweg.train.sharding import backward as sharded_backward
from thalweg.train.step import (
    Batch,
    Gains,
    InBFloat16,
    Outcome,
    TaskBatch,
    make_optimizer,
    on_device,
    part_of,
    train_step,
)
from thalweg.train.surroundings import Watch


@dataclass
class Clock:
    """Time and operations that a run has spent so far."""

    seconds: float = 0.0
    """Training time, without evaluation, compilation and recording of graphs."""
    evaluation_seconds: float = 0.0
    flops: float = 0.0
    """Counted floating-point operations of the training, see `thalweg.models.cost`."""
    evaluations: int = 0
    """Number of evaluations."""
    watched: float = 0.0
    """Seconds over which the surroundings were watched, see `thalweg.train.surroundings`."""
    waited: float = 0.0
    """Seconds of these in which the training thread waited for a core."""
    stolen: float = 0.0
    """Seconds of these that the hypervisor took from an average core."""
    load: float = 0.0
    """Load of the machine at the last checkpoint."""
    cores: int = 0
    """Cores that the run may use."""

    @property
    def surroundings(self) -> Surroundings | None:
        """What else the machine did so far, over all sessions of the run; None where the system does not tell."""
        if not self.watched:
            return None
        return Surroundings(self.waited / self.watched, self.stolen / self.watched, self.load, self.cores)

    def look_around(self, watch: Watch) -> None:
        """Add what a watch saw since it was last read."""
        if (seen := watch.read()) is not None:
            self.watched += seen.seconds
            self.waited += seen.waited
            self.stolen += seen.stolen
            self.load, self.cores = seen.load, seen.cores


def ceilings_of(data: AnyData) -> Scores:
    """The best possible scores of every evaluation set and stratum; empty where the source of the data is unknown."""
    sets = [scored for scored in data.evaluation if isinstance(scored, EvaluationSet)]
    return {scored.name: {name: Score(c.accuracy, c.loss) for name, c in scored.ceilings.items()} for scored in sets}


def by_graphs(settings: TrainingConfig, device: torch.device) -> bool:
    """Whether the updates of a run are replayed as CUDA graphs."""
    return settings.graphs and not settings.compile and device.type == "cuda"


class Run:
    """The state of a run, and the operations on it that the trainer combines.

    Args:
        config: config of the run.
        folder: folder of the run.
        callbacks: called by the trainer.
        data: data of the run if it is loaded already; None builds it from the config.
        parallel: what each of several ranks keeps, see `thalweg.train.sharding`.
    Raises:
        BadInputError: device or data do not exist.
        MemoryLimitError: the run cannot fit into the memory.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        callbacks: Sequence[Callback] = (),
        data: AnyData | None = None,
        parallel: Parallel = "ddp",
    ) -> None:
        self.config, self.folder, self.callbacks = config, folder, callbacks
        self.rank, self.world = ranks.rank(), ranks.world()
        enough = f"at least one sample for each of the {self.world} ranks"
        require(config.training.batch >= self.world, "training.batch", config.training.batch, enough)
        if config.training.threads:
            torch.set_num_threads(config.training.threads)
        self.device = choose_device(config.training.device)
        self.sharded = parallel == "fsdp" and self.world > 1
        if not self.sharded:
            check_fits(config, self.device)
        self.data = make_data(config) if data is None else data
        self.model = make_model(config).to(self.device)
        if self.sharded:
            shard(self.model, config)
        # Not dynamic: one graph for each number of loops, instead of one that is traced again for each new number.
        compiled = config.training.compile
        self.forward: Callable[..., Tensor] = torch.compile(self.model, dynamic=False) if compiled else self.model
        if config.training.precision == "bfloat16":
            self.forward = InBFloat16(self.forward, self.device)
        self.graphs = Graphs(self.model, self.forward) if by_graphs(config.training, self.device) and not self.sharded else None
        self.optimizer = make_optimizer(config.optimizer, self.model)
        self.shift = config.shift.schedule(config.seed)
        self.switches: list[SwitchRecord] = []
        self.retreats: list[RetreatRecord] = []
        self.clock, self.watch = Clock(), Watch()
        self.snapshot_steps = frozenset(config.training.snapshot_steps)
        self.journal: Journal | None = None
        self.saved_at: int | None = None

    def resume(self) -> None:
        """Restore the state from the newest intact checkpoint and cut the journal back to it; without one, begin the run.

        Rank 0 chooses the checkpoint and hands it to the others, which need not see the folder.

        Warns:
            DamagedRecordWarning: records of the run are damaged; the message says what is lost.
        """
        path, checkpoint, lost = self.folder / "metrics.jsonl", None, ""
        with ranks.together():
            if self.rank == 0:
                checkpoint = self._newest()
                if checkpoint is None:
                    self._begin_journal(path)
                else:
                    self.journal, lost = reopen(path, checkpoint.facts)
        if self.world > 1:
            checkpoint = ranks.same(checkpoint)
            if checkpoint is not None and (self.rank > 0 or self.sharded):
                self._restore(own_parts(checkpoint, self.model, self.optimizer) if self.sharded else checkpoint)
        if lost:
            warn(lost, DamagedRecordWarning)
        if ranks.same(bool(lost) and self._evaluation_lost(path)):
            self.clock.evaluations -= 1
            self.evaluate()

    def _newest(self) -> Checkpoint | None:
        """The newest intact checkpoint, already restored in a run that is not sharded."""
        folder = self.folder / "checkpoints"
        if self.sharded:
            return newest_checkpoint(folder, self._refuse_foreign, verified)
        return newest_checkpoint(folder, self._restore)

    def _begin_journal(self, path: Path) -> None:
        """Open an empty journal; the journal of an earlier run that has lost its checkpoints is set aside."""
        last = begun_before(path, self.config.training.checkpoint_every) if path.is_file() else 0
        if last or (there(path) and not path.is_file()):
            kept = set_aside(path).name
            lost = f"no checkpoint is left of the {last:,} updates that metrics.jsonl records"
            message = f"run {self.folder}: {lost}; the file is kept as {kept} and the run begins again"
            warn(message, DamagedRecordWarning)
        self.journal = Journal(path)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state from a checkpoint.

        Raises:
            DamagedFileError: the checkpoint is not one of this run.
        """
        self._refuse_foreign(checkpoint)
        facts = checkpoint.facts
        try:
            scatter(checkpoint, self.model, self.optimizer)
            self.shift = self.config.shift.schedule(self.config.seed)
            self.shift.load_state_dict(facts["shift"])
            self.switches = [from_dict(SwitchRecord, record) for record in facts["switches"]]
            self.retreats = [from_dict(RetreatRecord, record) for record in facts.get("retreats", [])]
            self.clock = Clock(**facts["clock"])
            int(facts["journal"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
            raise DamagedFileError(f"damaged checkpoint {checkpoint.path}: not a state of this run ({error})") from None

    def _refuse_foreign(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint that was made with another config.

        Raises:
            DamagedFileError: it was.
        """
        stored = config_of_facts(checkpoint.facts)
        if stored is not None and stored != self.config:
            raise DamagedFileError(f"checkpoint {checkpoint.path}: made with another config")

    def _evaluation_lost(self, path: Path) -> bool:
        """Whether an evaluation was due at this update and its record was lost with the journal."""
        step, settings = self.shift.step, self.config.training
        due = step % settings.evaluate_every == 0 or step == settings.steps
        scored = [record["step"] for record in read_journal(path) if record["type"] == "evaluation"]
        return due and step not in scored

    def recording_seconds(self) -> float:
        """Time spent on recording CUDA graphs; like compilation it does not count as training."""
        return self.graphs.seconds if self.graphs else 0.0

    def train_on(self, batch: Batch, loops: int, gains: Gains) -> Outcome:
        """Make one update of weights and optimizer at the current learning rate; schedule, clock and journal do not change."""
        share = batch.share if isinstance(batch, TaskBatch) else len(batch) / self.config.training.batch
        of_parts = lambda batch, loops, gains: sharded_backward(self.model, self.forward, batch, loops, gains, share)  # noqa: E731
        return train_step(
            self.forward,
            self.optimizer,
            batch,
            loops=loops,
            gains=gains,
            rate=self.rate(),
            clip=self.config.optimizer.clip,
            backward=of_parts if self.sharded else self.graphs.backward if self.graphs else None,
            share=share,
            averaged=self.sharded,
        )

    def rate(self) -> float:
        """Learning rate of the next update."""
        return rate_at(self.config.optimizer, self.shift.step, self.config.training.steps) * self.shift.rate_factor

    def gains(self) -> Gains:
        """The gains of the next update."""
        return self.as_gains(self.shift.gains)

    def as_gains(self, gains: tuple[float, ...]) -> Gains:
        """Gains in the form for the model: None if all are 1, a tensor if the model is compiled."""
        if all(gain == 1 for gain in gains):
            return None
        return torch.tensor(gains, device=self.device) if self.config.training.compile else gains

    def batch(self, step: int) -> Batch:
        """This rank's part of the batch of one step, on the device; a task's lengths may follow the stage."""
        size, data = self.config.training.batch, self.data
        whole = data.batch(step, size, cap=self.shift.depth) if isinstance(data, TaskData) else data.batch(step, size)
        return on_device(whole, self.device) if self.world == 1 else part_of(whole, self.rank, self.world, self.device)

    def flops(self, batch: Batch, loops: int) -> float:
        """Counted operations of one update of all ranks.

        Samples of a task have passes of their own, ``loops`` at most, masked or not.
        """
        rows, model = self.config.training.batch, self.config.model
        if isinstance(batch, TaskBatch):
            return cost(model, rows, batch.inputs.shape[1], batch.mean_passes(loops)).training_step
        return cost(model, rows, batch.shape[1] - 1, loops).training_step

    def evaluate(self) -> None:
        """Evaluate on all sets with the passes and gains of the current stage, and record the scores."""
        scores = self.scores(self.shift.depth, self.as_gains(self.shift.depth_gains))
        self.clock.evaluations += 1
        record = EvaluationRecord(self.shift.step, self.clock.seconds, self.clock.flops, self.shift.depth, scores)
        self.record("evaluation", to_dict(record))
        for callback in self.callbacks:
            callback.on_evaluation(record)

    def scores(self, loops: int, gains: Gains) -> Scores:
        """Scores on all evaluation sets; the time counts as evaluation.

        Raises:
            DivergedError: a loss is not finite.
        """
        started = time.perf_counter()
        with forward_alone(self.model):
            scores = evaluate(self.model, self.data.evaluation, self.device, loops, gains, self.rank, self.world)
        self.clock.evaluation_seconds += time.perf_counter() - started
        losses = [score.loss for strata in scores.values() for score in strata.values()]
        if not all(math.isfinite(loss) for loss in losses):
            self.stop_diverged(f"scores after update {self.shift.step}", f"losses {losses}")
        return scores

    def record_switch(self) -> None:
        """Record the last change of stage, with the scores of the same weights before and after it."""
        switch = self.shift.switches[-1]
        record = SwitchRecord(
            step=switch.step,
            seconds=self.clock.seconds,
            flops=self.clock.flops,
            loops_before=switch.loops_before,
            loops_after=switch.loops_after,
            reason=switch.reason,
            scores_before=self.scores(switch.loops_before, self.as_gains(self.shift.stage_gains(switch.loops_before))),
            scores_after=self.scores(self.shift.depth, self.as_gains(self.shift.depth_gains)),
            onset=self.shift.onset.steps,
        )
        self.switches.append(record)
        self.record("switch", to_dict(record))
        for callback in self.callbacks:
            callback.on_switch(record)

    def record(self, kind: str, values: dict) -> None:
        """Append a record to the journal, which rank 0 writes."""
        if self.rank == 0:
            assert self.journal is not None
            self.journal.append({"type": kind} | values)

    def snapshot(self) -> None:
        """Write a checkpoint that is kept for good, if the config asks for one at this step."""
        if self.shift.step in self.snapshot_steps:
            path = self.write("snapshots")
            ranks.same(None)  # the callbacks of no rank come before the file
            for callback in self.callbacks:
                callback.on_snapshot(path)

    def save(self) -> None:
        """Write a checkpoint; the journal is synced to the disk first, as the checkpoint refers to it."""
        if self.journal is not None:
            self.journal.sync()
        self.clock.look_around(self.watch)
        last = self.shift.step == self.config.training.steps
        self.write("checkpoints", self.config.training.keep, in_parts=self.sharded and not last)
        self.saved_at = self.shift.step

    def write(self, name: str, keep: int = 0, in_parts: bool = False) -> Path:
        """Write the state into a folder of the run, on rank 0; see `save_checkpoint`.

        Args:
            name: name of the folder.
            keep: number of newest files to keep; 0 keeps all.
            in_parts: whether every rank writes its own parts, see `thalweg.train.sharded_checkpoint`.
        Returns:
            Path of the checkpoint, on every rank.
        """
        folder, tensors = self.folder / name, gather(self.model, self.optimizer)
        with ranks.together() if self.sharded else contextlib.nullcontext():
            self.check_folder()
        if in_parts:
            return save_sharded(folder, self.shift.step, tensors, self.facts() if self.rank == 0 else None, keep)
        if self.sharded:
            tensors = whole_tensors(tensors)
        if self.rank == 0:
            save_checkpoint(folder, self.shift.step, tensors, self.facts(), keep)
        return path_of(folder, self.shift.step)

    def check_folder(self) -> None:
        """Stop if files of the run were removed during training: writing on would leave a folder that looks complete but is not.

        Raises:
            ThalwegError: the message names what was removed.
        """
        if self.journal is None:  # another rank than the one that writes
            return
        self.journal.check()
        needed = [self.folder / "config.toml", *([self.folder / "checkpoints"] if self.saved_at is not None else [])]
        for path in needed:
            if not path.exists():
                raise ThalwegError(f"{path} was removed while the run went on; nothing more is written; run the same command again")

    def facts(self) -> dict:
        """Everything that a checkpoint stores besides tensors, as JSON values."""
        assert self.journal is not None
        return {
            "config": to_dict(self.config),
            "data": to_dict(self.data.facts()),
            "ceilings": to_dict(ceilings_of(self.data)),
            "config_hash": fingerprint(self.config),
            "shift": self.shift.state_dict(),
            "switches": to_dict(self.switches),
            "retreats": to_dict(self.retreats),
            "clock": asdict(self.clock),
            "journal": self.journal.offset,
            "journal_sums": self.journal.sums,
        }

    def stop_diverged(self, when: str, values: str) -> NoReturn:
        """Stop the run because a number is not finite.

        Args:
            when: where it happened, such as "update 7".
            values: the numbers, for the message.
        Raises:
            DivergedError: always; the message says what helps to find the cause.
        """
        good = newest_checkpoint(self.folder / "checkpoints") if self.rank == 0 else None
        where = str(good.path) if good else "none yet"
        error = DivergedError(
            f"loss not finite in {when}: {values}, loops {self.shift.loops}; "
            f"last good checkpoint: {where}; lower optimizer.rate or optimizer.clip"
        )
        error.told_elsewhere = self.rank > 0
        raise error

    def close(self) -> None:
        """End the callbacks and close the journal."""
        callbacks, self.callbacks = self.callbacks, []  # each ends once
        for callback in callbacks:
            callback.on_end()
        if self.journal is not None:
            self.journal.close()
