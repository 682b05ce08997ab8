"""Criteria: rules that decide, from the recorded losses and gradient norms, when the next stage begins.

A criterion is a frozen dataclass with pure methods. ``begin()`` returns its initial state.
``observe(state, step, loss, grad_norm)`` takes the numbers of one update and returns the new state, and the reason for a switch or
None. ``progress(state)``, which a criterion of one's own may lack, says how far it is. The state holds JSON values only, so that
it goes into checkpoints. ``step`` counts the updates of the whole run, from 1. An update whose loss or norm is NaN or infinite is
skipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from thalweg.bounds import Number, Updates, Whole, named_arguments, require_kind
from thalweg.errors import BadInputError, require
from thalweg.serialization import as_float, checked, plain

State = dict[str, Any]
_NO_CHECK: State = {"fall": None, "drift": None}
"""What the last check of `Plateau` found, before there was one."""
_LARGEST = 1e300
"""Larger losses and norms count as infinite, since a sum of several could overflow."""


def _moved(fall: float) -> str:
    """A relative fall of the loss, or its rise, in words."""
    return f"fell by {fall:.2g}" if fall >= 0 else f"rose by {-fall:.2g}"


def usable(loss: float, grad_norm: float) -> bool:
    """Whether loss and gradient norm are finite and small enough to be averaged."""
    return abs(loss) < _LARGEST and abs(grad_norm) < _LARGEST


def as_number(given: object, what: str) -> float:
    """Convert a number of Python, numpy or torch, or an array with one entry, to a float; NaN and infinity are accepted.

    Args:
        given: the number.
        what: its name, for the message.
    Raises:
        BadInputError: it is no number, or an array with several.
    """
    value: Any = plain(given)
    if isinstance(value, list) and not isinstance(given, list) and len(value) == 1:
        value = value[0]  # an array of shape (1,)
    require_kind(float, value, what, given)
    return as_float(value)


@named_arguments
@dataclass(frozen=True)
class Plateau:
    """The SHIFT Criterion with Patience (SCP): switch when loss and gradient norm have stopped changing for a while.

    Loss and gradient norm are averaged over windows of ``window`` updates; each full window is one check. With mean loss l_k and
    mean norm g_k of window k, a check holds if ``(l_{k-1} - l_k) / |l_{k-1}| < delta_loss`` (a rising loss counts as a plateau)
    and ``|g_k - g_{k-1}| / |g_{k-1}| < delta_grad``. The criterion fires when ``patience`` checks in a row hold.

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
    """delta_1: the loss is on a plateau if its mean falls by less than this share per window."""
    delta_grad: Annotated[float, Number(0, 1e9)] = 0.1
    """delta_2: the gradient norm has settled if its mean changes by less than this share per window."""
    patience: Updates = 5
    """W: number of checks in a row that must hold."""
    window: Updates = 20
    """Number of updates that one check averages over."""

    def __post_init__(self) -> None:
        checked(self, "plateau ")

    def begin(self) -> State:
        return {"count": 0, "loss_sum": 0.0, "grad_sum": 0.0, "loss": None, "grad": None, "held": 0, **_NO_CHECK}

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
        # A window is full: compare its means with those of the window before, and start the next one.
        mean_loss, mean_grad = state["loss_sum"] / self.window, state["grad_sum"] / self.window
        last_loss, last_grad = state["loss"], state["grad"]
        next_state = self.begin() | {"loss": mean_loss, "grad": mean_grad}
        if last_loss is None:
            return next_state, None
        fall = (last_loss - mean_loss) / max(abs(last_loss), 1e-30)
        drift = abs(mean_grad - last_grad) / max(abs(last_grad), 1e-30)
        holds = fall < self.delta_loss and drift < self.delta_grad
        kept = {"fall": max(fall, -_LARGEST / 2), "drift": min(drift, _LARGEST / 2)}  # finite, as every state
        next_state |= {"held": state["held"] + 1 if holds else 0, **kept}
        if next_state["held"] < self.patience:
            return next_state, None
        return next_state, (
            f"SCP: for {self.patience} checks of {self.window} updates the loss fell by less than {self.delta_loss:g} a check "
            f"(last: {_moved(fall)}) and the gradient norm moved by less than {self.delta_grad:g} (last {drift:.2g})"
        )

    def progress(self, state: State) -> str:
        fall, drift = state.get("fall"), state.get("drift")
        if fall is None or drift is None:
            so_far = f"{state['held']} of {self.patience} checks in a row held" if state["held"] else "no check yet"
            return f"SCP: {so_far}; a check compares two windows of {self.window} updates"
        return (
            f"SCP: {state['held']} of {self.patience} checks in a row held; in the last one the loss {_moved(fall)} (may fall by "
            f"less than {self.delta_loss:g}) and the gradient norm moved by {drift:.2g} (may by less than {self.delta_grad:g})"
        )


@named_arguments
@dataclass(frozen=True)
class AtStep:
    """Switch after a fixed number of updates, counted from the start of the run."""

    kind: ClassVar[str] = "at-step"
    step: Updates = 1000
    """Number of updates before the switch."""

    def __post_init__(self) -> None:
        checked(self, "at-step ")

    def begin(self) -> State:
        return {}

    def observe(self, state: State, step: int, loss: float, grad_norm: float) -> tuple[State, str | None]:
        return state, f"{self.step} updates were made" if step >= self.step else None

    def progress(self, state: State) -> str:
        return f"at update {self.step} of the run"


@named_arguments
@dataclass(frozen=True)
class AtFraction:
    """Switch after a fixed share of all updates of the run."""

    kind: ClassVar[str] = "at-fraction"
    share: Annotated[float, Number(0, 1, "a share between 0 and 1", open_below=True, open_above=True)] = 0.35
    """Share of the run's updates before the switch."""
    total_steps: Annotated[int, Whole(0, 10**9)] = 0
    """Number of updates of the whole run; has to be given, and to equal training.steps."""

    def __post_init__(self) -> None:
        checked(self, "at-fraction ")
        require(self.total_steps > 0, "at-fraction total_steps", self.total_steps, "the number of updates of the whole run")

    def begin(self) -> State:
        return {}

    def observe(self, state: State, step: int, loss: float, grad_norm: float) -> tuple[State, str | None]:
        return state, f"{100 * self.share:.0f} % of {self.total_steps} updates were made" if step >= self.first_step else None

    def progress(self, state: State) -> str:
        return f"at update {self.first_step} of the run"

    @property
    def first_step(self) -> int:
        """The first update after which the share is reached, at least 1."""
        return max(1, math.ceil(self.share * self.total_steps - 1e-9))  # 0.07 * 100 is slightly above 7 in floating point


@named_arguments
@dataclass(frozen=True)
class LossBelow:
    """Switch when the stage is learned: when the mean loss of the last ``window`` updates is below ``loss``.

    Example:
        >>> rule = LossBelow(loss=0.5, window=2, most=6)
        >>> state, reasons = rule.begin(), []
        >>> for step, loss in enumerate([0.9, 0.3, 0.8, 0.1], start=1):
        ...     state, reason = rule.observe(state, step, loss, grad_norm=1.0)
        ...     reasons.append(reason)
        >>> reasons
        [None, None, None, 'the mean loss of 2 updates, 0.45, is below 0.5']

    Source:
        Ours. With a task whose stage sets the lengths it makes a self-paced curriculum: each length is learned before the next.
    """

    kind: ClassVar[str] = "loss-below"
    loss: Annotated[float, Number(0, 1e9, "a positive number of nats", open_below=True)] = 0.1
    """Mean loss in nats below which the stage counts as learned."""
    window: Updates = 20
    """Number of updates averaged over, all of the current stage."""
    most: Annotated[int, Whole(0, 10**9, "a number of updates of at least 0")] = 0
    """Number of updates after which the next stage begins in any case; 0 for no limit."""

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

    def progress(self, state: State) -> str:
        recent, limit = state["recent"], f", or {self.most} updates in the stage, {state['count']} so far" if self.most else ""
        so_far = f", {sum(recent) / len(recent):.3g} now," if recent else ""
        return f"the mean loss of the last {self.window} updates of the stage{so_far} must be below {self.loss:g}{limit}"


def require_fitting(rule: object, state: State, place: str) -> None:
    """Check a saved state of one of the criteria above; a state of the user's own criterion is not checked.

    Raises:
        BadInputError: it has other keys or types than the criterion's states, or counts more updates than a window has.
    """
    if not isinstance(rule, Criterion):
        return
    if isinstance(rule, Plateau):
        state = {**(_NO_CHECK if "held" in state else {}), **state}  # earlier versions did not keep the last check
    require_alike(state, rule.begin(), place)
    if isinstance(rule, Plateau):
        require(state["count"] < rule.window, f"{place}.count", state["count"], f"less than the window, {rule.window}")
        consistent = (state["loss"] is None) == (state["grad"] is None)
        require(consistent, f"{place}.loss", state["loss"], "a mean of the loss and of the norm, or neither")


def require_alike(state: State, template: State, place: str) -> None:
    """Raise `BadInputError` unless a state has the keys of a template, with values of the same types.

    Args:
        state: the saved state.
        template: a state of the same criterion or net.
        place: name of the state, for messages.
    """
    if state.keys() != template.keys():
        given, wanted = (", ".join(map(str, keys)) or "none" for keys in (state, template))
        raise BadInputError(f"{place}: given the keys {given}, expected {wanted}; it is damaged or was saved by something else")
    for key, example in template.items():
        value, where = state[key], f"{place}.{key}"
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
        if isinstance(example, bool):
            require(isinstance(value, bool), where, value, "true or false")
        elif isinstance(example, int):
            require(number and isinstance(value, int) and value >= 0, where, value, "a whole number of at least 0")
        elif isinstance(example, list):
            require(isinstance(value, list), where, value, "a list of numbers")
            items = {str(index): item for index, item in enumerate(state[key])}
            require_alike(items, dict.fromkeys(items, 0.0), where)
        else:
            require(number or value is example is None, where, value, "a finite number")


Criterion = Plateau | AtStep | AtFraction | LossBelow
