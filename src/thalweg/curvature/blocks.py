"""Which columns of a dense Hessian are computed together, and which rows they need.

Ordered by depth, the columns of a group need only the rows of groups from its own depth on; the others follow by symmetry. So
the columns of deep groups are cheap: their tangents start late, and their backward sweep stops early.
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
    """Names of neighbouring parameters whose columns are computed together, and of those whose rows they need."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]


class FirstUse(TorchDispatchMode):
    """Notes the order in which parameters first meet data; joining, copying and reshaping weights is no use yet."""

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
    """The parameters' names in the order of their first use; those that the first batch does not use come last."""
    parts = {name: part.clone() for name, part in objective.layout.split(objective.point).items()}
    mode = FirstUse(parts)
    with objective.quiet(), torch.no_grad(), mode:
        objective.total(0, parts)
    return mode.order + [name for name in parts if name not in mode.order]


def blocks(order: Sequence[str], sizes: dict[str, int], smallest: int) -> list[Block]:
    """Neighbours in depth joined until each block has ``smallest`` columns or more, the last one excepted."""
    groups: list[list[str]] = [[]]
    for name in order:
        if sum(sizes[other] for other in groups[-1]) >= smallest:
            groups.append([])
        groups[-1].append(name)
    rows = [tuple(name for later in groups[i:] for name in later) for i in range(len(groups))]
    return [Block(tuple(group), row) for group, row in zip(groups, rows, strict=True)]
