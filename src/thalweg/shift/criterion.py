"""When to begin the next stage: rules on recorded numbers, each a frozen value with a pure step.

``begin() -> state`` and ``observe(state, step, loss, grad_norm) -> (state, reason or None)``. The state holds JSON values
only. ``step`` counts the updates made so far in the whole run, from 1. A loss or norm that is NaN or infinite is left out of
every mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from thalweg.bounds import Number, Updates, Whole
from thalweg.errors import BadInputError, require
from thalweg.serialization import as_float, checked, plain

State = dict[str, Any]
_LARGEST = 1e300
"""Losses and norms from here on count as infinite: a sum of some of them would be."""


def usable(loss: float, grad_norm: float) -> bool:
    """Whether loss and gradient norm are numbers that can be averaged; NaN and infinity are not."""
    return abs(loss) < _LARGEST and abs(grad_norm) < _LARGEST


def as_number(given: object, what: str) -> float:
    """A number of any kind (numpy's and torch's too) as a float; NaN and infinity are let through.

    Raises:
        BadInputError: it is no number, or several.
    """
    found: Any = plain(given)
    if isinstance(found, list) and not isinstance(given, list) and len(found) == 1:
        found = found[0]  # a tensor (1,)
    require(isinstance(found, int | float) and not isinstance(found, bool), what, given, "a number")
    return as_float(found)


@dataclass(frozen=True)
class Plateau:
    """The SHIFT Criterion with Patience (SCP): loss on a plateau, gradient settled, both for a while.

    Loss and gradient norm are averaged over windows of ``window`` updates; each full window is one check. A check holds when
    the mean loss fell by less than ``delta_loss`` (relative to the window before; a rise counts as a plateau) and the mean
    gradient norm moved by less than ``delta_grad`` (relative, either way). It fires when ``patience`` checks in a row hold.

    Example:
        >>> rule = Plateau(delta_loss=0.01, delta_grad=0.1, patience=2, window=1)
        >>> state, reasons = rule.begin(), []
        >>> for step, loss in enumerate([2.0, 1.0, 1.0, 1.0], start=1):
        ...     state, reason = rule.observe(state, step, loss, grad_norm=1.0)
        ...     reasons.append(reason is not None)
        >>> reasons
        [False, False, False, True]

    Source:
        arXiv 2510.10089, section 5 (thresholds delta_1, delta_2, patience W). The paper gives no values and no smoothing;
        windows and defaults are ours.
    """

    kind: ClassVar[str] = "plateau"
    delta_loss: Annotated[float, Number(0, 1e9)] = 1e-2
    """delta_1: relative fall of the mean loss per window below which it is a plateau."""
    delta_grad: Annotated[float, Number(0, 1e9)] = 0.1
    """delta_2: relative change of the mean gradient norm per window below which it has settled."""
    patience: Updates = 5
    """W: checks in a row."""
    window: Updates = 20
    """Updates averaged into one check."""

    def __post_init__(self) -> None:
        checked(self, "plateau ")

    def begin(self) -> State:
        return {"count": 0, "loss_sum": 0.0, "grad_sum": 0.0, "loss": None, "grad": None, "held": 0}

    def observe(self, state: State, step: int, loss: float, grad_norm: float) -> tuple[State, str | None]:
        if not usable(loss, grad_norm):
            return state, None
        state = state | {
            "count": state["count"] + 1,
            "loss_sum": state["loss_sum"] + loss,
            "grad_sum": state["grad_sum"] + grad_norm,
        }
        if state["count"] < self.window:
            return state, None
        mean_loss, mean_grad = state["loss_sum"] / self.window, state["grad_sum"] / self.window
        before = state["loss"], state["grad"]
        fresh = self.begin() | {"loss": mean_loss, "grad": mean_grad}
        if before[0] is None:
            return fresh, None
        fall = (before[0] - mean_loss) / max(abs(before[0]), 1e-30)
        drift = abs(mean_grad - before[1]) / max(abs(before[1]), 1e-30)
        holds = fall < self.delta_loss and drift < self.delta_grad
        fresh["held"] = state["held"] + 1 if holds else 0
        if fresh["held"] < self.patience:
            return fresh, None
        return fresh, (
            f"SCP: for {self.patience} checks of {self.window} updates the loss fell by less than {self.delta_loss:g} a check "
            f"(last {fall:+.2g}) and the gradient norm moved by less than {self.delta_grad:g} (last {drift:.2g})"
        )


@dataclass(frozen=True)
class AtStep:
    """Switch when ``step`` updates have been made."""

    kind: ClassVar[str] = "at-step"
    step: Updates = 1000
    """Updates before the switch."""

    def __post_init__(self) -> None:
        checked(self, "at-step ")

    def begin(self) -> State:
        return {}

    def observe(self, state: State, step: int, loss: float, grad_norm: float) -> tuple[State, str | None]:
        return state, f"{self.step} updates were made" if step >= self.step else None


@dataclass(frozen=True)
class AtFraction:
    """Switch after a share of all updates."""

    kind: ClassVar[str] = "at-fraction"
    share: Annotated[float, Number(0, 1, "a share between 0 and 1", open_below=True, open_above=True)] = 0.35
    """Part of the run before the switch, between 0 and 1."""
    total_steps: Updates = 1000
    """Updates of the whole run."""

    def __post_init__(self) -> None:
        checked(self, "at-fraction ")

    def begin(self) -> State:
        return {}

    def observe(self, state: State, step: int, loss: float, grad_norm: float) -> tuple[State, str | None]:
        reached = step >= self.share * self.total_steps - 1e-9  # 0.07 * 100 is a little above 7
        return state, f"{self.share:.0%} of {self.total_steps} updates were made" if reached else None


@dataclass(frozen=True)
class LossBelow:
    """Switch when the stage is learned: the mean loss of the last ``window`` updates is below ``loss``.

    Example:
        >>> rule = LossBelow(loss=0.5, window=2, most=6)
        >>> state, reasons = rule.begin(), []
        >>> for step, loss in enumerate([0.9, 0.3, 0.8, 0.1], start=1):
        ...     state, reason = rule.observe(state, step, loss, grad_norm=1.0)
        ...     reasons.append(reason)
        >>> reasons
        [None, None, None, 'the mean loss of 2 updates, 0.45, is below 0.5']

    Source:
        Ours; a length that is learned before the next one comes is a self-paced curriculum.
    """

    kind: ClassVar[str] = "loss-below"
    loss: Annotated[float, Number(0, 1e9, "a positive number of nats", open_below=True)] = 0.1
    """Mean loss in nats that counts as learned."""
    window: Updates = 20
    """Updates averaged, all within the stage."""
    most: Annotated[int, Whole(0, 10**9, "a number of updates of at least 0")] = 0
    """Updates after which the next stage begins all the same; 0 for no end."""

    def __post_init__(self) -> None:
        checked(self, "loss-below ")

    def begin(self) -> State:
        return {"count": 0, "recent": []}

    def observe(self, state: State, step: int, loss: float, grad_norm: float) -> tuple[State, str | None]:
        if not usable(loss, grad_norm):
            return state, None
        recent = [*state["recent"], loss][-self.window :]
        state = {"count": state["count"] + 1, "recent": recent}
        mean = sum(recent) / len(recent)
        if len(recent) == self.window and mean < self.loss:
            return state, f"the mean loss of {self.window} updates, {mean:.2g}, is below {self.loss:g}"
        return state, f"{self.most} updates were made in the stage" if 0 < self.most <= state["count"] else None


@dataclass(frozen=True)
class LookaheadResult:
    """What a short look ahead showed of one stage: how far the loss fell, and what that cost."""

    gain: float
    """Loss before minus loss after, on the same batches; not finite where the copy diverged, which counts as no gain at all."""
    cost: float
    """Counted operations, or any cost that is the same on every machine; above 0."""

    def __post_init__(self) -> None:
        gain, cost = as_number(self.gain, "LookaheadResult gain"), as_number(self.cost, "LookaheadResult cost")
        require(0 < cost < math.inf, "LookaheadResult cost", self.cost, "a positive number")
        object.__setattr__(self, "gain", gain)
        object.__setattr__(self, "cost", cost)

    @property
    def rate(self) -> float:
        """Gain for each unit of cost; minus infinity where the gain is not finite."""
        return self.gain / self.cost if math.isfinite(self.gain) else -math.inf


Glance = LookaheadResult
"""Its name in version 0.1."""


@dataclass(frozen=True)
class LookAhead:
    """Switch when the next stage is expected to gain more for its cost than this one.

    Every ``every`` updates both stages are trained for ``updates`` on copies, over the same coming batches, the next stage with a
    ramp over the first half; the run then goes on from where it was. Gains are compared per counted operation, not per second:
    seconds differ from run to run, and with them the decision would. The looks cost what they cost, and it is counted.

    It is asked through ``due`` and ``judge``, since loss and gradient norm alone cannot tell it anything.

    Source:
        Ours.
    """

    kind: ClassVar[str] = "look-ahead"
    every: Updates = 200
    """Updates between looks."""
    updates: Annotated[int, Whole(4, 10**9)] = 40
    """Updates of a look, in each of the two stages."""
    patience: Updates = 1
    """Looks in a row that must prefer the next stage."""

    def __post_init__(self) -> None:
        checked(self, "look-ahead ")
        require(self.every >= self.updates, "look-ahead every", self.every, f"at least the {self.updates} updates of a look")

    def begin(self) -> State:
        return {"held": 0, "due": False}

    def observe(self, state: State, step: int, loss: float, grad_norm: float) -> tuple[State, str | None]:
        return state | {"due": step % self.every == 0}, None

    def due(self, state: State) -> bool:
        """Whether a look is wanted now."""
        return state["due"]

    def judge(self, state: State, here: LookaheadResult, ahead: LookaheadResult) -> tuple[State, str | None]:
        """What a look at this stage and at the next one means."""
        better = ahead.rate > max(0.0, here.rate)
        state = {"held": state["held"] + 1 if better else 0, "due": False}
        if state["held"] < self.patience:
            return state, None
        return state, (
            f"{self.updates} updates ahead the next stage gains {ahead.rate:.3g} for each unit of cost and this one {here.rate:.3g}"
        )


def fitting(rule: object, state: State, place: str) -> State:
    """A saved state of one of these rules, as it was; of a rule of the user's own anything is taken.

    Raises:
        BadInputError: it has other keys or types than the rule's own states, or counts more than a window.
    """
    if not isinstance(rule, Criterion):
        return state
    alike(state, rule.begin(), place)
    if isinstance(rule, Plateau):
        require(state["count"] < rule.window, f"{place}.count", state["count"], f"less than the window, {rule.window}")
        both = (state["loss"] is None) == (state["grad"] is None)
        require(both, f"{place}.loss", state["loss"], "a mean of the loss and of the norm, or neither")
    return state


def alike(state: State, template: State, place: str) -> None:
    """Refuse a state whose keys are not those of the template, or whose values are of other types."""
    if state.keys() != template.keys():
        given, wanted = (", ".join(map(str, keys)) or "none" for keys in (state, template))
        raise BadInputError(f"{place}: given the keys {given}, expected {wanted}; it is damaged or was saved by something else")
    for key, like in template.items():
        value, where = state[key], f"{place}.{key}"
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
        if isinstance(like, bool):
            require(isinstance(value, bool), where, value, "true or false")
        elif isinstance(like, int):
            require(number and isinstance(value, int) and value >= 0, where, value, "a whole number of at least 0")
        elif isinstance(like, list):
            require(isinstance(value, list), where, value, "a list of numbers")
            alike({str(at): one for at, one in enumerate(state[key])}, {str(at): 0.0 for at in range(len(state[key]))}, where)
        else:
            require(number or value is like is None, where, value, "a finite number")


Criterion = Plateau | AtStep | AtFraction | LossBelow | LookAhead
