"""The safety net: a switch that went wrong is taken back and tried again with a softer onset.

Like a criterion it is a frozen value with a pure step; its state holds JSON values only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from thalweg.bounds import Number, Updates, Whole
from thalweg.errors import require
from thalweg.serialization import checked
from thalweg.shift.criterion import usable
from thalweg.shift.onset import Hard, Onset, Ramp

State = dict[str, Any]


@dataclass(frozen=True)
class SafetyNet:
    """Go back to the weights before a switch when the loss rose too far and did not come back in time.

    The loss is averaged over windows of ``window`` updates; the last ``window`` updates before the switch are the reference. The
    watch over a switch ends well with the first window that is at the reference or below it, once the onset is over, or when
    ``within`` updates after the onset the loss is not above the bound. It ends badly when the loss is above the bound then.
    Loss or gradient that are not finite end it badly at once.

    Example:
        >>> net, onset = SafetyNet(tries=2, within=100), Hard()
        >>> net.softer(onset, 1), net.softer(onset, 2).steps
        (Ramp(steps=100, shape='linear', order='together'), 400)

    Source:
        Ours.
    """

    tries: Annotated[int, Whole(0, 1000)] = 0
    """Softer onsets that are tried for each switch; 0 for no net."""
    bound: Annotated[float, Number(0, 1e9, "a positive number", open_below=True)] = 0.05
    """Relative rise of the mean loss over the reference that is not accepted."""
    within: Updates = 200
    """Updates after the end of the onset in which the loss must have come back."""
    window: Updates = 20
    """Updates of a mean."""

    def __post_init__(self) -> None:
        checked(self, "net ")
        require(self.within >= self.window >= 1, "net window", self.window, f"from 1 to within, {self.within}")

    def softer(self, onset: Onset, count: int) -> Onset:
        """The onset of try ``count``: a ramp for a hard one, four times as long for each further try."""
        if not count:
            return onset
        first = Ramp(steps=self.within) if isinstance(onset, Hard) else replace(onset, steps=4 * onset.steps)
        return replace(first, steps=first.steps * 4 ** (count - 1))

    def begin(self, reference: float) -> State:
        """The watch over a switch; ``reference`` is the mean loss before it."""
        return {"reference": reference, "count": 0, "loss_sum": 0.0, "after": 0}

    def observe(self, state: State, settled: bool, loss: float, grad_norm: float = 0.0) -> tuple[State | None, str | None]:
        """One update's loss and gradient norm, ``settled`` when its onset was over.

        Returns:
            No state when the watch ended well; a reason when it ended badly.
        """
        if not usable(loss, grad_norm):
            return state, f"loss {loss:g} and gradient norm {grad_norm:g} are not both finite"
        state = state | {
            "count": state["count"] + 1,
            "loss_sum": state["loss_sum"] + loss,
            "after": state["after"] + settled,
        }
        if state["count"] < self.window:
            return state, None
        mean, reference = state["loss_sum"] / self.window, state["reference"]
        state |= {"count": 0, "loss_sum": 0.0}
        if not settled or (state["after"] < self.within and mean > reference):
            return state, None
        if mean <= reference + self.bound * abs(reference):
            return None, None
        return state, (
            f"the loss was {mean:.4g} {state['after']} updates after the onset, {reference:.4g} before the switch, and "
            f"{self.bound:.0%} more are accepted"
        )
