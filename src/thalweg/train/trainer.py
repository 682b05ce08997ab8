"""The training loop of one run: updates, evaluations, switches, checkpoints, and the summary at the end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from thalweg import ranks
from thalweg.bounds import named_arguments
from thalweg.data.task_data import TaskConfig
from thalweg.errors import BadInputError, DamagedFileError, DamagedRecordWarning, DivergedError, ShortTrainingWarning, require, warn
from thalweg.interruption import HeldBack, held_back
from thalweg.records.run import RunSummary, recorded
from thalweg.shift.onset import Ramp, Refine, warn_unshared
from thalweg.storage import locked, read_json, remove_unfinished, set_aside, there
from thalweg.train.callbacks import Callback, StepFacts
from thalweg.train.checkpoint import candidates
from thalweg.train.config import RunConfig, write_config
from thalweg.train.failures import forget_failure, recording_failure
from thalweg.train.repair import refuse_changed, refuse_changed_lengths, refuse_changed_summary
from thalweg.train.rollback import roll_back, save_rollback_point
from thalweg.train.run_folder import claim
from thalweg.train.run_summary import finish
from thalweg.train.sharding import Parallel
from thalweg.train.state import Run
from thalweg.train.step import Outcome, hand_over, mean_loss
from thalweg.train.surroundings import Watch

_ENDING = "the training ends after this update, when its checkpoint is written; a further Ctrl-C ends it at once"
"""Said when a signal asks a training to end."""


@named_arguments
def train(config: RunConfig, folder: str | Path, callbacks: Sequence[Callback] = (), parallel: Parallel = "ddp") -> RunSummary:
    """Train one model, or resume a run that was stopped.

    The same config gives the same weights to the last bit, however often the process was killed and resumed, on one machine with
    the same number of threads and ranks. A complete run is not trained again; its summary is returned.

    Under a process group (`thalweg.train.group`) every rank calls this with the same config and folder. The ranks share every batch
    and the evaluations; rank 0 alone writes to the folder. The callbacks of every rank are called.

    Ctrl-C, or a SIGTERM with a handler in Python, is answered after the update in progress, whose checkpoint is written first; a
    further Ctrl-C at once. Several ranks end at once and go on from their last checkpoint.

    Args:
        config: config of the run.
        folder: folder of the run; created if it does not exist.
        callbacks: called during the training.
        parallel: what each of several ranks keeps of weights, gradients and moments, see `thalweg.train.sharding`. A run may be
            resumed with the other kind.
    Returns:
        The summary of the run.
    Raises:
        BadInputError: the config is no `RunConfig`, or does not fit this machine.
        FolderError: the folder holds another run, or another process writes to it.
        DivergedError: a loss or gradient is not finite; the message names step, rate, norm and the last good checkpoint.
        DamagedFileError: there are checkpoints, but none can be read.
    Warns:
        DamagedRecordWarning: a file of the run is damaged and was repaired, or something is lost; the message says what.
        ShortTrainingWarning: the training ends before its rate is warmed up, or before its lengths have grown.
    """
    expected = "a RunConfig; thalweg.train.config.read_config reads one from a file"
    require(isinstance(config, RunConfig), "config", config, expected)
    require(isinstance(folder, str | Path), "folder", folder, "the path of a folder")
    folder = Path(folder)
    with ExitStack() as held:
        with ranks.together():
            new, summary = _take(config, folder, held) if ranks.rank() == 0 else (False, None)
        new, summary = ranks.same((new, summary))
        if summary is not None:
            return summary
        with ranks.together():
            run = Run(config, folder, callbacks, parallel=parallel)  # refuses a missing device or text before anything is written
        try:
            if run.rank == 0:
                _warn_of_its_end(config)
                warn_unshared(config.shift.onset, config.model.shared_gain, "set model.shared_gain (ModelConfig.for_loops)")
            if new and run.rank == 0:
                write_config(folder / "config.toml", config)
            run.resume()
            warm_up(run)
            run.watch = Watch()  # loading and compiling are no part of it
            _train_to_end(run)
            return finish(run)
        except BadInputError as error:
            if not new or candidates(folder / "checkpoints"):
                error.exit_code = 1  # the run has begun, and its files are kept
            elif run.rank == 0:  # nothing was trained: leave no files behind
                run.close()
                for name in ("metrics.jsonl", "config.toml"):
                    (folder / name).unlink(missing_ok=True)
                shutil.rmtree(folder / "snapshots", ignore_errors=True)
            raise
        finally:
            run.close()


def _warn_of_its_end(config: RunConfig) -> None:
    """Say that a training is over before its rate, or its longest length, has reached the value of its config."""
    steps, data, warmup = config.training.steps, config.data, config.optimizer.warmup
    short = []
    if warmup > steps:
        short.append(
            f"optimizer.warmup is {warmup}, so that the rate ends at {100 * steps / warmup:.0f} % of optimizer.rate or less"
        )
    if isinstance(data, TaskConfig) and data.lengths == "grow" and data.grow > steps:
        longest = data.longest_at(steps - 1)
        short.append(f"data.grow is {data.grow}, so that the longest length ends at {longest} of {data.longest}")
    if short:
        warn(f"the training ends after {steps} updates, but {' and '.join(short)}; set them too", ShortTrainingWarning)


def _take(config: RunConfig, folder: Path, held: ExitStack) -> tuple[bool, RunSummary | None]:
    """Lock the folder of a run until ``held`` is closed, and check whose it is.

    Returns:
        Whether the run is new, and its summary if it is complete.
    """
    held.enter_context(locked(folder, "run"))
    held.enter_context(recording_failure(folder))
    new = claim(config, folder)
    forget_failure(folder)
    for part in (folder, folder / "checkpoints", folder / "snapshots"):
        remove_unfinished(part)
    return new, None if new else ended(config, folder)


def ended(config: RunConfig, folder: Path) -> RunSummary | None:
    """The summary of a complete run; None if the run is not complete or its summary is damaged.

    A damaged summary is set aside, so that it is written again from the last checkpoint.

    Args:
        config: config of the run.
        folder: folder of the run.
    Warns:
        DamagedRecordWarning: a record of the run is damaged; the message says which.
    """
    path = folder / "summary.json"
    if not there(path):
        return None
    try:
        summary = recorded(RunSummary, read_json(path), path)
        if (summary.arm, summary.seed, summary.steps) != (config.arm, config.seed, config.training.steps):
            raise DamagedFileError(f"damaged record {path}: it is the summary of another run")
        refuse_changed_summary(folder, summary)
        refuse_changed_lengths(folder, config)
    except DamagedFileError as error:
        damage = str(error).partition(";")[0]
        kept = f"the summary is kept as {set_aside(path).name}"
        warn(f"{damage}; {kept} and made again from the last checkpoint", DamagedRecordWarning)
        return None
    try:
        refuse_changed(folder, summary.steps)
    except DamagedFileError as error:
        warn(f"{error}; its summary and weights are intact", DamagedRecordWarning)
    return summary


def warm_up(run: Run) -> None:
    """If the model is compiled, compile it for every number of passes, with and without gains, before the clock starts."""
    if not run.config.training.compile:
        return
    shift, batch = run.shift, run.batch(0)
    # Gains other than 1 occur after a switch with a ramp, and in a softer onset after a retreat.
    refined = isinstance(shift.onset, Refine)
    ramped = isinstance(shift.onset, Ramp) or refined or shift.net.tries
    ranges = (shift.range_of(stage) for stage in shift.stages)
    depths = {loops: False for low, high in ranges for loops in range(low, high + 1)}
    depths |= dict.fromkeys(shift.stages[1:], ramped) | {shift.stages[0]: refined}
    torch._dynamo.config.recompile_limit = max(8, 2 * len(depths))
    for loops, with_gains in depths.items():
        for gains in (None, torch.ones(loops, device=run.device)) if with_gains else (None,):
            mean_loss(run.forward, batch, loops, gains).backward()
    run.optimizer.zero_grad(set_to_none=True)


def _train_to_end(run: Run) -> None:
    """Evaluate, update and save until the last update, rolling back switches that the safety net rejects."""
    settings = run.config.training
    for callback in run.callbacks:
        callback.on_begin(run.shift.step, settings.steps)
    if run.shift.step == 0:
        run.evaluate()
        run.snapshot()
    # Ranks would have to agree on the update after which they end; a run of several goes on from its last checkpoint.
    with nullcontext(HeldBack()) if run.world > 1 else held_back(_ENDING) as signals:
        while run.shift.step < settings.steps:
            try:
                update(run)
                if run.shift.retreat_reason is None:
                    _score_and_save(run)
            except DivergedError as error:
                if not run.shift.watching:
                    raise
                roll_back(run, str(error).partition(";")[0])
            if run.shift.retreat_reason is not None:
                roll_back(run)
            if signals.came is not None:
                if run.saved_at != run.shift.step:
                    run.save()
                signals.let_through()


def update(run: Run) -> None:
    """Make one update, pass its result to the schedule, and record it.

    Raises:
        DivergedError: loss or gradient norm are not finite.
    """
    started, step, settings = time.perf_counter(), run.shift.step, run.config.training
    recording = run.recording_seconds()
    loops, newest, rate, batch = run.shift.loops, run.shift.gains[-1], run.rate(), run.batch(step)
    outcome = run.train_on(batch, loops, run.gains())
    if not outcome.finite:
        run.stop_diverged(f"update {step + 1}", f"loss {outcome.loss}, gradient norm {outcome.grad_norm}, rate {rate:g}")
    # Passes with a gain of 0 are skipped, except in a compiled model.
    computed = loops if run.config.training.compile else sum(gain != 0 for gain in run.shift.gains)
    switched = advance(run, outcome)
    run.clock.flops += run.flops(batch, computed)
    run.clock.seconds += time.perf_counter() - started - (run.recording_seconds() - recording)
    facts = StepFacts(
        step=step + 1,
        steps=settings.steps,
        loss=outcome.loss,
        grad_norm=outcome.grad_norm,
        rate=rate,
        loops=loops,
        gain=newest,
        seconds=run.clock.seconds,
        flops=run.clock.flops,
    )
    if facts.step % settings.log_every == 0:
        run.record("step", asdict(facts))
    if switched:
        save_rollback_point(run)
        run.record_switch()
    for callback in run.callbacks:
        callback.on_step(facts)


def advance(run: Run, outcome: Outcome) -> bool:
    """Pass the result of an update to the schedule, and make the handover at a switch.

    Returns:
        True if the next update belongs to a new stage.
    """
    last = run.shift.step + 1 == run.config.training.steps
    switched = run.shift.update(outcome.loss, outcome.grad_norm, last)
    if switched:
        hand_over(run.optimizer, run.shift.handover)
    return switched


def _score_and_save(run: Run) -> None:
    """Evaluate, write a snapshot and write a checkpoint, each if it is due after this update."""
    step, settings = run.shift.step, run.config.training
    last = step == settings.steps
    if step % settings.evaluate_every == 0 or last:
        run.evaluate()
    run.snapshot()
    if step % settings.checkpoint_every == 0 or last:
        run.save()
