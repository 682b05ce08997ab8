"""The arms of a frontier that are alike for all sources without lengths: their names, their stages and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal


def constant(depth: int) -> str:
    """Name of the arm that has the same number of passes throughout."""
    return f"{_CONSTANT}{depth}"


def depth_of(arm: str) -> int:
    """The passes of an arm that has the same number throughout; 0 for any other."""
    return int(arm.removeprefix(_CONSTANT)) if arm.startswith(_CONSTANT) else 0


_CONSTANT = "depth-"
STAGED, UNSCALED, TWO_STAGES, PLAIN = "staged", "staged-unscaled", "shift", "plain-looped"
STABILISERS: dict[str, dict[str, float | bool]] = {
    "looped-own-gains": {"shared_gain": False},
    "looped-norm": {"learned_gains": 0, "residual_loops": 1},
    "looped-by-t": {"learned_gains": 0, "residual_power": 1.0},
    "looped-deepnorm": {"learned_gains": 0, "residual_power": 0.25},
}
"""Other ways to keep T passes trainable, as changes of `ModelConfig.for_loops`; `words_of_arm` says them in words, with their
sources."""
BY_PLATEAU = "staged-plateau"
"""Staged training whose stages end when the paper's criterion fires."""
PLANS: dict[str, Literal["early", "even", "late"]] = {
    "staged-early": "early",
    "staged-even": "even",
    "staged-late": "late",
    BY_PLATEAU: "even",
}
"""Other plans of the stages of staged training, see `thalweg.shift.plan.stages_ending`; `BY_PLATEAU` takes the number of updates
from its own."""
STABILISED = "residual branches times 1 / sqrt(T), a norm after every pass, injection, and one learned gain that all passes share"
"""What keeps the passes of a constant depth of 2 or more, and of staged training, trainable."""
_WORDS: dict[str, tuple[str, str]] = {
    STAGED: (
        "staged: {stages} passes",
        "training in stages of {stages} passes, stabilised; the shared gain is multiplied by (T - 1) / (k - 1) while k of the T "
        "passes run",
    ),
    UNSCALED: ("staged, gain not scaled", "the same stages without that factor on the gain"),
    TWO_STAGES: (
        "the paper's SHIFT, with a ramp",
        "the paper's SHIFT: 1 pass until its criterion SCP fires, then {loops} passes, which come in with a ramp; injection alone",
    ),
    PLAIN: ("{loops} passes, plain", "{loops} passes throughout, with injection alone: not stabilised (the paper's Looped)"),
    "staged-early": ("staged, ending early", "the stages of staged training, ending after 20, 50 and 75 % of the operations"),
    "staged-even": ("staged, even shares", "the stages of staged training, each with the same share of the operations"),
    "staged-late": ("staged, ending late", "the stages of staged training, ending after 60, 85 and 95 % of the updates"),
    BY_PLATEAU: (
        "staged, by the criterion SCP",
        "the stages of staged training, each ending when the paper's criterion SCP fires, with as many updates as staged-even has; "
        "it can cost more than the budget, and is drawn at what it has cost",
    ),
    "looped-own-gains": ("{loops} passes, own gains", "{loops} passes throughout, stabilised, with a learned gain for each pass"),
    "looped-norm": ("{loops} passes, norm alone", "{loops} passes throughout, with norm and injection alone (arXiv 2502.05171)"),
    "looped-by-t": (
        "{loops} passes, branches by 1 / T",
        "{loops} passes throughout, with norm, injection and residual branches times 1 / T (arXiv 2606.18524)",
    ),
    "looped-deepnorm": (
        "{loops} passes, as DeepNorm",
        "{loops} passes throughout, with norm, injection and residual branches times (2 T) ** -0.25, which after a norm is the "
        "larger residual of DeepNorm (arXiv 2203.00555; for loops arXiv 2607.13491)",
    ),
}
"""Arm -> its name in a legend, and its definition."""


def words_of_arm(arm: str, stages: Sequence[int]) -> tuple[str, str]:
    """The name of an arm in a legend, and its definition in a sentence.

    Args:
        arm: its name.
        stages: passes of the stages of staged training, the last of them T.
    Example:
        >>> words_of_arm("depth-5", (2, 3, 6))[0], words_of_arm("staged", (2, 3, 6))[0]
        ('5 passes', 'staged: 2, 3, then 6 passes')
    """
    depth = depth_of(arm)
    if depth == 1:
        return "1 pass", "1 pass throughout: a transformer without a loop (the paper's Single)"
    if depth:
        return f"{depth} passes", f"{depth} passes throughout, stabilised (see Set-up)"
    name, definition = _WORDS[arm]
    return tuple(text.format(loops=stages[-1], stages=in_turn(stages)) for text in (name, definition))  # type: ignore[return-value]


def in_turn(stages: Sequence[int]) -> str:
    """The passes of stages, in words.

    Example:
        >>> in_turn((2, 3, 6)), in_turn((2,))
        ('2, 3, then 6', '2')
    """
    return ", then ".join(filter(None, (", ".join(map(str, stages[:-1])), str(stages[-1]))))
