"""The config of a looped transformer; `thalweg.models.looped` explains the model and its shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from thalweg.bounds import Number, Rate, Whole, named_arguments
from thalweg.errors import require
from thalweg.serialization import checked

_SEVERAL = "0 for none, or a number of passes of at least 2: the first one always counts in full"


@named_arguments
@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a looped transformer. The number of loops is an argument of each call and not part of it."""

    vocabulary: Annotated[int, Whole(2, 10**7, "at least 2 tokens")] = 16
    """Number of distinct tokens V."""
    length: Annotated[int, Whole(1, 10**7)] = 12
    """Longest input in tokens; a limit only for learned positions."""
    width: Annotated[int, Whole(1, 10**6)] = 64
    """Width D of the residual stream."""
    layers: Annotated[int, Whole(1, 10**4)] = 1
    """Number of blocks in the stack that one pass applies."""
    prelude: Annotated[int, Whole(0, 10**4)] = 0
    """Number of blocks before the first pass, applied once; their output is what injection adds."""
    coda: Annotated[int, Whole(0, 10**4)] = 0
    """Number of blocks after the last pass, applied once."""
    heads: Annotated[int, Whole(1, 10**5)] = 1
    """Number of attention heads; must divide the width."""
    block: Literal["attention", "gpt"] = "attention"
    """Block: "attention" is e + attn(e) without output projection and biases (the paper's section 3); "gpt" is GPT-2's attention
    and MLP."""
    attention: Literal["softmax", "linear"] = "softmax"
    """Attention: "softmax", or "linear" without softmax, the mean over the prefix."""
    norm: Literal["pre", "none"] = "pre"
    """Normalisation: "pre" is a LayerNorm before every sublayer and before the head."""
    positions: Literal["learned", "rotary", "none"] = "learned"
    """How positions are encoded: learned embeddings, rotary embeddings, or not at all."""
    injection: bool = False
    """Input injection: add the embeddings again before every pass but the first."""
    tied: bool = False
    """Whether the head shares the weights of the embedding."""
    expansion: Annotated[int, Whole(1, 10**4)] = 4
    """Width of the MLP as a multiple of the width; block "gpt" only."""
    deviation: Annotated[float, Number(0, 1e3)] = 0.0
    """Standard deviation of the initial matrices; 0 for the default of the block: 1 / sqrt(width), for "gpt" 0.02."""
    value_scale: Rate = 1.0
    """Factor on the initial value weights (the rescaled-Single control sets it to T)."""
    learned_gains: Annotated[int, Whole(0, 10**5, _SEVERAL)] = 0
    """Zero-initialised learned gains: the gain of every pass but the first is a weight that starts at 0. The value is the largest
    number of passes; 0 for no learned gains."""
    shared_gain: bool = False
    """All passes but the first share one learned gain; only with learned_gains."""
    gain_start: Annotated[float, Number(-10, 10)] = 0.0
    """Initial value of learned gains. At 0 every pass but the first is absent until it is learned."""
    loop_norm: bool = False
    """Apply a LayerNorm to the state at the end of every pass, also with norm = "none"."""
    residual_loops: Annotated[int, Whole(1, 10**5)] = 1
    """Scale every residual branch by residual_loops ** -residual_power, whatever the loops of a call; 1 for no scaling."""
    residual_power: Annotated[float, Number(0, 1)] = 0.5
    """0.5 scales the branches by 1 / sqrt(T), 1 by 1 / T."""

    @property
    def branch_scale(self) -> float:
        """Factor on every residual branch."""
        root = math.sqrt(self.residual_loops)
        return 1 / root if self.residual_power == 0.5 else root ** (-2 * self.residual_power)

    def for_loops(self, loops: int, shared_gain: bool = False, gain_start: float = 0.0) -> ModelConfig:
        """The same model with everything that keeps many loops trainable: learned gains, loop norm, scaled branches, injection.

        With all four, training 8 and 16 loops from the first update on, at the learning rate that is best for one loop, did not
        diverge on 5 seeds; with none of them it always did (`examples/deep_loops_stay_stable.py`).

        Args:
            loops: largest number of passes of any call, at least 2.
            shared_gain: one learned gain for all passes but the first, which `thalweg.Refine` scales by depth.
            gain_start: initial value of the learned gains.
        Example:
            >>> deep = ModelConfig(width=8).for_loops(16)
            >>> deep.learned_gains, deep.loop_norm, deep.residual_loops, deep.injection
            (16, True, 16, True)

        Source:
            The combination is ours; for the source of each part see `thalweg.LoopedTransformer`.
        """
        Whole(2, 10**5).refuse(loops, "loops", loops)
        gains = {"learned_gains": loops, "shared_gain": shared_gain, "gain_start": gain_start}
        return replace(self, **gains, loop_norm=True, residual_loops=loops, injection=True)

    def __post_init__(self) -> None:
        checked(self, "model.")
        require(self.width % self.heads == 0, "model.heads", self.heads, f"a divisor of the width {self.width}")
        even = self.positions != "rotary" or self.width // self.heads % 2 == 0
        require(even, "model.width", self.width, "an even width per head for rotary positions")
        require(self.learned_gains != 1, "model.learned_gains", self.learned_gains, _SEVERAL)
        fits = self.learned_gains > 0 or not (self.shared_gain or self.gain_start)
        require(fits, "model.learned_gains", 0, "at least 2: shared_gain and gain_start need learned gains")
