"""How a new stage begins: at once, or by gains that grow from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thalweg.errors import require


@dataclass(frozen=True)
class Hard:
    """The new passes count in full from the first update on (the paper's way)."""

    kind: ClassVar[str] = "hard"

    def gain(self, age: int) -> float:
        """Gain of the new passes ``age`` updates after the switch."""
        return 1.0


@dataclass(frozen=True)
class Ramp:
    """The gain of the new passes grows linearly from 0, so that the model's function does not jump.

    Example:
        >>> [Ramp(steps=4).gain(age) for age in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    kind: ClassVar[str] = "ramp"
    steps: int = 200
    """Updates until the new passes count in full."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "ramp steps", self.steps, "a whole number of at least 1")

    def gain(self, age: int) -> float:
        """Gain of the new passes ``age`` updates after the switch."""
        return min(1.0, age / self.steps)


Onset = Hard | Ramp
