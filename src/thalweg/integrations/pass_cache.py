"""A key-value cache with slots of its own for every pass of looped layers.

Pass 1 uses the slots that the model itself uses. Pass p of block layer k uses slot ``n + (p - 2) * size + k``, where n is the
number of layers of the model and ``size`` that of the block. The additional slots lie in the same cache object, so that beam
search and resets reach them, too.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.errors import BadInputError
from thalweg.integrations.extras import require_extra

require_extra("hf", "transformers")
from transformers.cache_utils import Cache  # noqa: E402

_NAMES = {"cache", "cache_params", "layer_past", "past", "past_key_value", "past_key_values", "state", "mems"}
"""Names under which decoders pass a cache to their layers."""
_MARK = "_thalweg_passes"
"""Attribute of a cache that holds the passes and gains that it was begun with."""
_EXIT = "_thalweg_exit"
"""Attribute of a cache that holds the number of passes that an exit rule chose."""


@dataclass(frozen=True)
class Span:
    """The layers ``first`` to ``last`` (excluded) of a model of ``total`` layers."""

    first: int
    last: int
    total: int

    @property
    def size(self) -> int:
        """Number of layers in the block."""
        return self.last - self.first


class PassCache:
    """View of a cache in which layer k of the block has the slot of one of the further passes.

    It is no subclass of ``Cache``: every method and attribute is that of the cache, with ``layer_idx`` shifted.
    """

    def __init__(self, cache: Cache, shift: int) -> None:
        self._cache, self._shift = cache, shift

    @property
    def layers(self) -> ShiftedSlots:
        """The slots of this pass, indexed by layer."""
        return ShiftedSlots(self._cache.layers, self._shift)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cache, name)
        place = _place_of_layer(getattr(type(self._cache), name, None))
        if place is None:
            return value
        shift = self._shift

        def shifted(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("layer_idx") is not None:
                kwargs["layer_idx"] += shift
            elif len(args) > place and args[place] is not None:
                args = (*args[:place], args[place] + shift, *args[place + 1 :])
            return value(*args, **kwargs)

        return shifted


class ShiftedSlots:
    """The slots of a cache, with an offset added to every index."""

    def __init__(self, slots: Sequence[Any], shift: int) -> None:
        self._slots, self._shift = slots, shift

    def __getitem__(self, index: int) -> Any:
        return self._slots[index + self._shift]

    def __len__(self) -> int:
        return len(self._slots)


@functools.cache
def _place_of_layer(method: Any) -> int | None:
    """Position of ``layer_idx`` among the arguments of a method, ``self`` not counted; None if it has no such argument."""
    if not inspect.isfunction(method):
        return None
    names = list(inspect.signature(method).parameters)
    return names.index("layer_idx") - 1 if "layer_idx" in names else None


def caches_in(rest: Iterable[Any], named: dict[str, Any]) -> list[Cache]:
    """The caches among the arguments of a layer.

    Args:
        rest: positional arguments after the states.
        named: keyword arguments.
    Raises:
        BadInputError: an argument is a cache of a class of the model's own, which has no slots for further passes.
    """
    for name, value in [("", value) for value in rest] + list(named.items()):
        foreign = type(value).__name__.endswith("Cache") or name in _NAMES
        if foreign and not (value is None or isinstance(value, Cache | bool | Tensor)):
            raise BadInputError(
                f"cache of looped layers: given {type(value).__name__}, expected a Cache of transformers, which can hold a slot "
                "for every pass; call the model with use_cache=False"
            )
    return own_caches(rest, named)


def own_caches(rest: Iterable[Any], named: dict[str, Any]) -> list[Cache]:
    """The caches of transformers among the arguments of a layer; all others are ignored."""
    return [value for value in (*rest, *named.values()) if isinstance(value, Cache)]


def prepare(cache: Cache, span: Span, passes: int, gains: tuple[float, ...] | None) -> None:
    """Add the slots of the further passes to a cache, and remember passes and gains in it.

    The slots are copies of the block's own, which must still be empty: a cache that was begun with other passes lacks keys and
    values.

    Args:
        cache: changed in place.
        span: the block.
        passes: number of passes of this call.
        gains: their gains; None in a compiled model, which may not depend on their values.
    Raises:
        BadInputError: the cache was begun with another number of passes or other gains.
    """
    wanted, mark = (passes, gains), getattr(cache, _MARK, None)
    if mark is None and passes == 1:
        return
    begun = any(_begun(slot) for slot in cache.layers[span.first : span.last])
    if not begun and hasattr(cache, _EXIT):
        delattr(cache, _EXIT)  # a cache that was reset, for another batch
    if mark == wanted or (mark is not None and gains is None and mark[0] == passes):
        return
    if begun:
        given = f"one begun with {mark[0] if mark else 1} passes, gains {mark[1] if mark else (1.0,)}"
        raise BadInputError(
            f"cache of looped layers: given {given}, expected one begun with {passes} passes, gains {gains}; begin a new cache"
        )
    if getattr(cache, "layer_class_to_replicate", None) is None:  # otherwise the cache appends slots when they are first used
        block = cache.layers[span.first : span.last]
        while len(cache.layers) < span.total + (passes - 1) * span.size:
            cache.layers.extend(copy.deepcopy(slot) for slot in block)
    setattr(cache, _MARK, wanted)


def view(value: Any, span: Span, number: int) -> Any:
    """The argument of a layer for pass ``number`` (counted from 0): a cache as `PassCache`, everything else unchanged."""
    if not isinstance(value, Cache) or number == 0:
        return value
    return PassCache(value, span.total + (number - 1) * span.size - span.first)


def _begun(slot: Any) -> bool:
    """Whether a slot of a cache holds keys, values or a state."""
    previous = getattr(slot, "has_previous_state", False)
    if isinstance(previous, dict):
        previous = any(previous.values())
    elif isinstance(previous, list | tuple):
        previous = any(previous)
    if previous:
        return True
    return bool(getattr(slot, "is_initialized", False) and hasattr(slot, "get_seq_length") and slot.get_seq_length() > 0)


def chosen_passes(caches: Iterable[Cache]) -> int | None:
    """Number of passes that an exit rule chose when the first of the caches was begun; None without one that is in use."""
    return next((getattr(cache, _EXIT) for cache in caches if hasattr(cache, _EXIT)), None)


def choose_passes(caches: Iterable[Cache], passes: int) -> None:
    """Remember in every cache the number of passes that an exit rule chose."""
    for cache in caches:
        setattr(cache, _EXIT, passes)
