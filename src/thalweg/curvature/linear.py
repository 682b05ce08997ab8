"""A linear map recorded once and replayed many times: what all vectors share is computed once and kept.

The derivative of a gradient is linear in its direction. `record` runs it once and writes down only the operations that the
direction takes part in; everything else has become a constant. `shorten` then joins chains of scalings into one factor each
(second derivatives of LayerNorm, GELU and softmax are mostly such chains). A replay has no autograd graph and no branches, and
`torch.vmap` carries it over many directions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten
_SAME = (aten.detach.default, aten.alias.default, aten.lift_fresh.default)
"""Operations whose result is their argument."""
SUMS = (aten.add.Tensor, aten.sub.Tensor, torch.ops.prims.add.default)
_TESTS = ("is_same_size", "_has_same_storage_numel", "_version")
"""Questions that autograd asks about tensors; they have no part in the result."""


class CannotRecordError(Exception):
    """The function does something that a replay could not repeat; the message says what."""


@dataclass(frozen=True)
class Slot:
    """A value that depends on the direction, by its number."""

    number: int


@dataclass(frozen=True)
class Step:
    """One operation: its function, arguments with `Slot` in the places of values, and the slots it fills (None: not used)."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    fills: tuple[Slot | None, ...]
    several: bool
    shape: torch.Size
    """Shape of the first value it fills."""
    dtype: torch.dtype
    """Its dtype."""

    def reads(self) -> list[Slot]:
        """Slots among its arguments."""
        return [leaf for leaf in pytree.tree_leaves((self.arguments, self.keywords)) if isinstance(leaf, Slot)]

    def with_leaves(self, change: Callable[[Any], Any]) -> Step:
        """The step with every argument changed."""
        arguments, keywords = pytree.tree_map(change, (self.arguments, self.keywords), is_leaf=is_slot)
        return replace(self, arguments=arguments, keywords=keywords)


@dataclass
class Program:
    """A linear map ``directions -> results`` as a list of steps."""

    inputs: list[Slot]
    steps: list[Step]
    outputs: list[Slot | Tensor]
    """A tensor where the result does not depend on the direction: it is zero there."""
    last: list[list[int]] = field(init=False)
    places: list[list[tuple[int, int]] | None] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = needed(self.steps, self.outputs)
        self.last = _last_uses(self.steps, self.outputs)
        self.places = [_flat_places(step) for step in self.steps]

    def __call__(self, *directions: Tensor) -> list[Tensor]:
        """The results for one direction, in the parts of the input; usable under `torch.vmap`."""
        values: dict[int, Any] = {slot.number: part for slot, part in zip(self.inputs, directions, strict=True)}
        fill = lambda leaf: values[leaf.number] if isinstance(leaf, Slot) else leaf  # noqa: E731
        for step, places, done in zip(self.steps, self.places, self.last, strict=True):
            if places is None:
                arguments, keywords = pytree.tree_map(fill, (step.arguments, step.keywords), is_leaf=is_slot)
            else:  # the usual case, without a walk over trees, which costs more than small operations do
                arguments, keywords = list(step.arguments), step.keywords
                for place, number in places:
                    arguments[place] = values[number]
            result = step.function(*arguments, **keywords)
            for slot, value in zip(step.fills, result if step.several else (result,), strict=True):
                if slot is not None:
                    values[slot.number] = value
            for number in done:
                values.pop(number, None)
        return [values[output.number] if isinstance(output, Slot) else output for output in self.outputs]

    def constants(self) -> list[Tensor]:
        """The tensors kept for all replays."""
        kept = (leaf for step in self.steps for leaf in pytree.tree_leaves((step.arguments, step.keywords)))
        return [leaf for leaf in kept if isinstance(leaf, Tensor)]

    def largest(self) -> int:
        """Elements of the largest value, times 4: bytes in float32."""
        return 4 * max((step.shape.numel() for step in self.steps), default=1)

    def bytes(self) -> int:
        """Memory that the constants hold; shared storage counts once."""
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in self.constants()}
        return sum(storages.values())


def _flat_places(step: Step) -> list[tuple[int, int]] | None:
    """Position and number of every slot, where all of them are arguments by themselves; None if one lies in a list."""
    places = [(place, leaf.number) for place, leaf in enumerate(step.arguments) if isinstance(leaf, Slot)]
    return places if len(places) == len(step.reads()) else None


def is_slot(leaf: object) -> bool:
    """A leaf for the walk over arguments."""
    return isinstance(leaf, Slot)


def needed(steps: Sequence[Step], outputs: Sequence[Slot | Tensor]) -> list[Step]:
    """The steps that an output depends on."""
    wanted = {output for output in outputs if isinstance(output, Slot)}
    kept: list[Step] = []
    for step in reversed(steps):
        if wanted.intersection(step.fills):
            wanted.update(step.reads())
            kept.append(step)
    return kept[::-1]


def _last_uses(steps: Sequence[Step], outputs: Sequence[Slot | Tensor]) -> list[list[int]]:
    """For every step the slots that nothing reads after it."""
    seen = {output.number for output in outputs if isinstance(output, Slot)}
    uses: list[list[int]] = []
    for step in reversed(steps):
        numbers = {slot.number for slot in step.reads()} | {slot.number for slot in step.fills if slot is not None}
        uses.append([number for number in numbers if number not in seen])
        seen |= numbers
    return uses[::-1]


class Recorder(TorchDispatchMode):
    """Writes down the operations that tracked tensors take part in."""

    def __init__(self) -> None:
        super().__init__()
        self.slots: MutableMapping[Tensor, Slot] = WeakTensorKeyDictionary()
        self.steps: list[Step] = []
        self.count = 0

    def track(self, tensor: Tensor) -> Slot:
        """A new slot for the tensor's present value."""
        slot = Slot(self.count)
        self.count += 1
        self.slots[tensor] = slot
        return slot

    def takes_part(self, args: Any, kwargs: Any) -> bool:
        """Is a tracked tensor among the arguments? Asked for every operation, so without a walk over trees."""
        for leaf in (*args, *kwargs.values()):
            if isinstance(leaf, Tensor):
                if leaf in self.slots:
                    return True
            elif isinstance(leaf, list | tuple) and any(isinstance(one, Tensor) and one in self.slots for one in leaf):
                return True
        return False

    def seen(self, leaf: Any) -> Any:
        """The slot of a tracked tensor, anything else as it is."""
        return self.slots.get(leaf, leaf) if isinstance(leaf, Tensor) else leaf

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._efficientzerotensor.default:
            return torch.zeros(*args, **kwargs)  # PyTorch 2.13 crashes when such a tensor meets a number under a dispatch mode
        if not self.takes_part(args, kwargs) or func._schema.name.split("::")[1] in _TESTS:
            return func(*args, **kwargs)
        arguments, keywords = pytree.tree_map(self.seen, (args, kwargs))
        if func in (aten._local_scalar_dense.default, aten.equal.default):
            raise CannotRecordError("a number is read from a value in the middle of the computation")
        lazy = func in (aten._conj.default, aten._conj_physical.default)
        function = _conjugated if lazy else func  # a lazy conjugate cannot be viewed as real
        if func._schema.is_mutable:
            function, arguments = self.out_of_place(func, args, arguments)
        if function is copied and args[0].shape == args[1].shape and args[0].dtype == args[1].dtype:
            func(*args, **kwargs)
            self.slots[args[0]] = arguments[1]
            return args[0]
        result = func(*args, **kwargs)
        if func in _SAME:
            self.slots[result] = arguments[0]
            return result
        if func in SUMS and not result.is_meta and self.adds_nothing(args, arguments, result):
            self.slots[result] = next(leaf for leaf in arguments if isinstance(leaf, Slot))
            return result
        several = isinstance(result, list | tuple)
        if any(isinstance(value, Tensor) and value.is_meta for value in pytree.tree_leaves(result)):
            return result
        values = result if several else (result,)
        fills = tuple(self.track(value) if isinstance(value, Tensor) and value.any() else None for value in values)
        if not any(fills):
            return result
        first = next(value for value in values if isinstance(value, Tensor))
        self.steps.append(Step(function, tuple(arguments), keywords, fills, several, first.shape, first.dtype))
        return result

    @staticmethod
    def adds_nothing(args: Any, arguments: Any, result: Tensor) -> bool:
        """A sum with a zero that does not depend on the direction, ``x + 0`` or ``x - 0``."""
        fixed = [i for i, leaf in enumerate(arguments[:2]) if not isinstance(leaf, Slot)]
        if len(fixed) != 1 or not isinstance(args[fixed[0]], Tensor) or args[fixed[0]].any():
            return False
        moving = args[1 - fixed[0]]
        return (moving.shape, moving.dtype) == (result.shape, result.dtype) and bool((moving == result).all())

    def out_of_place(self, func: Any, args: Any, arguments: Any) -> tuple[Any, Any]:
        """The pure twin of an in-place operation on a tensor that nothing else looks at."""
        target = args[0]
        storage = target.untyped_storage().data_ptr()
        others = [tensor for tensor in self.slots if tensor is not target and tensor.untyped_storage().data_ptr() == storage]
        name = func._schema.name.split("::")[1]
        pure = getattr(getattr(aten, name.removesuffix("_"), None), func._overloadname, None)
        twin = copied if func is aten.copy_.default else pure
        if others or target._is_view() or twin is None or not name.endswith("_"):
            raise CannotRecordError(f"{name} writes into a tensor that something else shares")
        if target not in self.slots:
            arguments = (target.clone(), *arguments[1:])
        return twin, arguments


def copied(target: Tensor, source: Tensor) -> Tensor:
    """``target.copy_(source)`` without a target."""
    return source.to(target.dtype).expand(target.shape)


def _conjugated(values: Tensor) -> Tensor:
    """The complex conjugate, written out."""
    return torch.complex(values.real, -values.imag)


def record(function: Callable[..., Sequence[Tensor]], directions: Sequence[Tensor]) -> Program:
    """Run a function that is linear in its arguments once, and keep what depends on them.

    A value that is zero for a random direction is zero for all of them, and is left out with everything that it alone feeds.

    Args:
        function: ``(*directions) -> results``; run under no_grad and without further transforms around it.
        directions: one random tensor for each argument.
    Raises:
        CannotRecordError: it writes into shared memory or reads a number from a value.
    Example:
        >>> double = record(lambda v: [2 * v], [torch.tensor([0.3, 0.1, 0.7])])
        >>> double(torch.ones(3))[0].tolist()
        [2.0, 2.0, 2.0]
    """
    recorder = Recorder()
    inputs = [recorder.track(direction) for direction in directions]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)  # PyTorch's own first forward derivative
        with recorder:
            results = function(*directions)
    outputs = [recorder.seen(result) for result in results]
    return Program(inputs, recorder.steps, outputs)
