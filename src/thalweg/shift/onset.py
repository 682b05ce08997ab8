"""Onsets: how the passes of a new stage begin to count; and the handover: what happens to the optimizer at a switch.

The gain g of a pass scales how far it moves the state, ``state + g (stack(state) - state)``; see `thalweg.models.looped`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from thalweg.bounds import Number, Rate, Updates, Whole, named_arguments
from thalweg.errors import UnsharedGainWarning, require, warn
from thalweg.serialization import checked


@named_arguments
@dataclass(frozen=True)
class Hard:
    """The new passes have gain 1 from the first update on, as in the paper."""

    kind: ClassVar[str] = "hard"
    steps: ClassVar[int] = 0

    def gains(self, age: int, added: int) -> tuple[float, ...]:
        """Gains of the ``added`` new passes ``age`` updates after the switch."""
        return (1.0,) * added


@named_arguments
@dataclass(frozen=True)
class Ramp:
    """The gains of the new passes grow from 0 to 1, so that the model's function does not jump at the switch.

    Example:
        >>> [Ramp(steps=4).gains(age, added=1) for age in range(6)]
        [(0.0,), (0.25,), (0.5,), (0.75,), (1.0,), (1.0,)]
        >>> [Ramp(steps=4, order="in turn").gains(age, added=2) for age in range(5)]
        [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (1.0, 0.5), (1.0, 1.0)]

    Source:
        Ours. With "in turn" the later passes have gain 0 for a part of the ramp. A model that skips passes with gain 0, as
        `thalweg.LoopedTransformer` does, then needs about (T + 2) / (2 T) of the time for a ramp from one pass to T.
    """

    kind: ClassVar[str] = "ramp"
    steps: Updates = 200
    """Number of updates until the gains of the new passes reach 1."""
    shape: Literal["linear", "cosine"] = "linear"
    """How a gain grows: linearly, or along half a cosine, slowly at both ends."""
    order: Literal["together", "in turn"] = "together"
    """Whether the gains of all new passes grow at the same time, or those of one pass after the other."""

    def __post_init__(self) -> None:
        checked(self, "ramp ")

    def gains(self, age: int, added: int) -> tuple[float, ...]:
        """Gains of the ``added`` new passes ``age`` updates after the switch."""
        if age >= self.steps:
            return (1.0,) * added
        share = age / self.steps
        if self.order == "together":
            return (self._shaped(share),) * added
        # In turn: pass k of n grows while the share is between k/n and (k + 1)/n.
        return tuple(self._shaped(min(1.0, max(0.0, share * added - index))) for index in range(added))

    def _shaped(self, share: float) -> float:
        """The gain of a pass when ``share`` of the time of its growth has passed."""
        return share if self.shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * share)


@named_arguments
@dataclass(frozen=True)
class Refine:
    """The passes of every stage share the step of the last one: fewer passes take larger steps.

    A pass moves the state by ``gain * (stack(state) - state)``. In a stage of k passes the gain of every pass but the first is
    ``(T - 1) / (k - 1)``, T being the passes of the last stage, so that their sum is T - 1 in every stage: the passes are steps of
    one flow, which a new stage divides more finely. A stage of one pass has no such gain. The function of the model changes a
    little at a switch, as an integrator's does when its step is halved, and nothing is ramped.

    It is meant for a model whose passes share one learned gain (``ModelConfig.for_loops(T, shared_gain=True)``).

    Example:
        >>> [Refine().stage_gains(loops, last=6) for loops in (2, 3, 6)]
        [(1.0, 5.0), (1.0, 2.5, 2.5), (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)]

    Source:
        Ours; the idea is that of nested iteration (cascadic multigrid), in depth in place of space: a residual network as a
        discretised flow, trained first on a coarse grid of layers, as in arXiv 1710.10348.
    """

    kind: ClassVar[str] = "refine"
    steps: ClassVar[int] = 0

    def gains(self, age: int, added: int) -> tuple[float, ...]:
        """No new pass is brought in by degrees."""
        return (1.0,) * added

    def stage_gains(self, loops: int, last: int) -> tuple[float, ...]:
        """One factor for each of a stage's passes, the first 1; ``last`` is the number of passes of the last stage."""
        return (1.0,) if loops == 1 else (1.0, *((last - 1) / (loops - 1),) * (loops - 1))


def warn_unshared(onset: object, shared: bool, remedy: str) -> None:
    """Warn that `Refine` is used with a model without a learned gain that its passes share.

    Args:
        onset: of the schedule.
        shared: whether the model has such a gain.
        remedy: what gives it one.
    Warns:
        UnsharedGainWarning: the onset is `Refine`, and the model has none.
    """
    if isinstance(onset, Refine) and not shared:
        why = "makes the steps of few passes larger, and without one learned gain for all passes the function jumps at a switch"
        warn(f"onset: Refine {why}; {remedy}, or choose Ramp", UnsharedGainWarning)


Onset = Hard | Ramp | Refine
"""How the passes of a new stage begin to count."""


@named_arguments
@dataclass(frozen=True)
class Handover:
    """What happens to learning rate and optimizer state at a switch; by default nothing.

    Example:
        >>> [Handover(rate=0.5, rewarm=2).rate_factor(age, switches=1) for age in range(3)]
        [0.25, 0.5, 0.5]
        >>> [Handover(rates=(1.0, 0.7, 0.4)).rate_factor(age=0, switches=stage) for stage in range(3)]
        [1.0, 0.7, 0.4]
    """

    rate: Rate = 1.0
    """Factor by which every switch multiplies the learning rate."""
    rewarm: Annotated[int, Whole(0, 10**9)] = 0
    """Number of updates after a switch over which the rate grows again from near 0; 0 for no second warm-up."""
    moments: Literal["keep", "reset", "scale"] = "keep"
    """What happens to the optimizer's running means: unchanged, set to zero together with their step count, or multiplied by
    `moments_factor`."""
    moments_factor: Annotated[float, Number(0, 1, "a number above 0, at most 1", open_below=True)] = 0.1
    """Factor for "scale"; AdamW's mean square is multiplied by its square, so that the size of the first step stays the same."""
    rates: tuple[Rate, ...] = ()
    """A factor on the learning rate for every stage, in place of `rate`; empty for none."""

    def __post_init__(self) -> None:
        checked(self, "handover ")
        require(not self.rates or self.rate == 1, "handover rates", self.rates, "either rates or rate, and not both")

    def rate_factor(self, age: int, switches: int) -> float:
        """Factor on the learning rate ``age`` updates after the last of ``switches`` switches."""
        factor = self.rates[switches] if self.rates else self.rate**switches
        if not switches:
            return factor
        return factor * (min(1.0, (age + 1) / self.rewarm) if self.rewarm else 1.0)
