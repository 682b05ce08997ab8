"""SHIFT in any trainer: what the integrations do around one update, for one schedule and one looped model.

A trainer calls, in this order: `begin` before the update, `add_loss` after every micro-batch, `see_norm` with the norm of the
gradient before clipping, and `end` after the optimizer's step. The learning rate is scaled by hooks of the optimizer, so that
schedulers do not notice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg import ranks
from thalweg.errors import BadInputError, NoSwitchWarning, Phrase, require, warn
from thalweg.integrations.looped_layers import LoopedLayers
from thalweg.integrations.metrics import Writer, write
from thalweg.reprs import describe
from thalweg.shift.criterion import AtFraction, AtStep
from thalweg.shift.onset import warn_unshared
from thalweg.shift.schedule import Shift
from thalweg.train.step import hand_over

STATE = "ThalwegShift"
"""Name under which trainers keep the state of the schedule."""


class ShiftUpdates:
    """The schedule of a looped model over the updates of a trainer.

    An update that a GradScaler skips, because a scaled gradient was not finite, does not count for the schedule.

    Args:
        shift: the schedule.
        looped: the handle of the model, from `thalweg.integrations.huggingface.loop`; or anything with ``set(loops, gains)``.
        writers: where loss, norm, passes and gain of every update are written, see `thalweg.integrations.metrics`.
    Raises:
        BadInputError: the schedule has a safety net, which needs weights that are taken back.
    Warns:
        UnsharedGainWarning: the onset is `thalweg.Refine`, and the layers have no learned gain for all passes.
    """

    def __init__(self, shift: Shift, looped: LoopedLayers, writers: Sequence[Writer] = ()) -> None:
        require(isinstance(shift, Shift), "shift", shift, "a thalweg.Shift")
        expected = "0: this trainer cannot take weights back; leave net out, and use a Ramp, which does not raise the loss"
        require(shift.net.tries == 0, "SafetyNet tries", shift.net.tries, expected)
        largest = max(shift.range_of(stage)[1] for stage in shift.stages)
        most = looped.options.most_loops if isinstance(looped, LoopedLayers) else None
        require(most is None or largest <= most, "shift loops", largest, f"at most most_loops of the looped layers, {most}")
        if isinstance(looped, LoopedLayers):
            warn_unshared(shift.first_onset, looped.options.learned_gains == "shared", 'pass learned_gains="shared" to loop()')
        self.shift, self.looped, self.writers = shift, looped, tuple(writers)
        self.loss: Tensor | None = None
        self.norm: Tensor | None = None
        self.last: dict[str, float] = {}
        """Passes, gain of the last pass and stage of the last update, for logs."""
        self.skipped = 0
        """Number of updates of the trainer in which the optimizer did not step."""
        self._hooks: list[Any] = []
        self._stepped = False

    def __repr__(self) -> str:
        return describe(self, repr(self.shift), repr(self.looped), f"{len(self.writers)} writers" if self.writers else "")

    def begin(self) -> None:
        """Set passes and gains for the next update; safe to call several times."""
        self.looped.set(self.shift.loops, self.shift.gains)

    def add_loss(self, share: Tensor) -> None:
        """Add the share of one micro-batch in the mean loss of the update."""
        share = share.detach().double()
        self.loss = share if self.loss is None else self.loss + share

    def see_norm(self, norm: Any) -> None:
        """Take in the norm of the update's gradient before clipping; only the first norm in an update counts, and None is none."""
        if self.norm is None and norm is not None:
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else torch.as_tensor(norm)
            self.norm = norm.detach().double()

    def end(self, optimizer: torch.optim.Optimizer) -> bool:
        """Finish an update: the schedule sees its loss and norm, averaged over ranks, if the optimizer has stepped.

        Afterwards the model has the passes of the current stage, for evaluation.

        Args:
            optimizer: its running means are changed at a switch as the schedule's handover says.
        Returns:
            True if the next update belongs to a new stage.
        Raises:
            BadInputError: the trainer did not report loss and norm.
        """
        if self.loss is None or self.norm is None:
            raise BadInputError("SHIFT: an update ended without a loss and a gradient norm; report both in every update")
        gain = self.shift.gains[-1]
        self.last = {"loops": self.shift.loops, "loop_gain": gain, "shift_stage": self.shift.stage + 1}
        loss, norm = ranks.mean(torch.stack((self.loss, self.norm.to(self.loss.device)))).tolist()
        self.loss = self.norm = None
        stepped, self._stepped = self._stepped or not self._hooks, False
        if not stepped:
            self.skipped += 1
            self.evaluate()
            return False
        switched = self.shift.update(loss, norm)
        write(self.writers, {"loss": loss, "grad_norm": norm} | self.last, self.shift.step)
        if switched:
            hand_over(optimizer, self.shift.handover)
        self.evaluate()
        return switched

    def evaluate(self) -> None:
        """Set the passes and gains of the current stage, with which the model is evaluated and saved."""
        self.looped.set(self.shift.depth, self.shift.depth_gains)

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Multiply the rates of an optimizer by the schedule's factor during every step, and notice whether it steps.

        Raises:
            BadInputError: it lacks learned gains or the norm of the looped layers.
        """
        while self._hooks:  # of a training that was interrupted, and begins again in this process
            self._hooks.pop().remove()
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        learned = self.looped.named_parameters() if isinstance(self.looped, LoopedLayers) else ()
        missing = ", ".join(name for name, parameter in learned if parameter.requires_grad and id(parameter) not in held)
        require(not missing, "optimizer", Phrase(f"one without {missing}"), "one that is made after loop()")
        kept: list[Any] = []

        def before(*_: Any) -> None:
            kept[:] = [group["lr"] for group in optimizer.param_groups]
            if self.shift.rate_factor != 1:
                for group in optimizer.param_groups:
                    group["lr"] = group["lr"] * self.shift.rate_factor

        def after(*_: Any) -> None:
            for group, rate in zip(optimizer.param_groups, kept, strict=True):
                group["lr"] = rate
            overflow = getattr(optimizer, "found_inf", None)  # set by a GradScaler while a fused optimizer steps
            self._stepped = overflow is None or not bool(overflow)

        self._hooks += [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def expect(self, steps: int) -> None:
        """Compare the schedule with the number of updates that a trainer is going to make.

        Raises:
            BadInputError: a criterion is a share of another number of updates.
        """
        for rule in self.shift.criteria[self.shift.stage :]:
            if isinstance(rule, AtFraction):
                expected = f"the {steps} updates of this training"
                require(rule.total_steps == steps, "AtFraction total_steps", rule.total_steps, expected)
            if isinstance(rule, AtStep) and rule.step >= steps and ranks.rank() == 0:
                warn(f"SHIFT: the switch at update {rule.step} is not before the last one, {steps}", NoSwitchWarning)

    def finish(self) -> None:
        """End the training; say so if the schedule still waits for a switch."""
        if self.shift.step and self.shift.stage < len(self.shift.criteria) and ranks.rank() == 0:
            why = "; ".join(self.shift.explain().splitlines())
            warn(f"SHIFT: the training ended before the last stage; {why}", NoSwitchWarning)
        self.stop()

    def stop(self) -> None:
        """Take the hooks off the optimizer, and close the writers."""
        for writer in self.writers:
            writer.close()
        while self._hooks:
            self._hooks.pop().remove()

    def state_dict(self) -> dict[str, Any]:
        """The state of the schedule, JSON values only."""
        return {"shift": self.shift.state_dict(), "skipped": self.skipped}

    def resume(self, saved: dict[str, Any] | None, step: int) -> None:
        """Continue after ``step`` updates from a saved state.

        Raises:
            BadInputError: there is none although trainer or schedule made updates, or it belongs to another schedule.
        """
        self.loss = self.norm = None  # of an update that was interrupted
        self._stepped = False
        if saved is None:
            require(
                step == 0,
                "checkpoint",
                Phrase(f"one after {step} updates without a state of SHIFT"),
                "one that was trained with it",
            )
            used = Phrase(f"a schedule that has made {self.shift.step} updates")
            require(
                self.shift.step == 0, "shift", used, "a new one, as a schedule is for one training; or resume from a checkpoint"
            )
            return
        self.shift.load_state_dict(saved["shift"])
        self.skipped = saved.get("skipped", 0)
        seen = self.shift.step + self.skipped
        require(seen == step, "checkpoint", Phrase(f"a state of SHIFT after {seen} updates"), f"one after {step}")
        self.evaluate()


def overheard(function: Callable[..., Any], hear: Callable[[Any], None]) -> Callable[..., Any]:
    """The same function, whose results are handed to another one as well."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        hear(result)
        return result

    return call


def gradient_norm(parameters: Callable[[], Any]) -> Tensor:
    """Euclidean norm of the gradients of some parameters."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters() if p.grad is not None])
