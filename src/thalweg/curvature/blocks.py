"""Which columns of a dense Hessian are computed together, and which of their rows are needed.

With the groups of parameters ordered by depth, the columns of a group are computed for the rows of its own and of deeper groups
only; the other rows follow by symmetry. The columns of deep groups are cheap: their tangents start late in the forward pass, and
their backward pass stops early.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from thalweg.curvature.objective import Objective

aten = torch.ops.aten


@dataclass(frozen=True)
class Block:
    """A part of the Hessian that is computed together, by names of parameters."""

    columns: tuple[str, ...]
    """Parameters whose columns are computed; neighbours in depth."""
    rows: tuple[str, ...]
    """Parameters whose rows are computed; those of ``columns`` come first."""


class FirstUse(TorchDispatchMode):
    """Notes the order in which parameters are first used with data; joining, copying and reshaping weights is no use yet.

    Attributes:
        order: names of the parameters, in the order of their first use.
        carried: tensor -> names of the parameters that it is only a copy, view or concatenation of.
    """

    CARRIES = (aten.cat.default, aten.stack.default, aten.clone.default, aten._to_copy.default, aten.copy_.default)

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self.carried: MutableMapping[Tensor, tuple[str, ...]] = WeakTensorKeyDictionary()
        self.carried.update({parameter: (name,) for name, parameter in parameters.items()})
        self.order: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        names = [name for tensor in tensors for name in self.carried.get(tensor, ())]
        result = func(*args, **(kwargs or {}))
        if func.is_view or func in self.CARRIES:
            self.carried.update({leaf: tuple(names) for leaf in pytree.tree_leaves(result) if names and isinstance(leaf, Tensor)})
        else:
            self.order += [name for name in dict.fromkeys(names) if name not in self.order]
        return result


def by_depth(objective: Objective) -> list[str]:
    """The parameters' names in the order of their first use in the first batch; unused ones come last. Costs one evaluation."""
    parts = {name: part.clone() for name, part in objective.layout.split(objective.point).items()}
    first_use = FirstUse(parts)
    with objective.quiet(), torch.no_grad(), first_use:
        objective.total(0, parts)
    return first_use.order + [name for name in parts if name not in first_use.order]


def blocks(order: Sequence[str], sizes: dict[str, int], smallest: int) -> list[Block]:
    """Join neighbours in depth until each block has at least ``smallest`` columns; the last block may have fewer.

    Args:
        order: names of the parameters, by depth.
        sizes: name -> number of entries.
        smallest: number of columns.
    """
    groups: list[list[str]] = [[]]
    for name in order:
        if sum(sizes[other] for other in groups[-1]) >= smallest:
            groups.append([])
        groups[-1].append(name)
    rows = [tuple(name for later in groups[i:] for name in later) for i in range(len(groups))]
    return [Block(tuple(group), row) for group, row in zip(groups, rows, strict=True)]
