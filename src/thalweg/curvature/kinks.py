"""Inspection of a computation operation by operation: kinks are found and named, and memory is counted."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_KINKS = (
    *("relu", "relu6", "threshold", "leaky_relu", "prelu", "_prelu_kernel", "rrelu_with_noise", "hardtanh", "hardsigmoid"),
    *("hardswish", "abs", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "max", "min", "amax", "amin", "sort", "topk"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "hardshrink", "softshrink", "huber_loss", "smooth_l1_loss", "norm"),
    *("adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool3d", "cummax", "cummin"),
    *("median", "nanmedian", "kthvalue", "aminmax", "fmax", "fmin", "multi_margin_loss", "multilabel_margin_loss_forward"),
)
"""Operations with a kink, by their name without a trailing underscore."""


class OperationLog(TorchDispatchMode):
    """Collects the operations with a kink that a computation uses, and which of its results autograd keeps alive.

    Attributes:
        kinks: names of operations from `_KINKS` that gave a floating-point result.
        results: weak references to all results.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinks: set[str] = set()
        self.results: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1].rstrip("_")
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if name in _KINKS and any(leaf.is_floating_point() for leaf in tensors):
            self.kinks.add(name)
        self.results += [weakref.ref(leaf) for leaf in tensors]
        return result

    def alive(self) -> int:
        """Bytes of the results that still exist, which a backward pass will need; shared storage counts once."""
        storages: dict[int, int] = {}
        for result in (reference() for reference in self.results):
            if result is None or result.layout != torch.strided:
                continue
            with contextlib.suppress(RuntimeError):  # tensors of torch.func and of tracing have no storage of their own
                storages[result.untyped_storage().data_ptr()] = result.untyped_storage().nbytes()
        return sum(storages.values())
