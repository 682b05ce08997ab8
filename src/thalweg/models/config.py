"""What a looped transformer is made of. Shapes in `thalweg.models.looped`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from thalweg.bounds import Number, Rate, Whole
from thalweg.errors import require
from thalweg.serialization import checked

_SEVERAL = "0 for none, or a number of passes of at least 2: the first one always counts in full"


@dataclass(frozen=True)
class ModelConfig:
    """A model of either family; the number of loops is chosen per call, not here."""

    vocabulary: Annotated[int, Whole(2, 10**7, "at least 2 tokens")] = 16
    """Number of distinct tokens V."""
    length: Annotated[int, Whole(1, 10**7)] = 12
    """Longest input in tokens; binding for learned positions only."""
    width: Annotated[int, Whole(1, 10**6)] = 64
    """Width D of the residual stream."""
    layers: Annotated[int, Whole(1, 10**4)] = 1
    """Blocks in the stack that one pass applies."""
    heads: Annotated[int, Whole(1, 10**5)] = 1
    """Attention heads; divides the width."""
    block: Literal["attention", "gpt"] = "attention"
    """"attention": e + attn(e), no output projection, no biases (the paper's section 3). "gpt": GPT-2's attention + MLP."""
    attention: Literal["softmax", "linear"] = "softmax"
    """"linear": no softmax, mean over the prefix."""
    norm: Literal["pre", "none"] = "pre"
    """"pre": LayerNorm before every sublayer and before the head."""
    positions: Literal["learned", "rotary", "none"] = "learned"
    """How the order of the tokens enters."""
    injection: bool = False
    """Add the embeddings again before every pass but the first."""
    tied: bool = False
    """The head shares the embedding's weights."""
    expansion: Annotated[int, Whole(1, 10**4)] = 4
    """Width of the MLP as a multiple of the width; block "gpt" only."""
    deviation: Annotated[float, Number(0, 1e3)] = 0.0
    """Standard deviation of the initial matrices; 0 for the block's own: 1 / sqrt(width), of "gpt" 0.02."""
    value_scale: Rate = 1.0
    """Factor on the value weights at initialisation (the rescaled-Single control sets it to T)."""
    learned_gains: Annotated[int, Whole(0, 10**5, _SEVERAL)] = 0
    """Largest number of passes in a call where the gain of every pass but the first is a weight that begins at zero; 0 for none."""
    shared_gain: bool = False
    """All passes but the first share one learned gain; only with `learned_gains`."""
    gain_start: Annotated[float, Number(-10, 10)] = 0.0
    """Value at which learned gains begin. At 0 every pass but the first is absent until it is learned."""
    loop_norm: bool = False
    """LayerNorm of the state at the end of every pass, with ``norm = "none"`` too."""
    residual_loops: Annotated[int, Whole(1, 10**5)] = 1
    """Number of loops T that every residual branch is scaled for, by T ** -residual_power, whatever the loops of a call."""
    residual_power: Annotated[float, Number(0, 1)] = 0.5
    """0.5 scales the branches by 1 / sqrt(T), 1 by 1 / T."""

    @property
    def branch_scale(self) -> float:
        """Factor on every residual branch."""
        root = math.sqrt(self.residual_loops)
        return 1 / root if self.residual_power == 0.5 else root ** (-2 * self.residual_power)

    def for_loops(self, loops: int, shared_gain: bool = False, gain_start: float = 0.0) -> ModelConfig:
        """The same with all that keeps many loops trainable: learned gains, loop norm, scaled residual branches, injection.

        With it 8 and 16 loops, trained from the first update on at the rate that is best for one, did not diverge over 5 seeds;
        with none of it they always did (`examples/deep_loops_stay_stable.py`).

        Args:
            loops: the most passes of any call, at least 2.
            shared_gain: one learned gain for all passes but the first, which `thalweg.Refine` scales by depth.
            gain_start: where learned gains begin.
        Example:
            >>> deep = ModelConfig(width=8).for_loops(16)
            >>> deep.learned_gains, deep.loop_norm, deep.residual_loops, deep.injection
            (16, True, 16, True)

        Source:
            The four together are ours; each has its own, see `thalweg.LoopedTransformer`.
        """
        gains = {"learned_gains": loops, "shared_gain": shared_gain, "gain_start": gain_start}
        return replace(self, **gains, loop_norm=True, residual_loops=loops, injection=True)

    def __post_init__(self) -> None:
        checked(self, "model.")
        require(self.width % self.heads == 0, "model.heads", self.heads, f"a divisor of the width {self.width}")
        even = self.positions != "rotary" or self.width // self.heads % 2 == 0
        require(even, "model.width", self.width, "an even width per head for rotary positions")
        require(self.learned_gains != 1, "model.learned_gains", self.learned_gains, _SEVERAL)
        fits = self.learned_gains > 0 or not (self.shared_gain or self.gain_start)
        require(fits, "model.learned_gains", 0, "the number of passes that share a gain or begin at gain_start, at least 2")
