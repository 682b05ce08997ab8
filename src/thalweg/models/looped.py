"""The looped transformer: one stack of blocks, applied T times with the same weights.

Shape letters: B batch, L length, D width, V vocabulary, T loops (passes).

T is an argument of the call; ``loops=1`` is the paper's Single-Attn, more loops its Looped-Attn. Every pass has a gain g:

    state <- state + g (stack(state) - state)

At g = 1 this is the plain pass, at g = 0 the pass has no effect, both exactly to the last bit, so that a schedule can bring in new
passes without a jump of the model's function.

With ``prelude`` and ``coda`` further blocks are applied once, before the first pass and after the last one: the form of
arXiv 2502.05171.

Three fields of `ModelConfig` help with many loops. With ``learned_gains`` the gain of a pass is multiplied by a weight that starts
at zero, so that even a hard switch causes no jump. With ``loop_norm`` every pass ends in a LayerNorm. With ``residual_loops`` the
residual branches are scaled down, see `thalweg.models.block`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.bounds import named_arguments
from thalweg.errors import BadInputError, require, shown
from thalweg.models.attention import Fused, rotation_table
from thalweg.models.block import AttentionBlock, GPTBlock, layer_norm, norm
from thalweg.models.config import ModelConfig
from thalweg.serialization import as_float, plain

Loops = int | Tensor
"""Number of passes of a call: one number, or one for each sequence."""
Gains = Sequence[float] | Tensor | None
"""Gain of each pass, of which the first is 1; None if all are 1."""


@dataclass(frozen=True)
class Context:
    """What the passes of one call share."""

    stack: list[tuple[AttentionBlock, Fused | None]]
    """The blocks, each with its joined attention weights; None where they are not joined."""
    rotation: tuple[Tensor, Tensor] | None
    """The rotary table, or None without rotary positions."""


@named_arguments
class LoopedTransformer(nn.Module):
    """Causal language model ``tokens (B, L) -> logits (B, L, V)`` whose number of loops is chosen at every call.

    Args:
        config: architecture of the model.
        generator: random generator of the initial weights; None takes PyTorch's global one.
    Example:
        >>> model = LoopedTransformer(ModelConfig(vocabulary=16, width=8))
        >>> model(torch.zeros(2, 5, dtype=torch.long), loops=3).shape
        torch.Size([2, 5, 16])

    Source:
        arXiv 2510.10089, section 3 (block "attention"); GPT-2 (block "gpt"); input injection: arXiv 2409.15647; zero-initialised
        learned gains: ReZero, arXiv 2003.04887, there for every layer; a norm at the end of every pass: arXiv 2502.05171, there an
        RMSNorm of the residual stream.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        require(isinstance(config, ModelConfig), "config", config, "a ModelConfig, such as ModelConfig(width=64)")
        self.config = config
        self.joins_weights = True
        """Whether query, key and value weights are joined once for all passes; false where a block's weights are there only while
        it is called, see `thalweg.train.sharding`."""
        block = GPTBlock if config.block == "gpt" else AttentionBlock
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.length, config.width) if config.positions == "learned" else None
        unscaled = replace(config, residual_loops=1)
        self.prelude = nn.ModuleList(block(unscaled) for _ in range(config.prelude))
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))
        self.coda = nn.ModuleList(block(unscaled) for _ in range(config.coda))
        count = 1 if config.shared_gain else config.learned_gains - 1
        self.pass_gains = nn.Parameter(torch.full((count,), config.gain_start)) if config.learned_gains else None
        """Learned gains of the passes from the second on, ``(learned_gains - 1,)``, or the one that they share, ``(1,)``."""
        self.loop_norm = layer_norm(config) if config.loop_norm else None
        self.final_norm = norm(config)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        _initialise(self, generator)

    def forward(self, tokens: Tensor, loops: Loops = 1, gains: Gains = None, passes: int | None = None) -> Tensor:
        """Compute the logits after ``loops`` passes.

        Args:
            tokens: integers below V, ``(B, L)``.
            loops: number of passes T, at least 1; or one number for each sequence, ``(B,)`` on the CPU. A sequence that has had
                its passes does not change any more, and later passes are computed for the others only.
            gains: gain of each pass, T numbers of which the first is 1; with loops for each sequence T is the largest of them.
                As numbers, passes with gain 0 are skipped, and gain 1 costs nothing extra. As a tensor ``(T,)``, every pass is
                computed, so that a compiled graph does not depend on the values. Learned gains are multiplied with them. While
                a call is compiled or recorded as a CUDA graph, the values of a tensor are not checked, and the first counts as 1.
            passes: with loops for each sequence, the number T of passes in which every block is called, at least the largest of
                ``loops``; the last of them have no sequences. Ranks that share a batch then call a block equally often. None for
                the largest of ``loops``.
        Returns:
            Logits ``(B, L, V)``.
        Raises:
            BadInputError: loops are no integers, below 1, above ``learned_gains``, or not as many as sequences; gains are not as
                many as passes, not finite, or the first is not 1; a sequence is longer than the learned positions; passes are
                given without loops for each sequence, or fewer than these; tokens are no integers ``(B, L)``, or one is not
                below V (on a CPU and not compiled; otherwise that is PyTorch's own error).
        """
        if isinstance(loops, Tensor):
            return self.forward_each(tokens, loops, gains, passes)
        require(passes is None, "passes", passes, "None with one number of loops for all sequences")
        gains = self.check(loops, loops, gains)
        embedded, context = self.embed(tokens), self.context(tokens)
        states = embedded
        for index in range(loops):
            states = self.one_pass(states, embedded, index, gains, context)
        return self.read(states)

    def forward_each(self, tokens: Tensor, loops: Tensor, gains: Gains, passes: int | None = None) -> Tensor:
        """`forward` with a number of loops for each sequence, ``(B,)``.

        The sequences are sorted by their loops, the most first, so that each pass works on a leading part of the batch.
        """
        _refuse_no_tokens(tokens)
        require(loops.shape == tokens.shape[:1], "loops", tuple(loops.shape), f"one number for each of {len(tokens)} sequences")
        integral = not (loops.is_floating_point() or loops.is_complex() or loops.dtype == torch.bool)
        require(integral, "loops", str(loops.dtype), "whole numbers")
        order = loops.argsort(descending=True, stable=True)
        ranked = loops[order].tolist()
        passes = ranked[0] if passes is None else passes
        require(passes >= ranked[0], "passes", passes, f"at least {ranked[0]}, the largest of loops")
        gains = self.check(ranked[-1], passes, gains)
        tokens = tokens[order.to(tokens.device)]
        embedded, context = self.embed(tokens), self.context(tokens)
        states, done = embedded, []
        for index in range(passes):
            active = sum(count > index for count in ranked)
            if active < len(states):  # the last sequences have had all of their passes
                done.append(states[active:])
                states, embedded = states[:active], embedded[:active]
            states = self.one_pass(states, embedded, index, gains, context)
        return self.read(torch.cat([states, *reversed(done)]))[order.argsort().to(tokens.device)]

    def forward_masked(self, tokens: Tensor, loops: Tensor, passes: int, gains: Gains = None) -> Tensor:
        """`forward` with a number of loops for each sequence, where every pass is computed for all sequences and masked.

        No shape and no kernel depends on the values of ``loops``, as CUDA graphs need it.

        Args:
            tokens: integers below V, ``(B, L)``.
            loops: number of passes of each sequence, ``(B,)``, on the device of the tokens.
            passes: number of computed passes T, at least the largest of ``loops``.
            gains: as in `forward`, one for each of the T passes.
        """
        gains = self.check(1, passes, gains)
        embedded, context = self.embed(tokens), self.context(tokens)
        states = embedded
        for index in range(passes):
            moved = self.one_pass(states, embedded, index, gains, context)
            states = moved if index == 0 else torch.where((loops > index).view(-1, 1, 1), moved, states)
        return self.read(states)

    def unrolled(self, tokens: Tensor, loops: int, gains: Gains = None) -> Iterator[Tensor]:
        """Yield the logits ``(B, L, V)`` after every pass, from the first to number ``loops``; arguments as in `forward`."""
        gains = self.check(loops, loops, gains)
        embedded, context = self.embed(tokens), self.context(tokens)
        states = embedded
        for index in range(loops):
            states = self.one_pass(states, embedded, index, gains, context)
            yield self.read(states)

    def check(self, fewest: int, most: int, gains: Gains) -> Gains:
        """Check the smallest and largest number of passes of a call, and return its gains as plain numbers or a tensor.

        Raises:
            BadInputError: see `forward`.
        """
        for loops in (fewest, most):
            integral = isinstance(loops, int | np.integer | torch.SymInt) and not isinstance(loops, bool)
            require(integral, "loops", loops, "a whole number of at least 1")
        require(fewest >= 1, "loops", fewest, "a whole number of at least 1")
        allowed = self.config.learned_gains
        require(not 0 < allowed < most, "loops", most, f"at most the {allowed} passes that have a gain (model.learned_gains)")
        return _checked_gains(gains, most)

    def one_pass(self, states: Tensor, embedded: Tensor, index: int, gains: Gains, context: Context) -> Tensor:
        """The states ``(B, L, D)`` after pass number ``index``, counted from 0.

        Args:
            states: the states before it, ``(B, L, D)``.
            embedded: the embeddings ``(B, L, D)``, for input injection.
            index: number of the pass.
            gains: checked gains of the call.
            context: from `context`.
        """
        gain = self.gain(index, gains)
        if isinstance(gain, float | int) and gain == 0:
            return states
        moved = states + embedded if self.config.injection and index > 0 else states
        for block, weights in context.stack:
            moved = block(moved, weights, context.rotation)
        if self.loop_norm is not None:
            moved = self.loop_norm(moved)
        return moved if isinstance(gain, float | int) and gain == 1 else torch.lerp(states, moved, gain)

    def context(self, tokens: Tensor) -> Context:
        """Joined weights and rotary table, computed once for all passes of a call."""
        stack = [(block, self._joined(block)) for block in self.stack()]
        return Context(stack, self.rotation(tokens.shape[1], tokens.device))

    def read(self, states: Tensor) -> Tensor:
        """Coda, final norm and head: logits ``(B, L, V)`` of states ``(B, L, D)``."""
        return self.head(self.final_norm(self._once(self.coda, states)))

    def _once(self, blocks: nn.ModuleList, states: Tensor) -> Tensor:
        """The states ``(B, L, D)`` after the blocks of prelude or coda."""
        rotation = self.rotation(states.shape[1], states.device) if blocks else None
        for block in cast(list[AttentionBlock], list(blocks)):
            states = block(states, self._joined(block), rotation)
        return states

    def _joined(self, block: AttentionBlock) -> Fused | None:
        """The joined attention weights of a block; None where they are not joined."""
        return block.attention.fused() if self.joins_weights else None

    def gain(self, index: int, gains: Gains) -> float | Tensor:
        """The gain of a pass, counted from 0: the given gain times the learned one; a given 0 stays the number 0."""
        given = 1.0 if gains is None or index == 0 else gains[index]
        skipped = isinstance(given, float | int) and given == 0
        if self.pass_gains is None or index == 0 or skipped:
            return given
        return given * self.pass_gains[0 if self.config.shared_gain else index - 1]

    def stack(self) -> list[AttentionBlock]:
        """The blocks that one pass applies, in order."""
        return cast(list[AttentionBlock], list(self.blocks))

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings plus learned positions, after the blocks of the prelude, ``(B, L, D)``."""
        _refuse_no_tokens(tokens)
        embedded = _looked_up(self.embedding, tokens)
        if self.positions is not None:
            length = tokens.shape[1]
            require(length <= self.config.length, "sequence", length, f"at most {self.config.length} tokens (model.length)")
            embedded = embedded + self.positions.weight[:length]
        return self._once(self.prelude, embedded)

    def rotation(self, length: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """The rotary table for a length, see `rotation_table`; None without rotary positions."""
        if self.config.positions != "rotary":
            return None
        return rotation_table(length, self.config.width // self.config.heads, device)


def _refuse_no_tokens(tokens: object) -> None:
    """Refuse what is no batch of whole numbers."""
    expected = "a tensor of int64 or int32, shape (B, L)"
    if not isinstance(tokens, Tensor):
        raise BadInputError(f"tokens: given {shown(tokens)}, expected {expected}")
    if tokens.dim() != 2 or tokens.dtype not in (torch.int32, torch.int64):
        given = f"{str(tokens.dtype).removeprefix('torch.')} of shape {tuple(tokens.shape)}"
        raise BadInputError(f"tokens: given {given}, expected {expected}")


def _looked_up(embedding: nn.Embedding, tokens: Tensor) -> Tensor:
    """The embeddings of tokens; one that is out of range is named where that costs nothing, which is on a CPU."""
    if torch.compiler.is_compiling():
        return embedding(tokens)
    try:
        return embedding(tokens)
    except IndexError:
        wrong = tokens[(tokens < 0) | (tokens >= embedding.num_embeddings)]
        expected = f"whole numbers from 0 to {embedding.num_embeddings - 1} (model.vocabulary is {embedding.num_embeddings})"
        raise BadInputError(f"tokens: given {int(wrong[0])}, expected {expected}") from None


def _checked_gains(gains: object, passes: int) -> Gains:
    """Check the gains of a call and return them as plain numbers, or as the tensor that was given.

    Raises:
        BadInputError: not as many gains as passes, a gain that is no finite number, or a first gain that is not 1.
    """
    wanted = f"one number for each of the {passes} passes of this call"
    if gains is None:
        return None
    if isinstance(gains, Tensor):
        require(gains.shape == (passes,), "gains", tuple(gains.shape), f"{wanted}, shape ({passes},)")
        for index, gain in enumerate(_readable_values(gains)):
            _check_gain(gain, index)
        return gains
    require(not isinstance(gains, str | bytes | type) and hasattr(gains, "__len__"), "gains", gains, wanted)
    given = list(cast(Sequence[float], gains))
    require(len(given) == passes, "gains", gains, wanted)
    return tuple(_checked_gain(gain, index) for index, gain in enumerate(given))


def _checked_gain(gain: object, index: int) -> float:
    """Check one gain of a sequence and return it as a plain number, or as the scalar tensor that was given."""
    if isinstance(gain, Tensor):
        require(gain.dim() == 0, f"gains[{index}]", tuple(gain.shape), "one number")
        for value in _readable_values(gain.reshape(1)):
            _check_gain(value, index)
        return cast(float, gain)
    value = plain(gain)
    value = as_float(value) if type(value) is int else value
    _check_gain(value, index)
    return value


def _check_gain(gain: object, index: int) -> None:
    """Refuse a gain that is no finite number, or, for the first pass, not 1."""
    number = isinstance(gain, int | float) and not isinstance(gain, bool) and math.isfinite(gain)
    require(number, f"gains[{index}]", gain, "a finite number")
    require(index > 0 or gain == 1, "gains[0]", gain, "1: the first pass always counts in full")


def _readable_values(values: Tensor) -> list[float]:
    """The numbers of a tensor; none if they cannot be read, as in a call that is compiled, recorded or traced."""
    if torch.compiler.is_compiling() or values.is_meta or (values.is_cuda and torch.cuda.is_current_stream_capturing()):
        return []
    try:
        return values.detach().tolist()
    except RuntimeError:  # under a transform such as vmap
        return []


def _initialise(model: LoopedTransformer, generator: torch.Generator | None) -> None:
    """Draw the initial weights, parameter by parameter in the order of ``named_parameters``.

    Matrices and embeddings are normal with mean 0. Their standard deviation is ``deviation`` if that is given, else 0.02 for the
    "gpt" block and 1 / sqrt(D) for the "attention" block; for residual projections it is divided by sqrt(2 * layers), prelude and
    coda counted. The value weights of the stack are then multiplied by ``value_scale``. Norms start at 1, biases at 0, learned
    gains at ``gain_start``.

    Source:
        GPT-2's code for "gpt". The paper gives no initialisation for its own model; 1 / sqrt(fan-in) is our choice.
    """
    config = model.config
    for name, parameter in model.named_parameters():
        if name == "pass_gains":
            continue  # they begin at gain_start
        if parameter.dim() < 2:
            nn.init.constant_(parameter, 1.0 if name.endswith("norm.weight") else 0.0)
            continue
        deviation = config.deviation or (0.02 if config.block == "gpt" else 1 / math.sqrt(config.width))
        if name.endswith(("output.weight", "down.weight")):
            deviation /= math.sqrt(2 * (config.prelude + config.layers + config.coda))
        nn.init.normal_(parameter, std=deviation, generator=generator)
    with torch.no_grad():
        for block in model.stack():
            block.attention.value.weight.mul_(config.value_scale)
