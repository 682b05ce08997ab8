"""SHIFT: staged training as a schedule of loop counts, for any training loop.

It knows numbers, not models: it is told loss and gradient norm after every update, and says how many passes to use next and
with which gains.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from thalweg.errors import BadInputError, NonFiniteLossWarning, require
from thalweg.shift.arguments import answered, checked_gains, criteria_of, handover_of, kind_of, ladder, net_of, onset_of, whole
from thalweg.shift.criterion import Criterion, LookAhead, LookaheadResult, Plateau, State, as_number, usable
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Handover, Onset, Ramp, Refine
from thalweg.shift.state import Kinds, Retreat, Switch, check_fits, from_json, kept, read_saved
from thalweg.streams import stream


def doubling(loops: int) -> tuple[int, ...]:
    """The ladder 1, 2, 4, ... up to ``loops``.

    Example:
        >>> doubling(12)
        (1, 2, 4, 8, 12)
    """
    loops = whole(loops, "loops", least=1)
    return (*(2**k for k in range(loops.bit_length()) if 2**k < loops), loops)


class Shift:
    """Train with few passes first, with more later.

    Args:
        loops: passes of the last stage; shorthand for ``stages=(1, loops)``.
        criterion: when the next stage begins; one rule for every change, or a sequence with one for each.
        onset: how it begins.
        stages: the ladder of loop counts, rising, see `doubling`; a single stage never changes.
        handover: what becomes of the optimizer at a switch; the loop has to do it.
        net: when a switch is taken back; the loop has to restore the weights.
        spread: draw the loops of every update from ``1 - spread`` to ``1 + spread`` times those of the stage, so that the model
            works at depths that it is not trained for alone. Not in a stage of one loop and not during a ramp.
        seed: of the drawn loops.
    Raises:
        BadInputError: stages that do not rise, a number of criteria that does not fit, a spread outside 0 to 1; a word, a class or
            anything else that is no criterion, onset, handover or net; a number that is not whole, finite or in range.
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
        arXiv 2510.10089, section 5; the paper's procedure is two stages, SCP and a hard onset. All else is ours; random loops
        follow arXiv 2502.05171.
    """

    def __init__(
        self,
        loops: int | None = None,
        criterion: Criterion | Sequence[Criterion] | None = None,
        onset: Onset | None = None,
        stages: Sequence[int] | None = None,
        *,
        handover: Handover | None = None,
        net: SafetyNet | None = None,
        spread: float = 0.0,
        seed: int = 0,
    ) -> None:
        if (loops is None) == (stages is None):
            raise BadInputError("Shift: expected either loops (stages 1 -> loops) or stages, and not both")
        self.stages = ladder(stages if stages is not None else tuple(dict.fromkeys((1, whole(loops, "loops")))))
        self.criteria = criteria_of(Plateau() if criterion is None else criterion, len(self.stages) - 1)
        self.handover = handover_of(Handover() if handover is None else handover)
        self.net = net_of(SafetyNet() if net is None else net)
        self.first_onset: Onset = onset_of(Ramp() if onset is None else onset, self.net)
        self.spread, self.seed = as_number(spread, "spread"), whole(seed, "seed", least=0, most=2**63 - 1)
        require(0 <= self.spread < 1, "spread", spread, "a share from 0 up to, not including, 1")
        self.step = 0
        self.switches: list[Switch] = []
        self.retreats: list[Retreat] = []
        self.retreat_reason: str | None = None
        """Why the last switch has to be taken back now; None while all is well."""
        self._state: State = self.criteria[0].begin() if self.criteria else {}
        self._recent: list[float] = []
        self._watch: State | None = None
        self._warned = False

    def __repr__(self) -> str:
        """Where the schedule stands, and what it is made of."""
        rule = repr(self.criteria[self.stage]) if self.stage < len(self.criteria) else "none (last stage)"
        parts = [
            f"stage {self.stage + 1} of {len(self.stages)} in {self.stages}",
            f"loops {self.depth}",
            f"update {self.step}",
            *(["the last switch is watched"] if self.watching else []),
            f"criterion {rule}",
            f"onset {self.onset!r}{'' if self.settled else ' under way'}",
            f"net {self.net!r}",
        ]
        return f"Shift({', '.join(parts)})"

    @property
    def stage(self) -> int:
        """Index of the current stage."""
        return len(self.switches)

    @property
    def depth(self) -> int:
        """Passes of the current stage: those to evaluate with."""
        return self.stages[self.stage]

    @property
    def loops(self) -> int:
        """Passes to use for the next update: the stage's, or drawn around them."""
        low, high = self.range_of(self.depth)
        if low == high or len(self.onset_gains()) > 0:
            return self.depth
        return int(stream(self.seed, "loops", self.step).integers(low, high + 1))

    @property
    def gains(self) -> tuple[float, ...]:
        """One factor per pass for the next update; the first is always 1."""
        return self._with_onset(self.loops)

    @property
    def depth_gains(self) -> tuple[float, ...]:
        """One factor for each of the stage's passes, to evaluate with."""
        return self._with_onset(self.depth)

    def _with_onset(self, loops: int) -> tuple[float, ...]:
        """Gains of so many passes, the last of them those that are being brought in."""
        added = self.onset_gains()
        return self.stage_gains(loops)[: loops - len(added)] + added

    def stage_gains(self, loops: int) -> tuple[float, ...]:
        """One factor for each pass of a stage of ``loops`` that has settled: 1, or the larger steps of `thalweg.Refine`."""
        onset = self.first_onset
        return onset.stage_gains(loops, self.stages[-1]) if isinstance(onset, Refine) else (1.0,) * loops

    @property
    def onset(self) -> Onset:
        """How the current stage begins; softer after a retreat."""
        return self.net.softer(self.first_onset, self.switches[-1].softened) if self.switches else self.first_onset

    @property
    def settled(self) -> bool:
        """Whether every pass counts in full."""
        return not self.onset_gains()

    @property
    def rate_factor(self) -> float:
        """Factor on the learning rate of the next update."""
        age = self.step - self.switches[-1].step if self.switches else 0
        return self.handover.rate_factor(age, self.stage)

    def range_of(self, loops: int) -> tuple[int, int]:
        """Fewest and most passes that a stage of ``loops`` uses."""
        loops = whole(loops, "loops", least=1)
        if loops == 1 or not self.spread:
            return loops, loops
        return max(1, round((1 - self.spread) * loops)), round((1 + self.spread) * loops)

    def onset_gains(self) -> tuple[float, ...]:
        """Gains of the passes that are being brought in; none when all count in full."""
        if not self.switches:
            return ()
        switch = self.switches[-1]
        onset, added = self.onset, self.depth - switch.loops_before
        gains = checked_gains(onset, onset.gains(self.step - switch.step, added), added)
        return () if all(gain == 1 for gain in gains) else gains

    def update(self, loss: float, grad_norm: float) -> bool:
        """Tell the outcome of one update; True when the next one belongs to a new stage.

        On several ranks tell every rank the same numbers: their mean. While a ramp or the watch of the safety net lasts no
        criterion is asked: the curve then shows the onset, not the stage. A loss or norm that is NaN or infinite is never shown to
        a criterion. While a switch is watched it sets `retreat_reason` at once; otherwise there is nothing to take back, and the
        first one gives a warning.

        Raises:
            BadInputError: loss or norm is no number, or a norm is below 0; nothing is counted then.
        Warns:
            NonFiniteLossWarning: once for each schedule.
        """
        loss, grad_norm = as_number(loss, "loss"), as_number(grad_norm, "grad_norm")
        require(not grad_norm < 0, "grad_norm", grad_norm, "a norm, at least 0")
        settled, told = self.settled, usable(loss, grad_norm)
        self.step += 1
        if self.net.tries and told:
            self._recent = [*self._recent, loss][-self.net.window :]
        if self._watch is not None:
            self._watch, self.retreat_reason = self.net.observe(self._watch, settled, loss, grad_norm)
            return False
        if not told:
            self._warn(f"loss {loss:g} and gradient norm {grad_norm:g}")
            return False
        if self.stage == len(self.criteria) or not settled:
            return False
        rule = self.criteria[self.stage]
        self._state, reason = answered(rule, rule.observe(self._state, self.step, loss, grad_norm))
        return self._begin_next(reason)

    def _warn(self, what: str) -> None:
        """Say once that a number is not finite, to the caller of `update`."""
        if not self._warned:
            words = "not finite; the criterion is not told of it, and no switch is watched by a net that could be taken back"
            self._warned = True
            warnings.warn(f"Shift: update {self.step} had {what}: {words}", NonFiniteLossWarning, stacklevel=3)

    @property
    def lookahead_due(self) -> bool:
        """Whether the criterion wants both stages to be tried now; then call `report_lookahead`."""
        rule = self.criteria[self.stage] if self.stage < len(self.criteria) else None
        return isinstance(rule, LookAhead) and rule.due(self._state)

    def report_lookahead(self, here: LookaheadResult, ahead: LookaheadResult) -> bool:
        """Take in what a short training of both stages gave; True when the next update belongs to a new stage."""
        rule = self.criteria[self.stage] if self.lookahead_due else None
        if not isinstance(rule, LookAhead):
            raise BadInputError(
                f"report_lookahead after {self.step} updates: no lookahead was due; call it where lookahead_due is true"
            )
        for what, given in (("here", here), ("ahead", ahead)):
            require(
                isinstance(given, LookaheadResult),
                f"report_lookahead {what}",
                given,
                "a LookaheadResult, such as LookaheadResult(gain=0.1, cost=1.0)",
            )
        self._state, reason = rule.judge(self._state, here, ahead)
        return self._begin_next(reason)

    look_due, looked = lookahead_due, report_lookahead
    """Names of version 0.1."""

    def _begin_next(self, reason: str | None) -> bool:
        if reason is None:
            return False
        self.switches.append(Switch(self.step, self.depth, self.stages[self.stage + 1], reason))
        self._state = self.criteria[self.stage].begin() if self.stage < len(self.criteria) else {}
        if self.net.tries and self._recent:
            self._watch = self.net.begin(sum(self._recent) / len(self._recent))
        return True

    @property
    def watching(self) -> bool:
        """Whether the last switch can still be taken back."""
        return self._watch is not None

    def go_back(self, reason: str | None = None) -> Retreat:
        """Take the last switch back and make it again with a softer onset; the loop restores the weights it had then.

        Args:
            reason: why, where the loop knows it and not the schedule (a loss that is not finite).
        """
        require(reason is None or isinstance(reason, str), "go_back reason", reason, "text")
        why = reason or self.retreat_reason
        watch = self._watch
        if watch is None or why is None:
            raise BadInputError(
                f"go_back after {self.step} updates: expected a switch that is watched and a reason to take it back"
            )
        switch = self.switches[-1]
        retreat = Retreat(self.step, switch.step, why)
        self.retreats.append(retreat)
        self.switches[-1] = replace(switch, softened=switch.softened + 1)
        self.step, self.retreat_reason = switch.step, None
        self._watch = self.net.begin(watch["reference"]) if switch.softened + 1 < self.net.tries else None
        return retreat

    def explain(self) -> str:
        """What changed, when and why; one line a switch, and one for each that was taken back."""
        if not self.switches:
            return f"no switch in {self.step} updates: {self.depth} loops"
        lines = [f"after {s.step} updates: {s.loops_before} -> {s.loops_after} loops, because {s.reason}" for s in self.switches]
        lines += [f"after {r.step} updates: back to {r.back_to} and a softer onset, because {r.reason}" for r in self.retreats]
        return "\n".join(lines)

    @property
    def kinds(self) -> Kinds:
        """The kinds of criteria, onset and net, by which a saved state is known."""
        net = "safety-net" if self.net.tries else "none"
        return Kinds(tuple(kind_of(rule) for rule in self.criteria), kind_of(self.first_onset), net)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, and the kinds of what it belongs to, as JSON values without NaN and infinity."""
        kinds = self.kinds
        return {
            "stages": list(self.stages),
            "step": self.step,
            "switches": [dict(vars(s)) for s in self.switches],
            "retreats": [dict(vars(r)) for r in self.retreats],
            "criterion": kept(self._state, "state of the criterion"),
            "recent": list(self._recent),
            "watch": dict(self._watch) if self._watch is not None else None,
            "retreat": self.retreat_reason,
            "kinds": {"criteria": list(kinds.criteria), "onset": kinds.onset, "net": kinds.net},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; also from one of an earlier version, which does not name the kinds, where it fits.

        Raises:
            BadInputError: it belongs to other stages, another criterion, onset or net, or is damaged; the schedule is as before.
        """
        saved = read_saved(state)
        check_fits(saved, self.stages, self.kinds, self.criteria, self.net)
        self.step = saved.step
        self.switches, self.retreats, self.retreat_reason = list(saved.switches), list(saved.retreats), saved.retreat
        self._state, self._recent, self._watch = from_json(saved.criterion), list(saved.recent), saved.watch
