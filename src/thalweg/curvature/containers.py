"""Batches of any structure: the tensors and arrays inside are listed, copied and converted, whatever container holds them.

Known containers: lists, tuples, named tuples, packed sequences, dicts and other mappings (`UserDict`, which tokenisers return),
dataclasses, whatever PyTorch's pytree knows, and plain objects that keep tensors in their attributes.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from thalweg.errors import BadInputError

_TensorFunction = Callable[[Tensor], Tensor]
_OPAQUE = (str, bytes, int, float, complex, bool, type, nn.Module, torch.Generator, types.FunctionType, types.ModuleType)
"""Types of values that are kept as they are: nothing inside of them counts as a part of the batch."""


def map_tensors(function: _TensorFunction, batch: Any) -> Any:
    """Apply a function to every tensor and numeric array of a batch, and return the results in new containers of the same types.

    Args:
        function: tensor -> tensor. A numpy array is passed as a tensor with its own memory and comes back as an array.
        batch: any nesting of the containers that the head of this file names.
    Raises:
        BadInputError: the batch holds a generator or another iterator, which a second evaluation would find empty, or a container
            with tensors that cannot be copied.
    Example:
        >>> map_tensors(torch.neg, {"x": torch.tensor([1, 2]), "name": "a"})
        {'x': tensor([-1, -2]), 'name': 'a'}
    """
    return _mapped(function, batch, ())


def tensors_in(batch: Any) -> list[Tensor]:
    """Every tensor and numeric array of a batch, arrays as tensors, in the order of the traversal."""
    tensors: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(keep, batch)
    return tensors


def shapes_in(batch: Any) -> tuple[tuple[int, ...], ...]:
    """Shapes of all tensors of a batch; without any tensor, the lengths of its lists, so that ragged batches are recognised."""
    tensors = tensors_in(batch)
    if tensors:
        return tuple(tuple(tensor.values().shape if tensor.is_nested else tensor.shape) for tensor in tensors)
    return tuple((len(node),) for node in _lists(batch))


def copied(batch: Any) -> Any:
    """A copy of the batch with tensors and arrays of its own; each tensor keeps its ``requires_grad``."""

    def clone(tensor: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return tensor.detach().clone().requires_grad_(tensor.requires_grad)

    return map_tensors(clone, batch)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a floating-point tensor to ``dtype``, and a complex one to the complex dtype of that precision.

    Whole numbers and flags are returned as they are. A leaf that requires a gradient becomes a new leaf.
    """
    if tensor.is_complex():
        dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    elif not tensor.is_floating_point():
        return tensor
    if tensor.dtype == dtype:
        return tensor
    converted = tensor.to(dtype)
    return converted.detach().requires_grad_() if tensor.requires_grad and tensor.is_leaf else converted


def _mapped(function: _TensorFunction, value: Any, inside: tuple[int, ...]) -> Any:
    """`map_tensors` inside of the containers with these identities, at which a cycle ends."""
    if isinstance(value, Tensor):
        return _with_attributes(function(value), value)
    if value is None or isinstance(value, _OPAQUE) or id(value) in inside:
        return value
    map_part = lambda part: _mapped(function, part, (*inside, id(value)))  # noqa: E731
    if isinstance(value, np.ndarray | np.generic):
        return _mapped_array(function, value)
    if isinstance(value, PackedSequence):  # its ``batch_sizes`` stay on the CPU
        return value._replace(**{name: map_part(getattr(value, name)) for name in ("data", "sorted_indices", "unsorted_indices")})
    if isinstance(value, Mapping):
        return _mapped_mapping(map_part, value)
    if isinstance(value, tuple):
        parts = [map_part(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else _rebuilt(value, parts)
    if isinstance(value, list):
        return _rebuilt(value, [map_part(part) for part in value])
    if type(value) in pytree.SUPPORTED_NODES:
        leaves, form = pytree.tree_flatten(value, is_leaf=lambda node: node is not value)
        return pytree.tree_unflatten([map_part(leaf) for leaf in leaves], form)
    if isinstance(value, Iterator):
        raise BadInputError(
            f"batches: a batch holds a {type(value).__name__}, which can be read once only, while a loss is evaluated many times; "
            "make it a list first"
        )
    return _mapped_object(function, value, (*inside, id(value)))


def _with_attributes(result: Tensor, original: Tensor) -> Tensor:
    """The mapped tensor with the attributes that a user set on the original one; attributes that it has already are kept."""
    for name, value in getattr(original, "__dict__", {}).items():
        if name not in result.__dict__:
            setattr(result, name, value)
    return result


def _mapped_array(function: _TensorFunction, array: Any) -> Any:
    """Map an array of numbers as a tensor and convert the result back; return arrays of text or objects as they are."""
    if array.dtype.kind not in "fiubc":
        return array
    result = function(torch.from_numpy(np.array(array)))
    mapped = result.detach().cpu().numpy()
    return mapped if isinstance(array, np.ndarray) else mapped[()]


def _mapped_mapping(map_part: Callable[[Any], Any], value: Mapping[Any, Any]) -> Any:
    """A mapping of the same class with mapped values."""
    parts = {key: map_part(part) for key, part in value.items()}
    if type(value) is dict:
        return parts
    before = dict(value.items())
    try:
        twin = copy.copy(value)
        for key, part in parts.items():
            twin[key] = part  # type: ignore[index]
    except Exception:  # a mapping that cannot be written to, or not copied
        return _rebuilt(value, parts)
    if any(value[key] is not part for key, part in before.items()):  # the copy writes into what it shares with the original
        for key, part in before.items():
            value[key] = part  # type: ignore[index]
        return _rebuilt(value, parts)
    return twin


def _mapped_object(function: _TensorFunction, value: Any, inside: tuple[int, ...]) -> Any:
    """A copy of an object with mapped attributes; the object itself where no attribute holds a tensor."""
    tensors: list[Tensor] = []

    def apply(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return function(tensor)

    slots = [name for kind in type(value).__mro__ for name in _as_tuple(getattr(kind, "__slots__", ()))]
    attributes = {name: getattr(value, name) for name in slots if name != "__weakref__" and hasattr(value, name)}
    attributes |= getattr(value, "__dict__", {})
    parts = {name: part if isinstance(part, Iterator) else _mapped(apply, part, inside) for name, part in attributes.items()}
    if not tensors:
        return value
    try:
        twin = copy.copy(value)
        for name, part in parts.items():
            object.__setattr__(twin, name, part)
    except (TypeError, AttributeError) as problem:
        raise _unknown_container(value) from problem
    return twin


def _rebuilt(value: Any, parts: Any) -> Any:
    """A container of the value's class, built from its mapped parts."""
    try:
        return type(value)(parts)
    except Exception as problem:
        raise _unknown_container(value) from problem


def _unknown_container(value: Any) -> BadInputError:
    """The error for a container that cannot be built again from its parts."""
    return BadInputError(
        f"batches: a batch holds a {type(value).__name__}, which cannot be copied; give its tensors in a dict, list or tuple"
    )


def _as_tuple(slots: Any) -> tuple[str, ...]:
    """``__slots__`` as a tuple; it may be a single name."""
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _lists(value: Any) -> list[list[Any] | tuple[Any, ...]]:
    """Every list and tuple inside of a batch, which holds no tensors."""
    if isinstance(value, Mapping):
        return [node for part in value.values() for node in _lists(part)]
    if isinstance(value, list | tuple):
        return [value, *(node for part in value for node in _lists(part))]
    return []
