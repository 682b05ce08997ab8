"""A linear map recorded once and replayed many times: what all directions share is computed once and kept.

The derivative of a gradient, ``v -> H v``, is linear in v. It is recorded in three stages:

1. `record` runs it once for a random v and notes only the operations that depend on v. All other values are constants by then.
2. `Program` drops steps that no output needs, and knows after which step each value can be freed.
3. `thalweg.curvature.shorten.shorten` joins chains of scalings into one factor each; second derivatives of LayerNorm, GELU and
   softmax are mostly such chains.

A replay has no autograd graph and no branches, and `torch.vmap` carries it over many directions.
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
_IDENTITIES = (aten.detach.default, aten.alias.default, aten.lift_fresh.default)
"""Operations whose result is their argument."""
SUMS = (aten.add.Tensor, aten.sub.Tensor, torch.ops.prims.add.default)
_SAME = {torch.float32: 1e-4, torch.float64: 1e-10}
"""Largest relative distance of a product by another kind of replay from that of the plain one."""
_QUERIES = ("is_same_size", "_has_same_storage_numel", "_version")
"""Operations by which autograd queries tensors; they do not enter the result."""


class CannotRecordError(Exception):
    """The function does something that a replay could not repeat; the message says what."""


@dataclass(frozen=True)
class Slot:
    """A value that depends on the direction, represented by its number."""

    number: int


@dataclass(frozen=True)
class Step:
    """One operation: its function, its arguments with a `Slot` for each value, and the slots it fills (None: not used)."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    fills: tuple[Slot | None, ...]
    several: bool
    """Whether the function returns a list or tuple of values."""
    shape: torch.Size
    """Shape of the first value it fills."""
    dtype: torch.dtype
    """Dtype of the first value it fills."""

    def reads(self) -> list[Slot]:
        """Slots among its arguments."""
        return [leaf for leaf in pytree.tree_leaves((self.arguments, self.keywords)) if isinstance(leaf, Slot)]

    def with_leaves(self, change: Callable[[Any], Any]) -> Step:
        """The step with ``change`` applied to every argument."""
        arguments, keywords = pytree.tree_map(change, (self.arguments, self.keywords), is_leaf=is_slot)
        return replace(self, arguments=arguments, keywords=keywords)


@dataclass
class Program:
    """A linear map ``directions -> results`` as a list of steps.

    Calling it with one tensor for each input gives the list of results.
    """

    inputs: list[Slot]
    steps: list[Step]
    outputs: list[Slot | Tensor]
    """A tensor for a result that does not depend on the direction, and is therefore zero."""
    last_uses: list[list[int]] = field(init=False)
    """For each step the numbers of the values that no later step reads."""
    positions: list[list[tuple[int, int]] | None] = field(init=False)
    """For each step the positions of its slots, see `_slot_positions`."""

    def __post_init__(self) -> None:
        self.steps = needed(self.steps, self.outputs)
        self.last_uses = _last_uses(self.steps, self.outputs)
        self.positions = [_slot_positions(step) for step in self.steps]

    def __call__(self, *directions: Tensor) -> list[Tensor]:
        """The results for one direction, in the parts of the input; usable under `torch.vmap`."""
        values: dict[int, Any] = {slot.number: part for slot, part in zip(self.inputs, directions, strict=True)}
        fill = lambda leaf: values[leaf.number] if isinstance(leaf, Slot) else leaf  # noqa: E731
        for step, positions, done in zip(self.steps, self.positions, self.last_uses, strict=True):
            if positions is None:
                arguments, keywords = pytree.tree_map(fill, (step.arguments, step.keywords), is_leaf=is_slot)
            else:  # the usual case, without a tree traversal, which would cost more than a small operation
                arguments, keywords = list(step.arguments), step.keywords
                for position, number in positions:
                    arguments[position] = values[number]
            result = step.function(*arguments, **keywords)
            for slot, value in zip(step.fills, result if step.several else (result,), strict=True):
                if slot is not None:
                    values[slot.number] = value
            for number in done:  # frees memory as early as possible
                values.pop(number, None)
        return [values[output.number] if isinstance(output, Slot) else output for output in self.outputs]

    def constants(self) -> list[Tensor]:
        """The tensors that are kept for all replays."""
        kept = (leaf for step in self.steps for leaf in pytree.tree_leaves((step.arguments, step.keywords)))
        return [leaf for leaf in kept if isinstance(leaf, Tensor)]

    def largest(self) -> int:
        """Size of the largest value of a replay in bytes, counted as float32."""
        return 4 * max((step.shape.numel() for step in self.steps), default=1)

    def bytes(self) -> int:
        """Memory that the constants hold; shared storage counts once."""
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in self.constants()}
        return sum(storages.values())


def is_same(product: Tensor, expected: Tensor) -> bool:
    """Whether a product by another kind of replay, by ``vmap`` or as a graph, is that of the plain replay."""
    return float((product - expected).norm()) <= _SAME[expected.dtype] * float(expected.norm())


def _slot_positions(step: Step) -> list[tuple[int, int]] | None:
    """(position, number) of every slot among a step's positional arguments; None if a slot lies inside of a list or keyword."""
    positions = [(position, leaf.number) for position, leaf in enumerate(step.arguments) if isinstance(leaf, Slot)]
    return positions if len(positions) == len(step.reads()) else None


def is_slot(leaf: object) -> bool:
    """Whether a value is a `Slot`, which tree traversals must not open."""
    return isinstance(leaf, Slot)


def needed(steps: Sequence[Step], outputs: Sequence[Slot | Tensor]) -> list[Step]:
    """The steps that some output depends on, in their order."""
    wanted = {output for output in outputs if isinstance(output, Slot)}
    kept: list[Step] = []
    for step in reversed(steps):
        if wanted.intersection(step.fills):
            wanted.update(step.reads())
            kept.append(step)
    return kept[::-1]


def _last_uses(steps: Sequence[Step], outputs: Sequence[Slot | Tensor]) -> list[list[int]]:
    """For every step the numbers of the slots that nothing reads after it."""
    read_later = {output.number for output in outputs if isinstance(output, Slot)}
    uses: list[list[int]] = []
    for step in reversed(steps):
        numbers = {slot.number for slot in step.reads()} | {slot.number for slot in step.fills if slot is not None}
        uses.append([number for number in numbers if number not in read_later])
        read_later |= numbers
    return uses[::-1]


class Recorder(TorchDispatchMode):
    """Notes the operations that tracked tensors take part in, while it is active.

    A tensor is tracked from the moment it depends on a direction. Values that are all zero are not tracked: the direction is
    random, so they are zero for every direction.
    """

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
        """Whether a tracked tensor is among the arguments. It runs for every operation, so it avoids tree traversals."""
        for leaf in (*args, *kwargs.values()):
            if isinstance(leaf, Tensor):
                if leaf in self.slots:
                    return True
            elif isinstance(leaf, list | tuple) and any(isinstance(element, Tensor) and element in self.slots for element in leaf):
                return True
        return False

    def slot_or_constant(self, leaf: Any) -> Any:
        """The slot of a tracked tensor; any other value, a constant, is returned as it is."""
        return self.slots.get(leaf, leaf) if isinstance(leaf, Tensor) else leaf

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._efficientzerotensor.default:
            return torch.zeros(*args, **kwargs)  # PyTorch 2.13 crashes when such a tensor meets a number under a dispatch mode
        if not self.takes_part(args, kwargs) or func._schema.name.split("::")[1] in _QUERIES:
            return func(*args, **kwargs)
        arguments, keywords = pytree.tree_map(self.slot_or_constant, (args, kwargs))
        # Operations that a replay could not repeat, or has to do in another form.
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
        # Results that need no step of their own: the argument itself, or a sum with zero.
        if func in _IDENTITIES:
            self.slots[result] = arguments[0]
            return result
        if func in SUMS and not result.is_meta and self.adds_nothing(args, arguments, result):
            self.slots[result] = next(leaf for leaf in arguments if isinstance(leaf, Slot))
            return result
        several = isinstance(result, list | tuple)
        if any(isinstance(value, Tensor) and value.is_meta for value in pytree.tree_leaves(result)):
            return result
        # Everything else becomes a step; results that are zero get no slot.
        values = result if several else (result,)
        fills = tuple(self.track(value) if isinstance(value, Tensor) and value.any() else None for value in values)
        if not any(fills):
            return result
        first = next(value for value in values if isinstance(value, Tensor))
        self.steps.append(Step(function, tuple(arguments), keywords, fills, several, first.shape, first.dtype))
        return result

    @staticmethod
    def adds_nothing(args: Any, arguments: Any, result: Tensor) -> bool:
        """Whether an operation is ``x + 0`` or ``x - 0`` with a constant zero, so that its result is x."""
        constant_positions = [i for i, leaf in enumerate(arguments[:2]) if not isinstance(leaf, Slot)]
        if len(constant_positions) != 1 or not isinstance(args[constant_positions[0]], Tensor) or args[constant_positions[0]].any():
            return False
        value = args[1 - constant_positions[0]]
        return (value.shape, value.dtype) == (result.shape, result.dtype) and bool((value == result).all())

    def out_of_place(self, func: Any, args: Any, arguments: Any) -> tuple[Any, Any]:
        """The out-of-place variant of an in-place operation, and its arguments.

        Raises:
            CannotRecordError: another tensor shares the memory that is written to, or there is no such variant.
        """
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
    """The result of ``target.copy_(source)``, without writing into the target."""
    return source.to(target.dtype).expand(target.shape)


def _conjugated(values: Tensor) -> Tensor:
    """The complex conjugate, computed at once rather than lazily."""
    return torch.complex(values.real, -values.imag)


def record(function: Callable[..., Sequence[Tensor]], directions: Sequence[Tensor]) -> Program:
    """Run a function that is linear in its arguments once, and keep the operations that depend on them.

    A value that is zero for a random direction is zero for all directions, so it is left out with everything that it alone feeds.
    Costs one evaluation of the function.

    Args:
        function: ``(*directions) -> results``, linear (trusted, not checked); run it under ``no_grad`` and without further
            transforms around it.
        directions: one random tensor for each argument.
    Returns:
        The program, with results in the function's order.
    Raises:
        CannotRecordError: the function writes into shared memory or reads a number from a value.
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
    outputs = [recorder.slot_or_constant(result) for result in results]
    return Program(inputs, recorder.steps, outputs)
