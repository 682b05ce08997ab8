"""Layers of a decoder that are applied several times with the same weights, without a change to the decoder's code.

The class of every layer is swapped for a subclass with the same name. When the model calls the block's layers, the first pass
runs as usual, and the other arguments of every layer (masks, positions, cache) are recorded. After the block's last layer the
further passes call the same layers with the recorded arguments, the caches shifted to slots of their own. Pass p moves the
states h by its gain g_p:

    h <- h + g_p (norm(block(h + injection)) - h)

Shape letters: B batch, L tokens, D width, T passes.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from thalweg.bounds import Whole
from thalweg.errors import BadInputError, Phrase, require
from thalweg.integrations import pass_cache
from thalweg.integrations.exits import ExitRule, Read
from thalweg.integrations.pass_cache import Span
from thalweg.reprs import brief

NAME = "thalweg"
"""Name under which the model holds learned gains and the norm, if there are any."""
_LOOPS = Whole(1, 10_000)
_Call = Callable[..., Any]


@dataclass(frozen=True)
class LoopOptions:
    """How further passes are computed; fixed when the layers are looped."""

    injection: bool = False
    """Whether the states that entered the block are added to the input of every further pass."""
    norm: bool = False
    """Whether an RMS norm with learned weights follows every further pass."""
    learned_gains: Literal["each", "shared"] | None = None
    """Whether further passes have learned gains: one for each, or one for all."""
    gain_start: float = 0.0
    """Initial value of the learned gains."""
    most_loops: int | None = None
    """Largest number of passes; needed with a learned gain for each pass."""
    backprop: int | None = None
    """Number of last passes that gradients flow through; None for all."""


@dataclass
class _Record:
    """What one call of the model has recorded so far."""

    entry: Tensor
    """States that entered the block, ``(B, L, D)``."""
    caches: list[Any]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    """Other arguments of each of the block's layers: positional and by keyword."""


class LoopedLayers(nn.Module):
    """The looped block of a model: number of passes, their gains, and what is learned about them.

    Made by `thalweg.integrations.huggingface.loop`. Set `set(loops, gains)` between updates.

    Attributes:
        loops: number of passes T.
        gains: gain of every pass, T numbers; the first is 1. A pass with gain 0 is skipped in a model that is not compiled.
        exit: rule that ends the loop early at inference, None for none; see `thalweg.integrations.exits`.
        passes_made: number of passes of the last call.
    """

    def __init__(self, layers: Sequence[nn.Module], span: Span, width: int, options: LoopOptions, read: Read) -> None:
        super().__init__()
        self.layers, self.span, self.options, self.read = tuple(layers), span, options, read
        self.block = self.layers[span.first : span.last]
        like = next(self.block[0].parameters())
        placed = {"dtype": like.dtype, "device": like.device}
        self.norm = nn.RMSNorm(width, eps=1e-6, **placed) if options.norm else None
        count = {None: 0, "shared": 1, "each": (options.most_loops or 1) - 1}[options.learned_gains]
        start = torch.full((count,), float(options.gain_start), device=like.device)
        self.pass_gains = nn.Parameter(start) if count else None
        self.exit: ExitRule | None = None
        self.passes_made = 1
        self._record: _Record | None = None
        self._running = False
        self._holder: tuple[nn.Module, ...] = ()
        self.set(1)
        for place, layer in enumerate(self.layers):
            layer.__class__ = looping(type(layer))
            inside = span.first <= place < span.last
            object.__setattr__(layer, "_thalweg", (self, place - span.first) if inside else None)

    def extra_repr(self) -> str:
        """The layers, their passes and gains, for the repr."""
        learned = "" if self.pass_gains is None else f", {len(self.pass_gains)} learned gains"
        span = self.span
        return f"layers {span.first} to {span.last - 1} of {span.total}, loops={self.loops}, gains={brief(self.gains)}{learned}"

    def set(self, loops: int, gains: Sequence[float] | None = None) -> None:
        """Set the passes of the following calls.

        Args:
            loops: number of passes T, at least 1.
            gains: T numbers, the first of them 1; None for gains of 1.
        Raises:
            BadInputError: gains of another length or not finite, or more passes than learned gains.
        """
        _LOOPS.refuse(loops, "loops", loops)
        most = self.options.most_loops
        require(most is None or loops <= most, "loops", loops, f"at most most_loops, {most}; loop the model again with more")
        values = (1.0,) * loops if gains is None else tuple(float(gain) for gain in gains)
        require(len(values) == loops, "gains", gains, f"one number for each of the {loops} passes")
        require(all(map(math.isfinite, values)), "gains", gains, "finite numbers")
        require(values[0] == 1, "gains[0]", values[0], "1: the first pass always counts in full")
        device = next(self.block[0].parameters()).device
        if loops != getattr(self, "loops", None) or self.gain_values.device != device:
            self.gain_values = torch.ones(loops, device=device)
        # In place: a compiled model reads the values from the same tensor, and is not compiled again.
        self.gain_values.copy_(torch.tensor(values))
        self.loops, self.gains = int(loops), values

    def remove(self) -> None:
        """Give the layers their own classes back; the model is as before, without learned gains and norm.

        Raises:
            BadInputError: something else has changed the classes since, such as FSDP.
        """
        for layer in self.layers:
            plain = vars(type(layer)).get("_thalweg_of")  # not that of a class which a library has derived from ours
            require(plain is not None, "remove", type(layer), "layers whose class nothing else has changed since loop()")
        for layer in self.layers:
            layer.__class__ = type(layer)._thalweg_of  # type: ignore[attr-defined]
            layer.__dict__.pop("_thalweg")
        for model in self._holder:
            delattr(model, NAME)
        self._holder = ()

    def register(self, model: nn.Module) -> None:
        """Make learned gains and the norm, if there are any, parameters of a model."""
        if any(True for _ in self.parameters()):
            setattr(model, NAME, self)
            self._holder = (model,)  # in a tuple, as the model is no part of this module

    def visit(self, index: int, layer: nn.Module, call: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call one of the block's layers; after the last one, make the further passes.

        Args:
            index: number of the layer in the block.
            layer: the layer.
            call: its ``__call__``.
            args, kwargs: its arguments.
        """
        if self._running:
            return call(layer, *args, **kwargs)
        named = dict(kwargs)
        states, rest = (args[0], args[1:]) if args else (named.pop("hidden_states"), ())
        if index == 0:
            self._record = self._begin(states, rest, named)
        record = self._record
        if record is None:
            raise BadInputError("looped layers: a layer was called before the first layer of its block; call the whole model")
        record.calls.append((rest, named))
        if self.options.backprop is not None and self.loops > self.options.backprop:
            with torch.no_grad():
                output = call(layer, *args, **kwargs)
        else:
            output = call(layer, *args, **kwargs)
        if index < self.span.size - 1:
            return output
        self._record = None
        states = output[0] if isinstance(output, tuple) else output
        states = self._use_all(self._further_passes(states, record))
        return (states, *output[1:]) if isinstance(output, tuple) else states

    def _begin(self, states: Tensor, rest: tuple[Any, ...], named: dict[str, Any]) -> _Record:
        """Check the arguments of the block's first layer and prepare the caches among them."""
        expected = "states of three dimensions (batch, tokens, width); this architecture cannot be looped"
        require(states.dim() == 3, "looped layers", Phrase(f"states of shape {tuple(states.shape)}"), expected)
        compiled = torch.compiler.is_compiling()  # then nothing may depend on the values of the gains
        several = self.loops > 1 and (compiled or any(self.gains[1:]))
        caches = pass_cache.caches_in(rest, named) if several else pass_cache.own_caches(rest, named)
        for cache in caches:
            pass_cache.prepare(cache, self.span, self.loops, None if compiled else self.gains)
        return _Record(states, caches, [])

    def _further_passes(self, states: Tensor, record: _Record) -> Tensor:
        """States after all passes, from those after the first."""
        self.passes_made = 1
        if self.loops == 1:
            return states
        passes, leaving = self._passes_to_make(record)
        before = record.entry
        self._running = True
        try:
            for number in range(1, passes):
                if leaving is not None and leaving.leaves(number, before, states, self.read):
                    break
                before, states = states, self._one_pass(number, states, record)
                self.passes_made = number + 1
        finally:
            self._running = False
        if leaving is not None:
            pass_cache.choose_passes(record.caches, self.passes_made)
        return states

    def _passes_to_make(self, record: _Record) -> tuple[int, ExitRule | None]:
        """Largest number of passes of this call, and the exit rule that may end it earlier."""
        if self.exit is None or self.block[0].training:
            return self.loops, None
        chosen = pass_cache.chosen_passes(record.caches)
        return (self.loops, self.exit) if chosen is None else (chosen, None)

    def _one_pass(self, number: int, states: Tensor, record: _Record) -> Tensor:
        """States after pass ``number``, counted from 0."""
        gain = self._gain(number, states)
        if isinstance(gain, float) and gain == 0:
            return states
        if self.options.backprop is not None and number <= self.loops - self.options.backprop:
            states = states.detach()
        moved = states + record.entry if self.options.injection else states
        for layer, (rest, named) in zip(self.block, record.calls, strict=True):
            shifted = [pass_cache.view(value, self.span, number) for value in rest]
            by_name = {name: pass_cache.view(value, self.span, number) for name, value in named.items()}
            output = layer(moved, *shifted, **by_name)
            moved = output[0] if isinstance(output, tuple) else output
        if self.norm is not None:
            moved = self.norm(moved)
        return moved if isinstance(gain, float) and gain == 1 else torch.lerp(states, moved.to(states.dtype), gain)

    def _gain(self, number: int, states: Tensor) -> float | Tensor:
        """Gain of a pass: a number, or a tensor in a compiled model and with learned gains; a given 0 stays the number 0."""
        compiled = torch.compiler.is_compiling()
        given = self.gain_values[number] if compiled else self.gains[number]
        if self.pass_gains is None:
            return given.to(states) if isinstance(given, Tensor) else given
        if not isinstance(given, Tensor) and given == 0:
            return given
        learned = self.pass_gains[0 if self.options.learned_gains == "shared" else number - 1]
        return (given * learned).to(states)

    def _use_all(self, states: Tensor) -> Tensor:
        """The same states, made to depend on all learned parameters, with gradient 0 for those that were not used.

        Distributed training waits for the gradient of every parameter.
        """
        if not torch.is_grad_enabled():
            return states
        for parameter in self.parameters():
            states = states + 0 * parameter.sum().to(states)
        return states


def looped_layers_in(model: nn.Module) -> LoopedLayers | None:
    """The looped block of a model, also inside of wrappers; None for a model without one."""
    places = (getattr(module, "_thalweg", None) for module in model.modules())
    return next((place[0] for place in places if place is not None), None)


@functools.cache
def looping(plain: Any) -> type[nn.Module]:
    """The subclass of a layer's class that makes further passes; it has the same name, as libraries choose layers by the name."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        place = self._thalweg
        if place is None:
            return plain.__call__(self, *args, **kwargs)
        return place[0].visit(place[1], self, plain.__call__, args, kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> NoReturn:
        raise BadInputError(
            "pickling of a looped model: given a layer with a changed class, expected a plain one; "
            "save with thalweg.integrations.saving.save, or call remove() first"
        )

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    methods = {"__call__": __call__, "__reduce_ex__": __reduce_ex__, "__deepcopy__": __deepcopy__}
    return type(plain.__name__, (plain,), names | methods | {"_thalweg": None, "_thalweg_of": plain})
