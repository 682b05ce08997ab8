"""SHIFT and landscapes in Lightning, imported as ``lightning`` or as ``pytorch_lightning``. Needs the extra ``lightning``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from thalweg.errors import Phrase, require
from thalweg.integrations.extras import require_extra
from thalweg.integrations.landscapes import LandscapeSeries
from thalweg.integrations.looped_layers import LoopedLayers
from thalweg.integrations.metrics import Writer
from thalweg.integrations.updates import STATE, ShiftUpdates, gradient_norm
from thalweg.reprs import describe
from thalweg.shift.schedule import Shift

_pl = require_extra("lightning", "lightning.pytorch", "pytorch_lightning")


class ShiftCallback(_pl.Callback):
    """Lets a schedule set the passes of a looped model in a Lightning Trainer of either name.

    Loss and gradient norm are those of whole updates: with accumulation, before clipping, over all ranks. The state of the
    schedule lies in the checkpoints. ``loops``, ``loop_gain`` and ``shift_stage`` are logged in every update. Validation uses
    the passes of the stage. The module must optimise automatically, with one optimizer. Learned gains belong into a parameter
    group without weight decay. An update that a GradScaler skips does not count for the schedule.

    Args:
        shift: the schedule, without a safety net.
        looped: from `thalweg.integrations.huggingface.loop`.
        writers: further places for the numbers of every update, see `thalweg.integrations.metrics`.
    Raises:
        BadInputError: the schedule needs what a trainer cannot do; and in ``fit``, a module that optimises by hand, more than one
            optimizer, one that lacks the learned gains, one that is fused and takes scaled gradients, or a checkpoint of another
            schedule.
    """

    state_key = STATE

    def __init__(self, shift: Shift, looped: LoopedLayers, writers: Sequence[Writer] = ()) -> None:
        self.updates = ShiftUpdates(shift, looped, writers)
        self._saved: dict[str, Any] | None = None
        self._stepped = False
        self._micro_batches = 0

    def __repr__(self) -> str:
        return describe(self, repr(self.updates))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        automatic, optimizers = pl_module.automatic_optimization, trainer.optimizers
        require(
            automatic, "module", Phrase("manual optimization"), "automatic_optimization = True, or Shift in your own training step"
        )
        require(len(optimizers) == 1, "optimizers", len(optimizers), "one")
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        fused = scaled and getattr(optimizers[0], "_step_supports_amp_scaling", False)
        require(not fused, "optimizer", Phrase("a fused one with a GradScaler"), "fused=False, as it hides the gradient norm")
        self.updates.resume(self._saved, trainer.global_step)
        self.updates.watch(optimizers[0])
        if isinstance(trainer.max_steps, int) and trainer.max_steps > 0:
            self.updates.expect(trainer.max_steps)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.updates.begin()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.updates.see_norm(gradient_norm(pl_module.parameters))
        self._stepped = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:  # None skips the batch
            # The last update of an epoch may have fewer micro-batches than Lightning has divided by.
            self.updates.add_loss(loss * trainer.accumulate_grad_batches)
            self._micro_batches += 1
        if self._stepped:
            if self.updates.loss is not None:
                self.updates.loss = self.updates.loss / self._micro_batches
            self._stepped, self._micro_batches = False, 0
            self.updates.end(trainer.optimizers[0])
            pl_module.log_dict(dict(self.updates.last))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self._saved is not None and not self.updates.shift.step:  # a checkpoint that is not trained on, or not yet
            self.updates.shift.load_state_dict(self._saved["shift"])
        self.updates.evaluate()

    on_test_start = on_predict_start = on_validation_start

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.updates.finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.updates.stop()

    def state_dict(self) -> dict[str, Any]:
        return self.updates.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict


class LandscapeCallback(_pl.Callback):
    """Measures the loss landscape along a training with Lightning, see `thalweg.integrations.landscapes.LandscapeSeries`.

    Put it after `ShiftCallback` in the list, so that every point has the passes of its stage.

    Args:
        series: what is measured, when, and where it is written.
        model_of: takes the model from the module; None takes ``module.model``, or the module itself without one.
    """

    def __init__(self, series: LandscapeSeries, model_of: Callable[[Any], Any] | None = None) -> None:
        self.series = series
        self.model_of = model_of or (lambda module: getattr(module, "model", module))

    def __repr__(self) -> str:
        return describe(self, repr(self.series))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.series.begin(trainer.global_step)
        self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.series.finish(self.model_of(pl_module), trainer.global_step)

    def _measure(self, trainer: Any, pl_module: Any) -> None:
        """Measure a point if one is due; with accumulation, several batches belong to one update."""
        if self.series.due(trainer.global_step):
            self.series.measure(self.model_of(pl_module), trainer.global_step)
