"""SHIFT: staged training as a schedule of loop counts, for any training loop.

The schedule knows no model. The training loop passes it loss and gradient norm after every update, and reads from it how many
passes to use in the next update and with which gains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

from thalweg.bounds import LARGEST_SEED, Whole, named_arguments
from thalweg.errors import BadInputError, NonFiniteLossWarning, plural, require, warn
from thalweg.serialization import to_dict
from thalweg.shift.arguments import checked_answer, checked_gains, criteria_of, instance_of, integer, kind_of, ladder, onset_of
from thalweg.shift.criterion import AtStep, Criterion, Plateau, State, as_number, usable
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Handover, Onset, Ramp, Refine
from thalweg.shift.plan import StagePlan, evidence, plan_stages, recommended
from thalweg.shift.state import Kinds, Retreat, Switch, check_fits, criterion_to_json, from_json, read_saved, warn_of_others
from thalweg.streams import stream

_LOOPS = Whole(1, 2**63 - 1)


@named_arguments
def doubling(loops: int) -> tuple[int, ...]:
    """The stages 1, 2, 4, ... up to ``loops`` passes.

    Example:
        >>> doubling(12)
        (1, 2, 4, 8, 12)
    """
    loops = integer(loops, "loops", _LOOPS)
    return (*(2**k for k in range(loops.bit_length()) if 2**k < loops), loops)


@dataclass(frozen=True)
class PlannedShift:
    """A schedule for a budget, and why it is recommended."""

    shift: Shift
    """The schedule, at its first update."""
    stages: StagePlan
    """Updates of each stage."""
    evidence: str
    """What was measured, where, with intervals."""


@named_arguments
class Shift:
    """A schedule of staged training: few passes first, more passes later.

    Args:
        loops: number of passes of the last stage; shorthand for ``stages=(1, loops)``.
        criterion: decides when the next stage begins; one for all changes, or a sequence with one for each change.
        onset: how the passes of a new stage begin to count.
        stages: loop counts of the stages, rising, see `doubling`; with a single stage nothing changes.
        handover: what happens to the optimizer at a switch; the training loop has to apply it.
        net: when a switch is taken back; the training loop has to restore the weights.
        spread: if above 0, the loops of every update are drawn uniformly from ``1 - spread`` to ``1 + spread`` times those of the
            stage, so that the model works at several depths. Not drawn in a stage of one loop, nor during a ramp.
        seed: seed of the drawn loops.
    Raises:
        BadInputError: stages that do not rise, a number of criteria that does not fit, a spread outside 0 to 1, an argument of
            another type, or a number that is not finite or out of range.
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
        arXiv 2510.10089, section 5, whose procedure is two stages, SCP and a hard onset. Random loops follow arXiv 2502.05171. All
        else is ours.
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
        self.stages = ladder(stages if stages is not None else tuple(dict.fromkeys((1, integer(loops, "loops")))))
        self.criteria = criteria_of(Plateau() if criterion is None else criterion, len(self.stages) - 1)
        self.handover = instance_of(Handover, Handover() if handover is None else handover, "handover", "Handover(rate=0.5)")
        rates = self.handover.rates
        require(len(rates) in (0, len(self.stages)), "handover rates", rates, f"one for each of {len(self.stages)} stages")
        self.net = instance_of(SafetyNet, SafetyNet() if net is None else net, "net", "SafetyNet(tries=2)")
        self.first_onset: Onset = onset_of(Ramp() if onset is None else onset, self.net)
        self.spread, self.seed = as_number(spread, "spread"), integer(seed, "seed", Whole(0, LARGEST_SEED))
        require(0 <= self.spread < 1, "spread", spread, "a share from 0 up to, not including, 1")
        self.step = 0
        self.switches: list[Switch] = []
        self.retreats: list[Retreat] = []
        self.retreat_reason: str | None = None
        """Why the safety net demands that the last switch be taken back now; None otherwise."""
        self._state: State = self.criteria[0].begin() if self.criteria else {}
        self._recent: list[float] = []
        self._watch: State | None = None
        self._warned = False

    @staticmethod
    def plan(budget: float, loops: int, price: Callable[[int], float], depth_pays: bool = True) -> PlannedShift:
        """Plan coarse-to-fine training: the schedule that was found best, for a budget of operations.

        The onset is `thalweg.Refine`, for a model whose passes share one learned gain
        (``ModelConfig.for_loops(loops, shared_gain=True, gain_start=0.5)``).

        Args:
            budget: operations of the whole run (FLOPs), forward and backward.
            loops: T, the passes of the last stage, at least 2.
            price: operations of one update with so many passes. For thalweg's own model
                ``lambda k: cost(model.config, batch, length, loops=k).training_step``, see `thalweg.cost`;
                ``lambda k: 6.0 * parameters * tokens * k`` for a model whose ``parameters`` are all in the loop.
            depth_pays: whether many passes are known to help at equal operations. Then the stages with few passes end early,
                else late; where it is not known, `thalweg frontier` measures it.
        Returns:
            The schedule, its stages and the evidence. Every stage is rounded to whole updates, so that all of them may take half
            an update of each stage more or less than the budget; ``stages.operations`` is what they take.
        Raises:
            BadInputError: a stage is rounded to no update, ``price`` does not rise with the passes, or ``depth_pays`` is no bool.
        Example:
            >>> planned = Shift.plan(budget=1000.0, loops=5, price=float)
            >>> planned.stages
            StagePlan(stages=(2, 3, 5), updates=(100, 100, 100), operations=1000.0)
            >>> planned.shift.stages, planned.shift.onset
            ((2, 3, 5), Refine())

        Source:
            Ours; the evidence is a field of what is returned.
        """
        loops = integer(loops, "loops", _LOOPS)
        require(isinstance(depth_pays, bool), "depth_pays", depth_pays, "True or False")
        stages = plan_stages(budget, *recommended(loops, depth_pays), price)
        criteria = [AtStep(step) for step in stages.switches]
        return PlannedShift(Shift(stages=stages.stages, criterion=criteria, onset=Refine()), stages, evidence(loops, depth_pays))

    def __repr__(self) -> str:
        """Current stage, criterion, onset and net."""
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
        """Number of passes of the current stage; evaluate the model with these."""
        return self.stages[self.stage]

    @property
    def loops(self) -> int:
        """Number of passes for the next update: that of the stage, or drawn around it if ``spread`` is above 0."""
        low, high = self.range_of(self.depth)
        if low == high or len(self.onset_gains()) > 0:
            return self.depth
        return int(stream(self.seed, "loops", self.step).integers(low, high + 1))

    @property
    def gains(self) -> tuple[float, ...]:
        """Gain of every pass in the next update, `loops` numbers; the first is always 1."""
        return self._with_onset(self.loops)

    @property
    def depth_gains(self) -> tuple[float, ...]:
        """Gain of every pass of the stage, `depth` numbers; evaluate the model with these."""
        return self._with_onset(self.depth)

    def _with_onset(self, loops: int) -> tuple[float, ...]:
        """Gains of ``loops`` passes; the last of them may be those that are being brought in."""
        added = self.onset_gains()
        return self.stage_gains(loops)[: loops - len(added)] + added

    def stage_gains(self, loops: int) -> tuple[float, ...]:
        """One gain for each pass of a settled stage of ``loops``: 1, or the larger steps of `thalweg.Refine`."""
        onset = self.first_onset
        return onset.stage_gains(loops, self.stages[-1]) if isinstance(onset, Refine) else (1.0,) * loops

    @property
    def onset(self) -> Onset:
        """Onset of the current stage; softer after a switch was taken back."""
        return self.net.softer(self.first_onset, self.switches[-1].softened) if self.switches else self.first_onset

    @property
    def settled(self) -> bool:
        """Whether the onset is over, so that every pass has gain 1."""
        return not self.onset_gains()

    @property
    def rate_factor(self) -> float:
        """Factor on the learning rate of the next update."""
        age = self.step - self.switches[-1].step if self.switches else 0
        return self.handover.rate_factor(age, self.stage)

    def range_of(self, loops: int) -> tuple[int, int]:
        """Smallest and largest number of passes that updates of a stage of ``loops`` passes may draw."""
        loops = integer(loops, "loops", _LOOPS)
        if loops == 1 or not self.spread:
            return loops, loops
        return max(1, round((1 - self.spread) * loops)), round((1 + self.spread) * loops)

    def onset_gains(self) -> tuple[float, ...]:
        """Gains of the passes that the last switch added; empty when all are 1."""
        if not self.switches:
            return ()
        switch = self.switches[-1]
        onset, added = self.onset, self.depth - switch.loops_before
        gains = checked_gains(onset, onset.gains(self.step - switch.step, added), added)
        return () if all(gain == 1 for gain in gains) else gains

    def update(self, loss: float, grad_norm: float, last: bool = False) -> bool:
        """Take in the result of one update.

        On several ranks, pass the same numbers on every rank: their means. The criterion is not evaluated during a ramp or while
        the safety net watches a switch, as the loss then reflects the onset and not the stage. An update whose loss or norm is NaN
        or infinite never reaches the criterion. While a switch is watched, such an update sets `retreat_reason`; otherwise there
        is no switch to take back, and the first one gives a warning.

        Args:
            loss: mean loss of the update.
            grad_norm: norm of the gradient before clipping.
            last: whether the training ends with this update, so that no stage begins that would not be trained.
        Returns:
            True if the next update belongs to a new stage.
        Raises:
            BadInputError: loss or norm is no number, or the norm is negative; the update is not counted.
        Warns:
            NonFiniteLossWarning: a loss or norm is not finite and no switch is watched; once per schedule.
        """
        loss, grad_norm = as_number(loss, "loss"), as_number(grad_norm, "grad_norm")
        require(not grad_norm < 0, "grad_norm", grad_norm, "a norm, at least 0")
        settled, finite = self.settled, usable(loss, grad_norm)
        self.step += 1
        if self.net.tries and finite:  # the reference of the next switch's watch
            self._recent = [*self._recent, loss][-self.net.window :]
        # 1. While a switch is watched, only the safety net judges the loss.
        if self._watch is not None:
            self._watch, self.retreat_reason = self.net.observe(self._watch, settled, loss, grad_norm)
            return False
        if not finite:
            self._warn_once(loss, grad_norm)
            return False
        # 2. No criterion in the last stage, nor during a ramp.
        if self.stage == len(self.criteria) or not settled or last:
            return False
        # 3. Otherwise the criterion of this stage decides.
        rule = self.criteria[self.stage]
        self._state, reason = checked_answer(rule, rule.observe(self._state, self.step, loss, grad_norm))
        return self._begin_next(reason)

    def _warn_once(self, loss: float, grad_norm: float) -> None:
        """Warn the caller of `update` about the first loss or norm that is not finite."""
        if not self._warned:
            self._warned = True
            warn(
                f"Shift: update {self.step} had loss {loss:g} and gradient norm {grad_norm:g}, which are not both finite; "
                "the criterion ignores this update, and no switch is watched that could be taken back",
                NonFiniteLossWarning,
            )

    def _begin_next(self, reason: str | None) -> bool:
        """Begin the next stage if there is a reason to, and watch the switch if there is a safety net."""
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
        """Take the last switch back and repeat it with a softer onset; the training loop restores the weights of that moment.

        Args:
            reason: why, if the training loop noticed the failure itself; None takes `retreat_reason`.
        Returns:
            The record of the retreat; the schedule continues at its ``back_to``.
        Raises:
            BadInputError: no switch is watched, or there is no reason.
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
        self._recent = [watch["reference"]]  # and no loss of the try that failed
        self._watch = self.net.begin(watch["reference"]) if switch.softened + 1 < self.net.tries else None
        return retreat

    def explain(self) -> str:
        """Say what changed, when and why, and what the next switch waits for.

        Returns:
            One line for each switch, one for each that was taken back, and one for the next switch.
        """
        single = "; a single stage never switches" if not self.criteria else ""
        lines = [] if self.switches else [f"no switch in {self.step} updates: {plural(self.depth, 'loop')}{single}"]
        lines += [f"after {s.step} updates: {s.loops_before} -> {s.loops_after} loops, because {s.reason}" for s in self.switches]
        lines += [f"after {r.step} updates: back to {r.back_to} and a softer onset, because {r.reason}" for r in self.retreats]
        progress = getattr(self.criteria[self.stage], "progress", None) if self.stage < len(self.criteria) else None
        if callable(progress):
            wait = (
                "when the onset is over; then "
                if not self.settled
                else "when the last one has stood; then "
                if self.watching
                else ""
            )
            lines.append(f"next switch: {wait}{progress(self._state)}")
        return "\n".join(lines)

    @property
    def kinds(self) -> Kinds:
        """Kinds of the criteria, the onset and the net, by which a saved state is recognised."""
        net = "safety-net" if self.net.tries else "none"
        return Kinds(tuple(kind_of(rule) for rule in self.criteria), kind_of(self.first_onset), net)

    @property
    def settings(self) -> Kinds:
        """Criteria, onset and net with their arguments, as text; of a user's own object that is no dataclass, its kind."""
        told = [repr(part) if is_dataclass(part) else kind_of(part) for part in (*self.criteria, self.first_onset, self.net)]
        return Kinds(tuple(told[:-2]), *told[-2:])

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during training, and what the parts are, as JSON values without NaN and infinity."""
        return {
            "stages": list(self.stages),
            "step": self.step,
            "switches": [dict(vars(s)) for s in self.switches],
            "retreats": [dict(vars(r)) for r in self.retreats],
            "criterion": criterion_to_json(self._state, "state of the criterion"),
            "recent": list(self._recent),
            "watch": dict(self._watch) if self._watch is not None else None,
            "retreat": self.retreat_reason,
            "kinds": to_dict(self.kinds),
            "settings": to_dict(self.settings),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state, also from one of an earlier version.

        Raises:
            BadInputError: the state belongs to other stages, another criterion, onset or net, or is damaged; the schedule is then
                unchanged.
        Warns:
            OtherSettingsWarning: parts of the same kind have other arguments; the schedule goes on with its own.
        """
        saved = read_saved(state)
        check_fits(saved, self.stages, self.kinds, self.criteria, self.net)
        warn_of_others(saved, self.settings)
        self.step = saved.step
        self.switches, self.retreats, self.retreat_reason = list(saved.switches), list(saved.retreats), saved.retreat
        self._state, self._recent, self._watch = from_json(saved.criterion), list(saved.recent), saved.watch
