"""Which columns of a dense Hessian are computed together, and which rows they need.

Ordered by depth, the columns of a group need only the rows of groups from its own depth on; the others follow by symmetry. So
the columns of deep groups are cheap: their tangents start late, and their backward sweep stops early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.curvature.objective import Objective, quiet


@dataclass(frozen=True)
class Block:
    """Names of neighbouring parameters whose columns are computed together, and of those whose rows they need."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]


class FirstUse(TorchDispatchMode):
    """Notes the order in which parameters first meet an operation that computes."""

    def __init__(self, storages: dict[int, str]) -> None:
        super().__init__()
        self.storages, self.order = storages, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            for leaf in pytree.tree_leaves((args, kwargs)):
                name = self.storages.get(leaf.untyped_storage().data_ptr()) if isinstance(leaf, Tensor) else None
                if name is not None and name not in self.order:
                    self.order.append(name)
        return func(*args, **(kwargs or {}))


def by_depth(objective: Objective) -> list[str]:
    """The parameters' names in the order of their first use; those that the first batch does not use come last."""
    parts = {name: part.clone() for name, part in objective.layout.split(objective.point).items()}
    mode = FirstUse({part.untyped_storage().data_ptr(): name for name, part in parts.items()})
    with quiet(objective.model), mode:
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
