"""Arithmetic that stays in one floating-point type, whatever a model casts to on its way.

Many models round by hand: RMSNorm and rotary embeddings of Hugging Face's decoders compute in float32, their losses call
``logits.float()``. In a float64 computation these casts would leave float32 rounding in the gradient, which is too much noise to
check a derivative with. `KeepPrecision` leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}
_NARROW_FLOATS = (torch.float16, torch.bfloat16)
_SHORTHANDS = {Tensor.half: torch.float16, Tensor.bfloat16: torch.bfloat16, Tensor.float: torch.float32}
_DETACHED = (Tensor.detach, Tensor.data.__get__)  # type: ignore[attr-defined]


class KeepPrecision(TorchFunctionMode):
    """A mode in which every cast to a lower precision than ``dtype`` becomes a cast to ``dtype``.

    Two kinds of errors are handled too, as both come from the change of precision alone: operands of mixed precision are converted
    to ``dtype``, and an operation that exists in lower precision only is computed there.

    Attributes:
        casts: lower types that the computation wanted to cast to; the casts were left out.
        rounded: operations whose result is less precise than ``dtype`` all the same.
        autocast: the type that ``torch.autocast`` was found to compute in, or None.
        cuts: how the computation leaves the autograd graph with a value that depends on the weights: "detach", "no_grad".
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        narrow = (*_NARROW_FLOATS, torch.float32) if dtype == torch.float64 else _NARROW_FLOATS
        self.lower = dict.fromkeys(narrow, dtype) | ({torch.complex64: torch.complex128} if dtype == torch.float64 else {})
        self.casts: set[torch.dtype] = set()
        self.rounded: set[str] = set()
        self.autocast: torch.dtype | None = None
        self.cuts: set[str] = set()
        self.padded: set[int] = set()
        """Tokens that an embedding with ``padding_idx`` looked up: their weights get no gradient."""
        self.noting = True
        """Whether cuts are noted: in the loss itself, not in the backward passes of its operations."""

    @property
    def intervened(self) -> bool:
        """Whether the computation differed from the one without this mode."""
        return bool(self.casts or self.rounded)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._note_autocast_and_cuts(func, args)
        if func is nn.functional.embedding and self.noting:
            self._note_padding(*args, **kwargs)
        # Casts by method: x.float(), x.type_as(y), x.to(y), x.type("...FloatTensor").
        if func in _SHORTHANDS and _SHORTHANDS[func] in self.lower:
            return self._recast(args[0], _SHORTHANDS[func])
        if func is Tensor.type_as or func is Tensor.to:
            args = self._without_lower_operand(func, args)
            func = Tensor.to if func is Tensor.type_as else func
        if func is Tensor.type and len(args) == 2:
            args = (args[0], _named_type(args[1]))
        # Casts by argument: x.to(torch.float32), torch.zeros(..., dtype=torch.float32).
        args = tuple(self._lifted_type(value) for value in args)
        if isinstance(kwargs.get("dtype"), torch.dtype):
            kwargs = kwargs | {"dtype": self._lifted_type(kwargs["dtype"])}
        try:
            result = func(*args, **kwargs)
        except (RuntimeError, NotImplementedError) as problem:
            if isinstance(problem, torch.OutOfMemoryError) or ("dtype" not in str(problem) and not _names_a_type(str(problem))):
                raise
            result = self._in_another_precision(func, args, kwargs, problem)
        if isinstance(result, Tensor) and result.requires_grad and result.dtype in self.lower:
            self.rounded.add(_name_of(func))
        return result

    def _note_autocast_and_cuts(self, func: Any, args: Any) -> None:
        """Note autocast, and values that leave the autograd graph."""
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is None:
            return
        if self.autocast is None and first.device.type != "meta" and torch.is_autocast_enabled(first.device.type):
            self.autocast = torch.get_autocast_dtype(first.device.type)
        if self.noting and any(isinstance(value, Tensor) and value.requires_grad for value in args):
            if func in _DETACHED and first.requires_grad:
                self.cuts.add("detach")
            elif not torch.is_grad_enabled():
                self.cuts.add("no_grad")

    def _note_padding(self, tokens: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any) -> None:
        """Note the token of ``padding_idx`` if it is looked up in weights that are differentiated for."""
        if padding_idx is not None and weight.requires_grad and bool((tokens == padding_idx % len(weight)).any()):
            self.padded.add(padding_idx)

    def _recast(self, tensor: Tensor, wanted: torch.dtype) -> Tensor:
        """``tensor.float()`` and similar methods, without the loss of precision."""
        return tensor.to(self._lifted_type(wanted))

    def _lifted_type(self, value: Any) -> Any:
        """The kept dtype in place of a lower one; any other value is returned as it is."""
        if not isinstance(value, torch.dtype) or value not in self.lower:
            return value
        self.casts.add(value)
        return self.lower[value]

    def _without_lower_operand(self, func: Any, args: Any) -> Any:
        """Arguments of ``x.to(other)`` and ``x.type_as(other)`` with the other's device and dtype in place of the tensor."""
        if len(args) < 2 or not isinstance(args[1], Tensor):
            return args
        return (args[0], args[1].device, args[1].dtype, *args[2:])

    def _in_another_precision(self, func: Any, args: Any, kwargs: Any, problem: Exception) -> Any:
        """Repeat a failed operation in one precision: in the kept one where operands were mixed, else in float32."""
        name = _name_of(func)
        if "out" in kwargs or (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__set__"):
            raise problem
        kinds = {leaf.dtype for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.is_floating_point()}
        if kinds & set(self.lower):
            args, kwargs = pytree.tree_map(lambda leaf: self._converted(leaf, self.dtype), (args, kwargs))
            self.casts |= kinds & set(self.lower)
            return func(*args, **kwargs)
        if self.dtype != torch.float64 or torch.float64 not in kinds:
            raise problem
        args, kwargs = pytree.tree_map(lambda leaf: self._converted(leaf, torch.float32), (args, kwargs))
        try:
            result = func(*args, **kwargs)
        except Exception:
            raise problem from None
        self.rounded.add(name)
        return pytree.tree_map(lambda leaf: self._converted(leaf, self.dtype), result)

    @staticmethod
    def _converted(leaf: Any, dtype: torch.dtype) -> Any:
        """A floating-point or complex tensor converted to another precision; any other value as it is."""
        if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
            return leaf
        return leaf.to(_COMPLEX[dtype] if leaf.is_complex() else dtype)


def _named_type(value: Any) -> Any:
    """The dtype for a name or tensor class as ``Tensor.type`` takes it; any other value as it is."""
    name = value if isinstance(value, str) else f"{getattr(value, '__module__', '')}.{getattr(value, '__name__', '')}"
    names = {"FloatTensor": torch.float32, "HalfTensor": torch.float16, "BFloat16Tensor": torch.bfloat16}
    return names.get(name.rpartition(".")[2], value) if "cuda" not in name and "Tensor" in name else value


def _names_a_type(message: str) -> bool:
    """Whether an error message is about the dtypes of operands."""
    return any(word in message for word in ("Float", "Double", "Half", "float", "double", "scalar type", "data type"))


def _name_of(func: Any) -> str:
    """Name of an operation for a message."""
    return str(getattr(func, "__name__", func))
