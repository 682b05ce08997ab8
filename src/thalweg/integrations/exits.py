"""Exit rules: how many passes a looped model uses at inference, decided for each batch.

A rule is asked after every pass whether the batch may leave the loop. All sequences of a batch leave together, when the rule
holds for each of them. In generation the first call decides, and the following tokens use as many passes, so that no slot of
the cache stays empty.

Shape letters: B batch, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from torch import Tensor

from thalweg.bounds import Number, Whole
from thalweg.serialization import checked

Read = Callable[[Tensor], Tensor]
"""Maps states ``(B, L, D)`` to logits ``(B, L, V)``: the model's final norm and head."""
_Least = Annotated[int, Whole(1, 10**6)]


class ExitRule(Protocol):
    """When a batch may leave the loop."""

    def leaves(self, passes: int, before: Tensor, after: Tensor, read: Read) -> bool:
        """Whether the batch leaves the loop now.

        Args:
            passes: number of passes made.
            before: states before the last pass, ``(B, L, D)``; the states that entered the block after pass 1.
            after: states after it, ``(B, L, D)``.
            read: gives the logits of states.
        """
        ...


@dataclass(frozen=True)
class Fixed:
    """Leave the loop after a fixed number of passes."""

    passes: _Least

    def __post_init__(self) -> None:
        checked(self, "fixed exit ")

    def leaves(self, passes: int, before: Tensor, after: Tensor, read: Read) -> bool:
        return passes >= self.passes


@dataclass(frozen=True)
class SmallChange:
    """Leave the loop when a pass changes the state of the last token by less than ``share`` of its norm, in every sequence.

    Source:
        arXiv 2502.05171 leaves on a small change between successive passes; it compares output distributions, we compare states.
    """

    share: Annotated[float, Number(0, 1e6, "a share of the state's norm above 0", open_below=True)] = 0.05
    """Norm of the change of the state, divided by the norm of the state."""
    least: _Least = 1
    """Fewest passes."""

    def __post_init__(self) -> None:
        checked(self, "small-change exit ")

    def leaves(self, passes: int, before: Tensor, after: Tensor, read: Read) -> bool:
        last, moved = after[:, -1].float(), (after[:, -1] - before[:, -1]).float()
        return passes >= self.least and bool((moved.norm(dim=-1) < self.share * last.norm(dim=-1)).all())


@dataclass(frozen=True)
class Confidence:
    """Leave the loop when the most likely next token has at least this probability in every sequence.

    The probability is that of the model's head on the state of the last token, without the layers after the block. It is a
    proxy: these layers change the prediction.
    """

    probability: Annotated[float, Number(0, 1, "a probability above 0, at most 1", open_below=True)] = 0.9
    least: _Least = 1
    """Fewest passes."""

    def __post_init__(self) -> None:
        checked(self, "confidence exit ")

    def leaves(self, passes: int, before: Tensor, after: Tensor, read: Read) -> bool:
        if passes < self.least:
            return False
        logits = read(after[:, -1:]).float()
        return bool((logits.softmax(-1).amax(-1) >= self.probability).all())
