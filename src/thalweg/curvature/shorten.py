"""Fewer steps for the same linear map: chains of scalings become one factor each.

A step ``v * c`` with a constant c is not carried out where it stands: it is remembered as the pair (v, c) and joined with
the scalings after it, ``(v * c) * d = v * (c d)``, with its neighbours in sums, ``v * c + v * d = v * (c + d)``, and with the sum
itself, ``w + v * c = addcmul(w, v, c)``. What reads the value in any other way gets it multiplied out, once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.curvature.linear import Program, Slot, Step, is_slot

aten = torch.ops.aten
Factor = Tensor | float | complex
_PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar, torch.ops.prims.mul.default)
_QUOTIENTS = (aten.div.Tensor, aten.div.Scalar)
SUMS = (aten.add.Tensor, torch.ops.prims.add.default)
_DIFFERENCES = (aten.sub.Tensor,)
_VIEWS = (aten.view.default, aten._unsafe_view.default)


def shorten(program: Program) -> Program:
    """The same linear map in fewer steps.

    Rounding differs in the last bits, because factors are multiplied with each other before they meet the vector. Costs one pass
    over the steps, and the product of each pair of factors.

    Args:
        program: a recorded linear map; it is not changed.
    Returns:
        A program with the same inputs and outputs.
    """
    shortening = Shortening(program)
    for step in program.steps:
        shortening.take(step)
    outputs = [shortening.value(output) if isinstance(output, Slot) else output for output in program.outputs]
    return Program(program.inputs, shortening.steps, outputs)


class Shortening:
    """The state of one pass over a program.

    Attributes:
        steps: the steps of the shortened program so far.
        scaled: slot -> (base slot, factor): the value is base times factor, and has not been computed.
        done: slot -> slot of the computed product, for scaled values that were needed.
        shapes, dtypes: of the values in slots.
        known: function and arguments of a step -> the step, to find equal ones.
        next: number of the next new slot.
    """

    def __init__(self, program: Program) -> None:
        self.steps: list[Step] = []
        self.scaled: dict[Slot, tuple[Slot, Factor]] = {}
        self.shapes: dict[Slot, torch.Size] = {}
        self.done: dict[Slot, Slot] = {}
        self.next = 1 + max(
            (slot.number for step in program.steps for slot in step.fills if slot is not None), default=len(program.inputs)
        )
        self.dtypes = {slot: step.dtype for step in program.steps for slot in step.fills if slot is not None}
        self.known: dict[Any, Step] = {}

    def take(self, step: Step) -> None:
        """Take over one step: note it as a scaling, join it with others, or copy it."""
        out = step.fills[0]
        if step.several or out is None:
            self.copy(step)
            return
        self.shapes[out] = step.shape
        if self.same(step, out) or self.scaling(step, out) or self.sum(step, out):
            return
        self.copy(step)

    def copy(self, step: Step) -> None:
        """Append the step as it is, with scaled arguments multiplied out."""
        whole = step.with_leaves(lambda leaf: self.value(leaf) if isinstance(leaf, Slot) else leaf)
        function = aten.reshape.default if step.function in _VIEWS else step.function
        self.append(replace(whole, function=function))

    def append(self, step: Step) -> None:
        """Append a step, or reuse the results of an equal earlier step."""
        leaves, form = pytree.tree_flatten((step.arguments, step.keywords), is_leaf=is_slot)
        leaf_keys = tuple(id(leaf) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves)
        key = (step.function, str(form), leaf_keys)
        equal_step = self.known.get(key)
        if (
            equal_step is None
            or len(equal_step.fills) != len(step.fills)
            or (None in equal_step.fills and equal_step.fills != step.fills)
        ):
            self.known[key] = step
            self.steps.append(step)
            return
        self.scaled.update(
            {new: (old, 1.0) for new, old in zip(step.fills, equal_step.fills, strict=True) if new is not None and old is not None}
        )

    def same(self, step: Step, out: Slot) -> bool:
        """Drop a copy to the dtype that the value has already, or a view in the shape that it has; returns whether it did."""
        source = step.arguments[0] if step.arguments else None
        if not isinstance(source, Slot):
            return False
        copied = step.function is aten._to_copy.default and not set(step.keywords) - {"dtype"}
        viewed = step.function in (*_VIEWS, aten.reshape.default, aten.expand.default) and self.shapes.get(source) == step.shape
        if not (viewed or (copied and self.dtypes.get(source) == step.dtype)):
            return False
        self.scaled[out] = self.scaled.get(source, (source, 1.0))
        return True

    def scaling(self, step: Step, out: Slot) -> bool:
        """Note ``v * c``, ``v / c`` or ``-v`` as a scaling, c constant and not broadcasting v; returns whether it did."""
        arguments = step.arguments
        if step.function is aten.neg.default:
            source, factor = arguments[0], -1.0
        elif step.function in _PRODUCTS and isinstance(arguments[0], Slot) != isinstance(arguments[1], Slot):
            source, factor = arguments if isinstance(arguments[0], Slot) else arguments[::-1]
        elif step.function in _QUOTIENTS and isinstance(arguments[0], Slot) and not isinstance(arguments[1], Slot):
            divisor = arguments[1]
            source, factor = arguments[0], 1 / (exact(divisor, step.dtype) if isinstance(divisor, Tensor) else divisor)
        else:
            return False
        base, earlier_factor = self.scaled.get(source, (source, 1.0))
        if step.keywords or self.shapes.get(base, None) != step.shape:
            return False
        self.scaled[out] = (base, times(earlier_factor, exact(factor, step.dtype) if isinstance(factor, Tensor) else factor))
        return True

    def sum(self, step: Step, out: Slot) -> bool:
        """Join ``x + y`` or ``x - y`` of two values of one shape that both depend on the direction; returns whether it did.

        ``v a + v b`` becomes a scaling of v; ``v a + w b`` becomes one fused step.
        """
        if step.function not in SUMS + _DIFFERENCES or step.keywords.get("alpha", 1) != 1 or len(step.arguments) != 2:
            return False
        x, y = step.arguments
        if not (isinstance(x, Slot) and isinstance(y, Slot)):
            return False
        sign = -1.0 if step.function in _DIFFERENCES else 1.0
        (left, a), (right, b) = (self.scaled.get(slot, (slot, 1.0)) for slot in (x, y))
        b = times(b, sign)
        if left == right:
            self.scaled[out] = (left, _plus(a, b))
            return True
        if self.shapes.get(left) != step.shape or self.shapes.get(right) != step.shape:
            return False
        # The second summand takes its factor along in the fused step, so a tensor factor belongs there.
        if not isinstance(b, Tensor) and isinstance(a, Tensor):
            (left, a), (right, b) = (right, b), (left, a)
        start = self.multiplied(left, a)
        if not isinstance(b, Tensor):
            self.emit(aten.add.Tensor, (start, right), {"alpha": b} if b != 1 else {}, out)
        else:
            self.emit(aten.addcmul.default, (start, right, b), {}, out)
        return True

    def value(self, slot: Slot) -> Slot:
        """The slot that holds this value; a scaled value is computed first."""
        if slot not in self.scaled:
            return slot
        if slot not in self.done:
            self.done[slot] = self.multiplied(*self.scaled[slot])
        return self.done[slot]

    def multiplied(self, base: Slot, factor: Factor) -> Slot:
        """The slot of ``base * factor``, computed in a step of its own; the base itself for factor 1."""
        if not isinstance(factor, Tensor) and factor == 1.0:
            return base
        out = Slot(self.next)
        self.next += 1
        self.emit(aten.mul.Tensor, (base, factor), {}, out)
        return self.scaled.get(out, (out, 1.0))[0]  # an equal step may stand for it

    def emit(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], out: Slot) -> None:
        """Append a step whose result has the shape of its first argument."""
        shape, dtype = self.shapes[arguments[0]], self.dtypes[arguments[0]]
        self.shapes[out], self.dtypes[out] = shape, dtype
        self.append(Step(function, arguments, keywords, (out,), False, shape, dtype))


def exact(factor: Tensor, dtype: torch.dtype) -> Tensor:
    """A factor in the dtype of the values that it scales: factors of lower precision would be rounded again when multiplied with
    each other, and counts and flags are whole numbers."""
    if dtype.is_complex and not factor.is_complex():
        dtype = dtype.to_real()
    return factor if factor.dtype == dtype else factor.to(dtype)


def times(a: Factor, b: Factor) -> Factor:
    """Product of two factors; numbers stay numbers."""
    return _number(a * b)


def _plus(a: Factor, b: Factor) -> Factor:
    """Sum of two factors; numbers stay numbers."""
    return _number(a + b)


def _number(value: Factor) -> Factor:
    """A whole number as a float."""
    return value if isinstance(value, Tensor | complex) else float(value)
