"""One transformer for Single-Attn and Looped-Attn.

Shape letters: B batch, L length, D width, V vocabulary, T loops.

The same stack of blocks is applied T times with the same weights; T is an argument of the call, and ``loops=1`` is
Single-Attn. Each pass has a gain: the pass moves the state by ``gain * (stack(state) - state)``. At gain 1 that is the pass
itself, at gain 0 the pass is not there, both to the last bit, so that a schedule can bring in new passes without a jump.

Three fields of `ModelConfig` are there for many loops. With ``learned_gains`` the gain of a pass is multiplied by a weight of its
own that begins at zero, so that even a hard switch is no jump. With ``loop_norm`` the stack ends in a LayerNorm. With
``residual_loops`` the branches are scaled, see `thalweg.models.block`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.errors import require
from thalweg.models.attention import Fused, rotation_table
from thalweg.models.block import AttentionBlock, GPTBlock, layer_norm, norm
from thalweg.models.config import ModelConfig
from thalweg.serialization import as_float, plain

Loops = int | Tensor
"""Passes of a call: one number, or one for each sequence."""
Gains = Sequence[float] | Tensor | None
"""One factor for each pass, the first 1; None where all are 1."""


@dataclass(frozen=True)
class Context:
    """What the passes of one call share: the blocks, each with its joined weights, and the rotary table."""

    stack: list[tuple[AttentionBlock, Fused]]
    rotation: tuple[Tensor, Tensor] | None


class LoopedTransformer(nn.Module):
    """Causal language model ``tokens (B, L) -> logits (B, L, V)`` with a number of loops per call.

    Args:
        config: what it is made of.
        generator: source of the initial weights; PyTorch's global one when absent.
    Example:
        >>> model = LoopedTransformer(ModelConfig(vocabulary=16, width=8))
        >>> model(torch.zeros(2, 5, dtype=torch.long), loops=3).shape
        torch.Size([2, 5, 16])

    Source:
        arXiv 2510.10089, section 3 (block "attention"); GPT-2 (block "gpt"); input injection: arXiv 2409.15647; gains that are
        weights and begin at zero: ReZero, arXiv 2003.04887, there for every layer; a norm of the state at the end of every pass:
        arXiv 2502.05171, whose passes end in an RMSNorm of the residual stream.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        block = GPTBlock if config.block == "gpt" else AttentionBlock
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.length, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))
        count = 1 if config.shared_gain else config.learned_gains - 1
        self.pass_gains = nn.Parameter(torch.full((count,), config.gain_start)) if config.learned_gains else None
        """Gains of the passes from the second on, ``(learned_gains - 1,)``, or the one that they share, ``(1,)``."""
        self.loop_norm = layer_norm(config) if config.loop_norm else None
        self.final_norm = norm(config)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        _initialise(self, generator)

    def forward(self, tokens: Tensor, loops: Loops = 1, gains: Gains = None) -> Tensor:
        """Logits after ``loops`` passes.

        Args:
            tokens: whole numbers below V, ``(B, L)``.
            loops: number of passes T, at least 1; or one for each sequence, ``(B,)`` on the CPU: a sequence that has had its
                passes changes no more, and later passes are computed for the others alone.
            gains: one factor per pass, the first 1; numbers (a pass at 0 is skipped, at 1 costs nothing extra) or a
                tensor ``(T,)`` (every pass is computed, so that compiled graphs do not depend on the values).
                Learned gains are multiplied with them. With loops for each sequence T is the largest of them. Values of a tensor
                are not looked at while the call is compiled or recorded as a CUDA graph; the first one counts as 1 there.
        Raises:
            BadInputError: loops that are not whole, below 1 or above ``learned_gains``, loops for another number of sequences,
                gains of another length, not finite, or with a first that is not 1, a sequence longer than the learned positions.
        """
        if isinstance(loops, Tensor):
            return self.forward_each(tokens, loops, gains)
        gains = self.check(loops, loops, gains)
        embedded, context = self.embed(tokens), self.context(tokens)
        states = embedded
        for index in range(loops):
            states = self.one_pass(states, embedded, index, gains, context)
        return self.read(states)

    def forward_each(self, tokens: Tensor, loops: Tensor, gains: Gains) -> Tensor:
        """The same with loops for each sequence: the deepest come first, and each pass is for as many as still go on."""
        require(loops.shape == tokens.shape[:1], "loops", tuple(loops.shape), f"one number for each of {len(tokens)} sequences")
        counts = not (loops.is_floating_point() or loops.is_complex() or loops.dtype == torch.bool)
        require(counts, "loops", str(loops.dtype), "whole numbers")
        order = loops.argsort(descending=True, stable=True)
        ranked = loops[order].tolist()
        gains = self.check(ranked[-1], ranked[0], gains)
        tokens = tokens[order.to(tokens.device)]
        embedded, context = self.embed(tokens), self.context(tokens)
        states, done = embedded, []
        for index in range(ranked[0]):
            going = sum(one > index for one in ranked)
            if going < len(states):
                done.append(states[going:])
                states, embedded = states[:going], embedded[:going]
            states = self.one_pass(states, embedded, index, gains, context)
        return self.read(torch.cat([states, *reversed(done)]))[order.argsort().to(tokens.device)]

    def forward_masked(self, tokens: Tensor, loops: Tensor, passes: int, gains: Gains = None) -> Tensor:
        """The same with every pass computed for all sequences: no shape, and no kernel, depends on the values of ``loops``.

        Args:
            tokens: whole numbers below V, ``(B, L)``.
            loops: passes of each sequence, ``(B,)``, on the device of the tokens.
            passes: T, at least the largest of them.
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
        """Logits ``(B, L, V)`` after one pass, after two, and so on to ``loops``; gains as in `forward`."""
        gains = self.check(loops, loops, gains)
        embedded, context = self.embed(tokens), self.context(tokens)
        states = embedded
        for index in range(loops):
            states = self.one_pass(states, embedded, index, gains, context)
            yield self.read(states)

    def check(self, fewest: int, most: int, gains: Gains) -> Gains:
        """The gains as plain numbers or a tensor; numbers of passes that there are not, and gains that cannot be, are refused."""
        for loops in (fewest, most):
            counts = isinstance(loops, int | np.integer | torch.SymInt) and not isinstance(loops, bool)
            require(counts, "loops", loops, "a whole number of at least 1")
        require(fewest >= 1, "loops", fewest, "a whole number of at least 1")
        allowed = self.config.learned_gains
        require(not 0 < allowed < most, "loops", most, f"at most the {allowed} passes that have a gain (model.learned_gains)")
        return _checked_gains(gains, most)

    def one_pass(self, states: Tensor, embedded: Tensor, index: int, gains: Gains, context: Context) -> Tensor:
        """The states ``(B, L, D)`` after the pass of this index, counted from 0."""
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
        """What all passes of a call share."""
        stack = [(block, block.attention.fused()) for block in self.stack()]
        return Context(stack, self.rotation(tokens.shape[1], tokens.device))

    def read(self, states: Tensor) -> Tensor:
        """Logits of states."""
        return self.head(self.final_norm(states))

    def gain(self, index: int, gains: Gains) -> float | Tensor:
        """The gain of a pass, counted from 0: the given one, times the learned one; a given number 0 stays one."""
        given = 1.0 if gains is None or index == 0 else gains[index]
        skipped = isinstance(given, float | int) and given == 0
        if self.pass_gains is None or index == 0 or skipped:
            return given
        return given * self.pass_gains[0 if self.config.shared_gain else index - 1]

    def stack(self) -> list[AttentionBlock]:
        """The blocks that one pass applies, in order."""
        return cast(list[AttentionBlock], list(self.blocks))

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings plus learned positions, ``(B, L, D)``."""
        if self.positions is None:
            return self.embedding(tokens)
        length = tokens.shape[1]
        require(length <= self.config.length, "sequence", length, f"at most {self.config.length} tokens (model.length)")
        return self.embedding(tokens) + self.positions.weight[:length]

    def rotation(self, length: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """The rotary table for this length, or None."""
        if self.config.positions != "rotary":
            return None
        return rotation_table(length, self.config.width // self.config.heads, device)


def _checked_gains(gains: object, passes: int) -> Gains:
    """Gains of a call as plain numbers, or the tensor as it is.

    Raises:
        BadInputError: another number of them than passes, something that is no finite number, or a first one that is not 1.
    """
    wanted = f"one number for each of the {passes} passes"
    if gains is None:
        return None
    if isinstance(gains, Tensor):
        require(gains.shape == (passes,), "gains", tuple(gains.shape), f"{wanted}, ({passes},)")
        for index, gain in enumerate(readable(gains)):
            _check_gain(gain, index)
        return gains
    require(not isinstance(gains, str | bytes | type) and hasattr(gains, "__len__"), "gains", gains, wanted)
    given = list(cast(Sequence[float], gains))
    require(len(given) == passes, "gains", gains, wanted)
    return tuple(_checked_gain(gain, index) for index, gain in enumerate(given))


def _checked_gain(gain: object, index: int) -> float:
    """One gain of several as a plain number, or as the tensor () that it is."""
    if isinstance(gain, Tensor):
        require(gain.dim() == 0, f"gains[{index}]", tuple(gain.shape), "one number")
        for one in readable(gain.reshape(1)):
            _check_gain(one, index)
        return cast(float, gain)
    found = plain(gain)
    found = as_float(found) if type(found) is int else found
    _check_gain(found, index)
    return found


def _check_gain(gain: object, index: int) -> None:
    """Refuse a gain that is no finite number, and one of the first pass that is not 1."""
    number = isinstance(gain, int | float) and not isinstance(gain, bool) and math.isfinite(gain)
    require(number, f"gains[{index}]", gain, "a finite number")
    require(index > 0 or gain == 1, "gains[0]", gain, "1: the first pass always counts in full")


def readable(values: Tensor) -> list[float]:
    """The numbers of a tensor; none where they are not there to be read, as in a compiled, recorded or traced call."""
    if torch.compiler.is_compiling() or values.is_meta or (values.is_cuda and torch.cuda.is_current_stream_capturing()):
        return []
    try:
        return values.detach().tolist()
    except RuntimeError:  # under a transform such as vmap
        return []


def _initialise(model: LoopedTransformer, generator: torch.Generator | None) -> None:
    """Draw the initial weights, module by module in the order of their names.

    Matrices are N(0, 1 / fan-in) in the attention-only family and N(0, 0.02) in the GPT family with the residual
    projections divided by sqrt(2 * layers); embeddings N(0, 0.02) in GPT, N(0, 1) / sqrt(D) in attention-only; all of them with
    ``deviation`` where that is given. The value weights are multiplied by ``value_scale``.

    Source:
        GPT-2's code for "gpt"; the paper gives no initialisation for its own model, so fan-in is our choice.
    """
    config = model.config
    for name, parameter in model.named_parameters():
        if name == "pass_gains":
            continue
        if parameter.dim() < 2:
            nn.init.constant_(parameter, 1.0 if name.endswith("norm.weight") else 0.0)
            continue
        deviation = config.deviation or (0.02 if config.block == "gpt" else 1 / math.sqrt(config.width))
        if name.endswith(("output.weight", "down.weight")):
            deviation /= math.sqrt(2 * config.layers)
        nn.init.normal_(parameter, std=deviation, generator=generator)
    with torch.no_grad():
        for block in model.stack():
            block.attention.value.weight.mul_(config.value_scale)
