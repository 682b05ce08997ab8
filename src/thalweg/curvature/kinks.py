"""Operations that are not smooth: found and named, not hidden."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

KINKS = (
    *("relu", "relu6", "threshold", "leaky_relu", "prelu", "_prelu_kernel", "rrelu_with_noise", "hardtanh", "hardsigmoid"),
    *("hardswish", "abs", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "max", "min", "amax", "amin", "sort", "topk"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "hardshrink", "softshrink", "huber_loss", "smooth_l1_loss", "norm"),
)
"""Operations with a kink, by their name without a trailing underscore."""


class Names(TorchDispatchMode):
    """Collects the operations with a kink that a computation uses."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1].rstrip("_")
        result = func(*args, **(kwargs or {}))
        floating = any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in pytree.tree_leaves(result))
        if name in KINKS and floating:
            self.found.add(name)
        return result
