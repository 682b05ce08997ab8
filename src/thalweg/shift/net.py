"""The safety net: a switch that raised the loss is taken back and repeated with a softer onset.

Like a criterion it is a frozen dataclass with pure methods, whose state holds JSON values only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from thalweg.bounds import Number, Updates, Whole, named_arguments
from thalweg.errors import require
from thalweg.serialization import checked
from thalweg.shift.criterion import usable
from thalweg.shift.onset import Hard, Onset, Ramp

State = dict[str, Any]


@named_arguments
@dataclass(frozen=True)
class SafetyNet:
    """Return to the weights before a switch if the loss rose too far and did not recover in time.

    The loss is averaged over windows of ``window`` updates. The reference is the mean loss of the last ``window`` updates before
    the switch. A switch is watched until one of these happens:

    * success: after the onset, the mean of a window is at most the reference;
    * success: ``within`` updates after the onset, the mean is at most ``(1 + bound)`` times the reference;
    * failure: ``within`` updates after the onset, the mean is above that;
    * failure: a loss or gradient norm is not finite.

    Example:
        >>> net, onset = SafetyNet(tries=2, within=100), Hard()
        >>> net.softer(onset, 1), net.softer(onset, 2).steps
        (Ramp(steps=100, shape='linear', order='together'), 400)

    Source:
        Ours.
    """

    tries: Annotated[int, Whole(0, 1000)] = 0
    """How often a switch may be taken back and repeated with a softer onset; 0 for no safety net."""
    bound: Annotated[float, Number(0, 1e9, "a positive number", open_below=True)] = 0.05
    """Relative rise of the mean loss over the reference above which the switch has failed."""
    within: Updates = 200
    """Number of updates after the end of the onset within which the loss must recover."""
    window: Updates = 20
    """Number of updates that a mean loss is taken over."""

    def __post_init__(self) -> None:
        checked(self, "net ")
        require(self.within >= self.window >= 1, "net window", self.window, f"from 1 to within, {self.within}")

    def softer(self, onset: Onset, count: int) -> Onset:
        """The onset after ``count`` failures: a ramp of ``within`` updates for a hard onset, else four times as long each time."""
        if not count:
            return onset
        first = Ramp(steps=self.within) if isinstance(onset, Hard) else replace(onset, steps=4 * onset.steps)
        return replace(first, steps=first.steps * 4 ** (count - 1))

    def begin(self, reference: float) -> State:
        """Initial state of the watch over a switch; ``reference`` is the mean loss before it."""
        return {"reference": reference, "count": 0, "loss_sum": 0.0, "after": 0}

    def observe(self, state: State, settled: bool, loss: float, grad_norm: float = 0.0) -> tuple[State | None, str | None]:
        """Take in the loss and gradient norm of one update.

        Args:
            state: of the watch.
            settled: whether the onset was over in this update.
            loss: nats per token.
            grad_norm: norm of the gradient.
        Returns:
            The new state, None if the switch succeeded; and the reason if it failed, else None.
        """
        if not usable(loss, grad_norm):
            return state, f"loss {loss:g} and gradient norm {grad_norm:g} are not both finite"
        if not settled:
            return state, None
        state = state | {
            "count": state["count"] + 1,
            "loss_sum": state["loss_sum"] + loss,
            "after": state["after"] + 1,
        }
        if state["count"] < self.window:
            return state, None
        # A window is full: judge its mean, or start the next one.
        mean, reference = state["loss_sum"] / self.window, state["reference"]
        state |= {"count": 0, "loss_sum": 0.0}
        if state["after"] < self.within and mean > reference:
            return state, None
        if mean <= reference + self.bound * abs(reference):
            return None, None
        return state, (
            f"the loss was {mean:.4g} {state['after']} updates after the onset, {reference:.4g} before the switch, and "
            f"{100 * self.bound:.0f} % more are accepted"
        )
