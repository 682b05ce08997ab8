"""Recorded programs as compiled functions, one function for all programs of the same structure.

Pieces of batches, checkpoints, seeds and conditions of a study differ in their constants but not in their steps. So constants are
arguments of the compiled function, and the structure is the key of the cache. Compiled code is compared with the replay on its
first directions.

Shape letters: C directions in one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from thalweg.curvature.linear import Program, Slot, is_slot
from thalweg.errors import WrongProductError

Function = Callable[..., tuple[Tensor, ...]]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest relative distance between compiled and replayed results."""
COMPILED: dict[str, Function] = {}
"""Structure and number of directions -> compiled function."""


def structure(program: Program, count: int) -> str:
    """A text of everything that determines the code of a program over ``count`` directions.

    That is its steps, shapes, strides and plain numbers; the values of constant tensors are left out.
    """
    indices = {id(tensor): i for i, tensor in enumerate(distinct(program))}

    def describe(leaf: Any) -> str:
        if isinstance(leaf, Slot):
            return f"s{leaf.number}"
        if isinstance(leaf, Tensor):
            return f"c{indices[id(leaf)]}:{tuple(leaf.shape)}{leaf.stride()}{leaf.dtype}{leaf.device}"
        return repr(leaf)

    lines = [
        f"{count} {[slot.number for slot in program.inputs]} {[describe(output) for output in program.outputs if is_slot(output)]}"
    ]
    for step in program.steps:
        leaves, form = pytree.tree_flatten((step.arguments, step.keywords), is_leaf=is_slot)
        lines.append(f"{step.function} {form} {[describe(leaf) for leaf in leaves]} {step.fills} {tuple(step.shape)}")
    return "\n".join(lines)


def is_known(program: Program, count: int) -> bool:
    """Whether a program of this structure has been compiled in this process."""
    return structure(program, count) in COMPILED


def distinct(program: Program) -> list[Tensor]:
    """The program's constants, each once, in the order of their first use."""
    return list({id(tensor): tensor for tensor in program.constants()}.values())


def lifted(program: Program) -> Function:
    """The program as a function ``(*directions, *constants) -> results`` that takes its constants as arguments."""
    indices = {id(tensor): i for i, tensor in enumerate(distinct(program))}
    width = len(program.inputs)

    def function(*arguments: Tensor) -> tuple[Tensor, ...]:
        constants = arguments[width:]
        copy = Program(program.inputs, program.steps, program.outputs)
        copy.steps = [
            step.with_leaves(lambda leaf: constants[indices[id(leaf)]] if isinstance(leaf, Tensor) else leaf) for step in copy.steps
        ]
        return tuple(copy(*arguments[:width]))

    return function


def compiled(program: Program, directions: list[Tensor]) -> Function:
    """The compiled function ``(*directions) -> results`` of a program, over C directions at a time.

    Compiling costs about 20 s for each new structure; a known structure costs nothing.

    Args:
        program: what to compile; its constants are bound to the result.
        directions: examples with the leading dimension C, which later calls must have too.
    Returns:
        A function of tensors with the leading dimension C, whose results have it too.
    Raises:
        WrongProductError: the compiled code does not agree with the replay.
    """
    constants = distinct(program)
    key = structure(program, len(directions[0]))
    fresh = key not in COMPILED
    if fresh:
        many = torch.vmap(lifted(program), in_dims=(0,) * len(directions) + (None,) * len(constants))
        COMPILED[key] = torch.compile(make_fx(many)(*directions, *constants), dynamic=False)
    run = COMPILED[key]
    if fresh:
        compare(run(*directions, *constants), replayed(program)(*directions))
    return lambda *parts: run(*parts, *constants)


def replayed(program: Program) -> Function:
    """The program over C directions at once by ``vmap``, step by step and not compiled."""

    def function(*parts: Any) -> tuple[Tensor, ...]:
        return tuple(program(*parts))

    return torch.vmap(function)


def compare(results: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Refuse compiled results that differ from the replay by more than `TOLERANCE`.

    Raises:
        WrongProductError: they do.
    """
    distance = torch.stack([(a - b).norm() for a, b in zip(results, expected, strict=True)]).norm()
    size = torch.stack([b.norm() for b in expected]).norm()
    if not distance <= TOLERANCE[expected[0].dtype] * size:
        raise WrongProductError(f"compiled product: differs from the replay by {float(distance / size):.1e}; use compile='never'")
