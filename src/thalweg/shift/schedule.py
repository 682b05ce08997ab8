"""SHIFT: staged training as a schedule of loop counts, for any training loop.

It knows numbers, not models: it is told loss and gradient norm after every update, and says how many passes to use next and
with which gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thalweg.errors import BadInputError, require
from thalweg.shift.criterion import Criterion, Plateau, State
from thalweg.shift.onset import Onset, Ramp


@dataclass(frozen=True)
class Switch:
    """One change of stage; ``step`` updates had been made."""

    step: int
    loops_before: int
    loops_after: int
    reason: str


class Shift:
    """Train with few passes first, with more later.

    Args:
        loops: passes of the last stage; shorthand for ``stages=(1, loops)``.
        criterion: when the next stage begins; one rule for every change, or a sequence with one for each.
        onset: how it begins.
        stages: the ladder of loop counts, rising; a single stage never changes.
    Raises:
        BadInputError: stages that do not rise, or a number of criteria that does not fit.
    Example:
        >>> from thalweg.shift.criterion import AtStep
        >>> shift = Shift(loops=3, criterion=AtStep(2), onset=Ramp(steps=2))
        >>> for _ in range(4):
        ...     print(shift.loops, shift.gains, shift.update(loss=1.0, grad_norm=1.0))
        1 (1.0,) False
        1 (1.0,) True
        3 (1.0, 0.0, 0.0) False
        3 (1.0, 0.5, 0.5) False
        >>> shift.explain()
        'after 2 updates: 1 -> 3 loops, because 2 updates were made'

    Source:
        arXiv 2510.10089, section 5; the paper's procedure is two stages, SCP and a hard onset. The ramp is ours.
    """

    def __init__(
        self,
        loops: int | None = None,
        criterion: Criterion | Sequence[Criterion] | None = None,
        onset: Onset | None = None,
        stages: Sequence[int] | None = None,
    ) -> None:
        if (loops is None) == (stages is None):
            raise BadInputError("Shift: expected either loops (stages 1 -> loops) or stages, and not both")
        self.stages = tuple(stages) if stages is not None else tuple(dict.fromkeys((1, loops or 0)))
        rising = all(a < b for a, b in zip(self.stages, self.stages[1:], strict=False))
        ladder = "loop counts of at least 1 that rise"
        require(bool(self.stages) and self.stages[0] >= 1 and rising, "stages", self.stages, ladder)
        changes = len(self.stages) - 1
        given = criterion if criterion is not None else Plateau()
        self.criteria = tuple(given) if isinstance(given, Sequence) else (given,) * changes
        require(len(self.criteria) == changes, "criteria", len(self.criteria), f"one for each of {changes} changes")
        self.onset: Onset = onset if onset is not None else Ramp()
        self.step = 0
        self.switches: list[Switch] = []
        self._state: State = self.criteria[0].begin() if changes else {}

    @property
    def stage(self) -> int:
        """Index of the current stage."""
        return len(self.switches)

    @property
    def loops(self) -> int:
        """Passes to use for the next update."""
        return self.stages[self.stage]

    @property
    def gains(self) -> tuple[float, ...]:
        """One factor per pass for the next update; the first is always 1."""
        if not self.switches:
            return (1.0,) * self.loops
        switch = self.switches[-1]
        gain = self.onset.gain(self.step - switch.step)
        return (1.0,) * switch.loops_before + (gain,) * (self.loops - switch.loops_before)

    @property
    def settled(self) -> bool:
        """Whether every pass counts in full."""
        return self.gains[-1] == 1.0

    def update(self, loss: float, grad_norm: float) -> bool:
        """Tell the outcome of one update; True when the next one belongs to a new stage.

        While a ramp lasts no criterion is asked: the curve then shows the onset, not the stage.
        """
        settled = self.settled
        self.step += 1
        if self.stage == len(self.criteria) or not settled:
            return False
        rule = self.criteria[self.stage]
        self._state, reason = rule.observe(self._state, self.step, float(loss), float(grad_norm))
        if reason is None:
            return False
        before = self.loops
        self.switches.append(Switch(self.step, before, self.stages[self.stage + 1], reason))
        self._state = self.criteria[self.stage].begin() if self.stage < len(self.criteria) else {}
        return True

    def explain(self) -> str:
        """What changed, when and why; one line a switch."""
        if not self.switches:
            return f"no switch in {self.step} updates: {self.loops} loops"
        lines = (f"after {s.step} updates: {s.loops_before} -> {s.loops_after} loops, because {s.reason}" for s in self.switches)
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, as JSON values."""
        return {
            "stages": list(self.stages),
            "step": self.step,
            "switches": [dict(vars(s)) for s in self.switches],
            "criterion": dict(self._state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            BadInputError: it belongs to other stages.
        """
        require(tuple(state["stages"]) == self.stages, "saved stages", state["stages"], f"those of this run, {self.stages}")
        self.step = state["step"]
        self.switches = [Switch(**s) for s in state["switches"]]
        self._state = dict(state["criterion"])
