"""Loop the middle layers of a Hugging Face decoder, train it in stages, save and load it. Needs the extra ``hf``.

Three lines change a training script:

    looped = loop(model, first=4, last=8)
    attach(trainer, tw.Shift(loops=4, criterion=tw.AtStep(500), onset=tw.Ramp(200)), looped)
    save(model, "looped-model")  # after training; load("looped-model") gives model and loops back
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from thalweg.bounds import Whole, named_arguments, require_kind
from thalweg.curvature.sharded import is_sharded
from thalweg.errors import BadInputError, Phrase, require
from thalweg.integrations.exits import Confidence, Fixed, SmallChange
from thalweg.integrations.find_layers import base_of, layers_of, reader_of
from thalweg.integrations.looped_layers import LoopedLayers, LoopOptions, looped_layers_in
from thalweg.integrations.pass_cache import Span

__all__ = ["Confidence", "Fixed", "LoopedLayers", "SmallChange", "loop", "looped_layers_of"]


@named_arguments
def loop(
    model: Any,
    first: int,
    last: int,
    *,
    loops: int = 1,
    gains: Sequence[float] | None = None,
    injection: bool = False,
    norm: bool = False,
    learned_gains: Literal["each", "shared"] | None = None,
    gain_start: float = 0.0,
    most_loops: int | None = None,
    backprop: int | None = None,
) -> LoopedLayers:
    """Repeat the layers ``first`` to ``last`` (excluded) of a decoder with the same weights.

    Names, classes and parameters of the model stay as they are, so that plain transformers loads what it saves. With one loop,
    or with gains of 0, the model computes bit for bit what it computed before. Only learned gains and the norm are added, as
    ``model.thalweg``.

    Args:
        model: a causal decoder of transformers 5, with a PEFT adapter or without; changed in place.
        first, last: the block, counted from 0.
        loops, gains: passes T and the gain of each, the first 1; change them with `LoopedLayers.set`.
        injection: whether the states that entered the block are added to the input of every further pass.
        norm: whether an RMS norm follows every further pass.
        learned_gains: None, "each" (a learned gain for every further pass) or "shared" (one for all). Given gains multiply them.
        gain_start: initial value of the learned gains. At 0 the model is unchanged until they have learned.
        most_loops: largest T that is ever set; needed for "each".
        backprop: number of last passes that gradients flow through; None for all. Without ``injection``, embeddings and layers
            before the block then have no gradient while T is larger.
    Returns:
        The handle that sets passes and gains, and removes the loops.
    Raises:
        BadInputError: an encoder, an architecture without one list of layers, a span that does not fit, or layers that are looped
            already or sharded.
    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> small = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3}
        >>> model = LlamaForCausalLM(LlamaConfig(**small))
        >>> looped = loop(model, 1, 2, loops=3)
        >>> looped.loops, looped.gains
        (3, (1.0, 1.0, 1.0))
        >>> looped.set(3, gains=(1, 0.5, 0))
    """
    base = base_of(model)
    owner, layers = layers_of(base)
    for name, value in (("first", first), ("last", last)):
        require_kind(int, value, name, value)
    fitting = f"0 <= first < last <= {len(layers)}, the layers of the model"
    require(0 <= first < last <= len(layers), "loop first, last", (first, last), fitting)
    looped_already = any(hasattr(type(layer), "_thalweg_of") for layer in layers)
    require(not looped_already, "loop", type(base), "a model that is not looped; call remove() of its LoopedLayers first")
    require(not is_sharded(base), "loop", Phrase("a model under fully_shard"), "one that is not sharded yet; loop it before")
    require(learned_gains in (None, "each", "shared"), "learned_gains", learned_gains, 'None, "each" or "shared"')
    require(learned_gains != "each" or most_loops is not None, "most_loops", most_loops, 'the largest number of passes for "each"')
    for name, value in (("most_loops", most_loops), ("backprop", backprop)):
        if value is not None:
            Whole(1, 10_000).refuse(value, name, value)
    require(learned_gains != "each" or (most_loops or 0) > 1, "most_loops", most_loops, "at least 2 for learned gains")
    require_kind(float, gain_start, "gain_start", gain_start)
    options = LoopOptions(injection, norm, learned_gains, gain_start, most_loops, backprop)
    width = base.config.get_text_config().hidden_size
    looped = LoopedLayers(tuple(layers), Span(first, last, len(layers)), width, options, reader_of(base, owner))
    try:
        looped.set(loops, gains)
    except BadInputError:
        looped.remove()
        raise
    looped.register(base)
    return looped


def looped_layers_of(model: Any) -> LoopedLayers:
    """The handle that `loop` returned for a model.

    Raises:
        BadInputError: the model is not looped.
    """
    found = looped_layers_in(base_of(model))
    require(found is not None, "model", type(model), "a looped model; call loop(model, first, last) first")
    assert found is not None
    return found
