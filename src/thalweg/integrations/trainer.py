"""SHIFT and landscapes in the Trainer of Hugging Face, and in those derived from it, such as TRL's. Needs the extra ``hf``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from thalweg.bounds import named_arguments
from thalweg.errors import Phrase, require
from thalweg.integrations.extras import require_extra
from thalweg.integrations.landscapes import LandscapeSeries
from thalweg.integrations.looped_layers import NAME, LoopedLayers, looped_layers_in
from thalweg.integrations.metrics import Writer
from thalweg.integrations.saving import passes_in, save_loops
from thalweg.integrations.updates import STATE, ShiftUpdates, overheard
from thalweg.reprs import describe
from thalweg.shift.schedule import Shift

require_extra("hf", "transformers")
from transformers import Trainer, TrainerCallback  # noqa: E402


@named_arguments
def attach(trainer: Trainer, shift: Shift, looped: LoopedLayers, writers: Sequence[Writer] = ()) -> ShiftUpdates:
    """Let a schedule set the passes of a looped model in a Trainer; call it before ``trainer.train``.

    Loss and gradient norm are those of whole updates, with accumulation and over all ranks. The state of the schedule lies in the
    checkpoints of the Trainer. Its logs gain ``loops``, ``loop_gain`` and ``shift_stage``. Evaluation uses the passes of the stage.
    Learned gains have no weight decay. Every checkpoint can be loaded with `thalweg.integrations.saving.load`.

    Args:
        trainer: its model is looped; not yet trained.
        shift: the schedule, without a safety net.
        looped: from `thalweg.integrations.huggingface.loop`.
        writers: further places for the numbers of every update, see `thalweg.integrations.metrics`.
    Returns:
        The updates; ``last`` holds the passes and gain of the last one.
    Raises:
        BadInputError: something is attached already, or schedule or Trainer need what the other cannot do. ``trainer.train`` raises
            it for a checkpoint of another schedule, and for an optimizer that lacks the learned gains.
    """
    require(isinstance(trainer, Trainer), "trainer", type(trainer), "a Trainer of transformers")
    attached = any(isinstance(callback, _ShiftCallback) for callback in trainer.callback_handler.callbacks)
    require(not attached, "attach", Phrase("a trainer that has a schedule"), "a trainer without one; make a new Trainer")
    model: Any = trainer.model
    within = model is not None and looped_layers_in(model) is looped
    require(within, "looped", Phrase("the loops of another model"), "what loop() returned for the trainer's own model")
    other = "DeepSpeed" if trainer.is_deepspeed_enabled else "FSDP 1" if _fsdp_version(trainer) == 1 else None
    require(other is None, "attach", Phrase(f"a trainer with {other}"), "one process, DDP, or FSDP 2 (fsdp_version: 2)")
    updates = ShiftUpdates(shift, looped, writers)
    trainer.add_callback(_ShiftCallback(updates, trainer))
    _follow(trainer, updates)
    return updates


def _fsdp_version(trainer: Trainer) -> int | None:
    """Version of FSDP that a Trainer uses; None without FSDP."""
    return getattr(trainer.accelerator.state.fsdp_plugin, "fsdp_version", 1) if trainer.is_fsdp_enabled else None


def _follow(trainer: Trainer, updates: ShiftUpdates) -> None:
    """Read what callbacks are not told: the losses of micro-batches, and the norm before clipping."""
    log, decaying = trainer.log, trainer.get_decay_parameter_names
    trainer.training_step = overheard(trainer.training_step, updates.add_loss)
    trainer.accelerator.clip_grad_norm_ = overheard(trainer.accelerator.clip_grad_norm_, updates.see_norm)
    trainer.log = lambda logs, *args, **kwargs: log(logs | updates.last, *args, **kwargs)
    trainer.save_model = _with_loops(trainer, updates.looped)
    trainer.get_decay_parameter_names = lambda model: [name for name in decaying(model) if f".{NAME}." not in f".{name}"]


def _with_loops(trainer: Trainer, looped: LoopedLayers) -> Callable[..., None]:
    """The Trainer's ``save_model``, which writes the loops beside the model as checkpoints have them."""
    save_model = trainer.save_model

    @functools.wraps(save_model)
    def save(output_dir: str | None = None, _internal_call: bool = False) -> None:
        save_model(output_dir, _internal_call)
        folder = Path(output_dir or trainer.args.output_dir or ".")
        if trainer.args.should_save and not _internal_call and folder.is_dir():
            save_loops(looped, folder)

    return save


class _ShiftCallback(TrainerCallback):
    """Calls the schedule at the events of a Trainer."""

    def __init__(self, updates: ShiftUpdates, trainer: Any) -> None:
        self.updates, self.trainer = updates, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.updates.resume(state.stateful_callbacks.get(STATE), state.global_step)
        self.updates.watch(getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer))
        self.updates.expect(state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.updates.begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.updates.norm is None:  # max_grad_norm is 0, so that nothing was clipped
            self.trainer.accelerator.clip_grad_norm_(self.trainer.model.parameters(), math.inf)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.updates.end(self.trainer.optimizer)
        state.stateful_callbacks[STATE] = self.updates.state_dict()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            save_loops(self.updates.looped, folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.updates.finish()
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        passes = passes_in(Path(best)) if best else None
        if passes is not None:  # the weights are those of the best checkpoint by now
            self.updates.looped.set(*passes)


class LandscapeCallback(TrainerCallback):
    """Measures the loss landscape along a training, see `thalweg.integrations.landscapes.LandscapeSeries`.

    Call `attach` first, so that every point has the passes of its stage.
    """

    def __init__(self, series: LandscapeSeries) -> None:
        self.series = series

    def __repr__(self) -> str:
        return describe(self, repr(self.series))

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.series.begin(state.global_step)
        self.on_step_end(args, state, control, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.series.due(state.global_step):
            self.series.measure(model, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.series.finish(model, state.global_step)
